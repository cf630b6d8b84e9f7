//! `dense`: linear layer, bias and activation.

use super::{Real, for_row_blocks};

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
                *x = *x * sigmoid(*x);
            }
        }
    }

    /// Derivative at pre-activation `x`.
    #[inline(always)]
    fn derivative<T: Real>(self, x: T) -> T {
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
    let n_in = layer.n_in;
    if let Some(saved) = pre_activation {
        linear(layer, x, saved);
        y.copy_from_slice(saved);
        for_row_blocks(y, layer.n_out, |_, rows| activation.apply(rows));
        return;
    }
    for_row_blocks(y, layer.n_out, |first, rows| {
        linear_block(layer, &x[first * n_in..], rows);
        activation.apply(rows);
    });
}

fn linear<T: Real>(layer: &Linear<T>, x: &[T], y: &mut [T]) {
    for_row_blocks(y, layer.n_out, |first, rows| linear_block(layer, &x[first * layer.n_in..], rows));
}

/// `rows = x · weightᵀ + bias` on this thread; `x` may be longer than the rows need.
pub(super) fn linear_block<T: Real>(layer: &Linear<T>, x: &[T], rows: &mut [T]) {
    let n_rows = rows.len() / layer.n_out;
    if let Some(bias) = &layer.bias {
        rows.chunks_exact_mut(layer.n_out).for_each(|row| row.copy_from_slice(bias));
    }
    let x = &x[..n_rows * layer.n_in];
    matmul(n_rows, layer.n_out, layer.n_in, rows, layer.bias.is_some(), x, &layer.weight, [1, layer.n_in]);
}

/// `grad_x += grad_y · weight` on this thread.
pub(super) fn linear_vjp_block<T: Real>(layer: &Linear<T>, grad_y: &[T], grad_x: &mut [T]) {
    let n_rows = grad_x.len() / layer.n_in;
    matmul(n_rows, layer.n_in, layer.n_out, grad_x, true, grad_y, &layer.weight, [layer.n_in, 1]);
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
    for_row_blocks(grad_x, layer.n_in, |first, rows| {
        let n_rows = rows.len() / layer.n_in;
        let span = first * n_out..(first + n_rows) * n_out;
        let grad_y = &grad_y[span.clone()];
        let scaled: Vec<T>;
        let grad_z = if activation == Activation::Identity {
            grad_y
        } else {
            scaled = grad_y.iter().zip(&pre_activation[span]).map(|(&g, &z)| g * activation.derivative(z)).collect();
            &scaled
        };
        linear_vjp_block(layer, grad_z, rows);
    });
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
