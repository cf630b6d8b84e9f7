//! A GPU: found, opened, given kernels to run.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute, CUfunction_attribute_enum, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};

use super::blas::CublasLt;
use super::cache::{Cache, Compiler, Target};
use super::nvrtc::Nvrtc;
use super::{Address, Backend, HostMemory, KernelSource, Launch, Limits, Product, SOURCES};
use crate::error::CudaError;
use crate::error::OLDEST_DRIVER;
use crate::error::Result;

/// A GPU with the kernels that have been used on it.
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    limits: Limits,
    cache: Cache,
    compiler: Nvrtc,
    target: Target,
    functions: HashMap<&'static str, sys::CUfunction>,
    blas: Option<CublasLt>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("ordinal", &self.context.ordinal())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

// SAFETY: the handles in `functions` belong to the context, which may be used from any thread once it is bound there;
// every method binds it. Everything else is `Send`: NVRTC's functions may be called from any thread.
unsafe impl Send for Device {}

impl Device {
    /// Opens GPU number `ordinal`; its kernels are compiled when they are first used.
    ///
    /// # Errors
    /// `CudaError` saying what is missing and what to install; never a panic from a missing library.
    pub fn open(ordinal: usize) -> Result<Self> {
        check(ordinal)?;
        let context = call("open the device", CudaContext::new(ordinal))?;
        Self::on_stream(call("make a stream", context.new_stream())?)
    }

