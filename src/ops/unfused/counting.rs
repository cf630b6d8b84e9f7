//! Elementary operations counted: what they compute and move, and the scratch between them.

use super::elementary::{Columns, Elementary, Elementwise, Operand, Pairwise, elements};
use crate::ops::table::{Array, Operation};

/// Work of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Floating-point operations: a root, a quotient or an exponential is one.
    pub flops: f64,
    /// Numbers read and written: each operation reads its arguments and writes its result once, and reads what it adds to.
    /// What repeats within a row is read once, weights once a product. Indices are left out.
    pub numbers: f64,
    /// Elements of arrays that the chain takes for itself.
    pub scratch: u64,
}

impl std::ops::Add for Work {
    type Output = Work;

    /// Of both, one behind the other in the same scratch.
    fn add(self, other: Work) -> Work {
        Work {
            flops: self.flops + other.flops,
            numbers: self.numbers + other.numbers,
            scratch: self.scratch.max(other.scratch),
        }
    }
}

/// Counts a chain of operation `s`; `is_there` says which of the arrays there are.
pub fn count_with<O: Operation>(
    s: &O,
    is_there: impl Fn(&Array) -> bool,
    chain: impl FnOnce(&mut Counting, &O, &O::Arrays<There>),
) -> Work {
    let mut counting = Counting::default();
    let arrays = s.arrays(|array| There(is_there(array)));
    chain(&mut counting, s, &arrays);
    counting.work
}

/// Counts a chain of operation `s`, where all of its arrays are there.
pub fn count<O: Operation>(s: &O, chain: impl FnOnce(&mut Counting, &O, &O::Arrays<There>)) -> Work {
    count_with(s, |_| true, chain)
}

/// Whether an array is there: all that counting must know of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct There(pub bool);

/// Counts what it is told to do.
#[derive(Debug, Default)]
pub struct Counting {
    /// So far.
    pub work: Work,
}

/// Exact up to 2⁵³.
fn many(counts: &[u32]) -> f64 {
    elements(counts) as f64
}

/// Numbers of an argument: where steps are 0, the same again.
fn read<A>([n_rows, n_parts, n]: [u32; 3], x: Operand<A>) -> f64 {
    many(&[n_rows, if x.part == 0 { 1 } else { n_parts }, if x.column == 0 { 1 } else { n }])
}

impl Counting {
    fn add(&mut self, flops: f64, numbers: f64) {
        self.work.flops += flops;
        self.work.numbers += numbers;
    }
}

impl Elementary for Counting {
    type Array = There;

    fn take(&mut self, n: u64) -> There {
        self.work.scratch += n;
        There(true)
    }

    fn after(&self, array: There, _: u64) -> There {
        array
    }

    fn copy_rows(&mut self, size: [u32; 2], _: There, x: Columns<There>, add: bool, _: Columns<There>) {
        let (n, passes) = (many(&size), 1.0 + f64::from(u8::from(add)) + f64::from(u8::from(self.has(x.0))));
        self.add(if add { n } else { 0.0 }, passes * n);
    }

    fn combine_into(&mut self, size: [u32; 3], _: Pairwise, a: Operand<There>, b: Operand<There>, _: Columns<There>) {
        self.add(many(&size), read(size, a) + read(size, b) + many(&size));
    }

    fn sum_into(&mut self, size: [u32; 3], a: Operand<There>, _: There, b: Operand<There>, _: Columns<There>) {
        let [n_rows, n_parts, width] = size;
        let additions = many(&[n_rows, n_parts.saturating_sub(1), width]);
        let (products, other) = if self.has(b.array) { (many(&size), read(size, b)) } else { (0.0, 0.0) };
        self.add(additions + products, read(size, a) + other + many(&[n_rows, width]));
    }

    fn inner_into(&mut self, size: [u32; 3], a: Operand<There>, b: Operand<There>, _: There) {
        self.add(2.0 * many(&size), read(size, a) + read(size, b) + many(&size[..2]));
    }

    fn segment_sum_into(&mut self, [n_segments, n_rows, width]: [u32; 3], _: There, _: There, _: There) {
        let x = many(&[n_rows, width]);
        self.add(x, x + many(&[n_segments, width]));
    }

