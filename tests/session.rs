//! Sessions: the same bits as an evaluation from nothing, whatever the list, the cell and the threads; errors leave no
//! trace.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "../fuzz/src/session.rs"]
mod hostile;

use common::random::{PARTIAL, Random, Shape, crystals, for_all, molecules, random_model, shapes, slabs};
use mlff::Precision;
use mlff::Want;
use mlff::structure::{Mat3, Vec3};
use mlff::{Error, Potential, Session, Structure};
use proptest::prelude::*;

/// Moves, stretches and shears a structure a little; now and then a lot, or by a lattice vector.
fn disturb(structure: &mut Structure, random: &mut Random) {
    let jump = if random.next() > 0.8 { 0.3 } else { 0.03 };
    for r in &mut structure.positions {
        *r = r.map(|x| x + jump * random.next());
    }
    if let Some(cell) = &mut structure.cell {
        if random.next() > 0.2 {
            for x in cell.iter_mut().flatten() {
                *x += 0.02 * random.next();
            }
        }
        let row = cell[1];
        if random.next() > 0.7
            && let Some(r) = structure.positions.first_mut()
        {
            *r = std::array::from_fn(|k| r[k] + row[k]);
        }
    }
}

/// A shape, a seed, a structure, a skin, threads, whether in f64.
fn runs() -> impl Strategy<Value = (Shape, u64, Structure, f64, usize, bool)> {
    let structure = prop_oneof![2 => molecules(24), 1 => crystals(), 1 => slabs()];
    (shapes(), any::<u64>(), structure, prop_oneof![Just(0.0), 0.1..1.5], 1..4usize, any::<bool>())
}

#[test]
fn session_equals_evaluation_bit_for_bit() {
    const CASES: u32 = 60;
    // Of 25 steps most must be of structures that can be evaluated.
    for_all(CASES, CASES as usize * 20, runs(), |(shape, seed, start, skin, n_threads, double)| {
        let precision = if double { Precision::F64 } else { Precision::F32 };
        let potential = Potential::builder(random_model(shape, seed)).precision(precision).build().unwrap();
        let session = potential.session(&start).unwrap().with_skin(skin).unwrap();
        let mut session = session.with_threads(n_threads).unwrap().with_stress(true);
        let mut random = Random(seed);
        let (mut structure, mut last, mut compared) = (start.clone(), start, 0);
        let mut forces = vec![[0.0; 3]; structure.n_atoms()];
        for _ in 0..25 {
            let outcome = session.compute(&structure.positions, structure.cell.as_ref(), &mut forces);
            match (potential.evaluate_one(&structure, Want::ALL), outcome) {
                (Ok(want), Ok(energy)) => {
                    assert_eq!(energy, want.energy);
                    assert_eq!(&forces, &want.forces.unwrap());
                    assert_eq!(session.stress(), want.stress);
                    assert_eq!(want.stress.is_some(), structure.pbc == [true; 3]);
                    assert_eq!(session.atomic_energies(), &want.atomic_energies[..]);
                    (last, compared) = (structure.clone(), compared + 1);
                }
                // Atoms have met: on from where they had not.
                (Err(want), Err(got)) => {
                    assert_eq!(got.to_string(), want.to_string());
                    structure = last.clone();
                }
                (want, got) => panic!("{want:?} {got:?}"),
            }
            disturb(&mut structure, &mut random);
        }
        compared
    });
}

#[test]
fn session_equals_evaluation_through_hostile_steps() {
    const CASES: u32 = 250;
    for_all(CASES, CASES as usize, prop::collection::vec(any::<u8>(), 40..300), |data| hostile::steps(&data));
}

