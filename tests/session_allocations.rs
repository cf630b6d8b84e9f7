//! A session allocates nothing after its first step. Alone in its file: the allocator counts for the whole process.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use mlff::xyz::Reader;
use mlff::{Potential, Structure};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations in 300 steps of something like dynamics, after the first.
fn count(structure: &Structure, n_threads: usize) -> usize {
    let potential = Potential::load("ani2x-painn-64").unwrap();
    let mut session = potential.session(structure).unwrap().with_threads(n_threads).unwrap().with_stress(true);
    let mut forces = vec![[0.0; 3]; structure.n_atoms()];
    let mut positions = structure.positions.clone();
    session.compute(&positions, structure.cell.as_ref(), &mut forces).unwrap();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for step in 0..300_u32 {
        for (i, (r, from)) in positions.iter_mut().zip(&structure.positions).enumerate() {
            let phase = 0.1 * f64::from(step) + i as f64;
            *r =
                [from[0] + 0.1 * phase.sin(), from[1] + 0.1 * (1.3 * phase).cos(), from[2] + 0.1 * (0.7 * phase).sin()];
        }
        session.compute(&positions, structure.cell.as_ref(), &mut forces).unwrap();
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn session_allocates_nothing_after_the_first_step() {
    let mut reader = Reader::open("examples/data/trajectory.xyz").unwrap();
    let molecule = reader.next_frame().unwrap().unwrap().structure;
    let cell = [[8.0, 0.0, 0.0], [1.0, 8.0, 0.0], [0.0, 0.0, 8.0]];
    let periodic = molecule.clone().with_cell(Some(cell), [true; 3]);
    for structure in [molecule, periodic] {
        for n_threads in [1, 2] {
            assert_eq!(count(&structure, n_threads), 0, "{n_threads} threads, pbc {:?}", structure.pbc);
        }
    }
    // The count is not one that cannot fail.
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    drop(std::hint::black_box(vec![1_u8; 10]));
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 1);
}
