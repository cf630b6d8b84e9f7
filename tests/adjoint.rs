//! The adjoint engine against batched autograd, and against itself: batches, threads, instruction sets.

#![allow(clippy::unwrap_used)]

mod common;

use common::random::{Shape, crystals, molecules, random_model, shapes};
use common::worst;
use mlff::batch::{PackedBatch, Preparer};
use mlff::cpu::lanes::Lanes;
use mlff::engine::adjoint::{Adjoint, Crew, FilterKind, Instructions, Threads, Workspace};
use mlff::engine::{Evaluation, Want};
use mlff::potential::{BatchSize, EngineKind, Precision};
use mlff::{Error, Potential, Structure};
use proptest::prelude::*;

/// Features 8 to 128, odd ones too, one to four layers.
fn wide_shapes() -> impl Strategy<Value = Shape> {
    (shapes(), prop_oneof![8..33usize, 33..129usize], 1..5usize, 1..21usize)
        .prop_map(|(shape, n_features, n_interactions, n_rbf)| Shape { n_features, n_interactions, n_rbf, ..shape })
}

/// Molecules, crystals, isolated atoms, structures without atoms, in any order.
fn mixtures() -> impl Strategy<Value = Vec<Structure>> {
    let empty = Just(Structure::default());
    prop::collection::vec(prop_oneof![4 => molecules(12), 2 => crystals(), 1 => molecules(1), 1 => empty], 1..6)
}

fn assert_equal(a: &Evaluation, b: &Evaluation) {
    assert_eq!(a, b);
}

fn assert_near(got: &Evaluation, want: &Evaluation, limit: f64) {
    let scale = want.energy.abs().max(1.0);
    assert!((got.energy - want.energy).abs() <= limit * scale, "energy {} {}", got.energy, want.energy);
    assert!(worst(&got.atomic_energies, &want.atomic_energies) <= limit * scale);
    let forces = |e: &Evaluation| e.forces.clone().unwrap().concat();
    let scale = forces(want).iter().fold(1.0, |a: f64, f| a.max(f.abs()));
    let error = worst(&forces(got), &forces(want));
    assert!(error <= limit * scale, "forces: {error:e}, largest {scale:e}");
    assert_eq!(got.stress.is_some(), want.stress.is_some());
    if let (Some(got), Some(want)) = (&got.stress, &want.stress) {
        let scale = want.as_flattened().iter().fold(1.0, |a: f64, f| a.max(f.abs()));
        let error = worst(got.as_flattened(), want.as_flattened());
        assert!(error <= limit * scale, "stress: {error:e}, largest {scale:e}");
    }
}

