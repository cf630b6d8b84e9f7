//! Custom operations whose time is a component's.

#[cfg(feature = "candle-cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::clock::{Part, within};

/// An operation, and the part that its forward belongs to; the backward belongs to the part's.
pub(super) struct Timed<O>(pub O, pub Part);

impl<O: CustomOp1> CustomOp1 for Timed<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let _component = within(self.1);
        self.0.cpu_fwd(s, l)
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Shape)> {
        let _component = within(self.1);
        self.0.cuda_fwd(s, l)
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let _component = within(self.1.vjp());
        self.0.bwd(arg, res, grad)
    }
}

impl<O: CustomOp2> CustomOp2 for Timed<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let _component = within(self.1);
        self.0.cpu_fwd(s1, l1, s2, l2)
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<(CudaStorage, Shape)> {
        let _component = within(self.1);
        self.0.cuda_fwd(s1, l1, s2, l2)
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let _component = within(self.1.vjp());
        self.0.bwd(a, b, res, grad)
    }
}

impl<O: CustomOp3> CustomOp3 for Timed<O> {
    fn name(&self) -> &'static str {
        self.0.name()
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
        let _component = within(self.1);
        self.0.cpu_fwd(s1, l1, s2, l2, s3, l3)
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
        let _component = within(self.1);
        self.0.cuda_fwd(s1, l1, s2, l2, s3, l3)
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let _component = within(self.1.vjp());
        self.0.bwd(a, b, c, res, grad)
    }
}
