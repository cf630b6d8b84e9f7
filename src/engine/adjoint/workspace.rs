//! What an evaluation writes: kept from call to call, so that a step allocates nothing.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::shared::Rows;
use super::weights::Weights;
use crate::batch::PackedBatch;
use crate::cpu::lanes::{Buffer, Lanes};
use crate::cpu::message::{NODE_VECTORS, PAIR_VECTORS};
use crate::cpu::pairs::{Counts, Pair};
use crate::engine::Results;

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
pub(super) struct Arrays<T> {
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
    /// Pairs of each group, from the number of its first edge on, `[n_edges]`; so for what follows.
    pub pairs: Vec<Pair<T>>,
    /// [`Pairs::values`](crate::cpu::pairs::Pairs).
    pub values: Buffer<T>,
    /// [`Pairs::outside`](crate::cpu::pairs::Pairs).
    pub outside: Vec<u32>,
    /// Pair of each edge, within its group, `[n_edges]`.
    pub pair_of_edge: Vec<u32>,
    /// Pairs and atoms outside of each group.
    pub counts: Vec<Counts>,
    /// Cotangents of each pair's distance and direction, `[n_edges]`.
    pub cotangents: Vec<[T; 4]>,
}

/// What an update keeps for its backward, `[n_atoms, …]`.
#[derive(Debug, Default)]
pub(super) struct Kept<B> {
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
    fn resize(&mut self, n_rows: usize, n: usize, n_gates: usize) {
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
pub(super) struct Scratch<T> {
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

/// Tiles, each the work of one thread in one stage, and the groups of atoms in them whose filters are evaluated together.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub tiles: Vec<Tile>,
    pub groups: Vec<Range<usize>>,
}

#[derive(Debug, Clone)]
pub(super) struct Tile {
    pub atoms: Range<usize>,
    pub groups: Range<usize>,
}

/// Edges of a group at most, unless an atom has more: their filters stay in the cache.
const EDGES_PER_GROUP: usize = 2048;

/// Edges of a group of several structures at most.
const FEW_EDGES: usize = 1280;

impl Partition {
    /// Cuts the atoms of a batch into tiles of about `tile` atoms.
    pub fn fill(&mut self, batch: &PackedBatch, tile: usize) {
        self.tiles.clear();
        self.groups.clear();
        let (n_atoms, edges) = (batch.n_atoms(), batch.edges());
        let n_tiles = n_atoms.div_ceil(tile.max(1));
        let mut s = 0;
        for t in 0..n_tiles {
            let atoms = n_atoms * t / n_tiles..n_atoms * (t + 1) / n_tiles;
            let first_group = self.groups.len();
            let mut start = atoms.start;
            // Structures stay whole where they can: a pair inside a group is evaluated once.
            while s < batch.n_structures() && batch.atoms_of(s).start < atoms.end {
                let piece = batch.atoms_of(s).start.max(atoms.start)..batch.atoms_of(s).end.min(atoms.end);
                if piece.start > start && edges.of_all(&(start..piece.end)).len() > FEW_EDGES {
                    self.groups.push(start..piece.start);
                    start = piece.start;
                }
                for i in piece.clone() {
                    if i > start && edges.of_all(&(start..i + 1)).len() > EDGES_PER_GROUP {
                        self.groups.push(start..i);
                        start = i;
                    }
                }
                if batch.atoms_of(s).end > atoms.end {
                    break;
                }
                s += 1;
            }
            self.groups.push(start..atoms.end);
            self.tiles.push(Tile { atoms, groups: first_group..self.groups.len() });
        }
    }
}

impl<T: Lanes> Workspace<T> {
    /// Forgets what a panic in the evaluation before left behind: scratch that is expected to be clean.
    pub(super) fn begin(&mut self) {
        if std::mem::replace(&mut self.is_left, true) {
            self.scratch.clear();
        }
    }

    /// All tasks are done.
    pub(super) fn end(&mut self) {
        self.is_left = false;
    }

    /// Makes room for batches of `n_atoms` atoms with up to `n_edges` edges.
    pub(super) fn reserve(&mut self, weights: &Weights<T>, n_atoms: usize, n_edges: usize) {
        // A group has an atom at least.
        let n_groups = n_atoms;
        let room = |len: usize, want: usize| want.saturating_sub(len);
        let arrays = &mut self.arrays;
        arrays.pairs.reserve(room(arrays.pairs.len(), n_edges));
        arrays.outside.reserve(room(arrays.outside.len(), n_edges));
        arrays.pair_of_edge.reserve(room(arrays.pair_of_edge.len(), n_edges));
        arrays.cotangents.reserve(room(arrays.cotangents.len(), n_edges));
        arrays.values.resize(n_edges * 2 * weights.radial.window());
        arrays.counts.reserve(room(arrays.counts.len(), n_groups));
        self.partition.groups.reserve(room(self.partition.groups.len(), n_groups));
    }

    /// Makes room for a batch.
    pub(super) fn resize(
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
        arrays.pairs.resize(n_edges, Pair::default());
        arrays.outside.resize(n_edges, 0);
        arrays.pair_of_edge.resize(n_edges, 0);
        arrays.values.resize(n_edges * 2 * weights.radial.window());
        arrays.counts.resize(self.partition.groups.len(), Counts::default());
        if gradient {
            arrays.grad_scalars.resize(layers(2, n));
            arrays.grad_vectors.resize(layers(2, 3 * n));
            arrays.cotangents.resize(n_edges, [T::zero(); 4]);
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
