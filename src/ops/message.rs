//! `message`: what neighbours send, filtered and summed at the receiver.
//!
//! The filter W of an edge is a linear layer of the edge's features (in PaiNN the enveloped radial basis). It is three
//! times as wide as an atom's scalars and there are many more edges than atoms, so it is never stored: each pass
//! computes it for a group of edges that fits the cache, and the backward computes it anew.
//!
//! Source: Schütt, Unke, Gastegger, ICML 2021, eqs. 7 and 8, in the layout of SchNetPack 2 (`PaiNNInteraction`).

use std::ops::Range;

use super::dense::{Linear, linear_block, linear_vjp_block};
use super::table::operation;
use super::{Real, Topology, count, for_row_blocks, for_row_blocks2};
use crate::clock::{Component, within_layer};

operation! {
    "message":
    /// Sizes of a message.
    MessageSizes {
        /// Atoms.
        n_atoms,
        /// Edges.
        n_edges,
        /// F.
        n_features,
        /// K, features of an edge.
        n_edge_features,
    }
    /// Arrays of a message and its VJP.
    MessageArrays {
        /// Edges of each receiver.
        Index U32 edge_ptr [n_atoms + 1; 1] Both,
        Index U32 receivers [n_edges; 1] Chain,
        Index U32 senders [n_edges; 1] Both,
        /// The same pair seen from the sender.
        Index U32 reverse_edge [n_edges; 1] Vjp,
        /// Context, then vectors.
        Input Real nodes [n_atoms; 6 * n_features] Both,
        /// Edge features.
        Input Real edges [n_edges; n_edge_features] Both,
        /// Distance and direction.
        Input Real geometry [n_edges; 4] Both,
        /// Of the filter.
        Constant Real weight [3 * n_features; n_edge_features] Both,
        /// Of the filter.
        Constant Real bias [3 * n_features; 1] Both or_none,
        /// Scalars, then vectors.
        Output Real sums [n_atoms; 4 * n_features] Forward,
        Cotangent Real grad_sums [n_atoms; 4 * n_features] Vjp,
        Gradient Real grad_nodes [n_atoms; 6 * n_features] Vjp,
        Gradient Real grad_edges [n_edges; n_edge_features] Vjp,
        /// The distance column is left alone.
        Gradient Real grad_geometry [n_edges; 4] Vjp,
    }
}

/// Arrays that a message is made of. F is `n_features`, K the number of edge features.
#[derive(Debug, Clone, Copy)]
pub struct MessageInputs<'a, T> {
    /// F.
    pub n_features: usize,
    /// Context x of each atom, `[n_atoms, 6F]`: scalar, direction and vector gates (F each), then the atom's vectors
    /// µ `[3, F]`.
    pub nodes: &'a [T],
    /// Features of each edge, `[n_edges, K]`, envelope included.
    pub edges: &'a [T],
    /// Distance and direction of each edge, `[n_edges, 4]`.
    pub geometry: &'a [T],
    /// From edge features to filters: K → 3F.
    pub filter: &'a Linear<T>,
}

impl<'a, T: Real> MessageInputs<'a, T> {
    /// Sizes of the operation.
    pub fn sizes(&self, topology: &Topology) -> MessageSizes {
        let [n_atoms, n_edges, n_features, n_edge_features] =
            [topology.n_atoms(), topology.n_edges(), self.n_features, self.filter.n_in].map(count);
        MessageSizes { n_atoms, n_edges, n_features, n_edge_features }
    }

    fn node(&self, atom: usize) -> (&'a [T], &'a [T]) {
        let width = 6 * self.n_features;
        self.nodes[atom * width..][..width].split_at(3 * self.n_features)
    }

    fn direction(&self, edge: usize) -> &'a [T] {
        &self.geometry[4 * edge + 1..4 * edge + 4]
    }

    fn edge(&self, edge: usize) -> &'a [T] {
        let k = self.filter.n_in;
        &self.edges[edge * k..][..k]
    }

    /// Filters of consecutive edges, `[n, 3F]`, into a reused buffer.
    fn filters(&self, edges: Range<usize>, out: &mut Vec<T>) {
        let _component = within_layer(Component::Filters);
        let k = self.filter.n_in;
        out.resize(edges.len() * 3 * self.n_features, T::zero());
        linear_block(self.filter, &self.edges[edges.start * k..edges.end * k], out);
    }
}

