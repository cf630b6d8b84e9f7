//! [`message`](crate::ops::message): filtered sums over neighbours, and their backward, for a group of atoms.
//!
//! A pair at a time, both directions at once, one vector of features at a time: filters and cotangents of a pair stay
//! in registers, and what a group's atoms have of one vector of features is put together first, so that it fits the
//! cache. Nothing as wide as the filters is ever stored. No atomics, one order.

// See gemm.rs.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use pulp::Simd;

use super::filters::{Filters, Radial, WINDOW, filters, filters_vjp};
use super::lanes::{Buffer, Lanes, vectorize};
use super::pairs::Pairs;

/// What the messages of a group of atoms are made of.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a, T> {
    /// The group's atoms.
    pub atoms: &'a Range<usize>,
    /// Their pairs.
    pub pairs: Pairs<'a, T>,
    /// How distances enter the filters.
    pub radial: &'a Radial,
    /// Filters of the layer.
    pub filters: &'a Filters<T>,
}

/// State of the atoms entering a layer.
#[derive(Debug, Clone, Copy)]
pub enum Nodes<'a, T> {
    /// The first layer: the context is a function of the species, vectors are zero.
    First {
        /// `[n_species, 3n]`.
        context: &'a [T],
        /// Row of each atom, `[n_atoms]`.
        species: &'a [u16],
    },
    /// A later layer.
    Later {
        /// Interaction context, `[n_atoms, 3n]`: gates of scalars, directions, vectors.
        context: &'a [T],
        /// Vectors, `[n_atoms, 3, n]`.
        vectors: &'a [T],
    },
}

/// Cotangents of what an update got, `[n_atoms, n]` and `[n_atoms, 3, n]`.
#[derive(Debug, Clone, Copy)]
pub struct Cotangents<'a, T> {
    /// Of scalars.
    pub scalars: &'a [T],
    /// Of vectors.
    pub vectors: &'a [T],
}

/// Vectors that an atom takes in the buffers at most: inputs, sums.
pub const NODE_VECTORS: [usize; 2] = [9, 5];

/// Vectors that a pair takes in the third buffer.
pub const PAIR_VECTORS: usize = 4;

impl<'a, T: Lanes> Group<'a, T> {
    fn n_own(&self) -> usize {
        self.atoms.len()
    }

    /// Atoms whose state messages read: the group's own, then those outside.
    fn n_local(&self) -> usize {
        self.atoms.len() + self.pairs.outside.len()
    }

    /// What the inner loops rely on: pairs have atoms of the group, or outside ones that are listed.
    ///
    /// [`PairsMut::find`](super::pairs::PairsMut::find) makes them so. Looked at all the same, also in release builds: unsafe
    /// code trusts it, and a layer does far more for each pair.
    fn check(&self) {
        assert_eq!(self.pairs.pairs.len() * 2 * self.radial.window(), self.pairs.values.len());
        let last = self.pairs.pairs.iter().fold(0, |last, pair| pair.atoms[0].max(pair.atoms[1]).max(last));
        assert!(
            self.pairs.pairs.is_empty() || (last as usize) < self.n_local(),
            "a pair of atoms that the group lacks"
        );
    }

    /// Atom of the batch in each row.
    #[inline(always)]
    fn atom(&self, row: usize) -> usize {
        match row.checked_sub(self.n_own()) {
            None => self.atoms.start + row,
            Some(k) => self.pairs.outside[k] as usize,
        }
    }
}

/// Vector `v` of the three rows of features of atom `i` in `[n_atoms, 3, n]`.
#[inline(always)]
fn row_vectors<T: Lanes, S: Simd>(_: S, x: &[T], i: usize, (v, nv): (usize, usize)) -> [T::V<S>; 3] {
    let x = &T::vectors::<S>(x)[i * 3 * nv..][..3 * nv];
    [x[v], x[nv + v], x[2 * nv + v]]
}

