//! What the energy of a PaiNN must obey, whatever its weights: checked in f64 on random models and random structures.

#![allow(clippy::unwrap_used)]

mod common;

use common::random::{CUTOFF, Random, Shape, crystals, molecules, random_model, shapes, slabs};
use common::{deviation, worst};
use mlff::Precision;
use mlff::structure::{Mat3, Vec3, product, times};
use mlff::{Evaluation, Want};
use mlff::{Potential, Structure};
use proptest::prelude::*;

fn potentials() -> impl Strategy<Value = Potential> {
    (shapes(), any::<u64>()).prop_map(|(shape, seed)| {
        Potential::builder(random_model(shape, seed)).precision(Precision::F64).build().unwrap()
    })
}

/// As [`potentials`], with a norm that is smooth on the scale of a finite difference: with epsilon = 1e-8 it bends
/// within 1e-4 of zero, where mixtures of vectors often lie.
fn smooth_potentials() -> impl Strategy<Value = Potential> {
    (shapes(), any::<u64>()).prop_map(|(shape, seed)| {
        Potential::builder(random_model(Shape { epsilon: 1e-2, ..shape }, seed))
            .precision(Precision::F64)
            .build()
            .unwrap()
    })
}

fn evaluate(potential: &Potential, structure: &Structure) -> Evaluation {
    potential.evaluate_one(structure, Want::ALL).unwrap()
}

fn energy(potential: &Potential, structure: &Structure) -> f64 {
    potential.evaluate_one(structure, Want::ENERGY).unwrap().energy
}

fn forces(evaluation: &Evaluation) -> Vec<f64> {
    evaluation.forces.as_ref().unwrap().concat()
}

/// A rotation from three angles, row-vector convention.
fn rotation([a, b, c]: [f64; 3]) -> Mat3 {
    let about = |k: usize, angle: f64| -> Mat3 {
        let (s, c) = angle.sin_cos();
        let mut m = [[0.0; 3]; 3];
        let (i, j) = ((k + 1) % 3, (k + 2) % 3);
        m[k][k] = 1.0;
        (m[i][i], m[j][j], m[i][j], m[j][i]) = (c, c, s, -s);
        m
    };
    product(&product(&about(2, a), &about(0, b)), &about(2, c))
}

