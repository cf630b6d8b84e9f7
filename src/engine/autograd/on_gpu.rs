//! The custom operations on a GPU: the kernels of `kernels/` over candle's storage.

use std::any::Any;
use std::sync::Arc;

use candle_core::{CudaStorage, Layout, Result, Tensor};
use cudarc::driver::CudaSlice;

use super::element::{Element, choose};
use super::gpu::Gpu;
use super::gpu_batch::{Forward, GpuBatch, Held, address_in, hold};
use super::op::{Op, check_length, shape_of, tensors};
use crate::cuda::{Address, Launcher, Step};
use crate::ops::choice::Variant;
use crate::ops::table::{Array, Operation, Role};

/// What keeps an array alive while a kernel that reads it is queued; what is freed later is freed behind it.
pub type Keeper = Arc<dyn Any + Send + Sync>;

/// The arrays of an operation on a GPU.
pub type Arrays<S> = <S as Operation>::Arrays<Address>;

/// An operation on a GPU: what it adds to [`Op`]. Arrays are those of its table.
pub trait OnGpu<const N: usize>: Op<N> {
    /// Where a constant of the model is, such as weights; `None` for those that the batch has, and 0 where there is none.
    ///
    /// # Errors
    /// What the tensor library reports.
    fn constant(&self, gpu: &Gpu<Self::Real>, name: &str) -> Result<Option<(Address, Keeper)>>;

    /// Its fused kernels: the forward, or the VJP.
    ///
    /// # Errors
    /// Those of the launcher.
    fn fused(
        &self,
        launcher: &Launcher,
        s: &Self::Sizes,
        a: &Arrays<Self::Sizes>,
        vjp: bool,
    ) -> crate::Result<Vec<Step>>;

    /// Its chain of elementary kernels, and the elements of scratch that it takes; none where it has no chain.
    fn chain(
        &self,
        launcher: &Launcher,
        s: &Self::Sizes,
        a: &Arrays<Self::Sizes>,
        vjp: bool,
        scratch: Address,
    ) -> Vec<Step>;

    /// Elements of scratch that the chain takes.
    fn scratch(&self, s: &Self::Sizes, vjp: bool) -> usize;
}

impl<T: Element> GpuBatch<T> {
    /// The arrays of an operation: constants of the model and of the batch, and what `tensor` says of all else.
    fn arrays<const N: usize, O: OnGpu<N, Real = T>>(
        &self,
        op: &O,
        sizes: &O::Sizes,
        mut tensor: impl FnMut(&Array) -> Address,
    ) -> Result<(Arrays<O::Sizes>, Vec<Keeper>)> {
        let (mut keep, mut failed) = (Vec::new(), None);
        let arrays = sizes.arrays(|array| match array.role {
            Role::Index | Role::Constant => match op.constant(&self.gpu, array.name) {
                Ok(Some((address, keeper))) => {
                    keep.push(keeper);
                    address
                }
                Ok(None) => self.of_batch(array.name).unwrap_or_else(|e| {
                    failed = Some(e);
                    0
                }),
                Err(e) => {
                    failed = Some(e);
                    0
                }
            },
            _ => tensor(array),
        });
        failed.map_or(Ok((arrays, keep)), Err)
    }

    /// Queues an operation in the variant that the cost model chooses.
    ///
    /// # Safety
    /// The arrays are on this GPU and as long as the table says.
    unsafe fn queue<const N: usize, O: OnGpu<N, Real = T>>(
        &self,
        op: &O,
        sizes: &O::Sizes,
        arrays: &Arrays<O::Sizes>,
        vjp: bool,
    ) -> Result<()> {
        let variant = op.pattern().map_or(Variant::Fused, |(pattern, size)| choose(&self.cost_model, pattern, size));
        // The edges' geometry is f64 whatever the network's precision, as on the processor.
        let precision = <O::Argument as crate::ops::Real>::PRECISION;
        let launcher = Launcher { precision, ..self.launcher.clone() };
        if variant == Variant::Unfused {
            // The chain writes what it reads of it, and it is freed behind the chain.
            let scratch = self.gpu.uninitialised::<O::Argument>(op.scratch(sizes, vjp))?;
            let steps = op.chain(&launcher, sizes, arrays, vjp, self.gpu.address(&scratch));
            // SAFETY: the caller's; the scratch is as long as the chain takes.
            return unsafe { self.gpu.steps(&steps) };
        }
        let steps = op.fused(&launcher, sizes, arrays, vjp).map_err(super::into_candle)?;
        // SAFETY: the caller's.
        unsafe { self.gpu.steps(&steps) }
    }

