//! Frames as extended XYZ text, with results added.

use std::fmt::Write as _;
use std::io::Write as _;

use super::atoms::{Fields, trim_end};
use super::columns::{Column, ColumnType, Role};
use super::comment::push_quoted;
use super::frame::{Frame, Lines, MADE_BY, is_key, is_record};
use super::normalize::{push_entry, push_pbc};
use super::number::utf8;
use super::number::{has_foreign_exponent, parse_logical, parse_real, push_real, push_reals};
use crate::error::{Error, Result};
use crate::model::Outside;
use crate::settings::Precision;
use crate::structure::{Mat3, Vec3};

/// Results of a model for one structure, as they are written to a file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Results<'a> {
    /// Energy, eV.
    pub energy: f64,
    /// Forces, `[n_atoms]`, eV/Å.
    pub forces: Option<&'a [Vec3]>,
    /// Stress, eV/Å³, positive under tension.
    pub stress: Option<Mat3>,
    /// In which ways they lie outside of what the model was trained on; written as the key `outside` if there are any.
    pub outside: Outside,
}

/// How results are written. By default keys begin with `MLFF_`, and all numbers have the digits of f64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// Prefix of the names `energy`, `forces`, `stress` and `outside`. If it is empty, `free_energy` is written too,
    /// which ASE's calculator reads.
    ///
    /// Entries and columns of the input that have one of these names, or `force`, `virial`, `virials` or `made_by`,
    /// with this prefix, are left out, so that they cannot be mistaken for results.
    pub key_prefix: String,
    /// Precision in which forces and stress were computed. They are written with as many digits as this precision
    /// needs. Energies, which are sums over many atoms, are always written with the digits of f64.
    pub precision: Precision,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions { key_prefix: "MLFF_".into(), precision: Precision::F64 }
    }
}

impl WriteOptions {
    /// Checks the prefix. It may consist of letters, digits, `_`, `-` and `.`, and may not start with a digit, so that
    /// keys need no quotes.
    ///
    /// # Errors
    /// `Error::Usage` for any other prefix.
    pub fn validate(&self) -> Result<()> {
        let prefix = &self.key_prefix;
        let word = prefix.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if word && !prefix.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "key prefix \"{prefix}\" must be letters, digits, _, - and ., not starting with a digit"
        )))
    }
}

/// The names of what is written, and which of the input's entries and columns make way for them: all that would pass
/// for a result of this model, whether there is one in its place or not. Labels of the input would, where there is no
/// prefix, and so would results of an earlier run.
struct Names<'a> {
    prefix: &'a str,
    precision: Precision,
    results: Option<Results<'a>>,
}

impl Names<'_> {
    /// Appends a component of forces or stress.
    fn push_component(&self, out: &mut Vec<u8>, value: f64) {
        let single = value as f32;
        match self.precision {
            Precision::F32 if single.is_finite() => push_real(out, single),
            _ => push_real(out, value),
        }
    }

    fn replaces_key(&self, key: &[u8], value: &[u8]) -> bool {
        let Some(name) = key.strip_prefix(self.prefix.as_bytes()) else { return false };
        match name {
            b"energy" | b"free_energy" | b"stress" | b"virial" | b"virials" => true,
            // Without a prefix, somebody else's word.
            b"outside" => !self.prefix.is_empty() || self.results.is_some(),
            // Says what made the file that a frame was in, which is not the one that it is written to.
            MADE_BY => !self.prefix.is_empty() || is_record(value),
            _ => false,
        }
    }

    fn replaces_column(&self, name: &str) -> bool {
        matches!(name.strip_prefix(self.prefix), Some("forces" | "force"))
    }
}

/// The text of frames, one after another, to be written by [`Writer::write_texts`](super::Writer::write_texts). Several
/// threads can each make such a text at the same time.
#[derive(Debug, Default)]
pub struct Texts {
    text: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
    /// The first frame whose comment was made here: its number, and where in its text the comment ends.
    first_comment: Option<(usize, usize)>,
}

