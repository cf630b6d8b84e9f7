//! Import of models from the weight files of other projects.
//!
//! [`import`] makes a [`Model`], which [`Model::save`] writes as a model directory.

mod distiller;
mod pickle;
mod schnetpack;
mod units;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::weights::{Array, Weights};
use super::{MAX_CONFIG, MAX_WEIGHTS, Model, files, json};
use crate::error::{Error, Result};
pub use units::{EnergyUnit, LengthUnit};

/// Projects whose models can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// SchNetPack 2: the state dict of a `PaiNN` with an `Atomwise` output.
    SchNetPack,
    /// MLFF-Distiller: the state dict or the checkpoint of a student.
    Distiller,
}

/// What the caller of an import knows beyond the file itself. Nothing, by default.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Configuration file of the other project. If `None`, the one inside the checkpoint is taken, else `config.json`
    /// beside the weights.
    pub config: Option<PathBuf>,
    /// Atomic numbers of the elements that the model was trained on. If `None`, those of the configuration are taken,
    /// else every row of the embedding.
    pub species: Option<Vec<u8>>,
    /// Unit of the energies that the model was trained on, and of those in its configuration. If `None`, the
    /// configuration decides, else it is eV.
    pub energy_unit: Option<EnergyUnit>,
    /// Unit of the positions that the model was trained on, and of its cutoff. If `None`, the configuration decides,
    /// else it is Å.
    pub length_unit: Option<LengthUnit>,
}

/// An imported model, and the assumptions that were made.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Import {
    /// The model, in eV and Å.
    pub model: Model,
    /// Assumptions about what neither the caller nor the files say, and doubts, in words.
    pub notes: Vec<String>,
}

/// Reads a weight file of another project: safetensors, or what PyTorch's `torch.save` writes (`.pt`, `.pth`, `.ckpt`).
///
/// The model has no card, and no [training range](crate::model::TrainingRange).
///
/// # Errors
/// `Error::Io` for a file that cannot be read; `Error::Model` for one that cannot be understood, that does not fit its
/// configuration, or whose energies of atoms are plainly in another unit than the one that is assumed.
pub fn import(source: Source, path: &Path, options: &ImportOptions) -> Result<Model> {
    Ok(import_with_notes(source, path, options)?.model)
}

/// Like [`import`], and says what was assumed.
///
/// # Errors
/// Those of [`import`].
pub fn import_with_notes(source: Source, path: &Path, options: &ImportOptions) -> Result<Import> {
    let file = read_weights(path, &files::read(path, MAX_WEIGHTS)?)?;
    let config = match (&options.config, &file.config) {
        (Some(config), _) => read_json(config)?,
        (None, Some(inside)) => inside.clone(),
        (None, None) => {
            let beside = path.with_file_name("config.json");
            if !beside.exists() {
                return Err(Error::model(
                    path,
                    "needs a configuration: put config.json beside it or name it by ImportOptions::config (keys: see `mlff help import`)",
                ));
            }
            read_json(&beside)?
        }
    };
    convert(source, path, file.weights, config, options)
}

/// As [`import_with_notes`], of a weight file held in memory, with the text of a configuration unless it brings its own; for
/// tests.
///
/// # Errors
/// `Error::Model`.
#[doc(hidden)]
pub fn import_bytes(source: Source, bytes: &[u8], config: Option<&[u8]>, options: &ImportOptions) -> Result<Import> {
    let path = Path::new("weights");
    let file = read_weights(path, bytes)?;
    let config = match (config, file.config) {
        (Some(text), _) => json::parse(text).map_err(|e| Error::model(path, e))?,
        (None, Some(inside)) => inside,
        (None, None) => return Err(Error::model(path, "needs a configuration")),
    };
    convert(source, path, file.weights, config, options)
}

fn convert(
    source: Source,
    path: &Path,
    weights: Weights,
    config: serde_json::Value,
    options: &ImportOptions,
) -> Result<Import> {
    let mut notes = Vec::new();
    let model = match source {
        Source::SchNetPack => schnetpack::convert(weights, parse(path, config)?, options, &mut notes),
        Source::Distiller => distiller::convert(weights, parse(path, config)?, options, &mut notes),
    };
    Ok(Import { model: model.map_err(|e| Error::model(path, e.to_string()))?, notes })
}

struct WeightFile {
    weights: Weights,
    config: Option<serde_json::Value>,
}

fn read_json(path: &Path) -> Result<serde_json::Value> {
    json::parse(&files::read(path, MAX_CONFIG)?).map_err(|e| Error::model(path, e))
}

fn parse<T: DeserializeOwned>(path: &Path, config: serde_json::Value) -> Result<T> {
    serde_json::from_value(config).map_err(|e| Error::model(path, format!("its configuration: {e}")))
}

