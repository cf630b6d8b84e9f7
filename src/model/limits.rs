//! How far structures and their results may be from what a model was trained on.
//!
//! Those that are *outside* of the training data are evaluated and marked ([`Outside`]). Those that are so far outside
//! that the result would mean nothing are *refused* ([`Error::OutOfRange`]).
//!
//! | quantity | outside | refused |
//! |---|---|---|
//! | distance of two atoms | below 0.95 × the smallest of these elements in training; else below 0.5 × the sum of their covalent radii | below half of that, if also below half of the sum of covalent radii |
//! | force on an atom | above the largest in training; else above 1000 eV/Å | above 50 × the largest in training, but at least 1000 eV/Å; else above 1e6 eV/Å |
//! | energy per atom, less that of the free atoms | beyond the range in training; else beyond ±100 eV | farther beyond that range than 10 × its width, but at least 20 eV; else beyond ±1e5 eV |
//!
//! "Else" is for models that do not say what they were trained on ([`TrainingRange`](super::TrainingRange)). These
//! limits are wider than any chemistry, so that untrained networks, too, can be evaluated. If such a model lacks the
//! energies of some free atoms ([`ModelConfig::atomic_energies`]), both lower limits of the energy are lowered by an
//! estimate of the total energy of the heaviest of these atoms, since the network may have been trained on total
//! energies.
//!
//! Atoms less than 0.1 Å apart are refused for every model, as [`Error::Overlap`].

use super::config::ModelConfig;
use super::range::elements;
use crate::elements::{atom_energy, covalent_radius, symbol};
use crate::error::{Error, Result};
use crate::structure::{Vec3, dot};

/// In which ways a structure and its results lie outside of what the model was trained on, as a set of flags. Most
/// often it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Outside(u8);

impl Outside {
    /// The empty set: inside in every way.
    pub const NONE: Outside = Outside(0);
    /// Two atoms are closer than in training.
    pub const CLOSE_CONTACT: Outside = Outside(1);
    /// A force is larger than in training.
    pub const LARGE_FORCE: Outside = Outside(2);
    /// The energy per atom, less that of the free atoms, is beyond its range in training.
    pub const ENERGY: Outside = Outside(4);

    const ALL: [(Outside, &'static str); 3] =
        [(Outside::CLOSE_CONTACT, "close_contact"), (Outside::LARGE_FORCE, "large_force"), (Outside::ENERGY, "energy")];

    /// Whether no flag is set.
    pub fn is_empty(self) -> bool {
        self == Outside::NONE
    }

    /// Whether all flags of `other` are set.
    pub fn contains(self, other: Outside) -> bool {
        self.0 & other.0 == other.0
    }

    /// A word for each flag that is set: `close_contact`, `large_force`, `energy`.
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

/// The words, with commas between them, as in the comment line of an XYZ file.
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

/// The limits of one model, ready to be compared with; made and used by [`Model`](super::Model).
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