    /// Runs the kernels on a stream that is there already, with arrays of its context.
    ///
    /// # Errors
    /// `CudaError`, as [`Device::open`].
    pub(crate) fn on_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let context = stream.context().clone();
        let attribute = |what| Ok::<_, crate::Error>(call("device attribute", context.attribute(what))?.unsigned_abs());
        let capability = 10 * attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
            + attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let limits = Limits {
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            has_clusters: capability >= 90,
        };
        let compiler = Nvrtc::find()?;
        let target = compiler.target(capability)?;
        Ok(Device {
            context,
            stream,
            limits,
            cache: Cache::of_user(),
            compiler,
            target,
            functions: HashMap::new(),
            blas: None,
        })
    }

    /// Loads cuBLASLt for [`super::DenseChoice::Library`] unless it is loaded; returns its version as it counts.
    ///
    /// # Errors
    /// `CudaError::NoLibrary`: everything works without it.
    pub fn load_library(&mut self) -> Result<usize> {
        call("bind", self.context.bind_to_thread())?;
        if let Some(blas) = &self.blas {
            return Ok(blas.version());
        }
        let blas = CublasLt::open()?;
        let version = blas.version();
        self.blas = Some(blas);
        Ok(version)
    }

    /// Runs `work` and returns the seconds that what it queued took, by the device's clock.
    ///
    /// # Errors
    /// Those of `work`; `CudaError::Call`, also for faults of kernels.
    pub fn time(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<f64> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = call("record an event", self.stream.record_event(flags))?;
        work(self)?;
        let end = call("record an event", self.stream.record_event(flags))?;
        self.synchronize()?;
        Ok(f64::from(call("read the clock", start.elapsed_ms(&end))?) * 1e-3)
    }

    /// Queues a copy of `n_bytes` between arrays.
    ///
    /// # Safety
    /// Both are on this device, as long, and do not overlap.
    ///
    /// # Errors
    /// `CudaError::Call`.
    pub unsafe fn copy(&mut self, from: Address, to: Address, n_bytes: usize) -> Result<()> {
        call("bind", self.context.bind_to_thread())?;
        // SAFETY: the caller's.
        call("copy", unsafe { result::memcpy_dtod_async(to, from, n_bytes, self.stream.cu_stream()) })
    }

    /// The GPU's name, and what the kernels are compiled with and for.
    ///
    /// # Errors
    /// `CudaError::Call`.
    pub fn describe(&self) -> Result<String> {
        let (name, driver) = self.identity()?;
        let (limits, compiler) = (self.limits, self.compiler.version());
        Ok(format!(
            "{name}, {} multiprocessors, driver for CUDA {driver}, NVRTC {compiler} for {}",
            limits.multiprocessors, self.target
        ))
    }

    /// The GPU's name and the CUDA version of its driver.
    ///
    /// # Errors
    /// `CudaError::Call`.
    pub fn identity(&self) -> Result<(String, String)> {
        let name = call("name of the device", self.context.name())?;
        let mut driver = 0;
        // SAFETY: the driver is loaded; the pointer is to a live integer.
        let asked = unsafe { sys::cuDriverGetVersion(&mut driver) };
        call("version of the driver", asked.result())?;
        Ok((name, format!("{}.{}", driver / 1000, driver % 1000 / 10)))
    }

    /// The stream that all work is queued on.
    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// What launches must know of this device.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Waits until everything queued is done.
    ///
    /// # Errors
    /// `CudaError::Call`, also for faults of kernels that ran before.
    pub fn synchronize(&self) -> Result<()> {
        call("synchronize", self.stream.synchronize())
    }

    /// The handle of a kernel; compiles and loads its program if it is the first of it.
    fn function(&mut self, kernel: &str) -> Result<sys::CUfunction> {
        if let Some(&function) = self.functions.get(kernel) {
            return Ok(function);
        }
        let unknown = || CudaError::Launch { kernel: kernel.into(), reason: "there is no such kernel".into() };
        let source = SOURCES.iter().find(|source| source.kernels.contains(&kernel)).ok_or_else(unknown)?;
        let code = self.cache.get(&self.compiler, source, self.target)?;
        self.load_code(source, code)?;
        self.functions.get(kernel).copied().ok_or_else(|| unknown().into())
    }

    fn load_code(&mut self, source: &KernelSource, mut code: Vec<u8>) -> Result<()> {
        // PTX is text that ends with a zero; machine code carries its length.
        code.push(0);
        // SAFETY: `code` is a whole image made by NVRTC for this device and outlives the call. The module is never
        // unloaded, so its functions stay valid as long as the context.
        let module = call(source.name, unsafe { result::module::load_data(code.as_ptr().cast()) })?;
        let shared = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        for &name in source.kernels {
            let no_name = |_| CudaError::Launch { kernel: name.into(), reason: "its name holds a zero".into() };
            let c_name = CString::new(name).map_err(no_name)?;
            // SAFETY: the module is loaded, the function is its own.
            unsafe {
                let function = call(name, result::module::get_function(module, c_name))?;
                let own = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
                let own = call(name, result::function::get_function_attribute(function, own))?;
                let room = (self.limits.shared_bytes as i32).saturating_sub(own).max(0);
                call(name, result::function::set_function_attribute(function, shared, room))?;
                self.functions.insert(name, function);
            }
        }
        Ok(())
    }
}

/// Memory that the device reads and writes without a detour, and freed with this value.
struct Pinned {
    data: *mut u8,
    len: usize,
    context: Arc<CudaContext>,
}

// SAFETY: memory of the host, which any thread may use.
unsafe impl Send for Pinned {}

impl HostMemory for Pinned {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this length, and borrowed as this value is.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `host_memory`, freed once. What cannot be freed is lost with the context.
            let _ = unsafe { result::free_host(self.data.cast()) };
        }
    }
}

