//! Filters of all edges, what senders have gathered to the edges, products, sums at the receivers.

use super::dense::{dense, room};
use super::{accumulate, gather, multiply, product_vjp, rows, segment_sum};
use crate::clock::{Component, within_layer};
use crate::ops::dense::Activation;
use crate::ops::message::{MessageGrads, MessageInputs};
use crate::ops::{Real, Topology};

/// What each edge has of its sender and its filter.
struct Edges<T> {
    /// W, `[n_edges, 3F]`.
    filters: Vec<T>,
    /// x_j, `[n_edges, 3F]`.
    context: Vec<T>,
    /// µ_j, `[n_edges, 3F]`: x, y, z.
    vectors: Vec<T>,
    /// W ∘ x_j, `[n_edges, 3F]`.
    filtered: Vec<T>,
}

impl<T: Real> Edges<T> {
    fn new(topology: &Topology, inputs: &MessageInputs<T>) -> Self {
        let n = inputs.n_features;
        let half = |offset: usize| {
            rows(
                topology.n_edges(),
                3 * n,
                #[inline(always)]
                |e, row| {
                    let sender = topology.senders[e] as usize;
                    row.copy_from_slice(&inputs.nodes[sender * 6 * n + offset..][..3 * n]);
                },
            )
        };
        let (context, vectors) = (half(0), half(3 * n));
        let filters = {
            let _component = within_layer(Component::Filters);
            let mut filters = room(inputs.filter, inputs.edges);
            dense(inputs.filter, Activation::Identity, inputs.edges, &mut filters, None);
            filters
        };
        let filtered = multiply(&filters, &context);
        Edges { filters, context, vectors, filtered }
    }
}

/// See [`crate::ops::message::message`].
pub fn message<T: Real>(topology: &Topology, inputs: &MessageInputs<T>, sums: &mut [T]) {
    let (n, n_edges) = (inputs.n_features, topology.n_edges());
    let Edges { vectors, filtered, .. } = Edges::new(topology, inputs);
    // (W₁ x₁_j) u_e
    let along = rows(
        n_edges,
        3 * n,
        #[inline(always)]
        |e, row| {
            let gate = &filtered[3 * n * e + n..][..n];
            for (out, &u) in row.chunks_exact_mut(n).zip(&inputs.geometry[4 * e + 1..]) {
                out.iter_mut().zip(gate).for_each(|(out, &x)| *out = x * u);
            }
        },
    );
    // (W₂ x₂_j) µ_j
    let mut gated = rows(
        n_edges,
        3 * n,
        #[inline(always)]
        |e, row| {
            let gate = &filtered[3 * n * e + 2 * n..][..n];
            for (out, vector) in row.chunks_exact_mut(n).zip(vectors[3 * n * e..].chunks_exact(n)) {
                out.iter_mut().zip(gate.iter().zip(vector)).for_each(|(out, (&x, &v))| *out = x * v);
            }
        },
    );
    accumulate(&mut gated, &along);
    let scalars = rows(
        n_edges,
        n,
        #[inline(always)]
        |e, row| row.copy_from_slice(&filtered[3 * n * e..][..n]),
    );
    let (scalars, vectors) =
        (segment_sum(&scalars, n, &topology.edge_ptr), segment_sum(&gated, 3 * n, &topology.edge_ptr));
    super::fill_rows(
        sums,
        4 * n,
        #[inline(always)]
        |i, row| {
            row[..n].copy_from_slice(&scalars[i * n..][..n]);
            row[n..].copy_from_slice(&vectors[i * 3 * n..][..3 * n]);
        },
    );
}

/// See [`crate::ops::message::message_vjp`].
pub fn message_vjp<T: Real>(
    topology: &Topology,
    inputs: &MessageInputs<T>,
    grad_sums: &[T],
    grads: &mut MessageGrads<T>,
) {
    let (n, n_edges) = (inputs.n_features, topology.n_edges());
    let Edges { filters, context, vectors, filtered } = Edges::new(topology, inputs);
    // Of the scalar, then of the vector's components, `[n_edges, 4F]`.
    let grad = gather(grad_sums, 4 * n, &topology.receivers);
    let grad_directions = rows(
        n_edges,
        4,
        #[inline(always)]
        |e, row| {
            let (gate, grad) = (&filtered[3 * n * e + n..][..n], &grad[4 * n * e + n..][..3 * n]);
            for f in 0..n {
                (0..3).for_each(|k| row[1 + k] += grad[k * n + f] * gate[f]);
            }
        },
    );
    accumulate(grads.geometry, &grad_directions);
    let grad_vectors = rows(
        n_edges,
        3 * n,
        #[inline(always)]
        |e, row| {
            let (gate, grad) = (&filtered[3 * n * e + 2 * n..][..n], &grad[4 * n * e + n..]);
            for (out, grad) in row.chunks_exact_mut(n).zip(grad.chunks_exact(n)) {
                out.iter_mut().zip(gate.iter().zip(grad)).for_each(|(out, (&x, &g))| *out = x * g);
            }
        },
    );
    let grad_filtered = rows(
        n_edges,
        3 * n,
        #[inline(always)]
        |e, row| {
            let (grad_q, grad_mu) = grad[4 * n * e..][..4 * n].split_at(n);
            let (u, vectors) = (&inputs.geometry[4 * e + 1..][..3], &vectors[3 * n * e..][..3 * n]);
            let (scalar, rest) = row.split_at_mut(n);
            let (along, gate) = rest.split_at_mut(n);
            scalar.copy_from_slice(grad_q);
            for f in 0..n {
                let g = [grad_mu[f], grad_mu[n + f], grad_mu[2 * n + f]];
                along[f] = g[0] * u[0] + g[1] * u[1] + g[2] * u[2];
                gate[f] = g[0] * vectors[f] + g[1] * vectors[n + f] + g[2] * vectors[2 * n + f];
            }
        },
    );
    let grad_context = multiply(&grad_filtered, &filters);
    {
        let _component = within_layer(Component::Filters);
        let grad_filters = multiply(&grad_filtered, &context);
        accumulate(grads.edges, &product_vjp(inputs.filter, &grad_filters));
    }
    // An atom's outgoing edges are the reverse of those that it receives.
    let at_sender = |x: &[T]| segment_sum(&gather(x, 3 * n, &topology.reverse_edge), 3 * n, &topology.edge_ptr);
    let (grad_context, grad_vectors) = (at_sender(&grad_context), at_sender(&grad_vectors));
    let grad_nodes = rows(
        topology.n_atoms(),
        6 * n,
        #[inline(always)]
        |i, row| {
            let (context, vectors) = row.split_at_mut(3 * n);
            context.copy_from_slice(&grad_context[i * 3 * n..][..3 * n]);
            vectors.copy_from_slice(&grad_vectors[i * 3 * n..][..3 * n]);
        },
    );
    accumulate(grads.nodes, &grad_nodes);
}
