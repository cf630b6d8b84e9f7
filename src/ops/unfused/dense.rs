//! Dense layers: product, bias, activation, each an operation of its own.

use super::{accumulate, add_bias, map, map_into, multiply, product, product_vjp};
use crate::ops::Real;
use crate::ops::dense::{Activation, Linear};

/// `x · weightᵀ + bias` into `y` `[n_rows, n_out]`.
fn linear<T: Real>(layer: &Linear<T>, x: &[T], y: &mut [T]) {
    product(layer, x, y);
    add_bias(layer, y);
}

/// Room for the results of as many rows as `x` has.
pub(super) fn room<T: Real>(layer: &Linear<T>, x: &[T]) -> Vec<T> {
    vec![T::zero(); x.len() / layer.n_in * layer.n_out]
}

/// Derivative of the activation at `x`, times `grad`.
fn activation_vjp<T: Real>(activation: Activation, x: &[T], grad: &[T]) -> Vec<T> {
    let slope = map(
        x,
        #[inline(always)]
        |x| activation.derivative(x),
    );
    multiply(grad, &slope)
}

fn activate<T: Real>(activation: Activation, x: &[T], y: &mut [T]) {
    map_into(
        x,
        y,
        #[inline(always)]
        |x| activation.at(x),
    );
}

/// See [`crate::ops::dense::dense`].
pub fn dense<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    x: &[T],
    y: &mut [T],
    pre_activation: Option<&mut [T]>,
) {
    let mut own;
    let z = match pre_activation {
        Some(saved) => saved,
        None if activation == Activation::Identity => return linear(layer, x, y),
        None => {
            own = room(layer, x);
            &mut own
        }
    };
    linear(layer, x, z);
    activate(activation, z, y);
}

/// See [`crate::ops::dense::dense_vjp`].
pub fn dense_vjp<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    pre_activation: &[T],
    grad_y: &[T],
    grad_x: &mut [T],
) {
    if activation == Activation::Identity {
        accumulate(grad_x, &product_vjp(layer, grad_y));
        return;
    }
    let grad_z = activation_vjp(activation, pre_activation, grad_y);
    accumulate(grad_x, &product_vjp(layer, &grad_z));
}

/// See [`crate::ops::dense::dense_residual`].
pub fn dense_residual<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    x: &[T],
    residual: &[T],
    y: &mut [T],
    pre_activation: &mut [T],
) {
    linear(layer, x, pre_activation);
    accumulate(pre_activation, residual);
    activate(activation, pre_activation, y);
}

/// See [`crate::ops::dense::dense_residual_vjp`].
pub fn dense_residual_vjp<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    pre_activation: &[T],
    grad_y: &[T],
    grad_x: &mut [T],
    grad_residual: &mut [T],
) {
    let grad_z = activation_vjp(activation, pre_activation, grad_y);
    accumulate(grad_x, &product_vjp(layer, &grad_z));
    accumulate(grad_residual, &grad_z);
}

/// See [`crate::ops::dense::activation_dense`].
pub fn activation_dense<T: Real>(layer: &Linear<T>, activation: Activation, x: &[T], y: &mut [T]) {
    let mut active = vec![T::zero(); x.len()];
    activate(activation, x, &mut active);
    linear(layer, &active, y);
}

/// See [`crate::ops::dense::activation_dense_vjp`].
pub fn activation_dense_vjp<T: Real>(
    layer: &Linear<T>,
    activation: Activation,
    x: &[T],
    grad_y: &[T],
    grad_x: &mut [T],
) {
    accumulate(grad_x, &activation_vjp(activation, x, &product_vjp(layer, grad_y)));
}

/// See [`crate::ops::dense::mlp`].
pub fn mlp<T: Real>(layers: [&Linear<T>; 2], x: &[T], y: &mut [T], pre_activation: Option<&mut [T]>) {
    let mut hidden = room(layers[0], x);
    dense(layers[0], Activation::Silu, x, &mut hidden, pre_activation);
    dense(layers[1], Activation::Identity, &hidden, y, None);
}

/// See [`crate::ops::dense::mlp_vjp`].
pub fn mlp_vjp<T: Real>(layers: [&Linear<T>; 2], pre_activation: &[T], grad_y: &[T], grad_x: &mut [T]) {
    let grad_hidden = product_vjp(layers[1], grad_y);
    dense_vjp(layers[0], Activation::Silu, pre_activation, &grad_hidden, grad_x);
}
