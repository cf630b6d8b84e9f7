//! Training steps: the loss falls, and bits do not depend on the number of threads.

#![allow(clippy::unwrap_used)]

use mlff::model::weights::Weights;
use mlff::train::{Loss, Losses, Sample, Trainer};
use mlff::xyz::Reader;
use mlff::{Error, Model, Potential, Want};

/// Frames of the example with what the shipped student says of them.
fn samples(model: &Model, step: usize) -> Vec<Sample> {
    let potential = Potential::builder(model.clone()).build().unwrap();
    let mut reader = Reader::open("examples/data/trajectory.xyz").unwrap();
    let mut out = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        if frame.index % step == 0 {
            let evaluation = potential.evaluate_one(&frame.structure, Want::FORCES).unwrap();
            let forces = evaluation.forces.unwrap();
            out.push(Sample { structure: frame.structure, energy: evaluation.energy, forces });
        }
    }
    out
}

/// The student with weights that are a little wrong.
fn wrong(model: &Model) -> Model {
    let mut weights = model.weights().clone();
    for (name, array) in &mut weights.0 {
        if !name.starts_with("radial_basis.") {
            array.data.iter_mut().enumerate().for_each(|(k, w)| *w *= 1.0 + 0.05 * f64::sin(k as f64));
        }
    }
    Model::new(model.config().clone(), weights, model.card().into()).unwrap()
}

fn train(model: Model, samples: &[Sample], n_steps: usize, n_threads: usize) -> (Vec<Losses>, Weights) {
    let mut trainer = Trainer::new(model).unwrap();
    let samples: Vec<&Sample> = samples.iter().collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
    let losses = pool
        .install(|| (0..n_steps).map(|_| trainer.step(&samples, &Loss::default(), 3e-4).unwrap()).collect::<Vec<_>>());
    (losses, trainer.weights().clone())
}

#[test]
fn loss_falls_and_bits_do_not_depend_on_threads() {
    let model = Model::load(mlff::model::default_name()).unwrap();
    let samples = samples(&model, 25);
    let (losses, weights) = train(wrong(&model), &samples, 40, 1);
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(first.force > 0.05 && last.force < 0.6 * first.force, "{first:?} {last:?}");
    assert!(last.energy < 0.5 * first.energy, "{first:?} {last:?}");
    let (again, same) = train(wrong(&model), &samples, 3, 3);
    let (once, other) = train(wrong(&model), &samples, 3, 1);
    assert_eq!(again, once);
    assert!(same == other && same != weights);
}

#[test]
fn step_on_bad_labels_changes_nothing() {
    let model = Model::load(mlff::model::default_name()).unwrap();
    let mut samples = samples(&model, 250);
    let mut trainer = Trainer::new(model).unwrap();
    let before = trainer.weights().clone();
    samples[1].energy = f64::NAN;
    let all: Vec<&Sample> = samples.iter().collect();
    assert!(matches!(trainer.step(&all, &Loss::default(), 1e-3), Err(Error::NonFinite { .. })));
    samples[1].energy = 0.0;
    samples[1].forces.pop();
    let all: Vec<&Sample> = samples.iter().collect();
    assert!(matches!(trainer.step(&all, &Loss::default(), 1e-3), Err(Error::Shape { .. })));
    assert_eq!(*trainer.weights(), before);
    assert_eq!(trainer.optimizer.n_steps(), 0);
}
