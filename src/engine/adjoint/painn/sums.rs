//! Sums of gradients with respect to a PaiNN's weights, padded as the weights are, and by the names of the model's tensors.

use pulp::Simd;

use super::weights::Weights;
use crate::cpu::dense::{Layer, Padding};
use crate::cpu::filters::Filters;
use crate::cpu::lanes::{Buffer, Lanes};
use crate::cpu::splines::Fit;
use crate::model::painn::Painn;
use crate::model::weights::{Array, Weights as Tensors};
use crate::ops::dense::linear_weights_vjp;

/// Of a whole network.
#[derive(Debug, Clone)]
pub struct WeightSums<T> {
    /// `[n_species, n]`.
    pub embedding: Buffer<T>,
    contexts: Vec<[LayerSums<T>; 2]>,
    pub updates: Vec<UpdateSums<T>>,
    filters: Vec<Filters<T>>,
    pub readout: Vec<LayerSums<T>>,
    /// Of the last bias, in f64: a constant of the energy, in which seeds of opposite sign cancel.
    pub last_bias: f64,
}

/// Of an update, as its weights.
#[derive(Debug, Clone)]
pub struct UpdateSums<T> {
    pub mix: LayerSums<T>,
    pub hidden: LayerSums<T>,
    pub gates: LayerSums<T>,
}

/// Of a linear layer.
#[derive(Debug, Clone)]
pub struct LayerSums<T> {
    n_in: usize,
    /// `[n_out, n_in]`.
    weight: Buffer<T>,
    /// `[n_out]`.
    bias: Buffer<T>,
}

impl<T: Lanes> LayerSums<T> {
    fn new(layer: &Layer<T>) -> Self {
        let (n_in, n_out) = (layer.n_in(), layer.n_out());
        LayerSums { n_in, weight: Buffer::zeros(n_in * n_out), bias: Buffer::zeros(n_out) }
    }

    /// Adds what the rows of an input `[rows, n_in]` and of a cotangent `[rows, n_out]` give.
    pub fn add(&mut self, x: &[T], grad_y: &[T]) {
        let (n_in, n_out) = (self.n_in, self.bias.len());
        linear_weights_vjp([n_in, n_out], x, grad_y, &mut self.weight, &mut self.bias);
    }

    fn buffers(&mut self) -> [&mut Buffer<T>; 2] {
        [&mut self.weight, &mut self.bias]
    }

    /// Adds to the tensors `NAME.weight` and `NAME.bias`, where there are such. `order`: of each block of outputs, its number
    /// in the model.
    fn put(&self, name: &str, [input, output]: [Padding; 2], order: &[usize], out: &mut Tensors) {
        let f = output.used;
        let rows = || {
            order
                .iter()
                .enumerate()
                .flat_map(|(block, &place)| (0..f).map(move |k| (block * output.padded + k, place * f + k)))
        };
        if let Some(weight) = out.0.get_mut(&format!("{name}.weight")) {
            let width = self.n_in / input.padded * input.used;
            for (from, to) in rows() {
                let blocks = self.weight[from * self.n_in..][..self.n_in].chunks_exact(input.padded);
                let row = blocks.flat_map(|block| &block[..input.used]);
                weight.data[to * width..][..width].iter_mut().zip(row).for_each(|(sum, g)| *sum += g.wide());
            }
        }
        if let Some(bias) = out.0.get_mut(&format!("{name}.bias")) {
            rows().for_each(|(from, to)| bias.data[to] += self.bias[from].wide());
        }
    }
}

impl<T: Lanes> WeightSums<T> {
    /// Zeros for a network's weights.
    pub fn new(weights: &Weights<T>) -> Self {
        let sums = |layer: &Layer<T>| LayerSums::new(layer);
        WeightSums {
            embedding: Buffer::zeros(weights.embedding.len()),
            contexts: weights.contexts().iter().map(|layers| layers.each_ref().map(sums)).collect(),
            updates: weights
                .updates
                .iter()
                .map(|u| UpdateSums { mix: sums(&u.mix), hidden: sums(&u.hidden), gates: sums(&u.gates) })
                .collect(),
            filters: weights.all_filters().iter().map(Filters::zeros_like).collect(),
            readout: weights.readout.iter().map(sums).collect(),
            last_bias: 0.0,
        }
    }

    /// Of the interaction context of layer `l`.
    pub fn context(&mut self, l: usize) -> &mut [LayerSums<T>; 2] {
        let n = self.contexts.len();
        &mut self.contexts[l % n]
    }

