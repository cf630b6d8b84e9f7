//! One frame of a file.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::columns::{Column, Columns};
use super::comment::{Comment, Delimiter, Entry, unescape};
use super::number::parse_reals;
use crate::error::{Error, Result};
use crate::structure::{Structure, symbol};

/// Behind the prefix: key of what made a file, in the comment of its first frame.
pub(crate) const MADE_BY: &[u8] = b"made_by";

/// Whether the value of such a key is one that this program has written.
pub(crate) fn is_record(value: &[u8]) -> bool {
    value.starts_with(b"mlff ")
}

/// One frame of a file: its structure, and its text. A [`Writer`](super::Writer) writes this text again, apart from
/// what results replace.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Index of the frame in the file, from 0.
    pub index: usize,
    /// Line of the file that holds the number of atoms, from 1.
    pub line: usize,
    /// Elements, positions (Å), cell (Å), periodicity and, if the comment says it, total charge.
    pub structure: Structure,
    pub(crate) path: Arc<Path>,
    pub(crate) columns: Arc<Columns>,
    /// The frame's lines from the atom count on.
    pub(crate) raw: Vec<u8>,
    pub(crate) comment: Range<usize>,
    pub(crate) atoms: Range<usize>,
    pub(crate) entries: Comment,
    /// Fewest and most undeclared fields in a line.
    pub(crate) extra: (usize, usize),
    pub(crate) needs_numbers: bool,
    pub(crate) warnings: Vec<String>,
}

impl Frame {
    /// The comment line as it is in the file, without its line end, in any encoding. A comment of i-PI has been
    /// rewritten as extended XYZ.
    pub fn comment(&self) -> &[u8] {
        &self.raw[self.comment.clone()]
    }

    /// The text of the frame as it is in the file, from the number of atoms to the last atom. A frame of i-PI has been
    /// rewritten as extended XYZ, in Å.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The columns that `Properties` declares; element and position if the comment has no `Properties`.
    pub fn columns(&self) -> &[Column] {
        &self.columns.list
    }

    /// Number of fields of the longest atom line beyond [`Frame::columns`]. Only frames without `Properties` have any.
    pub fn n_undeclared_fields(&self) -> usize {
        self.extra.1
    }

    /// Warnings: what was read in a way that the author of the file may not have meant, and what was found but not
    /// used.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds a warning to [`Frame::warnings`].
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Keys of the comment, in their order there. There are none if the comment is free text.
    pub fn keys(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.entries.entries.iter().map(|e| String::from_utf8_lossy(self.key(e)))
    }

