//! What [`Potential`](super::Potential) and [`Session`](super::Session) ask of an engine.

use std::sync::Arc;

use super::session::Steps;
use crate::clock::Clock;
use crate::engine::Evaluation;
use crate::error::Result;
use crate::model::Model;
use crate::ops::cost_model::CostModel;
use crate::roofline::Peaks;
use crate::settings::{BatchSize, DeviceKind, EngineKind, Precision, Want};
use crate::structure::Structure;

/// One call of [`Driver::evaluate`].
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The driver's model.
    pub model: &'a Model,
    /// How structures are grouped.
    pub size: BatchSize,
    /// What batched autograd fuses.
    pub cost_model: &'a Arc<CostModel>,
    /// What to compute.
    pub want: Want,
}

/// An engine on a device, with what it takes to evaluate any structures on it: batches, buffers, threads or streams.
pub(crate) trait Driver: Send + Sync {
    /// How it computes.
    fn engine(&self) -> EngineKind;

    /// Where it computes.
    fn device(&self) -> DeviceKind;

    /// Precision of the network.
    fn precision(&self) -> Precision;

    /// Evaluates structures; results are in their order, each with an error of its own.
    fn evaluate(&self, request: Request, structures: &[&Structure]) -> Vec<Result<Evaluation>>;

    /// What computes the steps of a session with this driver's model.
    ///
    /// # Errors
    /// What a GPU reports.
    fn steps(self: Arc<Self>, model: &Arc<Model>, cost_model: &Arc<CostModel>) -> Result<Box<dyn Steps>>;

    /// What stamps the profiler's boundaries, and the device's name.
    ///
    /// # Errors
    /// What a GPU reports.
    fn clock(&self) -> Result<(Clock, String)>;

    /// Rates of the device, of one thread where it is the processor, measured now.
    ///
    /// # Errors
    /// What a GPU reports.
    fn peaks(&self) -> Result<Peaks>;

    /// Radial functions that are evaluated for a pair, where they are fewer than the model's.
    fn radial_window(&self) -> Option<usize> {
        None
    }

    /// Lets the tasks of helpers panic.
    #[cfg(test)]
    fn helpers_fail(&self) -> Option<&std::sync::atomic::AtomicBool> {
        None
    }
}
