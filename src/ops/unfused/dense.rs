//! Dense layers: product with bias, residual, activation, each an operation of its own.

use super::elementary::Elementwise::{Silu, SiluSlope};
use super::elementary::{Elementary, elements};
use crate::ops::dense::{Activation, DenseArrays, LayerSizes};

fn size_of(s: &LayerSizes) -> [u32; 3] {
    [s.n_rows, s.n_in, s.n_out]
}

/// See [`crate::ops::dense::dense`] and, where there is a residual, [`crate::ops::dense::dense_residual`]. `saved` gets the
/// argument of the activation, where it is there.
pub fn dense<C: Elementary>(chain: &mut C, s: &LayerSizes, activation: Activation, a: &DenseArrays<C::Array>) {
    let wide = [s.n_rows, s.n_out];
    let z = match activation {
        _ if chain.has(a.saved) => a.saved,
        Activation::Identity => a.y,
        Activation::Silu => chain.take(elements(&wide)),
    };
    chain.product_into(size_of(s), a.x, [a.weight, a.bias], z);
    if chain.has(a.residual) {
        chain.accumulate(wide, (a.residual, s.n_out), (z, s.n_out));
    }
    match activation {
        Activation::Silu => chain.map_into(wide, Silu, 0.0, (z, s.n_out), a.y),
        Activation::Identity if z != a.y => chain.write(wide, (z, s.n_out), (a.y, s.n_out)),
        Activation::Identity => {}
    }
}

/// VJP of [`dense`].
pub fn dense_vjp<C: Elementary>(chain: &mut C, s: &LayerSizes, activation: Activation, a: &DenseArrays<C::Array>) {
    let wide = [s.n_rows, s.n_out];
    let grad_z = match activation {
        Activation::Identity => a.grad_y,
        Activation::Silu => {
            let slope = chain.map(wide, SiluSlope, 0.0, (a.saved, s.n_out));
            let grad_z = chain.multiply(wide, a.grad_y, slope);
            chain.release(&[slope]);
            grad_z
        }
    };
    chain.product_vjp_into(size_of(s), grad_z, a.weight, true, a.grad_x);
    if chain.has(a.grad_residual) {
        chain.accumulate(wide, (grad_z, s.n_out), (a.grad_residual, s.n_out));
    }
}

/// See [`crate::ops::dense::activation_dense`], behind SiLU.
pub fn activation_dense<C: Elementary>(chain: &mut C, s: &LayerSizes, a: &DenseArrays<C::Array>) {
    let active = chain.map([s.n_rows, s.n_in], Silu, 0.0, (a.x, s.n_in));
    chain.product_into(size_of(s), active, [a.weight, a.bias], a.y);
}

/// VJP of [`activation_dense`].
pub fn activation_dense_vjp<C: Elementary>(chain: &mut C, s: &LayerSizes, a: &DenseArrays<C::Array>) {
    let size = [s.n_rows, s.n_in];
    let grad_active = chain.product_vjp(size_of(s), a.grad_y, a.weight);
    let slope = chain.map(size, SiluSlope, 0.0, (a.x, s.n_in));
    let grad = chain.multiply(size, grad_active, slope);
    chain.release(&[grad_active, slope]);
    chain.accumulate(size, (grad, s.n_in), (a.grad_x, s.n_in));
}

/// See [`crate::ops::dense::mlp`]. The first layer's `y` and the second one's `x` are the chain's.
pub fn mlp<C: Elementary>(chain: &mut C, s: [&LayerSizes; 2], a: [&DenseArrays<C::Array>; 2]) {
    let hidden = chain.take(elements(&[s[0].n_rows, s[0].n_out]));
    dense(chain, s[0], Activation::Silu, &DenseArrays { y: hidden, ..*a[0] });
    dense(chain, s[1], Activation::Identity, &DenseArrays { x: hidden, ..*a[1] });
}

/// VJP of [`mlp`].
pub fn mlp_vjp<C: Elementary>(chain: &mut C, s: [&LayerSizes; 2], a: [&DenseArrays<C::Array>; 2]) {
    let grad_hidden = chain.product_vjp(size_of(s[1]), a[1].grad_y, a[1].weight);
    dense_vjp(chain, s[0], Activation::Silu, &DenseArrays { grad_y: grad_hidden, ..*a[0] });
}
