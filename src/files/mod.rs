//! Files that are written: complete or absent, and of one run.
//!
//! Everything that this program leaves on disk goes through here. Text goes to a hidden file beside its destination
//! ([`Partial`]), which is made anew, is locked while in use, and gets the destination's name when all of it is there.
//! Standard output, and destinations that are no regular files (`/dev/null`, pipes), are written directly ([`place`]).
//! What a process leaves unfinished that ends without unwinding is known to [`abandon`].

mod live;
mod lock;
mod partial;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use live::{Abandoned, abandon};
pub use partial::Partial;
pub(crate) use partial::PartialFolder;

use crate::error::{Error, Result};

/// Where what is written under a path goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Standard output (`-`).
    Standard,
    /// A device or a pipe, which is written directly.
    Stream,
    /// A regular file of this path, there or not; links are followed, so that they keep pointing to their file.
    File(PathBuf),
}

/// Links that are followed at most, as by the system.
const MOST_LINKS: usize = 40;

/// Finds out where a path leads.
///
/// # Errors
/// `Error::Usage` for a path that names no file; `Error::Io` for a folder, a name that the file system does not take, a
/// path that may not be looked at.
pub fn place(path: &Path) -> Result<Place> {
    if path.as_os_str() == "-" {
        return Ok(Place::Standard);
    }
    let io_error = |e| Error::io(path, e);
    let mut file = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::metadata(&file) {
            Ok(m) if m.is_dir() => return Err(io_error(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"))),
            Ok(m) if m.is_file() => return file.canonicalize().map(Place::File).map_err(io_error),
            Ok(_) => return Ok(Place::Stream),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error(e)),
        }
        let names_file = file.file_name().is_some() && !file.as_os_str().as_encoded_bytes().ends_with(b"/");
        if !names_file {
            return Err(Error::Usage(format!("{} names no file", path.display())));
        }
        // A link to a file that is not there yet: the file is made, the link stays.
        match fs::read_link(&file) {
            Ok(target) => file = file.with_file_name("").join(target),
            Err(_) => return Ok(Place::File(file)),
        }
    }
    Err(io_error(io::Error::other("too many links, or links in a circle")))
}

/// What tells whether two paths are one file, there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Device and number of a file that is there: the same under every name.
    Number(u64, u64),
    /// Folder, links resolved, and name of a file that is not there yet.
    Name(PathBuf),
}

impl Identity {
    /// Of a regular file, there or not; `None` for all else.
    pub fn of(path: &Path) -> Option<Self> {
        let Ok(Place::File(file)) = place(path) else { return None };
        if let Ok(metadata) = fs::metadata(&file) {
            return Some(Self::of_metadata(&metadata).unwrap_or(Identity::Name(file)));
        }
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder.canonicalize().or_else(|_| std::path::absolute(folder)).ok()?;
        Some(Identity::Name(folder.join(file.file_name()?)))
    }

    /// Of the file that standard output goes to, where it is one.
    pub fn of_standard_output() -> Option<Self> {
        #[cfg(unix)]
        {
            use std::os::fd::AsFd;
            let output = std::io::stdout().as_fd().try_clone_to_owned().ok()?;
            let metadata = fs::File::from(output).metadata().ok()?;
            metadata.is_file().then(|| Self::of_metadata(&metadata)).flatten()
        }
        #[cfg(not(unix))]
        None
    }

    fn of_metadata(metadata: &fs::Metadata) -> Option<Self> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Some(Identity::Number(metadata.dev(), metadata.ino()))
        }
        #[cfg(not(unix))]
        {
            let _ = metadata;
            None
        }
    }
}

/// Bytes that a name may have on most file systems.
const MOST_BYTES: usize = 255;
const ENDING: &str = ".mlff-part";

