//! The chains of [`crate::ops::unfused`] in elementary kernels (`kernels/unfused.cu`): what a calibration compares the fused
//! kernels with, and what runs where it says that fusing does not pay.
//!
//! Contracts are those of the fused launches: a forward overwrites, a VJP accumulates and computes anew what its forward did
//! not save. What lies between the steps is in `scratch`, an array of the elements that each chain documents ([`scratch`]
//! counts them), in any state. Products are cuBLASLt's where `Launcher::has_library`, else those of the dense kernels, with
//! the bias in either.

mod chain;
mod launches;
pub mod scratch;
