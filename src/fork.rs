//! Processes made by `fork`, of which Python's `multiprocessing` on Linux is the usual maker.
//!
//! A child has its parent's memory, but of its threads only the one that forked: thread pools have no threads any more, and
//! a lock that another thread held is never released. What has threads or locks asks here whether it comes from this
//! process.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Forks between the process that called [`watch`] first and this one. What was made in another generation belongs to another
/// process. A load: cheap enough for every step of a session.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Counts forks from now on.
#[cfg(unix)]
pub(crate) fn watch() {
    use std::sync::atomic::AtomicBool;
    static WATCHING: AtomicBool = AtomicBool::new(false);
    if !WATCHING.swap(true, Ordering::Relaxed) {
        // SAFETY: the handler only touches an atomic and a thread-local without destructor, which a child may.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
}

/// Elsewhere nothing forks.
#[cfg(not(unix))]
pub(crate) fn watch() {}

std::thread_local! {
    static FORKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(unix)]
extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    FORKED.with(|forked| forked.set(true));
}

/// Whether this thread is one that forked, as seen in the child: older than its process.
pub(crate) fn is_survivor() -> bool {
    FORKED.with(std::cell::Cell::get)
}

/// A value that every process makes for itself, without a lock that a fork could leave locked.
pub(crate) struct PerProcess<T> {
    current: AtomicPtr<Entry<T>>,
}

struct Entry<T> {
    generation: u32,
    value: T,
}

// SAFETY: hands out shared references, so as `&T`; entries are made by one thread and may be freed by another.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}
// SAFETY: owns its entry.
unsafe impl<T: Send> Send for PerProcess<T> {}

impl<T> PerProcess<T> {
    pub const fn new() -> Self {
        PerProcess { current: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// This process's value, made where there is none. Threads that come at the same time may each make one; one stays.
    pub fn get_or_make(&self, make: impl FnOnce() -> T) -> &T {
        let generation = generation();
        let seen = self.current.load(Ordering::Acquire);
        // SAFETY: entries are freed by `drop` only, which nobody can call while `self` is borrowed.
        if let Some(entry) = unsafe { seen.as_ref() }
            && entry.generation == generation
        {
            return &entry.value;
        }
        let made = Box::into_raw(Box::new(Entry { generation, value: make() }));
        // An entry of the parent is left to itself: one of the parent's threads may have been at it.
        match self.current.compare_exchange(seen, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: as above.
            Ok(_) => unsafe { &(*made).value },
            Err(other) => {
                // SAFETY: nobody else has seen `made`. `other` was put there by a thread of this process just now, hence
                // is not null and of this generation.
                unsafe {
                    drop(Box::from_raw(made));
                    &(*other).value
                }
            }
        }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let last = *self.current.get_mut();
        // SAFETY: from `Box::into_raw`, and nobody borrows it any more. The parent's is left to itself.
        unsafe {
            if last.as_ref().is_some_and(|entry| entry.generation == generation()) {
                drop(Box::from_raw(last));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_process_keeps_one_value_for_all_threads() {
        let cell = PerProcess::new();
        let values: Vec<u32> = std::thread::scope(|scope| {
            let made: Vec<_> = (0..8)
                .map(|k| {
                    scope.spawn({
                        let cell = &cell;
                        move || *cell.get_or_make(|| k)
                    })
                })
                .collect();
            made.into_iter().map(|value| value.join().unwrap()).collect()
        });
        assert!(values.iter().all(|value| value == &values[0]), "{values:?}");
        assert_eq!(*cell.get_or_make(|| 99), values[0]);
    }
}
