//! Filters of all edges, what senders have gathered to the edges, products, sums at the receivers.

use super::elementary::{Elementary, Operand, Pairwise, elements};
use crate::clock::Component;
use crate::ops::message::{MessageArrays, MessageSizes};

/// What each edge has of its sender and its filter.
struct OfEdges<A> {
    /// W, `[n_edges, 3F]`.
    filters: A,
    /// x_j, `[n_edges, 3F]`.
    context: A,
    /// µ_j, `[n_edges, 3F]`: x, y, z.
    vectors: A,
    /// W ∘ x_j, `[n_edges, 3F]`.
    filtered: A,
}

impl<A: Copy + Default + PartialEq> OfEdges<A> {
    fn new<C: Elementary<Array = A>>(chain: &mut C, s: &MessageSizes, a: &MessageArrays<A>) -> Self {
        let (n, n_edges) = (s.n_features, s.n_edges);
        let size = [n_edges, 3 * n];
        let context = chain.gather(size, a.senders, (a.nodes, 6 * n));
        let second = chain.after(a.nodes, 3 * u64::from(n));
        let vectors = chain.gather(size, a.senders, (second, 6 * n));
        let filters = chain.within(Component::Filters, |chain| {
            chain.product([n_edges, s.n_edge_features, 3 * n], a.edges, [a.weight, a.bias])
        });
        let filtered = chain.multiply(size, filters, context);
        OfEdges { filters, context, vectors, filtered }
    }

    /// A third of W ∘ x_j, the same for x, y, z.
    fn third<C: Elementary<Array = A>>(&self, chain: &C, n: u32, k: u64) -> Operand<A> {
        Operand::rows(chain.after(self.filtered, k * u64::from(n)), 3 * n)
    }
}

/// Directions u_e, a number for x, y and z.
fn directions<C: Elementary>(chain: &C, a: &MessageArrays<C::Array>) -> Operand<C::Array> {
    Operand::numbers(chain.after(a.geometry, 1), 4).parts(1)
}

/// See [`crate::ops::message::message`].
pub fn message<C: Elementary>(chain: &mut C, s: &MessageSizes, a: &MessageArrays<C::Array>) {
    let (n, n_edges) = (s.n_features, s.n_edges);
    let of = OfEdges::new(chain, s, a);
    chain.release(&[of.filters, of.context]);
    // (W₁ x₁_j) u_e
    let (gate, direction) = (of.third(chain, n, 1), directions(chain, a));
    let along = chain.combine([n_edges, 3, n], Pairwise::Multiply, gate, direction);
    // (W₂ x₂_j) µ_j
    let (gate, vectors) = (of.third(chain, n, 2), Operand::rows(of.vectors, 3 * n).parts(n));
    let gated = chain.combine([n_edges, 3, n], Pairwise::Multiply, gate, vectors);
    chain.accumulate([n_edges, 3 * n], (along, 3 * n), (gated, 3 * n));
    chain.release(&[of.vectors, along]);
    let scalars = chain.columns([n_edges, n], (of.filtered, 3 * n));
    let scalars = chain.segment_sum([s.n_atoms, n_edges, n], a.edge_ptr, scalars);
    let vectors = chain.segment_sum([s.n_atoms, n_edges, 3 * n], a.edge_ptr, gated);
    chain.write([s.n_atoms, n], (scalars, n), (a.sums, 4 * n));
    let of_vectors = chain.after(a.sums, n.into());
    chain.write([s.n_atoms, 3 * n], (vectors, 3 * n), (of_vectors, 4 * n));
}

/// See [`crate::ops::message::message_vjp`].
pub fn message_vjp<C: Elementary>(chain: &mut C, s: &MessageSizes, a: &MessageArrays<C::Array>) {
    let (n, n_edges) = (s.n_features, s.n_edges);
    let absent = C::Array::default();
    let of = OfEdges::new(chain, s, a);
    // Of the scalar, then of the vector's components, [n_edges, 4F].
    let grad = chain.gather([n_edges, 4 * n], a.receivers, (a.grad_sums, 4 * n));
    let grad_mu = Operand::rows(chain.after(grad, n.into()), 4 * n).parts(n);
    let along = of.third(chain, n, 1);
    let grad_directions = chain.inner([n_edges, 3, n], grad_mu, along);
    let last3 = chain.after(a.grad_geometry, 1);
    chain.accumulate([n_edges, 3], (grad_directions, 3), (last3, 4));
    let gate = of.third(chain, n, 2);
    let grad_vectors = chain.combine([n_edges, 3, n], Pairwise::Multiply, gate, grad_mu);
    chain.release(&[of.filtered]);

    let wide = [n_edges, 3 * n];
    let grad_filtered = chain.take(elements(&wide));
    let [along, gated] = [1, 2].map(|k| (chain.after(grad_filtered, k * u64::from(n)), 3 * n));
    chain.write([n_edges, n], (grad, 4 * n), (grad_filtered, 3 * n));
    let direction = directions(chain, a);
    chain.sum_into([n_edges, 3, n], grad_mu, absent, direction, along);
    chain.sum_into([n_edges, 3, n], grad_mu, absent, Operand::rows(of.vectors, 3 * n).parts(n), gated);
    chain.release(&[of.vectors, grad]);

    let grad_context = chain.multiply(wide, grad_filtered, of.filters);
    chain.release(&[of.filters]);
    chain.within(Component::Filters, |chain| {
        let grad_filters = chain.multiply(wide, grad_filtered, of.context);
        chain.product_vjp_into([n_edges, s.n_edge_features, 3 * n], grad_filters, a.weight, true, a.grad_edges);
        chain.release(&[grad_filtered, grad_filters, of.context]);
    });
    // An atom's outgoing edges are the reverse of those that it receives.
    let second = chain.after(a.grad_nodes, 3 * u64::from(n));
    for (x, half) in [(grad_context, a.grad_nodes), (grad_vectors, second)] {
        let sent = chain.gather(wide, a.reverse_edge, (x, 3 * n));
        chain.release(&[x]);
        let at_sender = chain.segment_sum([s.n_atoms, n_edges, 3 * n], a.edge_ptr, sent);
        chain.accumulate([s.n_atoms, 3 * n], (at_sender, 3 * n), (half, 6 * n));
        chain.release(&[sent, at_sender]);
    }
}