fn close(got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{got} {want}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn energy_does_not_change_under_rotation_and_translation(
        p in potentials(), s in molecules(8), angles in prop::array::uniform3(0.0..6.3_f64), t in prop::array::uniform3(-50.0..50.0_f64),
    ) {
        let m = rotation(angles);
        let place = |&r| { let r = times(r, &m); std::array::from_fn(|k| r[k] + t[k]) };
        let moved = s.clone().with_positions(s.positions.iter().map(place).collect());
        let (a, b) = (evaluate(&p, &s), evaluate(&p, &moved));
        close(b.energy, a.energy);
        let turned: Vec<f64> = a.forces.unwrap().iter().flat_map(|&f| times(f, &m)).collect();
        prop_assert!(deviation(&forces(&b), &turned) < 1e-8);
    }

    #[test]
    fn stress_turns_with_the_crystal(p in potentials(), s in crystals(), angles in prop::array::uniform3(0.0..6.3_f64)) {
        let m = rotation(angles);
        let moved = s.clone()
            .with_positions(s.positions.iter().map(|&r| times(r, &m)).collect())
            .with_cell(s.cell.map(|c| c.map(|row| times(row, &m))), s.pbc);
        let a = evaluate(&p, &s);
        let b = evaluate(&p, &moved);
        close(b.energy, a.energy);
        // σ' = Mᵀ σ M for row vectors.
        let half = a.stress.unwrap().map(|row| times(row, &m));
        let transposed: Mat3 = std::array::from_fn(|i| std::array::from_fn(|k| m[k][i]));
        let want: Mat3 = std::array::from_fn(|i| times(transposed[i], &half));
        prop_assert!(deviation(b.stress.unwrap().as_flattened(), want.as_flattened()) < 1e-9);
    }

    #[test]
    fn permutation_permutes_forces(p in potentials(), s in molecules(9), seed in any::<u64>()) {
        let mut order: Vec<usize> = (0..s.n_atoms()).collect();
        let mut random = Random(seed);
        order.sort_by_cached_key(|_| (random.next() * 1e9) as i64);
        let shuffled = Structure::default()
            .with_atomic_numbers(order.iter().map(|&k| s.atomic_numbers[k]).collect())
            .with_positions(order.iter().map(|&k| s.positions[k]).collect());
        let (a, b) = (evaluate(&p, &s), evaluate(&p, &shuffled));
        close(b.energy, a.energy);
        let fa = a.forces.unwrap();
        let want: Vec<f64> = order.iter().flat_map(|&k| fa[k]).collect();
        prop_assert!(deviation(&forces(&b), &want) < 1e-9);
        let atomic: Vec<f64> = order.iter().map(|&k| a.atomic_energies[k]).collect();
        prop_assert!(deviation(&b.atomic_energies, &atomic) < 1e-9);
    }

    #[test]
    fn cell_images_do_not_matter(p in potentials(), s in crystals(), shifts in prop::collection::vec(prop::array::uniform3(-3..4_i32), 9)) {
        let cell = s.cell.unwrap();
        let moved = s.clone().with_positions(s.positions.iter().zip(&shifts).map(|(r, n)| {
            let d = times(n.map(f64::from), &cell);
            std::array::from_fn(|k| r[k] + d[k])
        }).collect());
        let a = evaluate(&p, &s);
        let b = evaluate(&p, &moved);
        close(b.energy, a.energy);
        prop_assert!(deviation(&forces(&b), &forces(&a)) < 1e-8);
        prop_assert!(deviation(b.stress.unwrap().as_flattened(), a.stress.unwrap().as_flattened()) < 1e-9);
    }

    #[test]
    fn supercells_multiply_the_energy(p in potentials(), s in crystals(), n in prop::array::uniform3(1..3_usize)) {
        let cell = s.cell.unwrap();
        let a = evaluate(&p, &s);
        let large_cell = std::array::from_fn(|k| cell[k].map(|x| x * n[k] as f64));
        let mut large = Structure::default().with_cell(Some(large_cell), s.pbc);
        for image in (0..n[0]).flat_map(|i| (0..n[1]).flat_map(move |j| (0..n[2]).map(move |k| [i, j, k]))) {
            let d = times(image.map(|x| x as f64), &cell);
            large.atomic_numbers.extend(&s.atomic_numbers);
            large.positions.extend(s.positions.iter().map(|r| -> Vec3 { std::array::from_fn(|k| r[k] + d[k]) }));
        }
        let b = evaluate(&p, &large);
        let copies = n.iter().product::<usize>();
        close(b.energy, a.energy * copies as f64);
        prop_assert!(deviation(&forces(&b), &forces(&a).repeat(copies)) < 1e-8);
        prop_assert!(deviation(b.stress.unwrap().as_flattened(), a.stress.unwrap().as_flattened()) < 1e-9);
    }

    #[test]
    fn partly_periodic_structures_repeat_where_they_are_periodic(
        p in potentials(), s in slabs(), shifts in prop::collection::vec(prop::array::uniform3(-3..4_i32), 9), n in 2..4_usize,
    ) {
        let (cell, pbc) = (s.cell.unwrap(), s.pbc);
        let a = evaluate(&p, &s);
        prop_assert_eq!(a.stress, None);
        // What stands in rows of directions that do not repeat is nothing to the energy.
        let rows = std::array::from_fn(|k| if pbc[k] { cell[k] } else { [0.0; 3] });
        prop_assert_eq!(&evaluate(&p, &s.clone().with_cell(Some(rows), pbc)), &a);
        let moved = s.positions.iter().zip(&shifts).map(|(r, n)| {
            let d = times(n.map(f64::from), &rows);
            std::array::from_fn(|k| r[k] + d[k])
        });
        let moved = s.clone().with_positions(moved.collect());
        let b = evaluate(&p, &moved);
        close(b.energy, a.energy);
        prop_assert!(deviation(&forces(&b), &forces(&a)) < 1e-8);
        // A row of cells along a direction that repeats.
        let along = pbc.iter().position(|&p| p).unwrap();
        let mut large = Structure::default().with_cell(s.cell, pbc);
        large.cell.as_mut().unwrap()[along] = cell[along].map(|x| x * n as f64);
        for image in 0..n {
            large.atomic_numbers.extend(&s.atomic_numbers);
            let shift = cell[along].map(|x| x * image as f64);
            large.positions.extend(s.positions.iter().map(|r| -> Vec3 { std::array::from_fn(|k| r[k] + shift[k]) }));
        }
        let b = evaluate(&p, &large);
        close(b.energy, a.energy * n as f64);
        prop_assert!(deviation(&forces(&b), &forces(&a).repeat(n)) < 1e-8);
    }

    #[test]
    fn far_molecules_add(p in potentials(), a in molecules(6), b in molecules(6), gap in 3.51..40.0_f64) {
        let right = a.positions.iter().map(|r| r[0]).fold(f64::MIN, f64::max);
        let left = b.positions.iter().map(|r| r[0]).fold(f64::MAX, f64::min);
        let mut both = a.clone();
        both.atomic_numbers.extend(&b.atomic_numbers);
        both.positions.extend(b.positions.iter().map(|r| [r[0] - left + right + gap, r[1], r[2]]));
        let (ea, eb, e) = (evaluate(&p, &a), evaluate(&p, &b), evaluate(&p, &both));
        close(e.energy, ea.energy + eb.energy);
        prop_assert!(deviation(&forces(&e), &[forces(&ea), forces(&eb)].concat()) < 1e-9);
    }

    #[test]
    fn forces_sum_to_zero(p in potentials(), m in molecules(9), c in crystals(), partly in slabs()) {
        for s in [m, c, partly] {
            let e = evaluate(&p, &s);
            let f = e.forces.unwrap();
            let largest = f.iter().flatten().fold(1.0_f64, |m, x| m.max(x.abs()));
            for k in 0..3 {
                prop_assert!(f.iter().map(|v| v[k]).sum::<f64>().abs() < 1e-11 * largest * f.len() as f64);
            }
        }
    }

    #[test]
    fn atomic_energies_sum_to_the_energy(p in potentials(), s in molecules(9)) {
        let e = evaluate(&p, &s);
        close(e.atomic_energies.iter().sum(), e.energy);
    }
}

