//! Launches of `kernels/unfused.cu`, one behind the other, with scratch for what lies between them.

use crate::cuda::launch::Arg;
use crate::cuda::launcher::{THREADS, args};
use crate::cuda::{Address, DenseShape, Launch, Launcher, Product, Step};
use crate::ops::dense::{DenseArrays, LayerSizes};
use crate::settings::Precision;

/// An argument: element (row, part, column) of an array is so many elements behind its first.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub array: Address,
    pub row: u32,
    pub part: u32,
    pub column: u32,
}

impl Operand {
    /// Rows of `row` elements; the same for every part.
    pub fn rows(array: Address, row: u32) -> Self {
        Operand { array, row, part: 0, column: 1 }
    }

    /// Rows of one number, the same for every part and column.
    pub fn numbers(array: Address, row: u32) -> Self {
        Operand { array, row, part: 0, column: 0 }
    }

    /// The same with parts `part` elements apart.
    pub fn parts(self, part: u32) -> Self {
        Operand { part, ..self }
    }

    fn args(self) -> [Arg; 4] {
        [self.array.into(), self.row.into(), self.part.into(), self.column.into()]
    }
}

/// As `Pairwise` in `kernels/unfused.cu`.
#[derive(Clone, Copy)]
pub(super) enum Pairwise {
    Multiply = 0,
    Subtract = 1,
    Divide = 2,
}

/// As `Elementwise` in `kernels/unfused.cu`.
#[derive(Clone, Copy)]
pub(super) enum Elementwise {
    Add = 0,
    Root = 1,
    Inverse = 2,
    Silu = 3,
    SiluSlope = 4,
    Envelope = 5,
    EnvelopeSlope = 6,
}

/// Elements of `counts` multiplied, where 32 bits may not do.
pub(super) fn elements(counts: &[u32]) -> u64 {
    counts.iter().map(|&n| u64::from(n)).product()
}

/// Steps so far, and the scratch that is left.
pub(super) struct Chain<'a> {
    launcher: &'a Launcher,
    scratch: Address,
    steps: Vec<Step>,
}

impl<'a> Chain<'a> {
    pub fn new(launcher: &'a Launcher, scratch: Address) -> Self {
        Chain { launcher, scratch, steps: Vec::new() }
    }

    pub fn steps(self) -> Vec<Step> {
        self.steps
    }

    /// An array of so many elements.
    pub fn take(&mut self, n: u64) -> Address {
        let array = self.scratch;
        self.scratch = self.after(array, n);
        array
    }

    /// The address `n` elements behind another.
    pub fn after(&self, array: Address, n: u64) -> Address {
        array + n * self.launcher.element_bytes()
    }

    /// One thread per element.
    fn push(&mut self, name: &str, n_threads: u64, args: Vec<Arg>) {
        let launch: Launch = self.launcher.per_thread(name, n_threads, THREADS, args);
        self.steps.push(Step::Kernel(launch));
    }

    fn copy_rows(
        &mut self,
        [n_rows, width]: [u32; 2],
        indices: Address,
        x: (Address, u32),
        add: bool,
        out: (Address, u32),
    ) {
        let args = args![n_rows, width, indices, x.0, x.1, u32::from(add), out.0, out.1];
        self.push("unfused_copy", elements(&[n_rows, width]), args);
    }

    /// Columns of `x`, rows of `x.1` elements, as an array of their own.
    pub fn columns(&mut self, size: [u32; 2], x: (Address, u32)) -> Address {
        self.gather(size, 0, x)
    }

    /// Rows of `x` in the order of `indices`; 0 for that of `x`.
    pub fn gather(&mut self, size: [u32; 2], indices: Address, x: (Address, u32)) -> Address {
        let out = self.take(elements(&size));
        self.copy_rows(size, indices, x, false, (out, size[1]));
        out
    }

    /// Writes columns of `x`, rows of `x.1` elements, into those of `out`.
    pub fn write(&mut self, size: [u32; 2], x: (Address, u32), out: (Address, u32)) {
        self.copy_rows(size, 0, x, false, out);
    }