    /// The forward of a custom operation.
    pub fn forward<const N: usize, O: OnGpu<N, Real = T>>(
        &self,
        op: &O,
        arguments: [(&CudaStorage, &Layout); N],
    ) -> Forward {
        let sizes = op.sizes();
        let (inputs, result) = tensors(&sizes);
        let mut at = [0; N];
        for (k, (storage, layout)) in arguments.into_iter().enumerate() {
            check_length::<O::Sizes>(inputs.get(k), layout.shape().elem_count())?;
            at[k] = address_in::<O::Argument>(storage, layout)?;
        }
        let Some(result) = result else { candle_core::bail!("{} has no result", O::Sizes::NAME) };
        let out = self.gpu.uninitialised::<O::Result>(result.len())?;
        let mut next = at.into_iter();
        let (arrays, _keep) = self.arrays(op, &sizes, |array| match array.role {
            Role::Input => next.next().unwrap_or(0),
            Role::Output => self.gpu.address(&out),
            _ => 0,
        })?;
        // SAFETY: arguments were checked, the result was made for it, all else is the batch's and the model's.
        unsafe { self.queue(op, &sizes, &arrays, false)? };
        self.finish(out, shape_of(&result))
    }

    /// The VJP of a custom operation: a cotangent of each argument.
    pub fn vjp<const N: usize, O: OnGpu<N, Real = T>>(
        &self,
        op: &O,
        arguments: [&Tensor; N],
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<[Tensor; N]> {
        let (sizes, gpu) = (op.sizes(), &self.gpu);
        let (inputs, output) = tensors(&sizes);
        for (k, argument) in arguments.iter().enumerate() {
            check_length::<O::Sizes>(inputs.get(k), argument.elem_count())?;
        }
        for tensor in [result, grad] {
            check_length::<O::Sizes>(output.as_ref(), tensor.elem_count())?;
        }
        let held: Vec<Held> = arguments.iter().map(|x| hold::<O::Argument>(x)).collect::<Result<_>>()?;
        let (result, grad) = (hold::<O::Result>(result)?, hold::<O::Result>(grad)?);
        // Zeros that the VJP adds to.
        let grads = arguments.map(|x| gpu.candle.alloc_zeros::<O::Argument>(x.elem_count()));
        let grads: Vec<CudaSlice<O::Argument>> = grads.into_iter().collect::<Result<_>>()?;
        let room: usize = sizes.table().iter().filter(|a| a.role == Role::Room).map(Array::len).sum();
        let room = gpu.uninitialised::<f64>(room.max(1))?;
        let (mut next, mut next_grad) = (held.iter().map(|x| x.address), grads.iter().map(|x| gpu.address(x)));
        let (arrays, _keep) = self.arrays(op, &sizes, |array| match array.role {
            Role::Input => next.next().unwrap_or(0),
            Role::Output => result.address,
            Role::Cotangent => grad.address,
            Role::Gradient => next_grad.next().unwrap_or(0),
            _ => gpu.address(&room),
        })?;
        // SAFETY: arguments, result and cotangent were checked; gradients are as long as the arguments, in their order; no
        // operation here has room for more than one array.
        unsafe { self.queue(op, &sizes, &arrays, true)? };
        let made: Vec<Tensor> =
            grads.into_iter().zip(arguments).map(|(array, like)| self.tensor(array, like)).collect();
        made.try_into().map_err(|_| candle_core::Error::msg("another number of cotangents"))
    }
}
