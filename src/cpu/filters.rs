//! Filters W(d) of the message: sums of functions of the distance, with a row of weights each.
//!
//! In f32 the functions are B-splines on a uniform grid, with weights fitted to the network's own filters within rounding:
//! six of them differ from zero at a distance, their weights stand together, and those of one vector of features fit the
//! first cache beside the atoms' state. In f64, and where no grid of acceptable size fits, the functions are the radial basis
//! itself. The derivative is that of what is evaluated, in both.

// See gemm.rs.
#![allow(clippy::needless_range_loop)]

use pulp::Simd;

use super::lanes::{Buffer, Lanes};
use super::splines::{DEGREE, Fit, splines};
use crate::ops::dense::Linear;
use crate::ops::radial_basis::{RadialBasis, cosine_envelope};

/// B-splines that differ from zero at a distance.
pub const WINDOW: usize = DEGREE + 1;

/// Intervals that are tried.
const INTERVALS: [usize; 6] = [48, 64, 96, 128, 192, 256];

/// Largest errors allowed, relative to the largest filter of a layer (half the spacing of f32 at one) and to the largest
/// derivative (what sums of f32 leave of it).
const TOLERANCE: [f64; 2] = [3e-8, 2.5e-6];

/// The functions that filters are sums of; the same for all layers.
#[derive(Debug, Clone)]
pub enum Radial {
    /// B-splines on a uniform grid.
    Splines {
        /// Number of intervals.
        n_intervals: usize,
        /// Intervals per Å.
        per_angstrom: f64,
    },
    /// The radial basis itself, times the envelope, and the envelope.
    Basis {
        /// Its functions.
        functions: RadialBasis,
        /// Cutoff, Å.
        cutoff: f64,
    },
}

/// The filters of one layer.
#[derive(Debug, Clone)]
pub struct Filters<T> {
    /// Weights, `[n / lanes, n_functions, 3, lanes]`.
    data: Buffer<T>,
    n_functions: usize,
}

impl Radial {
    /// Chooses how the filters over `functions` are evaluated, and prepares them for every layer.
    ///
    /// IN `layers`: weights `[3F, n_rbf + 1]`, the bias last; `n` the padded number of features.
    pub fn new<T: Lanes, S: Simd>(
        simd: S,
        functions: &RadialBasis,
        cutoff: f64,
        layers: &[&Linear<T>],
        n: usize,
        exact: bool,
    ) -> (Radial, Vec<Filters<T>>) {
        let wide: Vec<Vec<f64>> = layers.iter().map(|l| l.weight.iter().map(|w| w.wide()).collect()).collect();
        let accurate = |fit: &Fit, weight: &[f64]| {
            let errors = fit.errors(weight);
            errors[0] <= TOLERANCE[0] && errors[1] <= TOLERANCE[1]
        };
        let tried = INTERVALS.iter().filter(|_| !exact).map(|&n| Fit::new(functions, cutoff, n));
        match tried.into_iter().find(|fit| wide.iter().all(|weight| accurate(fit, weight))) {
            Some(fit) => {
                let n_intervals = fit.n_intervals();
                let radial = Radial::Splines { n_intervals, per_angstrom: n_intervals as f64 / cutoff };
                let pack = |weight: &Vec<f64>| Filters::new::<S>(simd, &fit.weights(weight), n_intervals + DEGREE, n);
                (radial, wide.iter().map(pack).collect())
            }
            None => {
                let radial = Radial::Basis { functions: functions.clone(), cutoff };
                let pack = |weight| Filters::new::<S>(simd, weight, functions.len() + 1, n);
                (radial, wide.iter().map(|weight| pack(&weight[..])).collect())
            }
        }
    }

    /// Filters over splines on `n_intervals`, whatever their error: for training, whose weights change from step to step.
    pub fn of_splines<T: Lanes, S: Simd>(
        simd: S,
        fit: &Fit,
        layers: &[&Linear<T>],
        n: usize,
    ) -> (Radial, Vec<Filters<T>>) {
        let n_intervals = fit.n_intervals();
        let pack = |layer: &&Linear<T>| {
            let weight: Vec<f64> = layer.weight.iter().map(|w| w.wide()).collect();
            Filters::new::<S>(simd, &fit.weights(&weight), n_intervals + DEGREE, n)
        };
        let radial = Radial::Splines { n_intervals, per_angstrom: n_intervals as f64 / fit.cutoff() };
        (radial, layers.iter().map(pack).collect())
    }

    /// Functions that may differ from zero at a distance.
    pub fn window(&self) -> usize {
        match self {
            Radial::Splines { .. } => WINDOW,
            Radial::Basis { functions, .. } => functions.len() + 1,
        }
    }

    /// Evaluates the functions at a distance, Å, at most the cutoff.
    ///
    /// OUT `values` `[2, window]`: functions and derivatives, the latter over [`Radial::slope`]; returns which one is
    ///     the first of them.
    #[inline(always)]
    pub fn at<T: Lanes>(&self, d: f64, values: &mut [T]) -> u32 {
        match self {
            Radial::Splines { n_intervals, per_angstrom } => {
                let x = d * per_angstrom;
                let k = (x as usize).min(n_intervals - 1);
                let (splines, slopes) = splines(x - k as f64);
                let values = &mut values[..2 * WINDOW];
                for i in 0..WINDOW {
                    (values[i], values[WINDOW + i]) = (T::of(splines[i]), T::of(slopes[i]));
                }
                k as u32
            }
            Radial::Basis { functions, cutoff } => {
                let (envelope, slope) = cosine_envelope(d, *cutoff);
                let (values, slopes) = values.split_at_mut(functions.len() + 1);
                for k in 0..functions.len() {
                    let (value, derivative) = functions.at(k, d);
                    values[k] = T::of(value * envelope);
                    slopes[k] = T::of(derivative * envelope + value * slope);
                }
                (values[functions.len()], slopes[functions.len()]) = (T::of(envelope), T::of(slope));
                0
            }
        }
    }

