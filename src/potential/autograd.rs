//! Many structures through batched autograd: padded batches of similar sizes, in parallel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use super::driver::{Driver, Request};
use super::evaluator::Evaluator;
use super::session::Steps;
use super::{checked, no_thread};
use crate::batch::{PaddedBatch, Prepared, Preparer, size_buckets};
use crate::clock::{Clock, Component, within};
use crate::engine::Evaluation;
use crate::engine::autograd::{Autograd, Element};
use crate::error::{Error, Result};
use crate::fork;
use crate::model::Model;
use crate::model::config::Architecture;
use crate::ops::Real;
use crate::ops::cost_model::CostModel;
use crate::roofline::{self, Peaks};
use crate::settings::{BatchSize, DeviceKind, EngineKind, Precision, Want};
use crate::structure::Structure;
use crate::threads::in_pool;

/// Rows of a batch that `BatchSize::Auto` aims at. Measured: the time per atom is flat from 1 to 64 molecules of 20 atoms
/// and rises beyond, as the tensors leave the caches; a few hundred rows keep per-batch costs small for smaller ones.
const AUTO_ROWS: usize = 256;

/// The same on a GPU, where many rows fill the device; an estimate, not measured.
const AUTO_ROWS_GPU: usize = 8192;

/// Bytes that the tensors of one batch may take under autograd; larger single structures still run alone.
const AUTO_BYTES: usize = 512 << 20;

/// Generation of the process ([`fork`]) that evaluated first here, and one: candle's threads, which it starts once, are its.
static FIRST_PROCESS: AtomicU32 = AtomicU32::new(0);

/// Batched autograd on a device.
pub(super) struct AutogradDriver<T: Element> {
    engine: Autograd<T>,
    /// What batches of more than one structure fail with.
    #[cfg(test)]
    failure: std::sync::Mutex<Option<Error>>,
}

impl<T: Element> AutogradDriver<T> {
    /// # Errors
    /// What the device or the tensor library reports.
    pub fn new(model: &Model, device: DeviceKind) -> Result<Self> {
        Ok(AutogradDriver {
            engine: Autograd::new(model, device)?,
            #[cfg(test)]
            failure: std::sync::Mutex::default(),
        })
    }
}

impl<T: Element> Driver for AutogradDriver<T> {
    fn engine(&self) -> EngineKind {
        EngineKind::Autograd
    }

    fn device(&self) -> DeviceKind {
        self.engine.device()
    }

    fn precision(&self) -> Precision {
        <T as Real>::PRECISION
    }

    fn evaluate(&self, request: Request, structures: &[&Structure]) -> Vec<Result<Evaluation>> {
        if has_lost_threads() {
            let refused = || {
                Err(Error::Usage(
                    "batched autograd has no threads in a process made by fork after its first use: set CANDLE_NUM_THREADS=1 \
                     before that, or make the process by other means (multiprocessing: \"spawn\")"
                        .into(),
                ))
            };
            return structures.iter().map(|_| refused()).collect();
        }
        let evaluated = in_pool(|| self.evaluate_in_pool(request, structures));
        evaluated.unwrap_or_else(|e| structures.iter().map(|_| Err(no_thread(&e))).collect())
    }

    /// Each evaluates the system from nothing: this engine keeps nothing from call to call.
    fn steps(self: Arc<Self>, model: &Arc<Model>, cost_model: &Arc<CostModel>) -> Result<Box<dyn Steps>> {
        Ok(Box::new(Evaluator::new(self, model.clone(), cost_model.clone())))
    }

    fn clock(&self) -> Result<(Clock, String)> {
        self.engine.place().clock()
    }

    fn peaks(&self) -> Result<Peaks> {
        Ok(self.engine.place().peaks()?.unwrap_or_else(|| roofline::measure(self.precision())))
    }
}

/// Whether candle would wait for threads that a fork has left behind.
fn has_lost_threads() -> bool {
    let here = fork::generation() + 1;
    match FIRST_PROCESS.compare_exchange(0, here, Ordering::Relaxed, Ordering::Relaxed) {
        Err(first) if first != here => {
            let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok()).filter(|&n| n > 0);
            number("CANDLE_NUM_THREADS").or_else(|| number("RAYON_NUM_THREADS")) != Some(1)
        }
        _ => false,
    }
}

