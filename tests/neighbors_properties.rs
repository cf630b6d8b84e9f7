//! Neighbour lists against a brute-force search, and what must hold for every list.

#![allow(clippy::expect_used)] // helpers of tests, which clippy does not take for tests

use std::collections::{BTreeMap, BTreeSet};

use mlff::Structure;
use mlff::neighbors::{Algorithm, NeighborList, NeighborSearch, displacement, neighbor_list};
use mlff::structure::{Mat3, Vec3, cross, determinant, norm, times};
use proptest::prelude::*;
use random::Random;

#[path = "../src/testing/random.rs"]
mod random;

type Edge = (u32, u32, [i32; 3]);

/// All triples with their distances by looping over a generous range of images, sharing no code with the search.
/// `range` is the number of images to either side.
fn brute_force(structure: &Structure, cutoff: f64, range: [i32; 3]) -> BTreeMap<Edge, f64> {
    let cell = structure.cell.unwrap_or_default();
    let mut edges = BTreeMap::new();
    for (i, a) in structure.positions.iter().enumerate() {
        for (j, b) in structure.positions.iter().enumerate() {
            for s0 in -range[0]..=range[0] {
                for s1 in -range[1]..=range[1] {
                    for s2 in -range[2]..=range[2] {
                        let mut square = 0.0;
                        for k in 0..3 {
                            let image = b[k]
                                + f64::from(s0) * cell[0][k]
                                + f64::from(s1) * cell[1][k]
                                + f64::from(s2) * cell[2][k];
                            square += (image - a[k]).powi(2);
                        }
                        let own = i == j && [s0, s1, s2] == [0; 3];
                        if !own && square.sqrt() <= cutoff {
                            edges.insert((i as u32, j as u32, [s0, s1, s2]), square.sqrt());
                        }
                    }
                }
            }
        }
    }
    edges
}

/// Images to either side that a brute-force search has to visit: by perpendicular widths of the cell, from the cross
/// products of its rows, plus the atoms' own distances.
fn image_range(structure: &Structure, cutoff: f64) -> [i32; 3] {
    let Some(cell) = structure.cell else { return [0; 3] };
    let mut spread = 0.0_f64;
    for a in &structure.positions {
        for b in &structure.positions {
            spread = spread.max(norm([a[0] - b[0], a[1] - b[1], a[2] - b[2]]));
        }
    }
    let complete = mlff::structure::complete_cell(&cell, structure.pbc);
    std::array::from_fn(|k| {
        let (p, q) = (complete[(k + 1) % 3], complete[(k + 2) % 3]);
        let area = norm(cross(p, q));
        let width = determinant(&complete).abs() / area;
        if structure.pbc[k] { ((cutoff + spread) / width).ceil() as i32 + 1 } else { 0 }
    })
}

fn edges(list: &NeighborList) -> Vec<Edge> {
    (0..list.n_edges()).map(|e| (list.receivers[e], list.senders[e], list.shifts[e])).collect()
}

/// What holds for every list.
fn check_invariants(structure: &Structure, cutoff: f64, list: &NeighborList) {
    let n_atoms = structure.n_atoms();
    let n_edges = list.n_edges();
    assert_eq!(list.edge_ptr.len(), n_atoms + 1);
    assert_eq!(list.edge_ptr[0], 0);
    assert_eq!(list.edge_ptr[n_atoms] as usize, n_edges);
    for lengths in [list.receivers.len(), list.shifts.len(), list.reverse_edge.len()] {
        assert_eq!(lengths, n_edges);
    }
    for i in 0..n_atoms {
        assert!(list.receivers[list.edges_of(i)].iter().all(|&receiver| receiver as usize == i));
    }
    let edges = edges(list);
    assert!(edges.windows(2).all(|pair| pair[0] < pair[1]), "sorted, and no edge twice");
    let cell = structure.cell.unwrap_or_default();
    for (e, &(i, j, shift)) in edges.iter().enumerate() {
        assert!(i != j || shift != [0; 3], "no atom is its own neighbour");
        let back = list.reverse_edge[e] as usize;
        assert_eq!(edges[back], (j, i, shift.map(|s| -s)));
        assert_eq!(list.reverse_edge[back] as usize, e);
        let (a, b) = (structure.positions[i as usize], structure.positions[j as usize]);
        let (there, here) = (displacement(a, b, shift, &cell), displacement(b, a, shift.map(|s| -s), &cell));
        assert_eq!(there, here.map(|x| -x), "exactly opposite");
        assert!(norm(there) <= cutoff);
        assert!(shift.iter().zip(structure.pbc).all(|(&s, periodic)| periodic || s == 0));
    }
}

