//! The steps of both variants on the example of a pattern: a forward and a VJP, unfused first. Outputs are reused: their
//! cotangents pile up, which costs nothing.

use super::super::examples::{self, CUTOFF};
use super::Bench;
use crate::cuda::unfused::scratch;
use crate::cuda::{Address, DenseShape, Launch, Launcher, Step};
use crate::error::Result;
use crate::ops::choice::{Pattern, Size};
use crate::ops::dense::{Activation, DenseArrays};
use crate::ops::example::Example;
use crate::ops::table::Operation;
use crate::settings::Precision;

/// Unfused, fused.
type Variants = [Vec<Step>; 2];

/// Launches as steps.
fn steps<const N: usize>(launches: [Launch; N]) -> Vec<Step> {
    launches.into_iter().map(Step::Kernel).collect()
}

/// A layer and its arrays.
struct Layer {
    shape: DenseShape,
    arrays: DenseArrays<Address>,
}

impl Bench {
    /// Both variants of a pattern; their arrays are freed by [`Bench::free`].
    pub(super) fn case(&mut self, pattern: Pattern, size: Size) -> Result<Variants> {
        let Size { rows: n, width: w } = size;
        let silu = Activation::Silu;
        match pattern {
            Pattern::RadialBasis => self.radial_basis(n, w),
            Pattern::EdgeGeometry => self.edge_geometry(n),
            Pattern::LinearSilu => self.layers(&[([n, w, w], silu)], false),
            Pattern::LinearResidualActivation => self.layers(&[([n, w, w], silu)], true),
            Pattern::ActivationLinear => self.activation_linear(n, w),
            // On a GPU two layers are two operations, either fused or the library's.
            Pattern::Mlp => self.layers(&[([n, w, w], silu), ([n, w, 3 * w], Activation::Identity)], false),
            Pattern::Message => self.message(n, w),
            Pattern::Update => self.update(n, w),
        }
    }

    /// The arrays of an example, freed by [`Bench::free`].
    fn put<O: Operation>(&mut self, example: &Example<O>, precision: Precision) -> Result<O::Arrays<Address>> {
        example.upload(precision, |bytes| self.put_bytes(bytes))
    }

    /// Elements for what lies between the steps of a chain.
    fn scratch(&mut self, n: usize, precision: Precision) -> Result<Address> {
        self.put_bytes(&vec![0; n * if precision == Precision::F32 { 4 } else { 8 }])
    }

    fn layer(&mut self, sizes: [usize; 3], activation: Activation, residual: bool) -> Result<Layer> {
        // The identity saves nothing.
        let example = examples::layer(sizes, residual, activation == Activation::Silu);
        let arrays = self.put(&example, self.launcher.precision)?;
        let shape = DenseShape { activation, save_slope: true, ..DenseShape::linear(example.sizes) };
        Ok(Layer { shape, arrays })
    }

    /// Layers one behind the other, by the library or by our kernels.
    fn layers(&mut self, of: &[([usize; 3], Activation)], residual: bool) -> Result<Variants> {
        let layers = of.iter().map(|&(sizes, activation)| self.layer(sizes, activation, residual));
        let mut layers = layers.collect::<Result<Vec<Layer>>>()?;
        for k in 1..layers.len() {
            // A layer's argument is the result of the one before it.
            let DenseArrays { y, grad_y, .. } = layers[k - 1].arrays;
            (layers[k].arrays.x, layers[k].arrays.grad_x) = (y, grad_y);
        }
        Ok([true, false].map(|is_library| {
            let launcher = by_library(&self.launcher, is_library);
            let forward = layers.iter().flat_map(|l| launcher.dense_steps(&l.shape, &l.arrays));
            let vjp = layers.iter().rev().flat_map(|l| launcher.dense_vjp_steps(&l.shape, &l.arrays));
            forward.chain(vjp).collect()
        }))
    }

