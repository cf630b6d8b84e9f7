//! The adjoint engine against batched autograd, and against itself: batches, threads, instruction sets.

#![allow(clippy::unwrap_used)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::random::{Shape, crystals, for_all, molecules, overlapping, perturbed_model, random_model, shapes, slabs};
use common::worst;
use mlff::batch::{PackedBatch, Preparer};
use mlff::cpu::lanes::Lanes;
use mlff::engine::adjoint::{Adjoint, Crew, FilterKind, Instructions, Threads, Workspace};
use mlff::{BatchSize, EngineKind, Precision};
use mlff::{Error, Model, Potential, Structure};
use mlff::{Evaluation, Want};
use proptest::prelude::*;

/// Features 8 to 128, odd ones too, one to four layers.
fn wide_shapes() -> impl Strategy<Value = Shape> {
    (shapes(), prop_oneof![8..33usize, 33..129usize], 1..5usize, 1..21usize)
        .prop_map(|(shape, n_features, n_interactions, n_rbf)| Shape { n_features, n_interactions, n_rbf, ..shape })
}

/// Molecules, crystals, slabs and chains, isolated atoms, structures without atoms.
fn structures() -> impl Strategy<Value = Structure> {
    let empty = Just(Structure::default());
    prop_oneof![4 => molecules(12), 2 => crystals(), 1 => slabs(), 1 => molecules(1), 1 => empty]
}

/// Some of them in any order.
fn mixtures() -> impl Strategy<Value = Vec<Structure>> {
    prop::collection::vec(structures(), 1..6)
}

