//! The error type of this library: plain data, with messages for people.
//!
//! Messages name settings as this library calls them, such as `BatchSize` or `Reader::with_max_frame`.

mod cuda;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use cuda::CudaError;
#[cfg(feature = "cuda")]
pub(crate) use cuda::OLDEST_DRIVER;

/// Result of every fallible call of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, with the values that a caller needs to act on it.
///
/// Programs tell errors apart by variant or, across languages, by [`code`](Error::code). Messages are for people and
/// may change.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read, written or renamed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<std::io::Error>,
    },
    /// A file exists already, and the caller did not allow to replace it.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A frame of an XYZ file cannot be read.
    #[error("{}: frame {frame}, line {line}: {reason}", path.display())]
    Xyz {
        /// The file; `-` for standard input.
        path: PathBuf,
        /// Index of the frame in the file, counted from 0, as in ASE.
        frame: usize,
        /// Line in the file, counted from 1, as in editors.
        line: usize,
        /// What was found and what was expected.
        reason: String,
    },
    /// An array does not have the required shape.
    #[error("{what}: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// Name of the array.
        what: String,
        /// Required shape.
        expected: Vec<usize>,
        /// Shape found.
        got: Vec<usize>,
    },
    /// A structure cannot be evaluated: for example, a position is not finite, or a periodic structure has no cell.
    #[error("{0}")]
    Structure(String),
    /// A structure holds an element that the model was not trained on.
    #[error("element {} (Z = {z}, atom {atom}) is not known to this model, which supports {}", symbol_of(*z), symbols_of(supported))]
    UnknownElement {
        /// Atomic number found.
        z: u8,
        /// Index of the first such atom.
        atom: usize,
        /// Atomic numbers of the elements that the model knows.
        supported: Vec<u8>,
    },
    /// An integer atom type stands for no element; see [`ElementTypes`](crate::structure::ElementTypes).
    #[error("atom {atom} has type {found}, but {}", elements_given(*first, *last))]
    UnknownType {
        /// Type found.
        found: i64,
        /// Index of the first such atom.
        atom: usize,
        /// First type that has an element.
        first: i64,
        /// Last type that has an element.
        last: i64,
    },
    /// Two atoms lie so close to each other that no model can evaluate them.
    #[error("atoms {i} and {j} overlap: {distance:.4} Å apart, less than {minimum} Å; are positions and cell in Å?")]
    Overlap {
        /// Index of the first atom.
        i: usize,
        /// Index of the second atom, which may be meant as a periodic image; equal to `i` for an atom's own image.
        j: usize,
        /// Distance, Å.
        distance: f64,
        /// Smallest distance allowed, Å.
        minimum: f64,
    },
    /// A structure or a result is so far from the training data that the result would mean nothing; see
    /// [`limits`](crate::model::limits).
    #[error("{what} is {}, {} of {} that this model can say anything about: are positions and cell in Å, and no atoms on top of each other?", amount(*got, unit), if got < limit { "below the least" } else { "beyond the most" }, amount(*limit, unit))]
    OutOfRange {
        /// Which distance or result.
        what: String,
        /// Its unit.
        unit: &'static str,
        /// Value found.
        got: f64,
        /// The smallest or largest value that is accepted.
        limit: f64,
    },
    /// A structure has a charge or a spin multiplicity that the model does not describe.
    #[error("{what} is {got}, but this model describes only {supported}")]
    ChargeOrSpin {
        /// `total charge` or `spin multiplicity`.
        what: &'static str,
        /// Value found; charges in e.
        got: f64,
        /// Value that the model was trained for.
        supported: f64,
    },
    /// A result is NaN or infinite.
    #[error("{what} is not finite: the structure is outside what this model can evaluate")]
    NonFinite {
        /// Which result.
        what: String,
    },
    /// A model directory, a weight file or a configuration cannot be used.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The directory or file.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        reason: String,
    },
    /// A file is not a calibration, or is damaged.
    #[error("{}: {reason}", path.display())]
    Calibration {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        reason: String,
    },
    /// A call cannot be carried out as it was made: an argument is invalid, arguments do not fit together, or what it
    /// needs, such as a thread, is not available.
    #[error("{0}")]
    Usage(String),
    /// This build of the crate lacks a cargo feature that the call needs.
    #[error("this program was built without {what}; the cargo feature `{feature}` has it")]
    NotBuilt {
        /// What is missing, such as `the engine for GPUs`.
        what: &'static str,
        /// The cargo feature that contains it.
        feature: &'static str,
    },
    /// No GPU can be used, or a GPU failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The tensor library (candle) failed.
    #[error("tensor library: {0}")]
    Tensor(String),
    /// A bug in this library or its command line program. Please report it.
    #[error("{0}: please report it")]
    Defect(String),
}