/// Cotangents of [`MessageInputs`], accumulated.
#[derive(Debug)]
pub struct MessageGrads<'a, T> {
    /// `[n_atoms, 6F]`.
    pub nodes: &'a mut [T],
    /// `[n_edges, K]`.
    pub edges: &'a mut [T],
    /// `[n_edges, 4]`; the distance column is left alone.
    pub geometry: &'a mut [T],
}

fn split3<T>(row: &[T], n: usize) -> [&[T]; 3] {
    [&row[..n], &row[n..2 * n], &row[2 * n..3 * n]]
}

/// Edges whose filters are computed at a time: 128 · 3F f32 are 98 kB at F = 64, within any L2 cache.
const EDGES_PER_GROUP: usize = 128;

/// Cuts consecutive receivers into groups of about [`EDGES_PER_GROUP`] edges.
fn groups(topology: &Topology, atoms: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut next = atoms.start;
    std::iter::from_fn(move || {
        let start = next;
        while next < atoms.end
            && (next == start || topology.edges_of(start).start + EDGES_PER_GROUP >= topology.edges_of(next).end)
        {
            next += 1;
        }
        (start < next).then_some(start..next)
    })
}

fn edges_of_group(topology: &Topology, atoms: &Range<usize>) -> Range<usize> {
    topology.edges_of(atoms.start).start..topology.edges_of(atoms.end - 1).end
}

/// Sums the messages that each atom receives.
///
/// For edge e = (i ← j), with W_e = filter(edges_e):
/// `Δq_i += W₀ x₀_j`, `Δµ_i += (W₁ x₁_j) u_e + (W₂ x₂_j) µ_j`.
///
/// IN  `inputs`.   OUT `sums` `[n_atoms, 4F]`: Δq, then Δµ `[3, F]`; overwritten.
/// SAVED for the VJP: the inputs.
pub fn message<T: Real>(topology: &Topology, inputs: &MessageInputs<T>, sums: &mut [T]) {
    let n = inputs.n_features;
    for_row_blocks(
        sums,
        4 * n,
        #[inline(always)]
        |first, rows| {
            let mut filters = Vec::new();
            for group in groups(topology, first..first + rows.len() / (4 * n)) {
                let edges = edges_of_group(topology, &group);
                inputs.filters(edges.clone(), &mut filters);
                for i in group {
                    let row = &mut rows[(i - first) * 4 * n..][..4 * n];
                    row.fill(T::zero());
                    let (dq, dmu) = row.split_at_mut(n);
                    let (mx, rest) = dmu.split_at_mut(n);
                    let (my, mz) = rest.split_at_mut(n);
                    for e in topology.edges_of(i) {
                        let (context, vectors) = inputs.node(topology.senders[e] as usize);
                        let filter = &filters[(e - edges.start) * 3 * n..][..3 * n];
                        receive(dq, mx, my, mz, filter, context, vectors, inputs.direction(e));
                    }
                }
            }
        },
    );
}

/// Adds one edge's message. Sums are arguments of their own, so that the compiler knows them apart.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
fn receive<T: Real>(
    dq: &mut [T],
    mx: &mut [T],
    my: &mut [T],
    mz: &mut [T],
    filter: &[T],
    context: &[T],
    vectors: &[T],
    u: &[T],
) {
    let (n, u) = (dq.len(), [u[0], u[1], u[2]]);
    let (mx, my, mz) = (&mut mx[..n], &mut my[..n], &mut mz[..n]);
    let ([w0, w1, w2], [x0, x1, x2], [vx, vy, vz]) = (split3(filter, n), split3(context, n), split3(vectors, n));
    for f in 0..n {
        let along = w1[f] * x1[f];
        let gate = w2[f] * x2[f];
        dq[f] += w0[f] * x0[f];
        mx[f] += along * u[0] + gate * vx[f];
        my[f] += along * u[1] + gate * vy[f];
        mz[f] += along * u[2] + gate * vz[f];
    }
}

