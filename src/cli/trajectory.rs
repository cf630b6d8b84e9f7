//! Reading for the commands that evaluate: slices of files, cut into chunks, each frame with its outcome.

use std::fs::File;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use mlff::xyz::{BadFrame, Frame, Item, Reader, Spares};
use mlff::{BatchSize, DeviceKind};
use mlff::{Error, Potential, Result, Structure};
use mlff::{Evaluation, Want};

use super::complain;
use super::reading::Reading;

/// A Python slice `start:stop:step` or a single index, as in ASE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameSlice {
    /// One frame; negative counts from the end.
    One(i64),
    /// A range with positive step.
    Range {
        /// First frame.
        start: Option<i64>,
        /// Frame behind the last.
        stop: Option<i64>,
        /// Distance between frames.
        step: usize,
    },
}

impl std::str::FromStr for FrameSlice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let refuse = || format!("\"{text}\" is no index: expected N, START:STOP or START:STOP:STEP, as in Python");
        let number = |part: &str| if part.is_empty() { Ok(None) } else { part.parse().map(Some).map_err(|_| refuse()) };
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            [one] => Ok(FrameSlice::One(number(one)?.ok_or_else(refuse)?)),
            [start, stop] => Ok(FrameSlice::Range { start: number(start)?, stop: number(stop)?, step: 1 }),
            [start, stop, step] => match number(step)?.unwrap_or(1) {
                step if step > 0 => {
                    Ok(FrameSlice::Range { start: number(start)?, stop: number(stop)?, step: step as usize })
                }
                step => Err(format!("the step is {step}, expected at least 1: output keeps the order of the input")),
            },
            _ => Err(refuse()),
        }
    }
}

/// Frames `start, start + step, …` before `stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Selection {
    start: usize,
    stop: Option<usize>,
    step: usize,
    /// A single frame that must exist.
    required: bool,
}

impl FrameSlice {
    fn needs_length(self) -> bool {
        match self {
            FrameSlice::One(k) => k < 0,
            FrameSlice::Range { start, stop, .. } => start.is_some_and(|k| k < 0) || stop.is_some_and(|k| k < 0),
        }
    }

    /// `length` is looked at for negative numbers only.
    fn resolve(self, length: i64) -> Selection {
        let from_end = |k: i64| if k < 0 { (length + k).max(0) as usize } else { k as usize };
        match self {
            // Before the first frame: an index that no frame has.
            FrameSlice::One(k) if k < -length => Selection { start: usize::MAX, stop: None, step: 1, required: true },
            FrameSlice::One(k) => {
                let k = from_end(k);
                Selection { start: k, stop: Some(k.saturating_add(1)), step: 1, required: true }
            }
            FrameSlice::Range { start, stop, step } => {
                Selection { start: start.map_or(0, from_end), stop: stop.map(from_end), step, required: false }
            }
        }
    }
}

/// One frame as read.
pub enum Entry {
    /// A frame, and the file that it is from.
    Frame(Box<Frame>, std::sync::Arc<Path>),
    /// A frame that was refused.
    Bad(BadFrame),
}

/// Frames that are evaluated together.
pub struct Chunk {
    /// Frames in input order.
    pub entries: Vec<Entry>,
    /// An error after which no further frame of that file can be read.
    pub end: Option<Error>,
}

impl Chunk {
    /// Whether two of them at the same time would take too much memory.
    pub fn is_large(&self) -> bool {
        let atoms = |entry: &Entry| match entry {
            Entry::Frame(frame, _) => frame.structure.n_atoms(),
            Entry::Bad(_) => 0,
        };
        self.entries.iter().map(atoms).sum::<usize>() > 2 * CHUNK_ATOMS
    }
}

/// Frames and atoms of a chunk, large enough that the engine can sort by size, small enough to keep memory low.
const CHUNK_FRAMES: usize = 512;
const CHUNK_ATOMS: usize = 16 * 1024;

/// How many times larger chunks are for a GPU, which is filled by large batches only.
const GPU_CHUNKS: usize = 4;

/// Where a chunk ends: a function of the frames and these numbers alone, so that a resumed run has the same batches.
#[derive(Debug, Clone, Copy)]
pub struct ChunkSize {
    /// The chunk's frames are a multiple of this, which fills the engine's batches.
    multiple: usize,
    frames: usize,
    atoms: usize,
}

