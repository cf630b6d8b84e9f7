//! The ops as candle custom operations, each with its analytic backward.
//!
//! A backward returns a cotangent for every argument: candle drops a gradient that is `None` without a word. It runs where
//! the forward ran.

use std::sync::Arc;

#[cfg(feature = "candle-cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::element::{Element, like, slice, with_slice, zeros};
pub use super::layers::{Dense, Mlp, Saved};
use super::place::Run;
use crate::ops::Topology;
use crate::ops::choice::{Pattern, Size, Variant};
use crate::ops::dense::Linear;
use crate::ops::dispatch::{
    edge_geometry, edge_geometry_vjp, message, message_vjp, radial_basis, radial_basis_vjp, update_gate,
    update_gate_vjp, update_invariants, update_invariants_vjp,
};
use crate::ops::message::{MessageGrads, MessageInputs};
use crate::ops::radial_basis::RadialBasis;
use crate::ops::readout::{readout, readout_vjp};
use crate::ops::update::{GateGrads, GateInputs};
use crate::structure::{Mat3, Vec3};

/// Size of a call that goes through all edges.
fn by_edge(topology: &Topology, width: usize) -> Size {
    Size { rows: topology.n_edges(), width }
}

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

impl<T: Element> CustomOp2 for EdgeGeometry<T> {
    fn name(&self) -> &'static str {
        "edge_geometry"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let positions: &[Vec3] = slice::<f64>(s1, l1)?.as_chunks().0;
        let strain = to_matrices(slice::<f64>(s2, l2)?);
        let b = &self.run.batch;
        let mut geometry = vec![[0.0; 4]; b.topology.n_edges()];
        let variant = self.run.choose(Pattern::EdgeGeometry, by_edge(&b.topology, 1));
        edge_geometry(
            variant,
            &b.topology,
            positions,
            &b.offsets,
            &strain,
            &b.structure_of,
            self.epsilon,
            &mut geometry,
        );
        let shape = Shape::from((geometry.len(), 4));
        Ok((CpuStorage::F64(geometry.into_flattened()), shape))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<(CudaStorage, Shape)> {
        self.run.gpu()?.edge_geometry(self.epsilon, (s1, l1), (s2, l2))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "candle-cuda")]
        if let Some(gpu) = &self.run.gpu {
            return gpu.edge_geometry_vjp(self.epsilon, [a, b, res, grad]);
        }
        let mut grad_positions = vec![[0.0; 3]; a.elem_count() / 3];
        let mut grad_strain = vec![[[0.0; 3]; 3]; b.elem_count() / 9];
        let batch = &self.run.batch;
        let variant = self.run.choose(Pattern::EdgeGeometry, by_edge(&batch.topology, 1));
        with_slice::<f64, _>(res, |geometry| {
            with_slice::<f64, _>(grad, |grad| {
                edge_geometry_vjp(
                    variant,
                    &batch.topology,
                    geometry.as_chunks().0,
                    &batch.structure_of,
                    self.epsilon,
                    grad.as_chunks().0,
                    &mut grad_positions,
                    &mut grad_strain,
                );
            })
        })??;
        let strain = grad_strain.into_flattened().into_flattened();
        Ok((Some(like(grad_positions.into_flattened(), a)?), Some(like(strain, b)?)))
    }
}

/// Distances `[n_edges]` → basis `[n_edges, n_rbf + 1]`.
pub struct RadialBasisOp<T: Element> {
    /// Basis functions.
    pub functions: RadialBasis,
    /// Cutoff, Å.
    pub cutoff: f64,
    /// The batch.
    pub run: Arc<Run<T>>,
}

impl<T: Element> RadialBasisOp<T> {
    fn variant(&self, rows: usize) -> Variant {
        self.run.choose(Pattern::RadialBasis, Size { rows, width: self.functions.len() })
    }
}

