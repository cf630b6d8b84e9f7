//! Elementary operations on the processor: in parallel, a block of rows at a time, for the widest vectors.
//!
//! All arrays of a chain are in one list, and one that is written to is out of it meanwhile. What is dense is handled as one
//! row after the other without their bounds.

use super::elementary::{Columns, Elementary, Elementwise, Operand, Pairwise};
use super::lines::{View, combine, copy, functions, inner, map, segment_sum, sum};
use crate::clock::{Component, within_layer};
use crate::ops::dense::{Activation, product_block, product_vjp_block};
use crate::ops::radial_basis::cosine_envelope;
use crate::ops::{Real, for_row_blocks};

/// An array of an [`Arena`], from some element on. The default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    array: usize,
    first: usize,
}

enum Held<'a, T> {
    /// Not there, or out of the list to be written to.
    Nothing,
    Indices(&'a [u32]),
    Read(&'a [T]),
    Written(&'a mut [T]),
    Taken(Vec<T>),
}

/// The arrays of a chain on the processor.
pub struct Arena<'a, T> {
    held: Vec<Held<'a, T>>,
}

impl<'a, T: Real> Arena<'a, T> {
    /// Without any.
    pub fn new() -> Self {
        Arena { held: vec![Held::Nothing] }
    }

    fn hold(&mut self, array: Held<'a, T>) -> Place {
        self.held.push(array);
        Place { array: self.held.len() - 1, first: 0 }
    }

    /// Indices.
    pub fn indices(&mut self, indices: &'a [u32]) -> Place {
        self.hold(Held::Indices(indices))
    }

    /// An argument.
    pub fn read(&mut self, x: &'a [T]) -> Place {
        self.hold(Held::Read(x))
    }

    /// A result.
    pub fn write(&mut self, out: &'a mut [T]) -> Place {
        self.hold(Held::Written(out))
    }

    /// Elements of an array; none where there is none, or while it is written to.
    fn get(&self, at: Place) -> &[T] {
        let all = match &self.held[at.array] {
            Held::Read(x) => x,
            Held::Written(x) => &**x,
            Held::Taken(x) => x,
            Held::Nothing | Held::Indices(_) => &[],
        };
        &all[at.first..]
    }

    fn get_indices(&self, at: Place) -> Option<&[u32]> {
        match self.held[at.array] {
            Held::Indices(indices) => Some(indices),
            _ => None,
        }
    }

    fn view(&self, x: Operand<Place>) -> View<'_, T> {
        View { x: self.get(x.array), row: x.row as usize, part: x.part as usize, column: x.column as usize }
    }

    /// Columns of rows, as they are read.
    fn rows(&self, (x, row): Columns<Place>) -> View<'_, T> {
        self.view(Operand::rows(x, row))
    }

    /// Writes to `n_rows` rows of `row` elements: `work` gets them, and the column that the place is in. Without rows there is
    /// no work.
    fn write_to(
        &mut self,
        (out, row): Columns<Place>,
        n_rows: u32,
        work: impl FnOnce(&Self, &mut [T], (usize, usize)),
    ) {
        let (n_rows, row) = (n_rows as usize, row as usize);
        if n_rows * row == 0 {
            return;
        }
        let mut held = std::mem::replace(&mut self.held[out.array], Held::Nothing);
        let all = match &mut held {
            Held::Written(all) => &mut **all,
            Held::Taken(all) => all,
            _ => &mut [],
        };
        let first = out.first / row * row;
        work(self, &mut all[first..first + n_rows * row], (row, out.first - first));
        self.held[out.array] = held;
    }
}

