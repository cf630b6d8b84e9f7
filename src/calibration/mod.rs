//! Measurements of what is worth fusing on this machine, and at which sizes.
//!
//! Several operations in a row can be *fused* into one, which reads and writes memory once. [`measure`] times each
//! [`Pattern`] in both [variants](Variant), on one thread, for a grid of sizes. A [`Calibration`] keeps the
//! measurements and says on which machine they were made; as JSON it has the format `mlff.calibration/1`.
//! [`Calibration::cost_model`] makes a [`CostModel`] of it, which
//! [`Potential::with_cost_model`](crate::Potential::with_cost_model) takes: batched autograd asks it before every
//! operation, on the processor and on a GPU.
//!
//! The adjoint engine has no choice: its operations are always fused, so that its results do not depend on the size of
//! a batch.

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
