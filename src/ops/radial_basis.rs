//! `radial_basis`: radial basis functions and cutoff in one pass.
//!
//! The filter of PaiNN is `(basis · Wᵀ + b) · envelope`. With the envelope folded in first,
//! `[basis · envelope, envelope] · [W, b]ᵀ`, it is one product, and the envelope is never applied to the wide filter.

use super::table::operation;
use super::{Real, for_row_blocks};

operation! {
    "radial_basis":
    /// Sizes of the radial basis.
    RadialBasisSizes {
        /// Edges.
        n_edges,
        /// Functions.
        n_rbf,
        /// Elements between distances: 1, or 4 for the first column of a geometry.
        stride,
    }
    /// Arrays of the radial basis and its VJP.
    RadialBasisArrays {
        /// Centres or frequencies.
        Constant Real first [n_rbf; 1] Both,
        /// Of Gaussians; none for Bessel functions.
        Constant Real widths [n_rbf; 1] Both or_none,
        Input Real distances [n_edges; stride] Both,
        /// Functions times envelope, and the envelope.
        Output Real basis [n_edges; n_rbf + 1] Forward,
        Cotangent Real grad_basis [n_edges; n_rbf + 1] Vjp,
        /// Those of the distances; what lies between them is left alone.
        Gradient Real grad_distances [n_edges; stride] Vjp,
    }
}

/// Radial basis functions of a model.
#[derive(Debug, Clone, PartialEq)]
pub enum RadialBasis {
    /// `exp(-½ ((d − center) / width)²)`.
    Gaussian {
        /// Centres, Å, `[n_rbf]`.
        centers: Vec<f64>,
        /// Widths, Å, `[n_rbf]`.
        widths: Vec<f64>,
    },
    /// `sin(frequency · d) / d`. Gasteiger, Groß, Günnemann, ICLR 2020, eq. 7, without its constant factor.
    Bessel {
        /// Frequencies, 1/Å, `[n_rbf]`.
        frequencies: Vec<f64>,
    },
}

impl RadialBasis {
    /// Number of functions.
    pub fn len(&self) -> usize {
        match self {
            RadialBasis::Gaussian { centers, .. } => centers.len(),
            RadialBasis::Bessel { frequencies } => frequencies.len(),
        }
    }

    /// Whether there is no function at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value and derivative of function `k` at distance `d` > 0.
    #[inline(always)]
    pub(crate) fn at<T: Real>(&self, k: usize, d: T) -> (T, T) {
        match self {
            RadialBasis::Gaussian { centers, widths } => gaussian_at(T::of(centers[k]), T::of(widths[k]), d),
            RadialBasis::Bessel { frequencies } => bessel_at(T::of(frequencies[k]), d),
        }
    }
}

/// A Gaussian and its derivative.
#[inline(always)]
pub(super) fn gaussian_at<T: Real>(center: T, width: T, d: T) -> (T, T) {
    let x = (d - center) / width;
    let value = (-T::of(0.5) * x * x).exp();
    (value, -value * x / width)
}

/// A Bessel function and its derivative.
#[inline(always)]
pub(super) fn bessel_at<T: Real>(frequency: T, d: T) -> (T, T) {
    let (sin, cos) = (frequency * d).sin_cos();
    let value = sin / d;
    (value, (frequency * cos - value) / d)
}

/// Cosine cutoff `½ (cos(π d / cutoff) + 1)`, zero beyond; value and derivative.
/// Behler, J. Chem. Phys. 134, 074106 (2011), eq. 4.
#[inline(always)]
pub fn cosine_envelope<T: Real>(d: T, cutoff: f64) -> (T, T) {
    if d >= T::of(cutoff) {
        return (T::zero(), T::zero());
    }
    let k = T::of(std::f64::consts::PI / cutoff);
    let (sin, cos) = (k * d).sin_cos();
    (T::of(0.5) * (cos + T::one()), -T::of(0.5) * k * sin)
}