    /// Of the filters of layer `l`.
    pub fn filters(&mut self, l: usize) -> &mut Filters<T> {
        let n = self.filters.len();
        &mut self.filters[l % n]
    }

    fn buffers(&mut self) -> Vec<&mut Buffer<T>> {
        let contexts = self.contexts.iter_mut().flatten();
        let updates = self.updates.iter_mut().flat_map(|u| [&mut u.mix, &mut u.hidden, &mut u.gates]);
        let layers = contexts.chain(updates).chain(&mut self.readout).flat_map(LayerSums::buffers);
        layers.chain([&mut self.embedding]).collect()
    }

    /// Fills with zeros.
    pub fn clear(&mut self) {
        self.buffers().into_iter().for_each(|buffer| buffer.fill(T::zero()));
        self.filters.iter_mut().for_each(Filters::clear);
        self.last_bias = 0.0;
    }

    /// Adds those of other structures.
    pub fn add(&mut self, other: &mut Self) {
        for (a, b) in self.buffers().into_iter().zip(other.buffers()) {
            a.iter_mut().zip(&**b).for_each(|(a, &b)| *a += b);
        }
        self.filters.iter_mut().zip(&other.filters).for_each(|(a, b)| a.add(b));
        self.last_bias += other.last_bias;
    }

    /// By the names and in the shapes of the model's tensors; those of the radial basis, which is not trained, are left out.
    ///
    /// `fit` is what the filters' splines were fitted by, `None` where they are the radial basis itself.
    pub fn tensors<S: Simd>(
        &self,
        simd: S,
        painn: &Painn<T>,
        fit: Option<&Fit>,
        shapes: &[(String, Vec<usize>)],
    ) -> Tensors {
        let f = painn.n_features;
        let pad = Padding::new::<T>(f);
        let mut out = Tensors::default();
        for (name, shape) in shapes.iter().filter(|(name, _)| !name.starts_with("radial_basis.")) {
            let data = vec![0.0; shape.iter().product()];
            out.put(name.clone(), Array { shape: shape.clone(), data });
        }
        if let Some(embedding) = out.0.get_mut("embedding") {
            let rows = self.embedding.chunks_exact(pad.padded);
            embedding.data = rows.flat_map(|row| row[..f].iter().map(|x| x.wide())).collect();
        }
        for (l, [first, second]) in self.contexts.iter().enumerate() {
            first.put(&format!("interactions.{l}.message.0"), [pad, pad], &[0], &mut out);
            second.put(&format!("interactions.{l}.message.1"), [pad, pad], &[0, 1, 2], &mut out);
        }
        for (l, update) in self.updates.iter().enumerate() {
            let name = format!("interactions.{}.update", l % self.contexts.len());
            update.mix.put(&format!("{name}.mix"), [pad, pad], &[0, 1], &mut out);
            update.hidden.put(&format!("{name}.0"), [pad, pad], &[0], &mut out);
            let order: &[usize] = if l + 1 == self.updates.len() { &[0, 2] } else { &[0, 2, 1] };
            update.gates.put(&format!("{name}.1"), [pad, pad], order, &mut out);
        }
        for (k, layer) in self.readout.iter().enumerate() {
            let linear = &painn.readout[k];
            let pads = [Padding::new::<T>(linear.n_in), Padding::new::<T>(linear.n_out)];
            layer.put(&format!("readout.{k}"), pads, &[0], &mut out);
        }
        if let Some(bias) = out.0.get_mut(&format!("readout.{}.bias", self.readout.len() - 1)) {
            bias.data = vec![self.last_bias];
        }
        self.put_filters(simd, f, fit, &mut out);
        out
    }

    /// The bias is the last function's weight.
    fn put_filters<S: Simd>(&self, simd: S, f: usize, fit: Option<&Fit>, out: &mut Tensors) {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for filters in &self.filters {
            let grads = filters.unpack(simd, f);
            let grads = fit.map_or_else(|| grads.clone(), |fit| fit.weights_vjp(&grads));
            for row in grads.chunks_exact(grads.len() / (3 * f)) {
                if let Some((last, rest)) = row.split_last() {
                    weight.extend_from_slice(rest);
                    bias.push(*last);
                }
            }
        }
        for (name, data) in [("filters.weight", weight), ("filters.bias", bias)] {
            if let Some(array) = out.0.get_mut(name) {
                array.data = data;
            }
        }
    }
}
