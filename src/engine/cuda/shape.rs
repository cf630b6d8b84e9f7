//! What a model's kernels are compiled for.

use super::Scalar;
use crate::cuda::{KernelSource, Limits};
use crate::error::CudaError;
use crate::error::{Error, Result};
use crate::model::painn::Painn;
use crate::ops::radial_basis::RadialBasis;

/// How a block of the kernels for tiles of atoms is made; results do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Atoms, a multiple of 16.
    pub atoms: usize,
    /// Warps.
    pub warps: usize,
    /// Blocks that share a multiprocessor; limits registers.
    pub blocks: usize,
    /// Blocks that share a tile, as a cluster; 1 for none.
    pub cluster: usize,
}

/// Choices that change no result, for measurements; what is not given is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// Of the kernels for tiles of atoms.
    pub tiling: Option<Tiling>,
    /// The same where there are few atoms.
    pub few: Option<Tiling>,
    /// Threads of `message` and of its VJP that share a multiprocessor; limits registers.
    pub message_threads: Option<[usize; 2]>,
    /// Whether messages of molecules go pair by pair.
    pub by_pairs: Option<bool>,
}

/// Sizes that kernels are compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    real: &'static str,
    real_bytes: usize,
    /// Features, padded.
    pub n: usize,
    n_radial: usize,
    functions: &'static str,
    tiling: Tiling,
    /// Threads of `message` and of its VJP that share a multiprocessor.
    threads: [usize; 2],
    /// Padded widths of the readout: of the scalars and of each layer's output.
    pub widths: Vec<usize>,
}

/// The next multiple of 16.
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(16)
}

/// As `row_length` in `kernels/adjoint/tile.cuh`.
fn row_length(n: usize) -> usize {
    if n % 32 == 16 { n } else { n + 16 }
}

impl Shape {
    /// For a model on a device; choices are made where `tuning` does not.
    ///
    /// # Errors
    /// `Error::Cuda` if a model is too wide for the device's shared memory.
    pub fn new<T: Scalar>(painn: &Painn<T>, limits: Limits, tuning: Tuning) -> Result<Self> {
        let mut shape = Shape {
            real: T::NAME,
            real_bytes: size_of::<T>(),
            n: padded(painn.n_features),
            n_radial: painn.radial_basis.len(),
            functions: match painn.radial_basis {
                RadialBasis::Gaussian { .. } => "GAUSSIAN",
                RadialBasis::Bessel { .. } => "BESSEL",
            },
            tiling: Tiling { atoms: 16, warps: 8, blocks: 1, cluster: 1 },
            // f64 takes twice the registers.
            threads: tuning.message_threads.unwrap_or(if size_of::<T>() == 4 { [512, 384] } else { [256, 256] }),
            widths: painn.readout.iter().map(|l| padded(l.n_in)).chain([16]).collect(),
        };
        let most = limits.shared_bytes as usize;
        // Two blocks a multiprocessor, each of which keeps a kilobyte for the system.
        let shared = most.saturating_sub(1024) / 2;
        let fits = |shape: &Shape, tiling, room| {
            let shape = Shape { tiling, ..shape.clone() };
            shape.update_bytes().max(shape.update_vjp_bytes()).max(shape.readout_bytes()) <= room
        };
        // Measured: few features are best in small tiles, three blocks of which share a multiprocessor.
        let [atoms, blocks] = match (shape.real_bytes, shape.n) {
            (4, ..=64) => [16, 3],
            (4, _) => [32, 2],
            _ => [32, 1],
        };
        let wanted = [atoms, 16].map(|atoms| Tiling { atoms, warps: 8, blocks, cluster: 1 });
        let chosen = tuning.tiling.or_else(|| wanted.into_iter().find(|&tiling| fits(&shape, tiling, shared)));
        let chosen = chosen.unwrap_or(shape.tiling);
        if !fits(&shape, chosen, most) {
            let reason = format!(
                "{} features in {} need {} bytes of shared memory, a block of this GPU has {most}: use DeviceKind::Cpu",
                shape.n,
                T::PRECISION.name(),
                Shape { tiling: chosen, ..shape.clone() }.update_bytes()
            );
            return Err(Error::from(CudaError::Launch { kernel: "painn_update_forward".into(), reason }));
        }
        shape.tiling = chosen;
        Ok(shape)
    }

    /// The same with tiles for few atoms: small, and each the work of several blocks where there are clusters, so that a
    /// molecule reaches more multiprocessors and waits less for weights. `None` where this one has them already.
    pub fn for_few(&self, limits: Limits, tuning: Tuning) -> Option<Self> {
        // Groups of eight columns. Measured: four blocks gain a quarter at 128 features, nothing at 64.
        let columns = self.n / 8;
        let cluster = if limits.has_clusters && columns >= 16 && columns.is_multiple_of(4) { 4 } else { 1 };
        let warps = if cluster > 1 { (columns / cluster).min(16) } else { 16 };
        let chosen = tuning.tiling.is_none().then_some(Tiling { atoms: 16, warps, blocks: 1, cluster });
        let tiling = tuning.few.or(chosen)?;
        (self.tiling != tiling).then(|| Shape { tiling, ..self.clone() })
    }

    /// Blocks that share a tile of an update.
    pub fn cluster(&self) -> usize {
        self.tiling.cluster
    }

