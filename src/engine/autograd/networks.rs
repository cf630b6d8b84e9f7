//! The architectures as chains of tensor operations: basis and geometry of the edges in, scalars of the atoms out.

use std::marker::PhantomData;
use std::sync::Arc;

use candle_core::{D, Device, Result, Tensor};

use super::ops::{Element, Message, UpdateGate, UpdateInvariants};
use super::{dense, mlp};
use crate::batch::PaddedBatch;
use crate::model::distiller::Distiller;
use crate::model::painn::Painn;
use crate::ops::dense::{Activation, Linear};
use crate::ops::radial_basis::RadialBasis;

/// What every layer of one forward pass reads.
pub(super) struct Forward<'a> {
    pub batch: &'a Arc<PaddedBatch>,
    /// `[n_edges, 4]`.
    pub geometry: &'a Tensor,
    /// `[n_edges, n_rbf + 1]`.
    pub basis: &'a Tensor,
    pub device: &'a Device,
    /// Whether a backward will follow.
    pub keep: bool,
}

/// A network's weights, shared with the operations that use them.
pub(super) enum Network<T> {
    Painn(PainnNetwork<T>),
    Distiller(DistillerNetwork<T>),
}

pub(super) struct PainnNetwork<T> {
    common: Common<T>,
    epsilon: f64,
    n_interactions: usize,
    filters: Vec<Arc<Linear<T>>>,
    layers: Vec<PainnLayer<T>>,
}

struct PainnLayer<T> {
    message: [Arc<Linear<T>>; 2],
    mix: Arc<Linear<T>>,
    update: [Arc<Linear<T>>; 2],
}

pub(super) struct DistillerNetwork<T> {
    common: Common<T>,
    direction_epsilon: f64,
    layers: Vec<DistillerLayer<T>>,
}

struct DistillerLayer<T> {
    filters: [Arc<Linear<T>>; 2],
    update: [Arc<Linear<T>>; 2],
    mixing: Option<Vec<T>>,
}

/// What both architectures have.
struct Common<T> {
    n_features: usize,
    cutoff: f64,
    radial_basis: RadialBasis,
    embedding: Vec<T>,
    readout: Vec<Arc<Linear<T>>>,
}

impl<T: Element> Network<T> {
    pub fn painn(painn: Painn<T>) -> Self {
        Network::Painn(PainnNetwork {
            common: Common {
                n_features: painn.n_features,
                cutoff: painn.cutoff,
                radial_basis: painn.radial_basis,
                embedding: painn.embedding,
                readout: painn.readout.into_iter().map(Arc::new).collect(),
            },
            epsilon: painn.epsilon,
            n_interactions: painn.n_interactions,
            filters: painn.filters.into_iter().map(Arc::new).collect(),
            layers: painn
                .layers
                .into_iter()
                .map(|layer| PainnLayer {
                    message: layer.message.map(Arc::new),
                    mix: Arc::new(layer.mix),
                    update: layer.update.map(Arc::new),
                })
                .collect(),
        })
    }

    pub fn distiller(distiller: Distiller<T>, direction_epsilon: f64) -> Self {
        Network::Distiller(DistillerNetwork {
            common: Common {
                n_features: distiller.n_features,
                cutoff: distiller.cutoff,
                radial_basis: distiller.radial_basis,
                embedding: distiller.embedding,
                readout: distiller.readout.into_iter().map(Arc::new).collect(),
            },
            direction_epsilon,
            layers: distiller
                .layers
                .into_iter()
                .map(|layer| DistillerLayer {
                    filters: layer.filters.map(Arc::new),
                    update: layer.update.map(Arc::new),
                    mixing: layer.mixing,
                })
                .collect(),
        })
    }

    fn common(&self) -> &Common<T> {
        match self {
            Network::Painn(network) => &network.common,
            Network::Distiller(network) => &network.common,
        }
    }

    pub fn direction_epsilon(&self) -> f64 {
        match self {
            Network::Painn(_) => 0.0,
            Network::Distiller(network) => network.direction_epsilon,
        }
    }

    pub fn radial_basis(&self) -> (&RadialBasis, f64) {
        let common = self.common();
        (&common.radial_basis, common.cutoff)
    }

    pub fn readout(&self) -> &[Arc<Linear<T>>] {
        &self.common().readout
    }

    /// Scalars of all rows after the last layer, `[n_rows, F]`.
    pub fn scalars(&self, forward: &Forward) -> Result<Tensor> {
        let common = self.common();
        let n = common.n_features;
        let rows = forward.batch.species.iter().flat_map(|&s| &common.embedding[s as usize * n..][..n]).copied();
        let scalars = Tensor::from_vec(rows.collect::<Vec<T>>(), (forward.batch.n_rows(), n), forward.device)?;
        match self {
            Network::Painn(network) => network.scalars(forward, scalars),
            Network::Distiller(network) => network.scalars(forward, scalars),
        }
    }
}

/// Scalars `[n_rows, F]` and vectors `[n_rows, 3F]` (x, y, z) of the atoms.
struct State {
    n_features: usize,
    scalars: Tensor,
    vectors: Tensor,
}

