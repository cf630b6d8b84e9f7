//! `update`: an atom's scalars and vectors talk to each other.
//!
//! Source: Schütt, Unke, Gastegger, ICML 2021, eqs. 9 and 10, in the layout of SchNetPack 2 (`PaiNNMixing`). The dense
//! layers around these two steps are [`super::dense`]'s.

use super::table::operation;
use super::{Real, for_row_blocks};

operation! {
    "update_invariants":
    /// Sizes of the invariants.
    InvariantsSizes {
        /// Atoms.
        n_atoms,
        /// F.
        n_features,
    }
    /// Arrays of the invariants and their VJP.
    InvariantsArrays {
        /// `[n_atoms, 3, 2F]`: V and W.
        Input Real mixed [n_atoms; 6 * n_features] Both,
        /// Norms, then inner products.
        Output Real invariants [n_atoms; 2 * n_features] Both,
        Cotangent Real grad_invariants [n_atoms; 2 * n_features] Vjp,
        Gradient Real grad_mixed [n_atoms; 6 * n_features] Vjp,
    }
}

operation! {
    "update_gate":
    /// Sizes of the gates.
    GateSizes {
        /// Atoms.
        n_atoms,
        /// F.
        n_features,
    }
    /// Arrays of the gates and their VJP.
    GateArrays {
        Input Real gates [n_atoms; 3 * n_features] Both,
        /// `[n_atoms, 3, 2F]`: V, which is not read, and W.
        Input Real mixed [n_atoms; 6 * n_features] Both,
        /// Norms, which are not read, and inner products.
        Input Real invariants [n_atoms; 2 * n_features] Both,
        /// Of the scalars, then of the vectors.
        Output Real change [n_atoms; 4 * n_features] Forward,
        Cotangent Real grad_change [n_atoms; 4 * n_features] Vjp,
        Gradient Real grad_gates [n_atoms; 3 * n_features] Vjp,
        /// V's is left alone.
        Gradient Real grad_mixed [n_atoms; 6 * n_features] Vjp,
        /// The norms' is left alone.
        Gradient Real grad_invariants [n_atoms; 2 * n_features] Vjp,
    }
}

/// Computes what the gates may see of the vectors: norms and inner products over x, y, z.
///
/// IN  `mixed` `[n_atoms, 3, 2F]`: V and W, two mixtures of the vectors.
/// OUT `invariants` `[n_atoms, 2F]`: `sqrt(Σ V² + epsilon)` and `Σ V W`, overwritten.
/// SAVED for the VJP: `mixed`, `invariants`.
pub fn update_invariants<T: Real>(n_features: usize, epsilon: f64, mixed: &[T], invariants: &mut [T]) {
    let n = n_features;
    // eps inside the root: |v| is not differentiable at v = 0, where isolated atoms sit.
    let epsilon = T::of(epsilon);
    for_row_blocks(
        invariants,
        2 * n,
        #[inline(always)]
        |first, rows| {
            for (row, mixed) in rows.chunks_exact_mut(2 * n).zip(mixed[first * 6 * n..].chunks_exact(6 * n)) {
                let (norms, products) = row.split_at_mut(n);
                for f in 0..n {
                    let v = [mixed[f], mixed[2 * n + f], mixed[4 * n + f]];
                    let w = [mixed[n + f], mixed[3 * n + f], mixed[5 * n + f]];
                    norms[f] = (v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + epsilon).sqrt();
                    products[f] = v[0] * w[0] + v[1] * w[1] + v[2] * w[2];
                }
            }
        },
    );
}

