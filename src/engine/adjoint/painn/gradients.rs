//! Gradients of energies with respect to the weights: the list of operations and its mirror once more, for training.
//!
//! Every operation keeps what its weights' gradient needs, atoms are one tile, and the first layer is as the others are, so
//! that its context's gradient reaches the embedding.

use pulp::Simd;

use super::sums::WeightSums;
use super::weights::Weights;
use super::workspace::Kept;
use crate::batch::PackedBatch;
use crate::cpu::lanes::{Buffer, Lanes, vectorize};
use crate::cpu::message::{Cotangents, Group, Nodes, message, message_weights_vjp};
use crate::cpu::pairs::{Pair, Pairs, PairsMut};
use crate::cpu::update::{Gates, MixedVjp, gate, gate_vjp, invariants, mixed_vjp};

/// What the forward leaves for the backward, and buffers of both; kept from call to call.
#[derive(Debug, Default)]
pub struct GradientWorkspace<T> {
    pairs: Vec<Pair<T>>,
    values: Buffer<T>,
    outside: Vec<u32>,
    pair_of_edge: Vec<u32>,
    row_of: Vec<u32>,
    layers: Vec<LayerState<T>>,
    readout: Vec<[Buffer<T>; 2]>,
    /// Cotangents of each layer's results in the readout.
    grad_readout: Vec<Buffer<T>>,
    message: [Buffer<T>; 3],
    grad_scalars: Buffer<T>,
    grad_vectors: Buffer<T>,
    after_scalars: Buffer<T>,
    after_vectors: Buffer<T>,
    wide: Buffer<T>,
    hidden: Buffer<T>,
    grad_context: Buffer<T>,
    grad_mixed: Buffer<T>,
}

/// Of one layer, `[n_atoms, …]`.
#[derive(Debug, Default)]
struct LayerState<T> {
    /// Scalars and vectors before the layer, `n`, `3n`.
    scalars: Buffer<T>,
    vectors: Buffer<T>,
    /// Interaction context: hidden layer, its activation's derivative, result; `n`, `n`, `3n`.
    context_hidden: Buffer<T>,
    context_slopes: Buffer<T>,
    context: Buffer<T>,
    /// Vectors after the message, `3n`.
    summed: Buffer<T>,
    /// Hidden layer of the update, `n`.
    hidden: Buffer<T>,
    kept: Kept<Buffer<T>>,
}

impl<T: Lanes> LayerState<T> {
    fn resize(&mut self, n_atoms: usize, n: usize, n_gates: usize) {
        for buffer in [&mut self.scalars, &mut self.context_hidden, &mut self.context_slopes, &mut self.hidden] {
            buffer.resize(n_atoms * n);
        }
        for buffer in [&mut self.vectors, &mut self.context, &mut self.summed] {
            buffer.resize(n_atoms * 3 * n);
        }
        self.kept.resize(n_atoms, n, n_gates);
    }
}

impl<T: Lanes> GradientWorkspace<T> {
    fn resize(&mut self, weights: &Weights<T>, batch: &PackedBatch) {
        let (n, n_atoms, n_edges) = (weights.n, batch.n_atoms(), batch.n_edges());
        self.pairs.resize(n_edges, Pair::default());
        self.values.resize(n_edges * 2 * weights.radial.window());
        self.outside.resize(n_edges, 0);
        self.pair_of_edge.resize(n_edges, 0);
        self.row_of.clear();
        self.row_of.resize(n_atoms, u32::MAX);
        self.layers.resize_with(weights.n_layers, LayerState::default);
        for (layer, update) in self.layers.iter_mut().zip(&weights.updates) {
            layer.resize(n_atoms, n, update.gates.n_out());
        }
        self.readout.resize_with(weights.readout.len(), Default::default);
        self.grad_readout.resize_with(weights.readout.len(), Buffer::default);
        for (k, layer) in weights.readout.iter().enumerate() {
            self.readout[k].iter_mut().for_each(|buffer| buffer.resize(n_atoms * layer.n_out()));
            self.grad_readout[k].resize(n_atoms * layer.n_out());
        }
        for buffer in [&mut self.grad_scalars, &mut self.after_scalars, &mut self.hidden] {
            buffer.resize(n_atoms * n);
        }
        for buffer in [&mut self.grad_vectors, &mut self.after_vectors, &mut self.wide] {
            buffer.resize(n_atoms * 3 * n);
        }
        self.grad_context.resize(n_atoms * 2 * n);
        self.grad_mixed.resize(n_atoms * 6 * n);
    }
}

