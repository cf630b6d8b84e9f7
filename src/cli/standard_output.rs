//! Whether there is a standard output. Rust opens /dev/null in its place where there is none, before `main`: results would be
//! lost, and the run would end as if all were well.

use mlff::{Error, Result};

/// Refuses to write to a standard output that was closed when the program started.
///
/// # Errors
/// `Error::Io`.
pub fn check() -> Result<()> {
    match closed::was_closed() {
        true => Err(Error::io("standard output", std::io::Error::other("is closed: nobody can read the results"))),
        false => Ok(()),
    }
}

#[cfg(target_os = "linux")]
mod closed {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    static CLOSED: AtomicBool = AtomicBool::new(false);

    pub fn was_closed() -> bool {
        CLOSED.load(Relaxed)
    }

    extern "C" fn look() {
        // SAFETY: asks for a flag of a descriptor, of which there need be none; no memory is involved.
        CLOSED.store(unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1, Relaxed);
    }

    /// The loader calls these before anything of Rust's runtime, which is too late to ask.
    // SAFETY: a pointer to a function, as the section holds; it uses nothing that is set up later.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static BEFORE_MAIN: extern "C" fn() = look;
}

#[cfg(not(target_os = "linux"))]
mod closed {
    pub fn was_closed() -> bool {
        false
    }
}
