//! Times both variants on the processor, in turn, on one thread.

use std::hint::black_box;
use std::time::Instant;

use super::Variant;
use super::counts::{EDGE_FEATURES, EDGES_PER_ATOM, Work};
use super::record::{Calibration, DeviceInfo, Kind, Measurement, Point};
use crate::error::{Error, Result};
use crate::ops::choice::{Pattern, Size};
use crate::ops::dense::{Activation, Linear};
use crate::ops::message::{MessageGrads, MessageInputs};
use crate::ops::radial_basis::RadialBasis;
use crate::ops::update::{GateGrads, GateInputs};
use crate::ops::{Real, Topology, dispatch};
use crate::profile::statistics::median;
use crate::roofline;
use crate::settings::Precision;
use crate::structure::{Mat3, Vec3};

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to measure.
    pub patterns: Vec<Pattern>,
    /// Precision.
    pub precision: Precision,
    /// Fewer sizes and repeats.
    pub quick: bool,
    /// Speed-up from which an operation is fused, positive.
    pub threshold: f64,
}

impl Options {
    /// Refuses what cannot be measured.
    pub(super) fn check(&self) -> Result<()> {
        if self.patterns.is_empty() || !(self.threshold > 0.0 && self.threshold.is_finite()) {
            return Err(Error::Usage("a calibration needs a pattern and a positive threshold".into()));
        }
        Ok(())
    }

    /// Sizes of a pattern.
    pub fn sizes(&self, pattern: Pattern) -> Vec<Size> {
        let rows: &[usize] = if self.quick { &[64, 1024, 16384] } else { &[64, 256, 1024, 4096, 16384] };
        let widths: &[usize] = match (pattern, self.quick) {
            (Pattern::EdgeGeometry, _) => &[1],
            (Pattern::RadialBasis, true) => &[20],
            (Pattern::RadialBasis, false) => &[8, 20, 64],
            (_, true) => &[64],
            (_, false) => &[64, 128, 256],
        };
        widths.iter().flat_map(|&width| rows.iter().map(move |&rows| Size { rows, width })).collect()
    }

    /// Times that a variant is measured, and how long a sample and all samples should take, s.
    fn timing(&self) -> (usize, f64, f64) {
        if self.quick { (11, 1e-3, 1.0) } else { (31, 3e-3, 3.0) }
    }
}

/// Measures fused against unfused on this processor; `progress` hears how many sizes of how many are done, and what comes
/// next.
///
/// # Errors
/// `Error::Usage` without a pattern, without a positive threshold, or where no thread can be started.
pub fn measure(options: &Options, progress: &mut (dyn FnMut(usize, usize, Pattern) + Send)) -> Result<Calibration> {
    options.check()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.map_err(|e| Error::Usage(format!("a thread cannot be started: {e}")))?;
    Ok(pool.install(|| match options.precision {
        Precision::F32 => on_this_thread::<f32>(options, progress),
        Precision::F64 => on_this_thread::<f64>(options, progress),
    }))
}

fn on_this_thread<T: Real>(options: &Options, progress: &mut dyn FnMut(usize, usize, Pattern)) -> Calibration {
    let peaks = roofline::measure(options.precision);
    let device = DeviceInfo {
        kind: Kind::Cpu,
        name: crate::roofline::processor_name(),
        driver: None,
        peak_flops: peaks.flops,
        peak_bytes_s: peaks.bytes_s,
    };
    let total = options.patterns.iter().map(|&p| options.sizes(p).len()).sum();
    let mut done = 0;
    let mut out = Calibration::new(options.threshold);
    for &pattern in &options.patterns {
        let mut points = Vec::new();
        for size in options.sizes(pattern) {
            progress(done, total, pattern);
            let mut case = case::<T>(pattern, size);
            let [unfused, fused] = in_turn(options, &mut *case);
            let work = Work::new(pattern, size, size_of::<T>() as f64);
            points.extend(Point::new(size, fused.len(), work, [median(&unfused), median(&fused)], peaks));
            done += 1;
        }
        let (device, dtype) = (device.clone(), options.precision);
        out.measurements.push(Measurement { pattern, device, dtype, threads: 1, points });
    }
    out
}

/// A forward and a VJP in either variant.
type Case = Box<dyn FnMut(Variant)>;

/// Seconds of one round of each variant, unfused first: samples of both in turn, so that what disturbs one disturbs the other.
fn in_turn(options: &Options, case: &mut dyn FnMut(Variant)) -> [Vec<f64>; 2] {
    let (most, sample, budget) = options.timing();
    let mut time = |variant, rounds: usize| {
        let start = Instant::now();
        (0..rounds).for_each(|_| case(variant));
        start.elapsed().as_secs_f64() / rounds as f64
    };
    let variants = [Variant::Unfused, Variant::Fused];
    let rounds = variants.map(|variant| {
        // The first round warms up, of memory too.
        time(variant, 1);
        (sample / time(variant, 1).max(1e-9)).ceil().clamp(1.0, 100_000.0) as usize
    });
    let mut samples = [Vec::new(), Vec::new()];
    let start = Instant::now();
    while samples[0].len() < most && (samples[0].len() < 3 || start.elapsed().as_secs_f64() < budget) {
        for (samples, (variant, rounds)) in samples.iter_mut().zip(variants.into_iter().zip(rounds)) {
            samples.push(time(variant, rounds));
        }
    }
    samples
}

