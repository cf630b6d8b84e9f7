//! Launches of `kernels/unfused.cu`, one behind the other, with scratch for what lies between them.

use crate::cuda::launch::Arg;
use crate::cuda::launcher::{THREADS, args};
use crate::cuda::{Address, DenseShape, Launch, Launcher, Product, Step};
use crate::ops::dense::{DenseArrays, LayerSizes};
use crate::ops::unfused::{Columns, Elementary, Elementwise, Operand, Pairwise, elements};
use crate::settings::Precision;

fn args_of(x: Operand<Address>) -> [Arg; 4] {
    [x.array.into(), x.row.into(), x.part.into(), x.column.into()]
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

    /// One thread per element.
    fn push(&mut self, name: &str, n_threads: u64, args: Vec<Arg>) {
        let launch: Launch = self.launcher.per_thread(name, n_threads, THREADS, args);
        self.steps.push(Step::Kernel(launch));
    }

    /// Whether a product goes to the library: in f32, where it is loaded and 32 bits count its elements.
    fn by_library(&self, [n_rows, n_in, n_out]: [u32; 3]) -> bool {
        let fits = |n: u32| (1..u64::from(u32::MAX)).contains(&elements(&[n_rows, n]));
        self.launcher.has_library && self.launcher.precision == Precision::F32 && fits(n_in) && fits(n_out)
    }
}

impl Elementary for Chain<'_> {
    type Array = Address;

    fn take(&mut self, n: u64) -> Address {
        let array = self.scratch;
        self.scratch = self.after(array, n);
        array
    }

    fn after(&self, array: Address, n: u64) -> Address {
        array + n * self.launcher.element_bytes()
    }

    fn copy_rows(
        &mut self,
        [n_rows, width]: [u32; 2],
        indices: Address,
        x: Columns<Address>,
        add: bool,
        out: Columns<Address>,
    ) {
        let args = args![n_rows, width, indices, x.0, x.1, u32::from(add), out.0, out.1];
        self.push("unfused_copy", elements(&[n_rows, width]), args);
    }

    fn combine_into(
        &mut self,
        size: [u32; 3],
        by: Pairwise,
        a: Operand<Address>,
        b: Operand<Address>,
        out: Columns<Address>,
    ) {
        let mut args = args![size[0], size[1], size[2], by as u32];
        args.extend(args_of(a).into_iter().chain(args_of(b)));
        args.extend(args![out.0, out.1]);
        self.push("unfused_combine", elements(&size), args);
    }

    fn sum_into(
        &mut self,
        size: [u32; 3],
        a: Operand<Address>,
        of: Address,
        b: Operand<Address>,
        out: Columns<Address>,
    ) {
        let mut args = args![size[0], size[1], size[2]];
        args.extend(args_of(a));
        args.extend(args![of]);
        args.extend(args_of(b));
        args.extend(args![out.0, out.1]);
        self.push("unfused_sum", elements(&[size[0], size[2]]), args);
    }

    fn inner_into(&mut self, [n_rows, n_parts, n]: [u32; 3], a: Operand<Address>, b: Operand<Address>, out: Address) {
        let args = args![n_rows, n_parts, n, a.array, a.row, a.part, b.array, b.row, b.part, out];
        self.push("unfused_inner", 32 * elements(&[n_rows, n_parts]), args);
    }

    fn segment_sum_into(&mut self, [n_segments, _, width]: [u32; 3], starts: Address, x: Address, out: Address) {
        let args = args![n_segments, width, starts, x, out];
        self.push("unfused_segment_sum", elements(&[n_segments, width]), args);
    }

    fn map_into(&mut self, size: [u32; 2], function: Elementwise, parameter: f64, x: Columns<Address>, out: Address) {
        let mut args = args![size[0], size[1], function as u32];
        args.push(self.launcher.real(parameter));
        args.extend(args![x.0, x.1, out]);
        self.push("unfused_map", elements(&size), args);
    }

    fn functions_into(
        &mut self,
        [n_edges, n_rbf]: [u32; 2],
        [first, widths]: [Address; 2],
        is_slope: bool,
        (distances, stride): Columns<Address>,
        out: Address,
    ) {
        let kind = u32::from(!self.has(widths));
        let args = args![n_edges, n_rbf, kind, first, widths, u32::from(is_slope), distances, stride, out];
        self.push("unfused_functions", elements(&[n_edges, n_rbf]), args);
    }

    fn product_into(&mut self, size: [u32; 3], x: Address, [weight, bias]: [Address; 2], out: Address) {
        let [n_rows, n_in, n_out] = size;
        self.steps.push(if self.by_library(size) {
            Step::Product(Product { n_rows, n_in, n_out, transposed: true, x, weight, bias, addend: 0, out })
        } else {
            let arrays = DenseArrays { x, weight, bias, y: out, ..DenseArrays::default() };
            Step::Kernel(self.launcher.dense(&linear(size), &arrays))
        });
    }

    fn product_vjp_into(&mut self, size: [u32; 3], grad_y: Address, weight: Address, add: bool, grad_x: Address) {
        let [n_rows, n_in, n_out] = size;
        if self.by_library(size) {
            self.steps.push(Step::Product(Product {
                n_rows,
                n_in: n_out,
                n_out: n_in,
                transposed: false,
                x: grad_y,
                weight,
                bias: 0,
                addend: if add { grad_x } else { 0 },
                out: grad_x,
            }));
            return;
        }
        if !add {
            // The kernel adds to what is there.
            self.write([n_rows, n_in], (0, 0), (grad_x, n_in));
        }
        let arrays = DenseArrays { grad_y, weight, grad_x, ..DenseArrays::default() };
        self.steps.push(Step::Kernel(self.launcher.dense_vjp(&linear(size), &arrays)));
    }
}

/// A layer without an activation.
fn linear([n_rows, n_in, n_out]: [u32; 3]) -> DenseShape {
    DenseShape::linear(LayerSizes { n_rows, n_in, n_out })
}
