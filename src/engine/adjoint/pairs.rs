//! The pairs of a batch, group by group: found in the forward, and the way from their cotangents to positions.

use std::ops::Range;

use pulp::Simd;

use super::shared::SharedSlice;
use super::tiles::{Partition, Tile};
use crate::batch::PackedBatch;
use crate::cpu::filters::Radial;
use crate::cpu::geometry::{Edges, geometry_vjp};
use crate::cpu::lanes::{Buffer, Lanes, vectorize};
use crate::cpu::pairs::{Pair, PairCounts, Pairs, PairsMut};
use crate::engine::Results;
use crate::structure::{Mat3, Vec3};

/// Arrays of a workspace: pairs of each group stand from the number of its first edge on.
#[derive(Debug, Default)]
pub(super) struct PairArrays<T> {
    /// `[n_edges]`, as the next.
    pairs: Vec<Pair<T>>,
    /// [`Pairs::values`].
    values: Buffer<T>,
    /// [`Pairs::outside`].
    outside: Vec<u32>,
    /// Pair of each edge, within its group, `[n_edges]`.
    pair_of_edge: Vec<u32>,
    /// Of each group.
    counts: Vec<PairCounts>,
    /// Cotangents of each pair's distance and direction, `[n_edges]`.
    cotangents: Vec<[T; 4]>,
}

impl<T: Lanes> PairArrays<T> {
    /// Makes room for a batch; `window` radial functions are evaluated for a pair.
    pub fn resize(&mut self, n_edges: usize, n_groups: usize, window: usize, gradient: bool) {
        self.pairs.resize(n_edges, Pair::default());
        self.outside.resize(n_edges, 0);
        self.pair_of_edge.resize(n_edges, 0);
        self.values.resize(n_edges * 2 * window);
        self.counts.resize(n_groups, PairCounts::default());
        if gradient {
            self.cotangents.resize(n_edges, [T::zero(); 4]);
        }
    }

    /// Makes room for batches of up to `n_edges` edges and `n_groups` groups.
    pub fn reserve(&mut self, n_edges: usize, n_groups: usize, window: usize) {
        let room = |len: usize, want: usize| want.saturating_sub(len);
        self.pairs.reserve(room(self.pairs.len(), n_edges));
        self.outside.reserve(room(self.outside.len(), n_edges));
        self.pair_of_edge.reserve(room(self.pair_of_edge.len(), n_edges));
        self.cotangents.reserve(room(self.cotangents.len(), n_edges));
        self.values.resize(n_edges * 2 * window);
        self.counts.reserve(room(self.counts.len(), n_groups));
    }
}

/// The same while the threads of an evaluation share them.
#[derive(Debug)]
pub(super) struct SharedPairs<'a, T> {
    edges: Edges<'a>,
    positions: &'a [Vec3],
    groups: &'a [Range<usize>],
    radial: &'a Radial,
    pairs: SharedSlice<'a, Pair<T>>,
    values: SharedSlice<'a, T>,
    outside: SharedSlice<'a, u32>,
    pair_of_edge: SharedSlice<'a, u32>,
    counts: SharedSlice<'a, PairCounts>,
    cotangents: SharedSlice<'a, [T; 4]>,
}

impl<'a, T: Lanes> SharedPairs<'a, T> {
    pub fn new(
        arrays: &'a mut PairArrays<T>,
        batch: &'a PackedBatch,
        partition: &'a Partition,
        radial: &'a Radial,
    ) -> Self {
        SharedPairs {
            edges: batch.edges(),
            positions: &batch.positions,
            groups: &partition.groups,
            radial,
            pairs: SharedSlice::new(&mut arrays.pairs),
            values: SharedSlice::new(&mut arrays.values),
            outside: SharedSlice::new(&mut arrays.outside),
            pair_of_edge: SharedSlice::new(&mut arrays.pair_of_edge),
            counts: SharedSlice::new(&mut arrays.counts),
            cotangents: SharedSlice::new(&mut arrays.cotangents),
        }
    }

