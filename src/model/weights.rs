//! The weights of a model: arrays by name, read from and written to safetensors files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, View};

use super::json;
use crate::error::{Error, Result};
use crate::ops::Real;
use crate::ops::dense::Linear;

/// One array of numbers, in f64 whatever the file has.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Size of each dimension.
    pub shape: Vec<usize>,
    /// Values in row-major order (the last index runs fastest); as many as the product of `shape`.
    pub data: Vec<f64>,
}

/// Arrays by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights(pub BTreeMap<String, Array>);

impl Weights {
    /// Reads the bytes of a safetensors file. `path` is only used in error messages.
    ///
    /// # Errors
    /// `Error::Model` for a damaged file, or a tensor whose type is not F16, BF16, F32 or F64.
    pub fn from_safetensors(path: &Path, bytes: &[u8]) -> Result<Self> {
        let refuse = |e: String| Error::model(path, format!("not a readable safetensors file: {e}"));
        let file = SafeTensors::deserialize(bytes).map_err(|e| refuse(e.to_string()))?;
        json::check_keys(header(bytes)).map_err(|e| refuse(format!("its header: {e}")))?;
        let mut weights = BTreeMap::new();
        for (name, view) in file.tensors() {
            let data = decode(view.dtype(), view.data()).ok_or_else(|| {
                Error::model(path, format!("tensor {name} has type {:?}, expected F16, BF16, F32 or F64", view.dtype()))
            })?;
            weights.insert(name, Array { shape: view.shape().to_vec(), data });
        }
        Ok(Weights(weights))
    }

    /// The bytes of a safetensors file: an array is stored in f32 if that changes none of its values, else in f64.
    /// `path` is only used in error messages.
    ///
    /// # Errors
    /// `Error::Model` if the format cannot hold the arrays.
    pub fn to_safetensors(&self, path: &Path) -> Result<Vec<u8>> {
        safetensors::serialize(self.0.iter().map(|(name, array)| (name, Stored::new(array))), None)
            .map_err(|e| Error::model(path, e.to_string()))
    }

    /// Removes and returns the array `name`, which must have this shape.
    ///
    /// # Errors
    /// `Error::Usage` if it is missing, `Error::Shape` if it has another shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Array> {
        let array = self.0.remove(name).ok_or_else(|| {
            Error::Usage(format!("tensor {name} {shape:?} is missing; there are: {}", self.some_names()))
        })?;
        if array.shape != shape {
            return Err(Error::Shape { what: format!("tensor {name}"), expected: shape.to_vec(), got: array.shape });
        }
        Ok(array)
    }

    /// Adds an array; one of the same name is replaced.
    pub fn put(&mut self, name: impl Into<String>, array: Array) {
        self.0.insert(name.into(), array);
    }

    /// Checks that no array holds a NaN or an infinity.
    ///
    /// # Errors
    /// `Error::Usage`, which names the first such array and element.
    pub fn check_finite(&self) -> Result<()> {
        for (name, array) in &self.0 {
            if let Some(k) = array.data.iter().position(|x| !x.is_finite()) {
                return Err(Error::Usage(format!(
                    "tensor {name} holds {} at element {k}: the weights are damaged or the training diverged",
                    array.data[k]
                )));
            }
        }
        Ok(())
    }

    /// The first few names, for error messages.
    pub fn some_names(&self) -> String {
        let mut names: Vec<&str> = self.0.keys().take(6).map(String::as_str).collect();
        if self.0.len() > names.len() {
            names.push("…");
        }
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }

    /// The array of this name.
    ///
    /// # Errors
    /// `Error::Usage` if it is missing.
    pub fn get(&self, name: &str) -> Result<&Array> {
        self.0.get(name).ok_or_else(|| Error::Usage(format!("tensor {name} is missing")))
    }

    #[doc(hidden)]
    /// Values of an array in the type of an evaluation.
    ///
    /// # Errors
    /// `Error::Usage` if it is missing.
    pub fn cast<T: Real>(&self, name: &str) -> Result<Vec<T>> {
        Ok(self.get(name)?.data.iter().map(|&x| T::of(x)).collect())
    }

    #[doc(hidden)]
    /// The layer `NAME.weight`, `NAME.bias` (the latter optional).
    ///
    /// # Errors
    /// `Error::Usage` if the weight is missing.
    pub fn linear<T: Real>(&self, name: &str) -> Result<Linear<T>> {
        let weight = self.get(&format!("{name}.weight"))?;
        let bias = format!("{name}.bias");
        Ok(Linear {
            n_out: weight.shape[0],
            n_in: weight.shape[1],
            weight: self.cast(&format!("{name}.weight"))?,
            bias: if self.0.contains_key(&bias) { Some(self.cast(&bias)?) } else { None },
        })
    }
}

/// The JSON text at the start.
fn header(bytes: &[u8]) -> &[u8] {
    let Some((length, rest)) = bytes.split_first_chunk() else { return &[] };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    rest.get(..length).unwrap_or_default()
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f64>> {
    Some(match dtype {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f64()).collect(),
        _ => return None,
    })
}

/// An array in the narrowest of f32 and f64 that keeps every value.
struct Stored {
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(array: &Array) -> Self {
        let fits = array.data.iter().all(|&x| f64::from(x as f32) == x);
        let bytes = if fits {
            array.data.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()
        } else {
            array.data.iter().flat_map(|&x| x.to_le_bytes()).collect()
        };
        Stored { shape: array.shape.clone(), dtype: if fits { Dtype::F32 } else { Dtype::F64 }, bytes }
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
