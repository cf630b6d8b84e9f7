//! Threads to compute with: how many may be asked for, and what happens where the system has none to give.
//!
//! rayon panics when its pool cannot be started, and a pool of the parent hangs in a process made by `fork`. What this
//! crate does on rayon is therefore done where a pool is known to work.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};
use crate::fork::{self, PerProcess};

/// Cores that this process may use.
pub fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Most threads that may be asked for: four for each core, 64 at least. Beyond, threads only wait for each other.
pub fn most() -> usize {
    (4 * n_cores()).max(64)
}

/// Refuses more threads than [`most`].
///
/// # Errors
/// `Error::Usage` that says how many cores there are.
pub fn check(n: usize) -> Result<()> {
    match most() {
        most if n > most => Err(Error::Usage(format!(
            "{n} threads are too many: this machine lends {} cores, expected at most {most} threads",
            n_cores()
        ))),
        _ => Ok(()),
    }
}

/// Starts rayon's global pool with `n` threads, or fewer where the system does not give as many; it must also have `spare`
/// more for what the caller starts later. Without effect where the pool has been started already.
///
/// Returns how many were started, and why not all.
///
/// # Errors
/// What the system said where there is not one, or none besides the spare ones.
pub fn start_pool(n: usize, spare: usize) -> io::Result<(usize, Option<io::Error>)> {
    fork::watch();
    let (seats, refused) = seats(n.max(1), spare)?;
    let n_started = seats.len();
    let outcome = builder(n_started).spawn_handler(seated(seats)).build_global();
    match outcome {
        Err(e) if std::error::Error::source(&e).is_some() => Err(io::Error::other(e)),
        // Else somebody has started it, which is as good.
        _ => {
            GLOBAL.store(USABLE, Ordering::Relaxed);
            Ok((n_started, refused))
        }
    }
}

/// A thread that waits to be told what it is for; it ends where it is not.
type Seat = (Sender<ThreadBuilder>, JoinHandle<()>);

/// Up to `n` threads, as long as there are `spare` more. Threads come first and the pool after, since rayon's can only be
/// started once, with all or nothing.
fn seats(n: usize, spare: usize) -> io::Result<(Vec<Seat>, Option<io::Error>)> {
    let (mut seats, mut refused) = (Vec::<Seat>::with_capacity(n + spare), None);
    while seats.len() < n + spare {
        let (sender, receiver) = channel::<ThreadBuilder>();
        let name = format!("mlff-pool-{}", seats.len());
        let run = move || {
            if let Ok(thread) = receiver.recv() {
                thread.run();
            }
        };
        match std::thread::Builder::new().name(name).spawn(run) {
            Ok(thread) => seats.push((sender, thread)),
            Err(e) => {
                refused = Some(e);
                break;
            }
        }
    }
    let spares = seats.split_off(seats.len().saturating_sub(spare));
    for (sender, thread) in spares {
        drop(sender);
        // So that it is gone when the caller starts another one.
        let _ = thread.join();
    }
    match (seats.len(), refused) {
        (0, Some(e)) => Err(e),
        (_, refused) => Ok((seats, refused)),
    }
}

fn builder(n: usize) -> ThreadPoolBuilder {
    ThreadPoolBuilder::new().num_threads(n)
}

fn seated(seats: Vec<Seat>) -> impl FnMut(ThreadBuilder) -> io::Result<()> {
    let mut seats = seats.into_iter();
    move |thread| {
        let (sender, _) = seats.next().ok_or(io::ErrorKind::NotFound)?;
        sender.send(thread).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Threads where nobody has asked for a number: as many as rayon would start, one for each core unless `RAYON_NUM_THREADS` is
/// set.
pub fn default_number() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|&n| n > 0);
    asked.map_or_else(n_cores, |n: usize| n.min(most()))
}

const UNKNOWN: u8 = 0;
const USABLE: u8 = 1;
const NONE: u8 = 2;

/// Whether rayon's global pool can be used.
static GLOBAL: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Pools of processes made by `fork`; `None` where no thread could be started.
static OF_CHILD: PerProcess<Option<ThreadPool>> = PerProcess::new();

/// Runs `f` where rayon works: in the pool of the caller or the global one; in a process made by `fork`, whose parent's
/// pools have no threads, in one of its own; and where no thread can be started, on this thread alone.
///
/// # Errors
/// Where none of that is possible: only in a process that was forked by a thread of a pool, without a thread to be had.
pub(crate) fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> io::Result<R> {
    let in_rayon = rayon::current_thread_index().is_some();
    if fork::generation() == 0 || (in_rayon && !fork::is_survivor()) {
        if in_rayon || is_global_usable() {
            return Ok(f());
        }
        return alone(f);
    }
    let pool = OF_CHILD.get_or_make(|| {
        let (seats, _) = seats(default_number(), 0).ok()?;
        builder(seats.len()).spawn_handler(seated(seats)).build().ok()
    });
    match pool {
        // This thread believes to be one of the parent's pool, and would look for work there while it waits.
        Some(pool) if in_rayon => std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || pool.install(f))?;
            thread.join().map_err(|panic| std::panic::resume_unwind(panic))
        }),
        Some(pool) => Ok(pool.install(f)),
        None => alone(f),
    }
}

fn is_global_usable() -> bool {
    if GLOBAL.load(Ordering::Relaxed) == UNKNOWN {
        let state = if start_pool(default_number(), 0).is_ok() { USABLE } else { NONE };
        GLOBAL.store(state, Ordering::Relaxed);
    }
    GLOBAL.load(Ordering::Relaxed) == USABLE
}

/// Runs `f` with this thread as the only one of a pool, as rayon itself does on systems without threads.
fn alone<R>(f: impl FnOnce() -> R) -> io::Result<R> {
    let pool = builder(1).use_current_thread().build().map_err(io::Error::other)?;
    // This thread belongs to it from now on.
    std::mem::forget(pool);
    Ok(f())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_beyond_some_for_each_core_are_refused() {
        assert!(check(most()).is_ok() && most() >= 64 && most() >= 4 * n_cores());
        let message = check(most() + 1).unwrap_err().to_string();
        assert!(message.contains(&format!("{} cores", n_cores())), "{message}");
    }

    #[test]
    fn alone_runs_rayon_on_the_thread_that_calls() {
        use rayon::prelude::*;
        std::thread::spawn(|| {
            let here = std::thread::current().id();
            let others = || (0..1000).into_par_iter().filter(|_| std::thread::current().id() != here).count();
            assert_eq!(alone(others).unwrap(), 0);
            assert_eq!(in_pool(others).unwrap(), 0);
            assert_eq!(rayon::join(|| 1, || 2), (1, 2));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn seats_are_those_that_are_not_spare() {
        let (started, refused) = seats(2, 3).unwrap();
        assert!(started.len() == 2 && refused.is_none());
        let pool = builder(2).spawn_handler(seated(started)).build().unwrap();
        assert_eq!(pool.install(rayon::current_num_threads), 2);
    }
}
