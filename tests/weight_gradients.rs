//! Gradients with respect to the weights against finite differences of the loss, tensor by tensor.

#![allow(clippy::unwrap_used)]

mod common;

use common::random::{Shape, crystals, for_all, molecules, random_model, shapes};
use mlff::batch::{PackedBatch, Preparer};
use mlff::cpu::lanes::Lanes;
use mlff::engine::adjoint::{FilterKind, Trainable, TrainingBuffers};
use mlff::model::weights::Weights;
use mlff::{Model, Structure};
use proptest::prelude::*;

/// Numbers between -1 and 1 that a seed gives.
struct Numbers(u64);

impl Iterator for Numbers {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0)
    }
}

/// A loss that is linear in energies and forces: its cotangents.
struct Loss {
    energies: Vec<f64>,
    forces: Vec<[f64; 3]>,
}

fn packed(model: &Model, structures: &[Structure]) -> PackedBatch {
    let (mut preparer, mut batch) = (Preparer::new(model), PackedBatch::default());
    for structure in structures {
        batch.push(&preparer.prepare(structure).unwrap()).unwrap();
    }
    batch
}

impl Loss {
    fn new(batch: &PackedBatch, seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let energies = numbers.by_ref().take(batch.n_structures()).collect();
        let forces = (0..batch.n_atoms()).map(|_| std::array::from_fn(|_| numbers.next().unwrap())).collect();
        Loss { energies, forces }
    }

    fn at<T: Lanes>(&self, model: &Model, weights: &Weights, batch: &PackedBatch, filters: FilterKind) -> f64 {
        let mut buffers = TrainingBuffers::default();
        let trainable = Trainable::<T>::new(model.config(), weights, filters).unwrap();
        let results = trainable.evaluate(batch, &mut buffers).unwrap();
        let energies: f64 = self.energies.iter().zip(&results.energies).map(|(c, e)| c * e).sum();
        let forces = self.forces.iter().flatten().zip(results.gradients.iter().flatten());
        energies - forces.map(|(c, g)| c * g).sum::<f64>()
    }

    fn gradients<T: Lanes>(&self, model: &Model, batch: &PackedBatch, filters: FilterKind) -> Weights {
        let trainable = Trainable::<T>::new(model.config(), model.weights(), filters).unwrap();
        let (mut sums, mut batch) = (trainable.zeros(), batch.clone());
        let mut buffers = TrainingBuffers::default();
        trainable.add_loss_gradients(&mut batch, &self.energies, &self.forces, &mut buffers, &mut sums).unwrap();
        trainable.tensors(&sums)
    }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Largest difference of a derivative along a random direction of one tensor from a finite difference, relative to what
/// such a derivative is.
fn worst(model: &Model, structures: &[Structure], filters: FilterKind, seed: u64) -> (String, f64) {
    let batch = packed(model, structures);
    let loss = Loss::new(&batch, seed);
    let gradients = loss.gradients::<f64>(model, &batch, filters);
    let names: Vec<&String> = model.weights().0.keys().filter(|name| !name.starts_with("radial_basis.")).collect();
    assert_eq!(names, gradients.0.keys().collect::<Vec<_>>());
    let mut out = (String::new(), 0.0);
    for (name, gradient) in &gradients.0 {
        let direction: Vec<f64> = Numbers(seed ^ 7).take(gradient.data.len()).collect();
        let step = 1e-5;
        let at = |sign: f64| {
            let mut weights = model.weights().clone();
            let data = &mut weights.0.get_mut(name).unwrap().data;
            data.iter_mut().zip(&direction).for_each(|(w, d)| *w += sign * step * d);
            loss.at::<f64>(model, &weights, &batch, filters)
        };
        let want = (at(1.0) - at(-1.0)) / (2.0 * step);
        let got: f64 = gradient.data.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let usual = norm(&gradient.data) * norm(&direction) / (direction.len() as f64).sqrt();
        let error = (got - want).abs() / want.abs().max(usual).max(1e-3);
        if error > out.1 {
            out = (format!("{name}: {got} and {want}"), error);
        }
    }
    out
}

fn small_shapes() -> impl Strategy<Value = Shape> {
    (shapes(), prop_oneof![3..17usize, Just(24)], 1..4usize, 2..9usize).prop_map(
        |(shape, n_features, n_interactions, n_rbf)| Shape {
            n_features,
            n_interactions,
            n_rbf,
            epsilon: 1e-2,
            ..shape
        },
    )
}

#[test]
fn gradients_equal_finite_differences_of_the_loss() {
    let structures = prop::collection::vec(prop_oneof![3 => molecules(8), 1 => crystals()], 1..4);
    for filters in [FilterKind::Basis, FilterKind::Table] {
        for_all(20, 20, (small_shapes(), any::<u64>(), structures.clone()), |(shape, seed, structures)| {
            let (name, error) = worst(&random_model(shape, seed), &structures, filters, seed);
            assert!(error < 3e-7, "{name}: {error:e}");
            1
        });
    }
}

/// What single precision and the difference of two gradients leave: the largest error of a tensor's gradient, by their norms.
#[test]
fn gradients_in_single_precision_are_near_those_in_double() {
    let model = Model::load(mlff::model::default_name()).unwrap();
    let mut reader = mlff::xyz::Reader::open("examples/data/trajectory.xyz").unwrap();
    let mut structures = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        if frame.index % 100 == 0 {
            structures.push(frame.structure);
        }
    }
    assert_eq!(structures.len(), 5);
    let batch = packed(&model, &structures);
    let loss = Loss::new(&batch, 5);
    let want = loss.gradients::<f64>(&model, &batch, FilterKind::Auto);
    for (filters, limit) in [(FilterKind::Auto, 1e-3), (FilterKind::Basis, 2e-3)] {
        let got = loss.gradients::<f32>(&model, &batch, filters);
        for (name, want) in &want.0 {
            let difference: Vec<f64> = got.0[name].data.iter().zip(&want.data).map(|(a, b)| a - b).collect();
            let error = norm(&difference) / norm(&want.data);
            assert!(error < limit, "{filters:?} {name}: {error:e}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = Model::load(mlff::model::default_name()).unwrap();
    let water = [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]];
    let mut batch = packed(&model, &[Structure::molecule(vec![8, 1, 1], water.to_vec()).unwrap()]);
    let trainable = Trainable::<f32>::new(model.config(), model.weights(), FilterKind::Auto).unwrap();
    let (mut sums, mut buffers) = (trainable.zeros(), TrainingBuffers::default());
    assert!(trainable.add_energy_gradients(&batch, &[1.0, 1.0], &mut buffers, &mut sums).is_err());
    let forces = [[0.0; 3]; 2];
    assert!(trainable.add_loss_gradients(&mut batch, &[1.0], &forces, &mut buffers, &mut sums).is_err());
    // Positions are as they were after a step.
    let before = trainable.evaluate(&batch, &mut buffers).unwrap().energies.clone();
    trainable.add_loss_gradients(&mut batch, &[1.0], &[[0.3, 0.1, 0.2]; 3], &mut buffers, &mut sums).unwrap();
    assert_eq!(trainable.evaluate(&batch, &mut buffers).unwrap().energies, before);
}
