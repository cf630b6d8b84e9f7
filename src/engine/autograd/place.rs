//! Where an engine's tensors are, and what the operations of one batch share there.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::Device;

use super::element::{Element, choose};
use crate::batch::PaddedBatch;
use crate::clock::{Clock, Component, Within, within};
use crate::error::Result;
use crate::ops::choice::{Pattern, Size, Variant};
use crate::ops::cost_model::CostModel;
use crate::roofline::{Peaks, processor_name};
use crate::settings::DeviceKind;

/// A processor, or a GPU with the kernels and the weights on it.
pub struct Place<T: Element> {
    kind: DeviceKind,
    #[cfg(feature = "candle-cuda")]
    gpu: Option<Arc<super::gpu::Gpu<T>>>,
    element: PhantomData<T>,
}

impl<T: Element> Place<T> {
    /// Opens a device.
    ///
    /// # Errors
    /// `CudaError` where there is no GPU that can be used; `Error::Usage` where this program was built without candle's CUDA.
    pub fn open(kind: DeviceKind) -> Result<Self> {
        #[cfg(feature = "candle-cuda")]
        let gpu = match kind {
            DeviceKind::Cpu => None,
            DeviceKind::Cuda(ordinal) => Some(Arc::new(super::gpu::Gpu::open(ordinal)?)),
        };
        #[cfg(not(feature = "cuda"))]
        if let DeviceKind::Cuda(_) = kind {
            return Err(crate::Error::NotBuilt { what: "batched autograd for GPUs", feature: "candle-cuda" });
        }
        #[cfg(all(feature = "cuda", not(feature = "candle-cuda")))]
        if let DeviceKind::Cuda(ordinal) = kind {
            let found = crate::cuda::Device::open(ordinal)?.describe()?;
            return Err(crate::Error::Usage(format!(
                "there is a GPU ({found}), but this program was built without the engine for it: \
                 scripts/build_candle_cuda.sh builds it (cargo feature candle-cuda)"
            )));
        }
        Ok(Place {
            kind,
            #[cfg(feature = "candle-cuda")]
            gpu,
            element: PhantomData,
        })
    }

    /// Which device it is.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// What stamps the profiler's boundaries, and the device's name.
    ///
    /// # Errors
    /// What a GPU reports.
    pub(crate) fn clock(&self) -> Result<(Clock, String)> {
        #[cfg(feature = "candle-cuda")]
        if let Some(gpu) = &self.gpu {
            return crate::cuda::StreamEvents::clock(gpu.stream().clone());
        }
        Ok((Clock::Monotonic, processor_name()))
    }

    /// Rates of a GPU, measured now; none on the processor.
    ///
    /// # Errors
    /// What the device or the tensor library reports.
    pub(crate) fn peaks(&self) -> Result<Option<Peaks>> {
        #[cfg(feature = "candle-cuda")]
        return self.gpu.as_ref().map(|gpu| gpu.peaks()).transpose();
        #[cfg(not(feature = "candle-cuda"))]
        Ok(None)
    }

    /// Puts a batch here; `keep` says that a backward will follow, `cost_model` what to fuse. A batch without an edge stays
    /// on the processor: it is a matter of microseconds, and GPUs have no empty arrays.
    ///
    /// # Errors
    /// What the tensor library reports.
    pub fn run(&self, batch: PaddedBatch, keep: bool, cost_model: &Arc<CostModel>) -> candle_core::Result<Arc<Run<T>>> {
        let cost_model = cost_model.clone();
        #[cfg(feature = "candle-cuda")]
        if let Some(gpu) = self.gpu.as_ref().filter(|_| batch.topology.n_edges() > 0) {
            let _component = within(Component::Transfers);
            let device = gpu.device().clone();
            let gpu = Some(super::gpu_batch::GpuBatch::new(gpu.clone(), &batch, &cost_model)?);
            return Ok(Arc::new(Run { batch, keep, cost_model, device, gpu, element: PhantomData }));
        }
        Ok(Arc::new(Run {
            batch,
            keep,
            cost_model,
            device: Device::Cpu,
            #[cfg(feature = "candle-cuda")]
            gpu: None,
            element: PhantomData,
        }))
    }
}

/// What the operations of one batch share.
pub struct Run<T: Element> {
    /// The batch.
    pub batch: PaddedBatch,
    /// Whether a backward will follow.
    pub keep: bool,
    /// What to fuse.
    pub cost_model: Arc<CostModel>,
    /// Where its tensors are.
    pub device: Device,
    /// Its arrays on the GPU.
    #[cfg(feature = "candle-cuda")]
    pub(super) gpu: Option<super::gpu_batch::GpuBatch<T>>,
    element: PhantomData<T>,
}

impl<T: Element> Run<T> {
    /// Which variant of an operation runs on the processor.
    pub(super) fn choose(&self, pattern: Pattern, size: Size) -> Variant {
        choose(&self.cost_model, pattern, size)
    }

    /// What follows, until the value returned is dropped, copies to or from a GPU. The processor keeps what it has.
    pub(super) fn transfer(&self) -> Option<Within> {
        self.device.is_cuda().then(|| within(Component::Transfers))
    }
}

#[cfg(feature = "candle-cuda")]
impl<T: Element> Run<T> {
    /// The batch's arrays on the GPU.
    ///
    /// # Errors
    /// If its tensors are on the processor.
    pub(super) fn gpu(&self) -> candle_core::Result<&super::gpu_batch::GpuBatch<T>> {
        self.gpu.as_ref().ok_or_else(|| candle_core::Error::msg("this batch is not on the GPU"))
    }
}
