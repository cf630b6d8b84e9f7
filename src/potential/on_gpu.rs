//! Structures through the adjoint engine on a GPU: packed into large batches, a few batches under way at a time.

use std::sync::Arc;

use rayon::prelude::*;

use super::driver::{Driver, Request};
use super::pool::Pool;
use super::session::{CudaStepper, Steps};
use super::{checked, no_thread};
use crate::batch::{MIN_DISTANCE, PackedBatch, Preparer};
use crate::clock::{Clock, Component, enter};
use crate::cuda::{Device, StreamEvents, measure_peaks};
use crate::engine::Evaluation;
use crate::engine::cuda::{EdgeSource, Plan, Scalar, Tuning, Worker};
use crate::error::CudaError;
use crate::error::{Error, Result};
use crate::fork;
use crate::model::config::Architecture;
use crate::model::painn::Painn;
use crate::model::{Model, Outside};
use crate::ops::cost_model::CostModel;
use crate::roofline::Peaks;
use crate::settings::{BatchSize, DeviceKind, EngineKind, Precision, Want};
use crate::structure::Structure;
use crate::threads::in_pool;

/// Atoms of a batch: enough to fill the device, few enough that the host's work on some batches, which takes longer than the
/// device's on one thread, overlaps with the device's on others.
const BATCH_ATOMS: usize = 1 << 13;

/// Bytes of the device that a batch may take, unless it is one structure.
const BATCH_BYTES: usize = 4 << 30;

/// Batches under way at a time: some are computed while others are packed and unpacked.
const WORKERS: usize = 8;

/// Molecules of up to this many atoms have their neighbours found on the device, every atom against every other; all others on
/// the processor.
const SEARCHED_ATOMS: usize = 256;

/// The engine, with its workers on one device.
pub(super) struct OnGpu<T: Scalar> {
    ordinal: usize,
    /// Process that the device was opened in.
    generation: u32,
    plan: Arc<Plan<T>>,
    workers: Pool<Packer<T>>,
}

/// A worker and what it needs to pack a batch.
struct Packer<T: Scalar> {
    preparer: Preparer,
    batch: PackedBatch,
    worker: Worker<T, Device>,
}

/// Structures that are evaluated in one batch, by number.
struct Group {
    members: Vec<usize>,
    /// Whether the device finds their neighbours.
    searched: bool,
}

impl<T: Scalar> OnGpu<T> {
    /// Opens a device and makes its kernels ready.
    ///
    /// # Errors
    /// `CudaError` where there is no GPU that can be used, or none that has room for the model; `Error::Usage` for models that
    /// are no PaiNN.
    pub fn new(model: &Model, ordinal: usize) -> Result<Self> {
        let config = model.config();
        let Architecture::Painn(painn) = &config.architecture else {
            return Err(Error::Usage(format!(
                "the adjoint engine evaluates PaiNN only, not {}; use the autograd engine",
                config.architecture_name()
            )));
        };
        let device = Device::open(ordinal)?;
        let painn = Painn::<T>::new(config, painn, model.weights())?;
        let plan =
            Arc::new(Plan::new(&painn, config.energy_scale, &nearest(model), device.limits(), Tuning::default())?);
        let first = Packer::new(model, plan.clone(), device)?;
        Ok(OnGpu { ordinal, generation: fork::generation(), plan, workers: Pool::new(first, WORKERS) })
    }
}

impl<T: Scalar> Driver for OnGpu<T> {
    fn engine(&self) -> EngineKind {
        EngineKind::Adjoint
    }

    fn device(&self) -> DeviceKind {
        DeviceKind::Cuda(self.ordinal)
    }

    fn precision(&self) -> Precision {
        T::PRECISION
    }

