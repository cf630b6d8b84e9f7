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

#[cfg(test)]
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

pub use choice::{DenseChoice, DenseSizes};
pub use device::Device;
#[cfg(feature = "candle-cuda")]
pub(crate) use device::check;
pub(crate) use events::StreamEvents;
pub use launch::{Address, Arg, Backend, HostMemory, Launch, Product, Step};
pub use launcher::{DenseShape, Launcher, Limits};
#[cfg(feature = "candle-cuda")]
pub(crate) use library::require_libraries;
pub(crate) use rates::measure_peaks;

/// One program of kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSource {
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
pub const HEADERS: [(&str, &str); 5] = [
    ("arrays.cuh", include_str!("../../kernels/arrays.cuh")),
    ("common.cuh", include_str!("../../kernels/common.cuh")),
    ("painn.cuh", include_str!("../../kernels/adjoint/painn.cuh")),
    ("mma.cuh", include_str!("../../kernels/adjoint/mma.cuh")),
    ("tile.cuh", include_str!("../../kernels/adjoint/tile.cuh")),
];

/// The kernels that need not know the model.
pub static SOURCES: [KernelSource; 7] = [
    KernelSource {
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
    KernelSource {
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
    KernelSource {
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
    KernelSource {
        name: "message.cu",
        defines: String::new(),
        text: include_str!("../../kernels/message.cu"),
        kernels: &["message_forward_f32", "message_forward_f64", "message_vjp_f32", "message_vjp_f64"],
    },
    KernelSource {
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
    KernelSource {
        name: "readout.cu",
        defines: String::new(),
        text: include_str!("../../kernels/readout.cu"),
        kernels: &["readout_forward_f32", "readout_forward_f64", "readout_vjp_f32", "readout_vjp_f64"],
    },
    KernelSource {
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
