use mlff::cuda::{EdgeGeometryArrays, EdgeGeometryVjpArrays};
use mlff::ops::edge_geometry::{edge_geometry, edge_geometry_vjp};
use mlff::structure::{Mat3, Vec3};

use crate::bench::{Element, Random, SMALL, check, topologies, wide};

/// Three structures (one without atoms), strained or not, periodic or not.
fn case<T: Element>(epsilon: f64, strained: bool, periodic: bool) {
    for topology in topologies() {
        let (n, n_edges) = (topology.n_atoms(), topology.n_edges());
        let mut random = Random(1);
        let half = n / 2;
        let atoms_of = [0, half as u32, half as u32, half as u32, half as u32, n as u32];
        let structure_of: Vec<u32> =
            topology.receivers.iter().map(|&i| if (i as usize) < half { 0 } else { 2 }).collect();
        let positions: Vec<Vec3> = (0..n).map(|_| std::array::from_fn(|_| 3.0 * random.next())).collect();
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
        let mut small = || if strained { 0.1 * random.next() } else { 0.0 };
        let strain: Vec<Mat3> = (0..3).map(|_| std::array::from_fn(|_| std::array::from_fn(|_| small()))).collect();
        let mut geometry = vec![[0.0; 4]; n_edges];
        edge_geometry(&topology, &positions, &offsets, &strain, &structure_of, epsilon, &mut geometry);
        let name = format!("edge_geometry {n} atoms, {:?}", T::PRECISION);
        check::<T>(&name, SMALL, &[("geometry", geometry.as_flattened())], |bench| {
            let out = bench.put(&vec![T::nan(); 4 * n_edges]);
            let arrays = EdgeGeometryArrays {
                receivers: bench.put(&topology.receivers),
                senders: bench.put(&topology.senders),
                structure_of: if strained { bench.put(&structure_of) } else { 0 },
                positions: bench.put(positions.as_flattened()),
                offsets: if periodic { bench.put(offsets.as_flattened()) } else { 0 },
                strain: if strained { bench.put(strain.as_flattened().as_flattened()) } else { 0 },
                geometry: out,
            };
            let launch = bench.launcher::<T>().edge_geometry(n_edges as u32, epsilon, &arrays);
            bench.run(&launch);
            vec![bench.get::<T>(out, 4 * n_edges)]
        });

        // What the VJP reads is rounded to T for both.
        let geometry: Vec<T> = geometry.iter().flatten().map(|&x| T::of(x)).collect();
        let grad: Vec<T> = random.array(4 * n_edges);
        let (start_positions, start_strain) = (random.array::<f64>(3 * n), random.array::<f64>(27));
        let mut grad_positions: Vec<Vec3> = start_positions.as_chunks().0.to_vec();
        let mut grad_strain: Vec<Mat3> = start_strain.as_chunks().0.as_chunks().0.to_vec();
        let (wide_geometry, wide_grad) = (wide(&geometry), wide(&grad));
        edge_geometry_vjp(
            &topology,
            wide_geometry.as_chunks().0,
            &structure_of,
            epsilon,
            wide_grad.as_chunks().0,
            &mut grad_positions,
            &mut grad_strain,
        );
        let want: [(&str, &[f64]); 2] =
            [("positions", grad_positions.as_flattened()), ("strain", grad_strain.as_flattened().as_flattened())];
        check::<T>(&format!("{name}, vjp"), SMALL, &want, |bench| {
            let (virials, out) = (bench.put(&vec![f64::NAN; 9 * n]), bench.put(&start_positions));
            let (of, strain_out) = (bench.put(&atoms_of), bench.put(&start_strain));
            let mut arrays = EdgeGeometryVjpArrays {
                edge_ptr: bench.put(&topology.edge_ptr),
                reverse_edge: bench.put(&topology.reverse_edge),
                geometry: bench.put(&geometry),
                grad_geometry: bench.put(&grad),
                grad_positions: out,
                virials,
            };
            let launcher = bench.launcher::<T>();
            bench.run(&launcher.edge_geometry_vjp(n as u32, epsilon, &arrays));
            bench.run(&launcher.edge_geometry_strain_vjp(3, of, virials, strain_out));
            let result = vec![bench.get::<f64>(out, 3 * n), bench.get::<f64>(strain_out, 27)];
            // Without strain, the same forces.
            let again = bench.put(&start_positions);
            (arrays.grad_positions, arrays.virials) = (again, 0);
            bench.run(&launcher.edge_geometry_vjp(n as u32, epsilon, &arrays));
            assert_eq!(bench.get::<f64>(again, 3 * n), result[0]);
            result
        });
    }
}

#[test]
fn edge_geometry_cuda_matches_cpu() {
    case::<f32>(0.0, true, true);
    case::<f64>(0.05, true, true);
    case::<f64>(0.0, false, false);
}