/// Numbers that are the same in every run, between -0.5 and 0.5.
fn array<T: Real>(n: usize) -> Vec<T> {
    (0..n).map(|k| T::of((k * 7919 % 2003) as f64 / 2003.0 - 0.5)).collect()
}

fn layer<T: Real>(n_in: usize, n_out: usize, bias: bool) -> Linear<T> {
    let scale = T::of(1.0 / (n_in as f64).sqrt());
    let weight = array(n_in * n_out).into_iter().map(|x: T| x * scale).collect();
    Linear { weight, bias: bias.then(|| array(n_out)), n_in, n_out }
}

/// Atoms on a ring, each with [`EDGES_PER_ATOM`] edges to the nearest, more than once around a ring that is small, as in a
/// small periodic cell.
pub(super) fn topology(n_edges: usize) -> Topology {
    let n = n_edges.div_ceil(EDGES_PER_ATOM);
    let mut out = Topology { edge_ptr: vec![0], ..Topology::default() };
    for i in 0..n {
        for k in 0..EDGES_PER_ATOM {
            let distance = k / 2 + 1;
            let j = if k % 2 == 0 { (i + distance) % n } else { (i + n * distance - distance) % n };
            out.receivers.push(i as u32);
            out.senders.push(j as u32);
            out.reverse_edge.push((j * EDGES_PER_ATOM + (k ^ 1)) as u32);
        }
        out.edge_ptr.push(out.receivers.len() as u32);
    }
    out
}

/// Arrays of a pattern at a size, and what runs on them. Outputs are reused: their cotangents pile up, which costs nothing.
fn case<T: Real>(pattern: Pattern, size: Size) -> Case {
    let Size { rows: n, width: w } = size;
    let silu = Activation::Silu;
    match pattern {
        Pattern::RadialBasis => {
            let width = 5.0 / w as f64;
            let centers = (0..w).map(|k| k as f64 * width).collect();
            let functions = RadialBasis::Gaussian { centers, widths: vec![width; w] };
            let distances: Vec<T> = array(n).into_iter().map(|x: T| T::of(3.0) + T::of(3.0) * x).collect();
            let (mut basis, grad, mut grad_d) = (array(n * (w + 1)), array::<T>(n * (w + 1)), array::<T>(n));
            Box::new(move |v| {
                dispatch::radial_basis(v, &functions, 5.0, black_box(&distances), &mut basis);
                dispatch::radial_basis_vjp(v, &functions, 5.0, &distances, &grad, &mut grad_d);
            })
        }
        Pattern::EdgeGeometry => edge_geometry_case(n),
        Pattern::LinearSilu => {
            let (layer, x, grad) = (layer::<T>(w, w, true), array(n * w), array(n * w));
            let [mut y, mut saved, mut grad_x] = [array(n * w), array(n * w), array(n * w)];
            Box::new(move |v| {
                dispatch::dense(v, &layer, silu, black_box(&x), &mut y, Some(&mut saved));
                dispatch::dense_vjp(v, &layer, silu, &saved, &grad, &mut grad_x);
            })
        }
        Pattern::LinearResidualActivation => {
            let (layer, x, grad, residual) = (layer::<T>(w, w, true), array(n * w), array(n * w), array(n * w));
            let [mut y, mut saved, mut grad_x, mut grad_r] = [array(n * w), array(n * w), array(n * w), array(n * w)];
            Box::new(move |v| {
                dispatch::dense_residual(v, &layer, silu, black_box(&x), &residual, &mut y, &mut saved);
                dispatch::dense_residual_vjp(v, &layer, silu, &saved, &grad, &mut grad_x, &mut grad_r);
            })
        }
        Pattern::ActivationLinear => {
            let (layer, x, grad) = (layer::<T>(w, w, true), array(n * w), array(n * w));
            let [mut y, mut grad_x] = [array(n * w), array(n * w)];
            Box::new(move |v| {
                dispatch::activation_dense(v, &layer, silu, black_box(&x), &mut y);
                dispatch::activation_dense_vjp(v, &layer, silu, &x, &grad, &mut grad_x);
            })
        }
        Pattern::Mlp => {
            let layers = [layer::<T>(w, w, true), layer::<T>(w, 3 * w, true)];
            let (x, grad) = (array(n * w), array(n * 3 * w));
            let [mut y, mut saved, mut grad_x] = [array(n * 3 * w), array(n * w), array(n * w)];
            Box::new(move |v| {
                let layers = [&layers[0], &layers[1]];
                dispatch::mlp(v, layers, black_box(&x), &mut y, Some(&mut saved));
                dispatch::mlp_vjp(v, layers, &saved, &grad, &mut grad_x);
            })
        }
        Pattern::Message => message_case::<T>(n, w),
        Pattern::Update => update_case::<T>(n, w),
    }
}

