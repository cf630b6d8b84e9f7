//! A GPU shared with candle: its memory and stream, our kernels, a model's weights.
//!
//! Everything is queued on one stream, which candle allocates and frees on as well, so nothing waits but the reading of results.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use candle_core::{CudaDevice, Device, Result, Tensor};
use cudarc::driver::sys::CUmemPool_attribute;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, result};

use super::element::{Element, OnGpu};
use crate::clock::Events;
use crate::cuda::{Address, Backend, Launcher, Step, StreamEvents, require_libraries};
use crate::ops::Real;
use crate::ops::dense::Linear;
use crate::ops::radial_basis::RadialBasis;
use crate::roofline::Peaks;
use crate::settings::Precision;

/// Rows and columns of the products of which the best rate counts.
const SIZES: [usize; 3] = [1024, 2048, 4096];

/// Bytes that are copied: beyond the caches.
const COPY: usize = 256 << 20;

/// Lets arrays to come have the memory of those that are gone. Otherwise each synchronisation gives it back to the system,
/// and the next batch has to ask for it again. Where that is refused it costs time only.
fn keep_memory(context: &CudaContext) {
    let mut threshold = u64::MAX;
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the context's own device; the attribute is a live integer of 64 bits.
    let _ = unsafe {
        result::device::get_default_mem_pool(context.cu_device())
            .and_then(|pool| result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()))
    };
}

/// Shortest of some runs after one that is not counted, s on the stream. They are queued together, so that the stream does
/// not wait for the host.
fn shortest(events: &mut StreamEvents, mut work: impl FnMut() -> crate::Result<()>) -> crate::Result<f64> {
    work()?;
    events.start()?;
    for _ in 0..7 {
        work()?;
        events.record();
    }
    let mut since = Duration::ZERO;
    let times = events.times()?.into_iter().map(|now| (now - std::mem::replace(&mut since, now)).as_secs_f64());
    Ok(times.fold(f64::INFINITY, f64::min))
}

/// A GPU with the kernels that candle's tensors go through, and a model's weights there.
pub struct Gpu<T> {
    device: Device,
    pub(super) candle: CudaDevice,
    stream: Arc<CudaStream>,
    kernels: Mutex<crate::cuda::Device>,
    pub(super) launcher: Launcher,
    layers: Mutex<HashMap<usize, Arc<GpuLayer<T>>>>,
    basis: Mutex<Option<Arc<GpuBasis<T>>>>,
}

/// One layer's weights.
pub(super) struct GpuLayer<T> {
    pub weight: CudaSlice<T>,
    pub bias: Option<CudaSlice<T>>,
    // Its address is the key, which must not be another layer's later.
    _layer: Arc<Linear<T>>,
}

/// Parameters of the radial basis.
pub(super) struct GpuBasis<T> {
    functions: RadialBasis,
    /// Centres or frequencies.
    pub first: CudaSlice<T>,
    /// Widths of Gaussians.
    pub widths: Option<CudaSlice<T>>,
}

