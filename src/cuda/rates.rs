//! What a device reaches in a copy and in a large matrix product.

use super::{Address, Backend, DenseChoice, DenseShape, Device, Launcher};
use crate::error::Result;
use crate::ops::dense::{DenseArrays, LayerSizes};
use crate::roofline::Peaks;
use crate::settings::Precision;

/// Bytes copied: several times what the caches hold.
const COPY: usize = 256 << 20;
/// Rows and columns of the matrices.
const N: usize = 4096;

/// Measures the rates of a device now: of a large product, the library's where there is one, and of a copy. Some hundredths of a
/// second.
///
/// # Errors
/// What the device reports, also for want of memory.
pub(crate) fn measure_peaks(device: &mut Device, precision: Precision) -> Result<Peaks> {
    let mut arrays = Vec::new();
    let peaks = measure(device, precision, &mut arrays);
    device.synchronize()?;
    for address in arrays {
        // SAFETY: allocated here, and nothing is queued any more.
        unsafe { device.free(address)? };
    }
    peaks
}

fn measure(device: &mut Device, precision: Precision, arrays: &mut Vec<Address>) -> Result<Peaks> {
    let has_library = precision == Precision::F32 && device.load_library().is_ok();
    let mut launcher = Launcher { has_library, ..Launcher::new(precision, device.limits()) };
    launcher.dense_sizes.library_from = if has_library { 1 } else { u64::MAX };
    let mut room = |device: &mut Device, n_bytes: usize| {
        let address = device.allocate(n_bytes)?;
        arrays.push(address);
        Ok::<_, crate::Error>(address)
    };
    let (from, to) = (room(device, COPY)?, room(device, COPY)?);
    // SAFETY: two arrays of so many bytes.
    let copy = shortest(device, |device| unsafe { device.copy(from, to, COPY) })?;
    // Not of equal numbers, with which GPUs take less power and run faster.
    let numbers = (0..N * N).map(|k| (k * 7919 % 2003) as f64 / 2003.0 - 0.5);
    let bytes: Vec<u8> = match precision {
        Precision::F32 => numbers.flat_map(|x| (x as f32).to_ne_bytes()).collect(),
        Precision::F64 => numbers.flat_map(f64::to_ne_bytes).collect(),
    };
    let [x, weight, y] = [room(device, bytes.len())?, room(device, bytes.len())?, room(device, bytes.len())?];
    for matrix in [x, weight] {
        // SAFETY: an array of so many bytes, which stay until the wait.
        unsafe { device.write(matrix, &bytes)? };
    }
    device.synchronize()?;
    let n = N as u32;
    let shape = DenseShape::linear(LayerSizes { n_rows: n, n_in: n, n_out: n });
    debug_assert!(!has_library || launcher.dense_sizes.choose(N, N, N, 1, true) == DenseChoice::Library);
    let steps = launcher.dense_steps(&shape, &DenseArrays { x, weight, y, ..DenseArrays::default() });
    // SAFETY: arrays of the shape.
    let product = shortest(device, |device| steps.iter().try_for_each(|step| unsafe { device.step(step) }))?;
    Ok(Peaks { flops: 2.0 * (N as f64).powi(3) / product, bytes_s: 2.0 * COPY as f64 / copy })
}

/// The shortest of some times, s: the device may have other work.
fn shortest(device: &mut Device, mut work: impl FnMut(&mut Device) -> Result<()>) -> Result<f64> {
    const REPEATS: u32 = 4;
    let mut least = f64::INFINITY;
    // The first warms up.
    for _ in 0..6 {
        let seconds = device.time(|device| (0..REPEATS).try_for_each(|_| work(device)))?;
        least = least.min(seconds / f64::from(REPEATS));
    }
    Ok(least)
}
