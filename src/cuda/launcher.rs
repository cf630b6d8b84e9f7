//! Launches of the kernels: shapes and addresses in, [`Launch`]es out. What each array holds is said in `kernels/`.

use super::launch::Arg;
use super::{Address, DenseChoice, DenseSizes, Launch, Product, Step};
use crate::error::CudaError;
use crate::error::Result;
use crate::ops::dense::{Activation, DenseArrays, LayerSizes};
use crate::ops::edge_geometry::{EdgeGeometryArrays, EdgeGeometrySizes};
use crate::ops::message::{MessageArrays, MessageSizes};
use crate::ops::radial_basis::{RadialBasisArrays, RadialBasisSizes};
use crate::ops::readout::{ReadoutArrays, ReadoutSizes};
use crate::ops::table::Operation;
use crate::ops::update::{GateArrays, GateSizes, InvariantsArrays, InvariantsSizes};
use crate::settings::Precision;

/// A dense layer for some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseShape {
    /// Its sizes.
    pub sizes: LayerSizes,
    /// Activation of the argument.
    pub before: Activation,
    /// Activation of the result.
    pub activation: Activation,
    /// Whether `saved` holds the activation's derivative; its argument otherwise.
    pub save_slope: bool,
}

impl DenseShape {
    /// `x · weightᵀ + bias` alone.
    pub fn linear(sizes: LayerSizes) -> Self {
        let identity = Activation::Identity;
        DenseShape { sizes, before: identity, activation: identity, save_slope: false }
    }
}

/// What a launch must know of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may ask for, bytes.
    pub shared_bytes: u32,
    /// Whether blocks can form clusters that see each other's shared memory.
    pub has_clusters: bool,
}

/// Makes launches for one precision and one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Launcher {
    /// `T` of the kernels.
    pub precision: Precision,
    /// The device.
    pub limits: Limits,
    /// Which dense kernel at which size.
    pub dense_sizes: DenseSizes,
    /// Whether the device has a library for large products.
    pub has_library: bool,
}

pub(super) const THREADS: u32 = 256;
/// Edges whose filters a block of `message` has in registers (`BATCH` there).
const MESSAGE_BATCH: u64 = 8;
const MESSAGE_THREADS: u32 = 128;
/// Beside the dynamic shared memory, `message_vjp` has this much of its own, in elements and bytes.
const MESSAGE_STATIC: (u64, u64) = (960, 256);

macro_rules! args {
    ($($x:expr),* $(,)?) => { vec![$(Arg::from($x)),*] };
}
pub(super) use args;

impl Launcher {
    /// With the default choice of dense kernels and no library.
    pub fn new(precision: Precision, limits: Limits) -> Self {
        Launcher { precision, limits, dense_sizes: DenseSizes::default(), has_library: false }
    }

    pub(super) fn element_bytes(&self) -> u64 {
        match self.precision {
            Precision::F32 => 4,
            Precision::F64 => 8,
        }
    }

    pub(super) fn real(&self, x: f64) -> Arg {
        match self.precision {
            Precision::F32 => Arg::from(x as f32),
            Precision::F64 => Arg::from(x),
        }
    }

    fn launch(&self, name: &str, grid: [u64; 2], block: u32, shared_bytes: u64, args: Vec<Arg>) -> Launch {
        let suffix = match self.precision {
            Precision::F32 => "f32",
            Precision::F64 => "f64",
        };
        // Counts are 32 bits and blocks have 32 threads and more; `shared_bytes` is within the limits.
        let [x, y] = grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let shared_bytes = u32::try_from(shared_bytes).unwrap_or(u32::MAX);
        Launch { kernel: format!("{name}_{suffix}"), grid: [x, y, 1], block, cluster: 1, shared_bytes, args }
    }

    pub(super) fn per_thread(&self, name: &str, n_threads: u64, block: u32, args: Vec<Arg>) -> Launch {
        self.launch(name, [n_threads.div_ceil(u64::from(block)), 1], block, 0, args)
    }

    /// A launch of an operation's kernel: its sizes, its arrays, and what else it takes.
    fn operation<O: Operation>(
        &self,
        what: &str,
        (grid, block, shared_bytes): ([u64; 2], u32, u64),
        s: &O,
        a: &O::Arrays<Address>,
        rest: Vec<Arg>,
    ) -> Launch {
        let args = [vec![Arg::sizes(s), Arg::arrays::<O>(a)], rest].concat();
        self.launch(&format!("{}_{what}", O::NAME), grid, block, shared_bytes, args)
    }

