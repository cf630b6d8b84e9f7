//! What a frame says and this program does not use: said once, so that nobody takes it for used.

use super::cell::folded;
use super::comment::{Comment, Entry};
use super::frame::{Frame, is_key};
use super::number::{lossy, parse_logical, parse_real, parse_reals};
use super::state::StateKey;

/// Whether a key may matter, found in one pass over it: most do not.
fn may_matter(key: &[u8]) -> bool {
    let stems: [&[u8]; 12] = [
        b"charge",
        b"cell",
        b"box",
        b"spin",
        b"mult",
        b"unpaired",
        b"magm",
        b"magn",
        b"unit",
        b"lattice",
        b"period",
        b"bound",
    ];
    if let [c] = key {
        return c | 0x20 == b'q';
    }
    (0..key.len().saturating_sub(2)).any(|k| {
        let first = key[k] | 0x20;
        matches!(first, b'c' | b'b' | b's' | b'm' | b'u' | b'l' | b'p')
            && stems
                .iter()
                .any(|s| s[0] == first && key[k..].len() >= s.len() && key[k..][..s.len()].eq_ignore_ascii_case(s))
    })
}

/// Looks for what matters among the entries of a comment, and in free text. `has_cell` and `has_pbc`: the frame has
/// them.
///
/// # Errors
/// A unit of length that is not Å.
pub(crate) fn look(line: &[u8], comment: &Comment, has_cell: bool, warnings: &mut Vec<String>) -> Result<(), String> {
    if !comment.has_keys {
        if !has_cell {
            warnings.extend(free_text(line));
        }
        return Ok(());
    }
    let entries = &comment.entries;
    let key_of = |e: &Entry| &line[e.key.clone()];
    if !entries.iter().any(|e| e.value.is_some() && may_matter(key_of(e)) && key_of(e) != b"Lattice") {
        return Ok(());
    }
    super::units::check_keys(line, entries, warnings)?;
    for entry in entries.iter().filter(|e| may_matter(key_of(e))) {
        let Some(value) = entry.value.clone().map(|v| &line[v]) else { continue };
        let key = key_of(entry);
        if ["Lattice", "pbc", "Properties"].iter().any(|k| is_key(line, entry, k)) || StateKey::of(key).is_some() {
            continue;
        }
        let name = folded(key);
        let has = |stem: &[u8]| memchr::memmem::find(&name, stem).is_some();
        let numbers = parse_reals(value).unwrap_or_default();
        let shown = lossy(key);
        let unused =
            |what: &str, say: &str| Some(format!("{shown}={} may be {what} and is not used: say {say}", lossy(value)));
        let found = match numbers[..] {
            _ if has(b"unit") => None,
            // Which words of a unit cell are cells, `cell.rs` knows; these have the look of one.
            [_, _, _] | [_, _, _, _, _, _] | [_, _, _, _, _, _, _, _, _]
                if !has_cell && (has(b"cell") || has(b"lattice") || has(b"box")) && !is_said(warnings, &shown) =>
            {
                let zero = numbers.iter().all(|x| *x == 0.0);
                (!zero && !has(b"origin")).then(|| unused("a cell", "Lattice=\"nine numbers\"")).flatten()
            }
            [x] if (has(b"charge") && !has(b"charges")) || name == b"q" => {
                (x.abs() > 0.5).then(|| unused("a total charge", "charge=")).flatten()
            }
            [x] if has(b"magmom") || has(b"magnetization") || has(b"magneticmoment") || has(b"unpaired") => {
                (x.abs() > 0.5).then(|| unused("a number of unpaired electrons", "spin_multiplicity=")).flatten()
            }
            [x] if has(b"multiplicity") || has(b"spin") => (x.abs() > 1e-6 && (x - 1.0).abs() > 1e-6)
                .then(|| unused("a spin multiplicity", "spin_multiplicity="))
                .flatten(),
            _ if !has_cell && (has(b"periodic") || has(b"boundary")) => {
                let yes = parse_logical(value) == Some(true) || value.iter().all(|c| matches!(c, b'p' | b'P' | b' '));
                yes.then(|| unused("periodicity", "pbc= and Lattice=")).flatten()
            }
            _ => None,
        };
        warnings.extend(found);
    }
    Ok(())
}

fn is_said(warnings: &[String], key: &str) -> bool {
    warnings.iter().any(|w| w.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))
}

/// A cell, a unit, a charge or a spin in free text.
fn free_text(line: &[u8]) -> Vec<String> {
    let words = line.split(|c| c.is_ascii_whitespace() || matches!(c, b',' | b':' | b'=' | b'"'));
    let (mut numbers, mut n_words) = (0, 0);
    let (mut cell, mut bohr, mut decimal, mut state) = (false, false, false, false);
    // What the word before says about electrons.
    let mut key = None;
    for word in words.filter(|w| !w.is_empty()) {
        n_words += 1;
        let before = std::mem::replace(&mut key, StateKey::of(word));
        match word.first() {
            Some(c) if c.is_ascii_digit() || matches!(c, b'-' | b'+' | b'.') => {
                let Some(number) = parse_real(word) else { continue };
                numbers += 1;
                decimal |= word.contains(&b'.');
                state |= match before {
                    Some(StateKey::Charge | StateKey::Unpaired) => number != 0.0,
                    Some(StateKey::Multiplicity | StateKey::Spin) => number > 1.0,
                    None => false,
                };
            }
            Some(c) if matches!(c | 0x20, b'c' | b'b' | b'l' | b'u' | b'(') => {
                let word = folded(word);
                cell |=
                    matches!(&word[..], b"cell" | b"box" | b"lattice" | b"unitcell" | b"cryst1" | b"cellparameters");
                bohr |= matches!(word.strip_prefix(b"(").unwrap_or(&word), b"bohr" | b"bohr)" | b"bohrs");
            }
            _ => {}
        }
    }
    cell = (cell && numbers >= 3) || (numbers == n_words && decimal && matches!(numbers, 3 | 6 | 9));
    let found = [
        (cell, "may hold a cell, which is not used: say Lattice=\"nine numbers\""),
        (bohr, "may say that positions are in Bohr: they are read in Å"),
        (state, "may say a charge or spin, which is not used: say charge= and spin_multiplicity="),
    ];
    let text = || lossy(line.trim_ascii());
    found.into_iter().filter(|(is, _)| *is).map(|(_, what)| format!("the comment \"{}\" {what}", text())).collect()
}

