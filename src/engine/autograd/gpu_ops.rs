//! What the operations of batched autograd add to run on a GPU: their constants there, their kernels and their chains.

use candle_core::Result;

use super::element::Element;
use super::gpu::Gpu;
use super::on_gpu::{Arrays, Keeper, OnGpu};
use super::ops::{Basis, EdgeGeometry, Message, Readout, UpdateGate, UpdateInvariants};
use crate::cuda::unfused::scratch;
use crate::cuda::{Address, Launch, Launcher, Step};
use crate::ops::edge_geometry::EdgeGeometrySizes;
use crate::ops::message::MessageSizes;
use crate::ops::radial_basis::RadialBasisSizes;
use crate::ops::readout::ReadoutSizes;
use crate::ops::update::{GateSizes, InvariantsSizes};

type Constant = Result<Option<(Address, Keeper)>>;

fn steps<const M: usize>(launches: [Launch; M]) -> Vec<Step> {
    launches.into_iter().map(Step::Kernel).collect()
}

impl<T: Element> OnGpu<2> for EdgeGeometry<T> {
    fn constant(&self, _: &Gpu<T>, _: &str) -> Constant {
        Ok(None)
    }

    fn fused(
        &self,
        launcher: &Launcher,
        s: &EdgeGeometrySizes,
        a: &Arrays<EdgeGeometrySizes>,
        vjp: bool,
    ) -> crate::Result<Vec<Step>> {
        Ok(if vjp {
            steps([launcher.edge_geometry_vjp(s, self.epsilon, a), launcher.edge_geometry_strain_vjp(s, a)])
        } else {
            steps([launcher.edge_geometry(s, self.epsilon, a)])
        })
    }

    fn chain(
        &self,
        launcher: &Launcher,
        s: &EdgeGeometrySizes,
        a: &Arrays<EdgeGeometrySizes>,
        vjp: bool,
        scratch: Address,
    ) -> Vec<Step> {
        if !vjp {
            return launcher.unfused_edge_geometry(s, self.epsilon, a, scratch);
        }
        let mut chain = launcher.unfused_edge_geometry_vjp(s, self.epsilon, a, scratch);
        chain.push(Step::Kernel(launcher.edge_geometry_strain_vjp(s, a)));
        chain
    }

    fn scratch(&self, s: &EdgeGeometrySizes, vjp: bool) -> usize {
        if vjp { scratch::edge_geometry_vjp(s) } else { scratch::edge_geometry(s) }
    }
}

impl<T: Element> OnGpu<1> for Basis<T> {
    fn constant(&self, gpu: &Gpu<T>, name: &str) -> Constant {
        let basis = gpu.basis(&self.functions)?;
        let at = match name {
            "first" => gpu.address(&basis.first),
            _ => basis.widths.as_ref().map_or(0, |widths| gpu.address(widths)),
        };
        Ok(Some((at, basis)))
    }

    fn fused(
        &self,
        launcher: &Launcher,
        s: &RadialBasisSizes,
        a: &Arrays<RadialBasisSizes>,
        vjp: bool,
    ) -> crate::Result<Vec<Step>> {
        let launch = if vjp { Launcher::radial_basis_vjp } else { Launcher::radial_basis };
        Ok(steps([launch(launcher, s, self.cutoff, a)]))
    }

    fn chain(
        &self,
        launcher: &Launcher,
        s: &RadialBasisSizes,
        a: &Arrays<RadialBasisSizes>,
        vjp: bool,
        scratch: Address,
    ) -> Vec<Step> {
        let chain = if vjp { Launcher::unfused_radial_basis_vjp } else { Launcher::unfused_radial_basis };
        chain(launcher, s, self.cutoff, a, scratch)
    }

    fn scratch(&self, s: &RadialBasisSizes, vjp: bool) -> usize {
        if vjp { scratch::radial_basis_vjp(s) } else { scratch::radial_basis(s) }
    }
}

impl<T: Element> OnGpu<3> for Message<T> {
    fn constant(&self, gpu: &Gpu<T>, name: &str) -> Constant {
        let layer = match name {
            "weight" | "bias" => gpu.layer(&self.filter)?,
            _ => return Ok(None),
        };
        let at = match name {
            "weight" => gpu.address(&layer.weight),
            _ => layer.bias.as_ref().map_or(0, |bias| gpu.address(bias)),
        };
        Ok(Some((at, layer)))
    }

