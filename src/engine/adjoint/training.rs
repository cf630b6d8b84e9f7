//! Gradients with respect to the weights, for training.
//!
//! A loss of energies and forces has `∂L/∂θ = Σ_s ∂L/∂E_s ∂E_s/∂θ + Σ_i ∂L/∂F_i · ∂F_i/∂θ`. With `v = ∂L/∂F` the second sum is
//! minus the derivative of `∂E/∂θ` along `v` in the space of positions: a central difference of gradients of energies,
//! which need no second derivatives.

use pulp::{Simd, WithSimd};

use super::painn::{GradientWorkspace, WeightSums, Weights, weight_gradients};
use super::{Adjoint, FilterKind, Instructions, Threads, Workspace};
use crate::batch::PackedBatch;
use crate::cpu::lanes::Lanes;
use crate::cpu::splines::Fit;
use crate::error::{Error, Result};
use crate::model::config::{Architecture, ModelConfig};
use crate::model::painn::{Painn, tensors};
use crate::model::weights::Weights as Tensors;
use crate::settings::Want;
use crate::structure::Vec3;

/// Intervals of the splines that filters are while they are trained: few enough that a vector of features of the weights and
/// of their gradient fit the first cache. They are differentiated as they are, so that nothing depends on their error.
const INTERVALS: usize = 64;

/// A PaiNN while it is trained.
#[derive(Debug)]
pub struct Trainable<T> {
    engine: Adjoint<T>,
    painn: Painn<T>,
    shapes: Vec<(String, Vec<usize>)>,
    has_splines: bool,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub struct TrainingBuffers<T: Lanes> {
    gradients: GradientWorkspace<T>,
    workspace: Workspace<T>,
    positions: Vec<Vec3>,
    steps: Vec<f64>,
    seeds: Vec<f64>,
}

impl<T: Lanes> Trainable<T> {
    /// Packs weights as they are now.
    ///
    /// # Errors
    /// `Error::Usage` if the model is not a PaiNN, or lacks a tensor.
    pub fn new(config: &ModelConfig, weights: &Tensors, filters: FilterKind) -> Result<Self> {
        let Architecture::Painn(shape) = &config.architecture else {
            return Err(Error::Usage(format!("only a PaiNN can be trained, not {}", config.architecture_name())));
        };
        let painn = Painn::new(config, shape, weights)?;
        let has_splines = match filters {
            FilterKind::Auto => size_of::<T>() == 4,
            FilterKind::Basis => false,
            FilterKind::Table => true,
        };
        let arch = Instructions::Widest.arch();
        let packed = arch.dispatch(Pack { painn: &painn, has_splines });
        let engine = Adjoint::from_parts(arch, packed, config.energy_scale);
        Ok(Trainable { engine, painn, shapes: tensors(config, shape), has_splines })
    }

