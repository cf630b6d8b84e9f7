//! The elementary operations that chains consist of.

use crate::clock::Component;

/// Columns of an array: the first of them, and the elements of a row.
pub type Columns<A> = (A, u32);

/// An argument: element (row, part, column) of an array is so many elements behind its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand<A> {
    /// Where the first element is.
    pub array: A,
    /// Elements from row to row.
    pub row: u32,
    /// Elements from part to part.
    pub part: u32,
    /// Elements from column to column: 1, or 0 for the same number in each.
    pub column: u32,
}

impl<A> Operand<A> {
    /// Rows of `row` elements; the same for every part.
    pub fn rows(array: A, row: u32) -> Self {
        Operand { array, row, part: 0, column: 1 }
    }

    /// Rows of one number, the same for every part and column.
    pub fn numbers(array: A, row: u32) -> Self {
        Operand { array, row, part: 0, column: 0 }
    }

    /// The same with parts `part` elements apart.
    pub fn parts(self, part: u32) -> Self {
        Operand { part, ..self }
    }
}

/// What is made of two numbers; numbered as in `kernels/unfused.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairwise {
    /// Their product.
    Multiply = 0,
    /// The first without the second.
    Subtract = 1,
    /// The first by the second.
    Divide = 2,
}

/// A function of one number x, with a parameter p; numbered as in `kernels/unfused.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elementwise {
    /// x + p.
    Add = 0,
    /// √(x + p).
    Root = 1,
    /// 1 / (x + p), zero unless x + p > 0: the subgradient of a norm.
    Inverse = 2,
    /// x / (1 + exp(−x)).
    Silu = 3,
    /// Its derivative.
    SiluSlope = 4,
    /// The cosine cutoff at x, Å; p is the cutoff, Å.
    Envelope = 5,
    /// Its derivative, 1/Å.
    EnvelopeSlope = 6,
}

/// Elements of counts multiplied, where 32 bits may not do.
pub fn elements(counts: &[u32]) -> u64 {
    counts.iter().map(|&n| u64::from(n)).product()
}

/// Something that takes elementary operations, one behind the other: it does them, makes launches of them, or counts them.
///
/// Arrays are row-major. Each operation reads its arguments and writes its whole result; no result is an argument too. An
/// array that is the default is absent. Methods ending in `_into` write to an array that there is, those without take a new
/// one.
pub trait Elementary {
    /// An array, from some element on.
    type Array: Copy + Default + PartialEq;

    /// A new array of `n` elements, in any state.
    fn take(&mut self, n: u64) -> Self::Array;

    /// Says that the chain needs arrays that it took no longer. Where memory comes from the system, what is free again is
    /// taken before what was never touched.
    fn release(&mut self, _arrays: &[Self::Array]) {}

    /// The array from its element `n` on.
    fn after(&self, array: Self::Array, n: u64) -> Self::Array;

    /// Says which component the profiler shall put `work` under.
    fn within<R>(&mut self, _component: Component, work: impl FnOnce(&mut Self) -> R) -> R {
        work(self)
    }

    /// Rows `[n_rows, width]` of `x` in the order of `indices`, that of `x` where absent; zeros where `x` is absent. They
    /// overwrite columns of `out`, or add to them.
    fn copy_rows(
        &mut self,
        size: [u32; 2],
        indices: Self::Array,
        x: Columns<Self::Array>,
        add: bool,
        out: Columns<Self::Array>,
    );

    /// Two arrays `[n_rows, n_parts, n]`, element by element, into columns of `out`.
    fn combine_into(
        &mut self,
        size: [u32; 3],
        by: Pairwise,
        a: Operand<Self::Array>,
        b: Operand<Self::Array>,
        out: Columns<Self::Array>,
    );

    /// Sums over the parts of `a · b` `[n_rows, n_parts, width]` into columns of `out`. `b` may be absent for ones; `of` says
    /// its rows, where absent they are those of `a`.
    fn sum_into(
        &mut self,
        size: [u32; 3],
        a: Operand<Self::Array>,
        of: Self::Array,
        b: Operand<Self::Array>,
        out: Columns<Self::Array>,
    );

    /// Inner products of rows `[n_rows, n_parts, n]` over n, whose columns are neighbours, into `out` `[n_rows, n_parts]`.
    fn inner_into(&mut self, size: [u32; 3], a: Operand<Self::Array>, b: Operand<Self::Array>, out: Self::Array);

    /// Sums of consecutive rows of `x` `[n_rows, width]`: those from `starts[k]` to `starts[k + 1]` are row k of `out`
    /// `[n_segments, width]`. The size is segments, rows, width.
    fn segment_sum_into(&mut self, size: [u32; 3], starts: Self::Array, x: Self::Array, out: Self::Array);

    /// A function of columns of `x` into `out` `[n_rows, width]`.
    fn map_into(
        &mut self,
        size: [u32; 2],
        function: Elementwise,
        parameter: f64,
        x: Columns<Self::Array>,
        out: Self::Array,
    );

    /// Radial functions without their envelope, or their derivatives, at the first of the columns of `distances`, into `out`
    /// `[n_edges, n_rbf]`. They are given by centres and widths, or by frequencies and no widths.
    fn functions_into(
        &mut self,
        size: [u32; 2],
        functions: [Self::Array; 2],
        is_slope: bool,
        distances: Columns<Self::Array>,
        out: Self::Array,
    );

