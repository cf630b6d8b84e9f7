//! The `Properties` entry: which columns an atom line has.

use super::number::lossy;

/// Type of a column, as `Properties` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `R`, a real number.
    Real,
    /// `I`, an integer.
    Integer,
    /// `S`, a word.
    String,
    /// `L`, `T` or `F`.
    Logical,
}

impl ColumnType {
    /// The letter in `Properties`.
    pub fn letter(self) -> char {
        match self {
            Self::Real => 'R',
            Self::Integer => 'I',
            Self::String => 'S',
            Self::Logical => 'L',
        }
    }
}

/// One entry of `Properties`: a name, a type, and how many fields of an atom line it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name as the file spells it.
    pub name: String,
    /// Type of every field.
    pub kind: ColumnType,
    /// Number of fields.
    pub width: usize,
}

/// The columns of a frame, and where in a line the structure stands. Positions are field numbers from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    pub list: Vec<Column>,
    /// `false` where the comment has no `Properties` and more fields may follow.
    pub declared: bool,
    pub species: Option<usize>,
    pub number: Option<usize>,
    pub position: usize,
    /// Declared fields in a line.
    pub n_fields: usize,
    /// Fields up to the last one that says something of the structure.
    pub n_read: usize,
}

/// Most fields of a line, and most columns, that `Properties` may declare: far more than any program writes.
const MAX_FIELDS: usize = 1 << 20;
const MAX_COLUMNS: usize = 1 << 10;

impl Columns {
    /// Columns of a frame without `Properties`: element, x, y, z, then anything.
    pub(crate) fn plain() -> Self {
        let column = |name: &str, kind, width| Column { name: name.into(), kind, width };
        Columns {
            list: vec![column("species", ColumnType::String, 1), column("pos", ColumnType::Real, 3)],
            declared: false,
            species: Some(0),
            number: None,
            position: 1,
            n_fields: 4,
            n_read: 4,
        }
    }

    /// Parses the value of `Properties`.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let whole = lossy(text);
        let text = String::from_utf8_lossy(text.trim_ascii()).into_owned();
        if text.is_empty() {
            return Err("Properties is empty, expected name:type:count triplets such as species:S:1:pos:R:3".into());
        }
        let parts: Vec<&str> = text.split(':').collect();
        if !parts.len().is_multiple_of(3) {
            return Err(format!(
                "truncated Properties: {} parts in \"{whole}\", expected name:type:count triplets such as \
                 species:S:1:pos:R:3",
                parts.len()
            ));
        }
        if parts.len() / 3 > MAX_COLUMNS {
            return Err(format!("Properties has {} columns, expected at most {MAX_COLUMNS}", parts.len() / 3));
        }
        let mut columns = Columns {
            list: Vec::with_capacity(parts.len() / 3),
            declared: true,
            species: None,
            number: None,
            position: usize::MAX,
            n_fields: 0,
            n_read: 0,
        };
        for triplet in parts.chunks_exact(3) {
            columns.push(triplet[0].trim(), triplet[1].trim(), triplet[2].trim())?;
        }
        if columns.position == usize::MAX {
            return Err(format!("Properties has no pos column: \"{whole}\""));
        }
        if columns.species.is_none() && columns.number.is_none() {
            return Err(format!("Properties has neither a species nor a Z column: \"{whole}\""));
        }
        Ok(columns)
    }

    fn push(&mut self, name: &str, kind: &str, count: &str) -> Result<(), String> {
        let kind = match kind {
            "R" => ColumnType::Real,
            "I" => ColumnType::Integer,
            "S" => ColumnType::String,
            "L" => ColumnType::Logical,
            _ => {
                let found = lossy(kind.as_bytes());
                return Err(format!("unknown column type \"{found}\" of {name} in Properties, expected R, I, S or L"));
            }
        };
        if name.is_empty() {
            return Err("column without a name in Properties".into());
        }
        let width = match count.parse::<usize>() {
            Ok(n) if (1..=MAX_FIELDS).contains(&n) && self.n_fields + n <= MAX_FIELDS => n,
            _ => {
                let found = lossy(count.as_bytes());
                return Err(format!(
                    "column count \"{found}\" of {name} in Properties, expected a whole number from 1"
                ));
            }
        };
        let role = role(name);
        let same = |c: &Column| c.name == name || (role.is_some() && self::role(&c.name) == role);
        if self.list.iter().any(same) {
            return Err(format!("duplicate {name} column in Properties"));
        }
        let wrong = |want: &str| {
            Err(format!("column {name}:{}:{width} in Properties cannot be read, expected {want}", kind.letter()))
        };
        match role {
            Some("pos") if width != 3 || !matches!(kind, ColumnType::Real | ColumnType::Integer) => {
                return wrong("pos:R:3");
            }
            Some("pos") => self.position = self.n_fields,
            Some("species") if width != 1 || !matches!(kind, ColumnType::String | ColumnType::Integer) => {
                return wrong("species:S:1");
            }
            Some("species") => self.species = Some(self.n_fields),
            Some("Z") if width != 1 || kind != ColumnType::Integer => return wrong("Z:I:1"),
            Some("Z") => self.number = Some(self.n_fields),
            _ => {}
        }
        self.n_fields += width;
        if role.is_some() {
            self.n_read = self.n_fields;
        }
        self.list.push(Column { name: name.into(), kind, width });
        Ok(())
    }

    /// A column by its exact name, and its first field.
    pub(crate) fn find(&self, name: &str) -> Option<(&Column, usize)> {
        self.with_fields().find(|(c, _)| c.name == name)
    }

    /// All columns with their first fields.
    pub(crate) fn with_fields(&self) -> impl Iterator<Item = (&Column, usize)> {
        self.list.iter().scan(0, |field, column| {
            let first = *field;
            *field += column.width;
            Some((column, first))
        })
    }
}

