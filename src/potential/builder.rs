//! [`Builder`]: the choice of how a model is evaluated.

use std::sync::Arc;

use super::Potential;
use super::driver::Driver;
use super::on_cpu::OnCpu;
use crate::cpu::lanes::Lanes;
#[cfg(not(feature = "autograd"))]
use crate::cpu::lanes::Lanes as Element;
#[cfg(not(feature = "cuda"))]
use crate::cpu::lanes::Lanes as Scalar;
#[cfg(feature = "autograd")]
use crate::engine::autograd::Element;
#[cfg(feature = "cuda")]
use crate::engine::cuda::Scalar;
use crate::error::Result;
use crate::model::Model;
use crate::model::config::Architecture;
use crate::ops::cost_model::CostModel;
use crate::settings::{BatchSize, DeviceKind, EngineKind, Precision};

/// Chooses how a model is evaluated, and makes a [`Potential`]. It comes from [`Potential::builder`].
///
/// ```
/// use mlff::{DeviceKind, EngineKind, Model, Potential, Precision};
///
/// let model = Model::load("ani2x-painn-64")?;
/// let potential = Potential::builder(model)
///     .precision(Precision::F64)
///     .engine(EngineKind::Adjoint)
///     .device(DeviceKind::Cpu)
///     .build()?;
/// assert_eq!(potential.precision(), Precision::F64);
/// # Ok::<(), mlff::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    model: Arc<Model>,
    precision: Precision,
    engine: EngineKind,
    device: DeviceKind,
    batch_size: BatchSize,
    cost_model: Arc<CostModel>,
}

impl Builder {
    pub(super) fn new(model: Arc<Model>) -> Self {
        Builder {
            model,
            precision: Precision::default(),
            engine: EngineKind::default(),
            device: DeviceKind::default(),
            batch_size: BatchSize::default(),
            cost_model: Arc::default(),
        }
    }

    /// Precision of the network; f32 by default.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The engine; by default the one that suits the model.
    pub fn engine(mut self, engine: EngineKind) -> Self {
        self.engine = engine;
        self
    }

    /// The device that computes; the processor by default.
    pub fn device(mut self, device: DeviceKind) -> Self {
        self.device = device;
        self
    }

    /// How many structures are computed together; see [`Potential::with_batch_size`].
    pub fn batch_size(mut self, batch_size: BatchSize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Which operations batched autograd fuses; see [`Potential::with_cost_model`].
    pub fn cost_model(mut self, cost_model: impl Into<Arc<CostModel>>) -> Self {
        self.cost_model = cost_model.into();
        self
    }

    /// Opens the device and prepares the model's weights for it.
    ///
    /// # Errors
    /// `Error::Usage` if the engine cannot evaluate models of this architecture, or cannot run on the device in this
    /// build; `Error::NotBuilt` if this build lacks the engine; `Error::Cuda` if the GPU cannot be used.
    pub fn build(self) -> Result<Potential> {
        crate::fork::watch();
        let driver = match self.precision {
            Precision::F32 => self.driver::<f32>()?,
            Precision::F64 => self.driver::<f64>()?,
        };
        let Builder { model, batch_size, cost_model, .. } = self;
        Ok(Potential { model, driver, batch_size, cost_model })
    }

    fn driver<T: Real>(&self) -> Result<Arc<dyn Driver>> {
        let is_painn = matches!(self.model.config().architecture, Architecture::Painn(_));
        let engine = match self.engine {
            EngineKind::Auto if is_painn => EngineKind::Adjoint,
            EngineKind::Auto => EngineKind::Autograd,
            chosen => chosen,
        };
        Ok(match (engine, self.device) {
            (EngineKind::Autograd, device) => autograd::<T>(&self.model, device)?,
            (_, DeviceKind::Cpu) => Arc::new(OnCpu::<T>::new(&self.model)?),
            (_, DeviceKind::Cuda(ordinal)) => on_gpu::<T>(&self.model, ordinal)?,
        })
    }
}

/// What every engine asks of its numbers.
trait Real: Lanes + Element + Scalar {}
impl Real for f32 {}
impl Real for f64 {}

#[cfg(feature = "autograd")]
fn autograd<T: Real>(model: &Model, device: DeviceKind) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(super::autograd::AutogradDriver::<T>::new(model, device)?))
}

#[cfg(not(feature = "autograd"))]
fn autograd<T: Real>(_: &Model, _: DeviceKind) -> Result<Arc<dyn Driver>> {
    Err(crate::Error::NotBuilt { what: "the batched autograd engine", feature: "autograd" })
}

#[cfg(feature = "cuda")]
fn on_gpu<T: Real>(model: &Model, ordinal: usize) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(super::on_gpu::OnGpu::<T>::new(model, ordinal)?))
}

#[cfg(not(feature = "cuda"))]
fn on_gpu<T: Real>(_: &Model, _: usize) -> Result<Arc<dyn Driver>> {
    Err(crate::Error::NotBuilt { what: "the engine for GPUs", feature: "cuda" })
}
