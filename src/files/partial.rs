//! A file, or a folder, on its way.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::live::Live;
use super::lock::{Lock, has_other_names, is_at, lock, open_existing};
use super::{hidden_name, refuse_existing};
use crate::error::{Error, Result};

/// Attempts to make a file that other runs make at the same time.
const ATTEMPTS: usize = 100;

/// A file that gets its name when it is complete ([`Partial::finish`]); until then it is `.NAME.mlff-part` in the same
/// folder, locked, so that no second run writes to it. Dropped before, it is gone, unless it is to be kept.
///
/// It is always made anew: never through a link, a pipe or another name of some file. One that a dead run has left is
/// removed first, or taken up again by [`Partial::resume`].
pub struct Partial {
    /// Where to write.
    pub file: File,
    partial: PathBuf,
    destination: PathBuf,
    named: PathBuf,
    overwrite: bool,
    keep: bool,
    is_finished: bool,
    live: Live,
}

impl std::fmt::Debug for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partial")
            .field("partial", &self.partial)
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

impl Partial {
    /// Starts a file. `named` is what the user calls `destination` ([`super::place`]).
    ///
    /// # Errors
    /// `Error::Exists` where it exists and `overwrite` is not set; `Error::Io`, also where another run is writing it.
    pub fn create(named: &Path, destination: &Path, overwrite: bool) -> Result<Self> {
        let partial = hidden_name(destination)?;
        for _ in 0..ATTEMPTS {
            refuse_existing(destination, named, overwrite)?;
            match make(&partial, named)? {
                Some(file) => return Self::begin(file, partial, named, destination, overwrite, false),
                None => remove_stale(&partial, named)?,
            }
        }
        Err(in_use(named, &partial))
    }

