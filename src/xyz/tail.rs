//! Lines behind the atoms of a GDB-9 (QM9) file: frequencies, SMILES twice, InChI twice.
//!
//! Each molecule of that format is a plain XYZ frame whose comment is fields with tabs between them and whose atoms have a
//! charge as a fifth column. Only then is looked ahead, so that whoever writes frames to a pipe and waits for results
//! does not wait for ever.

use super::atoms::Fields;
use super::header::parse_count;
use super::input::{LineBuffer, LineError};
use super::number::parse_real;

/// What is said of a frame that has them.
pub(super) const WARNING: &str =
    "three lines behind the atoms (frequencies, SMILES and InChI, as in GDB-9) are no part of XYZ and are left out";

/// Longest line looked at.
const MAX_LINE: usize = 64 << 10;

/// Whether a comment may be one of GDB-9.
#[inline]
pub(super) fn is_comment(text: &[u8]) -> bool {
    memchr::memchr(b'\t', text).is_some() && memchr::memchr(b'=', text).is_none()
}

/// Whether an atom line may be one of GDB-9.
pub(super) fn is_atom_line(text: &[u8]) -> bool {
    Fields::new(text).count() == 5
}

/// Passes over the three lines if they are there; whether they were.
pub(super) fn pass(lines: &mut LineBuffer, n_atoms: usize) -> bool {
    let start = lines.place();
    let mut failure = None;
    for k in 0..3 {
        let found = match lines.next_line(MAX_LINE) {
            Ok(Some(range)) => belongs(&lines.since_mark()[range], k, n_atoms),
            Err(LineError::Io(error)) => {
                failure = Some(error);
                false
            }
            _ => false,
        };
        if !found {
            lines.go_back(start, failure);
            return false;
        }
    }
    true
}

fn belongs(line: &[u8], k: usize, n_atoms: usize) -> bool {
    if k > 0 {
        return Fields::new(line).count() == 2;
    }
    // As many frequencies as a molecule has, bent or linear; a lone whole number is the next frame's count.
    let n = Fields::new(line).count();
    let as_many = n > 0 && (n + 6 == 3 * n_atoms || n + 5 == 3 * n_atoms);
    as_many && parse_count(line.trim_ascii()).is_err() && Fields::new(line).all(|field| parse_real(field).is_some())
}
