//! Total charge and spin: the keys that say them, in the spellings of other programs.

use super::atoms::Fields;
use super::comment::Entry;
use super::frame::Frame;
use super::number::{lossy, parse_real, parse_reals};
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::structure::Structure;

/// What a key of the comment says about the electrons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateKey {
    /// Total charge.
    Charge,
    /// Multiplicity, 2S+1.
    Multiplicity,
    /// `spin` and `total_spin`: the multiplicity to `OMol25` and MACE, 2S to `PySCF`, S to others.
    Spin,
    /// Number of unpaired electrons, 2S.
    Unpaired,
}

impl StateKey {
    /// What a key says, in any case, with `_`, `-` or nothing between its words.
    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        // Most keys are none of them, which their first letter and length say.
        let first = key.first()? | 0x20;
        if !(3..=24).contains(&key.len()) || !matches!(first, b'c' | b't' | b'n' | b'm' | b's' | b'u') {
            return None;
        }
        let mut word = [0; 24];
        let mut n = 0;
        for &c in key.iter().filter(|c| !matches!(c, b'_' | b'-')) {
            word[n] = c.to_ascii_lowercase();
            n += 1;
        }
        Some(match &word[..n] {
            b"charge" | b"totalcharge" | b"totcharge" | b"netcharge" | b"chg" | b"molecularcharge" | b"molcharge"
            | b"systemcharge" | b"chargetotal" => Self::Charge,
            b"spinmultiplicity" | b"multiplicity" | b"mult" | b"spinmult" | b"molmultiplicity" => Self::Multiplicity,
            b"spin" | b"totalspin" => Self::Spin,
            b"uhf"
            | b"nupdown"
            | b"nunpaired"
            | b"nunpairedelectrons"
            | b"unpairedelectrons"
            | b"unpaired"
            | b"numunpairedelectrons"
            | b"numunpaired" => Self::Unpaired,
            _ => return None,
        })
    }
}

/// Numbers this near to a whole one are it: what sums of partial charges come to.
const ROUNDING: f64 = 1e-6;

/// One key and its whole number.
struct Said {
    key: String,
    value: i64,
    /// Whether the key means a multiplicity to some and the number of unpaired electrons to others.
    unclear: bool,
}

impl Said {
    fn text(&self) -> String {
        format!("{}={}", self.key, self.value)
    }
}

impl Frame {
    /// Total charge, e, from the keys `charge`, `total_charge`, `net_charge`, `chg` and similar ones, in any case;
    /// `None` if there is no such key.
    ///
    /// # Errors
    /// `Error::Xyz` if the value is not one whole number (up to rounding), or if two keys contradict each other.
    pub fn charge(&self) -> Result<Option<f64>> {
        Ok(self.said_charge()?.map(|said| said.value as f64))
    }

    /// Spin multiplicity, 2S + 1, from these keys and similar ones; `None` if there is no such key.
    ///
    /// | keys, in any case | meaning of the value |
    /// |---|---|
    /// | `spin_multiplicity`, `multiplicity`, `mult` | the multiplicity |
    /// | `uhf`, `nupdown`, `n_unpaired`, `unpaired_electrons` | the number of unpaired electrons, 2S |
    /// | `spin`, `total_spin` | the multiplicity, as in `OMol25` and MACE; 0, which is no multiplicity, is a singlet |
    ///
    /// Beside a key of the first two rows, the value of `spin` may also be 2S or S.
    ///
    /// # Errors
    /// `Error::Xyz` if the value is not one whole number (up to rounding), or if two keys contradict each other.
    pub fn spin_multiplicity(&self) -> Result<Option<f64>> {
        Ok(self.said_multiplicity()?.map(|said| said.value as f64))
    }

    /// Checks that a model describes the charge and the spin of this frame, as far as its comment gives them. Returns
    /// warnings, for example about a number of electrons that does not fit the model's spin multiplicity.
    ///
    /// # Errors
    /// `Error::ChargeOrSpin` for another charge or spin; `Error::Xyz` for a `spin` whose meaning is unclear, and as
    /// [`Frame::charge`] and [`Frame::spin_multiplicity`].
    pub fn check_state(&self, config: &ModelConfig) -> Result<Vec<String>> {
        let charge = self.said_charge()?;
        let multiplicity = self.said_multiplicity()?;
        charge.as_ref().map_or(Ok(()), |said| config.check_charge(said.value))?;
        multiplicity.as_ref().map_or(Ok(()), |said| config.check_spin_multiplicity(said.value))?;
        let mut warnings = Vec::new();
        let total = i64::from(config.charge);
        if is_odd(&self.structure, total) != config.spin_multiplicity.is_multiple_of(2) {
            let (electrons, states) = match config.spin_multiplicity.is_multiple_of(2) {
                false => ("an odd number of electrons", "closed shells"),
                true => ("an even number of electrons", "odd numbers of electrons"),
            };
            match multiplicity {
                Some(said) if said.unclear => return Err(self.unclear(&said, electrons)),
                Some(said) => warnings.push(contradicts(&said, electrons, total)),
                None => warnings.push(format!("{electrons}: this model describes {states} only")),
            }
        }
        warnings.extend(self.charges_of_atoms(total));
        Ok(warnings)
    }

