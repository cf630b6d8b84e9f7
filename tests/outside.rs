//! Structures and results outside of what a model was trained on: marked, or refused where they mean nothing; by every engine and
//! in sessions alike.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use common::data;
use common::random::{Shape, random_model};
use mlff::Want;
use mlff::model::{Outside, TrainingRange};
use mlff::xyz::Reader;
use mlff::{EngineKind, Precision};
use mlff::{Error, Model, Potential, Structure};

const SHIPPED: &str = "ani2x-painn-64";

/// What every way to evaluate a structure says.
fn evaluate_all(model: &Arc<Model>, structure: &Structure) -> Vec<mlff::Result<Outside>> {
    let mut out = Vec::new();
    for precision in [Precision::F32, Precision::F64] {
        for engine in [EngineKind::Adjoint, EngineKind::Autograd] {
            let potential = Potential::builder(model.clone()).precision(precision).engine(engine).build().unwrap();
            out.push(potential.evaluate_one(structure, Want::ALL).map(|e| e.outside));
        }
        let potential = Potential::builder(model.clone()).precision(precision).build().unwrap();
        for threads in [1, 2] {
            let mut session = potential.session(structure).unwrap().with_threads(threads).unwrap().with_stress(true);
            let mut forces = vec![[7.0; 3]; structure.n_atoms()];
            let energy = session.compute(&structure.positions, structure.cell.as_ref(), &mut forces);
            if energy.is_err() {
                assert_eq!(forces, vec![[7.0; 3]; structure.n_atoms()], "an error leaves the forces as they were");
            }
            out.push(energy.map(|_| session.outside()));
        }
    }
    out
}

/// What all of them say.
#[track_caller]
fn outside(model: &Arc<Model>, structure: &Structure) -> Outside {
    let all: Vec<Outside> = evaluate_all(model, structure).into_iter().map(|e| e.unwrap()).collect();
    assert!(all.iter().all(|o| *o == all[0]), "{all:?}");
    all[0]
}

/// Checks that all of them refuse, in words that tell why.
#[track_caller]
fn refused(model: &Arc<Model>, structure: &Structure, words: &[&str]) {
    for outcome in evaluate_all(model, structure) {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. }), "{error:?}");
        for word in words.iter().chain(&["are positions and cell in Å"]) {
            assert!(error.to_string().contains(word), "{error}: {word}");
        }
    }
}

fn shipped() -> Arc<Model> {
    Arc::new(Model::load(SHIPPED).unwrap())
}

/// A random model that says, or does not say, what it was trained on.
fn ranged(range: Option<TrainingRange>) -> Arc<Model> {
    let shape = Shape {
        n_features: 8,
        n_interactions: 2,
        n_rbf: 6,
        bessel: false,
        shared_filters: false,
        shared_interactions: false,
        epsilon: 1e-8,
    };
    let random = random_model(shape, 3);
    let mut config = random.config().clone();
    config.training_range = range;
    Arc::new(Model::new(config, random.weights().clone(), String::new()).unwrap())
}

fn frames(path: &str) -> Vec<Structure> {
    let mut reader = Reader::open(path).unwrap();
    std::iter::from_fn(|| reader.next_frame().unwrap().map(|f| f.structure)).collect()
}

fn case(name: &str) -> Structure {
    frames(data("outside").join(name).to_str().unwrap()).remove(0)
}

fn pair(z: [u8; 2], d: f64) -> Structure {
    Structure::molecule(z.to_vec(), vec![[0.0; 3], [d, 0.0, 0.0]]).unwrap()
}

#[test]
fn absurd_structures_are_refused_by_the_shipped_model() {
    let model = shipped();
    refused(&model, &case("benzene_twice_0.3A_apart.xyz"), &["the distance of atoms 0 (C) and 12 (C) is 0.300 Å"]);
    refused(&model, &case("ethane_in_nm.xyz"), &["the distance of atoms 0 (C) and 1 (C) is 0.152 Å"]);
    refused(
        &model,
        &case("crushed_cell.xyz"),
        &["the energy per atom, less that of free atoms", "below the least of -33.296 eV"],
    );
}

#[test]
fn ordinary_structures_are_inside_for_the_shipped_model() {
    let potential = Potential::load(SHIPPED).unwrap();
    let frames = frames("examples/data/trajectory.xyz");
    assert_eq!(frames.len(), 500);
    for (k, result) in potential.evaluate(&frames, Want::ALL).into_iter().enumerate() {
        assert_eq!(result.unwrap().outside, Outside::NONE, "frame {k}");
    }
    let model = shipped();
    for structure in frames.iter().step_by(100) {
        assert_eq!(outside(&model, structure), Outside::NONE);
    }
}

