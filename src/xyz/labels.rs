//! Labels: energies, forces and stresses that a file carries.

use super::atoms::Fields;
use super::columns::ColumnType;
use super::frame::Frame;
use super::number::{lossy, parse_real};
use crate::error::Result;
use crate::structure::{Mat3, Vec3};

/// Reference results of one frame, as far as the file has them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Labels {
    /// Energy, eV.
    pub energy: Option<f64>,
    /// Forces, `[n_atoms]`, eV/Å.
    pub forces: Option<Vec<Vec3>>,
    /// Stress, eV/Å³, tension positive; only where all three directions are periodic.
    pub stress: Option<Mat3>,
}

impl Frame {
    /// Reads the labels whose names start with `prefix` (`""`, or `REF_`, `MLFF_`, …).
    ///
    /// | label | looked for, in this order |
    /// |---|---|
    /// | energy | `energy`, `free_energy` (ASE writes both) |
    /// | forces | columns `forces`, `force` |
    /// | stress | `stress`, nine numbers or six (xx yy zz yz xz xy); `virial`, likewise: stress = −virial/volume |
    ///
    /// # Errors
    /// `Error::Xyz` where a label is there but is not the finite numbers it should be.
    pub fn labels(&self, prefix: &str) -> Result<Labels> {
        let energy = match self.number(&format!("{prefix}energy"))? {
            None => self.number(&format!("{prefix}free_energy"))?,
            found => found,
        };
        let forces = match self.vectors(&format!("{prefix}forces"))? {
            None => self.vectors(&format!("{prefix}force"))?,
            found => found,
        };
        let mut stress = None;
        if let Some(volume) = self.structure.volume() {
            stress = self.tensor(&format!("{prefix}stress"))?;
            if stress.is_none() {
                let virial = self.tensor(&format!("{prefix}virial"))?;
                stress = virial.map(|w| w.map(|row| row.map(|x| -x / volume)));
            }
        }
        Ok(Labels { energy, forces, stress })
    }

    /// Reads a column of three real numbers; `None` where there is no column of this name.
    ///
    /// # Errors
    /// `Error::Xyz` where the column has another shape or type, or holds something that is not a finite number.
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
