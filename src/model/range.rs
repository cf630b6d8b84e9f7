//! What a model was trained on, in numbers, and what follows for a structure and its results: inside, outside (told), or so
//! far outside that they mean nothing (refused).
//!
//! | | outside | refused |
//! |---|---|---|
//! | distance of a pair | below 0.95 × the smallest of these elements in training; else 0.5 × the sum of covalent radii | below half of that, and of the sum of covalent radii |
//! | force on an atom | above the largest in training; else 1000 eV/Å | above 50 × that, at least 1000 eV/Å; else 1e6 eV/Å |
//! | energy an atom, less the free atoms' | beyond the range in training; else ±100 eV | beyond by 10 × the range's width, at least 20 eV; else ±1e5 eV |
//!
//! "Else" is for models that do not say what they were trained on: these numbers are wider than any chemistry, so that
//! untrained networks, too, can be evaluated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::ModelConfig;
use super::import::atom_energy;
use crate::error::{Error, Result};
use crate::structure::{SYMBOLS, Vec3, dot, symbol};

/// What a model was trained on, as `scripts/training_range.py` measures it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRange {
    /// Smallest distance, Å, of two elements, named as `C-H`; absent where they were not seen together.
    #[serde(default)]
    pub min_distances: BTreeMap<String, f64>,
    /// Largest force on an atom, eV/Å.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_force: Option<f64>,
    /// Smallest and largest energy an atom of a structure, less the free atoms', eV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_per_atom: Option<[f64; 2]>,
    /// What it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_on: Option<String>,
}

impl TrainingRange {
    /// Checks numbers and names against the elements that the model knows.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn validate(&self, species: &[u8]) -> std::result::Result<(), String> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        for (name, &d) in &self.min_distances {
            if let Some([a, b]) = name.split_once('-').map(|(a, b)| [a, b])
                && a != b
                && self.min_distances.contains_key(&format!("{b}-{a}"))
            {
                return Err(format!("training_range.min_distances has {a}-{b} twice, as {b}-{a} too"));
            }
            let pair = elements(name).filter(|pair| pair.iter().all(|z| species.contains(z)));
            if pair.is_none() || !(0.1..=100.0).contains(&d) {
                return Err(format!(
                    "training_range.min_distances has {name:?}: {d}, expected elements of the model, such as \"C-H\", and \
                     0.1 to 100 Å"
                ));
            }
        }
        if let Some(force) = self.max_force.filter(|&f| !positive(f)) {
            return Err(format!("training_range.max_force is {force}, expected a positive number (eV/Å)"));
        }
        match self.energy_per_atom {
            Some([low, high]) if !(low.is_finite() && high.is_finite() && low < high) => Err(format!(
                "training_range.energy_per_atom is [{low}, {high}], expected two numbers, the smaller first (eV)"
            )),
            _ => Ok(()),
        }
    }
}

/// The two elements of a name such as `C-H`.
fn elements(name: &str) -> Option<[u8; 2]> {
    let (a, b) = name.split_once('-')?;
    let number = |s: &str| SYMBOLS.iter().position(|x| *x == s).filter(|&z| z > 0).map(|z| z as u8);
    Some([number(a)?, number(b)?])
}

/// In which ways a structure and its results lie outside of what the model was trained on; mostly none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Outside(u8);

impl Outside {
    /// In no way.
    pub const NONE: Outside = Outside(0);
    /// Two atoms are closer than in training.
    pub const CLOSE_CONTACT: Outside = Outside(1);
    /// A force is larger than in training.
    pub const LARGE_FORCE: Outside = Outside(2);
    /// The energy an atom, less the free atoms', is one that training did not have.
    pub const ENERGY: Outside = Outside(4);

    const ALL: [(Outside, &'static str); 3] =
        [(Outside::CLOSE_CONTACT, "close_contact"), (Outside::LARGE_FORCE, "large_force"), (Outside::ENERGY, "energy")];

    /// Whether it is outside in no way.
    pub fn is_empty(self) -> bool {
        self == Outside::NONE
    }

    /// Whether it is outside in all of these ways.
    pub fn contains(self, other: Outside) -> bool {
        self.0 & other.0 == other.0
    }

    /// A word for each way.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Outside::ALL.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, word)| word)
    }
}

impl std::ops::BitOr for Outside {
    type Output = Outside;

