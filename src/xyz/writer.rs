//! The writer: its file is complete or absent, and an interrupted run can be resumed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::compression::Compression;
use super::format::{Results, Texts, WriteOptions, push_frame};
use super::frame::Frame;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::files::{Partial, Place, hidden_name, place};

/// Text after which a member (of gzip, bzip2, xz, zstd) ends, at the next frame's end. Members depend on
/// nothing but the text, so that a resumed file has the bytes of an uninterrupted one.
const CHUNK: usize = 1 << 20;
/// Plain text after which it is written, at the next frame's end.
const PLAIN_CHUNK: usize = 1 << 17;

/// Text after which a file is brought to disk: while others compute, and not all of it at the end.
const SYNC: usize = 1 << 26;

fn chunk_size(compression: Compression) -> usize {
    if compression == Compression::None { PLAIN_CHUNK } else { CHUNK }
}

/// Writes frames to a file, which appears only when it is complete.
///
/// Text goes to a hidden file beside the destination ([`Writer::partial_path`]), which [`Writer::finish`] renames. The
/// hidden file is locked: while this writer lives, a second writer of the same file is refused. If a writer is dropped
/// unfinished, the hidden file is removed, unless it is kept for [`Writer::resume`]. A process that is killed leaves at
/// most the hidden file. Standard output, and destinations that are no regular files (`/dev/null`, pipes), are written
/// directly.
///
/// The extension says how the file is compressed: `.gz`, `.bz2`, `.xz` or `.zst`, with one member for each MiB of text.
///
/// ```
/// use mlff::xyz::{Reader, Results, WriteOptions, Writer};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("out.xyz");
/// let frame = Reader::from_reader("in.xyz", "1\nname=x\nO 0 0 0\n".as_bytes())?.next_frame()?.unwrap();
/// let mut writer = Writer::create(&path, false)?;
/// let results = Results { energy: -1.5, ..Results::default() };
/// writer.write_frame(&frame, Some(&results), &WriteOptions::default())?;
/// writer.finish()?; // now the file is there, with name=x and MLFF_energy=-1.5
/// # let text = std::fs::read_to_string(&path).unwrap();
/// # assert!(text.contains("name=x") && text.contains("MLFF_energy=-1.5"));
/// # Ok::<(), mlff::Error>(())
/// ```
pub struct Writer {
    path: PathBuf,
    target: Target,
    compression: Compression,
    chunk: Vec<u8>,
    keep_partial: bool,
    frames: usize,
    /// Bytes that the system may still keep in memory.
    unsynced: usize,
    /// What is still to be put into the comment of the first frame that has one.
    record: Option<Vec<u8>>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).field("frames", &self.frames).finish_non_exhaustive()
    }
}

enum Target {
    File(Partial),
    Stream(Box<dyn Write + Send>),
    Finished,
}

impl Writer {
    /// Starts a new file; `-` is standard output. The hidden file of an earlier run is removed.
    ///
    /// # Errors
    /// `Error::Exists` if the file exists and `overwrite` is not set; `Error::Usage` if `path` names no file;
    /// `Error::Io` if the file cannot be created, also because another writer has it.
    pub fn create(path: impl AsRef<Path>, overwrite: bool) -> Result<Self> {
        let path = path.as_ref();
        let target = match place(path)? {
            Place::File(file) => Target::File(Partial::create(path, &file, overwrite)?),
            _ => Target::Stream(open_stream(path)?),
        };
        Ok(Self::with_target(path, target, 0))
    }

    /// Continues a file where an interrupted run stopped, or starts it. Returns the writer and the number of frames
    /// that are already in the file; the caller has to pass over these in its input. If this writer is dropped
    /// unfinished, the hidden file is kept.
    ///
    /// Whatever follows the last whole frame (in a compressed file, the last whole member) is cut off, so that the
    /// finished file has the same bytes as one that was written without an interruption.
    ///
    /// # Errors
    /// `Error::Exists` if the finished file exists and `overwrite` is not set; `Error::Usage` for a destination that
    /// cannot be resumed; `Error::Io` if the file cannot be read or written, also because another writer has it.
    pub fn resume(path: impl AsRef<Path>, overwrite: bool) -> Result<(Self, usize)> {
        let path = path.as_ref();
        let Place::File(destination) = place(path)? else {
            let reason = format!("{} cannot be resumed: only a file keeps what was written", path.display());
            return Err(Error::Usage(reason));
        };
        let mut partial = Partial::resume(path, &destination, overwrite)?;
        partial.set_keep(true);
        let name = partial.path().to_path_buf();
        let io_error = |e| Error::io(&name, e);
        let file = &mut partial.file;
        let (frames, length) = match Compression::of_name(&destination) {
            Compression::None => whole_frames(&name, file)?,
            packed => whole_members(packed, file).map_err(io_error)?,
        };
        file.set_len(length).map_err(io_error)?;
        file.seek(SeekFrom::Start(length)).map_err(io_error)?;
        let mut writer = Self::with_target(path, Target::File(partial), frames);
        writer.keep_partial = true;
        Ok((writer, frames))
    }

