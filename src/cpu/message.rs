//! [`message`](crate::ops::message): filtered sums over neighbours, and their backward, for a group of atoms.
//!
//! One vector of features at a time, so that the filters of all pairs of a group fit the cache; nothing as wide as the
//! filters is stored for an edge. Both directions gather: an atom's sums from its senders, an atom's cotangents from
//! the atoms it sends to, which are the same neighbours. No atomics, one order.

// See gemm.rs.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use pulp::Simd;

use super::filters::{Filters, Pairs, Radial};
use super::geometry::Edges;
use super::lanes::{Buffer, Lanes, vectorize};

/// What the messages of a group of atoms are made of.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a, T> {
    /// Edges of the batch.
    pub edges: &'a Edges<'a>,
    /// The group's atoms.
    pub atoms: &'a Range<usize>,
    /// Direction towards the sender of each edge of the group.
    pub directions: &'a [[T; 3]],
    /// Pair of each edge of the group.
    pub ranks: &'a [u32],
    /// Distances of the group's pairs.
    pub pairs: Pairs<'a, T>,
    /// How distances enter the filters.
    pub radial: &'a Radial,
}

/// State of the atoms entering a layer.
#[derive(Debug, Clone, Copy)]
pub struct Nodes<'a, T> {
    /// Interaction context, `[rows, 3n]`: gates of scalars, directions, vectors.
    pub context: &'a [T],
    /// Vectors, `[rows, 3n]`; not read in the first layer, where they are zero.
    pub vectors: &'a [T],
    /// First layer: row of each atom in `context`.
    pub species: &'a [u16],
}

/// Element `i` of a slice.
///
/// # Safety
/// `i < x.len()`.
#[inline(always)]
unsafe fn at<X: Copy>(x: &[X], i: usize) -> X {
    debug_assert!(i < x.len(), "{i} of {}", x.len());
    // SAFETY: the caller's.
    unsafe { *x.get_unchecked(i) }
}

/// What the inner loops rely on: every sender is one of `n_atoms`, every rank one of the pairs.
///
/// The lengths are checked here; the contents where they are made, in [`PackedBatch`](crate::batch::PackedBatch) and
/// [`Radial::prepare`].
fn check<T: Lanes>(group: &Group<T>, n_atoms: usize) {
    let range = group.edges.of_all(group.atoms);
    assert!(range.len() == group.ranks.len() && range.len() == group.directions.len());
    assert!(group.edges.edge_ptr.len() == n_atoms + 1 && range.end <= group.edges.senders.len());
    debug_assert!(group.edges.senders[range].iter().all(|&j| (j as usize) < n_atoms));
    debug_assert!(group.ranks.iter().all(|&p| (p as usize) < group.pairs.len()));
}

/// Senders, pairs and directions of the group's edges, and where those of its atoms begin (in the batch).
#[expect(clippy::type_complexity)]
#[inline(always)]
fn local<'a, T>(group: &Group<'a, T>) -> (&'a [u32], &'a [u32], &'a [[T; 3]], &'a [u32]) {
    let edge_ptr = &group.edges.edge_ptr[group.atoms.start..group.atoms.end + 1];
    let range = edge_ptr[0] as usize..edge_ptr[edge_ptr.len() - 1] as usize;
    (&group.edges.senders[range], group.ranks, group.directions, edge_ptr)
}

