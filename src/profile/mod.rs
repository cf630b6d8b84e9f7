//! Where the time of evaluations goes: the time of each [`Component`], compared with what the device can do.
//!
//! [`measure`] evaluates structures repeatedly, on one thread, with and without the recorder in turn. It returns a
//! [`Profile`], which can be written as JSON (the format `mlff.profile/1`), and the spans of one evaluation, which
//! [`trace`] turns into a time line. On a GPU, times are those of events on its stream.

mod counts;
mod report;
pub(crate) mod statistics;
mod trace;

use std::hint::black_box;
use std::time::Instant;

pub use report::{
    ComponentReport, Derived, DeviceInfo, FORMAT, Host, Overhead, Profile, RunInfo, SweepPoint, Time, Workload,
};
pub use statistics::Statistics;
pub use trace::trace;

use crate::batch::Preparer;
use crate::clock::{self, Clock, Recording};
pub use crate::clock::{Component, Part, Phase, Span};
use crate::error::{Error, Result};
use crate::potential::Potential;
pub use crate::roofline::{Bound, Roofline};
use crate::settings::Want;
use crate::settings::{BatchSize, DeviceKind, EngineKind};
use crate::structure::Structure;
use counts::{Kernels, Shapes};
use report::components;
use statistics::median;

/// How to measure a profile.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of evaluations before the first that counts; at least one is made.
    pub warmup: usize,
    /// Number of evaluations that count, at least 1.
    pub repeats: usize,
    /// Batch sizes to compare, in structures, each at least 1. Empty for no comparison.
    pub sweep: Vec<usize>,
    /// How many structures are computed together, except in the comparison of batch sizes.
    pub batch: BatchSize,
}

/// Names that the profile gives to what was measured.
#[derive(Debug, Clone)]
pub struct Names {
    /// Name or path of the model.
    pub model: String,
    /// Where the structures are from.
    pub workload: String,
}

/// Profiles evaluations of `structures` on one thread: energies and forces, and stresses of periodic structures.
///
/// On a GPU the boundaries between components are events on its stream. The time of a component is then the time that
/// the stream worked for it, plus the time that the stream was idle while the host worked for it.
///
/// Returns the profile, and the spans of one evaluation for [`trace`].
///
/// # Errors
/// `Error::Usage` if there are no structures, no repeats or a batch size of 0 to compare, if no thread can be started,
/// or if the GPU is in use by other evaluations of this potential. Otherwise the first error of
/// [`Potential::evaluate`], or what a GPU reports.
pub fn measure(
    potential: &Potential,
    structures: &[Structure],
    options: &Options,
    names: Names,
) -> Result<(Profile, Vec<Span>)> {
    if structures.is_empty() || options.repeats == 0 || options.sweep.contains(&0) {
        return Err(Error::Usage("a profile needs a structure, a repeat, and batches of at least one".into()));
    }
    let potential = &potential.clone().with_batch_size(options.batch);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.map_err(|e| Error::Usage(format!("a thread cannot be started: {e}")))?;
    pool.install(|| on_this_thread(potential, structures, options, names))
}

/// Times of the same work with and without the recorder, in turn, and of energies alone.
#[derive(Default)]
struct Samples {
    recordings: Vec<Recording>,
    unprofiled: Vec<f64>,
    energies: Vec<f64>,
}