impl ChunkSize {
    /// Chunks of many batches, which the threads share. From standard input, chunks of the one batch that was asked for:
    /// whoever writes the frames may be waiting for the results.
    pub fn new(batch: BatchSize, inputs: &[PathBuf], device: DeviceKind) -> Self {
        let times = if device == DeviceKind::Cpu { 1 } else { GPU_CHUNKS };
        let (frames, atoms) = (times * CHUNK_FRAMES, times * CHUNK_ATOMS);
        let waiting = inputs.iter().any(|input| input.as_os_str() == "-");
        match batch {
            BatchSize::Structures(n) if waiting => ChunkSize { multiple: n, frames: n, atoms: usize::MAX },
            BatchSize::Structures(n) => ChunkSize { multiple: n, frames, atoms },
            _ => ChunkSize { multiple: 1, frames, atoms },
        }
    }

    fn is_full(self, frames: usize, atoms: usize) -> bool {
        (frames >= self.frames || atoms >= self.atoms) && frames.is_multiple_of(self.multiple)
    }
}

/// Reads the inputs one after another, into the memory of `spares`, and gives away their chunks, until `send` says that
/// nobody takes them.
///
/// An input that cannot be opened, or has not the frame that the index asks for, is a chunk's `end`; the others are read.
pub fn read_chunks(
    inputs: &[PathBuf],
    slice: FrameSlice,
    size: ChunkSize,
    reading: Reading,
    progress: &ProgressBar,
    spares: &Spares,
    send: &mut impl FnMut(Chunk) -> bool,
) {
    for input in inputs {
        let begin = || {
            let length = if slice.needs_length() { count_frames(input)? } else { 0 };
            Ok((slice.resolve(length), reading.set(open(input, progress)?)))
        };
        let (selection, mut reader) = match begin() {
            Ok(begun) => begun,
            Err(error) => {
                if !send(Chunk { entries: Vec::new(), end: Some(error) }) {
                    return;
                }
                continue;
            }
        };
        reader.reuse(spares);
        let path: std::sync::Arc<Path> = reader.path().into();
        let mut chunk = Chunk { entries: Vec::new(), end: None };
        let mut atoms = 0;
        let mut selected = 0;
        while selection.stop.is_none_or(|stop| reader.frames() < stop) {
            let index = reader.frames();
            let wanted = index >= selection.start && (index - selection.start).is_multiple_of(selection.step);
            let item = if wanted { reader.next_item().map(|item| item.map(Some)) } else { skip(&mut reader) };
            match item {
                Ok(None) => break,
                Ok(Some(None)) => continue,
                Ok(Some(Some(item))) => {
                    selected += 1;
                    let (n, entry) = match item {
                        Item::Frame(frame) => (frame.structure.n_atoms(), Entry::Frame(Box::new(frame), path.clone())),
                        Item::Bad(bad) => (0, Entry::Bad(bad)),
                    };
                    atoms += n;
                    chunk.entries.push(entry);
                }
                Err(error) => {
                    chunk.end = Some(error);
                    break;
                }
            }
            if size.is_full(chunk.entries.len(), atoms) {
                atoms = 0;
                let full = std::mem::replace(&mut chunk, Chunk { entries: Vec::new(), end: None });
                if !send(full) {
                    return;
                }
            }
        }
        if selected == 0 && chunk.end.is_none() {
            let (path, n) = (input.display(), reader.frames());
            if selection.required {
                let reason = format!("--index asks for a frame that {path} does not have: it has {n}");
                chunk.end = Some(Error::Usage(reason));
            } else if inputs.len() > 1 && n > 0 {
                complain(&format!("warning: --index selects no frame of {path}"));
            }
        }
        if (!chunk.entries.is_empty() || chunk.end.is_some()) && !send(chunk) {
            return;
        }
    }
}

/// `None`: end of file. `Some(None)`: skipped.
fn skip(reader: &mut Reader) -> Result<Option<Option<Item>>> {
    Ok(reader.skip_frame()?.then_some(None))
}

/// Frames of a file, without reading what is in them.
///
/// # Errors
/// `Error::Usage` for what can be read only once, `Error::Io`.
pub fn count_frames(input: &Path) -> Result<i64> {
    if input.as_os_str() == "-" || std::fs::metadata(input).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        return Err(Error::Usage(
            "--index counts from the end, which standard input and pipes do not have until they are read: name a file"
                .into(),
        ));
    }
    let mut reader = Reader::open(input)?;
    // A frame that is cut off ends the count; whoever reads that far reports it.
    while let Ok(true) = reader.skip_frame() {}
    Ok(reader.frames() as i64)
}

