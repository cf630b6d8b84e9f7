//! Filters W(d) of the message, one vector of features at a time, once for each pair of atoms.
//!
//! In f32 each filter is a piecewise polynomial of the distance, fitted to the network's own filter within rounding; the
//! coefficients of 3 filters times one vector of features stay in registers for all pairs of an interval. In f64, and where
//! no table of acceptable size fits, filters are products of the radial basis with its weights. The derivative is that
//! of what is evaluated, in both.

// See gemm.rs.
#![allow(clippy::needless_range_loop)]

use pulp::Simd;

use super::lanes::{Buffer, Lanes};
use crate::ops::dense::Linear;
use crate::ops::radial_basis::{RadialBasis, cosine_envelope};

/// Coefficients of a polynomial.
pub const COEFFICIENTS: usize = 8;

/// Intervals that are tried.
const INTERVALS: [usize; 9] = [12, 16, 20, 24, 32, 48, 64, 96, 128];

/// Largest errors allowed, relative to the largest filter of a layer (half the spacing of f32 at one) and to the largest
/// derivative (what sums of f32 leave of it).
const TOLERANCE: [f64; 2] = [3e-8, 2.5e-6];

/// How distances enter the filters; the same for all layers.
#[derive(Debug, Clone)]
pub enum Radial {
    /// Piecewise polynomials on a uniform grid.
    Table {
        /// Number of intervals.
        n_intervals: usize,
        /// Intervals per Å.
        per_angstrom: f64,
    },
    /// The radial basis itself.
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
    /// Table: `[n / lanes, n_intervals, 3, COEFFICIENTS, lanes]`, highest power first.
    /// Basis: `[n / lanes, n_rbf + 1, 3, lanes]`.
    data: Buffer<T>,
    /// Vectors of `data` for each vector of features.
    block: usize,
}

/// Distances of the pairs of a group of atoms, as the filters want them.
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a, T> {
    /// Table: position in the interval, from -1 to 1, `[n_pairs]`, sorted by interval.
    /// Basis: functions and derivatives, `[n_pairs, 2, n_rbf + 1]`.
    pub values: &'a [T],
    /// Table: pairs of interval k are `starts[k]..starts[k + 1]`. Basis: all pairs as one interval.
    pub starts: &'a [u32],
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
        let filters: Vec<Filter> = layers.iter().map(|linear| Filter::new(functions, cutoff, linear)).collect();
        let accurate = |errors: [f64; 2]| errors[0] <= TOLERANCE[0] && errors[1] <= TOLERANCE[1];
        let fits = |&&n_intervals: &&usize| filters.iter().all(|f| accurate(f.table_errors(n_intervals)));
        match INTERVALS.iter().find(fits).filter(|_| !exact) {
            Some(&n_intervals) => {
                let per_angstrom = n_intervals as f64 / cutoff;
                let layers = filters.iter().map(|f| f.table(simd, n_intervals, n)).collect();
                (Radial::Table { n_intervals, per_angstrom }, layers)
            }
            None => {
                let radial = Radial::Basis { functions: functions.clone(), cutoff };
                (radial, layers.iter().map(|linear| basis_weights(simd, linear, n)).collect())
            }
        }
    }

    /// Numbers that a pair takes in [`Pairs::values`].
    pub fn values_per_pair(&self) -> usize {
        match self {
            Radial::Table { .. } => 1,
            Radial::Basis { functions, .. } => 2 * (functions.len() + 1),
        }
    }

    /// Length of [`Pairs::starts`].
    pub fn n_starts(&self) -> usize {
        match self {
            Radial::Table { n_intervals, .. } => n_intervals + 1,
            Radial::Basis { .. } => 2,
        }
    }

    /// Takes the distances (Å, at most the cutoff) of the pairs of a group.
    ///
    /// OUT `values`, `starts` of [`Pairs`], overwritten; `ranks` `[n_pairs]`: where each pair's filters will stand.
    pub fn prepare<T: Lanes>(&self, distances: &[f64], values: &mut [T], starts: &mut [u32], ranks: &mut [u32]) {
        starts.fill(0);
        match self {
            Radial::Table { n_intervals, per_angstrom } => {
                let interval = |d: f64| ((d * per_angstrom) as usize).min(n_intervals - 1);
                for &d in distances {
                    starts[interval(d)] += 1;
                }
                // Ends of the intervals, which become their beginnings as they are filled from the back.
                let mut end = 0;
                for start in starts.iter_mut() {
                    end += *start;
                    *start = end;
                }
                for (&d, rank) in distances.iter().zip(ranks).rev() {
                    let k = interval(d);
                    starts[k] -= 1;
                    *rank = starts[k];
                    values[*rank as usize] = T::of(2.0 * (d * per_angstrom - k as f64) - 1.0);
                }
            }
            Radial::Basis { functions, cutoff } => {
                starts[1] = u32::try_from(distances.len()).unwrap_or(u32::MAX);
                let width = functions.len() + 1;
                for (((&d, out), rank), p) in
                    distances.iter().zip(values.chunks_exact_mut(2 * width)).zip(ranks).zip(0..)
                {
                    *rank = p;
                    let (envelope, slope) = cosine_envelope(d, *cutoff);
                    let (values, slopes) = out.split_at_mut(width);
                    for k in 0..width - 1 {
                        let (value, derivative) = functions.at(k, d);
                        values[k] = T::of(value * envelope);
                        slopes[k] = T::of(derivative * envelope + value * slope);
                    }
                    (values[width - 1], slopes[width - 1]) = (T::of(envelope), T::of(slope));
                }
            }
        }
    }
}

