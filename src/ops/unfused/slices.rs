//! The chains on slices, on the processor, with the contracts of the fused operations.

use super::arena::{Arena, Place};
use super::chains;
use crate::ops::dense::{Activation, DenseArrays, LayerSizes, Linear};
use crate::ops::edge_geometry::{EdgeGeometryArrays, EdgeGeometrySizes};
use crate::ops::message::{MessageArrays, MessageGrads, MessageInputs};
use crate::ops::radial_basis::{RadialBasis, RadialBasisArrays, RadialBasisSizes};
use crate::ops::update::{GateArrays, GateGrads, GateInputs, GateSizes, InvariantsArrays, InvariantsSizes};
use crate::ops::{Real, Topology, count};
use crate::structure::{Mat3, Vec3};

/// Weights, and the sizes for as many rows as `x` `[n_rows, n_in]` has.
fn layer<'a, T: Real>(arena: &mut Arena<'a, T>, layer: &'a Linear<T>) -> DenseArrays<Place> {
    let weight = arena.read(&layer.weight);
    let bias = layer.bias.as_deref().map(|bias| arena.read(bias)).unwrap_or_default();
    DenseArrays { weight, bias, ..DenseArrays::default() }
}

/// Sizes of a layer for rows that have `n` elements before it.
fn sizes<T>(layer: &Linear<T>, n: usize) -> LayerSizes {
    let [n_rows, n_in, n_out] = [n / layer.n_in, layer.n_in, layer.n_out].map(count);
    LayerSizes { n_rows, n_in, n_out }
}

/// See [`crate::ops::dense::dense`].
pub fn dense<T: Real>(of: &Linear<T>, activation: Activation, x: &[T], y: &mut [T], pre_activation: Option<&mut [T]>) {
    let (mut arena, s) = (Arena::new(), sizes(of, x.len()));
    let a = layer(&mut arena, of);
    let saved = pre_activation.map(|saved| arena.write(saved)).unwrap_or_default();
    let a = DenseArrays { x: arena.read(x), y: arena.write(y), saved, ..a };
    chains::dense(&mut arena, &s, activation, &a);
}

/// See [`crate::ops::dense::dense_vjp`].
pub fn dense_vjp<T: Real>(
    of: &Linear<T>,
    activation: Activation,
    pre_activation: &[T],
    grad_y: &[T],
    grad_x: &mut [T],
) {
    let (mut arena, s) = (Arena::new(), sizes(of, grad_x.len()));
    let a = layer(&mut arena, of);
    let (saved, grad_y) = (arena.read(pre_activation), arena.read(grad_y));
    let a = DenseArrays { saved, grad_y, grad_x: arena.write(grad_x), ..a };
    chains::dense_vjp(&mut arena, &s, activation, &a);
}

/// See [`crate::ops::dense::dense_residual`].
pub fn dense_residual<T: Real>(
    of: &Linear<T>,
    activation: Activation,
    x: &[T],
    residual: &[T],
    y: &mut [T],
    pre_activation: &mut [T],
) {
    let (mut arena, s) = (Arena::new(), sizes(of, x.len()));
    let a = layer(&mut arena, of);
    let [x, residual] = [x, residual].map(|x| arena.read(x));
    let [y, saved] = [y, pre_activation].map(|x| arena.write(x));
    chains::dense(&mut arena, &s, activation, &DenseArrays { x, residual, y, saved, ..a });
}

/// See [`crate::ops::dense::dense_residual_vjp`].
pub fn dense_residual_vjp<T: Real>(
    of: &Linear<T>,
    activation: Activation,
    pre_activation: &[T],
    grad_y: &[T],
    grad_x: &mut [T],
    grad_residual: &mut [T],
) {
    let (mut arena, s) = (Arena::new(), sizes(of, grad_x.len()));
    let a = layer(&mut arena, of);
    let [saved, grad_y] = [pre_activation, grad_y].map(|x| arena.read(x));
    let [grad_x, grad_residual] = [grad_x, grad_residual].map(|x| arena.write(x));
    chains::dense_vjp(&mut arena, &s, activation, &DenseArrays { saved, grad_y, grad_x, grad_residual, ..a });
}

