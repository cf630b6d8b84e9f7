//! The `Properties` entry: which columns an atom line has.

use super::number::lossy;
use super::number::utf8;

/// Type of a column, which `Properties` gives as a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `R`, a real number.
    Real,
    /// `I`, an integer.
    Integer,
    /// `S`, a word.
    String,
    /// `L`, a truth value: `T` or `F`.
    Logical,
}

impl ColumnType {
    /// The letter for this type in `Properties`.
    pub fn letter(self) -> char {
        match self {
            Self::Real => 'R',
            Self::Integer => 'I',
            Self::String => 'S',
            Self::Logical => 'L',
        }
    }
}

/// A column of the atom lines, as `Properties` declares it: a name, a type, and how many fields of a line it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name as the file spells it.
    pub name: String,
    /// Type of every field.
    pub kind: ColumnType,
    /// Number of fields.
    pub width: usize,
}

/// What a column says of the structure, however the file spells its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Species,
    Number,
    Position,
}

impl Role {
    /// The name that the format gives the column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Species => "species",
            Role::Number => "Z",
            Role::Position => "pos",
        }
    }
}

/// How the fields behind those of the structure are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// There are none, or words only.
    Anything,
    /// Real numbers only, such as forces.
    Reals,
    /// Of several kinds.
    Mixed,
}

