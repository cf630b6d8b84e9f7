//! Structures of 1024 atoms and more, which all threads share; chunks that mix them with small ones; pools at the same time.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Barrier;

use common::random::{CUTOFF, Random, SPECIES, Shape, random_model};
use common::{deviation, worst};
use mlff::structure::Vec3;
use mlff::{BatchSize, EngineKind, Precision};
use mlff::{Evaluation, Potential, Structure, Want};

const SHAPE: Shape = Shape {
    n_features: 13,
    n_interactions: 2,
    n_rbf: 6,
    bessel: false,
    shared_filters: false,
    shared_interactions: false,
    epsilon: 1e-4,
};

fn potential(precision: Precision, engine: EngineKind) -> Potential {
    Potential::builder(random_model(SHAPE, 17)).precision(precision).engine(engine).build().unwrap()
}

fn pool(n_threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap()
}

/// Atoms on a jittered cubic grid of 1.7 Å, in any order; in a box where `periodic`.
fn grid(n_atoms: usize, periodic: bool, seed: u64) -> Structure {
    let (mut random, spacing) = (Random(seed), 1.7);
    let side = (1..).find(|side: &usize| side.pow(3) >= n_atoms).unwrap();
    let place = |k: usize, random: &mut Random| -> Vec3 {
        [k / side / side, k / side % side, k % side].map(|x| spacing * x as f64 + 0.3 * random.next())
    };
    let positions = random.order(n_atoms).into_iter().map(|k| place(k, &mut random)).collect();
    let numbers = (0..n_atoms).map(|_| *random.pick(&SPECIES)).collect();
    let edge = spacing * side as f64;
    let cell = periodic.then_some([[edge, 0.0, 0.0], [0.2, edge, 0.0], [0.0, -0.1, edge]]);
    Structure::new(numbers, positions, cell, [periodic; 3]).unwrap()
}

/// Sizes about the limit of 1024 atoms, large ones side by side, and small ones before, between and behind.
fn mixture() -> Vec<Structure> {
    let sizes = [5, 1023, 40, 40, 40, 1024, 1, 0, 1500, 2050, 70, 1025, 12, 3];
    sizes.iter().enumerate().map(|(k, &n)| grid(n, n > 0 && k % 3 == 2, k as u64)).collect()
}

fn alone(potential: &Potential, structures: &[Structure]) -> Vec<Evaluation> {
    structures.iter().map(|s| potential.evaluate_one(s, Want::ALL).unwrap()).collect()
}

fn all(potential: &Potential, structures: &[Structure]) -> Vec<Evaluation> {
    potential.evaluate(structures, Want::ALL).into_iter().map(Result::unwrap).collect()
}

/// The same numbers; zeros of the same sign too.
#[track_caller]
fn assert_same(got: &[Evaluation], want: &[Evaluation]) {
    assert_eq!(got.len(), want.len());
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(format!("{got:?}") == format!("{want:?}"), "structure {k}");
    }
}

#[test]
fn large_structures_are_the_same_bits_among_others_and_on_any_threads() {
    let structures = mixture();
    for precision in [Precision::F32, Precision::F64] {
        let potential = potential(precision, EngineKind::Adjoint);
        let want = pool(1).install(|| alone(&potential, &structures));
        assert!(want.iter().zip(&structures).all(|(e, s)| e.stress.is_some() == s.cell.is_some()));
        for n_threads in [1, 2, 3, 5] {
            assert_same(&pool(n_threads).install(|| all(&potential, &structures)), &want);
        }
        assert_same(&alone(&potential, &structures), &want);
        // Several of them, large ones too, in one batch.
        let threes = potential.clone().with_batch_size(BatchSize::Structures(3));
        assert_same(&pool(2).install(|| all(&threes, &structures)), &want);
        let backwards: Vec<Structure> = structures.iter().rev().cloned().collect();
        let mut got = all(&potential, &backwards);
        got.reverse();
        assert_same(&got, &want);
        // A session's tiles are others than those of a pool.
        for k in [5, 8] {
            let structure = &structures[k];
            let mut session = potential.session(structure).unwrap().with_threads(3).unwrap().with_stress(true);
            let mut forces = vec![[0.0; 3]; structure.n_atoms()];
            assert_eq!(session.compute(&structure.positions, None, &mut forces).unwrap(), want[k].energy);
            assert_eq!((Some(&forces), session.stress()), (want[k].forces.as_ref(), want[k].stress));
        }
    }
}