fn on_this_thread(
    potential: &Potential,
    structures: &[Structure],
    options: &Options,
    names: Names,
) -> Result<(Profile, Vec<Span>)> {
    let workload = workload(potential, structures, names.workload)?;
    evaluate(potential, structures, Want::ALL)?;
    for _ in 1..options.warmup {
        evaluate(potential, structures, Want::ALL)?;
    }
    let peaks = potential.driver().peaks()?;
    let (clock, device_name) = potential.driver().clock()?;
    let per_boundary = time_per_boundary(&clock)?;
    let mut samples = Samples::default();
    for _ in 0..options.repeats {
        samples.unprofiled.push(timed(&clock, || evaluate(potential, structures, Want::ALL))?);
        let (done, recording) = clock::record(&clock, false, || evaluate(potential, structures, Want::ALL))?;
        done?;
        samples.recordings.push(recording);
        samples.energies.push(timed(&clock, || evaluate(potential, structures, Want::ENERGY))?);
    }
    let (done, traced) = clock::record(&clock, true, || evaluate(potential, structures, Want::ALL))?;
    done?;
    let sweep = sweep(potential, structures, options, &clock)?;

    let kernels = Kernels::of(potential);
    let shapes = shapes(potential, &workload, &samples.recordings);
    let (components, unattributed_share) = components(&samples.recordings, shapes.as_ref(), kernels, peaks);
    let totals: Vec<f64> = samples.recordings.iter().map(|r| r.total.as_secs_f64()).collect();
    let boundaries = samples.recordings.last().map_or(0, |r| r.boundaries);
    let profiler = Overhead::new(boundaries, per_boundary, &totals, &samples.unprofiled);
    let backward = components.iter().filter(|c| c.parent.is_none() && c.phase == Phase::Backward);
    let seconds = profiler.unprofiled_median;
    let derived = Derived {
        autograd_share: backward.map(|c| c.share).sum(),
        unattributed_share,
        structures_per_s: workload.structures as f64 / seconds,
        atoms_per_s: workload.atoms as f64 / seconds,
        energy_median: median(&samples.energies),
        energy_and_forces_median: seconds,
        sweep,
    };
    let batch = match options.batch {
        BatchSize::Auto => None,
        BatchSize::Structures(n) => Some(n),
    };
    let profile = Profile {
        format: FORMAT,
        tool: format!("mlff {}", env!("CARGO_PKG_VERSION")),
        host: Host {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        },
        device: DeviceInfo {
            kind: if potential.device() == DeviceKind::Cpu { "cpu" } else { "cuda" },
            name: device_name,
            peak_flops: peaks.flops,
            peak_bytes_s: peaks.bytes_s,
        },
        model: names.model,
        workload,
        run: RunInfo {
            engine: if potential.engine() == EngineKind::Autograd { "autograd" } else { "adjoint" },
            threads: 1,
            batch,
            warmup: options.warmup.max(1),
            repeats: options.repeats,
            timer: clock.name(),
            profiler,
        },
        unit: "s",
        total: Statistics::new(&totals),
        components,
        derived,
    };
    Ok((profile, traced.spans))
}

fn evaluate(potential: &Potential, structures: &[Structure], want: Want) -> Result<()> {
    for result in black_box(potential.evaluate(black_box(structures), want)) {
        result?;
    }
    Ok(())
}

/// Time of some work by the clock outside, s. A stream has nothing queued before and after.
fn timed(clock: &Clock, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    clock.wait()?;
    let start = Instant::now();
    work()?;
    clock.wait()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Time of one stamp with what is noted at it, s: the smallest of some means. Of an event it is what the host or the
/// stream takes for it, whichever is longer.
fn time_per_boundary(clock: &Clock) -> Result<f64> {
    const N: usize = 10_000;
    let mut smallest = f64::INFINITY;
    for _ in 0..10 {
        let work = || (0..N).for_each(|k| clock::enter(Part::layer(Component::Message, black_box(k % 3))));
        let ((), recording) = clock::record(clock, false, work)?;
        smallest = smallest.min(recording.total.as_secs_f64() / N as f64);
    }
    Ok(smallest)
}

fn workload(potential: &Potential, structures: &[Structure], name: String) -> Result<Workload> {
    let mut preparer = Preparer::new(potential.model());
    let mut edges = 0;
    for structure in structures {
        edges += preparer.prepare(structure)?.edges.n_edges();
    }
    let dtype = potential.precision().name();
    let atoms = structures.iter().map(Structure::n_atoms).sum();
    Ok(Workload { name, structures: structures.len(), atoms, edges, dtype })
}

fn shapes(potential: &Potential, workload: &Workload, recordings: &[Recording]) -> Option<Shapes> {
    let (config, kernels) = (potential.model().config(), Kernels::of(potential));
    let mut shapes = Shapes::new(config, kernels, potential.precision(), potential.driver().radial_window())?;
    shapes.n_atoms = workload.atoms as f64;
    shapes.n_edges = workload.edges as f64;
    shapes.n_calls = recordings.last().map_or(0, |r| r.calls(Part::layer(Component::Message, 0))) as f64;
    Some(shapes)
}

/// The structures, repeated up to the largest batch, in batches of every size in turn.
fn sweep(potential: &Potential, structures: &[Structure], options: &Options, clock: &Clock) -> Result<Vec<SweepPoint>> {
    let mut sizes = options.sweep.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let Some(&largest) = sizes.last() else { return Ok(Vec::new()) };
    let structures: Vec<Structure> = structures.iter().cycle().take(largest).cloned().collect();
    let mut times = vec![Vec::new(); sizes.len()];
    for repeat in 0..=options.repeats {
        for (&size, times) in sizes.iter().zip(&mut times) {
            let potential = potential.clone().with_batch_size(BatchSize::Structures(size));
            let time = timed(clock, || evaluate(&potential, &structures, Want::ALL))?;
            // The first round warms up.
            if repeat > 0 {
                times.push(time / largest as f64);
            }
        }
    }
    let medians: Vec<f64> = times.iter().map(|t| median(t)).collect();
    let point = |(&batch, &time_per_structure): (&usize, &f64)| SweepPoint {
        batch,
        time_per_structure,
        speedup: medians[0] / time_per_structure,
    };
    Ok(sizes.iter().zip(&medians).map(point).collect())
}
