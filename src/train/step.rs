//! One step: energies and forces of a batch, the gradient of its loss, new weights.

use rayon::prelude::*;

use super::loss::{Counts, Loss, Losses};
use super::optimizer::Optimizer;
use crate::batch::{PackedBatch, Preparer};
use crate::engine::adjoint::{FilterKind, Trainable, TrainingBuffers, WeightSums};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::weights::Weights;
use crate::structure::{Structure, Vec3};

/// A structure and what its teacher says of it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The structure.
    pub structure: Structure,
    /// Energy, eV.
    pub energy: f64,
    /// Forces, eV/Å, `[n_atoms]`.
    pub forces: Vec<Vec3>,
}

/// Atoms that are evaluated together: as many as the engine takes.
const PIECE_ATOMS: usize = 96;

/// Sums of gradients, each over its own pieces of a batch: as many whatever the number of threads, and added in their order, so
/// that results are the same bits.
const N_PARTS: usize = 8;

/// A model in training.
#[derive(Debug)]
pub struct Trainer {
    model: Model,
    weights: Weights,
    /// What changes the weights.
    pub optimizer: Optimizer,
    parts: Vec<Part>,
}

/// What a thread needs, and leaves.
#[derive(Debug)]
struct Part {
    preparer: Preparer,
    batch: PackedBatch,
    buffers: TrainingBuffers<f32>,
    sums: Option<WeightSums<f32>>,
    losses: Losses,
    grad_energies: Vec<f64>,
    grad_forces: Vec<Vec3>,
}

impl Part {
    fn new(model: &Model) -> Self {
        Part {
            preparer: Preparer::new(model),
            batch: PackedBatch::default(),
            buffers: TrainingBuffers::default(),
            sums: None,
            losses: Losses::default(),
            grad_energies: Vec::new(),
            grad_forces: Vec::new(),
        }
    }
}

impl Trainer {
    /// Starts from a model's weights.
    ///
    /// # Errors
    /// `Error::Usage` if it is not a PaiNN.
    pub fn new(model: Model) -> Result<Self> {
        Trainable::<f32>::new(model.config(), model.weights(), FilterKind::Auto)?;
        let (weights, optimizer) = (model.weights().clone(), Optimizer::new(model.weights()));
        let parts = (0..N_PARTS).map(|_| Part::new(&model)).collect();
        Ok(Trainer { model, weights, optimizer, parts })
    }

    /// The weights of the last step.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// A model with the moving average of the weights.
    ///
    /// # Errors
    /// As [`Model::new`]: weights that are not finite.
    pub fn model(&self) -> Result<Model> {
        Model::new(self.model.config().clone(), self.optimizer.average().clone(), self.model.card().into())
    }

    /// Takes one step on a batch, on the threads of the caller's rayon pool. Returns the losses before it.
    ///
    /// # Errors
    /// What is wrong with a structure, and `Error::Shape` for labels of another length; `Error::NonFinite` for a loss or a gradient
    /// that is not finite. The weights are as they were then.
    pub fn step(&mut self, samples: &[&Sample], loss: &Loss, learning_rate: f64) -> Result<Losses> {
        let trainable = Trainable::<f32>::new(self.model.config(), &self.weights, FilterKind::Auto)?;
        let counts = Counts { structures: samples.len(), atoms: samples.iter().map(|s| s.structure.n_atoms()).sum() };
        let pieces = pieces(samples);
        let outcomes: Vec<Result<()>> = self
            .parts
            .par_iter_mut()
            .enumerate()
            .map(|(k, part)| {
                part.begin(&trainable);
                let mut own = pieces.iter().skip(k).step_by(N_PARTS);
                own.try_for_each(|piece| part.add(&trainable, piece, loss, counts))
            })
            .collect();
        outcomes.into_iter().collect::<Result<()>>()?;
        let mut losses = Losses::default();
        let mut total: Option<WeightSums<f32>> = None;
        for part in &mut self.parts {
            losses.add(&part.losses);
            match (&mut total, &mut part.sums) {
                (Some(total), Some(sums)) => total.add(sums),
                (None, sums) => total = sums.take(),
                (Some(_), None) => {}
            }
        }
        let refuse = |what: &str| Error::NonFinite { what: what.into() };
        if !(losses.force + losses.energy).is_finite() {
            return Err(refuse("the loss"));
        }
        if let Some(total) = total {
            let gradient = trainable.tensors(&total);
            self.parts[0].sums = Some(total);
            if !self.optimizer.step(&mut self.weights, &gradient, learning_rate).is_finite() {
                return Err(refuse("the gradient of the loss"));
            }
        }
        Ok(losses)
    }
}

impl Part {
    /// Forgets the step before.
    fn begin(&mut self, trainable: &Trainable<f32>) {
        self.losses = Losses::default();
        match &mut self.sums {
            Some(sums) => sums.clear(),
            None => self.sums = Some(trainable.zeros()),
        }
    }

    /// Adds the losses and gradients of some structures.
    fn add(&mut self, trainable: &Trainable<f32>, samples: &[&Sample], loss: &Loss, counts: Counts) -> Result<()> {
        let Part { preparer, batch, buffers, sums, losses, grad_energies, grad_forces } = self;
        batch.clear();
        for sample in samples {
            let (n_atoms, n_forces) = (sample.structure.n_atoms(), sample.forces.len());
            if n_atoms != n_forces {
                return Err(Error::Shape {
                    what: "the labels' forces".into(),
                    expected: vec![n_atoms],
                    got: vec![n_forces],
                });
            }
            preparer.pack(&sample.structure, batch)?;
        }
        grad_energies.clear();
        grad_forces.clear();
        let results = trainable.evaluate(batch, buffers)?;
        for (s, sample) in samples.iter().enumerate() {
            let forces = results.gradients[batch.atoms_of(s)].iter().map(|g| g.map(|x| -x));
            let energies = [results.energies[s], sample.energy];
            grad_energies.push(loss.of_structure(energies, (forces, &sample.forces), counts, losses, grad_forces));
        }
        match sums {
            Some(sums) => trainable.add_loss_gradients(batch, grad_energies, grad_forces, buffers, sums),
            None => Ok(()),
        }
    }
}

/// Cuts a batch into pieces of about `PIECE_ATOMS` atoms.
fn pieces<'a, 'b>(samples: &'a [&'b Sample]) -> Vec<&'a [&'b Sample]> {
    let (mut out, mut start, mut atoms) = (Vec::new(), 0, 0);
    for (k, sample) in samples.iter().enumerate() {
        if k > start && atoms + sample.structure.n_atoms() > PIECE_ATOMS {
            out.push(&samples[start..k]);
            (start, atoms) = (k, 0);
        }
        atoms += sample.structure.n_atoms();
    }
    if start < samples.len() {
        out.push(&samples[start..]);
    }
    out
}
