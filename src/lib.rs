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

#![warn(missing_debug_implementations)]
// What only some engines use lies idle in a build without them; the full build has none.
#![cfg_attr(not(all(feature = "autograd", feature = "cuda")), allow(dead_code))]

pub mod batch;
pub mod calibration;
pub(crate) mod clock;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod elements;
pub mod engine;
pub mod error;
pub mod files;
mod fork;
pub mod model;
pub mod neighbors;
pub mod ops;
pub mod potential;
pub mod profile;
pub(crate) mod roofline;
mod settings;
pub mod structure;
#[cfg(test)]
pub(crate) mod testing;
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
