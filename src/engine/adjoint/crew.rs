//! Threads that help one evaluation after another, as a molecular dynamics driver makes them.
//!
//! Handing work to rayon from outside costs two switches between threads and an allocation; a step of a small molecule
//! takes less than a tenth of a millisecond. These threads watch for the next step for a while before they sleep.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;

use sync::{
    Arc, AtomicBool, AtomicUsize, Builder, JoinHandle, Mutex, Ordering, UnsafeCell, park, spin_loop, yield_now,
};

use crate::fork;

/// What threads are made of: the standard library's, or a model checker's where this file is part of one (`fuzz/loom`).
#[cfg(not(loom))]
mod sync {
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub use std::sync::{Arc, Mutex};
    pub use std::thread::{Builder, JoinHandle, park, yield_now};

    /// With the methods of loom's.
    #[derive(Debug)]
    pub struct UnsafeCell<X>(std::cell::UnsafeCell<X>);

    impl<X> UnsafeCell<X> {
        pub const fn new(x: X) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(x))
        }
        #[inline(always)]
        pub fn with<R>(&self, f: impl FnOnce(*const X) -> R) -> R {
            f(self.0.get())
        }
        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut X) -> R) -> R {
            f(self.0.get())
        }
    }
}
#[cfg(loom)]
mod sync {
    pub use loom::cell::UnsafeCell;
    pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub use loom::sync::{Arc, Mutex};
    pub use loom::thread::yield_now as spin_loop;
    pub use loom::thread::{Builder, JoinHandle, park, yield_now};
}

/// Helpers of one thread, which calls [`Crew::run`].
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Process that the helpers are threads of.
    generation: u32,
}

type Panic = Box<dyn Any + Send>;

type Job = *const (dyn Fn(usize) + Sync);

#[derive(Debug)]
struct Shared {
    /// Counts jobs: a change wakes the helpers.
    job_number: AtomicUsize,
    /// `OPEN` while a job may be joined, plus the number of helpers inside.
    gate: AtomicUsize,
    /// Valid while the gate is open or a helper inside.
    job: UnsafeCell<Option<Job>>,
    asleep: Vec<AtomicBool>,
    /// Whether `panic` holds something.
    panicked: AtomicBool,
    /// What the first helper whose part of a job panicked said.
    panic: Mutex<Option<Panic>>,
    started: AtomicUsize,
    stop: AtomicBool,
}

// SAFETY: `job` is written by `run` while the gate is closed and nobody inside, and read by helpers inside.
unsafe impl Sync for Shared {}
// SAFETY: the pointer is to something `Sync`, and used only while `run` borrows it.
unsafe impl Send for Shared {}

const OPEN: usize = 1 << (usize::BITS - 1);

/// Looks at the job number before a helper sleeps: some 0.1 ms.
#[cfg(not(loom))]
const WATCH: u32 = 20_000;
#[cfg(loom)]
const WATCH: u32 = 2;

impl Crew {
    /// Starts `n_helpers` threads.
    ///
    /// # Errors
    /// What the system says if it cannot start them.
    pub fn new(n_helpers: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            job_number: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            asleep: (0..n_helpers).map(|_| AtomicBool::new(false)).collect(),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            started: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        fork::watch();
        let mut crew = Crew { shared, helpers: Vec::with_capacity(n_helpers), generation: fork::generation() };
        for k in 0..n_helpers {
            let shared = crew.shared.clone();
            let thread = Builder::new().name(format!("mlff-{k}")).spawn(move || shared.help(k))?;
            crew.helpers.push(thread);
        }
        // So that no job meets a thread that the system is still setting up.
        while crew.shared.started.load(Ordering::Acquire) < n_helpers {
            yield_now();
        }
        Ok(crew)
    }

    /// Threads in all, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Whether the helpers are there: in a process made by `fork` there are none, and [`Crew::run`] runs `job(0)` only.
    pub fn is_alive(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Runs `job(0)` here while helpers may run `job(1)`, `job(2)`, …, each never or several times; returns when all have
    /// ended. A panic of any part, the caller's or a helper's, comes out of here; the crew can be used again.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if !self.is_alive() {
            return job(0);
        }
        // Of a run that the caller's own panic ended.
        if shared.panicked.load(Ordering::Relaxed) {
            _ = shared.take_panic();
        }
        // SAFETY: the gate is closed and nobody inside: `run` borrows the crew mutably and left it so. The lifetime is
        // dropped from the type only: below, nobody is inside any more before `job` goes out of scope.
        unsafe {
            let job = std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job);
            shared.job.with_mut(|place| *place = Some(job));
        }
        let closing = Closing(shared);
        shared.gate.store(OPEN, Ordering::SeqCst);
        shared.job_number.fetch_add(1, Ordering::SeqCst);
        for (helper, asleep) in self.helpers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                helper.thread().unpark();
            }
        }
        job(0);
        drop(closing);
        if shared.panicked.load(Ordering::Acquire) {
            resume_unwind(shared.take_panic());
        }
    }
}

