//! The chains of elementary kernels against the CPU's fused ops, forward and VJP.

use mlff::cuda::unfused::scratch;
use mlff::cuda::{
    Address, DenseArrays, DenseShape, DenseVjpArrays, EdgeGeometryArrays, EdgeGeometryVjpArrays, EdgeList, GateArrays,
    Launcher, MessageArrays, MessageGradArrays, MessageShape, RadialBasisArrays,
};
use mlff::ops::dense::{Activation, Linear, activation_dense, activation_dense_vjp};
use mlff::ops::edge_geometry::{edge_geometry, edge_geometry_vjp};
use mlff::ops::message::{MessageGrads, MessageInputs, message, message_vjp};
use mlff::ops::radial_basis::{RadialBasis, radial_basis, radial_basis_vjp};
use mlff::ops::update::{
    GateGrads, GateInputs, update_gate, update_gate_vjp, update_invariants, update_invariants_vjp,
};
use mlff::ops::{Real, Topology};
use mlff::structure::{Mat3, Vec3};

use crate::bench::{Bench, Element, Random, SMALL, check, topologies, wide};
use crate::dense::has_library;
use crate::radial_basis::{CUTOFF, functions};

/// So many elements, not one more, in which nothing may be relied on.
fn scratch_of<T: Element>(bench: &mut Bench, n: usize) -> Address {
    bench.put(&vec![T::nan(); n])
}

/// Products by the dense kernels and, in f32, by the library.
fn launchers<T: Element>() -> Vec<bool> {
    if T::PRECISION == mlff::Precision::F32 && has_library() { vec![false, true] } else { vec![false] }
}

fn named<'a>(names: &[&'a str], values: &'a [Vec<f64>]) -> Vec<(&'a str, &'a [f64])> {
    names.iter().copied().zip(values.iter().map(Vec::as_slice)).collect()
}

fn radial_case<T: Element>(n_edges: usize, functions: &RadialBasis, stride: usize) {
    let width = functions.len() + 1;
    let mut random = Random(2);
    // Some beyond the cutoff.
    let distances: Vec<T> = (0..n_edges).map(|_| T::of(2.6 + 2.3 * random.next())).collect();
    let mut basis = vec![T::zero(); n_edges * width];
    radial_basis(functions, CUTOFF, &distances, &mut basis);
    let (grad, start): (Vec<T>, Vec<T>) = (random.array(n_edges * width), random.array(n_edges));
    let mut grad_distances = start.clone();
    radial_basis_vjp(functions, CUTOFF, &distances, &grad, &mut grad_distances);
    let spread = |values: &[T]| -> Vec<T> {
        values.iter().flat_map(|&x| (0..stride).map(move |k| if k == 0 { x } else { T::of(-7.0) })).collect()
    };
    let of_t = |values: &[f64]| -> Vec<T> { values.iter().map(|&x| <T as Real>::of(x)).collect() };
    let want = [wide(&basis), wide(&spread(&grad_distances))];
    let name = format!("unfused radial_basis, {n_edges} edges, {:?}", T::PRECISION);
    check::<T>(&name, SMALL, &named(&["basis", "grad_distances"], &want), |bench| {
        let (first, widths) = match functions {
            RadialBasis::Gaussian { centers, widths } => (bench.put(&of_t(centers)), bench.put(&of_t(widths))),
            RadialBasis::Bessel { frequencies } => (bench.put(&of_t(frequencies)), 0),
        };
        let distances = bench.put(&spread(&distances));
        let arrays = RadialBasisArrays { first, widths, distances, stride: stride as u32 };
        let (out, grad_out) = (bench.put(&vec![T::nan(); n_edges * width]), bench.put(&spread(&start)));
        let grad = bench.put(&grad);
        let (n, n_rbf) = (n_edges as u32, functions.len() as u32);
        let launcher = bench.launcher::<T>();
        let room = scratch_of::<T>(bench, scratch::radial_basis(n_edges, functions.len()));
        bench.steps(&launcher.unfused_radial_basis(n, n_rbf, CUTOFF, &arrays, out, room));
        let room = scratch_of::<T>(bench, scratch::radial_basis_vjp(n_edges, functions.len()));
        bench.steps(&launcher.unfused_radial_basis_vjp(n, n_rbf, CUTOFF, &arrays, grad, grad_out, room));
        vec![bench.get::<T>(out, n_edges * width), bench.get::<T>(grad_out, n_edges * stride)]
    });
}

