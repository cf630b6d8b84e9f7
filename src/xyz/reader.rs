//! The streaming reader.

mod refusals;

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::atoms::{Atoms, is_no_atom};
use super::cell::cell_of;
use super::columns::Columns;
use super::comment::{self, Delimiter, Entry, unescape};
use super::frame::{Frame, Lines, unique};
use super::header::parse_count;
use super::input::{LineBuffer, LineError, MAX_LINE};
use super::number::lossy;
use super::seen;
use super::spares::Spares;
use super::tail;
use super::units::Ipi;
use crate::error::{Error, Result};
use crate::structure::{Structure, Vec3};
use refusals::{both, too_ragged};

/// Longest line that may hold an atom count.
const MAX_HEADER: usize = 64 << 10;
/// Atoms that space is set aside for before they are read, whatever the header claims.
const MAX_RESERVED: usize = 1 << 12;
/// Most text of a frame unless told otherwise: some four million atoms with sixty characters each.
const MAX_FRAME: usize = 256 << 20;
/// Bytes that an atom of a frame counts for in the same limit: what is made of its line.
const ATOM_BYTES: usize = 32;

/// A frame that cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub struct BadFrame {
    /// Index of the frame in the file, from 0.
    pub index: usize,
    /// Line of the file that holds the number of atoms, from 1.
    pub line: usize,
    /// Why it is refused.
    pub error: Error,
    /// Its text, for [`Texts::push_refused`](super::Texts::push_refused); empty if [`Reader::keep_refused`] is off.
    pub raw: Vec<u8>,
}

/// What [`Reader::next_item`] finds: a frame, or one that cannot be used.
// Frames are the common case and are handed on, not stored.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Item {
    /// A frame.
    Frame(Frame),
    /// A frame that is refused. Its end is known, so reading can go on with the next one.
    Bad(BadFrame),
}

/// What a frame is read into.
#[derive(Default)]
struct Memory {
    raw: Vec<u8>,
    numbers: Vec<u8>,
    positions: Vec<Vec3>,
    entries: Vec<Entry>,
}

