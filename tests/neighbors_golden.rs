//! Neighbour lists against ASE (`scripts/make_neighbor_goldens.py`), and edge counts against SchNetPack's.

#![allow(clippy::expect_used)] // helpers of tests, which clippy does not take for tests

use std::io::Read;

use mlff::Structure;
use mlff::neighbors::{Algorithm, NeighborList, NeighborSearch, displacement};
use mlff::structure::norm;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    name: String,
    cutoff: f64,
    positions: Vec<[f64; 3]>,
    cell: [[f64; 3]; 3],
    pbc: [bool; 3],
    n_edges: Option<usize>,
    edges: Vec<i32>,
    distances: Vec<f64>,
}

fn goldens() -> Vec<Golden> {
    let compressed = include_bytes!("data/neighbors/ase.json.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&compressed[..]).read_to_string(&mut text).expect("gzip");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn neighbors_match_ase() {
    let (mut search, mut list) = (NeighborSearch::new(), NeighborList::default());
    let goldens = goldens();
    assert!(goldens.len() >= 40, "{} structures", goldens.len());
    for golden in goldens {
        let structure =
            Structure::new(vec![6; golden.positions.len()], golden.positions, Some(golden.cell), golden.pbc)
                .expect("valid");
        for algorithm in [Algorithm::Auto, Algorithm::AllPairs, Algorithm::LinkedCells] {
            search.search_with(algorithm, &structure, golden.cutoff, &mut list).expect("searchable");
            let what = format!("{}, {algorithm:?}", golden.name);
            assert_eq!(list.n_edges(), golden.distances.len(), "{what}");
            if let Some(n_edges) = golden.n_edges {
                assert_eq!(list.n_edges(), n_edges, "{what}: count of the reference");
            }
            for (edge, want) in golden.edges.chunks_exact(5).enumerate() {
                let (i, j, shift) = (list.receivers[edge], list.senders[edge], list.shifts[edge]);
                assert_eq!([i as i32, j as i32, shift[0], shift[1], shift[2]], want, "{what}, edge {edge}");
                let r =
                    displacement(structure.positions[i as usize], structure.positions[j as usize], shift, &golden.cell);
                let difference = (norm(r) - golden.distances[edge]).abs();
                assert!(difference < 1e-10, "{what}, edge {edge}: distances differ by {difference:e}");
            }
        }
    }
}
