use mlff::Precision;
use mlff::cuda::{Launcher, Limits, MessageArrays, MessageGradArrays, MessageShape};
use mlff::ops::Topology;
use mlff::ops::dense::Linear;
use mlff::ops::message::{MessageGrads, MessageInputs, message, message_vjp};

use crate::bench::{Element, Random, SMALL, check, topologies, topology, wide};

/// Shared memory of a large device: one tile of features.
const LARGE: Limits = Limits { multiprocessors: 1, shared_bytes: 227 * 1024, has_clusters: false };

fn case<T: Element>(topology: &Topology, n: usize, k: usize, bias: bool, limits: Limits) {
    let (n_atoms, n_edges) = (topology.n_atoms(), topology.n_edges());
    let mut random = Random(6);
    let filter = Linear {
        weight: random.array::<T>(3 * n * k),
        bias: bias.then(|| random.array::<T>(3 * n)),
        n_in: k,
        n_out: 3 * n,
    };
    let nodes: Vec<T> = random.array(n_atoms * 6 * n);
    let edges: Vec<T> = random.array(n_edges * k);
    let geometry: Vec<T> = random.array(n_edges * 4);
    let grad_sums: Vec<T> = random.array(n_atoms * 4 * n);
    let starts: [Vec<T>; 3] = [n_atoms * 6 * n, n_edges * k, n_edges * 4].map(|length| random.array(length));

    let inputs = MessageInputs { n_features: n, nodes: &nodes, edges: &edges, geometry: &geometry, filter: &filter };
    let mut sums = vec![T::nan(); n_atoms * 4 * n];
    message(topology, &inputs, &mut sums);
    let [mut a, mut b, mut c] = starts.clone();
    message_vjp(topology, &inputs, &grad_sums, &mut MessageGrads { nodes: &mut a, edges: &mut b, geometry: &mut c });
    let all = [&sums, &a, &b, &c].map(|x| wide(x));
    let names = ["sums", "grad nodes", "grad edges", "grad geometry"];
    let want: Vec<(&str, &[f64])> = names.into_iter().zip(all.iter().map(|x| x.as_slice())).collect();
    let name = format!("message {n_atoms} atoms, {n_edges} edges, {n} features, {k} edge features, {:?}", T::PRECISION);
    check::<T>(&name, limits, &want, |bench| {
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
        let out = bench.put(&vec![T::nan(); n_atoms * 4 * n]);
        let grad_sums = bench.put(&grad_sums);
        let [a, b, c] = [0, 1, 2].map(|k| bench.put(&starts[k]));
        let launcher = bench.launcher::<T>();
        bench.run(&launcher.message(&shape, &arrays, out).unwrap());
        let grads = MessageGradArrays { nodes: a, edges: b, geometry: c };
        bench.run(&launcher.message_vjp(&shape, &arrays, grad_sums, &grads).unwrap());
        vec![
            bench.get::<T>(out, n_atoms * 4 * n),
            bench.get::<T>(a, n_atoms * 6 * n),
            bench.get::<T>(b, n_edges * k),
            bench.get::<T>(c, n_edges * 4),
        ]
    });
}

#[test]
fn message_cuda_matches_cpu() {
    for (k, topology) in topologies().iter().enumerate() {
        case::<f32>(topology, 5, 4, k % 2 == 0, SMALL);
        case::<f64>(topology, 33, 21, k % 2 == 1, SMALL);
    }
}

#[test]
fn message_cuda_of_every_width_matches_cpu() {
    let molecule = topology(12, 0.8, 20, 7);
    // One tile; several tiles of features with a rest; several chunks of edge features; one feature.
    for (n, k, limits) in [(128, 21, LARGE), (128, 21, SMALL), (200, 21, LARGE), (48, 50, SMALL), (1, 1, SMALL)] {
        case::<f32>(&molecule, n, k, true, limits);
        case::<f64>(&molecule, n, k, false, limits);
    }
    // Many edge features leave room for few features: less than a warp of them.
    case::<f32>(&topology(5, 1.0, 9, 8), 40, 301, true, SMALL);
}

#[test]
fn message_cuda_refuses_what_does_not_fit() {
    let shape = MessageShape { n_atoms: 9, n_features: 8, n_edge_features: 5000 };
    let launcher = Launcher::new(Precision::F64, SMALL);
    let error = launcher.message(&shape, &MessageArrays::default(), 0).unwrap_err().to_string();
    assert!(error.starts_with("message_forward: 5000 edge features need"), "{error}");
}