impl<T: Real> Elementary for Arena<'_, T> {
    type Array = Place;

    fn take(&mut self, n: u64) -> Place {
        self.hold(Held::Taken(vec![T::zero(); n as usize]))
    }

    fn release(&mut self, arrays: &[Place]) {
        for place in arrays {
            if matches!(self.held[place.array], Held::Taken(_)) {
                self.held[place.array] = Held::Nothing;
            }
        }
    }

    fn after(&self, array: Place, n: u64) -> Place {
        Place { first: array.first + n as usize, ..array }
    }

    fn within<R>(&mut self, component: Component, work: impl FnOnce(&mut Self) -> R) -> R {
        let _component = within_layer(component);
        work(self)
    }

    fn copy_rows(
        &mut self,
        [n_rows, width]: [u32; 2],
        indices: Place,
        x: Columns<Place>,
        add: bool,
        out: Columns<Place>,
    ) {
        self.write_to(out, n_rows, |arena, rows, at| {
            let (x, order) = (arena.has(x.0).then(|| arena.rows(x)), arena.get_indices(indices));
            copy(width as usize, order, x, add, rows, at);
        });
    }

    fn combine_into(
        &mut self,
        [n_rows, n_parts, n]: [u32; 3],
        by: Pairwise,
        a: Operand<Place>,
        b: Operand<Place>,
        out: Columns<Place>,
    ) {
        self.write_to(out, n_rows, |arena, rows, at| {
            let (size, pair) = ([n_parts as usize, n as usize], [arena.view(a), arena.view(b)]);
            match by {
                Pairwise::Multiply => combine(
                    size,
                    pair,
                    rows,
                    at,
                    #[inline(always)]
                    |a, b| a * b,
                ),
                Pairwise::Subtract => combine(
                    size,
                    pair,
                    rows,
                    at,
                    #[inline(always)]
                    |a, b| a - b,
                ),
                Pairwise::Divide => combine(
                    size,
                    pair,
                    rows,
                    at,
                    #[inline(always)]
                    |a, b| a / b,
                ),
            }
        });
    }

    fn sum_into(
        &mut self,
        [n_rows, n_parts, width]: [u32; 3],
        a: Operand<Place>,
        of: Place,
        b: Operand<Place>,
        out: Columns<Place>,
    ) {
        self.write_to(out, n_rows, |arena, rows, at| {
            let b = arena.has(b.array).then(|| arena.view(b));
            sum([n_parts as usize, width as usize], arena.view(a), arena.get_indices(of), b, rows, at);
        });
    }

    fn inner_into(&mut self, [n_rows, n_parts, n]: [u32; 3], a: Operand<Place>, b: Operand<Place>, out: Place) {
        self.write_to((out, n_parts), n_rows, |arena, rows, _| {
            inner([n_parts as usize, n as usize], arena.view(a), arena.view(b), rows);
        });
    }

    fn segment_sum_into(&mut self, [n_segments, _, width]: [u32; 3], starts: Place, x: Place, out: Place) {
        self.write_to((out, width), n_segments, |arena, rows, _| {
            segment_sum(width as usize, arena.get_indices(starts).unwrap_or_default(), arena.get(x), rows);
        });
    }

    fn map_into(
        &mut self,
        [n_rows, width]: [u32; 2],
        function: Elementwise,
        parameter: f64,
        x: Columns<Place>,
        out: Place,
    ) {
        let p = T::of(parameter);
        self.write_to((out, width), n_rows, |arena, rows, (width, _)| {
            let x = arena.rows(x);
            match function {
                Elementwise::Add => map(
                    width,
                    x,
                    rows,
                    #[inline(always)]
                    |x| x + p,
                ),
                Elementwise::Root => map(
                    width,
                    x,
                    rows,
                    #[inline(always)]
                    |x| (x + p).sqrt(),
                ),
                Elementwise::Inverse => map(
                    width,
                    x,
                    rows,
                    #[inline(always)]
                    |x| if x + p > T::zero() { T::one() / (x + p) } else { T::zero() },
                ),
                Elementwise::Silu => map(
                    width,
                    x,
                    rows,
                    #[inline(always)]
                    |x| Activation::Silu.at(x),
                ),
                Elementwise::SiluSlope => map(
                    width,
                    x,
                    rows,
                    #[inline(always)]
                    |x| Activation::Silu.derivative(x),
                ),
                Elementwise::Envelope => map(
                    width,
                    x,
                    rows,
                    #[inline(always)]
                    |x| cosine_envelope(x, parameter).0,
                ),
                Elementwise::EnvelopeSlope => map(
                    width,
                    x,
                    rows,
                    #[inline(always)]
                    |x| cosine_envelope(x, parameter).1,
                ),
            }
        });
    }

    fn functions_into(
        &mut self,
        [n_edges, n_rbf]: [u32; 2],
        [first, widths]: [Place; 2],
        is_slope: bool,
        distances: Columns<Place>,
        out: Place,
    ) {
        self.write_to((out, n_rbf), n_edges, |arena, rows, (n_rbf, _)| {
            let (parameters, x) = ([&arena.get(first)[..n_rbf], arena.get(widths)], arena.rows(distances));
            if is_slope {
                functions(
                    parameters,
                    x,
                    rows,
                    #[inline(always)]
                    |(_, slope)| slope,
                );
            } else {
                functions(
                    parameters,
                    x,
                    rows,
                    #[inline(always)]
                    |(value, _)| value,
                );
            }
        });
    }

    fn product_into(&mut self, [n_rows, n_in, n_out]: [u32; 3], x: Place, [weight, bias]: [Place; 2], out: Place) {
        self.write_to((out, n_out), n_rows, |arena, rows, (n_out, _)| {
            let (n_in, x) = (n_in as usize, arena.get(x));
            let (weight, bias) = (arena.get(weight), arena.has(bias).then(|| arena.get(bias)));
            for_row_blocks(rows, n_out, |k, rows| product_block([n_in, n_out], (weight, bias), &x[k * n_in..], rows));
        });
    }

    fn product_vjp_into(
        &mut self,
        [n_rows, n_in, n_out]: [u32; 3],
        grad_y: Place,
        weight: Place,
        add: bool,
        grad_x: Place,
    ) {
        self.write_to((grad_x, n_in), n_rows, |arena, rows, (n_in, _)| {
            let (n_out, grad_y, weight) = (n_out as usize, arena.get(grad_y), arena.get(weight));
            for_row_blocks(rows, n_in, |k, rows| {
                let grad_y = &grad_y[k * n_out..][..rows.len() / n_in * n_out];
                product_vjp_block([n_in, n_out], weight, grad_y, add, rows);
            });
        });
    }
}
