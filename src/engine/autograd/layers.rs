//! Dense layers as candle custom operations.

use std::sync::{Arc, OnceLock};

#[cfg(feature = "candle-cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::element::{Element, like, slice, with_slice, zeros};
use super::place::Run;
use crate::ops::choice::{Pattern, Size, Variant};
use crate::ops::dense::{Activation, Linear};
use crate::ops::dispatch::{dense, dense_vjp, mlp, mlp_vjp};

/// The shape of an argument, with another last dimension.
fn with_last(layout: &Layout, n: usize) -> Shape {
    let mut dims = layout.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = n;
    }
    Shape::from(dims)
}

/// Rows `[.., n_in]` → `[.., n_out]`.
pub struct Dense<T: Element> {
    /// The batch.
    pub run: Arc<Run<T>>,
    /// Weights.
    pub layer: Arc<Linear<T>>,
    /// Activation.
    pub activation: Activation,
    /// Kept by the forward for the backward. An operation is applied once.
    pub saved: OnceLock<Saved<T>>,
}

/// What the backward of an activation needs.
pub enum Saved<T> {
    /// Its argument.
    Argument(Vec<T>),
    /// Its slope, on the GPU.
    #[cfg(feature = "candle-cuda")]
    Slope(cudarc::driver::CudaSlice<T>),
}

impl<T: Element> Dense<T> {
    /// A layer without an activation has nothing to fuse but its bias, which its product starts from.
    fn variant(&self, n_rows: usize) -> Variant {
        match self.activation {
            Activation::Identity => Variant::Fused,
            Activation::Silu => {
                self.run.choose(Pattern::LinearSilu, Size::of_layer(n_rows, self.layer.n_in, self.layer.n_out))
            }
        }
    }

    fn keep(&self, saved: Saved<T>) -> Result<()> {
        self.saved.set(saved).map_err(|_| candle_core::Error::msg("a dense operation was applied twice"))
    }
}

impl<T: Element> CustomOp1 for Dense<T> {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice::<T>(s, l)?;
        let n_rows = x.len() / self.layer.n_in;
        let mut y = vec![T::zero(); n_rows * self.layer.n_out];
        if self.run.keep && self.activation != Activation::Identity {
            let mut saved = y.clone();
            dense(self.variant(n_rows), &self.layer, self.activation, x, &mut y, Some(&mut saved));
            self.keep(Saved::Argument(saved))?;
        } else {
            dense(self.variant(n_rows), &self.layer, self.activation, x, &mut y, None);
        }
        Ok((T::to_cpu_storage_owned(y), with_last(l, self.layer.n_out)))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        let (y, shape, saved) = self.run.gpu()?.dense(&self.layer, self.activation, self.run.keep, (s, l))?;
        saved.map_or(Ok(()), |saved| self.keep(Saved::Slope(saved)))?;
        Ok((y, shape))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "candle-cuda")]
        if let Some(gpu) = &self.run.gpu {
            let saved = match self.saved.get() {
                Some(Saved::Slope(slope)) => Some(slope),
                _ if self.activation == Activation::Identity => None,
                _ => candle_core::bail!("dense was run without keeping what its backward needs"),
            };
            return gpu.dense_vjp(&self.layer, self.activation, saved, arg, grad);
        }
        let saved = match self.saved.get() {
            Some(Saved::Argument(saved)) => saved.as_slice(),
            _ if self.activation == Activation::Identity => &[],
            _ => candle_core::bail!("dense was run without keeping what its backward needs"),
        };
        let variant = self.variant(arg.elem_count() / self.layer.n_in);
        let mut out: Vec<T> = zeros(arg);
        with_slice::<T, _>(grad, |grad| dense_vjp(variant, &self.layer, self.activation, saved, grad, &mut out))?;
        Ok(Some(like(out, arg)?))
    }
}

/// Two layers with SiLU between them, on the processor: rows `[.., n_in]` → `[.., n_out]`.
pub struct Mlp<T: Element> {
    /// The batch.
    pub run: Arc<Run<T>>,
    /// Weights.
    pub layers: [Arc<Linear<T>>; 2],
    /// Arguments of the activation, kept by the forward for the backward. An operation is applied once.
    pub saved: OnceLock<Vec<T>>,
}

impl<T: Element> Mlp<T> {
    fn variant(&self, n_rows: usize) -> Variant {
        self.run.choose(Pattern::Mlp, Size { rows: n_rows, width: self.layers[0].n_out })
    }
}

impl<T: Element> CustomOp1 for Mlp<T> {
    fn name(&self) -> &'static str {
        "mlp"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice::<T>(s, l)?;
        let layers = [&*self.layers[0], &*self.layers[1]];
        let n_rows = x.len() / layers[0].n_in;
        let mut y = vec![T::zero(); n_rows * layers[1].n_out];
        if self.run.keep {
            let mut saved = vec![T::zero(); n_rows * layers[0].n_out];
            mlp(self.variant(n_rows), layers, x, &mut y, Some(&mut saved));
            self.saved.set(saved).map_err(|_| candle_core::Error::msg("two layers were applied twice"))?;
        } else {
            mlp(self.variant(n_rows), layers, x, &mut y, None);
        }
        Ok((T::to_cpu_storage_owned(y), with_last(l, layers[1].n_out)))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(saved) = self.saved.get() else {
            candle_core::bail!("two layers were run without keeping what their backward needs")
        };
        let layers = [&*self.layers[0], &*self.layers[1]];
        let variant = self.variant(arg.elem_count() / layers[0].n_in);
        let mut out: Vec<T> = zeros(arg);
        with_slice::<T, _>(grad, |grad| mlp_vjp(variant, layers, saved, grad, &mut out))?;
        Ok(Some(like(out, arg)?))
    }
}
