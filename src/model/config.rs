//! The configuration of a model, `config.json` of its directory. The file has a key for each field, of the same name;
//! the kind of an architecture or of a radial basis has the key `type`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json::by_atomic_number;
use super::range::TrainingRange;
use crate::error::{Error, Result};

/// Version of the model directory that this library reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Everything about a model but its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Version of the format; [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Network and its sizes.
    pub architecture: Architecture,
    /// Distance beyond which atoms do not interact, Å.
    pub cutoff: f64,
    /// Atomic numbers of the elements that the model knows, in the order of the rows of the tensor `embedding`.
    pub species: Vec<u8>,
    /// Energy, eV, that each atom adds to the network's energy, by atomic number: that of the free atom. 0 for elements
    /// that are not listed.
    #[serde(default, deserialize_with = "by_atomic_number")]
    pub atomic_energies: BTreeMap<u8, f64>,
    /// Factor on the network's output for each atom, eV.
    #[serde(default = "one")]
    pub energy_scale: f64,
    /// Units of the numbers above; only Å and eV are accepted.
    #[serde(default)]
    pub units: Units,
    /// Total charge that the model describes, e.
    #[serde(default)]
    pub charge: i32,
    /// Spin multiplicity, 2S + 1, that the model describes.
    #[serde(default = "singlet")]
    pub spin_multiplicity: u32,
    /// What the training data covered. Results beyond it are marked, results far beyond it are refused; see
    /// [`limits`](super::limits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_range: Option<TrainingRange>,
    /// Teacher, data and method of the training, as their author wrote them.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub training: serde_json::Value,
    /// Measured errors, as their author wrote them.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub metrics: serde_json::Value,
    /// Licence of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

fn one() -> f64 {
    1.0
}

fn singlet() -> u32 {
    1
}

/// Units of a model directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Units {
    /// `angstrom`.
    pub length: String,
    /// `eV`.
    pub energy: String,
}

impl Default for Units {
    fn default() -> Self {
        Units { length: "angstrom".into(), energy: "eV".into() }
    }
}

/// Architecture of the network, with its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
#[non_exhaustive]
pub enum Architecture {
    /// PaiNN (Schütt, Unke, Gastegger, ICML 2021), as SchNetPack 2 has it.
    #[serde(rename = "painn")]
    Painn(PainnConfig),
    /// Students of the project MLFF-Distiller. Their energy is not invariant under rotation; see
    /// [`ModelConfig::caveat`].
    #[serde(rename = "mlff-distiller")]
    Distiller(DistillerConfig),
}

/// Sizes and kinds of the parts of a PaiNN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PainnConfig {
    /// Number of features of each atom, F.
    pub n_features: usize,
    /// Number of interaction layers.
    pub n_interactions: usize,
    /// Radial basis.
    pub radial_basis: RadialBasisConfig,
    /// Cutoff function.
    #[serde(default)]
    pub envelope: Envelope,
    /// Whether all layers share one set of filters.
    #[serde(default)]
    pub shared_filters: bool,
    /// Whether all layers share the weights of their messages and updates.
    #[serde(default)]
    pub shared_interactions: bool,
    /// Activation function of all hidden layers.
    #[serde(default)]
    pub activation: ActivationName,
    /// Added to the sum of squares in the norm of the vector features, under the square root.
    #[serde(default = "norm_epsilon")]
    pub epsilon: f64,
    /// Widths of the hidden layers of the readout, which turns features into energies. May be empty.
    pub readout_hidden: Vec<usize>,
}

fn norm_epsilon() -> f64 {
    1e-8
}

/// Sizes and kinds of the parts of an MLFF-Distiller student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillerConfig {
    /// Number of features of each atom, F.
    pub n_features: usize,
    /// Number of interaction layers.
    pub n_interactions: usize,
    /// Radial basis; Gaussian only.
    pub radial_basis: RadialBasisConfig,
    /// Cutoff function.
    #[serde(default)]
    pub envelope: Envelope,
    /// Added to the distance where directions are normalised, Å.
    #[serde(default = "norm_epsilon")]
    pub direction_epsilon: f64,
    /// Widths of the hidden layers of the readout, which turns features into energies. May be empty.
    pub readout_hidden: Vec<usize>,
}

/// Kind and number of the radial basis functions. Their centres, widths or frequencies are among the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RadialBasisConfig {
    /// Kind of the functions.
    #[serde(rename = "type")]
    pub kind: RadialBasisKind,
    /// Number of functions.
    pub n: usize,
}

/// Kinds of radial basis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RadialBasisKind {
    /// Gaussians of the distance d, with centres and widths in Å: `exp(-½ ((d − center) / width)²)` in a PaiNN,
    /// `exp(-((d − center) / width)²)` in an MLFF-Distiller student.
    Gaussian,
    /// `sin(frequency · d) / d` of the distance d, with frequencies in 1/Å.
    Bessel,
}

/// Cutoff functions: factors on the radial basis functions, which are zero at the cutoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Envelope {
    /// `½ (cos(π d / cutoff) + 1)`.
    #[default]
    Cosine,
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ActivationName {
    /// `x / (1 + exp(-x))`.
    #[default]
    Silu,
}

/// Largest size of any dimension that a config may ask for: guards against typing errors that would allocate without
/// end; ten times the largest network in use.
const MAX_SIZE: usize = 16_384;

/// Most layers of a network; ten times what is in use. Layers may share weights, so that no file bounds their number, and each
/// costs memory an atom and a level of recursion where autograd's graph is freed.
const MAX_LAYERS: usize = 64;

impl ModelConfig {
    /// Number of features of each atom, F.
    pub fn n_features(&self) -> usize {
        match &self.architecture {
            Architecture::Painn(c) => c.n_features,
            Architecture::Distiller(c) => c.n_features,
        }
    }

