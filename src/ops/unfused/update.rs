//! Squares, products, sums over x, y and z, roots, gates.

use super::{accumulate, fill_rows, map, multiply, rows};
use crate::ops::Real;
use crate::ops::update::{GateGrads, GateInputs};

/// Columns `first..first + width` of `x` `[n_rows, row]`.
fn columns<T: Real>(x: &[T], row: usize, first: usize, width: usize) -> Vec<T> {
    rows(
        x.len() / row,
        width,
        #[inline(always)]
        |k, out| out.copy_from_slice(&x[k * row + first..][..width]),
    )
}

/// Sums over x, y, z of `x` `[n_atoms, 3, n]`.
fn sum3<T: Real>(x: &[T], n: usize) -> Vec<T> {
    rows(
        x.len() / (3 * n),
        n,
        #[inline(always)]
        |a, out| {
            let x = &x[3 * n * a..][..3 * n];
            (0..n).for_each(|f| out[f] = x[f] + x[n + f] + x[2 * n + f]);
        },
    )
}

/// `x` `[n_atoms, 3, n]` times `by` `[n_atoms, n]`, the same for x, y, z.
fn multiply3<T: Real>(x: &[T], by: &[T], n: usize) -> Vec<T> {
    rows(
        x.len() / n,
        n,
        #[inline(always)]
        |k, out| {
            let (x, by) = (&x[k * n..][..n], &by[k / 3 * n..][..n]);
            out.iter_mut().zip(x.iter().zip(by)).for_each(|(out, (&x, &by))| *out = x * by);
        },
    )
}

/// `out` `[n_rows, row]` += `x` `[n_rows, width]`, in the columns from `first` on.
fn accumulate_columns<T: Real>(out: &mut [T], row: usize, first: usize, x: &[T], width: usize) {
    fill_rows(
        out,
        row,
        #[inline(always)]
        |k, out| out[first..first + width].iter_mut().zip(&x[k * width..]).for_each(|(out, &x)| *out += x),
    );
}

/// See [`crate::ops::update::update_invariants`].
pub fn update_invariants<T: Real>(n_features: usize, epsilon: f64, mixed: &[T], invariants: &mut [T]) {
    let (n, epsilon) = (n_features, T::of(epsilon));
    let (v, w) = (columns(mixed, 2 * n, 0, n), columns(mixed, 2 * n, n, n));
    let norms = map(
        &sum3(&multiply(&v, &v), n),
        #[inline(always)]
        |square| (square + epsilon).sqrt(),
    );
    let products = sum3(&multiply(&v, &w), n);
    fill_rows(
        invariants,
        2 * n,
        #[inline(always)]
        |a, row| {
            row[..n].copy_from_slice(&norms[a * n..][..n]);
            row[n..].copy_from_slice(&products[a * n..][..n]);
        },
    );
}

/// See [`crate::ops::update::update_invariants_vjp`].
pub fn update_invariants_vjp<T: Real>(
    n_features: usize,
    mixed: &[T],
    invariants: &[T],
    grad_invariants: &[T],
    grad_mixed: &mut [T],
) {
    let n = n_features;
    let (v, w) = (columns(mixed, 2 * n, 0, n), columns(mixed, 2 * n, n, n));
    let inverse = map(
        &columns(invariants, 2 * n, 0, n),
        #[inline(always)]
        |norm| if norm > T::zero() { T::one() / norm } else { T::zero() },
    );
    let by_norm = multiply(&columns(grad_invariants, 2 * n, 0, n), &inverse);
    let by_product = columns(grad_invariants, 2 * n, n, n);
    accumulate_columns(grad_mixed, 2 * n, 0, &multiply3(&v, &by_norm, n), n);
    accumulate_columns(grad_mixed, 2 * n, 0, &multiply3(&w, &by_product, n), n);
    accumulate_columns(grad_mixed, 2 * n, n, &multiply3(&v, &by_product, n), n);
}

/// See [`crate::ops::update::update_gate`].
pub fn update_gate<T: Real>(inputs: &GateInputs<T>, change: &mut [T]) {
    let n = inputs.n_features;
    let gate = |k: usize| columns(inputs.gates, 3 * n, k * n, n);
    let products = columns(inputs.invariants, 2 * n, n, n);
    let w = columns(inputs.mixed, 2 * n, n, n);
    let mut scalars = multiply(&gate(2), &products);
    accumulate(&mut scalars, &gate(0));
    let vectors = multiply3(&w, &gate(1), n);
    fill_rows(
        change,
        4 * n,
        #[inline(always)]
        |a, row| {
            row[..n].copy_from_slice(&scalars[a * n..][..n]);
            row[n..].copy_from_slice(&vectors[a * 3 * n..][..3 * n]);
        },
    );
}

/// See [`crate::ops::update::update_gate_vjp`].
pub fn update_gate_vjp<T: Real>(inputs: &GateInputs<T>, grad_change: &[T], grads: &mut GateGrads<T>) {
    let n = inputs.n_features;
    let (grad_q, grad_mu) = (columns(grad_change, 4 * n, 0, n), columns(grad_change, 4 * n, n, 3 * n));
    let gate = |k: usize| columns(inputs.gates, 3 * n, k * n, n);
    let products = columns(inputs.invariants, 2 * n, n, n);
    let w = columns(inputs.mixed, 2 * n, n, n);
    accumulate_columns(grads.gates, 3 * n, 0, &grad_q, n);
    accumulate_columns(grads.gates, 3 * n, n, &sum3(&multiply(&grad_mu, &w), n), n);
    accumulate_columns(grads.gates, 3 * n, 2 * n, &multiply(&grad_q, &products), n);
    accumulate_columns(grads.mixed, 2 * n, n, &multiply3(&grad_mu, &gate(1), n), n);
    accumulate_columns(grads.invariants, 2 * n, n, &multiply(&grad_q, &gate(2)), n);
}
