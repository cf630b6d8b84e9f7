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

/// Sizes at which one way gives way to the next. The same numbers for every layer of a model.
///
/// The defaults come from the shape of the kernels. On an H200 the library won from 1024³ on and at many rows, the fused kernels at
/// 128³ (`benchmarks/results/gpu.md`); they have not been fitted to that.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseSizes {
    /// Wide tiles from this many tiles for each multiprocessor on: below, narrow tiles keep more of them busy.
    pub wide_from_tiles: f64,
    /// The library from this many multiply-adds on. Fusion saves passes over memory, which are a share of the time that
    /// falls as the product grows: others measured a gain of 3 at 128³ and a loss at 1024³.
    pub library_from: u64,
    /// Measurements on this GPU, which decide on the library in place of `library_from` where they know layers.
    pub cost_model: Option<Arc<CostModel>>,
}

impl Default for DenseSizes {
    fn default() -> Self {
        DenseSizes { wide_from_tiles: 0.75, library_from: 512 * 512 * 512, cost_model: None }
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
        let size = Size::of_layer(n_rows, n_in, n_out);
        let measured = self.cost_model.as_ref().and_then(|model| model.decision(Pattern::LinearSilu, size));
        let work = (n_rows as u64).saturating_mul(n_in as u64).saturating_mul(n_out as u64);
        let is_fused = measured.unwrap_or(work < self.library_from);
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
        assert_eq!(sizes.choose(22, 128, 384, 132, true), DenseChoice::Narrow);
        assert_eq!(sizes.choose(8192, 128, 384, 132, false), DenseChoice::Wide);
        assert_eq!(sizes.choose(100_000, 128, 384, 132, true), DenseChoice::Library);
        assert_eq!(sizes.choose(usize::MAX >> 20, 128, 384, 132, false), DenseChoice::Wide);
        assert_eq!(sizes.choose(0, 0, 0, 0, true), DenseChoice::Wide);
    }

    #[test]
    fn dense_choice_follows_measurements_where_there_are_any() {
        let points = [(64, 0.8), (4096, 2.0)].map(|(rows, s)| (Pattern::LinearSilu, Size { rows, width: 64 }, s));
        let measured = DenseSizes { cost_model: Some(Arc::new(CostModel::new(1.2, points))), ..DenseSizes::default() };
        assert_eq!(measured.choose(64, 64, 64, 132, true), DenseChoice::Library);
        assert_eq!(measured.choose(64, 64, 64, 132, false), DenseChoice::Narrow);
        assert_eq!(measured.choose(100_000, 64, 64, 132, true), DenseChoice::Wide);
        let of_another = CostModel::new(1.2, [(Pattern::Mlp, Size { rows: 1, width: 1 }, 0.1)]);
        let unmeasured = DenseSizes { cost_model: Some(Arc::new(of_another)), ..DenseSizes::default() };
        assert_eq!(unmeasured.choose(64, 64, 64, 132, true), DenseChoice::Narrow);
    }
}
