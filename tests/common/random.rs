//! Random models and structures.

use std::sync::Arc;

use mlff::model::config::ModelConfig;
use mlff::model::weights::{Array, Weights};
use mlff::structure::Vec3;
use mlff::{Model, Structure};
use proptest::prelude::*;

/// A small generator, so that a model is a function of its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

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
        let mut cells: Vec<[i32; 3]> = (0..27).map(|k| [k / 9, k / 3 % 3, k % 3]).collect();
        let mut random = Random(seed);
        cells.sort_by_cached_key(|_| (random.next() * 1e9) as i64);
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

/// The same in a triclinic cell of either handedness, periodic in the directions chosen.
pub fn crystals() -> impl Strategy<Value = Structure> {
    (molecules(6), prop::array::uniform3(3.6..5.0_f64), prop::array::uniform6(-0.8..0.8_f64), any::<bool>()).prop_map(
        |(molecule, lengths, tilt, left)| {
            let mut cell =
                [[lengths[0], tilt[0], tilt[1]], [tilt[2], lengths[1], tilt[3]], [tilt[4], tilt[5], lengths[2]]];
            if left {
                cell.swap(0, 1);
            }
            molecule.with_cell(Some(cell), [true; 3])
        },
    )
}
