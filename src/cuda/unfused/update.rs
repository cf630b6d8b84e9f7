//! Squares, products, sums over x, y and z, roots, gates.

use super::chain::Elementwise::{Inverse, Root};
use super::chain::{Chain, Operand, Pairwise};
use crate::cuda::{Address, Launcher, Step};
use crate::ops::update::{GateArrays, GateSizes, InvariantsArrays, InvariantsSizes};

/// W `[n_atoms, 3, n]` of the mixed vectors.
fn w_of(chain: &mut Chain, n_atoms: u32, n: u32, mixed: Address) -> Address {
    let second = chain.after(mixed, n.into());
    chain.columns([3 * n_atoms, n], (second, 2 * n))
}

/// V and W.
fn vectors(chain: &mut Chain, n_atoms: u32, n: u32, mixed: Address) -> [Address; 2] {
    [chain.columns([3 * n_atoms, n], (mixed, 2 * n)), w_of(chain, n_atoms, n, mixed)]
}

/// Sums over x, y, z of `x` `[n_atoms, 3, n]`.
fn sum3(chain: &mut Chain, n_atoms: u32, n: u32, x: Address) -> Address {
    let ones = Operand::rows(0, 0);
    chain.sum([n_atoms, 3, n], Operand::rows(x, 3 * n).parts(n), 0, ones)
}

/// `x` `[n_atoms, 3, n]` times `by` `[n_atoms, n]`, the same for x, y, z.
fn multiply3(chain: &mut Chain, n_atoms: u32, n: u32, x: Address, by: Address) -> Address {
    let x = Operand::rows(x, 3 * n).parts(n);
    chain.combine([n_atoms, 3, n], Pairwise::Multiply, x, Operand::rows(by, n))
}

/// Columns of `x`, rows of `n_parts` times n elements: those of part `k`.
fn part(chain: &mut Chain, [n_atoms, n]: [u32; 2], x: Address, n_parts: u32, k: u32) -> Address {
    let first = chain.after(x, u64::from(k) * u64::from(n));
    chain.columns([n_atoms, n], (first, n_parts * n))
}

impl Launcher {
    /// [`Launcher::update_invariants`] unfused; `scratch` of `scratch::update_invariants`.
    pub fn unfused_update_invariants(
        &self,
        s: &InvariantsSizes,
        epsilon: f64,
        a: &InvariantsArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        let (n_atoms, n) = (s.n_atoms, s.n_features);
        let mut chain = Chain::new(self, scratch);
        let [v, w] = vectors(&mut chain, n_atoms, n, a.mixed);
        let (triples, size) = ([3 * n_atoms, n], [n_atoms, n]);
        let squares = chain.multiply(triples, v, v);
        let squares = sum3(&mut chain, n_atoms, n, squares);
        let norms = chain.map(size, Root, epsilon, (squares, n));
        let products = chain.multiply(triples, v, w);
        let products = sum3(&mut chain, n_atoms, n, products);
        chain.write(size, (norms, n), (a.invariants, 2 * n));
        let second = chain.after(a.invariants, n.into());
        chain.write(size, (products, n), (second, 2 * n));
        chain.steps()
    }

    /// [`Launcher::update_invariants_vjp`] unfused; `scratch` of `scratch::update_invariants_vjp`.
    pub fn unfused_update_invariants_vjp(
        &self,
        s: &InvariantsSizes,
        a: &InvariantsArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        let (n_atoms, n) = (s.n_atoms, s.n_features);
        let mut chain = Chain::new(self, scratch);
        let [v, w] = vectors(&mut chain, n_atoms, n, a.mixed);
        let size = [n_atoms, n];
        let norms = part(&mut chain, size, a.invariants, 2, 0);
        let inverse = chain.map(size, Inverse, 0.0, (norms, n));
        let grad_norms = part(&mut chain, size, a.grad_invariants, 2, 0);
        let by_norm = chain.multiply(size, grad_norms, inverse);
        let by_product = part(&mut chain, size, a.grad_invariants, 2, 1);
        let grad_w = chain.after(a.grad_mixed, n.into());
        for (x, by, out) in [(v, by_norm, a.grad_mixed), (w, by_product, a.grad_mixed), (v, by_product, grad_w)] {
            let x = multiply3(&mut chain, n_atoms, n, x, by);
            chain.accumulate([3 * n_atoms, n], (x, n), (out, 2 * n));
        }
        chain.steps()
    }

    /// [`Launcher::update_gate`] unfused; `scratch` of `scratch::update_gate`.
    pub fn unfused_update_gate(&self, s: &GateSizes, a: &GateArrays<Address>, scratch: Address) -> Vec<Step> {
        let (n_atoms, n) = (s.n_atoms, s.n_features);
        let mut chain = Chain::new(self, scratch);
        let size = [n_atoms, n];
        let products = part(&mut chain, size, a.invariants, 2, 1);
        let w = w_of(&mut chain, n_atoms, n, a.mixed);
        let factor = part(&mut chain, size, a.gates, 3, 2);
        let scalars = chain.multiply(size, factor, products);
        let first = part(&mut chain, size, a.gates, 3, 0);
        chain.accumulate(size, (first, n), (scalars, n));
        let gate = part(&mut chain, size, a.gates, 3, 1);
        let vectors = multiply3(&mut chain, n_atoms, n, w, gate);
        chain.write(size, (scalars, n), (a.change, 4 * n));
        let of_vectors = chain.after(a.change, n.into());
        chain.write([n_atoms, 3 * n], (vectors, 3 * n), (of_vectors, 4 * n));
        chain.steps()
    }

    /// [`Launcher::update_gate_vjp`] unfused; `scratch` of `scratch::update_gate_vjp`.
    pub fn unfused_update_gate_vjp(&self, s: &GateSizes, a: &GateArrays<Address>, scratch: Address) -> Vec<Step> {
        let (n_atoms, n) = (s.n_atoms, s.n_features);
        let mut chain = Chain::new(self, scratch);
        let size = [n_atoms, n];
        let grad_q = part(&mut chain, size, a.grad_change, 4, 0);
        let of_vectors = chain.after(a.grad_change, n.into());
        let grad_mu = chain.columns([n_atoms, 3 * n], (of_vectors, 4 * n));
        let products = part(&mut chain, size, a.invariants, 2, 1);
        let w = w_of(&mut chain, n_atoms, n, a.mixed);
        let gates_out = [0, 1, 2].map(|k| (chain.after(a.grad_gates, k * u64::from(n)), 3 * n));

        chain.accumulate(size, (grad_q, n), gates_out[0]);
        let grad_gate = chain.multiply([3 * n_atoms, n], grad_mu, w);
        let grad_gate = sum3(&mut chain, n_atoms, n, grad_gate);
        chain.accumulate(size, (grad_gate, n), gates_out[1]);
        let grad_factor = chain.multiply(size, grad_q, products);
        chain.accumulate(size, (grad_factor, n), gates_out[2]);
        let gate = part(&mut chain, size, a.gates, 3, 1);
        let grad_w = multiply3(&mut chain, n_atoms, n, grad_mu, gate);
        let out = chain.after(a.grad_mixed, n.into());
        chain.accumulate([3 * n_atoms, n], (grad_w, n), (out, 2 * n));
        let factor = part(&mut chain, size, a.gates, 3, 2);
        let grad_products = chain.multiply(size, grad_q, factor);
        let out = chain.after(a.grad_invariants, n.into());
        chain.accumulate(size, (grad_products, n), (out, 2 * n));
        chain.steps()
    }
}