    /// Adds columns of `x`, rows of `x.1` elements, to those of `out`.
    pub fn accumulate(&mut self, size: [u32; 2], x: (Address, u32), out: (Address, u32)) {
        self.copy_rows(size, 0, x, true, out);
    }

    /// Two arrays `[n_rows, n_parts, n]`, element by element, into columns of `out`.
    pub fn combine_into(&mut self, size: [u32; 3], by: Pairwise, a: Operand, b: Operand, out: (Address, u32)) {
        let mut args = args![size[0], size[1], size[2], by as u32];
        args.extend(a.args().into_iter().chain(b.args()));
        args.extend(args![out.0, out.1]);
        self.push("unfused_combine", elements(&size), args);
    }

    /// Two arrays `[n_rows, n_parts, n]`, element by element.
    pub fn combine(&mut self, size: [u32; 3], by: Pairwise, a: Operand, b: Operand) -> Address {
        let out = self.take(elements(&size));
        self.combine_into(size, by, a, b, (out, size[1] * size[2]));
        out
    }

    /// Products of two arrays of the same shape.
    pub fn multiply(&mut self, [n_rows, width]: [u32; 2], a: Address, b: Address) -> Address {
        let [a, b] = [a, b].map(|array| Operand::rows(array, width));
        self.combine([n_rows, 1, width], Pairwise::Multiply, a, b)
    }

    /// Rows of `x`, each times a number of its own.
    pub fn scale(&mut self, [n_rows, width]: [u32; 2], x: Address, by: Address) -> Address {
        let size = [n_rows, 1, width];
        self.combine(size, Pairwise::Multiply, Operand::rows(x, width), Operand::numbers(by, 1))
    }

    /// Differences of two arrays of the same shape.
    pub fn subtract(&mut self, [n_rows, width]: [u32; 2], a: Address, b: Address) -> Address {
        let [a, b] = [a, b].map(|array| Operand::rows(array, width));
        self.combine([n_rows, 1, width], Pairwise::Subtract, a, b)
    }

    /// Sums over the parts of `a · b` `[n_rows, n_parts, width]` into columns of `out`; `b` may be at 0 for ones, and `of`
    /// says its rows, 0 for those of `a`.
    pub fn sum_into(&mut self, size: [u32; 3], a: Operand, of: Address, b: Operand, out: (Address, u32)) {
        let mut args = args![size[0], size[1], size[2]];
        args.extend(a.args());
        args.extend(args![of]);
        args.extend(b.args());
        args.extend(args![out.0, out.1]);
        self.push("unfused_sum", elements(&[size[0], size[2]]), args);
    }

    /// [`Chain::sum_into`] an array of its own.
    pub fn sum(&mut self, size: [u32; 3], a: Operand, of: Address, b: Operand) -> Address {
        let out = self.take(elements(&[size[0], size[2]]));
        self.sum_into(size, a, of, b, (out, size[2]));
        out
    }

    /// Inner products of rows of three.
    pub fn dots(&mut self, n_rows: u32, a: Address, b: Address) -> Address {
        let [a, b] = [a, b].map(|array| Operand::rows(array, 3).parts(1));
        self.sum([n_rows, 3, 1], a, 0, b)
    }

    /// Inner products of rows `[n_rows, n_parts, n]` over n, whose columns are neighbours.
    pub fn inner(&mut self, [n_rows, n_parts, n]: [u32; 3], a: Operand, b: Operand) -> Address {
        let out = self.take(elements(&[n_rows, n_parts]));
        let args = args![n_rows, n_parts, n, a.array, a.row, a.part, b.array, b.row, b.part, out];
        self.push("unfused_inner", 32 * elements(&[n_rows, n_parts]), args);
        out
    }

    /// Sums of consecutive rows: `starts` `[n_segments + 1]`.
    pub fn segment_sum_into(&mut self, [n_segments, width]: [u32; 2], starts: Address, x: Address, out: Address) {
        let args = args![n_segments, width, starts, x, out];
        self.push("unfused_segment_sum", elements(&[n_segments, width]), args);
    }

    /// [`Chain::segment_sum_into`] an array of its own.
    pub fn segment_sum(&mut self, size: [u32; 2], starts: Address, x: Address) -> Address {
        let out = self.take(elements(&size));
        self.segment_sum_into(size, starts, x, out);
        out
    }

