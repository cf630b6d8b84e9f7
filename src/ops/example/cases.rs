//! The operations on examples, on the processor: what calibrations time and what kernels are held to.

use std::hint::black_box;

use super::Example;
use crate::ops::choice::Variant;
use crate::ops::dense::Linear;
use crate::ops::edge_geometry::EdgeGeometrySizes;
use crate::ops::message::{MessageGrads, MessageInputs, MessageSizes};
use crate::ops::radial_basis::{RadialBasis, RadialBasisSizes};
use crate::ops::update::{GateGrads, GateInputs, GateSizes, InvariantsSizes};
use crate::ops::{Real, Topology, dispatch};
use crate::structure::{Mat3, Vec3};

/// Arrays by name, in f64.
pub type Results = Vec<(&'static str, Vec<f64>)>;

fn wide<T: Real>(name: &'static str, values: &[T]) -> (&'static str, Vec<f64>) {
    (name, values.iter().map(|x| x.wide()).collect())
}

/// An operation on the arrays of an example. Running it again adds to the gradients again.
pub trait Case {
    /// The forward.
    fn forward(&mut self, variant: Variant);

    /// The VJP, behind a forward.
    fn vjp(&mut self, variant: Variant);

    /// Outputs and gradients as they are now.
    fn results(&self) -> Results;

    /// What both make of the example.
    fn run(mut self, variant: Variant) -> Results
    where
        Self: Sized,
    {
        self.forward(variant);
        self.vjp(variant);
        self.results()
    }
}

/// `message`.
#[derive(Debug)]
pub struct MessageCase<T> {
    topology: Topology,
    n_features: usize,
    filter: Linear<T>,
    nodes: Vec<T>,
    edges: Vec<T>,
    geometry: Vec<T>,
    sums: Vec<T>,
    grad_sums: Vec<T>,
    grads: [Vec<T>; 3],
}

impl<T: Real> MessageCase<T> {
    /// Rounds an example; its edges are those of `topology`.
    pub fn new(topology: &Topology, example: &Example<MessageSizes>) -> Self {
        let of = |name: &str| example.numbers::<T>(name);
        let [n_features, n_in] = [example.sizes.n_features, example.sizes.n_edge_features].map(|n| n as usize);
        let bias = Some(of("bias")).filter(|bias| !bias.is_empty());
        MessageCase {
            topology: topology.clone(),
            n_features,
            filter: Linear { weight: of("weight"), bias, n_in, n_out: 3 * n_features },
            nodes: of("nodes"),
            edges: of("edges"),
            geometry: of("geometry"),
            sums: of("sums"),
            grad_sums: of("grad_sums"),
            grads: ["grad_nodes", "grad_edges", "grad_geometry"].map(of),
        }
    }

    fn inputs(&self) -> MessageInputs<'_, T> {
        MessageInputs {
            n_features: self.n_features,
            nodes: black_box(&self.nodes),
            edges: &self.edges,
            geometry: &self.geometry,
            filter: &self.filter,
        }
    }
}

impl<T: Real> Case for MessageCase<T> {
    fn forward(&mut self, variant: Variant) {
        let mut sums = std::mem::take(&mut self.sums);
        dispatch::message(variant, &self.topology, &self.inputs(), &mut sums);
        self.sums = sums;
    }

    fn vjp(&mut self, variant: Variant) {
        let mut grads = std::mem::take(&mut self.grads);
        let [nodes, edges, geometry] = &mut grads;
        let mut out = MessageGrads { nodes, edges, geometry };
        dispatch::message_vjp(variant, &self.topology, &self.inputs(), &self.grad_sums, &mut out);
        self.grads = grads;
    }

    fn results(&self) -> Results {
        let [nodes, edges, geometry] = &self.grads;
        let all = [("sums", &self.sums), ("grad_nodes", nodes), ("grad_edges", edges), ("grad_geometry", geometry)];
        all.map(|(name, values)| wide(name, values)).to_vec()
    }
}

/// `update_invariants`.
#[derive(Debug)]
pub struct InvariantsCase<T> {
    n_features: usize,
    epsilon: f64,
    mixed: Vec<T>,
    invariants: Vec<T>,
    grad_invariants: Vec<T>,
    grad_mixed: Vec<T>,
}

