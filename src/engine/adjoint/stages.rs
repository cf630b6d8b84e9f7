//! The engine's fixed list of operations and its mirror, tile by tile.

use std::ops::Range;
use std::sync::Mutex;

use pulp::Simd;

use super::shared::{Rows, Shared};
use super::weights::Weights;
use super::workspace::{Kept, Partition, Scratch, Tile, Workspace};
use crate::batch::PackedBatch;
use crate::clock::{Component, Part, enter};
use crate::cpu::geometry::{Edges, geometry_vjp};
use crate::cpu::lanes::{Lanes, vectorize};
use crate::cpu::message::{Cotangents, Group, Nodes, message, message_vjp};
use crate::cpu::pairs::{Counts, Pair, Pairs, PairsMut};
use crate::cpu::update::{Gates, MixedVjp, gate, gate_vjp, invariants, mixed_vjp};
use crate::settings::Want;
use crate::structure::{Mat3, Vec3};

/// One evaluation.
///
/// What makes all access to its arrays sound: a task writes rows of its own tile only, and only to arrays (or layers
/// of them) that no task of the same stage reads from another tile. Cotangents alternate between two layers.
pub(super) struct Run<'a, T> {
    weights: &'a Weights<T>,
    energy_scale: f64,
    batch: &'a PackedBatch,
    edges: Edges<'a>,
    want: Want,
    partition: &'a Partition,
    scalars: Rows<'a, T>,
    contexts: Rows<'a, T>,
    context_slopes: Rows<'a, T>,
    vectors: Rows<'a, T>,
    kept: Kept<Rows<'a, T>>,
    grad_scalars: Rows<'a, T>,
    grad_vectors: Rows<'a, T>,
    pairs: Shared<'a, Pair<T>>,
    values: Shared<'a, T>,
    outside: Shared<'a, u32>,
    pair_of_edge: Shared<'a, u32>,
    counts: Shared<'a, Counts>,
    cotangents: Shared<'a, [T; 4]>,
    atomic_energies: Shared<'a, f64>,
    gradients: Shared<'a, Vec3>,
    virials: Shared<'a, Mat3>,
    has_virials: bool,
}

impl<'a, T: Lanes> Run<'a, T> {
    /// Borrows a workspace, resized for the batch; the threads' own buffers are returned apart.
    pub fn new(
        weights: &'a Weights<T>,
        energy_scale: f64,
        batch: &'a PackedBatch,
        want: Want,
        workspace: &'a mut Workspace<T>,
    ) -> (Self, &'a mut [Mutex<Scratch<T>>]) {
        let (n, n_atoms) = (weights.n, batch.n_atoms());
        let arrays = &mut workspace.arrays;
        let run = Run {
            weights,
            energy_scale,
            batch,
            edges: batch.edges(),
            has_virials: !workspace.results.virials.is_empty(),
            want,
            partition: &workspace.partition,
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
            pairs: Shared::new(&mut arrays.pairs),
            values: Shared::new(&mut arrays.values),
            outside: Shared::new(&mut arrays.outside),
            pair_of_edge: Shared::new(&mut arrays.pair_of_edge),
            counts: Shared::new(&mut arrays.counts),
            cotangents: Shared::new(&mut arrays.cotangents),
            atomic_energies: Shared::new(&mut workspace.results.atomic_energies),
            gradients: Shared::new(&mut workspace.results.gradients),
            virials: Shared::new(&mut workspace.results.virials),
        };
        (run, &mut workspace.scratch)
    }

    /// Forward layers; backward layers and the way from edges to positions.
    pub fn n_stages(&self) -> usize {
        let n_layers = self.weights.n_layers;
        if self.want.gradient() { 2 * n_layers + 1 } else { n_layers }
    }