    fn evaluate(&self, request: Request, structures: &[&Structure]) -> Vec<Result<Evaluation>> {
        let Request { model, size, want, .. } = request;
        if self.generation != fork::generation() {
            let refused = || {
                Err(Error::Usage(
                    "a GPU cannot be used in a process made by fork after it was opened: load the model in that process, or \
                     make the process by other means (multiprocessing: \"spawn\")"
                        .into(),
                ))
            };
            return structures.iter().map(|_| refused()).collect();
        }
        let groups = self.groups(structures, size);
        let evaluate = |group: &Group| self.group(model, structures, &group.members, group.searched, want);
        let results: Vec<Vec<Result<Evaluation>>> = match &groups[..] {
            [group] => vec![evaluate(group)],
            _ => match in_pool(|| groups.par_iter().map(evaluate).collect()) {
                Ok(results) => results,
                Err(e) => return structures.iter().map(|_| Err(no_thread(&e))).collect(),
            },
        };
        let mut out: Vec<Option<Result<Evaluation>>> = structures.iter().map(|_| None).collect();
        for (group, results) in groups.iter().zip(results) {
            for (&s, result) in group.members.iter().zip(results) {
                out[s] = Some(result);
            }
        }
        let missing = || Err(Error::Defect("the engine returned too few results".into()));
        out.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    /// A worker for the session alone, with a stream of its own.
    fn steps(self: Arc<Self>, model: &Arc<Model>, _: &Arc<CostModel>) -> Result<Box<dyn Steps>> {
        let packer = Packer::new(model, self.plan.clone(), Device::open(self.ordinal)?)?;
        Ok(Box::new(CudaStepper::new(packer.worker)))
    }

    /// Events of the stream that work is queued on if it comes from one thread.
    fn clock(&self) -> Result<(Clock, String)> {
        let clock = self.workers.with_free(|packer| StreamEvents::clock(packer.worker.backend().stream().clone()));
        clock.unwrap_or_else(|| Err(Error::Usage("a profile needs a GPU that nothing else is evaluated on".into())))
    }

    fn peaks(&self) -> Result<Peaks> {
        measure_peaks(&mut Device::open(self.ordinal)?, T::PRECISION)
    }
}

impl<T: Scalar> OnGpu<T> {
    /// Puts structures of a kind together, in their order.
    fn groups(&self, structures: &[&Structure], size: BatchSize) -> Vec<Group> {
        let (max_structures, max_atoms) = match size {
            BatchSize::Auto => (usize::MAX, BATCH_ATOMS),
            BatchSize::Structures(n) => (n.max(1), usize::MAX),
        };
        // Those of a kind take the same way over their edges.
        let pairs = self.plan.pairs_atoms();
        let mut open: [Option<(Group, [usize; 2])>; 3] = Default::default();
        let mut out = Vec::new();
        for (s, structure) in structures.iter().enumerate() {
            let n = structure.n_atoms();
            let searched = !structure.pbc.contains(&true) && n <= SEARCHED_ATOMS;
            let kind = if searched { usize::from(n > pairs) } else { 2 };
            // The neighbours of those that the processor searches are not known yet: as in water at 5 Å.
            let edges = if searched { n * n.saturating_sub(1) } else { 60 * n };
            let bytes = n * self.plan.bytes_per_atom() + edges * self.plan.bytes_per_edge();
            let is_full = |(group, [atoms, used]): &(Group, [usize; 2])| {
                group.members.len() >= max_structures || atoms + n > max_atoms || used + bytes > BATCH_BYTES
            };
            if let Some(full) = open[kind].take_if(|group| is_full(group)) {
                out.push(full.0);
            }
            let new = || (Group { members: Vec::new(), searched }, [0; 2]);
            let (group, [atoms, used]) = open[kind].get_or_insert_with(new);
            group.members.push(s);
            (*atoms, *used) = (*atoms + n, *used + bytes);
        }
        out.extend(open.into_iter().flatten().map(|(group, _)| group));
        out
    }

    /// Evaluates structures in one batch; in two halves where the device has no room for all.
    fn group(
        &self,
        model: &Model,
        structures: &[&Structure],
        members: &[usize],
        searched: bool,
        want: Want,
    ) -> Vec<Result<Evaluation>> {
        let make = || Packer::new(model, self.plan.clone(), Device::open(self.ordinal)?);
        let evaluate = |packer: &mut Packer<T>| packer.evaluate(model, structures, members, searched, want);
        // A worker whose device failed is not used again.
        let has_failed = |done: &Result<_>| matches!(done, Err(error) if !is_out_of_memory(error));
        match self.workers.with(make, evaluate, has_failed).and_then(|done| done) {
            Ok(results) => results,
            Err(error) if is_out_of_memory(&error) && members.len() > 1 => {
                let (first, second) = members.split_at(members.len() / 2);
                let mut results = self.group(model, structures, first, searched, want);
                results.extend(self.group(model, structures, second, searched, want));
                results
            }
            Err(error) => members.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

/// Squares of the distances below which a pair of atoms is to be looked at, by rows of the embedding, Å².
fn nearest(model: &Model) -> Vec<f64> {
    model.limits().close().iter().map(|close| close.max(MIN_DISTANCE * MIN_DISTANCE)).collect()
}

fn is_out_of_memory(error: &Error) -> bool {
    matches!(error, Error::Cuda(CudaError::OutOfMemory { .. }))
}

impl<T: Scalar> Packer<T> {
    fn new(model: &Model, plan: Arc<Plan<T>>, device: Device) -> Result<Self> {
        Ok(Packer { preparer: Preparer::new(model), batch: PackedBatch::default(), worker: Worker::new(plan, device)? })
    }

    /// Results in the order of the members.
    ///
    /// # Errors
    /// What the device reports, which is no fault of a structure.
    fn evaluate(
        &mut self,
        model: &Model,
        structures: &[&Structure],
        members: &[usize],
        searched: bool,
        want: Want,
    ) -> Result<Vec<Result<Evaluation>>> {
        let Packer { preparer, batch, worker } = self;
        batch.clear();
        let mut taken: Vec<Result<(usize, Outside)>> = Vec::with_capacity(members.len());
        enter(if searched { Component::Batch } else { Component::NeighborSearch });
        for &member in members {
            let (structure, number) = (structures[member], batch.n_structures());
            let ready = match searched {
                true => preparer.pack_atoms(structure, batch).map(|()| Outside::NONE),
                false => preparer.pack(structure, batch),
            };
            taken.push(ready.map(|outside| (number, outside)));
        }
        let edges = if searched { EdgeSource::Search } else { EdgeSource::Given };
        worker.evaluate(batch, edges, want)?;
        let mut result = |member: usize, s: usize, mut outside: Outside| {
            if searched && worker.close[s] {
                // Atoms near each other: whether too near, the processor says.
                outside = preparer.contacts(structures[member])?;
            }
            let references = &batch.references[batch.atoms_of(s)];
            checked(model, worker.results.evaluation(batch, s, want), outside, references)
        };
        let results = members.iter().zip(taken);
        let results =
            results.map(|(&member, taken)| taken.and_then(|(s, outside)| result(member, s, outside))).collect();
        enter(Component::Unattributed);
        Ok(results)
    }
}