/// Both algorithms, equal in every bit.
fn both(structure: &Structure, cutoff: f64) -> NeighborList {
    let mut lists = [NeighborList::default(), NeighborList::default()];
    let mut search = NeighborSearch::new();
    for (list, algorithm) in lists.iter_mut().zip([Algorithm::AllPairs, Algorithm::LinkedCells]) {
        search.search_with(algorithm, structure, cutoff, list).expect("searchable");
    }
    let [pairs, cells] = lists;
    assert_eq!(pairs, cells);
    pairs
}

fn random_cell() -> impl Strategy<Value = Mat3> {
    // Diagonals of 1.5 to 9 Å, either sign (so either handedness), with off-diagonals up to thin cells.
    let row = || prop::array::uniform3(-4.0..4.0f64);
    (prop::array::uniform3(1.5..9.0f64), prop::array::uniform3(any::<bool>()), prop::array::uniform3(row()))
        .prop_map(|(diagonal, flip, mut cell)| {
            for k in 0..3 {
                cell[k][k] = if flip[k] { -diagonal[k] } else { diagonal[k] };
            }
            cell
        })
        .prop_filter("images must stay countable", |cell| {
            determinant(cell).abs() > 0.05 * norm(cell[0]) * norm(cell[1]) * norm(cell[2])
        })
}

fn random_structure() -> impl Strategy<Value = Structure> {
    // Fractional coordinates from -2 to 3: most atoms lie outside the cell.
    (random_cell(), prop::collection::vec(prop::array::uniform3(-2.0..3.0f64), 0..12), 0..8u8).prop_map(
        |(mut cell, fractional, bits)| {
            let pbc: [bool; 3] = std::array::from_fn(|k| bits >> k & 1 == 1);
            let positions: Vec<Vec3> = fractional.iter().map(|&f| times(f, &cell)).collect();
            // Half of the cells have no vectors where they do not repeat.
            for k in 0..3 {
                if !pbc[k] && positions.len().is_multiple_of(2) {
                    cell[k] = [0.0; 3];
                }
            }
            let cell = pbc.contains(&true).then_some(cell);
            Structure::new(vec![1; positions.len()], positions, cell, pbc).expect("valid")
        },
    )
}

/// Periodic in one direction at least.
fn periodic_structure() -> impl Strategy<Value = Structure> {
    random_structure().prop_filter("no periodic direction", Structure::is_periodic)
}

