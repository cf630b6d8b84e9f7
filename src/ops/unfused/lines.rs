//! The loops of the processor's elementary operations.

use crate::ops::radial_basis::{bessel_at, gaussian_at};
use crate::ops::{Real, for_row_blocks};

/// Numbers that are handled as one row where rows do not matter: a task is a block of such rows.
const ELEMENTS: usize = 64;

/// Partial sums of an inner product, which the compiler keeps in vectors.
const LANES: usize = 16;

/// An argument: element (row, part, column) is so many elements behind the first.
#[derive(Clone, Copy)]
pub struct View<'x, T> {
    pub x: &'x [T],
    pub row: usize,
    pub part: usize,
    /// 1, or 0 for the same number in each column.
    pub column: usize,
}

impl<'x, T> View<'x, T> {
    /// From the first column of a part of a row on.
    #[inline(always)]
    pub fn line(&self, row: usize, part: usize) -> &'x [T] {
        &self.x[row * self.row + part * self.part..]
    }

    /// Whether its elements are one behind the other.
    fn is_dense(&self, [n_parts, n]: [usize; 2]) -> bool {
        self.column == 1 && self.row == n_parts * n && (n_parts == 1 || self.part == n)
    }
}

/// Length of a row of the result, and the first column that is written.
type At = (usize, usize);

/// `write(row number, columns)` for columns of all rows. Compiled for one and three columns too: loops over a few numbers
/// that the compiler knows are unrolled.
#[inline(always)]
fn for_rows<T: Send>(rows: &mut [T], (row, first): At, width: usize, write: impl Fn(usize, &mut [T]) + Sync) {
    for_row_blocks(
        rows,
        row,
        #[inline(always)]
        |k, rows| {
            // Loops, not closures of an iterator, which would not always be compiled for the caller's vectors.
            let rows = rows.chunks_exact_mut(row).zip(k..);
            if width == 1 {
                for (row, k) in rows {
                    write(k, &mut row[first..][..1]);
                }
            } else if width == 3 {
                for (row, k) in rows {
                    write(k, &mut row[first..][..3]);
                }
            } else {
                for (row, k) in rows {
                    write(k, &mut row[first..][..width]);
                }
            }
        },
    );
}

/// `write(number of the first, elements)` for blocks of all elements.
#[inline(always)]
fn for_elements<T: Send>(out: &mut [T], write: impl Fn(usize, &mut [T]) + Sync) {
    for_row_blocks(
        out,
        ELEMENTS,
        #[inline(always)]
        |k, out| write(k * ELEMENTS, out),
    );
}

#[inline(always)]
fn add<T: Real>(out: &mut [T], x: &[T]) {
    let x = &x[..out.len()];
    out.iter_mut().zip(x).for_each(|(out, &x)| *out += x);
}

/// See `copy_rows`.
pub fn copy<T: Real>(
    width: usize,
    order: Option<&[u32]>,
    x: Option<View<T>>,
    accumulates: bool,
    rows: &mut [T],
    at: At,
) {
    let Some(x) = x else {
        if !accumulates {
            for_rows(
                rows,
                at,
                width,
                #[inline(always)]
                |_, out| out.fill(T::zero()),
            );
        }
        return;
    };
    if order.is_none() && x.is_dense([1, width]) && at == (width, 0) {
        return for_elements(
            rows,
            #[inline(always)]
            |k, out| {
                let x = &x.x[k..][..out.len()];
                if accumulates { add(out, x) } else { out.copy_from_slice(x) }
            },
        );
    }
    if accumulates {
        for_rows(
            rows,
            at,
            width,
            #[inline(always)]
            |k, out| add(out, x.line(order.map_or(k, |order| order[k] as usize), 0)),
        );
    } else {
        for_rows(
            rows,
            at,
            width,
            #[inline(always)]
            |k, out| out.copy_from_slice(&x.line(order.map_or(k, |order| order[k] as usize), 0)[..out.len()]),
        );
    }
}

/// See `combine_into`.
#[inline(always)]
pub fn combine<T: Real>(size: [usize; 2], [a, b]: [View<T>; 2], rows: &mut [T], at: At, f: impl Fn(T, T) -> T + Sync) {
    let [n_parts, n] = size;
    if n == 0 {
        return;
    }
    if a.is_dense(size) && b.is_dense(size) && at == (n_parts * n, 0) {
        return for_elements(
            rows,
            #[inline(always)]
            |k, out| {
                let pairs = a.x[k..].iter().zip(&b.x[k..]);
                out.iter_mut().zip(pairs).for_each(|(out, (&x, &y))| *out = f(x, y));
            },
        );
    }
    for_rows(
        rows,
        at,
        n_parts * n,
        #[inline(always)]
        |k, out| {
            if n_parts == 1 {
                return combine_line(out, [&a, &b], k, 0, &f);
            }
            for (p, out) in out.chunks_exact_mut(n).enumerate() {
                combine_line(out, [&a, &b], k, p, &f);
            }
        },
    );
}

#[inline(always)]
fn combine_line<T: Real>(out: &mut [T], [a, b]: [&View<T>; 2], k: usize, p: usize, f: &impl Fn(T, T) -> T) {
    let (x, y) = (a.line(k, p), b.line(k, p));
    match (a.column, b.column) {
        (0, 0) => out.fill(f(x[0], y[0])),
        (0, _) => {
            let (x, y) = (x[0], &y[..out.len()]);
            out.iter_mut().zip(y).for_each(|(out, &y)| *out = f(x, y));
        }
        (_, 0) => {
            let (x, y) = (&x[..out.len()], y[0]);
            out.iter_mut().zip(x).for_each(|(out, &x)| *out = f(x, y));
        }
        _ => {
            let pairs = x[..out.len()].iter().zip(&y[..out.len()]);
            out.iter_mut().zip(pairs).for_each(|(out, (&x, &y))| *out = f(x, y));
        }
    }
}

