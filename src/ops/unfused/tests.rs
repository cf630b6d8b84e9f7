//! The fused operations against these.

use crate::ops::dense::{Activation, Linear};
use crate::ops::message::{MessageGrads, MessageInputs};
use crate::ops::radial_basis::RadialBasis;
use crate::ops::update::{GateGrads, GateInputs};
use crate::ops::{Real, Topology, unfused};
use crate::structure::{Mat3, Vec3};
use crate::testing::{Random, assert_close, random_topology};

/// Rows of several blocks, one block, one row, none.
const ROWS: [usize; 4] = [150, 7, 1, 0];

/// What both variants make of the same random arguments, in f64 and in f32.
#[track_caller]
fn assert_same(what: &str, lengths: &[usize], run: (impl Fn(&[f64]) -> Vec<f64>, impl Fn(&[f32]) -> Vec<f32>)) {
    let x = Random::new(lengths.len() as u64).array(lengths.iter().sum(), 1.0);
    let halves = |both: Vec<f64>, tolerance: f64| {
        let (fused, unfused) = both.split_at(both.len() / 2);
        assert_close(what, fused, unfused, tolerance, tolerance);
    };
    halves(run.0(&x), 1e-12);
    let rounded: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    halves(run.1(&rounded).into_iter().map(f64::from).collect(), 5e-5);
}

/// Cuts `x` into arrays of these lengths.
fn cut<T, const N: usize>(mut x: &[T], lengths: [usize; N]) -> [&[T]; N] {
    lengths.map(|n| {
        let (head, tail) = x.split_at(n);
        x = tail;
        head
    })
}

fn layer<T: Real>(n_in: usize, n_out: usize, bias: bool) -> Linear<T> {
    let mut random = Random::new(3);
    let mut array = |n: usize| random.array(n, 0.5).into_iter().map(T::of).collect::<Vec<T>>();
    Linear { weight: array(n_in * n_out), bias: bias.then(|| array(n_out)), n_in, n_out }
}

fn dense_of<T: Real>(x: &[T], n: usize, bias: bool, activation: Activation) -> Vec<T> {
    let layer = layer::<T>(5, 9, bias);
    let [x, grad, start] = cut(x, [n * 5, n * 9, n * 5]);
    let mut out = Vec::new();
    let variants: [(Dense<T>, DenseVjp<T>); 2] =
        [(crate::ops::dense::dense, crate::ops::dense::dense_vjp), (unfused::dense, unfused::dense_vjp)];
    for (forward, vjp) in variants {
        let (mut y, mut saved, mut alone) = (vec![T::nan(); n * 9], vec![T::nan(); n * 9], vec![T::nan(); n * 9]);
        forward(&layer, activation, x, &mut y, Some(&mut saved));
        forward(&layer, activation, x, &mut alone, None);
        let mut grad_x = start.to_vec();
        vjp(&layer, activation, &saved, grad, &mut grad_x);
        out.extend([y, saved, alone, grad_x].concat());
    }
    out
}

type Dense<T> = fn(&Linear<T>, Activation, &[T], &mut [T], Option<&mut [T]>);
type DenseVjp<T> = fn(&Linear<T>, Activation, &[T], &[T], &mut [T]);

#[test]
fn dense_equals_its_unfused_chain() {
    for n in ROWS {
        for bias in [false, true] {
            for a in [Activation::Identity, Activation::Silu] {
                let lengths = [n * 5, n * 9, n * 5];
                assert_same("dense", &lengths, (|x| dense_of(x, n, bias, a), |x| dense_of(x, n, bias, a)));
            }
        }
    }
}