#[test]
fn unfused_radial_basis_cuda_matches_cpu() {
    for (n_edges, n_rbf, stride) in [(0, 20, 1), (1, 1, 1), (130, 40, 4)] {
        for bessel in [false, true] {
            radial_case::<f32>(n_edges, &functions(n_rbf, bessel), stride);
            radial_case::<f64>(n_edges, &functions(n_rbf, bessel), stride);
        }
    }
}

/// Two structures, strained and periodic or neither.
fn geometry_case(topology: &Topology, epsilon: f64, is_bent: bool) {
    let (n, n_edges) = (topology.n_atoms(), topology.n_edges());
    let mut random = Random(1);
    let half = n as u32 / 2;
    let structure_of: Vec<u32> = topology.receivers.iter().map(|&i| u32::from(i >= half)).collect();
    let mut triples = |n: usize, scale: f64| -> Vec<Vec3> {
        (0..n).map(|_| std::array::from_fn(|_| scale * random.next())).collect()
    };
    let bent = if is_bent { 1.0 } else { 0.0 };
    let (positions, offsets) = (triples(n, 3.0), triples(n_edges, bent));
    let strain: Vec<Mat3> = triples(6, 0.1 * bent).as_chunks().0.to_vec();
    let grad: Vec<[f64; 4]> = Random(3).array(4 * n_edges).as_chunks().0.to_vec();
    let (start, start_strain) = (triples(n, 1.0), triples(6, 1.0));
    let mut geometry = vec![[0.0; 4]; n_edges];
    edge_geometry(topology, &positions, &offsets, &strain, &structure_of, epsilon, &mut geometry);
    let (mut grad_positions, mut grad_strain) = (start.clone(), start_strain.as_chunks().0.to_vec());
    let out = (&mut grad_positions, &mut grad_strain);
    edge_geometry_vjp(topology, &geometry, &structure_of, epsilon, &grad, out.0, out.1);
    let want =
        [geometry.as_flattened(), grad_positions.as_flattened(), grad_strain.as_flattened().as_flattened()].map(wide);
    let names = ["geometry", "grad positions", "grad strain"];
    check::<f64>(&format!("unfused edge_geometry {n} atoms"), SMALL, &named(&names, &want), |bench| {
        let out = bench.put(&vec![f64::NAN; 4 * n_edges]);
        let receivers = bench.put(&topology.receivers);
        let arrays = EdgeGeometryArrays {
            receivers,
            senders: bench.put(&topology.senders),
            structure_of: bench.put(&structure_of),
            positions: bench.put(positions.as_flattened()),
            offsets: if is_bent { bench.put(offsets.as_flattened()) } else { 0 },
            strain: if is_bent { bench.put(strain.as_flattened().as_flattened()) } else { 0 },
            geometry: out,
        };
        // The edges' geometry is in f64 whatever the precision.
        let launcher = bench.launcher::<f32>();
        let room = scratch_of::<f64>(bench, scratch::edge_geometry(n_edges));
        bench.steps(&launcher.unfused_edge_geometry(n_edges as u32, epsilon, &arrays, room));

        let (grad_positions, grad_strain) = (bench.put(start.as_flattened()), bench.put(start_strain.as_flattened()));
        let (virials, atoms_of) = (bench.put(&vec![f64::NAN; 9 * n]), bench.put(&[0, half, half, n as u32]));
        let mut arrays = EdgeGeometryVjpArrays {
            edge_ptr: bench.put(&topology.edge_ptr),
            reverse_edge: bench.put(&topology.reverse_edge),
            geometry: bench.put(geometry.as_flattened()),
            grad_geometry: bench.put(grad.as_flattened()),
            grad_positions,
            virials,
        };
        let room = scratch_of::<f64>(bench, scratch::edge_geometry_vjp(n, n_edges));
        let (atoms, edges) = (n as u32, n_edges as u32);
        bench.steps(&launcher.unfused_edge_geometry_vjp(atoms, edges, epsilon, &arrays, room));
        bench.run(&launcher.edge_geometry_strain_vjp(2, atoms_of, virials, grad_strain));
        let result = vec![
            bench.get::<f64>(out, 4 * n_edges),
            bench.get::<f64>(grad_positions, 3 * n),
            bench.get::<f64>(grad_strain, 18),
        ];
        // Without strain, the same forces.
        let again = bench.put(start.as_flattened());
        (arrays.grad_positions, arrays.virials) = (again, 0);
        bench.steps(&launcher.unfused_edge_geometry_vjp(atoms, edges, epsilon, &arrays, room));
        assert_eq!(bench.get::<f64>(again, 3 * n), result[1]);
        result
    });
}

