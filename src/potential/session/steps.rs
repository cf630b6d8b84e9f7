//! How a session's steps are computed: in which precision, and where.

use std::sync::Arc;

use super::system::{Last, System};
use crate::cpu::lanes::Lanes;
use crate::engine::adjoint::{Adjoint, Crew, Threads, Workspace};
use crate::error::Result;
use crate::structure::Vec3;

/// What computes the steps of a session: an engine in a precision, on a device.
pub(crate) trait Steps: Send {
    /// Evaluates a system that has its positions and its list; returns the energy, eV.
    ///
    /// # Errors
    /// Those of [`Session::compute`](super::Session::compute).
    fn step(
        &mut self,
        system: &mut System,
        crew: Option<&mut Crew>,
        forces: &mut [Vec3],
        last: &mut Last,
    ) -> Result<f64>;

    /// Leaves what a panic may have left half done.
    fn start_anew(&mut self);

    /// Whether a crew can share a step.
    fn takes_crew(&self) -> bool {
        false
    }
}

pub(crate) struct Stepper<T> {
    engine: Arc<Adjoint<T>>,
    workspace: Workspace<T>,
}

impl<T: Lanes> Stepper<T> {
    pub fn new(engine: Arc<Adjoint<T>>) -> Self {
        Stepper { engine, workspace: Workspace::default() }
    }
}

impl<T: Lanes> Steps for Stepper<T> {
    fn step(
        &mut self,
        system: &mut System,
        crew: Option<&mut Crew>,
        forces: &mut [Vec3],
        last: &mut Last,
    ) -> Result<f64> {
        system.take_edges()?;
        let threads = crew.map_or(Threads::One, Threads::Crew);
        let workspace = &mut self.workspace;
        self.engine.reserve(&system.batch, system.list.n_edges(), workspace);
        self.engine.evaluate(&system.batch, system.want, threads, workspace)?;
        system.take_results(&workspace.results, forces, last)
    }

    fn start_anew(&mut self) {
        self.workspace = Workspace::default();
    }

    fn takes_crew(&self) -> bool {
        true
    }
}
