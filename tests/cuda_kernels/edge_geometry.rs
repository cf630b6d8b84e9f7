use mlff::cuda::Launcher;
use mlff::cuda::unfused::scratch;
use mlff::ops::Topology;
use mlff::ops::choice::Variant;
use mlff::ops::edge_geometry::{EdgeGeometryArrays, EdgeGeometrySizes};
use mlff::ops::example::Example;
use mlff::ops::example::cases::{Case, GeometryCase, Results};

use crate::bench::{Element, Random, SMALL, check_example, example, topologies, wide};

/// Three structures (one without atoms), strained or not, periodic or not.
fn arrays(topology: &Topology, strained: bool, periodic: bool) -> Example<EdgeGeometrySizes> {
    let (n, n_edges) = (topology.n_atoms(), topology.n_edges());
    let mut random = Random(1);
    let half = n / 2;
    let mut offsets = vec![[0.0; 3]; n_edges];
    if periodic {
        for e in 0..n_edges {
            let reverse = topology.reverse_edge[e] as usize;
            if reverse > e {
                offsets[e] = std::array::from_fn(|_| random.next());
                offsets[reverse] = offsets[e].map(|x| -x);
            }
        }
    }
    let sizes = EdgeGeometrySizes { n_atoms: n as u32, n_edges: n_edges as u32, n_structures: 3 };
    example(sizes, topology, 2, |array| match array.name {
        "atoms_of" => Some([0, half, half, half, half, n].map(|x| x as f64).to_vec()),
        "structure_of" => {
            Some(topology.receivers.iter().map(|&i| if (i as usize) < half { 0.0 } else { 2.0 }).collect())
        }
        "positions" => Some((0..3 * n).map(|_| 3.0 * random.next()).collect()),
        "offsets" if !periodic => Some(Vec::new()),
        "offsets" => Some(offsets.as_flattened().to_vec()),
        "strain" if !strained => Some(Vec::new()),
        "strain" => Some((0..27).map(|_| 0.1 * random.next()).collect()),
        _ => None,
    })
}

fn fused<T: Element>(epsilon: f64, strained: bool, periodic: bool) {
    for topology in &topologies() {
        let of = arrays(topology, strained, periodic);
        let s = of.sizes;
        let want: Results = GeometryCase::new(topology, &of, epsilon).run(Variant::Fused)[..1].to_vec();
        let (name, geometry) = (format!("{} atoms", s.n_atoms), want[0].1.clone());
        check_example::<T, _>(&name, SMALL, &of, &want, |bench, launcher, a| {
            bench.run(&launcher.edge_geometry(&s, epsilon, a));
        });

        // What the VJP reads is rounded to T for both.
        let rounded = |values: &[f64]| wide(&values.iter().map(|&x| T::of(x)).collect::<Vec<T>>());
        let of = Example::new(s, topology, |array| match array.name {
            "geometry" => Some(rounded(&geometry)),
            "grad_geometry" => Some(rounded(of.get("grad_geometry"))),
            name => Some(of.get(name).to_vec()),
        });
        let mut case = GeometryCase::new(topology, &of, epsilon);
        case.vjp(Variant::Fused);
        let want: Results = case.results()[1..].to_vec();
        check_example::<T, _>(&format!("vjp, {name}"), SMALL, &of, &want, |bench, launcher, a| {
            bench.run(&launcher.edge_geometry_vjp(&s, epsilon, a));
            bench.run(&launcher.edge_geometry_strain_vjp(&s, a));
            // Without strain, the same forces.
            let again = bench.put(of.get("grad_positions"));
            let without = EdgeGeometryArrays { grad_positions: again, virials: 0, ..*a };
            bench.run(&launcher.edge_geometry_vjp(&s, epsilon, &without));
            let n = 3 * topology.n_atoms();
            assert_eq!(bench.get::<f64>(again, n), bench.get::<f64>(a.grad_positions, n));
        });
    }
}

/// In f64 whatever the precision.
fn unfused(epsilon: f64, strained: bool, periodic: bool) {
    for topology in &topologies() {
        let (of, n) = (arrays(topology, strained, periodic), topology.n_atoms());
        let s = of.sizes;
        let want = GeometryCase::new(topology, &of, epsilon).run(Variant::Fused);
        check_example::<f64, _>(&format!("unfused, {n} atoms"), SMALL, &of, &want, |bench, launcher, a| {
            let launcher = Launcher { precision: mlff::Precision::F32, ..launcher.clone() };
            let room = bench.room::<f64>(scratch::edge_geometry(&s));
            bench.steps(&launcher.unfused_edge_geometry(&s, epsilon, a, room));
            let room = bench.room::<f64>(scratch::edge_geometry_vjp(&s));
            bench.steps(&launcher.unfused_edge_geometry_vjp(&s, epsilon, a, room));
            bench.run(&launcher.edge_geometry_strain_vjp(&s, a));
            // Without strain, the same forces.
            let again = bench.put(of.get("grad_positions"));
            let without = EdgeGeometryArrays { grad_positions: again, virials: 0, ..*a };
            bench.steps(&launcher.unfused_edge_geometry_vjp(&s, epsilon, &without, room));
            assert_eq!(bench.get::<f64>(again, 3 * n), bench.get::<f64>(a.grad_positions, 3 * n));
        });
    }
}

#[test]
fn edge_geometry_cuda_matches_cpu() {
    fused::<f32>(0.0, true, true);
    fused::<f64>(0.05, true, true);
    fused::<f64>(0.0, false, false);
}

#[test]
fn unfused_edge_geometry_cuda_matches_cpu() {
    unfused(0.0, true, true);
    unfused(0.05, false, false);
}
