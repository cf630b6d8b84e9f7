//! Fast inference for distilled molecular force fields.
//!
//! # Conventions
//!
//! | quantity | unit, shape |
//! |---|---|
//! | positions, cells | Å, f64; cell rows are lattice vectors |
//! | energies | eV, summed in f64 |
//! | forces | eV/Å, `-dE/dpositions` |
//! | stress | eV/Å³, `(1/V) dE/dstrain`, tension positive (as ASE has it); three periodic directions only |
//!
//! An *edge* is one directed neighbour pair: `receiver` i sums, `sender` j sends, and
//! `r_ij = positions[j] - positions[i] + shift * cell`.
//! `x_vjp` is the analytic backward of `x`; it accumulates into its outputs. `grad_x` is the cotangent of `x`.

//!
//! # What is here
//!
//! [`Potential`] evaluates structures, [`Session`] one structure step after step. [`model`] loads and saves models, [`xyz`] reads
//! and writes trajectories, [`neighbors`] finds pairs, [`profile`] and [`calibration`] say where time goes. Every failure is an
//! [`Error`] with a [`code`](Error::code) that does not change. Modules that the documentation does not show are public for this
//! crate's benchmarks and tests alone, and change without notice.

#![warn(missing_debug_implementations)]
// What only some engines use lies idle in a build without them; the full build has none.
#![cfg_attr(not(all(feature = "autograd", feature = "cuda")), allow(dead_code))]

#[doc(hidden)]
pub mod batch;
pub mod calibration;
pub(crate) mod clock;
#[doc(hidden)]
pub mod cpu;
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub mod cuda;
mod elements;
#[doc(hidden)]
pub mod engine;
pub mod error;
#[doc(hidden)]
pub mod files;
mod fork;
pub mod model;
pub mod neighbors;
#[doc(hidden)]
pub mod ops;
pub mod potential;
pub mod profile;
pub(crate) mod roofline;
mod settings;
pub mod structure;
#[cfg(test)]
pub(crate) mod testing;
#[doc(hidden)]
pub mod threads;
mod user_cache;
pub mod xyz;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use engine::Evaluation;
pub use error::{Error, Result};
pub use model::Model;
pub use neighbors::{NeighborList, NeighborSearch, neighbor_list};
pub use potential::{Potential, Session};
pub use settings::{BatchSize, DeviceKind, EngineKind, Precision, Want};
pub use structure::Structure;
