//! The record `mlff.profile/1`, and how it is made of measurements. Its JSON Schema is `mlff.profile-1.schema.json`.

use serde::Serialize;

use super::counts::{Counts, Kernels, Shapes, counts, fused};
use super::statistics::{Statistics, faster_half, faster_mean, median};
use crate::clock::{Component, Part, Phase, Ran, Recording};
use crate::roofline::{Peaks, Roofline};

/// Name and version of the format.
pub const FORMAT: &str = "mlff.profile/1";

/// A profile.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    /// [`FORMAT`].
    pub format: &'static str,
    /// Program and version.
    pub tool: String,
    /// Machine.
    pub host: Host,
    /// What computed.
    pub device: DeviceInfo,
    /// Model's name or path.
    pub model: String,
    /// What was evaluated.
    pub workload: Workload,
    /// How it was measured.
    pub run: RunInfo,
    /// Unit of all times.
    pub unit: &'static str,
    /// One evaluation of the whole workload, energies and forces, with the recorder on.
    pub total: Statistics,
    /// Where that time went.
    pub components: Vec<ComponentReport>,
    /// What follows.
    pub derived: Derived,
}

/// Machine.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// Operating system.
    pub os: &'static str,
    /// Instruction set.
    pub arch: &'static str,
    /// Cores that this process may use.
    pub cores: usize,
}

/// What computed; rates are of one thread or of the GPU, measured in the same run.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceInfo {
    /// `cpu` or `cuda`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Rate of a large matrix product, FLOP/s.
    pub peak_flops: f64,
    /// Rate of a copy between large arrays, bytes/s, read and written.
    pub peak_bytes_s: f64,
}

/// What was evaluated.
#[derive(Debug, Clone, Serialize)]
pub struct Workload {
    /// Where it is from.
    pub name: String,
    /// Structures.
    pub structures: usize,
    /// Atoms of all of them.
    pub atoms: usize,
    /// Directed edges of all of them.
    pub edges: usize,
    /// `f32` or `f64`.
    pub dtype: &'static str,
}

/// How it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct RunInfo {
    /// `adjoint` or `autograd`.
    pub engine: &'static str,
    /// Threads of the processor that computed or queued work.
    pub threads: usize,
    /// Structures in a batch, where not left to the engine.
    pub batch: Option<usize>,
    /// Evaluations before the first that counts.
    pub warmup: usize,
    /// Evaluations that count.
    pub repeats: usize,
    /// `monotonic`: a clock that the thread reads; `cuda_events`: events on the GPU's stream.
    pub timer: &'static str,
    /// What profiling costs.
    pub profiler: Overhead,
}

/// What profiling costs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Overhead {
    /// Readings of the clock, or events, in one evaluation.
    pub boundaries: u64,
    /// Time of one, measured in the same run, s.
    pub seconds_per_boundary: f64,
    /// Both multiplied, over the median of the same evaluation without profiling.
    pub share: f64,
    /// That median, from evaluations between those that are profiled, by a clock outside, s.
    pub unprofiled_median: f64,
    /// Sum of all components over the time without profiling by the clock outside, each the mean over the faster half of
    /// the repeats.
    pub sum_over_unprofiled: f64,
}

/// A component, or one layer of one.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentReport {
    /// `component` or `component.layer`.
    pub id: String,
    /// The component that a layer belongs to.
    pub parent: Option<String>,
    /// Half of the evaluation.
    pub phase: Phase,
    /// Operations that are computed together under this name, where there are several.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub fused: &'static [&'static str],
    /// Which variant of its operations ran: `fused`, `unfused` or `both`, where there is a choice (batched autograd) or
    /// where they are fused by construction (the adjoint engine).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<&'static str>,
    /// Times it was entered in one evaluation.
    pub calls: u64,
    /// Time in one evaluation.
    pub time: Time,
    /// Part of the evaluation, by the faster half of the repeats: those that other programs disturbed least.
    pub share: f64,
    /// Floating-point operations, where counted.
    pub flops: Option<f64>,
    /// Bytes read and written, where counted.
    pub bytes: Option<f64>,
    /// Bytes that the same work would move as a chain of tensor operations, where fused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfused_bytes: Option<f64>,
    /// Against the measured rates, where counted.
    pub roofline: Option<Roofline>,
}

/// Time of a component over the repeats.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Time {
    /// Median.
    pub median: f64,
    /// Mean.
    pub mean: f64,
    /// 95th percentile.
    pub p95: f64,
}

/// What follows from the measurements.
#[derive(Debug, Clone, Serialize)]
pub struct Derived {
    /// Part of energies and forces that the backward takes.
    pub autograd_share: f64,
    /// Part of the time that belongs to no component.
    pub unattributed_share: f64,
    /// Structures a second, energies and forces, without profiling.
    pub structures_per_s: f64,
    /// Atoms a second.
    pub atoms_per_s: f64,
    /// Median of energies alone, without profiling.
    pub energy_median: f64,
    /// Median of energies and forces, without profiling.
    pub energy_and_forces_median: f64,
    /// Batch sizes, where asked for.
    pub sweep: Vec<SweepPoint>,
}

/// One batch size.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SweepPoint {
    /// Structures in a batch.
    pub batch: usize,
    /// Median time of one, energies and forces.
    pub time_per_structure: f64,
    /// Over batches of one, or of the smallest size that was asked for.
    pub speedup: f64,
}

/// Times of one part over the repeats.
struct Series {
    part: Part,
    calls: u64,
    times: Vec<f64>,
    ran: Ran,
}