fn evaluate<T: Lanes>(engine: &Adjoint<T>, batch: &PackedBatch) -> Vec<Evaluation> {
    let mut workspace = Workspace::default();
    engine.evaluate(batch, Want::ALL, Threads::One, &mut workspace);
    (0..batch.n_structures()).map(|s| workspace.evaluation(batch, s, Want::ALL)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn adjoint_equals_autograd(shape in wide_shapes(), seed in any::<u64>(), structures in mixtures()) {
        let model = random_model(shape, seed);
        let [adjoint, autograd] = [EngineKind::Adjoint, EngineKind::Autograd]
            .map(|kind| Potential::with_engine(model.clone(), Precision::F64, kind).unwrap());
        for (got, want) in adjoint.evaluate(&structures, Want::ALL).iter().zip(autograd.evaluate(&structures, Want::ALL)) {
            match (got, want) {
                (Ok(got), Ok(want)) => assert_near(got, &want, 1e-10),
                // Images in a small cell may overlap.
                (Err(Error::Overlap { .. }), Err(Error::Overlap { .. })) => {}
                (got, want) => panic!("{got:?} {want:?}"),
            }
        }
    }

    #[test]
    fn every_instruction_set_and_kind_of_filter_gives_the_same(
        shape in wide_shapes(), seed in any::<u64>(), structures in mixtures(),
    ) {
        let model = random_model(Shape { epsilon: 1e-2, ..shape }, seed);
        let mut preparer = Preparer::new(&model);
        let mut batch = PackedBatch::default();
        for prepared in structures.iter().filter_map(|s| preparer.prepare(s).ok()) {
            batch.push(&prepared).unwrap();
        }
        let run = |filters, instructions| -> (Vec<Evaluation>, Vec<Evaluation>) {
            (
                evaluate::<f32>(&Adjoint::with_instructions(&model, filters, instructions).unwrap(), &batch),
                evaluate::<f64>(&Adjoint::with_instructions(&model, filters, instructions).unwrap(), &batch),
            )
        };
        let want = run(FilterKind::Basis, Instructions::Portable);
        for instructions in [Instructions::Widest, Instructions::Avx2, Instructions::Portable] {
            for filters in [FilterKind::Basis, FilterKind::Table] {
                let got = run(filters, instructions);
                let limit = if filters == FilterKind::Basis { 1e-11 } else { 2e-5 };
                got.0.iter().zip(&want.1).for_each(|(got, want)| assert_near(got, want, 2e-4));
                got.1.iter().zip(&want.1).for_each(|(got, want)| assert_near(got, want, limit));
            }
        }
    }

    #[test]
    fn adjoint_f32_is_near_f64(shape in wide_shapes(), seed in any::<u64>(), structures in mixtures()) {
        // With a norm that is smooth on the scale of f32's rounding.
        let model = random_model(Shape { epsilon: 1e-2, ..shape }, seed);
        let [single, double] = [Precision::F32, Precision::F64]
            .map(|precision| Potential::with_engine(model.clone(), precision, EngineKind::Adjoint).unwrap());
        for (got, want) in single.evaluate(&structures, Want::ALL).iter().zip(double.evaluate(&structures, Want::ALL)) {
            if let (Ok(got), Ok(want)) = (got, want) {
                assert_near(got, &want, 2e-4);
            }
        }
    }

    #[test]
    fn batches_and_threads_do_not_change_a_bit(shape in wide_shapes(), seed in any::<u64>(), structures in mixtures()) {
        let model = random_model(shape, seed);
        let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        for precision in [Precision::F32, Precision::F64] {
            let potential = Potential::new(model.clone(), precision).unwrap();
            let together = pool(1).install(|| potential.evaluate(&structures, Want::ALL));
            let two = pool(2).install(|| potential.evaluate(&structures, Want::ALL));
            let in_pairs = potential.clone().with_batch_size(BatchSize::Structures(2)).evaluate(&structures, Want::ALL);
            for (k, structure) in structures.iter().enumerate() {
                let Ok(alone) = potential.evaluate_one(structure, Want::ALL) else { continue };
                for other in [&together[k], &two[k], &in_pairs[k]] {
                    assert_equal(&alone, other.as_ref().unwrap());
                }
                let energy = potential.evaluate_one(structure, Want::ENERGY).unwrap();
                assert_eq!((energy.energy, &energy.atomic_energies), (alone.energy, &alone.atomic_energies));
            }
        }
    }

    #[test]
    fn threads_within_a_structure_do_not_change_a_bit(
        shape in wide_shapes(), seed in any::<u64>(), structure in prop_oneof![molecules(20), crystals()],
    ) {
        let model = random_model(shape, seed);
        let mut batch = PackedBatch::default();
        let Ok(prepared) = Preparer::new(&model).prepare(&structure) else { return Ok(()) };
        batch.push(&prepared).unwrap();
        let engine = Adjoint::<f32>::new(&model, FilterKind::Auto).unwrap();
        let mut workspace = Workspace::default();
        let mut run = |threads: Threads| {
            engine.evaluate(&batch, Want::ALL, threads, &mut workspace);
            workspace.evaluation(&batch, 0, Want::ALL)
        };
        let one = run(Threads::One);
        for n_helpers in [1, 2, 6] {
            assert_equal(&one, &run(Threads::Crew(&mut Crew::new(n_helpers).unwrap())));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_equal(&one, &pool.install(|| run(Threads::Rayon)));
    }
}