    /// See [`crate::ops::edge_geometry::edge_geometry`]. `epsilon` in Å.
    pub fn edge_geometry(&self, s: &EdgeGeometrySizes, epsilon: f64, a: &EdgeGeometryArrays<Address>) -> Launch {
        self.operation("forward", threads(s.n_edges.into(), THREADS), s, a, args![epsilon])
    }

    /// See [`crate::ops::edge_geometry::edge_geometry_vjp`]; the strain's part ends in [`Launcher::edge_geometry_strain_vjp`].
    pub fn edge_geometry_vjp(&self, s: &EdgeGeometrySizes, epsilon: f64, a: &EdgeGeometryArrays<Address>) -> Launch {
        self.operation("vjp", threads(16 * u64::from(s.n_atoms), THREADS), s, a, args![epsilon])
    }

    /// Sums `virials` by structure into `grad_strain`.
    pub fn edge_geometry_strain_vjp(&self, s: &EdgeGeometrySizes, a: &EdgeGeometryArrays<Address>) -> Launch {
        let f64s = Launcher { precision: Precision::F64, ..self.clone() };
        f64s.operation("strain_vjp", ([s.n_structures.into(), 1], THREADS, 0), s, a, args![])
    }

    /// See [`crate::ops::radial_basis::radial_basis`]. `cutoff` in Å.
    pub fn radial_basis(&self, s: &RadialBasisSizes, cutoff: f64, a: &RadialBasisArrays<Address>) -> Launch {
        self.operation("forward", threads(s.n_edges.into(), 128), s, a, args![self.real(cutoff)])
    }

    /// See [`crate::ops::radial_basis::radial_basis_vjp`].
    pub fn radial_basis_vjp(&self, s: &RadialBasisSizes, cutoff: f64, a: &RadialBasisArrays<Address>) -> Launch {
        self.operation("vjp", threads(s.n_edges.into(), 128), s, a, args![self.real(cutoff)])
    }

    /// How a product `[n_rows, n_in] · [n_in, n_out]` is made. The libraries' are f32.
    fn choose(&self, n_rows: u32, n_in: u32, n_out: u32) -> DenseChoice {
        let [n_rows, n_in, n_out, multiprocessors] =
            [n_rows, n_in, n_out, self.limits.multiprocessors].map(|x| x as usize);
        let has_library = self.has_library && self.precision == Precision::F32;
        self.dense_sizes.choose(n_rows, n_in, n_out, multiprocessors, has_library)
    }

    fn tiles(&self, n_rows: u32, n_in: u32, n_out: u32) -> (&'static str, [u64; 2]) {
        let (name, rows, columns) = match self.choose(n_rows, n_in, n_out) {
            DenseChoice::Narrow => ("narrow", 16, 32),
            DenseChoice::Wide | DenseChoice::Library => ("wide", 64, 64),
        };
        (name, [n_rows.div_ceil(rows).into(), n_out.div_ceil(columns).into()])
    }

    /// Whether a layer's forward goes to the library. An activation of the argument and a saved argument of the identity
    /// are left to the kernels, as is what has more elements than 32 bits count.
    pub fn dense_uses_library(&self, s: &DenseShape) -> bool {
        self.choose(s.sizes.n_rows, s.sizes.n_in, s.sizes.n_out) == DenseChoice::Library && fits(s)
    }

    /// Whether a layer's VJP goes to the library, which takes `grad_z` behind an activation.
    pub fn dense_vjp_uses_library(&self, s: &DenseShape) -> bool {
        self.choose(s.sizes.n_rows, s.sizes.n_out, s.sizes.n_in) == DenseChoice::Library && fits(s)
    }

    /// [`Launcher::dense`] by the kernels or the library, whichever suits the size.
    pub fn dense_steps(&self, s: &DenseShape, a: &DenseArrays<Address>) -> Vec<Step> {
        let identity = s.activation == Activation::Identity;
        if !self.dense_uses_library(s) || (identity && a.saved != 0) {
            return vec![Step::Kernel(self.dense(s, a))];
        }
        let product = Product {
            n_rows: s.sizes.n_rows,
            n_in: s.sizes.n_in,
            n_out: s.sizes.n_out,
            transposed: true,
            x: a.x,
            weight: a.weight,
            bias: a.bias,
            addend: a.residual,
            out: a.y,
        };
        let mut steps = vec![Step::Product(product)];
        if !identity {
            let n = s.sizes.n_rows * s.sizes.n_out;
            let args = args![n, u32::from(s.save_slope), a.y, a.saved];
            steps.push(Step::Kernel(self.per_thread("dense_activation_forward", n.into(), THREADS, args)));
        }
        steps
    }