impl<T: Element> CustomOp1 for RadialBasisOp<T> {
    fn name(&self) -> &'static str {
        "radial_basis"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let distances = slice::<T>(s, l)?;
        let width = self.functions.len() + 1;
        let mut basis = vec![T::zero(); distances.len() * width];
        radial_basis(self.variant(distances.len()), &self.functions, self.cutoff, distances, &mut basis);
        Ok((T::to_cpu_storage_owned(basis), Shape::from((distances.len(), width))))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        self.run.gpu()?.radial_basis(&self.functions, self.cutoff, (s, l))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "candle-cuda")]
        if let Some(gpu) = &self.run.gpu {
            return gpu.radial_basis_vjp(&self.functions, self.cutoff, arg, grad);
        }
        let variant = self.variant(arg.elem_count());
        let mut out: Vec<T> = zeros(arg);
        with_slice::<T, _>(arg, |distances| {
            with_slice::<T, _>(grad, |grad| {
                radial_basis_vjp(variant, &self.functions, self.cutoff, distances, grad, &mut out)
            })
        })??;
        Ok(Some(like(out, arg)?))
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
    fn variant(&self) -> Variant {
        self.run.choose(Pattern::Message, by_edge(&self.run.batch.topology, self.n_features))
    }
}

impl<T: Element> CustomOp3 for Message<T> {
    fn name(&self) -> &'static str {
        "message"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = MessageInputs {
            n_features: self.n_features,
            nodes: slice::<T>(s1, l1)?,
            edges: slice(s2, l2)?,
            geometry: slice(s3, l3)?,
            filter: &self.filter,
        };
        let width = 4 * self.n_features;
        let n_rows = self.run.batch.n_rows();
        let mut sums = vec![T::zero(); n_rows * width];
        message(self.variant(), &self.run.batch.topology, &inputs, &mut sums);
        Ok((T::to_cpu_storage_owned(sums), Shape::from((n_rows, width))))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.run.gpu()?.message(self.n_features, &self.filter, [(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        nodes: &Tensor,
        edges: &Tensor,
        geometry: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "candle-cuda")]
        if let Some(gpu) = &self.run.gpu {
            return gpu.message_vjp(self.n_features, &self.filter, [nodes, edges, geometry], grad);
        }
        let variant = self.variant();
        let mut grads: [Vec<T>; 3] = [zeros(nodes), zeros(edges), zeros(geometry)];
        {
            let [nodes_out, edges_out, geometry_out] = &mut grads;
            let mut out = MessageGrads { nodes: nodes_out, edges: edges_out, geometry: geometry_out };
            with_slice::<T, _>(nodes, |nodes| {
                with_slice::<T, _>(edges, |edges| {
                    with_slice::<T, _>(geometry, |geometry| {
                        with_slice::<T, _>(grad, |grad| {
                            let inputs = MessageInputs {
                                n_features: self.n_features,
                                nodes,
                                edges,
                                geometry,
                                filter: &self.filter,
                            };
                            message_vjp(variant, &self.run.batch.topology, &inputs, grad, &mut out);
                        })
                    })
                })
            })????;
        }
        let [a, b, c] = grads;
        Ok((Some(like(a, nodes)?), Some(like(b, edges)?), Some(like(c, geometry)?)))
    }
}

fn update_variant<T: Element>(run: &Run<T>, n_features: usize) -> Variant {
    run.choose(Pattern::Update, Size { rows: run.batch.n_rows(), width: n_features })
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

impl<T: Element> CustomOp1 for UpdateInvariants<T> {
    fn name(&self) -> &'static str {
        "update_invariants"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let mixed = slice::<T>(s, l)?;
        let mut out = vec![T::zero(); mixed.len() / 3];
        update_invariants(update_variant(&self.run, self.n_features), self.n_features, self.epsilon, mixed, &mut out);
        Ok((T::to_cpu_storage_owned(out), Shape::from((mixed.len() / (6 * self.n_features), 2 * self.n_features))))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        self.run.gpu()?.update_invariants(self.n_features, self.epsilon, (s, l))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "candle-cuda")]
        if let Some(gpu) = &self.run.gpu {
            return gpu.update_invariants_vjp(self.n_features, [arg, res, grad]);
        }
        let variant = update_variant(&self.run, self.n_features);
        let mut out: Vec<T> = zeros(arg);
        with_slice::<T, _>(arg, |mixed| {
            with_slice::<T, _>(res, |invariants| {
                with_slice::<T, _>(grad, |grad| {
                    update_invariants_vjp(variant, self.n_features, mixed, invariants, grad, &mut out);
                })
            })
        })???;
        Ok(Some(like(out, arg)?))
    }
}