/// Where what is written stands until it is complete: `.NAME.mlff-part` beside it. A long name is cut, with a hash of all
/// of it behind, so that the hidden name is one that the file system takes too.
pub(crate) fn hidden_name(destination: &Path) -> Result<PathBuf> {
    let Some(name) = destination.file_name() else {
        return Err(Error::Usage(format!("{} names no file", destination.display())));
    };
    let most = most_bytes(destination);
    let mut hidden = OsString::from(".");
    if name.len() + 1 + ENDING.len() <= most {
        hidden.push(name);
    } else {
        let hash = fnv(name.as_encoded_bytes());
        hidden.push(start_of(name, most.saturating_sub(18 + ENDING.len()).max(1)));
        hidden.push(format!("~{hash:016x}"));
    }
    hidden.push(ENDING);
    Ok(destination.with_file_name(hidden))
}

/// The limit of the file system that a file is on or will be.
fn most_bytes(destination: &Path) -> usize {
    #[cfg(unix)]
    {
        let folder = destination.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let limit = rustix::fs::statvfs(folder).map_or(0, |s| s.f_namemax);
        usize::try_from(limit).ok().filter(|limit| (32..=MOST_BYTES).contains(limit)).unwrap_or(MOST_BYTES)
    }
    #[cfg(not(unix))]
    {
        let _ = destination;
        MOST_BYTES
    }
}

/// At most so many bytes of a name, whole characters where it is text.
fn start_of(name: &OsStr, most: usize) -> OsString {
    if let Some(text) = name.to_str() {
        let end = (0..=most.min(text.len())).rev().find(|&k| text.is_char_boundary(k)).unwrap_or(0);
        return text[..end].into();
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let bytes = name.as_bytes();
        OsStr::from_bytes(&bytes[..most.min(bytes.len())]).into()
    }
    #[cfg(not(unix))]
    OsString::new()
}

/// FNV-1a: it tells long names in one folder apart.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Refuses a destination that exists, unless it is to be replaced.
fn refuse_existing(destination: &Path, named: &Path, overwrite: bool) -> Result<()> {
    if overwrite || fs::symlink_metadata(destination).is_err() {
        return Ok(());
    }
    Err(Error::Exists { path: named.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_are_within_the_limit_and_differ() {
        let hidden = |name: &str| hidden_name(Path::new(name)).unwrap().into_os_string().into_string().unwrap();
        assert_eq!(hidden("out.xyz"), ".out.xyz.mlff-part");
        let (a, b) = ("ü".repeat(120) + "a.xyz", "ü".repeat(120) + "b.xyz");
        for name in [&a, &b, &"x".repeat(255)] {
            let hidden = hidden(name);
            assert!(hidden.len() <= 255 && hidden.starts_with('.') && hidden.ends_with(".mlff-part"), "{hidden}");
        }
        assert_ne!(hidden(&a), hidden(&b));
    }

    #[cfg(unix)]
    #[test]
    fn identity_is_that_of_the_file_under_every_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a"), "").unwrap();
        fs::hard_link(at("a"), at("hard")).unwrap();
        std::os::unix::fs::symlink("a", at("soft")).unwrap();
        std::os::unix::fs::symlink("not-yet", at("dangling")).unwrap();
        fs::create_dir(at("dir")).unwrap();
        let a = Identity::of(&at("a")).unwrap();
        for name in ["hard", "soft", "./a", "dir/../a"] {
            assert_eq!(Identity::of(&at(name)).as_ref(), Some(&a), "{name}");
        }
        assert_eq!(Identity::of(&at("dangling")), Identity::of(&at("dir/../not-yet")));
        assert_ne!(Identity::of(&at("not-yet")), Identity::of(&at("dir/not-yet")));
        for none in ["-", "/dev/null"] {
            assert_eq!(Identity::of(Path::new(none)), None);
        }
        assert_eq!(place(&at("dangling")).unwrap(), Place::File(at("not-yet")));
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        assert!(place(&at("circle")).is_err() && place(&at("dir")).is_err() && place(&at("new/")).is_err());
        assert!(place(&at(&"x".repeat(300))).is_err());
    }
}