    /// Warnings about charge and spin that do not depend on a model, for example about an odd number of electrons
    /// without a spin multiplicity.
    ///
    /// # Errors
    /// As [`Frame::charge`] and [`Frame::spin_multiplicity`].
    pub fn state_warnings(&self) -> Result<Vec<String>> {
        let charge = self.said_charge()?.map_or(0, |said| said.value);
        let multiplicity = self.said_multiplicity()?;
        let mut warnings = Vec::new();
        let odd = is_odd(&self.structure, charge);
        let electrons = if odd { "an odd number of electrons" } else { "an even number of electrons" };
        match multiplicity {
            None if odd => warnings.push(format!("{electrons}, and no spin multiplicity said")),
            Some(said) if (said.value % 2 == 0) != odd => warnings.push(contradicts(&said, electrons, charge)),
            _ => {}
        }
        warnings.extend(self.charges_of_atoms(charge));
        Ok(warnings)
    }

    fn said_charge(&self) -> Result<Option<Said>> {
        let mut found: Option<Said> = None;
        for entry in self.state_entries(|kind| kind == StateKey::Charge) {
            let said = self.whole_number(entry)?;
            match &found {
                Some(before) if before.value != said.value => return Err(self.contradiction(before, &said)),
                _ => found = Some(said),
            }
        }
        Ok(found)
    }

    fn said_multiplicity(&self) -> Result<Option<Said>> {
        let mut found: Option<(Said, i64)> = None;
        for entry in self.state_entries(|kind| matches!(kind, StateKey::Multiplicity | StateKey::Unpaired)) {
            let said = self.whole_number(entry)?;
            let multiplicity = match StateKey::of(self.key(entry)) {
                // VASP's -1 leaves the number open.
                Some(StateKey::Unpaired) if said.value == -1 => continue,
                Some(StateKey::Unpaired) => said.value + 1,
                _ => said.value,
            };
            if multiplicity < 1 {
                return Err(self.comment_error(format!("{} is no spin that electrons can have", said.text())));
            }
            match &found {
                Some((before, m)) if *m != multiplicity => return Err(self.contradiction(before, &said)),
                _ => found = Some((said, multiplicity)),
            }
        }
        let mut spin: Option<Said> = None;
        for entry in self.state_entries(|kind| kind == StateKey::Spin) {
            let said = self.whole_number(entry)?;
            if said.value < 0 {
                return Err(self.comment_error(format!("{} is no spin multiplicity", said.text())));
            }
            if let Some((before, m)) = &found {
                // Beside the multiplicity, any of the three meanings may be meant.
                if ![*m, m - 1].contains(&said.value) && said.value * 2 != m - 1 {
                    return Err(self.contradiction(before, &said));
                }
            } else if let Some(before) = spin.as_ref().filter(|s| s.value.max(1) != said.value.max(1)) {
                return Err(self.contradiction(before, &said));
            }
            spin = Some(said);
        }
        Ok(match (found, spin) {
            (Some((said, multiplicity)), _) => {
                let key = if said.value == multiplicity { said.key } else { "spin_multiplicity".into() };
                Some(Said { key, value: multiplicity, unclear: false })
            }
            (None, Some(said)) => Some(Said { value: said.value.max(1), ..said }),
            (None, None) => None,
        })
    }

    fn state_entries(&self, wanted: impl Fn(StateKey) -> bool) -> impl Iterator<Item = &Entry> {
        self.entries.entries.iter().filter(move |e| {
            // UHF by itself is a method.
            let kind = StateKey::of(self.key(e)).filter(|kind| *kind != StateKey::Unpaired || e.value.is_some());
            kind.is_some_and(&wanted)
        })
    }

    fn contradiction(&self, a: &Said, b: &Said) -> Error {
        self.comment_error(format!("{} and {} contradict each other", a.text(), b.text()))
    }

    fn unclear(&self, said: &Said, electrons: &str) -> Error {
        self.comment_error(format!(
            "{} is unclear where the atoms have {electrons}: no multiplicity, but perhaps 2S; say spin_multiplicity=",
            said.text()
        ))
    }

    fn whole_number(&self, entry: &Entry) -> Result<Said> {
        let key = lossy(self.key(entry));
        let Some(value) = entry.value.clone() else {
            return Err(self.comment_error(format!("{key} has no value, expected a number")));
        };
        let values = parse_reals(&self.comment()[value])
            .map_err(|piece| self.comment_error(format!("{key} is not a number: \"{piece}\"")))?;
        let &[x] = values.as_slice() else {
            return Err(self.comment_error(format!("{key} has {} numbers, expected one", values.len())));
        };
        if !x.is_finite() {
            return Err(self.comment_error(format!("{key} is not finite: {x}")));
        }
        if (x - x.round()).abs() > ROUNDING || x.abs() > 1e6 {
            return Err(self.comment_error(format!("{key} is not a whole number: {x}")));
        }
        let unclear = StateKey::of(self.key(entry)) == Some(StateKey::Spin);
        Ok(Said { key, value: x.round() as i64, unclear })
    }

