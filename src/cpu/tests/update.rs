//! The steps of an update.

use proptest::prelude::*;
use pulp::Simd;

use super::{Check, blank, everywhere, near, numbers, padded, unpadded, zero_padded};
use crate::cpu::dense::Padding;
use crate::cpu::lanes::{Lanes, vectorize};
use crate::cpu::update::{Gates, MixedVjp, gate, gate_vjp, invariants, mixed_vjp};
use crate::ops::update::{
    GateGrads, GateInputs, update_gate, update_gate_vjp, update_invariants, update_invariants_vjp,
};
use crate::testing::Random;

#[derive(Debug, Clone, Copy)]
struct Case {
    rows: usize,
    f: usize,
    epsilon: f64,
    last: bool,
    seed: u64,
}

/// Blocks of each row, in another order.
fn blocks(x: &[f64], f: usize, width: usize, order: &[usize]) -> Vec<f64> {
    x.chunks_exact(width * f).flat_map(|row| order.iter().flat_map(|&b| row[b * f..][..f].to_vec())).collect()
}

impl Check for Case {
    fn check<T: Lanes, S: Simd>(&self, simd: S) {
        let Case { rows, f, epsilon, last, seed } = *self;
        let n = Padding::new::<T>(f).padded;
        let mut random = Random::new(seed);
        let mut mixed = numbers::<T>(&mut random, rows * 6 * f);
        // Where vectors are zero and epsilon too, the norm has no derivative.
        mixed.iter_mut().take(6 * f).for_each(|x| *x = if seed % 3 == 0 { 0.0 } else { *x });
        let scalars = numbers::<T>(&mut random, rows * f);
        let mut want = vec![f64::NAN; rows * 2 * f];
        update_invariants(f, T::of(epsilon).wide(), &mixed, &mut want);
        let mixed_padded = padded::<T>(&mixed, f);
        let (mut context, mut products) = (blank::<T>(rows * 2 * n), blank::<T>(rows * n));
        for (row, scalars) in context.chunks_exact_mut(2 * n).zip(padded::<T>(&scalars, f).chunks_exact(n)) {
            row[..n].copy_from_slice(scalars);
        }
        vectorize!(simd, invariants(simd, n, epsilon, &mixed_padded, &mut context, &mut products));
        near::<T>("scalars", &blocks(&zero_or_norm(&context, f), f, 2, &[0]), &scalars, 0.0);
        near::<T>("norms", &blocks(&unpadded(&context, f), f, 2, &[1]), &blocks(&want, f, 2, &[0]), 3.0);
        near::<T>("products", &zero_padded(&products, f), &blocks(&want, f, 2, &[1]), 3.0);

        // From here on with the invariants of `T`, so that errors do not add up.
        let norms: Vec<f64> = blocks(&unpadded(&context, f), f, 2, &[1]);
        let products_wide = unpadded(&products, f);
        let join = |a: &[f64], b: &[f64]| -> Vec<f64> {
            a.chunks_exact(f).zip(b.chunks_exact(f)).flat_map(|(a, b)| [a, b].concat()).collect()
        };
        let invariants_wide = join(&norms, &products_wide);
        // Scalars, vectors, products in the operation; scalars, products, vectors in the kernel; the last layer has no vectors.
        let mut gates = numbers::<T>(&mut random, rows * 3 * f);
        if last {
            gates.chunks_exact_mut(3 * f).for_each(|row| row[f..2 * f].fill(0.0));
        }
        let order: &[usize] = if last { &[0, 2] } else { &[0, 2, 1] };
        let gates_padded = padded::<T>(&blocks(&gates, f, 3, order), f);
        let reference = GateInputs { n_features: f, gates: &gates, mixed: &mixed, invariants: &invariants_wide };
        let mut change = vec![f64::NAN; rows * 4 * f];
        update_gate(&reference, &mut change);
        let vectors = numbers::<T>(&mut random, rows * 3 * f);
        let (mut got, mut got_vectors) = (blank::<T>(rows * n), padded::<T>(&vectors, f));
        let inputs = Gates { gates: &gates_padded, mixed: &mixed_padded, products: &products, last };
        vectorize!(simd, gate(simd, n, inputs, &context, &mut got, &mut got_vectors));
        let sum = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
        near::<T>("scalars after", &zero_padded(&got, f), &sum(&scalars, &blocks(&change, f, 4, &[0])), 3.0);
        let want = sum(&vectors, &blocks(&change, f, 4, &[1, 2, 3]));
        near::<T>("vectors after", &zero_padded(&got_vectors, f), &want, if last { 0.0 } else { 3.0 });

        // Cotangents: of the scalars, of the vectors, and what the gates' network passes back to the context.
        let grad_scalars = numbers::<T>(&mut random, rows * f);
        let mut grad_vectors = numbers::<T>(&mut random, rows * 3 * f);
        let grad_context = numbers::<T>(&mut random, rows * 2 * f);
        let (grad_q, grad_mu) = (padded::<T>(&grad_scalars, f), padded::<T>(&grad_vectors, f));
        if last {
            grad_vectors.fill(0.0);
        }
        let grad_change: Vec<f64> = grad_scalars
            .chunks_exact(f)
            .zip(grad_vectors.chunks_exact(3 * f))
            .flat_map(|(q, mu)| [q, mu].concat())
            .collect();
        let mut grads = [vec![0.0; rows * 3 * f], vec![0.0; rows * 6 * f], vec![0.0; rows * 2 * f]];
        let [gates_grad, mixed_grad, invariants_grad] = &mut grads;
        let out = &mut GateGrads { gates: gates_grad, mixed: mixed_grad, invariants: invariants_grad };
        update_gate_vjp(&reference, &grad_change, out);
        let mut got = blank::<T>(gates_padded.len());
        vectorize!(simd, gate_vjp(simd, n, inputs, &grad_q, &grad_mu, &mut got));
        near::<T>("grad_gates", &zero_padded(&got, f), &blocks(gates_grad, f, 3, order), 4.0);

        let of_invariants = join(&blocks(&grad_context, f, 2, &[1]), &blocks(invariants_grad, f, 2, &[1]));
        update_invariants_vjp(f, &mixed, &invariants_wide, &of_invariants, mixed_grad);
        let (mut got, mut got_before) = (blank::<T>(rows * 6 * n), blank::<T>(rows * n));
        let vjp = MixedVjp {
            context: &context,
            grad_context: &padded::<T>(&grad_context, f),
            grad_scalars: &grad_q,
            grad_vectors: &grad_mu,
        };
        vectorize!(simd, mixed_vjp(simd, n, inputs, vjp, &mut got, &mut got_before));
        near::<T>("grad_mixed", &zero_padded(&got, f), mixed_grad, 6.0);
        let want = sum(&grad_scalars, &blocks(&grad_context, f, 2, &[0]));
        near::<T>("grad_before", &zero_padded(&got_before, f), &want, 1.0);
    }
}

/// Scalars and norms; behind norms the root of epsilon is written, which no product reads.
fn zero_or_norm<T: Lanes>(context: &[T], f: usize) -> Vec<f64> {
    let n = Padding::new::<T>(f).padded;
    for row in context.chunks_exact(2 * n) {
        assert!(row[f..n].iter().all(|x| *x == T::zero()) && row[n + f..].iter().all(|x| x.is_finite()));
    }
    unpadded(context, f)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn update_kernels_equal_the_operation(
        rows in 0..9usize, f in 1..50usize, epsilon in prop_oneof![Just(0.0), Just(1e-8), Just(1e-2)], last: bool, seed: u64,
    ) {
        everywhere(&Case { rows, f, epsilon, last, seed });
    }
}