/// Adds to the group's scalars and vectors what neighbours send.
///
/// IN  `scalars` `[rows of the group, n]` before; `vectors` of the batch.
/// OUT `context` `[rows of the group, 2n]`, scalars after in its first half; `sums` `[rows of the group, 3n]`, vectors after.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
pub fn message<T: Lanes, S: Simd, const FIRST: bool>(
    simd: S,
    n: usize,
    group: &Group<T>,
    filters: &Filters<T>,
    nodes: Nodes<T>,
    scalars: &[T],
    context: &mut [T],
    sums: &mut [T],
    buffer: &mut Buffer<T>,
) {
    let nv = n / T::lanes::<S>();
    let n_rows = if FIRST { nodes.species.len() } else { nodes.context.len() / (3 * n) };
    check(group, n_rows);
    // The first layer has no vectors to gate.
    let n_filters = if FIRST { 2 } else { 3 };
    buffer.resize(group.pairs.len() * n_filters * T::lanes::<S>());
    let w = T::vectors_mut::<S>(buffer);
    let x = T::vectors::<S>(nodes.context);
    let mu = T::vectors::<S>(nodes.vectors);
    if FIRST {
        let n_species = x.len() / (3 * nv);
        assert!(nodes.species.iter().all(|&s| usize::from(s) < n_species));
    } else {
        assert!(mu.len() == x.len());
    }
    let scalars = T::vectors::<S>(scalars);
    let context = T::vectors_mut::<S>(context);
    let sums = T::vectors_mut::<S>(sums);
    // Plain locals: the compiler would load them anew after every store.
    let (senders, ranks, directions, edge_ptr) = local(group);
    let first_edge = edge_ptr[0] as usize;
    for v in 0..nv {
        vectorize!(simd, {
            if FIRST {
                group.pairs.filters::<S, 2, false>(simd, group.radial, filters, v, w, n_filters);
            } else {
                group.pairs.filters::<S, 3, false>(simd, group.radial, filters, v, w, n_filters);
            }
        });
        let w: &[T::V<S>] = w;
        for (row, i) in group.atoms.clone().enumerate() {
            let zero = T::splat(simd, T::zero());
            let (mut dq, mut dx, mut dy, mut dz) = (scalars[row * nv + v], zero, zero, zero);
            if !FIRST {
                let own = i * 3 * nv + v;
                (dx, dy, dz) = (mu[own], mu[own + nv], mu[own + 2 * nv]);
            }
            for e in edge_ptr[row] as usize - first_edge..edge_ptr[row + 1] as usize - first_edge {
                // SAFETY: `check` bounds senders, ranks and the edges' arrays; `filters` filled its vectors for each pair; `x` and
                // `mu` have 3n numbers for every row, species included (asserted above).
                unsafe {
                    let u = at(directions, e);
                    let (ux, uy, uz) = (T::splat(simd, u[0]), T::splat(simd, u[1]), T::splat(simd, u[2]));
                    let j = at(senders, e) as usize;
                    let w_at = n_filters * at(ranks, e) as usize;
                    let x_at = if FIRST { usize::from(at(nodes.species, j)) } else { j } * 3 * nv + v;
                    dq = T::fma(simd, at(w, w_at), at(x, x_at), dq);
                    let along = T::vmul(simd, at(w, w_at + 1), at(x, x_at + nv));
                    if FIRST {
                        dx = T::fma(simd, along, ux, dx);
                        dy = T::fma(simd, along, uy, dy);
                        dz = T::fma(simd, along, uz, dz);
                    } else {
                        let gate = T::vmul(simd, at(w, w_at + 2), at(x, x_at + 2 * nv));
                        // The sum of two products first: the chain over edges is one addition long.
                        dx = T::vadd(simd, dx, T::fma(simd, gate, at(mu, x_at), T::vmul(simd, along, ux)));
                        dy = T::vadd(simd, dy, T::fma(simd, gate, at(mu, x_at + nv), T::vmul(simd, along, uy)));
                        dz = T::vadd(simd, dz, T::fma(simd, gate, at(mu, x_at + 2 * nv), T::vmul(simd, along, uz)));
                    }
                }
            }
            context[row * 2 * nv + v] = dq;
            let out = row * 3 * nv + v;
            (sums[out], sums[out + nv], sums[out + 2 * nv]) = (dx, dy, dz);
        }
    }
}