impl<T: Element> AutogradDriver<T> {
    fn evaluate_in_pool(&self, request: Request, structures: &[&Structure]) -> Vec<Result<Evaluation>> {
        let Request { model, size, cost_model, want } = request;
        let mut prepared: Vec<Result<Prepared>> = structures
            .par_iter()
            .with_min_len(8)
            .map_init(
                || Preparer::new(model),
                |preparer, structure| {
                    let _component = within(Component::NeighborSearch);
                    preparer.prepare(structure)
                },
            )
            .collect();
        let good: Vec<usize> = (0..prepared.len()).filter(|&s| prepared[s].is_ok()).collect();
        let sizes: Vec<(usize, usize)> = good
            .iter()
            .map(|&s| prepared[s].as_ref().map_or((0, 0), |p| (p.species.len(), p.edges.n_edges())))
            .collect();
        let auto_rows = if self.device() == DeviceKind::Cpu { AUTO_ROWS } else { AUTO_ROWS_GPU };
        let (max_structures, max_rows) = match size {
            BatchSize::Auto => (usize::MAX, auto_rows),
            BatchSize::Structures(n) => (n.max(1), usize::MAX),
        };
        let buckets = size_buckets(&sizes, max_structures, max_rows, AUTO_BYTES / bytes_per_edge::<T>(model));
        let evaluated: Vec<(Vec<usize>, Result<Vec<Evaluation>>)> = buckets
            .into_par_iter()
            .map(|bucket| {
                let members: Vec<usize> = bucket.into_iter().map(|k| good[k]).collect();
                let structures: Vec<&Prepared> = members.iter().filter_map(|&s| prepared[s].as_ref().ok()).collect();
                let padded = {
                    let _component = within(Component::Batch);
                    PaddedBatch::new(&structures)
                };
                let result = padded.and_then(|batch| self.evaluate_batch(batch, want, cost_model));
                (members, result)
            })
            .collect();
        let mut out: Vec<Option<Result<Evaluation>>> = prepared.iter_mut().map(take_error).collect();
        for (members, result) in evaluated {
            match result {
                Ok(evaluations) => {
                    for (s, evaluation) in members.into_iter().zip(evaluations) {
                        let Ok(Prepared { outside, references, .. }) = &prepared[s] else { continue };
                        out[s] = Some(checked(model, evaluation, *outside, references));
                    }
                }
                // No structure's fault: it stays what it is, for all of them.
                Err(error) => members.into_iter().for_each(|s| out[s] = Some(Err(error.clone()))),
            }
        }
        out.into_iter()
            .map(|r| r.unwrap_or_else(|| Err(Error::Defect("the engine returned too few results".into()))))
            .collect()
    }

    fn evaluate_batch(&self, batch: PaddedBatch, want: Want, cost_model: &Arc<CostModel>) -> Result<Vec<Evaluation>> {
        #[cfg(test)]
        if batch.n_structures() > 1
            && let Ok(Some(failure)) = self.failure.lock().as_deref()
        {
            return Err(failure.clone());
        }
        self.engine.evaluate(batch, want, cost_model)
    }
}

/// Takes the error of a structure that could not be prepared.
fn take_error(prepared: &mut Result<Prepared>) -> Option<Result<Evaluation>> {
    match prepared {
        Ok(_) => None,
        Err(_) => std::mem::replace(prepared, Ok(Prepared::default())).err().map(Err),
    }
}

/// Memory that autograd takes for an edge: its features and their cotangents in every layer, and its geometry.
fn bytes_per_edge<T>(model: &Model) -> usize {
    let config = model.config();
    let n_edge_features = match &config.architecture {
        Architecture::Painn(_) => config.radial_basis().n + 1,
        Architecture::Distiller(_) => 3 * config.n_features(),
    };
    size_of::<T>() * (config.n_interactions() + 3) * n_edge_features + 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CudaError;
    use crate::potential::Potential;

    #[test]
    fn batch_that_fails_as_a_whole_keeps_its_error_for_each_of_its_structures() {
        let mut potential = Potential::load("ani2x-painn-64").unwrap();
        let padded = Arc::new(AutogradDriver::<f32>::new(potential.model(), DeviceKind::Cpu).unwrap());
        potential.driver = padded.clone();
        let water = Structure::molecule(vec![8, 1, 1], vec![[0.0; 3], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]]).unwrap();
        let unknown = Structure::molecule(vec![2], vec![[0.0; 3]]).unwrap();
        let hydrogens = Structure::molecule(vec![1; 20], (0..20).map(|k| [f64::from(k), 0.0, 0.0]).collect()).unwrap();
        let structures = [&water, &unknown, &water, &hydrogens];
        let memory = CudaError::OutOfMemory { asked: 1 << 30, free: 0 };
        for failure in [Error::Tensor("no memory".into()), memory.into()] {
            let (code, text) = (failure.code(), failure.to_string());
            *padded.failure.lock().unwrap() = Some(failure);
            let results = potential.evaluate(&structures, Want::ALL);
            // Those of another batch are evaluated, and a bad structure has an error of its own.
            assert_eq!(results[1].as_ref().unwrap_err().code(), "unknown_element");
            assert!(results[3].is_ok());
            for s in [0, 2] {
                let error = results[s].as_ref().unwrap_err();
                assert_eq!((error.code(), error.to_string()), (code, text.clone()));
                assert!(!error.is_of_structure());
            }
        }
        *padded.failure.lock().unwrap() = None;
        assert!(potential.evaluate_one(&water, Want::ALL).is_ok());
    }
}
