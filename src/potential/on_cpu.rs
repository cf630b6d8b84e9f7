//! Many structures through the adjoint engine: packed into batches that fit the caches, batches in parallel.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::driver::{Driver, Request};
use super::session::{Stepper, Steps};
use super::{checked, no_thread};
use crate::batch::{PackedBatch, Preparer};
use crate::clock::{Clock, Component, enter};
use crate::cpu::lanes::Lanes;
use crate::engine::Evaluation;
use crate::engine::adjoint::{Adjoint, FilterKind, Threads, Workspace};
use crate::error::Result;
use crate::fork::PerProcess;
use crate::model::{Model, Outside};
use crate::ops::cost_model::CostModel;
use crate::roofline::{self, Peaks};
use crate::settings::{BatchSize, DeviceKind, EngineKind, Precision, Want};
use crate::structure::Structure;
use crate::threads::in_pool;

/// Atoms of a batch: its state stays in the caches, and products have rows enough to run at full speed.
const BATCH_ATOMS: usize = 96;

/// Structures of at least this many atoms are cut into tiles that the threads share; smaller ones run side by side.
const LARGE_ATOMS: usize = 1024;

/// The engine and the buffers of the threads that have used it.
pub(super) struct OnCpu<T> {
    engine: Arc<Adjoint<T>>,
    workers: PerProcess<Mutex<Vec<Worker<T>>>>,
}

/// What a thread needs to evaluate a batch.
struct Worker<T> {
    preparer: Preparer,
    batch: PackedBatch,
    workspace: Workspace<T>,
}

impl<T: Lanes> OnCpu<T> {
    /// # Errors
    /// `Error::Usage` if the model is not a PaiNN.
    pub fn new(model: &Model) -> Result<Self> {
        Ok(OnCpu { engine: Arc::new(Adjoint::new(model, FilterKind::Auto)?), workers: PerProcess::new() })
    }
}

impl<T: Lanes> Driver for OnCpu<T> {
    fn engine(&self) -> EngineKind {
        EngineKind::Adjoint
    }

    fn device(&self) -> DeviceKind {
        DeviceKind::Cpu
    }

    fn precision(&self) -> Precision {
        T::PRECISION
    }

    fn evaluate(&self, request: Request, structures: &[&Structure]) -> Vec<Result<Evaluation>> {
        let Request { model, size, want, .. } = request;
        let sizes: Vec<usize> = structures.iter().map(|s| s.n_atoms()).collect();
        let batches = batches(&sizes, size);
        if let [batch] = &batches[..]
            && sizes.iter().sum::<usize>() < LARGE_ATOMS
        {
            return self.batch(model, &structures[batch.clone()], want, Threads::One);
        }
        let evaluated = in_pool(|| self.batches(model, &batches, &sizes, structures, want));
        evaluated.unwrap_or_else(|e| structures.iter().map(|_| Err(no_thread(&e))).collect())
    }

    fn steps(self: Arc<Self>, _: &Arc<Model>, _: &Arc<CostModel>) -> Result<Box<dyn Steps>> {
        Ok(Box::new(Stepper::new(self.engine.clone())))
    }

    fn clock(&self) -> Result<(Clock, String)> {
        Ok((Clock::Monotonic, roofline::processor_name()))
    }

    fn peaks(&self) -> Result<Peaks> {
        Ok(roofline::measure(T::PRECISION))
    }

    fn radial_window(&self) -> Option<usize> {
        Some(self.engine.radial_window())
    }

    #[cfg(test)]
    fn helpers_fail(&self) -> Option<&std::sync::atomic::AtomicBool> {
        Some(&self.engine.helpers_fail)
    }
}

impl<T: Lanes> OnCpu<T> {
    /// Many batches, or a large structure, on the threads of a pool.
    fn batches(
        &self,
        model: &Model,
        batches: &[Range<usize>],
        sizes: &[usize],
        structures: &[&Structure],
        want: Want,
    ) -> Vec<Result<Evaluation>> {
        let is_large = |batch: &Range<usize>| batch.len() == 1 && sizes[batch.start] >= LARGE_ATOMS;
        let mut out: Vec<Vec<Result<Evaluation>>> = batches
            .par_iter()
            .map(|batch| match is_large(batch) {
                true => Vec::new(),
                false => self.batch(model, &structures[batch.clone()], want, Threads::One),
            })
            .collect();
        for (batch, out) in batches.iter().zip(&mut out).filter(|(batch, _)| is_large(batch)) {
            *out = self.batch(model, &structures[batch.clone()], want, Threads::Rayon);
        }
        out.into_iter().flatten().collect()
    }