/// (gates `[n_rows, 3F]`, mixed `[n_rows, 3, 2F]`, invariants `[n_rows, 2F]`) → change `[n_rows, 4F]`.
pub struct UpdateGate<T: Element> {
    /// F.
    pub n_features: usize,
    /// The batch.
    pub run: Arc<Run<T>>,
}

impl<T: Element> CustomOp3 for UpdateGate<T> {
    fn name(&self) -> &'static str {
        "update_gate"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = GateInputs {
            n_features: self.n_features,
            gates: slice::<T>(s1, l1)?,
            mixed: slice(s2, l2)?,
            invariants: slice(s3, l3)?,
        };
        let n_rows = inputs.gates.len() / (3 * self.n_features);
        let mut change = vec![T::zero(); n_rows * 4 * self.n_features];
        update_gate(update_variant(&self.run, self.n_features), &inputs, &mut change);
        Ok((T::to_cpu_storage_owned(change), Shape::from((n_rows, 4 * self.n_features))))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.run.gpu()?.update_gate(self.n_features, [(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        gates: &Tensor,
        mixed: &Tensor,
        invariants: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "candle-cuda")]
        if let Some(gpu) = &self.run.gpu {
            return gpu.update_gate_vjp(self.n_features, [gates, mixed, invariants], grad);
        }
        let variant = update_variant(&self.run, self.n_features);
        let mut grads: [Vec<T>; 3] = [zeros(gates), zeros(mixed), zeros(invariants)];
        {
            let [a, b, c] = &mut grads;
            let mut out = GateGrads { gates: a, mixed: b, invariants: c };
            with_slice::<T, _>(gates, |gates| {
                with_slice::<T, _>(mixed, |mixed| {
                    with_slice::<T, _>(invariants, |invariants| {
                        with_slice::<T, _>(grad, |grad| {
                            let inputs = GateInputs { n_features: self.n_features, gates, mixed, invariants };
                            update_gate_vjp(variant, &inputs, grad, &mut out);
                        })
                    })
                })
            })????;
        }
        let [a, b, c] = grads;
        Ok((Some(like(a, gates)?), Some(like(b, mixed)?), Some(like(c, invariants)?)))
    }
}

/// Atomic outputs `[n_rows, 1]` → energies `[n_structures]`, f64.
pub struct Readout<T: Element> {
    /// The batch.
    pub run: Arc<Run<T>>,
    /// Factor on the outputs, eV.
    pub energy_scale: f64,
}

impl<T: Element> CustomOp1 for Readout<T> {
    fn name(&self) -> &'static str {
        "readout"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let b = &self.run.batch;
        let mut energies = vec![0.0; b.n_structures()];
        readout(self.energy_scale, slice::<T>(s, l)?, &b.references, &b.atoms_of, &mut energies);
        let shape = Shape::from(energies.len());
        Ok((CpuStorage::F64(energies), shape))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        self.run.gpu()?.readout(self.energy_scale, (s, l))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "candle-cuda")]
        if let Some(gpu) = &self.run.gpu {
            return gpu.readout_vjp(self.energy_scale, arg, grad);
        }
        let mut out: Vec<T> = zeros(arg);
        with_slice::<f64, _>(grad, |grad| readout_vjp(self.energy_scale, &self.run.batch.atoms_of, grad, &mut out))?;
        Ok(Some(like(out, arg)?))
    }
}
