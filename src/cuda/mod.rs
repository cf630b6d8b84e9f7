//! CUDA, found at run time: the kernels of `kernels/`, their compilation and their launches.
//!
//! Nothing here needs CUDA when the crate is built, and nothing panics where a library is missing: [`Device::open`] says
//! what there is or what to install. The kernels are part of the binary as source; NVRTC compiles each file for the device
//! found when a kernel of it is first used, and the result is kept on disk ([`cache`]).
//!
//! A launch is plain data ([`Launch`]), made by [`Launcher`] from shapes and addresses, so the same launches run on a
//! device, on the host (as the tests do), or into a graph. Kernels have the array contracts of [`crate::ops`].
//!
//! The tests run the kernels' source on the host and compile it for every architecture; on an H200 they ran as well
//! (`benchmarks/results/gpu.md`).

mod arrays;
mod blas;
pub mod cache;
mod choice;
mod device;
mod events;
mod launch;
mod launcher;
mod library;
pub mod nvrtc;
mod rates;
pub mod unfused;

use std::path::PathBuf;

pub use arrays::{
    DenseArrays, DenseShape, DenseVjpArrays, EdgeGeometryArrays, EdgeGeometryVjpArrays, GateArrays, MessageArrays,
    MessageGradArrays, MessageShape, RadialBasisArrays,
};
pub use choice::{DenseChoice, DenseSizes};
pub use device::Device;
#[cfg(feature = "candle-cuda")]
pub(crate) use device::check;
pub(crate) use events::StreamEvents;
pub use launch::{Address, Arg, Backend, HostMemory, Launch, Product, Step};
pub use launcher::{Launcher, Limits};
#[cfg(feature = "candle-cuda")]
pub(crate) use library::require_libraries;
pub use rates::Rates;
pub use unfused::EdgeList;

/// One program of kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name, ending in `.cu`.
    pub name: &'static str,
    /// Macros that its text is compiled for: lines of `#define`.
    pub defines: String,
    /// Its text: a file of `kernels/`.
    pub text: &'static str,
    /// Kernels in it.
    pub kernels: &'static [&'static str],
}

/// The headers that files of kernels include: name and text.
pub const HEADERS: [(&str, &str); 4] = [
    ("common.cuh", include_str!("../../kernels/common.cuh")),
    ("painn.cuh", include_str!("../../kernels/adjoint/painn.cuh")),
    ("mma.cuh", include_str!("../../kernels/adjoint/mma.cuh")),
    ("tile.cuh", include_str!("../../kernels/adjoint/tile.cuh")),
];

/// The kernels that need not know the model.
pub static SOURCES: [Source; 7] = [
    Source {
        name: "edge_geometry.cu",
        defines: String::new(),
        text: include_str!("../../kernels/edge_geometry.cu"),
        kernels: &[
            "edge_geometry_forward_f32",
            "edge_geometry_forward_f64",
            "edge_geometry_vjp_f32",
            "edge_geometry_vjp_f64",
            "edge_geometry_strain_vjp_f64",
        ],
    },
    Source {
        name: "radial_basis.cu",
        defines: String::new(),
        text: include_str!("../../kernels/radial_basis.cu"),
        kernels: &[
            "radial_basis_forward_f32",
            "radial_basis_forward_f64",
            "radial_basis_vjp_f32",
            "radial_basis_vjp_f64",
        ],
    },
    Source {
        name: "dense.cu",
        defines: String::new(),
        text: include_str!("../../kernels/dense.cu"),
        kernels: &[
            "dense_forward_wide_f32",
            "dense_forward_wide_f64",
            "dense_forward_narrow_f32",
            "dense_forward_narrow_f64",
            "dense_vjp_wide_f32",
            "dense_vjp_wide_f64",
            "dense_vjp_narrow_f32",
            "dense_vjp_narrow_f64",
            "dense_activation_forward_f32",
            "dense_activation_vjp_f32",
        ],
    },
    Source {
        name: "message.cu",
        defines: String::new(),
        text: include_str!("../../kernels/message.cu"),
        kernels: &["message_forward_f32", "message_forward_f64", "message_vjp_f32", "message_vjp_f64"],
    },
    Source {
        name: "update.cu",
        defines: String::new(),
        text: include_str!("../../kernels/update.cu"),
        kernels: &[
            "update_invariants_forward_f32",
            "update_invariants_forward_f64",
            "update_invariants_vjp_f32",
            "update_invariants_vjp_f64",
            "update_gate_forward_f32",
            "update_gate_forward_f64",
            "update_gate_vjp_f32",
            "update_gate_vjp_f64",
        ],
    },
    Source {
        name: "readout.cu",
        defines: String::new(),
        text: include_str!("../../kernels/readout.cu"),
        kernels: &["readout_forward_f32", "readout_forward_f64", "readout_vjp_f32", "readout_vjp_f64"],
    },
    Source {
        name: "unfused.cu",
        defines: String::new(),
        text: include_str!("../../kernels/unfused.cu"),
        kernels: &[
            "unfused_copy_f32",
            "unfused_copy_f64",
            "unfused_combine_f32",
            "unfused_combine_f64",
            "unfused_sum_f32",
            "unfused_sum_f64",
            "unfused_inner_f32",
            "unfused_inner_f64",
            "unfused_segment_sum_f32",
            "unfused_segment_sum_f64",
            "unfused_map_f32",
            "unfused_map_f64",
            "unfused_functions_f32",
            "unfused_functions_f64",
        ],
    },
];

