//! Random models and structures.

use std::sync::Arc;

use mlff::model::config::ModelConfig;
use mlff::model::weights::{Array, Weights};
use mlff::structure::{Vec3, times};
use mlff::{Model, Structure};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[path = "../../src/testing/random.rs"]
mod generator;

pub use generator::Random;

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub n_features: usize,
    pub n_interactions: usize,
    pub n_rbf: usize,
    pub bessel: bool,
    pub shared_filters: bool,
    pub shared_interactions: bool,
    /// Under the root of the vectors' norm.
    pub epsilon: f64,
}

pub const CUTOFF: f64 = 3.5;
pub const SPECIES: [u8; 3] = [1, 6, 8];

pub fn random_model(shape: Shape, seed: u64) -> Arc<Model> {
    perturbed_model(shape, seed, 0.0)
}

/// The random model of `seed` with each weight changed by up to `relative` of itself: what a model makes of the
/// rounding of its inputs, and so the scale of the error that single precision may have in it.
pub fn perturbed_model(shape: Shape, seed: u64, relative: f64) -> Arc<Model> {
    let kind = if shape.bessel { "bessel" } else { "gaussian" };
    let config: ModelConfig = serde_json::from_value(serde_json::json!({
        "format_version": 1,
        "architecture": {
            "type": "painn",
            "n_features": shape.n_features,
            "n_interactions": shape.n_interactions,
            "radial_basis": {"type": kind, "n": shape.n_rbf},
            "shared_filters": shape.shared_filters,
            "shared_interactions": shape.shared_interactions,
            "epsilon": shape.epsilon,
            "readout_hidden": [shape.n_features.div_ceil(2)],
        },
        "cutoff": CUTOFF,
        "species": SPECIES,
        "atomic_energies": {"1": -1.5, "8": -7.25},
        "energy_scale": 1.7,
    }))
    .unwrap();
    let mlff::model::config::Architecture::Painn(painn) = &config.architecture else { unreachable!() };
    let (mut random, mut noise) = (Random(seed), Random(!seed));
    let mut weights = Weights::default();
    for (name, dims) in mlff::model::painn::tensors(&config, painn) {
        let n: usize = dims.iter().product();
        let fan_in = if dims.len() == 2 { dims[1] as f64 } else { 4.0 };
        let mut data: Vec<f64> = match name.as_str() {
            "radial_basis.centers" => (0..n).map(|k| CUTOFF * k as f64 / n as f64).collect(),
            "radial_basis.widths" => (0..n).map(|k| 0.5 + 0.1 * k as f64).collect(),
            "radial_basis.frequencies" => (0..n).map(|k| (k + 1) as f64 * std::f64::consts::PI / CUTOFF).collect(),
            "embedding" => (0..n).map(|_| random.next()).collect(),
            _ => (0..n).map(|_| 1.2 * random.next() / fan_in.sqrt()).collect(),
        };
        data.iter_mut().for_each(|x| *x *= 1.0 + relative * noise.next());
        weights.put(name, Array { shape: dims, data });
    }
    Arc::new(Model::new(config, weights, String::new()).unwrap())
}

pub fn shapes() -> impl Strategy<Value = Shape> {
    (1..18usize, 1..4usize, 1..9usize, any::<[bool; 3]>()).prop_map(
        |(n_features, n_interactions, n_rbf, [bessel, shared_filters, shared_interactions])| Shape {
            n_features,
            n_interactions,
            n_rbf,
            bessel,
            shared_filters,
            shared_interactions,
            epsilon: 1e-8,
        },
    )
}

/// Atoms on a jittered grid of 1.3 Å, so that none overlap.
pub fn molecules(max_atoms: usize) -> impl Strategy<Value = Structure> {
    let atom = (0..SPECIES.len(), prop::array::uniform3(-0.3..0.3_f64));
    (prop::collection::vec(atom, 1..=max_atoms), any::<u64>()).prop_map(|(atoms, seed)| {
        let order = Random(seed).order(27);
        let cells: Vec<[i32; 3]> = order.into_iter().map(|k| [k / 9, k / 3 % 3, k % 3].map(|x| x as i32)).collect();
        let place =
            |(k, jitter): (&[i32; 3], &Vec3)| -> Vec3 { std::array::from_fn(|a| 1.3 * f64::from(k[a]) + jitter[a]) };
        let jitters: Vec<Vec3> = atoms.iter().map(|a| a.1).collect();
        Structure::molecule(
            atoms.iter().map(|a| SPECIES[a.0]).collect(),
            cells.iter().zip(&jitters).map(place).collect(),
        )
        .unwrap()
    })
}

