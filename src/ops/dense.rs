//! `dense`: linear layers with bias, activation and residual, a block of rows at a time.

use super::table::operation;
use super::{Real, for_row_blocks, for_row_blocks2};

operation! {
    "dense":
    /// Sizes of a dense layer.
    LayerSizes {
        /// Rows of the argument.
        n_rows,
        /// Length of an input row.
        n_in,
        /// Length of an output row.
        n_out,
    }
    /// Arrays of a dense layer and its VJP.
    DenseArrays {
        Input Real x [n_rows; n_in] Forward,
        Constant Real weight [n_out; n_in] Both,
        Constant Real bias [n_out; 1] Forward or_none,
        /// Added before the activation.
        Input Real residual [n_rows; n_out] Forward or_none,
        Output Real y [n_rows; n_out] Forward,
        /// What the VJP needs of the activation: its argument or its slope. None for the identity.
        Output Real saved [n_rows; n_out] Both or_none,
        Cotangent Real grad_y [n_rows; n_out] Vjp,
        Gradient Real grad_x [n_rows; n_in] Vjp,
        Gradient Real grad_residual [n_rows; n_out] Vjp or_none,
        /// For products of a library.
        Room Real grad_z [n_rows; n_out] Vjp or_none,
    }
}

/// Nonlinearity after a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x`.
    Identity,
    /// `x / (1 + exp(-x))`. Elfwing, Uchibe, Doya, Neural Networks 107, 3 (2018).
    Silu,
}

impl Activation {
    /// Applies the function in place.
    #[inline(always)]
    pub(crate) fn apply<T: Real>(self, rows: &mut [T]) {
        if self == Activation::Silu {
            for x in rows {
                *x = self.at(*x);
            }
        }
    }

    /// Value at `x`.
    #[inline(always)]
    pub(super) fn at<T: Real>(self, x: T) -> T {
        match self {
            Activation::Identity => x,
            Activation::Silu => x * sigmoid(x),
        }
    }

    /// Derivative at pre-activation `x`.
    #[inline(always)]
    pub(super) fn derivative<T: Real>(self, x: T) -> T {
        match self {
            Activation::Identity => T::one(),
            Activation::Silu => {
                let s = sigmoid(x);
                s * (T::one() + x * (T::one() - s))
            }
        }
    }
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

/// Weights of one linear layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear<T> {
    /// `[n_out, n_in]`, row-major.
    pub weight: Vec<T>,
    /// `[n_out]`.
    pub bias: Option<Vec<T>>,
    /// Length of an input row.
    pub n_in: usize,
    /// Length of an output row.
    pub n_out: usize,
}

/// Evaluates `activation(x · weightᵀ + bias)`.
///
/// IN  `x` `[n_rows, n_in]`.   OUT `y` `[n_rows, n_out]`, overwritten; `pre_activation` like `y`, when asked for.
/// SAVED for the VJP: `pre_activation` (not needed where the activation is the identity).
pub fn dense<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    x: &[T],
    y: &mut [T],
    pre_activation: Option<&mut [T]>,
) {
    let (n_in, n_out) = (layer.n_in, layer.n_out);
    if let Some(saved) = pre_activation {
        for_row_blocks2(
            (y, n_out),
            (saved, n_out),
            #[inline(always)]
            |first, rows, saved| {
                linear_block(layer, &x[first * n_in..], saved);
                rows.copy_from_slice(saved);
                activation.apply(rows);
            },
        );
        return;
    }
    for_row_blocks(
        y,
        n_out,
        #[inline(always)]
        |first, rows| {
            linear_block(layer, &x[first * n_in..], rows);
            activation.apply(rows);
        },
    );
}

/// `rows = x · weightᵀ + bias` on this thread; `x` may be longer than the rows need.
pub(super) fn linear_block<T: Real>(layer: &Linear<T>, x: &[T], rows: &mut [T]) {
    product_block([layer.n_in, layer.n_out], (&layer.weight, layer.bias.as_deref()), x, rows);
}