impl Backend for Device {
    fn load(&mut self, sources: &[KernelSource]) -> Result<()> {
        let (cache, compiler, target) = (&self.cache, &self.compiler, self.target);
        let compile = |source| cache.get(compiler, source, target);
        // The threads of a pool would do, but whoever waits for a GPU may have no pool.
        let codes: Vec<Result<Vec<u8>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = sources
                .iter()
                .map(|source| std::thread::Builder::new().spawn_scoped(scope, || compile(source)))
                .collect();
            let join = |(thread, source): (std::io::Result<std::thread::ScopedJoinHandle<_>>, _)| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(_) => compile(source),
            };
            threads.into_iter().zip(sources).map(join).collect()
        });
        call("bind", self.context.bind_to_thread())?;
        for (source, code) in sources.iter().zip(codes) {
            self.load_code(source, code?)?;
        }
        Ok(())
    }

    fn allocate(&mut self, n_bytes: usize) -> Result<Address> {
        if n_bytes == 0 {
            return Ok(0);
        }
        call("bind", self.context.bind_to_thread())?;
        // SAFETY: asks for memory; what it holds is nobody's concern until it is written.
        match unsafe { result::malloc_sync(n_bytes) } {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let free = result::mem_get_info().map_or(0, |(free, _)| free);
                Err(CudaError::OutOfMemory { asked: n_bytes, free }.into())
            }
            other => call("allocate", other),
        }
    }

    fn host_memory(&mut self, n_bytes: usize) -> Result<Box<dyn HostMemory>> {
        call("bind", self.context.bind_to_thread())?;
        let len = n_bytes.max(1);
        // SAFETY: asks for memory; zeroed, so that its bytes may be looked at.
        let data = unsafe {
            let data: *mut u8 = call("allocate on the host", result::malloc_host(len, 0))?.cast();
            data.write_bytes(0, len);
            data
        };
        Ok(Box::new(Pinned { data, len, context: self.context.clone() }))
    }

    unsafe fn write(&mut self, address: Address, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        call("bind", self.context.bind_to_thread())?;
        // SAFETY: the caller's.
        call("copy to the device", unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) })
    }

    unsafe fn read(&mut self, address: Address, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        call("bind", self.context.bind_to_thread())?;
        // SAFETY: the caller's.
        call("copy from the device", unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) })
    }

    fn wait(&mut self) -> Result<()> {
        self.synchronize()
    }

    fn upload(&mut self, bytes: &[u8]) -> Result<Address> {
        if bytes.is_empty() {
            return Ok(0);
        }
        call("bind", self.context.bind_to_thread())?;
        // On the stream of the launches, which does not wait for others. SAFETY: the array has the length of what is copied
        // into it; from memory that is not pinned the driver takes its copy before it returns.
        unsafe {
            let address = call("allocate", result::malloc_sync(bytes.len()))?;
            call("copy to the device", result::memcpy_htod_async(address, bytes, self.stream.cu_stream()))?;
            Ok(address)
        }
    }

    unsafe fn download(&mut self, address: Address, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        call("bind", self.context.bind_to_thread())?;
        self.synchronize()?;
        // SAFETY: the caller says that the array is that long.
        call("copy from the device", unsafe { result::memcpy_dtoh_sync(bytes, address) })
    }

    unsafe fn free(&mut self, address: Address) -> Result<()> {
        if address == 0 {
            return Ok(());
        }
        call("bind", self.context.bind_to_thread())?;
        // SAFETY: the caller says that the array is its own.
        call("free", unsafe { result::free_sync(address) })
    }

    unsafe fn launch(&mut self, launch: &Launch) -> Result<()> {
        if launch.is_empty() {
            return Ok(());
        }
        call("bind", self.context.bind_to_thread())?;
        let function = self.function(&launch.kernel)?;
        let [x, y, z] = launch.grid;
        // The driver copies each argument's own bytes from the low end of its words.
        let mut args: Vec<*mut c_void> = launch.args.iter().map(|arg| arg.words().as_ptr().cast_mut().cast()).collect();
        // SAFETY: the caller says that the arguments are the kernel's; the words outlive the call, which copies them.
        let done = unsafe {
            let (grid, block) = ((x, y, z), (launch.block, 1, 1));
            result::launch_kernel(function, grid, block, launch.shared_bytes, self.stream.cu_stream(), &mut args)
        };
        call(&launch.kernel, done)
    }

    unsafe fn product(&mut self, product: &Product) -> Result<()> {
        self.load_library()?;
        let stream = self.stream.cu_stream().cast();
        // SAFETY: the caller's; the context is bound.
        self.blas.as_mut().map_or(Ok(()), |blas| unsafe { blas.product(product, stream) })
    }
}

