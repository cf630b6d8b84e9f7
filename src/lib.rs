//! Fast inference for distilled molecular force fields.
//!
//! A *model* is a neural network that predicts the energy of a set of atoms. It is a *student*: a small network,
//! trained to imitate a larger one or a quantum-chemical method. This crate loads models and computes energies, forces,
//! stresses and virials with them, on the processor or on an NVIDIA GPU. One model is part of the crate:
//! [`model::default_name`].
//!
//! # Where to start
//!
//! | what you want to do | what to use |
//! |---|---|
//! | evaluate one structure, or many | [`Potential`], with [`Structure`] and [`Want`] |
//! | run molecular dynamics or minimise an energy | [`Session`] |
//! | choose the engine, the precision or the device | [`Potential::builder`] |
//! | load, inspect, save or import a model | [`Model`], [`model::import`] |
//! | read and write XYZ trajectories | [`xyz::Reader`], [`xyz::Writer`] |
//! | find pairs of neighbouring atoms | [`neighbor_list`], [`NeighborSearch`] |
//! | see where the time goes | [`profile`], [`calibration`] |
//!
//! Every failure is an [`Error`], with a [`code`](Error::code) that stays the same in all versions. Some modules are
//! public only for this crate's own benchmarks and tests; they are not shown here and may change without notice.
//!
//! # Conventions
//!
//! | quantity | unit, sign, shape |
//! |---|---|
//! | positions, cells | Å, f64; the rows of a cell are the lattice vectors |
//! | energies | eV, summed in f64 |
//! | forces | eV/Å, `-dE/dpositions` |
//! | stress | eV/Å³, `(1/V) dE/dstrain`: positive under tension, as in ASE; only with three periodic directions |
//! | virial | eV, `-dE/dstrain` |
//!
//! An *edge* is one directed pair of neighbours. Atom i, the *receiver*, sums over its edges. Atom j, the *sender*, is
//! the neighbour, possibly as a periodic image: `r_ij = positions[j] - positions[i] + shift * cell`.
//!
//! In names, `vjp` (vector-Jacobian product) stands for the backward pass, which leads from energies to forces.
//!
//! # Cargo features
//!
//! | feature | what it adds |
//! |---|---|
//! | `autograd` (default) | [batched autograd](EngineKind::Autograd), which evaluates every architecture |
//! | `cli` (default) | the command line program |
//! | `compression` (default) | trajectories packed by gzip, bzip2, xz or zstd |
//! | `cuda` (default) | NVIDIA GPUs; CUDA is found at run time and is not needed to build |
//! | `candle-cuda` | batched autograd on GPUs; needs `nvcc` to build |

// Within the crate: `x_vjp` is the analytic backward of `x`, and adds to its outputs; `grad_x` is the cotangent of `x`.

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
#[doc(hidden)]
pub mod train;
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
