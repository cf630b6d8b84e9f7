//! Lines of a stream, cut from one block buffer.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::compression::Compression;
use crate::error::{Error, Result};

/// Bytes asked for at a time, and at first: most files are small.
const BLOCK: usize = 256 << 10;
const FIRST_BLOCK: usize = 16 << 10;
/// Text of a frame from which on the buffer itself is handed over, and not a copy.
const LARGE: usize = 4 * BLOCK;
/// Longest line accepted: a file without line ends must not be read into memory whole.
pub(crate) const MAX_LINE: usize = 64 << 20;

/// What ended a search for a line.
pub(crate) enum LineError {
    /// Reading or unpacking failed.
    Io(Error),
    /// The line is longer than the limit given.
    TooLong,
    /// The text since the mark is longer than [`LineBuffer::most`].
    TooMuch,
}

/// A place between lines, to come back to while the mark stays.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    behind_mark: usize,
    lines: usize,
    unended: bool,
}

/// Cuts lines from a stream and keeps everything since the last `mark`, so that a frame's text stays available.
///
/// Memory is bounded by one block plus the bytes *read* since the mark; nothing is sized by what a header claims.
pub(crate) struct LineBuffer {
    source: Box<dyn Read + Send>,
    path: Arc<Path>,
    compression: Compression,
    buffer: Vec<u8>,
    mark: usize,
    next: usize,
    filled: usize,
    at_end: bool,
    discarded: u64,
    lines: usize,
    /// Bytes to ask for next.
    block: usize,
    /// Most bytes kept since the mark.
    pub(crate) most: usize,
    /// The last line cut ended with the stream and has no line end.
    unended: bool,
    /// What went wrong when looking ahead; told when reading gets there.
    failure: Option<Error>,
}

impl LineBuffer {
    /// Opens a file, or standard input for `-`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Self::new(path, io::stdin());
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        // Opening a directory succeeds on Unix; reading it gives a message that few understand.
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            return Err(Error::io(
                path,
                io::Error::new(io::ErrorKind::IsADirectory, "is a directory, expected a file"),
            ));
        }
        Self::new(path, file)
    }

    pub(crate) fn new(path: &Path, mut source: impl Read + Send + 'static) -> Result<Self> {
        let mut start = Vec::with_capacity(8);
        let looked = source.by_ref().take(8).read_to_end(&mut start);
        looked.map_err(|e| Error::io(path, e))?;
        let compression = Compression::of_content(&start);
        let joined = io::Cursor::new(start).chain(source);
        let source = match compression {
            Compression::None => Box::new(joined),
            packed => packed.decoder(BufReader::with_capacity(BLOCK, joined)).map_err(|e| Error::io(path, e))?,
        };
        Ok(LineBuffer {
            source,
            path: Arc::from(path),
            compression,
            buffer: Vec::new(),
            mark: 0,
            next: 0,
            filled: 0,
            at_end: false,
            discarded: 0,
            lines: 0,
            block: FIRST_BLOCK,
            most: usize::MAX,
            unended: false,
            failure: None,
        })
    }

    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// Number of lines cut so far, which is the number (from 1) of the last one.
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }

    /// Forgets everything before the next line.
    pub(crate) fn set_mark(&mut self) {
        self.mark = self.next;
    }

    /// Bytes since the mark, up to and including the last line cut.
    pub(crate) fn since_mark(&self) -> &[u8] {
        &self.buffer[self.mark..self.next]
    }

    /// Moves `range` of [`LineBuffer::since_mark`] to `out`, which is empty, and forgets what is before the next line.
    pub(crate) fn take(&mut self, range: Range<usize>, out: &mut Vec<u8>) {
        if range.len() < LARGE {
            out.extend_from_slice(&self.since_mark()[range]);
            self.set_mark();
            return;
        }
        // A copy would double the memory that a large frame takes.
        let rest = self.buffer[self.next..self.filled].to_vec();
        let mut text = std::mem::replace(&mut self.buffer, rest);
        text.truncate(self.mark + range.end);
        text.drain(..self.mark + range.start);
        *out = text;
        self.discarded += self.next as u64;
        self.filled -= self.next;
        (self.mark, self.next) = (0, 0);
    }

    /// Whether the last line cut has no line end: the stream stops there, perhaps within a number.
    pub(crate) fn unended(&self) -> bool {
        self.unended
    }

    /// The place behind the last line.
    pub(crate) fn place(&self) -> Place {
        Place { behind_mark: self.next - self.mark, lines: self.lines, unended: self.unended }
    }

    /// Goes back to a place; the mark has not moved. An error met on the way is told when reading gets there again.
    pub(crate) fn go_back(&mut self, to: Place, failure: Option<Error>) {
        self.next = self.mark + to.behind_mark;
        (self.lines, self.unended) = (to.lines, to.unended);
        self.failure = failure.or(self.failure.take());
    }

    /// Offset in the unpacked stream behind the last line cut and its line end.
    pub(crate) fn offset(&self) -> u64 {
        self.discarded + self.next as u64
    }

    /// Cuts the next line, without its end, as a range into [`LineBuffer::since_mark`]; `None` at the end.
    #[inline]
    pub(crate) fn next_line(&mut self, limit: usize) -> std::result::Result<Option<Range<usize>>, LineError> {
        let mut searched = 0;
        loop {
            let unsearched = &self.buffer[self.next + searched..self.filled];
            if let Some(found) = memchr::memchr2(b'\n', b'\r', unsearched) {
                let line = self.next - self.mark..self.next + searched + found - self.mark;
                self.next += searched + found + 1;
                if self.buffer[self.next - 1] == b'\r' {
                    // The LF of a CRLF may still have to be read. Ranges from the mark outlive that.
                    if self.next == self.filled {
                        self.fill().map_err(LineError::Io)?;
                    }
                    if self.next < self.filled && self.buffer[self.next] == b'\n' {
                        self.next += 1;
                    }
                }
                self.lines += 1;
                return Ok(Some(line));
            }
            searched = self.filled - self.next;
            if searched > limit {
                return Err(LineError::TooLong);
            }
            // All of it belongs to what the mark stands before.
            if self.filled - self.mark > self.most {
                return Err(LineError::TooMuch);
            }
            if !self.fill().map_err(LineError::Io)? {
                if searched == 0 {
                    return Ok(None);
                }
                let start = self.next;
                self.next = self.filled;
                self.lines += 1;
                self.unended = true;
                return Ok(Some(start - self.mark..self.filled - self.mark));
            }
        }
    }

    /// Reads one more block; `false` at the end of the stream.
    #[cold]
    fn fill(&mut self) -> Result<bool> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.at_end {
            return Ok(false);
        }
        if self.mark > 0 {
            self.buffer.copy_within(self.mark..self.filled, 0);
            self.discarded += self.mark as u64;
            self.next -= self.mark;
            self.filled -= self.mark;
            self.mark = 0;
        }
        // Room that is set aside doubles; only what is read into is touched.
        let end = self.filled + self.block;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.block = (2 * self.block).min(BLOCK);
        loop {
            match self.source.read(&mut self.buffer[self.filled..end]) {
                Ok(0) => {
                    self.at_end = true;
                    return Ok(false);
                }
                Ok(n) => {
                    self.filled += n;
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.at_end = true;
                    return Err(self.describe(e));
                }
            }
        }
    }

    fn describe(&self, e: io::Error) -> Error {
        match self.compression {
            Compression::None => Error::io(&*self.path, e),
            packed => {
                let reason = format!("{} data is truncated or corrupt: {e}", packed.name());
                Error::io(&*self.path, io::Error::new(e.kind(), reason))
            }
        }
    }
}