    /// Derivative by distance of the number by which functions are differentiated, 1/Å.
    pub fn slope(&self) -> f64 {
        match self {
            Radial::Splines { per_angstrom, .. } => *per_angstrom,
            Radial::Basis { .. } => 1.0,
        }
    }
}

impl<T: Lanes> Filters<T> {
    /// IN `weight` `[3F, n_functions]`.
    fn new<S: Simd>(_: S, weight: &[f64], n_functions: usize, n: usize) -> Self {
        let (lanes, n_out) = (T::lanes::<S>(), weight.len() / n_functions);
        let mut data = Buffer::zeros(3 * n * n_functions);
        for (i, row) in weight.chunks_exact(n_functions).enumerate() {
            let (filter, feature) = (i / (n_out / 3), i % (n_out / 3));
            for (k, &w) in row.iter().enumerate() {
                let vector = (feature / lanes * n_functions + k) * 3 + filter;
                data[vector * lanes + feature % lanes] = T::of(w);
            }
        }
        Filters { data, n_functions }
    }

    /// As many zeros, to add gradients to.
    pub fn zeros_like(&self) -> Self {
        Filters { data: Buffer::zeros(self.data.len()), n_functions: self.n_functions }
    }

    /// Fills with zeros.
    pub fn clear(&mut self) {
        self.data.fill(T::zero());
    }

    /// Adds another one, of the same shape.
    pub fn add(&mut self, other: &Self) {
        self.data.iter_mut().zip(&*other.data).for_each(|(a, &b)| *a += b);
    }

    /// The weights `[3F, n_functions]` that were packed for vectors of `S`.
    pub fn unpack<S: Simd>(&self, _: S, n_features: usize) -> Vec<f64> {
        let (lanes, n_functions) = (T::lanes::<S>(), self.n_functions);
        let mut out = Vec::with_capacity(3 * n_features * n_functions);
        for i in 0..3 * n_features {
            let (filter, feature) = (i / n_features, i % n_features);
            for k in 0..n_functions {
                let vector = (feature / lanes * n_functions + k) * 3 + filter;
                out.push(self.data[vector * lanes + feature % lanes].wide());
            }
        }
        out
    }

    /// As [`Filters::vector`], to be written.
    #[inline(always)]
    pub fn vector_mut<S: Simd>(&mut self, _: S, vector: usize) -> &mut [[T::V<S>; 3]] {
        &mut T::vectors_mut::<S>(&mut self.data).as_chunks_mut().0[vector * self.n_functions..][..self.n_functions]
    }

    /// Weights of one vector of features, `[n_functions, 3]`.
    #[inline(always)]
    pub fn vector<S: Simd>(&self, _: S, vector: usize) -> &[[T::V<S>; 3]] {
        &T::vectors::<S>(&self.data).as_chunks().0[vector * self.n_functions..][..self.n_functions]
    }
}

/// One vector of features of the first N of W₀, W₁, W₂ at a distance, and with `SLOPES` of their derivatives.
///
/// IN `weights`: from the first function that [`Radial::at`] gave on; `values`: what it wrote. `K` is the window, or 0 where
///    it is not known before.
#[inline(always)]
pub fn filters<T: Lanes, S: Simd, const N: usize, const SLOPES: bool, const K: usize>(
    simd: S,
    weights: &[[T::V<S>; 3]],
    values: &[T],
) -> [[T::V<S>; 3]; 2] {
    let k = if K > 0 { K } else { values.len() / 2 };
    let (weights, values) = (&weights[..k], &values[..2 * k]);
    let zero = T::splat(simd, T::zero());
    let (mut w, mut slopes) = ([zero; 3], [zero; 3]);
    for i in 0..k {
        let x = T::splat(simd, values[i]);
        let y = T::splat(simd, if SLOPES { values[k + i] } else { T::zero() });
        for s in 0..N {
            let weight = weights[i][s];
            w[s] = if i == 0 { T::vmul(simd, x, weight) } else { T::fma(simd, x, weight, w[s]) };
            if SLOPES {
                slopes[s] = if i == 0 { T::vmul(simd, y, weight) } else { T::fma(simd, y, weight, slopes[s]) };
            }
        }
    }
    [w, slopes]
}

/// Adds to the cotangents of the weights from the first function on, for cotangents `of` of W₀, W₁, W₂ at a distance.
#[inline(always)]
pub fn filters_vjp<T: Lanes, S: Simd, const K: usize>(
    simd: S,
    grad_weights: &mut [[T::V<S>; 3]],
    values: &[T],
    of: [T::V<S>; 3],
) {
    let k = if K > 0 { K } else { values.len() / 2 };
    let (grad_weights, values) = (&mut grad_weights[..k], &values[..k]);
    for i in 0..k {
        let x = T::splat(simd, values[i]);
        for s in 0..3 {
            grad_weights[i][s] = T::fma(simd, x, of[s], grad_weights[i][s]);
        }
    }
}
