//! The CPU's kernels of the adjoint engine: the operations of [`crate::ops`] for the widest vectors of the processor.
//!
//! Generic over precision ([`lanes::Lanes`]) and instruction set (`pulp::Simd`: AVX-512, AVX2, NEON, none), chosen at
//! run time. Arrays are row-major, an atom a row; features are padded with zeros to whole cache lines, so that no
//! kernel has a remainder. `n` is the padded number of features.

pub mod dense;
pub mod filters;
pub mod gemm;
pub mod geometry;
pub mod lanes;
pub mod message;
pub mod pairs;
pub(crate) mod splines;
#[cfg(test)]
mod tests;
pub mod update;