fn open(input: &Path, progress: &ProgressBar) -> Result<Reader> {
    if input.as_os_str() == "-" || progress.is_hidden() || !input.is_file() {
        return Reader::open(input);
    }
    // Bytes of the file as it lies on disk: the share that is read, packed or not.
    let file = File::open(input).map_err(|e| Error::io(input, e))?;
    Reader::from_reader(input, progress.wrap_read(file))
}

/// A progress bar over the bytes of the inputs; hidden off a terminal.
pub fn progress_bar(inputs: &[PathBuf], show: bool) -> ProgressBar {
    use std::io::IsTerminal;
    if !show || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let sizes: Option<u64> =
        inputs.iter().map(|path| std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len())).sum();
    let (bar, template) = match sizes {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:30} {percent}%  {msg}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner}  {msg}  {elapsed}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

/// A frame and what came of it.
pub struct Evaluated {
    /// The frame as read.
    pub entry: Entry,
    /// Its results, or why there are none, with file, frame and line.
    pub outcome: Result<Evaluation>,
}

/// Evaluates a chunk; order is kept.
pub fn evaluate(potential: &Potential, mut chunk: Vec<Entry>, want: Want) -> Vec<Evaluated> {
    let allowed: Vec<Result<()>> = chunk.iter_mut().map(|entry| check_state(potential, entry)).collect();
    let structures: Vec<&Structure> = chunk
        .iter()
        .zip(&allowed)
        .filter_map(|(entry, allowed)| match entry {
            Entry::Frame(frame, _) if allowed.is_ok() => Some(&frame.structure),
            _ => None,
        })
        .collect();
    let mut results = potential.evaluate(&structures, want).into_iter();
    let outcomes: Vec<Result<Evaluation>> = chunk
        .iter()
        .zip(allowed)
        .map(|(entry, allowed)| {
            allowed?;
            let result = results.next().unwrap_or_else(|| Err(Error::Defect("a structure has no result".into())));
            result.map_err(|error| locate(entry, error))
        })
        .collect();
    chunk.into_iter().zip(outcomes).map(|(entry, outcome)| Evaluated { entry, outcome }).collect()
}

/// Refuses frames that could not be read, and charges and spins that the model does not describe; warns of electrons
/// that say the same.
fn check_state(potential: &Potential, entry: &mut Entry) -> Result<()> {
    let checked = match entry {
        Entry::Frame(frame, _) => frame.check_state(potential.model().config()).map(|warnings| {
            warnings.into_iter().for_each(|warning| frame.warn(warning));
        }),
        Entry::Bad(bad) => return Err(bad.error.clone()),
    };
    checked.map_err(|error| match error {
        Error::ChargeOrSpin { .. } => locate(entry, error),
        other => other,
    })
}

/// Adds where a structure stands in its file.
pub fn locate(entry: &Entry, error: Error) -> Error {
    match entry {
        // No fault of the frame.
        _ if !error.is_of_structure() => error,
        Entry::Frame(frame, path) => {
            Error::Xyz { path: path.to_path_buf(), frame: frame.index, line: frame.line, reason: error.to_string() }
        }
        Entry::Bad(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> FrameSlice {
        text.parse().unwrap()
    }

    #[test]
    fn frame_slice_selects_what_python_selects() {
        // (slice, length, selected), from Python: list(range(length))[slice].
        let cases: [(&str, usize, &[usize]); 11] = [
            (":", 4, &[0, 1, 2, 3]),
            ("1:", 4, &[1, 2, 3]),
            (":2", 4, &[0, 1]),
            ("-2:", 4, &[2, 3]),
            (":-1", 4, &[0, 1, 2]),
            ("::2", 5, &[0, 2, 4]),
            ("1::3", 8, &[1, 4, 7]),
            ("-9:2", 4, &[0, 1]),
            ("3:1", 4, &[]),
            ("2", 4, &[2]),
            ("-1", 4, &[3]),
        ];
        for (text, length, want) in cases {
            let s = parse(text).resolve(length as i64);
            let got: Vec<usize> = (0..length)
                .filter(|&k| k >= s.start && (k - s.start).is_multiple_of(s.step) && s.stop.is_none_or(|stop| k < stop))
                .collect();
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn frame_slice_refuses_what_it_cannot_do() {
        for text in ["", "a", "1:2:3:4", "::0", "::-1", "1.5"] {
            assert!(text.parse::<FrameSlice>().is_err(), "{text}");
        }
    }

    #[test]
    fn frame_slice_before_the_start_selects_nothing() {
        assert_eq!(parse("-5").resolve(4).start, usize::MAX);
    }
}