    fn activation_linear(&mut self, n: usize, w: usize) -> Result<Variants> {
        let Layer { shape, arrays: a } = self.layer([n, w, w], Activation::Identity, false)?;
        let room = self.scratch(scratch::activation_dense_vjp(&shape.sizes), self.launcher.precision)?;
        let shape = DenseShape { before: Activation::Silu, ..shape };
        let launcher = &self.launcher;
        let mut unfused = launcher.unfused_activation_dense(&shape.sizes, &a, room);
        unfused.extend(launcher.unfused_activation_dense_vjp(&shape.sizes, &a, room));
        Ok([unfused, steps([launcher.dense(&shape, &a), launcher.dense_vjp(&shape, &a)])])
    }

    fn radial_basis(&mut self, n: usize, w: usize) -> Result<Variants> {
        let example = examples::radial_basis(n, w);
        let a = self.put(&example, self.launcher.precision)?;
        let room = self.scratch(scratch::radial_basis_vjp(&example.sizes), self.launcher.precision)?;
        let (launcher, s) = (&self.launcher, &example.sizes);
        let mut unfused = launcher.unfused_radial_basis(s, CUTOFF, &a, room);
        unfused.extend(launcher.unfused_radial_basis_vjp(s, CUTOFF, &a, room));
        Ok([unfused, steps([launcher.radial_basis(s, CUTOFF, &a), launcher.radial_basis_vjp(s, CUTOFF, &a)])])
    }

    /// In f64.
    fn edge_geometry(&mut self, n_edges: usize) -> Result<Variants> {
        let (_, example) = examples::edge_geometry(n_edges);
        let a = self.put(&example, Precision::F64)?;
        let room = self.scratch(scratch::edge_geometry_vjp(&example.sizes), Precision::F64)?;
        let (launcher, s) = (Launcher { precision: Precision::F64, ..self.launcher.clone() }, &example.sizes);
        let strain = || launcher.edge_geometry_strain_vjp(s, &a);
        let mut unfused = launcher.unfused_edge_geometry(s, 0.0, &a, room);
        unfused.extend(launcher.unfused_edge_geometry_vjp(s, 0.0, &a, room));
        unfused.push(Step::Kernel(strain()));
        let fused = [launcher.edge_geometry(s, 0.0, &a), launcher.edge_geometry_vjp(s, 0.0, &a), strain()];
        Ok([unfused, steps(fused)])
    }

    fn message(&mut self, n_edges: usize, w: usize) -> Result<Variants> {
        let (_, example) = examples::message(n_edges, w);
        let a = self.put(&example, self.launcher.precision)?;
        let room = self.scratch(scratch::message_vjp(&example.sizes), self.launcher.precision)?;
        let (launcher, s) = (&self.launcher, &example.sizes);
        let mut unfused = launcher.unfused_message(s, &a, room);
        unfused.extend(launcher.unfused_message_vjp(s, &a, room));
        Ok([unfused, steps([launcher.message(s, &a)?, launcher.message_vjp(s, &a)?])])
    }

    fn update(&mut self, n: usize, w: usize) -> Result<Variants> {
        let (of_invariants, of_gates) = examples::update(n, w);
        let a = self.put(&of_invariants, self.launcher.precision)?;
        let mut g = self.put(&of_gates, self.launcher.precision)?;
        (g.mixed, g.invariants, g.grad_mixed) = (a.mixed, a.invariants, a.grad_mixed);
        let room = self.scratch(scratch::update_invariants_vjp(&of_invariants.sizes), self.launcher.precision)?;
        let (launcher, s, gate) = (&self.launcher, &of_invariants.sizes, &of_gates.sizes);
        let mut unfused = launcher.unfused_update_invariants(s, 1e-8, &a, room);
        unfused.extend(launcher.unfused_update_gate(gate, &g, room));
        unfused.extend(launcher.unfused_update_gate_vjp(gate, &g, room));
        unfused.extend(launcher.unfused_update_invariants_vjp(s, &a, room));
        let fused = steps([
            launcher.update_invariants(s, 1e-8, &a),
            launcher.update_gate(gate, &g),
            launcher.update_gate_vjp(gate, &g),
            launcher.update_invariants_vjp(s, &a),
        ]);
        Ok([unfused, fused])
    }
}

/// Makes all products by the library, where there is one, or none.
fn by_library(launcher: &Launcher, is_library: bool) -> Launcher {
    let mut launcher = launcher.clone();
    launcher.dense_sizes.library_from = if is_library { 0 } else { u64::MAX };
    launcher
}