/// Pulls the cotangents of all atoms' sums back to the group's atoms as senders.
///
/// IN  `grad_scalars` `[n_atoms, n]`, `grad_vectors` `[n_atoms, 3n]` of the batch.
/// OUT `grad_context`, `grad_sent` `[rows of the group, 3n]`, the latter with the atom's own `grad_vectors` added,
///     overwritten (untouched in the first layer); `cotangents` `[edges of the group]`, accumulated: of the distance and of
///     the direction from the neighbour to the group's atom.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
pub fn message_vjp<T: Lanes, S: Simd, const FIRST: bool>(
    simd: S,
    n: usize,
    group: &Group<T>,
    filters: &Filters<T>,
    nodes: Nodes<T>,
    grad_scalars: &[T],
    grad_vectors: &[T],
    grad_context: &mut [T],
    grad_sent: &mut [T],
    cotangents: &mut [[T; 4]],
    buffers: &mut [Buffer<T>; 2],
) {
    let (lanes, nv) = (T::lanes::<S>(), n / T::lanes::<S>());
    let n_atoms = grad_scalars.len() / n;
    check(group, n_atoms);
    assert!(grad_scalars.len() == n_atoms * n && grad_vectors.len() == n_atoms * 3 * n);
    let n_filters = if FIRST { 2 } else { 3 };
    let [w, partial] = buffers;
    w.resize(group.pairs.len().max(1) * AT_ONCE * 2 * n_filters * lanes);
    partial.resize(group.ranks.len() * 4 * lanes);
    let mut vjp = Vjp::<T, S, FIRST> {
        simd,
        nv,
        group,
        filters,
        species: nodes.species,
        x: T::vectors::<S>(nodes.context),
        mu: T::vectors::<S>(nodes.vectors),
        gq: T::vectors::<S>(grad_scalars),
        gmu: T::vectors::<S>(grad_vectors),
        grad_context: T::vectors_mut::<S>(grad_context),
        grad_sent: T::vectors_mut::<S>(grad_sent),
        w: T::vectors_mut::<S>(w),
        partial: T::vectors_mut::<S>(partial).as_chunks_mut::<4>().0,
    };
    let mut v = 0;
    while v + AT_ONCE <= nv {
        vjp.pass::<AT_ONCE>(v);
        v += AT_ONCE;
    }
    while v < nv {
        vjp.pass::<1>(v);
        v += 1;
    }
    let partial = &vjp.partial[..cotangents.len()];
    for e in 0..cotangents.len() {
        let sums = T::vsum4(simd, partial[e]);
        for c in 0..4 {
            cotangents[e][c] += sums[c];
        }
    }
}

/// Vectors of features that one pass over the edges takes: more write fewer partial sums, fewer leave the filters in the
/// cache.
const AT_ONCE: usize = 1;

/// Vectors of filters that a pair takes at most.
pub const MESSAGE_VECTORS: usize = 6 * AT_ONCE;

struct Vjp<'a, T: Lanes, S: Simd, const FIRST: bool> {
    simd: S,
    nv: usize,
    group: &'a Group<'a, T>,
    filters: &'a Filters<T>,
    species: &'a [u16],
    x: &'a [T::V<S>],
    mu: &'a [T::V<S>],
    gq: &'a [T::V<S>],
    gmu: &'a [T::V<S>],
    grad_context: &'a mut [T::V<S>],
    grad_sent: &'a mut [T::V<S>],
    w: &'a mut [T::V<S>],
    partial: &'a mut [[T::V<S>; 4]],
}

