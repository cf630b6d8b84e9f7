//! What an evaluation writes: kept from call to call, so that a step allocates nothing.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::weights::Weights;
use crate::batch::PackedBatch;
use crate::cpu::lanes::{Buffer, Lanes};
use crate::cpu::message::{NODE_VECTORS, PAIR_VECTORS};
use crate::engine::Results;
use crate::engine::adjoint::pairs::PairArrays;
use crate::engine::adjoint::shared::Rows;
use crate::engine::adjoint::tiles::{EDGES_PER_GROUP, Partition};

/// Buffers of one evaluation and its results.
#[derive(Debug)]
pub struct Workspace<T> {
    pub(super) arrays: Arrays<T>,
    pub(super) partition: Partition,
    pub(super) scratch: Vec<Mutex<Scratch<T>>>,
    /// An evaluation began and did not end.
    is_left: bool,
    /// What it led to.
    pub results: Results,
}

impl<T: Lanes> Default for Workspace<T> {
    fn default() -> Self {
        Workspace {
            arrays: Arrays::default(),
            partition: Partition::default(),
            scratch: Vec::new(),
            is_left: false,
            results: Results::default(),
        }
    }
}

/// Arrays with a row for each atom or each edge of the batch; those of layers stand one layer after the other.
#[derive(Debug, Default)]
pub struct Arrays<T> {
    /// Of the layer at hand, `[n_atoms, n]`.
    pub scalars: Buffer<T>,
    /// Interaction context, `[L - 1, n_atoms, 3n]`: layer 0 reads a table.
    pub contexts: Buffer<T>,
    /// Derivative of its hidden layer's activation, `[L - 1, n_atoms, n]`.
    pub context_slopes: Buffer<T>,
    /// Vectors after each layer but the last, `[L - 1, n_atoms, 3n]`.
    pub vectors: Buffer<T>,
    /// Of each layer but the last, `[L - 1, n_atoms, …]`.
    pub kept: Kept<Buffer<T>>,
    /// Cotangents of scalars after a layer's message, `[2, n_atoms, n]`: read by neighbours while the next are written.
    pub grad_scalars: Buffer<T>,
    /// The same of vectors, `[2, n_atoms, 3n]`.
    pub grad_vectors: Buffer<T>,
    /// Pairs, radial functions and their cotangents.
    pub pairs: PairArrays<T>,
}

/// What an update keeps for its backward, `[n_atoms, …]`.
#[derive(Debug, Default)]
pub struct Kept<B> {
    /// Scalars after the message, and norms, `2n`.
    pub context: B,
    /// V and W, `[3, 2n]`.
    pub mixed: B,
    /// Inner products, `n`.
    pub products: B,
    /// Derivative of the activation, `n`.
    pub slopes: B,
    /// `3n`, and `2n` in the last layer.
    pub gates: B,
}

impl<T: Lanes> Kept<Buffer<T>> {
    /// Makes room; a row's gates are `n_gates` long.
    pub fn resize(&mut self, n_rows: usize, n: usize, n_gates: usize) {
        self.context.resize(n_rows * 2 * n);
        self.mixed.resize(n_rows * 6 * n);
        self.products.resize(n_rows * n);
        self.slopes.resize(n_rows * n);
        self.gates.resize(n_rows * n_gates);
    }

    /// The first rows, those of the last layer.
    pub fn last_rows(&mut self, n_rows: usize, n: usize) -> Kept<&mut [T]> {
        Kept {
            context: &mut self.context[..n_rows * 2 * n],
            mixed: &mut self.mixed[..n_rows * 6 * n],
            products: &mut self.products[..n_rows * n],
            slopes: &mut self.slopes[..n_rows * n],
            gates: &mut self.gates[..n_rows * 2 * n],
        }
    }
}

impl<'a, T> Kept<Rows<'a, T>> {
    /// Rows of a layer.
    ///
    /// # Safety
    /// As [`Rows::write`].
    pub unsafe fn rows(&self, layer: usize, rows: &Range<usize>) -> Kept<&'a mut [T]> {
        // SAFETY: the caller's.
        unsafe {
            Kept {
                context: self.context.write(layer, rows),
                mixed: self.mixed.write(layer, rows),
                products: self.products.write(layer, rows),
                slopes: self.slopes.write(layer, rows),
                gates: self.gates.write(layer, rows),
            }
        }
    }
}

