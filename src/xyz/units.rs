//! Units that a comment names, and the comments of i-PI, which name them.
//!
//! i-PI writes `# CELL(abcABC): a b c α β γ Traj: positions{unit} Step: n Bead: n cell{unit}`; its `CELL{H}` has the
//! lattice vectors as columns, `CELL{GENH}` as rows. Such a frame is made an extended XYZ frame in Å before anything
//! else looks at it, so that nothing that is carried through contradicts what was computed.

use super::cell::{folded, from_parameters};
use super::columns::Columns;
use super::comment::{self, Entry, push_quoted};
use super::frame::Frame;
use super::number::{list_items, lossy, parse_real, push_real, push_reals};
use crate::structure::{Mat3, Vec3};

/// Bohr radius, Å (CODATA 2018).
pub(crate) const BOHR: f64 = 0.529_177_210_903;

/// A comment that i-PI wrote.
pub(crate) struct Ipi {
    /// Lattice vectors, Å.
    pub cell: Option<Mat3>,
    /// Å in the unit of the positions.
    scale: f64,
    unit: String,
    /// Whether positions or cell are in another unit than Å.
    converted: bool,
    /// What else the comment says.
    rest: Vec<u8>,
}

impl Ipi {
    /// Reads a comment of i-PI; `None` where it is another's.
    ///
    /// # Errors
    /// What cannot be read or has no unit.
    pub(crate) fn read(line: &[u8], entries: &comment::Comment) -> Result<Option<Self>, String> {
        // Few comments have either; which is found fast.
        if memchr::memchr(b'{', line).is_none() && memchr::memmem::find(line, b"CELL").is_none() {
            return Ok(None);
        }
        let words = words(line, entries);
        let is_i_pi = |w: &[u8]| cell_form(w).is_some() || braced(w).is_some_and(|(name, _)| is_position(name));
        if !words.iter().any(|w| is_i_pi(w)) {
            return Ok(None);
        }
        let mut form: Option<(&[u8], Vec<f64>)> = None;
        let (mut positions, mut cell_unit) = (None, None);
        let mut rest = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let word = words[at];
            at += 1;
            if let Some(name) = cell_form(word) {
                let n = if name == b"abcABC" { 6 } else { 9 };
                let values: Vec<f64> =
                    words[at..].iter().take(n).map_while(|w| parse_real(w)).filter(|x| x.is_finite()).collect();
                if values.len() != n {
                    return Err(format!("{} needs {n} numbers, found {}", lossy(word), values.len()));
                }
                if form.is_some() {
                    return Err("CELL is given twice in the comment".into());
                }
                at += n;
                form = Some((name, values));
            } else if let Some((name, unit)) = braced(word) {
                match name {
                    b"cell" => cell_unit = Some(length(unit)?),
                    _ if is_position(name) => positions = Some((length(unit)?, lossy(unit))),
                    // The columns are something else, such as forces.
                    _ => {
                        return Err(format!(
                            "i-PI's comment says that the columns are {}, expected positions{{…}}",
                            lossy(word)
                        ));
                    }
                }
            } else if !matches!(word, b"#" | b"Traj:" | b"cell" | b"positions") {
                rest.push(word);
            }
        }
        let (Some((scale, unit)), true) = (positions, form.is_none() || cell_unit.is_some()) else {
            return Err(
                "i-PI's comment does not say the units of positions and cell: expected positions{angstrom} and \
                        cell{angstrom}, or {atomic_unit}"
                    .into(),
            );
        };
        let cell = form.map(|(name, v)| cell_from(name, &v, cell_unit.unwrap_or(1.0))).transpose()?.flatten();
        let converted = scale != 1.0 || cell_unit.is_some_and(|unit| unit != 1.0);
        Ok(Some(Ipi { cell, scale, unit, converted, rest: rest.join(&b' ') }))
    }

    /// Brings positions to Å.
    pub(crate) fn scale(&self, positions: &mut [Vec3]) {
        if self.scale != 1.0 {
            positions.as_flattened_mut().iter_mut().for_each(|x| *x *= self.scale);
        }
    }

    /// Makes a frame whose positions are in Å already one of extended XYZ.
    ///
    /// # Errors
    /// A comment that cannot be read again.
    pub(crate) fn rewrite(&self, frame: &mut Frame) -> Result<(), String> {
        let before = std::mem::take(&mut frame.raw);
        let mut raw = before[..frame.comment.start].to_vec();
        let start = raw.len();
        if let Some(cell) = self.cell {
            raw.extend_from_slice(b"Lattice=\"");
            push_reals(&mut raw, cell.into_iter().flatten());
            raw.extend_from_slice(b"\" ");
        }
        for entry in frame.entries.entries.iter().filter(|e| e.value.is_some()) {
            raw.extend_from_slice(
                &before[frame.comment.start + entry.text.start..frame.comment.start + entry.text.end],
            );
            raw.push(b' ');
        }
        let has_pbc = frame
            .entries
            .entries
            .iter()
            .any(|e| e.value.is_some() && super::frame::is_key(&before[frame.comment.clone()], e, "pbc"));
        if !has_pbc {
            super::normalize::push_pbc(&mut raw, frame.structure.pbc);
            raw.push(b' ');
        }
        if !self.rest.is_empty() {
            raw.extend_from_slice(b"comment=");
            push_quoted(&mut raw, &self.rest);
        }
        raw.truncate(raw.trim_ascii_end().len());
        let comment = start..raw.len();
        raw.push(b'\n');
        let atoms = raw.len();
        let lines = super::frame::Lines::new(&before[frame.atoms.clone()]);
        for (line, position) in lines.zip(&frame.structure.positions) {
            push_atom(&mut raw, &frame.columns, line, position);
        }
        match comment::parse(&raw[comment.clone()], Vec::new()) {
            Ok(entries) => frame.entries = entries,
            Err(reason) => {
                // What is refused keeps its own text.
                frame.raw = before;
                return Err(reason);
            }
        }
        (frame.comment, frame.atoms, frame.raw) = (comment, atoms..raw.len(), raw);
        if self.converted {
            frame.warn(format!("i-PI's positions{{{}}} and cell are converted: the output is in Å", self.unit));
        }
        Ok(())
    }
}

