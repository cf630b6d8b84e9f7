//! The operations of [`crate::ops`] that batched autograd applies to tensors; [`Custom`] makes candle's of them.

use std::sync::Arc;

pub use super::custom::Custom;
use super::element::Element;
pub use super::layers::{Dense, Mlp, Saved};
pub use super::op::Op;
use super::place::Run;
use crate::ops::choice::{Pattern, Size, Variant};
use crate::ops::count;
use crate::ops::dense::Linear;
use crate::ops::dispatch::{
    edge_geometry, edge_geometry_vjp, message, message_vjp, radial_basis, radial_basis_vjp, update_gate,
    update_gate_vjp, update_invariants, update_invariants_vjp,
};
use crate::ops::edge_geometry::EdgeGeometrySizes;
use crate::ops::message::{MessageGrads, MessageInputs, MessageSizes};
use crate::ops::radial_basis::{RadialBasis, RadialBasisSizes};
use crate::ops::readout::{ReadoutSizes, readout, readout_vjp};
use crate::ops::update::{GateGrads, GateInputs, GateSizes, InvariantsSizes};
use crate::structure::Mat3;

fn to_matrices(flat: &[f64]) -> Vec<Mat3> {
    flat.as_chunks::<3>().0.as_chunks::<3>().0.to_vec()
}

/// (positions `[n_rows, 3]`, strain `[n_structures, 3, 3]`), f64 → geometry `[n_edges, 4]`, f64.
pub struct EdgeGeometry<T: Element> {
    /// The batch.
    pub run: Arc<Run<T>>,
    /// Added to the distance when directions are normalised.
    pub epsilon: f64,
}

impl<T: Element> Op<2> for EdgeGeometry<T> {
    type Real = T;
    type Argument = f64;
    type Result = f64;
    type Sizes = EdgeGeometrySizes;

    fn run(&self) -> &Run<T> {
        &self.run
    }

    fn sizes(&self) -> EdgeGeometrySizes {
        let b = &self.run.batch;
        let [n_atoms, n_edges, n_structures] = [b.n_rows(), b.topology.n_edges(), b.n_structures()].map(count);
        EdgeGeometrySizes { n_atoms, n_edges, n_structures }
    }

    fn pattern(&self) -> Option<(Pattern, Size)> {
        Some((Pattern::EdgeGeometry, Size { rows: self.run.batch.topology.n_edges(), width: 1 }))
    }

    fn forward(&self, variant: Variant, [positions, strain]: [&[f64]; 2], geometry: &mut [f64]) {
        let (b, positions, strain) = (&self.run.batch, positions.as_chunks().0, to_matrices(strain));
        let geometry = geometry.as_chunks_mut().0;
        edge_geometry(variant, &b.topology, positions, &b.offsets, &strain, &b.structure_of, self.epsilon, geometry);
    }

    fn vjp(
        &self,
        variant: Variant,
        _: [&[f64]; 2],
        geometry: &[f64],
        grad: &[f64],
        [positions, strain]: [&mut [f64]; 2],
    ) {
        let b = &self.run.batch;
        let (geometry, grad) = (geometry.as_chunks().0, grad.as_chunks().0);
        let (positions, strain) = (positions.as_chunks_mut().0, strain.as_chunks_mut().0.as_chunks_mut().0);
        let epsilon = self.epsilon;
        edge_geometry_vjp(variant, &b.topology, geometry, &b.structure_of, epsilon, grad, positions, strain);
    }
}

/// Distances `[n_edges]` → basis `[n_edges, n_rbf + 1]`.
pub struct Basis<T: Element> {
    /// Basis functions.
    pub functions: RadialBasis,
    /// Cutoff, Å.
    pub cutoff: f64,
    /// The batch.
    pub run: Arc<Run<T>>,
}

impl<T: Element> Op<1> for Basis<T> {
    type Real = T;
    type Argument = T;
    type Result = T;
    type Sizes = RadialBasisSizes;

    fn run(&self) -> &Run<T> {
        &self.run
    }

    fn sizes(&self) -> RadialBasisSizes {
        let [n_edges, n_rbf] = [self.run.batch.topology.n_edges(), self.functions.len()].map(count);
        RadialBasisSizes { n_edges, n_rbf, stride: 1 }
    }

    fn pattern(&self) -> Option<(Pattern, Size)> {
        let rows = self.run.batch.topology.n_edges();
        Some((Pattern::RadialBasis, Size { rows, width: self.functions.len() }))
    }

    fn forward(&self, variant: Variant, [distances]: [&[T]; 1], basis: &mut [T]) {
        radial_basis(variant, &self.functions, self.cutoff, distances, basis);
    }

    fn vjp(&self, variant: Variant, [distances]: [&[T]; 1], _: &[T], grad: &[T], [out]: [&mut [T]; 1]) {
        radial_basis_vjp(variant, &self.functions, self.cutoff, distances, grad, out);
    }
}

/// (nodes `[n_rows, 6F]`, edge features `[n_edges, K]`, geometry `[n_edges, 4]`) → sums `[n_rows, 4F]`.
pub struct Message<T: Element> {
    /// The batch.
    pub run: Arc<Run<T>>,
    /// F.
    pub n_features: usize,
    /// From edge features to filters: K → 3F.
    pub filter: Arc<Linear<T>>,
}

impl<T: Element> Message<T> {
    fn inputs<'a>(&'a self, [nodes, edges, geometry]: [&'a [T]; 3]) -> MessageInputs<'a, T> {
        MessageInputs { n_features: self.n_features, nodes, edges, geometry, filter: &self.filter }
    }
}

impl<T: Element> Op<3> for Message<T> {
    type Real = T;
    type Argument = T;
    type Result = T;
    type Sizes = MessageSizes;

