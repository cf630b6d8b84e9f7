//! Arrays that several threads fill by rows of their own, and the schedule that keeps them apart.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A borrowed array whose parts are handed out to the tasks of a stage.
#[derive(Debug)]
pub(super) struct Shared<'a, X> {
    data: *mut X,
    len: usize,
    of: PhantomData<&'a mut [X]>,
}

// SAFETY: access is by the unsafe methods below, whose callers keep writers apart.
unsafe impl<X: Send + Sync> Sync for Shared<'_, X> {}
// SAFETY: as above.
unsafe impl<X: Send + Sync> Send for Shared<'_, X> {}

impl<'a, X> Shared<'a, X> {
    pub fn new(x: &'a mut [X]) -> Self {
        Shared { data: x.as_mut_ptr(), len: x.len(), of: PhantomData }
    }

    /// The elements of a range.
    ///
    /// # Safety
    /// No task that may run at the same time writes to them.
    pub unsafe fn read(&self, range: Range<usize>) -> &'a [X] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the borrowed array; not written meanwhile, by the caller.
        unsafe { std::slice::from_raw_parts(self.data.add(range.start), range.len()) }
    }

    /// The elements of a range, to be written.
    ///
    /// # Safety
    /// No task that may run at the same time reads or writes them, and this task holds no other reference to them.
    pub unsafe fn write(&self, range: Range<usize>) -> &'a mut [X] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the borrowed array; nobody else's meanwhile, by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// Rows of a shared array of layers, `[n_layers, n_rows, width]`.
#[derive(Debug)]
pub(super) struct Rows<'a, X> {
    data: Shared<'a, X>,
    n_rows: usize,
    width: usize,
}

impl<'a, X> Rows<'a, X> {
    pub fn new(x: &'a mut [X], n_rows: usize, width: usize) -> Self {
        Rows { data: Shared::new(x), n_rows, width }
    }

    fn range(&self, layer: usize, rows: &Range<usize>) -> Range<usize> {
        let first = layer * self.n_rows;
        (first + rows.start) * self.width..(first + rows.end) * self.width
    }

    /// Some rows of a layer.
    ///
    /// # Safety
    /// As [`Shared::read`].
    pub unsafe fn read(&self, layer: usize, rows: &Range<usize>) -> &'a [X] {
        // SAFETY: the caller's.
        unsafe { self.data.read(self.range(layer, rows)) }
    }

    /// All rows of a layer.
    ///
    /// # Safety
    /// As [`Shared::read`].
    pub unsafe fn layer(&self, layer: usize) -> &'a [X] {
        // SAFETY: the caller's.
        unsafe { self.read(layer, &(0..self.n_rows)) }
    }

    /// Some rows of a layer, to be written.
    ///
    /// # Safety
    /// As [`Shared::write`].
    pub unsafe fn write(&self, layer: usize, rows: &Range<usize>) -> &'a mut [X] {
        // SAFETY: the caller's.
        unsafe { self.data.write(self.range(layer, rows)) }
    }
}

/// Tasks in stages: those of one stage in any order, by any thread, each after all of the stage before.
///
/// Threads may join at any time or never: a thread waits only for tasks that another one is running.
#[derive(Debug, Default)]
pub(super) struct Stages {
    next: AtomicUsize,
    done: AtomicUsize,
    failed: AtomicBool,
}

/// Rounds of waiting before the processor is given to somebody else.
const SPINS: u32 = 10_000;

impl Stages {
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
struct Guard<'a>(&'a Stages);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.failed.store(true, Ordering::Relaxed);
    }
}