impl<T: Lanes> Pairs<'_, T> {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.starts.last().map_or(0, |&n| n as usize)
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Evaluates features `vector · lanes ..` of all pairs.
    ///
    /// OUT `out` [n_pairs, N or, with `SLOPES`, 2 N], pairs `stride` apart: the first N of W₀, W₁, W₂, then their
    ///     derivatives by distance.
    #[inline(always)]
    pub fn filters<S: Simd, const N: usize, const SLOPES: bool>(
        &self,
        simd: S,
        radial: &Radial,
        filters: &Filters<T>,
        vector: usize,
        out: &mut [T::V<S>],
        stride: usize,
    ) {
        let data = &T::vectors::<S>(&filters.data)[vector * filters.block..][..filters.block];
        match radial {
            Radial::Table { n_intervals, per_angstrom } => {
                // By the chain rule: t runs over 2 in an interval.
                let scale = T::splat(simd, T::of(2.0 * per_angstrom));
                let intervals = data.as_chunks::<{ 3 * COEFFICIENTS }>().0;
                for k in 0..*n_intervals {
                    let range = self.starts[k] as usize..self.starts[k + 1] as usize;
                    if !range.is_empty() {
                        let t = &self.values[range.clone()];
                        polynomials::<T, S, N, SLOPES>(
                            simd,
                            &intervals[k],
                            t,
                            scale,
                            &mut out[stride * range.start..],
                            stride,
                        );
                    }
                }
            }
            Radial::Basis { .. } => {
                let weights = data.as_chunks::<3>().0;
                let k = weights.len();
                // Values and slopes are two rows of the basis each, and two rows of filters.
                for row in 0..self.len() * 2 {
                    if !SLOPES && row % 2 == 1 {
                        continue;
                    }
                    let basis = &self.values[row * k..(row + 1) * k];
                    let mut sums = [T::splat(simd, T::zero()); N];
                    for i in 0..k {
                        let x = T::splat(simd, basis[i]);
                        for c in 0..N {
                            sums[c] = T::fma(simd, x, weights[i][c], sums[c]);
                        }
                    }
                    let first = stride * (row / 2) + N * (row % 2);
                    out[first..first + N].copy_from_slice(&sums);
                }
            }
        }
    }
}

/// Horner's scheme for the pairs of one interval, with all coefficients in registers.
#[inline(always)]
fn polynomials<T: Lanes, S: Simd, const N: usize, const SLOPES: bool>(
    simd: S,
    coefficients: &[T::V<S>; 3 * COEFFICIENTS],
    t: &[T],
    scale: T::V<S>,
    out: &mut [T::V<S>],
    stride: usize,
) {
    let c = *coefficients;
    for p in 0..t.len() {
        let t = T::splat(simd, t[p]);
        let out = &mut out[stride * p..][..if SLOPES { 2 * N } else { N }];
        for s in 0..N {
            let first = s * COEFFICIENTS;
            let mut value = c[first];
            if SLOPES {
                let mut slope = value;
                value = T::fma(simd, value, t, c[first + 1]);
                for k in 2..COEFFICIENTS {
                    slope = T::fma(simd, slope, t, value);
                    value = T::fma(simd, value, t, c[first + k]);
                }
                out[N + s] = T::vmul(simd, slope, scale);
            } else {
                for k in 1..COEFFICIENTS {
                    value = T::fma(simd, value, t, c[first + k]);
                }
            }
            out[s] = value;
        }
    }
}

/// Weights as `[n / lanes, n_rbf + 1, 3, lanes]`.
fn basis_weights<T: Lanes, S: Simd>(_: S, linear: &Linear<T>, n: usize) -> Filters<T> {
    let (lanes, f, k) = (T::lanes::<S>(), linear.n_out / 3, linear.n_in);
    let mut data = Buffer::zeros(3 * n * k);
    for (i, out) in data.iter_mut().enumerate() {
        let (lane, rest) = (i % lanes, i / lanes);
        let (s, rest) = (rest % 3, rest / 3);
        let (basis, vector) = (rest % k, rest / k);
        let feature = vector * lanes + lane;
        if feature < f {
            *out = linear.weight[(s * f + feature) * k + basis];
        }
    }
    Filters { data, block: 3 * k }
}