    fn run(&self) -> &Run<T> {
        &self.run
    }

    fn sizes(&self) -> MessageSizes {
        self.inputs([&[]; 3]).sizes(&self.run.batch.topology)
    }

    fn pattern(&self) -> Option<(Pattern, Size)> {
        Some((Pattern::Message, Size { rows: self.run.batch.topology.n_edges(), width: self.n_features }))
    }

    fn forward(&self, variant: Variant, arguments: [&[T]; 3], sums: &mut [T]) {
        message(variant, &self.run.batch.topology, &self.inputs(arguments), sums);
    }

    fn vjp(&self, variant: Variant, arguments: [&[T]; 3], _: &[T], grad: &[T], grads: [&mut [T]; 3]) {
        let [nodes, edges, geometry] = grads;
        let mut out = MessageGrads { nodes, edges, geometry };
        message_vjp(variant, &self.run.batch.topology, &self.inputs(arguments), grad, &mut out);
    }
}

fn update_pattern<T: Element>(run: &Run<T>, n_features: usize) -> Option<(Pattern, Size)> {
    Some((Pattern::Update, Size { rows: run.batch.n_rows(), width: n_features }))
}

/// Mixed vectors `[n_rows, 3, 2F]` → invariants `[n_rows, 2F]`.
pub struct UpdateInvariants<T: Element> {
    /// F.
    pub n_features: usize,
    /// Added under the root of the norm.
    pub epsilon: f64,
    /// The batch.
    pub run: Arc<Run<T>>,
}

impl<T: Element> Op<1> for UpdateInvariants<T> {
    type Real = T;
    type Argument = T;
    type Result = T;
    type Sizes = InvariantsSizes;

    fn run(&self) -> &Run<T> {
        &self.run
    }

    fn sizes(&self) -> InvariantsSizes {
        InvariantsSizes { n_atoms: count(self.run.batch.n_rows()), n_features: count(self.n_features) }
    }

    fn pattern(&self) -> Option<(Pattern, Size)> {
        update_pattern(&self.run, self.n_features)
    }

    fn forward(&self, variant: Variant, [mixed]: [&[T]; 1], invariants: &mut [T]) {
        update_invariants(variant, self.n_features, self.epsilon, mixed, invariants);
    }

    fn vjp(&self, variant: Variant, [mixed]: [&[T]; 1], invariants: &[T], grad: &[T], [out]: [&mut [T]; 1]) {
        update_invariants_vjp(variant, self.n_features, mixed, invariants, grad, out);
    }
}

/// (gates `[n_rows, 3F]`, mixed `[n_rows, 3, 2F]`, invariants `[n_rows, 2F]`) → change `[n_rows, 4F]`.
pub struct UpdateGate<T: Element> {
    /// F.
    pub n_features: usize,
    /// The batch.
    pub run: Arc<Run<T>>,
}

impl<T: Element> Op<3> for UpdateGate<T> {
    type Real = T;
    type Argument = T;
    type Result = T;
    type Sizes = GateSizes;

    fn run(&self) -> &Run<T> {
        &self.run
    }

    fn sizes(&self) -> GateSizes {
        GateSizes { n_atoms: count(self.run.batch.n_rows()), n_features: count(self.n_features) }
    }

    fn pattern(&self) -> Option<(Pattern, Size)> {
        update_pattern(&self.run, self.n_features)
    }

    fn forward(&self, variant: Variant, [gates, mixed, invariants]: [&[T]; 3], change: &mut [T]) {
        let inputs = GateInputs { n_features: self.n_features, gates, mixed, invariants };
        update_gate(variant, &inputs, change);
    }

    fn vjp(&self, variant: Variant, arguments: [&[T]; 3], _: &[T], grad: &[T], grads: [&mut [T]; 3]) {
        let ([gates, mixed, invariants], [a, b, c]) = (arguments, grads);
        let inputs = GateInputs { n_features: self.n_features, gates, mixed, invariants };
        update_gate_vjp(variant, &inputs, grad, &mut GateGrads { gates: a, mixed: b, invariants: c });
    }
}

/// Atomic outputs `[n_rows, 1]` → energies `[n_structures]`, f64.
pub struct Readout<T: Element> {
    /// The batch.
    pub run: Arc<Run<T>>,
    /// Factor on the outputs, eV.
    pub energy_scale: f64,
}

impl<T: Element> Op<1> for Readout<T> {
    type Real = T;
    type Argument = T;
    type Result = f64;
    type Sizes = ReadoutSizes;

    fn run(&self) -> &Run<T> {
        &self.run
    }

    fn sizes(&self) -> ReadoutSizes {
        let [n_atoms, n_structures] = [self.run.batch.n_rows(), self.run.batch.n_structures()].map(count);
        ReadoutSizes { n_atoms, n_structures }
    }

    fn pattern(&self) -> Option<(Pattern, Size)> {
        None
    }

    fn forward(&self, _: Variant, [outputs]: [&[T]; 1], energies: &mut [f64]) {
        let b = &self.run.batch;
        readout(self.energy_scale, outputs, &b.references, &b.atoms_of, energies);
    }

    fn vjp(&self, _: Variant, _: [&[T]; 1], _: &[f64], grad: &[f64], [out]: [&mut [T]; 1]) {
        readout_vjp(self.energy_scale, &self.run.batch.atoms_of, grad, out);
    }
}
