use mlff::cuda::RadialBasisArrays;
use mlff::ops::Real;
use mlff::ops::radial_basis::{RadialBasis, radial_basis, radial_basis_vjp};

use crate::bench::{Element, Random, SMALL, check, wide};

pub const CUTOFF: f64 = 4.0;

pub fn functions(n: usize, bessel: bool) -> RadialBasis {
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
    let width = functions.len() + 1;
    let mut random = Random(2);
    // Some beyond the cutoff, one at it.
    let mut distances: Vec<T> = (0..n_edges).map(|_| T::of(2.6 + 2.3 * random.next())).collect();
    if let Some(last) = distances.last_mut() {
        *last = T::of(CUTOFF);
    }
    let mut basis = vec![T::zero(); n_edges * width];
    radial_basis(functions, CUTOFF, &distances, &mut basis);
    let grad: Vec<T> = random.array(n_edges * width);
    let start: Vec<T> = random.array(n_edges);
    let mut grad_distances = start.clone();
    radial_basis_vjp(functions, CUTOFF, &distances, &grad, &mut grad_distances);

    let spread = |values: &[T]| -> Vec<T> {
        values.iter().flat_map(|&x| (0..stride).map(move |k| if k == 0 { x } else { T::of(-7.0) })).collect()
    };
    let of_t = |values: &[f64]| -> Vec<T> { values.iter().map(|&x| <T as Real>::of(x)).collect() };
    let name = format!("radial_basis {functions:.1?}, {n_edges} edges, {:?}", T::PRECISION);
    let want_grad = wide(&spread(&grad_distances));
    let want_basis = wide(&basis);
    check::<T>(&name, SMALL, &[("basis", &want_basis), ("grad_distances", &want_grad)], |bench| {
        let (first, widths) = match functions {
            RadialBasis::Gaussian { centers, widths } => (bench.put(&of_t(centers)), bench.put(&of_t(widths))),
            RadialBasis::Bessel { frequencies } => (bench.put(&of_t(frequencies)), 0),
        };
        let distances = bench.put(&spread(&distances));
        let arrays = RadialBasisArrays { first, widths, distances, stride: stride as u32 };
        let (out, grad_out) = (bench.put(&vec![T::nan(); n_edges * width]), bench.put(&spread(&start)));
        let grad = bench.put(&grad);
        let launcher = bench.launcher::<T>();
        let (n_edges_, n_rbf) = (n_edges as u32, functions.len() as u32);
        bench.run(&launcher.radial_basis(n_edges_, n_rbf, CUTOFF, &arrays, out));
        bench.run(&launcher.radial_basis_vjp(n_edges_, n_rbf, CUTOFF, &arrays, grad, grad_out));
        vec![bench.get::<T>(out, n_edges * width), bench.get::<T>(grad_out, n_edges * stride)]
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