#[test]
fn close_contacts_are_marked_and_atoms_on_top_of_each_other_refused() {
    let distances = [("C-H".to_string(), 0.9), ("H-H".to_string(), 3.0)].into();
    let range = TrainingRange { min_distances: distances, max_force: None, energy_per_atom: None, measured_on: None };
    let model = ranged(Some(range));
    assert_eq!(outside(&model, &pair([6, 1], 0.86)), Outside::NONE);
    for d in [0.85, 0.43] {
        for z in [[6, 1], [1, 6]] {
            assert_eq!(outside(&model, &pair(z, d)), Outside::CLOSE_CONTACT, "{z:?} {d}");
        }
    }
    refused(&model, &pair([6, 1], 0.42), &["atoms 0 (C) and 1 (H) is 0.420 Å", "the least of 0.42"]);
    // Far beyond any bond in training, but no contact that is absurd: the limit is half the sum of covalent radii.
    assert_eq!(outside(&model, &pair([1, 1], 0.74)), Outside::CLOSE_CONTACT);
    refused(&model, &pair([1, 1], 0.30), &["0.310 Å"]);
    // A pair that was not seen in training: covalent radii.
    assert_eq!(outside(&model, &pair([8, 8], 0.67)), Outside::NONE);
    assert_eq!(outside(&model, &pair([8, 8], 0.65)), Outside::CLOSE_CONTACT);
    refused(&model, &pair([8, 8], 0.32), &["0.330 Å"]);
    // Images count.
    let cell = [[0.85, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]];
    let chain = Structure::new(vec![1], vec![[0.0; 3]], Some(cell), [true; 3]).unwrap();
    assert_eq!(outside(&model, &chain), Outside::CLOSE_CONTACT);
    // What no model can evaluate comes first, wherever it stands.
    let both =
        Structure::molecule(vec![6, 1, 8, 8], vec![[0.0; 3], [0.3, 0.0, 0.0], [9.0, 0.0, 0.0], [9.05, 0.0, 0.0]]);
    for outcome in evaluate_all(&model, &both.unwrap()) {
        assert!(matches!(outcome, Err(Error::Overlap { i: 2, j: 3, .. })), "{outcome:?}");
    }
}

#[test]
fn forces_and_energies_beyond_training_are_marked() {
    let model = ranged(None);
    let structure = pair([6, 8], 1.1);
    let potential = Potential::builder(model).precision(Precision::F64).build().unwrap();
    let found = potential.evaluate_one(&structure, Want::ALL).unwrap();
    let force = found.forces.as_ref().unwrap()[0][0].abs();
    let energy = (found.energy + 7.25) / 2.0;
    assert!(force > 0.01);
    let range = |max_force, low, high| {
        ranged(Some(TrainingRange {
            min_distances: [("C-O".to_string(), 1.0)].into(),
            max_force: Some(max_force),
            energy_per_atom: Some([low, high]),
            measured_on: None,
        }))
    };
    let wide = (energy - 1.0, energy + 1.0);
    assert_eq!(outside(&range(1.01 * force, wide.0, wide.1), &structure), Outside::NONE);
    assert_eq!(outside(&range(0.99 * force, wide.0, wide.1), &structure), Outside::LARGE_FORCE);
    assert_eq!(outside(&range(1.01 * force, energy + 0.01, wide.1), &structure), Outside::ENERGY);
    let all = outside(&range(0.99 * force, wide.0, energy - 0.01), &pair([6, 8], 1.1));
    assert_eq!(all, Outside::ENERGY | Outside::LARGE_FORCE);
    assert_eq!(all.to_string(), "large_force,energy");
    // Absurd: by more than 20 eV an atom, or ten times a wider range.
    refused(&range(force, energy + 21.0, energy + 22.0), &structure, &["the energy per atom", "below the least"]);
    refused(&range(force, energy - 22.0, energy - 21.0), &structure, &["the energy per atom", "beyond the most"]);
    assert_eq!(outside(&range(1.01 * force, energy + 19.0, energy + 22.0), &structure), Outside::ENERGY);
    assert_eq!(outside(&range(1.01 * force, energy - 25.0, energy - 21.0), &structure), Outside::ENERGY);
}

