//! A batch on a GPU: its arrays, candle's storage as arrays for our kernels, and dense layers.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Layout, Result, Shape, Storage, Tensor};
use cudarc::driver::{CudaSlice, DevicePtr};

use super::element::{Element, OnGpu};
use super::gpu::Gpu;
use crate::batch::PaddedBatch;
use crate::cuda::{Address, DenseShape, Launcher};
use crate::ops::cost_model::CostModel;
use crate::ops::count;
use crate::ops::dense::{Activation, DenseArrays, LayerSizes, Linear};

/// A contiguous tensor on the GPU, held while kernels that read it are queued; what is freed later is freed behind them.
pub(super) struct Held {
    _tensor: Tensor,
    pub address: Address,
}

pub(super) fn address_in<U: OnGpu>(storage: &CudaStorage, layout: &Layout) -> Result<Address> {
    let slice = storage.as_cuda_slice::<U>()?;
    let Some((start, _)) = layout.contiguous_offsets() else {
        candle_core::bail!("custom operations need contiguous arguments, got strides {:?}", layout.stride())
    };
    let stream = storage.device().cuda_stream();
    Ok(slice.device_ptr(&stream).0 + (start * size_of::<U>()) as u64)
}

pub(super) fn hold<U: OnGpu>(tensor: &Tensor) -> Result<Held> {
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
    pub(super) gpu: Arc<Gpu<T>>,
    pub(super) launcher: Launcher,
    pub(super) cost_model: Arc<CostModel>,
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

pub(super) type Forward = Result<(CudaStorage, Shape)>;

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
    pub(super) fn of_batch(&self, name: &str) -> Result<Address> {
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

    pub(super) fn finish<U: OnGpu>(&self, array: CudaSlice<U>, shape: impl Into<Shape>) -> Forward {
        Ok((U::wrap_cuda_slice(array, self.gpu.candle.clone()), shape.into()))
    }

    pub(super) fn tensor<U: OnGpu>(&self, array: CudaSlice<U>, like: &Tensor) -> Tensor {
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
