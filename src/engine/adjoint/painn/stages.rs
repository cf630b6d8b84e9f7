//! PaiNN's list of operations and its mirror, tile by tile.

use std::ops::Range;
use std::sync::Mutex;

use pulp::Simd;

use super::weights::Weights;
use super::workspace::{Kept, Scratch, Workspace};
use crate::batch::PackedBatch;
use crate::clock::{Component, Part, enter};
use crate::cpu::lanes::{Lanes, vectorize};
use crate::cpu::message::{Cotangents, Group, Nodes, message, message_vjp};
use crate::cpu::update::{Gates, MixedVjp, gate, gate_vjp, invariants, mixed_vjp};
use crate::engine::adjoint::pairs::{SharedPairs, SharedResults};
use crate::engine::adjoint::schedule::Stages;
use crate::engine::adjoint::shared::Rows;
use crate::engine::adjoint::tiles::{Partition, Tile};
use crate::settings::Want;

/// One evaluation.
///
/// What makes all access to its arrays sound: a task writes rows of its own tile only, and only to arrays (or layers
/// of them) that no task of the same stage reads from another tile. Cotangents alternate between two layers. The pairs of a
/// group are found in the first stage by the tile that the group belongs to, and its cotangents are that tile's.
pub struct PainnStages<'a, T> {
    weights: &'a Weights<T>,
    energy_scale: f64,
    species: &'a [u16],
    references: &'a [f64],
    want: Want,
    partition: &'a Partition,
    pairs: SharedPairs<'a, T>,
    scalars: Rows<'a, T>,
    contexts: Rows<'a, T>,
    context_slopes: Rows<'a, T>,
    vectors: Rows<'a, T>,
    kept: Kept<Rows<'a, T>>,
    grad_scalars: Rows<'a, T>,
    grad_vectors: Rows<'a, T>,
    results: SharedResults<'a>,
}

impl<'a, T: Lanes> PainnStages<'a, T> {
    /// Borrows a workspace, resized for the batch; the threads' own buffers are returned apart.
    pub fn new(
        weights: &'a Weights<T>,
        energy_scale: f64,
        batch: &'a PackedBatch,
        want: Want,
        workspace: &'a mut Workspace<T>,
    ) -> (Self, &'a mut [Mutex<Scratch<T>>]) {
        let (n, n_atoms) = (weights.n, batch.n_atoms());
        let Workspace { arrays, partition, results, scratch, .. } = workspace;
        let stages = PainnStages {
            weights,
            energy_scale,
            species: &batch.species,
            references: &batch.references,
            want,
            partition,
            pairs: SharedPairs::new(&mut arrays.pairs, batch, partition, &weights.radial),
            scalars: Rows::new(&mut arrays.scalars, n_atoms, n),
            contexts: Rows::new(&mut arrays.contexts, n_atoms, 3 * n),
            context_slopes: Rows::new(&mut arrays.context_slopes, n_atoms, n),
            vectors: Rows::new(&mut arrays.vectors, n_atoms, 3 * n),
            kept: Kept {
                context: Rows::new(&mut arrays.kept.context, n_atoms, 2 * n),
                mixed: Rows::new(&mut arrays.kept.mixed, n_atoms, 6 * n),
                products: Rows::new(&mut arrays.kept.products, n_atoms, n),
                slopes: Rows::new(&mut arrays.kept.slopes, n_atoms, n),
                gates: Rows::new(&mut arrays.kept.gates, n_atoms, 3 * n),
            },
            grad_scalars: Rows::new(&mut arrays.grad_scalars, n_atoms, n),
            grad_vectors: Rows::new(&mut arrays.grad_vectors, n_atoms, 3 * n),
            results: SharedResults::new(results),
        };
        (stages, scratch)
    }
}