impl<T: Real> InvariantsCase<T> {
    /// Rounds an example.
    pub fn new(example: &Example<InvariantsSizes>, epsilon: f64) -> Self {
        let of = |name: &str| example.numbers::<T>(name);
        InvariantsCase {
            n_features: example.sizes.n_features as usize,
            epsilon,
            mixed: of("mixed"),
            invariants: of("invariants"),
            grad_invariants: of("grad_invariants"),
            grad_mixed: of("grad_mixed"),
        }
    }
}

impl<T: Real> Case for InvariantsCase<T> {
    fn forward(&mut self, variant: Variant) {
        let mixed = black_box(&self.mixed);
        dispatch::update_invariants(variant, self.n_features, self.epsilon, mixed, &mut self.invariants);
    }

    fn vjp(&mut self, variant: Variant) {
        let (n, grad, out) = (self.n_features, &self.grad_invariants, &mut self.grad_mixed);
        dispatch::update_invariants_vjp(variant, n, &self.mixed, &self.invariants, grad, out);
    }

    fn results(&self) -> Results {
        vec![wide("invariants", &self.invariants), wide("grad_mixed", &self.grad_mixed)]
    }
}

/// `update_gate`.
#[derive(Debug)]
pub struct GateCase<T> {
    n_features: usize,
    inputs: [Vec<T>; 3],
    change: Vec<T>,
    grad_change: Vec<T>,
    grads: [Vec<T>; 3],
}

impl<T: Real> GateCase<T> {
    /// Rounds an example.
    pub fn new(example: &Example<GateSizes>) -> Self {
        let of = |name: &str| example.numbers::<T>(name);
        GateCase {
            n_features: example.sizes.n_features as usize,
            inputs: ["gates", "mixed", "invariants"].map(of),
            change: of("change"),
            grad_change: of("grad_change"),
            grads: ["grad_gates", "grad_mixed", "grad_invariants"].map(of),
        }
    }
}

fn gate_inputs<T>(n_features: usize, [gates, mixed, invariants]: &[Vec<T>; 3]) -> GateInputs<'_, T> {
    GateInputs { n_features, gates: black_box(gates), mixed, invariants }
}

impl<T: Real> Case for GateCase<T> {
    fn forward(&mut self, variant: Variant) {
        dispatch::update_gate(variant, &gate_inputs(self.n_features, &self.inputs), &mut self.change);
    }

    fn vjp(&mut self, variant: Variant) {
        let [gates, mixed, invariants] = &mut self.grads;
        let mut out = GateGrads { gates, mixed, invariants };
        dispatch::update_gate_vjp(variant, &gate_inputs(self.n_features, &self.inputs), &self.grad_change, &mut out);
    }

    fn results(&self) -> Results {
        let [gates, mixed, invariants] = &self.grads;
        let all =
            [("change", &self.change), ("grad_gates", gates), ("grad_mixed", mixed), ("grad_invariants", invariants)];
        all.map(|(name, values)| wide(name, values)).to_vec()
    }
}

/// `radial_basis`.
#[derive(Debug)]
pub struct BasisCase<T> {
    functions: RadialBasis,
    cutoff: f64,
    stride: usize,
    distances: Vec<T>,
    basis: Vec<T>,
    grad_basis: Vec<T>,
    grad_distances: Vec<T>,
    between: Vec<f64>,
}

impl<T: Real> BasisCase<T> {
    /// Rounds an example; functions without widths are Bessel's. The cutoff in Å.
    pub fn new(example: &Example<RadialBasisSizes>, cutoff: f64) -> Self {
        let stride = example.sizes.stride as usize;
        let firsts = |name: &str| example.get(name).iter().step_by(stride).map(|&x| T::of(x)).collect();
        let (first, widths) = (example.get("first").to_vec(), example.get("widths").to_vec());
        BasisCase {
            functions: if widths.is_empty() {
                RadialBasis::Bessel { frequencies: first }
            } else {
                RadialBasis::Gaussian { centers: first, widths }
            },
            cutoff,
            stride,
            distances: firsts("distances"),
            basis: example.numbers("basis"),
            grad_basis: example.numbers("grad_basis"),
            grad_distances: firsts("grad_distances"),
            between: example.get("grad_distances").to_vec(),
        }
    }
}

