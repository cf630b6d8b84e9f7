//! What drivers of molecular dynamics build on: virials, sessions of every engine, charges, types of atoms.

#![allow(clippy::unwrap_used)]

use mlff::structure::{Mat3, Vec3};
use mlff::{EngineKind, Error, Potential, Precision, Structure, Want};

const EVERYTHING: Want = Want::ALL.with_virial(true).with_atomic_virials(true);

fn water() -> Structure {
    Structure::molecule(vec![8, 1, 1], vec![[0.1, 0.2, 0.119], [0.0, 0.763, -0.477], [0.3, -0.763, -0.377]]).unwrap()
}

fn crystal() -> Structure {
    let cell = [[4.6, 0.1, 0.0], [0.0, 4.8, 0.3], [0.2, 0.0, 5.1]];
    let water = water();
    Structure::new(water.atomic_numbers, water.positions, Some(cell), [true; 3]).unwrap()
}

fn potential(engine: EngineKind) -> Potential {
    let model = mlff::Model::load("ani2x-painn-64").unwrap();
    Potential::builder(model).engine(engine).precision(Precision::F64).build().unwrap()
}

fn sum(virials: &[Mat3]) -> Mat3 {
    let at = |a: usize, b: usize| virials.iter().map(|v| v[a][b]).sum();
    std::array::from_fn(|a| std::array::from_fn(|b| at(a, b)))
}

#[track_caller]
fn assert_near(got: &Mat3, want: &Mat3, limit: f64) {
    for (got, want) in got.as_flattened().iter().zip(want.as_flattened()) {
        assert!((got - want).abs() <= limit, "{got} is not {want}");
    }
}

/// The structure strained by `strain`, whose identity is left out.
fn strained(structure: &Structure, strain: Mat3) -> Structure {
    let apply = |r: Vec3| std::array::from_fn(|k| r[k] + (0..3).map(|j| r[j] * strain[j][k]).sum::<f64>());
    let mut out = structure.clone();
    out.positions.iter_mut().for_each(|r| *r = apply(*r));
    out.cell = out.cell.map(|cell| cell.map(apply));
    out
}

#[test]
fn virial_is_minus_the_derivative_along_a_strain_and_the_sum_of_the_atoms_shares() {
    let potential = potential(EngineKind::Adjoint);
    for structure in [water(), crystal()] {
        let found = potential.evaluate_one(&structure, EVERYTHING).unwrap();
        let virial = found.virial.unwrap();
        let energy = |strain| potential.evaluate_one(&strained(&structure, strain), Want::ENERGY).unwrap().energy;
        let h = 1e-5;
        let mut derivative = [[0.0; 3]; 3];
        for a in 0..3 {
            for b in 0..3 {
                let step = |x: f64| {
                    let mut strain = [[0.0; 3]; 3];
                    strain[a][b] += 0.5 * x;
                    strain[b][a] += 0.5 * x;
                    strain
                };
                derivative[a][b] = (energy(step(-h)) - energy(step(h))) / (2.0 * h);
            }
        }
        assert_near(&virial, &derivative, 1e-6);
        let shares = found.atomic_virials.unwrap();
        assert_eq!(shares.len(), structure.n_atoms());
        assert_near(&sum(&shares), &virial, 1e-10);
        // Of a molecule there is no stress; of a crystal it is the virial over the volume.
        assert_eq!(found.stress.is_some(), structure.volume().is_some());
        if let (Some(stress), Some(volume)) = (found.stress, structure.volume()) {
            assert_near(&virial, &stress.map(|row| row.map(|x| -volume * x)), 1e-12);
        }
    }
}

#[test]
fn virials_are_there_where_they_are_asked_for_and_change_no_other_bit() {
    let potential = potential(EngineKind::Adjoint);
    let structures = [water(), crystal(), Structure::default()];
    for want in [Want::ENERGY, Want::FORCES, Want::ALL] {
        let plain = potential.evaluate(&structures, want);
        let more = potential.evaluate(&structures, want.with_virial(true).with_atomic_virials(true));
        for (plain, more) in plain.into_iter().zip(more) {
            let (plain, mut more) = (plain.unwrap(), more.unwrap());
            assert!(plain.virial.is_none() && plain.atomic_virials.is_none());
            assert!(more.virial.take().is_some() && more.atomic_virials.take().is_some());
            assert_eq!(plain, more);
        }
    }
}

#[test]
fn virials_of_both_engines_agree() {
    let [adjoint, autograd] = [EngineKind::Adjoint, EngineKind::Autograd].map(potential);
    for structure in [water(), crystal()] {
        let want = Want::FORCES.with_virial(true);
        let [a, b] = [&adjoint, &autograd].map(|p| p.evaluate_one(&structure, want).unwrap());
        assert_near(&a.virial.unwrap(), &b.virial.unwrap(), 1e-10);
        assert!(a.stress.is_none() && b.stress.is_none());
    }
    let refused = autograd.evaluate_one(&water(), EVERYTHING).unwrap_err();
    assert!(matches!(&refused, Error::Usage(reason) if reason.contains("adjoint")), "{refused}");
}

