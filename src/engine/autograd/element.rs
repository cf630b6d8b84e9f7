//! Elements of candle's tensors, and their values on the processor.

#[cfg(feature = "candle-cuda")]
use candle_core::cuda_backend::CudaDType;
use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType};
#[cfg(feature = "candle-cuda")]
use cudarc::driver::{DeviceRepr, ValidAsZeroBits};

use crate::clock::ran;
use crate::ops::Real;
use crate::ops::choice::{Pattern, Size, Variant};
use crate::ops::cost_model::CostModel;

/// Elements of arrays on a GPU.
#[cfg(feature = "candle-cuda")]
pub trait OnGpu: CudaDType + DeviceRepr + ValidAsZeroBits {}
#[cfg(feature = "candle-cuda")]
impl<T: CudaDType + DeviceRepr + ValidAsZeroBits> OnGpu for T {}

/// What a GPU asks of its elements: nothing where there is none.
#[cfg(not(feature = "candle-cuda"))]
pub trait OnGpu {}
#[cfg(not(feature = "candle-cuda"))]
impl<T> OnGpu for T {}

/// Type of the network's tensors: f32 or f64.
pub trait Element: Real + WithDType + OnGpu {}
impl Element for f32 {}
impl Element for f64 {}

pub(super) fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let data = T::cpu_storage_as_slice(storage)?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => candle_core::bail!("custom operations need contiguous arguments, got strides {:?}", layout.stride()),
    }
}

/// Runs `f` over the values of a tensor on the CPU.
pub(super) fn with_slice<T: WithDType, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(slice(cpu, layout)?)),
        _ => candle_core::bail!("this custom operation runs on the CPU only"),
    }
}

pub(super) fn like<T: WithDType>(values: Vec<T>, tensor: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, tensor.shape(), tensor.device())
}

pub(super) fn zeros<T: Real>(tensor: &Tensor) -> Vec<T> {
    vec![T::zero(); tensor.elem_count()]
}

/// Which variant of an operation runs; the profiler hears of it.
pub(super) fn choose(cost_model: &CostModel, pattern: Pattern, size: Size) -> Variant {
    let is_fused = cost_model.should_fuse(pattern, size);
    ran(is_fused);
    if is_fused { Variant::Fused } else { Variant::Unfused }
}