/// Reports on components from recordings of the same work; second, the share of no component.
pub(super) fn components(
    recordings: &[Recording],
    shapes: Option<&Shapes>,
    kernels: Kernels,
    peaks: Peaks,
) -> (Vec<ComponentReport>, f64) {
    let totals: Vec<f64> = recordings.iter().map(|r| r.total.as_secs_f64()).collect();
    let mut parts: Vec<Part> = recordings.iter().flat_map(|r| r.entries.iter().map(|e| e.part)).collect();
    parts.sort();
    parts.dedup();
    let series = |&part: &Part| {
        let entry = |r: &Recording| r.entries.iter().find(|e| e.part == part).copied();
        let times = recordings.iter().map(|r| entry(r).map_or(0.0, |e| e.time.as_secs_f64())).collect();
        let mut ran = Ran::default();
        recordings.iter().filter_map(entry).for_each(|e| ran |= e.ran);
        Series { part, calls: recordings.last().map_or(0, |r| r.calls(part)), times, ran }
    };
    let all: Vec<Series> = parts.iter().map(series).collect();
    let counts = |part| shapes.and_then(|s| counts(s, part));
    let mut out = Vec::new();
    let mut unattributed = 0.0;
    for component in Component::ALL {
        let own: Vec<&Series> = all.iter().filter(|s| s.part.component == component).collect();
        let Some(first) = own.first() else { continue };
        let mut sum =
            Series { part: component.into(), calls: 0, times: vec![0.0; recordings.len()], ran: Ran::default() };
        let mut work = counts(first.part).map(|_| Counts::default());
        for series in &own {
            sum.calls += series.calls;
            sum.ran |= series.ran;
            sum.times.iter_mut().zip(&series.times).for_each(|(sum, t)| *sum += t);
            if let (Some(work), Some(more)) = (&mut work, counts(series.part)) {
                *work += more;
            }
        }
        if component == Component::Unattributed {
            unattributed = share(&sum.times, &totals);
            continue;
        }
        out.push(report(&sum, None, work, kernels, peaks, &totals));
        for series in own.iter().filter(|s| s.part.layer.is_some()) {
            out.push(report(series, Some(component), counts(series.part), kernels, peaks, &totals));
        }
    }
    (out, unattributed)
}

fn report(
    series: &Series,
    parent: Option<Component>,
    work: Option<Counts>,
    kernels: Kernels,
    peaks: Peaks,
    totals: &[f64],
) -> ComponentReport {
    let times = Statistics::new(&series.times);
    let component = series.part.component;
    ComponentReport {
        id: series.part.id(),
        parent: parent.map(|c| c.name().into()),
        phase: component.phase(),
        fused: fused(component, kernels),
        variant: match kernels {
            Kernels::Adjoint => (component.phase() != Phase::Other).then_some("fused"),
            _ => series.ran.name(),
        },
        calls: series.calls,
        time: Time { median: times.median, mean: times.mean, p95: times.p95 },
        share: share(&series.times, totals),
        flops: work.map(|w| w.flops),
        bytes: work.map(|w| w.bytes),
        unfused_bytes: work.map(|w| w.unfused_bytes).filter(|&bytes| bytes > 0.0),
        roofline: work.and_then(|w| Roofline::new(peaks, w.flops, w.bytes, times.median)),
    }
}

/// Part of the time of the faster half of the repeats.
fn share(times: &[f64], totals: &[f64]) -> f64 {
    let half = faster_half(totals);
    let sum = |times: &[f64]| half.iter().map(|&k| times[k]).sum::<f64>();
    if sum(totals) > 0.0 { sum(times) / sum(totals) } else { 0.0 }
}

impl Overhead {
    /// IN `profiled`, `unprofiled`: s, of evaluations that followed each other.
    pub(super) fn new(boundaries: u64, per_boundary: f64, profiled: &[f64], unprofiled: &[f64]) -> Self {
        let unprofiled_median = median(unprofiled);
        Overhead {
            boundaries,
            seconds_per_boundary: per_boundary,
            share: boundaries as f64 * per_boundary / unprofiled_median,
            unprofiled_median,
            sum_over_unprofiled: faster_mean(profiled) / faster_mean(unprofiled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Entry;
    use std::time::Duration;

    #[test]
    fn shares_of_top_level_and_rest_add_up_to_one() {
        let entry = |part: Part, ms| Entry { part, calls: 2, time: Duration::from_millis(ms), ran: Ran::default() };
        let recording = |a, b, c, rest| Recording {
            total: Duration::from_millis(a + b + c + rest),
            entries: vec![
                entry(Part::layer(Component::Message, 0), a),
                entry(Part::layer(Component::Message, 1), b),
                entry(Component::Readout.into(), c),
                entry(Component::Unattributed.into(), rest),
            ],
            ..Recording::default()
        };
        let peaks = Peaks { flops: 1.0, bytes_s: 1.0 };
        let (got, rest) = components(
            &[recording(1, 2, 3, 4), recording(9, 9, 9, 9), recording(3, 3, 3, 1)],
            None,
            Kernels::Adjoint,
            peaks,
        );
        let ids: Vec<&str> = got.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["message", "message.0", "message.1", "readout"]);
        let top: f64 = got.iter().filter(|c| c.parent.is_none()).map(|c| c.share).sum();
        approx::assert_relative_eq!(top + rest, 1.0);
        // The slowest is left out.
        approx::assert_relative_eq!(rest, 5.0 / 20.0);
        approx::assert_relative_eq!(got[0].share, got[1].share + got[2].share);
        assert_eq!((got[0].calls, got[1].calls, got[0].flops), (4, 2, None));
    }
}