/// Of the shipped model, in every choice of one or two directions.
#[test]
fn session_of_partly_periodic_water_follows_the_evaluation() {
    let potential = Potential::load("ani2x-painn-64").unwrap();
    for pbc in PARTIAL {
        let cell = [[3.1, 0.1, 0.0], [0.2, 3.3, 0.1], [-0.1, 0.2, 3.6]];
        let mut structure = water().with_cell(Some(cell), pbc);
        for n_threads in [1, 2] {
            let session = potential.session(&structure).unwrap().with_threads(n_threads).unwrap();
            let (mut session, mut forces) = (session.with_stress(true), vec![[0.0; 3]; 3]);
            let mut random = Random(5);
            for step in 0..40 {
                let want = potential.evaluate_one(&structure, Want::ALL).unwrap();
                let cell = structure.cell.filter(|_| step % 3 == 0);
                assert_eq!(session.compute(&structure.positions, cell.as_ref(), &mut forces).unwrap(), want.energy);
                assert_eq!((Some(&forces), session.stress()), (want.forces.as_ref(), None), "{pbc:?}");
                assert_eq!(want.stress, None);
                for r in &mut structure.positions {
                    *r = r.map(|x| x + 0.02 * random.next());
                }
                // The cell, where the next step is told so.
                if step % 3 == 2 {
                    structure.cell.iter_mut().flatten().flatten().for_each(|x| *x += 0.02 * random.next());
                }
            }
            assert!(session.n_searches() > 1, "{pbc:?}: the list was never searched anew");
        }
    }
}

fn water() -> Structure {
    Structure::molecule(vec![8, 1, 1], vec![[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]).unwrap()
}

#[test]
fn session_searches_only_when_it_must() {
    let water = water();
    let mut session = Potential::load("ani2x-painn-64").unwrap().session(&water).unwrap().with_skin(0.5).unwrap();
    let (mut positions, mut forces) = (water.positions.clone(), vec![[0.0; 3]; 3]);
    for step in 0..100 {
        positions[0][0] = 0.0024 * f64::from(step);
        session.compute(&positions, None, &mut forces).unwrap();
    }
    assert_eq!(session.n_searches(), 1, "0.24 Å is less than half the skin");
    positions[0][0] = 0.26;
    session.compute(&positions, None, &mut forces).unwrap();
    assert_eq!(session.n_searches(), 2);
}

#[test]
fn session_errors_are_values_and_leave_no_trace() {
    let water = water();
    let potential = Potential::load("ani2x-painn-64").unwrap();
    let mut session = potential.session(&water).unwrap();
    let want = potential.evaluate_one(&water, Want::ALL).unwrap();
    let untouched = vec![[7.0; 3]; 3];
    let mut forces = untouched.clone();
    let mut bad = water.positions.clone();
    bad[1] = bad[0];
    assert!(matches!(session.compute(&bad, None, &mut forces), Err(Error::Overlap { i: 0, j: 1, .. })));
    bad[1] = [f64::NAN; 3];
    assert!(matches!(session.compute(&bad, None, &mut forces), Err(Error::Structure(_))));
    assert!(matches!(session.compute(&bad[..2], None, &mut forces), Err(Error::Shape { .. })));
    assert!(matches!(session.compute(&bad, None, &mut forces[..2]), Err(Error::Shape { .. })));
    assert_eq!(forces, untouched);
    assert_eq!(session.compute(&water.positions, None, &mut forces).unwrap(), want.energy);
    assert_eq!(forces, want.forces.unwrap());

    let cell = [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]];
    let boxed = water.with_cell(Some(cell), [true; 3]);
    let mut session = potential.session(&boxed).unwrap();
    let flat = [cell[0], cell[1], [0.0; 3]];
    session.compute(&boxed.positions, None, &mut forces).unwrap();
    for bad in [flat, [[f64::NAN; 3]; 3], [[f64::INFINITY; 3]; 3]] {
        for _ in 0..2 {
            assert!(matches!(session.compute(&boxed.positions, Some(&bad), &mut forces), Err(Error::Structure(_))));
        }
    }
    let want = potential.evaluate_one(&boxed, Want::ALL).unwrap();
    assert_eq!(session.compute(&boxed.positions, Some(&cell), &mut forces).unwrap(), want.energy);
}

/// Stretched in all directions.
fn times(cell: Mat3, by: f64) -> Mat3 {
    cell.map(|row| row.map(|x| by * x))
}

