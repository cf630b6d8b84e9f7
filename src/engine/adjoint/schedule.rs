//! Tasks in stages, and the threads that share them.

use std::sync::{Mutex, PoisonError};

use pulp::{Arch, Simd, WithSimd};

use super::crew::Crew;
use super::tickets::Tickets;

/// A model's list of operations and its mirror, cut into stages: those of one tile of atoms depend on what the stages before
/// left for all tiles, and on nothing else.
pub(super) trait Stages: Sync {
    /// A thread's own buffers.
    type Scratch: Send;

    /// How many.
    fn n_stages(&self) -> usize;

    /// Does the work of one tile in one stage. Stages follow each other; tiles of a stage may run at the same time.
    fn stage<S: Simd>(&self, simd: S, stage: usize, tile: usize, scratch: &mut Self::Scratch);
}

/// Threads that share the work of a batch. Results do not depend on them.
#[derive(Debug)]
pub enum Threads<'a> {
    /// The caller's.
    One,
    /// The caller's and its helpers.
    Crew(&'a mut Crew),
    /// Those of the rayon pool of the caller.
    Rayon,
}

impl Threads<'_> {
    /// How many.
    pub(super) fn count(&self) -> usize {
        match self {
            Threads::One => 1,
            Threads::Crew(crew) => crew.n_threads(),
            Threads::Rayon => rayon::current_num_threads(),
        }
    }

    /// Runs all stages of all tiles, each thread with a `scratch` of its own. A panic of any thread comes out of here.
    ///
    /// `before(thread)` is called ahead of every task.
    pub(super) fn run<L: Stages>(
        self,
        arch: Arch,
        list: &L,
        n_tiles: usize,
        scratch: &mut [Mutex<L::Scratch>],
        before: impl Fn(usize) + Sync,
    ) {
        let n_stages = list.n_stages();
        let task = |stage, tile, scratch: &mut _| arch.dispatch(Task { list, stage, tile, scratch });
        if self.count() == 1 || n_tiles < 2 {
            let scratch = scratch[0].get_mut().unwrap_or_else(PoisonError::into_inner);
            for stage in 0..n_stages {
                for tile in 0..n_tiles {
                    task(stage, tile, scratch);
                }
            }
            return;
        }
        let (tickets, scratch) = (Tickets::default(), &*scratch);
        let work = |thread: usize| {
            // Nobody else uses this thread's buffers; the lock only says so to the compiler.
            let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            tickets.work(n_stages, n_tiles, |stage, tile| {
                before(thread);
                task(stage, tile, &mut scratch);
            });
        };
        match self {
            Threads::One => work(0),
            Threads::Crew(crew) => crew.run(&work),
            Threads::Rayon => rayon::scope(|scope| {
                for thread in 0..scratch.len() {
                    let work = &work;
                    scope.spawn(move |_| work(thread));
                }
            }),
        }
        // A panic of any thread has come here by now; what is left undone without one must not pass for a result.
        assert!(tickets.are_done(n_stages * n_tiles), "an evaluation ended before all of its tasks were done");
    }
}

/// One tile in one stage, for the vector instructions of the processor.
struct Task<'a, L: Stages> {
    list: &'a L,
    stage: usize,
    tile: usize,
    scratch: &'a mut L::Scratch,
}

impl<L: Stages> WithSimd for Task<'_, L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.list.stage(simd, self.stage, self.tile, self.scratch);
    }
}