/// See [`crate::ops::dense::activation_dense`].
pub fn activation_dense<T: Real>(of: &Linear<T>, activation: Activation, x: &[T], y: &mut [T]) {
    let (mut arena, s) = (Arena::new(), sizes(of, x.len()));
    let a = layer(&mut arena, of);
    let a = DenseArrays { x: arena.read(x), y: arena.write(y), ..a };
    match activation {
        Activation::Identity => chains::dense(&mut arena, &s, activation, &a),
        Activation::Silu => chains::activation_dense(&mut arena, &s, &a),
    }
}

/// See [`crate::ops::dense::activation_dense_vjp`].
pub fn activation_dense_vjp<T: Real>(of: &Linear<T>, activation: Activation, x: &[T], grad_y: &[T], grad_x: &mut [T]) {
    let (mut arena, s) = (Arena::new(), sizes(of, x.len()));
    let a = layer(&mut arena, of);
    let a = DenseArrays { x: arena.read(x), grad_y: arena.read(grad_y), grad_x: arena.write(grad_x), ..a };
    match activation {
        Activation::Identity => chains::dense_vjp(&mut arena, &s, activation, &a),
        Activation::Silu => chains::activation_dense_vjp(&mut arena, &s, &a),
    }
}

/// See [`crate::ops::dense::mlp`].
pub fn mlp<T: Real>(layers: [&Linear<T>; 2], x: &[T], y: &mut [T], pre_activation: Option<&mut [T]>) {
    let mut arena = Arena::new();
    let s = [sizes(layers[0], x.len()), sizes(layers[1], x.len() / layers[0].n_in * layers[1].n_in)];
    let [first, second] = layers.map(|of| layer(&mut arena, of));
    let saved = pre_activation.map(|saved| arena.write(saved)).unwrap_or_default();
    let first = DenseArrays { x: arena.read(x), saved, ..first };
    let second = DenseArrays { y: arena.write(y), ..second };
    chains::mlp(&mut arena, [&s[0], &s[1]], [&first, &second]);
}

/// See [`crate::ops::dense::mlp_vjp`].
pub fn mlp_vjp<T: Real>(layers: [&Linear<T>; 2], pre_activation: &[T], grad_y: &[T], grad_x: &mut [T]) {
    let mut arena = Arena::new();
    let s = [sizes(layers[0], grad_x.len()), sizes(layers[1], pre_activation.len())];
    let [first, second] = layers.map(|of| layer(&mut arena, of));
    let first = DenseArrays { saved: arena.read(pre_activation), grad_x: arena.write(grad_x), ..first };
    let second = DenseArrays { grad_y: arena.read(grad_y), ..second };
    chains::mlp_vjp(&mut arena, [&s[0], &s[1]], [&first, &second]);
}

/// Parameters of radial functions, rounded: centres and widths, or frequencies and none.
fn parameters<T: Real>(functions: &RadialBasis) -> [Vec<T>; 2] {
    let (first, widths): (_, &[f64]) = match functions {
        RadialBasis::Gaussian { centers, widths } => (centers, widths),
        RadialBasis::Bessel { frequencies } => (frequencies, &[]),
    };
    [first, widths].map(|x| x.iter().map(|&x| T::of(x)).collect())
}

fn basis<'a, T: Real>(
    arena: &mut Arena<'a, T>,
    [first, widths]: &'a [Vec<T>; 2],
    distances: &'a [T],
) -> (RadialBasisSizes, RadialBasisArrays<Place>) {
    let s = RadialBasisSizes { n_edges: count(distances.len()), n_rbf: count(first.len()), stride: 1 };
    let [first, widths, distances] = [first, widths, distances].map(|x| arena.read(x));
    (s, RadialBasisArrays { first, widths, distances, ..RadialBasisArrays::default() })
}

/// See [`crate::ops::radial_basis::radial_basis`].
pub fn radial_basis<T: Real>(functions: &RadialBasis, cutoff: f64, distances: &[T], out: &mut [T]) {
    let (mut arena, parameters) = (Arena::new(), parameters(functions));
    let (s, a) = basis(&mut arena, &parameters, distances);
    let a = RadialBasisArrays { basis: arena.write(out), ..a };
    chains::radial_basis(&mut arena, &s, cutoff, &a);
}