impl Texts {
    /// Makes room for so many more bytes of text.
    pub fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
    }

    /// Removes all frames, and keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.first_comment = None;
    }

    /// Appends a frame as extended XYZ, as [`Writer::write_frame`](super::Writer::write_frame) writes it: with all that
    /// it had in its file, and with `results` in place of earlier ones of the same names.
    ///
    /// # Errors
    /// `Error::Shape` if there is not one force for each atom; nothing is appended then.
    pub fn push_frame(&mut self, frame: &Frame, results: Option<&Results<'_>>, options: &WriteOptions) -> Result<()> {
        let start = self.text.len();
        let end_of_comment = push_frame(&mut self.text, frame, results, options)?;
        self.first_comment.get_or_insert((self.ends.len(), end_of_comment - start));
        self.ends.push(self.text.len());
        Ok(())
    }

    /// Appends the text of a refused frame ([`BadFrame::raw`](super::BadFrame::raw)), with line ends LF. Entries and
    /// columns of its comment that could be mistaken for results get the prefix `input_`.
    pub fn push_refused(&mut self, raw: &[u8], options: &WriteOptions) {
        let mut lines = Lines::new(raw);
        for (k, line) in lines.by_ref().take(2).enumerate() {
            match k {
                0 => self.text.extend_from_slice(line),
                _ => push_without_results(&mut self.text, line, &options.key_prefix),
            }
            self.text.push(b'\n');
        }
        for line in lines {
            self.text.extend_from_slice(line);
            self.text.push(b'\n');
        }
        self.ends.push(self.text.len());
    }

    /// The text of all frames.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The first frame whose comment can be added to, and where in its text the comment ends.
    pub(super) fn first_comment(&self) -> Option<(usize, usize)> {
        self.first_comment
    }

    /// Frame by frame.
    pub(super) fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let start = |k: usize| if k == 0 { 0 } else { self.ends[k - 1] };
        (0..self.ends.len()).map(move |k| &self.text[start(k)..self.ends[k]])
    }
}

/// Appends the comment of a refused frame, which may be one that cannot be taken apart: names of results are found by the
/// characters around them.
fn push_without_results(out: &mut Vec<u8>, comment: &[u8], prefix: &str) {
    let names: [&[u8]; 7] = [b"energy", b"free_energy", b"stress", b"virial", b"virials", b"forces", b"force"];
    let mut copied = 0;
    for at in 0..comment.len() {
        let before = if at == 0 { b' ' } else { comment[at - 1] };
        let Some(rest) = comment[at..].strip_prefix(prefix.as_bytes()) else { continue };
        if !(before.is_ascii_whitespace() || matches!(before, b':' | b'=' | b'"' | b'\'' | b',')) {
            continue;
        }
        let is_result = names.iter().any(|name| {
            let after = rest.strip_prefix(*name).map(<[u8]>::trim_ascii_start);
            // A key has its value behind it, a column its type.
            after.is_some_and(|after| after.starts_with(if name.starts_with(b"force") { b":" } else { b"=" }))
        });
        if is_result {
            out.extend_from_slice(&comment[copied..at]);
            out.extend_from_slice(b"input_");
            copied = at;
        }
    }
    out.extend_from_slice(&comment[copied..]);
}

/// Appends a frame as extended XYZ; returns where its comment ends.
///
/// # Errors
/// `Error::Shape` where there is not one force an atom; nothing is appended.
pub(crate) fn push_frame(
    out: &mut Vec<u8>,
    frame: &Frame,
    results: Option<&Results<'_>>,
    options: &WriteOptions,
) -> Result<usize> {
    let n_atoms = frame.structure.n_atoms();
    if let Some(forces) = results.and_then(|r| r.forces)
        && forces.len() != n_atoms
    {
        return Err(Error::Shape { what: "forces".into(), expected: vec![n_atoms, 3], got: vec![forces.len(), 3] });
    }
    let names = Names { prefix: &options.key_prefix, precision: options.precision, results: results.copied() };
    push_count(out, n_atoms);
    out.push(b'\n');
    push_comment(out, frame, &names);
    let end_of_comment = out.len() - 1;
    push_atoms(out, frame, &names);
    Ok(end_of_comment)
}