    fn fused(
        &self,
        launcher: &Launcher,
        s: &MessageSizes,
        a: &Arrays<MessageSizes>,
        vjp: bool,
    ) -> crate::Result<Vec<Step>> {
        let launch = if vjp { launcher.message_vjp(s, a) } else { launcher.message(s, a) };
        Ok(steps([launch?]))
    }

    fn chain(
        &self,
        launcher: &Launcher,
        s: &MessageSizes,
        a: &Arrays<MessageSizes>,
        vjp: bool,
        scratch: Address,
    ) -> Vec<Step> {
        let chain = if vjp { Launcher::unfused_message_vjp } else { Launcher::unfused_message };
        chain(launcher, s, a, scratch)
    }

    fn scratch(&self, s: &MessageSizes, vjp: bool) -> usize {
        if vjp { scratch::message_vjp(s) } else { scratch::message(s) }
    }
}

impl<T: Element> OnGpu<1> for UpdateInvariants<T> {
    fn constant(&self, _: &Gpu<T>, _: &str) -> Constant {
        Ok(None)
    }

    fn fused(
        &self,
        launcher: &Launcher,
        s: &InvariantsSizes,
        a: &Arrays<InvariantsSizes>,
        vjp: bool,
    ) -> crate::Result<Vec<Step>> {
        Ok(steps([if vjp {
            launcher.update_invariants_vjp(s, a)
        } else {
            launcher.update_invariants(s, self.epsilon, a)
        }]))
    }

    fn chain(
        &self,
        launcher: &Launcher,
        s: &InvariantsSizes,
        a: &Arrays<InvariantsSizes>,
        vjp: bool,
        scratch: Address,
    ) -> Vec<Step> {
        if vjp {
            launcher.unfused_update_invariants_vjp(s, a, scratch)
        } else {
            launcher.unfused_update_invariants(s, self.epsilon, a, scratch)
        }
    }

    fn scratch(&self, s: &InvariantsSizes, vjp: bool) -> usize {
        if vjp { scratch::update_invariants_vjp(s) } else { scratch::update_invariants(s) }
    }
}

impl<T: Element> OnGpu<3> for UpdateGate<T> {
    fn constant(&self, _: &Gpu<T>, _: &str) -> Constant {
        Ok(None)
    }

    fn fused(&self, launcher: &Launcher, s: &GateSizes, a: &Arrays<GateSizes>, vjp: bool) -> crate::Result<Vec<Step>> {
        let launch = if vjp { Launcher::update_gate_vjp } else { Launcher::update_gate };
        Ok(steps([launch(launcher, s, a)]))
    }

    fn chain(
        &self,
        launcher: &Launcher,
        s: &GateSizes,
        a: &Arrays<GateSizes>,
        vjp: bool,
        scratch: Address,
    ) -> Vec<Step> {
        let chain = if vjp { Launcher::unfused_update_gate_vjp } else { Launcher::unfused_update_gate };
        chain(launcher, s, a, scratch)
    }

    fn scratch(&self, s: &GateSizes, vjp: bool) -> usize {
        if vjp { scratch::update_gate_vjp(s) } else { scratch::update_gate(s) }
    }
}

impl<T: Element> OnGpu<1> for Readout<T> {
    fn constant(&self, _: &Gpu<T>, _: &str) -> Constant {
        Ok(None)
    }

    fn fused(
        &self,
        launcher: &Launcher,
        s: &ReadoutSizes,
        a: &Arrays<ReadoutSizes>,
        vjp: bool,
    ) -> crate::Result<Vec<Step>> {
        let launch = if vjp { Launcher::readout_vjp } else { Launcher::readout };
        Ok(steps([launch(launcher, s, self.energy_scale, a)]))
    }

    /// Has none.
    fn chain(&self, _: &Launcher, _: &ReadoutSizes, _: &Arrays<ReadoutSizes>, _: bool, _: Address) -> Vec<Step> {
        Vec::new()
    }

    fn scratch(&self, _: &ReadoutSizes, _: bool) -> usize {
        0
    }
}
