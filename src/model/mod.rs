//! Models: configuration, weights, checks, and import from other projects.
//!
//! A model is a directory of these files, or built into this crate:
//!
//! | file | what it holds |
//! |---|---|
//! | `config.json` | all but the weights: [`ModelConfig`] |
//! | `model.safetensors` | [`Weights`]: the tensors of the network |
//! | `README.md` | the model card, for people; may be missing |
//!
//! Nothing here depends on how or on which device a model is evaluated.

pub mod config;
#[doc(hidden)]
pub mod distiller;
pub(crate) mod files;
mod fingerprint;
pub mod import;
pub(crate) mod json;
pub mod limits;
#[doc(hidden)]
pub mod painn;
pub mod range;
pub mod weights;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::files::PartialFolder;
use config::{Architecture, ModelConfig, RadialBasisKind};
use limits::Limits;
pub use limits::Outside;
pub use range::TrainingRange;
use weights::Weights;

/// A model that has been checked: its configuration is valid, and its weights fit it.
///
/// ```
/// use mlff::Model;
///
/// let model = Model::load(mlff::model::default_name())?;
/// let config = model.config();
/// println!("cutoff {} Å, atomic numbers {:?}, {} parameters", config.cutoff, config.species, model.n_parameters());
/// # assert!(config.cutoff == 5.0 && config.species.contains(&6) && !model.card().is_empty());
/// # Ok::<(), mlff::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    config: ModelConfig,
    weights: Weights,
    card: String,
    limits: Arc<Limits>,
}

/// A model that ships inside the library.
struct BuiltIn {
    name: &'static str,
    config: &'static str,
    weights: &'static [u8],
    card: &'static str,
}

macro_rules! built_in {
    ($name:literal) => {
        BuiltIn {
            name: $name,
            config: include_str!(concat!("../../models/", $name, "/config.json")),
            weights: include_bytes!(concat!("../../models/", $name, "/model.safetensors")),
            card: include_str!(concat!("../../models/", $name, "/README.md")),
        }
    };
}

/// Largest files of a model directory, bytes. The numbers of weights are kept in f64, so that memory is a few times this.
const MAX_CONFIG: u64 = 1 << 20;
const MAX_CARD: u64 = 1 << 20;
const MAX_WEIGHTS: u64 = 2 << 30;

/// The first one is the default.
static BUILT_IN: [BuiltIn; 1] = [built_in!("ani2x-painn-64")];

/// Name of the default model, which is one of the [built-in](built_in_names) ones.
pub fn default_name() -> &'static str {
    BUILT_IN[0].name
}

/// Names of the models that are built into this crate; [`Model::load`] takes them.
pub fn built_in_names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|m| m.name).collect()
}

impl Model {
    /// Builds a model from its parts and checks it. `card` is Markdown, and may be empty.
    ///
    /// # Errors
    /// `Error::Shape` for a tensor of the wrong shape. `Error::Usage` for an invalid value in the configuration, a
    /// tensor that is missing, unknown or not finite, and a width of a radial function that is not positive.
    pub fn new(config: ModelConfig, mut weights: Weights, card: String) -> Result<Self> {
        config.validate()?;
        let expected = match &config.architecture {
            Architecture::Painn(painn) => painn::tensors(&config, painn),
            Architecture::Distiller(distiller) => distiller::tensors(&config, distiller),
        };
        let mut checked = Weights::default();
        for (name, shape) in expected {
            let array = weights.take(&name, &shape)?;
            checked.put(name, array);
        }
        if !weights.0.is_empty() {
            return Err(Error::Usage(format!(
                "the {} architecture of config.json has no tensor {}",
                config.architecture_name(),
                weights.some_names()
            )));
        }
        checked.check_finite()?;
        if config.radial_basis().kind == RadialBasisKind::Gaussian
            && checked.get("radial_basis.widths")?.data.iter().any(|&w| w <= 0.0)
        {
            return Err(Error::Usage("tensor radial_basis.widths holds a width that is not positive".into()));
        }
        let limits = Arc::new(Limits::new(&config));
        Ok(Model { config, weights: checked, card, limits })
    }

    /// Loads a model directory, or the built-in model of that name. If there are both, the directory is loaded.
    ///
    /// # Errors
    /// `Error::Io` for a file that cannot be read. `Error::Model` if there is no such directory or name, if a file is
    /// missing or cannot be understood, and for everything that [`Model::new`] refuses.
    pub fn load(name_or_path: impl AsRef<Path>) -> Result<Self> {
        let path = name_or_path.as_ref();
        if path.is_dir() {
            return Self::load_directory(path);
        }
        if let Some(model) = BUILT_IN.iter().find(|m| path.as_os_str() == m.name) {
            return Self::from_parts(Path::new(model.name), model.config.as_bytes(), model.weights, model.card.into());
        }
        let reason = if path.exists() {
            "is a file; expected a model directory with config.json and model.safetensors (see `mlff import`)".into()
        } else {
            format!(
                "no such model directory, and no built-in model of that name; built in: {}",
                built_in_names().join(", ")
            )
        };
        Err(Error::model(path, reason))
    }

