//! Times both variants on a GPU by its clock. Not yet run on a GPU.
//!
//! Unfused there is cuBLASLt's product with bias and residual and a kernel for the activation behind it; the other patterns
//! have no unfused kernels and are absent from the record.

use super::counts::Work;
use super::record::{Calibration, DeviceInfo, Kind, Measurement, Point};
use super::{Options, Pattern, Size};
use crate::cuda::{Address, Backend, DenseArrays, DenseShape, DenseVjpArrays, Device, Launcher, Step};
use crate::error::{Error, Result};
use crate::ops::dense::Activation;
use crate::potential::Precision;
use crate::profile::{roofline::Peaks, statistics::median};

/// Patterns that a GPU has two ways for.
const PATTERNS: [Pattern; 2] = [Pattern::LinearSilu, Pattern::LinearResidualActivation];

/// Seconds that a sample takes at least, by the device's clock.
const SAMPLE: f64 = 0.005;

/// Measures fused against unfused on GPU number `ordinal`, those of the patterns that it has two ways for; see
/// [`super::measure`].
///
/// # Errors
/// `CudaError` where there is no GPU that can be used, or no cuBLASLt; `Error::Usage` in f64, where there is one way only, and
/// where none of the patterns is left.
pub fn measure_cuda(
    ordinal: usize,
    options: &Options,
    progress: &mut dyn FnMut(usize, usize, Pattern),
) -> Result<Calibration> {
    options.check()?;
    let mut device = Device::open(ordinal)?;
    let patterns: Vec<Pattern> = options.patterns.iter().copied().filter(|p| PATTERNS.contains(p)).collect();
    if options.precision != Precision::F32 || patterns.is_empty() {
        let names = PATTERNS.map(Pattern::name).join(" and ");
        return Err(Error::Usage(format!("a GPU has two ways for {names} in f32 only: nothing to calibrate")));
    }
    device.load_library()?;
    let launcher = Launcher { has_library: true, ..Launcher::new(Precision::F32, device.limits()) };
    let mut bench = Bench { device, launcher, arrays: Vec::new() };
    let out = bench.all(&patterns, options, progress);
    bench.free();
    out
}

struct Bench {
    device: Device,
    launcher: Launcher,
    /// To be freed.
    arrays: Vec<Address>,
}

impl Bench {
    fn all(
        &mut self,
        patterns: &[Pattern],
        options: &Options,
        progress: &mut dyn FnMut(usize, usize, Pattern),
    ) -> Result<Calibration> {
        let peaks = self.peaks()?;
        let (name, driver) = self.device.identity()?;
        let info = DeviceInfo {
            kind: Kind::Cuda,
            name,
            driver: Some(driver),
            peak_flops: peaks.flops,
            peak_bytes_s: peaks.bytes_s,
        };
        let total = patterns.iter().map(|&p| options.sizes(p).len()).sum();
        let mut done = 0;
        let mut out = Calibration::new(options.threshold);
        for &pattern in patterns {
            let mut points = Vec::new();
            for size in options.sizes(pattern) {
                progress(done, total, pattern);
                let samples = if options.quick { 7 } else { 21 };
                let [unfused, fused] = self.in_turn(pattern, size, samples)?;
                self.free();
                let work = Work::new(pattern, size, 4.0);
                points.extend(Point::new(size, samples, work, [median(&unfused), median(&fused)], peaks));
                done += 1;
            }
            let device = info.clone();
            out.measurements.push(Measurement { pattern, device, dtype: options.precision, threads: 1, points });
        }
        Ok(out)
    }

