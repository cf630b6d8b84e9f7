//! Batched autograd: candle tensors over padded batches, one `backward()` a batch.
//!
//! The reference for the other engine, and what the profiler's autograd share is measured on.

mod custom;
mod debug;
mod element;
#[cfg(feature = "candle-cuda")]
mod gpu;
#[cfg(feature = "candle-cuda")]
mod gpu_batch;
#[cfg(feature = "candle-cuda")]
mod gpu_ops;
mod layers;
mod networks;
#[cfg(feature = "candle-cuda")]
mod on_gpu;
mod op;
pub mod ops;
mod place;
mod timed;

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Tensor, Var};

use super::Evaluation;
use crate::batch::PaddedBatch;
use crate::clock::{Component, Part, enter, within};
use crate::error::{Error, Result};
use crate::model::config::Architecture;
use crate::model::distiller::Distiller;
use crate::model::painn::Painn;
use crate::model::{Model, Outside};
use crate::ops::cost_model::CostModel;
use crate::ops::dense::{Activation, Linear};
use crate::settings::DeviceKind;
use crate::settings::Want;
use crate::structure::{Mat3, Vec3};
pub use element::Element;
use networks::{Forward, Network};
use ops::{Basis, Custom, Dense, EdgeGeometry, Mlp, Readout};
pub use place::{Place, Run};
use timed::Timed;

/// A model ready to be evaluated by batched autograd, with the network in f32 or f64.
pub struct Autograd<T: Element> {
    network: Network<T>,
    energy_scale: f64,
    place: Place<T>,
}

impl<T: Element> Autograd<T> {
    /// Converts a model's weights.
    ///
    /// # Errors
    /// `Error::Usage` if a tensor is missing, which a [`Model`] excludes; what [`Place::open`] refuses.
    pub fn new(model: &Model, device: DeviceKind) -> Result<Self> {
        let place = Place::open(device)?;
        let config = model.config();
        let network = match &config.architecture {
            Architecture::Painn(painn) => Network::Painn(Painn::new(config, painn, model.weights())?),
            Architecture::Distiller(distiller) => {
                Network::Distiller(Distiller::new(config, distiller, model.weights())?)
            }
        };
        Ok(Autograd { network, energy_scale: config.energy_scale, place })
    }

    /// Where it computes.
    pub fn device(&self) -> DeviceKind {
        self.place.kind()
    }

    /// What the profiler asks of a device.
    pub(crate) fn place(&self) -> &Place<T> {
        &self.place
    }

    /// Evaluates a batch; `cost_model` says which operations to fuse.
    ///
    /// # Errors
    /// `Error::Tensor` if the tensor library fails, `Error::Cuda` if a kernel of ours does; `Error::Usage` for virials of atoms,
    /// of which the tape has only the sum.
    pub fn evaluate(&self, batch: PaddedBatch, want: Want, cost_model: &Arc<CostModel>) -> Result<Vec<Evaluation>> {
        if want.atomic_virials {
            return Err(Error::Usage("batched autograd has no virials of atoms: the adjoint engine has them".into()));
        }
        self.run(batch, want, cost_model).map_err(through_candle)
    }

    fn run(&self, batch: PaddedBatch, want: Want, cost_model: &Arc<CostModel>) -> candle_core::Result<Vec<Evaluation>> {
        let _component = within(Component::TensorOperations);
        let run = &self.place.run(batch, want.gradient(), cost_model)?;
        let batch = &run.batch;
        let positions = batch.positions.concat();
        let positions = {
            let _component = run.transfer();
            Tensor::from_vec(positions, (batch.n_rows(), 3), &run.device)?
        };
        let strain = Tensor::zeros((batch.n_structures(), 3, 3), DType::F64, &run.device)?;
        let (positions, strain) = if want.gradient() {
            (Var::from_tensor(&positions)?, Var::from_tensor(&strain)?)
        } else {
            return self.collect(run, &self.forward(run, &positions, &strain)?, None);
        };
        let outputs = self.forward(run, &positions, &strain)?;
        enter(Component::TensorOperationsVjp);
        let gradients = outputs.energies.backward()?;
        let gradient = |var: &Var| -> candle_core::Result<Vec<f64>> {
            match gradients.get(var.as_tensor()) {
                Some(gradient) => {
                    let gradient = gradient.flatten_all()?;
                    let _component = run.transfer();
                    gradient.to_vec1()
                }
                // Not an edge in the whole batch: nothing depends on the positions.
                None if batch.topology.n_edges() == 0 => Ok(vec![0.0; var.elem_count()]),
                None => candle_core::bail!("no gradient reached the positions"),
            }
        };
        let gradients = Gradients {
            positions: gradient(&positions)?,
            strain: gradient(&strain)?.as_chunks::<3>().0.as_chunks::<3>().0.to_vec(),
            want,
        };
        self.collect(run, &outputs, Some(gradients))
    }

    fn forward(&self, run: &Arc<Run<T>>, positions: &Tensor, strain: &Tensor) -> candle_core::Result<Outputs> {
        let op = EdgeGeometry { run: run.clone(), epsilon: self.network.direction_epsilon() };
        let geometry =
            positions.apply_op2(strain, Timed(Custom(op), Component::EdgeGeometry.into()))?.to_dtype(T::DTYPE)?;
        let distances = geometry.narrow(1, 0, 1)?.flatten_all()?.contiguous()?;
        let (functions, cutoff) = self.network.radial_basis();
        let op = Basis { functions: functions.clone(), cutoff, run: run.clone() };
        let basis = distances.apply_op1(Timed(Custom(op), Component::RadialBasis.into()))?;
        let forward = Forward { run, geometry: &geometry, basis: &basis };
        let scalars = self.network.scalars(&forward)?;
        let part = Component::Readout.into();
        let atomic = mlp(run, scalars, self.network.readout(), part)?;
        let op = Readout { run: run.clone(), energy_scale: self.energy_scale };
        let energies = atomic.apply_op1(Timed(Custom(op), part))?;
        Ok(Outputs { energies, atomic })
    }