/// Adds to the group's scalars and vectors what neighbours send.
///
/// IN  `scalars` `[rows of the group, n]` before.
/// OUT `context` `[rows of the group, 2n]`, scalars after in its first half; `sums` `[rows of the group, 3n]`, vectors after.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
pub fn message<T: Lanes, S: Simd>(
    simd: S,
    n: usize,
    group: &Group<T>,
    nodes: Nodes<T>,
    scalars: &[T],
    context: &mut [T],
    sums: &mut [T],
    buffers: &mut [Buffer<T>; 3],
) {
    macro_rules! run {
        ($columns:expr, $window:expr) => {
            forward::<T, S, { $columns }, { $window }>(simd, n, group, nodes, scalars, context, sums, buffers)
        };
    }
    match (nodes, group.radial) {
        (Nodes::First { .. }, Radial::Splines { .. }) => run!(FIRST, WINDOW),
        (Nodes::First { .. }, Radial::Basis { .. }) => run!(FIRST, ANY),
        (Nodes::Later { .. }, Radial::Splines { .. }) => run!(LATER, WINDOW),
        (Nodes::Later { .. }, Radial::Basis { .. }) => run!(LATER, ANY),
    }
}

/// Vectors that messages of the first layer read of an atom at a time: gates of scalars and of directions.
const FIRST: usize = 2;

/// The same of later layers: a gate of vectors, and the vectors.
const LATER: usize = 5;

/// Cotangents that stand behind them on the way back: of scalars, and of vectors.
const GRADS: usize = 4;

/// Window of the radial basis, which depends on the model.
const ANY: usize = 0;

#[inline(always)]
#[expect(clippy::too_many_arguments)]
fn forward<T: Lanes, S: Simd, const IN: usize, const K: usize>(
    simd: S,
    n: usize,
    group: &Group<T>,
    nodes: Nodes<T>,
    scalars: &[T],
    context: &mut [T],
    sums: &mut [T],
    buffers: &mut [Buffer<T>; 3],
) {
    group.check();
    let (lanes, nv, n_own) = (T::lanes::<S>(), n / T::lanes::<S>(), group.n_own());
    let [inputs, outputs, _] = buffers;
    inputs.resize(group.n_local() * IN * lanes);
    outputs.resize(n_own * 4 * lanes);
    let inputs = T::vectors_mut::<S>(inputs).as_chunks_mut::<IN>().0;
    let outputs = T::vectors_mut::<S>(outputs).as_chunks_mut::<4>().0;
    let scalars = T::vectors::<S>(scalars);
    let (context, sums) = (T::vectors_mut::<S>(context), T::vectors_mut::<S>(sums));
    let zero = T::splat(simd, T::zero());
    for v in 0..nv {
        load_nodes::<T, S, IN>(simd, group, nodes, inputs, (v, nv));
        for row in 0..n_own {
            let vectors = match nodes {
                Nodes::First { .. } => [zero; 3],
                Nodes::Later { vectors, .. } => row_vectors::<T, S>(simd, vectors, group.atoms.start + row, (v, nv)),
            };
            outputs[row] = [scalars[row * nv + v], vectors[0], vectors[1], vectors[2]];
        }
        vectorize!(simd, {
            let (inputs, outputs) = (&*inputs, &mut *outputs);
            send::<T, S, IN, K>(simd, group.pairs, group.filters.vector(simd, v), inputs, outputs);
        });
        for row in 0..n_own {
            let [q, x, y, z] = outputs[row];
            context[row * 2 * nv + v] = q;
            let out = row * 3 * nv + v;
            (sums[out], sums[out + nv], sums[out + 2 * nv]) = (x, y, z);
        }
    }
}

