//! How a session's steps are computed: in which precision, and where.

use std::sync::Arc;

use super::{Last, System};
use crate::cpu::lanes::Lanes;
use crate::cuda::Device;
use crate::engine::adjoint::{Crew, Threads, Workspace};
use crate::engine::cuda::{EdgeSource, Scalar, Worker};
use crate::error::{Error, Result};
use crate::model::{Model, Outside};
use crate::potential::Engine;
use crate::potential::packed::Packed;
use crate::settings::Want;
use crate::structure::Vec3;

/// The part that depends on the precision.
#[derive(Debug)]
pub(super) enum Steps {
    F32(Stepper<f32>),
    F64(Stepper<f64>),
    CudaF32(CudaStepper<f32>),
    CudaF64(CudaStepper<f64>),
}

pub(super) struct Stepper<T> {
    pub engine: Arc<Packed<T>>,
    workspace: Workspace<T>,
}

impl<T> std::fmt::Debug for Stepper<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepper").finish_non_exhaustive()
    }
}

/// The same on a GPU, which has a stream and buffers for this session alone.
pub(super) struct CudaStepper<T: Scalar> {
    worker: Worker<T, Device>,
    /// Search whose list is on the device, by number, and whether it could be put there.
    list: (u64, bool),
}

impl<T: Scalar> std::fmt::Debug for CudaStepper<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaStepper").finish_non_exhaustive()
    }
}

impl Steps {
    /// # Errors
    /// `Error::Usage` for the autograd engine; what a GPU reports.
    pub fn new(engine: &Engine, model: &Model) -> Result<Self> {
        Ok(match engine {
            Engine::AdjointF32(engine) => Steps::F32(Stepper::new(engine)),
            Engine::AdjointF64(engine) => Steps::F64(Stepper::new(engine)),
            Engine::CudaF32(engine) => Steps::CudaF32(CudaStepper::new(engine.new_worker(model)?)),
            Engine::CudaF64(engine) => Steps::CudaF64(CudaStepper::new(engine.new_worker(model)?)),
            Engine::AutogradF32(_) | Engine::AutogradF64(_) => {
                return Err(Error::Usage("a session needs the adjoint engine, which evaluates PaiNN".into()));
            }
        })
    }

    /// Evaluates a system that has its positions and its list; returns the energy, eV.
    ///
    /// # Errors
    /// Those of [`Session::compute`](super::Session::compute).
    pub fn step(
        &mut self,
        system: &mut System,
        crew: Option<&mut Crew>,
        forces: &mut [Vec3],
        last: &mut Last,
    ) -> Result<f64> {
        match self {
            Steps::F32(stepper) => stepper.step(system, crew, forces, last),
            Steps::F64(stepper) => stepper.step(system, crew, forces, last),
            Steps::CudaF32(stepper) => stepper.step(system, forces, last),
            Steps::CudaF64(stepper) => stepper.step(system, forces, last),
        }
    }

    /// Leaves what a panic may have left half done.
    pub fn start_anew(&mut self) {
        match self {
            Steps::F32(stepper) => stepper.workspace = Workspace::default(),
            Steps::F64(stepper) => stepper.workspace = Workspace::default(),
            // Every evaluation overwrites all of its arrays.
            Steps::CudaF32(_) | Steps::CudaF64(_) => {}
        }
    }
}

impl<T: Lanes> Stepper<T> {
    fn new(engine: &Arc<Packed<T>>) -> Self {
        Stepper { engine: engine.clone(), workspace: Workspace::default() }
    }

    fn step(
        &mut self,
        system: &mut System,
        crew: Option<&mut Crew>,
        forces: &mut [Vec3],
        last: &mut Last,
    ) -> Result<f64> {
        system.take_edges()?;
        let threads = crew.map_or(Threads::One, Threads::Crew);
        let want = Want { forces: true, stress: system.stress };
        let workspace = &mut self.workspace;
        self.engine.engine.reserve(&system.batch, system.list.n_edges(), workspace);
        self.engine.engine.evaluate(&system.batch, want, threads, workspace);
        system.take_results(&workspace.results, forces, last)
    }
}

impl<T: Scalar> CudaStepper<T> {
    fn new(worker: Worker<T, Device>) -> Self {
        CudaStepper { worker, list: (0, false) }
    }

    fn step(&mut self, system: &mut System, forces: &mut [Vec3], last: &mut Last) -> Result<f64> {
        let want = Want { forces: true, stress: system.stress };
        if self.list.0 != system.n_searches {
            self.list.0 = 0;
            self.list.1 = self.worker.set_list(&system.list, system.reference.is_periodic())?;
            self.list.0 = system.n_searches;
        }
        if self.list.1 {
            let cell = system.offsets_cell.unwrap_or_default();
            self.worker.evaluate(&system.batch, EdgeSource::Listed { cell }, want)?;
            system.contacts = Outside::NONE;
            if self.worker.close[0] {
                // Atoms near each other: whether too near, the processor says.
                system.take_edges()?;
            }
        } else {
            system.take_edges()?;
            self.worker.evaluate(&system.batch, EdgeSource::Given, want)?;
        }
        system.take_results(&self.worker.results, forces, last)
    }
}