    fn collect(
        &self,
        run: &Run<T>,
        outputs: &Outputs,
        gradients: Option<Gradients>,
    ) -> candle_core::Result<Vec<Evaluation>> {
        enter(Component::Results);
        let (batch, atomic) = (&run.batch, outputs.atomic.flatten_all()?);
        let transfer = run.transfer();
        let energies: Vec<f64> = outputs.energies.to_vec1()?;
        let atomic: Vec<T> = atomic.to_vec1()?;
        drop(transfer);
        let evaluation = |(s, &energy): (usize, &f64)| {
            let rows = batch.atoms_of[s].clone();
            let atomic_energies = rows
                .clone()
                .map(|i| self.energy_scale * crate::ops::Real::wide(atomic[i]) + batch.references[i])
                .collect();
            Evaluation {
                energy,
                atomic_energies,
                forces: gradients.as_ref().and_then(|g| g.forces(rows)),
                stress: gradients.as_ref().and_then(|g| g.stress(s, batch.volumes[s])),
                virial: gradients.as_ref().and_then(|g| g.virial(s)),
                atomic_virials: None,
                outside: Outside::default(),
            }
        };
        Ok(energies.iter().enumerate().map(evaluation).collect())
    }
}

/// An error of ours on its way through the tensor library.
#[cfg_attr(
    not(any(test, feature = "candle-cuda")),
    expect(dead_code, reason = "operations on the processor have none")
)]
fn into_candle(error: impl Into<Error>) -> candle_core::Error {
    candle_core::Error::Cuda(Box::new(error.into()))
}

/// The error of ours that went in, or what the tensor library says.
fn through_candle(error: candle_core::Error) -> Error {
    let mut inner = &error;
    while let candle_core::Error::WithBacktrace { inner: next, .. } | candle_core::Error::Context { inner: next, .. } =
        inner
    {
        inner = next;
    }
    match inner {
        candle_core::Error::Cuda(ours) => ours.downcast_ref::<Error>().cloned(),
        _ => None,
    }
    .unwrap_or_else(|| Error::Tensor(error.to_string()))
}

struct Outputs {
    energies: Tensor,
    atomic: Tensor,
}

/// ∂E/∂positions and ∂E/∂strain of a batch.
struct Gradients {
    positions: Vec<f64>,
    strain: Vec<Mat3>,
    want: Want,
}

impl Gradients {
    fn forces(&self, rows: std::ops::Range<usize>) -> Option<Vec<Vec3>> {
        let rows = &self.positions.as_chunks::<3>().0[rows];
        // 0 − x, not −x: an isolated atom's force reads 0, not -0.
        self.want.forces.then(|| rows.iter().map(|g| g.map(|x| 0.0 - x)).collect())
    }

    /// The derivative along a symmetric strain, per volume.
    fn stress(&self, s: usize, volume: Option<f64>) -> Option<Mat3> {
        let (g, volume) = (&self.strain[s], volume.filter(|_| self.want.stress)?);
        Some(std::array::from_fn(|a| std::array::from_fn(|b| 0.5 * (g[a][b] + g[b][a]) / volume)))
    }

    fn virial(&self, s: usize) -> Option<Mat3> {
        let g = &self.strain[s];
        self.want.virial.then(|| std::array::from_fn(|a| std::array::from_fn(|b| 0.0 - 0.5 * (g[a][b] + g[b][a]))))
    }
}

/// Applies one layer as a custom operation.
fn dense<T: Element>(
    run: &Arc<Run<T>>,
    x: &Tensor,
    layer: &Arc<Linear<T>>,
    activation: Activation,
    part: Part,
) -> candle_core::Result<Tensor> {
    let (run, layer, saved) = (run.clone(), layer.clone(), OnceLock::new());
    x.contiguous()?.apply_op1(Timed(Dense { run, layer, activation, saved }, part))
}

/// Layers with SiLU between them. Two on the processor are one operation.
fn mlp<T: Element>(
    run: &Arc<Run<T>>,
    mut x: Tensor,
    layers: &[Arc<Linear<T>>],
    part: Part,
) -> candle_core::Result<Tensor> {
    if let [first, second] = layers
        && run.device.is_cpu()
    {
        let (run, layers, saved) = (run.clone(), [first.clone(), second.clone()], OnceLock::new());
        return x.contiguous()?.apply_op1(Timed(Mlp { run, layers, saved }, part));
    }
    for (k, layer) in layers.iter().enumerate() {
        let activation = if k + 1 < layers.len() { Activation::Silu } else { Activation::Identity };
        x = dense(run, &x, layer, activation, part)?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CudaError;

    #[test]
    fn errors_of_ours_come_through_the_tensor_library_as_they_were() {
        let memory = CudaError::OutOfMemory { asked: 2, free: 1 };
        let error = through_candle(into_candle(memory.clone()).bt().context("an operation"));
        assert!(matches!(error, Error::Cuda(found) if found == memory));
        assert!(matches!(through_candle(candle_core::Error::msg("no")), Error::Tensor(text) if text.starts_with("no")));
    }
}
