//! [`dense`](crate::ops::dense): linear layers, their activations and backwards fused into the products.

use pulp::Simd;

use super::gemm::{Epilogue, PackedMatrix, gemm};
use super::lanes::{Buffer, Lanes, vectorize};
use crate::ops::dense::Linear;

/// Weights of a linear layer, padded and packed for both directions.
#[derive(Debug, Clone)]
pub struct Layer<T> {
    forward: PackedMatrix<T>,
    backward: PackedMatrix<T>,
    bias: Buffer<T>,
}

/// Where the elements of a padded row come from.
///
/// A row of `blocks · n` elements whose first `used` of each block are real, in their order.
#[derive(Debug, Clone, Copy)]
pub struct Padding {
    /// Real elements of a block.
    pub used: usize,
    /// Elements of a block, a multiple of the cache line.
    pub padded: usize,
}

impl Padding {
    /// Blocks of `used` elements, each padded to whole cache lines.
    pub fn new<T: Lanes>(used: usize) -> Self {
        Padding { used, padded: used.next_multiple_of(T::PER_LINE) }
    }

    /// Length of the padded row of `len` real elements.
    pub fn padded_len(self, len: usize) -> usize {
        len / self.used * self.padded
    }

    /// Index among the real elements, `None` in the padding.
    fn source(self, i: usize) -> Option<usize> {
        let (block, within) = (i / self.padded, i % self.padded);
        (within < self.used).then_some(block * self.used + within)
    }
}

impl<T: Lanes> Layer<T> {
    /// Packs `linear`, whose input and output rows consist of blocks padded as given.
    pub fn new<S: Simd>(simd: S, linear: &Linear<T>, input: Padding, output: Padding) -> Self {
        let (n_in, n_out) = (input.padded_len(linear.n_in), output.padded_len(linear.n_out));
        let at = |k: usize, n: usize| match (input.source(k), output.source(n)) {
            (Some(k), Some(n)) => linear.weight[n * linear.n_in + k],
            _ => T::zero(),
        };
        let mut bias = Buffer::zeros(n_out);
        if let Some(values) = &linear.bias {
            for (n, out) in bias.iter_mut().enumerate() {
                *out = output.source(n).map_or(T::zero(), |n| values[n]);
            }
        }
        Layer {
            forward: PackedMatrix::new(simd, n_in, n_out, at),
            backward: PackedMatrix::new(simd, n_out, n_in, |k, n| at(n, k)),
            bias,
        }
    }

    /// Length of an output row.
    pub fn n_out(&self) -> usize {
        self.forward.n_out
    }

    /// Length of an input row.
    pub fn n_in(&self) -> usize {
        self.forward.n_in
    }

    /// `out = x · weightᵀ + bias`. IN `x` `[rows, n_in]`. OUT `out` `[rows, n_out]`.
    #[inline(always)]
    pub fn linear<S: Simd>(&self, simd: S, x: &[T], out: &mut [T]) {
        let (rows, n_out) = (x.len() / self.forward.n_in, self.forward.n_out);
        assert!(out.len() >= rows * n_out);
        run(simd, rows, x, &self.forward, AddBias { bias: &self.bias, out, n_out });
    }

    /// `out = silu(x · weightᵀ + bias)` and its derivative with respect to the pre-activation.
    ///
    /// IN `x` `[rows, n_in]`. OUT `out`, `slopes` `[rows, n_out]`.
    #[inline(always)]
    pub fn linear_silu<S: Simd>(&self, simd: S, x: &[T], out: &mut [T], slopes: &mut [T]) {
        let (rows, n_out) = (x.len() / self.forward.n_in, self.forward.n_out);
        assert!(out.len() >= rows * n_out && slopes.len() >= rows * n_out);
        run(simd, rows, x, &self.forward, Silu { bias: &self.bias, out, slopes, n_out });
    }

    /// `grad_x = grad_y · weight`, overwritten. IN `grad_y` `[rows, n_out]`. OUT `grad_x` `[rows, n_in]`.
    #[inline(always)]
    pub fn vjp<S: Simd>(&self, simd: S, grad_y: &[T], grad_x: &mut [T]) {
        let (rows, n_out) = (grad_y.len() / self.backward.n_in, self.backward.n_out);
        assert!(grad_x.len() >= rows * n_out);
        run(simd, rows, grad_y, &self.backward, Store { out: grad_x, n_out });
    }

    /// `grad_x += grad_y · weight`.
    #[inline(always)]
    pub fn vjp_add<S: Simd>(&self, simd: S, grad_y: &[T], grad_x: &mut [T]) {
        let (rows, n_out) = (grad_y.len() / self.backward.n_in, self.backward.n_out);
        assert!(grad_x.len() >= rows * n_out);
        run(simd, rows, grad_y, &self.backward, Add { out: grad_x, n_out });
    }

