//! A session's steps on a GPU.

use super::steps::Steps;
use super::system::{Last, System};
use crate::cuda::Device;
use crate::engine::adjoint::Crew;
use crate::engine::cuda::{EdgeSource, Scalar, Worker};
use crate::error::Result;
use crate::model::Outside;
use crate::structure::Vec3;

/// The adjoint engine on a GPU, with a stream and buffers for this session alone.
pub(crate) struct CudaStepper<T: Scalar> {
    worker: Worker<T, Device>,
    /// Search whose list is on the device, by number, and whether it could be put there.
    list: (u64, bool),
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
