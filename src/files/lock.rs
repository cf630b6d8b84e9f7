//! Locks on unfinished files, and opening what may have been put in their place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// What came of asking for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// It is ours until the file is closed, by the system when the process ends.
    Ours,
    /// Another process, or another part of this one, has it.
    Theirs,
    /// The file system knows no locks.
    Unknown,
}

/// Asks for the one lock on a file or folder, without waiting.
#[cfg(unix)]
pub(super) fn lock(file: &File) -> io::Result<Lock> {
    use rustix::io::Errno;
    loop {
        match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock::Ours),
            Err(Errno::WOULDBLOCK) => return Ok(Lock::Theirs),
            Err(Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::NOTSUP | Errno::NOLCK | Errno::INVAL | Errno::BADF) => return Ok(Lock::Unknown),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(not(unix))]
pub(super) fn lock(_: &File) -> io::Result<Lock> {
    Ok(Lock::Unknown)
}

/// Opens what is there without following a link and without waiting for a pipe's other end.
pub(super) fn open_existing(path: &Path, write: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    options.open(path)
}

/// Whether the file that is open is the one under this name.
#[cfg(unix)]
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let number = |m: &fs::Metadata| (m.dev(), m.ino());
    matches!((file.metadata(), fs::symlink_metadata(path)), (Ok(a), Ok(b)) if number(&a) == number(&b))
}

#[cfg(not(unix))]
pub(super) fn is_at(_: &File, path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether a file has other names too.
pub(super) fn has_other_names(file: &File) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok(file.metadata()?.nlink() > 1)
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        Ok(false)
    }
}