    /// Writes to a stream, compressed as the extension of `name` says. `name` takes the place of the path in error
    /// messages.
    pub fn from_writer(name: impl AsRef<Path>, stream: impl Write + Send + 'static) -> Self {
        Self::with_target(name.as_ref(), Target::Stream(Box::new(stream)), 0)
    }

    fn with_target(path: &Path, target: Target, frames: usize) -> Self {
        let compression = match &target {
            Target::File(partial) => {
                partial.set_frames(frames);
                Compression::of_name(partial.destination())
            }
            _ => Compression::of_name(path),
        };
        let chunk = Vec::with_capacity(chunk_size(compression) / 4 * 5);
        let path = path.into();
        Writer { path, target, compression, chunk, keep_partial: false, frames, unsynced: 0, record: None }
    }

    /// Path of the hidden file that holds the text until it is complete: `.NAME.mlff-part` in the folder of the
    /// destination; a long name is shortened. `None` for destinations that are written directly.
    ///
    /// # Errors
    /// `Error::Usage` if `path` names no file; `Error::Io` for a folder, and for a path that may not be looked at.
    pub fn partial_path(path: impl AsRef<Path>) -> Result<Option<PathBuf>> {
        match place(path.as_ref())? {
            Place::File(file) => hidden_name(&file).map(Some),
            _ => Ok(None),
        }
    }

    /// Chooses whether the hidden file is kept for [`Writer::resume`] if this writer is dropped unfinished. By default
    /// it is kept only by a writer from [`Writer::resume`].
    pub fn keep_partial(&mut self, keep: bool) {
        self.keep_partial = keep;
        if let Target::File(partial) = &mut self.target {
            partial.set_keep(keep);
        }
    }

    /// Adds `KEY="VALUE"` to the comment of the next frame that is written, to say how the file was made. Refused
    /// frames, whose comment may be broken, are passed over.
    ///
    /// # Errors
    /// `Error::Usage` for a value with quotes, backslashes or line ends.
    pub fn record(&mut self, key: &str, value: &str) -> Result<()> {
        if value.contains(['"', '\\', '\n', '\r']) {
            return Err(Error::Usage(format!(
                "{key} cannot be \"{value}\": expected no quotes, backslashes, line ends"
            )));
        }
        self.record = Some(format!(" {key}=\"{value}\"").into_bytes());
        Ok(())
    }

    /// Number of frames in the file, those of a resumed run included.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Writes a frame as extended XYZ: with all that it had in its file, and with `results` in place of earlier ones of
    /// the same names.
    ///
    /// # Errors
    /// `Error::Shape` if there is not one force for each atom; `Error::Io` if the text cannot be written.
    pub fn write_frame(&mut self, frame: &Frame, results: Option<&Results<'_>>, options: &WriteOptions) -> Result<()> {
        let end_of_comment = push_frame(&mut self.chunk, frame, results, options)?;
        if let Some(record) = self.record.take() {
            self.chunk.splice(end_of_comment..end_of_comment, record);
        }
        self.end_frame()
    }

    /// Writes frames whose text has been made before.
    ///
    /// # Errors
    /// `Error::Io` if the text cannot be written.
    pub fn write_texts(&mut self, texts: &Texts) -> Result<()> {
        if self.record.is_some()
            && let Some((frame, at)) = texts.first_comment()
        {
            let record = self.record.take().unwrap_or_default();
            return texts.frames().enumerate().try_for_each(|(k, text)| {
                let (before, after) = text.split_at(if k == frame { at } else { 0 });
                self.chunk.extend_from_slice(before);
                if k == frame {
                    self.chunk.extend_from_slice(&record);
                }
                self.chunk.extend_from_slice(after);
                self.end_frame()
            });
        }
        if self.compression == Compression::None && texts.text().len() >= PLAIN_CHUNK / 4 {
            self.write_chunk()?;
            self.frames += texts.frames().len();
            return self.write(texts.text());
        }
        texts.frames().try_for_each(|text| {
            self.chunk.extend_from_slice(text);
            self.end_frame()
        })
    }