/// The columns of a frame, and where in a line the structure stands. Positions are field numbers from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    pub list: Vec<Column>,
    /// What each column says of the structure.
    roles: Vec<Option<Role>>,
    /// `false` where the comment has no `Properties` and more fields may follow.
    pub declared: bool,
    pub species: Option<usize>,
    pub number: Option<usize>,
    pub position: usize,
    /// Declared fields in a line.
    pub n_fields: usize,
    /// Fields up to the last one that says something of the structure.
    pub n_read: usize,
    /// What each of those is declared as; a word where the structure itself is read.
    pub read_kinds: Vec<ColumnType>,
    pub rest: Rest,
    /// The first column behind them.
    first_of_rest: usize,
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
            roles: vec![Some(Role::Species), Some(Role::Position)],
            declared: false,
            species: Some(0),
            number: None,
            position: 1,
            n_fields: 4,
            n_read: 4,
            read_kinds: vec![ColumnType::String; 4],
            rest: Rest::Anything,
            first_of_rest: 2,
        }
    }

    /// Parses the value of `Properties`.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let whole = lossy(text);
        let text = String::from_utf8_lossy(&utf8(text.trim_ascii())).into_owned();
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
        let list = parts.chunks_exact(3).map(|part| column(part[0].trim(), part[1].trim(), part[2].trim()));
        let list = list.collect::<Result<Vec<_>, _>>()?;
        let mut columns = Columns { list, roles: Vec::new(), position: usize::MAX, declared: true, ..Self::plain() };
        columns.n_fields = columns.list.iter().map(|c| c.width).sum();
        if columns.n_fields > MAX_FIELDS {
            return Err(format!("Properties declares {} fields, expected at most {MAX_FIELDS}", columns.n_fields));
        }
        columns.assign_roles()?;
        if columns.position == usize::MAX {
            return Err(format!("Properties has no pos column: \"{whole}\""));
        }
        if columns.species.is_none() && columns.number.is_none() {
            return Err(format!("Properties has neither a species nor a Z column: \"{whole}\""));
        }
        columns.plan_checks();
        Ok(columns)
    }

    fn assign_roles(&mut self) -> Result<(), String> {
        self.roles = self.list.iter().map(|c| usual_role(&c.name)).collect();
        // Other names for the elements count where the usual ones are missing: else they may mean anything.
        if !self.roles.iter().any(|r| matches!(r, Some(Role::Species | Role::Number)))
            && let Some(k) = self.list.iter().position(is_unusual_species)
        {
            self.roles[k] = Some(Role::Species);
        }
        (self.species, self.number) = (None, None);
        let mut first = 0;
        for (k, column) in self.list.iter().enumerate() {
            let (name, kind, width, role) = (&column.name, column.kind, column.width, self.roles[k]);
            let same = |(c, r): (&Column, &Option<Role>)| c.name == *name || (role.is_some() && *r == role);
            if self.list[..k].iter().zip(&self.roles).any(same) {
                return Err(format!("duplicate {name} column in Properties"));
            }
            let wrong = |want: &str| {
                Err(format!("column {name}:{}:{width} in Properties cannot be read, expected {want}", kind.letter()))
            };
            let number_or = |other| kind == ColumnType::Integer || kind == other;
            match role {
                Some(Role::Position) if width != 3 || !number_or(ColumnType::Real) => return wrong("pos:R:3"),
                Some(Role::Position) => self.position = first,
                Some(Role::Species) if width != 1 || !number_or(ColumnType::String) => return wrong("species:S:1"),
                Some(Role::Species) => self.species = Some(first),
                Some(Role::Number) if width != 1 || kind != ColumnType::Integer => return wrong("Z:I:1"),
                Some(Role::Number) => self.number = Some(first),
                None => {}
            }
            first += width;
            if role.is_some() {
                (self.n_read, self.first_of_rest) = (first, k + 1);
            }
        }
        Ok(())
    }

    /// How fields that say nothing of the structure are checked for what they are declared as.
    fn plan_checks(&mut self) {
        self.read_kinds.clear();
        let mut rest = [false; 4];
        for (k, (column, role)) in self.list.iter().zip(&self.roles).enumerate() {
            if k >= self.first_of_rest {
                rest[column.kind as usize] = true;
            } else {
                let kind = if role.is_some() { ColumnType::String } else { column.kind };
                self.read_kinds.extend(std::iter::repeat_n(kind, column.width));
            }
        }
        let [real, integer, string, logical] = rest;
        self.rest = match (real, integer || logical, string) {
            (false, false, _) => Rest::Anything,
            (true, false, false) => Rest::Reals,
            _ => Rest::Mixed,
        };
    }

    /// What the fields behind those of the structure are declared as.
    pub(crate) fn rest_kinds(&self) -> impl Iterator<Item = ColumnType> {
        let columns = &self.list[self.first_of_rest..];
        columns.iter().flat_map(|c| std::iter::repeat_n(c.kind, c.width))
    }

    /// The same columns, of other types.
    pub(crate) fn with_kinds(&self, kinds: &[ColumnType]) -> Self {
        let mut columns = self.clone();
        columns.list.iter_mut().zip(kinds).for_each(|(column, &kind)| column.kind = kind);
        columns.plan_checks();
        columns
    }

    /// All columns with what they say of the structure.
    pub(crate) fn with_roles(&self) -> impl Iterator<Item = (&Column, Option<Role>)> {
        self.list.iter().zip(self.roles.iter().copied())
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

fn column(name: &str, kind: &str, count: &str) -> Result<Column, String> {
    let kind = match kind {
        "R" | "r" => ColumnType::Real,
        "I" | "i" => ColumnType::Integer,
        "S" | "s" => ColumnType::String,
        "L" | "l" => ColumnType::Logical,
        _ => {
            let found = lossy(kind.as_bytes());
            return Err(format!("unknown column type \"{found}\" of {name} in Properties, expected R, I, S or L"));
        }
    };
    if name.is_empty() {
        return Err("column without a name in Properties".into());
    }
    match count.parse::<usize>() {
        Ok(width) if (1..=MAX_FIELDS).contains(&width) => Ok(Column { name: name.into(), kind, width }),
        _ => {
            let found = lossy(count.as_bytes());
            Err(format!("column count \"{found}\" of {name} in Properties, expected a whole number from 1"))
        }
    }
}

/// What a column of this name says of the structure. ASE's names are known too.
fn usual_role(name: &str) -> Option<Role> {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    if name == "Z" || name == "numbers" {
        return Some(Role::Number);
    }
    if is("species") || is("symbols") {
        return Some(Role::Species);
    }
    (is("pos") || is("positions")).then_some(Role::Position)
}

/// Whether a column holds elements under one of the names that programs give them now and then.
fn is_unusual_species(column: &Column) -> bool {
    let known = ["element", "elements", "symbol"].iter().any(|known| column.name.eq_ignore_ascii_case(known));
    known && column.width == 1 && column.kind == ColumnType::String
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
    fn properties_other_names_and_cases_are_read() {
        for name in ["element", "Elements", "symbol", "SYMBOLS", "species"] {
            let c = Columns::parse(format!("q:r:1:{name}:s:1:pos:r:3").as_bytes()).unwrap();
            assert_eq!((c.species, c.position, c.number), (Some(1), 2, None), "{name}");
        }
        // Beside the usual names they are columns like all others.
        let c = Columns::parse(b"element:S:1:pos:R:3:species:S:1").unwrap();
        assert_eq!((c.species, c.list[0].name.as_str()), (Some(4), "element"));
        let c = Columns::parse(b"Z:I:1:pos:R:3:element:S:1").unwrap();
        assert_eq!((c.species, c.number, c.n_read), (None, Some(0), 4));
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
            ("element:R:1:pos:R:3", "neither a species nor a Z"),
            ("species:S:1:pos:R:3:a:R:1048000:b:R:1048000", "Properties declares"),
        ] {
            let error = Columns::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