/// A thread's own buffers, for the atoms of one tile.
#[derive(Debug, Default)]
pub struct Scratch<T> {
    /// Of the last layer, whose backward follows its forward within the tile.
    pub last: Kept<Buffer<T>>,
    pub hidden: Buffer<T>,
    pub wide: Buffer<T>,
    pub mixed: Buffer<T>,
    pub context: Buffer<T>,
    pub scalars: Buffer<T>,
    /// Cotangents; in the forward of the last layer its vectors.
    pub vectors: Buffer<T>,
    pub readout: Vec<(Buffer<T>, Buffer<T>)>,
    pub message: [Buffer<T>; 3],
    pub row_of: Vec<u32>,
}

impl<T: Lanes> Workspace<T> {
    /// Forgets what a panic in the evaluation before left behind: scratch that is expected to be clean.
    pub(in crate::engine::adjoint) fn begin(&mut self) {
        if std::mem::replace(&mut self.is_left, true) {
            self.scratch.clear();
        }
    }

    /// All tasks are done.
    pub(in crate::engine::adjoint) fn end(&mut self) {
        self.is_left = false;
    }

    /// Tiles of the batch that it was resized for.
    pub(in crate::engine::adjoint) fn n_tiles(&self) -> usize {
        self.partition.tiles.len()
    }

    /// Makes room for batches of `n_atoms` atoms with up to `n_edges` edges.
    pub(in crate::engine::adjoint) fn reserve(&mut self, weights: &Weights<T>, n_atoms: usize, n_edges: usize) {
        // A group has an atom at least.
        let n_groups = n_atoms;
        self.arrays.pairs.reserve(n_edges, n_groups, weights.radial.window());
        self.partition.groups.reserve(n_groups.saturating_sub(self.partition.groups.len()));
    }

    /// Makes room for a batch.
    pub(in crate::engine::adjoint) fn resize(
        &mut self,
        weights: &Weights<T>,
        batch: &PackedBatch,
        tile: usize,
        n_threads: usize,
        gradient: bool,
        virials: bool,
    ) {
        let (n, n_atoms, n_edges) = (weights.n, batch.n_atoms(), batch.n_edges());
        self.partition.fill(batch, tile);
        let arrays = &mut self.arrays;
        arrays.scalars.resize(n_atoms * n);
        let n_layers = weights.n_layers;
        let layers = |count: usize, width: usize| count * n_atoms * width;
        arrays.contexts.resize(layers(n_layers - 1, 3 * n));
        arrays.context_slopes.resize(layers(n_layers - 1, n));
        arrays.vectors.resize(layers(n_layers - 1, 3 * n));
        arrays.kept.resize(layers(n_layers - 1, 1), n, 3 * n);
        arrays.pairs.resize(n_edges, self.partition.groups.len(), weights.radial.window(), gradient);
        if gradient {
            arrays.grad_scalars.resize(layers(2, n));
            arrays.grad_vectors.resize(layers(2, 3 * n));
        }
        self.scratch.resize_with(n_threads, Default::default);
        let n_tile = self.partition.tiles.iter().map(|t| t.atoms.len()).max().unwrap_or(0);
        let group_edges = |g: &Range<usize>| batch.edges().of_all(g).len();
        let n_group = self.partition.groups.iter().map(group_edges).max().unwrap_or(0);
        for scratch in &mut self.scratch {
            scratch.get_mut().unwrap_or_else(PoisonError::into_inner).resize(weights, n_atoms, n_tile, n_group);
        }
        self.results.resize(n_atoms, gradient, virials);
    }
}

impl<T: Lanes> Scratch<T> {
    fn resize(&mut self, weights: &Weights<T>, n_atoms: usize, n_tile: usize, n_group: usize) {
        let (n, n_group) = (weights.n, n_group.max(EDGES_PER_GROUP));
        self.last.resize(n_tile, n, 2 * n);
        self.hidden.resize(n_tile * n);
        self.wide.resize(n_tile * 3 * n);
        self.mixed.resize(n_tile * 6 * n);
        self.context.resize(n_tile * 2 * n);
        self.scalars.resize(n_tile * n);
        self.vectors.resize(n_tile * 3 * n);
        self.readout.resize_with(weights.readout.len(), Default::default);
        for ((values, slopes), layer) in self.readout.iter_mut().zip(&weights.readout) {
            values.resize(n_tile * layer.n_out());
            slopes.resize(n_tile * layer.n_out());
        }
        let [inputs, outputs, partial] = &mut self.message;
        inputs.resize((n_tile + n_group.min(n_atoms)) * NODE_VECTORS[0] * T::PER_LINE);
        outputs.resize(n_tile * NODE_VECTORS[1] * T::PER_LINE);
        partial.resize(n_group * PAIR_VECTORS * T::PER_LINE);
        if self.row_of.len() < n_atoms {
            self.row_of.resize(n_atoms, u32::MAX);
        }
    }
}