/// Evaluates the basis times the envelope, and the envelope itself as the last column.
///
/// IN  `distances` `[n_edges]`, Å, each > 0.
/// OUT `basis` `[n_edges, n_rbf + 1]`, overwritten.
/// SAVED for the VJP: `distances`.
pub fn radial_basis<T: Real>(functions: &RadialBasis, cutoff: f64, distances: &[T], basis: &mut [T]) {
    let width = functions.len() + 1;
    for_row_blocks(
        basis,
        width,
        #[inline(always)]
        |first, rows| {
            for (row, &d) in rows.chunks_exact_mut(width).zip(&distances[first..]) {
                let (envelope, _) = cosine_envelope(d, cutoff);
                for (k, out) in row[..width - 1].iter_mut().enumerate() {
                    *out = if envelope == T::zero() { T::zero() } else { functions.at(k, d).0 * envelope };
                }
                row[width - 1] = envelope;
            }
        },
    );
}

/// Pulls the cotangent of the basis back to the distances.
///
/// IN  `distances` `[n_edges]`, `grad_basis` `[n_edges, n_rbf + 1]`.   OUT `grad_distances` `[n_edges]`, accumulated.
pub fn radial_basis_vjp<T: Real>(
    functions: &RadialBasis,
    cutoff: f64,
    distances: &[T],
    grad_basis: &[T],
    grad_distances: &mut [T],
) {
    let width = functions.len() + 1;
    for_row_blocks(
        grad_distances,
        1,
        #[inline(always)]
        |first, out| {
            let rows = grad_basis[first * width..].chunks_exact(width);
            for ((out, grad), &d) in out.iter_mut().zip(rows).zip(&distances[first..]) {
                let (envelope, slope) = cosine_envelope(d, cutoff);
                if envelope == T::zero() {
                    continue;
                }
                let mut sum = grad[width - 1] * slope;
                for (k, &grad) in grad[..width - 1].iter().enumerate() {
                    let (value, derivative) = functions.at(k, d);
                    sum += grad * (derivative * envelope + value * slope);
                }
                *out += sum;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_vjp};

    fn both() -> [RadialBasis; 2] {
        [
            RadialBasis::Gaussian { centers: vec![0.0, 1.3, 2.6, 4.0], widths: vec![1.3, 1.2, 1.0, 0.4] },
            RadialBasis::Bessel { frequencies: (1..=5).map(|n| f64::from(n) * 0.7).collect() },
        ]
    }

    #[test]
    fn radial_basis_vjp_matches_finite_difference() {
        let distances: Vec<f64> = (1..150).map(|k| 0.03 * f64::from(k)).filter(|d| (d - 4.0).abs() > 1e-3).collect();
        for functions in both() {
            let run = |d: &[f64]| {
                let mut out = vec![f64::NAN; d.len() * (functions.len() + 1)];
                radial_basis(&functions, 4.0, d, &mut out);
                out
            };
            assert_vjp(&distances, run, |grad| {
                let mut out = vec![0.0; distances.len()];
                radial_basis_vjp(&functions, 4.0, &distances, grad, &mut out);
                out
            });
        }
    }

    #[test]
    fn radial_basis_vanishes_from_the_cutoff_on() {
        for functions in both() {
            let mut out = vec![f32::NAN; 3 * (functions.len() + 1)];
            radial_basis(&functions, 4.0, &[4.0, 4.5, 1e9], &mut out);
            assert!(out.iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    fn radial_basis_has_the_values_of_its_formulas() {
        let mut out = vec![0.0; 2 * 5];
        radial_basis(&both()[0], 4.0, &[1.3, 2.0], &mut out);
        // At d = cutoff / 2 the envelope is one half; at its centre a Gaussian is one.
        assert_close("gaussian", &out[1..2], &[0.5 * ((std::f64::consts::PI * 1.3 / 4.0).cos() + 1.0)], 1e-15, 0.0);
        assert_close("envelope", &out[9..], &[0.5], 1e-15, 0.0);
        let mut out = vec![0.0; 6];
        radial_basis(&both()[1], 4.0, &[2.0], &mut out);
        assert_close("bessel", &out[..1], &[1.4_f64.sin() / 2.0 * 0.5], 1e-15, 0.0);
    }
}
