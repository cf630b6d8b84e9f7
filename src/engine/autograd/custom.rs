//! [`Custom`]: an operation of [`crate::ops`] as a candle custom operation, with its analytic backward.
//!
//! A backward returns a cotangent for every argument: candle drops a gradient that is `None` without a word. It runs where
//! the forward ran.

#[cfg(feature = "candle-cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, WithDType};

use super::element::{Element, like, slice};
use super::op::{Op, check_length, shape_of, tensors};
use crate::ops::table::Operation;

/// Operations that run on a GPU too.
#[cfg(feature = "candle-cuda")]
pub trait Everywhere<const N: usize>: Op<N> + super::on_gpu::OnGpu<N> {}
#[cfg(feature = "candle-cuda")]
impl<const N: usize, O: Op<N> + super::on_gpu::OnGpu<N>> Everywhere<N> for O {}
/// Operations that run on a GPU too, in builds that have none.
#[cfg(not(feature = "candle-cuda"))]
pub trait Everywhere<const N: usize>: Op<N> {}
#[cfg(not(feature = "candle-cuda"))]
impl<const N: usize, O: Op<N>> Everywhere<N> for O {}

/// An operation as candle takes it.
#[derive(Debug)]
pub struct Custom<O>(pub O);

/// Contiguous tensors on the processor.
struct Values(Vec<Tensor>);

impl Values {
    fn new<const N: usize>(tensors: [&Tensor; N]) -> Result<Self> {
        tensors.into_iter().map(Tensor::contiguous).collect::<Result<Vec<Tensor>>>().map(Values)
    }

    /// Runs `work` over their values.
    fn with<T: Element, const N: usize, R>(&self, work: impl FnOnce([&[T]; N]) -> R) -> Result<R> {
        let held: Vec<_> = self.0.iter().map(Tensor::storage_and_layout).collect();
        let slices = held.iter().map(|(storage, layout)| match &**storage {
            Storage::Cpu(cpu) => slice::<T>(cpu, layout),
            _ => candle_core::bail!("a tensor of a batch on the processor is on a GPU"),
        });
        let slices: Vec<&[T]> = slices.collect::<Result<_>>()?;
        match <[&[T]; N]>::try_from(slices) {
            Ok(slices) => Ok(work(slices)),
            Err(_) => candle_core::bail!("another number of tensors"),
        }
    }
}

fn forward<const N: usize, O: Op<N>>(op: &O, tensors_in: [(&CpuStorage, &Layout); N]) -> Result<(CpuStorage, Shape)> {
    let sizes = op.sizes();
    let (arrays, result) = tensors(&sizes);
    let mut slices = [&[][..]; N];
    for (k, (storage, layout)) in tensors_in.into_iter().enumerate() {
        slices[k] = slice::<O::Argument>(storage, layout)?;
        check_length::<O::Sizes>(arrays.get(k), slices[k].len())?;
    }
    let Some(array) = result else { candle_core::bail!("{} has no result", O::Sizes::NAME) };
    let mut values = vec![<O::Result as num_traits::Zero>::zero(); array.len()];
    op.forward(op.variant(), slices, &mut values);
    Ok((O::Result::to_cpu_storage_owned(values), shape_of(&array)))
}

fn vjp<const N: usize, O: Op<N>>(
    op: &O,
    arguments: [&Tensor; N],
    result: &Tensor,
    grad: &Tensor,
) -> Result<[Tensor; N]> {
    let mut grads = arguments.map(|x| vec![<O::Argument as num_traits::Zero>::zero(); x.elem_count()]);
    let (values, outputs) = (Values::new(arguments)?, Values::new([result, grad])?);
    let variant = op.variant();
    values.with(|arguments| {
        outputs.with(|[result, grad]| {
            op.vjp(variant, arguments, result, grad, grads.each_mut().map(Vec::as_mut_slice));
        })
    })??;
    let made: Vec<Tensor> = grads.into_iter().zip(arguments).map(|(x, of)| like(x, of)).collect::<Result<_>>()?;
    made.try_into().map_err(|_| candle_core::Error::msg("another number of cotangents"))
}

/// Backward wherever the forward ran.
fn backward<const N: usize, O: Everywhere<N>>(
    op: &O,
    arguments: [&Tensor; N],
    result: &Tensor,
    grad: &Tensor,
) -> Result<[Tensor; N]> {
    #[cfg(feature = "candle-cuda")]
    if let Some(gpu) = &op.run().gpu {
        return gpu.vjp(op, arguments, result, grad);
    }
    vjp(op, arguments, result, grad)
}

impl<O: Everywhere<1>> CustomOp1 for Custom<O> {
    fn name(&self) -> &'static str {
        O::Sizes::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(&self.0, [(s, l)])
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.run().gpu()?.forward(&self.0, [(s, l)])
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [a] = backward(&self.0, [arg], res, grad)?;
        Ok(Some(a))
    }
}

impl<O: Everywhere<2>> CustomOp2 for Custom<O> {
    fn name(&self) -> &'static str {
        O::Sizes::NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(&self.0, [(s1, l1), (s2, l2)])
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.run().gpu()?.forward(&self.0, [(s1, l1), (s2, l2)])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = backward(&self.0, [a, b], res, grad)?;
        Ok((Some(a), Some(b)))
    }
}

impl<O: Everywhere<3>> CustomOp3 for Custom<O> {
    fn name(&self) -> &'static str {
        O::Sizes::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        forward(&self.0, [(s1, l1), (s2, l2), (s3, l3)])
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.0.run().gpu()?.forward(&self.0, [(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = backward(&self.0, [a, b, c], res, grad)?;
        Ok((Some(a), Some(b), Some(c)))
    }
}