    /// Does the work of one tile in one stage. Stages follow each other; tiles of a stage may run at the same time.
    #[inline(always)]
    pub fn stage<S: Simd>(&self, simd: S, stage: usize, tile: usize, scratch: &mut Scratch<T>) {
        let (n_layers, tile) = (self.weights.n_layers, &self.partition.tiles[tile]);
        if stage < n_layers {
            self.forward(simd, stage, tile, scratch);
        } else if stage < 2 * n_layers {
            self.backward(simd, 2 * n_layers - 1 - stage, tile, scratch);
        } else {
            enter(Component::EdgeGeometryVjp);
            self.positions_vjp(tile);
        }
        enter(Component::Unattributed);
    }

    /// Message and update of layer `l`, then what the next message reads of these atoms, or the energy.
    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, l: usize, tile: &Tile, scratch: &mut Scratch<T>) {
        let (weights, n, rows) = (self.weights, self.weights.n, &tile.atoms);
        if l == 0 {
            enter(Component::EdgeGeometry);
            for group in tile.groups.clone() {
                self.geometry(simd, group, scratch);
            }
        }
        enter(Part::layer(Component::Message, l));
        for group in tile.groups.clone() {
            self.message(simd, l, tile, group, scratch);
        }
        enter(Part::layer(Component::Update, l));
        // SAFETY: own rows, of arrays and layers that other tiles do not read in this stage (see `Run`).
        unsafe {
            let (update, is_last) = (&weights.updates[l], self.is_last(l));
            let Scratch { last, vectors: last_vectors, hidden, .. } = &mut *scratch;
            let vectors = if is_last { &mut last_vectors[..rows.len() * 3 * n] } else { self.vectors.write(l, rows) };
            let kept = if is_last { last.last_rows(rows.len(), n) } else { self.kept.rows(l, rows) };
            let Kept { context, mixed, products, slopes, gates } = kept;
            update.mix.linear(simd, vectors, mixed);
            vectorize!(simd, invariants(simd, n, weights.epsilon, mixed, context, products));
            let hidden = &mut hidden[..rows.len() * n];
            update.hidden.linear_silu(simd, context, hidden, slopes);
            update.gates.linear(simd, hidden, gates);
            let inputs = Gates { gates, mixed, products, last: is_last };
            let scalars = self.scalars.write(0, rows);
            vectorize!(simd, gate(simd, n, inputs, context, scalars, vectors));
            if !is_last {
                enter(Part::layer(Component::Context, l + 1));
                let [first, second] = weights.context(l + 1);
                first.linear_silu(simd, scalars, hidden, self.context_slopes.write(l, rows));
                second.linear(simd, hidden, self.contexts.write(l, rows));
            } else {
                enter(Component::Readout);
                self.readout(simd, rows, scalars, scratch);
            }
        }
    }

    fn is_last(&self, l: usize) -> bool {
        l + 1 == self.weights.n_layers
    }

    /// Pairs of a group.
    #[inline(always)]
    fn geometry<S: Simd>(&self, simd: S, group: usize, scratch: &mut Scratch<T>) {
        let (atoms, radial) = (&self.partition.groups[group], &self.weights.radial);
        let (range, width) = (self.edges.of_all(atoms), 2 * radial.window());
        // SAFETY: edges and pairs of own atoms; nobody else's in this stage.
        unsafe {
            let mut pairs = PairsMut {
                pairs: self.pairs.write(range.clone()),
                values: self.values.write(range.start * width..range.end * width),
                outside: self.outside.write(range.clone()),
                pair_of_edge: self.pair_of_edge.write(range.clone()),
            };
            let counts = &mut self.counts.write(group..group + 1)[0];
            let (edges, positions, row_of) = (&self.edges, &self.batch.positions, &mut scratch.row_of);
            vectorize!(simd, *counts = pairs.find(edges, positions, atoms, radial, row_of));
            if self.want.gradient() {
                self.cotangents.write(range).fill([T::zero(); 4]);
            }
        }
    }

    /// # Safety
    /// No task of this stage writes pairs of another tile.
    unsafe fn group(&self, layer: usize, group: usize) -> Group<'_, T> {
        let (atoms, radial) = (&self.partition.groups[group], &self.weights.radial);
        let (first, width) = (self.edges.of_all(atoms).start, 2 * radial.window());
        // SAFETY: the caller's.
        unsafe {
            let Counts { n_pairs, n_outside } = self.counts.read(group..group + 1)[0];
            let pairs = Pairs {
                pairs: self.pairs.read(first..first + n_pairs),
                values: self.values.read(first * width..(first + n_pairs) * width),
                outside: self.outside.read(first..first + n_outside),
            };
            Group { atoms, pairs, radial, filters: self.weights.filters(layer) }
        }
    }

    /// What messages of layer `l` read of all atoms.
    ///
    /// # Safety
    /// No task of this stage writes vectors or contexts of layer `l`.
    unsafe fn nodes(&self, l: usize) -> Nodes<'_, T> {
        match l.checked_sub(1) {
            None => Nodes::First { context: &self.weights.first_context, species: &self.batch.species },
            // SAFETY: the caller's.
            Some(l) => unsafe { Nodes::Later { context: self.contexts.layer(l), vectors: self.vectors.layer(l) } },
        }
    }

    #[inline(always)]
    fn message<S: Simd>(&self, simd: S, l: usize, tile: &Tile, group: usize, scratch: &mut Scratch<T>) {
        let (n, rows) = (self.weights.n, &self.partition.groups[group]);
        let Scratch { message: buffers, last, vectors, .. } = scratch;
        // SAFETY: forward stage l writes contexts and vectors of the next layer, and own rows only.
        unsafe {
            let (group, nodes) = (self.group(l, group), self.nodes(l));
            let (context, sums) = if self.is_last(l) {
                let (start, end) = ((rows.start - tile.atoms.start) * n, (rows.end - tile.atoms.start) * n);
                (&mut last.context[2 * start..2 * end], &mut vectors[3 * start..3 * end])
            } else {
                (self.kept.context.write(l, rows), self.vectors.write(l, rows))
            };
            let scalars = self.scalars.write(0, rows);
            if l == 0 {
                for (row, &s) in scalars.chunks_exact_mut(n).zip(&self.batch.species[rows.clone()]) {
                    row.copy_from_slice(&self.weights.embedding[usize::from(s) * n..][..n]);
                }
            }
            vectorize!(simd, message(simd, n, &group, nodes, scalars, context, sums, buffers));
        }
    }

    /// Energies of the tile's atoms; where derivatives are wanted, the mirror's beginning too.
    ///
    /// # Safety
    /// As [`Run`] says.
    #[inline(always)]
    unsafe fn readout<S: Simd>(&self, simd: S, rows: &Range<usize>, scalars: &[T], scratch: &mut Scratch<T>) {
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
        let energies = unsafe { self.atomic_energies.write(rows.clone()) };
        let references = &self.batch.references[rows.clone()];
        for ((energy, output), reference) in energies.iter_mut().zip(outputs.chunks_exact(T::PER_LINE)).zip(references)
        {
            *energy = self.energy_scale * output[0].wide() + reference;
        }
        if self.want.gradient() {
            enter(Component::ReadoutVjp);
            for output in outputs[..n_rows * T::PER_LINE].chunks_exact_mut(T::PER_LINE) {
                output.fill(T::zero());
                output[0] = T::of(self.energy_scale);
            }
            for (k, layer) in layers.iter().enumerate().rev() {
                let (before, rest) = scratch.readout.split_at_mut(k);
                let grad_y = &rest[0].0[..n_rows * layer.n_out()];
                match before.last_mut() {
                    // The values are not needed again: their cotangent takes their place.
                    Some((values, slopes)) => layer.vjp_silu(simd, grad_y, slopes, values),
                    None => layer.vjp(simd, grad_y, &mut scratch.scalars),
                }
            }
            // SAFETY: the caller's.
            unsafe { self.update_vjp(simd, self.weights.n_layers - 1, rows, scratch) };
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
        // SAFETY: own rows; of gradients those of layer l are read, those of layer l - 1 are written.
        unsafe {
            let [first, second] = self.weights.context(l);
            let hidden = &mut scratch.hidden[..rows.len() * n];
            let slopes = self.context_slopes.read(l - 1, rows);
            second.vjp_silu(simd, &scratch.wide[..rows.len() * 3 * n], slopes, hidden);
            scratch.scalars[..rows.len() * n].copy_from_slice(self.grad_scalars.read(l % 2, rows));
            first.vjp_add(simd, hidden, &mut scratch.scalars);
            self.update_vjp(simd, l - 1, rows, scratch);
        }
    }

    #[inline(always)]
    fn message_vjp<S: Simd>(&self, simd: S, l: usize, tile: &Tile, group: usize, scratch: &mut Scratch<T>) {
        let (n, atoms) = (self.weights.n, &self.partition.groups[group]);
        let rows = (atoms.start - tile.atoms.start) * 3 * n..(atoms.end - tile.atoms.start) * 3 * n;
        let (grad_context, grad_sent) = (&mut scratch.wide[rows.clone()], &mut scratch.vectors[rows]);
        let buffers = &mut scratch.message;
        // SAFETY: this stage writes gradients of the other parity, and cotangents of own pairs.
        unsafe {
            let (group, nodes) = (self.group(l, group), self.nodes(l));
            let (scalars, vectors) = (self.grad_scalars.layer(l % 2), self.grad_vectors.layer(l % 2));
            let gradients = Cotangents { scalars, vectors };
            let first = self.edges.of_all(atoms).start;
            let out = self.cotangents.write(first..first + group.pairs.pairs.len());
            vectorize!(simd, message_vjp(simd, n, &group, nodes, gradients, grad_context, grad_sent, out, buffers));
        }
    }

    /// Pulls the cotangents of an update's results, `scratch.scalars` and `scratch.vectors`, back to what its message
    /// left.
    ///
    /// # Safety
    /// As [`Run`] says.
    #[inline(always)]
    unsafe fn update_vjp<S: Simd>(&self, simd: S, l: usize, rows: &Range<usize>, scratch: &mut Scratch<T>) {
        let (weights, n, n_rows) = (self.weights, self.weights.n, rows.len());
        let update = &weights.updates[l];
        enter(Part::layer(Component::UpdateVjp, l));
        let is_last = self.is_last(l);
        let Scratch { last, scalars, vectors, wide, hidden, context: grad_context, mixed: grad_mixed, .. } = scratch;
        // SAFETY: the caller's.
        unsafe {
            let kept = if is_last { last.last_rows(n_rows, n) } else { self.kept.rows(l, rows) };
            let Kept { context, mixed, products, slopes, gates } = kept;
            let inputs = Gates { gates, mixed, products, last: is_last };
            let (out_scalars, out_vectors) =
                (self.grad_scalars.write(l % 2, rows), self.grad_vectors.write(l % 2, rows));
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

    /// From pairs to positions, and to virials where they are asked for.
    fn positions_vjp(&self, tile: &Tile) {
        let (edges, positions) = (&self.edges, &self.batch.positions);
        for group in tile.groups.clone() {
            let atoms = &self.partition.groups[group];
            let range = edges.of_all(atoms);
            // SAFETY: own rows and pairs.
            unsafe {
                let (pairs, cotangents) = (self.pair_of_edge.read(range.clone()), self.cotangents.read(range.clone()));
                let gradients = self.gradients.write(atoms.clone());
                let virials = if self.has_virials { self.virials.write(atoms.clone()) } else { &mut [] };
                for (row, i) in atoms.clone().enumerate() {
                    let pairs = &pairs[edges.of(i).start - range.start..edges.of(i).end - range.start];
                    if let Some(virial) = virials.get_mut(row) {
                        *virial = [[0.0; 3]; 3];
                    }
                    gradients[row] = geometry_vjp(edges, positions, i, pairs, cotangents, virials.get_mut(row));
                }
            }
        }
    }
}
