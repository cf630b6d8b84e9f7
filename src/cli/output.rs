//! Files that are complete or absent.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use mlff::{Error, Result};

/// A file that is written beside its place, and renamed when all of it is there; dropped before, it is gone.
pub struct Output {
    path: PathBuf,
    partial: PathBuf,
    file: File,
}

impl Output {
    /// Makes sure that the file can be written.
    ///
    /// # Errors
    /// `Error::Usage` for a path that is no file's, `Error::Io` if it cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(Error::Usage(format!("{}: expected the name of a file to write", path.display())));
        };
        let partial = path.with_file_name(format!(".{}.part", name.to_string_lossy()));
        let file = File::create(&partial).map_err(|e| Error::io(path, e))?;
        Ok(Output { path: path.into(), partial, file })
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn write(mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&self.partial, &self.path));
        written.map_err(|e| Error::io(&self.path, e))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Gone already where it was renamed.
        let _ = std::fs::remove_file(&self.partial);
    }
}
