//! Basis, envelope, and their product.

use super::{accumulate, map, rows};
use crate::ops::Real;
use crate::ops::radial_basis::{RadialBasis, cosine_envelope};

/// Values, or slopes where `part` is the second, of all functions at all distances, `[n_edges, n_rbf]`.
#[inline(always)]
fn functions_at<T: Real>(functions: &RadialBasis, distances: &[T], part: impl Fn((T, T)) -> T + Sync) -> Vec<T> {
    rows(
        distances.len(),
        functions.len(),
        #[inline(always)]
        |e, row| row.iter_mut().enumerate().for_each(|(k, out)| *out = part(functions.at(k, distances[e]))),
    )
}

/// See [`crate::ops::radial_basis::radial_basis`].
pub fn radial_basis<T: Real>(functions: &RadialBasis, cutoff: f64, distances: &[T], basis: &mut [T]) {
    let n = functions.len();
    let values = functions_at(
        functions,
        distances,
        #[inline(always)]
        |(value, _)| value,
    );
    let envelope = map(
        distances,
        #[inline(always)]
        |d| cosine_envelope(d, cutoff).0,
    );
    super::fill_rows(
        basis,
        n + 1,
        #[inline(always)]
        |e, row| {
            row[..n].iter_mut().zip(&values[e * n..]).for_each(|(out, &value)| *out = value * envelope[e]);
            row[n] = envelope[e];
        },
    );
}

/// See [`crate::ops::radial_basis::radial_basis_vjp`].
pub fn radial_basis_vjp<T: Real>(
    functions: &RadialBasis,
    cutoff: f64,
    distances: &[T],
    grad_basis: &[T],
    grad_distances: &mut [T],
) {
    let (n, n_edges) = (functions.len(), distances.len());
    let values = functions_at(
        functions,
        distances,
        #[inline(always)]
        |(value, _)| value,
    );
    let slopes = functions_at(
        functions,
        distances,
        #[inline(always)]
        |(_, slope)| slope,
    );
    let envelope = map(
        distances,
        #[inline(always)]
        |d| cosine_envelope(d, cutoff).0,
    );
    let envelope_slope = map(
        distances,
        #[inline(always)]
        |d| cosine_envelope(d, cutoff).1,
    );
    let grad_values = rows(
        n_edges,
        n,
        #[inline(always)]
        |e, row| {
            let grad = &grad_basis[e * (n + 1)..][..n];
            row.iter_mut().zip(grad).for_each(|(out, &grad)| *out = grad * envelope[e]);
        },
    );
    let grad_envelope = rows(
        n_edges,
        1,
        #[inline(always)]
        |e, out| {
            let (grad, own) = grad_basis[e * (n + 1)..][..n + 1].split_at(n);
            out[0] = grad.iter().zip(&values[e * n..]).fold(own[0], |sum, (&grad, &value)| sum + grad * value);
        },
    );
    let through_values = rows(
        n_edges,
        1,
        #[inline(always)]
        |e, out| {
            let grad = &grad_values[e * n..][..n];
            out[0] = grad.iter().zip(&slopes[e * n..]).fold(T::zero(), |sum, (&grad, &slope)| sum + grad * slope);
        },
    );
    accumulate(grad_distances, &through_values);
    accumulate(grad_distances, &super::multiply(&grad_envelope, &envelope_slope));
}