/// The same bits; where a random model overflows, in the same places.
fn assert_equal(a: &Evaluation, b: &Evaluation) {
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

/// Largest differences of the energies, of the forces and of the stresses, relative to the largest value there.
fn difference(got: &Evaluation, want: &Evaluation) -> [f64; 3] {
    assert_eq!(got.stress.is_some(), want.stress.is_some());
    let relative = |got: &[f64], want: &[f64], least: f64| {
        worst(got, want) / want.iter().fold(least.abs().max(1.0), |a: f64, x| a.max(x.abs()))
    };
    let energies = |e: &Evaluation| [&e.atomic_energies[..], &[e.energy]].concat();
    let forces = |e: &Evaluation| e.forces.clone().unwrap().concat();
    let stress = |e: &Evaluation| e.stress.map(|s| s.as_flattened().to_vec()).unwrap_or_default();
    [
        relative(&energies(got), &energies(want), want.energy),
        relative(&forces(got), &forces(want), 1.0),
        relative(&stress(got), &stress(want), 1.0),
    ]
}

fn assert_near(got: &Evaluation, want: &Evaluation, limit: f64) {
    assert_within(got, want, [limit; 3]);
}

fn assert_within(got: &Evaluation, want: &Evaluation, limits: [f64; 3]) {
    let errors = difference(got, want);
    assert!(
        errors.iter().zip(limits).all(|(e, limit)| *e <= limit),
        "energy, forces, stress: {errors:?} of {limits:?}"
    );
}

fn evaluate<T: Lanes>(engine: &Adjoint<T>, batch: &PackedBatch) -> Vec<Evaluation> {
    let mut workspace = Workspace::default();
    engine.evaluate(batch, Want::ALL, Threads::One, &mut workspace).unwrap();
    (0..batch.n_structures()).map(|s| workspace.results.evaluation(batch, s, Want::ALL)).collect()
}

/// Change of the weights that shows how much of a rounding, or of a table's error, a model passes on: well above the
/// rounding of single precision, 6e-8.
const RELATIVE: f64 = 1e-6;

/// Most that rounding changes results by, of what that change does: 0.95 was the most seen in 5000 structures.
const ROUNDING: f64 = 3.0;

/// How far the `exact` results of a random model move with its weights: the most of several changes, since the effects of one may
/// cancel.
fn sensitivity(
    (shape, seed): (Shape, u64),
    exact: &[Evaluation],
    evaluate: impl Fn(Arc<Model>) -> Vec<Evaluation>,
) -> Vec<[f64; 3]> {
    let mut most = vec![[0.0_f64; 3]; exact.len()];
    for change in [1.0, -1.0, 0.5] {
        let changed = evaluate(perturbed_model(shape, seed, change * RELATIVE));
        for (most, (got, want)) in most.iter_mut().zip(changed.iter().zip(exact)) {
            let found = difference(got, want);
            *most = std::array::from_fn(|k| most[k].max(found[k] / change.abs()));
        }
    }
    most.into_iter().map(|most| most.map(|x| x + 2.0 * RELATIVE)).collect()
}

#[test]
fn adjoint_equals_autograd() {
    let with_bad = prop::collection::vec(prop_oneof![9 => structures(), 1 => overlapping()], 1..6);
    for_all(120, 240, (wide_shapes(), any::<u64>(), with_bad), |(shape, seed, structures)| {
        let model = random_model(shape, seed);
        let [adjoint, autograd] = [EngineKind::Adjoint, EngineKind::Autograd]
            .map(|kind| Potential::builder(model.clone()).precision(Precision::F64).engine(kind).build().unwrap());
        let (got, want) = (adjoint.evaluate(&structures, Want::ALL), autograd.evaluate(&structures, Want::ALL));
        assert_eq!((got.len(), want.len()), (structures.len(), structures.len()));
        let mut compared = 0;
        for (got, want) in got.into_iter().zip(want) {
            match (got, want) {
                (Ok(got), Ok(want)) => {
                    assert_near(&got, &want, 1e-10);
                    compared += 1;
                }
                (Err(got @ Error::Overlap { .. }), Err(want)) => assert_eq!(got.to_string(), want.to_string()),
                (got, want) => panic!("{got:?} {want:?}"),
            }
        }
        compared
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_and_kind_of_filter_gives_the_same(
        shape in wide_shapes(), seed in any::<u64>(), structures in mixtures(),
    ) {
        let shape = Shape { epsilon: 1e-2, ..shape };
        let model = random_model(shape, seed);
        let mut preparer = Preparer::new(&model);
        let mut batch = PackedBatch::default();
        for structure in &structures {
            batch.push(&preparer.prepare(structure).unwrap()).unwrap();
        }
        let portable = |model: Arc<Model>| {
            evaluate(&Adjoint::<f64>::with_instructions(&model, FilterKind::Basis, Instructions::Portable).unwrap(), &batch)
        };
        let want = portable(model.clone());
        let changes = sensitivity((shape, seed), &want, portable);
        prop_assert_eq!(want.len(), structures.len());
        for instructions in [Instructions::Widest, Instructions::Avx2, Instructions::Portable] {
            for filters in [FilterKind::Basis, FilterKind::Table] {
                let single = evaluate::<f32>(&Adjoint::with_instructions(&model, filters, instructions).unwrap(), &batch);
                let double = evaluate::<f64>(&Adjoint::with_instructions(&model, filters, instructions).unwrap(), &batch);
                for (s, change) in changes.iter().enumerate() {
                    let rounding = change.map(|c| ROUNDING * c);
                    let exact = change.map(|c| 1e-12 + 1e-7 * c);
                    assert_within(&single[s], &want[s], rounding);
                    assert_within(&double[s], &want[s], if filters == FilterKind::Basis { exact } else { rounding });
                }
            }
        }
    }

    #[test]
    fn adjoint_f32_is_near_f64(shape in wide_shapes(), seed in any::<u64>(), structures in mixtures()) {
        // With a norm that is smooth on the scale of f32's rounding.
        let shape = Shape { epsilon: 1e-2, ..shape };
        let evaluate = |model, precision| -> Vec<Evaluation> {
            let potential = Potential::builder(model).precision(precision).engine(EngineKind::Adjoint).build().unwrap();
            potential.evaluate(&structures, Want::ALL).into_iter().map(Result::unwrap).collect()
        };
        let single = evaluate(random_model(shape, seed), Precision::F32);
        let double = evaluate(random_model(shape, seed), Precision::F64);
        let changes = sensitivity((shape, seed), &double, |model| evaluate(model, Precision::F64));
        prop_assert_eq!(single.len(), structures.len());
        for ((got, want), change) in single.iter().zip(&double).zip(changes) {
            assert_within(got, want, change.map(|c| ROUNDING * c));
        }
    }

    #[test]
    fn batches_and_threads_do_not_change_a_bit(shape in wide_shapes(), seed in any::<u64>(), structures in mixtures()) {
        let model = random_model(shape, seed);
        let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        for precision in [Precision::F32, Precision::F64] {
            let potential = Potential::builder(model.clone()).precision(precision).build().unwrap();
            let together = pool(1).install(|| potential.evaluate(&structures, Want::ALL));
            let two = pool(2).install(|| potential.evaluate(&structures, Want::ALL));
            let in_pairs = potential.clone().with_batch_size(BatchSize::Structures(2)).evaluate(&structures, Want::ALL);
            for (k, structure) in structures.iter().enumerate() {
                let alone = potential.evaluate_one(structure, Want::ALL).unwrap();
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
        shape in wide_shapes(), seed in any::<u64>(), structure in prop_oneof![molecules(20), crystals(), slabs()],
    ) {
        let model = random_model(shape, seed);
        let mut batch = PackedBatch::default();
        batch.push(&Preparer::new(&model).prepare(&structure).unwrap()).unwrap();
        let engine = Adjoint::<f32>::new(&model, FilterKind::Auto).unwrap();
        let mut workspace = Workspace::default();
        let mut run = |threads: Threads| {
            engine.evaluate(&batch, Want::ALL, threads, &mut workspace).unwrap();
            workspace.results.evaluation(&batch, 0, Want::ALL)
        };
        let one = run(Threads::One);
        for n_helpers in [1, 2, 6] {
            assert_equal(&one, &run(Threads::Crew(&mut Crew::new(n_helpers).unwrap())));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_equal(&one, &pool.install(|| run(Threads::Rayon)));
    }
}

/// A panic in the middle of a group leaves rows of atoms behind that the next evaluation would take for its own.
#[test]
fn a_workspace_can_be_used_again_after_a_panic() {
    let model = Potential::load("ani2x-painn-64").unwrap().model().clone();
    // A grid of hydrogen atoms: several tiles, and in each of them neighbours of others.
    let positions = (0..400).map(|k| [k % 4, k / 4 % 5, k / 20].map(|i| 1.6 * f64::from(i))).collect();
    let structure = Structure::new(vec![1; 400], positions, None, [false; 3]).unwrap();
    let prepared = Preparer::new(&model).prepare(&structure).unwrap();
    let mut broken = prepared.clone();
    let from = prepared.edges.n_edges() / 2;
    broken.edges.reverse_edge[from..].fill(0);
    let [batch, broken] = [prepared, broken].map(|prepared| {
        let mut batch = PackedBatch::default();
        batch.push(&prepared).unwrap();
        batch
    });
    // Its atoms outside of the second tile are fewer than those of a tile in the middle of the grid.
    let mut small = PackedBatch::default();
    let few = Structure::new(vec![1; 140], structure.positions[..140].to_vec(), None, [false; 3]).unwrap();
    small.push(&Preparer::new(&model).prepare(&few).unwrap()).unwrap();
    let engine = Adjoint::<f32>::new(&model, FilterKind::Auto).unwrap();
    let mut workspace = Workspace::default();
    for valid in [&batch, &small] {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            engine.evaluate(&broken, Want::ALL, Threads::One, &mut workspace).unwrap();
        }));
        assert!(outcome.is_err(), "edges that are no pairs passed");
        engine.evaluate(valid, Want::ALL, Threads::One, &mut workspace).unwrap();
        assert_equal(&workspace.results.evaluation(valid, 0, Want::ALL), &evaluate(&engine, valid)[0]);
    }
}

#[test]
fn a_batch_of_another_model_is_refused() {
    let [few, many] = [vec![1], vec![1, 6, 8]].map(|species| with_species(&species));
    let structure = Structure::molecule(vec![8, 1], vec![[0.0; 3], [0.0, 0.0, 0.96]]).unwrap();
    let mut batch = PackedBatch::default();
    batch.push(&Preparer::new(&many).prepare(&structure).unwrap()).unwrap();
    let mut workspace = Workspace::default();
    let mut run = |model| {
        let engine = Adjoint::<f32>::new(model, FilterKind::Auto).unwrap();
        engine.evaluate(&batch, Want::ALL, Threads::One, &mut workspace)
    };
    run(&many).unwrap();
    let error = run(&few).unwrap_err();
    assert!(error.code() == "usage" && error.to_string().contains("another model"), "{error}");
    run(&many).unwrap();
}

/// The shipped model with these rows of its embedding.
fn with_species(species: &[u8]) -> Model {
    let model = Model::load("ani2x-painn-64").unwrap();
    let [config, weights] = model.to_bytes().unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["species"] = species.into();
    config["atomic_energies"] = serde_json::json!({});
    config.as_object_mut().unwrap().remove("training_range");
    let config: mlff::model::config::ModelConfig = serde_json::from_value(config).unwrap();
    let mut weights = mlff::model::weights::Weights::from_safetensors("w".as_ref(), &weights).unwrap();
    let embedding = weights.0.get_mut("embedding").unwrap();
    embedding.shape[0] = species.len();
    embedding.data.truncate(species.len() * embedding.shape[1]);
    Model::new(config, weights, String::new()).unwrap()
}