const CELL: Mat3 = [[6.0, 0.1, 0.0], [0.3, 6.2, 0.2], [-0.2, 0.1, 6.4]];

#[test]
fn session_step_that_fails_changes_nothing() {
    let structure = water().with_cell(Some(CELL), [true; 3]);
    for precision in [Precision::F32, Precision::F64] {
        let model = mlff::Model::load("ani2x-painn-64").unwrap();
        let potential = Potential::builder(std::sync::Arc::new(model)).precision(precision).build().unwrap();
        let want = potential.evaluate_one(&structure, Want::ALL).unwrap();
        let mut overlapping = structure.positions.clone();
        overlapping[1] = overlapping[0];
        let mut lost = structure.positions.clone();
        lost[2][1] = f64::NAN;
        let flat = [CELL[0], CELL[0], CELL[2]];
        let huge = times(CELL, 1e12);
        let tiny = times(CELL, 1e-6);
        let larger = times(CELL, 2.0);
        let failing: [(&[Vec3], Option<Mat3>); 7] = [
            (&overlapping, Some(larger)),
            (&overlapping, None),
            (&lost, Some(larger)),
            (&structure.positions, Some(flat)),
            (&structure.positions, Some(huge)),
            (&structure.positions, Some(tiny)),
            (&lost, None),
        ];
        for (positions, cell) in failing {
            let mut forces = vec![[0.0; 3]; 3];
            // Before the first step `None` is the structure's own cell, whatever has failed.
            let mut session = potential.session(&structure).unwrap().with_stress(true);
            assert!(session.compute(positions, cell.as_ref(), &mut forces).is_err());
            assert_eq!((session.stress(), session.atomic_energies()), (None, &[][..]));
            assert_eq!(session.compute(&structure.positions, None, &mut forces).unwrap(), want.energy);
            assert_eq!(session.stress(), want.stress);
            // After one, it is that of the last that succeeded.
            let stretched = structure.clone().with_cell(Some(times(CELL, 1.01)), [true; 3]);
            let want = potential.evaluate_one(&stretched, Want::ALL).unwrap();
            session.compute(&stretched.positions, stretched.cell.as_ref(), &mut forces).unwrap();
            for _ in 0..2 {
                assert!(session.compute(positions, cell.as_ref(), &mut forces).is_err());
                assert_eq!((session.stress(), session.atomic_energies()), (want.stress, &want.atomic_energies[..]));
                assert_eq!(&forces, want.forces.as_ref().unwrap());
            }
            assert_eq!(session.compute(&stretched.positions, None, &mut forces).unwrap(), want.energy);
            assert_eq!((session.stress(), &forces), (want.stress, want.forces.as_ref().unwrap()));
        }
    }
}

#[test]
fn session_and_evaluation_refuse_the_same_cells() {
    let potential = Potential::load("ani2x-painn-64").unwrap();
    let rows: [Vec3; 10] = [
        [0.0; 3],
        [f64::NAN, 1.0, 0.0],
        [0.0, f64::INFINITY, 0.0],
        [1e300, 0.0, 1e300],
        [1e-310; 3],
        [1e-3, 0.0, 0.0],
        [0.09, 0.0, 0.0],
        [1e8, 1e8, 0.0],
        [9e7, 0.0, 1.0],
        [0.0, 0.0, 12.0],
    ];
    let mut n_accepted = 0;
    for bits in 0..8 {
        let pbc: [bool; 3] = std::array::from_fn(|k| bits >> k & 1 == 1);
        let good = water().with_cell(Some(CELL), pbc);
        for (row, k) in rows.iter().flat_map(|row| (0..3).map(move |k| (row, k))) {
            let mut cell = CELL;
            cell[k] = *row;
            let mut session = potential.session(&good).unwrap();
            let mut forces = vec![[0.0; 3]; 3];
            let got = session.compute(&good.positions, Some(&cell), &mut forces).map_err(|e| e.to_string());
            let odd = good.clone().with_cell(Some(cell), pbc);
            let want = potential.evaluate_one(&odd, Want::ALL).map_err(|e| e.to_string());
            assert_eq!(got, want.map(|want| want.energy), "{cell:?} {pbc:?}");
            n_accepted += usize::from(got.is_ok());
            // A row of a direction that does not repeat counts for nothing, as long as it is a number.
            if !pbc[k] {
                assert_eq!(got.is_ok(), row.iter().all(|x| x.is_finite()), "{cell:?} {pbc:?} {got:?}");
            }
        }
    }
    assert!(n_accepted > 50, "{n_accepted}");
}

