//! Reading, evaluating and handing on at the same time, in input order.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use indicatif::ProgressBar;
use mlff::DeviceKind;
use mlff::Want;
use mlff::xyz::Spares;
use mlff::{Error, Potential, Result};

use super::reading::Reading;
use super::trajectory::{Chunk, ChunkSize, Evaluated, FrameSlice, evaluate, read_chunks};

/// What is to be evaluated.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub inputs: &'a [PathBuf],
    pub slice: FrameSlice,
    pub size: ChunkSize,
    pub reading: Reading,
    pub want: Want,
    /// Frames at the start that need no results. Chunks are cut as if they did.
    pub skip: usize,
    /// Frames whose memory is to be used again.
    pub spares: &'a Spares,
}

/// A chunk, in input order.
pub struct Done<X> {
    /// What was made of its frames and their outcomes.
    pub made: X,
    /// Its frames, those that were skipped included.
    pub n_frames: usize,
    /// An error after which no further frame of that file can be read.
    pub end: Option<Error>,
}

enum Event<X> {
    Read(Chunk),
    Evaluated(usize, Result<Done<X>>),
    /// Nothing more will be read.
    End(Result<()>),
}

/// Evaluates all frames, calls `make` with what came of them, in parallel with evaluations, and gives what that makes,
/// chunk by chunk, to `take`, until it says `false`. What `take` does other threads may have to wait for: it should be
/// little, down to not freeing what the reader has allocated.
///
/// One chunk more is read and one waits for its turn, so that memory does not grow with the input. A chunk of large
/// structures is evaluated alone. Whoever writes to standard input gets the results of a chunk before the next one has
/// to be there; when `take` fails, nobody waits for the reader, which may be waiting itself.
///
/// # Errors
/// Those of `take`; `Error::Usage` without a thread to read with. Inputs that cannot be opened, or have not the frame that the
/// index asks for, are a chunk's `end`.
pub fn run<X: Send + 'static>(
    potential: &Potential,
    job: Input,
    progress: &ProgressBar,
    make: impl Fn(Vec<Evaluated>) -> X + Sync,
    mut take: impl FnMut(Done<X>) -> Result<bool>,
) -> Result<()> {
    let (events, received) = channel();
    let (permits, permitted) = channel();
    spawn_reader(job, progress, events.clone(), move || permitted.recv().is_ok())?;
    // Nobody listens any more when the run is over: then there is nothing to tell.
    let permit = || _ = permits.send(());
    let evaluate = |chunk, skip| evaluate_chunk(potential, chunk, skip, job.want, &make);
    let evaluate = &evaluate;
    // One chunk for each thread, which shares it with threads that have none, and one that waits for the first to be free.
    // More chunks than a GPU is busy with would only take memory.
    let most = if potential.device() == DeviceKind::Cpu { usize::MAX } else { 8 };
    let at_once = (rayon::current_num_threads() + 1).min(most);
    rayon::in_place_scope(|scope| {
        (0..=at_once).for_each(|_| permit());
        let (mut waiting, mut done) = (VecDeque::<Chunk>::new(), BTreeMap::new());
        let (mut n_started, mut n_running, mut next, mut to_skip, mut end) = (0, 0, 0, job.skip, None);
        let mut large_runs = false;
        // The last event of a run is never lost: `events` lives as long as this loop.
        while let Ok(event) = received.recv() {
            match event {
                Event::Read(chunk) => waiting.push_back(chunk),
                Event::End(outcome) => end = Some(outcome),
                Event::Evaluated(k, outcome) => {
                    (n_running, large_runs) = (n_running - 1, false);
                    done.insert(k, outcome);
                }
            }
            // Before results are handed on, which may take a while.
            while let Some(chunk) = waiting.pop_front() {
                if n_running > 0 && (n_running == at_once || large_runs || chunk.is_large()) {
                    waiting.push_front(chunk);
                    break;
                }
                (n_running, large_runs) = (n_running + 1, chunk.is_large());
                let (k, events) = (n_started, events.clone());
                n_started += 1;
                let skip = to_skip.min(chunk.entries.len());
                to_skip -= skip;
                scope.spawn(move |_| {
                    let outcome = catch_unwind(AssertUnwindSafe(|| evaluate(chunk, skip)));
                    _ = events.send(Event::Evaluated(k, outcome.map_err(|_| defect())));
                });
            }
            while let Some(outcome) = done.remove(&next) {
                next += 1;
                if !take(outcome?)? {
                    return Ok(());
                }
                // Not before: results that wait for an earlier, slower chunk take memory too.
                permit();
            }
            if n_running == 0
                && waiting.is_empty()
                && let Some(outcome) = end.take()
            {
                return outcome;
            }
        }
        Err(defect())
    })
}

/// Starts reading in a thread of its own. It reads one chunk ahead, and hands it over when permitted.
fn spawn_reader<X: Send + 'static>(
    job: Input,
    progress: &ProgressBar,
    events: Sender<Event<X>>,
    permitted: impl Fn() -> bool + Send + 'static,
) -> Result<()> {
    let (inputs, slice, size, reading) = (job.inputs.to_vec(), job.slice, job.size, job.reading);
    let (progress, spares) = (progress.clone(), job.spares.clone());
    let read = move || {
        let mut send = |chunk| permitted() && events.send(Event::Read(chunk)).is_ok();
        let read = catch_unwind(AssertUnwindSafe(|| {
            read_chunks(&inputs, slice, size, reading, &progress, &spares, &mut send);
        }));
        _ = events.send(Event::End(read.map_err(|_| defect())));
    };
    std::thread::Builder::new().name("mlff-reader".into()).spawn(read).map(drop).map_err(|e| no_thread("read", &e))
}

fn evaluate_chunk<X>(
    potential: &Potential,
    chunk: Chunk,
    skip: usize,
    want: Want,
    make: impl Fn(Vec<Evaluated>) -> X,
) -> Done<X> {
    let Chunk { entries, end } = chunk;
    let n_frames = entries.len();
    if skip == n_frames && end.is_none() {
        return Done { made: make(Vec::new()), n_frames, end };
    }
    let mut results = evaluate(potential, entries, want);
    results.drain(..skip);
    Done { made: make(results), n_frames, end }
}

/// What is said where a thread cannot be started that is to do something.
pub fn no_thread(what: &str, e: &std::io::Error) -> Error {
    Error::Usage(format!(
        "the thread to {what} with cannot be started ({e}): fewer --threads, or raise the limit of processes (`ulimit -u`, or \
         pids.max of the container)"
    ))
}

/// What stands for a panic.
pub fn defect() -> Error {
    Error::Defect("a thread of this program failed unexpectedly".into())
}
