//! The architectures as chains of tensor operations: basis and geometry of the edges in, scalars of the atoms out.

use std::sync::Arc;

use candle_core::{D, Result, Tensor};

use super::element::Element;
use super::ops::{Custom, Message, UpdateGate, UpdateInvariants};
use super::place::Run;
use super::timed::Timed;
use super::{dense, mlp};
use crate::clock::{Component, Part};
use crate::model::distiller::{Distiller, DistillerLayer};
use crate::model::painn::{Painn, PainnLayer};
use crate::ops::dense::{Activation, Linear};
use crate::ops::radial_basis::RadialBasis;

/// What every layer of one forward pass reads.
pub(super) struct Forward<'a, T: Element> {
    pub run: &'a Arc<Run<T>>,
    /// `[n_edges, 4]`.
    pub geometry: &'a Tensor,
    /// `[n_edges, n_rbf + 1]`.
    pub basis: &'a Tensor,
}

/// A network of either architecture.
pub(super) enum Network<T> {
    Painn(Painn<T>),
    Distiller(Distiller<T>),
}

impl<T: Element> Network<T> {
    /// Added to the distance when directions are normalised, Å.
    pub fn direction_epsilon(&self) -> f64 {
        match self {
            Network::Painn(_) => 0.0,
            Network::Distiller(network) => network.direction_epsilon,
        }
    }

    /// Radial basis and cutoff, Å.
    pub fn radial_basis(&self) -> (&RadialBasis, f64) {
        match self {
            Network::Painn(network) => (&network.radial_basis, network.cutoff),
            Network::Distiller(network) => (&network.radial_basis, network.cutoff),
        }
    }

    /// Layers from an atom's scalars to its energy.
    pub fn readout(&self) -> &[Arc<Linear<T>>] {
        match self {
            Network::Painn(network) => &network.readout,
            Network::Distiller(network) => &network.readout,
        }
    }

    /// Scalars of all rows after the last layer, `[n_rows, F]`.
    pub fn scalars(&self, forward: &Forward<T>) -> Result<Tensor> {
        let (embedding, n) = match self {
            Network::Painn(network) => (&network.embedding, network.n_features),
            Network::Distiller(network) => (&network.embedding, network.n_features),
        };
        let rows = forward.run.batch.species.iter().flat_map(|&s| &embedding[s as usize * n..][..n]).copied();
        let rows: Vec<T> = rows.collect();
        let scalars = {
            let _component = forward.run.transfer();
            Tensor::from_vec(rows, (forward.run.batch.n_rows(), n), &forward.run.device)?
        };
        match self {
            Network::Painn(network) => painn_scalars(network, forward, scalars),
            Network::Distiller(network) => distiller_scalars(network, forward, scalars),
        }
    }
}

/// Scalars `[n_rows, F]` and vectors `[n_rows, 3F]` (x, y, z) of the atoms.
struct State {
    n_features: usize,
    /// Layer at hand.
    layer: usize,
    scalars: Tensor,
    vectors: Tensor,
}

impl State {
    fn new<T: Element>(n_features: usize, scalars: Tensor) -> Result<Self> {
        let vectors = Tensor::zeros((scalars.dim(0)?, 3 * n_features), T::DTYPE, scalars.device())?;
        Ok(State { n_features, layer: 0, scalars, vectors })
    }

    fn part(&self, component: Component) -> Part {
        Part::layer(component, self.layer)
    }

    /// Adds what neighbours send, gated by `context` `[n_rows, 3F]` and the filters of `edges` `[n_edges, K]`.
    fn receive<T: Element>(
        &mut self,
        forward: &Forward<T>,
        context: &Tensor,
        edges: &Tensor,
        filter: &Arc<Linear<T>>,
    ) -> Result<()> {
        let nodes = Tensor::cat(&[context, &self.vectors], 1)?;
        let op = Message { run: forward.run.clone(), n_features: self.n_features, filter: filter.clone() };
        self.add(&nodes.apply_op3(edges, forward.geometry, Timed(Custom(op), self.part(Component::Message)))?)
    }

    /// Adds a change `[n_rows, 4F]`.
    fn add(&mut self, change: &Tensor) -> Result<()> {
        self.scalars = (&self.scalars + change.narrow(1, 0, self.n_features)?)?;
        self.vectors = (&self.vectors + change.narrow(1, self.n_features, 3 * self.n_features)?)?;
        Ok(())
    }
}