    fn bitor(self, other: Outside) -> Outside {
        Outside(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Outside {
    fn bitor_assign(&mut self, other: Outside) {
        *self = *self | other;
    }
}

/// Words with commas between them, as comments have them.
impl std::fmt::Display for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (k, word) in self.words().enumerate() {
            if k > 0 {
                f.write_str(",")?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

/// Share of the smallest distance in training from which a pair is close: that distance is one extreme of as many frames as there
/// happened to be, and atoms vibrate by this much.
const MARGIN: f64 = 0.95;
/// Half the sum of two covalent radii: no bond is so short.
const CONTACT: f64 = 0.5;
/// Atoms closer than this share of what counts as close, and of the sum of their covalent radii, are on top of each other.
const ON_TOP: f64 = 0.5;
/// eV/Å, for models that do not say what they were trained on.
const LARGE_FORCE: f64 = 1e3;
/// The same, refused.
const ABSURD_FORCE: f64 = 1e6;
/// eV an atom, for models that do not say what they were trained on: several times what any bonds are worth.
const LARGE_ENERGY: f64 = 100.0;
/// The same, refused.
const ABSURD_ENERGY: f64 = 1e5;
/// eV an atom beyond a range, at least, before a result is refused: no chemistry moves so much.
const FAR_ENERGY: f64 = 20.0;

/// The range of a model, ready to be compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    n_species: usize,
    /// Square of the largest distance that is close for any pair, Å²: what is farther needs no look at the table.
    nearest: f64,
    /// Squares of the distances that are close, `[n_species, n_species]`, Å².
    close: Vec<f64>,
    /// Squares, eV²/Å².
    force: f64,
    force_refused: f64,
    energy: [f64; 2],
    energy_refused: [f64; 2],
    species: Vec<u8>,
}

impl Limits {
    /// Of a validated configuration.
    pub(super) fn new(config: &ModelConfig) -> Self {
        let range = config.training_range.as_ref();
        let n = config.species.len();
        let mut close: Vec<f64> = vec![0.0; n * n];
        for (a, &za) in config.species.iter().enumerate() {
            for (b, &zb) in config.species.iter().enumerate() {
                close[a * n + b] = CONTACT * (covalent_radius(za) + covalent_radius(zb));
            }
        }
        for (name, &distance) in range.iter().flat_map(|r| &r.min_distances) {
            let row = |z: u8| config.species.iter().position(|&s| s == z);
            if let Some([Some(a), Some(b)]) = elements(name).map(|pair| pair.map(row)) {
                (close[a * n + b], close[b * n + a]) = (MARGIN * distance, MARGIN * distance);
            }
        }
        close.iter_mut().for_each(|d| *d *= *d);
        let (force, force_refused) = match range.and_then(|r| r.max_force) {
            Some(force) => (force, (50.0 * force).max(LARGE_FORCE)),
            None => (LARGE_FORCE, ABSURD_FORCE),
        };
        let (energy, margin) = match range.and_then(|r| r.energy_per_atom) {
            Some([low, high]) => ([low, high], (10.0 * (high - low)).max(FAR_ENERGY)),
            None => ([unreferenced(config) - LARGE_ENERGY, LARGE_ENERGY], ABSURD_ENERGY - LARGE_ENERGY),
        };
        Limits {
            n_species: n,
            nearest: close.iter().copied().fold(0.0, f64::max),
            close,
            force: force * force,
            force_refused: force_refused * force_refused,
            energy,
            energy_refused: [energy[0] - margin, energy[1] + margin],
            species: config.species.clone(),
        }
    }

    /// Square of the distance, Å², from which no pair is close.
    #[inline(always)]
    pub(crate) fn nearest(&self) -> f64 {
        self.nearest
    }

    /// Squares of the distances, Å², below which a pair is to be looked at by [`Limits::pair`], `[n_species, n_species]`.
    pub(crate) fn close(&self) -> &[f64] {
        &self.close
    }

    /// What to say of a pair at less than [`Limits::nearest`], by rows of the embedding and the distance's square.
    #[inline]
    pub(crate) fn pair(&self, a: u16, b: u16, square: f64) -> Contact {
        let close = self.close.get(a as usize * self.n_species + b as usize).copied().unwrap_or(0.0);
        if square >= close {
            return Contact::Far;
        }
        let limit = self.on_top_limit(a, b);
        if square < limit * limit { Contact::OnTop } else { Contact::Close }
    }

    /// Distance below which two atoms are on top of each other, Å.
    #[cold]
    fn on_top_limit(&self, a: u16, b: u16) -> f64 {
        let close = self.close.get(a as usize * self.n_species + b as usize).copied().unwrap_or(0.0).sqrt();
        let radius = |row: u16| self.species.get(row as usize).map_or(0.0, |&z| covalent_radius(z));
        ON_TOP * close.min(radius(a) + radius(b))
    }

    /// Refuses atoms `i` and `j`, of rows `a` and `b`, that are on top of each other.
    #[cold]
    pub(crate) fn on_top(&self, [i, j]: [usize; 2], [a, b]: [u16; 2], distance: f64) -> Error {
        let name = |row: u16| self.species.get(row as usize).and_then(|&z| symbol(z)).unwrap_or("?");
        Error::OutOfRange {
            what: format!("the distance of atoms {i} ({}) and {j} ({})", name(a), name(b)),
            unit: "Å",
            got: distance,
            limit: self.on_top_limit(a, b),
        }
    }

    /// Compares the energy of a structure with the range; `references` is the sum of its free atoms', eV.
    ///
    /// # Errors
    /// `Error::OutOfRange`.
    pub(crate) fn energy(&self, energy: f64, references: f64, n_atoms: usize) -> Result<Outside> {
        if n_atoms == 0 {
            return Ok(Outside::NONE);
        }
        let per_atom = (energy - references) / n_atoms as f64;
        let [low, high] = self.energy_refused;
        if per_atom < low || per_atom > high {
            let limit = if per_atom < low { low } else { high };
            let what = "the energy per atom, less that of free atoms,".into();
            return Err(Error::OutOfRange { what, unit: "eV", got: per_atom, limit });
        }
        let is_inside = (self.energy[0]..=self.energy[1]).contains(&per_atom);
        Ok(if is_inside { Outside::NONE } else { Outside::ENERGY })
    }

    /// Compares forces, or gradients, with the range.
    ///
    /// # Errors
    /// `Error::OutOfRange`.
    pub(crate) fn forces(&self, forces: &[Vec3]) -> Result<Outside> {
        let square = forces.iter().map(|f| dot(*f, *f)).fold(0.0, f64::max);
        if square > self.force_refused {
            let atom = forces.iter().position(|f| dot(*f, *f) == square).unwrap_or(0);
            let what = format!("the force on atom {atom}");
            return Err(Error::OutOfRange {
                what, unit: "eV/Å", got: square.sqrt(), limit: self.force_refused.sqrt()
            });
        }
        Ok(if square > self.force { Outside::LARGE_FORCE } else { Outside::NONE })
    }
}

/// How near two atoms are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contact {
    /// As in training.
    Far,
    /// Nearer than in training.
    Close,
    /// On top of each other.
    OnTop,
}

/// The lowest energy of a free atom, eV, among the elements without an atomic energy: a network that was trained on total
/// energies without references has it in its output.
fn unreferenced(config: &ModelConfig) -> f64 {
    let without = config.species.iter().filter(|z| !config.atomic_energies.contains_key(z));
    without.map(|&z| 1.1 * atom_energy(z)).fold(0.0, f64::min)
}

/// Covalent radius, Å: B. Cordero et al., Dalton Trans. 2008, 2832, the larger where there are two (the sp³ one of carbon, high
/// spin of metals excepted); 1.6 beyond curium.
pub fn covalent_radius(z: u8) -> f64 {
    #[rustfmt::skip]
    const RADII: [u16; 97] = [
        0, 31, 28, 128, 96, 84, 76, 71, 66, 57, 58, 166, 141, 121, 111, 107, 105, 102, 106, 203, 176, 170, 160, 153, 139, 139,
        132, 126, 124, 132, 122, 122, 120, 119, 120, 120, 116, 220, 195, 190, 175, 164, 154, 147, 146, 142, 139, 145, 144, 142,
        139, 139, 138, 139, 140, 244, 215, 207, 204, 203, 201, 199, 198, 198, 196, 194, 192, 192, 189, 190, 187, 187, 175, 170,
        162, 151, 144, 141, 136, 136, 132, 145, 146, 148, 140, 150, 150, 260, 221, 215, 206, 200, 196, 190, 187, 180, 169,
    ];
    0.01 * f64::from(RADII.get(z as usize).copied().unwrap_or(160))
}
