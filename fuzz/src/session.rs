//! A session against evaluations from nothing: hostile steps from bytes, bit for bit.
//!
//! One of the fuzzer's targets, and a property test (`tests/session.rs`), which includes this file.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, OnceLock};

use mlff::Precision;
use mlff::model::import::{ImportOptions, Source, import_bytes};
use mlff::structure::{Mat3, Vec3};
use mlff::{Evaluation, Want};
use mlff::{Model, Potential, Result, Session, Structure};

/// Steps of an input at most.
const MAX_STEPS: usize = 6;

/// Bytes as numbers; zeros when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f64 {
        f64::from(i16::from_le_bytes([self.byte(), self.byte()])) / 32768.0
    }

    /// Any f64 at all.
    fn any(&mut self) -> f64 {
        f64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}

/// The shipped model, or for seven of eight inputs a small one, whose steps take a tenth of the time: sessions do the same for
/// both.
fn potential(choice: u8) -> &'static Potential {
    static ALL: OnceLock<[Potential; 4]> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let shipped = Model::load("ani2x-painn-64").unwrap();
        let weights = include_bytes!("../../tests/data/import/one-interaction/schnetpack_state_dict.safetensors");
        let config = include_bytes!("../../tests/data/import/one-interaction/config.json");
        let small = import_bytes(Source::SchNetPack, weights, Some(config), &ImportOptions::default()).unwrap().model;
        let [shipped, small] = [shipped, small].map(Arc::new);
        let ready =
            |model: &Arc<Model>, precision| Potential::builder(model.clone()).precision(precision).build().unwrap();
        let (f32s, f64s) = (Precision::F32, Precision::F64);
        [ready(&shipped, f32s), ready(&shipped, f64s), ready(&small, f32s), ready(&small, f64s)]
    });
    &all[usize::from(choice & 1) + if choice & 14 == 0 { 0 } else { 2 }]
}

/// One to three waters, in a skewed cell where a direction is periodic.
fn waters(bytes: &mut Bytes) -> Structure {
    let n = 1 + bytes.below(3);
    let bits = bytes.byte();
    let pbc: [bool; 3] = std::array::from_fn(|k| bits >> k & 1 == 1);
    let (mut numbers, mut positions) = (Vec::new(), Vec::<Vec3>::new());
    for k in 0..n {
        numbers.extend([8, 1, 1]);
        for r in [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]] {
            let place = [r[0] + 3.1 * k as f64, r[1], r[2]];
            positions.push(place.map(|x| x + 0.02 * bytes.unit()));
        }
    }
    let long = 3.1 * n as f64;
    let mut cell = [[long, 0.1, 0.0], [0.3, 3.2, 0.2], [-0.2, 0.1, 3.3]];
    for k in (0..3).filter(|&k| !pbc[k]) {
        cell[k] = [cell[k], [0.0; 3], [1e300, -1e300, 1.0], [1e-300; 3]][bytes.below(4)];
    }
    let cell = (pbc.contains(&true) || bits & 8 != 0).then_some(cell);
    Structure::new(numbers, positions, cell, pbc).unwrap()
}

/// Changes a structure as a driver might, or as nobody should.
fn disturb(structure: &mut Structure, bytes: &mut Bytes) {
    let (atom, k) = (bytes.below(structure.n_atoms()), bytes.below(3));
    let op = bytes.below(24);
    let Structure { positions, cell, pbc, .. } = structure;
    let coordinates = positions.as_flattened_mut();
    match op {
        0 => coordinates.iter_mut().for_each(|x| *x += 0.03 * bytes.unit()),
        1 => coordinates.iter_mut().for_each(|x| *x += 0.4 * bytes.unit()),
        2 => {
            let by = [3.0 * bytes.unit(), 3.0 * bytes.unit(), 3.0 * bytes.unit()];
            positions.iter_mut().for_each(|r| *r = std::array::from_fn(|k| r[k] + by[k]));
        }
        3 => positions[atom][k] = bytes.any(),
        4 => positions[atom][k] = [f64::NAN, f64::INFINITY, 1e300, -1e300, 1e17][bytes.below(5)],
        5 => positions[atom] = positions[bytes.below(positions.len())],
        6 => positions[atom][k] += 1e9 * bytes.unit(),
        7 => coordinates.iter_mut().for_each(|x| *x += 1e8),
        8 => {
            let by = 10_f64.powf(3.0 * bytes.unit());
            coordinates.iter_mut().for_each(|x| *x *= by);
        }
        _ => {}
    }
    let Some(cell) = cell else { return };
    let entries = cell.as_flattened_mut();
    match op {
        9 => entries.iter_mut().for_each(|x| *x += 0.02 * bytes.unit()),
        10 => entries.iter_mut().for_each(|x| *x *= 1.0 + 0.3 * bytes.unit()),
        11 => entries.iter_mut().for_each(|x| *x *= [1e6, 1e-6, 1e12, 10.0, 0.1][bytes.below(5)]),
        12 => {
            let by = 10_f64.powf(9.0 * bytes.unit());
            entries.iter_mut().for_each(|x| *x *= by);
        }
        13 => entries.iter_mut().for_each(|x| *x = -*x),
        14 => entries[bytes.below(9)] = bytes.any(),
        15 => entries[bytes.below(9)] = [f64::NAN, f64::INFINITY, 1e300, 1e17, 1e-310][bytes.below(5)],
        16 => cell[k] = [0.0; 3],
        17 => cell[k] = cell[(k + 1) % 3],
        18 => cell.swap(0, 1),
        19 => cell[k] = cell[k].map(|x| x * 1e6),
        20 => cell[k] = cell[k].map(|x| x * 1e-6),
        21 | 22 if pbc[k] => positions[atom] = std::array::from_fn(|a| positions[atom][a] + cell[k][a]),
        // Thin: nearly along another vector.
        23 => {
            let by = 1.0 + 1e-3 * bytes.unit();
            cell[k] = std::array::from_fn(|a| by * cell[(k + 1) % 3][a] + 0.02 * cell[k][a]);
        }
        _ => {}
    }
}