/// As [`linear_block`], of weights `[n_out, n_in]` and perhaps a bias.
pub(super) fn product_block<T: Real>(
    [n_in, n_out]: [usize; 2],
    (weight, bias): (&[T], Option<&[T]>),
    x: &[T],
    rows: &mut [T],
) {
    let n_rows = rows.len() / n_out;
    if let Some(bias) = bias {
        rows.chunks_exact_mut(n_out).for_each(|row| row.copy_from_slice(bias));
    }
    matmul(n_rows, n_out, n_in, rows, bias.is_some(), &x[..n_rows * n_in], weight, [1, n_in]);
}

/// `grad_x += grad_y · weight` on this thread.
pub(super) fn linear_vjp_block<T: Real>(layer: &Linear<T>, grad_y: &[T], grad_x: &mut [T]) {
    product_vjp_block([layer.n_in, layer.n_out], &layer.weight, grad_y, true, grad_x);
}

/// As [`linear_vjp_block`], of weights `[n_out, n_in]`; overwrites unless it `accumulates`.
pub(super) fn product_vjp_block<T: Real>(
    [n_in, n_out]: [usize; 2],
    weight: &[T],
    grad_y: &[T],
    accumulates: bool,
    grad_x: &mut [T],
) {
    let n_rows = grad_x.len() / n_in;
    matmul(n_rows, n_in, n_out, grad_x, accumulates, grad_y, weight, [n_in, 1]);
}

/// Pulls the cotangent of the output back to the input.
///
/// IN  `pre_activation` `[n_rows, n_out]` (may be empty for the identity), `grad_y` `[n_rows, n_out]`.
/// OUT `grad_x` `[n_rows, n_in]`, accumulated.
pub fn dense_vjp<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    pre_activation: &[T],
    grad_y: &[T],
    grad_x: &mut [T],
) {
    let n_out = layer.n_out;
    for_row_blocks(
        grad_x,
        layer.n_in,
        #[inline(always)]
        |first, rows| {
            let n_rows = rows.len() / layer.n_in;
            if activation == Activation::Identity {
                linear_vjp_block(layer, &grad_y[first * n_out..][..n_rows * n_out], rows);
            } else {
                let grad_z = scaled_block(activation, pre_activation, grad_y, first * n_out, n_rows * n_out);
                linear_vjp_block(layer, &grad_z, rows);
            }
        },
    );
}

/// Evaluates `activation(x · weightᵀ + bias + residual)`. No model has it; calibrations measure it.
///
/// IN  `x` `[n_rows, n_in]`, `residual` `[n_rows, n_out]`.   OUT `y`, `pre_activation` `[n_rows, n_out]`, overwritten.
/// SAVED for the VJP: `pre_activation`.
pub fn dense_residual<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    x: &[T],
    residual: &[T],
    y: &mut [T],
    pre_activation: &mut [T],
) {
    let (n_in, n_out) = (layer.n_in, layer.n_out);
    for_row_blocks2(
        (y, n_out),
        (pre_activation, n_out),
        #[inline(always)]
        |first, rows, saved| {
            linear_block(layer, &x[first * n_in..], saved);
            saved.iter_mut().zip(&residual[first * n_out..]).for_each(|(z, &r)| *z += r);
            rows.copy_from_slice(saved);
            activation.apply(rows);
        },
    );
}

/// Pulls the cotangent of [`dense_residual`]'s output back to the input and the residual.
///
/// IN  `pre_activation`, `grad_y` `[n_rows, n_out]`.
/// OUT `grad_x` `[n_rows, n_in]`, `grad_residual` `[n_rows, n_out]`, accumulated.
pub fn dense_residual_vjp<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    pre_activation: &[T],
    grad_y: &[T],
    grad_x: &mut [T],
    grad_residual: &mut [T],
) {
    let n_out = layer.n_out;
    for_row_blocks2(
        (grad_x, layer.n_in),
        (grad_residual, n_out),
        #[inline(always)]
        |first, rows, grad_residual| {
            let grad_z = scaled_block(activation, pre_activation, grad_y, first * n_out, grad_residual.len());
            grad_residual.iter_mut().zip(&grad_z).for_each(|(out, &g)| *out += g);
            linear_vjp_block(layer, &grad_z, rows);
        },
    );
}