/// See [`crate::ops::radial_basis::radial_basis_vjp`].
pub fn radial_basis_vjp<T: Real>(
    functions: &RadialBasis,
    cutoff: f64,
    distances: &[T],
    grad_basis: &[T],
    grad_distances: &mut [T],
) {
    let (mut arena, parameters) = (Arena::new(), parameters(functions));
    let (s, a) = basis(&mut arena, &parameters, distances);
    let (grad_basis, grad_distances) = (arena.read(grad_basis), arena.write(grad_distances));
    chains::radial_basis_vjp(&mut arena, &s, cutoff, &RadialBasisArrays { grad_basis, grad_distances, ..a });
}

fn geometry_sizes(topology: &Topology, n_structures: usize) -> EdgeGeometrySizes {
    let [n_atoms, n_edges, n_structures] = [topology.n_atoms(), topology.n_edges(), n_structures].map(count);
    EdgeGeometrySizes { n_atoms, n_edges, n_structures }
}

/// See [`crate::ops::edge_geometry::edge_geometry`].
pub fn edge_geometry(
    topology: &Topology,
    positions: &[Vec3],
    offsets: &[Vec3],
    strain: &[Mat3],
    structure_of: &[u32],
    epsilon: f64,
    geometry: &mut [[f64; 4]],
) {
    let (mut arena, s) = (Arena::new(), geometry_sizes(topology, strain.len()));
    let [receivers, senders, structure_of] =
        [&topology.receivers, &topology.senders, structure_of].map(|x| arena.indices(x));
    let strain = strain.as_flattened().as_flattened();
    let [positions, offsets, strain] =
        [positions.as_flattened(), offsets.as_flattened(), strain].map(|x| arena.read(x));
    let geometry = arena.write(geometry.as_flattened_mut());
    let a = EdgeGeometryArrays {
        receivers,
        senders,
        structure_of,
        positions,
        offsets,
        strain,
        geometry,
        ..EdgeGeometryArrays::default()
    };
    chains::edge_geometry(&mut arena, &s, epsilon, &a);
}

/// See [`crate::ops::edge_geometry::edge_geometry_vjp`].
pub fn edge_geometry_vjp(
    topology: &Topology,
    geometry: &[[f64; 4]],
    structure_of: &[u32],
    epsilon: f64,
    grad_geometry: &[[f64; 4]],
    grad_positions: &mut [Vec3],
    grad_strain: &mut [Mat3],
) {
    let mut by_atom = vec![[0.0; 9]; topology.n_atoms()];
    let (mut arena, s) = (Arena::new(), geometry_sizes(topology, grad_strain.len()));
    let [edge_ptr, reverse_edge] = [&topology.edge_ptr, &topology.reverse_edge].map(|x| arena.indices(x));
    let [geometry, grad_geometry] = [geometry, grad_geometry].map(|x| arena.read(x.as_flattened()));
    let grad_positions = arena.write(grad_positions.as_flattened_mut());
    let virials = arena.write(by_atom.as_flattened_mut());
    let a = EdgeGeometryArrays {
        edge_ptr,
        reverse_edge,
        geometry,
        grad_geometry,
        grad_positions,
        virials,
        ..EdgeGeometryArrays::default()
    };
    chains::edge_geometry_vjp(&mut arena, &s, epsilon, &a);
    drop(arena);
    for (i, virial) in by_atom.iter().enumerate() {
        // An atom's edges are all of its structure.
        if let Some(e) = topology.edges_of(i).next() {
            let out = grad_strain[structure_of[e] as usize].as_flattened_mut();
            out.iter_mut().zip(virial).for_each(|(out, &x)| *out += x);
        }
    }
}

fn edges<'a, T: Real>(
    arena: &mut Arena<'a, T>,
    topology: &'a Topology,
    inputs: &MessageInputs<'a, T>,
) -> MessageArrays<Place> {
    let DenseArrays { weight, bias, .. } = layer(arena, inputs.filter);
    let Topology { receivers, senders, edge_ptr, reverse_edge } = topology;
    let [edge_ptr, receivers, senders, reverse_edge] =
        [edge_ptr, receivers, senders, reverse_edge].map(|x| arena.indices(x));
    let [nodes, edges, geometry] = [inputs.nodes, inputs.edges, inputs.geometry].map(|x| arena.read(x));
    let none = MessageArrays::default();
    MessageArrays { edge_ptr, receivers, senders, reverse_edge, nodes, edges, geometry, weight, bias, ..none }
}

