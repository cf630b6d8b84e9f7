//! The pairs of neighbours of a group of atoms: what [`edge_geometry`](crate::ops::edge_geometry) and
//! [`radial_basis`](crate::ops::radial_basis) give, in the order in which messages want it.
//!
//! A pair stands once, seen from its lower atom (the one with the smaller number) to its upper one, whether one or both of
//! its atoms belong to the group; atoms outside are numbered behind the group's own. Every atom meets its neighbours in
//! the order of their numbers, however atoms are cut into groups, so that sums are the same bits.

use std::ops::Range;

use super::filters::Radial;
use super::geometry::Edges;
use super::lanes::Lanes;
use crate::structure::{Vec3, dot};

/// A pair of neighbours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pair<T> {
    /// Lower and upper atom, as rows of the group.
    pub atoms: [u32; 2],
    /// First radial function that may differ from zero.
    pub first: u32,
    /// Unit vector from the lower to the upper atom.
    pub direction: [T; 3],
}

/// The pairs of a group, found by [`PairsMut::find`].
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a, T> {
    /// `[n_pairs]`: first those whose lower atom lies outside, then all others by their lower atom.
    pub pairs: &'a [Pair<T>],
    /// Radial functions of each pair and their derivatives, `[n_pairs, 2, window]`.
    pub values: &'a [T],
    /// Atoms outside the group, in the order of their rows, which begin behind the group's own.
    pub outside: &'a [u32],
}

impl<'a, T> Pairs<'a, T> {
    /// Radial functions of pair `p`, and what is left of `weights` from the first of them on. `K` is the window, or 0 where
    /// it is not known before.
    #[inline(always)]
    pub fn radial<'b, V, const K: usize>(&self, p: usize, weights: &'b [[V; 3]]) -> (&'b [[V; 3]], &'a [T]) {
        let width = if K > 0 { 2 * K } else { self.values.len() / self.pairs.len() };
        (&weights[self.pairs[p].first as usize..], &self.values[p * width..][..width])
    }
}

/// How much of the room is taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct PairCounts {
    /// Pairs.
    pub n_pairs: usize,
    /// Atoms outside.
    pub n_outside: usize,
}

/// Room for [`Pairs`], for at least as many pairs as edges.
#[derive(Debug)]
pub struct PairsMut<'a, T> {
    /// `[n_pairs]`.
    pub pairs: &'a mut [Pair<T>],
    /// `[n_pairs, 2, window]`.
    pub values: &'a mut [T],
    /// As many as edges.
    pub outside: &'a mut [u32],
    /// Pair of each edge of the group, `[n_edges]`.
    pub pair_of_edge: &'a mut [u32],
}

/// Row of an atom that was not met yet.
const NOT_MET: u32 = u32::MAX;

impl<T: Lanes> PairsMut<'_, T> {
    /// Finds the pairs of `atoms`.
    ///
    /// SCRATCH `row_of` `[n_atoms]` or longer: `u32::MAX` everywhere, before and after.
    #[inline(always)]
    pub fn find(
        &mut self,
        edges: &Edges,
        positions: &[Vec3],
        atoms: &Range<usize>,
        radial: &Radial,
        row_of: &mut [u32],
    ) -> PairCounts {
        let counts = PairCounts::default();
        let mut search = Search { room: self, edges, positions, atoms, radial, row_of, counts };
        // Lower neighbours outside come before all inside: the order of numbers. Images of one neighbour are sorted by
        // shift, so seen from the lower atom they come in the opposite order.
        for i in atoms.clone() {
            let mut rest = edges.of(i);
            while rest.start < rest.end && (edges.senders[rest.start] as usize) < atoms.start {
                let j = edges.senders[rest.start];
                let mut end = rest.start + 1;
                while end < rest.end && edges.senders[end] == j {
                    end += 1;
                }
                for e in (rest.start..end).rev() {
                    search.push(i, e, true);
                }
                rest.start = end;
            }
        }
        for i in atoms.clone() {
            for e in edges.of(i) {
                if edges.is_lower(i, e) {
                    search.push(i, e, false);
                }
            }
        }
        let counts = search.counts;
        for &j in &self.outside[..counts.n_outside] {
            row_of[j as usize] = NOT_MET;
        }
        counts
    }
}

struct Search<'a, 'b, T> {
    room: &'a mut PairsMut<'b, T>,
    edges: &'a Edges<'a>,
    positions: &'a [Vec3],
    atoms: &'a Range<usize>,
    radial: &'a Radial,
    row_of: &'a mut [u32],
    counts: PairCounts,
}

impl<T: Lanes> Search<'_, '_, T> {
    /// Adds edge `e` of receiver `i`, its upper or lower atom.
    #[inline(always)]
    fn push(&mut self, i: usize, e: usize, upper: bool) {
        let (p, first_edge) = (self.counts.n_pairs, self.edges.edge_ptr[self.atoms.start] as usize);
        let j = self.edges.senders[e] as usize;
        let (own, other) = ((i - self.atoms.start) as u32, self.row(j));
        let r = self.edges.displacement(self.positions, i, e);
        let distance = dot(r, r).sqrt();
        let scale = if upper { -1.0 / distance } else { 1.0 / distance };
        let window = 2 * self.radial.window();
        let first = self.radial.at(distance, &mut self.room.values[p * window..][..window]);
        let atoms = if upper { [other, own] } else { [own, other] };
        let direction = [T::of(r[0] * scale), T::of(r[1] * scale), T::of(r[2] * scale)];
        self.room.pairs[p] = Pair { atoms, first, direction };
        self.room.pair_of_edge[e - first_edge] = p as u32;
        if self.atoms.contains(&j) {
            self.room.pair_of_edge[self.edges.reverse_edge[e] as usize - first_edge] = p as u32;
        }
        self.counts.n_pairs += 1;
    }

    #[inline(always)]
    fn row(&mut self, j: usize) -> u32 {
        if self.atoms.contains(&j) {
            return (j - self.atoms.start) as u32;
        }
        if self.row_of[j] == NOT_MET {
            self.row_of[j] = (self.atoms.len() + self.counts.n_outside) as u32;
            self.room.outside[self.counts.n_outside] = j as u32;
            self.counts.n_outside += 1;
        }
        self.row_of[j]
    }
}
