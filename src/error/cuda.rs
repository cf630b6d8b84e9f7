//! What can be wrong with a GPU, in words that say what to do. Plain data: there without CUDA too.

use std::path::PathBuf;

/// CUDA version, as the driver counts them, that has everything called here.
pub(crate) const OLDEST_DRIVER: i32 = 12_000;

/// Why there is no GPU to run on, or what failed on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The NVIDIA driver's library is not on this machine.
    #[error(
        "no NVIDIA driver found (libcuda.so.1): a GPU needs NVIDIA's driver {} or newer on the host, and a container must be started \
         with the GPU, for example `docker run --gpus all`; without one use DeviceKind::Cpu",
        driver_for(OLDEST_DRIVER)
    )]
    NoDriver,
    /// The driver is older than what this library calls.
    #[error(
        "the NVIDIA driver supports CUDA {}, this program needs CUDA {}: install driver {} or newer",
        version(*found), version(*required), driver_for(*required)
    )]
    DriverTooOld {
        /// CUDA version of the driver, in its own numbering: 1000 · major + 10 · minor.
        found: i32,
        /// Oldest version that works, in the same numbering.
        required: i32,
    },
    /// The driver is there but refuses to start.
    #[error("the NVIDIA driver does not start ({reason}): `nvidia-smi` says more; after a driver update, reboot")]
    DriverFailed {
        /// The driver's error.
        reason: String,
    },
    /// There is a driver, but no GPU of this number.
    #[error("there is no GPU number {ordinal}: the NVIDIA driver sees {found} (CUDA_VISIBLE_DEVICES limits them)")]
    NoGpu {
        /// Number asked for, from 0.
        ordinal: usize,
        /// How many GPUs the driver sees.
        found: usize,
    },
    /// The GPU is too old for the compiler, NVRTC.
    #[error("GPU of compute capability {}.{}: NVRTC {} makes code from {}.{} on", capability / 10, capability % 10, compiler, oldest / 10, oldest % 10)]
    GpuTooOld {
        /// Compute capability of the GPU, 10 · major + minor.
        capability: u32,
        /// Oldest compute capability that the compiler supports, in the same numbering.
        oldest: u32,
        /// The compiler's version.
        compiler: String,
    },
    /// The library that compiles the GPU kernels, NVRTC, was not found.
    #[error(
        "NVRTC, which compiles the GPU kernels at first use, was not found: install it with the CUDA toolkit or with \
         `pip install nvidia-cuda-nvrtc` and set MLFF_NVRTC to the file or its folder; searched {}",
        searched.join(", ")
    )]
    NoNvrtc {
        /// Names and paths that were tried.
        searched: Vec<String>,
    },
    /// Another CUDA library was not found.
    #[error(
        "{name} was not found: install it with the CUDA toolkit or with `pip install {package}`, and put its folder into \
         LD_LIBRARY_PATH or activate that Python environment; searched {}",
        searched.join(", ")
    )]
    NoLibrary {
        /// Name of the library.
        name: &'static str,
        /// Package on PyPI that contains it.
        package: &'static str,
        /// Names and folders that were tried.
        searched: Vec<String>,
    },
    /// A library was found but cannot be used as NVRTC.
    #[error("{} cannot be used as NVRTC: {reason}", path.display())]
    BadNvrtc {
        /// Path of the library.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// A file of GPU kernels does not compile.
    #[error("{source_name} does not compile for {target}:\n{log}")]
    Compilation {
        /// Name of the file.
        source_name: String,
        /// GPU architecture that it was compiled for.
        target: String,
        /// Messages of the compiler.
        log: String,
    },
    /// The GPU's memory has no room for an array.
    #[error(
        "the GPU has {} MiB of memory left, {} MiB are needed: use a smaller BatchSize, or end what else runs on it",
        free >> 20, (asked >> 20) + 1
    )]
    OutOfMemory {
        /// Bytes asked for.
        asked: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// A call to the driver or to a CUDA library failed.
    #[error("CUDA: {call}: {reason}")]
    Call {
        /// What was to be done.
        call: String,
        /// The driver's error.
        reason: String,
    },
    /// A kernel cannot be launched on this GPU.
    #[error("{kernel}: {reason}")]
    Launch {
        /// Name of the kernel.
        kernel: String,
        /// Why not, such as the limit that it exceeds.
        reason: String,
    },
}

fn version(counted: i32) -> String {
    format!("{}.{}", counted / 1000, counted % 1000 / 10)
}

/// The first Linux driver of a CUDA major version. Source: NVIDIA, CUDA compatibility, minimum driver versions.
fn driver_for(counted: i32) -> &'static str {
    match counted / 1000 {
        ..=11 => "450",
        12 => "525",
        _ => "580",
    }
}