#[test]
fn large_structures_equal_batched_autograd() {
    let structures = [grid(1024, true, 3), grid(1200, false, 4)];
    let want = all(&potential(Precision::F64, EngineKind::Autograd), &structures);
    for (got, want) in
        pool(3).install(|| all(&potential(Precision::F64, EngineKind::Adjoint), &structures)).iter().zip(&want)
    {
        assert!(
            (got.energy - want.energy).abs() <= 1e-10 * want.energy.abs().max(1.0),
            "{} {}",
            got.energy,
            want.energy
        );
        let forces = |e: &Evaluation| e.forces.clone().unwrap().concat();
        assert!(deviation(&forces(got), &forces(want)) < 1e-10);
        assert_eq!(got.stress.is_some(), want.stress.is_some());
        if let (Some(got), Some(want)) = (got.stress, want.stress) {
            assert!(deviation(got.as_flattened(), want.as_flattened()) < 1e-10);
        }
    }
}

/// Molecules out of each other's reach are one structure or many.
#[test]
fn large_structures_of_far_molecules_add_up() {
    let potential = potential(Precision::F64, EngineKind::Adjoint);
    let molecules: Vec<Structure> = (0..60).map(|k| grid(18 + k % 3, false, k as u64)).collect();
    let mut together = Structure::default();
    for (k, molecule) in molecules.iter().enumerate() {
        let shift = [k / 16, k / 4 % 4, k % 4].map(|x| (10.0 + CUTOFF) * x as f64);
        together.atomic_numbers.extend(&molecule.atomic_numbers);
        together
            .positions
            .extend(molecule.positions.iter().map(|r| -> Vec3 { std::array::from_fn(|a| r[a] + shift[a]) }));
    }
    assert!(together.n_atoms() >= 1024, "{}", together.n_atoms());
    let parts = all(&potential, &molecules);
    let whole = potential.evaluate_one(&together, Want::ALL).unwrap();
    let sum: f64 = parts.iter().map(|e| e.energy).sum();
    assert!((whole.energy - sum).abs() < 1e-9 * sum.abs(), "{} {sum}", whole.energy);
    let forces: Vec<f64> = parts.iter().flat_map(|e| e.forces.clone().unwrap().concat()).collect();
    assert!(worst(&whole.forces.unwrap().concat(), &forces) < 1e-9);
}

/// Two pools evaluate with one potential, beside a session of it, at the same time and again and again.
#[test]
fn pools_at_the_same_time_do_not_disturb_each_other() {
    let structures = mixture();
    let small: Vec<Structure> = structures.iter().filter(|s| s.n_atoms() < 100).cloned().collect();
    for (engine, structures) in [(EngineKind::Adjoint, &structures), (EngineKind::Autograd, &small)] {
        let potential = potential(Precision::F32, engine);
        let want = all(&potential, structures);
        // Only here: one that panics later must not leave the others waiting.
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            for n_threads in [2, 3] {
                let (potential, want, start) = (&potential, &want, &start);
                scope.spawn(move || {
                    let pool = pool(n_threads);
                    start.wait();
                    for _ in 0..4 {
                        assert_same(&pool.install(|| all(potential, structures)), want);
                    }
                });
            }
            start.wait();
            if engine == EngineKind::Adjoint {
                let structure = &structures[2];
                let mut session = potential.session(structure).unwrap().with_threads(2).unwrap();
                let mut forces = vec![[0.0; 3]; structure.n_atoms()];
                for _ in 0..100 {
                    let energy = session.compute(&structure.positions, None, &mut forces).unwrap();
                    assert_eq!((energy, Some(&forces)), (want[2].energy, want[2].forces.as_ref()));
                }
            }
            assert_same(&all(&potential, structures), &want);
        });
    }
}
