//! What can be fused, at which size, and the two ways to compute it.

use serde::{Deserialize, Serialize};

/// Default threshold: an operation is fused if its measured speed-up is at least this.
pub const THRESHOLD: f64 = 1.2;

/// Patterns of operations that can be fused into one. Each is measured with its forward and its backward pass together.
///
/// [`Size`] counts rows and their width; what these are is said for each pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pattern {
    /// Radial basis functions and cutoff function. Rows are edges; the width is the number of functions.
    RadialBasis,
    /// Distances and directions of edges. Rows are edges; the width is 1. Computed in f64, whatever the precision of
    /// the network.
    EdgeGeometry,
    /// Linear layer, bias, SiLU. Rows are those of the input; the width is √(n_in · n_out).
    LinearSilu,
    /// Linear layer, bias, residual, SiLU; rows and width as of `LinearSilu`. No model uses it yet.
    LinearResidualActivation,
    /// SiLU, then a linear layer with bias; rows and width as of `LinearSilu`. No model uses it yet.
    ActivationLinear,
    /// Two linear layers with SiLU between them. Rows are those of the input; the width is that of the hidden layer.
    Mlp,
    /// Filters, and sums over what neighbours send. Rows are edges; the width is the number of features.
    Message,
    /// The element-wise steps of an update: norms and products of vectors, and gates. Rows are atoms; the width is the
    /// number of features.
    Update,
}

impl Pattern {
    /// All patterns, in the order of an evaluation.
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

    /// Name in calibrations, such as `radial_basis`.
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

/// Size of one call of an operation; [`Pattern`] says what its rows and its width are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Number of rows: edges, atoms or rows of a layer's input.
    pub rows: usize,
    /// Number of values in a row.
    pub width: usize,
}

impl Size {
    /// Size of a call of a dense layer with `n_in` inputs and `n_out` outputs.
    pub fn of_layer(rows: usize, n_in: usize, n_out: usize) -> Self {
        Size { rows, width: (n_in.saturating_mul(n_out)).isqrt() }
    }
}

/// The two ways to compute the same result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// One operation, which works on a block of rows at a time.
    Fused,
    /// A chain of elementary operations, each of which reads and writes whole arrays.
    Unfused,
}