/// Pulls the cotangent of the invariants back to the mixed vectors.
///
/// IN  `mixed`, `invariants` as the forward had them; `grad_invariants` `[n_atoms, 2F]`.
/// OUT `grad_mixed` `[n_atoms, 3, 2F]`, accumulated. Where a norm is zero (only possible with epsilon = 0) its
/// subgradient zero is taken, as PyTorch does.
pub fn update_invariants_vjp<T: Real>(
    n_features: usize,
    mixed: &[T],
    invariants: &[T],
    grad_invariants: &[T],
    grad_mixed: &mut [T],
) {
    let n = n_features;
    for_row_blocks(
        grad_mixed,
        6 * n,
        #[inline(always)]
        |first, rows| {
            for (row, a) in rows.chunks_exact_mut(6 * n).zip(first..) {
                let mixed = &mixed[a * 6 * n..][..6 * n];
                let norms = &invariants[a * 2 * n..][..n];
                let (grad_norms, grad_products) = grad_invariants[a * 2 * n..][..2 * n].split_at(n);
                for k in 0..3 {
                    let (v, w) = mixed[2 * k * n..][..2 * n].split_at(n);
                    let (grad_v, grad_w) = row[2 * k * n..][..2 * n].split_at_mut(n);
                    for f in 0..n {
                        let scale = if norms[f] > T::zero() { grad_norms[f] / norms[f] } else { T::zero() };
                        grad_v[f] += scale * v[f] + grad_products[f] * w[f];
                        grad_w[f] += grad_products[f] * v[f];
                    }
                }
            }
        },
    );
}

/// Arrays that [`update_gate`] reads.
#[derive(Debug, Clone, Copy)]
pub struct GateInputs<'a, T> {
    /// F.
    pub n_features: usize,
    /// Gates a, `[n_atoms, 3F]`: for scalars, for vectors, for the inner products.
    pub gates: &'a [T],
    /// V and W, `[n_atoms, 3, 2F]`.
    pub mixed: &'a [T],
    /// Norms and inner products, `[n_atoms, 2F]`.
    pub invariants: &'a [T],
}

/// Applies the gates: `Δq = a₀ + a₂ ⟨V, W⟩`, `Δµ = a₁ W`.
///
/// IN  `inputs`.   OUT `change` `[n_atoms, 4F]`: Δq, then Δµ `[3, F]`; overwritten.
/// SAVED for the VJP: the inputs.
pub fn update_gate<T: Real>(inputs: &GateInputs<T>, change: &mut [T]) {
    let n = inputs.n_features;
    for_row_blocks(
        change,
        4 * n,
        #[inline(always)]
        |first, rows| {
            for (row, a) in rows.chunks_exact_mut(4 * n).zip(first..) {
                let gates = &inputs.gates[a * 3 * n..][..3 * n];
                let products = &inputs.invariants[a * 2 * n + n..][..n];
                for f in 0..n {
                    row[f] = gates[f] + gates[2 * n + f] * products[f];
                }
                for k in 0..3 {
                    let w = &inputs.mixed[a * 6 * n + (2 * k + 1) * n..][..n];
                    let out = &mut row[(k + 1) * n..][..n];
                    for f in 0..n {
                        out[f] = gates[n + f] * w[f];
                    }
                }
            }
        },
    );
}

/// Cotangents of [`GateInputs`], accumulated.
#[derive(Debug)]
pub struct GateGrads<'a, T> {
    /// `[n_atoms, 3F]`.
    pub gates: &'a mut [T],
    /// `[n_atoms, 3, 2F]`.
    pub mixed: &'a mut [T],
    /// `[n_atoms, 2F]`.
    pub invariants: &'a mut [T],
}

