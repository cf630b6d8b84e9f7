use mlff::cuda::unfused::scratch;
use mlff::ops::Topology;
use mlff::ops::choice::Variant;
use mlff::ops::example::cases::{BasisCase, Case};
use mlff::ops::radial_basis::{RadialBasis, RadialBasisSizes};

use crate::bench::{Element, Random, SMALL, check_example, example};

const CUTOFF: f64 = 4.0;

fn functions(n: usize, bessel: bool) -> RadialBasis {
    if bessel {
        return RadialBasis::Bessel {
            frequencies: (1..=n).map(|k| k as f64 * std::f64::consts::PI / CUTOFF).collect(),
        };
    }
    RadialBasis::Gaussian {
        centers: (0..n).map(|k| CUTOFF * k as f64 / n as f64).collect(),
        widths: (0..n).map(|k| 0.4 + 0.01 * k as f64).collect(),
    }
}

fn case<T: Element>(n_edges: usize, functions: &RadialBasis, stride: usize) {
    let n_rbf = functions.len();
    let sizes = RadialBasisSizes { n_edges: n_edges as u32, n_rbf: n_rbf as u32, stride: stride as u32 };
    // What lies between distances is not to be touched.
    let spread = |values: Vec<f64>| -> Vec<f64> {
        values.iter().flat_map(|&x| (0..stride).map(move |k| if k == 0 { x } else { -7.0 })).collect()
    };
    let mut random = Random(2);
    let example = example(sizes, &Topology::default(), 3, |array| match (array.name, functions) {
        ("first", RadialBasis::Gaussian { centers, .. }) => Some(centers.clone()),
        ("first", RadialBasis::Bessel { frequencies }) => Some(frequencies.clone()),
        ("widths", RadialBasis::Gaussian { widths, .. }) => Some(widths.clone()),
        ("widths", RadialBasis::Bessel { .. }) => Some(Vec::new()),
        ("distances", _) => {
            // Some beyond the cutoff, one at it.
            let mut all: Vec<f64> = (0..n_edges).map(|_| 2.6 + 2.3 * random.next()).collect();
            all.last_mut().into_iter().for_each(|last| *last = CUTOFF);
            Some(spread(all))
        }
        ("grad_distances", _) => Some(spread(random.array(n_edges))),
        _ => None,
    });
    let want = BasisCase::<T>::new(&example, CUTOFF).run(Variant::Fused);
    let name = format!("{functions:.1?}, {n_edges} edges");
    check_example::<T, _>(&name, SMALL, &example, &want, |bench, launcher, a| {
        bench.run(&launcher.radial_basis(&sizes, CUTOFF, a));
        bench.run(&launcher.radial_basis_vjp(&sizes, CUTOFF, a));
    });
    check_example::<T, _>(&format!("unfused, {name}"), SMALL, &example, &want, |bench, launcher, a| {
        let room = bench.room::<T>(scratch::radial_basis(&sizes));
        bench.steps(&launcher.unfused_radial_basis(&sizes, CUTOFF, a, room));
        let room = bench.room::<T>(scratch::radial_basis_vjp(&sizes));
        bench.steps(&launcher.unfused_radial_basis_vjp(&sizes, CUTOFF, a, room));
    });
}

#[test]
fn radial_basis_cuda_matches_cpu() {
    for (n_edges, n_rbf, stride) in [(0, 20, 1), (1, 1, 1), (300, 20, 4), (129, 70, 1), (64, 31, 1)] {
        for bessel in [false, true] {
            case::<f32>(n_edges, &functions(n_rbf, bessel), stride);
            case::<f64>(n_edges, &functions(n_rbf, bessel), stride);
        }
    }
}
