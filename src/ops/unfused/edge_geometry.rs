//! Displacement, strain, distance, direction. In f64 always.

use super::elementary::Elementwise::{Add, Inverse, Root};
use super::elementary::{Elementary, Operand, Pairwise};
use crate::ops::edge_geometry::{EdgeGeometryArrays, EdgeGeometrySizes};

/// See [`crate::ops::edge_geometry::edge_geometry`].
pub fn edge_geometry<C: Elementary>(
    chain: &mut C,
    s: &EdgeGeometrySizes,
    epsilon: f64,
    a: &EdgeGeometryArrays<C::Array>,
) {
    let (n_edges, triples) = (s.n_edges, [s.n_edges, 3]);
    let senders = chain.gather(triples, a.senders, (a.positions, 3));
    let receivers = chain.gather(triples, a.receivers, (a.positions, 3));
    let r = chain.subtract(triples, senders, receivers);
    if chain.has(a.offsets) {
        chain.accumulate(triples, (a.offsets, 3), (r, 3));
    }
    if chain.has(a.strain) {
        let (row, strain) = (Operand::numbers(r, 3).parts(1), Operand::rows(a.strain, 9).parts(3));
        let stretch = chain.sum([n_edges, 3, 3], row, a.structure_of, strain);
        chain.accumulate(triples, (stretch, 3), (r, 3));
    }
    let squares = chain.dots(n_edges, r, r);
    let distances = chain.map([n_edges, 1], Root, 0.0, (squares, 1));
    let inverse = chain.map([n_edges, 1], Inverse, epsilon, (distances, 1));
    let directions = chain.scale(triples, r, inverse);
    chain.write([n_edges, 1], (distances, 1), (a.geometry, 4));
    let last3 = chain.after(a.geometry, 1);
    chain.write(triples, (directions, 3), (last3, 4));
}

/// See [`crate::ops::edge_geometry::edge_geometry_vjp`]. The strain's part ends with what the caller makes of `virials`: their
/// sums by structure.
pub fn edge_geometry_vjp<C: Elementary>(
    chain: &mut C,
    s: &EdgeGeometrySizes,
    epsilon: f64,
    a: &EdgeGeometryArrays<C::Array>,
) {
    let (n_atoms, n_edges) = (s.n_atoms, s.n_edges);
    let (triples, ones) = ([n_edges, 3], [n_edges, 1]);
    let [last3, grad_last3] = [a.geometry, a.grad_geometry].map(|array| (chain.after(array, 1), 4));
    let (directions, grad_u) = (chain.columns(triples, last3), chain.columns(triples, grad_last3));
    let lengths = chain.map(ones, Add, epsilon, (a.geometry, 4));
    let distances = Operand::rows(a.geometry, 4);
    let to_unit = chain.combine([n_edges, 1, 1], Pairwise::Divide, Operand::rows(lengths, 1), distances);
    let unit = chain.scale(triples, directions, to_unit);
    // du/dr = 1 / (d + eps) − r rᵀ / (d (d + eps)²), dd/dr = r / d.
    let along = chain.dots(n_edges, grad_u, directions);
    let along = chain.scale(triples, unit, along);
    let across = chain.subtract(triples, grad_u, along);
    let inverse = chain.map(ones, Inverse, 0.0, (lengths, 1));
    let grad_d = chain.columns(ones, (a.grad_geometry, 4));
    let g = chain.scale(triples, unit, grad_d);
    let across = chain.scale(triples, across, inverse);
    chain.accumulate(triples, (across, 3), (g, 3));

    // An atom's outgoing edges are the reverse of those that it receives.
    let sent = chain.gather(triples, a.reverse_edge, (g, 3));
    let both = chain.subtract(triples, sent, g);
    let both = chain.segment_sum([n_atoms, n_edges, 3], a.edge_ptr, both);
    chain.accumulate([n_atoms, 3], (both, 3), (a.grad_positions, 3));
    if chain.has(a.virials) {
        let displacements = chain.scale(triples, directions, lengths);
        let (r, g) = (Operand::numbers(displacements, 3).parts(1), Operand::rows(g, 3));
        let virials = chain.combine([n_edges, 3, 3], Pairwise::Multiply, r, g);
        chain.segment_sum_into([n_atoms, n_edges, 9], a.edge_ptr, virials, a.virials);
    }
}