/// Vector `v` of what messages read of each atom: gates of scalars and of directions, vectors times their gate.
#[inline(always)]
fn load_nodes<T: Lanes, S: Simd, const COLUMNS: usize>(
    simd: S,
    group: &Group<T>,
    nodes: Nodes<T>,
    rows: &mut [[T::V<S>; COLUMNS]],
    at: (usize, usize),
) {
    match nodes {
        Nodes::First { context, species } => {
            for row in 0..rows.len() {
                let x = row_vectors::<T, S>(simd, context, usize::from(species[group.atom(row)]), at);
                (rows[row][0], rows[row][1]) = (x[0], x[1]);
            }
        }
        Nodes::Later { context, vectors } => {
            for row in 0..rows.len() {
                let i = group.atom(row);
                let x = row_vectors::<T, S>(simd, context, i, at);
                let mu = row_vectors::<T, S>(simd, vectors, i, at);
                (rows[row][0], rows[row][1]) = (x[0], x[1]);
                for k in 0..3 {
                    rows[row][2 + k] = T::vmul(simd, x[2], mu[k]);
                }
            }
        }
    }
}

/// One vector of features of all pairs.
#[inline(always)]
fn send<T: Lanes, S: Simd, const IN: usize, const K: usize>(
    simd: S,
    pairs: Pairs<T>,
    weights: &[[T::V<S>; 3]],
    inputs: &[[T::V<S>; IN]],
    outputs: &mut [[T::V<S>; 4]],
) {
    let zero = T::splat(simd, T::zero());
    let mut p = 0;
    while p < pairs.pairs.len() {
        // The lower atom's sums stay in registers while it is the same; outside, they are nobody's.
        let a = pairs.pairs[p].atoms[0] as usize;
        let mut sums_a = if a < outputs.len() { outputs[a] } else { [zero; 4] };
        while p < pairs.pairs.len() && pairs.pairs[p].atoms[0] as usize == a {
            let pair = &pairs.pairs[p];
            let (weights, values) = pairs.radial::<T::V<S>, K>(p, weights);
            let [w, _] = if IN == FIRST {
                filters::<T, S, 2, false, K>(simd, weights, values)
            } else {
                filters::<T, S, 3, false, K>(simd, weights, values)
            };
            let [x, y, z] = pair.direction;
            let u = [T::splat(simd, x), T::splat(simd, y), T::splat(simd, z)];
            let b = pair.atoms[1] as usize;
            // SAFETY: `Group::check`: pairs have rows of `inputs`.
            let (of_a, of_b) = unsafe { (inputs.get_unchecked(a), inputs.get_unchecked(b)) };
            receive::<T, S, IN>(simd, w, u, of_b, &mut sums_a);
            let back = [w[0], T::vsub(simd, zero, w[1]), w[2]];
            if b == a {
                receive::<T, S, IN>(simd, back, u, of_a, &mut sums_a);
            } else if b < outputs.len() {
                receive::<T, S, IN>(simd, back, u, of_a, &mut outputs[b]);
            }
            p += 1;
        }
        if a < outputs.len() {
            outputs[a] = sums_a;
        }
    }
}

/// One direction: what an atom gets from a sender along `u`.
#[inline(always)]
fn receive<T: Lanes, S: Simd, const IN: usize>(
    simd: S,
    w: [T::V<S>; 3],
    u: [T::V<S>; 3],
    sender: &[T::V<S>; IN],
    out: &mut [T::V<S>; 4],
) {
    // Taken out and put back whole: the compiler would store every intermediate sum.
    let [mut q, mut x, mut y, mut z] = *out;
    q = T::fma(simd, w[0], sender[0], q);
    let along = T::vmul(simd, w[1], sender[1]);
    (x, y, z) = (T::fma(simd, along, u[0], x), T::fma(simd, along, u[1], y), T::fma(simd, along, u[2], z));
    if IN > FIRST {
        x = T::fma(simd, w[2], sender[2], x);
        y = T::fma(simd, w[2], sender[3], y);
        z = T::fma(simd, w[2], sender[4], z);
    }
    *out = [q, x, y, z];
}

