//! Vectors of whatever width the processor has: [`Lanes`] gives both precisions the same vocabulary over `pulp`.

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use crate::ops::Real;

/// Bytes of a cache line, and of the widest vectors. Rows of features are padded to it.
pub const LINE: usize = 64;

/// Runs an expression in a function of its own, compiled for the instruction set of `$simd`.
///
/// The closure is one that can be called only once: for others the compiler puts a call between, which is not always
/// inlined, and then none of the vector instructions inside are.
macro_rules! vectorize {
    ($simd:expr, $body:expr) => {{
        let once = $crate::cpu::lanes::Once;
        pulp::Simd::vectorize(
            $simd,
            #[inline(always)]
            || {
                once.moved();
                $body
            },
        )
    }};
}
pub(crate) use vectorize;

/// Moved into a closure, makes it one that can be called only once.
pub(crate) struct Once;

impl Once {
    /// Takes `self`, which is all it does.
    #[inline(always)]
    pub fn moved(self) {}
}

/// A floating-point type in vectors of an instruction set `S`.
pub trait Lanes: Real + Pod {
    /// A vector.
    type V<S: Simd>: Copy + Pod + Send + Sync;
    /// Numbers in a cache line: feature counts are padded to a multiple of it.
    const PER_LINE: usize = LINE / size_of::<Self>();

    /// Numbers in a vector.
    fn lanes<S: Simd>() -> usize;
    /// A slice as whole vectors; what does not fill a vector is left out.
    fn vectors<S: Simd>(x: &[Self]) -> &[Self::V<S>];
    /// As [`Lanes::vectors`], to be written.
    fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [Self::V<S>];
    /// `x` in every lane.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::V<S>;
    /// `a + b`.
    fn vadd<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `a - b`.
    fn vsub<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `a * b`.
    fn vmul<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `a / b`.
    fn vdiv<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `a * b + c`, rounded once where the processor can.
    fn fma<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S>;
    /// The larger one, lane by lane.
    fn vmax<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// Square root.
    fn vsqrt<S: Simd>(simd: S, a: Self::V<S>) -> Self::V<S>;
    /// `exp(a)`; saturates instead of overflowing.
    fn vexp<S: Simd>(simd: S, a: Self::V<S>) -> Self::V<S>;
    /// Sums over the lanes of four vectors.
    fn vsum4<S: Simd>(simd: S, a: [Self::V<S>; 4]) -> [Self; 4];
}

macro_rules! lanes {
    ($t:ty {
        vector: $v:ident, lanes: $lanes:ident, read: $as:ident, write: $as_mut:ident, splat: $splat:ident,
        add: $add:ident, sub: $sub:ident, mul: $mul:ident, div: $div:ident, mul_add: $mul_add:ident,
        max: $max:ident, sqrt: $sqrt:ident, exp: $exp:path, sum: $sum:ident, interleave: $interleave:ident,
    }) => {
        impl Lanes for $t {
            type V<S: Simd> = S::$v;

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
            #[inline(always)]
            fn vectors<S: Simd>(x: &[Self]) -> &[S::$v] {
                S::$as(x).0
            }
            #[inline(always)]
            fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [S::$v] {
                S::$as_mut(x).0
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$v {
                simd.$splat(x)
            }
            #[inline(always)]
            fn vadd<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn vsub<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn vmul<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn vdiv<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$div(a, b)
            }
            #[inline(always)]
            fn fma<S: Simd>(simd: S, a: S::$v, b: S::$v, c: S::$v) -> S::$v {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn vmax<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$max(a, b)
            }
            #[inline(always)]
            fn vsqrt<S: Simd>(simd: S, a: S::$v) -> S::$v {
                simd.$sqrt(a)
            }
            #[inline(always)]
            fn vexp<S: Simd>(simd: S, a: S::$v) -> S::$v {
                $exp(simd, a)
            }
            #[inline(always)]
            fn vsum4<S: Simd>(simd: S, a: [S::$v; 4]) -> [Self; 4] {
                if S::$lanes < 4 {
                    return [simd.$sum(a[0]), simd.$sum(a[1]), simd.$sum(a[2]), simd.$sum(a[3])];
                }
                // Groups of four numbers, one of each vector: whole vectors are added before anything is taken apart.
                let mixed = simd.$interleave(a);
                let sum = simd.$add(simd.$add(mixed[0], mixed[1]), simd.$add(mixed[2], mixed[3]));
                let groups: &[[Self; 4]] = bytemuck::cast_slice(std::slice::from_ref(&sum));
                let mut out = groups[0];
                for group in &groups[1..] {
                    for k in 0..4 {
                        out[k] += group[k];
                    }
                }
                out
            }
        }
    };
}

