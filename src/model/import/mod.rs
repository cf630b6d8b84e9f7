//! Importers: other projects' weight files become model directories.

mod distiller;
mod schnetpack;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::pickle::{self, Object};
use candle_core::{DType, Device, Tensor};
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

/// Keys under which checkpoints keep their state dict.
const STATE_DICT_KEYS: [&str; 3] = ["model_state_dict", "state_dict", "model"];

fn read_pickle(path: &Path) -> Result<WeightFile> {
    let refuse = |e: String| {
        Error::model(
            path,
            format!(
                "cannot be read as a PyTorch file of tensors: {e}; save it anew with torch.save(model.state_dict(), \
                 FILE), or convert a pickled SchNetPack model with scripts/export_schnetpack.py"
            ),
        )
    };
    let mut archive = open_archive(path).map_err(&refuse)?;
    let (folder, root) = read_root(&mut archive).map_err(&refuse)?;
    let Object::Dict(entries) = root else {
        return Err(refuse("it is no state dict".into()));
    };
    let nested = STATE_DICT_KEYS.into_iter().find_map(|key| match entry(&entries, key) {
        Some(Object::Dict(state)) => Some(state.clone()),
        _ => None,
    });
    let config = nested.as_ref().and_then(|_| entry(&entries, "config")).and_then(to_json);
    let mut weights = BTreeMap::new();
    for (name, value) in nested.unwrap_or(entries) {
        let info = unpanicked(|| value.into_tensor_info(name, &folder).map_err(|e| e.to_string())).map_err(&refuse)?;
        // Not a tensor: counters and the like that checkpoints keep beside the weights.
        let Some(info) = info else { continue };
        let array = read_array(&mut archive, &info).map_err(|e| refuse(format!("tensor {}: {e}", info.name)))?;
        weights.insert(info.name, array);
    }
    if weights.is_empty() {
        return Err(refuse("it holds no tensors".into()));
    }
    Ok(WeightFile { weights: Weights(weights), config })
}

type Archive = zip::ZipArchive<std::io::BufReader<std::fs::File>>;

/// Opens PyTorch's archive.
///
/// The offset is given: PyTorch ends its archives with a ZIP64 directory where none is needed, and `zip`, looking for
/// the offset by itself, takes that directory for data in front of the archive. candle's own reader stumbles over
/// this too, which is why the tensors' bytes are read here.
fn open_archive(path: &Path) -> std::result::Result<Archive, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let config = zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) };
    zip::ZipArchive::with_config(config, std::io::BufReader::new(file)).map_err(|e| e.to_string())
}

/// The pickled object, and the folder of the tensors' bytes.
fn read_root(archive: &mut Archive) -> std::result::Result<(PathBuf, Object), String> {
    let names = (0..archive.len()).map(|k| archive.by_index(k).ok().and_then(|f| Some(f.name().ok()?.into_owned())));
    let names: Vec<Option<String>> = names.collect();
    let name = names.into_iter().flatten().find(|name| name.ends_with("data.pkl")).ok_or("it has no data.pkl")?;
    // All of it first: the checksum, which is compared at the end, must hold before the bytes are interpreted.
    let bytes = read_entry(archive, &name)?;
    let folder = PathBuf::from(name.trim_end_matches(".pkl"));
    let root = unpanicked(|| {
        let mut stack = pickle::Stack::empty();
        stack.read_loop(&mut bytes.as_slice()).map_err(|e| e.to_string())?;
        stack.finalize().map_err(|e| e.to_string())
    })?;
    Ok((folder, root))
}

fn read_entry(archive: &mut Archive, name: &str) -> std::result::Result<Vec<u8>, String> {
    let mut entry = archive.by_name(name).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Calls candle's pickle reader, which indexes into what it has read without a check and so panics on damaged pickles.
fn unpanicked<T>(
    f: impl FnOnce() -> std::result::Result<T, String> + std::panic::UnwindSafe,
) -> std::result::Result<T, String> {
    std::panic::catch_unwind(f).unwrap_or_else(|_| Err("its pickle is damaged".into()))
}

fn read_array(archive: &mut Archive, info: &pickle::TensorInfo) -> std::result::Result<Array, String> {
    let bytes = read_entry(archive, &info.path)?;
    let n = bytes.len() / info.dtype.size_in_bytes().max(1);
    let storage = Tensor::from_raw_buffer(&bytes, info.dtype, &[n], &Device::Cpu)
        .and_then(|t| t.to_dtype(DType::F64)?.to_vec1::<f64>())
        .map_err(|e| e.to_string())?;
    // A tensor may be a transposed or partial view of its storage.
    let shape = info.layout.dims().to_vec();
    let data = strided(&storage, info.layout.start_offset(), &shape, info.layout.stride());
    Ok(Array { shape, data: data.ok_or("its shape does not fit its data")? })
}

/// The elements of a view of `storage`, in row-major order; `None` if it reaches beyond the storage or repeats more
/// of it than the weights of a network do.
fn strided(storage: &[f64], start: usize, shape: &[usize], stride: &[usize]) -> Option<Vec<f64>> {
    let n = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size))?;
    if shape.len() != stride.len() || n > storage.len() {
        return None;
    }
    if n == 0 {
        return Some(Vec::new());
    }
    let mut indices = vec![start];
    for (&n, &step) in shape.iter().zip(stride) {
        let mut finer = Vec::with_capacity(indices.len() * n);
        for first in indices {
            for k in 0..n {
                finer.push(step.checked_mul(k)?.checked_add(first)?);
            }
        }
        indices = finer;
    }
    indices.into_iter().map(|k| storage.get(k).copied()).collect()
}

fn entry<'a>(entries: &'a [(Object, Object)], key: &str) -> Option<&'a Object> {
    entries.iter().find(|(k, _)| matches!(k, Object::Unicode(name) if name == key)).map(|(_, v)| v)
}

/// Plain data of a pickle as JSON; `None` for anything else.
fn to_json(object: &Object) -> Option<serde_json::Value> {
    use serde_json::Value;
    Some(match object {
        Object::Int(n) => (*n).into(),
        Object::Long(n) => (*n).into(),
        Object::Float(x) => serde_json::Number::from_f64(*x)?.into(),
        Object::Unicode(s) => s.clone().into(),
        Object::Bool(b) => (*b).into(),
        Object::None => Value::Null,
        Object::List(items) | Object::Tuple(items) => items.iter().map(to_json).collect::<Option<Vec<_>>>()?.into(),
        Object::Dict(entries) => Value::Object(
            entries
                .iter()
                .map(|(k, v)| match k {
                    Object::Unicode(name) => Some((name.clone(), to_json(v)?)),
                    _ => None,
                })
                .collect::<Option<_>>()?,
        ),
        _ => return None,
    })
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