/// Slope of `f` at 0 by the five-point rule, error O(h⁴).
fn slope(h: f64, f: impl Fn(f64) -> f64) -> f64 {
    (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * h)
}

/// Steps of finite differences, Å and strain.
const STEPS: [f64; 2] = [2e-4, 1e-4];

/// Structures of which no pair crosses the cutoff within a finite difference: the energy's second derivative jumps there.
fn inside(structures: impl Strategy<Value = Structure>) -> impl Strategy<Value = Structure> {
    structures.prop_filter("a pair at the cutoff", away_from_cutoff)
}

fn away_from_cutoff(s: &Structure) -> bool {
    // Both atoms of a pair are strained.
    let margin = 4.0 * STEPS[0].max(STEPS[1] * CUTOFF);
    let list = mlff::neighbor_list(s, CUTOFF + margin).unwrap();
    let cell = s.cell.unwrap_or_default();
    (0..list.n_edges()).all(|e| {
        let (i, j) = (list.receivers[e] as usize, list.senders[e] as usize);
        let r = mlff::neighbors::displacement(s.positions[i], s.positions[j], list.shifts[e], &cell);
        (r.iter().map(|x| x * x).sum::<f64>().sqrt() - CUTOFF).abs() > margin
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forces_match_finite_difference(
        p in smooth_potentials(), m in inside(molecules(6)), c in inside(crystals()), partly in inside(slabs()),
    ) {
        for s in [m, c, partly] {
            let e = evaluate(&p, &s);
            let f = e.forces.unwrap();
            for (i, k) in (0..s.n_atoms()).flat_map(|i| (0..3).map(move |k| (i, k))) {
                let want = -slope(STEPS[0], |h| {
                    let mut moved = s.clone();
                    moved.positions[i][k] += h;
                    energy(&p, &moved)
                });
                prop_assert!((f[i][k] - want).abs() < 1e-6 * want.abs().max(1.0), "{} {want}", f[i][k]);
            }
        }
    }

    #[test]
    fn stress_matches_finite_difference(p in smooth_potentials(), s in inside(crystals())) {
        let e = evaluate(&p, &s);
        let (stress, volume) = (e.stress.unwrap(), s.volume().unwrap());
        for (a, b) in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)] {
            let want = slope(STEPS[1], |h| {
                let mut strain = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
                strain[a][b] += 0.5 * h;
                strain[b][a] += 0.5 * h;
                energy(&p, &s.clone()
                    .with_positions(s.positions.iter().map(|&r| times(r, &strain)).collect())
                    .with_cell(s.cell.map(|c| c.map(|row| times(row, &strain))), s.pbc))
            }) / volume;
            prop_assert!((stress[a][b] - want).abs() < 1e-6 * want.abs().max(1.0), "{} {want}", stress[a][b]);
            prop_assert_eq!(stress[a][b], stress[b][a]);
        }
    }
}

fn one_potential() -> Potential {
    let shape = Shape {
        n_features: 16,
        n_interactions: 3,
        n_rbf: 6,
        bessel: false,
        shared_filters: false,
        shared_interactions: false,
        epsilon: 1e-8,
    };
    Potential::builder(random_model(shape, 11)).precision(Precision::F64).build().unwrap()
}

/// An atom moves through the cutoff of another, with a third one that always sees both.
fn crossing(d: f64) -> Structure {
    Structure::molecule(vec![8, 1, 6], vec![[0.0; 3], [d, 0.0, 0.0], [1.6, 1.0, 0.2]]).unwrap()
}