impl<T: Real> Case for BasisCase<T> {
    fn forward(&mut self, variant: Variant) {
        dispatch::radial_basis(variant, &self.functions, self.cutoff, black_box(&self.distances), &mut self.basis);
    }

    fn vjp(&mut self, variant: Variant) {
        let (cutoff, grad, out) = (self.cutoff, &self.grad_basis, &mut self.grad_distances);
        dispatch::radial_basis_vjp(variant, &self.functions, cutoff, &self.distances, grad, out);
    }

    fn results(&self) -> Results {
        // What lies between the distances stays as it was.
        let mut grad: Vec<f64> = self.between.iter().map(|&x| T::of(x).wide()).collect();
        grad.iter_mut().step_by(self.stride).zip(&self.grad_distances).for_each(|(out, x)| *out = x.wide());
        vec![wide("basis", &self.basis), ("grad_distances", grad)]
    }
}

/// `edge_geometry`, in f64.
#[derive(Debug)]
pub struct GeometryCase {
    topology: Topology,
    epsilon: f64,
    structure_of: Vec<u32>,
    positions: Vec<Vec3>,
    offsets: Vec<Vec3>,
    strain: Vec<Mat3>,
    geometry: Vec<[f64; 4]>,
    grad_geometry: Vec<[f64; 4]>,
    grad_positions: Vec<Vec3>,
    grad_strain: Vec<Mat3>,
}

fn triples(values: &[f64]) -> Vec<Vec3> {
    values.as_chunks().0.to_vec()
}

fn matrices(values: &[f64]) -> Vec<Mat3> {
    values.as_chunks().0.as_chunks().0.to_vec()
}

impl GeometryCase {
    /// Takes an example; its edges are those of `topology`, and what is absent is zero.
    pub fn new(topology: &Topology, example: &Example<EdgeGeometrySizes>, epsilon: f64) -> Self {
        let or_zero = |name: &str, n: usize| match example.get(name) {
            [] => vec![0.0; n],
            values => values.to_vec(),
        };
        let n_strain = 9 * example.sizes.n_structures as usize;
        GeometryCase {
            topology: topology.clone(),
            epsilon,
            structure_of: example.get("structure_of").iter().map(|&x| x as u32).collect(),
            positions: triples(example.get("positions")),
            offsets: triples(&or_zero("offsets", 3 * topology.n_edges())),
            strain: matrices(&or_zero("strain", n_strain)),
            geometry: example.get("geometry").as_chunks().0.to_vec(),
            grad_geometry: example.get("grad_geometry").as_chunks().0.to_vec(),
            grad_positions: triples(example.get("grad_positions")),
            grad_strain: matrices(&or_zero("grad_strain", n_strain)),
        }
    }
}

impl Case for GeometryCase {
    fn forward(&mut self, variant: Variant) {
        let GeometryCase { topology, positions, offsets, strain, structure_of, epsilon, geometry, .. } = self;
        let positions = black_box(&*positions);
        dispatch::edge_geometry(variant, topology, positions, offsets, strain, structure_of, *epsilon, geometry);
    }

    fn vjp(&mut self, variant: Variant) {
        let GeometryCase { topology, geometry, structure_of, epsilon, grad_geometry, .. } = self;
        let (positions, strain) = (&mut self.grad_positions, &mut self.grad_strain);
        let epsilon = *epsilon;
        dispatch::edge_geometry_vjp(
            variant,
            topology,
            geometry,
            structure_of,
            epsilon,
            grad_geometry,
            positions,
            strain,
        );
    }

    fn results(&self) -> Results {
        vec![
            ("geometry", self.geometry.as_flattened().to_vec()),
            ("grad_positions", self.grad_positions.as_flattened().to_vec()),
            ("grad_strain", self.grad_strain.as_flattened().as_flattened().to_vec()),
        ]
    }
}