/// Pulls the cotangents of all atoms' sums back to the group's atoms as senders, and to its pairs.
///
/// IN  `gradients` of the batch.
/// OUT `grad_context`, `grad_sent` `[rows of the group, 3n]`, the latter with the atom's own cotangent of vectors added,
///     overwritten (untouched in the first layer); `cotangents` `[n_pairs]`, accumulated: of the distance, and of the
///     direction from the lower to the upper atom, from both directions of the pair.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
pub fn message_vjp<T: Lanes, S: Simd>(
    simd: S,
    n: usize,
    group: &Group<T>,
    nodes: Nodes<T>,
    gradients: Cotangents<T>,
    grad_context: &mut [T],
    grad_sent: &mut [T],
    cotangents: &mut [[T; 4]],
    buffers: &mut [Buffer<T>; 3],
) {
    let out = Outputs { grad_context, grad_sent, cotangents, grad_filters: None };
    macro_rules! run {
        ($columns:expr, $window:expr) => {
            backward::<T, S, { $columns }, { $columns + GRADS }, { $window }, false>(
                simd, n, group, nodes, gradients, out, buffers,
            )
        };
    }
    match (nodes, group.radial) {
        (Nodes::First { .. }, Radial::Splines { .. }) => run!(FIRST, WINDOW),
        (Nodes::First { .. }, Radial::Basis { .. }) => run!(FIRST, ANY),
        (Nodes::Later { .. }, Radial::Splines { .. }) => run!(LATER, WINDOW),
        (Nodes::Later { .. }, Radial::Basis { .. }) => run!(LATER, ANY),
    }
}

/// As [`message_vjp`], to the filters' weights in place of the pairs: `grad_filters`, accumulated. For later layers only.
#[inline(always)]
pub fn message_weights_vjp<T: Lanes, S: Simd>(
    simd: S,
    n: usize,
    group: &Group<T>,
    nodes: Nodes<T>,
    gradients: Cotangents<T>,
    (grad_context, grad_sent, grad_filters): (&mut [T], &mut [T], &mut Filters<T>),
    buffers: &mut [Buffer<T>; 3],
) {
    let out = Outputs { grad_context, grad_sent, cotangents: &mut [], grad_filters: Some(grad_filters) };
    match group.radial {
        Radial::Splines { .. } => {
            backward::<T, S, LATER, { LATER + GRADS }, WINDOW, true>(simd, n, group, nodes, gradients, out, buffers)
        }
        Radial::Basis { .. } => {
            backward::<T, S, LATER, { LATER + GRADS }, ANY, true>(simd, n, group, nodes, gradients, out, buffers)
        }
    }
}

/// What the backward of a message writes: [`message_vjp`], [`message_weights_vjp`].
struct Outputs<'a, T> {
    grad_context: &'a mut [T],
    grad_sent: &'a mut [T],
    cotangents: &'a mut [[T; 4]],
    grad_filters: Option<&'a mut Filters<T>>,
}

