//! Cells far smaller or thinner than the cutoff are refused, or searched, in little memory. Alone in its file: the allocator
//! counts for the whole process.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mlff::Want;
use mlff::structure::Mat3;
use mlff::{Error, Potential, Structure, neighbor_list};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// One test at a time.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that `f` takes at most beyond what there was.
fn peak<X>(f: impl FnOnce() -> X) -> (X, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let out = f();
    (out, PEAK.load(Ordering::Relaxed) - before)
}

const MOST: usize = 64 << 20;

fn hydrogens(n: usize, cell: Mat3, pbc: [bool; 3]) -> Structure {
    let positions = (0..n).map(|k| [0.0, 0.1 * k as f64, 1.1 * k as f64]).collect();
    Structure::new(vec![1; n], positions, Some(cell), pbc).unwrap()
}

#[test]
fn thin_cells_take_little_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let potential = Potential::load("ani2x-painn-64").unwrap();
    let water =
        Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]);
    potential.evaluate_one(&water.unwrap(), Want::ALL).unwrap();
    let (slab, wire) = ([true, true, false], [true, false, false]);
    let structures = [
        (hydrogens(1, [[2e-7, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]], wire), true),
        (hydrogens(1, [[0.0013, 0.0, 0.0], [0.0, 0.0013, 0.0], [0.0, 0.0, 9.0]], slab), true),
        (hydrogens(1, [[1e-3, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]], [true; 3]), true),
        // Long vectors that are nearly parallel.
        (hydrogens(6, [[30.0, 0.0, 0.0], [29.9, 0.02, 0.0], [0.0; 3]], slab), false),
        (hydrogens(6, [[100.0, 0.0, 0.0], [100.1, 0.002, 0.0], [0.0; 3]], slab), false),
        (hydrogens(6, [[100.0, 0.0, 0.0], [99.0, 0.01, 0.0], [0.0, 0.0, 1e3]], [true; 3]), false),
        // The lattice of these has a vector of 0.02 Å.
        (hydrogens(40, [[1e4, 0.0, 0.0], [1e4, 0.02, 0.0], [0.0; 3]], slab), true),
    ];
    for (structure, overlaps) in &structures {
        let (outcome, bytes) = peak(|| potential.evaluate_one(structure, Want::ALL));
        assert!(bytes < MOST, "{bytes} bytes: {structure:?}");
        assert_eq!(matches!(outcome, Err(Error::Overlap { .. })), *overlaps, "{structure:?}");
        let (_, bytes) = peak(|| neighbor_list(structure, 5.0));
        assert!(bytes < MOST, "{bytes} bytes: {structure:?}");
        let (stepped, bytes) = peak(|| {
            let mut session = potential.session(structure).unwrap().with_threads(1).unwrap();
            session.compute(&structure.positions, None, &mut vec![[0.0; 3]; structure.n_atoms()])
        });
        assert!(bytes < MOST, "{bytes} bytes: {structure:?}");
        let energy = outcome.map(|outcome| outcome.energy);
        assert_eq!(stepped.map_err(|e| e.to_string()), energy.map_err(|e| e.to_string()), "{structure:?}");
    }
}

#[test]
fn thin_cells_that_can_be_searched_still_are() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Neighbours are the same lattice's, however it is written down.
    let slab = [true, true, false];
    let count = |structure: &Structure| neighbor_list(structure, 5.0).unwrap().n_edges();
    for (n, longer) in [(3, 10.0), (3, 300.0), (6, 200.0)] {
        let reduced = hydrogens(n, [[0.5, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0; 3]], slab);
        let skewed = hydrogens(n, [[0.5 * longer, 3.0, 0.0], [0.5 * longer + 0.5, 3.0, 0.0], [0.0; 3]], slab);
        let (n_edges, bytes) = peak(|| count(&skewed));
        assert_eq!(n_edges, count(&reduced));
        assert!(n_edges > 100 && bytes < MOST, "{n_edges} edges, {bytes} bytes");
    }
}
