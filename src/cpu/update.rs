//! [`update`](crate::ops::update): the elementwise steps between the products of an update, forward and backward.
//!
//! Arrays of `rows` atoms: `mixed` `[rows, 3, 2n]` (V, W), `context` `[rows, 2n]` (scalars, norms), `products` `[rows, n]`,
//! `gates` `[rows, 3n]` (scalars, products, vectors), or `[rows, 2n]` in the last layer, whose vectors nobody reads.

use pulp::Simd;

use super::lanes::Lanes;

/// Writes norms `sqrt(Σ V² + epsilon)` into the second half of `context`, and `products` `Σ V W`.
#[inline(always)]
pub fn invariants<T: Lanes, S: Simd>(
    simd: S,
    n: usize,
    epsilon: f64,
    mixed: &[T],
    context: &mut [T],
    products: &mut [T],
) {
    let nv = n / T::lanes::<S>();
    let epsilon = T::splat(simd, T::of(epsilon));
    let (mixed, context) = (T::vectors::<S>(mixed), T::vectors_mut::<S>(context));
    let products = T::vectors_mut::<S>(products);
    for r in 0..products.len() / nv {
        let m = &mixed[r * 6 * nv..][..6 * nv];
        let (norms, products) = (&mut context[(2 * r + 1) * nv..][..nv], &mut products[r * nv..][..nv]);
        for f in 0..nv {
            let v = [m[f], m[2 * nv + f], m[4 * nv + f]];
            let w = [m[nv + f], m[3 * nv + f], m[5 * nv + f]];
            let square = T::fma(simd, v[0], v[0], T::fma(simd, v[1], v[1], T::fma(simd, v[2], v[2], epsilon)));
            norms[f] = T::vsqrt(simd, square);
            products[f] = T::fma(simd, v[0], w[0], T::fma(simd, v[1], w[1], T::vmul(simd, v[2], w[2])));
        }
    }
}

/// What [`gate`] and [`gate_vjp`] read.
#[derive(Debug, Clone, Copy)]
pub struct Gates<'a, T> {
    /// `[rows, 3n]` or, in the last layer, `[rows, 2n]`.
    pub gates: &'a [T],
    /// `[rows, 3, 2n]`.
    pub mixed: &'a [T],
    /// `[rows, n]`.
    pub products: &'a [T],
    /// Whether vectors are left alone.
    pub last: bool,
}

/// Writes `scalars = context₀ + a₀ + a₁ ⟨V, W⟩` `[rows, n]` and adds `a₂ W` to `vectors` `[rows, 3n]`.
#[inline(always)]
pub fn gate<T: Lanes, S: Simd>(
    simd: S,
    n: usize,
    inputs: Gates<T>,
    context: &[T],
    scalars: &mut [T],
    vectors: &mut [T],
) {
    let nv = n / T::lanes::<S>();
    let width = if inputs.last { 2 } else { 3 };
    let (gates, mixed) = (T::vectors::<S>(inputs.gates), T::vectors::<S>(inputs.mixed));
    let (products, context) = (T::vectors::<S>(inputs.products), T::vectors::<S>(context));
    let (scalars, vectors) = (T::vectors_mut::<S>(scalars), T::vectors_mut::<S>(vectors));
    for r in 0..scalars.len() / nv {
        let (a, p) = (&gates[r * width * nv..][..width * nv], &products[r * nv..][..nv]);
        let (c, q) = (&context[2 * r * nv..][..nv], &mut scalars[r * nv..][..nv]);
        for f in 0..nv {
            q[f] = T::vadd(simd, c[f], T::fma(simd, a[nv + f], p[f], a[f]));
        }
        if inputs.last {
            continue;
        }
        let (m, mu) = (&mixed[r * 6 * nv..][..6 * nv], &mut vectors[r * 3 * nv..][..3 * nv]);
        for k in 0..3 {
            for f in 0..nv {
                mu[k * nv + f] = T::fma(simd, a[2 * nv + f], m[(2 * k + 1) * nv + f], mu[k * nv + f]);
            }
        }
    }
}