impl<T: Lanes, S: Simd, const FIRST: bool> Vjp<'_, T, S, FIRST> {
    /// Vectors `v..v + B` of all edges and atoms of the group.
    #[inline(always)]
    fn pass<const B: usize>(&mut self, v: usize) {
        let (simd, nv, group) = (self.simd, self.nv, self.group);
        let width = if FIRST { 4 } else { 6 };
        for b in 0..B {
            let (filters, w) = (self.filters, &mut self.w[b * width..]);
            vectorize!(simd, {
                if FIRST {
                    group.pairs.filters::<S, 2, true>(simd, group.radial, filters, v + b, w, B * width);
                } else {
                    group.pairs.filters::<S, 3, true>(simd, group.radial, filters, v + b, w, B * width);
                }
            });
        }
        let (w, gq, gmu) = (&*self.w, self.gq, self.gmu);
        let (senders, ranks, directions, edge_ptr) = local(group);
        let first_edge = edge_ptr[0] as usize;
        let zero = T::splat(simd, T::zero());
        for (row, j) in group.atoms.clone().enumerate() {
            let x_at = if FIRST { usize::from(self.species[j]) } else { j } * 3 * nv + v;
            let (mut x, mut m, mut sums) = ([[zero; 3]; B], [[zero; 3]; B], [[zero; 6]; B]);
            for b in 0..B {
                for s in 0..3 {
                    x[b][s] = self.x[x_at + s * nv + b];
                    if !FIRST {
                        m[b][s] = self.mu[x_at + s * nv + b];
                    }
                }
            }
            for e in edge_ptr[row] as usize - first_edge..edge_ptr[row + 1] as usize - first_edge {
                // SAFETY: `check` bounds senders, ranks and the edges' arrays; `filters` filled its vectors for each pair;
                // `gq` and `gmu` have rows for all atoms (asserted where they come from).
                unsafe {
                    let u = at(directions, e);
                    let (ux, uy, uz) = (T::splat(simd, -u[0]), T::splat(simd, -u[1]), T::splat(simd, -u[2]));
                    let i = at(senders, e) as usize;
                    let w_at = B * width * at(ranks, e) as usize;
                    let (q_at, g_at) = (i * nv + v, i * 3 * nv + v);
                    let out = self.partial.get_unchecked_mut(e);
                    let mut partial = if v == 0 { [zero; 4] } else { *out };
                    for b in 0..B {
                        let w_at = w_at + b * width;
                        let g = at(gq, q_at + b);
                        let (gx, gy, gz) = (at(gmu, g_at + b), at(gmu, g_at + nv + b), at(gmu, g_at + 2 * nv + b));
                        let along = T::fma(simd, gx, ux, T::fma(simd, gy, uy, T::vmul(simd, gz, uz)));
                        let (g_x0, along_x1) = (T::vmul(simd, g, x[b][0]), T::vmul(simd, along, x[b][1]));
                        let slopes = w_at + width / 2;
                        partial[0] = T::fma(simd, g_x0, at(w, slopes), partial[0]);
                        partial[0] = T::fma(simd, along_x1, at(w, slopes + 1), partial[0]);
                        let gate = T::vmul(simd, at(w, w_at + 1), x[b][1]);
                        partial[1] = T::fma(simd, gate, gx, partial[1]);
                        partial[2] = T::fma(simd, gate, gy, partial[2]);
                        partial[3] = T::fma(simd, gate, gz, partial[3]);
                        if !FIRST {
                            let (m, sums) = (&m[b], &mut sums[b]);
                            let across = T::fma(simd, gx, m[0], T::fma(simd, gy, m[1], T::vmul(simd, gz, m[2])));
                            let across_x2 = T::vmul(simd, across, x[b][2]);
                            partial[0] = T::fma(simd, across_x2, at(w, slopes + 2), partial[0]);
                            sums[0] = T::fma(simd, g, at(w, w_at), sums[0]);
                            sums[1] = T::fma(simd, along, at(w, w_at + 1), sums[1]);
                            sums[2] = T::fma(simd, across, at(w, w_at + 2), sums[2]);
                            let sent = T::vmul(simd, at(w, w_at + 2), x[b][2]);
                            sums[3] = T::fma(simd, gx, sent, sums[3]);
                            sums[4] = T::fma(simd, gy, sent, sums[4]);
                            sums[5] = T::fma(simd, gz, sent, sums[5]);
                        }
                    }
                    *out = partial;
                }
            }
            if !FIRST {
                for b in 0..B {
                    for s in 0..3 {
                        let out = (row * 3 + s) * nv + v + b;
                        self.grad_context[out] = sums[b][s];
                        self.grad_sent[out] = T::vadd(simd, gmu[(3 * j + s) * nv + v + b], sums[b][3 + s]);
                    }
                }
            }
        }
    }
}
