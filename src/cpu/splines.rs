//! B-splines on a uniform grid, and the fit of a network's filters by them.
//!
//! Source: C. de Boor, A Practical Guide to Splines, ch. IX.

// See gemm.rs.
#![allow(clippy::needless_range_loop)]

use crate::ops::radial_basis::{RadialBasis, cosine_envelope};

/// Degree of the splines: of 5, 6 and 7, the one with the fewest operations at the accuracy asked for.
pub const DEGREE: usize = 5;

/// Intervals by which the fit goes beyond both ends, so that it is as good there as between them.
const BEYOND: usize = 6;

/// Points in an interval at which the fit, and then its error, is taken.
const POINTS: usize = 4;

/// Coefficients of the splines that differ from zero in an interval, times 120: by power, highest first, and by spline,
/// filled up to a vector.
const COEFFICIENTS: [[f64; 8]; DEGREE + 1] = [
    [-1.0, 5.0, -10.0, 10.0, -5.0, 1.0, 0.0, 0.0],
    [5.0, -20.0, 30.0, -20.0, 5.0, 0.0, 0.0, 0.0],
    [-10.0, 20.0, 0.0, -20.0, 10.0, 0.0, 0.0, 0.0],
    [10.0, 20.0, -60.0, 20.0, 10.0, 0.0, 0.0, 0.0],
    [-5.0, -50.0, 0.0, 50.0, 5.0, 0.0, 0.0, 0.0],
    [1.0, 26.0, 66.0, 26.0, 1.0, 0.0, 0.0, 0.0],
];

/// The B-splines that differ from zero at `t` of an interval, from 0 to 1, and their derivatives by `t`; the first
/// `DEGREE + 1` of each.
#[inline(always)]
pub fn splines(t: f64) -> ([f64; 8], [f64; 8]) {
    let (mut values, mut slopes) = (COEFFICIENTS[0], [0.0; 8]);
    for row in &COEFFICIENTS[1..] {
        for j in 0..8 {
            slopes[j] = slopes[j] * t + values[j];
            values[j] = values[j] * t + row[j];
        }
    }
    for j in 0..8 {
        (values[j], slopes[j]) = (values[j] * (1.0 / 120.0), slopes[j] * (1.0 / 120.0));
    }
    (values, slopes)
}

/// Radial functions with their envelope, and the envelope, as sums of B-splines.
#[derive(Debug)]
pub struct Fit<'a> {
    functions: &'a RadialBasis,
    cutoff: f64,
    n_intervals: usize,
    /// Weight of each spline in each function, `[n_intervals + DEGREE, n_rbf + 1]`.
    weights: Vec<f64>,
}

impl<'a> Fit<'a> {
    /// Least squares over evenly spaced points.
    pub fn new(functions: &'a RadialBasis, cutoff: f64, n_intervals: usize) -> Self {
        let (width, n_functions) = (cutoff / n_intervals as f64, functions.len() + 1);
        let n = n_intervals + 2 * BEYOND + DEGREE;
        let (mut matrix, mut sums) = (vec![[0.0; DEGREE + 1]; n], vec![0.0; n * n_functions]);
        for k in 0..n_intervals + 2 * BEYOND {
            for point in 0..POINTS {
                let t = (point as f64 + 0.5) / POINTS as f64;
                let (splines, _) = splines(t);
                let d = (k as f64 - BEYOND as f64 + t) * width;
                // The envelope goes on, even about zero and about the cutoff.
                let (envelope, _) = cosine_envelope(if d > cutoff { 2.0 * cutoff - d } else { d.abs() }, cutoff);
                for i in 0..=DEGREE {
                    for j in 0..=i {
                        matrix[k + i][i - j] += splines[i] * splines[j];
                    }
                    let row = &mut sums[(k + i) * n_functions..][..n_functions];
                    for (f, sum) in row.iter_mut().enumerate() {
                        let value = if f + 1 < n_functions { functions.at(f, d).0 } else { 1.0 };
                        *sum += splines[i] * value * envelope;
                    }
                }
            }
        }
        solve(&mut matrix, &mut sums, n_functions);
        let weights = sums[BEYOND * n_functions..(n - BEYOND) * n_functions].to_vec();
        Fit { functions, cutoff, n_intervals, weights }
    }

    pub fn n_intervals(&self) -> usize {
        self.n_intervals
    }

    /// Å.
    pub fn cutoff(&self) -> f64 {
        self.cutoff
    }

    /// Backward of [`Fit::weights`]: cotangent `[n_out, n_rbf + 1]` for one of the splines' weights.
    pub fn weights_vjp(&self, grad: &[f64]) -> Vec<f64> {
        let (n_functions, n_splines) = (self.functions.len() + 1, self.n_intervals + DEGREE);
        let mut out = vec![0.0; grad.len() / n_splines * n_functions];
        for (row, out) in grad.chunks_exact(n_splines).zip(out.chunks_exact_mut(n_functions)) {
            for (g, fit) in row.iter().zip(self.weights.chunks_exact(n_functions)) {
                out.iter_mut().zip(fit).for_each(|(out, w)| *out += g * w);
            }
        }
        out
    }

    /// Weights of the splines in filters with `weight` `[n_out, n_rbf + 1]`: `[n_out, n_intervals + DEGREE]`.
    pub fn weights(&self, weight: &[f64]) -> Vec<f64> {
        let n_functions = self.functions.len() + 1;
        let rows = weight.chunks_exact(n_functions);
        let dot = |w: &[f64], fit: &[f64]| w.iter().zip(fit).map(|(a, b)| a * b).sum();
        rows.flat_map(|w| self.weights.chunks_exact(n_functions).map(move |fit| dot(w, fit))).collect()
    }

