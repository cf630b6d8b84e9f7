//! [`Potential`]: a model, an engine and a precision, ready to evaluate structures.

mod on_gpu;
mod packed;
mod padded;
mod session;

use std::borrow::Borrow;
use std::sync::Arc;

use cudarc::driver::CudaStream;

use crate::engine::Evaluation;
use crate::engine::adjoint::FilterKind;
use crate::engine::autograd::Autograd;
use crate::error::{Error, Result};
use crate::model::config::Architecture;
use crate::model::{Model, Outside};
use crate::ops::cost_model::CostModel;
use crate::roofline::{self, Peaks};
use crate::settings::{BatchSize, DeviceKind, EngineKind, Precision, Want};
use crate::structure::Structure;
use on_gpu::OnGpu;
use packed::Packed;
pub use session::{DEFAULT_SKIN, Session};

/// Evaluates structures with one model.
///
/// Cheap to clone; may be used from several threads at once. Many structures are evaluated on the threads of rayon's pool, the
/// caller's or else the global one, and on the calling thread alone where the system has no thread to give.
///
/// In a process made by `fork`, whose parent's threads it does not have, the adjoint engine evaluates on a pool of the
/// process's own. Batched autograd, if the parent has used it already, needs `CANDLE_NUM_THREADS=1` in the environment there,
/// and says so.
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
    cost_model: Arc<CostModel>,
}

#[derive(Clone)]
enum Engine {
    AdjointF32(Arc<Packed<f32>>),
    AdjointF64(Arc<Packed<f64>>),
    AutogradF32(Arc<Autograd<f32>>),
    AutogradF64(Arc<Autograd<f64>>),
    CudaF32(Arc<OnGpu<f32>>),
    CudaF64(Arc<OnGpu<f64>>),
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
    /// Loads a model directory or a built-in model, to be evaluated in f32.
    ///
    /// # Errors
    /// See [`Model::load`].
    pub fn load(name_or_path: impl AsRef<std::path::Path>) -> Result<Self> {
        Self::new(Arc::new(Model::load(name_or_path)?), Precision::default())
    }

    /// Makes a model ready to be evaluated by the engine that suits it.
    ///
    /// # Errors
    /// `Error::Usage` if a weight is missing, which a [`Model`] excludes.
    pub fn new(model: Arc<Model>, precision: Precision) -> Result<Self> {
        Self::with_engine(model, precision, EngineKind::Auto)
    }

    /// Makes a model ready to be evaluated by the engine given.
    ///
    /// # Errors
    /// `Error::Usage` if the engine does not evaluate models of this architecture.
    pub fn with_engine(model: Arc<Model>, precision: Precision, engine: EngineKind) -> Result<Self> {
        Self::on_device(model, precision, engine, DeviceKind::Cpu)
    }

    /// Makes a model ready to be evaluated by the engine and on the device given.
    ///
    /// # Errors
    /// `Error::Usage` if the engine does not evaluate models of this architecture or does not run on the device, and
    /// `Error::Cuda` if there is no such device.
    pub fn on_device(model: Arc<Model>, precision: Precision, engine: EngineKind, device: DeviceKind) -> Result<Self> {
        crate::fork::watch();
        let adjoint = match engine {
            EngineKind::Auto => matches!(model.config().architecture, Architecture::Painn(_)),
            EngineKind::Adjoint => true,
            EngineKind::Autograd => false,
        };
        let engine = match (adjoint, precision, device) {
            (true, Precision::F32, DeviceKind::Cpu) => {
                Engine::AdjointF32(Arc::new(Packed::new(&model, FilterKind::Auto)?))
            }
            (true, Precision::F64, DeviceKind::Cpu) => {
                Engine::AdjointF64(Arc::new(Packed::new(&model, FilterKind::Auto)?))
            }
            (true, Precision::F32, DeviceKind::Cuda(n)) => Engine::CudaF32(Arc::new(OnGpu::new(&model, n)?)),
            (true, Precision::F64, DeviceKind::Cuda(n)) => Engine::CudaF64(Arc::new(OnGpu::new(&model, n)?)),
            (false, Precision::F32, _) => Engine::AutogradF32(Arc::new(Autograd::new(&model, device)?)),
            (false, Precision::F64, _) => Engine::AutogradF64(Arc::new(Autograd::new(&model, device)?)),
        };
        Ok(Potential { model, engine, batch_size: BatchSize::Auto, cost_model: Arc::default() })
    }