fn read_weights(path: &Path, bytes: &[u8]) -> Result<WeightFile> {
    if bytes.starts_with(b"PK\x03\x04") {
        return read_pickle(path, bytes);
    }
    // Safetensors start with the length of a JSON text, whose low byte may well be that of a pickle.
    if bytes.len() > 8 && bytes[0] == 0x80 && bytes[8] != b'{' {
        return Err(Error::model(
            path,
            "is a pickle without PyTorch's archive around it; save it anew with torch.save(model.state_dict(), FILE), \
             or convert a pickled SchNetPack model with scripts/export_schnetpack.py",
        ));
    }
    Ok(WeightFile { weights: Weights::from_safetensors(path, bytes)?, config: None })
}

fn read_pickle(path: &Path, bytes: &[u8]) -> Result<WeightFile> {
    let checkpoint = pickle::read(bytes).map_err(|e| {
        Error::model(
            path,
            format!(
                "cannot be read as a PyTorch file of tensors: {e}; save it anew with torch.save(model.state_dict(), \
                 FILE), or convert a pickled SchNetPack model with scripts/export_schnetpack.py"
            ),
        )
    })?;
    Ok(WeightFile { weights: Weights(checkpoint.tensors), config: checkpoint.config })
}

/// Embedding rows of the chosen elements, and these elements.
fn select_species(embedding: &Array, chosen: Option<&[u8]>, notes: &mut Vec<String>) -> Result<(Vec<u8>, Array)> {
    let [n_rows, width] = embedding.shape[..] else {
        return Err(Error::Usage(format!("the embedding has shape {:?}, expected two dimensions", embedding.shape)));
    };
    let all: Vec<u8> = (1..n_rows.min(119)).map(|z| z as u8).collect();
    if chosen.is_none() {
        notes.push(format!(
            "nothing says which elements the model was trained on; all {} rows of its embedding were taken, those that were \
             never trained too (ImportOptions::species restricts it)",
            all.len()
        ));
    }
    let species = chosen.map_or(all, <[u8]>::to_vec);
    let mut data = Vec::with_capacity(species.len() * width);
    for &z in &species {
        let row = z as usize;
        if row >= n_rows {
            return Err(Error::Usage(format!("element {z} has no row in the embedding, which has {n_rows}")));
        }
        data.extend_from_slice(&embedding.data[row * width..(row + 1) * width]);
    }
    Ok((species.clone(), Array { shape: vec![species.len(), width], data }))
}

/// Reads a number from an array of one element.
fn scalar(array: &Array, name: &str) -> Result<f64> {
    match array.data[..] {
        [x] => Ok(x),
        _ => Err(Error::Usage(format!("tensor {name} has shape {:?}, expected one number", array.shape))),
    }
}

/// Checks a size of the configuration against what the tensors say.
fn agree<T: PartialEq + std::fmt::Display>(key: &str, config: Option<T>, tensors: T) -> Result<T> {
    match config {
        Some(value) if value != tensors => Err(Error::Usage(format!(
            "its configuration says {key} = {value}, its tensors say {tensors}: they do not belong together"
        ))),
        _ => Ok(tensors),
    }
}

/// Moves `from.weight` and `from.bias` to `to`.
fn move_linear(from: &mut Weights, from_name: &str, to: &mut Weights, to_name: &str) -> Result<()> {
    for part in ["weight", "bias"] {
        move_tensor(from, &format!("{from_name}.{part}"), to, &format!("{to_name}.{part}"))?;
    }
    Ok(())
}

fn move_tensor(from: &mut Weights, from_name: &str, to: &mut Weights, to_name: &str) -> Result<()> {
    let array = from
        .0
        .remove(from_name)
        .ok_or_else(|| Error::Usage(format!("tensor {from_name} is missing; there are: {}", from.some_names())))?;
    to.put(to_name, array);
    Ok(())
}

/// Moves a stack of layers `PREFIX.{k·step}` to `readout.{k}`; returns the widths of all but the last.
fn move_readout(from: &mut Weights, prefix: &str, step: usize, to: &mut Weights) -> Result<Vec<usize>> {
    let mut widths = Vec::new();
    for k in 0.. {
        let name = format!("{prefix}.{}", k * step);
        match from.0.get(&format!("{name}.weight")) {
            Some(weight) => widths.push(weight.shape.first().copied().unwrap_or(0)),
            None => break,
        }
        move_linear(from, &name, to, &format!("readout.{k}"))?;
    }
    match widths.pop() {
        Some(1) => Ok(widths),
        Some(n) => Err(Error::Usage(format!("{prefix} gives {n} values an atom, expected 1 (an energy)"))),
        None => Err(Error::Usage(format!("tensor {prefix}.0.weight is missing; there are: {}", from.some_names()))),
    }
}

/// Everything must have found its place: a leftover tensor means a model that is more than what was understood.
fn refuse_leftovers(weights: &Weights) -> Result<()> {
    if weights.0.is_empty() {
        return Ok(());
    }
    Err(Error::Usage(format!("does not know what to do with tensors {}", weights.some_names())))
}