    /// [`Launcher::dense_vjp`] by the kernels or the library. There may be no `grad_z` where
    /// [`Launcher::dense_vjp_uses_library`] says no, and for the identity.
    pub fn dense_vjp_steps(&self, s: &DenseShape, a: &DenseArrays<Address>) -> Vec<Step> {
        let identity = s.activation == Activation::Identity;
        if !self.dense_vjp_uses_library(s) || (identity && a.grad_residual != 0) || (!identity && a.grad_z == 0) {
            return vec![Step::Kernel(self.dense_vjp(s, a))];
        }
        let mut steps = Vec::new();
        if !identity {
            let n = s.sizes.n_rows * s.sizes.n_out;
            let args = args![n, u32::from(s.save_slope), a.grad_y, a.saved, a.grad_z, a.grad_residual];
            steps.push(Step::Kernel(self.per_thread("dense_activation_vjp", n.into(), THREADS, args)));
        }
        steps.push(Step::Product(Product {
            n_rows: s.sizes.n_rows,
            n_in: s.sizes.n_out,
            n_out: s.sizes.n_in,
            transposed: false,
            x: if identity { a.grad_y } else { a.grad_z },
            weight: a.weight,
            bias: 0,
            addend: a.grad_x,
            out: a.grad_x,
        }));
        steps
    }

    /// `activation(before(x) · weightᵀ + bias + residual)`; see [`crate::ops::dense::dense`].
    pub fn dense(&self, s: &DenseShape, a: &DenseArrays<Address>) -> Launch {
        let (tile, grid) = self.tiles(s.sizes.n_rows, s.sizes.n_in, s.sizes.n_out);
        let args = args![number(s.before), number(s.activation), u32::from(s.save_slope)];
        self.operation(&format!("forward_{tile}"), (grid, 128, 0), &s.sizes, a, args)
    }

    /// See [`crate::ops::dense::dense_vjp`].
    pub fn dense_vjp(&self, s: &DenseShape, a: &DenseArrays<Address>) -> Launch {
        let (tile, grid) = self.tiles(s.sizes.n_rows, s.sizes.n_out, s.sizes.n_in);
        let args = args![number(s.before), u32::from(s.save_slope)];
        // The identity has no slope to multiply by.
        let saved = if s.activation == Activation::Identity { 0 } else { a.saved };
        self.operation(&format!("vjp_{tile}"), (grid, 128, 0), &s.sizes, &DenseArrays { saved, ..*a }, args)
    }

    /// See [`crate::ops::message::message`].
    ///
    /// # Errors
    /// `CudaError::Launch` when one feature's filter weights do not fit a block's shared memory.
    pub fn message(&self, s: &MessageSizes, a: &MessageArrays<Address>) -> Result<Launch> {
        let k = padded(s.n_edge_features);
        let blocks = self.message_blocks("message_forward", s, |tile| (3 * tile + 4 * MESSAGE_BATCH) * k)?;
        let grid = [blocks.groups, s.n_features.div_ceil(blocks.tile).into()];
        let args = args![blocks.atoms_per_block, blocks.tile];
        Ok(self.operation("forward", (grid, blocks.threads, blocks.shared_bytes), s, a, args))
    }

    /// See [`crate::ops::message::message_vjp`].
    ///
    /// # Errors
    /// As [`Launcher::message`].
    pub fn message_vjp(&self, s: &MessageSizes, a: &MessageArrays<Address>) -> Result<Launch> {
        let k = padded(s.n_edge_features);
        let elements = |tile| (3 * tile + MESSAGE_BATCH) * k + 3 * tile * MESSAGE_BATCH;
        let blocks = self.message_blocks("message_vjp", s, elements)?;
        let args = args![blocks.atoms_per_block, blocks.tile];
        Ok(self.operation("vjp", ([blocks.groups, 1], blocks.threads, blocks.shared_bytes), s, a, args))
    }

