//! Time of the neighbour search per atom, for both algorithms: `cargo bench --bench neighbors`.
//!
//! Liquids of 0.1 atoms/Å³ (water) with a cutoff of 5 Å, in input order along space and at random, as a droplet
//! (no periodic direction) and as a periodic box. Medians over repeats on one thread, buffers warm.

#![allow(clippy::expect_used)] // a benchmark that cannot run should stop

#[path = "../src/testing/random.rs"]
mod random;

use std::hint::black_box;
use std::time::Instant;

use mlff::Structure;
use mlff::neighbors::{Algorithm, NeighborList, NeighborSearch};
use random::Random;

const CUTOFF: f64 = 5.0;
const DENSITY: f64 = 0.1;

/// A jittered grid filling a cube, so that no two atoms coincide.
fn liquid(n_atoms: usize, periodic: bool, shuffled: bool) -> Structure {
    let length = (n_atoms as f64 / DENSITY).cbrt();
    let per_side = (1..).find(|n| n * n * n >= n_atoms).unwrap_or(1);
    let spacing = length / per_side as f64;
    let mut random = Random(n_atoms as u64);
    let mut positions: Vec<[f64; 3]> = (0..n_atoms)
        .map(|i| {
            // Sites spread evenly over the grid when it is not full.
            let site = i * per_side.pow(3) / n_atoms;
            [site / (per_side * per_side), site / per_side % per_side, site % per_side]
                .map(|k| (k as f64 + 0.2 + 0.6 * random.uniform()) * spacing)
        })
        .collect();
    if shuffled {
        for i in (1..n_atoms).rev() {
            positions.swap(i, (random.uniform() * (i + 1) as f64) as usize);
        }
    }
    let cell = periodic.then_some([[length, 0.0, 0.0], [0.0, length, 0.0], [0.0, 0.0, length]]);
    Structure::default().with_atomic_numbers(vec![8; n_atoms]).with_positions(positions).with_cell(cell, [periodic; 3])
}

/// Median seconds of one search, and its number of edges.
fn measure(structure: &Structure, algorithm: Algorithm) -> (f64, usize) {
    let (mut search, mut list) = (NeighborSearch::new(), NeighborList::default());
    let mut run = || {
        search.search_with(algorithm, black_box(structure), CUTOFF, &mut list).expect("a searchable structure");
        list.n_edges()
    };
    let start = Instant::now();
    let n_edges = run();
    let once = start.elapsed().as_secs_f64();
    // Short searches are timed in groups of at least 20 µs.
    let group = (2e-5 / once.max(1e-9)).ceil() as usize;
    let repeats = ((0.3 / (once * group as f64)) as usize).clamp(5, 2001);
    let mut times: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..group {
                black_box(run());
            }
            start.elapsed().as_secs_f64() / group as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], n_edges)
}

fn main() {
    let sizes = std::env::var("MLFF_BENCH_ATOMS").map_or_else(
        |_| vec![3, 9, 22, 60, 100, 150, 200, 300, 400, 600, 1000, 3000, 10_000, 100_000],
        |list| list.split(',').filter_map(|n| n.parse().ok()).collect::<Vec<usize>>(),
    );
    println!("| system | atoms | edges/atom | all pairs, ns/atom | linked cells, ns/atom | auto, µs |");
    println!("|---|---|---|---|---|---|");
    for (name, periodic, shuffled) in
        [("droplet", false, false), ("periodic", true, false), ("periodic, random order", true, true)]
    {
        for &n_atoms in &sizes {
            let structure = liquid(n_atoms, periodic, shuffled);
            let (auto, n_edges) = measure(&structure, Algorithm::Auto);
            let per_atom = |seconds: f64| format!("{:.0}", seconds * 1e9 / n_atoms as f64);
            let (linked, _) = measure(&structure, Algorithm::LinkedCells);
            // Quadratic: a minute for 1e5 atoms.
            let all = if n_atoms <= 10_000 { per_atom(measure(&structure, Algorithm::AllPairs).0) } else { "".into() };
            let edges = n_edges as f64 / n_atoms as f64;
            println!("| {name} | {n_atoms} | {edges:.1} | {all} | {} | {:.2} |", per_atom(linked), auto * 1e6);
        }
    }
}
