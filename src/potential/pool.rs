//! Workers that several threads take and give back: made on demand, at most so many.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Result;

/// Workers that are free, and how many there are.
///
/// A panic while the lock is held cannot leave this half done, so a poisoned lock is taken as it is. A worker whose thread
/// panics is not used again, and its place is free for another.
#[derive(Debug)]
pub(super) struct Pool<W> {
    state: Mutex<State<W>>,
    /// Tells that a place is free.
    freed: Condvar,
    most: usize,
}

#[derive(Debug)]
struct State<W> {
    free: Vec<W>,
    /// Those that exist, free or not.
    n: usize,
}

impl<W> Pool<W> {
    /// A pool of up to `most` workers, with the first.
    pub fn new(first: W, most: usize) -> Self {
        Pool { state: Mutex::new(State { free: vec![first], n: 1 }), freed: Condvar::new(), most }
    }

    /// Gives `work` a free worker; a new one as long as there are few; else waits for one. A worker that `work` panics with, or
    /// of whose outcome `has_failed` says so, is not used again.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn with<R>(
        &self,
        make: impl FnOnce() -> Result<W>,
        work: impl FnOnce(&mut W) -> R,
        has_failed: impl FnOnce(&R) -> bool,
    ) -> Result<R> {
        let free = self.seat();
        let mut place = Place { pool: self, worker: None };
        let mut worker = free.map_or_else(make, Ok)?;
        let done = work(&mut worker);
        if !has_failed(&done) {
            place.worker = Some(worker);
        }
        Ok(done)
    }

    /// A free worker, or none where a new one may be made.
    fn seat(&self) -> Option<W> {
        let mut state = self.lock();
        loop {
            if let Some(worker) = state.free.pop() {
                return Some(worker);
            }
            if state.n < self.most {
                state.n += 1;
                return None;
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Looks at a worker that is free, if there is one.
    pub fn with_free<R>(&self, look: impl FnOnce(&mut W) -> R) -> Option<R> {
        self.lock().free.last_mut().map(look)
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a worker that is in use: dropped, it is that of the worker in it, or free for a new one.
struct Place<'a, W> {
    pool: &'a Pool<W>,
    worker: Option<W>,
}

impl<W> Drop for Place<'_, W> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        match self.worker.take() {
            Some(worker) => state.free.push(worker),
            None => state.n -= 1,
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Error;

    #[test]
    fn pool_gives_places_of_workers_that_are_lost_to_new_ones() {
        let (pool, made) = (Pool::new(0, 2), AtomicUsize::new(1));
        let make = || Ok(made.fetch_add(1, Ordering::Relaxed));
        let good = |_: &usize| false;
        // As many as there are places, and more.
        for lost in 0..5 {
            let outcome = catch_unwind(AssertUnwindSafe(|| pool.with(make, |_| panic!("a defect"), |(): &()| false)));
            assert!(outcome.is_err());
            assert_eq!(pool.with(make, |worker| *worker, |_| true).unwrap(), 2 * lost + 1);
        }
        assert!(pool.with(|| Err(Error::Usage("no device".into())), |worker| *worker, good).is_err());
        let last = pool.with(make, |worker| *worker, good).unwrap();
        assert_eq!(pool.with(make, |worker| *worker, good).unwrap(), last, "one that did well is used again");
        assert_eq!(pool.with_free(|worker| *worker), Some(last));
    }

    #[test]
    fn pool_makes_no_more_than_its_places() {
        let (pool, made) = (Pool::new((), 3), AtomicUsize::new(1));
        let busy = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    let make = || Ok(_ = made.fetch_add(1, Ordering::SeqCst));
                    let work = |(): &mut ()| {
                        let now = busy.fetch_add(1, Ordering::SeqCst) + 1;
                        std::thread::yield_now();
                        busy.fetch_sub(1, Ordering::SeqCst);
                        now
                    };
                    assert!(pool.with(make, work, |_| false).unwrap() <= 3);
                });
            }
        });
        assert!(made.load(Ordering::SeqCst) <= 3);
    }
}
