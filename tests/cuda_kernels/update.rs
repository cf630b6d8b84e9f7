use mlff::cuda::GateArrays;
use mlff::ops::update::{
    GateGrads, GateInputs, update_gate, update_gate_vjp, update_invariants, update_invariants_vjp,
};

use crate::bench::{Bench, Element, Random, SMALL, check, wide};

/// `skew` elements stand before each array: it does not start where packs of four may be read.
fn put<T: Element>(bench: &mut Bench, values: &[T], skew: usize) -> u64 {
    if values.is_empty() {
        return 0;
    }
    let padded: Vec<T> = std::iter::repeat_n(T::zero(), skew).chain(values.iter().copied()).collect();
    bench.put(&padded) + (skew * size_of::<T>()) as u64
}

fn case<T: Element>(n_atoms: usize, n: usize, skew: usize) {
    let mut random = Random(4);
    let mut mixed: Vec<T> = random.array(n_atoms * 6 * n);
    // An atom with zero vectors, as isolated ones have.
    mixed.iter_mut().take(6 * n).for_each(|x| *x = T::zero());
    let gates: Vec<T> = random.array(n_atoms * 3 * n);
    let grad_change: Vec<T> = random.array(n_atoms * 4 * n);
    let grad_invariants: Vec<T> = random.array(n_atoms * 2 * n);
    let starts: [Vec<T>; 4] = [3, 6, 2, 6].map(|width| random.array(n_atoms * width * n));
    // Epsilon zero takes the subgradient at the zero vectors.
    let epsilon = if skew == 0 { 1e-8 } else { 0.0 };

    let mut invariants = vec![T::zero(); n_atoms * 2 * n];
    update_invariants(n, epsilon, &mixed, &mut invariants);
    let mut change = vec![T::zero(); n_atoms * 4 * n];
    let inputs = GateInputs { n_features: n, gates: &gates, mixed: &mixed, invariants: &invariants };
    update_gate(&inputs, &mut change);
    let [mut a, mut b, mut c, mut d] = starts.clone();
    update_gate_vjp(&inputs, &grad_change, &mut GateGrads { gates: &mut a, mixed: &mut b, invariants: &mut c });
    update_invariants_vjp(n, &mixed, &invariants, &grad_invariants, &mut d);

    let wide_all = [&invariants, &change, &a, &b, &c, &d].map(|x| wide(x));
    let names = ["invariants", "change", "grad gates", "grad mixed", "grad invariants", "grad mixed of invariants"];
    let want: Vec<(&str, &[f64])> = names.into_iter().zip(wide_all.iter().map(|x| x.as_slice())).collect();
    let name = format!("update {n_atoms} atoms, {n} features, skew {skew}, {:?}", T::PRECISION);
    check::<T>(&name, SMALL, &want, |bench| {
        let nan = |width: usize| vec![T::nan(); n_atoms * width * n];
        let (mixed, gates) = (put(bench, &mixed, skew), put(bench, &gates, skew));
        let (out, invariants_in) = (put(bench, &nan(2), skew), put(bench, &invariants, skew));
        let (change, grad_change) = (put(bench, &nan(4), skew), put(bench, &grad_change, skew));
        let grad_invariants = put(bench, &grad_invariants, skew);
        let [a, b, c, d] = [0, 1, 2, 3].map(|k| put(bench, &starts[k], skew));
        let launcher = bench.launcher::<T>();
        let (atoms, features) = (n_atoms as u32, n as u32);
        let inputs = GateArrays { gates, mixed, invariants: invariants_in };
        bench.run(&launcher.update_invariants(atoms, features, epsilon, mixed, out));
        bench.run(&launcher.update_gate(atoms, features, &inputs, change));
        let grads = GateArrays { gates: a, mixed: b, invariants: c };
        bench.run(&launcher.update_gate_vjp(atoms, features, &inputs, grad_change, &grads));
        bench.run(&launcher.update_invariants_vjp(atoms, features, mixed, invariants_in, grad_invariants, d));
        [(out, 2), (change, 4), (a, 3), (b, 6), (c, 2), (d, 6)]
            .map(|(address, width)| bench.get::<T>(address, n_atoms * width * n))
            .to_vec()
    });
}

#[test]
fn update_cuda_matches_cpu() {
    for (n_atoms, n, skew) in [(0, 16, 0), (1, 1, 0), (37, 3, 0), (9, 128, 0), (5, 20, 1), (70, 18, 1)] {
        case::<f32>(n_atoms, n, skew);
        case::<f64>(n_atoms, n, skew);
    }
}
