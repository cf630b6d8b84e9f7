//! A PaiNN's weights in the order in which the kernels read them, as one array.

use super::Scalar;
use super::shape::{Shape, padded};
use crate::model::painn::Painn;
use crate::ops::dense::Linear;
use crate::ops::radial_basis::RadialBasis;

/// Where something stands in [`Weights::values`], elements.
pub(super) type Place = usize;

/// All weights.
#[derive(Debug)]
pub(super) struct Weights<T> {
    pub values: Vec<T>,
    /// `[n_species, n]`.
    pub embedding: Place,
    /// Interaction context of each species in the first layer, `[n_species, 3n]`.
    pub first_context: Place,
    /// `[2, n_radial]`: centres and inverse widths, or frequencies.
    pub radial: Place,
    pub layers: Vec<Layer>,
    pub readout: Readout,
}

/// A layer's weights: of its message's filter, of its update, and of the context of the next layer's message.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layer {
    /// `[n_radial + 1, 3, n]`.
    pub filter: Place,
    pub mix: Place,
    /// V's part, then W's.
    pub mix_transposed: Place,
    pub hidden: Product,
    pub gates: Product,
    /// Of the next layer.
    pub context: [Product; 2],
}

/// Packed weights of a dense layer, for its forward and its VJP, and its bias.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Product {
    pub weight: Place,
    pub transposed: Place,
    pub bias: Place,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Readout {
    pub weights: Place,
    pub biases: Place,
    pub transposed: Place,
    pub last_row: Place,
}

impl<T: Scalar> Weights<T> {
    pub fn new(painn: &Painn<T>, shape: &Shape) -> Self {
        let mut packer = Packer { values: Vec::new(), f: painn.n_features, n: shape.n };
        let embedding = packer.rows(&painn.embedding, 1);
        let first_context = packer.rows(&painn.first_context(), 3);
        let radial = packer.radial(&painn.radial_basis);
        let layers = (0..painn.n_interactions).map(|l| packer.layer(painn, l)).collect();
        let readout = packer.readout(painn, &shape.widths);
        Weights { values: packer.values, embedding, first_context, radial, layers, readout }
    }
}

struct Packer<T> {
    values: Vec<T>,
    /// Features.
    f: usize,
    /// Features, padded.
    n: usize,
}

/// A dense layer whose outputs and inputs are blocks of `f`, each padded to `n`.
struct Blocks<'a, T> {
    linear: &'a Linear<T>,
    /// Blocks of outputs that are used, in this order.
    outputs: &'a [usize],
    f: usize,
    n: usize,
}

impl<T: Scalar> Blocks<'_, T> {
    /// Weight from an input to an output, by padded numbers.
    fn at(&self, output: usize, input: usize) -> T {
        let (o, i) = (output % self.n, input % self.n);
        if o >= self.f || i >= self.f {
            return T::zero();
        }
        let row = self.outputs[output / self.n] * self.f + o;
        self.linear.weight[row * self.linear.n_in + input / self.n * self.f + i]
    }

    fn bias_at(&self, output: usize) -> T {
        let (block, o) = (self.outputs[output / self.n], output % self.n);
        self.linear.bias.as_ref().filter(|_| o < self.f).map_or(T::zero(), |bias| bias[block * self.f + o])
    }

    fn n_outputs(&self) -> usize {
        self.outputs.len() * self.n
    }

    fn n_inputs(&self) -> usize {
        self.linear.n_in / self.f * self.n
    }
}

impl<T: Scalar> Packer<T> {
    /// The place of what is appended next; reads of 16 bytes may begin there.
    fn place(&mut self) -> Place {
        self.values.resize(self.values.len().next_multiple_of(8), T::zero());
        self.values.len()
    }

    /// Rows of blocks of features, each padded.
    fn rows(&mut self, rows: &[T], n_blocks: usize) -> Place {
        let place = self.place();
        for block in rows.chunks_exact(self.f).collect::<Vec<_>>().chunks_exact(n_blocks).flatten() {
            self.values.extend_from_slice(block);
            self.values.resize(self.values.len() + self.n - self.f, T::zero());
        }
        place
    }

