//! Statistics of repeated measurements.

use serde::Serialize;

/// Statistics of the times of repeated measurements, s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Statistics {
    /// Number of repeats.
    pub n: usize,
    /// Smallest time.
    pub min: f64,
    /// Median, interpolated.
    pub median: f64,
    /// Mean.
    pub mean: f64,
    /// 95th percentile, interpolated.
    pub p95: f64,
    /// Standard deviation of the sample; 0 for one repeat.
    pub stddev: f64,
}

impl Statistics {
    /// Statistics of times, s; all zero if there are none.
    pub fn new(times: &[f64]) -> Self {
        let n = times.len();
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let mean = times.iter().sum::<f64>() / n.max(1) as f64;
        let squares: f64 = times.iter().map(|t| (t - mean).powi(2)).sum();
        Statistics {
            n,
            min: sorted.first().copied().unwrap_or(0.0),
            median: quantile(&sorted, 0.5),
            mean,
            p95: quantile(&sorted, 0.95),
            stddev: (squares / n.saturating_sub(1).max(1) as f64).sqrt(),
        }
    }
}

/// Quantile `q` of sorted numbers, interpolated linearly; 0 without any.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let x = q * last as f64;
    let k = x as usize;
    sorted[k] + (x - k as f64) * (sorted[(k + 1).min(last)] - sorted[k])
}

/// Indices of the faster half of the repeats, at least one of them: those that other programs disturbed least.
pub fn faster_half(times: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
    order.truncate(times.len().div_ceil(2));
    order
}

/// Mean over the faster half.
pub fn faster_mean(times: &[f64]) -> f64 {
    let half = faster_half(times);
    half.iter().map(|&k| times[k]).sum::<f64>() / half.len().max(1) as f64
}

/// Median of times.
pub fn median(times: &[f64]) -> f64 {
    Statistics::new(times).median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_known_numbers() {
        let times: Vec<f64> = (1..=21).rev().map(f64::from).collect();
        let got = Statistics::new(&times);
        assert_eq!((got.n, got.min, got.median, got.mean, got.p95), (21, 1.0, 11.0, 11.0, 20.0));
        approx::assert_relative_eq!(got.stddev, 38.5_f64.sqrt());
        assert_eq!(median(&[2.0, 1.0]), 1.5);
        assert_eq!(faster_half(&[3.0, 9.0, 1.0]), [2, 0]);
        assert_eq!((faster_mean(&[3.0, 9.0, 1.0]), faster_mean(&[5.0])), (2.0, 5.0));
        assert_eq!(Statistics::new(&[3.0]).stddev, 0.0);
    }
}
