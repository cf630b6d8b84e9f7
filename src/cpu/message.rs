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
/// IN  `scalars` [rows of the group, n] before; `vectors` of the batch.
/// OUT `context` [rows of the group, 2n], scalars after in its first half; `sums` [rows of the group, 3n], vectors after.
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
                group.pairs.filters::<S, 2, false>(simd, group.radial, filters, v, w);
            } else {
                group.pairs.filters::<S, 3, false>(simd, group.radial, filters, v, w);
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
/// IN  `grad_scalars` [n_atoms, n], `grad_vectors` [n_atoms, 3n] of the batch.
/// OUT `grad_context`, `grad_sent` [rows of the group, 3n], the latter with the atom's own `grad_vectors` added,
///     overwritten (untouched in the first layer); `cotangents` [edges of the group], accumulated: of the distance and of
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
    let [w, partial] = buffers;
    let n_filters = if FIRST { 2 } else { 3 };
    w.resize(group.pairs.len() * 2 * n_filters * lanes);
    partial.resize(group.ranks.len() * 4 * lanes);
    let (w, partial) = (T::vectors_mut::<S>(w), T::vectors_mut::<S>(partial).as_chunks_mut::<4>().0);
    let (gq, gmu) = (T::vectors::<S>(grad_scalars), T::vectors::<S>(grad_vectors));
    assert!(gq.len() == n_atoms * nv && gmu.len() == n_atoms * 3 * nv);
    let (x, mu) = (T::vectors::<S>(nodes.context), T::vectors::<S>(nodes.vectors));
    let (grad_context, grad_sent) = (T::vectors_mut::<S>(grad_context), T::vectors_mut::<S>(grad_sent));
    let (senders, ranks, directions, edge_ptr) = local(group);
    let first_edge = edge_ptr[0] as usize;
    let zero = T::splat(simd, T::zero());
    for v in 0..nv {
        vectorize!(simd, {
            if FIRST {
                group.pairs.filters::<S, 2, true>(simd, group.radial, filters, v, w);
            } else {
                group.pairs.filters::<S, 3, true>(simd, group.radial, filters, v, w);
            }
        });
        let w: &[T::V<S>] = w;
        for (row, j) in group.atoms.clone().enumerate() {
            let x_at = if FIRST { usize::from(nodes.species[j]) } else { j } * 3 * nv + v;
            let [x0, x1, x2] = [x[x_at], x[x_at + nv], x[x_at + 2 * nv]];
            let m = if FIRST { [zero; 3] } else { [mu[x_at], mu[x_at + nv], mu[x_at + 2 * nv]] };
            let mut sums = [zero; 6];
            for e in edge_ptr[row] as usize - first_edge..edge_ptr[row + 1] as usize - first_edge {
                // SAFETY: `check` bounds senders, ranks and the edges' arrays; `filters` filled its vectors for each pair; `gq` and
                // `gmu` have rows for all atoms (asserted above).
                unsafe {
                    let u = at(directions, e);
                    let (ux, uy, uz) = (T::splat(simd, -u[0]), T::splat(simd, -u[1]), T::splat(simd, -u[2]));
                    let i = at(senders, e) as usize;
                    let w_at = 2 * n_filters * at(ranks, e) as usize;
                    let g = at(gq, i * nv + v);
                    let g_at = i * 3 * nv + v;
                    let [gx, gy, gz] = [at(gmu, g_at), at(gmu, g_at + nv), at(gmu, g_at + 2 * nv)];
                    let along = T::fma(simd, gx, ux, T::fma(simd, gy, uy, T::vmul(simd, gz, uz)));
                    let (g_x0, along_x1) = (T::vmul(simd, g, x0), T::vmul(simd, along, x1));
                    let mut slope = T::fma(
                        simd,
                        g_x0,
                        at(w, w_at + n_filters),
                        T::vmul(simd, along_x1, at(w, w_at + n_filters + 1)),
                    );
                    let gate = T::vmul(simd, at(w, w_at + 1), x1);
                    if !FIRST {
                        let across = T::fma(simd, gx, m[0], T::fma(simd, gy, m[1], T::vmul(simd, gz, m[2])));
                        slope = T::fma(simd, T::vmul(simd, across, x2), at(w, w_at + 5), slope);
                        sums[0] = T::fma(simd, g, at(w, w_at), sums[0]);
                        sums[1] = T::fma(simd, along, at(w, w_at + 1), sums[1]);
                        sums[2] = T::fma(simd, across, at(w, w_at + 2), sums[2]);
                        let sent = T::vmul(simd, at(w, w_at + 2), x2);
                        sums[3] = T::fma(simd, gx, sent, sums[3]);
                        sums[4] = T::fma(simd, gy, sent, sums[4]);
                        sums[5] = T::fma(simd, gz, sent, sums[5]);
                    }
                    let out = partial.get_unchecked_mut(e);
                    *out = if v == 0 {
                        [slope, T::vmul(simd, gate, gx), T::vmul(simd, gate, gy), T::vmul(simd, gate, gz)]
                    } else {
                        [
                            T::vadd(simd, out[0], slope),
                            T::fma(simd, gate, gx, out[1]),
                            T::fma(simd, gate, gy, out[2]),
                            T::fma(simd, gate, gz, out[3]),
                        ]
                    };
                }
            }
            if !FIRST {
                for s in 0..3 {
                    let out = row * 3 * nv + s * nv + v;
                    grad_context[out] = sums[s];
                    grad_sent[out] = T::vadd(simd, gmu[(3 * j + s) * nv + v], sums[3 + s]);
                }
            }
        }
    }
    let partial = &partial[..cotangents.len()];
    for e in 0..cotangents.len() {
        for c in 0..4 {
            cotangents[e][c] += T::vsum(simd, partial[e][c]);
        }
    }
}