/// Writes the cotangent of the gates.
///
/// IN  `grad_scalars` `[rows, n]`, `grad_vectors` `[rows, 3n]` (not read in the last layer).   OUT `grad_gates` like gates.
#[inline(always)]
pub fn gate_vjp<T: Lanes, S: Simd>(
    simd: S,
    n: usize,
    inputs: Gates<T>,
    grad_scalars: &[T],
    grad_vectors: &[T],
    grad_gates: &mut [T],
) {
    let nv = n / T::lanes::<S>();
    let width = if inputs.last { 2 } else { 3 };
    let products = T::vectors::<S>(inputs.products);
    let (grad_q, grad_mu) = (T::vectors::<S>(grad_scalars), T::vectors::<S>(grad_vectors));
    let mixed = T::vectors::<S>(inputs.mixed);
    let grad_gates = T::vectors_mut::<S>(grad_gates);
    for r in 0..grad_gates.len() / (width * nv) {
        let out = &mut grad_gates[r * width * nv..][..width * nv];
        let (gq, p) = (&grad_q[r * nv..][..nv], &products[r * nv..][..nv]);
        for f in 0..nv {
            out[f] = gq[f];
            out[nv + f] = T::vmul(simd, gq[f], p[f]);
        }
        if inputs.last {
            continue;
        }
        let (m, g) = (&mixed[r * 6 * nv..][..6 * nv], &grad_mu[r * 3 * nv..][..3 * nv]);
        for f in 0..nv {
            let sum = T::vmul(simd, g[2 * nv + f], m[5 * nv + f]);
            let sum = T::fma(simd, g[nv + f], m[3 * nv + f], sum);
            out[2 * nv + f] = T::fma(simd, g[f], m[nv + f], sum);
        }
    }
}

/// What [`mixed_vjp`] reads beyond [`Gates`].
#[derive(Debug, Clone, Copy)]
pub struct MixedVjp<'a, T> {
    /// Scalars and norms, `[rows, 2n]`.
    pub context: &'a [T],
    /// Their cotangent, `[rows, 2n]`.
    pub grad_context: &'a [T],
    /// Cotangent of the update's scalars, `[rows, n]`.
    pub grad_scalars: &'a [T],
    /// Cotangent of the update's vectors, `[rows, 3n]`; not read in the last layer.
    pub grad_vectors: &'a [T],
}

/// Writes the cotangents of the mixed vectors and of the scalars before the update.
///
/// OUT `grad_mixed` `[rows, 3, 2n]`, `grad_before` `[rows, n]`.
#[inline(always)]
pub fn mixed_vjp<T: Lanes, S: Simd>(
    simd: S,
    n: usize,
    gates: Gates<T>,
    inputs: MixedVjp<T>,
    grad_mixed: &mut [T],
    grad_before: &mut [T],
) {
    let nv = n / T::lanes::<S>();
    let width = if gates.last { 2 } else { 3 };
    // Where a norm is zero (only possible with epsilon = 0) V is zero too: the quotient must only stay finite.
    let tiny = T::splat(simd, T::of(1e-30));
    let (a, mixed) = (T::vectors::<S>(gates.gates), T::vectors::<S>(gates.mixed));
    let (context, grad_context) = (T::vectors::<S>(inputs.context), T::vectors::<S>(inputs.grad_context));
    let (grad_q, grad_mu) = (T::vectors::<S>(inputs.grad_scalars), T::vectors::<S>(inputs.grad_vectors));
    let (grad_before, grad_mixed) = (T::vectors_mut::<S>(grad_before), T::vectors_mut::<S>(grad_mixed));
    for r in 0..grad_before.len() / nv {
        let (out, before) = (&mut grad_mixed[r * 6 * nv..][..6 * nv], &mut grad_before[r * nv..][..nv]);
        let (m, a) = (&mixed[r * 6 * nv..][..6 * nv], &a[r * width * nv..][..width * nv]);
        let (norms, grad_norms) = (&context[(2 * r + 1) * nv..][..nv], &grad_context[(2 * r + 1) * nv..][..nv]);
        let gq = &grad_q[r * nv..][..nv];
        for f in 0..nv {
            before[f] = T::vadd(simd, gq[f], grad_context[2 * r * nv + f]);
            let scale = T::vdiv(simd, grad_norms[f], T::vmax(simd, norms[f], tiny));
            let grad_product = T::vmul(simd, gq[f], a[nv + f]);
            for k in 0..3 {
                let (v, w) = (m[2 * k * nv + f], m[(2 * k + 1) * nv + f]);
                out[2 * k * nv + f] = T::fma(simd, scale, v, T::vmul(simd, grad_product, w));
                out[(2 * k + 1) * nv + f] = T::vmul(simd, grad_product, v);
            }
            if !gates.last {
                for k in 0..3 {
                    let g = grad_mu[(3 * r + k) * nv + f];
                    let at = (2 * k + 1) * nv + f;
                    out[at] = T::fma(simd, a[2 * nv + f], g, out[at]);
                }
            }
        }
    }
}