    /// A function of columns of `x`, rows of `x.1` elements.
    pub fn map(&mut self, size: [u32; 2], function: Elementwise, parameter: f64, x: (Address, u32)) -> Address {
        let out = self.take(elements(&size));
        let mut args = args![size[0], size[1], function as u32];
        args.push(self.launcher.real(parameter));
        args.extend(args![x.0, x.1, out]);
        self.push("unfused_map", elements(&size), args);
        out
    }

    /// Values or derivatives of radial functions at distances `stride` elements apart.
    pub fn functions(
        &mut self,
        [n_edges, n_rbf]: [u32; 2],
        (first, widths): (Address, Address),
        is_slope: bool,
        (distances, stride): (Address, u32),
    ) -> Address {
        let out = self.take(elements(&[n_edges, n_rbf]));
        let kind = u32::from(widths == 0);
        let args = args![n_edges, n_rbf, kind, first, widths, u32::from(is_slope), distances, stride, out];
        self.push("unfused_functions", elements(&[n_edges, n_rbf]), args);
        out
    }

    /// Whether a product goes to the library: in f32, where it is loaded and 32 bits count its elements.
    fn by_library(&self, [n_rows, n_in, n_out]: [u32; 3]) -> bool {
        let fits = |n: u32| (1..u64::from(u32::MAX)).contains(&elements(&[n_rows, n]));
        self.launcher.has_library && self.launcher.precision == Precision::F32 && fits(n_in) && fits(n_out)
    }

    /// `x · weightᵀ + bias` into `out` `[n_rows, n_out]`; `bias` may be 0.
    pub fn product_into(&mut self, size: [u32; 3], x: Address, (weight, bias): (Address, Address), out: Address) {
        let [n_rows, n_in, n_out] = size;
        self.steps.push(if self.by_library(size) {
            Step::Product(Product { n_rows, n_in, n_out, transposed: true, x, weight, bias, addend: 0, out })
        } else {
            let arrays = DenseArrays { x, weight, bias, y: out, ..DenseArrays::default() };
            Step::Kernel(self.launcher.dense(&linear(size), &arrays))
        });
    }

    /// [`Chain::product_into`] an array of its own.
    pub fn product(&mut self, size: [u32; 3], x: Address, layer: (Address, Address)) -> Address {
        let out = self.take(elements(&[size[0], size[2]]));
        self.product_into(size, x, layer, out);
        out
    }

    /// `grad_y · weight`, `[n_rows, n_in]`.
    pub fn product_vjp(&mut self, size: [u32; 3], grad_y: Address, weight: Address) -> Address {
        let rows = [size[0], size[1]];
        let out = self.take(elements(&rows));
        if !self.by_library(size) {
            // The kernel adds to what is there.
            self.write(rows, (0, 0), (out, size[1]));
        }
        self.product_vjp_into(size, grad_y, weight, (out, false));
        out
    }

    /// `grad_x` `[n_rows, n_in]` += `grad_y · weight`.
    pub fn accumulate_product_vjp(&mut self, size: [u32; 3], grad_y: Address, weight: Address, grad_x: Address) {
        self.product_vjp_into(size, grad_y, weight, (grad_x, true));
    }

    fn product_vjp_into(&mut self, size: [u32; 3], grad_y: Address, weight: Address, (grad_x, add): (Address, bool)) {
        let [n_rows, n_in, n_out] = size;
        self.steps.push(if self.by_library(size) {
            Step::Product(Product {
                n_rows,
                n_in: n_out,
                n_out: n_in,
                transposed: false,
                x: grad_y,
                weight,
                bias: 0,
                addend: if add { grad_x } else { 0 },
                out: grad_x,
            })
        } else {
            let arrays = DenseArrays { grad_y, weight, grad_x, ..DenseArrays::default() };
            Step::Kernel(self.launcher.dense_vjp(&linear(size), &arrays))
        });
    }
}

/// A layer without an activation.
fn linear([n_rows, n_in, n_out]: [u32; 3]) -> DenseShape {
    DenseShape::linear(LayerSizes { n_rows, n_in, n_out })
}