    /// `x · weightᵀ + bias` into `out` `[n_rows, n_out]`; the bias may be absent. The size is rows, n_in, n_out.
    fn product_into(&mut self, size: [u32; 3], x: Self::Array, layer: [Self::Array; 2], out: Self::Array);

    /// `grad_y · weight` into `grad_x` `[n_rows, n_in]`, overwritten or added to. The size is rows, n_in, n_out.
    fn product_vjp_into(
        &mut self,
        size: [u32; 3],
        grad_y: Self::Array,
        weight: Self::Array,
        add: bool,
        grad_x: Self::Array,
    );

    /// Whether an array is there.
    fn has(&self, array: Self::Array) -> bool {
        array != Self::Array::default()
    }

    /// Rows of `x` in the order of `indices`.
    fn gather(&mut self, size: [u32; 2], indices: Self::Array, x: Columns<Self::Array>) -> Self::Array {
        let out = self.take(elements(&size));
        self.copy_rows(size, indices, x, false, (out, size[1]));
        out
    }

    /// Columns of `x` as an array of their own.
    fn columns(&mut self, size: [u32; 2], x: Columns<Self::Array>) -> Self::Array {
        self.gather(size, Self::Array::default(), x)
    }

    /// Writes columns of `x` into those of `out`.
    fn write(&mut self, size: [u32; 2], x: Columns<Self::Array>, out: Columns<Self::Array>) {
        self.copy_rows(size, Self::Array::default(), x, false, out);
    }

    /// Adds columns of `x` to those of `out`.
    fn accumulate(&mut self, size: [u32; 2], x: Columns<Self::Array>, out: Columns<Self::Array>) {
        self.copy_rows(size, Self::Array::default(), x, true, out);
    }

    /// Two arrays `[n_rows, n_parts, n]`, element by element.
    fn combine(
        &mut self,
        size: [u32; 3],
        by: Pairwise,
        a: Operand<Self::Array>,
        b: Operand<Self::Array>,
    ) -> Self::Array {
        let out = self.take(elements(&size));
        self.combine_into(size, by, a, b, (out, size[1] * size[2]));
        out
    }

    /// Products of two arrays of the same shape.
    fn multiply(&mut self, [n_rows, width]: [u32; 2], a: Self::Array, b: Self::Array) -> Self::Array {
        self.combine([n_rows, 1, width], Pairwise::Multiply, Operand::rows(a, width), Operand::rows(b, width))
    }

    /// Rows of `x`, each times a number of its own.
    fn scale(&mut self, [n_rows, width]: [u32; 2], x: Self::Array, by: Self::Array) -> Self::Array {
        self.combine([n_rows, 1, width], Pairwise::Multiply, Operand::rows(x, width), Operand::numbers(by, 1))
    }

    /// Differences of two arrays of the same shape.
    fn subtract(&mut self, [n_rows, width]: [u32; 2], a: Self::Array, b: Self::Array) -> Self::Array {
        self.combine([n_rows, 1, width], Pairwise::Subtract, Operand::rows(a, width), Operand::rows(b, width))
    }

    /// See [`Elementary::sum_into`].
    fn sum(
        &mut self,
        size: [u32; 3],
        a: Operand<Self::Array>,
        of: Self::Array,
        b: Operand<Self::Array>,
    ) -> Self::Array {
        let out = self.take(elements(&[size[0], size[2]]));
        self.sum_into(size, a, of, b, (out, size[2]));
        out
    }

    /// Inner products of rows of three.
    fn dots(&mut self, n_rows: u32, a: Self::Array, b: Self::Array) -> Self::Array {
        let [a, b] = [a, b].map(|array| Operand::rows(array, 3).parts(1));
        self.sum([n_rows, 3, 1], a, Self::Array::default(), b)
    }

    /// See [`Elementary::inner_into`].
    fn inner(&mut self, size: [u32; 3], a: Operand<Self::Array>, b: Operand<Self::Array>) -> Self::Array {
        let out = self.take(elements(&size[..2]));
        self.inner_into(size, a, b, out);
        out
    }

    /// See [`Elementary::segment_sum_into`].
    fn segment_sum(&mut self, size: [u32; 3], starts: Self::Array, x: Self::Array) -> Self::Array {
        let out = self.take(elements(&[size[0], size[2]]));
        self.segment_sum_into(size, starts, x, out);
        out
    }

    /// See [`Elementary::map_into`].
    fn map(&mut self, size: [u32; 2], function: Elementwise, parameter: f64, x: Columns<Self::Array>) -> Self::Array {
        let out = self.take(elements(&size));
        self.map_into(size, function, parameter, x, out);
        out
    }

    /// See [`Elementary::functions_into`].
    fn functions(
        &mut self,
        size: [u32; 2],
        functions: [Self::Array; 2],
        is_slope: bool,
        distances: Columns<Self::Array>,
    ) -> Self::Array {
        let out = self.take(elements(&size));
        self.functions_into(size, functions, is_slope, distances, out);
        out
    }

    /// See [`Elementary::product_into`].
    fn product(&mut self, size: [u32; 3], x: Self::Array, layer: [Self::Array; 2]) -> Self::Array {
        let out = self.take(elements(&[size[0], size[2]]));
        self.product_into(size, x, layer, out);
        out
    }

    /// `grad_y · weight`, `[n_rows, n_in]`.
    fn product_vjp(&mut self, size: [u32; 3], grad_y: Self::Array, weight: Self::Array) -> Self::Array {
        let out = self.take(elements(&size[..2]));
        self.product_vjp_into(size, grad_y, weight, false, out);
        out
    }
}