/// `NODE` columns of an atom's state, and `IN` with those of its cotangents; `TRAIN` with cotangents of the filters' weights.
#[inline(always)]
fn backward<T: Lanes, S: Simd, const NODE: usize, const IN: usize, const K: usize, const TRAIN: bool>(
    simd: S,
    n: usize,
    group: &Group<T>,
    nodes: Nodes<T>,
    gradients: Cotangents<T>,
    out: Outputs<T>,
    buffers: &mut [Buffer<T>; 3],
) {
    let Outputs { grad_context, grad_sent, cotangents, mut grad_filters } = out;
    group.check();
    let (lanes, nv, n_own) = (T::lanes::<S>(), n / T::lanes::<S>(), group.n_own());
    let [inputs, outputs, partial] = buffers;
    inputs.resize(group.n_local() * IN * lanes);
    outputs.resize(n_own * 5 * lanes);
    partial.resize(if TRAIN { 0 } else { group.pairs.pairs.len() * PAIR_VECTORS * lanes });
    let inputs = T::vectors_mut::<S>(inputs).as_chunks_mut::<IN>().0;
    let outputs = T::vectors_mut::<S>(outputs).as_chunks_mut::<5>().0;
    let partial = T::vectors_mut::<S>(partial).as_chunks_mut::<PAIR_VECTORS>().0;
    let (grad_context, grad_sent) = (T::vectors_mut::<S>(grad_context), T::vectors_mut::<S>(grad_sent));
    let grad_scalars = T::vectors::<S>(gradients.scalars);
    let zero = T::splat(simd, T::zero());
    partial.fill([zero; PAIR_VECTORS]);
    for v in 0..nv {
        load_nodes::<T, S, IN>(simd, group, nodes, inputs, (v, nv));
        for row in 0..inputs.len() {
            let i = group.atom(row);
            inputs[row][NODE] = grad_scalars[i * nv + v];
            let g = row_vectors::<T, S>(simd, gradients.vectors, i, (v, nv));
            (inputs[row][NODE + 1], inputs[row][NODE + 2], inputs[row][NODE + 3]) = (g[0], g[1], g[2]);
        }
        outputs.fill([zero; 5]);
        vectorize!(simd, {
            let (inputs, outputs, partial) = (&*inputs, &mut *outputs, &mut *partial);
            let weights = group.filters.vector(simd, v);
            let grads = match &mut grad_filters {
                Some(filters) if TRAIN => filters.vector_mut(simd, v),
                _ => &mut [],
            };
            send_vjp::<T, S, NODE, IN, K, TRAIN>(simd, group.pairs, weights, grads, inputs, outputs, partial);
        });
        if let Nodes::Later { context, vectors } = nodes {
            for row in 0..n_own {
                let i = group.atoms.start + row;
                let gate = row_vectors::<T, S>(simd, context, i, (v, nv))[2];
                let mu = row_vectors::<T, S>(simd, vectors, i, (v, nv));
                let g = row_vectors::<T, S>(simd, gradients.vectors, i, (v, nv));
                let [scalars, directions, x, y, z] = outputs[row];
                let through_gate = dot::<T, S, 3>(simd, [x, y, z], mu);
                let out = row * 3 * nv + v;
                (grad_context[out], grad_context[out + nv], grad_context[out + 2 * nv]) =
                    (scalars, directions, through_gate);
                grad_sent[out] = T::fma(simd, gate, x, g[0]);
                grad_sent[out + nv] = T::fma(simd, gate, y, g[1]);
                grad_sent[out + 2 * nv] = T::fma(simd, gate, z, g[2]);
            }
        }
    }
    let slope = T::of(group.radial.slope());
    for p in 0..cotangents.len() {
        let sums = T::vsum4(simd, partial[p]);
        cotangents[p][0] += sums[0] * slope;
        for k in 1..4 {
            cotangents[p][k] += sums[k];
        }
    }
}

