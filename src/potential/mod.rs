//! [`Potential`]: a model, an engine and a precision, ready to evaluate structures.

#[cfg(feature = "autograd")]
mod autograd;
mod builder;
mod driver;
#[cfg(feature = "autograd")]
mod evaluator;
mod on_cpu;
#[cfg(feature = "cuda")]
mod on_gpu;
#[cfg(feature = "cuda")]
mod pool;
mod session;

use std::borrow::Borrow;
use std::sync::Arc;

pub use builder::Builder;
use driver::{Driver, Request};
pub use session::{DEFAULT_SKIN, Session};

use crate::engine::Evaluation;
use crate::error::{Error, Result};
use crate::model::{Model, Outside};
use crate::ops::cost_model::CostModel;
use crate::settings::{BatchSize, DeviceKind, EngineKind, Precision, Want};
use crate::structure::Structure;

/// Evaluates structures with one model.
///
/// For one system that is evaluated step after step, as in molecular dynamics, a [`Session`] is faster.
///
/// A potential is cheap to clone and may be used from several threads at once.
///
/// # Threads
///
/// Many structures, or a large one, are evaluated in parallel by the threads of a rayon pool: the pool that the call is
/// made in, else rayon's global one. If the system cannot start threads, the calling thread computes alone.
///
/// A process made by `fork` (Python's `multiprocessing` may do so) does not have the threads of its parent. There, the
/// adjoint engine on the processor starts a pool of its own. Batched autograd, if the parent has used it before, needs
/// `CANDLE_NUM_THREADS=1` in the environment, and a GPU that the parent has opened cannot be used: otherwise
/// evaluations return an `Error::Usage` that says what to do.
///
/// # Example
///
/// ```
/// use mlff::{Potential, Structure, Want};
///
/// let potential = Potential::load(mlff::model::default_name())?;
/// let positions = vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]];
/// let water = Structure::molecule(vec![8, 1, 1], positions)?;
/// let evaluation = potential.evaluate_one(&water, Want::ALL)?;
/// println!("{} eV", evaluation.energy);
/// # assert!(evaluation.forces.unwrap().len() == 3);
/// # Ok::<(), mlff::Error>(())
/// ```
#[derive(Clone)]
pub struct Potential {
    model: Arc<Model>,
    driver: Arc<dyn Driver>,
    batch_size: BatchSize,
    cost_model: Arc<CostModel>,
}

impl std::fmt::Debug for Potential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Potential")
            .field("config", self.model.config())
            .field("engine", &self.engine())
            .field("precision", &self.precision())
            .field("device", &self.device())
            .field("batch_size", &self.batch_size)
            .finish()
    }
}

impl Potential {
    /// Loads a model directory or a built-in model, to be evaluated in f32, on the processor, by the engine that suits
    /// it.
    ///
    /// # Errors
    /// As [`Model::load`] and [`Builder::build`].
    pub fn load(name_or_path: impl AsRef<std::path::Path>) -> Result<Self> {
        Self::builder(Model::load(name_or_path)?).build()
    }

    /// Sets up a potential with other choices than the default ones, which are f32, the processor and the engine that
    /// suits the model.
    pub fn builder(model: impl Into<Arc<Model>>) -> Builder {
        Builder::new(model.into())
    }

    /// The engine that computes: never [`EngineKind::Auto`], but the one that was chosen.
    pub fn engine(&self) -> EngineKind {
        self.driver.engine()
    }

    /// The device that computes.
    pub fn device(&self) -> DeviceKind {
        self.driver.device()
    }

    /// The precision of the network.
    pub fn precision(&self) -> Precision {
        self.driver.precision()
    }

