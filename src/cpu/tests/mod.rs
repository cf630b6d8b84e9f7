//! The kernels against the readable operations of [`crate::ops`] in f64: both precisions, every instruction set of this machine,
//! numbers of features that are no multiple of a vector.

mod dense;
mod message;
mod update;

use std::marker::PhantomData;

use pulp::{Arch, Simd, WithSimd};

use super::dense::Padding;
use super::lanes::{Buffer, Lanes};
use crate::testing::{Random, assert_close};

/// What is checked, for one instruction set in one precision.
trait Check {
    fn check<T: Lanes, S: Simd>(&self, simd: S);
}

struct On<'a, C, T>(&'a C, PhantomData<T>);

impl<C: Check, T: Lanes> WithSimd for On<'_, C, T> {
    type Output = ();

    fn with_simd<S: Simd>(self, simd: S) {
        self.0.check::<T, S>(simd);
    }
}

/// The instruction sets of this machine, from none to the widest.
fn instruction_sets() -> Vec<Arch> {
    let mut all = vec![Arch::Scalar];
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    all.extend(pulp::x86::V3::try_new().map(Arch::V3));
    all.push(Arch::new());
    all
}

fn everywhere(check: &impl Check) {
    for arch in instruction_sets() {
        arch.dispatch(On(check, PhantomData::<f32>));
        arch.dispatch(On(check, PhantomData::<f64>));
    }
}

/// Random numbers in (-1, 1) that `T` has.
fn numbers<T: Lanes>(random: &mut Random, n: usize) -> Vec<f64> {
    random.array(n, 1.0).into_iter().map(|x| T::of(x).wide()).collect()
}

fn narrow<T: Lanes>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&x| T::of(x)).collect()
}

/// Blocks of `used` numbers with zeros behind, as kernels want them.
fn padded<T: Lanes>(x: &[f64], used: usize) -> Buffer<T> {
    let pad = Padding::new::<T>(used);
    let mut out = Buffer::zeros(pad.padded_len(x.len()));
    for (out, block) in out.chunks_exact_mut(pad.padded).zip(x.chunks_exact(used)) {
        out[..used].copy_from_slice(&narrow(block));
    }
    out
}

/// A buffer that nothing has been written to.
fn blank<T: Lanes>(n: usize) -> Buffer<T> {
    let mut out = Buffer::zeros(n);
    out.fill(T::nan());
    out
}

/// What blocks hold before their padding.
fn unpadded<T: Lanes>(x: &[T], used: usize) -> Vec<f64> {
    let pad = Padding::new::<T>(used);
    x.chunks_exact(pad.padded).flat_map(|block| &block[..used]).map(|x| x.wide()).collect()
}

/// As [`unpadded`], where zeros must stand behind.
#[track_caller]
fn zero_padded<T: Lanes>(x: &[T], used: usize) -> Vec<f64> {
    let pad = Padding::new::<T>(used);
    assert!(x.chunks_exact(pad.padded).all(|block| block[used..].iter().all(|x| *x == T::zero())), "padding");
    unpadded(x, used)
}

/// Within so many roundings of the largest number.
#[track_caller]
fn near<T: Lanes>(what: &str, got: &[f64], want: &[f64], roundings: f64) {
    // Of what is summed, numbers of order one, also where their sums are small.
    let largest = want.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
    assert_close(what, got, want, roundings * T::epsilon().wide() * largest, 0.0);
}

#[test]
fn instruction_sets_are_those_of_this_machine() {
    let lanes: Vec<usize> = instruction_sets().into_iter().map(|arch| arch.dispatch(Width)).collect();
    assert!(lanes.is_sorted() && lanes[0] == 1, "{lanes:?}");
    #[cfg(target_arch = "x86_64")]
    assert_eq!(lanes.contains(&8), std::arch::is_x86_feature_detected!("avx2"), "{lanes:?}");
}

struct Width;

impl WithSimd for Width {
    type Output = usize;

    fn with_simd<S: Simd>(self, _: S) -> usize {
        f32::lanes::<S>()
    }
}
