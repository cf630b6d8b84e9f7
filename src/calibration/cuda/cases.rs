//! Arrays of each pattern at a size, and the steps of both variants on them: a forward and a VJP, unfused first. Outputs are
//! reused: their cotangents pile up, which costs nothing.

use super::super::counts::EDGE_FEATURES;
use super::super::measure::topology;
use super::{Bench, small};
use crate::cuda::unfused::scratch;
use crate::cuda::{
    Address, DenseArrays, DenseShape, DenseVjpArrays, EdgeGeometryArrays, EdgeGeometryVjpArrays, EdgeList, GateArrays,
    Launcher, MessageArrays, MessageGradArrays, MessageShape, RadialBasisArrays, Step,
};
use crate::error::Result;
use crate::ops::choice::{Pattern, Size};
use crate::ops::dense::Activation;
use crate::settings::Precision;

/// Unfused, fused.
type Variants = [Vec<Step>; 2];

/// Cutoff of the radial functions, Å.
const CUTOFF: f64 = 5.0;

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Launches as steps.
fn steps<const N: usize>(launches: [crate::cuda::Launch; N]) -> Vec<Step> {
    launches.into_iter().map(Step::Kernel).collect()
}

/// A layer's arrays; results are shared by forward and VJP.
struct Layer {
    shape: DenseShape,
    forward: DenseArrays,
    vjp: DenseVjpArrays,
    /// `[n_rows, n_out]`.
    scratch: Address,
}

impl Bench {
    /// Both variants of a pattern; their arrays are freed by [`Bench::free`].
    pub(super) fn case(&mut self, pattern: Pattern, size: Size) -> Result<Variants> {
        let Size { rows: n, width: w } = size;
        match pattern {
            Pattern::RadialBasis => self.radial_basis(n, w),
            Pattern::EdgeGeometry => self.edge_geometry(n),
            Pattern::LinearSilu => self.layers(&[(w, w, Activation::Silu)], n, false),
            Pattern::LinearResidualActivation => self.layers(&[(w, w, Activation::Silu)], n, true),
            Pattern::ActivationLinear => self.activation_linear(n, w),
            // On a GPU two layers are two operations, either fused or the library's.
            Pattern::Mlp => self.layers(&[(w, w, Activation::Silu), (w, 3 * w, Activation::Identity)], n, false),
            Pattern::Message => self.message(n, w),
            Pattern::Update => self.update(n, w),
        }
    }

    /// Elements in the precision that is measured, for what lies between the steps of a chain.
    fn scratch(&mut self, n: usize) -> Result<Address> {
        self.room(n * if self.launcher.precision == Precision::F32 { 4 } else { 8 })
    }

    fn layer(
        &mut self,
        n: usize,
        (n_in, n_out, activation): (usize, usize, Activation),
        residual: bool,
    ) -> Result<Layer> {
        let shape = DenseShape {
            n_rows: count(n),
            n_in: count(n_in),
            n_out: count(n_out),
            before: Activation::Identity,
            activation,
            save_slope: true,
        };
        let (weight, bias) = (self.put(n_in * n_out)?, self.put(n_out)?);
        let (x, grad_x) = (self.put(n * n_in)?, self.put(n * n_in)?);
        let mut array = || self.put(n * n_out);
        let (y, grad_y, scratch) = (array()?, array()?, array()?);
        // The identity saves nothing.
        let saved = if activation == Activation::Silu { array()? } else { 0 };
        let (residual, grad_residual) = if residual { (array()?, array()?) } else { (0, 0) };
        Ok(Layer {
            shape,
            forward: DenseArrays { x, weight, bias, residual, y, saved },
            vjp: DenseVjpArrays { grad_y, saved, weight, x, grad_x, grad_residual },
            scratch,
        })
    }