#[test]
fn unfused_edge_geometry_cuda_matches_cpu() {
    for topology in &topologies() {
        geometry_case(topology, 0.0, true);
        geometry_case(topology, 0.05, false);
    }
}

fn activation_case<T: Element>(rows: usize, n_in: usize, n_out: usize) {
    let mut random = Random(5);
    let weight = random.array::<T>(n_in * n_out);
    let layer = Linear { weight, bias: (rows > 1).then(|| random.array::<T>(n_out)), n_in, n_out };
    let (x, grad_y): (Vec<T>, Vec<T>) = (random.array(rows * n_in), random.array(rows * n_out));
    let start: Vec<T> = random.array(rows * n_in);
    let (mut y, mut grad_x) = (vec![T::nan(); rows * n_out], start.clone());
    activation_dense(&layer, Activation::Silu, &x, &mut y);
    activation_dense_vjp(&layer, Activation::Silu, &x, &grad_y, &mut grad_x);
    let want = [wide(&y), wide(&grad_x)];
    for has_library in launchers::<T>() {
        let name = format!("unfused activation_dense {rows} x {n_in} x {n_out}, {:?}", T::PRECISION);
        check::<T>(&name, SMALL, &named(&["y", "grad_x"], &want), |bench| {
            let launcher = Launcher { has_library, ..bench.launcher::<T>() };
            let (before, activation) = (Activation::Silu, Activation::Identity);
            let [n_rows, n_in_, n_out_] = [rows, n_in, n_out].map(|n| n as u32);
            let shape = DenseShape { n_rows, n_in: n_in_, n_out: n_out_, before, activation, save_slope: false };
            let bias = layer.bias.as_ref().map_or(0, |b| bench.put(b));
            let (x, weight, out) = (bench.put(&x), bench.put(&layer.weight), bench.put(&vec![T::nan(); rows * n_out]));
            let arrays = DenseArrays { x, weight, bias, residual: 0, y: out, saved: 0 };
            let room = scratch_of::<T>(bench, scratch::activation_dense(rows, n_in));
            bench.steps(&launcher.unfused_activation_dense(&shape, &arrays, room));
            let (grad_y, grad_x) = (bench.put(&grad_y), bench.put(&start));
            let arrays = DenseVjpArrays { grad_y, saved: 0, weight, x, grad_x, grad_residual: 0 };
            let room = scratch_of::<T>(bench, scratch::activation_dense_vjp(rows, n_in));
            bench.steps(&launcher.unfused_activation_dense_vjp(&shape, &arrays, room));
            vec![bench.get::<T>(out, rows * n_out), bench.get::<T>(grad_x, rows * n_in)]
        });
    }
}