/// Adds `Σ seed_s ∂E_s/∂θ` to `sums`.
///
/// IN `seeds` `[n_structures]`. Pairs are those of the batch's edges, also where positions have moved a little since.
#[inline(always)]
pub fn weight_gradients<T: Lanes, S: Simd>(
    simd: S,
    weights: &Weights<T>,
    energy_scale: f64,
    batch: &PackedBatch,
    seeds: &[f64],
    workspace: &mut GradientWorkspace<T>,
    sums: &mut WeightSums<T>,
) {
    workspace.resize(weights, batch);
    if batch.n_atoms() == 0 {
        return;
    }
    let n_pairs = find_pairs(simd, weights, batch, workspace);
    forward(simd, weights, batch, workspace, n_pairs);
    readout(simd, weights, energy_scale, batch, seeds, workspace, sums);
    for l in (0..weights.n_layers).rev() {
        update_vjp(simd, weights, l, workspace, sums);
        layer_vjp(simd, weights, batch, l, workspace, sums, n_pairs);
    }
    let n = weights.n;
    for (row, &s) in workspace.grad_scalars.chunks_exact(n).zip(&batch.species) {
        let sum = &mut sums.embedding[usize::from(s) * n..][..n];
        sum.iter_mut().zip(row).for_each(|(sum, &g)| *sum += g);
    }
}

/// Pairs and atoms outside (none: all atoms are one group).
#[inline(always)]
fn find_pairs<T: Lanes, S: Simd>(
    simd: S,
    weights: &Weights<T>,
    batch: &PackedBatch,
    workspace: &mut GradientWorkspace<T>,
) -> usize {
    let (edges, atoms) = (batch.edges(), 0..batch.n_atoms());
    let GradientWorkspace { pairs, values, outside, pair_of_edge, row_of, .. } = workspace;
    let mut room = PairsMut { pairs, values, outside, pair_of_edge };
    let mut n_pairs = 0;
    vectorize!(simd, n_pairs = room.find(&edges, &batch.positions, &atoms, &weights.radial, row_of).n_pairs);
    n_pairs
}

#[inline(always)]
fn forward<T: Lanes, S: Simd>(
    simd: S,
    weights: &Weights<T>,
    batch: &PackedBatch,
    workspace: &mut GradientWorkspace<T>,
    n_pairs: usize,
) {
    let (n, atoms, width) = (weights.n, 0..batch.n_atoms(), 2 * weights.radial.window());
    let GradientWorkspace { pairs, values, layers, message: buffers, after_scalars, after_vectors, .. } = workspace;
    let pairs = Pairs { pairs: &pairs[..n_pairs], values: &values[..n_pairs * width], outside: &[] };
    for (row, &s) in after_scalars.chunks_exact_mut(n).zip(&batch.species) {
        row.copy_from_slice(&weights.embedding[usize::from(s) * n..][..n]);
    }
    after_vectors.fill(T::zero());
    for (l, state) in layers.iter_mut().enumerate() {
        let LayerState { scalars, vectors, context_hidden, context_slopes, context, summed, hidden, kept } = state;
        scalars.copy_from_slice(after_scalars);
        vectors.copy_from_slice(after_vectors);
        let [first, second] = weights.context(l);
        first.linear_silu(simd, scalars, context_hidden, context_slopes);
        second.linear(simd, context_hidden, context);
        let group = Group { atoms: &atoms, pairs, radial: &weights.radial, filters: weights.filters(l) };
        let nodes = Nodes::Later { context, vectors };
        let Kept { context: inner, mixed, products, slopes, gates } = kept;
        vectorize!(simd, message(simd, n, &group, nodes, scalars, inner, summed, buffers));
        let (update, last) = (&weights.updates[l], l + 1 == weights.n_layers);
        update.mix.linear(simd, summed, mixed);
        vectorize!(simd, invariants(simd, n, weights.epsilon, mixed, inner, products));
        update.hidden.linear_silu(simd, inner, hidden, slopes);
        update.gates.linear(simd, hidden, gates);
        after_vectors.copy_from_slice(summed);
        let inputs = Gates { gates, mixed, products, last };
        vectorize!(simd, gate(simd, n, inputs, inner, after_scalars, after_vectors));
    }
}

