//! Labels: energies, forces and stresses that a file carries.

use super::atoms::Fields;
use super::columns::ColumnType;
use super::frame::Frame;
use super::number::{lossy, parse_real};
use crate::error::Result;
use crate::structure::{Mat3, Vec3};

/// Labels of one frame: reference results, as far as the file has them.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Labels {
    /// Energy, eV.
    pub energy: Option<f64>,
    /// Forces, `[n_atoms]`, eV/Å.
    pub forces: Option<Vec<Vec3>>,
    /// Stress, eV/Å³, positive under tension; only of structures that are periodic in three directions.
    pub stress: Option<Mat3>,
}

/// Names of the keys and columns that hold labels. They are tried in order, and the first one that a frame has counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelKeys {
    /// Keys of the energy, eV.
    pub energy: Vec<String>,
    /// Columns of the forces, eV/Å.
    pub forces: Vec<String>,
    /// Keys of the stress, eV/Å³: nine numbers or six (xx yy zz yz xz xy).
    pub stress: Vec<String>,
    /// Keys of the virial, eV, in the same form. It is used if there is no stress: stress = −virial/volume, as in ASE,
    /// QUIP and MACE.
    pub virial: Vec<String>,
}

impl LabelKeys {
    /// The usual names with this prefix, such as an empty one, `REF_` or `MLFF_`:
    ///
    /// | label | names, in the order in which they are tried |
    /// |---|---|
    /// | energy | `energy`, `free_energy` (ASE writes both) |
    /// | forces | columns `forces`, `force` |
    /// | stress | `stress` |
    /// | virial | `virial`, `virials` |
    pub fn with_prefix(prefix: &str) -> Self {
        let named = |names: [&str; 2]| names.map(|name| format!("{prefix}{name}")).to_vec();
        LabelKeys {
            energy: named(["energy", "free_energy"]),
            forces: named(["forces", "force"]),
            stress: vec![format!("{prefix}stress")],
            virial: named(["virial", "virials"]),
        }
    }
}

impl Frame {
    /// Reads the labels with the usual names and this prefix; see [`LabelKeys::with_prefix`].
    ///
    /// # Errors
    /// `Error::Xyz` if a label is there, but does not consist of the right number of finite numbers.
    pub fn labels(&self, prefix: &str) -> Result<Labels> {
        self.labels_of(&LabelKeys::with_prefix(prefix))
    }

    /// Reads the labels with these names.
    ///
    /// # Errors
    /// As [`Frame::labels`].
    pub fn labels_of(&self, keys: &LabelKeys) -> Result<Labels> {
        let energy = first(&keys.energy, |key| self.number(key))?;
        let forces = first(&keys.forces, |key| self.vectors(key))?;
        let mut stress = None;
        if let Some(volume) = self.structure.volume() {
            stress = first(&keys.stress, |key| self.tensor(key))?;
            if stress.is_none() {
                let virial = first(&keys.virial, |key| self.tensor(key))?;
                stress = virial.map(|virial| virial.map(|row| row.map(|x| -x / volume)));
            }
        }
        Ok(Labels { energy, forces, stress })
    }

    /// Keys and columns that look like a label that is missing in `found`, but have none of the names `keys`: by them,
    /// the author of the file may have meant an energy, forces or a stress.
    pub fn unread_labels(&self, keys: &LabelKeys, found: &Labels) -> Vec<(LabelKind, String)> {
        let mut out = Vec::new();
        let is_one = |list: &[String], key: &str| list.iter().any(|k| k == key);
        if found.energy.is_none() || found.stress.is_none() {
            for entry in self.entries.entries.iter().filter(|e| e.value.is_some()) {
                let key = String::from_utf8_lossy(self.key(entry));
                let number = || self.number(&key).is_ok_and(|v| v.is_some());
                match kind_of(&key) {
                    Some(LabelKind::Energy) if found.energy.is_none() && !is_one(&keys.energy, &key) && number() => {
                        out.push((LabelKind::Energy, key.into_owned()));
                    }
                    // Without a volume there is no stress to compare with.
                    Some(kind @ LabelKind::Stress)
                        if found.stress.is_none()
                            && (self.structure.volume().is_none()
                                || !is_one(&keys.stress, &key) && !is_one(&keys.virial, &key))
                            && self.tensor(&key).is_ok_and(|t| t.is_some()) =>
                    {
                        out.push((kind, key.into_owned()));
                    }
                    _ => {}
                }
            }
        }
        if found.forces.is_none() {
            let columns = self.columns().iter().filter(|c| c.width == 3 && c.kind == ColumnType::Real);
            let columns = columns.filter(|c| kind_of(&c.name) == Some(LabelKind::Forces));
            out.extend(columns.map(|c| (LabelKind::Forces, c.name.clone())));
        }
        out
    }
}