/// Elements given as numbers in place of symbols: atom types where LAMMPS wrote the file.
///
/// # Errors
/// Where they are LAMMPS's types; with the atom, from 0.
pub(crate) fn numeric_species(frame: &mut Frame) -> Result<(), (usize, String)> {
    // Set by isotopes too.
    let Some(column) = frame.columns.species.filter(|_| frame.needs_numbers) else { return Ok(()) };
    let is_number = |line: &[u8]| {
        super::atoms::Fields::new(line).nth(column).is_some_and(|f| f.first().is_some_and(u8::is_ascii_digit))
    };
    let Some((atom, line)) = frame.atom_lines().enumerate().find(|(_, line)| is_number(line)) else { return Ok(()) };
    let found = lossy(super::atoms::Fields::new(line).nth(column).unwrap_or_default());
    if frame.comment().trim_ascii_start().starts_with(b"Atoms. Timestep") {
        return Err((
            atom,
            format!(
                "\"{found}\" is an atom type of LAMMPS, not an element: write the file with dump_modify … element, or \
                 replace types by symbols"
            ),
        ));
    }
    frame.warn(format!("elements are given as numbers (\"{found}\"), which are read as atomic numbers"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Item, Reader};
    use super::*;

    fn read(comment: &str, atom: &str) -> Result<Frame, String> {
        let mut reader =
            Reader::from_reader("f", std::io::Cursor::new(format!("1\n{comment}\n{atom} 0 0 0\n"))).unwrap();
        match reader.next_item().unwrap().unwrap() {
            Item::Frame(frame) => Ok(frame),
            Item::Bad(bad) => Err(bad.error.to_string()),
        }
    }

    #[test]
    fn keys_that_matter_and_are_not_used_are_said() {
        for (comment, what) in [
            ("dft_charge=-1", "a total charge"),
            ("q=1", "a total charge"),
            ("magmom=2.0", "unpaired electrons"),
            ("tot_magnetization=1", "unpaired electrons"),
            ("REF_spin=3", "spin multiplicity"),
            ("my_cell=\"9 0 0 0 9 0 0 0 9\"", "a cell"),
            ("md_box=\"9 9 9\"", "a cell"),
            ("periodic=true", "periodicity"),
            ("boundary=\"p p p\"", "periodicity"),
        ] {
            let frame = read(comment, "He").unwrap();
            assert!(frame.warnings().len() == 1, "{comment}: {:?}", frame.warnings());
            assert!(frame.warnings()[0].contains(what), "{comment}: {:?}", frame.warnings());
        }
        for comment in [
            "energy=-1 step=3 config_type=bulk Temperature=300 name=cellulose",
            "dft_charge=0 magmom=0.0 spin=1 n_spins=1",
            "Lattice=\"9 0 0 0 9 0 0 0 9\" my_cell=\"1 2 3\" periodic=T cell_volume=729",
            "charges=\"0.1 0.2\" mulliken_charges=3 cell_origin=\"0 0 0\" i=3 time=0.5 E=-17.1",
        ] {
            assert_eq!(read(comment, "He").unwrap().warnings(), [""; 0], "{comment}");
        }
    }

    #[test]
    fn free_text_with_a_cell_a_unit_or_a_charge_is_said() {
        for comment in ["9.0 9.0 9.0", "cell: 9 0 0 0 9 0 0 0 9", "CRYST1 9 9 9 90 90 90", "box 10 10 10 frame 3"] {
            let warnings = read(comment, "He").unwrap().warnings;
            assert!(warnings.len() == 1 && warnings[0].contains("may hold a cell"), "{comment}: {warnings:?}");
        }
        assert!(read("geometry (Bohr)", "He").unwrap().warnings[0].contains("Bohr"));
        for comment in ["charge -1", "Charge: 1, multiplicity: 2", "total charge: 0 Multiplicity 3", "uhf 1"] {
            let warnings = read(comment, "He").unwrap().warnings;
            assert!(warnings.len() == 1 && warnings[0].contains("a charge or spin"), "{comment}: {warnings:?}");
        }
        for comment in ["charge 0 spin 1", "Charge: 0, mult: 1", "charge transfer 3", "spin"] {
            assert_eq!(read(comment, "He").unwrap().warnings(), [""; 0], "{comment}");
        }
        for comment in ["", "17", "water", "1 2 3", "cell 3", "box of water", "step 3 time 0.5 -7.25", "0.1 0.2"] {
            assert_eq!(read(comment, "He").unwrap().warnings(), [""; 0], "{comment}");
        }
    }

    #[test]
    fn species_as_numbers_are_said_and_types_of_lammps_refused() {
        let error = read("Atoms. Timestep: 0", "1").unwrap_err();
        assert!(error.contains("frame 0, line 3: \"1\" is an atom type of LAMMPS"), "{error}");
        assert_eq!(read("Atoms. Timestep: 0", "He").unwrap().warnings(), [""; 0]);
        assert!(read("x", "2").unwrap().warnings()[0].contains("atomic numbers"));
        assert_eq!(read("x", "D").unwrap().warnings(), [""; 0]);
    }
}