    /// Largest errors of such filters and of their derivatives, each relative to the largest one.
    pub fn errors(&self, weight: &[f64]) -> [f64; 2] {
        let (n_functions, width) = (self.functions.len() + 1, self.cutoff / self.n_intervals as f64);
        let fitted = self.weights(weight);
        let n_splines = self.n_intervals + DEGREE;
        let (mut errors, mut largest) = ([0.0_f64; 2], [0.0_f64; 2]);
        let mut functions = vec![[0.0; 2]; n_functions];
        for k in 0..self.n_intervals {
            for point in 0..POINTS {
                // Between the points of the fit, and not at zero itself, where Bessel functions are quotients of zeros.
                let t = (point as f64 + 0.95) / POINTS as f64;
                let d = (k as f64 + t) * width;
                let (envelope, slope) = cosine_envelope(d, self.cutoff);
                for (f, out) in functions.iter_mut().enumerate() {
                    let (value, derivative) = if f + 1 < n_functions { self.functions.at(f, d) } else { (1.0, 0.0) };
                    *out = [value * envelope, derivative * envelope + value * slope];
                }
                let (values, slopes) = splines(t);
                for (w, fitted) in weight.chunks_exact(n_functions).zip(fitted.chunks_exact(n_splines)) {
                    let fitted = &fitted[k..=k + DEGREE];
                    let (mut want, mut got) = ([0.0; 2], [0.0; 2]);
                    for (w, f) in w.iter().zip(&functions) {
                        want = [want[0] + w * f[0], want[1] + w * f[1]];
                    }
                    for i in 0..=DEGREE {
                        got = [got[0] + fitted[i] * values[i], got[1] + fitted[i] * slopes[i] / width];
                    }
                    for x in 0..2 {
                        errors[x] = errors[x].max((got[x] - want[x]).abs());
                        largest[x] = largest[x].max(want[x].abs());
                    }
                }
            }
        }
        std::array::from_fn(|x| if largest[x] > 0.0 { errors[x] / largest[x] } else { 0.0 })
    }
}

/// Solves `A x = b` in place for several right sides; `matrix[i][m]` is A(i, i - m) of a positive definite band.
///
/// Cholesky's decomposition.
fn solve(matrix: &mut [[f64; DEGREE + 1]], b: &mut [f64], n_right: usize) {
    let n = matrix.len();
    for i in 0..n {
        for m in (0..=DEGREE.min(i)).rev() {
            let j = i - m;
            let mut sum = matrix[i][m];
            for k in i.saturating_sub(DEGREE)..j {
                sum -= matrix[i][i - k] * if j - k <= DEGREE { matrix[j][j - k] } else { 0.0 };
            }
            matrix[i][m] = if m == 0 { sum.sqrt() } else { sum / matrix[j][0] };
        }
    }
    for i in 0..n {
        for r in 0..n_right {
            let mut sum = b[i * n_right + r];
            for m in 1..=DEGREE.min(i) {
                sum -= matrix[i][m] * b[(i - m) * n_right + r];
            }
            b[i * n_right + r] = sum / matrix[i][0];
        }
    }
    for i in (0..n).rev() {
        for r in 0..n_right {
            let mut sum = b[i * n_right + r];
            for m in 1..=DEGREE.min(n - 1 - i) {
                sum -= matrix[i + m][m] * b[(i + m) * n_right + r];
            }
            b[i * n_right + r] = sum / matrix[i][0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recurrence.
    fn de_boor(t: f64) -> [f64; DEGREE + 1] {
        let mut value = [0.0; DEGREE + 1];
        value[0] = 1.0;
        for degree in 1..=DEGREE {
            for j in (0..=degree).rev() {
                let rising = if j > 0 { (t + (degree - j) as f64) * value[j - 1] } else { 0.0 };
                let falling = if j < degree { ((j + 1) as f64 - t) * value[j] } else { 0.0 };
                value[j] = (rising + falling) / degree as f64;
            }
        }
        value
    }

    #[test]
    fn splines_equal_the_recurrence_and_slopes_finite_differences() {
        for i in 0..=20 {
            let (t, h) = (f64::from(i) / 20.0, 1e-5);
            let (values, slopes) = splines(t);
            let (want, above, below) = (de_boor(t), de_boor(t + h), de_boor(t - h));
            for j in 0..=DEGREE {
                approx::assert_abs_diff_eq!(values[j], want[j], epsilon = 1e-15);
                approx::assert_abs_diff_eq!(slopes[j], (above[j] - below[j]) / (2.0 * h), epsilon = 1e-9);
            }
        }
    }

    #[test]
    fn fit_error_falls_with_the_sixth_power_of_the_interval() {
        let functions = RadialBasis::Gaussian { centers: vec![0.0, 1.3, 2.6, 4.0], widths: vec![0.4; 4] };
        let weight = [0.3, -1.1, 0.7, 0.2, 0.5];
        let [coarse, fine] = [48, 96].map(|n| Fit::new(&functions, 4.0, n).errors(&weight));
        let order = [(coarse[0] / fine[0]).log2(), (coarse[1] / fine[1]).log2()];
        assert!((5.5..6.5).contains(&order[0]) && (4.5..5.5).contains(&order[1]), "{coarse:?} {fine:?} {order:?}");
        assert!(fine[0] < 1e-9 && fine[1] < 1e-7, "{fine:?}");
    }
}