    /// Value of a key of the comment, in exactly this spelling; `None` if there is no such key.
    ///
    /// The value is without its quotes, escapes or outer brackets, and bytes that are not UTF-8 are replaced. A key
    /// without a value has the value `T`. If a key occurs more than once, the last one counts, as in ASE.
    pub fn info(&self, key: &str) -> Option<Cow<'_, str>> {
        let entry = self.entries.entries.iter().rev().find(|e| self.key(e) == key.as_bytes())?;
        let Some(value) = &entry.value else { return Some(Cow::Borrowed("T")) };
        let text = &self.comment()[value.clone()];
        Some(match (entry.delimiter, String::from_utf8_lossy(text)) {
            (Delimiter::Quote, Cow::Borrowed(_)) => match unescape(text) {
                Cow::Borrowed(_) => String::from_utf8_lossy(text),
                Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
            },
            (Delimiter::Quote, Cow::Owned(text)) => {
                Cow::Owned(String::from_utf8_lossy(&unescape(text.as_bytes())).into_owned())
            }
            (_, text) => text,
        })
    }

    /// For the first frame of a file that `mlff predict` made: the prefix of the keys of its results, and the record of
    /// how they were made ([`Writer::record`](super::Writer::record)). `None` for other frames.
    pub fn made_by(&self) -> Option<(String, String)> {
        let found = self.entries.entries.iter().rev().find_map(|entry| {
            let prefix = self.key(entry).strip_suffix(MADE_BY)?;
            let value = &self.comment()[entry.value.clone()?];
            is_record(value).then_some((prefix, value))
        });
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.map(|(prefix, value)| (text(prefix), text(value)))
    }

    /// A key's value as one number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.numbers(key)?.as_deref() {
            None => Ok(None),
            Some([value]) => Ok(Some(*value)),
            Some(values) => Err(self.comment_error(format!("{key} has {} numbers, expected one", values.len()))),
        }
    }

    /// A key's value as numbers; a key that is there twice with different values is refused.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let mut found: Option<(&Entry, &[u8])> = None;
        for entry in self.entries.entries.iter().filter(|e| self.key(e) == key.as_bytes()) {
            let text = &self.comment()[entry.value.clone().unwrap_or(entry.key.clone())];
            if found.is_some_and(|(_, before)| before != text) {
                return Err(self.comment_error(format!("{key} is given twice, with different values")));
            }
            found = Some((entry, text));
        }
        let Some((entry, text)) = found else { return Ok(None) };
        if entry.value.is_none() {
            return Err(self.comment_error(format!("{key} has no value, expected a number")));
        }
        let values =
            parse_reals(text).map_err(|piece| self.comment_error(format!("{key} is not a number: \"{piece}\"")))?;
        match values.iter().find(|v| !v.is_finite()) {
            Some(v) => Err(self.comment_error(format!("{key} is not finite: {v}"))),
            None => Ok(Some(values)),
        }
    }

    pub(crate) fn key(&self, entry: &Entry) -> &[u8] {
        &self.raw[self.comment.clone()][entry.key.clone()]
    }

    pub(crate) fn comment_error(&self, reason: String) -> Error {
        self.error_at(self.line + 1, reason)
    }

    pub(crate) fn error_at(&self, line: usize, reason: String) -> Error {
        Error::Xyz { path: self.path.to_path_buf(), frame: self.index, line, reason }
    }

    /// Atom lines without their line ends.
    pub(crate) fn atom_lines(&self) -> Lines<'_> {
        Lines { rest: &self.raw[self.atoms.clone()] }
    }
}

/// Lines of a text with LF, CRLF or CR ends.
pub(crate) struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Lines { rest: text }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(end) = memchr::memchr2(b'\n', b'\r', self.rest) else {
            return Some(std::mem::take(&mut self.rest));
        };
        let line = &self.rest[..end];
        let next = if self.rest[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        self.rest = &self.rest[next..];
        Some(line)
    }
}

/// The entry of one of the keys that say how to read a frame, in any case; two of them are refused.
pub(crate) fn unique<'a>(
    comment: &[u8],
    entries: &'a [Entry],
    key: &str,
) -> std::result::Result<Option<&'a Entry>, String> {
    let mut found = entries.iter().filter(|e| e.value.is_some() && is_key(comment, e, key));
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(format!("duplicate {key} in the comment")),
        (one, None) => Ok(one),
    }
}

pub(crate) fn is_key(comment: &[u8], entry: &Entry, key: &str) -> bool {
    comment[entry.key.clone()].eq_ignore_ascii_case(key.as_bytes())
}

/// Chemical formula in Hill order, such as `C2H6O`: carbon, hydrogen, then all others by alphabet; without carbon, all
/// by alphabet. Numbers that are no atomic numbers count as `X`.
pub fn formula(atomic_numbers: &[u8]) -> String {
    let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for &z in atomic_numbers {
        *counts.entry(symbol(z).unwrap_or("X")).or_default() += 1;
    }
    let first: &[&str] = if counts.contains_key("C") { &["C", "H"] } else { &[] };
    let mut out = String::new();
    let ordered = first.iter().filter_map(|s| counts.get_key_value(s));
    for (symbol, count) in ordered.chain(counts.iter().filter(|(s, _)| !first.contains(s))) {
        out.push_str(symbol);
        if *count > 1 {
            out.push_str(&count.to_string());
        }
    }
    out
}