    /// Number of interaction layers.
    pub fn n_interactions(&self) -> usize {
        match &self.architecture {
            Architecture::Painn(c) => c.n_interactions,
            Architecture::Distiller(c) => c.n_interactions,
        }
    }

    /// Kind and number of the radial basis functions.
    pub fn radial_basis(&self) -> &RadialBasisConfig {
        match &self.architecture {
            Architecture::Painn(c) => &c.radial_basis,
            Architecture::Distiller(c) => &c.radial_basis,
        }
    }

    /// Widths of the hidden layers of the readout.
    pub fn readout_hidden(&self) -> &[usize] {
        match &self.architecture {
            Architecture::Painn(c) => &c.readout_hidden,
            Architecture::Distiller(c) => &c.readout_hidden,
        }
    }

    /// Name of the architecture, as in `config.json`.
    pub fn architecture_name(&self) -> &'static str {
        match &self.architecture {
            Architecture::Painn(_) => "painn",
            Architecture::Distiller(_) => "mlff-distiller",
        }
    }

    /// What a user of this model must know about the shortcomings of its architecture, if there are any.
    pub fn caveat(&self) -> Option<&'static str> {
        match &self.architecture {
            Architecture::Painn(_) => None,
            Architecture::Distiller(_) => Some(
                "the energy of this architecture is not invariant under rotation (its 3x3 mixing matrices act on \
                 Cartesian components), and not continuous at the cutoff (its filters do not vanish there)",
            ),
        }
    }

    /// Checks that every value is valid.
    ///
    /// # Errors
    /// `Error::Usage`, which names the key, the value found and the values allowed.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::Usage(format!("config.json: {what}")));
        if self.format_version != FORMAT_VERSION {
            return refuse(format!(
                "format_version is {}, this program reads {FORMAT_VERSION}; a newer mlff may have written it",
                self.format_version
            ));
        }
        if self.units != Units::default() {
            return refuse(format!("units are {:?}, expected length \"angstrom\", energy \"eV\"", self.units));
        }
        if !(0.1..=100.0).contains(&self.cutoff) {
            return refuse(format!("cutoff is {}, expected 0.1 to 100 Å", self.cutoff));
        }
        if !self.energy_scale.is_finite() || self.energy_scale == 0.0 {
            return refuse(format!(
                "energy_scale is {}, expected a finite number other than 0: with 0 every structure would have the energy of \
                 its free atoms",
                self.energy_scale
            ));
        }
        let mut sizes = vec![
            ("n_features", self.n_features(), MAX_SIZE),
            ("n_interactions", self.n_interactions(), MAX_LAYERS),
            ("radial_basis.n", self.radial_basis().n, MAX_SIZE),
            ("number of layers in readout_hidden", self.readout_hidden().len() + 1, MAX_LAYERS),
        ];
        sizes.extend(self.readout_hidden().iter().map(|&n| ("readout_hidden", n, MAX_SIZE)));
        for (key, n, most) in sizes {
            if n == 0 || n > most {
                return refuse(format!("{key} is {n}, expected 1 to {most}"));
            }
        }
        let epsilon = match &self.architecture {
            Architecture::Painn(c) => c.epsilon,
            Architecture::Distiller(c) => c.direction_epsilon,
        };
        if !(0.0..1.0).contains(&epsilon) {
            return refuse(format!("epsilon is {epsilon}, expected 0 to 1"));
        }
        if matches!(&self.architecture, Architecture::Distiller(_))
            && self.radial_basis().kind != RadialBasisKind::Gaussian
        {
            return refuse("radial_basis.type must be \"gaussian\" for mlff-distiller".into());
        }
        self.validate_species()
    }

    /// Checks that the model describes structures of this total charge, e.
    ///
    /// # Errors
    /// `Error::ChargeOrSpin` if it does not.
    pub fn check_charge(&self, charge: i64) -> Result<()> {
        check_charge(charge, self.charge)
    }

    /// Checks that the model describes structures of this spin multiplicity, 2S + 1.
    ///
    /// # Errors
    /// `Error::ChargeOrSpin` if it does not.
    pub fn check_spin_multiplicity(&self, multiplicity: i64) -> Result<()> {
        check_state("spin multiplicity", multiplicity, self.spin_multiplicity.into())
    }

    fn validate_species(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::Usage(format!("config.json: {what}")));
        if self.species.is_empty() {
            return refuse("species is empty, expected the atomic numbers that the model knows".into());
        }
        for (k, &z) in self.species.iter().enumerate() {
            if crate::structure::symbol(z).is_none() {
                return refuse(format!("species holds {z}, expected atomic numbers 1 to 118"));
            }
            if self.species[..k].contains(&z) {
                return refuse(format!("species holds {z} twice"));
            }
        }
        for (z, energy) in &self.atomic_energies {
            if !self.species.contains(z) || !energy.is_finite() {
                return refuse(format!("atomic_energies has {z}: {energy}, expected finite numbers for known species"));
            }
        }
        if let Some(range) = &self.training_range {
            return range.validate(&self.species).or_else(refuse);
        }
        Ok(())
    }
}

/// Refuses another total charge than the one that a model describes.
///
/// # Errors
/// `Error::ChargeOrSpin`.
pub(crate) fn check_charge(charge: i64, supported: i32) -> Result<()> {
    check_state("total charge", charge, supported.into())
}

#[allow(clippy::cast_precision_loss)] // of charges and spins
fn check_state(what: &'static str, got: i64, supported: i64) -> Result<()> {
    match got == supported {
        true => Ok(()),
        false => Err(Error::ChargeOrSpin { what, got: got as f64, supported: supported as f64 }),
    }
}