#[test]
fn absurd_forces_are_refused() {
    // As a user would see it with weights that have no bounds: forces of 1e9 eV/Å from a scale.
    let random = ranged(None);
    let mut config = random.config().clone();
    config.energy_scale = 1e9;
    config.training_range = Some(TrainingRange {
        min_distances: Default::default(),
        max_force: Some(10.0),
        energy_per_atom: Some([-1e12, 1e12]),
        measured_on: None,
    });
    let model = Arc::new(Model::new(config, random.weights().clone(), String::new()).unwrap());
    refused(&model, &pair([6, 8], 1.1), &["the force on atom ", "eV/Å", "beyond the most of 1000.000 eV/Å"]);
    let energy_only = Potential::builder(model)
        .precision(Precision::F64)
        .build()
        .unwrap()
        .evaluate_one(&pair([6, 8], 1.1), Want::ENERGY);
    assert!(energy_only.is_ok(), "forces that nobody asked for are not judged");
}

/// A network that was never trained is no reason to refuse anything that atoms may do.
#[test]
fn untrained_networks_evaluate_without_a_range() {
    let shape = |n_features| Shape {
        n_features,
        n_interactions: 3,
        n_rbf: 8,
        bessel: false,
        shared_filters: false,
        shared_interactions: false,
        epsilon: 1e-8,
    };
    let ring = |radius: f64| {
        let place = |k: usize| {
            let angle = std::f64::consts::TAU * k as f64 / 6.0;
            [radius * angle.cos(), radius * angle.sin(), 0.1 * (k % 2) as f64]
        };
        Structure::molecule(vec![6; 6], (0..6).map(place).collect()).unwrap()
    };
    for n_features in [4, 16, 64] {
        for seed in 0..20 {
            let potential =
                Potential::builder(random_model(shape(n_features), seed)).precision(Precision::F64).build().unwrap();
            // Compressed to two thirds, at rest, pulled apart.
            for radius in [0.95, 1.4, 2.1] {
                potential.evaluate_one(&ring(radius), Want::ALL).unwrap();
            }
        }
    }
}

#[test]
fn sessions_forget_what_was_outside_a_step_before() {
    let potential = Potential::load(SHIPPED).unwrap();
    let structure = pair([9, 1], 0.93);
    let mut session = potential.session(&structure).unwrap();
    let mut forces = vec![[0.0; 3]; 2];
    assert_eq!(session.outside(), Outside::NONE);
    session.compute(&[[0.0; 3], [0.7, 0.0, 0.0]], None, &mut forces).unwrap();
    assert!(session.outside().contains(Outside::CLOSE_CONTACT));
    session.compute(&structure.positions, None, &mut forces).unwrap();
    assert_eq!(session.outside(), Outside::NONE);
    let error = session.compute(&[[0.0; 3], [0.3, 0.0, 0.0]], None, &mut forces).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
    assert_eq!(session.compute(&structure.positions, None, &mut forces).unwrap(), {
        potential.evaluate_one(&structure, Want::ALL).unwrap().energy
    });
}

#[test]
fn training_ranges_that_make_no_sense_are_refused() {
    let random = ranged(None);
    let with = |text: &str| {
        let mut config = random.config().clone();
        config.training_range = Some(serde_json::from_str(text).unwrap());
        Model::new(config, random.weights().clone(), String::new()).unwrap_err().to_string()
    };
    for (text, word) in [
        (r#"{"min_distances": {"C-Xx": 1.0}}"#, "\"C-Xx\": 1"),
        (r#"{"min_distances": {"C-N": 1.0}}"#, "elements of the model"),
        (r#"{"min_distances": {"C-H": 0.0}}"#, "0.1 to 100 Å"),
        (r#"{"min_distances": {"C-H": 1.0, "H-C": 1.1}}"#, "twice"),
        (r#"{"max_force": -1.0}"#, "max_force is -1"),
        (r#"{"energy_per_atom": [1.0, 0.5]}"#, "the smaller first"),
    ] {
        let error = with(text);
        assert!(error.contains("training_range") && error.contains(word), "{text}: {error}");
    }
}

#[test]
fn shipped_model_says_what_it_was_trained_on() {
    let model = shipped();
    let range = model.config().training_range.as_ref().unwrap();
    // All pairs of its seven elements but those that never met.
    assert!(range.min_distances.len() >= 24, "{:?}", range.min_distances);
    assert!(range.max_force.is_some() && range.energy_per_atom.is_some() && range.measured_on.is_some());
    assert!(model.card().contains("training_range"), "the card tells how it was measured");
}
