//! A cost model decides which variants batched autograd runs, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::deviation;
use common::random::{Shape, crystals, molecules, random_model};
use mlff::calibration::{CostModel, Pattern, Size};
use mlff::profile::{Names, Options, measure};
use mlff::{BatchSize, EngineKind, Precision};
use mlff::{Evaluation, Want};
use mlff::{Potential, Structure};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const SHAPE: Shape = Shape {
    n_features: 16,
    n_interactions: 3,
    n_rbf: 7,
    bessel: false,
    shared_filters: false,
    shared_interactions: false,
    epsilon: 1e-4,
};

fn sample<T>(strategy: impl Strategy<Value = T>) -> T {
    strategy.new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

/// Molecules of several sizes, an isolated atom, crystals.
fn structures() -> Vec<Structure> {
    let mut structures = sample(prop::collection::vec(molecules(14), 6));
    structures.push(sample(molecules(1)));
    structures.extend(sample(prop::collection::vec(crystals(), 3)));
    structures
}

fn potential(precision: Precision) -> Potential {
    Potential::builder(random_model(SHAPE, 3)).precision(precision).engine(EngineKind::Autograd).build().unwrap()
}

/// The same speed-up for every size of these patterns.
fn favouring(speedup: f64, patterns: &[Pattern]) -> CostModel {
    CostModel::new(1.2, patterns.iter().map(|&p| (p, Size { rows: 1, width: 1 }, speedup)))
}

fn evaluate(potential: &Potential) -> Vec<Evaluation> {
    potential.evaluate(&structures(), Want::ALL).into_iter().map(Result::unwrap).collect()
}

fn numbers(all: &[Evaluation]) -> Vec<f64> {
    let forces = |e: &Evaluation| e.forces.iter().flatten().flatten().copied().collect::<Vec<_>>();
    let stress = |e: &Evaluation| e.stress.iter().flatten().flatten().copied().collect::<Vec<_>>();
    all.iter().flat_map(|e| [vec![e.energy], forces(e), stress(e)].concat()).collect()
}

/// Component and what of it ran, without layers.
fn variants(potential: &Potential) -> Vec<(String, Option<&'static str>)> {
    let options = Options { warmup: 1, repeats: 1, sweep: Vec::new(), batch: BatchSize::Auto };
    let names = Names { model: String::new(), workload: String::new() };
    let (profile, _) = measure(potential, &structures(), &options, names).unwrap();
    profile.components.into_iter().filter(|c| c.parent.is_none()).map(|c| (c.id, c.variant)).collect()
}

const CHOSEN: [&str; 12] = [
    "edge_geometry",
    "radial_basis",
    "context",
    "message",
    "update",
    "readout",
    "readout_vjp",
    "update_vjp",
    "message_vjp",
    "context_vjp",
    "radial_basis_vjp",
    "edge_geometry_vjp",
];

#[test]
fn calibration_that_favours_the_unfused_variants_makes_them_run() {
    for (precision, tolerance) in [(Precision::F64, 1e-10), (Precision::F32, 1e-4)] {
        let fused = potential(precision);
        let unfused = fused.clone().with_cost_model(favouring(0.5, &Pattern::ALL));
        let deviation = deviation(&numbers(&evaluate(&unfused)), &numbers(&evaluate(&fused)));
        println!("{precision:?}: {deviation:e}");
        assert!(deviation < tolerance, "{precision:?}: {deviation:e}");
        for (potential, want) in [(&fused, "fused"), (&unfused, "unfused")] {
            for (id, variant) in variants(potential) {
                assert_eq!(variant, CHOSEN.contains(&id.as_str()).then_some(want), "{id}");
            }
        }
    }
}

#[test]
fn calibration_that_favours_the_fused_variants_changes_no_bit() {
    let bare = potential(Precision::F32);
    let calibrated = bare.clone().with_cost_model(favouring(5.0, &Pattern::ALL));
    assert_eq!(evaluate(&calibrated), evaluate(&bare));
}

#[test]
fn calibration_of_one_pattern_leaves_the_others() {
    let mixed = potential(Precision::F64).with_cost_model(favouring(0.5, &[Pattern::Update, Pattern::Message]));
    for (id, variant) in variants(&mixed) {
        let want = match id.trim_end_matches("_vjp") {
            "message" => Some("unfused"),
            "update" => Some("both"),
            _ => CHOSEN.contains(&id.as_str()).then_some("fused"),
        };
        assert_eq!(variant, want, "{id}");
    }
}

#[test]
fn calibration_is_nothing_to_the_adjoint_engine() {
    let bare = Potential::builder(random_model(SHAPE, 3)).engine(EngineKind::Adjoint).build().unwrap();
    let calibrated = bare.clone().with_cost_model(favouring(0.5, &Pattern::ALL));
    assert_eq!(evaluate(&calibrated), evaluate(&bare));
}
