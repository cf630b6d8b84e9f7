//! What can be fused, at which size, and the two ways to compute it.

use serde::{Deserialize, Serialize};

/// Measured speed-up from which an operation is fused, unless said otherwise.
pub const THRESHOLD: f64 = 1.2;

/// What can be fused. Each is measured forward and VJP together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Radial basis and envelope. Rows are edges, the width is the number of functions.
    RadialBasis,
    /// Distances and directions. Rows are edges; the width is 1. In f64 whatever the precision of the network.
    EdgeGeometry,
    /// Linear layer, bias, SiLU. Width of a layer: √(n_in · n_out).
    LinearSilu,
    /// Linear layer, bias, residual, SiLU. No model has it.
    LinearResidualActivation,
    /// SiLU, then a linear layer with bias. No model has it.
    ActivationLinear,
    /// Two layers with SiLU between them. The width is that of the hidden rows.
    Mlp,
    /// Filters, and what neighbours send. Rows are edges, the width is F.
    Message,
    /// Invariants of the vectors, and the gates. Rows are atoms, the width is F.
    Update,
}

impl Pattern {
    /// All, in the order of an evaluation.
    pub const ALL: [Pattern; 8] = [
        Pattern::RadialBasis,
        Pattern::EdgeGeometry,
        Pattern::LinearSilu,
        Pattern::LinearResidualActivation,
        Pattern::ActivationLinear,
        Pattern::Mlp,
        Pattern::Message,
        Pattern::Update,
    ];

    /// Name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::RadialBasis => "radial_basis",
            Pattern::EdgeGeometry => "edge_geometry",
            Pattern::LinearSilu => "linear_silu",
            Pattern::LinearResidualActivation => "linear_residual_activation",
            Pattern::ActivationLinear => "activation_linear",
            Pattern::Mlp => "mlp",
            Pattern::Message => "message",
            Pattern::Update => "update",
        }
    }
}

/// Size of one call; see [`Pattern`] for what its rows and its width are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Edges, atoms or rows.
    pub rows: usize,
    /// Numbers of a row.
    pub width: usize,
}

impl Size {
    /// Of a dense layer.
    pub fn of_layer(rows: usize, n_in: usize, n_out: usize) -> Self {
        Size { rows, width: (n_in.saturating_mul(n_out)).isqrt() }
    }
}

/// Which of two ways to compute the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// One operation, a block of rows at a time ([`crate::ops`]).
    Fused,
    /// A chain of elementary operations ([`crate::ops::unfused`]).
    Unfused,
}