    /// The largest tile of features whose `elements(tile)` fit a block's shared memory.
    fn message_blocks(&self, kernel: &str, s: &MessageSizes, elements: impl Fn(u64) -> u64) -> Result<MessageBlocks> {
        let bytes = |tile: u64| elements(tile) * self.element_bytes();
        let own = MESSAGE_STATIC.0 * self.element_bytes() + MESSAGE_STATIC.1;
        let room = u64::from(self.limits.shared_bytes).saturating_sub(own);
        let mut tile = u64::from(s.n_features.clamp(1, MESSAGE_THREADS));
        while bytes(tile) > room {
            if tile == 1 {
                let reason = format!(
                    "{} edge features need {} bytes of shared memory, a block of this GPU has {room}",
                    s.n_edge_features,
                    bytes(1)
                );
                return Err(CudaError::Launch { kernel: kernel.into(), reason }.into());
            }
            // Whole warps while there are any.
            tile = if tile > 32 { (tile - 1) / 32 * 32 } else { tile / 2 };
        }
        // A block reads the weights once for all its atoms: few blocks where there is work for several rounds of them, one
        // atom a block where that is what fills the device.
        let atoms_per_block = (s.n_atoms / (8 * self.limits.multiprocessors.max(1))).clamp(1, 16);
        Ok(MessageBlocks {
            tile: tile as u32,
            threads: (tile as u32).next_multiple_of(32),
            atoms_per_block,
            groups: s.n_atoms.div_ceil(atoms_per_block).into(),
            shared_bytes: bytes(tile),
        })
    }

    /// See [`crate::ops::update::update_invariants`].
    pub fn update_invariants(&self, s: &InvariantsSizes, epsilon: f64, a: &InvariantsArrays<Address>) -> Launch {
        self.operation("forward", per_feature(s.n_atoms, s.n_features), s, a, args![self.real(epsilon)])
    }

    /// See [`crate::ops::update::update_invariants_vjp`].
    pub fn update_invariants_vjp(&self, s: &InvariantsSizes, a: &InvariantsArrays<Address>) -> Launch {
        self.operation("vjp", per_feature(s.n_atoms, s.n_features), s, a, args![])
    }

    /// See [`crate::ops::update::update_gate`].
    pub fn update_gate(&self, s: &GateSizes, a: &GateArrays<Address>) -> Launch {
        self.operation("forward", per_feature(s.n_atoms, s.n_features), s, a, args![])
    }

    /// See [`crate::ops::update::update_gate_vjp`].
    pub fn update_gate_vjp(&self, s: &GateSizes, a: &GateArrays<Address>) -> Launch {
        self.operation("vjp", per_feature(s.n_atoms, s.n_features), s, a, args![])
    }

    /// See [`crate::ops::readout::readout`].
    pub fn readout(&self, s: &ReadoutSizes, energy_scale: f64, a: &ReadoutArrays<Address>) -> Launch {
        self.operation("forward", ([s.n_structures.into(), 1], 128, 0), s, a, args![energy_scale])
    }

    /// See [`crate::ops::readout::readout_vjp`].
    pub fn readout_vjp(&self, s: &ReadoutSizes, energy_scale: f64, a: &ReadoutArrays<Address>) -> Launch {
        self.operation("vjp", ([s.n_structures.into(), 1], 128, 0), s, a, args![energy_scale])
    }
}

/// Grid, block and shared memory of so many threads.
fn threads(n: u64, block: u32) -> ([u64; 2], u32, u64) {
    ([n.div_ceil(u64::from(block)), 1], block, 0)
}

/// A thread for four features of an atom where rows allow it, else for one.
fn per_feature(n_atoms: u32, n_features: u32) -> ([u64; 2], u32, u64) {
    let per_thread = if n_features.is_multiple_of(4) { 4 } else { 1 };
    threads(u64::from(n_atoms) * u64::from(n_features / per_thread), THREADS)
}

fn fits(s: &DenseShape) -> bool {
    let elements = |n: u32| u64::from(s.sizes.n_rows) * u64::from(n);
    s.before == Activation::Identity
        && (1..u64::from(u32::MAX)).contains(&elements(s.sizes.n_out))
        && (1..u64::from(u32::MAX)).contains(&elements(s.sizes.n_in))
}

struct MessageBlocks {
    tile: u32,
    threads: u32,
    atoms_per_block: u32,
    groups: u64,
    shared_bytes: u64,
}

/// As `padded` in `kernels/message.cu`.
fn padded(k: u32) -> u64 {
    4 * (u64::from(k).div_ceil(4) | 1)
}

fn number(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::Silu => 1,
    }
}