/// Whether there is a GPU of this number and a driver that starts.
///
/// # Errors
/// `CudaError` saying what is missing.
pub(crate) fn check(ordinal: usize) -> Result<()> {
    start_driver(ordinal)?;
    let found = call("number of devices", result::device::get_count())?;
    let found = usize::try_from(found).unwrap_or(0);
    if ordinal >= found {
        return Err(CudaError::NoGpu { ordinal, found }.into());
    }
    Ok(())
}

/// Loads and starts the driver, if there is one that is new enough.
fn start_driver(ordinal: usize) -> Result<()> {
    if !driver_is_there() {
        return Err(CudaError::NoDriver.into());
    }
    let mut found = 0;
    // SAFETY: the library is there and every version of it has this function; the pointer is to a live integer.
    let asked = unsafe { sys::cuDriverGetVersion(&mut found) };
    // Before anything else is called: an older driver lacks functions.
    if asked == CUresult::CUDA_SUCCESS && found < OLDEST_DRIVER {
        return Err(CudaError::DriverTooOld { found, required: OLDEST_DRIVER }.into());
    }
    match result::init() {
        Ok(()) => Ok(()),
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Err(CudaError::NoGpu { ordinal, found: 0 }.into()),
        // What the toolkit has in place of a driver, to link against.
        Err(DriverError(CUresult::CUDA_ERROR_STUB_LIBRARY)) => Err(CudaError::NoDriver.into()),
        Err(error) => Err(CudaError::DriverFailed { reason: name_of(error) }.into()),
    }
}

/// Asked before anything is called: cudarc panics where the library is missing, and a program with candle's CUDA, which loads
/// functions at their first call, ends.
fn driver_is_there() -> bool {
    #[cfg(not(feature = "candle-cuda"))]
    // SAFETY: loading runs the initialiser of NVIDIA's driver, found under its name by the system's loader.
    return unsafe { sys::is_culib_present() };
    #[cfg(feature = "candle-cuda")]
    // SAFETY: the same.
    return unsafe { libloading::Library::new("libcuda.so.1") }.is_ok();
}

pub(super) fn call<T>(what: &str, done: std::result::Result<T, DriverError>) -> Result<T> {
    done.map_err(|error| CudaError::Call { call: what.into(), reason: name_of(error) }.into())
}

fn name_of(error: DriverError) -> String {
    // SAFETY: the driver is loaded, else there would be no error of it. cudarc copies the text.
    let text = error.error_string().ok().map(|text| text.to_string_lossy().into_owned());
    text.map_or(format!("{:?}", error.0), |text| format!("{:?}: {text}", error.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_says_what_is_missing() {
        // With a GPU this opens. Without one it is said which part is missing, and no call has failed.
        match Device::open(0) {
            Ok(device) => assert!(device.limits().multiprocessors > 0 && driver_is_there()),
            Err(crate::Error::Cuda(error @ CudaError::NoDriver)) => {
                let text = error.to_string();
                assert!(!driver_is_there(), "there is a driver: {text}");
                assert!(text.contains("driver 525 or newer") && text.contains("DeviceKind::Cpu"), "{text}");
            }
            Err(crate::Error::Cuda(
                error @ (CudaError::DriverTooOld { .. }
                | CudaError::DriverFailed { .. }
                | CudaError::NoGpu { ordinal: 0, found: 0 }
                | CudaError::GpuTooOld { .. }
                | CudaError::NoNvrtc { .. }),
            )) => assert!(driver_is_there(), "there is no driver: {error}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn cuda_errors_say_what_to_do() {
        let texts = [
            (
                CudaError::DriverTooOld { found: 11_040, required: 12_000 },
                "supports CUDA 11.4, this program needs CUDA 12.0: install driver 525",
            ),
            (
                CudaError::NoGpu { ordinal: 3, found: 2 },
                "no GPU number 3: the NVIDIA driver sees 2 (CUDA_VISIBLE_DEVICES",
            ),
            (
                CudaError::NoNvrtc { searched: vec!["a".into(), "b".into()] },
                "set MLFF_NVRTC to the file or its folder; searched a, b",
            ),
        ];
        for (error, want) in texts {
            let text = crate::Error::from(error).to_string();
            assert!(text.contains(want), "{text}");
        }
    }
}