/// Cotangent of pre-activations: `len` numbers from `first` on.
#[inline(always)]
fn scaled_block<T: Real>(activation: Activation, z: &[T], grad: &[T], first: usize, len: usize) -> Vec<T> {
    // Not collected from an iterator, which would not be compiled for the caller's vectors.
    let mut out = grad[first..first + len].to_vec();
    for (out, &z) in out.iter_mut().zip(&z[first..]) {
        *out *= activation.derivative(z);
    }
    out
}

/// Evaluates `activation(x) · weightᵀ + bias`. No model has it; calibrations measure it.
///
/// IN  `x` `[n_rows, n_in]`.   OUT `y` `[n_rows, n_out]`, overwritten.   SAVED for the VJP: `x`.
pub fn activation_dense<T: Real>(layer: &Linear<T>, activation: Activation, x: &[T], y: &mut [T]) {
    let (n_in, n_out) = (layer.n_in, layer.n_out);
    for_row_blocks(
        y,
        n_out,
        #[inline(always)]
        |first, rows| {
            let mut active = x[first * n_in..][..rows.len() / n_out * n_in].to_vec();
            activation.apply(&mut active);
            linear_block(layer, &active, rows);
        },
    );
}

/// Pulls the cotangent of [`activation_dense`]'s output back to the input.
///
/// IN  `x` `[n_rows, n_in]`, `grad_y` `[n_rows, n_out]`.   OUT `grad_x` `[n_rows, n_in]`, accumulated.
pub fn activation_dense_vjp<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    x: &[T],
    grad_y: &[T],
    grad_x: &mut [T],
) {
    let (n_in, n_out) = (layer.n_in, layer.n_out);
    for_row_blocks(
        grad_x,
        n_in,
        #[inline(always)]
        |first, rows| {
            let mut grad_active = vec![T::zero(); rows.len()];
            let n_rows = rows.len() / n_in;
            linear_vjp_block(layer, &grad_y[first * n_out..][..n_rows * n_out], &mut grad_active);
            let pairs = grad_active.iter().zip(&x[first * n_in..]);
            rows.iter_mut().zip(pairs).for_each(|(out, (&g, &x))| *out += g * activation.derivative(x));
        },
    );
}

/// Evaluates two layers, `silu(x · weight₀ᵀ + bias₀) · weight₁ᵀ + bias₁`; hidden rows stay in the cache.
///
/// IN  `x` `[n_rows, n_in]`.   OUT `y` `[n_rows, n_out]`, overwritten; `pre_activation` `[n_rows, n_hidden]`, when asked for.
/// SAVED for the VJP: `pre_activation`.
pub fn mlp<T: Real>(layers: [&Linear<T>; 2], x: &[T], y: &mut [T], pre_activation: Option<&mut [T]>) {
    let [first_layer, second] = layers;
    let (n_in, n_hidden) = (first_layer.n_in, first_layer.n_out);
    let room = |rows: &[T]| vec![T::zero(); rows.len() / second.n_out * n_hidden];
    match pre_activation {
        Some(saved) => for_row_blocks2(
            (y, second.n_out),
            (saved, n_hidden),
            #[inline(always)]
            |first, rows, saved| {
                mlp_block(layers, &x[first * n_in..], rows, &mut room(rows), Some(saved));
            },
        ),
        None => for_row_blocks(
            y,
            second.n_out,
            #[inline(always)]
            |first, rows| mlp_block(layers, &x[first * n_in..], rows, &mut room(rows), None),
        ),
    }
}

