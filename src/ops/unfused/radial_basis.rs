//! Basis, envelope, and their product.

use super::elementary::Elementwise::{Envelope, EnvelopeSlope};
use super::elementary::{Elementary, Operand, Pairwise};
use crate::ops::radial_basis::{RadialBasisArrays, RadialBasisSizes};

/// See [`crate::ops::radial_basis::radial_basis`].
pub fn radial_basis<C: Elementary>(chain: &mut C, s: &RadialBasisSizes, cutoff: f64, a: &RadialBasisArrays<C::Array>) {
    let (n_edges, n_rbf) = (s.n_edges, s.n_rbf);
    let distances = (a.distances, s.stride);
    let values = chain.functions([n_edges, n_rbf], [a.first, a.widths], false, distances);
    let envelope = chain.map([n_edges, 1], Envelope, cutoff, distances);
    let (x, by) = (Operand::rows(values, n_rbf), Operand::numbers(envelope, 1));
    chain.combine_into([n_edges, 1, n_rbf], Pairwise::Multiply, x, by, (a.basis, n_rbf + 1));
    let last = chain.after(a.basis, n_rbf.into());
    chain.write([n_edges, 1], (envelope, 1), (last, n_rbf + 1));
}

/// See [`crate::ops::radial_basis::radial_basis_vjp`].
pub fn radial_basis_vjp<C: Elementary>(
    chain: &mut C,
    s: &RadialBasisSizes,
    cutoff: f64,
    a: &RadialBasisArrays<C::Array>,
) {
    let (n_edges, n_rbf) = (s.n_edges, s.n_rbf);
    let (distances, width) = ((a.distances, s.stride), n_rbf + 1);
    let values = chain.functions([n_edges, n_rbf], [a.first, a.widths], false, distances);
    let slopes = chain.functions([n_edges, n_rbf], [a.first, a.widths], true, distances);
    let envelope = chain.map([n_edges, 1], Envelope, cutoff, distances);
    let envelope_slope = chain.map([n_edges, 1], EnvelopeSlope, cutoff, distances);
    let (grad, by) = (Operand::rows(a.grad_basis, width), Operand::numbers(envelope, 1));
    let size = [n_edges, 1, n_rbf];
    let grad_values = chain.combine(size, Pairwise::Multiply, grad, by);
    let grad_envelope = chain.inner(size, grad, Operand::rows(values, n_rbf));
    let own = (chain.after(a.grad_basis, n_rbf.into()), width);
    chain.accumulate([n_edges, 1], own, (grad_envelope, 1));
    chain.release(&[values]);
    let through_values = chain.inner(size, Operand::rows(grad_values, n_rbf), Operand::rows(slopes, n_rbf));
    chain.accumulate([n_edges, 1], (through_values, 1), (a.grad_distances, s.stride));
    let through_envelope = chain.multiply([n_edges, 1], grad_envelope, envelope_slope);
    chain.accumulate([n_edges, 1], (through_envelope, 1), (a.grad_distances, s.stride));
}
