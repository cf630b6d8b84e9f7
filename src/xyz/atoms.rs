//! Atom lines: the hot loop of the reader.

use super::columns::{ColumnType, Columns, Rest};
use super::number::{is_integer, lossy, parse_logical, parse_real};
use crate::structure::SYMBOLS;

/// What a frame's atom lines hold, filled line by line.
#[derive(Debug, Default)]
pub(crate) struct Atoms {
    pub numbers: Vec<u8>,
    pub positions: Vec<[f64; 3]>,
    /// Fewest and most fields behind the declared ones, in frames without `Properties`.
    pub extra: Option<(usize, usize)>,
    /// Fields behind the declared ones, of all lines.
    pub n_extra: usize,
    /// Some species are written in a way that other programs refuse: `D`, `T`, or an atomic number.
    pub needs_numbers: bool,
    /// What each column holds, where one holds other things than it is declared as; else empty.
    pub kinds: Vec<ColumnType>,
    /// The first field of each such column that is something else: column, atom, text.
    pub misfits: Vec<(usize, usize, String)>,
}

/// Whitespace-separated fields of a line.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

#[inline]
fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | 0x0b | 0x0c | b'\r')
}

/// A line without the spaces at its end, by the same measure as between fields.
#[inline]
pub(crate) fn trim_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|&c| !is_space(c)).map_or(0, |last| last + 1);
    &line[..end]
}

impl<'a> Fields<'a> {
    pub(crate) fn new(line: &'a [u8]) -> Self {
        Fields { rest: line }
    }

    /// Number of fields left.
    #[inline]
    fn n_left(&self) -> usize {
        // Ends of fields, by pairs of neighbours: without branches, in vectors.
        let ends = self.rest.windows(2).map(|pair| usize::from(!is_space(pair[0]) & is_space(pair[1])));
        ends.sum::<usize>() + usize::from(self.rest.last().is_some_and(|&c| !is_space(c)))
    }

    #[inline]
    fn skip_spaces(&mut self) {
        while let [c, rest @ ..] = self.rest {
            if !is_space(*c) {
                break;
            }
            self.rest = rest;
        }
    }

