//! Which kernel multiplies: by size, in one place.

use std::sync::Arc;

use crate::ops::choice::{Pattern, Size};
use crate::ops::cost_model::CostModel;

/// How a dense layer is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseChoice {
    /// One fused kernel, tiles of 16 × 32: many blocks for few rows.
    Narrow,
    /// One fused kernel, tiles of 64 × 64.
    Wide,
    /// cuBLASLt's product with bias and residual, then a kernel for the activation; f32, where the library is loaded
    /// ([`super::Device::load_library`]).
    Library,
}

/// Rows at which measurements decide on the library.
const ROWS: usize = 4096;

/// Sizes at which one way gives way to the next. The same numbers for every layer of a model.
///
/// Whether the library makes a product is a matter of the layer alone: its sums are in another order than those of the kernels,
/// and a choice by the number of rows would let the batch change the bits of a structure. Which tiles the kernels use changes no
/// bit. On an H200 the library was up to 17 % faster from 128 × 256 weights on, the fused kernels below, at 80,000 rows and at 22
/// (`benchmarks/results/gpu.md`).
#[derive(Debug, Clone, PartialEq)]
pub struct DenseSizes {
    /// Wide tiles from this many tiles for each multiprocessor on: below, narrow tiles keep more of them busy.
    pub wide_from_tiles: f64,
    /// The library from this many weights on.
    pub library_from: u64,
    /// Measurements on this GPU, which decide on the library in place of `library_from` where they know layers.
    pub cost_model: Option<Arc<CostModel>>,
}

impl Default for DenseSizes {
    fn default() -> Self {
        DenseSizes { wide_from_tiles: 0.75, library_from: 128 * 256, cost_model: None }
    }
}

impl DenseSizes {
    /// Chooses for a product `[n_rows, n_in] · [n_in, n_out]`; a VJP swaps `n_in` and `n_out`.
    pub fn choose(
        &self,
        n_rows: usize,
        n_in: usize,
        n_out: usize,
        multiprocessors: usize,
        has_library: bool,
    ) -> DenseChoice {
        let size = Size::of_layer(ROWS, n_in, n_out);
        let measured = self.cost_model.as_ref().and_then(|model| model.decision(Pattern::LinearSilu, size));
        let is_fused = measured.unwrap_or((n_in as u64).saturating_mul(n_out as u64) < self.library_from);
        if has_library && !is_fused {
            return DenseChoice::Library;
        }
        let tiles = n_rows.div_ceil(64) * n_out.div_ceil(64);
        if tiles as f64 >= self.wide_from_tiles * multiprocessors as f64 {
            DenseChoice::Wide
        } else {
            DenseChoice::Narrow
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_choice_grows_with_the_size() {
        let sizes = DenseSizes::default();
        assert_eq!(sizes.choose(22, 128, 384, 132, false), DenseChoice::Narrow);
        assert_eq!(sizes.choose(8192, 128, 384, 132, false), DenseChoice::Wide);
        assert_eq!(sizes.choose(usize::MAX >> 20, 128, 384, 132, false), DenseChoice::Wide);
        assert_eq!(sizes.choose(0, 0, 0, 0, true), DenseChoice::Wide);
    }

    /// The library's bits are others than those of the kernels, which are the same whatever the tile.
    #[test]
    fn dense_choice_of_the_library_is_the_same_for_any_rows() {
        let points = [(64, 0.8), (4096, 0.8), (1 << 20, 2.0)];
        let points = points.map(|(rows, s)| (Pattern::LinearSilu, Size { rows, width: 222 }, s));
        let measured = DenseSizes { cost_model: Some(Arc::new(CostModel::new(1.2, points))), ..DenseSizes::default() };
        for rows in [1, 22, 5000, 1 << 22] {
            for sizes in [&DenseSizes::default(), &measured] {
                assert_eq!(sizes.choose(rows, 128, 384, 132, true), DenseChoice::Library);
            }
            assert_ne!(DenseSizes::default().choose(rows, 128, 128, 132, true), DenseChoice::Library);
        }
    }

    #[test]
    fn dense_choice_follows_measurements_where_there_are_any() {
        let of = |speedup| CostModel::new(1.2, [(Pattern::LinearSilu, Size { rows: 4096, width: 64 }, speedup)]);
        let measured = |model| DenseSizes { cost_model: Some(Arc::new(model)), ..DenseSizes::default() };
        assert_eq!(measured(of(0.8)).choose(64, 64, 64, 132, true), DenseChoice::Library);
        assert_eq!(measured(of(0.8)).choose(64, 64, 64, 132, false), DenseChoice::Narrow);
        assert_eq!(measured(of(2.0)).choose(100_000, 512, 512, 132, true), DenseChoice::Wide);
        let of_another = CostModel::new(1.2, [(Pattern::Mlp, Size { rows: 1, width: 1 }, 0.1)]);
        assert_eq!(measured(of_another).choose(64, 64, 64, 132, true), DenseChoice::Narrow);
    }
}
