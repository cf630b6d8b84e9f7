//! What is shown of the engine and its operations: their names, not their tensors.

use std::fmt;

use super::Autograd;
use super::element::Element;
use super::layers::{Dense, Mlp, Saved};
use super::ops::{Basis, EdgeGeometry, Message, Readout, UpdateGate, UpdateInvariants};
use super::place::{Place, Run};

macro_rules! named {
    ($($name:ident),*) => {$(
        impl<T: Element> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

named!(Dense, EdgeGeometry, Message, Mlp, Basis, Readout, Saved, UpdateGate, UpdateInvariants);

impl<T: Element> fmt::Debug for Autograd<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Autograd").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(feature = "candle-cuda")]
impl<T> fmt::Debug for super::gpu::Gpu<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").finish_non_exhaustive()
    }
}

impl<T: Element> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

impl<T: Element> fmt::Debug for Run<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("n_structures", &self.batch.n_structures()).finish_non_exhaustive()
    }
}