/// See `sum_into`.
pub fn sum<T: Real>(
    [n_parts, width]: [usize; 2],
    a: View<T>,
    of: Option<&[u32]>,
    b: Option<View<T>>,
    rows: &mut [T],
    at: At,
) {
    for_rows(
        rows,
        at,
        width,
        #[inline(always)]
        |k, out| {
            let other = of.map_or(k, |of| of[k] as usize);
            if n_parts == 3 {
                return sum_of_three(out, (&a, k), b.as_ref().map(|b| (b, other)));
            }
            out.fill(T::zero());
            for p in 0..n_parts {
                for (c, out) in out.iter_mut().enumerate() {
                    let y = b.as_ref().map_or(T::one(), |b| b.line(other, p)[c * b.column]);
                    *out += a.line(k, p)[c * a.column] * y;
                }
            }
        },
    );
}

/// Vectors have three parts: one pass over them.
#[inline(always)]
fn sum_of_three<T: Real>(out: &mut [T], (a, k): (&View<T>, usize), b: Option<(&View<T>, usize)>) {
    let n = out.len();
    let x = [a.line(k, 0), a.line(k, 1), a.line(k, 2)];
    let Some((b, other)) = b else {
        let x = [&x[0][..n], &x[1][..n], &x[2][..n]];
        for c in 0..n {
            out[c] = x[0][c] + x[1][c] + x[2][c];
        }
        return;
    };
    let y = [b.line(other, 0), b.line(other, 1), b.line(other, 2)];
    match (a.column, b.column) {
        (0, 0) => out.fill(x[0][0] * y[0][0] + x[1][0] * y[1][0] + x[2][0] * y[2][0]),
        (0, _) => {
            let (x, y) = ([x[0][0], x[1][0], x[2][0]], [&y[0][..n], &y[1][..n], &y[2][..n]]);
            for c in 0..n {
                out[c] = x[0] * y[0][c] + x[1] * y[1][c] + x[2] * y[2][c];
            }
        }
        (_, 0) => {
            let (x, y) = ([&x[0][..n], &x[1][..n], &x[2][..n]], [y[0][0], y[1][0], y[2][0]]);
            for c in 0..n {
                out[c] = x[0][c] * y[0] + x[1][c] * y[1] + x[2][c] * y[2];
            }
        }
        _ => {
            let (x, y) = ([&x[0][..n], &x[1][..n], &x[2][..n]], [&y[0][..n], &y[1][..n], &y[2][..n]]);
            for c in 0..n {
                out[c] = x[0][c] * y[0][c] + x[1][c] * y[1][c] + x[2][c] * y[2][c];
            }
        }
    }
}

/// See `inner_into`.
pub fn inner<T: Real>([n_parts, n]: [usize; 2], a: View<T>, b: View<T>, rows: &mut [T]) {
    for_rows(
        rows,
        (n_parts, 0),
        n_parts,
        #[inline(always)]
        |k, out| {
            for (p, out) in out.iter_mut().enumerate() {
                *out = dot(&a.line(k, p)[..n], &b.line(k, p)[..n]);
            }
        },
    );
}

#[inline(always)]
fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [T::zero(); LANES];
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            sums[l] += a[l] * b[l];
        }
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            sums[l] += sums[l + half];
        }
    }
    a_rest.iter().zip(b_rest).fold(sums[0], |sum, (&a, &b)| sum + a * b)
}

/// See `segment_sum_into`.
pub fn segment_sum<T: Real>(width: usize, starts: &[u32], x: &[T], rows: &mut [T]) {
    for_rows(
        rows,
        (width, 0),
        width,
        #[inline(always)]
        |k, out| {
            let members = starts[k] as usize * width..starts[k + 1] as usize * width;
            let mut members = x[members].chunks_exact(out.len());
            match members.next() {
                Some(member) => out.copy_from_slice(member),
                None => out.fill(T::zero()),
            }
            members.for_each(|member| add(out, member));
        },
    );
}

/// `f` of columns of `x`.
#[inline(always)]
pub fn map<T: Real>(width: usize, x: View<T>, rows: &mut [T], f: impl Fn(T) -> T + Sync) {
    if x.is_dense([1, width]) {
        return for_elements(
            rows,
            #[inline(always)]
            |k, out| out.iter_mut().zip(&x.x[k..]).for_each(|(out, &x)| *out = f(x)),
        );
    }
    for_rows(
        rows,
        (width, 0),
        width,
        #[inline(always)]
        |k, out| {
            let x = &x.line(k, 0)[..out.len()];
            out.iter_mut().zip(x).for_each(|(out, &x)| *out = f(x));
        },
    );
}

/// A part of each function's value and slope; see `functions_into`.
#[inline(always)]
pub fn functions<T: Real>(
    [first, widths]: [&[T]; 2],
    distances: View<T>,
    rows: &mut [T],
    part: impl Fn((T, T)) -> T + Sync,
) {
    let n_rbf = first.len();
    for_row_blocks(
        rows,
        n_rbf,
        #[inline(always)]
        |k, rows| {
            for (row, e) in rows.chunks_exact_mut(n_rbf).zip(k..) {
                let d = distances.line(e, 0)[0];
                if widths.is_empty() {
                    for (out, &frequency) in row.iter_mut().zip(first) {
                        *out = part(bessel_at(frequency, d));
                    }
                } else {
                    for (out, (&center, &width)) in row.iter_mut().zip(first.iter().zip(widths)) {
                        *out = part(gaussian_at(center, width, d));
                    }
                }
            }
        },
    );
}
