//! The operations of a PaiNN-like model: CPU forward and analytic backward (`_vjp`), in f32 and f64.
//!
//! | op | forward | saved for the VJP |
//! |---|---|---|
//! | [`edge_geometry`] | positions, strain → distance and direction of each edge | its output |
//! | [`radial_basis`] | distances → radial basis times envelope, and the envelope | distances |
//! | [`dense`] | rows → activation(rows · weightᵀ + bias), and two such layers | pre-activation |
//! | [`message`] | context, vectors, edge features, directions → filtered sums over each atom's edges | its inputs |
//! | [`update`] | mixed vectors and gates → change of scalars and vectors | its inputs |
//! | [`readout`] | atomic outputs → energy of each structure, summed in f64 | nothing |
//!
//! All arrays are dense, row-major slices. A forward overwrites its outputs unless it says that it accumulates;
//! every VJP accumulates. [`unfused`] has the same operations as chains of elementary ones.

pub mod choice;
pub mod cost_model;
pub mod dense;
pub mod dispatch;
pub mod edge_geometry;
pub mod example;
pub mod message;
pub mod radial_basis;
pub mod readout;
pub mod table;
pub mod unfused;
pub mod update;

use num_traits::{Float, NumAssign};
use rayon::prelude::*;

use crate::settings::Precision;

mod sealed {
    /// What unsafe code and kernels trust a type to be, nobody else can claim for another one.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// Floating-point type of an evaluation: `f32` or `f64`, and no other.
pub trait Real:
    sealed::Sealed + Float + NumAssign + Default + std::fmt::Debug + std::iter::Sum + Send + Sync + 'static
{
    /// Which of the two.
    const PRECISION: Precision;
    /// Rounds an f64 to this type.
    fn of(x: f64) -> Self;
    /// Widens to f64, exactly.
    fn wide(self) -> f64;
}

impl Real for f32 {
    const PRECISION: Precision = Precision::F32;

    fn of(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    const PRECISION: Precision = Precision::F64;

    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
}

/// The edges of a batch: who sends to whom, sorted by receiver.
///
/// `edge_ptr[i]..edge_ptr[i + 1]` are the edges that atom `i` receives. `reverse_edge[e]` is the edge of the same pair
/// seen from the other side, so that sums over an atom's *outgoing* edges walk its incoming ones: no atomics, and the
/// same order on every run.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Receiver of each edge, `[n_edges]`.
    pub receivers: Vec<u32>,
    /// Sender of each edge, `[n_edges]`.
    pub senders: Vec<u32>,
    /// First edge of each receiver, `[n_atoms + 1]`.
    pub edge_ptr: Vec<u32>,
    /// The same pair seen from the sender, `[n_edges]`.
    pub reverse_edge: Vec<u32>,
}

/// A count as kernels take it. Batches count in 32 bits; what does not fit is nowhere allocated.
pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Topology {
    /// Number of atoms.
    pub fn n_atoms(&self) -> usize {
        self.edge_ptr.len().saturating_sub(1)
    }

    /// Number of directed edges.
    pub fn n_edges(&self) -> usize {
        self.receivers.len()
    }

    /// Edges that atom `i` receives.
    pub(crate) fn edges_of(&self, i: usize) -> std::ops::Range<usize> {
        self.edge_ptr[i] as usize..self.edge_ptr[i + 1] as usize
    }
}

/// Rows handled by one task. Fixed, so that results do not depend on the number of threads; large enough that the
/// cost of a task (some µs) is small beside its work, small enough that two cores share one batch of molecules.
const ROWS_PER_TASK: usize = 64;

/// A task. Not a closure: one that could be called twice is not always inlined into the function that is compiled for the
/// widest vectors, and then runs without them.
struct Block<'a, W, R> {
    work: &'a W,
    first: usize,
    rows: R,
}

impl<W: Fn(usize, &mut [T]), T> pulp::WithSimd for Block<'_, W, &mut [T]> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        (*self.work)(self.first, self.rows);
    }
}

impl<W: Fn(usize, &mut [T], &mut [T]), T> pulp::WithSimd for Block<'_, W, (&mut [T], &mut [T])> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        (*self.work)(self.first, self.rows.0, self.rows.1);
    }
}

/// Runs `work(first_row, rows)` over blocks of `ROWS_PER_TASK` rows of `out`, in parallel when there are several,
/// each compiled for the widest vectors of this processor: for that, `work` must be `#[inline(always)]`.
pub(crate) fn for_row_blocks<T: Send>(out: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    if width == 0 || out.is_empty() {
        return;
    }
    let (arch, work) = (pulp::Arch::new(), &work);
    let run = |k: usize, rows: &mut [T]| arch.dispatch(Block { work, first: k * ROWS_PER_TASK, rows });
    let block = ROWS_PER_TASK * width;
    if out.len() <= block { run(0, out) } else { in_parallel(out, block, &run) }
}

/// Apart from what is done, so that a scheduler is not compiled for every operation.
fn in_parallel<T: Send>(out: &mut [T], block: usize, run: &(dyn Fn(usize, &mut [T]) + Sync)) {
    out.par_chunks_mut(block).enumerate().for_each(|(k, rows)| run(k, rows));
}

/// As [`for_row_blocks`] over two outputs with the same number of rows.
pub(crate) fn for_row_blocks2<T: Send>(
    (a, width_a): (&mut [T], usize),
    (b, width_b): (&mut [T], usize),
    work: impl Fn(usize, &mut [T], &mut [T]) + Sync,
) {
    if width_a == 0 || width_b == 0 {
        return;
    }
    let (arch, work) = (pulp::Arch::new(), &work);
    let run =
        |k: usize, a: &mut [T], b: &mut [T]| arch.dispatch(Block { work, first: k * ROWS_PER_TASK, rows: (a, b) });
    in_parallel2((a, ROWS_PER_TASK * width_a), (b, ROWS_PER_TASK * width_b), &run);
}

type Run2<'a, T> = dyn Fn(usize, &mut [T], &mut [T]) + Sync + 'a;

fn in_parallel2<T: Send>((a, block_a): (&mut [T], usize), (b, block_b): (&mut [T], usize), run: &Run2<T>) {
    let blocks = a.par_chunks_mut(block_a).zip(b.par_chunks_mut(block_b));
    blocks.enumerate().for_each(|(k, (a, b))| run(k, a, b));
}
