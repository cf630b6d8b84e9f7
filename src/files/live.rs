//! Unfinished files of this process, known to whoever ends it without unwinding.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Unfinished files that are known at the same time; more than the command line ever has.
const MOST: usize = 64;

static ENTRIES: [AtomicPtr<Entry>; MOST] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST];

/// Stands for a file that is no trajectory, and is not told of.
const NO_FRAMES: usize = usize::MAX;

struct Entry {
    partial: CString,
    named: CString,
    keep: AtomicBool,
    frames: AtomicUsize,
}

/// An unfinished file that is known while this lives.
pub(super) struct Live {
    slot: Option<usize>,
    entry: &'static Entry,
}

impl Live {
    /// `named` is what the user calls the output.
    pub(super) fn new(partial: &Path, named: &Path) -> Self {
        let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
        let (partial, named) = (text(partial), text(named));
        // Never freed, a hundred bytes a file: a signal handler may be reading it at any time.
        let entry: &'static mut Entry = Box::leak(Box::new(Entry {
            partial,
            named,
            keep: AtomicBool::new(false),
            frames: AtomicUsize::new(NO_FRAMES),
        }));
        let pointer: *mut Entry = entry;
        let free = |slot: &AtomicPtr<Entry>| {
            slot.compare_exchange(std::ptr::null_mut(), pointer, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        let slot = ENTRIES.iter().position(free);
        // SAFETY: leaked above, so it lives for ever, and nobody has a mutable reference to it.
        Live { slot, entry: unsafe { &*pointer } }
    }

    pub(super) fn set_keep(&self, keep: bool) {
        self.entry.keep.store(keep, Ordering::SeqCst);
    }

    pub(super) fn set_frames(&self, frames: usize) {
        self.entry.frames.store(frames, Ordering::Relaxed);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            ENTRIES[slot].store(std::ptr::null_mut(), Ordering::SeqCst);
        }
    }
}

/// An unfinished file, for the message of a process that ends.
#[derive(Debug, Clone, Copy)]
pub struct Abandoned<'a> {
    /// Where it stands, or stood.
    pub partial: &'a CStr,
    /// What the user calls the output.
    pub named: &'a CStr,
    /// Whether it is left for a later run to take up, or has been removed.
    pub is_kept: bool,
    /// Frames that are in it.
    pub frames: usize,
}

/// Removes what this process has not finished and is not to keep, and tells of each trajectory. For processes that end without
/// unwinding: it allocates nothing and takes no lock, so that a signal handler may call it. Nothing must be written after it.
pub fn abandon(mut tell: impl FnMut(Abandoned<'_>)) {
    // What is in a folder before the folder.
    for slot in ENTRIES.iter().rev() {
        let pointer = slot.load(Ordering::SeqCst);
        // SAFETY: entries are never freed and never written to but through atomics.
        let Some(entry) = (unsafe { pointer.as_ref() }) else { continue };
        let is_kept = entry.keep.load(Ordering::SeqCst);
        if !is_kept {
            remove(&entry.partial);
        }
        let frames = entry.frames.load(Ordering::Relaxed);
        if frames != NO_FRAMES {
            tell(Abandoned { partial: &entry.partial, named: &entry.named, is_kept, frames });
        }
    }
}

#[cfg(unix)]
fn remove(path: &CStr) {
    // Neither follows links.
    if rustix::fs::unlink(path).is_err() {
        let _ = rustix::fs::rmdir(path);
    }
}

#[cfg(not(unix))]
fn remove(_: &CStr) {}
