//! The range of a model's training data, in numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::elements::atomic_number;

/// Which distances, forces and energies a model's training data covered. `scripts/training_range.py` in this crate's
/// repository measures them; [`limits`](super::limits) says what they are used for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRange {
    /// Smallest distance, Å, between atoms of two elements, by their names, such as `C-H`. Pairs that do not occur in
    /// the data are left out.
    #[serde(default)]
    pub min_distances: BTreeMap<String, f64>,
    /// Largest force on an atom, eV/Å.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_force: Option<f64>,
    /// Smallest and largest energy per atom of a structure, less the energies of the free atoms, eV.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_per_atom: Option<[f64; 2]>,
    /// The data that this was measured on, in words.
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
pub(super) fn elements(name: &str) -> Option<[u8; 2]> {
    let (a, b) = name.split_once('-')?;
    Some([atomic_number(a)?, atomic_number(b)?])
}
