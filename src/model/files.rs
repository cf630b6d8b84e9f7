//! Files that may be from strangers: regular ones only, of bounded size, looked at before they are opened.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Reads a file that the user named; links are followed.
///
/// # Errors
/// `Error::Io`, `Error::Model` for what is no regular file, or larger than `limit`.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    regular(path, &std::fs::metadata(path).map_err(|e| Error::io(path, e))?, limit)?;
    take(path, File::open(path).map_err(|e| Error::io(path, e))?, limit)
}

/// Reads a file of a model directory, `None` where there is none. A link must stay inside of `folder`: whoever made the folder
/// does not choose which of the user's other files are read, and shown.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_within(folder: &Path, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    match std::fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
        Ok(metadata) if metadata.is_symlink() => inside(folder, &path)?,
        Ok(_) => {}
    }
    read(&path, limit).map(Some)
}

/// Refuses links to the outside. Caches of models keep the files of one model as links to a folder of blobs beside its
/// versions; such a folder is to be copied.
fn inside(folder: &Path, link: &Path) -> Result<()> {
    let resolve = |path: &Path| -> Result<PathBuf> { path.canonicalize().map_err(|e| Error::io(path, e)) };
    let target = resolve(link)?;
    if target.starts_with(resolve(folder)?) {
        return Ok(());
    }
    let reason = format!(
        "is a link to {}, outside of the model directory: put the file itself there (cp -L follows links)",
        target.display()
    );
    Err(Error::model(link, reason))
}

fn regular(path: &Path, metadata: &Metadata, limit: u64) -> Result<()> {
    if metadata.is_dir() {
        return Err(Error::io(path, io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(Error::model(path, "is a pipe or a device, expected a regular file"));
    }
    if metadata.len() > limit {
        return Err(too_large(path, metadata.len(), limit));
    }
    Ok(())
}

fn too_large(path: &Path, found: u64, limit: u64) -> Error {
    Error::model(path, format!("has {found} bytes or more, expected {limit} at most"))
}

fn take(path: &Path, file: File, limit: u64) -> Result<Vec<u8>> {
    // What was opened, which may be another than what was looked at.
    let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
    regular(path, &metadata, limit)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // A file may grow while it is read.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    let n = bytes.len() as u64;
    if n > limit { Err(too_large(path, n, limit)) } else { Ok(bytes) }
}