#[inline(always)]
fn mlp_block<T: Real>(layers: [&Linear<T>; 2], x: &[T], rows: &mut [T], hidden: &mut [T], saved: Option<&mut [T]>) {
    linear_block(layers[0], x, hidden);
    if let Some(saved) = saved {
        saved.copy_from_slice(hidden);
    }
    Activation::Silu.apply(hidden);
    linear_block(layers[1], hidden, rows);
}

/// Pulls the cotangent of [`mlp`]'s output back to the input.
///
/// IN  `pre_activation` `[n_rows, n_hidden]`, `grad_y` `[n_rows, n_out]`.   OUT `grad_x` `[n_rows, n_in]`, accumulated.
pub fn mlp_vjp<T: Real>(layers: [&Linear<T>; 2], pre_activation: &[T], grad_y: &[T], grad_x: &mut [T]) {
    let [first_layer, second] = layers;
    let (n_in, n_hidden) = (first_layer.n_in, first_layer.n_out);
    for_row_blocks(
        grad_x,
        n_in,
        #[inline(always)]
        |first, rows| {
            let n_rows = rows.len() / n_in;
            let mut grad_hidden = vec![T::zero(); n_rows * n_hidden];
            linear_vjp_block(second, &grad_y[first * second.n_out..][..n_rows * second.n_out], &mut grad_hidden);
            let saved = &pre_activation[first * n_hidden..];
            grad_hidden.iter_mut().zip(saved).for_each(|(g, &z)| *g *= Activation::Silu.derivative(z));
            linear_vjp_block(first_layer, &grad_hidden, rows);
        },
    );
}