    /// `grad_z = (grad_y · weight) * slopes`: through this layer and the activation before it.
    #[inline(always)]
    pub fn vjp_silu<S: Simd>(&self, simd: S, grad_y: &[T], slopes: &[T], grad_z: &mut [T]) {
        let (rows, n_out) = (grad_y.len() / self.backward.n_in, self.backward.n_out);
        assert!(grad_z.len() >= rows * n_out && slopes.len() >= rows * n_out);
        run(simd, rows, grad_y, &self.backward, Times { slopes, out: grad_z, n_out });
    }
}

/// A function of its own for each epilogue, compiled for the instruction set.
#[inline(always)]
fn run<T: Lanes, S: Simd>(simd: S, rows: usize, a: &[T], weights: &PackedMatrix<T>, epilogue: impl Epilogue<T>) {
    let mut epilogue = epilogue;
    vectorize!(simd, gemm(simd, rows, a, weights, &mut epilogue));
}

/// Vector number `vector` of row `row` of a row-major array.
#[inline(always)]
fn index<T: Lanes, S: Simd>(n_out: usize, row: usize, vector: usize) -> std::ops::Range<usize> {
    let first = row * n_out + vector * T::lanes::<S>();
    first..first + T::lanes::<S>()
}

#[inline(always)]
fn get<T: Lanes, S: Simd>(x: &[T], at: std::ops::Range<usize>) -> T::V<S> {
    T::vectors::<S>(&x[at])[0]
}

#[inline(always)]
fn set<T: Lanes, S: Simd>(x: &mut [T], at: std::ops::Range<usize>, value: T::V<S>) {
    T::vectors_mut::<S>(&mut x[at])[0] = value;
}

struct Store<'a, T> {
    out: &'a mut [T],
    n_out: usize,
}

impl<T: Lanes> Epilogue<T> for Store<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, _: S, row: usize, vector: usize, value: T::V<S>) {
        set::<T, S>(self.out, index::<T, S>(self.n_out, row, vector), value);
    }
}

struct Add<'a, T> {
    out: &'a mut [T],
    n_out: usize,
}

impl<T: Lanes> Epilogue<T> for Add<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, simd: S, row: usize, vector: usize, value: T::V<S>) {
        let at = index::<T, S>(self.n_out, row, vector);
        let old = get::<T, S>(self.out, at.clone());
        set::<T, S>(self.out, at, T::vadd(simd, old, value));
    }
}

struct AddBias<'a, T> {
    bias: &'a [T],
    out: &'a mut [T],
    n_out: usize,
}

impl<T: Lanes> Epilogue<T> for AddBias<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, simd: S, row: usize, vector: usize, value: T::V<S>) {
        let bias = T::vectors::<S>(self.bias)[vector];
        set::<T, S>(self.out, index::<T, S>(self.n_out, row, vector), T::vadd(simd, value, bias));
    }
}

struct Silu<'a, T> {
    bias: &'a [T],
    out: &'a mut [T],
    slopes: &'a mut [T],
    n_out: usize,
}

impl<T: Lanes> Epilogue<T> for Silu<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, simd: S, row: usize, vector: usize, value: T::V<S>) {
        let z = T::vadd(simd, value, T::vectors::<S>(self.bias)[vector]);
        let (y, slope) = silu::<T, S>(simd, z);
        let at = index::<T, S>(self.n_out, row, vector);
        set::<T, S>(self.out, at.clone(), y);
        set::<T, S>(self.slopes, at, slope);
    }
}

/// `z · σ(z)` and its derivative `σ + z σ (1 - σ)`.
#[inline(always)]
pub fn silu<T: Lanes, S: Simd>(simd: S, z: T::V<S>) -> (T::V<S>, T::V<S>) {
    let one = T::splat(simd, T::one());
    let minus = T::vsub(simd, T::splat(simd, T::zero()), z);
    let sigmoid = T::vdiv(simd, one, T::vadd(simd, one, T::vexp(simd, minus)));
    let y = T::vmul(simd, z, sigmoid);
    (y, T::fma(simd, y, T::vsub(simd, one, sigmoid), sigmoid))
}

struct Times<'a, T> {
    slopes: &'a [T],
    out: &'a mut [T],
    n_out: usize,
}

impl<T: Lanes> Epilogue<T> for Times<'_, T> {
    #[inline(always)]
    fn store<S: Simd>(&mut self, simd: S, row: usize, vector: usize, value: T::V<S>) {
        let at = index::<T, S>(self.n_out, row, vector);
        let slope = get::<T, S>(self.slopes, at.clone());
        set::<T, S>(self.out, at, T::vmul(simd, value, slope));
    }
}