#[test]
fn energy_and_forces_are_continuous_through_the_cutoff() {
    let p = one_potential();
    // Halving the step must halve the jump: an offset at the cutoff would stay.
    let jump = |h: f64| {
        let (a, b) = (evaluate(&p, &crossing(CUTOFF - h)), evaluate(&p, &crossing(CUTOFF + h)));
        ((a.energy - b.energy).abs(), worst(&forces(&a), &forces(&b)))
    };
    let (mut energy, mut force) = jump(1e-3);
    assert!(energy > 0.0 && force > 0.0);
    for h in [1e-4, 1e-5, 1e-6] {
        let (e, f) = jump(h);
        assert!(e < 0.2 * energy && f < 0.2 * force, "{h}: energy {energy} → {e}, forces {force} → {f}");
        (energy, force) = (e, f);
    }
    // On the cutoff itself too.
    let (a, b) = (evaluate(&p, &crossing(CUTOFF)), evaluate(&p, &crossing(CUTOFF + 1e-9)));
    assert!((a.energy - b.energy).abs() < 1e-8 && worst(&forces(&a), &forces(&b)) < 1e-7);
}

#[test]
fn isolated_atom_has_no_force() {
    let p = one_potential();
    let atom = Structure::molecule(vec![8], vec![[3.0, -2.0, 1e4]]).unwrap();
    let e = evaluate(&p, &atom);
    assert_eq!(e.forces, Some(vec![[0.0; 3]]));
    assert_eq!(e.stress, None);
    let boxed = atom.with_cell(Some([[20.0, 0.0, 0.0], [0.0, 20.0, 0.0], [0.0, 0.0, 20.0]]), [true; 3]);
    let b = evaluate(&p, &boxed);
    assert_eq!((b.energy, b.stress), (e.energy, Some([[0.0; 3]; 3])));
}

#[test]
fn no_atoms_have_no_energy() {
    let p = one_potential();
    let e = evaluate(&p, &Structure::default());
    assert_eq!((e.energy, e.forces, e.atomic_energies.len()), (0.0, Some(vec![]), 0));
    let water = crossing(1.0);
    let many = p.evaluate(&[Structure::default(), water.clone(), Structure::default()], Want::ALL);
    assert_eq!(many[0].as_ref().unwrap().energy, 0.0);
    close(many[1].as_ref().unwrap().energy, energy(&p, &water));
    assert!(p.evaluate::<Structure>(&[], Want::ALL).is_empty());
}

#[test]
fn one_atom_in_a_tiny_cell_equals_its_supercell() {
    let p = one_potential();
    let tiny = Structure::new(
        vec![6],
        vec![[0.1, 0.2, 0.3]],
        Some([[1.1, 0.0, 0.0], [0.3, 1.2, 0.0], [0.1, 0.2, 1.3]]),
        [true; 3],
    )
    .unwrap();
    let e = evaluate(&p, &tiny);
    assert!(worst(&forces(&e), &[0.0; 3]) < 1e-10);
    let cell = tiny.cell.unwrap();
    let positions = vec![tiny.positions[0], std::array::from_fn(|k| tiny.positions[0][k] + cell[1][k])];
    let double = Structure::default()
        .with_atomic_numbers(vec![6; 2])
        .with_positions(positions)
        .with_cell(Some([cell[0], cell[1].map(|x| 2.0 * x), cell[2]]), [true; 3]);
    let d = evaluate(&p, &double);
    close(d.energy, 2.0 * e.energy);
    assert!(worst(d.stress.unwrap().as_flattened(), e.stress.unwrap().as_flattened()) < 1e-9);
}

#[test]
fn energy_alone_is_the_same_energy() {
    let p = one_potential();
    let s = crossing(1.3);
    let e = p.evaluate_one(&s, Want::ENERGY).unwrap();
    assert_eq!((e.forces, e.stress), (None, None));
    assert_eq!(e.energy, evaluate(&p, &s).energy);
}

#[test]
fn what_cannot_be_evaluated_is_refused_by_name() {
    let p = one_potential();
    let refused = |s: &Structure| p.evaluate_one(s, Want::ALL).unwrap_err().to_string();
    let message = refused(&Structure::molecule(vec![1, 26], vec![[0.0; 3], [0.0, 0.0, 1.5]]).unwrap());
    assert!(message.contains("Fe") && message.contains("atom 1") && message.contains("H C O"), "{message}");
    let message = refused(&Structure::molecule(vec![1, 1], vec![[0.0; 3], [0.0, 0.0, 0.05]]).unwrap());
    assert!(message.contains("atoms 0 and 1 overlap: 0.0500 Å"), "{message}");
    let message = refused(&Structure::default().with_atomic_numbers(vec![1]).with_positions(vec![[f64::NAN; 3]]));
    assert!(message.contains("not finite"), "{message}");
    // The others of its batch are not disturbed.
    let good = crossing(1.3);
    let bad = Structure::molecule(vec![92], vec![[0.0; 3]]).unwrap();
    let mixed = p.evaluate(&[bad, good.clone()], Want::ALL);
    assert!(mixed[0].is_err());
    assert_eq!(mixed[1].as_ref().unwrap().energy, evaluate(&p, &good).energy);
}