/// Pulls the cotangent of the change back to gates, mixed vectors and invariants.
///
/// IN  `grad_change` `[n_atoms, 4F]`.   OUT `grads`, accumulated.
pub fn update_gate_vjp<T: Real>(inputs: &GateInputs<T>, grad_change: &[T], grads: &mut GateGrads<T>) {
    let n = inputs.n_features;
    let grad = |a: usize| grad_change[a * 4 * n..][..4 * n].split_at(n);
    for_row_blocks(
        grads.gates,
        3 * n,
        #[inline(always)]
        |first, rows| {
            for (row, a) in rows.chunks_exact_mut(3 * n).zip(first..) {
                let (grad_q, grad_mu) = grad(a);
                let mixed = &inputs.mixed[a * 6 * n..][..6 * n];
                let products = &inputs.invariants[a * 2 * n + n..][..n];
                for f in 0..n {
                    row[f] += grad_q[f];
                    row[2 * n + f] += grad_q[f] * products[f];
                    row[n + f] += grad_mu[f] * mixed[n + f]
                        + grad_mu[n + f] * mixed[3 * n + f]
                        + grad_mu[2 * n + f] * mixed[5 * n + f];
                }
            }
        },
    );
    for_row_blocks(
        grads.mixed,
        6 * n,
        #[inline(always)]
        |first, rows| {
            for (row, a) in rows.chunks_exact_mut(6 * n).zip(first..) {
                let (_, grad_mu) = grad(a);
                let gates = &inputs.gates[a * 3 * n + n..][..n];
                for k in 0..3 {
                    let out = &mut row[(2 * k + 1) * n..][..n];
                    for f in 0..n {
                        out[f] += grad_mu[k * n + f] * gates[f];
                    }
                }
            }
        },
    );
    for_row_blocks(
        grads.invariants,
        2 * n,
        #[inline(always)]
        |first, rows| {
            for (row, a) in rows.chunks_exact_mut(2 * n).zip(first..) {
                let (grad_q, _) = grad(a);
                let gates = &inputs.gates[a * 3 * n + 2 * n..][..n];
                for f in 0..n {
                    row[n + f] += grad_q[f] * gates[f];
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, assert_vjp};

    const ATOMS: usize = 67;
    const N: usize = 3;

    #[test]
    fn update_invariants_of_a_known_vector() {
        // V = (3, 4, 12), W = (1, 1, 1), one feature, epsilon = 0.
        let mut out = [0.0; 2];
        update_invariants(1, 0.0, &[3.0, 1.0, 4.0, 1.0, 12.0, 1.0], &mut out);
        assert_close("invariants", &out, &[13.0, 19.0], 1e-15, 1e-15);
    }

    #[test]
    fn update_invariants_vjp_matches_finite_difference() {
        let x = Random::new(10).array(ATOMS * 6 * N, 1.0);
        let run = |x: &[f64]| {
            let mut out = vec![f64::NAN; ATOMS * 2 * N];
            update_invariants(N, 1e-8, x, &mut out);
            out
        };
        let invariants = run(&x);
        assert_vjp(&x, run, |grad| {
            let mut out = vec![0.0; x.len()];
            update_invariants_vjp(N, &x, &invariants, grad, &mut out);
            out
        });
    }

    #[test]
    fn update_invariants_vjp_is_finite_at_zero_vectors() {
        let mut out = vec![0.0; 6];
        for epsilon in [0.0, 1e-8] {
            let mut invariants = [f64::NAN; 2];
            update_invariants(1, epsilon, &[0.0; 6], &mut invariants);
            update_invariants_vjp(1, &[0.0; 6], &invariants, &[1.0, 1.0], &mut out);
            assert_close("grad", &out, &[0.0; 6], 0.0, 0.0);
        }
    }

    #[test]
    fn update_gate_vjp_matches_finite_difference() {
        let (a, b) = (ATOMS * 3 * N, ATOMS * 6 * N);
        let x = Random::new(11).array(a + b + ATOMS * 2 * N, 1.0);
        fn inputs(x: &[f64], a: usize, b: usize) -> GateInputs<'_, f64> {
            GateInputs { n_features: N, gates: &x[..a], mixed: &x[a..a + b], invariants: &x[a + b..] }
        }
        assert_vjp(
            &x,
            |x| {
                let mut out = vec![f64::NAN; ATOMS * 4 * N];
                update_gate(&inputs(x, a, b), &mut out);
                out
            },
            |grad| {
                let mut out = vec![0.0; x.len()];
                let (gates, rest) = out.split_at_mut(a);
                let (mixed, invariants) = rest.split_at_mut(b);
                update_gate_vjp(&inputs(&x, a, b), grad, &mut GateGrads { gates, mixed, invariants });
                out
            },
        );
    }
}