#[test]
fn session_searches_as_far_as_an_evaluation_where_the_skin_is_too_much() {
    // 9,000 neighbours within the cutoff of 5 Å, more than a search takes within 7 Å.
    let cell = [[0.39, 0.0, 0.0], [0.0, 0.39, 0.0], [0.0, 0.0, 0.39]];
    let hydrogen = Structure::new(vec![1], vec![[0.0; 3]], Some(cell), [true; 3]).unwrap();
    let potential = Potential::load("ani2x-painn-64").unwrap();
    // Evaluated, which is how the energy is known to be absurd.
    let want = potential.evaluate_one(&hydrogen, Want::ALL).unwrap_err().to_string();
    assert!(want.contains("energy per atom"), "{want}");
    let mut session = potential.session(&hydrogen).unwrap().with_skin(2.0).unwrap();
    for _ in 0..2 {
        let error = session.compute(&hydrogen.positions, None, &mut [[7.0; 3]]).unwrap_err();
        assert_eq!(error.to_string(), want);
    }
}

#[test]
fn session_refuses_what_it_cannot_run() {
    let helium = Structure::molecule(vec![2], vec![[0.0; 3]]).unwrap();
    let potential = Potential::load("ani2x-painn-64").unwrap();
    assert!(matches!(potential.session(&helium), Err(Error::UnknownElement { z: 2, .. })));
    assert!(potential.session(&water()).unwrap().with_skin(-1.0).is_err());
    assert!(matches!(potential.session(&water()).unwrap().with_threads(4096), Err(Error::Usage(_))));
}

#[test]
fn session_moves_between_threads() {
    fn movable<T: Send>(x: T) -> T {
        x
    }
    let shape = Shape {
        n_features: 16,
        n_interactions: 2,
        n_rbf: 8,
        bessel: false,
        shared_filters: false,
        shared_interactions: false,
        epsilon: 1e-8,
    };
    let potential = Potential::builder(random_model(shape, 5)).build().unwrap();
    let mut session: Session = movable(potential.session(&water()).unwrap().with_threads(2).unwrap());
    let energy = std::thread::spawn(move || {
        let mut forces: Vec<Vec3> = vec![[0.0; 3]; 3];
        session.compute(&water().positions, None, &mut forces).unwrap()
    });
    assert_eq!(energy.join().unwrap(), potential.evaluate_one(&water(), Want::ENERGY).unwrap().energy);
}

#[cfg(feature = "autograd")]
#[test]
fn empty_session_has_no_energy() {
    let mut session = Potential::load("ani2x-painn-64").unwrap().session(&Structure::default()).unwrap();
    let energy = session.compute(&[], None, &mut []).unwrap();
    // Not -0.0, the sum of nothing.
    let zero = 0.0_f64.to_bits();
    assert_eq!(energy.to_bits(), zero);
    let model = std::sync::Arc::new(mlff::Model::load("ani2x-painn-64").unwrap());
    for engine in [mlff::EngineKind::Adjoint, mlff::EngineKind::Autograd] {
        let potential = Potential::builder(model.clone()).engine(engine).build().unwrap();
        for got in potential.evaluate(&[Structure::default(), water(), Structure::default()], Want::ALL) {
            let got = got.unwrap();
            assert!(got.energy < 0.0 || got.energy.to_bits() == zero, "{engine:?}: {got:?}");
        }
        assert_eq!(potential.evaluate_one(&Structure::default(), Want::ENERGY).unwrap().energy.to_bits(), zero);
    }
}