fn push_count(out: &mut Vec<u8>, n: usize) {
    // Writing to memory does not fail.
    _ = write!(out, "{n}");
}

fn push_comment(out: &mut Vec<u8>, frame: &Frame, names: &Names<'_>) {
    let comment = frame.comment();
    let entries = &frame.entries.entries;
    let has = |key| entries.iter().any(|e| e.value.is_some() && is_key(comment, e, key));
    if !has("Properties") {
        push_properties(out, frame, names);
        out.push(b' ');
    }
    for entry in entries {
        let value = entry.value.clone().map_or(&[][..], |v| &comment[v]);
        if names.replaces_key(frame.key(entry), value) {
            continue;
        }
        if entry.value.is_some() && is_key(comment, entry, "Properties") {
            push_properties(out, frame, names);
        } else {
            push_entry(out, frame, entry);
        }
        out.push(b' ');
    }
    let free_text = comment.trim_ascii();
    if !frame.entries.has_keys && !free_text.is_empty() {
        out.extend_from_slice(b"comment=");
        let text = utf8(free_text);
        // Braces are no trouble inside quotes; `_JSON` would be.
        let guard: &[u8] = if text.starts_with(b"_JSON ") { b" " } else { b"" };
        push_quoted(out, &[guard, &text[..]].concat());
        out.push(b' ');
    }
    if !has("pbc") && frame.structure.cell.is_none() {
        push_pbc(out, [false; 3]);
        out.push(b' ');
    }
    // A cell that had another name: no other program would know it.
    if let Some(cell) = frame.structure.cell.filter(|_| !has("Lattice")) {
        out.extend_from_slice(b"Lattice=\"");
        push_reals(out, cell.into_iter().flatten());
        out.extend_from_slice(b"\" ");
        if !has("pbc") {
            push_pbc(out, frame.structure.pbc);
            out.push(b' ');
        }
    }
    if let Some(results) = names.results {
        let keys: &[&str] = if names.prefix.is_empty() { &["energy", "free_energy"] } else { &["energy"] };
        for key in keys {
            out.extend_from_slice(names.prefix.as_bytes());
            out.extend_from_slice(key.as_bytes());
            out.push(b'=');
            push_real(out, results.energy);
            out.push(b' ');
        }
        if let Some(stress) = results.stress {
            out.extend_from_slice(names.prefix.as_bytes());
            out.extend_from_slice(b"stress=\"");
            for (k, &x) in stress.as_flattened().iter().enumerate() {
                if k > 0 {
                    out.push(b' ');
                }
                names.push_component(out, x);
            }
            out.extend_from_slice(b"\" ");
        }
        if !results.outside.is_empty() {
            // Writing to memory does not fail.
            _ = write!(out, "{}outside={} ", names.prefix, results.outside);
        }
    }
    out.pop();
    out.push(b'\n');
}

/// Whether atom lines get a column of atomic numbers, because `species` alone means them only here.
fn adds_numbers(frame: &Frame) -> bool {
    frame.needs_numbers && frame.columns.number.is_none()
}

fn push_properties(out: &mut Vec<u8>, frame: &Frame, names: &Names<'_>) {
    let mut value = String::with_capacity(128);
    let mut push = |name: &str, letter: char, width: usize| {
        let colon = if value.is_empty() { "" } else { ":" };
        // Writing to memory does not fail.
        _ = write!(value, "{colon}{name}:{letter}:{width}");
    };
    for (Column { name, kind, width }, role) in frame.columns.with_roles() {
        match role {
            _ if names.replaces_column(name) => {}
            // ASE makes strings of species, and none of integers; it reads whole numbers in a column of real ones.
            Some(role @ Role::Species) => push(role.name(), 'S', 1),
            Some(role @ Role::Position) => push(role.name(), 'R', 3),
            Some(role @ Role::Number) => push(role.name(), 'I', 1),
            None => push(name, kind.letter(), *width),
        }
    }
    if frame.n_undeclared_fields() > 0 {
        push("extra", 'S', frame.n_undeclared_fields());
    }
    if adds_numbers(frame) {
        push("Z", 'I', 1);
    }
    if names.results.is_some_and(|r| r.forces.is_some()) {
        push(&format!("{}forces", names.prefix), 'R', 3);
    }
    out.extend_from_slice(b"Properties=");
    let plain = value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b':' | b'-' | b'.'));
    if plain {
        out.extend_from_slice(value.as_bytes());
    } else {
        push_quoted(out, value.as_bytes());
    }
}