impl Error {
    /// A word for the kind of error, the same in all versions.
    ///
    /// The last column says what [`is_of_structure`](Error::is_of_structure) tells: whether the cause lies in one
    /// structure or frame, or in the run as a whole.
    ///
    /// | code | variant | cause |
    /// |---|---|---|
    /// | `parse` | [`Xyz`](Error::Xyz) | frame |
    /// | `shape` | [`Shape`](Error::Shape) | structure |
    /// | `structure` | [`Structure`](Error::Structure) | structure |
    /// | `unknown_element` | [`UnknownElement`](Error::UnknownElement) | structure |
    /// | `unknown_type` | [`UnknownType`](Error::UnknownType) | structure |
    /// | `overlap` | [`Overlap`](Error::Overlap) | structure |
    /// | `out_of_range` | [`OutOfRange`](Error::OutOfRange) | structure |
    /// | `charge_or_spin` | [`ChargeOrSpin`](Error::ChargeOrSpin) | structure |
    /// | `non_finite` | [`NonFinite`](Error::NonFinite) | structure |
    /// | `io` | [`Io`](Error::Io) | run |
    /// | `exists` | [`Exists`](Error::Exists) | run |
    /// | `model` | [`Model`](Error::Model) | run |
    /// | `calibration` | [`Calibration`](Error::Calibration) | run |
    /// | `usage` | [`Usage`](Error::Usage) | run |
    /// | `not_built` | [`NotBuilt`](Error::NotBuilt) | run |
    /// | `cuda` | [`Cuda`](Error::Cuda) | run |
    /// | `tensor` | [`Tensor`](Error::Tensor) | run |
    /// | `defect` | [`Defect`](Error::Defect) | run |
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "io",
            Error::Exists { .. } => "exists",
            Error::Xyz { .. } => "parse",
            Error::Shape { .. } => "shape",
            Error::Structure(_) => "structure",
            Error::UnknownElement { .. } => "unknown_element",
            Error::UnknownType { .. } => "unknown_type",
            Error::Overlap { .. } => "overlap",
            Error::OutOfRange { .. } => "out_of_range",
            Error::ChargeOrSpin { .. } => "charge_or_spin",
            Error::NonFinite { .. } => "non_finite",
            Error::Model { .. } => "model",
            Error::Calibration { .. } => "calibration",
            Error::Usage(_) => "usage",
            Error::NotBuilt { .. } => "not_built",
            Error::Cuda(_) => "cuda",
            Error::Tensor(_) => "tensor",
            Error::Defect(_) => "defect",
        }
    }

    /// Whether the cause lies in one structure or frame. The others can still be evaluated. All other errors concern
    /// the run as a whole, and would most likely occur again.
    pub fn is_of_structure(&self) -> bool {
        match self {
            Error::Xyz { .. }
            | Error::Shape { .. }
            | Error::Structure(_)
            | Error::UnknownElement { .. }
            | Error::UnknownType { .. }
            | Error::Overlap { .. }
            | Error::OutOfRange { .. }
            | Error::ChargeOrSpin { .. }
            | Error::NonFinite { .. } => true,
            Error::Io { .. }
            | Error::Exists { .. }
            | Error::Model { .. }
            | Error::Calibration { .. }
            | Error::Usage(_)
            | Error::NotBuilt { .. }
            | Error::Cuda(_)
            | Error::Tensor(_)
            | Error::Defect(_) => false,
        }
    }

    /// An I/O error, with the path that it concerns.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source: Arc::new(source) }
    }

    /// An error that says why a model directory or a weight file cannot be used.
    pub fn model(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Error::Model { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }
}

