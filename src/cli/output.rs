//! One place decides about every file that a command reads and writes.

use std::io::Write;
use std::path::{Path, PathBuf};

use mlff::calibration::Calibration;
use mlff::files::{Identity, Partial, Place, place};
use mlff::{Error, Result};

use super::model::ModelArgs;
use super::{complain, words};

/// The files of a command: none is written that is read, and none twice, whatever it is called (`a` and `./a`, links).
/// Known before anything is computed.
#[derive(Default)]
pub struct Files {
    inputs: Vec<(PathBuf, Identity)>,
    outputs: Vec<(PathBuf, Identity)>,
    writes_standard_output: bool,
}

impl Files {
    /// What is read.
    pub fn reads<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) {
        let known = paths.into_iter().filter_map(|path| Some((path.to_path_buf(), Identity::of(path)?)));
        self.inputs.extend(known);
    }

    /// What a model is read from.
    pub fn reads_model(&mut self, args: &ModelArgs) {
        let files = ["config.json", "model.safetensors", "README.md"].map(|name| args.model.join(name));
        self.reads(files.iter().filter(|file| file.is_file()).map(PathBuf::as_path));
        let calibration = args.calibration.clone().or_else(Calibration::user_file);
        self.reads(calibration.iter().filter(|file| file.is_file()).map(PathBuf::as_path));
    }

    /// Something that is written besides: a report.
    ///
    /// # Errors
    /// As [`Files::writes`]; `Error::Exists` where it exists and `overwrite` is not set.
    pub fn writes_report(&mut self, path: &Path, overwrite: bool) -> Result<()> {
        self.writes(path)?;
        refuse_existing(path, overwrite)
    }

    /// What is written.
    ///
    /// # Errors
    /// `Error::Usage` for what is read, or written already.
    pub fn writes(&mut self, path: &Path) -> Result<()> {
        let identity = if path.as_os_str() == "-" {
            super::standard_output::check()?;
            if std::mem::replace(&mut self.writes_standard_output, true) {
                return Err(Error::Usage("standard output (-) can have only one of the outputs".into()));
            }
            Identity::of_standard_output()
        } else {
            Identity::of(path)
        };
        // Devices and pipes take whatever comes; what is no file at all is an error when it is opened.
        let Some(identity) = identity else { return Ok(()) };
        if let Some((input, _)) = self.inputs.iter().find(|(_, other)| *other == identity) {
            return Err(Error::Usage(format!("{} is both input and output", input.display())));
        }
        if let Some((first, _)) = self.outputs.iter().find(|(_, other)| *other == identity) {
            let names = if first == path {
                path.display().to_string()
            } else {
                format!("{} and {}, which are one file", first.display(), path.display())
            };
            return Err(Error::Usage(format!("two outputs would be written to {names}: give each a name of its own")));
        }
        self.outputs.push((path.to_path_buf(), identity));
        Ok(())
    }
}

/// Refuses a file that exists, unless it is to be replaced.
///
/// # Errors
/// `Error::Exists`.
pub fn refuse_existing(path: &Path, overwrite: bool) -> Result<()> {
    match place(path) {
        Ok(Place::File(file)) if !overwrite && file.exists() => Err(Error::Exists { path: path.to_path_buf() }),
        _ => Ok(()),
    }
}

/// What cannot be read, of inputs; looked up before anything is computed.
pub fn unreadable<'a>(inputs: impl IntoIterator<Item = &'a PathBuf>) -> Vec<Error> {
    let problem = |path: &PathBuf| {
        if path.as_os_str() == "-" {
            return None;
        }
        let looked_up = std::fs::metadata(path).and_then(|m| {
            // A pipe would wait for whoever writes to it.
            if m.is_file() { std::fs::File::open(path).map(drop) } else { Ok(()) }
        });
        let is_folder = path.is_dir().then(|| {
            let reason = std::io::Error::new(std::io::ErrorKind::IsADirectory, "is a directory, expected a file");
            Error::io(path, reason)
        });
        looked_up.err().map(|e| Error::io(path, e)).or(is_folder)
    };
    inputs.into_iter().filter_map(problem).collect()
}

/// Names every input that cannot be read, and ends with that.
///
/// # Errors
/// `Error::Io`.
pub fn refuse_unreadable<'a>(inputs: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let mut errors = unreadable(inputs);
    let Some(last) = errors.pop() else { return Ok(()) };
    errors.iter().for_each(|error| complain(&format!("error: {}", words::message(error))));
    Err(last)
}

/// A file that is written beside its place, and renamed when all of it is there; dropped before, it is gone.
pub struct Output {
    path: PathBuf,
    partial: Option<Partial>,
}

impl Output {
    /// Makes sure that the file can be written.
    ///
    /// # Errors
    /// `Error::Usage` for a path that is no file's, `Error::Exists` where it is there and not to be replaced; `Error::Io` if it cannot be created.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        if path.is_dir() || path.file_name().is_none() {
            return Err(Error::Usage(format!("{}: expected the name of a file to write", path.display())));
        }
        let partial = match place(path)? {
            Place::File(file) => Some(Partial::create(path, &file, overwrite)?),
            Place::Standard | Place::Stream => None,
        };
        Ok(Output { path: path.into(), partial })
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn write(self, text: &str) -> Result<()> {
        let io_error = |e| Error::io(&self.path, e);
        match self.partial {
            Some(mut partial) => {
                partial.file.write_all(text.as_bytes()).map_err(io_error)?;
                partial.finish()
            }
            None if self.path.as_os_str() == "-" => super::print(text),
            None => {
                let stream = std::fs::OpenOptions::new().write(true).open(&self.path);
                stream.and_then(|mut stream| stream.write_all(text.as_bytes())).map_err(io_error)
            }
        }
    }
}