    /// Takes up the file that an interrupted run has left, or starts it; it is kept when this is dropped.
    ///
    /// # Errors
    /// As [`Partial::create`]; `Error::Io` where what stands there is no regular file, or has other names too.
    pub fn resume(named: &Path, destination: &Path, overwrite: bool) -> Result<Self> {
        let partial = hidden_name(destination)?;
        let io_error = |e| Error::io(named, e);
        for _ in 0..ATTEMPTS {
            refuse_existing(destination, named, overwrite)?;
            let file = match open_existing(&partial, true) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => match make(&partial, named)? {
                    Some(file) => return Self::begin(file, partial, named, destination, overwrite, true),
                    None => continue,
                },
                Err(_) if partial.is_symlink() => return Err(not_ours(named, &partial, "a link")),
                Err(e) => return Err(io_error(e)),
            };
            if !file.metadata().map_err(io_error)?.is_file() {
                return Err(not_ours(named, &partial, "no regular file"));
            }
            match lock(&file).map_err(io_error)? {
                Lock::Theirs => return Err(in_use(named, &partial)),
                Lock::Ours | Lock::Unknown => {}
            }
            // Finished by another run in the meantime: it is that run's output now.
            if !is_at(&file, &partial) {
                continue;
            }
            if has_other_names(&file).map_err(io_error)? {
                return Err(not_ours(named, &partial, "a file that has another name too"));
            }
            return Self::begin(file, partial, named, destination, overwrite, true);
        }
        Err(in_use(named, &partial))
    }

    fn begin(
        file: File,
        partial: PathBuf,
        named: &Path,
        destination: &Path,
        overwrite: bool,
        keep: bool,
    ) -> Result<Self> {
        let live = Live::new(&partial, named);
        live.set_keep(keep);
        let begun = Partial {
            file,
            partial,
            destination: destination.into(),
            named: named.into(),
            overwrite,
            keep,
            is_finished: false,
            live,
        };
        // Another run may have finished since it was last looked at. Now that we have the lock, none can.
        refuse_existing(destination, named, overwrite)?;
        begun.copy_mode(0o600).map_err(|e| Error::io(named, e))?;
        Ok(begun)
    }

    /// Where the file stands until it is complete.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Where it will stand.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Whether the unfinished file stays when this is dropped or the process ends, for a later run to take up.
    pub fn set_keep(&mut self, keep: bool) {
        self.keep = keep;
        self.live.set_keep(keep);
    }

    /// Says how many frames are in the file, for the message of a process that is stopped.
    pub fn set_frames(&self, frames: usize) {
        self.live.set_frames(frames);
    }

    /// Makes sure that all of it is on disk, and gives it its name. A file that is replaced hands on its mode and owner.
    ///
    /// # Errors
    /// `Error::Io`; `Error::Exists` where a file of this name has appeared since and is not to be replaced.
    pub fn finish(mut self) -> Result<()> {
        let io_error = |e| Error::io(&self.named, e);
        self.copy_mode(0).map_err(io_error)?;
        self.file.sync_all().map_err(io_error)?;
        if !is_at(&self.file, &self.partial) {
            let reason = format!("its unfinished part {} was removed or moved meanwhile", self.partial.display());
            return Err(io_error(io::Error::new(io::ErrorKind::NotFound, reason)));
        }
        match rename(&self.partial, &self.destination, self.overwrite) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !self.overwrite => {
                refuse_existing(&self.destination, &self.named, false)?;
                return Err(io_error(e));
            }
            done => done.map_err(io_error)?,
        }
        self.is_finished = true;
        sync_folder(&self.destination);
        Ok(())
    }

    /// Takes over mode and owner of the file that is to be replaced, with `more` permissions while it is written: what
    /// was private is private from the beginning.
    fn copy_mode(&self, more: u32) -> io::Result<()> {
        #[cfg(unix)]
        if self.overwrite
            && let Ok(old) = fs::metadata(&self.destination)
        {
            use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
            let new = self.file.metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                // Only root may give files away.
                let _ = fchown(&self.file, Some(old.uid()), Some(old.gid()));
            }
            self.file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777 | more))?;
        }
        let _ = more;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let is_empty = self.file.metadata().is_ok_and(|m| m.len() == 0);
        // Nothing of another run, where someone has moved ours away.
        if (!self.keep || is_empty) && is_at(&self.file, &self.partial) {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// A folder that gets its name when all that belongs into it is there; dropped before, it is gone.
pub(crate) struct PartialFolder {
    partial: PathBuf,
    destination: PathBuf,
    is_finished: bool,
    /// The folder, open and locked.
    _lock: Option<File>,
    live: Vec<Live>,
}

impl PartialFolder {
    /// Starts a folder; those that it is to be in are made.
    ///
    /// # Errors
    /// `Error::Usage` if `named` exists and is not an empty folder; `Error::Io`, also where another run is writing it.
    pub(crate) fn create(named: &Path) -> Result<Self> {
        let is_empty = || fs::read_dir(named).is_ok_and(|mut entries| entries.next().is_none());
        if fs::symlink_metadata(named).is_ok() && !is_empty() {
            return Err(Error::Usage(format!("{} exists already; choose a new directory", named.display())));
        }
        // A link to an empty folder stays.
        let destination = named.canonicalize().unwrap_or_else(|_| named.to_path_buf());
        let partial = hidden_name(&destination)?;
        let io_error = |e| Error::io(named, e);
        if let Some(folder) = partial.parent() {
            fs::create_dir_all(folder).map_err(io_error)?;
        }
        for _ in 0..ATTEMPTS {
            let is_new = match fs::create_dir(&partial) {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
                Err(e) => return Err(io_error(e)),
            };
            let old = fs::symlink_metadata(&partial);
            if !is_new && old.is_ok_and(|m| !m.is_dir()) {
                fs::remove_file(&partial).map_err(io_error)?;
                continue;
            }
            // Where folders cannot be opened, they cannot be locked.
            let folder = open_existing(&partial, false).ok();
            let locked = folder.as_ref().map_or(Ok(Lock::Unknown), lock).map_err(io_error)?;
            if locked == Lock::Theirs {
                return Err(in_use(named, &partial));
            }
            if folder.as_ref().is_some_and(|folder| !is_at(folder, &partial)) {
                continue;
            }
            if !is_new {
                fs::remove_dir_all(&partial).map_err(io_error)?;
                continue;
            }
            let live = vec![Live::new(&partial, named)];
            return Ok(PartialFolder { partial, destination, is_finished: false, _lock: folder, live });
        }
        Err(in_use(named, &partial))
    }

    /// Writes a file in it.
    ///
    /// # Errors
    /// `Error::Io`.
    pub(crate) fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        self.live.push(Live::new(&path, &path));
        let written = OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
            io::Write::write_all(&mut file, content)?;
            file.sync_all()
        });
        written.map_err(|e| Error::io(self.destination.join(name), e))
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// `Error::Io`, also where something has appeared there since.
    pub(crate) fn finish(mut self) -> Result<()> {
        // Takes the place of an empty folder and of nothing else.
        fs::rename(&self.partial, &self.destination).map_err(|e| Error::io(&self.destination, e))?;
        self.is_finished = true;
        sync_folder(&self.destination);
        Ok(())
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// Makes a file that was not there, and locks it. `None` where something is there, or was taken away before the lock.
fn make(partial: &Path, named: &Path) -> Result<Option<File>> {
    let io_error = |e| Error::io(named, e);
    let file = match OpenOptions::new().read(true).write(true).create_new(true).open(partial) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(e) => return Err(io_error(e)),
    };
    // Another run that comes in between takes the file for a dead one's, and removes it.
    let is_ours = lock(&file).map_err(io_error)? != Lock::Theirs && is_at(&file, partial);
    Ok(is_ours.then_some(file))
}

