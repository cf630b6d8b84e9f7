//! Squares, products, sums over x, y and z, roots, gates.

use super::elementary::Elementwise::{Inverse, Root};
use super::elementary::{Elementary, Operand, Pairwise};
use crate::ops::update::{GateArrays, GateSizes, InvariantsArrays, InvariantsSizes};

/// W `[n_atoms, 3, n]` of the mixed vectors.
fn w_of<C: Elementary>(chain: &mut C, [n_atoms, n]: [u32; 2], mixed: C::Array) -> C::Array {
    let second = chain.after(mixed, n.into());
    chain.columns([3 * n_atoms, n], (second, 2 * n))
}

/// V and W.
fn vectors<C: Elementary>(chain: &mut C, [n_atoms, n]: [u32; 2], mixed: C::Array) -> [C::Array; 2] {
    [chain.columns([3 * n_atoms, n], (mixed, 2 * n)), w_of(chain, [n_atoms, n], mixed)]
}

/// Sums over x, y, z of `x` `[n_atoms, 3, n]`.
fn sum3<C: Elementary>(chain: &mut C, [n_atoms, n]: [u32; 2], x: C::Array) -> C::Array {
    let (absent, ones) = (C::Array::default(), Operand::rows(C::Array::default(), 0));
    chain.sum([n_atoms, 3, n], Operand::rows(x, 3 * n).parts(n), absent, ones)
}

/// `x` `[n_atoms, 3, n]` times `by` `[n_atoms, n]`, the same for x, y, z.
fn multiply3<C: Elementary>(chain: &mut C, [n_atoms, n]: [u32; 2], x: C::Array, by: C::Array) -> C::Array {
    let x = Operand::rows(x, 3 * n).parts(n);
    chain.combine([n_atoms, 3, n], Pairwise::Multiply, x, Operand::rows(by, n))
}

/// Columns of `x`, rows of `n_parts` times n elements: those of part `k`.
fn part<C: Elementary>(chain: &mut C, size: [u32; 2], x: C::Array, n_parts: u32, k: u32) -> C::Array {
    let first = chain.after(x, u64::from(k) * u64::from(size[1]));
    chain.columns(size, (first, n_parts * size[1]))
}

/// See [`crate::ops::update::update_invariants`].
pub fn update_invariants<C: Elementary>(
    chain: &mut C,
    s: &InvariantsSizes,
    epsilon: f64,
    a: &InvariantsArrays<C::Array>,
) {
    let (n_atoms, n) = (s.n_atoms, s.n_features);
    let (triples, size) = ([3 * n_atoms, n], [n_atoms, n]);
    let [v, w] = vectors(chain, size, a.mixed);
    let by_direction = chain.multiply(triples, v, v);
    let squares = sum3(chain, size, by_direction);
    chain.release(&[by_direction]);
    let norms = chain.map(size, Root, epsilon, (squares, n));
    let by_direction = chain.multiply(triples, v, w);
    let products = sum3(chain, size, by_direction);
    chain.release(&[by_direction, v, w]);
    chain.write(size, (norms, n), (a.invariants, 2 * n));
    let second = chain.after(a.invariants, n.into());
    chain.write(size, (products, n), (second, 2 * n));
}

/// See [`crate::ops::update::update_invariants_vjp`].
pub fn update_invariants_vjp<C: Elementary>(chain: &mut C, s: &InvariantsSizes, a: &InvariantsArrays<C::Array>) {
    let (n_atoms, n) = (s.n_atoms, s.n_features);
    let size = [n_atoms, n];
    let [v, w] = vectors(chain, size, a.mixed);
    let norms = part(chain, size, a.invariants, 2, 0);
    let inverse = chain.map(size, Inverse, 0.0, (norms, n));
    let grad_norms = part(chain, size, a.grad_invariants, 2, 0);
    let by_norm = chain.multiply(size, grad_norms, inverse);
    chain.release(&[norms, inverse, grad_norms]);
    let by_product = part(chain, size, a.grad_invariants, 2, 1);
    let grad_w = chain.after(a.grad_mixed, n.into());
    for (x, by, out) in [(v, by_norm, a.grad_mixed), (w, by_product, a.grad_mixed), (v, by_product, grad_w)] {
        let x = multiply3(chain, size, x, by);
        chain.accumulate([3 * n_atoms, n], (x, n), (out, 2 * n));
        chain.release(&[x]);
    }
}

/// See [`crate::ops::update::update_gate`].
pub fn update_gate<C: Elementary>(chain: &mut C, s: &GateSizes, a: &GateArrays<C::Array>) {
    let (n_atoms, n) = (s.n_atoms, s.n_features);
    let size = [n_atoms, n];
    let products = part(chain, size, a.invariants, 2, 1);
    let w = w_of(chain, size, a.mixed);
    let factor = part(chain, size, a.gates, 3, 2);
    let scalars = chain.multiply(size, factor, products);
    chain.release(&[factor, products]);
    let first = part(chain, size, a.gates, 3, 0);
    chain.accumulate(size, (first, n), (scalars, n));
    chain.release(&[first]);
    let gate = part(chain, size, a.gates, 3, 1);
    let vectors = multiply3(chain, size, w, gate);
    chain.write(size, (scalars, n), (a.change, 4 * n));
    let of_vectors = chain.after(a.change, n.into());
    chain.write([n_atoms, 3 * n], (vectors, 3 * n), (of_vectors, 4 * n));
}

/// See [`crate::ops::update::update_gate_vjp`].
pub fn update_gate_vjp<C: Elementary>(chain: &mut C, s: &GateSizes, a: &GateArrays<C::Array>) {
    let (n_atoms, n) = (s.n_atoms, s.n_features);
    let size = [n_atoms, n];
    let grad_q = part(chain, size, a.grad_change, 4, 0);
    let of_vectors = chain.after(a.grad_change, n.into());
    let grad_mu = chain.columns([n_atoms, 3 * n], (of_vectors, 4 * n));
    let products = part(chain, size, a.invariants, 2, 1);
    let w = w_of(chain, size, a.mixed);
    let gates_out = [0, 1, 2].map(|k| (chain.after(a.grad_gates, k * u64::from(n)), 3 * n));

    chain.accumulate(size, (grad_q, n), gates_out[0]);
    let by_direction = chain.multiply([3 * n_atoms, n], grad_mu, w);
    let grad_gate = sum3(chain, size, by_direction);
    chain.accumulate(size, (grad_gate, n), gates_out[1]);
    chain.release(&[by_direction, grad_gate, w]);
    let grad_factor = chain.multiply(size, grad_q, products);
    chain.accumulate(size, (grad_factor, n), gates_out[2]);
    chain.release(&[grad_factor, products]);
    let gate = part(chain, size, a.gates, 3, 1);
    let grad_w = multiply3(chain, size, grad_mu, gate);
    let out = chain.after(a.grad_mixed, n.into());
    chain.accumulate([3 * n_atoms, n], (grad_w, n), (out, 2 * n));
    chain.release(&[grad_mu, gate, grad_w]);
    let factor = part(chain, size, a.gates, 3, 2);
    let grad_products = chain.multiply(size, grad_q, factor);
    let out = chain.after(a.grad_invariants, n.into());
    chain.accumulate(size, (grad_products, n), (out, 2 * n));
}
