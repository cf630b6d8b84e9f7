//! Importers: other projects' weight files become model directories.

mod distiller;
mod pickle;
mod schnetpack;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::Model;
use super::weights::{Array, Weights};
use crate::error::{Error, Result};

/// Projects whose models can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// SchNetPack 2: the state dict of `PaiNN` with an `Atomwise` output.
    SchNetPack,
    /// MLFF-Distiller: a student's state dict or checkpoint.
    Distiller,
}

/// What an import may be told beyond the file itself.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Configuration; without it `config.json` beside the weights, or the one inside the checkpoint.
    pub config: Option<PathBuf>,
    /// Elements that the model was trained on; without it those of the configuration, or every row of the embedding.
    pub species: Option<Vec<u8>>,
}

/// Reads another project's weight file (`.safetensors`, or PyTorch's `.pt`, `.pth`, `.ckpt`).
///
/// # Errors
/// `Error::Io` or `Error::Model`: what could not be read, or does not fit its configuration.
pub fn import(source: Source, path: &Path, options: &ImportOptions) -> Result<Model> {
    let file = read(path)?;
    let config = match (&options.config, &file.config) {
        (Some(config), _) => read_json(config)?,
        (None, Some(inside)) => inside.clone(),
        (None, None) => {
            let beside = path.with_file_name("config.json");
            if !beside.exists() {
                return Err(Error::model(
                    path,
                    "needs a configuration: put config.json beside it or pass --config FILE (keys: see `mlff import --help`)",
                ));
            }
            read_json(&beside)?
        }
    };
    let model = match source {
        Source::SchNetPack => schnetpack::convert(file.weights, parse(path, config)?, options),
        Source::Distiller => distiller::convert(file.weights, parse(path, config)?, options),
    };
    model.map_err(|e| Error::model(path, e.to_string()))
}

struct WeightFile {
    weights: Weights,
    config: Option<serde_json::Value>,
}

fn read_json(path: &Path) -> Result<serde_json::Value> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::model(path, format!("not JSON: {e}")))
}

fn parse<T: DeserializeOwned>(path: &Path, config: serde_json::Value) -> Result<T> {
    serde_json::from_value(config).map_err(|e| Error::model(path, format!("its configuration: {e}")))
}

fn read(path: &Path) -> Result<WeightFile> {
    let mut start = [0; 9];
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let has_start = std::io::Read::read_exact(&mut file, &mut start).is_ok();
    if has_start && start.starts_with(b"PK\x03\x04") {
        return read_pickle(path);
    }
    // Safetensors start with the length of a JSON text, whose low byte may well be that of a pickle.
    if has_start && start[0] == 0x80 && start[8] != b'{' {
        return Err(Error::model(
            path,
            "is a pickle without PyTorch's archive around it; save it anew with torch.save(model.state_dict(), FILE), \
             or convert a pickled SchNetPack model with scripts/export_schnetpack.py",
        ));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    Ok(WeightFile { weights: Weights::from_safetensors(path, &bytes)?, config: None })
}

fn read_pickle(path: &Path) -> Result<WeightFile> {
    let checkpoint = pickle::read(path).map_err(|e| {
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
fn select_species(embedding: &Array, chosen: Option<&[u8]>) -> Result<(Vec<u8>, Array)> {
    let [n_rows, width] = embedding.shape[..] else {
        return Err(Error::Usage(format!("the embedding has shape {:?}, expected two dimensions", embedding.shape)));
    };
    let all: Vec<u8> = (1..n_rows.min(119)).map(|z| z as u8).collect();
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