/// The readout, and the cotangent of the last layer's scalars; none of its vectors, which nobody reads.
#[inline(always)]
fn readout<T: Lanes, S: Simd>(
    simd: S,
    weights: &Weights<T>,
    energy_scale: f64,
    batch: &PackedBatch,
    seeds: &[f64],
    workspace: &mut GradientWorkspace<T>,
    sums: &mut WeightSums<T>,
) {
    let (layers, last) = (&weights.readout, weights.readout.len() - 1);
    let GradientWorkspace { readout, grad_readout, after_scalars, grad_scalars, grad_vectors, .. } = workspace;
    // The energies themselves nobody reads.
    for (k, layer) in layers[..last].iter().enumerate() {
        let (before, rest) = readout.split_at_mut(k);
        let x: &[T] = before.last().map_or(&**after_scalars, |[values, _]| values);
        let [values, slopes] = &mut rest[0];
        layer.linear_silu(simd, x, values, slopes);
    }
    let grad = &mut grad_readout[last];
    grad.fill(T::zero());
    for (s, seed) in seeds.iter().enumerate() {
        for i in batch.atoms_of(s) {
            grad[i * T::PER_LINE] = T::of(energy_scale * seed);
            sums.last_bias += energy_scale * seed;
        }
    }
    for (k, layer) in layers.iter().enumerate().rev() {
        let (before, after) = grad_readout.split_at_mut(k);
        let x: &[T] = if k > 0 { &readout[k - 1][0] } else { after_scalars };
        sums.readout[k].add(x, &after[0]);
        match before.last_mut() {
            Some(grad_z) => layer.vjp_silu(simd, &after[0], &readout[k - 1][1], grad_z),
            None => layer.vjp(simd, &after[0], grad_scalars),
        }
    }
    grad_vectors.fill(T::zero());
}

/// From the cotangents after a layer to those after its message.
#[inline(always)]
fn update_vjp<T: Lanes, S: Simd>(
    simd: S,
    weights: &Weights<T>,
    l: usize,
    workspace: &mut GradientWorkspace<T>,
    sums: &mut WeightSums<T>,
) {
    let (n, last) = (weights.n, l + 1 == weights.n_layers);
    let (update, sums) = (&weights.updates[l], &mut sums.updates[l]);
    let GradientWorkspace {
        layers,
        grad_scalars,
        grad_vectors,
        after_scalars,
        after_vectors,
        wide,
        hidden: grad_hidden,
        grad_context,
        grad_mixed,
        ..
    } = workspace;
    let LayerState { summed, hidden, kept, .. } = &layers[l];
    let Kept { context, mixed, products, slopes, gates } = kept;
    let inputs = Gates { gates, mixed, products, last };
    let grad_gates = &mut wide[..gates.len()];
    vectorize!(simd, gate_vjp(simd, n, inputs, grad_scalars, grad_vectors, grad_gates));
    sums.gates.add(hidden, grad_gates);
    update.gates.vjp_silu(simd, grad_gates, slopes, grad_hidden);
    sums.hidden.add(context, grad_hidden);
    update.hidden.vjp(simd, grad_hidden, grad_context);
    let inner = MixedVjp { context, grad_context, grad_scalars, grad_vectors };
    vectorize!(simd, mixed_vjp(simd, n, inputs, inner, grad_mixed, after_scalars));
    sums.mix.add(summed, grad_mixed);
    after_vectors.copy_from_slice(grad_vectors);
    update.mix.vjp_add(simd, grad_mixed, after_vectors);
}

/// From there to those before the layer.
#[inline(always)]
fn layer_vjp<T: Lanes, S: Simd>(
    simd: S,
    weights: &Weights<T>,
    batch: &PackedBatch,
    l: usize,
    workspace: &mut GradientWorkspace<T>,
    sums: &mut WeightSums<T>,
    n_pairs: usize,
) {
    let (n, atoms, width) = (weights.n, 0..batch.n_atoms(), 2 * weights.radial.window());
    let GradientWorkspace {
        pairs,
        values,
        layers,
        message: buffers,
        wide,
        hidden: grad_hidden,
        grad_scalars,
        grad_vectors,
        after_scalars,
        after_vectors,
        ..
    } = workspace;
    let LayerState { scalars, vectors, context_hidden, context_slopes, context, .. } = &layers[l];
    let pairs = Pairs { pairs: &pairs[..n_pairs], values: &values[..n_pairs * width], outside: &[] };
    let group = Group { atoms: &atoms, pairs, radial: &weights.radial, filters: weights.filters(l) };
    let (nodes, gradients) =
        (Nodes::Later { context, vectors }, Cotangents { scalars: after_scalars, vectors: after_vectors });
    let filters = sums.filters(l);
    vectorize!(simd, message_weights_vjp(simd, n, &group, nodes, gradients, (wide, grad_vectors, filters), buffers));
    let [first, second] = weights.context(l);
    let [first_sums, second_sums] = sums.context(l);
    second_sums.add(context_hidden, wide);
    second.vjp_silu(simd, wide, context_slopes, grad_hidden);
    first_sums.add(scalars, grad_hidden);
    grad_scalars.copy_from_slice(after_scalars);
    first.vjp_add(simd, grad_hidden, grad_scalars);
}
