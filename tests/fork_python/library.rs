//! What a Python extension would be: a potential and a session behind functions of C.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::{Mutex, OnceLock, PoisonError};

use mlff::Want;
use mlff::{Potential, Session, Structure};

static POTENTIAL: OnceLock<Potential> = OnceLock::new();
static SESSION: Mutex<Option<Session>> = Mutex::new(None);

fn potential() -> &'static Potential {
    POTENTIAL.get_or_init(|| Potential::load("ani2x-painn-64").unwrap())
}

fn waters(n: usize) -> Structure {
    let water = [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]];
    let positions = (0..n).flat_map(|k| water.map(|r| [r[0] + 2.9 * k as f64, r[1], r[2]])).collect();
    Structure::molecule([8, 1, 1].repeat(n), positions).unwrap()
}

/// Energy of `n` structures together, eV; NaN where one fails.
#[unsafe(no_mangle)]
pub extern "C" fn mlff_test_energies(n: usize) -> f64 {
    let structures = vec![waters(6); n];
    potential().evaluate(&structures, Want::ALL).into_iter().map(|got| got.map_or(f64::NAN, |got| got.energy)).sum()
}

/// Energy of a step of the session, which is made where there is none, eV; NaN where it fails.
#[unsafe(no_mangle)]
pub extern "C" fn mlff_test_step() -> f64 {
    let (mut session, structure) = (SESSION.lock().unwrap_or_else(PoisonError::into_inner), waters(6));
    let session = session.get_or_insert_with(|| potential().session(&structure).unwrap().with_threads(3).unwrap());
    let mut forces = vec![[0.0; 3]; structure.n_atoms()];
    session.compute(&structure.positions, None, &mut forces).unwrap_or(f64::NAN)
}

/// Drops the session.
#[unsafe(no_mangle)]
pub extern "C" fn mlff_test_drop() {
    *SESSION.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
