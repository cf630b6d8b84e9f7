//! Who does which task of an evaluation.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Who does what: the tasks of one stage in any order, by any thread, each after all of the stage before.
///
/// Threads may join at any time or never: a thread waits only for tasks that another one is running.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    next: AtomicUsize,
    done: AtomicUsize,
    failed: AtomicBool,
}

/// Rounds of waiting before the processor is given to somebody else.
const SPINS: u32 = 10_000;

impl Tickets {
    /// Whether so many tasks have been done, which is true when all threads have left unless one panicked.
    pub fn are_done(&self, n_tasks: usize) -> bool {
        self.done.load(Ordering::Acquire) == n_tasks
    }

    /// Takes tasks until none is left. `run(stage, task)`.
    pub fn work(&self, n_stages: usize, n_tasks: usize, mut run: impl FnMut(usize, usize)) {
        loop {
            let ticket = self.next.fetch_add(1, Ordering::Relaxed);
            if ticket >= n_stages * n_tasks {
                return;
            }
            let (stage, task) = (ticket / n_tasks, ticket % n_tasks);
            let mut spins = 0;
            while self.done.load(Ordering::Acquire) < stage * n_tasks {
                if self.failed.load(Ordering::Relaxed) {
                    return;
                }
                spins += 1;
                if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
            }
            let guard = Guard(self);
            run(stage, task);
            std::mem::forget(guard);
            self.done.fetch_add(1, Ordering::Release);
        }
    }
}

/// Dropped by a panic only: tells those who wait that they wait in vain.
struct Guard<'a>(&'a Tickets);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.failed.store(true, Ordering::Relaxed);
    }
}