/// Pulls the cotangent of the sums back to nodes, edge features and directions.
///
/// Edge cotangents are written by the edge; node cotangents are gathered by the sender over its reverse edges, so that
/// nothing is added by two tasks.
///
/// IN  `grad_sums` `[n_atoms, 4F]`.   OUT `grads`, accumulated.
pub fn message_vjp<T: Real>(
    topology: &Topology,
    inputs: &MessageInputs<T>,
    grad_sums: &[T],
    grads: &mut MessageGrads<T>,
) {
    edges_vjp(topology, inputs, grad_sums, grads.edges, grads.geometry);
    nodes_vjp(topology, inputs, grad_sums, grads.nodes);
}

/// Cotangents of one atom's sums: Δq, and Δµ by component.
fn grad_of<T>(grad_sums: &[T], n: usize, atom: usize) -> (&[T], [&[T]; 3]) {
    let (grad_q, grad_mu) = grad_sums[atom * 4 * n..][..4 * n].split_at(n);
    (grad_q, split3(grad_mu, n))
}

fn edges_vjp<T: Real>(
    topology: &Topology,
    inputs: &MessageInputs<T>,
    grad_sums: &[T],
    grad_edges: &mut [T],
    grad_geometry: &mut [T],
) {
    let (n, k) = (inputs.n_features, inputs.filter.n_in);
    for_row_blocks2(
        (grad_edges, k),
        (grad_geometry, 4),
        #[inline(always)]
        |first, grad_edges, grad_geometry| {
            let n_edges = grad_geometry.len() / 4;
            let mut filters = Vec::new();
            inputs.filters(first..first + n_edges, &mut filters);
            // Each filter gives way to its cotangent.
            for ((row, out), e) in filters.chunks_exact_mut(3 * n).zip(grad_geometry.chunks_exact_mut(4)).zip(first..) {
                let (context, vectors) = inputs.node(topology.senders[e] as usize);
                let [x0, x1, x2] = split3(context, n);
                let [vx, vy, vz] = split3(vectors, n);
                let (grad_q, [gx, gy, gz]) = grad_of(grad_sums, n, topology.receivers[e] as usize);
                let u = inputs.direction(e);
                let (w0, rest) = row.split_at_mut(n);
                let (w1, w2) = rest.split_at_mut(n);
                let mut grad_u = [T::zero(); 3];
                for f in 0..n {
                    let along = w1[f] * x1[f];
                    grad_u[0] += gx[f] * along;
                    grad_u[1] += gy[f] * along;
                    grad_u[2] += gz[f] * along;
                }
                for f in 0..n {
                    w0[f] = grad_q[f] * x0[f];
                    w1[f] = (gx[f] * u[0] + gy[f] * u[1] + gz[f] * u[2]) * x1[f];
                    w2[f] = (gx[f] * vx[f] + gy[f] * vy[f] + gz[f] * vz[f]) * x2[f];
                }
                (0..3).for_each(|a| out[1 + a] += grad_u[a]);
            }
            let _component = within_layer(Component::Filters);
            linear_vjp_block(inputs.filter, &filters, grad_edges);
        },
    );
}