    /// Atoms of a group.
    pub fn atoms(&self, group: usize) -> &'a Range<usize> {
        &self.groups[group]
    }

    /// Edge geometry and radial basis of a group. SCRATCH `row_of` as [`PairsMut::find`] has it.
    ///
    /// # Safety
    /// No task that may run at the same time uses this group.
    #[inline(always)]
    pub unsafe fn find<S: Simd>(&self, simd: S, group: usize, gradient: bool, row_of: &mut [u32]) {
        let (atoms, width) = (&self.groups[group], 2 * self.radial.window());
        let range = self.edges.of_all(atoms);
        // SAFETY: the caller's.
        let (mut pairs, counts) = unsafe {
            let pairs = PairsMut {
                pairs: self.pairs.write(range.clone()),
                values: self.values.write(range.start * width..range.end * width),
                outside: self.outside.write(range.clone()),
                pair_of_edge: self.pair_of_edge.write(range.clone()),
            };
            (pairs, &mut self.counts.write(group..group + 1)[0])
        };
        let (edges, positions, radial) = (&self.edges, self.positions, self.radial);
        vectorize!(simd, *counts = pairs.find(edges, positions, atoms, radial, row_of));
        if gradient {
            // SAFETY: the caller's.
            unsafe { self.cotangents.write(range) }.fill([T::zero(); 4]);
        }
    }

    /// What [`SharedPairs::find`] found.
    ///
    /// # Safety
    /// No task that may run at the same time finds pairs of this group.
    pub unsafe fn of_group(&self, group: usize) -> Pairs<'a, T> {
        let (first, width) = (self.edges.of_all(&self.groups[group]).start, 2 * self.radial.window());
        // SAFETY: the caller's.
        unsafe {
            let PairCounts { n_pairs, n_outside } = self.counts.read(group..group + 1)[0];
            Pairs {
                pairs: self.pairs.read(first..first + n_pairs),
                values: self.values.read(first * width..(first + n_pairs) * width),
                outside: self.outside.read(first..first + n_outside),
            }
        }
    }

    /// Cotangents of the first `n_pairs` pairs of a group, to add to.
    ///
    /// # Safety
    /// No task that may run at the same time uses those of this group, and this task holds no other reference to them.
    pub unsafe fn cotangents(&self, group: usize, n_pairs: usize) -> &'a mut [[T; 4]] {
        let first = self.edges.of_all(&self.groups[group]).start;
        // SAFETY: the caller's.
        unsafe { self.cotangents.write(first..first + n_pairs) }
    }

    /// From the pairs of a tile to the positions of its atoms, and to their virials where they are asked for.
    ///
    /// # Safety
    /// No task that may run at the same time writes pairs or cotangents of this tile, or uses its rows of `out`.
    pub unsafe fn positions_vjp(&self, tile: &Tile, out: &SharedResults<'a>) {
        for group in tile.groups.clone() {
            let atoms = &self.groups[group];
            let range = self.edges.of_all(atoms);
            // SAFETY: the caller's.
            let (pairs, cotangents) =
                unsafe { (self.pair_of_edge.read(range.clone()), self.cotangents.read(range.clone())) };
            // SAFETY: the caller's.
            let (gradients, virials) = unsafe { out.derivatives(atoms) };
            for (row, i) in atoms.clone().enumerate() {
                let edges = self.edges.of(i);
                let pairs = &pairs[edges.start - range.start..edges.end - range.start];
                if let Some(virial) = virials.get_mut(row) {
                    *virial = [[0.0; 3]; 3];
                }
                let virial = virials.get_mut(row);
                gradients[row] = geometry_vjp(&self.edges, self.positions, i, pairs, cotangents, virial);
            }
        }
    }
}

/// Results while the threads of an evaluation share them.
#[derive(Debug)]
pub(super) struct SharedResults<'a> {
    energies: SharedSlice<'a, f64>,
    gradients: SharedSlice<'a, Vec3>,
    virials: Option<SharedSlice<'a, Mat3>>,
}

impl<'a> SharedResults<'a> {
    pub fn new(results: &'a mut Results) -> Self {
        SharedResults {
            energies: SharedSlice::new(&mut results.atomic_energies),
            gradients: SharedSlice::new(&mut results.gradients),
            virials: (!results.virials.is_empty()).then(|| SharedSlice::new(&mut results.virials)),
        }
    }

    /// Energies of some atoms, eV.
    ///
    /// # Safety
    /// As [`SharedSlice::write`].
    pub unsafe fn energies(&self, atoms: &Range<usize>) -> &'a mut [f64] {
        // SAFETY: the caller's.
        unsafe { self.energies.write(atoms.clone()) }
    }

    /// Gradients of some atoms, and their virials, none where they are not asked for.
    ///
    /// # Safety
    /// As [`SharedSlice::write`].
    unsafe fn derivatives(&self, atoms: &Range<usize>) -> (&'a mut [Vec3], &'a mut [Mat3]) {
        let virials = self.virials.as_ref();
        // SAFETY: the caller's.
        unsafe { (self.gradients.write(atoms.clone()), virials.map_or(&mut [], |v| v.write(atoms.clone()))) }
    }
}
