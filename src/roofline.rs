//! What the device can do at most, measured, and how near a component comes.

use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::settings::Precision;

/// Rates of a device; of a processor those of one thread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Of a large matrix product in the precision of the run, FLOP/s.
    pub flops: f64,
    /// Of a copy between large arrays, bytes read and written, bytes/s.
    pub bytes_s: f64,
}

/// Which rate of the device limits a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// That of floating-point operations.
    Compute,
    /// That of bytes read and written.
    Memory,
}

impl Bound {
    /// `compute` or `memory`.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Compute => "compute",
            Bound::Memory => "memory",
        }
    }
}

/// How near a component comes to what the device can do, by the roofline model: its time cannot be less than that of
/// its floating-point operations, nor than that of its bytes, at the rates measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roofline {
    /// Arithmetic intensity, FLOP per byte.
    pub intensity: f64,
    /// Which rate limits it.
    pub bound: Bound,
    /// Shortest time that the rates allow, divided by the time taken. It can exceed 1 if arrays stay in the caches.
    pub fraction: f64,
}

impl Roofline {
    /// Of work that took `seconds`; `None` where nothing is counted or no time was seen.
    pub fn new(peaks: Peaks, flops: f64, bytes: f64, seconds: f64) -> Option<Self> {
        let (compute, memory) = (flops / peaks.flops, bytes / peaks.bytes_s);
        let known = seconds > 0.0 && bytes > 0.0 && compute.is_finite() && memory.is_finite();
        known.then(|| Roofline {
            intensity: flops / bytes,
            bound: if compute >= memory { Bound::Compute } else { Bound::Memory },
            fraction: compute.max(memory) / seconds,
        })
    }
}

/// Rows and columns of the products, of which the best rate counts. Not powers of two, whose rows would fall on the same
/// lines of the cache.
const SIZES: [usize; 3] = [240, 480, 960];

/// Bytes that are copied: beyond the caches.
const COPY: usize = 128 << 20;

/// Measures both rates on the calling thread; about half a second.
pub fn measure(precision: Precision) -> Peaks {
    let flops = match precision {
        Precision::F32 => SIZES.map(product_rate::<f32>),
        Precision::F64 => SIZES.map(product_rate::<f64>),
    };
    let flops = flops.into_iter().fold(0.0, f64::max);
    let (from, mut to) = (vec![1_u8; COPY], vec![0_u8; COPY]);
    let copy = best(|| black_box(&mut to).copy_from_slice(black_box(&from)));
    Peaks { flops, bytes_s: 2.0 * COPY as f64 / copy }
}

fn product_rate<T: num_traits::Float + 'static>(n: usize) -> f64 {
    let (a, b, mut c) = (vec![T::one(); n * n], vec![T::one(); n * n], vec![T::zero(); n * n]);
    let time = best(|| {
        let (stride, c) = (n as isize, black_box(&mut c));
        // SAFETY: three matrices of n by n in row order, and the output is nobody else's.
        unsafe {
            gemm::gemm(
                n,
                n,
                n,
                c.as_mut_ptr(),
                1,
                stride,
                false,
                a.as_ptr(),
                1,
                stride,
                b.as_ptr(),
                1,
                stride,
                T::zero(),
                T::one(),
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
    2.0 * (n as f64).powi(3) / time
}

/// Shortest of some runs after one that is not counted, s.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..15).map(time).fold(f64::INFINITY, f64::min)
}

/// The processor's name, where the system says it.
pub(crate) fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roofline_of_known_numbers() {
        let peaks = Peaks { flops: 100.0, bytes_s: 10.0 };
        let got = Roofline::new(peaks, 200.0, 10.0, 4.0).unwrap();
        assert_eq!((got.intensity, got.bound, got.fraction), (20.0, Bound::Compute, 0.5));
        let got = Roofline::new(peaks, 10.0, 10.0, 2.0).unwrap();
        assert_eq!((got.intensity, got.bound, got.fraction), (1.0, Bound::Memory, 0.5));
        assert!(Roofline::new(peaks, 1.0, 0.0, 1.0).is_none());
    }
}
