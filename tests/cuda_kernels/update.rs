use mlff::cuda::unfused::scratch;
use mlff::ops::Topology;
use mlff::ops::choice::Variant;
use mlff::ops::example::Example;
use mlff::ops::example::cases::{Case as _, GateCase, InvariantsCase, Results};
use mlff::ops::update::{GateSizes, InvariantsSizes};

use crate::bench::{Element, Random, SMALL, check_example, check_skewed, example};

/// Examples of both steps, on the same mixed vectors, and what the processor makes of them.
struct Case {
    invariants: Example<InvariantsSizes>,
    gate: Example<GateSizes>,
    want_invariants: Results,
    want_gate: Results,
}

impl Case {
    fn new<T: Element>(n_atoms: usize, n: usize, epsilon: f64) -> Self {
        let (rows, n_features, none) = (n_atoms as u32, n as u32, Topology::default());
        // An atom with zero vectors, as isolated ones have.
        let mut mixed: Vec<f64> = Random(6).array(n_atoms * 6 * n);
        mixed.iter_mut().take(6 * n).for_each(|x| *x = 0.0);
        let is_mixed = |name: &str| (name == "mixed").then(|| mixed.clone());
        let sizes = InvariantsSizes { n_atoms: rows, n_features };
        let first = example(sizes, &none, 4, |array| is_mixed(array.name));
        let want_invariants = InvariantsCase::<T>::new(&first, epsilon).run(Variant::Fused);
        let fill = |name: &str| match name {
            "mixed" => Some(mixed.clone()),
            "invariants" => Some(want_invariants[0].1.clone()),
            _ => None,
        };
        let gate = example(GateSizes { n_atoms: rows, n_features }, &none, 5, |array| fill(array.name));
        let want_gate = GateCase::<T>::new(&gate).run(Variant::Fused);
        Case { invariants: first, gate, want_invariants, want_gate }
    }

    /// `skew` elements stand before each array: it does not start where packs of four may be read.
    fn fused<T: Element>(n_atoms: usize, n: usize, skew: usize) {
        // Epsilon zero takes the subgradient at the zero vectors.
        let epsilon = if skew == 0 { 1e-8 } else { 0.0 };
        let case = Case::new::<T>(n_atoms, n, epsilon);
        let name = format!("{n_atoms} atoms, {n} features, skew {skew}");
        check_skewed::<T, _>(&name, SMALL, skew, &case.invariants, &case.want_invariants, |bench, launcher, a| {
            let sizes = &case.invariants.sizes;
            bench.run(&launcher.update_invariants(sizes, epsilon, a));
            bench.run(&launcher.update_invariants_vjp(sizes, a));
        });
        check_skewed::<T, _>(&name, SMALL, skew, &case.gate, &case.want_gate, |bench, launcher, a| {
            bench.run(&launcher.update_gate(&case.gate.sizes, a));
            bench.run(&launcher.update_gate_vjp(&case.gate.sizes, a));
        });
    }

    fn unfused<T: Element>(n_atoms: usize, n: usize, epsilon: f64) {
        let case = Case::new::<T>(n_atoms, n, epsilon);
        let name = format!("unfused, {n_atoms} atoms, {n} features");
        check_example::<T, _>(&name, SMALL, &case.invariants, &case.want_invariants, |bench, launcher, a| {
            let sizes = &case.invariants.sizes;
            let room = bench.room::<T>(scratch::update_invariants(sizes));
            bench.steps(&launcher.unfused_update_invariants(sizes, epsilon, a, room));
            let room = bench.room::<T>(scratch::update_invariants_vjp(sizes));
            bench.steps(&launcher.unfused_update_invariants_vjp(sizes, a, room));
        });
        check_example::<T, _>(&name, SMALL, &case.gate, &case.want_gate, |bench, launcher, a| {
            let room = bench.room::<T>(scratch::update_gate(&case.gate.sizes));
            bench.steps(&launcher.unfused_update_gate(&case.gate.sizes, a, room));
            let room = bench.room::<T>(scratch::update_gate_vjp(&case.gate.sizes));
            bench.steps(&launcher.unfused_update_gate_vjp(&case.gate.sizes, a, room));
        });
    }
}

#[test]
fn update_cuda_matches_cpu() {
    for (n_atoms, n, skew) in [(0, 16, 0), (1, 1, 0), (37, 3, 0), (9, 128, 0), (5, 20, 1), (70, 18, 1)] {
        Case::fused::<f32>(n_atoms, n, skew);
        Case::fused::<f64>(n_atoms, n, skew);
    }
}

#[test]
fn unfused_update_cuda_matches_cpu() {
    for (n_atoms, n) in [(0, 16), (1, 1), (37, 3), (9, 32)] {
        // Epsilon zero takes the subgradient at the zero vectors.
        for epsilon in [0.0, 1e-8] {
            Case::unfused::<f32>(n_atoms, n, epsilon);
            Case::unfused::<f64>(n_atoms, n, epsilon);
        }
    }
}
