//! Matrix products with packed weights and fused epilogues.
//!
//! `out[m, n] = epilogue(a[m, k] · w[k, n])`. Weights are packed once into panels that a kernel reads front to back; a
//! kernel holds a block of up to 6 rows times 4 vectors in registers. Every element is summed over k in one order whatever the
//! block it falls into, so that a row's result does not depend on the rows around it.

// Iterators over vectors are not always inlined where no link-time optimisation is on, which costs ten times the loop.
#![allow(clippy::needless_range_loop)]

use pulp::Simd;

use super::lanes::{Buffer, Lanes};

/// Rows of the register block.
const MAX_ROWS: usize = 6;
/// Vectors of a row of the register block.
const MAX_VECTORS: usize = 4;

/// Vectors of a register block's row that leave room for the rest in the registers of `S`.
fn block_vectors<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { MAX_VECTORS } else { 2 }
}

/// Weights of one product, packed for one instruction set.
#[derive(Debug, Clone)]
pub struct PackedMatrix<T> {
    /// Panels, one after the other; panel p holds `[k, vectors_p · lanes]`.
    data: Buffer<T>,
    /// Vectors of each panel.
    panels: Vec<usize>,
    /// Length of an input row.
    pub n_in: usize,
    /// Length of an output row, a multiple of the cache line.
    pub n_out: usize,
}

impl<T: Lanes> PackedMatrix<T> {
    /// Packs the matrix of elements `at(k, n)`; `n_in` and `n_out` include padding, whose elements are zero.
    pub fn new<S: Simd>(_: S, n_in: usize, n_out: usize, at: impl Fn(usize, usize) -> T) -> Self {
        let lanes = T::lanes::<S>();
        let n_vectors = n_out / lanes;
        let n_panels = n_vectors.div_ceil(block_vectors::<S>());
        // As equal as possible: a narrow last panel would use the processor badly.
        let panels: Vec<usize> =
            (0..n_panels).map(|p| (n_vectors * (p + 1)) / n_panels - n_vectors * p / n_panels).collect();
        let mut data = Buffer::zeros(n_in * n_out);
        let (mut column, mut next) = (0, 0);
        for &vectors in &panels {
            for k in 0..n_in {
                for n in 0..vectors * lanes {
                    data[next] = at(k, column + n);
                    next += 1;
                }
            }
            column += vectors * lanes;
        }
        PackedMatrix { data, panels, n_in, n_out }
    }
}

/// What happens to a block of products on its way to memory.
pub trait Epilogue<T: Lanes> {
    /// Stores `value`, vector number `vector` of row `row`.
    fn store<S: Simd>(&mut self, simd: S, row: usize, vector: usize, value: T::V<S>);
}

struct Block<'a, T: Lanes, S: Simd, const ROWS: usize, const VECTORS: usize> {
    simd: S,
    a: &'a [T],
    k: usize,
    panel: &'a [T::V<S>],
    out: &'a mut [[T::V<S>; MAX_VECTORS]; MAX_ROWS],
}

impl<T: Lanes, S: Simd, const ROWS: usize, const VECTORS: usize> pulp::NullaryFnOnce
    for Block<'_, T, S, ROWS, VECTORS>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Block { simd, a, k, panel, out } = self;
        assert!(panel.len() == k * VECTORS && a.len() >= ROWS * k);
        let mut sums = [[T::splat(simd, T::zero()); VECTORS]; ROWS];
        for i in 0..k {
            let mut w = [T::splat(simd, T::zero()); VECTORS];
            for v in 0..VECTORS {
                // SAFETY: i < k, and the assertion above bounds the panel.
                w[v] = unsafe { *panel.get_unchecked(i * VECTORS + v) };
            }
            for r in 0..ROWS {
                // SAFETY: r < ROWS and i < k; the assertion above bounds `a`.
                let x = T::splat(simd, unsafe { *a.get_unchecked(r * k + i) });
                for v in 0..VECTORS {
                    sums[r][v] = T::fma(simd, x, w[v], sums[r][v]);
                }
            }
        }
        for r in 0..ROWS {
            out[r][..VECTORS].copy_from_slice(&sums[r]);
        }
    }
}

/// Evaluates `epilogue(a · w)` over `rows` rows of `a`.
#[inline(always)]
pub fn gemm<T: Lanes, S: Simd>(
    simd: S,
    rows: usize,
    a: &[T],
    weights: &PackedMatrix<T>,
    epilogue: &mut impl Epilogue<T>,
) {
    if rows == 0 {
        return;
    }
    let k = weights.n_in;
    let data = T::vectors::<S>(&weights.data);
    let n_blocks = rows.div_ceil(MAX_ROWS);
    let mut block = [[T::splat(simd, T::zero()); MAX_VECTORS]; MAX_ROWS];
    let (mut first_vector, mut start) = (0, 0);
    for &vectors in &weights.panels {
        let panel = &data[start..start + k * vectors];
        for b in 0..n_blocks {
            let first = rows * b / n_blocks;
            let n_rows = rows * (b + 1) / n_blocks - first;
            let a = &a[first * k..];
            macro_rules! run {
                ($($r:literal $v:literal),*) => {
                    match (n_rows, vectors) {
                        $(($r, $v) => simd.vectorize(Block::<T, S, $r, $v> { simd, a, k, panel, out: &mut block }),)*
                        _ => unreachable!("blocks have 1 to 6 rows of 1 to 4 vectors"),
                    }
                };
            }
            run!(
                1 1, 2 1, 3 1, 4 1, 5 1, 6 1, 1 2, 2 2, 3 2, 4 2, 5 2, 6 2,
                1 3, 2 3, 3 3, 4 3, 5 3, 6 3, 1 4, 2 4, 3 4, 4 4, 5 4, 6 4
            );
            for r in 0..n_rows {
                for v in 0..vectors {
                    epilogue.store(simd, first + r, first_vector + v, block[r][v]);
                }
            }
        }
        first_vector += vectors;
        start += k * vectors;
    }
}
