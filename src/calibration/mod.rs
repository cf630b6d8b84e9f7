//! Fused against unfused, measured: what is worth fusing on this machine, and at which sizes.
//!
//! [`measure`] times each [`Pattern`] as the fused operation and as the chain of elementary ones ([`crate::ops::unfused`]),
//! forward and VJP together, on one thread, over a grid of sizes. The record `mlff.calibration/1` ([`Calibration`]) keeps
//! what was measured and on which machine. A [`CostModel`] reads it: [`CostModel::should_fuse`] is what batched autograd asks
//! before every operation, on the processor as on a GPU.
//!
//! The adjoint engine takes no choice: it is fused by construction, and its bits must not depend on the size of a batch.

mod counts;
#[cfg(feature = "cuda")]
mod cuda;
mod examples;
mod measure;
mod record;

pub use crate::ops::choice::{Pattern, Size, THRESHOLD, Variant};
pub use crate::ops::cost_model::CostModel;
#[cfg(feature = "cuda")]
pub use cuda::measure_cuda;
pub use measure::{Options, measure};
pub use record::{Calibration, DeviceInfo, FORMAT, Kind, Machine, Measured, Measurement, Point, Reading};