/// What a label is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LabelKind {
    /// Energy.
    Energy,
    /// Forces.
    Forces,
    /// Stress or virial.
    Stress,
}

/// What a name looks like a label of.
fn kind_of(name: &str) -> Option<LabelKind> {
    // A result of this program is nobody's label.
    if name.starts_with("MLFF_") {
        return None;
    }
    let name = name.to_ascii_lowercase();
    if name.contains("stress") || name.contains("virial") {
        return Some(LabelKind::Stress);
    }
    if name.contains("force") || name.contains("gradient") {
        return Some(LabelKind::Forces);
    }
    let other = ["kinetic", "unit", "per_atom", "zero_point"].iter().any(|part| name.contains(part));
    let words = ["e", "etot", "e_tot", "etotal", "e_total", "toten", "e0", "e_0", "epot", "e_pot", "dft_e"];
    ((name.contains("energy") && !other) || words.contains(&name.as_str())).then_some(LabelKind::Energy)
}

/// The first that is there.
fn first<T>(keys: &[String], read: impl Fn(&str) -> Result<Option<T>>) -> Result<Option<T>> {
    keys.iter().find_map(|key| read(key).transpose()).transpose()
}

impl Frame {
    /// Reads a column of three real numbers for each atom, `[n_atoms]`; `None` if there is no column of this name.
    ///
    /// # Errors
    /// `Error::Xyz` if the column has another width or type, or holds something that is not a finite number.
    pub fn vectors(&self, name: &str) -> Result<Option<Vec<Vec3>>> {
        let Some((column, first)) = self.columns.find(name) else { return Ok(None) };
        // A column of numbers that holds something else is read as words, of which the first that is none is named below.
        if column.width != 3 || column.kind == ColumnType::Logical {
            let found = format!("{name}:{}:{}", column.kind.letter(), column.width);
            return Err(self.comment_error(format!("column {found} cannot be read, expected {name}:R:3")));
        }
        let mut out = Vec::with_capacity(self.structure.n_atoms());
        for (atom, line) in self.atom_lines().enumerate() {
            let mut fields = Fields::new(line).skip(first);
            let mut vector = [0.0; 3];
            for x in &mut vector {
                let field = fields.next().unwrap_or_default();
                *x = parse_real(field).filter(|v| v.is_finite()).ok_or_else(|| {
                    let reason = format!("{name} is not a finite number: \"{}\"", lossy(field));
                    self.error_at(self.line + 2 + atom, reason)
                })?;
            }
            out.push(vector);
        }
        Ok(Some(out))
    }

    fn tensor(&self, key: &str) -> Result<Option<Mat3>> {
        let Some(values) = self.numbers(key)? else { return Ok(None) };
        full_tensor(&values).map(Some).ok_or_else(|| {
            self.comment_error(format!("{key} has {} numbers, expected nine, or six (xx yy zz yz xz xy)", values.len()))
        })
    }
}

/// 3×3 tensor from nine numbers row by row, or six in Voigt order (xx yy zz yz xz xy).
pub(crate) fn full_tensor(values: &[f64]) -> Option<Mat3> {
    match *values {
        [a, b, c, d, e, f, g, h, i] => Some([[a, b, c], [d, e, f], [g, h, i]]),
        [xx, yy, zz, yz, xz, xy] => Some([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]),
        _ => None,
    }
}