    /// Evaluates energies and forces with these weights; results stand in the workspace of `buffers`.
    ///
    /// # Errors
    /// As [`Adjoint::evaluate`].
    pub fn evaluate<'a>(
        &self,
        batch: &PackedBatch,
        buffers: &'a mut TrainingBuffers<T>,
    ) -> Result<&'a crate::engine::Results> {
        self.engine.evaluate(batch, Want::FORCES, Threads::One, &mut buffers.workspace)?;
        Ok(&buffers.workspace.results)
    }

    /// Zeros of the shape of the gradients.
    pub fn zeros(&self) -> WeightSums<T> {
        WeightSums::new(&self.engine.weights)
    }

    /// Adds `Σ_s seed_s ∂E_s/∂θ`. IN `seeds` `[n_structures]`.
    ///
    /// # Errors
    /// `Error::Usage` for a batch that was prepared for another model, or seeds of another number.
    pub fn add_energy_gradients(
        &self,
        batch: &PackedBatch,
        seeds: &[f64],
        buffers: &mut TrainingBuffers<T>,
        sums: &mut WeightSums<T>,
    ) -> Result<()> {
        self.check(batch, seeds)?;
        let workspace = &mut buffers.gradients;
        self.engine.arch.dispatch(Gradients { engine: &self.engine, batch, seeds, workspace, sums });
        Ok(())
    }

    /// Adds `∂L/∂θ` of a loss whose cotangents of energies, 1/eV, and of forces, Å/eV, are given.
    ///
    /// IN `grad_energies` `[n_structures]`, `grad_forces` `[n_atoms]`. The batch's positions are changed and put back.
    ///
    /// # Errors
    /// As [`Trainable::add_energy_gradients`].
    pub fn add_loss_gradients(
        &self,
        batch: &mut PackedBatch,
        grad_energies: &[f64],
        grad_forces: &[Vec3],
        buffers: &mut TrainingBuffers<T>,
        sums: &mut WeightSums<T>,
    ) -> Result<()> {
        self.check(batch, grad_energies)?;
        if grad_forces.len() != batch.n_atoms() {
            return Err(Error::Usage(format!("{} cotangents for {} atoms", grad_forces.len(), batch.n_atoms())));
        }
        // Largest displacement, Å: what is left out grows with its square, the rounding with its inverse.
        let largest = if size_of::<T>() == 4 { 1e-3 } else { 2e-5 };
        buffers.positions.clone_from(&batch.positions);
        buffers.steps.clear();
        for s in 0..batch.n_structures() {
            let square = |v: &Vec3| v.iter().map(|x| x * x).sum::<f64>();
            let longest = grad_forces[batch.atoms_of(s)].iter().map(square).fold(0.0, f64::max).sqrt();
            buffers.steps.push(if longest > 0.0 { largest / longest } else { 0.0 });
        }
        for sign in [1.0, -1.0] {
            buffers.seeds.clear();
            for (s, (&step, &grad)) in buffers.steps.iter().zip(grad_energies).enumerate() {
                buffers.seeds.push(0.5 * grad - if step > 0.0 { sign * 0.5 / step } else { 0.0 });
                for i in batch.atoms_of(s) {
                    let (from, v) = (buffers.positions[i], grad_forces[i]);
                    batch.positions[i] = std::array::from_fn(|k| from[k] + sign * step * v[k]);
                }
            }
            let seeds = std::mem::take(&mut buffers.seeds);
            self.add_energy_gradients(batch, &seeds, buffers, sums)?;
            buffers.seeds = seeds;
        }
        batch.positions.clone_from(&buffers.positions);
        Ok(())
    }

    /// Gradients by the names and in the shapes of the model's tensors; the radial basis is not trained and left out.
    pub fn tensors(&self, sums: &WeightSums<T>) -> Tensors {
        let fit = self.has_splines.then(|| Fit::new(&self.painn.radial_basis, self.painn.cutoff, INTERVALS));
        let (painn, shapes) = (&self.painn, &self.shapes[..]);
        self.engine.arch.dispatch(Unpack { sums, painn, fit: fit.as_ref(), shapes })
    }

    fn check(&self, batch: &PackedBatch, seeds: &[f64]) -> Result<()> {
        batch.check(self.engine.weights.n_species(), false)?;
        if seeds.len() != batch.n_structures() {
            return Err(Error::Usage(format!("{} cotangents for {} structures", seeds.len(), batch.n_structures())));
        }
        Ok(())
    }
}

struct Pack<'a, T> {
    painn: &'a Painn<T>,
    has_splines: bool,
}

impl<T: Lanes> WithSimd for Pack<'_, T> {
    type Output = Weights<T>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Weights<T> {
        let painn = self.painn;
        match self.has_splines {
            true => Weights::with_fit(simd, painn, &Fit::new(&painn.radial_basis, painn.cutoff, INTERVALS)),
            false => Weights::new(simd, painn, true),
        }
    }
}

struct Gradients<'a, T: Lanes> {
    engine: &'a Adjoint<T>,
    batch: &'a PackedBatch,
    seeds: &'a [f64],
    workspace: &'a mut GradientWorkspace<T>,
    sums: &'a mut WeightSums<T>,
}

impl<T: Lanes> WithSimd for Gradients<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Gradients { engine, batch, seeds, workspace, sums } = self;
        weight_gradients(simd, &engine.weights, engine.energy_scale, batch, seeds, workspace, sums);
    }
}

struct Unpack<'a, T> {
    sums: &'a WeightSums<T>,
    painn: &'a Painn<T>,
    fit: Option<&'a Fit<'a>>,
    shapes: &'a [(String, Vec<usize>)],
}

impl<T: Lanes> WithSimd for Unpack<'_, T> {
    type Output = Tensors;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Tensors {
        self.sums.tensors(simd, self.painn, self.fit, self.shapes)
    }
}
