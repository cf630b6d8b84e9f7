//! Every kernel of `kernels/` against the CPU op, in f32 and f64, on every backend that this machine has.
//!
//! - The *host*: the kernels' own source, compiled by the C++ compiler (`$CXX`, `c++`, `g++`, `clang++`) with
//!   `host/shim.hpp` and the address and undefined-behaviour sanitizers, in a process of its own. Each case runs with the
//!   threads in both orders and must give the same bits: see `host/shim.hpp`. Without a compiler these tests skip
//!   themselves and say so.
//! - A *device*, where there is one: twice, the same bits again.
//!
//! VJPs against finite differences: the CPU ops' are checked beside their definitions (`src/ops`, to 2e-8), and the
//! kernels' agree with those to 1e-12 in f64.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod dense;
mod edge_geometry;
mod host;
mod message;
mod nvrtc;
mod painn;
mod radial_basis;
mod readout;
mod shim;
mod update;
