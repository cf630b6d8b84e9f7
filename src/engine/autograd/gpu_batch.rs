//! A batch on a GPU, and the custom operations on it: the kernels of `kernels/` over candle's storage.

use std::any::Any;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Layout, Result, Shape, Storage, Tensor};
use cudarc::driver::{CudaSlice, DevicePtr};

use super::custom::{Op, check_length, shape_of, tensors};
use super::element::{self, Element, choose};
use super::gpu::Gpu;
use crate::batch::PaddedBatch;
use crate::cuda::{Address, DenseShape, Launcher, Step};
use crate::ops::choice::Variant;
use crate::ops::cost_model::CostModel;
use crate::ops::count;
use crate::ops::dense::{Activation, DenseArrays, LayerSizes, Linear};
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

/// A contiguous tensor on the GPU, held while kernels that read it are queued; what is freed later is freed behind them.
struct Held {
    _tensor: Tensor,
    address: Address,
}

fn address_in<U: element::OnGpu>(storage: &CudaStorage, layout: &Layout) -> Result<Address> {
    let slice = storage.as_cuda_slice::<U>()?;
    let Some((start, _)) = layout.contiguous_offsets() else {
        candle_core::bail!("custom operations need contiguous arguments, got strides {:?}", layout.stride())
    };
    let stream = storage.device().cuda_stream();
    Ok(slice.device_ptr(&stream).0 + (start * size_of::<U>()) as u64)
}

fn hold<U: element::OnGpu>(tensor: &Tensor) -> Result<Held> {
    let tensor = tensor.contiguous()?;
    let address = {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => address_in::<U>(storage, layout)?,
            _ => candle_core::bail!("a tensor of a batch on the GPU is on the processor"),
        }
    };
    Ok(Held { _tensor: tensor, address })
}

/// A layer's sizes and activation for `n_rows` rows. The slope is what the forward saves.
fn dense_shape<T>(layer: &Linear<T>, activation: Activation, n_rows: usize) -> DenseShape {
    let [n_rows, n_in, n_out] = [n_rows, layer.n_in, layer.n_out].map(count);
    DenseShape { activation, save_slope: true, ..DenseShape::linear(LayerSizes { n_rows, n_in, n_out }) }
}

/// A batch's arrays on a GPU, and the operations on them. [`PaddedBatch`] counts rows and edges in 32 bits.
pub struct GpuBatch<T> {
    gpu: Arc<Gpu<T>>,
    launcher: Launcher,
    cost_model: Arc<CostModel>,
    receivers: CudaSlice<u32>,
    senders: CudaSlice<u32>,
    edge_ptr: CudaSlice<u32>,
    reverse_edge: CudaSlice<u32>,
    structure_of: CudaSlice<u32>,
    /// `[n_structures, 2]`.
    atoms_of: CudaSlice<u32>,
    references: CudaSlice<f64>,
    /// `[n_edges, 3]`; none where no structure is periodic.
    offsets: Option<CudaSlice<f64>>,
}

type Forward = Result<(CudaStorage, Shape)>;

impl<T: Element> GpuBatch<T> {
    /// Copies a batch with at least one edge to the GPU; `cost_model` chooses among its kernels and the chains of
    /// elementary ones.
    ///
    /// # Errors
    /// What the tensor library reports.
    pub fn new(gpu: Arc<Gpu<T>>, batch: &PaddedBatch, cost_model: &Arc<CostModel>) -> Result<Self> {
        let mut launcher = gpu.launcher.clone();
        launcher.dense_sizes.cost_model = Some(cost_model.clone());
        let atoms_of: Vec<u32> = batch.atoms_of.iter().flat_map(|rows| [rows.start as u32, rows.end as u32]).collect();
        let offsets = batch.offsets.as_flattened();
        let offsets = if offsets.iter().any(|&x| x != 0.0) { Some(gpu.upload(offsets)?) } else { None };
        Ok(GpuBatch {
            receivers: gpu.upload(&batch.topology.receivers)?,
            senders: gpu.upload(&batch.topology.senders)?,
            edge_ptr: gpu.upload(&batch.topology.edge_ptr)?,
            reverse_edge: gpu.upload(&batch.topology.reverse_edge)?,
            structure_of: gpu.upload(&batch.structure_of)?,
            atoms_of: gpu.upload(&atoms_of)?,
            references: gpu.upload(&batch.references)?,
            offsets,
            launcher,
            cost_model: cost_model.clone(),
            gpu,
        })
    }