impl<T: Lanes> Stages for PainnStages<'_, T> {
    type Scratch = Scratch<T>;

    /// Forward layers; backward layers and the way from pairs to positions.
    fn n_stages(&self) -> usize {
        let n_layers = self.weights.n_layers;
        if self.want.gradient() { 2 * n_layers + 1 } else { n_layers }
    }

    #[inline(always)]
    fn stage<S: Simd>(&self, simd: S, stage: usize, tile: usize, scratch: &mut Scratch<T>) {
        let (n_layers, tile) = (self.weights.n_layers, &self.partition.tiles[tile]);
        if stage < n_layers {
            self.forward(simd, stage, tile, scratch);
        } else if stage < 2 * n_layers {
            self.backward(simd, 2 * n_layers - 1 - stage, tile, scratch);
        } else {
            enter(Component::EdgeGeometryVjp);
            // SAFETY: own pairs and rows, after all cotangents.
            unsafe { self.pairs.positions_vjp(tile, &self.results) };
        }
        enter(Component::Unattributed);
    }
}

impl<T: Lanes> PainnStages<'_, T> {
    /// Message and update of layer `l`, then what the next message reads of these atoms, or the energy.
    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, l: usize, tile: &Tile, scratch: &mut Scratch<T>) {
        if l == 0 {
            enter(Component::EdgeGeometry);
            for group in tile.groups.clone() {
                // SAFETY: a group of this tile's.
                unsafe { self.pairs.find(simd, group, self.want.gradient(), &mut scratch.row_of) };
            }
        }
        enter(Part::layer(Component::Message, l));
        for group in tile.groups.clone() {
            self.message(simd, l, tile, group, scratch);
        }
        self.update(simd, l, &tile.atoms, scratch);
        // SAFETY: own rows.
        let scalars = unsafe { self.scalars.read(0, &tile.atoms) };
        if self.is_last(l) {
            enter(Component::Readout);
            self.readout(simd, &tile.atoms, scalars, scratch);
            if self.want.gradient() {
                self.update_vjp(simd, l, &tile.atoms, scratch);
            }
            return;
        }
        enter(Part::layer(Component::Context, l + 1));
        let [first, second] = self.weights.context(l + 1);
        let hidden = &mut scratch.hidden[..tile.atoms.len() * self.weights.n];
        // SAFETY: own rows, of layers that other tiles do not read in this stage.
        let (slopes, contexts) =
            unsafe { (self.context_slopes.write(l, &tile.atoms), self.contexts.write(l, &tile.atoms)) };
        first.linear_silu(simd, scalars, hidden, slopes);
        second.linear(simd, hidden, contexts);
    }

    fn is_last(&self, l: usize) -> bool {
        l + 1 == self.weights.n_layers
    }

    /// Atoms, pairs and filters of a group in layer `l`.
    fn group(&self, l: usize, group: usize) -> Group<'_, T> {
        // SAFETY: pairs are found in the first stage: before this in the same task, or in a stage before.
        let pairs = unsafe { self.pairs.of_group(group) };
        Group { atoms: self.pairs.atoms(group), pairs, radial: &self.weights.radial, filters: self.weights.filters(l) }
    }

    /// What messages of layer `l` read of all atoms.
    fn nodes(&self, l: usize) -> Nodes<'_, T> {
        match l.checked_sub(1) {
            None => Nodes::First { context: &self.weights.first_context, species: self.species },
            // SAFETY: forward stage l writes contexts and vectors of the next layer, backward stages none.
            Some(l) => unsafe { Nodes::Later { context: self.contexts.layer(l), vectors: self.vectors.layer(l) } },
        }
    }

    #[inline(always)]
    fn message<S: Simd>(&self, simd: S, l: usize, tile: &Tile, group: usize, scratch: &mut Scratch<T>) {
        let (n, rows) = (self.weights.n, self.pairs.atoms(group));
        let Scratch { message: buffers, last, vectors, .. } = scratch;
        let (context, sums) = if self.is_last(l) {
            let (start, end) = ((rows.start - tile.atoms.start) * n, (rows.end - tile.atoms.start) * n);
            (&mut last.context[2 * start..2 * end], &mut vectors[3 * start..3 * end])
        } else {
            // SAFETY: own rows, of layers that other tiles do not read in this stage.
            unsafe { (self.kept.context.write(l, rows), self.vectors.write(l, rows)) }
        };
        // SAFETY: own rows.
        let scalars = unsafe { self.scalars.write(0, rows) };
        if l == 0 {
            for (row, &s) in scalars.chunks_exact_mut(n).zip(&self.species[rows.clone()]) {
                row.copy_from_slice(&self.weights.embedding[usize::from(s) * n..][..n]);
            }
        }
        let (group, nodes) = (self.group(l, group), self.nodes(l));
        vectorize!(simd, message(simd, n, &group, nodes, scalars, context, sums, buffers));
    }

    /// Scalars after layer `l`, and vectors where anybody reads them.
    #[inline(always)]
    fn update<S: Simd>(&self, simd: S, l: usize, rows: &Range<usize>, scratch: &mut Scratch<T>) {
        enter(Part::layer(Component::Update, l));
        let (weights, n, n_rows) = (self.weights, self.weights.n, rows.len());
        let (update, is_last) = (&weights.updates[l], self.is_last(l));
        let Scratch { last, vectors: last_vectors, hidden, .. } = scratch;
        let (vectors, kept) = if is_last {
            (&mut last_vectors[..n_rows * 3 * n], last.last_rows(n_rows, n))
        } else {
            // SAFETY: own rows, of layers that other tiles do not read in this stage.
            unsafe { (self.vectors.write(l, rows), self.kept.rows(l, rows)) }
        };
        // SAFETY: own rows.
        let scalars = unsafe { self.scalars.write(0, rows) };
        let Kept { context, mixed, products, slopes, gates } = kept;
        update.mix.linear(simd, vectors, mixed);
        vectorize!(simd, invariants(simd, n, weights.epsilon, mixed, context, products));
        let hidden = &mut hidden[..n_rows * n];
        update.hidden.linear_silu(simd, context, hidden, slopes);
        update.gates.linear(simd, hidden, gates);
        let inputs = Gates { gates, mixed, products, last: is_last };
        vectorize!(simd, gate(simd, n, inputs, context, scalars, vectors));
    }

    /// Energies of the tile's atoms; where derivatives are wanted, the mirror's beginning too.
    #[inline(always)]
    fn readout<S: Simd>(&self, simd: S, rows: &Range<usize>, scalars: &[T], scratch: &mut Scratch<T>) {
        let (layers, n_rows) = (&self.weights.readout, rows.len());
        let last = layers.len() - 1;
        for (k, layer) in layers.iter().enumerate() {
            let (before, rest) = scratch.readout.split_at_mut(k);
            let (values, slopes) = &mut rest[0];
            let x = before.last().map_or(scalars, |(values, _)| &values[..n_rows * layer.n_in()]);
            let values = &mut values[..n_rows * layer.n_out()];
            if k < last {
                layer.linear_silu(simd, x, values, &mut slopes[..n_rows * layer.n_out()]);
            } else {
                layer.linear(simd, x, values);
            }
        }
        let (outputs, _) = &mut scratch.readout[last];
        // SAFETY: own rows.
        let energies = unsafe { self.results.energies(rows) };
        let outputs = outputs[..n_rows * T::PER_LINE].chunks_exact_mut(T::PER_LINE);
        for ((energy, output), reference) in energies.iter_mut().zip(outputs).zip(&self.references[rows.clone()]) {
            *energy = self.energy_scale * output[0].wide() + reference;
            output.fill(T::zero());
            output[0] = T::of(self.energy_scale);
        }
        if !self.want.gradient() {
            return;
        }
        enter(Component::ReadoutVjp);
        for (k, layer) in layers.iter().enumerate().rev() {
            let (before, rest) = scratch.readout.split_at_mut(k);
            let grad_y = &rest[0].0[..n_rows * layer.n_out()];
            match before.last_mut() {
                // The values are not needed again: their cotangent takes their place.
                Some((values, slopes)) => layer.vjp_silu(simd, grad_y, slopes, values),
                None => layer.vjp(simd, grad_y, &mut scratch.scalars),
            }
        }
    }

    /// The mirror of `forward`: back through the message of layer `l` and the update before it.
    #[inline(always)]
    fn backward<S: Simd>(&self, simd: S, l: usize, tile: &Tile, scratch: &mut Scratch<T>) {
        let (n, rows) = (self.weights.n, &tile.atoms);
        enter(Part::layer(Component::MessageVjp, l));
        for group in tile.groups.clone() {
            self.message_vjp(simd, l, tile, group, scratch);
        }
        if l == 0 {
            return;
        }
        enter(Part::layer(Component::ContextVjp, l));
        let [first, second] = self.weights.context(l);
        let hidden = &mut scratch.hidden[..rows.len() * n];
        // SAFETY: slopes were written by forward stages; of gradients those of layer l are read, those of l - 1 written.
        let (slopes, grad_scalars) =
            unsafe { (self.context_slopes.read(l - 1, rows), self.grad_scalars.read(l % 2, rows)) };
        second.vjp_silu(simd, &scratch.wide[..rows.len() * 3 * n], slopes, hidden);
        scratch.scalars[..rows.len() * n].copy_from_slice(grad_scalars);
        first.vjp_add(simd, hidden, &mut scratch.scalars);
        self.update_vjp(simd, l - 1, rows, scratch);
    }

    #[inline(always)]
    fn message_vjp<S: Simd>(&self, simd: S, l: usize, tile: &Tile, group: usize, scratch: &mut Scratch<T>) {
        let (n, atoms) = (self.weights.n, self.pairs.atoms(group));
        let rows = (atoms.start - tile.atoms.start) * 3 * n..(atoms.end - tile.atoms.start) * 3 * n;
        let (grad_context, grad_sent) = (&mut scratch.wide[rows.clone()], &mut scratch.vectors[rows]);
        let buffers = &mut scratch.message;
        let (pairs, nodes) = (self.group(l, group), self.nodes(l));
        // SAFETY: this stage writes gradients of the other parity, and cotangents of own pairs.
        let (scalars, vectors, out) = unsafe {
            let out = self.pairs.cotangents(group, pairs.pairs.pairs.len());
            (self.grad_scalars.layer(l % 2), self.grad_vectors.layer(l % 2), out)
        };
        let gradients = Cotangents { scalars, vectors };
        vectorize!(simd, message_vjp(simd, n, &pairs, nodes, gradients, grad_context, grad_sent, out, buffers));
    }

    /// Pulls the cotangents of an update's results, `scratch.scalars` and `scratch.vectors`, back to what its message
    /// left.
    #[inline(always)]
    fn update_vjp<S: Simd>(&self, simd: S, l: usize, rows: &Range<usize>, scratch: &mut Scratch<T>) {
        enter(Part::layer(Component::UpdateVjp, l));
        let (n, n_rows, update) = (self.weights.n, rows.len(), &self.weights.updates[l]);
        let is_last = self.is_last(l);
        let Scratch { last, scalars, vectors, wide, hidden, context: grad_context, mixed: grad_mixed, .. } = scratch;
        let kept = if is_last {
            last.last_rows(n_rows, n)
        } else {
            // SAFETY: own rows.
            unsafe { self.kept.rows(l, rows) }
        };
        // SAFETY: own rows, of the parity that no message of this stage reads.
        let (out_scalars, out_vectors) =
            unsafe { (self.grad_scalars.write(l % 2, rows), self.grad_vectors.write(l % 2, rows)) };
        let Kept { context, mixed, products, slopes, gates } = kept;
        let inputs = Gates { gates, mixed, products, last: is_last };
        let (gq, gmu) = (&scalars[..n_rows * n], &vectors[..n_rows * 3 * n]);
        let grad_gates = &mut wide[..n_rows * update.gates.n_out()];
        let (hidden, grad_context) = (&mut hidden[..n_rows * n], &mut grad_context[..n_rows * 2 * n]);
        let grad_mixed = &mut grad_mixed[..n_rows * 6 * n];
        vectorize!(simd, gate_vjp(simd, n, inputs, gq, gmu, grad_gates));
        update.gates.vjp_silu(simd, grad_gates, slopes, hidden);
        update.hidden.vjp(simd, hidden, grad_context);
        let inner = MixedVjp { context, grad_context, grad_scalars: gq, grad_vectors: gmu };
        vectorize!(simd, mixed_vjp(simd, n, inputs, inner, grad_mixed, out_scalars));
        if inputs.last {
            update.mix.vjp(simd, grad_mixed, out_vectors);
        } else {
            out_vectors.copy_from_slice(gmu);
            update.mix.vjp_add(simd, grad_mixed, out_vectors);
        }
    }
}