/// Closes the gate and waits until nobody is inside, also when the caller's part panics.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.gate.fetch_and(!OPEN, Ordering::SeqCst);
        let mut spins = 0_u32;
        while self.0.gate.load(Ordering::Acquire) != 0 {
            spins = spins.saturating_add(1);
            if spins < WATCH { spin_loop() } else { yield_now() }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if !self.is_alive() {
            // Threads of another process: the handles are good for nothing, not even to be freed.
            self.helpers.drain(..).for_each(std::mem::forget);
            return;
        }
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.job_number.fetch_add(1, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// A helper's life.
    fn help(&self, k: usize) {
        let mut seen = 0;
        self.started.fetch_add(1, Ordering::Release);
        loop {
            seen = self.next_job(seen, k);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let enter = |gate: usize| (gate & OPEN != 0).then_some(gate + 1);
            if self.gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_ok() {
                let leaving = Leaving(self);
                // What a job leaves half done is for the caller to see to, who gets the panic.
                // SAFETY: inside the gate, so `run` has set the job and waits for this helper.
                let outcome = catch_unwind(AssertUnwindSafe(|| unsafe {
                    if let Some(job) = self.job.with(|place| *place) {
                        (*job)(k + 1);
                    }
                }));
                if let Err(panic) = outcome {
                    self.keep(panic);
                }
                drop(leaving);
            }
        }
    }

    /// Keeps a panic for the caller, who reads it when this helper has left the gate.
    fn keep(&self, panic: Panic) {
        // Nothing can panic while it is held.
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        self.panicked.store(true, Ordering::Release);
    }

    #[cold]
    fn take_panic(&self) -> Panic {
        self.panicked.store(false, Ordering::Relaxed);
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        panic.unwrap_or_else(|| Box::new("a helper thread panicked"))
    }

    /// Waits until the job number is not `seen`; returns it.
    fn next_job(&self, seen: usize, k: usize) -> usize {
        let mut watched = 0;
        loop {
            let number = self.job_number.load(Ordering::SeqCst);
            if number != seen {
                return number;
            }
            watched += 1;
            if watched < WATCH {
                spin_loop();
            } else {
                self.asleep[k].store(true, Ordering::SeqCst);
                // A job that came before `asleep` was set would not wake this thread.
                if self.job_number.load(Ordering::SeqCst) == seen {
                    park();
                }
                self.asleep[k].store(false, Ordering::SeqCst);
            }
        }
    }
}

/// Leaves the gate, also by a panic.
struct Leaving<'a>(&'a Shared);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.gate.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crew_runs_every_job_to_its_end() {
        let mut crew = Crew::new(3).unwrap();
        for round in 0..2000_usize {
            let (next, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
            crew.run(&|_| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= 100 {
                        break;
                    }
                    sum.fetch_add(i + round, Ordering::Relaxed);
                }
            });
            assert_eq!(sum.into_inner(), 4950 + 100 * round);
            if round % 500 == 0 {
                // Long enough for helpers to fall asleep.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }

    fn message(panic: Panic) -> &'static str {
        *panic.downcast::<&'static str>().unwrap()
    }

    #[test]
    fn crew_hands_the_panic_of_a_helper_to_its_caller() {
        for n_helpers in [1, 3] {
            let mut crew = Crew::new(n_helpers).unwrap();
            for _ in 0..50 {
                let entered = AtomicBool::new(false);
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    crew.run(&|k| {
                        if k > 0 {
                            entered.store(true, Ordering::Relaxed);
                            std::panic::panic_any("a helper's part fails");
                        }
                        // Until a helper has joined.
                        while !entered.load(Ordering::Relaxed) {
                            std::thread::yield_now();
                        }
                    });
                }));
                assert_eq!(message(outcome.unwrap_err()), "a helper's part fails");
                // The helpers live, and the panic is not told twice.
                let joined = AtomicUsize::new(0);
                crew.run(&|k| {
                    joined.fetch_add(usize::from(k > 0), Ordering::Relaxed);
                    while joined.load(Ordering::Relaxed) < n_helpers {
                        std::thread::yield_now();
                    }
                });
            }
        }
    }

    #[test]
    fn crew_survives_a_panic_of_its_caller() {
        let mut crew = Crew::new(1).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            crew.run(&|k| assert!(k > 0, "the caller's part fails"));
        }));
        assert!(outcome.is_err());
        let ran = AtomicBool::new(false);
        crew.run(&|_| ran.store(true, Ordering::Relaxed));
        assert!(ran.into_inner());
    }
}