    /// What the profiler asks.
    pub(crate) fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// Chooses how many structures are computed together; [`BatchSize::Auto`] by default.
    #[must_use]
    pub fn with_batch_size(mut self, batch_size: BatchSize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Chooses, by measurements, which operations batched autograd fuses ([`calibration`](crate::calibration)). Without
    /// a cost model it fuses all of them. The adjoint engine ignores the choice: its operations are always fused.
    /// Results differ by rounding only.
    ///
    /// The cost model should be one of this potential's device and precision ([`Calibration::cost_model`]).
    ///
    /// [`Calibration::cost_model`]: crate::calibration::Calibration::cost_model
    #[must_use]
    pub fn with_cost_model(mut self, cost_model: impl Into<Arc<CostModel>>) -> Self {
        self.cost_model = cost_model.into();
        self
    }

    /// The model that is evaluated.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Evaluates one structure; `want` says which results are computed beside energies.
    ///
    /// # Errors
    /// As the entries of [`Potential::evaluate`].
    pub fn evaluate_one(&self, structure: &Structure, want: Want) -> Result<Evaluation> {
        self.evaluate(std::slice::from_ref(structure), want)
            .pop()
            .unwrap_or_else(|| Err(Error::Defect("no structure was evaluated".into())))
    }

    /// Evaluates structures of any sizes. Results are in the order of the structures, and a structure that cannot be
    /// evaluated does not affect the others.
    ///
    /// ```
    /// use mlff::{Potential, Structure, Want};
    ///
    /// let potential = Potential::load(mlff::model::default_name())?;
    /// let water = vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]];
    /// let water = Structure::molecule(vec![8, 1, 1], water)?;
    /// let helium = Structure::molecule(vec![2], vec![[0.0; 3]])?; // unknown to this model
    /// for result in potential.evaluate(&[water, helium], Want::FORCES) {
    ///     match result {
    ///         Ok(evaluation) => println!("{} eV", evaluation.energy),
    ///         Err(error) if error.is_of_structure() => println!("left out: {error}"),
    ///         Err(error) => return Err(error),
    ///     }
    /// }
    /// # Ok::<(), mlff::Error>(())
    /// ```
    ///
    /// # Errors
    /// A structure's own error is `Error::Structure`, `Error::Shape`, `Error::UnknownElement`, `Error::Overlap`,
    /// `Error::OutOfRange`, `Error::ChargeOrSpin` or `Error::NonFinite`. A failure that is no structure's fault, such
    /// as `Error::Cuda`, `Error::Tensor` or `Error::Usage`, is the entry of each structure that it affects.
    /// [`Error::is_of_structure`] tells the two kinds apart.
    pub fn evaluate<S>(&self, structures: &[S], want: Want) -> Vec<Result<Evaluation>>
    where
        S: Borrow<Structure> + Sync,
    {
        let structures: Vec<&Structure> = structures.iter().map(Borrow::borrow).collect();
        let request = Request { model: &self.model, size: self.batch_size, cost_model: &self.cost_model, want };
        self.driver.evaluate(request, &structures)
    }
}

/// What an evaluation says that finds no thread to run on.
fn no_thread(e: &std::io::Error) -> Error {
    Error::Usage(format!("no thread can be started to evaluate on: {e}"))
}

/// Refuses results that are not finite or mean nothing, and marks those outside of what the model was trained on.
/// `references` are energies of the free atoms, eV.
fn checked(model: &Model, mut evaluation: Evaluation, contacts: Outside, references: &[f64]) -> Result<Evaluation> {
    if let Some(what) = evaluation.non_finite() {
        return Err(Error::NonFinite { what: what.into() });
    }
    let limits = model.limits();
    let sum = references.iter().sum();
    let forces = evaluation.forces.as_deref().unwrap_or_default();
    evaluation.outside = contacts | limits.energy(evaluation.energy, sum, references.len())? | limits.forces(forces)?;
    Ok(evaluation)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::Ordering;

    use super::*;

    /// Waters in a row.
    fn waters(n: usize) -> Structure {
        let water = [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]];
        let positions = (0..n).flat_map(|k| water.map(|r| [r[0] + 2.9 * k as f64, r[1], r[2]])).collect();
        Structure::molecule([8, 1, 1].repeat(n), positions).unwrap()
    }

    #[test]
    fn evaluation_that_panics_leaves_nothing_behind_for_the_next() {
        let structures = [waters(2), waters(350), waters(30), waters(345), waters(1)];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for precision in [Precision::F32, Precision::F64] {
            let potential =
                Potential::builder(Model::load("ani2x-painn-64").unwrap()).precision(precision).build().unwrap();
            let evaluate = || -> Vec<Evaluation> {
                let evaluated = pool.install(|| potential.evaluate(&structures, Want::ALL));
                evaluated.into_iter().map(Result::unwrap).collect()
            };
            let want = evaluate();
            let helpers_fail = potential.driver.helpers_fail().unwrap();
            for round in 0..3 {
                // In the middle of a structure that threads share: others have been evaluated, and others not.
                helpers_fail.store(true, Ordering::SeqCst);
                let outcome = catch_unwind(AssertUnwindSafe(&evaluate));
                assert!(outcome.is_err() && !helpers_fail.load(Ordering::SeqCst), "round {round}");
                assert_eq!(evaluate(), want, "round {round}");
                assert_eq!(potential.evaluate_one(&structures[round], Want::ALL).unwrap(), want[round]);
            }
            assert_eq!(
                potential
                    .session(&structures[2])
                    .unwrap()
                    .compute(&structures[2].positions, None, &mut vec![[0.0; 3]; 90])
                    .unwrap(),
                want[2].energy
            );
        }
    }
}