    /// A warning where the atoms' charges, which are not read as such, sum to something else than the total charge.
    fn charges_of_atoms(&self, total: i64) -> Option<String> {
        let names = ["initial_charges", "formal_charges", "formal_charge"];
        let (column, first) = self.columns.with_fields().find(|(c, _)| names.contains(&c.name.as_str()))?;
        let charge = |line| Fields::new(line).nth(first).and_then(parse_real);
        let sum: f64 = self.atom_lines().filter_map(charge).sum();
        // Half an electron is no rounding.
        ((sum - total as f64).abs() > 0.5).then(|| {
            format!("the column {} sums to {sum:.2}, which is not used: say charge= in the comment", column.name)
        })
    }
}

fn contradicts(said: &Said, electrons: &str, charge: i64) -> String {
    format!("{} contradicts the atoms, which have {electrons} at a charge of {charge}", said.text())
}

/// Whether there is an odd number of electrons at this total charge.
fn is_odd(structure: &Structure, charge: i64) -> bool {
    let odd = structure.atomic_numbers.iter().fold(0, |odd, z| odd ^ z) & 1;
    (odd == 1) != (charge % 2 != 0)
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;

    fn frame(comment: &str) -> Frame {
        let text = format!("2\n{comment}\nO 0 0 0\nH 0 0 1\n");
        let mut reader = Reader::from_reader("f", std::io::Cursor::new(text)).unwrap();
        reader.next_frame().unwrap().unwrap()
    }

    #[test]
    fn charge_is_read_in_every_spelling() {
        for key in ["charge", "Charge", "CHARGE", "total_charge", "Total_charge", "totalCharge", "net_charge", "chg"] {
            assert_eq!(frame(&format!("{key}=-1")).charge().unwrap(), Some(-1.0), "{key}");
        }
        for comment in ["energy=1", "charges=3", "q=1", "mulliken_charge=0.5", "a free charge"] {
            assert_eq!(frame(comment).charge().unwrap(), None, "{comment}");
        }
    }

    #[test]
    fn charge_rounding_noise_is_no_charge() {
        for (text, want) in [("-2.7e-17", 0.0), ("1.0000000001", 1.0), ("-0.9999999", -1.0), ("\"1\"", 1.0)] {
            assert_eq!(frame(&format!("total_charge={text}")).charge().unwrap(), Some(want));
        }
        for text in ["0.5", "1e-3", "nan", "1e99", "one", "\"1 2\"", "\"\""] {
            let error = frame(&format!("total_charge={text}")).charge().unwrap_err().to_string();
            assert!(error.contains("line 2: total_charge "), "{error}");
        }
    }

    #[test]
    fn spin_multiplicity_is_read_in_every_spelling() {
        for (comment, want) in [
            ("multiplicity=3", 3.0),
            ("Spin_Multiplicity=2", 2.0),
            ("mult=1", 1.0),
            ("spin=2", 2.0),
            ("spin=0", 1.0),
            ("total_spin=2", 2.0),
            ("total_spin=0.0", 1.0),
            ("uhf=1", 2.0),
            ("NUPDOWN=2", 3.0),
            ("n_unpaired=0", 1.0),
            ("multiplicity=3 spin=1", 3.0),
            ("multiplicity=3 spin=2", 3.0),
            ("mult=2 uhf=1 total_spin=2", 2.0),
            ("spin=0 total_spin=1", 1.0),
        ] {
            assert_eq!(frame(comment).spin_multiplicity().unwrap(), Some(want), "{comment}");
        }
        for comment in ["nupdown=-1 energy=2", "UHF energy=2", "energy=1"] {
            assert_eq!(frame(comment).spin_multiplicity().unwrap(), None, "{comment}");
        }
    }

    #[test]
    fn state_contradictions_are_refused_by_name() {
        for (comment, parts) in [
            ("charge=0 total_charge=-1", ["charge=0", "total_charge=-1"]),
            ("charge=0 charge=1", ["charge=0", "charge=1"]),
            ("multiplicity=1 mult=2", ["multiplicity=1", "mult=2"]),
            ("multiplicity=1 uhf=1", ["multiplicity=1", "uhf=1"]),
            ("multiplicity=1 spin=3", ["multiplicity=1", "spin=3"]),
            ("spin=1 total_spin=3", ["spin=1", "total_spin=3"]),
            ("spin=0.5", ["spin is not a whole number", "0.5"]),
            ("multiplicity=0", ["multiplicity=0", "no spin"]),
            ("spin=-1", ["spin=-1", "no spin multiplicity"]),
        ] {
            let frame = frame(comment);
            let error = frame.charge().and(frame.spin_multiplicity()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{comment}: {error}");
        }
    }
}
