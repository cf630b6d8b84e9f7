//! [`Potential`]: a model, an engine and a precision, ready to evaluate structures.

use std::borrow::Borrow;
use std::sync::Arc;

use rayon::prelude::*;

use crate::batch::{PaddedBatch, Prepared, Preparer, size_buckets};
use crate::engine::autograd::Autograd;
use crate::engine::{Evaluation, Want};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::Architecture;
use crate::structure::Structure;

/// Precision of the network. Positions, geometry and energy sums are f64 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Network in f32.
    #[default]
    F32,
    /// Network in f64.
    F64,
}

/// How structures are grouped for one pass of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchSize {
    /// By atoms and memory.
    #[default]
    Auto,
    /// At most this many structures.
    Structures(usize),
}

/// Rows of a batch that `BatchSize::Auto` aims at. Measured: the time per atom is flat from 1 to 64 molecules of 20 atoms
/// and rises beyond, as the tensors leave the caches; a few hundred rows keep per-batch costs small for smaller ones.
const AUTO_ROWS: usize = 256;

/// Bytes that the tensors of one batch may take under autograd; larger single structures still run alone.
const AUTO_BYTES: usize = 512 << 20;

/// Evaluates structures with one model.
///
/// Cheap to clone; may be used from several threads at once.
///
/// ```
/// use mlff::{Potential, Structure, engine::Want};
///
/// let potential = Potential::load(mlff::model::default_name())?;
/// let water = Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])?;
/// let evaluation = potential.evaluate_one(&water, Want::ALL)?;
/// println!("{} eV", evaluation.energy);
/// # assert!(evaluation.forces.unwrap().len() == 3);
/// # Ok::<(), mlff::Error>(())
/// ```
#[derive(Clone)]
pub struct Potential {
    model: Arc<Model>,
    engine: Engine,
    batch_size: BatchSize,
}

#[derive(Clone)]
enum Engine {
    F32(Arc<Autograd<f32>>),
    F64(Arc<Autograd<f64>>),
}

impl std::fmt::Debug for Potential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let precision = match self.engine {
            Engine::F32(_) => Precision::F32,
            Engine::F64(_) => Precision::F64,
        };
        f.debug_struct("Potential")
            .field("config", self.model.config())
            .field("precision", &precision)
            .field("batch_size", &self.batch_size)
            .finish()
    }
}

impl Potential {
    /// Loads a model directory or a built-in model, to be evaluated in f32.
    ///
    /// # Errors
    /// See [`Model::load`].
    pub fn load(name_or_path: impl AsRef<std::path::Path>) -> Result<Self> {
        Self::new(Arc::new(Model::load(name_or_path)?), Precision::default())
    }

    /// Makes a model ready to be evaluated.
    ///
    /// # Errors
    /// `Error::Usage` if a weight is missing, which a [`Model`] excludes.
    pub fn new(model: Arc<Model>, precision: Precision) -> Result<Self> {
        let engine = match precision {
            Precision::F32 => Engine::F32(Arc::new(Autograd::new(&model)?)),
            Precision::F64 => Engine::F64(Arc::new(Autograd::new(&model)?)),
        };
        Ok(Potential { model, engine, batch_size: BatchSize::Auto })
    }

    /// Chooses how structures are grouped.
    #[must_use]
    pub fn with_batch_size(mut self, batch_size: BatchSize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Evaluates one structure.
    ///
    /// # Errors
    /// As the entries of [`Potential::evaluate`].
    pub fn evaluate_one(&self, structure: &Structure, want: Want) -> Result<Evaluation> {
        self.evaluate(std::slice::from_ref(structure), want)
            .pop()
            .unwrap_or_else(|| Err(Error::Structure("no structure was evaluated".into())))
    }

    /// Evaluates structures of any sizes; results are in their order, and one that cannot be evaluated does not
    /// disturb the others.
    ///
    /// # Errors
    /// Each entry: `Error::Structure`, `Error::Shape`, `Error::UnknownElement`, `Error::Overlap`, `Error::NonFinite`.
    /// What befell a whole batch is `Error::Structure` too, in its own words.
    pub fn evaluate<S>(&self, structures: &[S], want: Want) -> Vec<Result<Evaluation>>
    where
        S: Borrow<Structure> + Sync,
    {
        let mut prepared: Vec<Result<Prepared>> = structures
            .par_iter()
            .with_min_len(8)
            .map_init(|| Preparer::new(&self.model), |preparer, structure| preparer.prepare(structure.borrow()))
            .collect();
        let good: Vec<usize> = (0..prepared.len()).filter(|&s| prepared[s].is_ok()).collect();
        let sizes: Vec<(usize, usize)> = good
            .iter()
            .map(|&s| prepared[s].as_ref().map_or((0, 0), |p| (p.species.len(), p.edges.n_edges())))
            .collect();
        let (max_structures, max_rows) = match self.batch_size {
            BatchSize::Auto => (usize::MAX, AUTO_ROWS),
            BatchSize::Structures(n) => (n.max(1), usize::MAX),
        };
        let buckets = size_buckets(&sizes, max_structures, max_rows, AUTO_BYTES / self.bytes_per_edge());
        let evaluated: Vec<(Vec<usize>, Result<Vec<Evaluation>>)> = buckets
            .into_par_iter()
            .map(|bucket| {
                let members: Vec<usize> = bucket.into_iter().map(|k| good[k]).collect();
                let structures: Vec<&Prepared> = members.iter().filter_map(|&s| prepared[s].as_ref().ok()).collect();
                let result = PaddedBatch::new(&structures).and_then(|batch| self.run(batch, want));
                (members, result)
            })
            .collect();
        let mut out: Vec<Option<Result<Evaluation>>> = prepared.drain(..).map(|p| p.err().map(Err)).collect();
        for (members, result) in evaluated {
            match result {
                Ok(evaluations) => {
                    for (s, evaluation) in members.into_iter().zip(evaluations) {
                        out[s] = Some(checked(evaluation));
                    }
                }
                Err(error) => {
                    let message = error.to_string();
                    for s in members {
                        out[s] = Some(Err(Error::Structure(message.clone())));
                    }
                }
            }
        }
        out.into_iter()
            .map(|r| r.unwrap_or_else(|| Err(Error::Tensor("the engine returned too few results".into()))))
            .collect()
    }

    fn run(&self, batch: PaddedBatch, want: Want) -> Result<Vec<Evaluation>> {
        match &self.engine {
            Engine::F32(engine) => engine.evaluate(batch, want),
            Engine::F64(engine) => engine.evaluate(batch, want),
        }
    }

    /// Memory that autograd takes for an edge: its features and their cotangents in every layer, and its geometry.
    fn bytes_per_edge(&self) -> usize {
        let config = self.model.config();
        let width = match self.engine {
            Engine::F32(_) => 4,
            Engine::F64(_) => 8,
        };
        let n_edge_features = match &config.architecture {
            Architecture::Painn(_) => config.radial_basis().n + 1,
            Architecture::Distiller(_) => 3 * config.n_features(),
        };
        width * (config.n_interactions() + 3) * n_edge_features + 256
    }
}

fn checked(evaluation: Evaluation) -> Result<Evaluation> {
    match evaluation.non_finite() {
        Some(what) => Err(Error::NonFinite { what: what.into() }),
        None => Ok(evaluation),
    }
}
