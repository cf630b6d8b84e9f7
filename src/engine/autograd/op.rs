//! [`Op`]: an operation on tensors, as batched autograd applies it.

use candle_core::{Result, Shape};

use super::element::Element;
use super::place::Run;
use crate::ops::choice::{Pattern, Size, Variant};
use crate::ops::table::{Array, Operation, Role};

/// An operation with N tensors as arguments and one as its result: the inputs and the output of its table, in order. All
/// else that it takes belongs to the batch or to the model.
pub trait Op<const N: usize>: Send + Sync {
    /// Precision of the network.
    type Real: Element;
    /// Elements of the arguments.
    type Argument: Element;
    /// Elements of the result.
    type Result: Element;
    /// Its table.
    type Sizes: Operation;

    /// The batch.
    fn run(&self) -> &Run<Self::Real>;

    /// Sizes of a call.
    fn sizes(&self) -> Self::Sizes;

    /// What the cost model knows a call by; without, it is fused.
    fn pattern(&self) -> Option<(Pattern, Size)>;

    /// On the processor. `result` is overwritten.
    fn forward(&self, variant: Variant, arguments: [&[Self::Argument]; N], result: &mut [Self::Result]);

    /// On the processor. Adds to `grads`, which are zero.
    fn vjp(
        &self,
        variant: Variant,
        arguments: [&[Self::Argument]; N],
        result: &[Self::Result],
        grad: &[Self::Result],
        grads: [&mut [Self::Argument]; N],
    );

    /// Which variant a call runs.
    fn variant(&self) -> Variant {
        self.pattern().map_or(Variant::Fused, |(pattern, size)| self.run().choose(pattern, size))
    }
}

/// The arrays of a table that are tensors: arguments, then the result.
pub(super) fn tensors<O: Operation>(sizes: &O) -> (Vec<Array>, Option<Array>) {
    let table = sizes.table();
    let of = |role: Role| table.iter().copied().filter(move |array| array.role == role);
    (of(Role::Input).collect(), of(Role::Output).next())
}

/// Refuses an argument that is not as long as the table says: kernels and operations trust it.
pub(super) fn check_length<O: Operation>(array: Option<&Array>, n: usize) -> Result<()> {
    match array {
        Some(array) if array.len() == n => Ok(()),
        Some(array) => {
            let (name, rows, width) = (array.name, array.rows, array.width);
            candle_core::bail!("{}: {name} has {n} elements, expected [{rows}, {width}]", O::NAME)
        }
        None => candle_core::bail!("{}: more tensors than it has", O::NAME),
    }
}

/// Shape of an array; one number a row is no dimension of its own.
pub(super) fn shape_of(array: &Array) -> Shape {
    if array.width == 1 { Shape::from(array.rows) } else { Shape::from((array.rows, array.width)) }
}
