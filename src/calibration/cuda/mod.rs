//! Times both variants on a GPU by its clock.
//!
//! Unfused there are the chains of `cuda/unfused`. Of layers it is cuBLASLt's product with bias and residual and a kernel for
//! the activation, what the choice of dense kernels has in place of a fused one: in f32 only, as the library's products are.

mod cases;

use super::Options;
use super::counts::Work;
use super::record::{Calibration, DeviceInfo, Kind, Measurement, Point};
use crate::cuda::{Address, Backend, Device, Launcher, Step, measure_peaks};
use crate::error::{Error, Result};
use crate::ops::choice::{Pattern, Size};
use crate::profile::statistics::median;
use crate::roofline::Peaks;
use crate::settings::Precision;

/// Patterns that a GPU has two ways for in f64 too.
const IN_F64: [Pattern; 4] = [Pattern::RadialBasis, Pattern::EdgeGeometry, Pattern::Message, Pattern::Update];

/// Seconds that a sample takes at least, by the device's clock.
const SAMPLE: f64 = 0.005;

/// Measures both variants of operations on GPU number `ordinal`, counted from 0. In f32 all patterns are measured, in
/// f64 those without dense layers of their own; the other ones are left out. `progress` is that of [`super::measure`].
///
/// # Errors
/// `Error::Cuda` if the GPU cannot be used, or in f32 if cuBLASLt was not found. `Error::Usage` if there is no pattern
/// to measure, or if the threshold is not positive and finite.
pub fn measure_cuda(
    ordinal: usize,
    options: &Options,
    progress: &mut dyn FnMut(usize, usize, Pattern),
) -> Result<Calibration> {
    options.check()?;
    let mut device = Device::open(ordinal)?;
    let is_f32 = options.precision == Precision::F32;
    let patterns: Vec<Pattern> = options.patterns.iter().copied().filter(|p| is_f32 || IN_F64.contains(p)).collect();
    if patterns.is_empty() {
        let names = IN_F64.map(Pattern::name).join(", ");
        return Err(Error::Usage(format!("a GPU has two ways in f64 for {names} only: nothing to calibrate")));
    }
    if is_f32 {
        device.load_library()?;
    }
    let launcher = Launcher { has_library: is_f32, ..Launcher::new(options.precision, device.limits()) };
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
        let number = if options.precision == Precision::F32 { 4.0 } else { 8.0 };
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
                let work = Work::new(pattern, size, number);
                points.extend(Point::new(size, samples, work, [median(&unfused), median(&fused)], peaks));
                done += 1;
            }
            let device = info.clone();
            out.measurements.push(Measurement { pattern, device, dtype: options.precision, threads: 1, points });
        }
        Ok(out)
    }

    /// Rates of a large product, the library's in f32, and of a copy.
    fn peaks(&mut self) -> Result<Peaks> {
        measure_peaks(&mut self.device, self.launcher.precision)
    }

    /// A copy of bytes, freed by [`Bench::free`].
    fn put_bytes(&mut self, bytes: &[u8]) -> Result<Address> {
        let address = self.device.upload(bytes)?;
        self.arrays.push(address);
        Ok(address)
    }

    fn free(&mut self) {
        for address in self.arrays.drain(..) {
            // SAFETY: an array of `put_all`, after the work that used it. What fails to be freed is lost until the end.
            let _ = unsafe { self.device.free(address) };
        }
    }

    /// Seconds of one round of `work`, queued `rounds` times.
    fn time(&mut self, rounds: usize, mut work: impl FnMut(&mut Device) -> Result<()>) -> Result<f64> {
        Ok(self.device.time(|device| (0..rounds).try_for_each(|_| work(device)))? / rounds as f64)
    }

    /// Seconds of both variants, unfused first, measured in turn.
    fn in_turn(&mut self, pattern: Pattern, size: Size, n_samples: usize) -> Result<[Vec<f64>; 2]> {
        let variants = self.case(pattern, size)?;
        let mut run = |steps: &[Step], rounds: usize| {
            // SAFETY: arrays of the case, with the shapes that the kernels document.
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
