//! Weights, padded and packed for the kernels.

use pulp::Simd;

use crate::cpu::dense::{Layer, Padding};
use crate::cpu::filters::{Filters, Radial};
use crate::cpu::lanes::{Buffer, Lanes};
use crate::cpu::splines::Fit;
use crate::model::painn::Painn;
use crate::ops::dense::Linear;

/// Weights of a whole network for one instruction set.
#[derive(Debug)]
pub struct Weights<T> {
    /// Padded number of features.
    pub n: usize,
    pub n_layers: usize,
    pub epsilon: f64,
    /// Initial scalars of each species, `[n_species, n]`.
    pub embedding: Buffer<T>,
    /// Interaction context of each species in the first layer, `[n_species, 3n]`: it depends on nothing else.
    pub first_context: Buffer<T>,
    contexts: Vec<[Layer<T>; 2]>,
    pub updates: Vec<Update<T>>,
    pub radial: Radial,
    filters: Vec<Filters<T>>,
    /// Layers from scalars to atomic output; the output is the first of a cache line.
    pub readout: Vec<Layer<T>>,
}

/// An update's weights.
#[derive(Debug)]
pub struct Update<T> {
    /// F → 2F, no bias.
    pub mix: Layer<T>,
    /// 2F → F.
    pub hidden: Layer<T>,
    /// F → 3F, ordered (scalars, products, vectors); 2F in the last layer, whose vectors nobody reads.
    pub gates: Layer<T>,
}

impl<T: Lanes> Weights<T> {
    /// Rows of the embedding.
    pub fn n_species(&self) -> usize {
        self.embedding.len() / self.n
    }

    pub fn new<S: Simd>(simd: S, painn: &Painn<T>, exact: bool) -> Self {
        let filters: Vec<&Linear<T>> = painn.filters.iter().map(|f| &**f).collect();
        let n = Padding::new::<T>(painn.n_features).padded;
        let filters = Radial::new(simd, &painn.radial_basis, painn.cutoff, &filters, n, exact);
        Self::with_filters(simd, painn, filters)
    }

    /// With filters over the splines of `fit`.
    pub fn with_fit<S: Simd>(simd: S, painn: &Painn<T>, fit: &Fit) -> Self {
        let filters: Vec<&Linear<T>> = painn.filters.iter().map(|f| &**f).collect();
        let n = Padding::new::<T>(painn.n_features).padded;
        Self::with_filters(simd, painn, Radial::of_splines(simd, fit, &filters, n))
    }

    fn with_filters<S: Simd>(simd: S, painn: &Painn<T>, (radial, filters): (Radial, Vec<Filters<T>>)) -> Self {
        let f = painn.n_features;
        let pad = Padding::new::<T>(f);
        let n = pad.padded;
        let layer = |linear: &Linear<T>| Layer::new(simd, linear, pad, pad);
        let contexts = painn.layers.iter().map(|l| l.message.each_ref().map(|m| layer(m))).collect();
        let updates = (0..painn.n_interactions)
            .map(|l| {
                let weights = painn.layer(l);
                let blocks: &[usize] = if l + 1 == painn.n_interactions { &[0, 2] } else { &[0, 2, 1] };
                Update {
                    mix: layer(&weights.mix),
                    hidden: layer(&weights.update[0]),
                    gates: layer(&select_blocks(&weights.update[1], f, blocks)),
                }
            })
            .collect();
        let readout = painn
            .readout
            .iter()
            .map(|linear| Layer::new(simd, linear, Padding::new::<T>(linear.n_in), Padding::new::<T>(linear.n_out)))
            .collect();
        Weights {
            n,
            n_layers: painn.n_interactions,
            epsilon: painn.epsilon,
            embedding: padded(&painn.embedding, pad),
            first_context: padded(&painn.first_context(), pad),
            contexts,
            updates,
            radial,
            filters,
            readout,
        }
    }
}

impl<T> Weights<T> {
    /// Interaction context of layer `l`, which is not needed for layer 0.
    pub fn context(&self, l: usize) -> &[Layer<T>; 2] {
        &self.contexts[l % self.contexts.len()]
    }

    /// Of all layers, or of one for all.
    pub fn contexts(&self) -> &[[Layer<T>; 2]] {
        &self.contexts
    }

    /// Of all layers, or of one for all.
    pub fn all_filters(&self) -> &[Filters<T>] {
        &self.filters
    }

    /// Filters of layer `l`.
    pub fn filters(&self, l: usize) -> &Filters<T> {
        &self.filters[l % self.filters.len()]
    }
}

fn padded<T: Lanes>(rows: &[T], pad: Padding) -> Buffer<T> {
    let mut out = Buffer::zeros(pad.padded_len(rows.len()));
    for (out, row) in out.chunks_exact_mut(pad.padded).zip(rows.chunks_exact(pad.used)) {
        out[..pad.used].copy_from_slice(row);
    }
    out
}

/// A layer with only the given blocks of `f` outputs, in that order.
fn select_blocks<T: Lanes>(linear: &Linear<T>, f: usize, blocks: &[usize]) -> Linear<T> {
    let rows = |x: &[T], width: usize| -> Vec<T> {
        blocks.iter().flat_map(|&b| x[b * f * width..(b + 1) * f * width].to_vec()).collect()
    };
    Linear {
        weight: rows(&linear.weight, linear.n_in),
        bias: linear.bias.as_ref().map(|bias| rows(bias, 1)),
        n_in: linear.n_in,
        n_out: blocks.len() * f,
    }
}