proptest! {
    // Inputs that a test does not want are replaced: all cases are looked at, or the test fails.
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn neighbors_match_brute_force(structure in random_structure(), cutoff in 0.5..8.0f64) {
        let list = both(&structure, cutoff);
        check_invariants(&structure, cutoff, &list);
        let want = brute_force(&structure, cutoff + 1e-6, image_range(&structure, cutoff));
        let near: BTreeSet<Edge> =
            want.iter().filter(|(_, d)| (*d - cutoff).abs() < 1e-9).map(|(&edge, _)| edge).collect();
        let want: BTreeSet<Edge> =
            want.iter().filter(|(edge, d)| **d <= cutoff && !near.contains(edge)).map(|(&edge, _)| edge).collect();
        let got: BTreeSet<Edge> = edges(&list).into_iter().filter(|edge| !near.contains(edge)).collect();
        prop_assert_eq!(got, want);
    }

    /// Long, thin vectors of a lattice give the list of its short ones: the cell in steps of 1/64 Å, so that it is the
    /// same lattice to the last bit.
    #[test]
    fn thin_cells_of_a_lattice_have_its_neighbors(
        structure in periodic_structure(),
        cutoff in 0.5..6.0f64,
        times in prop::array::uniform3(-20_000i32..20_000),
    ) {
        let (cell, pbc) = (structure.cell.unwrap_or_default(), structure.pbc);
        let given = cell.map(|row| row.map(|x| (x * 64.0).round() / 64.0));
        // b + m a, c + n a + o (b + m a), each only where both directions repeat.
        let factor = |k: usize, a: usize, b: usize| if pbc[a] && pbc[b] { times[k] } else { 0 };
        let (m, n, o) = (factor(0, 0, 1), factor(1, 0, 2), factor(2, 1, 2) / 1000);
        let add = |row: Vec3, times: i32, other: Vec3| -> Vec3 {
            std::array::from_fn(|k| row[k] + f64::from(times) * other[k])
        };
        let b = add(given[1], m, given[0]);
        let thin = [given[0], b, add(add(given[2], n, given[0]), o, b)];
        let short = structure.clone().with_cell(Some(given), structure.pbc);
        let thin = structure.with_cell(Some(thin), short.pbc);
        prop_assume!(short.validate().is_ok());
        let list = both(&thin, cutoff);
        check_invariants(&thin, cutoff, &list);
        let in_short = |(i, j, [x, y, z]): Edge| (i, j, [x + m * y + (n + o * m) * z, y + o * z, z]);
        let got: BTreeSet<Edge> = edges(&list).into_iter().map(in_short).collect();
        let want: BTreeSet<Edge> = edges(&both(&short, cutoff)).into_iter().collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn permuted_atoms_permute_the_list(structure in random_structure(), cutoff in 0.5..6.0f64, seed in any::<u64>()) {
        let n_atoms = structure.n_atoms();
        let order = Random(seed).order(n_atoms);
        let mut permuted = structure.clone();
        permuted.positions = order.iter().map(|&k| structure.positions[k]).collect();
        let want: BTreeSet<Edge> = edges(&both(&structure, cutoff)).into_iter().collect();
        let got: BTreeSet<Edge> = edges(&both(&permuted, cutoff))
            .into_iter()
            .map(|(i, j, shift)| (order[i as usize] as u32, order[j as usize] as u32, shift))
            .collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn moving_atoms_by_lattice_vectors_moves_shifts(structure in periodic_structure(), cutoff in 0.5..6.0f64) {
        let mut moved = structure.clone();
        let cell = structure.cell.unwrap_or_default();
        let steps = |atom: usize| -> [i32; 3] {
            std::array::from_fn(|k| if structure.pbc[k] { (atom * 7 + k * 3) as i32 % 5 - 2 } else { 0 })
        };
        for (atom, r) in moved.positions.iter_mut().enumerate() {
            *r = displacement([0.0; 3], *r, steps(atom), &cell);
        }
        let want = both(&structure, cutoff);
        let got = both(&moved, cutoff);
        // Rounding moves pairs across the cutoff only if they were at it.
        let at_cutoff = brute_force(&structure, cutoff + 1e-6, image_range(&structure, cutoff));
        prop_assume!(at_cutoff.values().all(|d| (d - cutoff).abs() > 1e-9));
        let want: BTreeSet<Edge> = edges(&want)
            .into_iter()
            .map(|(i, j, shift)| {
                let (a, b) = (steps(i as usize), steps(j as usize));
                (i, j, std::array::from_fn(|k| shift[k] + a[k] - b[k]))
            })
            .collect();
        prop_assert_eq!(edges(&got).into_iter().collect::<BTreeSet<_>>(), want);
    }
}

fn gas(n_atoms: usize, cell: Mat3, pbc: [bool; 3]) -> Structure {
    let mut random = Random(n_atoms as u64);
    let positions = (0..n_atoms).map(|_| times(std::array::from_fn(|_| random.uniform()), &cell)).collect();
    Structure::new(vec![8; n_atoms], positions, Some(cell), pbc).expect("valid")
}

#[test]
fn linked_cells_equal_all_pairs_in_large_systems() {
    let cells = [
        [[24.0, 0.0, 0.0], [0.0, 21.0, 0.0], [0.0, 0.0, 26.0]],
        [[24.0, 3.0, 0.0], [-9.0, 20.0, 4.0], [5.0, 6.0, -25.0]],
        [[90.0, 0.0, 0.0], [0.0, 4.0, 0.0], [30.0, 0.0, 35.0]],
    ];
    for cell in cells {
        for bits in 0..8 {
            let pbc = std::array::from_fn(|k| bits >> k & 1 == 1);
            let structure = gas(1200, cell, pbc);
            let list = both(&structure, 4.0);
            assert!(list.n_edges() > 10_000);
            check_invariants(&structure, 4.0, &list);
        }
    }
}

#[test]
fn atoms_at_the_cutoff_are_neighbors() {
    // Lattice constants and positions that no binary fraction represents.
    for (a, origin) in [(1.0, 0.0), (0.1, 0.7), (3.567, 0.891_75), (2.8665, -1e3), (5.43, 1e6)] {
        let structure =
            Structure::new(vec![26], vec![[origin; 3]], Some([[a, 0., 0.], [0., a, 0.], [0., 0., a]]), [true; 3])
                .expect("valid");
        // Six images at a, twelve at sqrt(2) a, eight at sqrt(3) a, six at 2 a.
        assert_eq!(both(&structure, a).n_edges(), 6);
        assert_eq!(both(&structure, 2.0 * a).n_edges(), 32);
        assert_eq!(both(&structure, a * (1.0 - 1e-15)).n_edges(), 0);
    }
    let pair = |d| Structure::molecule(vec![1, 1], vec![[0.0; 3], [0.0, d, 0.0]]).expect("valid");
    assert_eq!(both(&pair(5.0), 5.0).n_edges(), 2);
    assert_eq!(both(&pair(5.0_f64.next_up()), 5.0).n_edges(), 0);
}

#[test]
fn crystal_shells_at_the_cutoff_are_symmetric() {
    // Rock salt, moved so that every coordinate rounds: whole shells lie at the cutoff to within rounding.
    let a = 5.64;
    let mut positions = Vec::new();
    for n in 0..64 {
        let site = [n / 16, n / 4 % 4, n % 4];
        positions.push(site.map(|k| f64::from(k) * a / 2.0 + 0.123_456_789));
    }
    let cell = [[2.0 * a, 0.0, 0.0], [0.0, 2.0 * a, 0.0], [0.0, 0.0, 2.0 * a]];
    let structure = Structure::new(vec![11; 64], positions, Some(cell), [true; 3]).expect("valid");
    for cutoff in [a / 2.0, a / 2.0_f64.sqrt(), a, a * 1.5] {
        check_invariants(&structure, cutoff, &both(&structure, cutoff));
    }
}

#[test]
fn cells_far_smaller_than_the_cutoff_have_many_images() {
    let cell = [[0.9, 0.0, 0.0], [0.4, 0.8, 0.0], [0.1, -0.3, 1.1]];
    let structure = Structure::new(vec![1, 1], vec![[0.0; 3], [0.3, 0.4, 0.5]], Some(cell), [true; 3]).expect("valid");
    let list = both(&structure, 4.3);
    check_invariants(&structure, 4.3, &list);
    let want: Vec<Edge> = brute_force(&structure, 4.3, image_range(&structure, 4.3)).into_keys().collect();
    assert_eq!(edges(&list), want);
}

#[test]
fn thin_cells_with_long_vectors_are_searched() {
    // 1.2 Å³, as thin as validation allows: 1.4 million images to look at for about 400 neighbours.
    let thin = [[100.0, 0.0, 0.0], [100.0, 0.11, 0.0], [100.0, 0.0, 0.11]];
    let structure = Structure::new(vec![1], vec![[0.3; 3]], Some(thin), [true; 3]).expect("valid");
    let list = both(&structure, 5.0);
    check_invariants(&structure, 5.0, &list);
    let want: Vec<Edge> = brute_force(&structure, 5.0, image_range(&structure, 5.0)).into_keys().collect();
    assert_eq!(edges(&list), want);
}

#[test]
fn reused_search_gives_the_same_list_without_growing() {
    let (mut search, mut list) = (NeighborSearch::new(), NeighborList::default());
    let structures = [
        gas(900, [[30.0, 0.0, 0.0], [0.0, 30.0, 0.0], [0.0, 0.0, 30.0]], [true; 3]),
        gas(40, [[5.0, 0.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 7.0]], [true, false, true]),
        Structure::molecule(vec![1; 2], vec![[0.0; 3], [1.0; 3]]).expect("valid"),
        Structure::default(),
        gas(500, [[40.0, 0.0, 0.0], [0.0, 40.0, 0.0], [0.0, 0.0, 40.0]], [false; 3]),
    ];
    for structure in structures.iter().chain(structures.iter().rev()) {
        search.search(structure, 5.0, &mut list).expect("searchable");
        assert_eq!(list, neighbor_list(structure, 5.0).expect("searchable"));
    }
    let buffers = |list: &NeighborList| {
        (list.receivers.as_ptr(), list.senders.as_ptr(), list.shifts.as_ptr(), list.reverse_edge.as_ptr())
    };
    search.search(&structures[0], 5.0, &mut list).expect("searchable");
    let before = buffers(&list);
    for structure in &structures {
        search.search(structure, 5.0, &mut list).expect("searchable");
        assert_eq!(buffers(&list), before);
    }
}

#[test]
fn few_atoms_have_few_edges() {
    let list = both(&Structure::default(), 5.0);
    assert_eq!((list.n_edges(), list.edge_ptr), (0, vec![0]));
    let cell = Some([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]);
    let list = both(&Structure::new(vec![], vec![], cell, [true; 3]).expect("valid"), 5.0);
    assert_eq!((list.n_edges(), list.edge_ptr), (0, vec![0]));
    for pbc in [[false; 3], [true, false, false], [true; 3]] {
        let list = both(&Structure::new(vec![2], vec![[1.0; 3]], cell, pbc).expect("valid"), 5.0);
        assert_eq!((list.n_edges(), list.edge_ptr), (0, vec![0, 0]));
    }
    // Two atoms in one place are neighbours of each other, not of themselves.
    let list = both(&Structure::molecule(vec![1, 1], vec![[1.0; 3]; 2]).expect("valid"), 5.0);
    assert_eq!((list.senders, list.reverse_edge), (vec![1, 0], vec![1, 0]));
}

#[test]
fn huge_sparse_extents_stay_cheap() {
    // A dense cluster and a far atom: bins of equal size would hold the whole cluster or not fit the memory.
    for far in [1e7, 1e12, 1e200, f64::MAX] {
        let mut cluster = gas(20_000, [[58.0, 0.0, 0.0], [0.0, 58.0, 0.0], [0.0, 0.0, 58.0]], [false; 3]);
        let alone = neighbor_list(&cluster, 3.0).expect("searchable");
        if far > 1e8 {
            cluster.positions.truncate(500);
            cluster.atomic_numbers.truncate(500);
        }
        cluster.positions.push([far, -far, far]);
        cluster.atomic_numbers.push(1);
        let list = neighbor_list(&cluster, 3.0).expect("searchable");
        check_invariants(&cluster, 3.0, &list);
        assert!(list.edges_of(cluster.n_atoms() - 1).is_empty());
        if far < 1e8 {
            assert_eq!(list.senders, alone.senders);
        }
    }
    let two = Structure::molecule(vec![1, 1], vec![[0.0; 3], [1e7; 3]]).expect("valid");
    assert_eq!(both(&two, 5.0).n_edges(), 0);
}

#[test]
fn atoms_far_outside_the_cell_are_wrapped() {
    let cell = [[10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0]];
    let structure =
        Structure::new(vec![1, 1], vec![[1e6, 0.0, 0.5], [-2e6, 3.0, 9.5]], Some(cell), [true; 3]).expect("valid");
    let list = both(&structure, 5.0);
    assert_eq!(edges(&list), vec![(0, 1, [300_000, 0, -1]), (1, 0, [-300_000, 0, 1])]);
}

#[test]
fn limits_are_errors_with_numbers() {
    let message = |structure: &Structure, cutoff| {
        let (mut search, mut list) = (NeighborSearch::new(), NeighborList::default());
        let error = search.search(structure, cutoff, &mut list).expect_err("refused");
        assert_eq!((list.n_edges(), &list.edge_ptr[..]), (0, &[0][..]));
        error.to_string()
    };
    let cube = |a| Some([[a, 0.0, 0.0], [0.0, a, 0.0], [0.0, 0.0, a]]);
    let one = |cell, pbc| Structure::new(vec![1], vec![[0.0; 3]], cell, pbc).expect("valid");
    assert!(message(&one(cube(0.01), [true; 3]), 5.0).contains("5.2e8 neighbours within 5 Å"));
    assert!(message(&one(cube(1e-50), [true; 3]), 5.0).contains("neighbours within 5 Å"));
    assert!(message(&one(cube(1e-4), [true, true, false]), 5.0).contains("Å² with 1 atoms gives each about"));
    assert!(message(&one(cube(1e-4), [false, true, false]), 5.0).contains("Å with 1 atoms gives each about"));
    // Searched in the short vectors of its lattice, one of which is 0.002 Å.
    let thin = Some([[100.0, 0.0, 0.0], [100.0, 0.002, 0.0], [0.0; 3]]);
    let n_edges = neighbor_list(&one(thin, [true, true, false]), 5.0).expect("searchable").n_edges();
    assert!((4998..=5000).contains(&n_edges), "{n_edges}");
    assert!(message(&one(cube(1e-3), [true, false, false]), 50.0).contains("more than 10000"));
    let pile = Structure::molecule(vec![1; 20_000], vec![[0.0; 3]; 20_000]).expect("valid");
    assert!(message(&pile, 5.0).contains("more than 10000"));
    let far = Structure::new(vec![1], vec![[1e300; 3]], cube(10.0), [true; 3]).expect("valid");
    assert!(message(&far, 5.0).contains("outside the cell"));
    for cutoff in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(message(&one(cube(9.0), [true; 3]), cutoff).contains("cutoff"));
    }
    for huge in [1e150, 1e-150, f64::MAX] {
        let structure = one(cube(9.0), [true; 3]).with_cell(cube(huge), [true; 3]);
        assert!(matches!(neighbor_list(&structure, 5.0), Err(mlff::Error::Structure(_))), "{huge:e}");
    }
    assert_eq!(neighbor_list(&one(None, [false; 3]), f64::MAX).expect("searchable").n_edges(), 0);
}

#[test]
fn invalid_structures_are_errors() {
    let of = |numbers, positions| Structure::default().with_atomic_numbers(numbers).with_positions(positions);
    let cell = Some([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for pbc in [[false; 3], [true; 3]] {
            let positions = vec![[0.0; 3], [0.0, bad, 0.0], [1.0; 3]];
            let structure = of(vec![1; 3], positions).with_cell(cell, pbc);
            assert!(neighbor_list(&structure, 5.0).is_err());
        }
    }
    let no_cell = of(vec![1], vec![[0.0; 3]]).with_cell(None, [true; 3]);
    assert!(neighbor_list(&no_cell, 5.0).is_err());
    let lengths = of(vec![1; 2], vec![[0.0; 3]]);
    assert!(neighbor_list(&lengths, 5.0).is_err());
}

#[test]
fn large_tilted_cells_give_the_list_of_the_molecule() {
    let (mut generator, mut n_compared) = (Random(11), 0);
    let mut random = || generator.next();
    for (round, exponent) in (0..400).map(|round| (round, 1.5 + 6.3 * f64::from(round) / 400.0)) {
        let length = 10_f64.powf(exponent);
        // Towards a corner, as what repeats in one direction may have; else tilted at random.
        let tilt = if round % 3 == 0 { 1.0 } else { 0.3 };
        let cell: Mat3 = std::array::from_fn(|k| {
            std::array::from_fn(|a| {
                length * if round % 3 == 0 { 1.0 + 0.1 * random() } else { f64::from(k == a) + tilt * random() }
            })
        });
        let pbc: [bool; 3] = match round % 3 {
            0 => std::array::from_fn(|k| k == round as usize / 3 % 3),
            _ => std::array::from_fn(|k| (round as usize / 3) >> k & 1 == 1),
        };
        // On both sides of the cell's faces.
        let positions: Vec<Vec3> = (0..12).map(|_| [4.0 * random(), 4.0 * random(), 4.0 * random()]).collect();
        let molecule = Structure::molecule(vec![1; 12], positions.clone()).expect("valid");
        // A cell towards a corner may be too thin.
        let Ok(structure) = Structure::new(vec![1; 12], positions, Some(cell), pbc) else { continue };
        assert_eq!(both(&structure, 5.0), both(&molecule, 5.0), "{cell:?} {pbc:?}");
        n_compared += 1;
    }
    assert!(n_compared > 300, "{n_compared}");
}
