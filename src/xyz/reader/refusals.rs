//! What the reader says of what it refuses.

use super::{Header, Reader};
use crate::error::Error;
use crate::xyz::header::{foreign_format, parse_count};
use crate::xyz::number::lossy;

impl Reader {
    #[cold]
    pub(super) fn not_a_header(&self, text: &[u8], reason: &str) -> String {
        if self.frames == 0 {
            let start = self.lines.since_mark();
            return match foreign_format(start) {
                Some(format) => format!("this is no XYZ file but {format}: {reason}"),
                None if text.contains(&0) => format!("NUL byte: this is no text file; {reason}"),
                None => reason.into(),
            };
        }
        let atoms = self.atoms_before;
        let before = self.frames - 1;
        let hint = if text.trim_ascii().starts_with(b"VEC") {
            "; VEC lines (ADF) are not read, give the cell as Lattice in the comment".to_string()
        } else if crate::xyz::atoms::Fields::new(text).count() >= 4 {
            format!("; frame {before} may hold more atoms than its count of {atoms}")
        } else {
            String::new()
        };
        format!("frame header expected: {reason}{hint}")
    }

    #[cold]
    pub(super) fn truncated(&self, header: &Header, lines: usize) -> Error {
        let n = header.n_atoms;
        let found = match lines {
            0 => "no comment line".to_string(),
            k => format!("{} of {n} atoms", k - 1),
        };
        self.error(self.lines.lines(), format!("truncated frame: the file ends after {found}"))
    }

    #[cold]
    pub(super) fn too_large(&self, limit: &str) -> Error {
        let reason = format!(
            "the frame is larger than {limit}, and packed files may hold frames of any size: if it is meant, a larger \
             Reader::with_max_frame reads it"
        );
        self.error(self.lines.lines(), reason)
    }

    /// The limit of a frame's text, in words.
    pub(super) fn limit(&self) -> String {
        match self.max_frame {
            n if n >= 1 << 20 => format!("{} MiB", n >> 20),
            n => format!("{n} bytes"),
        }
    }

    #[cold]
    pub(super) fn lost(&self, header: &Header, k: usize, line: &[u8], reason: &str) -> Error {
        let n = header.n_atoms;
        let text = line.trim_ascii();
        let reason = if text.is_empty() {
            format!("blank line inside a frame: found {k} of {n} atoms")
        } else if parse_count(text).is_ok() {
            format!("found \"{}\", which looks like the next atom count, after {k} of {n} atoms", lossy(text))
        } else {
            format!("{reason}, after {k} of {n} atoms")
        };
        self.error(self.lines.lines(), reason)
    }

    pub(super) fn error(&self, line: usize, reason: String) -> Error {
        self.error_in(self.frames, line, reason)
    }

    pub(super) fn error_in(&self, frame: usize, line: usize, reason: String) -> Error {
        Error::Xyz { path: self.path.to_path_buf(), frame, line, reason }
    }
}

/// Most padding that ragged lines may need when they are written, in times of the frame's text.
const MAX_PADDING: usize = 4;

/// Refuses lines so different in length that a table of them is mostly empty: it has as many columns as the longest
/// line, in every line, so that 400 kB could become gigabytes.
pub(super) fn too_ragged(extra: (usize, usize), fields: usize, text: usize) -> std::result::Result<(), String> {
    if fields.saturating_mul(2) <= MAX_PADDING * text + 4096 {
        return Ok(());
    }
    Err(format!(
        "atom lines have from {} to {} columns, too different for a table: remove what is behind the columns that all \
         lines have",
        extra.0 + 4,
        extra.1 + 4
    ))
}

/// The first error, and the second one that ended the reading.
#[cold]
pub(super) fn both(first: Option<Error>, second: Error) -> Error {
    match (first, second) {
        (Some(Error::Xyz { path, frame, line, reason }), Error::Xyz { reason: second, .. }) => {
            Error::Xyz { path, frame, line, reason: format!("{reason}; and {second}") }
        }
        (_, second) => second,
    }
}
