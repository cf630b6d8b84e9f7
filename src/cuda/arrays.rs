//! Shapes and arrays of the launches. An address of 0 stands for an array that is not there.

use super::Address;
use crate::ops::dense::Activation;

/// Arrays of `edge_geometry_forward`.
#[derive(Debug, Clone, Copy, Default)]
pub struct EdgeGeometryArrays {
    /// `[n_edges]`.
    pub receivers: Address,
    /// `[n_edges]`.
    pub senders: Address,
    /// `[n_edges]`; unused without strain.
    pub structure_of: Address,
    /// `[n_atoms, 3]` f64, Å.
    pub positions: Address,
    /// `[n_edges, 3]` f64, Å; 0 for no periodicity.
    pub offsets: Address,
    /// `[n_structures, 3, 3]` f64; 0 for none.
    pub strain: Address,
    /// `[n_edges, 4]`, overwritten.
    pub geometry: Address,
}

/// Arrays of `edge_geometry_vjp`.
#[derive(Debug, Clone, Copy, Default)]
pub struct EdgeGeometryVjpArrays {
    /// `[n_atoms + 1]`.
    pub edge_ptr: Address,
    /// `[n_edges]`.
    pub reverse_edge: Address,
    /// `[n_edges, 4]`.
    pub geometry: Address,
    /// `[n_edges, 4]`.
    pub grad_geometry: Address,
    /// `[n_atoms, 3]` f64, accumulated.
    pub grad_positions: Address,
    /// `[n_atoms, 9]` f64, overwritten; 0 where no strain is asked for.
    pub virials: Address,
}

/// Arrays of `radial_basis_forward` and its VJP.
#[derive(Debug, Clone, Copy, Default)]
pub struct RadialBasisArrays {
    /// Centres or frequencies, `[n_rbf]`.
    pub first: Address,
    /// Widths, `[n_rbf]`; 0 for Bessel functions.
    pub widths: Address,
    /// Distances, one every `stride` elements.
    pub distances: Address,
    /// 1 for `[n_edges]`; 4 for the first column of a geometry.
    pub stride: u32,
}

/// Arrays of `dense_forward`.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenseArrays {
    /// `[n_rows, n_in]`.
    pub x: Address,
    /// `[n_out, n_in]`.
    pub weight: Address,
    /// `[n_out]`, or 0.
    pub bias: Address,
    /// `[n_rows, n_out]`, or 0.
    pub residual: Address,
    /// `[n_rows, n_out]`, overwritten.
    pub y: Address,
    /// `[n_rows, n_out]`, overwritten, or 0.
    pub saved: Address,
}

/// Arrays of `dense_vjp`.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenseVjpArrays {
    /// `[n_rows, n_out]`.
    pub grad_y: Address,
    /// `[n_rows, n_out]`; 0 for the identity.
    pub saved: Address,
    /// `[n_out, n_in]`.
    pub weight: Address,
    /// `[n_rows, n_in]`; read only behind an activation of the argument.
    pub x: Address,
    /// `[n_rows, n_in]`, accumulated.
    pub grad_x: Address,
    /// `[n_rows, n_out]`, accumulated, or 0.
    pub grad_residual: Address,
}

/// Shape and activations of a dense layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseShape {
    /// Rows of the argument.
    pub n_rows: u32,
    /// Length of an input row.
    pub n_in: u32,
    /// Length of an output row.
    pub n_out: u32,
    /// Activation of the argument.
    pub before: Activation,
    /// Activation of the result.
    pub activation: Activation,
    /// Whether `saved` holds the activation's derivative; its argument otherwise.
    pub save_slope: bool,
}

/// Shape of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageShape {
    /// Atoms.
    pub n_atoms: u32,
    /// F.
    pub n_features: u32,
    /// K, features of an edge.
    pub n_edge_features: u32,
}

/// Arrays that `message_forward` and its VJP read.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageArrays {
    /// `[n_atoms + 1]`.
    pub edge_ptr: Address,
    /// `[n_edges]`.
    pub senders: Address,
    /// `[n_edges]`; only the VJP reads it.
    pub reverse_edge: Address,
    /// `[n_atoms, 6F]`.
    pub nodes: Address,
    /// `[n_edges, K]`.
    pub edges: Address,
    /// `[n_edges, 4]`.
    pub geometry: Address,
    /// `[3F, K]`.
    pub weight: Address,
    /// `[3F]`, or 0.
    pub bias: Address,
}

/// Cotangents that `message_vjp` accumulates.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageGradArrays {
    /// `[n_atoms, 6F]`.
    pub nodes: Address,
    /// `[n_edges, K]`.
    pub edges: Address,
    /// `[n_edges, 4]`.
    pub geometry: Address,
}

/// Gates, mixed vectors and invariants, or their cotangents.
#[derive(Debug, Clone, Copy, Default)]
pub struct GateArrays {
    /// `[n_atoms, 3F]`.
    pub gates: Address,
    /// `[n_atoms, 3, 2F]`.
    pub mixed: Address,
    /// `[n_atoms, 2F]`.
    pub invariants: Address,
}