fn push_atoms(out: &mut Vec<u8>, frame: &Frame, names: &Names<'_>) {
    let text = &frame.raw[frame.atoms.clone()];
    let forces = names.results.and_then(|r| r.forces);
    let edits = Edits::new(frame, names, text);
    for (atom, line) in frame.atom_lines().enumerate() {
        match &edits {
            None => out.extend_from_slice(trim_end(line)),
            Some(edits) => edits.push_line(out, line),
        }
        if adds_numbers(frame)
            && let Some(z) = frame.structure.atomic_numbers.get(atom)
        {
            out.push(b' ');
            push_count(out, usize::from(*z));
        }
        if let Some(force) = forces.and_then(|f| f.get(atom)) {
            for &x in force {
                out.push(b' ');
                names.push_component(out, x);
            }
        }
        out.push(b'\n');
    }
}

/// What has to change within the fields of atom lines; rare, so that lines are mostly copied whole.
struct Edits {
    dropped: Vec<std::ops::Range<usize>>,
    real: Vec<std::ops::Range<usize>>,
    logical: Vec<std::ops::Range<usize>>,
    n_fields: usize,
}

impl Edits {
    fn new(frame: &Frame, names: &Names<'_>, text: &[u8]) -> Option<Self> {
        let columns = &frame.columns;
        let fields = |wanted: &dyn Fn(&Column, Option<Role>) -> bool| {
            let roles = columns.with_roles().map(|(_, role)| role);
            let wanted = columns.with_fields().zip(roles).filter(|((c, _), role)| wanted(c, *role));
            wanted.map(|((c, first), _)| first..first + c.width).collect::<Vec<_>>()
        };
        let dropped = fields(&|c, _| names.replaces_column(&c.name));
        let real = fields(&|c, role| c.kind == ColumnType::Real || role == Some(Role::Position));
        let logical = fields(&|c, _| c.kind == ColumnType::Logical);
        let ragged = frame.extra.0 != frame.extra.1;
        // A foreign exponent, or text that is not ASCII, and so may not be UTF-8: found in one pass.
        let suspect = text.iter().fold(false, |found, &c| found | (c | 0x20 == b'd') | (c == b'*') | !c.is_ascii());
        (!dropped.is_empty() || !logical.is_empty() || ragged || suspect).then(|| Edits {
            dropped,
            real,
            logical,
            n_fields: columns.n_fields + frame.extra.1,
        })
    }

    fn push_line(&self, out: &mut Vec<u8>, line: &[u8]) {
        let start = out.len();
        let mut end_of_last = 0;
        let mut n_fields = 0;
        for (k, field) in Fields::new(line).enumerate() {
            n_fields = k + 1;
            let at = field.as_ptr() as usize - line.as_ptr() as usize;
            let spaces = &line[end_of_last..at];
            end_of_last = at + field.len();
            if self.dropped.iter().any(|range| range.contains(&k)) {
                continue;
            }
            // Where the first column went, the second must not be glued to nothing.
            out.extend_from_slice(if out.len() == start && k > 0 { b"" } else { spaces });
            let is_in = |ranges: &[std::ops::Range<usize>]| ranges.iter().any(|range| range.contains(&k));
            if is_in(&self.real)
                && has_foreign_exponent(field)
                && let Some(value) = parse_real(field)
            {
                push_real(out, value);
            } else if is_in(&self.logical)
                && let Some(value) = parse_logical(field)
            {
                // ASE takes other spellings, such as 1 and .true., for false.
                out.push(if value { b'T' } else { b'F' });
            } else {
                out.extend_from_slice(&utf8(field));
            }
        }
        for _ in n_fields..self.n_fields {
            out.extend_from_slice(b" -");
        }
    }
}