#[test]
fn unfused_activation_dense_cuda_matches_cpu() {
    for (rows, n_in, n_out) in [(0, 4, 4), (1, 5, 2), (70, 20, 33)] {
        activation_case::<f32>(rows, n_in, n_out);
        activation_case::<f64>(rows, n_in, n_out);
    }
}

fn message_case<T: Element>(topology: &Topology, n: usize, k: usize, bias: bool) {
    let (n_atoms, n_edges) = (topology.n_atoms(), topology.n_edges());
    let mut random = Random(6);
    let weight = random.array::<T>(3 * n * k);
    let filter = Linear { weight, bias: bias.then(|| random.array::<T>(3 * n)), n_in: k, n_out: 3 * n };
    let lengths = [n_atoms * 6 * n, n_edges * k, n_edges * 4];
    let [nodes, edges, geometry] = lengths.map(|length| random.array::<T>(length));
    let starts = lengths.map(|length| random.array::<T>(length));
    let grad_sums: Vec<T> = random.array(n_atoms * 4 * n);
    let inputs = MessageInputs { n_features: n, nodes: &nodes, edges: &edges, geometry: &geometry, filter: &filter };
    let mut sums = vec![T::nan(); n_atoms * 4 * n];
    message(topology, &inputs, &mut sums);
    let [mut a, mut b, mut c] = starts.clone();
    message_vjp(topology, &inputs, &grad_sums, &mut MessageGrads { nodes: &mut a, edges: &mut b, geometry: &mut c });
    let want = [sums, a, b, c].map(|x| wide(&x));
    let names = ["sums", "grad nodes", "grad edges", "grad geometry"];
    for has_library in launchers::<T>() {
        let name = format!("unfused message {n_atoms} atoms, {n_edges} edges, {n} features, {:?}", T::PRECISION);
        check::<T>(&name, SMALL, &named(&names, &want), |bench| {
            let launcher = Launcher { has_library, ..bench.launcher::<T>() };
            let arrays = MessageArrays {
                edge_ptr: bench.put(&topology.edge_ptr),
                senders: bench.put(&topology.senders),
                reverse_edge: bench.put(&topology.reverse_edge),
                nodes: bench.put(&nodes),
                edges: bench.put(&edges),
                geometry: bench.put(&geometry),
                weight: bench.put(&filter.weight),
                bias: filter.bias.as_ref().map_or(0, |bias| bench.put(bias)),
            };
            let shape = MessageShape { n_atoms: n_atoms as u32, n_features: n as u32, n_edge_features: k as u32 };
            let list = EdgeList { n_edges: n_edges as u32, receivers: bench.put(&topology.receivers) };
            let out = bench.put(&vec![T::nan(); n_atoms * 4 * n]);
            let grad_sums = bench.put(&grad_sums);
            let [nodes, edges, geometry] = [0, 1, 2].map(|k| bench.put(&starts[k]));
            let room = scratch_of::<T>(bench, scratch::message(n_atoms, n_edges, n));
            bench.steps(&launcher.unfused_message(&shape, &list, &arrays, out, room));
            let grads = MessageGradArrays { nodes, edges, geometry };
            let room = scratch_of::<T>(bench, scratch::message_vjp(n_atoms, n_edges, n));
            bench.steps(&launcher.unfused_message_vjp(&shape, &list, &arrays, grad_sums, &grads, room));
            let mut all = vec![bench.get::<T>(out, n_atoms * 4 * n)];
            all.extend([nodes, edges, geometry].into_iter().zip(lengths).map(|(array, n)| bench.get::<T>(array, n)));
            all
        });
    }
}

#[test]
fn unfused_message_cuda_matches_cpu() {
    for (k, topology) in topologies().iter().enumerate() {
        message_case::<f32>(topology, 8, 5, k % 2 == 0);
        message_case::<f64>(topology, 35, 4, k % 2 == 1);
    }
}