    /// Rates of the library's product and of a copy.
    fn peaks(&mut self) -> Result<Peaks> {
        let bytes = 256 << 20;
        let (from, to) = (self.put(bytes / 4)?, self.put(bytes / 4)?);
        // SAFETY: two arrays of so many bytes.
        let copy = self.time(8, |device| unsafe { device.copy(from, to, bytes) })?;
        self.free();
        let n = 4096;
        let steps = self.layer(Pattern::LinearSilu, Size { rows: n, width: n }, true)?;
        let [Step::Product(product), ..] = steps.as_slice() else {
            return Err(Error::Usage("the library was not chosen for a large product".into()));
        };
        // SAFETY: arrays of that layer.
        let seconds = self.time(4, |device| unsafe { device.product(product) })?;
        self.free();
        Ok(Peaks { flops: 2.0 * (n as f64).powi(3) / seconds, bytes_s: 2.0 * bytes as f64 / copy })
    }

    /// An array of small numbers, freed by [`Bench::free`].
    fn put(&mut self, n: usize) -> Result<Address> {
        let values: Vec<f32> = (0..n).map(|k| (k * 7919 % 2003) as f32 / 2003.0 - 0.5).collect();
        let address = self.device.upload(bytemuck::cast_slice(&values))?;
        self.arrays.push(address);
        Ok(address)
    }

    fn free(&mut self) {
        for address in self.arrays.drain(..) {
            // SAFETY: an array of `put`, after the work that used it. What fails to be freed is lost until the end.
            let _ = unsafe { self.device.free(address) };
        }
    }

    /// Seconds of one round of `work`, queued `rounds` times.
    fn time(&mut self, rounds: usize, mut work: impl FnMut(&mut Device) -> Result<()>) -> Result<f64> {
        Ok(self.device.time(|device| (0..rounds).try_for_each(|_| work(device)))? / rounds as f64)
    }

    /// A forward and a VJP of a layer, by the library or by our kernels.
    fn layer(&mut self, pattern: Pattern, size: Size, by_library: bool) -> Result<Vec<Step>> {
        let Size { rows, width } = size;
        let mut launcher = self.launcher.clone();
        launcher.dense_sizes.library_from = if by_library { 0 } else { u64::MAX };
        let (n, w) = (u32::try_from(rows).unwrap_or(u32::MAX), u32::try_from(width).unwrap_or(u32::MAX));
        let (before, activation) = (Activation::Identity, Activation::Silu);
        let shape = DenseShape { n_rows: n, n_in: w, n_out: w, before, activation, save_slope: true };
        let (weight, bias) = (self.put(width * width)?, self.put(width)?);
        let mut array = || self.put(rows * width);
        let (x, y, saved, grad_y, grad_x, scratch) = (array()?, array()?, array()?, array()?, array()?, array()?);
        let is_residual = pattern == Pattern::LinearResidualActivation;
        let (residual, grad_residual) = if is_residual { (array()?, array()?) } else { (0, 0) };
        let forward = DenseArrays { x, weight, bias, residual, y, saved };
        let vjp = DenseVjpArrays { grad_y, saved, weight, x, grad_x, grad_residual };
        let mut steps = launcher.dense_steps(&shape, &forward);
        steps.extend(launcher.dense_vjp_steps(&shape, &vjp, scratch));
        Ok(steps)
    }

    /// Seconds of both variants, unfused first, measured in turn.
    fn in_turn(&mut self, pattern: Pattern, size: Size, n_samples: usize) -> Result<[Vec<f64>; 2]> {
        let variants = [self.layer(pattern, size, true)?, self.layer(pattern, size, false)?];
        let mut run = |steps: &[Step], rounds: usize| {
            // SAFETY: arrays of `layer`, with the shapes that the kernels document.
            self.time(rounds, |device| steps.iter().try_for_each(|step| unsafe { device.step(step) }))
        };
        let mut rounds = [0; 2];
        for (rounds, steps) in rounds.iter_mut().zip(&variants) {
            // The first compiles the kernels.
            run(steps, 2)?;
            *rounds = (SAMPLE / run(steps, 3)?.max(1e-9)).ceil().clamp(1.0, 10_000.0) as usize;
        }
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..n_samples {
            for k in 0..2 {
                samples[k].push(run(&variants[k], rounds[k])?);
            }
        }
        Ok(samples)
    }
}
