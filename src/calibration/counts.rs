//! Floating-point operations and bytes of a forward and a VJP, from the shapes.
//!
//! As the profiler counts: a multiply-add is two, a root, a quotient or an exponential one. A fused operation reads its
//! arguments and writes its results once; of the unfused chain every elementary operation does. Weights are read once a
//! product. Indices are left out.

use crate::ops::choice::{Pattern, Size};
use crate::ops::example::EDGES_PER_ATOM;

/// Radial functions of a message, and the envelope.
pub const EDGE_FEATURES: usize = 21;

/// Work of both variants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Floating-point operations of either.
    pub flops: f64,
    /// Bytes of the fused operation.
    pub fused_bytes: f64,
    /// Bytes of the chain.
    pub unfused_bytes: f64,
}

impl Work {
    /// `number` is the bytes of one.
    pub fn new(pattern: Pattern, size: Size, number: f64) -> Self {
        let (rows, w) = (size.rows as f64, size.width as f64);
        // By row: operations, and numbers of both variants; then numbers of weights.
        let dense = |square: f64, flops: f64, fused: f64, unfused: f64| {
            let weights = square * w * w;
            Work {
                flops: rows * (2.0 * square * w * w + flops * w),
                fused_bytes: number * (rows * fused * w + weights),
                unfused_bytes: number * (rows * unfused * w + weights),
            }
        };
        let by_row = |flops: f64, fused: f64, unfused: f64, number: f64| Work {
            flops: rows * flops,
            fused_bytes: rows * fused * number,
            unfused_bytes: rows * unfused * number,
        };
        match pattern {
            // Forward: values, envelope, product. VJP: both with their slopes, four products, two sums.
            Pattern::RadialBasis => by_row(20.0 * (w + 1.0), 2.0 * w + 6.0, 11.0 * w + 24.0, number),
            Pattern::EdgeGeometry => by_row(58.0, 33.0, 191.0, 8.0),
            // Forward: product 2, bias 2, SiLU 2. VJP: slope 2, its product 3, product 2, sum 3.
            Pattern::LinearSilu => dense(2.0, 13.0, 7.0, 16.0),
            // The residual is added in 3, and its cotangent in 3.
            Pattern::LinearResidualActivation => dense(2.0, 15.0, 10.0, 22.0),
            Pattern::ActivationLinear => dense(2.0, 13.0, 6.0, 16.0),
            // To three times the width. Forward: 6 as above, product 4, bias 6. VJP: product 4, then 10 as above.
            Pattern::Mlp => dense(8.0, 16.0, 11.0, 30.0),
            Pattern::Message => {
                let (k, atoms) = (EDGE_FEATURES as f64, 1.0 / EDGES_PER_ATOM as f64);
                // By edge and feature, forward: sender's rows 12, filters 3, product 9, along 4, gated 7, sum 9, scalars 2,
                // sums at receivers 4. VJP: 24 anew, gathered cotangent 8, of directions 4, vectors 7, products 10, context
                // 9, filters 12, at senders 18.
                let fused = 32.0 * w * atoms + 4.0 * k + 16.0;
                let unfused = 142.0 * w + 6.0 * k + 26.0 + 48.0 * w * atoms;
                by_row(12.0 * w * k + 47.0 * w, fused, unfused, number)
            }
            // Invariants 41 and 71, gates 35 and 67.
            Pattern::Update => by_row(54.0 * w, 64.0 * w, 214.0 * w, number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fusing_saves_bytes_and_work_grows_with_rows() {
        for pattern in Pattern::ALL {
            let [one, ten] = [100, 1000].map(|rows| Work::new(pattern, Size { rows, width: 64 }, 4.0));
            assert!(one.fused_bytes < one.unfused_bytes && one.flops > 0.0, "{pattern:?}");
            approx::assert_relative_eq!(ten.flops, 10.0 * one.flops, max_relative = 1e-12);
        }
    }

    #[test]
    fn layer_of_known_size_is_counted() {
        // Two products of 3 × 2 × 2; x, y, saved; grad, saved, grad_x twice; weights twice.
        let work = Work::new(Pattern::LinearSilu, Size { rows: 3, width: 2 }, 4.0);
        assert_eq!(work.flops, 2.0 * 24.0 + 3.0 * 2.0 * 13.0);
        assert_eq!(work.fused_bytes, 4.0 * (3.0 * 7.0 * 2.0 + 8.0));
    }
}
