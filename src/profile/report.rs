//! The record `mlff.profile/1`, and how it is made from measurements. Its JSON Schema is `mlff.profile-1.schema.json`.

use serde::Serialize;

use super::counts::{Counts, Kernels, Shapes, counts, fused};
use super::statistics::{Statistics, faster_half, faster_mean, median};
use crate::clock::{Component, Part, Phase, Ran, Recording};
use crate::roofline::{Peaks, Roofline};

/// Name and version of the format of a [`Profile`].
pub const FORMAT: &str = "mlff.profile/1";

/// A profile: where the time of evaluations goes, and on which machine. Written as JSON by serde, it has the format
/// `mlff.profile/1`. All times are in s, and those of one evaluation of the whole workload.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    /// Name and version of the format; [`FORMAT`].
    pub format: &'static str,
    /// Name and version of the program.
    pub tool: String,
    /// The machine.
    pub host: Host,
    /// The device that computed.
    pub device: DeviceInfo,
    /// Name or path of the model.
    pub model: String,
    /// What was evaluated.
    pub workload: Workload,
    /// How it was measured.
    pub run: RunInfo,
    /// Unit of all times; `s`.
    pub unit: &'static str,
    /// One evaluation of the whole workload, energies and forces, with the recorder on.
    pub total: Statistics,
    /// Where that time went: each component, followed by its layers.
    pub components: Vec<ComponentReport>,
    /// Figures that follow from the measurements.
    pub derived: Derived,
}

/// The machine that was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// Operating system.
    pub os: &'static str,
    /// Instruction set.
    pub arch: &'static str,
    /// Number of cores that the process could use.
    pub cores: usize,
}

/// The device that computed. Its rates, of one thread or of the GPU, were measured in the same run.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceInfo {
    /// `cpu` or `cuda`.
    pub kind: &'static str,
    /// Name of the processor or GPU.
    pub name: String,
    /// Rate of a large matrix product in the precision of the run, FLOP/s.
    pub peak_flops: f64,
    /// Rate of a copy between large arrays, bytes/s; bytes read and bytes written both count.
    pub peak_bytes_s: f64,
}

/// What was evaluated.
#[derive(Debug, Clone, Serialize)]
pub struct Workload {
    /// Where the structures are from.
    pub name: String,
    /// Number of structures.
    pub structures: usize,
    /// Number of atoms in all structures.
    pub atoms: usize,
    /// Number of directed edges in all structures.
    pub edges: usize,
    /// Precision of the network: `f32` or `f64`.
    pub dtype: &'static str,
}

/// How it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct RunInfo {
    /// Engine: `adjoint` or `autograd`.
    pub engine: &'static str,
    /// Number of threads of the processor that computed, or queued work for the GPU.
    pub threads: usize,
    /// Structures in a batch; `None` if the engine chose.
    pub batch: Option<usize>,
    /// Number of evaluations before the first that counts.
    pub warmup: usize,
    /// Number of evaluations that count.
    pub repeats: usize,
    /// What measures the time of components. `monotonic`: a clock that the thread reads; `cuda_events`: events on the
    /// GPU's stream.
    pub timer: &'static str,
    /// Time that profiling itself costs.
    pub profiler: Overhead,
}

/// Time that profiling itself costs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Overhead {
    /// Number of readings of the clock, or of events, in one evaluation.
    pub boundaries: u64,
    /// Time of one of them, measured in the same run, s.
    pub seconds_per_boundary: f64,
    /// The product of both, divided by `unprofiled_median`.
    pub share: f64,
    /// Median time of the same evaluation without profiling, s. These evaluations alternate with those that are
    /// profiled.
    pub unprofiled_median: f64,
    /// Time of all components together, divided by the time without profiling. Both are means over the faster half of
    /// the repeats.
    pub sum_over_unprofiled: f64,
}

/// Measurements of a component, or of one layer of a component.
#[derive(Debug, Clone, Serialize)]
pub struct ComponentReport {
    /// Name: `component`, or `component.layer` with layers counted from 0.
    pub id: String,
    /// For a layer, the component that it belongs to.
    pub parent: Option<String>,
    /// Part of the evaluation that it belongs to.
    pub phase: Phase,
    /// Operations that are computed together under this name; empty if it is just one.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub fused: &'static [&'static str],
    /// Which variant of its operations ran: `fused`, `unfused` or `both`. Batched autograd has a choice between them;
    /// the operations of the adjoint engine are always fused. `None` for all other work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<&'static str>,
    /// How often it was entered in one evaluation.
    pub calls: u64,
    /// Time in one evaluation.
    pub time: Time,
    /// Share of the time of an evaluation, from 0 to 1, by the faster half of the repeats: those that other programs
    /// disturbed least.
    pub share: f64,
    /// Number of floating-point operations in one evaluation, if counted; from the sizes of the arrays.
    pub flops: Option<f64>,
    /// Number of bytes read and written in one evaluation, if counted; from the sizes of the arrays.
    pub bytes: Option<f64>,
    /// Number of bytes that the same work would move as a chain of tensor operations, if it is fused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfused_bytes: Option<f64>,
    /// Comparison with the rates of the device, if operations and bytes are counted.
    pub roofline: Option<Roofline>,
}

/// Time of a component in one evaluation, over the repeats, s.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Time {
    /// Median.
    pub median: f64,
    /// Mean.
    pub mean: f64,
    /// 95th percentile.
    pub p95: f64,
}

/// Figures that follow from the measurements.
#[derive(Debug, Clone, Serialize)]
pub struct Derived {
    /// Share of the time that the backward pass takes, from 0 to 1, by either engine.
    pub autograd_share: f64,
    /// Share of the time that belongs to no component, from 0 to 1.
    pub unattributed_share: f64,
    /// Structures per second, energies and forces, without profiling.
    pub structures_per_s: f64,
    /// Atoms per second, energies and forces, without profiling.
    pub atoms_per_s: f64,
    /// Median time of energies alone, without profiling, s.
    pub energy_median: f64,
    /// Median time of energies and forces, without profiling, s.
    pub energy_and_forces_median: f64,
    /// Comparison of batch sizes, smallest first; empty if none was asked for.
    pub sweep: Vec<SweepPoint>,
}

/// Time with one batch size.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SweepPoint {
    /// Structures in a batch.
    pub batch: usize,
    /// Median time per structure, energies and forces, s.
    pub time_per_structure: f64,
    /// Time per structure with the smallest batch size of the comparison, divided by this one.
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