/// Why there is no GPU to run on, or what failed on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver's library is not on this machine.
    #[error(
        "no NVIDIA driver found (libcuda.so.1): a GPU needs NVIDIA's driver {} or newer on the host, and a container must be started \
         with the GPU, for example `docker run --gpus all`; without one use --device cpu",
        driver_for(device::OLDEST_DRIVER)
    )]
    NoDriver,
    /// The driver is older than what this library calls.
    #[error(
        "the NVIDIA driver supports CUDA {}, this program needs CUDA {}: install driver {} or newer",
        version(*found), version(*required), driver_for(*required)
    )]
    DriverTooOld {
        /// CUDA version of the driver as it counts them: 1000 · major + 10 · minor.
        found: i32,
        /// Oldest version that works, counted the same way.
        required: i32,
    },
    /// The driver is there but refuses to start.
    #[error("the NVIDIA driver does not start ({reason}): `nvidia-smi` says more; after a driver update, reboot")]
    DriverFailed {
        /// The driver's error.
        reason: String,
    },
    /// There is a driver, but no GPU, or not this many.
    #[error("there is no GPU number {ordinal}: the NVIDIA driver sees {found} (CUDA_VISIBLE_DEVICES limits them)")]
    NoGpu {
        /// Number asked for.
        ordinal: usize,
        /// GPUs that the driver sees.
        found: usize,
    },
    /// The GPU is older than what the compiler makes code for.
    #[error("GPU of compute capability {}.{}: NVRTC {} makes code from {}.{} on", capability / 10, capability % 10, compiler, oldest / 10, oldest % 10)]
    GpuTooOld {
        /// Compute capability of the GPU, 10 · major + minor.
        capability: u32,
        /// Oldest one that the compiler knows, counted the same way.
        oldest: u32,
        /// The compiler's version.
        compiler: String,
    },
    /// The library that compiles the kernels is not there.
    #[error(
        "NVRTC, which compiles the GPU kernels at first use, was not found: install it with the CUDA toolkit or with \
         `pip install nvidia-cuda-nvrtc` and set MLFF_NVRTC to the file or its folder; searched {}",
        searched.join(", ")
    )]
    NoNvrtc {
        /// Names and paths that were tried.
        searched: Vec<String>,
    },
    /// A library beside the driver is not there.
    #[error(
        "{name} was not found: install it with the CUDA toolkit or with `pip install {package}`, and put its folder into \
         LD_LIBRARY_PATH or activate that Python environment; searched {}",
        searched.join(", ")
    )]
    NoLibrary {
        /// The library.
        name: &'static str,
        /// Package of PyPI that has it.
        package: &'static str,
        /// Names and folders that were tried.
        searched: Vec<String>,
    },
    /// A library was found but cannot be used.
    #[error("{} cannot be used as NVRTC: {reason}", path.display())]
    BadNvrtc {
        /// The library.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A kernel does not compile.
    #[error("{source_name} does not compile for {target}:\n{log}")]
    Compilation {
        /// File of kernels.
        source_name: String,
        /// Architecture.
        target: String,
        /// What the compiler said.
        log: String,
    },
    /// There is no room for an array.
    #[error(
        "the GPU has {} MiB of memory left, {} MiB are needed: use a smaller --batch, or end what else runs on it",
        free >> 20, (asked >> 20) + 1
    )]
    OutOfMemory {
        /// Bytes asked for.
        asked: usize,
        /// Bytes left.
        free: usize,
    },
    /// A call of the driver failed.
    #[error("CUDA: {call}: {reason}")]
    Call {
        /// What was asked for.
        call: String,
        /// The driver's error.
        reason: String,
    },
    /// A launch does not fit the device.
    #[error("{kernel}: {reason}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// What does not fit.
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