lanes!(f32 {
    vector: f32s,
    lanes: F32_LANES,
    read: as_simd_f32s,
    write: as_mut_simd_f32s,
    splat: splat_f32s,
    add: add_f32s,
    sub: sub_f32s,
    mul: mul_f32s,
    div: div_f32s,
    mul_add: mul_add_e_f32s,
    max: max_f32s,
    sqrt: sqrt_f32s,
    exp: exp_f32,
    sum: reduce_sum_f32s,
    interleave: interleave_shfl_f32s,
});
lanes!(f64 {
    vector: f64s,
    lanes: F64_LANES,
    read: as_simd_f64s,
    write: as_mut_simd_f64s,
    splat: splat_f64s,
    add: add_f64s,
    sub: sub_f64s,
    mul: mul_f64s,
    div: div_f64s,
    mul_add: mul_add_e_f64s,
    max: max_f64s,
    sqrt: sqrt_f64s,
    exp: exp_f64,
    sum: reduce_sum_f64s,
    interleave: interleave_shfl_f64s,
});

/// exp(x) = 2ⁿ · exp(r), n the nearest integer to x / ln 2, |r| ≤ ln 2 / 2, by a polynomial of degree 7 (Taylor, error
/// 6e-9 there). Within 2 ulp.
#[inline(always)]
fn exp_f32<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // ln 2 in two parts, of which the first times n is exact.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Adding 1.5·2²³ leaves n in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    const TAYLOR: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let x = simd.min_f32s(simd.max_f32s(x, simd.splat_f32s(-87.0)), simd.splat_f32s(88.0));
    let shifted = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), simd.splat_f32s(MAGIC));
    let n = simd.sub_f32s(shifted, simd.splat_f32s(MAGIC));
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN2[0]), x);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-LN2[1]), r);
    let mut p = simd.splat_f32s(TAYLOR[0]);
    for &c in &TAYLOR[1..] {
        p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(c));
    }
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(p), exponent))
}

/// Lane by lane: double precision is for checking.
#[inline(always)]
fn exp_f64<S: Simd>(_: S, mut x: S::f64s) -> S::f64s {
    for lane in bytemuck::cast_slice_mut::<S::f64s, f64>(std::slice::from_mut(&mut x)) {
        *lane = lane.clamp(-708.0, 709.0).exp();
    }
    x
}

/// One cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

// SAFETY: plain bytes; the size is the alignment, so there is no padding.
unsafe impl Zeroable for Line {}
// SAFETY: as above.
unsafe impl Pod for Line {}

/// Numbers on cache lines; grows, never shrinks, so that a loop allocates in its first round only.
#[derive(Debug, Clone)]
pub struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    of: std::marker::PhantomData<T>,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Buffer { lines: Vec::new(), len: 0, of: std::marker::PhantomData }
    }
}

impl<T: Pod> Buffer<T> {
    /// Makes the buffer `len` numbers long. What it holds then is unspecified.
    pub fn resize(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(LINE);
        if self.lines.len() < lines {
            self.lines.clear();
            self.lines.resize(lines, Line::zeroed());
        }
        self.len = len;
    }

    /// A buffer of zeros.
    pub fn zeros(len: usize) -> Self {
        let mut out = Self::default();
        out.resize(len);
        out
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * LINE
    }
}

impl<T: Pod> std::ops::Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}
