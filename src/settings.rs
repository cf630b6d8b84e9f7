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
pub enum BatchSize {
    /// By atoms and memory.
    #[default]
    Auto,
    /// At most this many structures.
    Structures(usize),
}

/// Ways to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

/// What an evaluation is asked for; the energy is always computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Forces on all atoms.
    pub forces: bool,
    /// Stress of structures that are periodic in three directions.
    pub stress: bool,
}

impl Want {
    /// Energy, forces and stress.
    pub const ALL: Want = Want { forces: true, stress: true };
    /// Energy alone.
    pub const ENERGY: Want = Want { forces: false, stress: false };

    /// Whether a derivative is asked for at all.
    pub fn gradient(self) -> bool {
        self.forces || self.stress
    }
}
