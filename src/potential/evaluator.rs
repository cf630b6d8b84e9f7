//! Sessions of engines that keep nothing from call to call.

use std::sync::Arc;

use super::driver::{Driver, Request};
use super::session::{Last, Steps, System};
use crate::engine::adjoint::Crew;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::cost_model::CostModel;
use crate::settings::BatchSize;
use crate::structure::Vec3;

/// Steps of an engine that keeps nothing from call to call: each evaluates the system from nothing.
pub(crate) struct Evaluator {
    driver: Arc<dyn Driver>,
    model: Arc<Model>,
    cost_model: Arc<CostModel>,
}

impl Evaluator {
    pub fn new(driver: Arc<dyn Driver>, model: Arc<Model>, cost_model: Arc<CostModel>) -> Self {
        Evaluator { driver, model, cost_model }
    }
}

impl Steps for Evaluator {
    fn step(&mut self, system: &mut System, _: Option<&mut Crew>, forces: &mut [Vec3], last: &mut Last) -> Result<f64> {
        let structure = system.now();
        let request =
            Request { model: &self.model, size: BatchSize::Auto, cost_model: &self.cost_model, want: system.want() };
        let missing = || Err(Error::Defect("the engine returned no result".into()));
        let evaluation = self.driver.evaluate(request, &[&structure]).pop().unwrap_or_else(missing)?;
        for (force, computed) in forces.iter_mut().zip(evaluation.forces.iter().flatten()) {
            *force = *computed;
        }
        Ok(last.take(evaluation))
    }

    /// Nothing is kept.
    fn start_anew(&mut self) {}
}