#[test]
fn session_has_the_virials_of_an_evaluation() {
    let potential = potential(EngineKind::Adjoint);
    for mut structure in [water(), crystal()] {
        let session = potential.session(&structure).unwrap().with_stress(true);
        let mut session = session.with_virial(true).with_atomic_virials(true);
        assert!(session.virial().is_none() && session.atomic_virials().is_empty());
        let mut forces = vec![[0.0; 3]; 3];
        for step in 0..3 {
            structure.positions[0][2] += 0.01 * f64::from(step);
            let want = potential.evaluate_one(&structure, EVERYTHING).unwrap();
            assert_eq!(session.compute(&structure.positions, None, &mut forces).unwrap(), want.energy);
            assert_eq!((session.virial(), session.stress()), (want.virial, want.stress));
            assert_eq!(session.atomic_virials(), want.atomic_virials.unwrap());
        }
        let mut session = session.with_stress(false).with_atomic_virials(false);
        session.compute(&structure.positions, None, &mut forces).unwrap();
        assert!(session.virial().is_some() && session.stress().is_none() && session.atomic_virials().is_empty());
    }
}

#[test]
fn session_of_batched_autograd_has_the_bits_of_an_evaluation() {
    let potential = potential(EngineKind::Autograd);
    for mut structure in [water(), crystal()] {
        let session = potential.session(&structure).unwrap().with_stress(true).with_virial(true);
        let mut session = session.with_threads(2).unwrap();
        assert_eq!(session.n_threads(), 1, "no helpers wait for what they cannot share");
        let (untouched, mut forces) = (vec![[7.0; 3]; 3], vec![[7.0; 3]; 3]);
        let mut bad = structure.positions.clone();
        bad[1] = bad[0];
        assert!(matches!(session.compute(&bad, None, &mut forces), Err(Error::Overlap { i: 0, j: 1, .. })));
        assert_eq!(forces, untouched);
        for step in 0..3 {
            structure.positions[0][2] += 0.01 * f64::from(step);
            if let Some(cell) = &mut structure.cell {
                cell[0][0] += 0.01;
            }
            let want = potential.evaluate_one(&structure, Want::ALL.with_virial(true)).unwrap();
            let energy = session.compute(&structure.positions, structure.cell.as_ref(), &mut forces).unwrap();
            assert_eq!((energy, &forces), (want.energy, want.forces.as_ref().unwrap()));
            assert_eq!((session.stress(), session.virial()), (want.stress, want.virial));
            assert_eq!((session.atomic_energies(), session.outside()), (&want.atomic_energies[..], want.outside));
        }
    }
}

/// Every way to evaluate a structure with a model.
fn outcomes(model: &mlff::Model, structure: &Structure) -> Vec<mlff::Result<f64>> {
    let mut out = Vec::new();
    for engine in [EngineKind::Adjoint, EngineKind::Autograd] {
        let potential = Potential::builder(model.clone()).engine(engine).build().unwrap();
        out.push(potential.evaluate_one(structure, Want::ENERGY).map(|found| found.energy));
        let mut forces = vec![[0.0; 3]; structure.n_atoms()];
        let session = potential.session(structure);
        out.push(session.and_then(|mut session| session.compute(&structure.positions, None, &mut forces)));
    }
    out
}

#[test]
fn charge_that_a_model_does_not_describe_is_refused() {
    let neutral = mlff::Model::load("ani2x-painn-64").unwrap();
    let mut config = neutral.config().clone();
    config.charge = -1;
    let anions = mlff::Model::new(config, neutral.weights().clone(), String::new()).unwrap();
    for (model, supported) in [(&neutral, 0), (&anions, -1)] {
        // Where nobody says a charge, it is the model's.
        assert!(outcomes(model, &water()).iter().all(Result::is_ok));
        for charge in [-1, 0, 2] {
            for outcome in outcomes(model, &water().with_charge(charge)) {
                match outcome {
                    Ok(_) => assert_eq!(charge, supported),
                    Err(error) => {
                        assert_ne!(charge, supported);
                        assert_eq!(error.code(), "charge_or_spin");
                        assert!(error.to_string().contains(&format!("total charge is {charge}, but")), "{error}");
                    }
                }
            }
        }
    }
}

#[test]
fn charge_in_a_files_comment_is_the_structures() {
    for (comment, charge) in
        [("charge=-1", Some(-1)), ("total_charge=0.0", Some(0)), ("step=1", None), ("charge=x", None)]
    {
        let text = format!("1\n{comment}\nO 0 0 0\n");
        let mut reader = mlff::xyz::Reader::from_reader("f.xyz", std::io::Cursor::new(text)).unwrap();
        assert_eq!(reader.next_frame().unwrap().unwrap().structure.charge, charge, "{comment}");
    }
}

#[test]
fn structure_of_a_drivers_types_is_that_of_their_elements() {
    let types = mlff::structure::ElementTypes::new(&["H", "O"]).unwrap();
    let positions = water().positions;
    let structure = Structure::molecule(types.atomic_numbers(&[2, 1, 1]).unwrap(), positions.clone()).unwrap();
    assert_eq!(structure, water());
    let error = types.atomic_numbers(&[2, 1, 3]).unwrap_err();
    assert!(error.is_of_structure() && error.to_string().contains("atom 2 has type 3"), "{error}");
}