/// Backward of a linear layer with respect to its weights: `grad_weight += grad_yᵀ · x`, `grad_bias += Σ grad_y`.
///
/// IN  `x` `[n_rows, n_in]`; `grad_y` `[n_rows, n_out]`.   OUT `grad_weight` `[n_out, n_in]`, `grad_bias` `[n_out]` or empty.
pub fn linear_weights_vjp<T: Real>(
    [n_in, n_out]: [usize; 2],
    x: &[T],
    grad_y: &[T],
    grad_weight: &mut [T],
    grad_bias: &mut [T],
) {
    let n_rows = x.len() / n_in;
    assert_eq!((x.len(), grad_y.len(), grad_weight.len()), (n_rows * n_in, n_rows * n_out, n_out * n_in), "shapes");
    // SAFETY: the slices hold exactly as many elements as the strides reach (asserted above); `grad_weight` is borrowed
    // mutably, so it overlaps none. T is f32 or f64, which `gemm` implements.
    unsafe {
        gemm::gemm(
            n_out,
            n_in,
            n_rows,
            grad_weight.as_mut_ptr(),
            1,
            n_in as isize,
            true,
            grad_y.as_ptr(),
            n_out as isize,
            1,
            x.as_ptr(),
            1,
            n_in as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    if !grad_bias.is_empty() {
        for row in grad_y.chunks_exact(n_out) {
            grad_bias.iter_mut().zip(row).for_each(|(sum, &g)| *sum += g);
        }
    }
}

/// `out[m, n] = (accumulate ? out : 0) + a[m, k] · b`, with `b[k, n]` at strides `[row, column]`.
#[expect(clippy::too_many_arguments)]
fn matmul<T: Real>(
    m: usize,
    n: usize,
    k: usize,
    out: &mut [T],
    accumulate: bool,
    a: &[T],
    b: &[T],
    [b_row, b_column]: [usize; 2],
) {
    assert_eq!((out.len(), a.len(), b.len()), (m * n, m * k, k * n), "matmul shapes");
    let one = T::one();
    let alpha = if accumulate { one } else { T::zero() };
    // SAFETY: the three slices hold exactly m·n, m·k and k·n elements (asserted above) and the strides stay inside
    // them; `out` is borrowed mutably, so it overlaps neither `a` nor `b`. T is f32 or f64, which `gemm` implements.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            b_column as isize,
            b_row as isize,
            alpha,
            one,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, assert_vjp};

    fn layer(n_in: usize, n_out: usize, bias: bool) -> Linear<f64> {
        let mut random = Random::new(3);
        let weight = random.array(n_in * n_out, 1.0);
        Linear { weight, bias: bias.then(|| random.array(n_out, 1.0)), n_in, n_out }
    }

    #[test]
    fn weights_vjp_equals_finite_differences() {
        let (n_in, n_out, n_rows) = (5, 3, 7);
        let mut random = Random::new(8);
        let (mut layer, x) = (layer(n_in, n_out, true), random.array(n_rows * n_in, 1.0));
        let grad_y = random.array(n_rows * n_out, 1.0);
        let (mut grad_weight, mut grad_bias) = (vec![0.5; n_in * n_out], vec![-0.5; n_out]);
        linear_weights_vjp([n_in, n_out], &x, &grad_y, &mut grad_weight, &mut grad_bias);
        let value = |layer: &Linear<f64>| -> f64 {
            let mut y = vec![0.0; n_rows * n_out];
            dense(layer, Activation::Identity, &x, &mut y, None);
            y.iter().zip(&grad_y).map(|(y, g)| y * g).sum()
        };
        // The result is linear in the weights.
        for (k, grad) in grad_weight.iter().enumerate() {
            layer.weight[k] += 1.0;
            let above = value(&layer);
            layer.weight[k] -= 2.0;
            approx::assert_relative_eq!(grad - 0.5, (above - value(&layer)) / 2.0, epsilon = 1e-12);
            layer.weight[k] += 1.0;
        }
        for (k, grad) in grad_bias.iter().enumerate() {
            let want: f64 = grad_y.iter().skip(k).step_by(n_out).sum();
            approx::assert_relative_eq!(grad + 0.5, want, epsilon = 1e-12);
        }
    }

    #[test]
    fn dense_matches_plain_loops() {
        for (rows, n_in, n_out) in [(1, 1, 1), (3, 5, 2), (7, 20, 33), (130, 17, 9), (0, 4, 4)] {
            for bias in [false, true] {
                for activation in [Activation::Identity, Activation::Silu] {
                    let layer = layer(n_in, n_out, bias);
                    let x = Random::new(4).array(rows * n_in, 1.0);
                    let mut want = vec![0.0; rows * n_out];
                    for r in 0..rows {
                        for o in 0..n_out {
                            let mut z = layer.bias.as_ref().map_or(0.0, |b| b[o]);
                            for i in 0..n_in {
                                z += x[r * n_in + i] * layer.weight[o * n_in + i];
                            }
                            want[r * n_out + o] =
                                if activation == Activation::Silu { z / (1.0 + (-z).exp()) } else { z };
                        }
                    }
                    let (mut got, mut saved) = (vec![f64::NAN; rows * n_out], vec![f64::NAN; rows * n_out]);
                    dense(&layer, activation, &x, &mut got, None);
                    assert_close("dense", &got, &want, 1e-13, 1e-13);
                    dense(&layer, activation, &x, &mut got, Some(&mut saved));
                    assert_close("dense, saving", &got, &want, 1e-13, 1e-13);
                }
            }
        }
    }

    #[test]
    fn dense_vjp_matches_finite_difference() {
        for activation in [Activation::Identity, Activation::Silu] {
            let layer = layer(7, 5, true);
            let x = Random::new(5).array(70 * 7, 2.0);
            let mut y = vec![0.0; 70 * 5];
            let mut saved = y.clone();
            dense(&layer, activation, &x, &mut y, Some(&mut saved));
            assert_vjp(
                &x,
                |x| {
                    let mut y = vec![0.0; 70 * 5];
                    dense(&layer, activation, x, &mut y, None);
                    y
                },
                |grad| {
                    let mut out = vec![0.0; x.len()];
                    dense_vjp(&layer, activation, &saved, grad, &mut out);
                    out
                },
            );
        }
    }
}