    /// The engine that computes.
    pub fn engine(&self) -> EngineKind {
        match self.engine {
            Engine::AdjointF32(_) | Engine::AdjointF64(_) | Engine::CudaF32(_) | Engine::CudaF64(_) => {
                EngineKind::Adjoint
            }
            Engine::AutogradF32(_) | Engine::AutogradF64(_) => EngineKind::Autograd,
        }
    }

    /// Where it computes.
    pub fn device(&self) -> DeviceKind {
        match &self.engine {
            Engine::AdjointF32(_) | Engine::AdjointF64(_) => DeviceKind::Cpu,
            Engine::AutogradF32(engine) => engine.device(),
            Engine::AutogradF64(engine) => engine.device(),
            Engine::CudaF32(engine) => DeviceKind::Cuda(engine.ordinal()),
            Engine::CudaF64(engine) => DeviceKind::Cuda(engine.ordinal()),
        }
    }

    /// The stream that all work is queued on; none on the processor.
    pub(crate) fn stream(&self) -> Option<Arc<CudaStream>> {
        match &self.engine {
            Engine::AdjointF32(_) | Engine::AdjointF64(_) => None,
            Engine::AutogradF32(engine) => engine.place().stream(),
            Engine::AutogradF64(engine) => engine.place().stream(),
            Engine::CudaF32(engine) => engine.stream(),
            Engine::CudaF64(engine) => engine.stream(),
        }
    }

    /// Rates of the device, of one thread where it is the processor, measured now.
    ///
    /// # Errors
    /// What a GPU reports.
    pub(crate) fn peaks(&self) -> Result<Peaks> {
        let on_gpu = match &self.engine {
            Engine::AdjointF32(_) | Engine::AdjointF64(_) => None,
            Engine::AutogradF32(engine) => engine.place().peaks()?,
            Engine::AutogradF64(engine) => engine.place().peaks()?,
            Engine::CudaF32(engine) => Some(engine.peaks()?),
            Engine::CudaF64(engine) => Some(engine.peaks()?),
        };
        Ok(on_gpu.unwrap_or_else(|| roofline::measure(self.precision())))
    }

    /// Radial functions that the adjoint engine evaluates for a pair.
    pub(crate) fn radial_window(&self) -> Option<usize> {
        match &self.engine {
            Engine::AdjointF32(packed) => Some(packed.engine.radial_window()),
            Engine::AdjointF64(packed) => Some(packed.engine.radial_window()),
            Engine::AutogradF32(_) | Engine::AutogradF64(_) | Engine::CudaF32(_) | Engine::CudaF64(_) => None,
        }
    }

    /// The precision of the network.
    pub fn precision(&self) -> Precision {
        match self.engine {
            Engine::AdjointF32(_) | Engine::AutogradF32(_) | Engine::CudaF32(_) => Precision::F32,
            Engine::AdjointF64(_) | Engine::AutogradF64(_) | Engine::CudaF64(_) => Precision::F64,
        }
    }

    /// Chooses how structures are grouped.
    #[must_use]
    pub fn with_batch_size(mut self, batch_size: BatchSize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Lets measurements choose what batched autograd fuses; without any it fuses everything. The adjoint engine is fused by
    /// construction and takes no choice. Results differ by rounding only.
    ///
    /// The cost model should be this potential's: of its device and precision ([`Calibration::cost_model`]).
    ///
    /// [`Calibration::cost_model`]: crate::calibration::Calibration::cost_model
    #[must_use]
    pub fn with_cost_model(mut self, cost_model: impl Into<Arc<CostModel>>) -> Self {
        self.cost_model = cost_model.into();
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
    /// Each entry: `Error::Structure`, `Error::Shape`, `Error::UnknownElement`, `Error::Overlap`,
    /// `Error::OutOfRange`, `Error::NonFinite`; `Error::Cuda` where the GPU failed, which is no fault of the structure.
    /// What befell a whole batch is `Error::Structure` too, in its own words.
    pub fn evaluate<S>(&self, structures: &[S], want: Want) -> Vec<Result<Evaluation>>
    where
        S: Borrow<Structure> + Sync,
    {
        let (model, size) = (&*self.model, self.batch_size);
        let choices = (size, &self.cost_model);
        match &self.engine {
            Engine::AdjointF32(packed) => packed.evaluate(model, size, structures, want),
            Engine::AdjointF64(packed) => packed.evaluate(model, size, structures, want),
            Engine::AutogradF32(engine) => padded::evaluate(engine, model, choices, structures, want),
            Engine::AutogradF64(engine) => padded::evaluate(engine, model, choices, structures, want),
            Engine::CudaF32(engine) => engine.evaluate(model, size, structures, want),
            Engine::CudaF64(engine) => engine.evaluate(model, size, structures, want),
        }
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