fn update_case<T: Element>(n_atoms: usize, n: usize, epsilon: f64) {
    let mut random = Random(4);
    let mut mixed: Vec<T> = random.array(n_atoms * 6 * n);
    // An atom with zero vectors, as isolated ones have.
    mixed.iter_mut().take(6 * n).for_each(|x| *x = T::zero());
    let [gates, grad_invariants, grad_change] = [3, 2, 4].map(|width| random.array::<T>(n_atoms * width * n));
    let starts = [3, 6, 2, 6].map(|width| random.array::<T>(n_atoms * width * n));
    let mut invariants = vec![T::nan(); n_atoms * 2 * n];
    update_invariants(n, epsilon, &mixed, &mut invariants);
    let mut change = vec![T::nan(); n_atoms * 4 * n];
    let inputs = GateInputs { n_features: n, gates: &gates, mixed: &mixed, invariants: &invariants };
    update_gate(&inputs, &mut change);
    let [mut a, mut b, mut c, mut d] = starts.clone();
    update_gate_vjp(&inputs, &grad_change, &mut GateGrads { gates: &mut a, mixed: &mut b, invariants: &mut c });
    update_invariants_vjp(n, &mixed, &invariants, &grad_invariants, &mut d);
    let want = [&invariants, &change, &a, &b, &c, &d].map(|x| wide(x));
    let names = ["invariants", "change", "grad gates", "grad mixed", "grad invariants", "grad mixed of invariants"];
    let name = format!("unfused update {n_atoms} atoms, {n} features, {:?}", T::PRECISION);
    check::<T>(&name, SMALL, &named(&names, &want), |bench| {
        let nan = |width: usize| vec![T::nan(); n_atoms * width * n];
        let (mixed, out, change) = (bench.put(&mixed), bench.put(&nan(2)), bench.put(&nan(4)));
        let inputs = GateArrays { gates: bench.put(&gates), mixed, invariants: bench.put(&invariants) };
        let (grad_change, grad_invariants) = (bench.put(&grad_change), bench.put(&grad_invariants));
        let [a, b, c, d] = [0, 1, 2, 3].map(|k| bench.put(&starts[k]));
        let grads = GateArrays { gates: a, mixed: b, invariants: c };
        let (launcher, atoms, features) = (bench.launcher::<T>(), n_atoms as u32, n as u32);
        let room = scratch_of::<T>(bench, scratch::update_invariants(n_atoms, n));
        bench.steps(&launcher.unfused_update_invariants(atoms, features, epsilon, mixed, out, room));
        let room = scratch_of::<T>(bench, scratch::update_gate(n_atoms, n));
        bench.steps(&launcher.unfused_update_gate(atoms, features, &inputs, change, room));
        let room = scratch_of::<T>(bench, scratch::update_gate_vjp(n_atoms, n));
        bench.steps(&launcher.unfused_update_gate_vjp(atoms, features, &inputs, grad_change, &grads, room));
        let room = scratch_of::<T>(bench, scratch::update_invariants_vjp(n_atoms, n));
        let norms = inputs.invariants;
        let vjp = launcher.unfused_update_invariants_vjp(atoms, features, mixed, norms, grad_invariants, d, room);
        bench.steps(&vjp);
        [(out, 2), (change, 4), (a, 3), (b, 6), (c, 2), (d, 6)]
            .map(|(address, width)| bench.get::<T>(address, n_atoms * width * n))
            .to_vec()
    });
}

#[test]
fn unfused_update_cuda_matches_cpu() {
    for (n_atoms, n) in [(0, 16), (1, 1), (37, 3), (9, 32)] {
        // Epsilon zero takes the subgradient at the zero vectors.
        for epsilon in [0.0, 1e-8] {
            update_case::<f32>(n_atoms, n, epsilon);
            update_case::<f64>(n_atoms, n, epsilon);
        }
    }
}