/// Reads frames one after another, in bounded memory.
///
/// A reader holds one frame at a time, and takes memory only for what it has read, whatever number of atoms a file
/// claims. A frame of more than 256 MiB of text, or more than 2^23 atoms, is refused, since a small compressed file can
/// hold a frame of any size; [`Reader::with_max_frame`] changes this limit.
///
/// There are two kinds of errors:
///
/// * Inside a frame whose end is known (a bad number, an unknown element, a bad `Lattice`), the next call reads the
///   next frame.
/// * If the end of the frame is in doubt (no number of atoms, a blank line or a lone number inside a frame, the end of
///   the file, a read error, a frame that is too large), nothing more can be read: every further call returns `None`.
///
/// As an iterator, a reader gives frames and errors of both kinds. [`Reader::next_item`] gives the text of refused
/// frames too.
///
/// ```
/// use mlff::xyz::Reader;
///
/// let text = "2\nenergy=-31.7\nH 0 0 0\nH 0 0 0.74\n"; // usually a file: Reader::open
/// for frame in Reader::from_reader("hydrogen.xyz", text.as_bytes())? {
///     let frame = frame?;
///     assert_eq!(frame.structure.atomic_numbers, [1, 1]);
///     assert_eq!(frame.labels("")?.energy, Some(-31.7));
/// }
/// # Ok::<(), mlff::Error>(())
/// ```
pub struct Reader {
    pub(super) lines: LineBuffer,
    pub(super) path: Arc<Path>,
    pub(super) frames: usize,
    done: bool,
    // `Properties` is the same in frame after frame; parsing it once saves a third of the time of small frames.
    columns: (Vec<u8>, Arc<Columns>),
    plain: Arc<Columns>,
    pub(super) atoms_before: usize,
    pub(super) max_frame: usize,
    keep_refused: bool,
    spares: Spares,
    /// Spares at hand.
    stock: Vec<Frame>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("path", &self.path).field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a file, either plain or compressed by gzip, bzip2, xz or zstd, whatever its name. `-` is standard input.
    ///
    /// # Errors
    /// `Error::Io`, also for a compressed file if this build lacks the cargo feature `compression`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        LineBuffer::open(path.as_ref()).map(Self::new)
    }

    /// Reads from a stream, compressed or not. `name` takes the place of the path in error messages.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn from_reader(name: impl AsRef<Path>, source: impl Read + Send + 'static) -> Result<Self> {
        LineBuffer::new(name.as_ref(), source).map(Self::new)
    }

    fn new(mut lines: LineBuffer) -> Self {
        lines.most = MAX_FRAME;
        let path = lines.path().clone();
        let plain = Arc::new(Columns::plain());
        Reader {
            lines,
            path,
            frames: 0,
            done: false,
            columns: (Vec::new(), plain.clone()),
            plain,
            atoms_before: 0,
            max_frame: MAX_FRAME,
            keep_refused: true,
            spares: Spares::default(),
            stock: Vec::new(),
        }
    }

    /// Chooses the largest frame that is read: `bytes` of text, and `bytes / 32` atoms. By default this is 256 MiB.
    #[must_use]
    pub fn with_max_frame(mut self, bytes: usize) -> Self {
        (self.max_frame, self.lines.most) = (bytes, bytes);
        self
    }

    /// Chooses whether [`BadFrame::raw`] holds the text of refused frames. By default it does.
    #[must_use]
    pub fn keep_refused(mut self, keep: bool) -> Self {
        self.keep_refused = keep;
        self
    }

    /// Lets the reader use the memory of the frames in `spares` for new frames.
    pub fn reuse(&mut self, spares: &Spares) {
        self.spares = spares.clone();
    }

    /// The path or name that the reader was made with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of frames that were read or passed over so far, which is the index of the next one.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Whether reading can go on: `false` at the end of the file, and after an error that leaves the end of a frame in
    /// doubt.
    pub fn recoverable(&self) -> bool {
        !self.done
    }

    /// Offset in the unpacked stream behind the last frame.
    pub(crate) fn offset(&self) -> u64 {
        self.lines.offset()
    }

    /// Reads the next frame; `None` at the end of the file.
    ///
    /// # Errors
    /// `Error::Xyz` and `Error::Io`; [`Reader`] says whether reading can go on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        match self.next_item()? {
            None => Ok(None),
            Some(Item::Frame(frame)) => Ok(Some(frame)),
            Some(Item::Bad(bad)) => Err(bad.error),
        }
    }

    /// Reads the next frame, or, if it is refused, its text and what is wrong with it; `None` at the end of the file.
    ///
    /// # Errors
    /// `Error::Xyz` and `Error::Io`, after which nothing more can be read.
    pub fn next_item(&mut self) -> Result<Option<Item>> {
        self.guard(Self::read_item)
    }

    /// Passes over the next frame without reading its content; `false` at the end of the file.
    ///
    /// # Errors
    /// As [`Reader::next_item`], but only for the number of atoms, lines that are too long, a file that ends too early
    /// and what cannot be read from the disk.
    pub fn skip_frame(&mut self) -> Result<bool> {
        self.guard(|reader| {
            let Some(header) = reader.header()? else { return Ok(None) };
            let mut gdb9 = false;
            for k in 0..=header.n_atoms {
                reader.lines.set_mark();
                let Some(line) = reader.line(MAX_LINE)? else { return Err(reader.truncated(&header, k)) };
                if k == 0 {
                    gdb9 = tail::is_comment(&reader.lines.since_mark()[line]);
                } else if gdb9 && k == header.n_atoms {
                    let found = tail::is_atom_line(&reader.lines.since_mark()[line]);
                    _ = found && tail::pass(&mut reader.lines, header.n_atoms);
                }
            }
            reader.lines.set_mark();
            reader.frames += 1;
            reader.atoms_before = header.n_atoms;
            Ok(Some(()))
        })
        .map(|skipped| skipped.is_some())
    }

    fn guard<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<Option<T>>) -> Result<Option<T>> {
        if self.done {
            return Ok(None);
        }
        let outcome = read(self);
        self.done = !matches!(outcome, Ok(Some(_)));
        outcome
    }

    fn read_item(&mut self) -> Result<Option<Item>> {
        let Some(header) = self.header()? else { return Ok(None) };
        let Some(comment) = self.line(MAX_LINE)? else { return Err(self.truncated(&header, 0)) };
        let Memory { mut raw, numbers, positions, entries } = self.memory();
        let gdb9 = tail::is_comment(&self.lines.since_mark()[comment.clone()]);
        let mut bad = None;
        let parsed = match self.read_comment(comment.clone(), entries) {
            Ok(parsed) => Some(parsed),
            Err(reason) => {
                bad = Some(self.error(header.line + 1, reason));
                None
            }
        };
        let columns = parsed.as_ref().map_or_else(|| self.plain.clone(), |p| p.columns.clone());
        let mut atoms = Atoms { numbers, positions, ..Atoms::default() };
        atoms.numbers.reserve(header.n_atoms.min(MAX_RESERVED));
        atoms.positions.reserve(header.n_atoms.min(MAX_RESERVED));
        let first = self.lines.since_mark().len();
        let most_atoms = self.max_frame / ATOM_BYTES;
        let mut last = comment.clone();
        for k in 0..header.n_atoms {
            if bad.is_some() && !self.keep_refused {
                self.lines.set_mark();
            }
            last = match self.line(MAX_LINE) {
                Ok(Some(range)) => range,
                Ok(None) => return Err(bad.unwrap_or_else(|| self.truncated(&header, k + 1))),
                Err(error) => return Err(both(bad, error)),
            };
            let line = &self.lines.since_mark()[last.clone()];
            if bad.is_none() {
                if k == most_atoms {
                    return Err(self.too_large(&format!("{most_atoms} atoms")));
                }
                let Err(reason) = atoms.push(&columns, line) else { continue };
                let reason = if line.contains(&0) { format!("NUL byte in an atom line ({reason})") } else { reason };
                if is_no_atom(line) {
                    return Err(self.lost(&header, k, line, &reason));
                }
                bad = Some(self.error(self.lines.lines(), reason));
            } else if is_no_atom(line) {
                return Err(bad.unwrap_or_else(|| self.lost(&header, k, line, "")));
            }
        }
        let text = self.lines.since_mark();
        let kept = bad.is_none() || self.keep_refused;
        // What was buffered before the limit was asked.
        if kept && text.len() - header.start > self.max_frame {
            let error = self.too_large(&self.limit());
            return Err(both(bad, error));
        }
        if bad.is_none()
            && let Some(at) = memchr::memchr(0, &text[header.start..])
        {
            let line = header.line + Lines::new(&text[header.start..=header.start + at]).count() - 1;
            bad = Some(self.error(line, "NUL byte, expected text".into()));
        }
        let end = text.len();
        let may_be_cut = self.lines.unended() && text.last().is_some_and(|c| !c.is_ascii_whitespace());
        let gdb9 = gdb9 && header.n_atoms > 0 && tail::is_atom_line(&text[last]);
        let has_tail = gdb9 && tail::pass(&mut self.lines, header.n_atoms);
        if bad.is_none() || self.keep_refused {
            self.lines.take(header.start.min(end)..end, &mut raw);
        } else {
            self.lines.set_mark();
        }
        let index = self.frames;
        self.frames += 1;
        self.atoms_before = header.n_atoms;
        let parsed = match (bad, parsed) {
            (None, Some(parsed)) => parsed,
            (error, _) => {
                let error = error.unwrap_or_else(|| self.error(header.line, "unreadable frame".into()));
                return Ok(Some(Item::Bad(BadFrame { index, line: header.line, error, raw })));
            }
        };
        if let Some(ipi) = &parsed.ipi {
            ipi.scale(&mut atoms.positions);
        }
        let structure = Structure {
            atomic_numbers: atoms.numbers,
            positions: atoms.positions,
            cell: parsed.cell,
            pbc: parsed.pbc,
            charge: None,
        };
        let extra = atoms.extra.unwrap_or_default();
        let checked = structure.validate().map_err(|e| (header.line + 1, e.to_string()));
        let padding = extra.1.saturating_mul(header.n_atoms) - atoms.n_extra;
        let checked = checked.and_then(|()| too_ragged(extra, padding, raw.len()).map_err(|e| (header.line, e)));
        if let Err((line, reason)) = checked {
            let error = self.error_in(index, line, reason);
            if !self.keep_refused {
                raw = Vec::new();
            }
            return Ok(Some(Item::Bad(BadFrame { index, line: header.line, error, raw })));
        }
        let mut warnings = parsed.warnings;
        if extra.0 != extra.1 {
            warnings.push(format!("atom lines have from {} to {} columns", extra.0 + 4, extra.1 + 4));
        }
        let mut columns = columns;
        if !atoms.misfits.is_empty() {
            for (column, atom, found) in &atoms.misfits {
                let (declared, now) = (&columns.list[*column], atoms.kinds[*column].letter());
                warnings.push(format!(
                    "column {}:{} holds \"{found}\" in line {}: read and written as {now}",
                    lossy(declared.name.as_bytes()),
                    declared.kind.letter(),
                    header.line + 2 + atom
                ));
            }
            columns = Arc::new(columns.with_kinds(&atoms.kinds));
        }
        if may_be_cut {
            warnings.push("the last line has no line end: a file that was cut off there may lack digits".into());
        }
        if has_tail {
            warnings.push(tail::WARNING.into());
        }
        let mut frame = Frame {
            index,
            line: header.line,
            structure,
            path: self.path.clone(),
            columns,
            comment: comment.start - header.start..comment.end - header.start,
            atoms: first - header.start..raw.len(),
            raw,
            entries: parsed.entries,
            extra,
            needs_numbers: atoms.needs_numbers,
            warnings,
        };
        // One that cannot be read is an error of `check_state`.
        let charge = frame.charge().ok().flatten();
        #[allow(clippy::cast_possible_truncation)] // whole, and no more than a million
        (frame.structure.charge = charge.map(|charge| charge as i32));
        let numeric = seen::numeric_species(&mut frame).map_err(|(atom, reason)| (header.line + 2 + atom, reason));
        let rewritten = || parsed.ipi.map_or(Ok(()), |ipi| ipi.rewrite(&mut frame));
        if let Err((line, reason)) = numeric.and_then(|()| rewritten().map_err(|reason| (header.line + 1, reason))) {
            let error = self.error_in(index, line, reason);
            let raw = if self.keep_refused { frame.raw } else { Vec::new() };
            return Ok(Some(Item::Bad(BadFrame { index, line: header.line, error, raw })));
        }
        Ok(Some(Item::Frame(frame)))
    }

    /// Empty lists, with a spare's memory where there is one.
    fn memory(&mut self) -> Memory {
        if self.stock.is_empty() {
            self.spares.take(&mut self.stock);
        }
        let Some(Frame { structure, mut raw, entries, .. }) = self.stock.pop() else { return Memory::default() };
        let (mut numbers, mut positions, mut entries) =
            (structure.atomic_numbers, structure.positions, entries.entries);
        raw.clear();
        numbers.clear();
        positions.clear();
        entries.clear();
        Memory { raw, numbers, positions, entries }
    }

    /// `entries` is empty.
    fn read_comment(&mut self, range: Range<usize>, entries: Vec<Entry>) -> std::result::Result<ParsedComment, String> {
        let text = &self.lines.since_mark()[range];
        let entries = comment::parse(text, entries)?;
        let ipi = Ipi::read(text, &entries)?;
        let (cell, pbc, mut warnings) = cell_of(text, &entries.entries, ipi.as_ref().and_then(|ipi| ipi.cell))?;
        seen::look(text, &entries, cell.is_some(), &mut warnings)?;
        let columns = match unique(text, &entries.entries, "Properties")? {
            None => self.plain.clone(),
            Some(entry) => {
                let value = entry.value.clone().map_or(&[][..], |v| &text[v]);
                let value = if entry.delimiter == Delimiter::Quote { unescape(value) } else { value.into() };
                if self.columns.0[..] != *value || self.columns.0.is_empty() {
                    self.columns = (value.to_vec(), Arc::new(Columns::parse(&value)?));
                }
                self.columns.1.clone()
            }
        };
        Ok(ParsedComment { entries, cell, pbc, warnings, columns, ipi })
    }

    /// Finds the atom count of the next frame; `None` at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        loop {
            self.lines.set_mark();
            let Some(mut range) = self.line(MAX_HEADER)? else {
                if self.frames > 0 {
                    return Ok(None);
                }
                let found = if self.lines.lines() == 0 { "" } else { " (only blank lines)" };
                let reason = format!("empty file{found}, expected an atom count");
                return Err(self.error(1, reason));
            };
            let text = &self.lines.since_mark()[range.clone()];
            // At the start of a file, and where files were joined.
            if text.starts_with(b"\xef\xbb\xbf") {
                range.start += 3;
            }
            let text = &self.lines.since_mark()[range.clone()];
            if text.trim_ascii().is_empty() {
                continue;
            }
            let line = self.lines.lines();
            return match parse_count(text.trim_ascii()) {
                Ok(n_atoms) => Ok(Some(Header { line, n_atoms, start: range.start })),
                Err(reason) => {
                    let reason = self.not_a_header(text, &reason);
                    Err(self.error(line, reason))
                }
            };
        }
    }

    fn line(&mut self, limit: usize) -> Result<Option<Range<usize>>> {
        self.lines.next_line(limit).map_err(|e| match e {
            LineError::Io(error) => error,
            LineError::TooLong => {
                let kind = if self.frames == 0 && limit == MAX_HEADER { "; this is no XYZ file" } else { "" };
                let reason = format!("line longer than {} KiB{kind}", limit >> 10);
                self.error(self.lines.lines() + 1, reason)
            }
            LineError::TooMuch => self.too_large(&self.limit()),
        })
    }
}

/// Frames and errors, until the end of the file or an error after which nothing more can be read.
impl Iterator for Reader {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        self.next_frame().transpose()
    }
}

struct Header {
    pub line: usize,
    pub n_atoms: usize,
    /// Where the count's line starts behind the mark.
    pub start: usize,
}

struct ParsedComment {
    entries: comment::Comment,
    cell: Option<[[f64; 3]; 3]>,
    pbc: [bool; 3],
    warnings: Vec<String>,
    columns: Arc<Columns>,
    /// What has to be converted.
    ipi: Option<Ipi>,
}