/// What can be seen of a session.
type Seen = (Option<Mat3>, Vec<f64>);

fn seen(session: &Session) -> Seen {
    (session.stress(), session.atomic_energies().to_vec())
}

fn bits<'a>(numbers: impl IntoIterator<Item = &'a f64>) -> Vec<u64> {
    numbers.into_iter().map(|x| x.to_bits()).collect()
}

fn assert_same(session: &Session, energy: f64, forces: &[Vec3], want: &Evaluation) {
    assert_eq!(energy.to_bits(), want.energy.to_bits(), "{energy} {}", want.energy);
    assert_eq!(bits(forces.as_flattened()), bits(want.forces.as_ref().unwrap().as_flattened()));
    assert_eq!(bits(session.atomic_energies()), bits(&want.atomic_energies));
    let flat = |stress: Option<Mat3>| stress.map(|s| bits(s.as_flattened()));
    assert_eq!(flat(session.stress()), flat(want.stress));
}

/// Panics where a session says anything else than an evaluation from nothing, or a step that failed has left a trace. Returns how
/// many steps succeeded.
pub fn steps(data: &[u8]) -> usize {
    let bytes = &mut Bytes(data);
    let potential = potential(bytes.byte());
    let mut structure = waters(bytes);
    let skin = [0.5, 0.0, 0.3, 2.0, 1e-9][bytes.below(5)];
    let mut session = potential.session(&structure).unwrap().with_skin(skin).unwrap();
    // Starting a thread takes longer than all that follows.
    session = session.with_threads(1 + usize::from(bytes.below(16) == 0)).unwrap().with_stress(true);
    // The cell that `None` means, and the last step that succeeded.
    let (mut told, mut good): (Option<Mat3>, Option<(Structure, Evaluation)>) = (structure.cell, None);
    const UNTOUCHED: Vec3 = [7.0; 3];
    let mut forces = vec![UNTOUCHED; structure.n_atoms()];
    let mut succeeded = 0;
    for _ in 0..MAX_STEPS {
        if bytes.0.is_empty() {
            break;
        }
        let before = structure.clone();
        disturb(&mut structure, bytes);
        let choice = bytes.byte();
        // The cell is left out where it is the one at hand, and now and then where it is not.
        let is_left_out = choice & 3 == 0 || (choice & 1 == 0 && structure.cell == told);
        if is_left_out {
            structure.cell = told;
        }
        let argument = structure.cell.filter(|_| !is_left_out);
        forces.fill(UNTOUCHED);
        let was = seen(&session);
        let got: Result<f64> = session.compute(&structure.positions, argument.as_ref(), &mut forces);
        match (got, potential.evaluate_one(&structure, Want::ALL)) {
            (Ok(energy), Ok(want)) => {
                assert_same(&session, energy, &forces, &want);
                (told, good) = (structure.cell, Some((structure.clone(), want)));
                succeeded += 1;
            }
            (Err(got), Err(want)) => {
                assert_eq!(got.to_string(), want.to_string());
                assert!(forces.iter().all(|f| *f == UNTOUCHED), "{forces:?} after {got}");
                assert_eq!(seen(&session), was, "after {got}");
                // The next step is what it would have been.
                if let Some((structure, want)) = &good
                    && choice & 4 == 0
                {
                    let energy = session.compute(&structure.positions, None, &mut forces).unwrap();
                    assert_same(&session, energy, &forces, want);
                }
                structure =
                    if choice & 8 == 0 { before } else { good.as_ref().map_or(before, |(good, _)| good.clone()) };
            }
            (got, want) => panic!("{got:?} but {:?}: {structure:?}", want.map(|want| want.energy)),
        }
    }
    succeeded
}