    fn defines(&self, extra: &str) -> String {
        let Tiling { atoms, warps, blocks, .. } = self.tiling;
        let widths = self.widths.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        [
            ("REAL", self.real.to_string()),
            ("FEATURES", self.n.to_string()),
            ("RADIAL", self.n_radial.to_string()),
            ("FUNCTIONS", self.functions.to_string()),
            ("TILE_ATOMS", atoms.to_string()),
            ("WARPS", warps.to_string()),
            ("BLOCKS", blocks.to_string()),
            ("FORWARD_THREADS", self.threads[0].to_string()),
            ("VJP_THREADS", self.threads[1].to_string()),
            ("READOUT_WIDTHS", widths),
            (extra, String::new()),
        ]
        .into_iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| format!("#define MLFF_{name} {value}\n"))
        .collect()
    }

    /// The programs. Those that take longest to compile stand first.
    pub fn sources(&self, few: Option<&Self>) -> Vec<KernelSource> {
        let message = |name, extra, kernels| KernelSource {
            name,
            defines: self.defines(extra),
            text: include_str!("../../../kernels/adjoint/message.cu"),
            kernels,
        };
        let mut out = self.tile_sources(
            ["painn_update_vjp.cu", "painn_update_forward.cu", "painn_readout.cu"],
            [
                &["painn_update_vjp", "painn_update_vjp_last"],
                &["painn_update_forward", "painn_update_forward_last"],
                &["painn_readout"],
            ],
            "",
        );
        if let Some(few) = few {
            out.extend(few.tile_sources(
                ["painn_update_vjp_few.cu", "painn_update_forward_few.cu", "painn_readout_few.cu"],
                [
                    &["painn_update_vjp_few", "painn_update_vjp_last_few"],
                    &["painn_update_forward_few", "painn_update_forward_last_few"],
                    &["painn_readout_few"],
                ],
                "#define MLFF_FEW\n",
            ));
        }
        out.push(message(
            "painn_message_vjp.cu",
            "BACKWARD",
            &[
                "painn_message_vjp",
                "painn_message_vjp_first",
                "painn_message_pairs_vjp",
                "painn_message_pairs_vjp_first",
            ],
        ));
        out.push(message(
            "painn_message_forward.cu",
            "FORWARD",
            &[
                "painn_message_forward",
                "painn_message_forward_first",
                "painn_message_pairs_forward",
                "painn_message_pairs_forward_first",
            ],
        ));
        out.push(KernelSource {
            name: "painn_edges.cu",
            defines: self.defines(""),
            text: include_str!("../../../kernels/adjoint/edges.cu"),
            kernels: &[
                "painn_count_edges",
                "painn_scan_edges",
                "painn_fill_edges",
                "painn_count_listed",
                "painn_fill_listed",
                "painn_link_listed",
                "painn_edge_geometry",
                "painn_gradients",
            ],
        });
        out
    }

    fn tile_sources(
        &self,
        names: [&'static str; 3],
        kernels: [&'static [&'static str]; 3],
        extra: &str,
    ) -> Vec<KernelSource> {
        let update = include_str!("../../../kernels/adjoint/update.cu");
        let texts = [update, update, include_str!("../../../kernels/adjoint/readout.cu")];
        let parts = ["BACKWARD", "FORWARD", ""];
        // The readout is little work.
        let cluster = |k: usize| match self.tiling.cluster {
            n if n > 1 && k < 2 => format!("#define MLFF_CLUSTER {n}\n"),
            _ => String::new(),
        };
        let of = |k: usize| KernelSource {
            name: names[k],
            defines: self.defines(parts[k]) + extra + &cluster(k),
            text: texts[k],
            kernels: kernels[k],
        };
        (0..3).map(of).collect()
    }

    pub fn tile_atoms(&self) -> usize {
        self.tiling.atoms
    }

    /// Threads of a block of the kernels for tiles of atoms.
    pub fn tile_threads(&self) -> u32 {
        32 * self.tiling.warps as u32
    }

    /// Threads of a block of `message`: features of a tile.
    pub fn message_threads(&self) -> u32 {
        if self.n >= 128 { 128 } else { self.n.next_multiple_of(32) as u32 }
    }

    /// Tiles of features of `message`.
    pub fn feature_tiles(&self) -> usize {
        self.n.div_ceil(self.message_threads() as usize)
    }

    /// Dynamic shared memory of `message` by pairs of structures of so many atoms.
    pub fn pairs_bytes(&self, n_atoms: usize, vjp: bool) -> usize {
        (if vjp { 6 } else { 4 }) * n_atoms * self.message_threads() as usize * self.real_bytes
    }

    fn tile_bytes(&self, elements_per_atom: usize) -> usize {
        elements_per_atom * self.tiling.atoms * self.real_bytes
    }

    /// Dynamic shared memory of `painn_update_forward`.
    pub fn update_bytes(&self) -> usize {
        self.tile_bytes(3 * row_length(self.n) + row_length(2 * self.n) + self.n)
    }

    /// Of `painn_update_vjp`.
    pub fn update_vjp_bytes(&self) -> usize {
        let wide = row_length(3 * self.n).max(3 * row_length(self.n));
        self.tile_bytes(wide + row_length(self.n) + self.n)
    }

    /// Of `painn_readout`.
    pub fn readout_bytes(&self) -> usize {
        let layers = self.widths.len() - 1;
        let widest = self.widths[..layers].iter().copied().max().unwrap_or(0);
        self.tile_bytes(2 * row_length(widest) + self.widths[1..layers].iter().sum::<usize>())
    }
}