/// A number with its unit, short enough to read.
fn amount(x: f64, unit: &str) -> String {
    if (1e-3..1e6).contains(&x.abs()) { format!("{x:.3} {unit}") } else { format!("{x:.3e} {unit}") }
}

fn elements_given(first: i64, last: i64) -> String {
    match last < first {
        true => "no elements were given for types".into(),
        false => format!("elements were given for the types {first} to {last}"),
    }
}

fn symbol_of(z: u8) -> &'static str {
    crate::elements::symbol(z).unwrap_or("?")
}

fn symbols_of(numbers: &[u8]) -> String {
    numbers.iter().map(|&z| symbol_of(z)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One error of each kind, with the code that programs know it by and whether it is a structure's. Codes never change:
    /// lines are added here, and none is edited.
    fn all() -> Vec<(Error, &'static str, bool)> {
        let path = PathBuf::from("f");
        vec![
            (Error::io("f", std::io::ErrorKind::NotFound.into()), "io", false),
            (Error::Exists { path: path.clone() }, "exists", false),
            (Error::Xyz { path: path.clone(), frame: 0, line: 1, reason: String::new() }, "parse", true),
            (Error::Shape { what: "x".into(), expected: vec![1], got: vec![2] }, "shape", true),
            (Error::Structure(String::new()), "structure", true),
            (Error::UnknownElement { z: 9, atom: 0, supported: vec![1] }, "unknown_element", true),
            (Error::UnknownType { found: 3, atom: 0, first: 1, last: 2 }, "unknown_type", true),
            (Error::Overlap { i: 0, j: 1, distance: 0.0, minimum: 0.1 }, "overlap", true),
            (Error::OutOfRange { what: "x".into(), unit: "eV", got: 2.0, limit: 1.0 }, "out_of_range", true),
            (Error::ChargeOrSpin { what: "total charge", got: 1.0, supported: 0.0 }, "charge_or_spin", true),
            (Error::NonFinite { what: "the energy".into() }, "non_finite", true),
            (Error::model("f", ""), "model", false),
            (Error::Calibration { path, reason: String::new() }, "calibration", false),
            (Error::Usage(String::new()), "usage", false),
            (Error::NotBuilt { what: "", feature: "" }, "not_built", false),
            (CudaError::NoGpu { ordinal: 0, found: 0 }.into(), "cuda", false),
            (Error::Tensor(String::new()), "tensor", false),
            (Error::Defect(String::new()), "defect", false),
        ]
    }

    #[test]
    fn codes_of_errors_never_change() {
        for (error, code, is_of_structure) in all() {
            assert_eq!((error.code(), error.is_of_structure()), (code, is_of_structure), "{error:?}");
            assert_eq!(error.to_string(), error.clone().to_string());
        }
        // Each is in the list of the documentation, and nothing else is.
        let codes: std::collections::BTreeSet<&str> = all().iter().map(|(_, code, _)| *code).collect();
        let listed = include_str!("mod.rs").lines().filter_map(|line| line.trim().strip_prefix("/// | `"));
        let listed: std::collections::BTreeSet<&str> = listed.filter_map(|line| line.split('`').next()).collect();
        assert_eq!(codes, listed);
    }

    #[test]
    fn errors_of_the_system_keep_their_source() {
        let error = Error::io("f", std::io::ErrorKind::NotFound.into());
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.to_string().contains(&source) && error.to_string().starts_with("f: "));
    }
}