    /// Layers one behind the other, by the library or by our kernels.
    fn layers(&mut self, of: &[(usize, usize, Activation)], n: usize, residual: bool) -> Result<Variants> {
        let mut layers = of.iter().map(|&of| self.layer(n, of, residual)).collect::<Result<Vec<Layer>>>()?;
        for k in 1..layers.len() {
            // A layer's argument is the result of the one before it.
            let (x, grad_x) = (layers[k - 1].forward.y, layers[k - 1].vjp.grad_y);
            layers[k].forward.x = x;
            (layers[k].vjp.x, layers[k].vjp.grad_x) = (x, grad_x);
        }
        Ok([true, false].map(|is_library| {
            let launcher = by_library(&self.launcher, is_library);
            let forward = layers.iter().flat_map(|l| launcher.dense_steps(&l.shape, &l.forward));
            let vjp = layers.iter().rev().flat_map(|l| launcher.dense_vjp_steps(&l.shape, &l.vjp, l.scratch));
            forward.chain(vjp).collect()
        }))
    }

    fn activation_linear(&mut self, n: usize, w: usize) -> Result<Variants> {
        let Layer { mut shape, forward, vjp, .. } = self.layer(n, (w, w, Activation::Identity), false)?;
        let room = self.scratch(scratch::activation_dense_vjp(n, w))?;
        shape.before = Activation::Silu;
        let launcher = &self.launcher;
        let mut unfused = launcher.unfused_activation_dense(&shape, &forward, room);
        unfused.extend(launcher.unfused_activation_dense_vjp(&shape, &vjp, room));
        Ok([unfused, steps([launcher.dense(&shape, &forward), launcher.dense_vjp(&shape, &vjp)])])
    }

    fn radial_basis(&mut self, n: usize, w: usize) -> Result<Variants> {
        let width = CUTOFF / w as f64;
        let first = self.put_numbers((0..w).map(|k| k as f64 * width))?;
        let widths = self.put_numbers(std::iter::repeat_n(width, w))?;
        let distances = self.put_numbers(small(n).map(|x| 3.0 + 3.0 * x))?;
        let a = RadialBasisArrays { first, widths, distances, stride: 1 };
        let (basis, grad, grad_d) = (self.put(n * (w + 1))?, self.put(n * (w + 1))?, self.put(n)?);
        let room = self.scratch(scratch::radial_basis_vjp(n, w))?;
        let (launcher, n, w) = (&self.launcher, count(n), count(w));
        let mut unfused = launcher.unfused_radial_basis(n, w, CUTOFF, &a, basis, room);
        unfused.extend(launcher.unfused_radial_basis_vjp(n, w, CUTOFF, &a, grad, grad_d, room));
        let forward = launcher.radial_basis(n, w, CUTOFF, &a, basis);
        Ok([unfused, steps([forward, launcher.radial_basis_vjp(n, w, CUTOFF, &a, grad, grad_d)])])
    }

    /// One strained structure, periodic, in f64.
    fn edge_geometry(&mut self, n_edges: usize) -> Result<Variants> {
        let t = topology(n_edges);
        let (n, n_edges) = (t.n_atoms(), t.n_edges());
        let numbers = |n: usize| small(n).collect::<Vec<f64>>();
        let along_x = |(k, x): (usize, f64)| if k % 3 == 0 { x + (k / 3) as f64 } else { x };
        let positions: Vec<f64> = small(3 * n).enumerate().map(along_x).collect();
        // An atom may be its own neighbour, in the next cell.
        let offsets: Vec<[f64; 3]> = vec![[0.0, 3.0, 0.0]; n_edges];
        let forward = EdgeGeometryArrays {
            receivers: self.put_all(&t.receivers)?,
            senders: self.put_all(&t.senders)?,
            structure_of: self.put_all(&vec![0_u32; n_edges])?,
            positions: self.put_all(&positions)?,
            offsets: self.put_all(offsets.as_flattened())?,
            strain: self.put_all(&[0.0_f64; 9])?,
            geometry: self.put_all(&numbers(4 * n_edges))?,
        };
        let vjp = EdgeGeometryVjpArrays {
            edge_ptr: self.put_all(&t.edge_ptr)?,
            reverse_edge: self.put_all(&t.reverse_edge)?,
            geometry: forward.geometry,
            grad_geometry: self.put_all(&numbers(4 * n_edges))?,
            grad_positions: self.put_all(&numbers(3 * n))?,
            virials: self.put_all(&numbers(9 * n))?,
        };
        let (atoms_of, grad_strain) = (self.put_all(&[0, count(n)])?, self.put_all(&[0.0_f64; 9])?);
        let room = self.room(8 * scratch::edge_geometry_vjp(n, n_edges))?;
        let launcher = Launcher { precision: Precision::F64, ..self.launcher.clone() };
        let (n, n_edges) = (count(n), count(n_edges));
        let strain = || launcher.edge_geometry_strain_vjp(1, atoms_of, vjp.virials, grad_strain);
        let mut unfused = launcher.unfused_edge_geometry(n_edges, 0.0, &forward, room);
        unfused.extend(launcher.unfused_edge_geometry_vjp(n, n_edges, 0.0, &vjp, room));
        unfused.push(Step::Kernel(strain()));
        let fused = launcher.edge_geometry(n_edges, 0.0, &forward);
        Ok([unfused, steps([fused, launcher.edge_geometry_vjp(n, 0.0, &vjp), strain()])])
    }