    fn radial(&mut self, basis: &RadialBasis) -> Place {
        let place = self.place();
        let (first, second): (&[f64], Vec<f64>) = match basis {
            RadialBasis::Gaussian { centers, widths } => (centers, widths.iter().map(|w| 1.0 / w).collect()),
            RadialBasis::Bessel { frequencies } => (frequencies, vec![0.0; frequencies.len()]),
        };
        self.values.extend(first.iter().chain(&second).map(|&x| T::of(x)));
        place
    }

    /// Packs a matrix of `n_terms` rows for `product` (`kernels/adjoint/tile.cuh`).
    fn pack(&mut self, n_columns: usize, n_terms: usize, at: impl Fn(usize, usize) -> T) -> Place {
        let place = self.place();
        for group in (0..n_columns).step_by(8) {
            for step in (0..n_terms).step_by(16) {
                for lane in 0..32 {
                    self.values.extend((0..4).map(|k| at(step + lane % 4 * 4 + k, group + lane / 4)));
                }
            }
        }
        place
    }

    fn product(&mut self, linear: &Linear<T>, outputs: &[usize]) -> Product {
        let blocks = Blocks { linear, outputs, f: self.f, n: self.n };
        let weight = self.pack(blocks.n_outputs(), blocks.n_inputs(), |term, column| blocks.at(column, term));
        let transposed = self.pack(blocks.n_inputs(), blocks.n_outputs(), |term, column| blocks.at(term, column));
        let bias = self.place();
        self.values.extend((0..blocks.n_outputs()).map(|o| blocks.bias_at(o)));
        Product { weight, transposed, bias }
    }

    /// A filter's weights by radial function, part and feature, `[n_radial + 1, 3, n]`.
    fn filter(&mut self, filter: &Linear<T>) -> Place {
        let place = self.place();
        let (f, n) = (self.f, self.n);
        for k in 0..filter.n_in {
            let weight = |o: usize| match o % n < f {
                true => filter.weight[(o / n * f + o % n) * filter.n_in + k],
                false => T::zero(),
            };
            self.values.extend((0..3 * n).map(weight));
        }
        place
    }

    fn layer(&mut self, painn: &Painn<T>, l: usize) -> Layer {
        let (weights, n) = (painn.layer(l), self.n);
        let is_last = l + 1 == painn.n_interactions;
        let filter = self.filter(painn.filter(l));
        let mix = Blocks { linear: &weights.mix, outputs: &[0, 1], f: self.f, n };
        let mix_forward = self.pack(2 * n, n, |term, column| mix.at(column, term));
        let mix_transposed = self.pack(n, n, |term, column| mix.at(term, column));
        self.pack(n, n, |term, column| mix.at(n + term, column));
        Layer {
            filter,
            mix: mix_forward,
            mix_transposed,
            hidden: self.product(&weights.update[0], &[0]),
            gates: self.product(&weights.update[1], if is_last { &[0, 2] } else { &[0, 1, 2] }),
            context: match is_last {
                true => Default::default(),
                false => {
                    let [first, second] = &painn.layer(l + 1).message;
                    [self.product(first, &[0]), self.product(second, &[0, 1, 2])]
                }
            },
        }
    }

    fn readout(&mut self, painn: &Painn<T>, widths: &[usize]) -> Readout {
        let at = |linear: &Linear<T>, output: usize, input: usize| match output < linear.n_out && input < linear.n_in {
            true => linear.weight[output * linear.n_in + input],
            false => T::zero(),
        };
        // One behind the other: no layer's size leaves a gap, as all are multiples of eight.
        let layers = || painn.readout.iter().zip(widths.windows(2));
        let weights = self.place();
        for (linear, width) in layers() {
            self.pack(width[1], width[0], |term, column| at(linear, column, term));
        }
        let transposed = self.place();
        for (linear, width) in layers().take(painn.readout.len() - 1) {
            self.pack(width[0], width[1], |term, column| at(linear, term, column));
        }
        let biases = self.place();
        for (linear, width) in layers() {
            let bias = |o: usize| linear.bias.as_ref().and_then(|b| b.get(o).copied()).unwrap_or(T::zero());
            self.values.extend((0..width[1]).map(bias));
        }
        let last_row = self.place();
        if let Some((linear, width)) = layers().next_back() {
            self.values.extend((0..width[0]).map(|i| at(linear, 0, i)));
        }
        debug_assert_eq!(widths[0], padded(self.f));
        Readout { weights, biases, transposed, last_row }
    }
}
