//! Activation, product with bias.

use super::chain::Chain;
use super::chain::Elementwise::{Silu, SiluSlope};
use crate::cuda::{Address, Launcher, Step};
use crate::ops::dense::{DenseArrays, LayerSizes};

impl Launcher {
    /// A layer behind SiLU, `before` of the fused [`Launcher::dense`]: shape and arrays are as there, without residual and
    /// activation of the result. `scratch` of `scratch::activation_dense`.
    pub fn unfused_activation_dense(&self, s: &LayerSizes, a: &DenseArrays<Address>, scratch: Address) -> Vec<Step> {
        let mut chain = Chain::new(self, scratch);
        let active = chain.map([s.n_rows, s.n_in], Silu, 0.0, (a.x, s.n_in));
        chain.product_into([s.n_rows, s.n_in, s.n_out], active, (a.weight, a.bias), a.y);
        chain.steps()
    }

    /// VJP of [`Launcher::unfused_activation_dense`]; `scratch` of `scratch::activation_dense_vjp`.
    pub fn unfused_activation_dense_vjp(
        &self,
        s: &LayerSizes,
        a: &DenseArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        let mut chain = Chain::new(self, scratch);
        let size = [s.n_rows, s.n_in];
        let grad_active = chain.product_vjp([s.n_rows, s.n_in, s.n_out], a.grad_y, a.weight);
        let slope = chain.map(size, SiluSlope, 0.0, (a.x, s.n_in));
        let grad = chain.multiply(size, grad_active, slope);
        chain.accumulate(size, (grad, s.n_in), (a.grad_x, s.n_in));
        chain.steps()
    }
}