/// An atom line with its position written anew.
fn push_atom(out: &mut Vec<u8>, columns: &Columns, line: &[u8], position: &Vec3) {
    for (k, field) in super::atoms::Fields::new(line).enumerate() {
        if k > 0 {
            out.push(b' ');
        }
        match k.checked_sub(columns.position).and_then(|axis| position.get(axis)) {
            Some(x) => push_real(out, *x),
            None => out.extend_from_slice(field),
        }
    }
    out.push(b'\n');
}

/// Words of free text, or those beside the entries.
fn words<'a>(line: &'a [u8], entries: &comment::Comment) -> Vec<&'a [u8]> {
    if !entries.has_keys {
        return line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()).collect();
    }
    let flags = entries.entries.iter().filter(|e| e.value.is_none() && !e.key_quoted);
    flags.map(|e| &line[e.key.clone()]).collect()
}

/// `abcABC`, `H` or `GENH` of `CELL(abcABC):` with any brackets.
fn cell_form(word: &[u8]) -> Option<&[u8]> {
    let inner = word.strip_prefix(b"CELL")?.strip_suffix(b":")?;
    let (first, last) = (inner.first()?, inner.last()?);
    let name = inner.get(1..inner.len() - 1)?;
    (b"([{".contains(first) && b")]}".contains(last) && matches!(name, b"abcABC" | b"H" | b"GENH")).then_some(name)
}

/// Name and unit of `name{unit}`.
fn braced(word: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = word.strip_suffix(b"}")?;
    let at = memchr::memchr(b'{', inner)?;
    let (name, unit) = (&inner[..at], &inner[at + 1..]);
    let is_word = |c: &u8| c.is_ascii_alphabetic() || *c == b'_';
    (!name.is_empty() && name.iter().all(is_word) && unit.iter().all(is_word)).then_some((name, unit))
}

fn is_position(name: &[u8]) -> bool {
    matches!(name, b"positions" | b"x_centroid" | b"x_centroid_even" | b"x_centroid_odd" | b"Nx_centroid")
}

fn cell_from(form: &[u8], v: &[f64], unit: f64) -> Result<Option<Mat3>, String> {
    let scaled: Vec<f64> = v.iter().map(|x| x * unit).collect();
    if v.iter().all(|x| *x == 0.0) {
        return Ok(None);
    }
    match (form, scaled.as_slice(), v) {
        (b"abcABC", &[a, b, c, ..], &[.., alpha, beta, gamma]) => {
            from_parameters([a, b, c], [alpha, beta, gamma]).map(Some)
        }
        (b"H", &[a, b, c, d, e, f, g, h, i], _) => Ok(Some([[a, d, g], [b, e, h], [c, f, i]])),
        (_, &[a, b, c, d, e, f, g, h, i], _) => Ok(Some([[a, b, c], [d, e, f], [g, h, i]])),
        _ => Err("CELL cannot be read".into()),
    }
}

