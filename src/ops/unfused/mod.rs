//! The operations of [`crate::ops`] as chains of elementary tensor operations, each of which writes its whole result.
//!
//! The readable references: they follow the equations, and the tests hold the fused operations to them. They are also what
//! runs where a calibration says that fusing does not pay ([`crate::calibration`]). Each chain is written once ([`chains`]) over
//! [`Elementary`], which has three implementations: the processor's, behind the functions of this module; a GPU's, of
//! launches ([`crate::cuda::unfused`]); and one that counts ([`counting`]), which says how much scratch the launches need and
//! how many bytes a chain moves.
//!
//! On the processor each elementary operation works on the same blocks of rows as a fused one, in parallel, for the widest
//! vectors. Columns of an array are copied before they are used, as tensor libraries do for most operations. Contracts are
//! those of the fused operations: a forward overwrites its outputs, a VJP accumulates and computes anew what its forward did
//! not save.

mod arena;
pub mod counting;
mod dense;
mod edge_geometry;
mod elementary;
mod lines;
mod message;
mod radial_basis;
mod slices;
#[cfg(test)]
mod tests;
mod update;

pub use elementary::{Columns, Elementary, Elementwise, Operand, Pairwise, elements};
pub use slices::{activation_dense, activation_dense_vjp, dense, dense_residual, dense_residual_vjp, dense_vjp};
pub use slices::{edge_geometry, edge_geometry_vjp, message, message_vjp, mlp, mlp_vjp};
pub use slices::{radial_basis, radial_basis_vjp};
pub use slices::{update_gate, update_gate_vjp, update_invariants, update_invariants_vjp};

/// The chains, whatever does their elementary operations. Sizes and arrays are those of the operations' tables; arrays that
/// may be absent there may be absent here.
pub mod chains {
    pub use super::dense::{activation_dense, activation_dense_vjp, dense, dense_vjp, mlp, mlp_vjp};
    pub use super::edge_geometry::{edge_geometry, edge_geometry_vjp};
    pub use super::message::{message, message_vjp};
    pub use super::radial_basis::{radial_basis, radial_basis_vjp};
    pub use super::update::{update_gate, update_gate_vjp, update_invariants, update_invariants_vjp};
}