    /// The next field as a number; the error is the field, or `None` where there is none.
    #[inline]
    fn real(&mut self) -> Result<f64, Option<&'a [u8]>> {
        self.skip_spaces();
        if let Ok((value, length)) = fast_float2::parse_partial::<f64, _>(self.rest) {
            match self.rest.get(length) {
                None => {
                    self.rest = &[];
                    return Ok(value);
                }
                Some(&c) if is_space(c) => {
                    self.rest = &self.rest[length + 1..];
                    return Ok(value);
                }
                _ => {}
            }
        }
        let field = self.next().ok_or(None)?;
        parse_real(field).ok_or(Some(field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.skip_spaces();
        if self.rest.is_empty() {
            return None;
        }
        let length = self.rest.iter().position(|&c| is_space(c)).unwrap_or(self.rest.len());
        let (field, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(field)
    }
}

impl Atoms {
    /// Reads one atom line.
    #[inline]
    pub(crate) fn push(&mut self, columns: &Columns, line: &[u8]) -> Result<(), String> {
        let mut fields = Fields::new(line);
        let mut position = [0.0; 3];
        let mut from_species = None;
        let mut from_number = None;
        let mut odd = false;
        let mut field = 0;
        while field < columns.n_read {
            if field == columns.position {
                for (axis, x) in position.iter_mut().enumerate() {
                    match fields.real() {
                        Ok(value) if value.is_finite() => *x = value,
                        Ok(value) => return Err(not_finite(axis, value)),
                        Err(found) => return Err(bad_position(columns, line, axis, found)),
                    }
                }
                field += 3;
                continue;
            }
            let Some(text) = fields.next() else { return Err(too_few(columns, line)) };
            if Some(field) == columns.species {
                let (z, usual) = element(text).ok_or_else(|| unknown_element(text))?;
                from_species = Some((z, text));
                self.needs_numbers |= !usual;
            } else if Some(field) == columns.number {
                from_number = Some(number(text).ok_or_else(|| unknown_element(text))?);
            } else if !holds(columns.read_kinds[field], text) {
                odd = true;
            }
            field += 1;
        }
        let n_fields = match columns.rest {
            Rest::Anything => field + fields.n_left(),
            Rest::Reals => {
                let mut found = field;
                while found < columns.n_fields {
                    match fields.real() {
                        Err(None) => break,
                        outcome => odd |= outcome.is_err(),
                    }
                    found += 1;
                }
                found + fields.n_left()
            }
            Rest::Mixed => {
                field
                    + columns.rest_kinds().zip(fields.by_ref()).fold(0, |n, (kind, text)| {
                        odd |= !holds(kind, text);
                        n + 1
                    })
                    + fields.n_left()
            }
        };
        if n_fields < columns.n_fields {
            return Err(too_few(columns, line));
        }
        let extra = n_fields - columns.n_fields;
        if columns.declared {
            if extra > 0 {
                return Err(too_many(columns, line));
            }
        } else {
            let (least, most) = self.extra.unwrap_or((extra, extra));
            self.extra = Some((least.min(extra), most.max(extra)));
            self.n_extra += extra;
        }
        let z = match (from_species, from_number) {
            (Some((a, text)), Some(b)) if a != b => return Err(disagree(text, b)),
            (Some((z, _)), _) | (None, Some(z)) => z,
            (None, None) => return Err(too_few(columns, line)),
        };
        if odd {
            self.look_closely(columns, line);
        }
        self.numbers.push(z);
        self.positions.push(position);
        Ok(())
    }

    /// Notes what the columns of a line hold, where it is not what they are declared as.
    #[cold]
    fn look_closely(&mut self, columns: &Columns, line: &[u8]) {
        let mut fields = Fields::new(line);
        for (k, (column, role)) in columns.with_roles().enumerate() {
            for text in fields.by_ref().take(column.width) {
                let now = self.kinds.get(k).copied().unwrap_or(column.kind);
                if role.is_some() || holds(now, text) {
                    continue;
                }
                if self.kinds.is_empty() {
                    self.kinds = columns.list.iter().map(|c| c.kind).collect();
                }
                if now == column.kind {
                    self.misfits.push((k, self.numbers.len(), lossy(text)));
                }
                self.kinds[k] = match now {
                    ColumnType::Integer if holds(ColumnType::Real, text) => ColumnType::Real,
                    _ => ColumnType::String,
                };
            }
        }
    }
}

/// Whether a field is what its column is declared as, as other programs see it.
#[inline]
fn holds(kind: ColumnType, text: &[u8]) -> bool {
    match kind {
        ColumnType::String => true,
        ColumnType::Integer => is_integer(text),
        ColumnType::Real => parse_real(text).is_some(),
        ColumnType::Logical => parse_logical(text).is_some(),
    }
}

/// Whether a line in a frame has so little in it that the atom count must be wrong: nothing, or a single field.
#[inline]
pub(crate) fn is_no_atom(line: &[u8]) -> bool {
    let mut fields = Fields::new(line);
    fields.next().is_none() || fields.next().is_none()
}

/// Atomic number of a symbol, and whether every program would read it so.
#[inline]
pub(crate) fn element(text: &[u8]) -> Option<(u8, bool)> {
    let slot = match *text {
        [a] if a.is_ascii_alphabetic() => (a & 31) as usize * 32,
        [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => (a & 31) as usize * 32 + (b & 31) as usize,
        _ => return number(text).map(|z| (z, false)),
    };
    match SYMBOL_TABLE[slot] {
        0 => None,
        z => Some((z & 127, z < 128)),
    }
}

/// An atomic number written as such.
fn number(text: &[u8]) -> Option<u8> {
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let digits = text.iter().all(u8::is_ascii_digit);
    let z = if digits { std::str::from_utf8(text).ok()?.parse::<u8>().ok()? } else { 0 };
    (1..=118).contains(&z).then_some(z)
}

/// Atomic number by the letters' positions in the alphabet; bit 7 marks symbols that are not in the periodic table.
static SYMBOL_TABLE: [u8; 1024] = {
    let mut table = [0; 1024];
    let mut z = 1;
    while z < SYMBOLS.len() {
        let symbol = SYMBOLS[z].as_bytes();
        let second = if symbol.len() == 2 { symbol[1] & 31 } else { 0 };
        table[(symbol[0] & 31) as usize * 32 + second as usize] = z as u8;
        z += 1;
    }
    table[(b'D' & 31) as usize * 32] = 128 + 1;
    table[(b'T' & 31) as usize * 32] = 128 + 1;
    table
};

#[cold]
fn not_finite(axis: usize, value: f64) -> String {
    format!("position is not finite: {} is {value}", ["x", "y", "z"][axis])
}

#[cold]
fn bad_position(columns: &Columns, line: &[u8], axis: usize, found: Option<&[u8]>) -> String {
    let Some(found) = found else { return too_few(columns, line) };
    let axis = ["x", "y", "z"][axis];
    let mut reason = format!("position {axis} is not a number: \"{}\"", lossy(found));
    let inner_minus = found.iter().enumerate().any(|(k, c)| *c == b'-' && k > 0 && found[k - 1].is_ascii_digit());
    if inner_minus {
        reason.push_str(" (two numbers without a space between them?)");
    } else if found.iter().all(|c| *c == b'*') {
        reason.push_str(" (a Fortran field that overflowed)");
    } else if found.contains(&b',') {
        reason.push_str(" (expected spaces between numbers and a decimal point)");
    }
    reason
}

#[cold]
fn unknown_element(text: &[u8]) -> String {
    let found = lossy(text);
    let hint = match text {
        b"X" | b"x" | b"Xx" | b"XX" | b"Bq" | b"Gh" | b"0" | b"Du" => {
            " (ghost and dummy atoms have no energy; remove them)"
        }
        [a, rest @ ..] if a.is_ascii_alphabetic() && rest.iter().any(|c| !c.is_ascii_alphabetic()) => {
            " (atom labels are not elements)"
        }
        _ => "",
    };
    format!("unknown element \"{found}\", expected a symbol or an atomic number from 1 to 118{hint}")
}

#[cold]
fn too_few(columns: &Columns, line: &[u8]) -> String {
    let n = Fields::new(line).count();
    let expected = if columns.declared {
        format!("{} as Properties declares", columns.n_fields)
    } else {
        "an element and three coordinates".into()
    };
    format!("too few columns: {n} in \"{}\", expected {expected}", lossy(line.trim_ascii()))
}

#[cold]
fn too_many(columns: &Columns, line: &[u8]) -> String {
    let n = Fields::new(line).count();
    format!(
        "more columns than Properties declares: {n} in \"{}\", expected {}",
        lossy(line.trim_ascii()),
        columns.n_fields
    )
}

#[cold]
fn disagree(species: &[u8], number: u8) -> String {
    format!("species \"{}\" and atomic number {number} disagree", lossy(species))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_reads_symbols_numbers_and_isotopes() {
        for (z, symbol) in SYMBOLS.iter().enumerate().skip(1) {
            for text in [symbol.to_string(), symbol.to_lowercase(), symbol.to_uppercase()] {
                assert_eq!(element(text.as_bytes()), Some((z as u8, true)), "{text}");
            }
            assert_eq!(element(z.to_string().as_bytes()), Some((z as u8, false)));
        }
        for (text, z) in [("D", 1), ("T", 1), ("d", 1), ("08", 8)] {
            assert_eq!(element(text.as_bytes()), Some((z, false)), "{text}");
        }
        for text in ["X", "0", "119", "256", "-1", "1.0", "C1", "Hh", "Uuo", "{", "@", "H+", "[", "`", "\u{e9}"] {
            assert_eq!(element(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn atoms_refusals_say_why() {
        let declared = Columns::parse(b"species:S:1:pos:R:3:Z:I:1").unwrap();
        let plain = Columns::plain();
        for (columns, line, why) in [
            (&plain, "O 0 0", "too few columns: 3"),
            (&plain, "O 0 0 0.0-1.0", "without a space"),
            (&plain, "O 0 0 ******", "Fortran field"),
            (&plain, "O 0,5 0 0", "decimal point"),
            (&plain, "O 0 0 1e999", "position is not finite"),
            (&plain, "O 0 0 -Infinity", "position is not finite"),
            (&plain, "Xx 0 0 0", "ghost"),
            (&plain, "C1 0 0 0", "atom labels"),
            (&declared, "O 0 0 0", "too few columns"),
            (&declared, "O 0 0 0 8 1", "more columns than Properties declares"),
            (&declared, "O 0 0 0 7", "disagree"),
            (&declared, "O 0 0 0 8.0", "unknown element"),
        ] {
            let error = Atoms::default().push(columns, line.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn atoms_read_tabs_and_any_column_order() {
        let columns = Columns::parse(b"id:I:1:pos:R:3:q:R:1:species:S:1").unwrap();
        let mut atoms = Atoms::default();
        atoms.push(&columns, b"\t7\t.5 \t -1.D0\t2.  0.1\tcl \t").unwrap();
        assert_eq!((atoms.numbers, atoms.positions), (vec![17], vec![[0.5, -1.0, 2.0]]));
    }
}