fn residual_of<T: Real>(x: &[T], n: usize) -> Vec<T> {
    let layer = layer::<T>(5, 9, true);
    let [x, residual, grad] = cut(x, [n * 5, n * 9, n * 9]);
    let mut out = Vec::new();
    for is_fused in [true, false] {
        let (mut y, mut saved) = (vec![T::nan(); n * 9], vec![T::nan(); n * 9]);
        let (mut grad_x, mut grad_residual) = (x.to_vec(), residual.to_vec());
        let silu = Activation::Silu;
        if is_fused {
            crate::ops::dense::dense_residual(&layer, silu, x, residual, &mut y, &mut saved);
            crate::ops::dense::dense_residual_vjp(&layer, silu, &saved, grad, &mut grad_x, &mut grad_residual);
        } else {
            unfused::dense_residual(&layer, silu, x, residual, &mut y, &mut saved);
            unfused::dense_residual_vjp(&layer, silu, &saved, grad, &mut grad_x, &mut grad_residual);
        }
        out.extend([y, saved, grad_x, grad_residual].concat());
    }
    out
}

#[test]
fn dense_residual_equals_its_unfused_chain() {
    for n in ROWS {
        assert_same("residual", &[n * 5, n * 9, n * 9], (|x| residual_of(x, n), |x| residual_of(x, n)));
    }
}

fn activation_of<T: Real>(x: &[T], n: usize) -> Vec<T> {
    let layer = layer::<T>(5, 9, true);
    let [x, grad] = cut(x, [n * 5, n * 9]);
    let mut out = Vec::new();
    for is_fused in [true, false] {
        let (mut y, mut grad_x) = (vec![T::nan(); n * 9], x.to_vec());
        let silu = Activation::Silu;
        if is_fused {
            crate::ops::dense::activation_dense(&layer, silu, x, &mut y);
            crate::ops::dense::activation_dense_vjp(&layer, silu, x, grad, &mut grad_x);
        } else {
            unfused::activation_dense(&layer, silu, x, &mut y);
            unfused::activation_dense_vjp(&layer, silu, x, grad, &mut grad_x);
        }
        out.extend([y, grad_x].concat());
    }
    out
}

#[test]
fn activation_dense_equals_its_unfused_chain() {
    for n in ROWS {
        assert_same("activation", &[n * 5, n * 9], (|x| activation_of(x, n), |x| activation_of(x, n)));
    }
}

fn mlp_of<T: Real>(x: &[T], n: usize) -> Vec<T> {
    let layers = [&layer::<T>(5, 7, true), &layer::<T>(7, 9, true)];
    let [x, grad] = cut(x, [n * 5, n * 9]);
    let mut out = Vec::new();
    for is_fused in [true, false] {
        let (mut y, mut alone, mut saved) = (vec![T::nan(); n * 9], vec![T::nan(); n * 9], vec![T::nan(); n * 7]);
        let mut grad_x = x.to_vec();
        if is_fused {
            crate::ops::dense::mlp(layers, x, &mut y, Some(&mut saved));
            crate::ops::dense::mlp(layers, x, &mut alone, None);
            crate::ops::dense::mlp_vjp(layers, &saved, grad, &mut grad_x);
        } else {
            unfused::mlp(layers, x, &mut y, Some(&mut saved));
            unfused::mlp(layers, x, &mut alone, None);
            unfused::mlp_vjp(layers, &saved, grad, &mut grad_x);
        }
        out.extend([y, alone, saved, grad_x].concat());
    }
    out
}

#[test]
fn mlp_equals_its_unfused_chain() {
    for n in ROWS {
        assert_same("mlp", &[n * 5, n * 9], (|x| mlp_of(x, n), |x| mlp_of(x, n)));
    }
}

fn bases() -> [RadialBasis; 2] {
    [
        RadialBasis::Gaussian { centers: vec![0.0, 1.3, 2.6, 4.0], widths: vec![1.3, 1.2, 1.0, 0.4] },
        RadialBasis::Bessel { frequencies: (1..=5).map(|n| f64::from(n) * 0.7).collect() },
    ]
}

