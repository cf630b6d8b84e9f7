//! [`Layer`], and through it [`gemm`](crate::cpu::gemm).

use proptest::prelude::*;
use pulp::Simd;

use super::{Check, blank, everywhere, narrow, near, numbers, padded, unpadded, zero_padded};
use crate::cpu::dense::{Layer, Padding};
use crate::cpu::lanes::Lanes;
use crate::ops::dense::{Activation, Linear, dense, dense_vjp};
use crate::testing::Random;

#[derive(Debug, Clone, Copy)]
struct Case {
    rows: usize,
    /// Blocks of the input rows, and numbers of a block.
    input: [usize; 2],
    output: [usize; 2],
    bias: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    (0..26usize, [1..4usize, 1..40usize], [1..4usize, 1..40usize], any::<bool>(), any::<u64>())
        .prop_map(|(rows, input, output, bias, seed)| Case { rows, input, output, bias, seed })
}

impl Check for Case {
    fn check<T: Lanes, S: Simd>(&self, simd: S) {
        let Case { rows, input, output, .. } = *self;
        let ([_, used_in], [_, used_out]) = (input, output);
        let (n_in, n_out) = (input[0] * input[1], output[0] * output[1]);
        let mut random = Random::new(self.seed);
        let weight = numbers::<T>(&mut random, n_in * n_out);
        let bias = self.bias.then(|| numbers::<T>(&mut random, n_out));
        let narrowed = Linear::<T> { weight: narrow(&weight), bias: bias.as_deref().map(narrow), n_in, n_out };
        let linear = Linear { weight, bias, n_in, n_out };
        let layer = Layer::new(simd, &narrowed, Padding::new::<T>(used_in), Padding::new::<T>(used_out));
        let roundings = 4.0 + 0.5 * n_in.max(n_out) as f64;

        let x = numbers::<T>(&mut random, rows * n_in);
        let (x_padded, n) = (padded::<T>(&x, used_in), rows * layer.n_out());
        let mut want = vec![f64::NAN; rows * n_out];
        dense(&linear, Activation::Identity, &x, &mut want, None);
        let mut out = blank::<T>(n);
        layer.linear(simd, &x_padded, &mut out);
        near::<T>("linear", &zero_padded(&out, used_out), &want, roundings);
        // A row is the same bits whatever the rows around it.
        for (row, x) in x_padded.chunks_exact(layer.n_in()).enumerate() {
            let mut alone = blank::<T>(layer.n_out());
            layer.linear(simd, x, &mut alone);
            assert_eq!(alone[..], out[row * layer.n_out()..][..layer.n_out()], "row {row} of {rows}");
        }

        let mut z = vec![f64::NAN; rows * n_out];
        dense(&linear, Activation::Silu, &x, &mut want, Some(&mut z));
        let slopes: Vec<f64> =
            z.iter().map(|z| (1.0 + (-z).exp()).recip()).zip(&z).map(|(s, z)| s + z * s * (1.0 - s)).collect();
        let (mut out, mut got_slopes) = (blank::<T>(n), blank::<T>(n));
        layer.linear_silu(simd, &x_padded, &mut out, &mut got_slopes);
        near::<T>("linear_silu", &zero_padded(&out, used_out), &want, roundings);
        near::<T>("slopes of linear_silu", &unpadded(&got_slopes, used_out), &slopes, 2.0 * roundings);

        let grad_y = numbers::<T>(&mut random, rows * n_out);
        let grad_padded = padded::<T>(&grad_y, used_out);
        let mut want = vec![0.0; rows * n_in];
        dense_vjp(&linear, Activation::Identity, &[], &grad_y, &mut want);
        let mut out = blank::<T>(rows * layer.n_in());
        layer.vjp(simd, &grad_padded, &mut out);
        near::<T>("vjp", &zero_padded(&out, used_in), &want, roundings);

        let before = numbers::<T>(&mut random, rows * n_in);
        let mut out = padded::<T>(&before, used_in);
        layer.vjp_add(simd, &grad_padded, &mut out);
        let sums: Vec<f64> = want.iter().zip(&before).map(|(a, b)| a + b).collect();
        near::<T>("vjp_add", &zero_padded(&out, used_in), &sums, roundings);

        let mut out = blank::<T>(rows * layer.n_in());
        layer.vjp_silu(simd, &grad_padded, &padded::<T>(&before, used_in), &mut out);
        let products: Vec<f64> = want.iter().zip(&before).map(|(a, b)| a * b).collect();
        near::<T>("vjp_silu", &zero_padded(&out, used_in), &products, roundings);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dense_kernels_equal_the_operation(case in cases()) {
        everywhere(&case);
    }
}