fn nodes_vjp<T: Real>(topology: &Topology, inputs: &MessageInputs<T>, grad_sums: &[T], grad_nodes: &mut [T]) {
    let n = inputs.n_features;
    for_row_blocks(
        grad_nodes,
        6 * n,
        #[inline(always)]
        |first, rows| {
            let (mut outgoing, mut filters) = (Vec::new(), Vec::new());
            for group in groups(topology, first..first + rows.len() / (6 * n)) {
                let edges = edges_of_group(topology, &group);
                outgoing.clear();
                for &e in &topology.reverse_edge[edges.clone()] {
                    outgoing.extend_from_slice(inputs.edge(e as usize));
                }
                {
                    let _component = within_layer(Component::Filters);
                    filters.resize(edges.len() * 3 * n, T::zero());
                    linear_block(inputs.filter, &outgoing, &mut filters);
                }
                for j in group {
                    let row = &mut rows[(j - first) * 6 * n..][..6 * n];
                    let (context, vectors) = inputs.node(j);
                    let [_, _, x2] = split3(context, n);
                    let [vx, vy, vz] = split3(vectors, n);
                    let (g0, rest) = row.split_at_mut(n);
                    let (g1, rest) = rest.split_at_mut(n);
                    let (g2, rest) = rest.split_at_mut(n);
                    let (ox, rest) = rest.split_at_mut(n);
                    let (oy, oz) = rest.split_at_mut(n);
                    for incoming in topology.edges_of(j) {
                        let e = topology.reverse_edge[incoming] as usize;
                        let [w0, w1, w2] = split3(&filters[(incoming - edges.start) * 3 * n..][..3 * n], n);
                        let u = inputs.direction(e);
                        let (grad_q, [gx, gy, gz]) = grad_of(grad_sums, n, topology.receivers[e] as usize);
                        for f in 0..n {
                            let gate = w2[f] * x2[f];
                            g0[f] += grad_q[f] * w0[f];
                            g1[f] += (gx[f] * u[0] + gy[f] * u[1] + gz[f] * u[2]) * w1[f];
                            g2[f] += (gx[f] * vx[f] + gy[f] * vy[f] + gz[f] * vz[f]) * w2[f];
                            ox[f] += gx[f] * gate;
                            oy[f] += gy[f] * gate;
                            oz[f] += gz[f] * gate;
                        }
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, assert_vjp, ring};

    const K: usize = 4;

    fn layer(n: usize) -> Linear<f64> {
        let mut random = Random::new(7);
        Linear { weight: random.array(3 * n * K, 1.0), bias: Some(random.array(3 * n, 1.0)), n_in: K, n_out: 3 * n }
    }

    struct Case<'a> {
        n: usize,
        topology: &'a Topology,
        layer: &'a Linear<f64>,
    }

    impl Case<'_> {
        /// Lengths of nodes, edges and geometry.
        fn lengths(&self) -> [usize; 3] {
            let (n_atoms, n_edges) = (self.topology.n_atoms(), self.topology.n_edges());
            [n_atoms * 6 * self.n, n_edges * K, n_edges * 4]
        }

        fn inputs<'b>(&'b self, x: &'b [f64]) -> MessageInputs<'b, f64> {
            let [a, b, _] = self.lengths();
            let (nodes, edges, geometry) = (&x[..a], &x[a..a + b], &x[a + b..]);
            MessageInputs { n_features: self.n, nodes, edges, geometry, filter: self.layer }
        }

        fn run(&self, x: &[f64]) -> Vec<f64> {
            let mut out = vec![f64::NAN; self.topology.n_atoms() * 4 * self.n];
            message(self.topology, &self.inputs(x), &mut out);
            out
        }

        fn check_vjp(&self) {
            let x = Random::new(9).array(self.lengths().iter().sum(), 1.0);
            assert_vjp(
                &x,
                |x| self.run(x),
                |grad| {
                    let mut out = vec![0.0; x.len()];
                    let [a, b, _] = self.lengths();
                    let (nodes, rest) = out.split_at_mut(a);
                    let (edges, geometry) = rest.split_at_mut(b);
                    message_vjp(self.topology, &self.inputs(&x), grad, &mut MessageGrads { nodes, edges, geometry });
                    out
                },
            );
        }
    }

    #[test]
    fn message_vjp_matches_finite_difference() {
        let (topology, layer) = (ring(70), layer(2));
        Case { n: 2, topology: &topology, layer: &layer }.check_vjp();
    }

    #[test]
    fn message_vjp_of_a_crowded_atom_matches_finite_difference() {
        // One atom in the middle has more edges than a group holds; atom 1 has none.
        let n_atoms = EDGES_PER_GROUP as u32 + 5;
        let others = 2..n_atoms;
        let n_others = n_atoms - 2;
        let topology = Topology {
            receivers: others.clone().map(|_| 0).chain(others.clone()).collect(),
            senders: others.clone().chain(others.clone().map(|_| 0)).collect(),
            edge_ptr: [0, n_others].into_iter().chain((0..=n_others).map(|k| n_others + k)).collect(),
            reverse_edge: (n_others..2 * n_others).chain(0..n_others).collect(),
        };
        let layer = layer(1);
        Case { n: 1, topology: &topology, layer: &layer }.check_vjp();
    }

    #[test]
    fn message_of_no_edges_is_zero() {
        let topology = Topology { edge_ptr: vec![0; 4], ..Topology::default() };
        let layer = layer(2);
        let case = Case { n: 2, topology: &topology, layer: &layer };
        assert_close("sums", &case.run(&[1.0; 36]), &[0.0; 24], 0.0, 0.0);
    }
}