fn radial_of<T: Real>(x: &[T], n: usize, functions: &RadialBasis) -> Vec<T> {
    let width = functions.len() + 1;
    let [x, grad] = cut(x, [n, n * width]);
    // From 0.1 Å to beyond the cutoff.
    let distances: Vec<T> = x.iter().map(|&x| T::of(2.3) + x * T::of(2.2)).collect();
    let mut out = Vec::new();
    for is_fused in [true, false] {
        let (mut basis, mut grad_d) = (vec![T::nan(); n * width], x.to_vec());
        if is_fused {
            crate::ops::radial_basis::radial_basis(functions, 4.0, &distances, &mut basis);
            crate::ops::radial_basis::radial_basis_vjp(functions, 4.0, &distances, grad, &mut grad_d);
        } else {
            unfused::radial_basis(functions, 4.0, &distances, &mut basis);
            unfused::radial_basis_vjp(functions, 4.0, &distances, grad, &mut grad_d);
        }
        out.extend([basis, grad_d].concat());
    }
    out
}

#[test]
fn radial_basis_equals_its_unfused_chain() {
    for n in ROWS {
        for functions in &bases() {
            let lengths = [n, n * (functions.len() + 1)];
            assert_same("basis", &lengths, (|x| radial_of(x, n, functions), |x| radial_of(x, n, functions)));
        }
    }
}

/// Random graphs with isolated atoms, a pair, no edge at all.
fn topologies() -> [Topology; 4] {
    [random_topology(90, 600, 1), random_topology(70, 40, 2), random_topology(2, 1, 3), random_topology(5, 0, 4)]
}

#[test]
fn edge_geometry_equals_its_unfused_chain() {
    for topology in &topologies() {
        let (n, n_edges) = (topology.n_atoms(), topology.n_edges());
        let mut random = Random::new(5);
        let mut triples = |n: usize, scale: f64| random.array(3 * n, scale).as_chunks::<3>().0.to_vec();
        let (positions, offsets, start): (Vec<Vec3>, Vec<Vec3>, Vec<Vec3>) =
            (triples(n, 5.0), triples(n_edges, 0.1), triples(n, 1.0));
        let strain: Vec<Mat3> = triples(6, 0.05).as_chunks::<3>().0.to_vec();
        let structure_of: Vec<u32> = topology.receivers.iter().map(|&i| i % 2).collect();
        let grad: Vec<[f64; 4]> = Random::new(6).array(4 * n_edges, 1.0).as_chunks::<4>().0.to_vec();
        for epsilon in [0.0, 0.05] {
            let mut both = Vec::new();
            for is_fused in [true, false] {
                let forward = if is_fused { crate::ops::edge_geometry::edge_geometry } else { unfused::edge_geometry };
                let vjp =
                    if is_fused { crate::ops::edge_geometry::edge_geometry_vjp } else { unfused::edge_geometry_vjp };
                let mut geometry = vec![[f64::NAN; 4]; n_edges];
                forward(topology, &positions, &offsets, &strain, &structure_of, epsilon, &mut geometry);
                let (mut grad_positions, mut grad_strain) = (start.clone(), strain.clone());
                vjp(topology, &geometry, &structure_of, epsilon, &grad, &mut grad_positions, &mut grad_strain);
                let strain = grad_strain.as_flattened().as_flattened();
                both.push([geometry.as_flattened(), grad_positions.as_flattened(), strain].concat());
            }
            assert_close("geometry", &both[0], &both[1], 1e-11, 1e-12);
        }
    }
}

const K: usize = 4;

fn message_of<T: Real>(x: &[T], n: usize, topology: &Topology, bias: bool) -> Vec<T> {
    let (n_atoms, n_edges) = (topology.n_atoms(), topology.n_edges());
    let [nodes, edges, geometry, grad] = cut(x, message_lengths(n, topology));
    let filter = &layer::<T>(K, 3 * n, bias);
    let inputs = MessageInputs { n_features: n, nodes, edges, geometry, filter };
    let mut out = Vec::new();
    for is_fused in [true, false] {
        let mut sums = vec![T::nan(); n_atoms * 4 * n];
        let mut start = [vec![T::one(); n_atoms * 6 * n], vec![T::one(); n_edges * K], vec![T::one(); n_edges * 4]];
        let [nodes, edges, geometry] = &mut start;
        let mut grads = MessageGrads { nodes, edges, geometry };
        if is_fused {
            crate::ops::message::message(topology, &inputs, &mut sums);
            crate::ops::message::message_vjp(topology, &inputs, grad, &mut grads);
        } else {
            unfused::message(topology, &inputs, &mut sums);
            unfused::message_vjp(topology, &inputs, grad, &mut grads);
        }
        out.extend([&sums[..], &start.concat()].concat());
    }
    out
}