/// See [`crate::ops::message::message`].
pub fn message<T: Real>(topology: &Topology, inputs: &MessageInputs<T>, sums: &mut [T]) {
    let mut arena = Arena::new();
    let a = edges(&mut arena, topology, inputs);
    let a = MessageArrays { sums: arena.write(sums), ..a };
    chains::message(&mut arena, &inputs.sizes(topology), &a);
}

/// See [`crate::ops::message::message_vjp`].
pub fn message_vjp<T: Real>(
    topology: &Topology,
    inputs: &MessageInputs<T>,
    grad_sums: &[T],
    grads: &mut MessageGrads<T>,
) {
    let mut arena = Arena::new();
    let a = edges(&mut arena, topology, inputs);
    let grad_sums = arena.read(grad_sums);
    let [grad_nodes, grad_edges, grad_geometry] =
        [&mut *grads.nodes, &mut *grads.edges, &mut *grads.geometry].map(|x| arena.write(x));
    let a = MessageArrays { grad_sums, grad_nodes, grad_edges, grad_geometry, ..a };
    chains::message_vjp(&mut arena, &inputs.sizes(topology), &a);
}

/// See [`crate::ops::update::update_invariants`].
pub fn update_invariants<T: Real>(n_features: usize, epsilon: f64, mixed: &[T], invariants: &mut [T]) {
    let mut arena = Arena::new();
    let s = InvariantsSizes { n_atoms: count(mixed.len() / (6 * n_features)), n_features: count(n_features) };
    let (mixed, invariants) = (arena.read(mixed), arena.write(invariants));
    let a = InvariantsArrays { mixed, invariants, ..InvariantsArrays::default() };
    chains::update_invariants(&mut arena, &s, epsilon, &a);
}

/// See [`crate::ops::update::update_invariants_vjp`].
pub fn update_invariants_vjp<T: Real>(
    n_features: usize,
    mixed: &[T],
    invariants: &[T],
    grad_invariants: &[T],
    grad_mixed: &mut [T],
) {
    let mut arena = Arena::new();
    let s = InvariantsSizes { n_atoms: count(mixed.len() / (6 * n_features)), n_features: count(n_features) };
    let [mixed, invariants, grad_invariants] = [mixed, invariants, grad_invariants].map(|x| arena.read(x));
    let a = InvariantsArrays { mixed, invariants, grad_invariants, grad_mixed: arena.write(grad_mixed) };
    chains::update_invariants_vjp(&mut arena, &s, &a);
}

fn gates<'a, T: Real>(arena: &mut Arena<'a, T>, inputs: &GateInputs<'a, T>) -> (GateSizes, GateArrays<Place>) {
    let n = inputs.n_features;
    let s = GateSizes { n_atoms: count(inputs.gates.len() / (3 * n)), n_features: count(n) };
    let [gates, mixed, invariants] = [inputs.gates, inputs.mixed, inputs.invariants].map(|x| arena.read(x));
    (s, GateArrays { gates, mixed, invariants, ..GateArrays::default() })
}

/// See [`crate::ops::update::update_gate`].
pub fn update_gate<T: Real>(inputs: &GateInputs<T>, change: &mut [T]) {
    let mut arena = Arena::new();
    let (s, a) = gates(&mut arena, inputs);
    let a = GateArrays { change: arena.write(change), ..a };
    chains::update_gate(&mut arena, &s, &a);
}

/// See [`crate::ops::update::update_gate_vjp`].
pub fn update_gate_vjp<T: Real>(inputs: &GateInputs<T>, grad_change: &[T], grads: &mut GateGrads<T>) {
    let mut arena = Arena::new();
    let (s, a) = gates(&mut arena, inputs);
    let grad_change = arena.read(grad_change);
    let [grad_gates, grad_mixed, grad_invariants] =
        [&mut *grads.gates, &mut *grads.mixed, &mut *grads.invariants].map(|x| arena.write(x));
    let a = GateArrays { grad_change, grad_gates, grad_mixed, grad_invariants, ..a };
    chains::update_gate_vjp(&mut arena, &s, &a);
}
