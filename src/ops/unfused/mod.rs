//! The operations of [`crate::ops`] as chains of elementary tensor operations, each of which writes its whole result.
//!
//! The readable references: they follow the equations, and the tests hold the fused operations to them. They are also what
//! runs where a calibration says that fusing does not pay ([`crate::calibration`]), so each elementary operation works on the
//! same blocks of rows as a fused one, in parallel, for the widest vectors. Columns of an array are copied before they are
//! used, as tensor libraries do for most operations. Contracts are those of the fused operations:
//! a forward overwrites its outputs, a VJP accumulates and computes anew what its forward did not save.

mod dense;
mod edge_geometry;
mod message;
mod radial_basis;
#[cfg(test)]
mod tests;
mod update;

pub use dense::{activation_dense, activation_dense_vjp, dense, dense_residual, dense_residual_vjp, dense_vjp};
pub use dense::{mlp, mlp_vjp};
pub use edge_geometry::{edge_geometry, edge_geometry_vjp};
pub use message::{message, message_vjp};
pub use radial_basis::{radial_basis, radial_basis_vjp};
pub use update::{update_gate, update_gate_vjp, update_invariants, update_invariants_vjp};

use super::dense::{Linear, linear_vjp_block, product_block};
use super::{Real, for_row_blocks};

/// Numbers that elementwise operations handle as one row: a task is a block of such rows.
const ELEMENTS: usize = 64;

/// Overwrites rows of `width`, each by `fill(row number, row)`.
#[inline(always)]
fn fill_rows<T: Send>(out: &mut [T], width: usize, fill: impl Fn(usize, &mut [T]) + Sync) {
    for_row_blocks(
        out,
        width,
        #[inline(always)]
        |first, rows| {
            for (row, k) in rows.chunks_exact_mut(width).zip(first..) {
                fill(k, row);
            }
        },
    );
}

/// A new array `[n_rows, width]`, row by row.
#[inline(always)]
fn rows<T: Real>(n_rows: usize, width: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); n_rows * width];
    fill_rows(&mut out, width, fill);
    out
}

/// `f` of every element of `x`, into `out`.
#[inline(always)]
fn map_into<T: Real>(x: &[T], out: &mut [T], f: impl Fn(T) -> T + Sync) {
    for_row_blocks(
        out,
        ELEMENTS,
        #[inline(always)]
        |first, out| {
            for (out, &x) in out.iter_mut().zip(&x[first * ELEMENTS..]) {
                *out = f(x);
            }
        },
    );
}

/// `f` of every element.
#[inline(always)]
fn map<T: Real>(x: &[T], f: impl Fn(T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    map_into(x, &mut out, f);
    out
}

/// `f` of every pair of elements.
#[inline(always)]
fn zip<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); a.len()];
    for_row_blocks(
        &mut out,
        ELEMENTS,
        #[inline(always)]
        |first, out| {
            let pairs = a[first * ELEMENTS..].iter().zip(&b[first * ELEMENTS..]);
            out.iter_mut().zip(pairs).for_each(|(out, (&a, &b))| *out = f(a, b));
        },
    );
    out
}

/// Products, element by element.
fn multiply<T: Real>(a: &[T], b: &[T]) -> Vec<T> {
    zip(
        a,
        b,
        #[inline(always)]
        |a, b| a * b,
    )
}

/// `out += x`, element by element.
fn accumulate<T: Real>(out: &mut [T], x: &[T]) {
    for_row_blocks(
        out,
        ELEMENTS,
        #[inline(always)]
        |first, out| {
            for (out, &x) in out.iter_mut().zip(&x[first * ELEMENTS..]) {
                *out += x;
            }
        },
    );
}

/// `x · weightᵀ` into `out` `[n_rows, n_out]`.
fn product<T: Real>(layer: &Linear<T>, x: &[T], out: &mut [T]) {
    for_row_blocks(out, layer.n_out, |first, rows| product_block(layer, &x[first * layer.n_in..], rows));
}

/// `grad_y · weight`, `[n_rows, n_in]`.
fn product_vjp<T: Real>(layer: &Linear<T>, grad_y: &[T]) -> Vec<T> {
    let mut out = vec![T::zero(); grad_y.len() / layer.n_out * layer.n_in];
    for_row_blocks(&mut out, layer.n_in, |first, rows| {
        let n_rows = rows.len() / layer.n_in;
        linear_vjp_block(layer, &grad_y[first * layer.n_out..][..n_rows * layer.n_out], rows);
    });
    out
}

/// Adds the layer's bias, where it has one, to every row.
fn add_bias<T: Real>(layer: &Linear<T>, y: &mut [T]) {
    if let Some(bias) = &layer.bias {
        for_row_blocks(
            y,
            layer.n_out,
            #[inline(always)]
            |_, rows| {
                for row in rows.chunks_exact_mut(bias.len()) {
                    row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
                }
            },
        );
    }
}

/// Rows of `x` `[_, width]` in the order of `indices`.
fn gather<T: Real>(x: &[T], width: usize, indices: &[u32]) -> Vec<T> {
    rows(
        indices.len(),
        width,
        #[inline(always)]
        |k, row| row.copy_from_slice(&x[indices[k] as usize * width..][..width]),
    )
}

/// Sums of consecutive rows of `x` `[_, width]`: those from `starts[k]` to `starts[k + 1]` are row `k` of the result.
fn segment_sum<T: Real>(x: &[T], width: usize, starts: &[u32]) -> Vec<T> {
    rows(
        starts.len().saturating_sub(1),
        width,
        #[inline(always)]
        |k, row| {
            let members = starts[k] as usize * width..starts[k + 1] as usize * width;
            for member in x[members].chunks_exact(width) {
                row.iter_mut().zip(member).for_each(|(sum, &x)| *sum += x);
            }
        },
    )
}
