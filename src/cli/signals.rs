//! How a run ends that is stopped, or that the system lets go no further.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Frames that are done, whether they have an output or not.
static FRAMES: AtomicUsize = AtomicUsize::new(0);

/// Says how many frames are done, for the message of a run that is stopped.
pub fn frames_done(frames: usize) {
    FRAMES.store(frames, Ordering::Relaxed);
}

#[cfg(not(unix))]
pub fn install() {}

/// From here on, SIGINT, SIGTERM and SIGHUP end the process with a message, without unfinished files that are not to be
/// kept, and with the status that a shell shows for them; an abort (no memory, no stack) leaves none either.
#[cfg(unix)]
pub fn install() {
    use std::io::IsTerminal;
    IS_TERMINAL.store(std::io::stderr().is_terminal(), Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGABRT] {
        // Someone has said that it is not to end the run: `nohup`, or a shell that has put it in the background.
        if is_ignored(signal) {
            continue;
        }
        // SAFETY: `end` does only what a signal handler may do: atomics, unlink, rmdir, write and _exit. It takes no
        // lock, allocates nothing and does not panic.
        let registered = unsafe { signal_hook::low_level::register(signal, move || end(signal)) };
        // Where it cannot be caught, it ends the run as it always does.
        let _ = registered;
    }
}

#[cfg(unix)]
static IS_TERMINAL: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the present action, which it writes to `action`, and sets none; all zeros is one too.
    let action = unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// In a signal handler: allocates nothing, takes no lock.
#[cfg(unix)]
fn end(signal: libc::c_int) {
    static ENDING: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    // Another thread is at it, and ends the process.
    if ENDING.swap(true, Ordering::SeqCst) {
        return;
    }
    let mut message = Message::default();
    if IS_TERMINAL.load(Ordering::Relaxed) {
        // Over the progress bar.
        message.push(b"\r\x1b[K");
    }
    message.push(match signal {
        libc::SIGINT => b"stopped by SIGINT",
        libc::SIGTERM => b"stopped by SIGTERM",
        libc::SIGHUP => b"stopped by SIGHUP",
        _ => {
            b"error: aborted (what comes before this line says why; where memory ran out, fewer --threads and a smaller \
              --batch need less)"
        }
    });
    let frames = FRAMES.load(Ordering::Relaxed);
    if frames > 0 {
        message.push(b" after ");
        message.push_number(frames);
        message.push(b" frames");
    }
    let mut has_said = false;
    mlff::files::abandon(|file| {
        message.push(if has_said { b"; " } else { b": " });
        has_said = true;
        if file.is_kept && file.frames > 0 {
            message.push_number(file.frames);
            message.push(b" frames of ");
            message.push_name(file.named);
            message.push(b" are in ");
            message.push_name(file.partial);
            message.push(b", and the same command goes on from there (with --resume)");
        } else if file.is_kept {
            message.push(b"nothing of ");
            message.push_name(file.named);
            message.push(b" was on disk yet; the same command begins anew");
        } else {
            message.push(b"the unfinished ");
            message.push_name(file.named);
            message.push(b" was removed (a run with --resume keeps what is done, and goes on from there)");
        }
    });
    if !has_said {
        message.push(b": this run leaves no unfinished file");
    }
    message.push(b"\n");
    message.write();
    if signal != libc::SIGABRT {
        signal_hook::low_level::exit(128 + signal);
    }
    // An abort goes its way, with a core dump where that is wanted: the signal, which waits until this handler returns, now
    // ends the process, whether the program or someone else has sent it.
    // SAFETY: both calls may be made in a handler, and take numbers only.
    unsafe {
        libc::signal(libc::SIGABRT, libc::SIG_DFL);
        libc::raise(libc::SIGABRT);
    }
}

/// Text on the stack.
#[cfg(unix)]
struct Message {
    text: [u8; 1024],
    length: usize,
}

#[cfg(unix)]
impl Default for Message {
    fn default() -> Self {
        Message { text: [0; 1024], length: 0 }
    }
}

#[cfg(unix)]
impl Message {
    /// What is too long goes out in pieces.
    fn push(&mut self, text: &[u8]) {
        for &byte in text {
            if self.length == self.text.len() {
                self.write();
            }
            if let Some(place) = self.text.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
    }

    /// Control characters do not reach the terminal.
    fn push_name(&mut self, name: &std::ffi::CStr) {
        for &byte in name.to_bytes() {
            self.push(&[if byte.is_ascii_control() { b'?' } else { byte }]);
        }
    }

    fn push_number(&mut self, number: usize) {
        let mut digits = [0; 20];
        let (mut rest, mut start) = (number, digits.len());
        while start > 0 && (rest > 0 || start == digits.len()) {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.push(&digits[start..]);
    }

    fn write(&mut self) {
        let mut rest = &self.text[..self.length];
        // Nobody may be there to read it.
        while let Ok(n @ 1..) = rustix::io::write(std::io::stderr(), rest) {
            rest = &rest[n..];
        }
        self.length = 0;
    }
}