fn painn_scalars<T: Element>(painn: &Painn<T>, forward: &Forward<T>, scalars: Tensor) -> Result<Tensor> {
    let mut state = State::new::<T>(painn.n_features, scalars)?;
    for l in 0..painn.n_interactions {
        let layer = painn.layer(l);
        state.layer = l;
        let context = mlp(forward.run, state.scalars.clone(), &layer.message, state.part(Component::Context))?;
        state.receive(forward, &context, forward.basis, painn.filter(l))?;
        painn_update(painn, layer, forward, &mut state)?;
    }
    Ok(state.scalars)
}

fn painn_update<T: Element>(
    painn: &Painn<T>,
    layer: &PainnLayer<T>,
    forward: &Forward<T>,
    state: &mut State,
) -> Result<()> {
    let (n, part) = (painn.n_features, state.part(Component::Update));
    let vectors = state.vectors.reshape((forward.run.batch.n_rows(), 3, n))?;
    let mixed = dense(forward.run, &vectors, &layer.mix, Activation::Identity, part)?;
    let op = UpdateInvariants::<T> { n_features: n, epsilon: painn.epsilon, run: forward.run.clone() };
    let invariants = mixed.apply_op1(Timed(Custom(op), part))?;
    let context = Tensor::cat(&[&state.scalars, &invariants.narrow(1, 0, n)?], 1)?;
    let gates = mlp(forward.run, context, &layer.update, part)?;
    let op = UpdateGate::<T> { n_features: n, run: forward.run.clone() };
    state.add(&gates.apply_op3(&mixed, &invariants, Timed(Custom(op), part))?)
}

fn distiller_scalars<T: Element>(distiller: &Distiller<T>, forward: &Forward<T>, scalars: Tensor) -> Result<Tensor> {
    let n = distiller.n_features;
    let mut state = State::new::<T>(n, scalars)?;
    // No context network: scalars gate scalars, and nothing but the filter gates directions and vectors.
    let ones = Tensor::ones((forward.run.batch.n_rows(), 2 * n), T::DTYPE, &forward.run.device)?;
    for (l, layer) in distiller.layers.iter().enumerate() {
        state.layer = l;
        let part = state.part(Component::Filters);
        let hidden = dense(forward.run, forward.basis, &layer.filters[0], Activation::Silu, part)?;
        let context = Tensor::cat(&[&state.scalars, &ones], 1)?;
        state.receive(forward, &context, &hidden, &layer.filters[1])?;
        distiller_update(layer, forward, &mut state)?;
    }
    Ok(state.scalars)
}

fn distiller_update<T: Element>(layer: &DistillerLayer<T>, forward: &Forward<T>, state: &mut State) -> Result<()> {
    let (n, part) = (state.n_features, state.part(Component::Update));
    let n_rows = forward.run.batch.n_rows();
    let vectors = state.vectors.reshape((n_rows, 3, n))?;
    // The norm of V is what `update_invariants` computes; W takes no part.
    let doubled = Tensor::cat(&[&vectors, &vectors.zeros_like()?], D::Minus1)?;
    let op = UpdateInvariants::<T> { n_features: n, epsilon: 0.0, run: forward.run.clone() };
    let invariants = doubled.apply_op1(Timed(Custom(op), part))?;
    let context = Tensor::cat(&[&state.scalars, &invariants.narrow(1, 0, n)?], 1)?;
    let gates = mlp(forward.run, context, &layer.update, part)?;
    state.scalars = (&state.scalars + gates.narrow(1, 0, n)?)?;
    let Some(mixing) = &layer.mixing else { return Ok(()) };
    let gate = |k: usize| gates.narrow(1, k * n, n)?.reshape((n_rows, 1, n));
    let mixed: Vec<Tensor> = mixing
        .chunks_exact(3)
        .map(|row| {
            let component = |k: usize| vectors.narrow(1, k, 1)?.affine(row[k].wide(), 0.0);
            (component(0)? + component(1)?)? + component(2)?
        })
        .collect::<Result<_>>()?;
    let mixed = Tensor::cat(&mixed, 1)?;
    let vectors = (vectors.broadcast_mul(&gate(1)?)? + mixed.broadcast_mul(&gate(2)?)?)?;
    state.vectors = vectors.reshape((n_rows, 3 * n))?;
    Ok(())
}