/// Atoms in a triclinic cell of either handedness, periodic in all directions. None overlap, images included: they are at
/// least 0.5 Å apart, mostly more than 1 Å.
pub fn crystals() -> impl Strategy<Value = Structure> {
    in_cells(Just([true; 3]))
}

/// The same, periodic in one direction or in two; rows of the others are as they were, zeros, or far too long.
pub fn slabs() -> impl Strategy<Value = Structure> {
    (in_cells(prop::sample::select(PARTIAL.to_vec())), 0..3usize).prop_map(|(mut structure, rows)| {
        let pbc = structure.pbc;
        for (k, row) in structure.cell.iter_mut().flatten().enumerate().filter(|(k, _)| !pbc[*k]) {
            *row = [*row, [0.0; 3], [1e300, -3.0, 1.0 + k as f64]][rows];
        }
        structure
    })
}

/// Periodic in one direction or in two.
pub const PARTIAL: [[bool; 3]; 6] = [
    [true, false, false],
    [false, true, false],
    [false, false, true],
    [true, true, false],
    [true, false, true],
    [false, true, true],
];

/// Atoms on a jittered grid of 2 × 2 × 2 sites a cell. Some images of an atom are its own neighbours.
fn in_cells(pbc: impl Strategy<Value = [bool; 3]>) -> impl Strategy<Value = Structure> {
    let atom = (0..SPECIES.len(), prop::array::uniform3(-0.1..0.1_f64));
    let cell = (prop::array::uniform3(3.0..5.0_f64), prop::array::uniform6(-0.6..0.6_f64), any::<bool>());
    (prop::collection::vec(atom, 1..=6), any::<u64>(), cell, pbc).prop_map(
        |(atoms, seed, (lengths, tilt, left), pbc)| {
            let mut cell =
                [[lengths[0], tilt[0], tilt[1]], [tilt[2], lengths[1], tilt[3]], [tilt[4], tilt[5], lengths[2]]];
            if left {
                cell.swap(0, 1);
            }
            let sites = Random(seed).order(8);
            let place = |(site, jitter): (&usize, &Vec3)| -> Vec3 {
                let r = times([site / 4, site / 2 % 2, site % 2].map(|x| 0.5 * x as f64), &cell);
                std::array::from_fn(|k| r[k] + jitter[k])
            };
            let jitters: Vec<Vec3> = atoms.iter().map(|a| a.1).collect();
            let positions = sites.iter().zip(&jitters).map(place).collect();
            Structure::new(atoms.iter().map(|a| SPECIES[a.0]).collect(), positions, Some(cell), pbc).unwrap()
        },
    )
}

/// Two atoms of it on top of each other, as no engine evaluates them.
pub fn overlapping() -> impl Strategy<Value = Structure> {
    (molecules(6), crystals(), any::<bool>()).prop_map(|(molecule, crystal, periodic)| {
        let mut structure = if periodic { crystal } else { molecule };
        structure.atomic_numbers.push(SPECIES[0]);
        structure.positions.push(structure.positions[0].map(|x| x + 0.01));
        structure
    })
}

/// Runs `test` on as many random inputs. It returns how many things it has compared: fewer than `floor` of all are a failure, since
/// what passes without a look at anything proves nothing.
pub fn for_all<S: Strategy>(cases: u32, floor: usize, inputs: S, test: impl Fn(S::Value) -> usize) {
    let compared = std::cell::Cell::new(0);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&inputs, |input| {
        compared.set(compared.get() + test(input));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    println!("{} compared", compared.get());
    assert!(compared.get() >= floor, "{} compared, expected {floor}", compared.get());
}