    fn batch(&self, model: &Model, structures: &[&Structure], want: Want, threads: Threads) -> Vec<Result<Evaluation>> {
        let mut worker = self.take(model);
        let Worker { preparer, batch, workspace } = &mut worker;
        batch.clear();
        let mut taken: Vec<Result<(usize, Outside)>> = Vec::with_capacity(structures.len());
        for structure in structures {
            let number = batch.n_structures();
            taken.push(preparer.pack(structure, batch).map(|outside| (number, outside)));
        }
        if batch.n_atoms() >= LARGE_ATOMS {
            // A second copy of so many edges is not worth keeping.
            preparer.forget();
        }
        let done = self.engine.evaluate(batch, want, threads, workspace);
        let result = |(s, outside)| {
            done.clone()?;
            let references = &batch.references[batch.atoms_of(s)];
            checked(model, workspace.results.evaluation(batch, s, want), outside, references)
        };
        let out = taken.into_iter().map(|taken| taken.and_then(result)).collect();
        self.give_back(worker);
        enter(Component::Unattributed);
        out
    }

    fn take(&self, model: &Model) -> Worker<T> {
        let kept = self.workers().pop();
        kept.unwrap_or_else(|| Worker {
            preparer: Preparer::new(model),
            batch: PackedBatch::default(),
            workspace: Workspace::default(),
        })
    }

    fn give_back(&self, worker: Worker<T>) {
        // One large structure should not hold its memory for ever.
        if worker.batch.n_atoms() < LARGE_ATOMS {
            self.workers().push(worker);
        }
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Worker<T>>> {
        self.workers.get_or_make(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts structures, by their numbers of atoms, into consecutive batches.
fn batches(sizes: &[usize], size: BatchSize) -> Vec<Range<usize>> {
    let (max_structures, max_atoms) = match size {
        BatchSize::Auto => (usize::MAX, BATCH_ATOMS),
        BatchSize::Structures(n) => (n.max(1), usize::MAX),
    };
    let mut out = Vec::new();
    let (mut start, mut atoms) = (0, 0);
    for (s, &n) in sizes.iter().enumerate() {
        if s > start && (s - start >= max_structures || atoms + n > max_atoms) {
            out.push(start..s);
            (start, atoms) = (s, 0);
        }
        atoms += n;
    }
    if start < sizes.len() {
        out.push(start..sizes.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_the_order_and_the_limits() {
        assert_eq!(batches(&[40, 40, 40, 200, 1], BatchSize::Auto), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(batches(&[4, 4, 4, 900, 1], BatchSize::Structures(2)), [0..2, 2..4, 4..5]);
        assert!(batches(&[], BatchSize::Auto).is_empty());
    }

    /// In the child the lock is held for ever, as one is that another of the parent's threads held.
    #[cfg(unix)]
    #[test]
    fn evaluation_in_a_forked_process_does_not_wait_for_a_lock_of_the_parent() {
        use crate::potential::Potential;
        let mut potential = Potential::load("ani2x-painn-64").unwrap();
        let packed = Arc::new(OnCpu::<f32>::new(potential.model()).unwrap());
        potential.driver = packed.clone();
        let hydrogen = Structure::molecule(vec![1], vec![[0.0; 3]]).unwrap();
        let want = potential.evaluate_one(&hydrogen, Want::ENERGY).unwrap();
        let held = packed.workers();
        // SAFETY: the child evaluates, which is what is to be tested, and leaves at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let is_right = potential.evaluate_one(&hydrogen, Want::ENERGY).is_ok_and(|got| got == want);
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(!is_right)) };
        }
        drop(held);
        let (start, mut status) = (std::time::Instant::now(), -1);
        // SAFETY: the child is ours, and not waited for yet; one that hangs is killed.
        unsafe {
            while libc::waitpid(child, &raw mut status, libc::WNOHANG) == 0 {
                if start.elapsed() > std::time::Duration::from_secs(120) {
                    libc::kill(child, libc::SIGKILL);
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        assert_eq!(status, 0, "the child hangs or is wrong");
        assert_eq!(potential.evaluate_one(&hydrogen, Want::ENERGY).unwrap(), want);
    }
}