/// The name that the format gives a column of the structure, however the file spells it. ASE's names are known too.
pub(crate) fn role(name: &str) -> Option<&'static str> {
    if name == "Z" || name == "numbers" {
        return Some("Z");
    }
    if name.eq_ignore_ascii_case("species") || name.eq_ignore_ascii_case("symbols") {
        return Some("species");
    }
    if name.eq_ignore_ascii_case("pos") || name.eq_ignore_ascii_case("positions") {
        return Some("pos");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_any_order_gives_fields() {
        let c = Columns::parse(b"id:I:1:forces:R:3:pos:R:3:move_mask:L:1:Z:I:1:Species:S:1").unwrap();
        assert_eq!((c.position, c.number, c.species, c.n_fields, c.n_read), (4, Some(8), Some(9), 10, 10));
        assert_eq!(c.find("forces").unwrap().1, 1);
        let c = Columns::parse(b"Z:I:1:pos:R:3:forces:R:3").unwrap();
        assert_eq!((c.n_fields, c.n_read), (7, 4));
    }

    #[test]
    fn properties_refusals_say_why() {
        for (text, why) in [
            ("", "empty"),
            ("species:S:1:pos:R", "truncated Properties"),
            ("species:S:1:pos:F:3", "unknown column type \"F\""),
            ("species:S:1:pos:R:x", "column count"),
            ("species:S:1:pos:R:0", "column count"),
            ("species:S:1:pos:R:-3", "column count"),
            ("species:S:1:pos:R:99999999999999999999", "column count"),
            ("species:S:1:pos:R:3:junk:R:4000000000", "column count"),
            ("species:S:1:pos:R:2", "expected pos:R:3"),
            ("species:S:1:pos:S:3", "expected pos:R:3"),
            ("species:S:2:pos:R:3", "expected species:S:1"),
            ("species:R:1:pos:R:3", "expected species:S:1"),
            ("Z:R:1:pos:R:3", "expected Z:I:1"),
            ("species:S:1:forces:R:3", "no pos column"),
            ("pos:R:3:forces:R:3", "neither a species nor a Z"),
            ("species:S:1:pos:R:3:POS:R:3", "duplicate POS"),
            ("species:S:1:symbols:S:1:pos:R:3", "duplicate symbols"),
            ("species:S:1:pos:R:3:q:R:1:q:R:1", "duplicate q"),
            ("species:S:1:pos:R:3::R:1", "without a name"),
        ] {
            let error = Columns::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