fn message_lengths(n: usize, topology: &Topology) -> [usize; 4] {
    let (n_atoms, n_edges) = (topology.n_atoms(), topology.n_edges());
    [n_atoms * 6 * n, n_edges * K, n_edges * 4, n_atoms * 4 * n]
}

#[test]
fn message_equals_its_unfused_chain() {
    for topology in &topologies() {
        for (n, bias) in [(3, true), (16, false)] {
            let lengths = message_lengths(n, topology);
            let run = (|x: &[f64]| message_of(x, n, topology, bias), |x: &[f32]| message_of(x, n, topology, bias));
            assert_same("message", &lengths, run);
        }
    }
}

fn update_of<T: Real>(x: &[T], atoms: usize, n: usize) -> Vec<T> {
    let [mixed, gates, grad_invariants, grad_change] = cut(x, update_lengths(atoms, n));
    let mut out = Vec::new();
    for is_fused in [true, false] {
        let (mut invariants, mut change) = (vec![T::nan(); atoms * 2 * n], vec![T::nan(); atoms * 4 * n]);
        let mut start = [mixed.to_vec(), gates.to_vec(), grad_invariants.to_vec()];
        let mut grad_mixed = mixed.to_vec();
        if is_fused {
            crate::ops::update::update_invariants(n, 1e-8, mixed, &mut invariants);
        } else {
            unfused::update_invariants(n, 1e-8, mixed, &mut invariants);
        }
        let inputs = GateInputs { n_features: n, gates, mixed, invariants: &invariants };
        let [mixed_out, gates_out, invariants_out] = &mut start;
        let mut grads = GateGrads { gates: gates_out, mixed: mixed_out, invariants: invariants_out };
        if is_fused {
            crate::ops::update::update_invariants_vjp(n, mixed, &invariants, grad_invariants, &mut grad_mixed);
            crate::ops::update::update_gate(&inputs, &mut change);
            crate::ops::update::update_gate_vjp(&inputs, grad_change, &mut grads);
        } else {
            unfused::update_invariants_vjp(n, mixed, &invariants, grad_invariants, &mut grad_mixed);
            unfused::update_gate(&inputs, &mut change);
            unfused::update_gate_vjp(&inputs, grad_change, &mut grads);
        }
        out.extend([invariants.clone(), change, grad_mixed, start.concat()].concat());
    }
    out
}

fn update_lengths(atoms: usize, n: usize) -> [usize; 4] {
    [atoms * 6 * n, atoms * 3 * n, atoms * 2 * n, atoms * 4 * n]
}

#[test]
fn update_equals_its_unfused_chain() {
    for atoms in ROWS {
        for n in [1, 16] {
            assert_same("update", &update_lengths(atoms, n), (|x| update_of(x, atoms, n), |x| update_of(x, atoms, n)));
        }
    }
}

#[test]
fn unfused_norms_have_a_finite_gradient_at_zero() {
    for epsilon in [0.0, 1e-8] {
        let (mut invariants, mut out) = ([f64::NAN; 2], [0.0; 6]);
        unfused::update_invariants(1, epsilon, &[0.0; 6], &mut invariants);
        unfused::update_invariants_vjp(1, &[0.0; 6], &invariants, &[1.0, 1.0], &mut out);
        assert_close("grad", &out, &[0.0; 6], 0.0, 0.0);
    }
}