    fn message(&mut self, n_edges: usize, w: usize) -> Result<Variants> {
        let (t, k) = (topology(n_edges), EDGE_FEATURES);
        let (n, n_edges) = (t.n_atoms(), t.n_edges());
        let a = MessageArrays {
            edge_ptr: self.put_all(&t.edge_ptr)?,
            senders: self.put_all(&t.senders)?,
            reverse_edge: self.put_all(&t.reverse_edge)?,
            nodes: self.put(n * 6 * w)?,
            edges: self.put(n_edges * k)?,
            geometry: self.put(n_edges * 4)?,
            weight: self.put(3 * w * k)?,
            bias: 0,
        };
        let list = EdgeList { n_edges: count(n_edges), receivers: self.put_all(&t.receivers)? };
        let (sums, grad) = (self.put(n * 4 * w)?, self.put(n * 4 * w)?);
        let grads = MessageGradArrays {
            nodes: self.put(n * 6 * w)?,
            edges: self.put(n_edges * k)?,
            geometry: self.put(n_edges * 4)?,
        };
        let room = self.scratch(scratch::message_vjp(n, n_edges, w))?;
        let s = MessageShape { n_atoms: count(n), n_features: count(w), n_edge_features: count(k) };
        let launcher = &self.launcher;
        let mut unfused = launcher.unfused_message(&s, &list, &a, sums, room);
        unfused.extend(launcher.unfused_message_vjp(&s, &list, &a, grad, &grads, room));
        Ok([unfused, steps([launcher.message(&s, &a, sums)?, launcher.message_vjp(&s, &a, grad, &grads)?])])
    }

    fn update(&mut self, n: usize, w: usize) -> Result<Variants> {
        let arrays = |bench: &mut Bench| -> Result<GateArrays> {
            Ok(GateArrays {
                gates: bench.put(n * 3 * w)?,
                mixed: bench.put(n * 6 * w)?,
                invariants: bench.put(n * 2 * w)?,
            })
        };
        let (a, grads) = (arrays(self)?, arrays(self)?);
        let (change, grad_change, grad_invariants) = (self.put(n * 4 * w)?, self.put(n * 4 * w)?, self.put(n * 2 * w)?);
        let room = self.scratch(scratch::update_invariants_vjp(n, w))?;
        let (launcher, n, w) = (&self.launcher, count(n), count(w));
        let (mixed, norms) = (a.mixed, a.invariants);
        let mut unfused = launcher.unfused_update_invariants(n, w, 1e-8, mixed, norms, room);
        unfused.extend(launcher.unfused_update_gate(n, w, &a, change, room));
        unfused.extend(launcher.unfused_update_gate_vjp(n, w, &a, grad_change, &grads, room));
        let vjp = launcher.unfused_update_invariants_vjp(n, w, mixed, norms, grad_invariants, grads.mixed, room);
        unfused.extend(vjp);
        let fused = steps([
            launcher.update_invariants(n, w, 1e-8, mixed, norms),
            launcher.update_gate(n, w, &a, change),
            launcher.update_gate_vjp(n, w, &a, grad_change, &grads),
            launcher.update_invariants_vjp(n, w, mixed, norms, grad_invariants, grads.mixed),
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