/// The mirror of [`send`]. With `TRAIN` to `grad_weights` of the filters in place of `partial` of the pairs.
#[inline(always)]
fn send_vjp<T: Lanes, S: Simd, const NODE: usize, const IN: usize, const K: usize, const TRAIN: bool>(
    simd: S,
    pairs: Pairs<T>,
    weights: &[[T::V<S>; 3]],
    grad_weights: &mut [[T::V<S>; 3]],
    inputs: &[[T::V<S>; IN]],
    outputs: &mut [[T::V<S>; 5]],
    partial: &mut [[T::V<S>; PAIR_VECTORS]],
) {
    let zero = T::splat(simd, T::zero());
    let partial = if TRAIN { partial } else { &mut partial[..pairs.pairs.len()] };
    let mut p = 0;
    while p < pairs.pairs.len() {
        let a = pairs.pairs[p].atoms[0] as usize;
        let mut sums_a = if NODE > FIRST && a < outputs.len() { outputs[a] } else { [zero; 5] };
        while p < pairs.pairs.len() && pairs.pairs[p].atoms[0] as usize == a {
            let pair = &pairs.pairs[p];
            let (weights, values) = pairs.radial::<T::V<S>, K>(p, weights);
            let [w, slopes] = if TRAIN {
                filters::<T, S, 3, false, K>(simd, weights, values)
            } else if NODE == FIRST {
                filters::<T, S, 2, true, K>(simd, weights, values)
            } else {
                filters::<T, S, 3, true, K>(simd, weights, values)
            };
            let [x, y, z] = pair.direction;
            let u = [T::splat(simd, x), T::splat(simd, y), T::splat(simd, z)];
            let b = pair.atoms[1] as usize;
            // SAFETY: `Group::check`: pairs have rows of `inputs`.
            let (of_a, of_b) = unsafe { (inputs.get_unchecked(a), inputs.get_unchecked(b)) };
            let g_a = [of_a[NODE + 1], of_a[NODE + 2], of_a[NODE + 3]];
            let g_b = [of_b[NODE + 1], of_b[NODE + 2], of_b[NODE + 3]];
            // What a gets lies along u, what b gets against it.
            let along_a = dot::<T, S, 3>(simd, g_a, u);
            let along_b = T::vsub(simd, zero, dot::<T, S, 3>(simd, g_b, u));
            // Cotangents of the filters.
            let of_scalars = dot::<T, S, 2>(simd, [of_a[NODE], of_b[NODE]], [of_b[0], of_a[0]]);
            let of_directions = dot::<T, S, 2>(simd, [along_a, along_b], [of_b[1], of_a[1]]);
            let of_vectors = if NODE > FIRST {
                let of_vectors = dot::<T, S, 3>(simd, g_a, [of_b[2], of_b[3], of_b[4]]);
                T::vadd(simd, of_vectors, dot::<T, S, 3>(simd, g_b, [of_a[2], of_a[3], of_a[4]]))
            } else {
                zero
            };
            if TRAIN {
                let grads = &mut grad_weights[pair.first as usize..];
                filters_vjp::<T, S, K>(simd, grads, values, [of_scalars, of_directions, of_vectors]);
            } else {
                let mut out = partial[p];
                out[0] = T::fma(simd, of_scalars, slopes[0], out[0]);
                out[0] = T::fma(simd, of_directions, slopes[1], out[0]);
                let gate_a = T::vmul(simd, w[1], of_b[1]);
                let gate_b = T::vmul(simd, T::vsub(simd, zero, w[1]), of_a[1]);
                for k in 0..3 {
                    out[1 + k] = T::fma(simd, gate_a, g_a[k], T::fma(simd, gate_b, g_b[k], out[1 + k]));
                }
                if NODE > FIRST {
                    out[0] = T::fma(simd, of_vectors, slopes[2], out[0]);
                }
                // Stored before what follows, or the compiler puts it off, and its parts aside.
                partial[p] = out;
            }
            if NODE > FIRST {
                send_back::<T, S>(simd, w, [of_b[NODE], along_b], g_b, &mut sums_a);
                if b == a {
                    send_back::<T, S>(simd, w, [of_a[NODE], along_a], g_a, &mut sums_a);
                } else if b < outputs.len() {
                    send_back::<T, S>(simd, w, [of_a[NODE], along_a], g_a, &mut outputs[b]);
                }
            }
            p += 1;
        }
        if NODE > FIRST && a < outputs.len() {
            outputs[a] = sums_a;
        }
    }
}

#[inline(always)]
fn dot<T: Lanes, S: Simd, const N: usize>(simd: S, x: [T::V<S>; N], y: [T::V<S>; N]) -> T::V<S> {
    let mut sum = T::vmul(simd, x[N - 1], y[N - 1]);
    for k in (0..N - 1).rev() {
        sum = T::fma(simd, x[k], y[k], sum);
    }
    sum
}

/// One direction: cotangents of the sender's gates of scalars and directions, and of its vectors times their gate.
#[inline(always)]
fn send_back<T: Lanes, S: Simd>(
    simd: S,
    w: [T::V<S>; 3],
    received: [T::V<S>; 2],
    grad_vectors: [T::V<S>; 3],
    out: &mut [T::V<S>; 5],
) {
    let [mut q, mut d, mut x, mut y, mut z] = *out;
    (q, d) = (T::fma(simd, w[0], received[0], q), T::fma(simd, w[1], received[1], d));
    x = T::fma(simd, w[2], grad_vectors[0], x);
    y = T::fma(simd, w[2], grad_vectors[1], y);
    z = T::fma(simd, w[2], grad_vectors[2], z);
    *out = [q, d, x, y, z];
}
