//! The one error type of the library: plain data, rendered for people by the command line.

mod cuda;

use std::path::{Path, PathBuf};

pub use cuda::CudaError;
pub(crate) use cuda::OLDEST_DRIVER;

/// Result of every fallible call of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, with the values a caller needs to act on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read, written or renamed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An XYZ file holds something that cannot be read as a structure.
    #[error("{}: frame {frame}, line {line}: {reason}", path.display())]
    Xyz {
        /// The file; `-` for standard input.
        path: PathBuf,
        /// Index of the frame in the file, from 0 as in ASE.
        frame: usize,
        /// Line in the file, from 1 as in editors.
        line: usize,
        /// What was found and what was expected.
        reason: String,
    },
    /// An array has another shape than the one required.
    #[error("{what}: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// Name of the array.
        what: String,
        /// Required shape.
        expected: Vec<usize>,
        /// Shape found.
        got: Vec<usize>,
    },
    /// A structure is not one that can be evaluated.
    #[error("{0}")]
    Structure(String),
    /// A structure holds an element that the model was not trained on.
    #[error("element {} (Z = {z}, atom {atom}) is not known to this model, which supports {}", symbol_of(*z), symbols_of(supported))]
    UnknownElement {
        /// Atomic number found.
        z: u8,
        /// Index of the first such atom.
        atom: usize,
        /// Atomic numbers that the model knows.
        supported: Vec<u8>,
    },
    /// Two atoms lie closer than any model can say something about.
    #[error("atoms {i} and {j} overlap: {distance:.4} Å apart, less than {minimum} Å; are positions and cell in Å?")]
    Overlap {
        /// First atom.
        i: usize,
        /// Second atom, or an image of it.
        j: usize,
        /// Distance, Å.
        distance: f64,
        /// Smallest distance allowed, Å.
        minimum: f64,
    },
    /// A structure or a result is so far outside of what the model was trained on that it means nothing.
    #[error("{what} is {}, {} of {} that this model can say anything about: are positions and cell in Å, and no atoms on top of each other?", amount(*got, unit), if got < limit { "below the least" } else { "beyond the most" }, amount(*limit, unit))]
    OutOfRange {
        /// Which distance or result.
        what: String,
        /// Its unit.
        unit: &'static str,
        /// Value found.
        got: f64,
        /// Last value that is let pass.
        limit: f64,
    },
    /// The structure carries a charge or spin state that the model does not describe.
    #[error("{what} is {got}, but this model describes only {supported}")]
    ChargeOrSpin {
        /// `charge` or `spin multiplicity`.
        what: &'static str,
        /// Value found.
        got: f64,
        /// Value the model was trained for.
        supported: f64,
    },
    /// A result is NaN or infinite.
    #[error("{what} is not finite: the structure is outside what this model can evaluate")]
    NonFinite {
        /// Which result.
        what: String,
    },
    /// A model directory, weight file or configuration is refused.
    #[error("{}: {reason}", path.display())]
    Model {
        /// Directory or file.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        reason: String,
    },
    /// A file of measurements is none, or damaged.
    #[error("{}: {reason}", path.display())]
    Calibration {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        reason: String,
    },
    /// A call asks for something that does not exist or does not fit together.
    #[error("{0}")]
    Usage(String),
    /// There is no GPU that can be used, or it failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The tensor library failed.
    #[error("tensor library: {0}")]
    Tensor(String),
}

impl Error {
    /// Wraps an I/O error with the path it happened on.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// Refuses a model directory or weight file.
    pub fn model(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Error::Model { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }
}

/// A number with its unit, short enough to read.
fn amount(x: f64, unit: &str) -> String {
    if (1e-3..1e6).contains(&x.abs()) { format!("{x:.3} {unit}") } else { format!("{x:.3e} {unit}") }
}

fn symbol_of(z: u8) -> &'static str {
    crate::elements::symbol(z).unwrap_or("?")
}

fn symbols_of(numbers: &[u8]) -> String {
    numbers.iter().map(|&z| symbol_of(z)).collect::<Vec<_>>().join(" ")
}
