//! What an evaluation can be asked for: where, how, in which precision, and which results.

/// Floating-point precision of the network. In both, positions, geometry and sums of energies are f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Network in f32.
    #[default]
    F32,
    /// Network in f64.
    F64,
}

impl Precision {
    /// `f32` or `f64`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F64 => "f64",
        }
    }
}

/// How many structures are computed together, in one pass of the engine. This affects speed and memory; results differ
/// by rounding at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BatchSize {
    /// As many as suit the engine and fit its memory, by their numbers of atoms.
    #[default]
    Auto,
    /// At most this many structures.
    Structures(usize),
}

/// Which engine computes: how a model is evaluated and its energy differentiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EngineKind {
    /// [`Adjoint`](EngineKind::Adjoint) for models that it evaluates, [`Autograd`](EngineKind::Autograd) for others.
    #[default]
    Auto,
    /// A backward pass (adjoint) written by hand, over structures that are packed one behind another. Evaluates PaiNN
    /// only.
    Adjoint,
    /// *Batched autograd*: automatic differentiation by the tensor library candle, over structures that are padded to
    /// one size. Evaluates every architecture; needs the cargo feature `autograd`.
    Autograd,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number, counted from 0 among those that the driver shows to the process. Needs the cargo
    /// feature `cuda`, and `candle-cuda` for batched autograd.
    Cuda(usize),
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceKind::Cpu => f.write_str("cpu"),
            DeviceKind::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Which results an evaluation computes. Energies, of the structure and of each atom, are always among them.
///
/// The results, with their units and signs, are in [`Evaluation`](crate::Evaluation).
///
/// ```
/// use mlff::Want;
///
/// let want = Want::FORCES.with_virial(true);
/// assert!(want.forces && want.virial && !want.stress);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Want {
    /// Forces on all atoms, eV/Å.
    pub forces: bool,
    /// Stress, eV/Å³. Structures that are not periodic in three directions have none; this is no error.
    pub stress: bool,
    /// Virial, eV, of any structure, molecules too.
    pub virial: bool,
    /// Each atom's share of the virial, eV. Only the adjoint engine computes it; batched autograd returns
    /// `Error::Usage`.
    pub atomic_virials: bool,
}

impl Want {
    /// Energy alone.
    pub const ENERGY: Want = Want { forces: false, stress: false, virial: false, atomic_virials: false };
    /// Energy and forces.
    pub const FORCES: Want = Want { forces: true, ..Want::ENERGY };
    /// Energy, forces and stress: what is usually written to a file. No virials.
    pub const ALL: Want = Want { stress: true, ..Want::FORCES };

    /// The same with forces on all atoms, or without.
    #[must_use]
    pub const fn with_forces(mut self, forces: bool) -> Self {
        self.forces = forces;
        self
    }

    /// The same with the stress of structures that are periodic in three directions, or without.
    #[must_use]
    pub const fn with_stress(mut self, stress: bool) -> Self {
        self.stress = stress;
        self
    }

    /// The same with the virial of any structure, molecules too, or without.
    #[must_use]
    pub const fn with_virial(mut self, virial: bool) -> Self {
        self.virial = virial;
        self
    }

    /// The same with each atom's share of the virial, or without.
    #[must_use]
    pub const fn with_atomic_virials(mut self, atomic_virials: bool) -> Self {
        self.atomic_virials = atomic_virials;
        self
    }

    /// Whether anything beyond energies is asked for, so that derivatives must be computed.
    pub const fn gradient(self) -> bool {
        self.forces || self.stress || self.virial || self.atomic_virials
    }

    /// Whether virials of atoms are needed, for a batch that has structures with a volume or none.
    pub(crate) fn needs_virials(self, has_volumes: bool) -> bool {
        self.virial || self.atomic_virials || (self.stress && has_volumes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_names_what_it_asks_for() {
        assert_eq!(Want::ALL, Want::ENERGY.with_forces(true).with_stress(true));
        assert_eq!(Want::ENERGY, Want::default());
        assert!(!Want::ENERGY.gradient());
        for want in [Want::FORCES, Want::ENERGY.with_stress(true), Want::ENERGY.with_virial(true)] {
            assert!(want.gradient() && !want.atomic_virials);
        }
        assert!(Want::ENERGY.with_atomic_virials(true).needs_virials(false));
        assert!(Want::ALL.needs_virials(true) && !Want::ALL.needs_virials(false));
    }
}