/// One layer's filters in f64, for fitting.
struct Filter<'a> {
    functions: &'a RadialBasis,
    cutoff: f64,
    /// `[3F, n_rbf + 1]`.
    weight: Vec<f64>,
    n_out: usize,
}

impl<'a> Filter<'a> {
    fn new<T: Lanes>(functions: &'a RadialBasis, cutoff: f64, linear: &Linear<T>) -> Self {
        let weight = linear.weight.iter().map(|w| w.wide()).collect();
        Filter { functions, cutoff, weight, n_out: linear.n_out }
    }

    /// All filters and their derivatives at distance `d`.
    fn at(&self, d: f64) -> Vec<[f64; 2]> {
        let (envelope, slope) = cosine_envelope(d, self.cutoff);
        let n_rbf = self.functions.len();
        let function = |k| {
            let (value, derivative) = self.functions.at(k, d);
            [value * envelope, derivative * envelope + value * slope]
        };
        let mut basis: Vec<[f64; 2]> = (0..n_rbf).map(function).collect();
        basis.push([envelope, slope]);
        let filter = |w: &[f64]| w.iter().zip(&basis).fold([0.0; 2], |s, (w, b)| [s[0] + w * b[0], s[1] + w * b[1]]);
        self.weight.chunks_exact(n_rbf + 1).map(filter).collect()
    }

    /// Polynomials in t of interval k, `[COEFFICIENTS][3F]`, lowest power first: interpolation at Chebyshev's points.
    fn fit(&self, n_intervals: usize, k: usize) -> Vec<Vec<f64>> {
        const N: usize = COEFFICIENTS;
        let angle = |i: usize| std::f64::consts::PI * (i as f64 + 0.5) / N as f64;
        let width = self.cutoff / n_intervals as f64;
        let values: Vec<Vec<[f64; 2]>> =
            (0..N).map(|i| self.at((k as f64 + 0.5 + 0.5 * angle(i).cos()) * width)).collect();
        // Coefficients of T_m by the discrete cosine transform, then powers of t by the recurrence of T_m.
        let mut out = vec![vec![0.0; self.n_out]; N];
        let (mut previous, mut current) = (vec![0.0; N], vec![0.0; N]);
        current[0] = 1.0;
        for m in 0..N {
            let weight = if m == 0 { 1.0 } else { 2.0 } / N as f64;
            for f in 0..self.n_out {
                let c: f64 = (0..N).map(|i| weight * values[i][f][0] * (m as f64 * angle(i)).cos()).sum();
                for p in 0..=m {
                    out[p][f] += c * current[p];
                }
            }
            let factor = if m == 0 { 1.0 } else { 2.0 };
            let next = (0..N).map(|p| factor * if p > 0 { current[p - 1] } else { 0.0 } - previous[p]).collect();
            previous = std::mem::replace(&mut current, next);
        }
        out
    }

    /// Largest errors of a table's filters and of their derivatives, each relative to the largest one.
    fn table_errors(&self, n_intervals: usize) -> [f64; 2] {
        let (mut errors, mut largest) = ([0.0_f64; 2], [0.0_f64; 2]);
        let width = self.cutoff / n_intervals as f64;
        for k in 0..n_intervals {
            let polynomial = self.fit(n_intervals, k);
            for i in 0..16 {
                // Not at zero itself, where Bessel functions are quotients of zeros.
                let t = (f64::from(i) - 7.5) / 7.6;
                let d = (k as f64 + 0.5 + 0.5 * t) * width;
                for (f, want) in self.at(d).iter().enumerate() {
                    let horner = |[value, slope]: [f64; 2], c: &Vec<f64>| [value * t + c[f], slope * t + value];
                    let [value, slope] = polynomial.iter().rev().fold([0.0; 2], horner);
                    for (x, got) in [value, slope * 2.0 / width].into_iter().enumerate() {
                        errors[x] = errors[x].max((got - want[x]).abs());
                        largest[x] = largest[x].max(want[x].abs());
                    }
                }
            }
        }
        std::array::from_fn(|x| if largest[x] > 0.0 { errors[x] / largest[x] } else { 0.0 })
    }

    fn table<T: Lanes, S: Simd>(&self, _: S, n_intervals: usize, n: usize) -> Filters<T> {
        let (lanes, features) = (T::lanes::<S>(), self.n_out / 3);
        let block = 3 * COEFFICIENTS * n_intervals;
        let mut data = Buffer::zeros(n / lanes * block * lanes);
        for k in 0..n_intervals {
            let polynomial = self.fit(n_intervals, k);
            for f in 0..features {
                for s in 0..3 {
                    for (p, c) in polynomial.iter().enumerate() {
                        let vector = f / lanes * block + (3 * k + s) * COEFFICIENTS + COEFFICIENTS - 1 - p;
                        data[vector * lanes + f % lanes] = T::of(c[s * features + f]);
                    }
                }
            }
        }
        Filters { data, block }
    }
}
