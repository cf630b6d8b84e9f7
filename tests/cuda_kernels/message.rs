use mlff::Precision;
use mlff::cuda::unfused::scratch;
use mlff::cuda::{Launcher, Limits};
use mlff::ops::Topology;
use mlff::ops::choice::Variant;
use mlff::ops::example::Example;
use mlff::ops::example::cases::{Case, MessageCase, Results};
use mlff::ops::message::{MessageArrays, MessageSizes};

use crate::bench::{Element, SMALL, check_example, example, topologies, topology};
use crate::dense::launchers;

/// Shared memory of a large device: one tile of features.
const LARGE: Limits = Limits { multiprocessors: 1, shared_bytes: 227 * 1024, has_clusters: false };

/// An example, and what the operation makes of it on the processor.
fn case<T: Element>(topology: &Topology, n: usize, k: usize, bias: bool) -> (Example<MessageSizes>, Results) {
    let [n_atoms, n_edges, n_features, n_edge_features] =
        [topology.n_atoms(), topology.n_edges(), n, k].map(|n| n as u32);
    let sizes = MessageSizes { n_atoms, n_edges, n_features, n_edge_features };
    let absent = |name: &str| name == "bias" && !bias;
    let example = example(sizes, topology, 6, |array| absent(array.name).then(Vec::new));
    let want = MessageCase::<T>::new(topology, &example).run(Variant::Fused);
    (example, want)
}

fn name(s: &MessageSizes) -> String {
    format!("{} atoms, {} edges, {} features, {} edge features", s.n_atoms, s.n_edges, s.n_features, s.n_edge_features)
}

fn fused<T: Element>(topology: &Topology, n: usize, k: usize, bias: bool, limits: Limits) {
    let (example, want) = case::<T>(topology, n, k, bias);
    let s = example.sizes;
    check_example::<T, _>(&name(&s), limits, &example, &want, |bench, launcher, a| {
        bench.run(&launcher.message(&s, a).unwrap());
        bench.run(&launcher.message_vjp(&s, a).unwrap());
    });
}

fn unfused<T: Element>(topology: &Topology, n: usize, k: usize, bias: bool) {
    let (example, want) = case::<T>(topology, n, k, bias);
    let s = example.sizes;
    for has_library in launchers::<T>() {
        check_example::<T, _>(&format!("unfused, {}", name(&s)), SMALL, &example, &want, |bench, launcher, a| {
            let launcher = Launcher { has_library, ..launcher.clone() };
            let room = bench.room::<T>(scratch::message(&s));
            bench.steps(&launcher.unfused_message(&s, a, room));
            let room = bench.room::<T>(scratch::message_vjp(&s));
            bench.steps(&launcher.unfused_message_vjp(&s, a, room));
        });
    }
}

#[test]
fn message_cuda_matches_cpu() {
    for (k, topology) in topologies().iter().enumerate() {
        fused::<f32>(topology, 5, 4, k % 2 == 0, SMALL);
        fused::<f64>(topology, 33, 21, k % 2 == 1, SMALL);
    }
}

#[test]
fn message_cuda_of_every_width_matches_cpu() {
    let molecule = topology(12, 0.8, 20, 7);
    // One tile; several tiles of features with a rest; several chunks of edge features; one feature.
    for (n, k, limits) in [(128, 21, LARGE), (128, 21, SMALL), (200, 21, LARGE), (48, 50, SMALL), (1, 1, SMALL)] {
        fused::<f32>(&molecule, n, k, true, limits);
        fused::<f64>(&molecule, n, k, false, limits);
    }
    // Many edge features leave room for few features: less than a warp of them.
    fused::<f32>(&topology(5, 1.0, 9, 8), 40, 301, true, SMALL);
}

#[test]
fn message_cuda_refuses_what_does_not_fit() {
    let sizes = MessageSizes { n_atoms: 9, n_edges: 0, n_features: 8, n_edge_features: 5000 };
    let launcher = Launcher::new(Precision::F64, SMALL);
    let error = launcher.message(&sizes, &MessageArrays::default()).unwrap_err().to_string();
    assert!(error.starts_with("message_forward: 5000 edge features need"), "{error}");
}

#[test]
fn unfused_message_cuda_matches_cpu() {
    for (k, topology) in topologies().iter().enumerate() {
        unfused::<f32>(topology, 8, 5, k % 2 == 0);
        unfused::<f64>(topology, 35, 4, k % 2 == 1);
    }
}
