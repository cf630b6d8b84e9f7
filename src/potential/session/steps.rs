//! How a session's steps are computed: in which precision, and where.

use std::sync::Arc;

use super::{Last, System};
use crate::cpu::lanes::Lanes;
use crate::cuda::Device;
use crate::engine::adjoint::{Adjoint, Crew, Threads, Workspace};
use crate::engine::cuda::{EdgeSource, Scalar, Worker};
use crate::error::Result;
use crate::model::Outside;
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

/// The same on a GPU, which has a stream and buffers for this session alone.
pub(crate) struct CudaStepper<T: Scalar> {
    worker: Worker<T, Device>,
    /// Search whose list is on the device, by number, and whether it could be put there.
    list: (u64, bool),
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

impl<T: Scalar> CudaStepper<T> {
    pub fn new(worker: Worker<T, Device>) -> Self {
        CudaStepper { worker, list: (0, false) }
    }
}

impl<T: Scalar> Steps for CudaStepper<T> {
    fn step(&mut self, system: &mut System, _: Option<&mut Crew>, forces: &mut [Vec3], last: &mut Last) -> Result<f64> {
        if self.list.0 != system.n_searches {
            self.list.0 = 0;
            self.list.1 = self.worker.set_list(&system.list, system.reference.is_periodic())?;
            self.list.0 = system.n_searches;
        }
        if self.list.1 {
            let cell = system.offsets_cell.unwrap_or_default();
            self.worker.evaluate(&system.batch, EdgeSource::Listed { cell }, system.want)?;
            system.contacts = Outside::NONE;
            if self.worker.close[0] {
                // Atoms near each other: whether too near, the processor says.
                system.take_edges()?;
            }
        } else {
            system.take_edges()?;
            self.worker.evaluate(&system.batch, EdgeSource::Given, system.want)?;
        }
        system.take_results(&self.worker.results, forces, last)
    }

    /// Every evaluation overwrites all of its arrays.
    fn start_anew(&mut self) {}
}