    /// An array of the batch.
    fn of_batch(&self, name: &str) -> Result<Address> {
        let gpu = &self.gpu;
        Ok(match name {
            "receivers" => gpu.address(&self.receivers),
            "senders" => gpu.address(&self.senders),
            "edge_ptr" => gpu.address(&self.edge_ptr),
            "reverse_edge" => gpu.address(&self.reverse_edge),
            "structure_of" => gpu.address(&self.structure_of),
            "atoms_of" => gpu.address(&self.atoms_of),
            "references" => gpu.address(&self.references),
            "offsets" => self.offsets.as_ref().map_or(0, |offsets| gpu.address(offsets)),
            _ => candle_core::bail!("a batch has no array {name}"),
        })
    }

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
        let steps = op.fused(&launcher, sizes, arrays, vjp).map_err(candle_core::Error::msg)?;
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

    fn finish<U: element::OnGpu>(&self, array: CudaSlice<U>, shape: impl Into<Shape>) -> Forward {
        Ok((U::wrap_cuda_slice(array, self.gpu.candle.clone()), shape.into()))
    }

    fn tensor<U: element::OnGpu>(&self, array: CudaSlice<U>, like: &Tensor) -> Tensor {
        let storage = Storage::Cuda(U::wrap_cuda_slice(array, self.gpu.candle.clone()));
        Tensor::from_storage(storage, like.shape(), BackpropOp::none(), false)
    }

    /// The result, and the activation's slope where it is to be kept.
    pub fn dense(
        &self,
        layer: &Arc<Linear<T>>,
        activation: Activation,
        keep: bool,
        (storage, layout): (&CudaStorage, &Layout),
    ) -> Result<(CudaStorage, Shape, Option<CudaSlice<T>>)> {
        let gpu = &self.gpu;
        let n_rows = layout.shape().elem_count() / layer.n_in;
        let weights = gpu.layer(layer)?;
        let y = gpu.uninitialised::<T>(n_rows * layer.n_out)?;
        let keep = keep && activation != Activation::Identity;
        let saved = if keep { Some(gpu.uninitialised::<T>(n_rows * layer.n_out)?) } else { None };
        let arrays = DenseArrays {
            x: address_in::<T>(storage, layout)?,
            weight: gpu.address(&weights.weight),
            bias: weights.bias.as_ref().map_or(0, |bias| gpu.address(bias)),
            y: gpu.address(&y),
            saved: saved.as_ref().map_or(0, |saved| gpu.address(saved)),
            ..DenseArrays::default()
        };
        // SAFETY: `n_rows` rows of the layer's lengths.
        unsafe { gpu.steps(&self.launcher.dense_steps(&dense_shape(layer, activation, n_rows), &arrays))? };
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = layer.n_out;
        }
        let (storage, shape) = self.finish(y, dims)?;
        Ok((storage, shape, saved))
    }

    pub fn dense_vjp(
        &self,
        layer: &Arc<Linear<T>>,
        activation: Activation,
        saved: Option<&CudaSlice<T>>,
        arg: &Tensor,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let gpu = &self.gpu;
        let grad = hold::<T>(grad)?;
        let weights = gpu.layer(layer)?;
        let out = gpu.candle.alloc_zeros::<T>(arg.elem_count())?;
        let n_rows = arg.elem_count() / layer.n_in;
        let shape = dense_shape(layer, activation, n_rows);
        let behind_activation = self.launcher.dense_vjp_uses_library(&shape) && saved.is_some();
        let room = if behind_activation { Some(gpu.uninitialised::<T>(n_rows * layer.n_out)?) } else { None };
        // The argument is read only behind an activation of its own, which these layers do not have.
        let arrays = DenseArrays {
            grad_y: grad.address,
            saved: saved.map_or(0, |saved| gpu.address(saved)),
            weight: gpu.address(&weights.weight),
            grad_x: gpu.address(&out),
            grad_z: room.as_ref().map_or(0, |room| gpu.address(room)),
            ..DenseArrays::default()
        };
        // SAFETY: as in the forward; the first step writes the room.
        unsafe { gpu.steps(&self.launcher.dense_vjp_steps(&shape, &arrays))? };
        Ok(Some(self.tensor(out, arg)))
    }
}