impl<T: Element> Gpu<T> {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// `CudaError` saying what is missing and what to install.
    pub fn open(ordinal: usize) -> crate::Result<Self> {
        crate::cuda::check(ordinal)?;
        require_libraries()?;
        let failed = |e: candle_core::Error| crate::Error::Tensor(e.to_string());
        let device = Device::new_cuda_with_stream(ordinal).map_err(failed)?;
        let candle = device.as_cuda_device().map_err(failed)?.clone();
        // SAFETY: all arrays of this device are allocated, used and freed on its one stream.
        unsafe { candle.disable_event_tracking() };
        let stream = candle.cuda_stream();
        keep_memory(stream.context());
        let mut kernels = crate::cuda::Device::on_stream(stream.clone())?;
        let precision = if size_of::<T>() == 8 { Precision::F64 } else { Precision::F32 };
        // Comes with cuBLAS; without it our kernels make all products.
        let has_library = kernels.load_library().is_ok();
        let launcher = Launcher { has_library, ..Launcher::new(precision, kernels.limits()) };
        let kernels = Mutex::new(kernels);
        Ok(Gpu { device, candle, stream, kernels, launcher, layers: Mutex::default(), basis: Mutex::default() })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Rates of candle's matrix product in the precision of the network, which is cuBLAS's, and of a copy.
    ///
    /// # Errors
    /// `Error::Tensor`, also for want of memory; `CudaError::Call`.
    pub fn peaks(&self) -> crate::Result<Peaks> {
        let failed = |e: candle_core::Error| crate::Error::Tensor(e.to_string());
        let mut events = StreamEvents::new(self.stream.clone());
        let mut flops = 0.0_f64;
        for n in SIZES {
            // Not of equal numbers, with which GPUs take less power and run faster.
            let a = Tensor::rand(-0.5_f32, 0.5, (n, n), &self.device).and_then(|a| a.to_dtype(T::DTYPE));
            let a = a.map_err(failed)?;
            let time = shortest(&mut events, || a.matmul(&a).map(drop).map_err(failed))?;
            flops = flops.max(2.0 * (n as f64).powi(3) / time);
        }
        let zeros = || self.candle.alloc_zeros::<u8>(COPY).map_err(failed);
        let (from, mut to) = (zeros()?, zeros()?);
        let time = shortest(&mut events, || self.candle.memcpy_dtod(&from, &mut to).map_err(failed))?;
        Ok(Peaks { flops, bytes_s: 2.0 * COPY as f64 / time })
    }

    /// # Safety
    /// The steps' arrays are on this GPU, with the shapes that the kernels document.
    pub(super) unsafe fn steps(&self, steps: &[Step]) -> Result<()> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's.
        steps.iter().try_for_each(|step| unsafe { kernels.step(step) }).map_err(super::into_candle)
    }

    pub(super) fn address<U>(&self, slice: &CudaSlice<U>) -> Address {
        // The guard records events, which are switched off.
        slice.device_ptr(&self.stream).0
    }

    pub(super) fn uninitialised<U: OnGpu>(&self, n: usize) -> Result<CudaSlice<U>> {
        // SAFETY: only for arrays that a kernel overwrites as a whole before they are read.
        unsafe { self.candle.alloc(n) }
    }

    pub(super) fn upload<U: OnGpu + 'static>(&self, values: &[U]) -> Result<CudaSlice<U>> {
        self.candle.clone_htod(values)
    }

    pub(super) fn layer(&self, layer: &Arc<Linear<T>>) -> Result<Arc<GpuLayer<T>>> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Arc::as_ptr(layer) as usize;
        if let Some(found) = layers.get(&key) {
            return Ok(found.clone());
        }
        let weight = self.upload(&layer.weight)?;
        let bias = layer.bias.as_ref().map(|bias| self.upload(bias)).transpose()?;
        let uploaded = Arc::new(GpuLayer { weight, bias, _layer: layer.clone() });
        layers.insert(key, uploaded.clone());
        Ok(uploaded)
    }

    pub(super) fn basis(&self, functions: &RadialBasis) -> Result<Arc<GpuBasis<T>>> {
        let mut basis = self.basis.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = basis.as_ref().filter(|found| found.functions == *functions) {
            return Ok(found.clone());
        }
        let rounded = |values: &[f64]| self.upload(&values.iter().map(|&x| <T as Real>::of(x)).collect::<Vec<T>>());
        let (first, widths) = match functions {
            RadialBasis::Gaussian { centers, widths } => (rounded(centers)?, Some(rounded(widths)?)),
            RadialBasis::Bessel { frequencies } => (rounded(frequencies)?, None),
        };
        let uploaded = Arc::new(GpuBasis { functions: functions.clone(), first, widths });
        *basis = Some(uploaded.clone());
        Ok(uploaded)
    }
}