/// Removes what a dead run has left. Names are removed, never followed.
fn remove_stale(partial: &Path, named: &Path) -> Result<()> {
    let io_error = |e| Error::io(named, e);
    let gone = |done: io::Result<()>| match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(e)),
        _ => Ok(()),
    };
    let Ok(metadata) = fs::symlink_metadata(partial) else { return Ok(()) };
    if metadata.is_dir() {
        return Err(not_ours(named, partial, "a directory"));
    }
    if !metadata.is_file() {
        return gone(fs::remove_file(partial));
    }
    let file = match open_existing(partial, false) {
        Ok(file) => file,
        Err(e) => return gone(Err(e)),
    };
    match lock(&file).map_err(io_error)? {
        Lock::Theirs => Err(in_use(named, partial)),
        Lock::Unknown => {
            let reason = format!(
                "{} is there: an earlier run has left it, or another one is writing it, which this file system cannot \
                 tell: remove it if no other run is going, or go on with it (Writer::resume)",
                partial.display()
            );
            Err(io_error(io::Error::other(reason)))
        }
        // While we have its lock, nobody else removes it and puts another file there.
        Lock::Ours if is_at(&file, partial) => gone(fs::remove_file(partial)),
        Lock::Ours => Ok(()),
    }
}

fn in_use(named: &Path, partial: &Path) -> Error {
    let reason =
        format!("another run is writing it (into {}): wait for that run, or name another output", partial.display());
    Error::io(named, io::Error::new(io::ErrorKind::WouldBlock, reason))
}

fn not_ours(named: &Path, partial: &Path, what: &str) -> Error {
    let reason = format!("unfinished output goes to {}, which is {what}: move it away", partial.display());
    Error::io(named, io::Error::other(reason))
}

/// Gives a file its name; without `overwrite`, only where there is none of that name.
fn rename(from: &Path, to: &Path, overwrite: bool) -> io::Result<()> {
    if overwrite {
        return fs::rename(from, to);
    }
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Not every file system can.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return done.map_err(io::Error::from),
        }
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// A rename is durable when the folder is; not every file system can do it.
fn sync_folder(file: &Path) {
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}