    fn map_into(&mut self, size: [u32; 2], function: Elementwise, _: f64, _: Columns<There>, _: There) {
        let flops = match function {
            Elementwise::Add => 1.0,
            Elementwise::Root | Elementwise::Inverse => 2.0,
            Elementwise::Silu | Elementwise::Envelope | Elementwise::EnvelopeSlope => 4.0,
            Elementwise::SiluSlope => 7.0,
        };
        self.add(flops * many(&size), 2.0 * many(&size));
    }

    fn functions_into(&mut self, size: [u32; 2], _: [There; 2], is_slope: bool, _: Columns<There>, _: There) {
        let flops = if is_slope { 7.0 } else { 5.0 };
        self.add(flops * many(&size), many(&size[..1]) + many(&size));
    }

    fn product_into(&mut self, size: [u32; 3], _: There, [_, bias]: [There; 2], _: There) {
        let [n_rows, n_in, n_out] = size;
        let (additions, biases) = if self.has(bias) { (many(&[n_rows, n_out]), many(&[n_out])) } else { (0.0, 0.0) };
        let weights = many(&[n_in, n_out]) + biases;
        self.add(2.0 * many(&size) + additions, many(&[n_rows, n_in]) + many(&[n_rows, n_out]) + weights);
    }

    fn product_vjp_into(&mut self, size: [u32; 3], _: There, _: There, add: bool, _: There) {
        let [n_rows, n_in, n_out] = size;
        let passes = if add { 2.0 } else { 1.0 };
        let numbers = many(&[n_rows, n_out]) + passes * many(&[n_rows, n_in]) + many(&[n_in, n_out]);
        self.add(2.0 * many(&size), numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::super::chains;
    use super::*;
    use crate::ops::dense::{Activation, LayerSizes};
    use crate::ops::message::MessageSizes;

    #[test]
    fn chain_of_a_layer_is_counted() {
        let s = LayerSizes { n_rows: 3, n_in: 2, n_out: 2 };
        let dense = |s: &LayerSizes, names: &[&str]| {
            count_with(s, |a| names.contains(&a.name), |c, s, a| chains::dense(c, s, Activation::Silu, a))
        };
        // Product of 3 × 2 × 2 with its bias, 4 for SiLU; x, weight, bias, z twice, y; z in between.
        let want = Work { flops: 24.0 + 6.0 + 24.0, numbers: 6.0 + 4.0 + 2.0 + 12.0 + 6.0, scratch: 6 };
        assert_eq!(dense(&s, &["x", "weight", "bias", "y"]), want);
        assert_eq!(dense(&s, &["x", "weight", "bias", "y", "saved"]), Work { scratch: 0, ..want });
        let with_residual = Work { flops: want.flops + 6.0, numbers: want.numbers + 18.0, scratch: 6 };
        assert_eq!(dense(&s, &["x", "weight", "bias", "y", "residual"]), with_residual);
    }

    /// The forward: filters 3, sender's rows 12, product 9, along 4, gated 7, sum 9, scalars 2, sums at receivers 4 by edge
    /// and feature, and what lies between them.
    #[test]
    fn chain_of_a_message_is_counted() {
        let (n, m, f, k) = (10, 70, 16, 5);
        let s = MessageSizes { n_atoms: n, n_edges: m, n_features: f, n_edge_features: k };
        let bias = |a: &Array| a.name != "bias";
        let [n, m, f, k] = [n, m, f, k].map(f64::from);
        let work = count_with(&s, bias, chains::message);
        assert_eq!(work.flops, m * f * (6.0 * k + 16.0));
        assert_eq!(work.numbers, m * (50.0 * f + k + 3.0) + 12.0 * n * f + 3.0 * f * k);
        assert_eq!(work.scratch as f64, (4.0 * n + 19.0 * m) * f);
        let work = count_with(&s, bias, chains::message_vjp);
        assert_eq!(work.scratch as f64, (6.0 * n + 34.0 * m) * f + 3.0 * m);
    }
}