/// Å in a unit of i-PI.
fn length(unit: &[u8]) -> Result<f64, String> {
    match unit {
        b"angstrom" | b"ase" => Ok(1.0),
        b"atomic_unit" | b"" | b"bohr" => Ok(BOHR),
        b"nanometer" => Ok(10.0),
        b"picometer" => Ok(0.01),
        _ => Err(format!("unknown unit of length {{{}}}, expected angstrom or atomic_unit", lossy(unit))),
    }
}

/// Which unit a key names.
enum Unit {
    Length,
    Energy,
    /// `units`, of everything.
    Any,
    Other,
}

/// Looks at keys that name units: lengths in anything but Å are refused by name, what else is not eV and Å is said.
///
/// # Errors
/// A unit of length that is not Å.
pub(crate) fn check_keys(line: &[u8], entries: &[Entry], warnings: &mut Vec<String>) -> Result<(), String> {
    for entry in entries {
        let (Some(value), key) = (entry.value.clone(), &line[entry.key.clone()]) else { continue };
        let name = folded(key);
        let Some(stem) = name.strip_suffix(b"units").or_else(|| name.strip_suffix(b"unit")) else { continue };
        let unit = match stem {
            b"" => Unit::Any,
            b"length" | b"position" | b"positions" | b"pos" | b"coord" | b"coords" | b"coordinate" | b"coordinates"
            | b"distance" | b"xyz" | b"cell" | b"lattice" | b"box" => Unit::Length,
            b"energy" | b"force" | b"forces" | b"stress" | b"virial" | b"virials" => Unit::Energy,
            _ => Unit::Other,
        };
        let (key, value) = (lossy(key), lossy(&line[value]));
        let words: Vec<Vec<u8>> =
            list_items(value.as_bytes()).flat_map(|w| w.split(|c| *c == b'/')).map(folded).collect();
        let any = |is: fn(&[u8]) -> bool| words.iter().any(|w| is(w));
        match unit {
            Unit::Length | Unit::Any if any(is_other_length) => {
                return Err(format!(
                    "{key}={value}: positions and cells are read in Å; convert the file and leave {key} out"
                ));
            }
            Unit::Length if !any(is_angstrom) => {
                return Err(format!("{key}={value} is not understood: positions and cells are read in Å"));
            }
            Unit::Any if !words.iter().all(|w| is_angstrom(w) || is_ev(w)) => warnings
                .push(format!("{key}={value} is not used: positions are read in Å, labels in eV, eV/Å and eV/Å³")),
            Unit::Energy if !words.iter().all(|w| is_angstrom(w) || is_ev(w)) => {
                warnings.push(format!("{key}={value} is not used: labels are compared in eV, eV/Å and eV/Å³"))
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_angstrom(word: &[u8]) -> bool {
    matches!(word, b"angstrom" | b"angstroms" | b"ang" | b"a" | b"metal" | b"ase" | b"a^2" | b"a^3" | b"angstrom^3")
        || matches!(word, b"a**3" | b"ang^3" | b"ang**3" | b"a3")
        || [&b"\xc3\xa5"[..], b"\xc3\x85", b"\xe2\x84\xab"].iter().any(|a| word.starts_with(a))
}

fn is_ev(word: &[u8]) -> bool {
    matches!(word, b"ev" | b"electronvolt" | b"electronvolts")
}

fn is_other_length(word: &[u8]) -> bool {
    matches!(
        word,
        b"bohr"
            | b"bohrs"
            | b"au"
            | b"a.u."
            | b"a.u"
            | b"atomic"
            | b"atomicunit"
            | b"atomicunits"
            | b"a0"
            | b"nm"
            | b"nanometer"
            | b"nanometers"
            | b"nanometre"
            | b"pm"
            | b"picometer"
            | b"picometers"
            | b"m"
            | b"meter"
            | b"electron"
            | b"nano"
            | b"micro"
            | b"si"
            | b"lj"
            | b"cgs"
            | b"crystal"
            | b"fractional"
            | b"reduced"
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Item, Reader};
    use super::*;

    const ATOMS: &str = "O 0 0 0.224877\nH 0 1.44186 -0.901399\nH 0 -1.44186 -0.901399\n";

    fn read(comment: &str) -> Result<Frame, String> {
        let mut reader = Reader::from_reader("f", std::io::Cursor::new(format!("3\n{comment}\n{ATOMS}"))).unwrap();
        match reader.next_item().unwrap().unwrap() {
            Item::Frame(frame) => Ok(frame),
            Item::Bad(bad) => Err(bad.error.to_string()),
        }
    }

    #[test]
    fn ipi_bohr_becomes_extended_xyz_in_angstrom() {
        let numbers = "18.89726 18.89726 18.89726 90.0 90.0 90.0";
        for comment in [
            format!("# CELL(abcABC): {numbers}  Step: 7 Bead: 0 positions{{atomic_unit}}  cell{{atomic_unit}}"),
            format!("# CELL{{abcABC}}: {numbers} Traj: positions{{atomic_unit}} Step: 7 Bead: 0 cell{{atomic_unit}}"),
        ] {
            let frame = read(&comment).unwrap();
            let cell = frame.structure.cell.unwrap();
            assert!(frame.structure.pbc == [true; 3] && (cell[2][2] - 10.0).abs() < 1e-5 && cell[0][1] == 0.0);
            assert!((frame.structure.positions[1][1] - 0.763).abs() < 1e-5, "{:?}", frame.structure.positions);
            assert_eq!(frame.info("comment").as_deref(), Some("Step: 7 Bead: 0"));
            assert!(frame.warnings().len() == 1 && frame.warnings()[0].contains("converted"), "{:?}", frame.warnings());
            // What is carried through is what was computed, and is not converted twice.
            let again = Reader::from_reader("f", std::io::Cursor::new(frame.raw().to_vec())).unwrap().next();
            let again = again.unwrap().unwrap();
            assert_eq!((again.structure, again.warnings.len()), (frame.structure, 0));
        }
    }

    #[test]
    fn ipi_cells_of_every_form_are_read() {
        let angstrom = "positions{angstrom} cell{angstrom}";
        let frame = read(&format!("# CELL(abcABC): 9 8 7 90 90 90 Step: 0 Bead: 0 {angstrom}")).unwrap();
        assert_eq!(frame.structure.cell, Some([[9.0, 0.0, 0.0], [0.0, 8.0, 0.0], [0.0, 0.0, 7.0]]));
        assert_eq!((frame.structure.positions[0][2], frame.warnings().len()), (0.224877, 0));
        let rows = Some([[9.0, 0.0, 0.0], [1.0, 8.0, 0.0], [2.0, 3.0, 7.0]]);
        let frame = read(&format!("# CELL(GENH): 9 0 0 1 8 0 2 3 7 {angstrom}")).unwrap();
        assert_eq!(frame.structure.cell, rows);
        let frame = read(&format!("# CELL{{H}}: 9 1 2 0 8 3 0 0 7 {angstrom} charge=0")).unwrap();
        assert_eq!((frame.structure.cell, frame.charge().unwrap()), (rows, Some(0.0)));
        let mixed = read("# CELL(abcABC): 0.9 0.9 0.9 90 90 90 positions{atomic_unit} cell{nanometer}").unwrap();
        assert_eq!(mixed.structure.cell.unwrap()[0][0], 9.0);
    }

    #[test]
    fn ipi_comments_that_are_unclear_are_refused() {
        for (comment, part) in [
            ("# CELL(abcABC): 9 9 9 90 90 90 Step: 0", "does not say the units"),
            ("# CELL(abcABC): 9 9 9 90 90 90 positions{angstrom}", "does not say the units"),
            ("# CELL(abcABC): 9 9 9 90 90 90 forces{atomic_unit} cell{angstrom}", "forces{atomic_unit}"),
            ("# CELL(abcABC): 9 9 9 90 x positions{angstrom} cell{angstrom}", "needs 6 numbers"),
            ("# CELL(abcABC): 9 9 9 90 90 90 positions{furlong} cell{angstrom}", "furlong"),
            ("Lattice=\"9 0 0 0 9 0 0 0 9\" CELL(H): 9 0 0 0 9 0 0 0 9 positions{angstrom} cell{angstrom}", "both"),
        ] {
            let error = read(comment).unwrap_err();
            assert!(error.contains(part), "{comment}: {error}");
        }
        for comment in ["water (liquid)", "x{y}", "CELL(x): 1", "title=\"CELL(H): 1 positions{atomic_unit}\""] {
            assert!(read(comment).unwrap().structure.cell.is_none(), "{comment}");
        }
    }

    #[test]
    fn unit_keys_are_refused_or_said() {
        for comment in ["units=bohr", "Units=au", "length_unit=nm", "position_units=\"atomic units\"", "pos_unit=x"] {
            let error = read(comment).unwrap_err();
            assert!(error.contains("line 2") && error.contains("are read in Å"), "{comment}: {error}");
        }
        for comment in ["units=angstrom", "units=metal", "units=\"eV/Angstrom\"", "length_unit=Å", "energy_unit=eV"] {
            assert_eq!(read(comment).unwrap().warnings(), [""; 0], "{comment}");
        }
        for comment in ["energy_unit=Hartree", "units=kcal/mol", "stress_units=GPa"] {
            let frame = read(comment).unwrap();
            assert!(frame.warnings().len() == 1 && frame.warnings()[0].contains("not used"), "{comment}");
        }
    }
}