fn edge_geometry_case(n_edges: usize) -> Case {
    let topology = topology(n_edges);
    let (n, n_edges) = (topology.n_atoms(), topology.n_edges());
    let triples = |n: usize| array::<f64>(3 * n).as_chunks::<3>().0.to_vec();
    let positions: Vec<Vec3> =
        triples(n).into_iter().zip(0..).map(|(r, i)| [r[0] + f64::from(i), r[1], r[2]]).collect();
    // An atom may be its own neighbour, in the next cell.
    let (offsets, mut grad_positions) = (vec![[0.0, 3.0, 0.0]; n_edges], triples(n));
    let (strain, mut grad_strain): (Vec<Mat3>, Vec<Mat3>) = (vec![[[0.0; 3]; 3]], vec![[[0.0; 3]; 3]]);
    let structure_of = vec![0; n_edges];
    let (mut geometry, grad) = (vec![[0.0; 4]; n_edges], array(4 * n_edges).as_chunks::<4>().0.to_vec());
    Box::new(move |v| {
        let positions = black_box(&positions);
        dispatch::edge_geometry(v, &topology, positions, &offsets, &strain, &structure_of, 0.0, &mut geometry);
        let out = (&mut grad_positions, &mut grad_strain);
        dispatch::edge_geometry_vjp(v, &topology, &geometry, &structure_of, 0.0, &grad, out.0, out.1);
    })
}

fn message_case<T: Real>(n_edges: usize, w: usize) -> Case {
    let topology = topology(n_edges);
    let (n, n_edges) = (topology.n_atoms(), topology.n_edges());
    let filter = layer::<T>(EDGE_FEATURES, 3 * w, false);
    let (nodes, edges, geometry) = (array(n * 6 * w), array(n_edges * EDGE_FEATURES), array(n_edges * 4));
    let (mut sums, grad) = (array(n * 4 * w), array(n * 4 * w));
    let mut grads = [array(nodes.len()), array(edges.len()), array(geometry.len())];
    Box::new(move |v| {
        let inputs = MessageInputs {
            n_features: w,
            nodes: black_box(&nodes),
            edges: &edges,
            geometry: &geometry,
            filter: &filter,
        };
        let [nodes, edges, geometry] = &mut grads;
        dispatch::message(v, &topology, &inputs, &mut sums);
        dispatch::message_vjp(v, &topology, &inputs, &grad, &mut MessageGrads { nodes, edges, geometry });
    })
}

fn update_case<T: Real>(n: usize, w: usize) -> Case {
    let (mixed, gates) = (array::<T>(n * 6 * w), array(n * 3 * w));
    let (mut invariants, grad_invariants) = (array(n * 2 * w), array(n * 2 * w));
    let (mut change, grad_change) = (array(n * 4 * w), array(n * 4 * w));
    let mut grads = [array(gates.len()), array(mixed.len()), array(n * 2 * w)];
    Box::new(move |v| {
        let mixed = black_box(&mixed);
        dispatch::update_invariants(v, w, 1e-8, mixed, &mut invariants);
        let inputs = GateInputs { n_features: w, gates: &gates, mixed, invariants: &invariants };
        dispatch::update_gate(v, &inputs, &mut change);
        let [gates, grad_mixed, grad_norms] = &mut grads;
        let mut out = GateGrads { gates, mixed: grad_mixed, invariants: grad_norms };
        dispatch::update_gate_vjp(v, &inputs, &grad_change, &mut out);
        dispatch::update_invariants_vjp(v, w, mixed, &invariants, &grad_invariants, out.mixed);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_edges_are_sorted_and_have_their_reverse() {
        for n_edges in [16, 64, 1024] {
            let t = topology(n_edges);
            for e in 0..t.n_edges() {
                let r = t.reverse_edge[e] as usize;
                assert_eq!((t.receivers[e], t.senders[e]), (t.senders[r], t.receivers[r]));
                assert!(t.edges_of(t.receivers[e] as usize).contains(&e) && t.reverse_edge[r] as usize == e);
            }
        }
    }

    #[test]
    fn every_pattern_is_measured_in_both_precisions() {
        for precision in [Precision::F32, Precision::F64] {
            for pattern in Pattern::ALL {
                let size = Size { rows: 5, width: 3 };
                let mut case = match precision {
                    Precision::F32 => case::<f32>(pattern, size),
                    Precision::F64 => case::<f64>(pattern, size),
                };
                case(Variant::Fused);
                case(Variant::Unfused);
            }
        }
    }
}