    fn end_frame(&mut self) -> Result<()> {
        self.frames += 1;
        if self.chunk.len() >= chunk_size(self.compression) { self.write_chunk() } else { Ok(()) }
    }

    /// Writes what is buffered, so that whoever reads from standard output or a pipe sees it. A compressed stream keeps
    /// what does not yet fill a member.
    ///
    /// # Errors
    /// `Error::Io` if the text cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        if self.compression == Compression::None {
            self.write_chunk()?;
        }
        let flushed = match &mut self.target {
            Target::Stream(stream) => stream.flush(),
            _ => Ok(()),
        };
        flushed.map_err(|e| Error::io(&self.path, e))
    }

    fn write_chunk(&mut self) -> Result<()> {
        let chunk = std::mem::take(&mut self.chunk);
        let written = self.write(&chunk);
        self.chunk = chunk;
        self.chunk.clear();
        written
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        let written = match &mut self.target {
            Target::File(partial) => self.compression.encode_member(text, &mut partial.file).and_then(|()| {
                partial.set_frames(self.frames);
                self.unsynced += text.len();
                if self.unsynced < SYNC {
                    Ok(())
                } else {
                    self.unsynced = 0;
                    partial.file.sync_data()
                }
            }),
            Target::Stream(stream) => self.compression.encode_member(text, stream),
            Target::Finished => Ok(()),
        };
        written.map_err(|e| Error::io(&self.path, e))
    }

    /// Writes what is left, makes sure that all of it is on disk, and gives the file its name.
    ///
    /// # Errors
    /// `Error::Io` if the file cannot be written or renamed; `Error::Exists` if a file of this name has appeared
    /// meanwhile and `overwrite` is not set.
    pub fn finish(mut self) -> Result<()> {
        // A file without frames is a valid, empty container too.
        if !self.chunk.is_empty() || (self.frames == 0 && self.compression != Compression::None) {
            self.write_chunk()?;
        }
        match std::mem::replace(&mut self.target, Target::Finished) {
            Target::File(partial) => partial.finish(),
            Target::Stream(mut stream) => stream.flush().map_err(|e| Error::io(&self.path, e)),
            Target::Finished => Ok(()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A panic may have stopped in the middle of a frame.
        if self.keep_partial && !std::thread::panicking() && self.compression == Compression::None {
            let _ = self.write_chunk();
        }
    }
}

fn open_stream(path: &Path) -> Result<Box<dyn Write + Send>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdout()));
    }
    OpenOptions::new().write(true).open(path).map(|f| Box::new(f) as _).map_err(|e| Error::io(path, e))
}

/// Number of whole frames at the start of a plain file, and where they end.
fn whole_frames(path: &Path, file: &File) -> Result<(usize, u64)> {
    let duplicate = || file.try_clone().map_err(|e| Error::io(path, e));
    let mut reader = Reader::from_reader(path, duplicate()?)?;
    let (mut frames, mut end, mut end_before) = (0, 0, 0);
    // The error is where the frames end.
    while let Ok(true) = reader.skip_frame() {
        frames += 1;
        end_before = end;
        end = reader.offset();
    }
    // A last line without its end may lack digits.
    let mut last = [b'\n'];
    if end > 0 {
        let mut file = duplicate()?;
        file.seek(SeekFrom::Start(end - 1)).and_then(|_| file.read_exact(&mut last)).map_err(|e| Error::io(path, e))?;
    }
    Ok(if last == *b"\n" { (frames, end) } else { (frames - 1, end_before) })
}

/// Number of frames in the whole members at the start of a packed file, and where those end.
fn whole_members(compression: Compression, file: &File) -> io::Result<(usize, u64)> {
    let mut input = BufReader::new(file.try_clone()?);
    let (mut frames, mut end) = (0, 0);
    while !input.fill_buf()?.is_empty() {
        let Ok(text) = compression.decode_member(&mut input) else { break };
        // An empty text is an error to the reader, but fine here.
        let mut reader = Reader::from_reader("", io::Cursor::new(text)).map_err(io::Error::other)?;
        while let Ok(true) = reader.skip_frame() {
            frames += 1;
        }
        end = input.stream_position()?;
    }
    Ok((frames, end))
}