impl State {
    fn new<T: Element>(n_features: usize, scalars: Tensor) -> Result<Self> {
        let vectors = Tensor::zeros((scalars.dim(0)?, 3 * n_features), T::DTYPE, scalars.device())?;
        Ok(State { n_features, scalars, vectors })
    }

    /// Adds what neighbours send, gated by `context` `[n_rows, 3F]` and the filters of `edges` `[n_edges, K]`.
    fn receive<T: Element>(
        &mut self,
        forward: &Forward,
        context: &Tensor,
        edges: &Tensor,
        filter: &Arc<Linear<T>>,
    ) -> Result<()> {
        let nodes = Tensor::cat(&[context, &self.vectors], 1)?;
        let op = Message { batch: forward.batch.clone(), n_features: self.n_features, filter: filter.clone() };
        self.add(&nodes.apply_op3(edges, forward.geometry, op)?)
    }

    /// Adds a change `[n_rows, 4F]`.
    fn add(&mut self, change: &Tensor) -> Result<()> {
        self.scalars = (&self.scalars + change.narrow(1, 0, self.n_features)?)?;
        self.vectors = (&self.vectors + change.narrow(1, self.n_features, 3 * self.n_features)?)?;
        Ok(())
    }
}

impl<T: Element> PainnNetwork<T> {
    fn scalars(&self, forward: &Forward, scalars: Tensor) -> Result<Tensor> {
        let n = self.common.n_features;
        let mut state = State::new::<T>(n, scalars)?;
        for l in 0..self.n_interactions {
            let layer = &self.layers[l % self.layers.len()];
            let filter = &self.filters[l % self.filters.len()];
            let context = mlp(state.scalars.clone(), &layer.message, forward.keep)?;
            state.receive(forward, &context, forward.basis, filter)?;
            self.update(forward, layer, &mut state)?;
        }
        Ok(state.scalars)
    }

    fn update(&self, forward: &Forward, layer: &PainnLayer<T>, state: &mut State) -> Result<()> {
        let n = self.common.n_features;
        let vectors = state.vectors.reshape((forward.batch.n_rows(), 3, n))?;
        let mixed = dense(&vectors, &layer.mix, Activation::Identity, forward.keep)?;
        let invariants =
            mixed.apply_op1(UpdateInvariants::<T> { n_features: n, epsilon: self.epsilon, element: PhantomData })?;
        let context = Tensor::cat(&[&state.scalars, &invariants.narrow(1, 0, n)?], 1)?;
        let gates = mlp(context, &layer.update, forward.keep)?;
        state.add(&gates.apply_op3(&mixed, &invariants, UpdateGate::<T> { n_features: n, element: PhantomData })?)
    }
}

impl<T: Element> DistillerNetwork<T> {
    fn scalars(&self, forward: &Forward, scalars: Tensor) -> Result<Tensor> {
        let n = self.common.n_features;
        let n_rows = forward.batch.n_rows();
        let mut state = State::new::<T>(n, scalars)?;
        // No context network: scalars gate scalars, and nothing but the filter gates directions and vectors.
        let ones = Tensor::ones((n_rows, 2 * n), T::DTYPE, forward.device)?;
        for layer in &self.layers {
            let hidden = dense(forward.basis, &layer.filters[0], Activation::Silu, forward.keep)?;
            let context = Tensor::cat(&[&state.scalars, &ones], 1)?;
            state.receive(forward, &context, &hidden, &layer.filters[1])?;
            self.update(forward, layer, &mut state)?;
        }
        Ok(state.scalars)
    }

    fn update(&self, forward: &Forward, layer: &DistillerLayer<T>, state: &mut State) -> Result<()> {
        let n = self.common.n_features;
        let n_rows = forward.batch.n_rows();
        let vectors = state.vectors.reshape((n_rows, 3, n))?;
        // The norm of V is what `update_invariants` computes; W takes no part.
        let doubled = Tensor::cat(&[&vectors, &vectors.zeros_like()?], D::Minus1)?;
        let invariants =
            doubled.apply_op1(UpdateInvariants::<T> { n_features: n, epsilon: 0.0, element: PhantomData })?;
        let context = Tensor::cat(&[&state.scalars, &invariants.narrow(1, 0, n)?], 1)?;
        let gates = mlp(context, &layer.update, forward.keep)?;
        state.scalars = (&state.scalars + gates.narrow(1, 0, n)?)?;
        if let Some(mixing) = &layer.mixing {
            let gate = |k: usize| gates.narrow(1, k * n, n)?.reshape((n_rows, 1, n));
            let rows: Vec<Tensor> = mixing
                .chunks_exact(3)
                .map(|row| {
                    let parts: Vec<Tensor> =
                        (0..3).map(|k| vectors.narrow(1, k, 1)?.affine(row[k].wide(), 0.0)).collect::<Result<_>>()?;
                    (&parts[0] + &parts[1])? + &parts[2]
                })
                .collect::<Result<_>>()?;
            let mixed = Tensor::cat(&rows, 1)?;
            let vectors = (vectors.broadcast_mul(&gate(1)?)? + mixed.broadcast_mul(&gate(2)?)?)?;
            state.vectors = vectors.reshape((n_rows, 3 * n))?;
        }
        Ok(())
    }
}
