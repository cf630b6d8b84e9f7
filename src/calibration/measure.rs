//! Times both variants on the processor, in turn, on one thread.

use std::hint::black_box;
use std::time::Instant;

use super::Variant;
use super::counts::Work;
use super::examples::{self, CUTOFF};
use super::record::{Calibration, DeviceInfo, Kind, Measurement, Point};
use crate::error::{Error, Result};
use crate::ops::choice::{Pattern, Size};
use crate::ops::dense::{Activation, Linear};
use crate::ops::example::cases::{self, BasisCase, Case as _, GateCase, GeometryCase, InvariantsCase, MessageCase};
use crate::ops::{Real, dispatch};
use crate::profile::statistics::median;
use crate::roofline;
use crate::settings::Precision;

/// What to measure, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Patterns to measure, at least one.
    pub patterns: Vec<Pattern>,
    /// Precision of the network.
    pub precision: Precision,
    /// Whether to measure fewer sizes, with fewer repeats.
    pub quick: bool,
    /// Speed-up from which an operation is fused, positive; usually [`THRESHOLD`](super::THRESHOLD).
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

    /// The sizes at which a pattern is measured.
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

/// Measures both variants of operations on this processor. Before each size, `progress` is called with the number of
/// sizes that are done, the number of all sizes, and the pattern that comes next.
///
/// # Errors
/// `Error::Usage` if there is no pattern, if the threshold is not positive and finite, or if no thread can be started.
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

/// What runs on the example of a pattern at a size. Outputs are reused: their cotangents pile up, which costs nothing.
fn case<T: Real>(pattern: Pattern, size: Size) -> Case {
    let Size { rows: n, width: w } = size;
    let silu = Activation::Silu;
    let layer_of = |sizes: [usize; 3], residual: bool| {
        let example = examples::layer(sizes, residual, true);
        let (weight, bias) = (example.numbers::<T>("weight"), Some(example.numbers("bias")));
        (Linear { weight, bias, n_in: sizes[1], n_out: sizes[2] }, example)
    };
    match pattern {
        Pattern::RadialBasis => both(BasisCase::<T>::new(&examples::radial_basis(n, w), CUTOFF)),
        Pattern::EdgeGeometry => {
            let (topology, example) = examples::edge_geometry(n);
            both(GeometryCase::new(&topology, &example, 0.0))
        }
        Pattern::LinearSilu => {
            let (layer, example) = layer_of([n, w, w], false);
            let [x, mut y, mut saved, grad, mut grad_x] =
                ["x", "y", "saved", "grad_y", "grad_x"].map(|name| example.numbers::<T>(name));
            Box::new(move |v| {
                dispatch::dense(v, &layer, silu, black_box(&x), &mut y, Some(&mut saved));
                dispatch::dense_vjp(v, &layer, silu, &saved, &grad, &mut grad_x);
            })
        }
        Pattern::LinearResidualActivation => {
            let (layer, example) = layer_of([n, w, w], true);
            let [x, residual, mut y, mut saved, grad, mut grad_x, mut grad_r] =
                ["x", "residual", "y", "saved", "grad_y", "grad_x", "grad_residual"]
                    .map(|name| example.numbers::<T>(name));
            Box::new(move |v| {
                dispatch::dense_residual(v, &layer, silu, black_box(&x), &residual, &mut y, &mut saved);
                dispatch::dense_residual_vjp(v, &layer, silu, &saved, &grad, &mut grad_x, &mut grad_r);
            })
        }
        Pattern::ActivationLinear => {
            let (layer, example) = layer_of([n, w, w], false);
            let [x, mut y, grad, mut grad_x] = ["x", "y", "grad_y", "grad_x"].map(|name| example.numbers::<T>(name));
            Box::new(move |v| {
                dispatch::activation_dense(v, &layer, silu, black_box(&x), &mut y);
                dispatch::activation_dense_vjp(v, &layer, silu, &x, &grad, &mut grad_x);
            })
        }
        Pattern::Mlp => {
            let ((first, of_first), (second, of_second)) = (layer_of([n, w, w], false), layer_of([n, w, 3 * w], false));
            let [x, mut saved, mut grad_x] = ["x", "saved", "grad_x"].map(|name| of_first.numbers::<T>(name));
            let [mut y, grad] = ["y", "grad_y"].map(|name| of_second.numbers::<T>(name));
            Box::new(move |v| {
                let layers = [&first, &second];
                dispatch::mlp(v, layers, black_box(&x), &mut y, Some(&mut saved));
                dispatch::mlp_vjp(v, layers, &saved, &grad, &mut grad_x);
            })
        }
        Pattern::Message => {
            let (topology, example) = examples::message(n, w);
            both(MessageCase::<T>::new(&topology, &example))
        }
        Pattern::Update => {
            let (invariants, gate) = examples::update(n, w);
            let (mut invariants, mut gate) = (InvariantsCase::<T>::new(&invariants, 1e-8), GateCase::<T>::new(&gate));
            Box::new(move |variant| {
                invariants.forward(variant);
                gate.forward(variant);
                gate.vjp(variant);
                invariants.vjp(variant);
            })
        }
    }
}

/// A forward and a VJP.
fn both(mut case: impl cases::Case + 'static) -> Case {
    Box::new(move |variant| {
        case.forward(variant);
        case.vjp(variant);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
