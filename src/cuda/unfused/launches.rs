//! The chains as launches.

use super::chain::Chain;
use crate::cuda::{Address, Launcher, Step};
use crate::ops::dense::{DenseArrays, LayerSizes};
use crate::ops::edge_geometry::{EdgeGeometryArrays, EdgeGeometrySizes};
use crate::ops::message::{MessageArrays, MessageSizes};
use crate::ops::radial_basis::{RadialBasisArrays, RadialBasisSizes};
use crate::ops::unfused::chains;
use crate::ops::update::{GateArrays, GateSizes, InvariantsArrays, InvariantsSizes};
use crate::settings::Precision;

impl Launcher {
    fn unfused(&self, scratch: Address, write: impl FnOnce(&mut Chain)) -> Vec<Step> {
        let mut chain = Chain::new(self, scratch);
        write(&mut chain);
        chain.steps()
    }

    /// In f64 whatever the precision.
    fn unfused_f64(&self, scratch: Address, write: impl FnOnce(&mut Chain)) -> Vec<Step> {
        Launcher { precision: Precision::F64, ..self.clone() }.unfused(scratch, write)
    }

    /// [`Launcher::edge_geometry`] unfused, in f64 whatever the precision, its geometry too; `scratch` of
    /// `scratch::edge_geometry`.
    pub fn unfused_edge_geometry(
        &self,
        s: &EdgeGeometrySizes,
        epsilon: f64,
        a: &EdgeGeometryArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        self.unfused_f64(scratch, |chain| chains::edge_geometry(chain, s, epsilon, a))
    }

    /// [`Launcher::edge_geometry_vjp`] unfused, in f64 whatever the precision, geometry and its cotangent too; the strain's
    /// part ends in [`Launcher::edge_geometry_strain_vjp`] as well. `scratch` of `scratch::edge_geometry_vjp`.
    pub fn unfused_edge_geometry_vjp(
        &self,
        s: &EdgeGeometrySizes,
        epsilon: f64,
        a: &EdgeGeometryArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        self.unfused_f64(scratch, |chain| chains::edge_geometry_vjp(chain, s, epsilon, a))
    }

    /// [`Launcher::radial_basis`] unfused; `scratch` of `scratch::radial_basis`.
    pub fn unfused_radial_basis(
        &self,
        s: &RadialBasisSizes,
        cutoff: f64,
        a: &RadialBasisArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::radial_basis(chain, s, cutoff, a))
    }

    /// [`Launcher::radial_basis_vjp`] unfused; `scratch` of `scratch::radial_basis_vjp`.
    pub fn unfused_radial_basis_vjp(
        &self,
        s: &RadialBasisSizes,
        cutoff: f64,
        a: &RadialBasisArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::radial_basis_vjp(chain, s, cutoff, a))
    }

    /// A layer behind SiLU, `before` of the fused [`Launcher::dense`]: shape and arrays are as there, without residual and
    /// activation of the result. `scratch` of `scratch::activation_dense`.
    pub fn unfused_activation_dense(&self, s: &LayerSizes, a: &DenseArrays<Address>, scratch: Address) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::activation_dense(chain, s, a))
    }

    /// VJP of [`Launcher::unfused_activation_dense`]; `scratch` of `scratch::activation_dense_vjp`.
    pub fn unfused_activation_dense_vjp(
        &self,
        s: &LayerSizes,
        a: &DenseArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::activation_dense_vjp(chain, s, a))
    }

    /// [`Launcher::message`] unfused; `scratch` of `scratch::message`.
    pub fn unfused_message(&self, s: &MessageSizes, a: &MessageArrays<Address>, scratch: Address) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::message(chain, s, a))
    }

    /// [`Launcher::message_vjp`] unfused; `scratch` of `scratch::message_vjp`.
    pub fn unfused_message_vjp(&self, s: &MessageSizes, a: &MessageArrays<Address>, scratch: Address) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::message_vjp(chain, s, a))
    }

    /// [`Launcher::update_invariants`] unfused; `scratch` of `scratch::update_invariants`.
    pub fn unfused_update_invariants(
        &self,
        s: &InvariantsSizes,
        epsilon: f64,
        a: &InvariantsArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::update_invariants(chain, s, epsilon, a))
    }

    /// [`Launcher::update_invariants_vjp`] unfused; `scratch` of `scratch::update_invariants_vjp`.
    pub fn unfused_update_invariants_vjp(
        &self,
        s: &InvariantsSizes,
        a: &InvariantsArrays<Address>,
        scratch: Address,
    ) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::update_invariants_vjp(chain, s, a))
    }

    /// [`Launcher::update_gate`] unfused; `scratch` of `scratch::update_gate`.
    pub fn unfused_update_gate(&self, s: &GateSizes, a: &GateArrays<Address>, scratch: Address) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::update_gate(chain, s, a))
    }

    /// [`Launcher::update_gate_vjp`] unfused; `scratch` of `scratch::update_gate_vjp`.
    pub fn unfused_update_gate_vjp(&self, s: &GateSizes, a: &GateArrays<Address>, scratch: Address) -> Vec<Step> {
        self.unfused(scratch, |chain| chains::update_gate_vjp(chain, s, a))
    }
}
