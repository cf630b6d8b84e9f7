//! What an evaluation can be asked for: where, how, in which precision, and which results.

/// Precision of the network. Positions, geometry and energy sums are f64 in both.
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

/// How structures are grouped for one pass of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BatchSize {
    /// By atoms and memory.
    #[default]
    Auto,
    /// At most this many structures.
    Structures(usize),
}

/// Ways to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EngineKind {
    /// [`Adjoint`](EngineKind::Adjoint) for models that it evaluates, [`Autograd`](EngineKind::Autograd) for others.
    #[default]
    Auto,
    /// Hand-written adjoint over packed batches; PaiNN only.
    Adjoint,
    /// Batched autograd over padded batches; every architecture.
    Autograd,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeviceKind {
    /// Processor.
    #[default]
    Cpu,
    /// NVIDIA GPU of that number. Batched autograd runs there in programs built with the cargo feature `candle-cuda`.
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

/// What an evaluation is asked for; energies, of the structure and of each atom, are always computed.
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
    /// Forces on all atoms.
    pub forces: bool,
    /// Stress of structures that are periodic in three directions.
    pub stress: bool,
    /// Virial of any structure.
    pub virial: bool,
    /// Each atom's share of the virial; the adjoint engine has it.
    pub atomic_virials: bool,
}

impl Want {
    /// Energy alone.
    pub const ENERGY: Want = Want { forces: false, stress: false, virial: false, atomic_virials: false };
    /// Energy and forces.
    pub const FORCES: Want = Want { forces: true, ..Want::ENERGY };
    /// Energy, forces and stress: what a file of results holds.
    pub const ALL: Want = Want { stress: true, ..Want::FORCES };

    /// With forces on all atoms, or without.
    #[must_use]
    pub const fn with_forces(mut self, forces: bool) -> Self {
        self.forces = forces;
        self
    }

    /// With the stress of structures that are periodic in three directions, or without.
    #[must_use]
    pub const fn with_stress(mut self, stress: bool) -> Self {
        self.stress = stress;
        self
    }

    /// With the virial of any structure, molecules too, or without.
    #[must_use]
    pub const fn with_virial(mut self, virial: bool) -> Self {
        self.virial = virial;
        self
    }

    /// With each atom's share of the virial, or without.
    #[must_use]
    pub const fn with_atomic_virials(mut self, atomic_virials: bool) -> Self {
        self.atomic_virials = atomic_virials;
        self
    }

    /// Whether a derivative is asked for at all.
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