    fn load_directory(path: &Path) -> Result<Self> {
        let needed = |name: &str, limit| {
            files::read_within(path, name, limit)?.ok_or_else(|| {
                Error::model(
                    path,
                    format!(
                        "has no {name}; a model directory holds config.json and model.safetensors (see `mlff import`)"
                    ),
                )
            })
        };
        let config = needed("config.json", MAX_CONFIG)?;
        let card = files::read_within(path, "README.md", MAX_CARD)?.unwrap_or_default();
        let card = String::from_utf8_lossy(&card).into_owned();
        Self::from_parts(path, &config, &needed("model.safetensors", MAX_WEIGHTS)?, card)
    }

    /// A model of a directory's files held in memory; for tests.
    ///
    /// # Errors
    /// As [`Model::load`].
    #[doc(hidden)]
    pub fn from_bytes(config: &[u8], weights: &[u8]) -> Result<Self> {
        Self::from_parts(Path::new("model"), config, weights, String::new())
    }

    /// The files of its directory, without the card; for tests.
    ///
    /// # Errors
    /// `Error::Model` if a format cannot hold it.
    #[doc(hidden)]
    pub fn to_bytes(&self) -> Result<[Vec<u8>; 2]> {
        let path = Path::new("model");
        let config = serde_json::to_vec_pretty(&self.config).map_err(|e| Error::model(path, e.to_string()))?;
        Ok([config, self.weights.to_safetensors(path)?])
    }

    fn from_parts(path: &Path, config: &[u8], weights: &[u8], card: String) -> Result<Self> {
        let config: ModelConfig = parse_config(path, config)?;
        let weights = Weights::from_safetensors(&path.join("model.safetensors"), weights)?;
        Self::new(config, weights, card).map_err(|e| Error::model(path, e.to_string()))
    }

    /// Writes the model as a directory: completely, or not at all. Folders above it are created.
    ///
    /// # Errors
    /// `Error::Usage` if `path` exists and is not an empty directory. `Error::Io` if it cannot be written, also because
    /// another process is writing it. `Error::Model` if the weights or the configuration cannot be put into their
    /// formats.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let config = serde_json::to_string_pretty(&self.config)
            .map_err(|e| Error::model(path, format!("config.json cannot be written: {e}")))?;
        let weights = self.weights.to_safetensors(path)?;
        let mut folder = PartialFolder::create(path)?;
        folder.write("config.json", (config + "\n").as_bytes())?;
        folder.write("model.safetensors", &weights)?;
        folder.write("README.md", self.card.as_bytes())?;
        folder.finish()
    }

    /// Everything but the weights.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights. All of them are finite and have the shapes that the configuration asks for.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The model card, in Markdown; empty if there is none.
    pub fn card(&self) -> &str {
        &self.card
    }

    /// What lies outside of what the model was trained on, and what is refused.
    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Number of parameters, which is that of all numbers in the weights.
    pub fn n_parameters(&self) -> usize {
        self.weights.0.values().map(|a| a.data.len()).sum()
    }

    /// Row of the embedding for each atomic number, `[256]`; `None` for elements that the model does not know.
    pub fn species_table(&self) -> [Option<u16>; 256] {
        let mut table = [None; 256];
        for (row, &z) in (0u16..).zip(&self.config.species) {
            table[z as usize] = Some(row);
        }
        table
    }
}

fn parse_config(path: &Path, bytes: &[u8]) -> Result<ModelConfig> {
    let refuse = |reason: String| Error::model(path.join("config.json"), reason);
    let value = json::parse(bytes).map_err(refuse)?;
    // The version first: another version may have other keys, and "unknown field" would send people the wrong way.
    match value.get("format_version").map(|v| (v, v.as_u64())) {
        Some((_, Some(version))) if version == u64::from(config::FORMAT_VERSION) => {}
        Some((found, _)) => {
            return Err(refuse(format!(
                "format_version is {found}, this program reads {}; a newer mlff may have written it",
                config::FORMAT_VERSION
            )));
        }
        None => {
            return Err(refuse(
                "has no format_version: not the configuration of an mlff model (other projects' models are read by \
                 `mlff import`)"
                    .into(),
            ));
        }
    }
    serde_json::from_value(value).map_err(|e| refuse(e.to_string()))
}
