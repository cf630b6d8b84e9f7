//! Structures: atomic numbers, positions, cell, periodicity and charge; the chemical elements.

pub(crate) mod reduce;
mod types;

pub use crate::elements::{SYMBOLS, atomic_number, symbol};
use crate::error::{Error, Result};
use reduce::{Reduced, fullness, reduced};
pub use types::ElementTypes;

/// Three Cartesian components.
pub type Vec3 = [f64; 3];
/// A 3×3 matrix by rows. The rows of a cell are its lattice vectors.
pub type Mat3 = [[f64; 3]; 3];

/// Greatest length of the lattice vector of a periodic direction, Å: one centimetre.
///
/// In longer cells f64 no longer resolves positions to 1e-8 Å. Such numbers are in another unit, or stand for no cell
/// at all.
pub const MAX_LATTICE_VECTOR: f64 = 1e8;

/// Shortest lattice vector that rounding errors of long ones are not taken for, Å: an atom's own image is never nearer.
const SHORTEST: f64 = 0.1;

/// One system of atoms.
///
/// Positions (Å) may lie outside the cell. The rows of `cell` are the lattice vectors (Å), of either handedness. A cell
/// is needed if any direction is periodic; its rows for other directions may be zero. Fields may be changed at any
/// time: a structure is checked again whenever it is evaluated.
///
/// ```
/// use mlff::Structure;
///
/// let hydroxide = Structure::molecule(vec![8, 1], vec![[0.0; 3], [0.0, 0.0, 0.97]])?.with_charge(-1);
/// let cell = [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]];
/// let boxed = hydroxide.clone().with_cell(Some(cell), [true; 3]);
/// assert_eq!((boxed.charge, boxed.volume()), (Some(-1), Some(729.0)));
/// # Ok::<(), mlff::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Structure {
    /// Atomic numbers, 1 to 118, `[n_atoms]`.
    pub atomic_numbers: Vec<u8>,
    /// Cartesian positions, Å, `[n_atoms]`.
    pub positions: Vec<Vec3>,
    /// Lattice vectors as rows, Å.
    pub cell: Option<Mat3>,
    /// Which of the three directions of the cell are periodic.
    pub pbc: [bool; 3],
    /// Total charge, e. A model describes one charge, and any other is an `Error::ChargeOrSpin`. `None` means that the
    /// charge is not known; it is then taken to be the model's.
    pub charge: Option<i32>,
}

impl Structure {
    /// Builds a structure, without a charge, and checks it.
    ///
    /// # Errors
    /// See [`Structure::validate`].
    pub fn new(atomic_numbers: Vec<u8>, positions: Vec<Vec3>, cell: Option<Mat3>, pbc: [bool; 3]) -> Result<Self> {
        let structure = Structure { atomic_numbers, positions, cell, pbc, charge: None };
        structure.validate()?;
        Ok(structure)
    }

    /// Builds and checks a molecule: no cell, not periodic.
    ///
    /// # Errors
    /// See [`Structure::validate`].
    pub fn molecule(atomic_numbers: Vec<u8>, positions: Vec<Vec3>) -> Result<Self> {
        Self::new(atomic_numbers, positions, None, [false; 3])
    }

    /// The same structure with this total charge, e.
    #[must_use]
    pub fn with_charge(mut self, charge: i32) -> Self {
        self.charge = Some(charge);
        self
    }

    /// The same structure with other atomic numbers. They are checked when the structure is evaluated, or by
    /// [`Structure::validate`].
    #[must_use]
    pub fn with_atomic_numbers(mut self, atomic_numbers: Vec<u8>) -> Self {
        self.atomic_numbers = atomic_numbers;
        self
    }

    /// The same structure with other positions, Å. They are checked when the structure is evaluated, or by
    /// [`Structure::validate`].
    #[must_use]
    pub fn with_positions(mut self, positions: Vec<Vec3>) -> Self {
        self.positions = positions;
        self
    }

    /// The same structure with another cell, Å, and other periodic directions. They are checked when the structure is
    /// evaluated, or by [`Structure::validate`].
    #[must_use]
    pub fn with_cell(mut self, cell: Option<Mat3>, pbc: [bool; 3]) -> Self {
        (self.cell, self.pbc) = (cell, pbc);
        self
    }

    /// Number of atoms.
    pub fn n_atoms(&self) -> usize {
        self.atomic_numbers.len()
    }

    /// Whether any direction is periodic.
    pub fn is_periodic(&self) -> bool {
        self.pbc.contains(&true)
    }

    /// Volume of the cell, Å³, of a structure that is periodic in three directions. `None` for all others, which have
    /// no stress.
    pub fn volume(&self) -> Option<f64> {
        match (&self.cell, self.pbc) {
            (Some(cell), [true, true, true]) => Some(determinant(cell).abs()),
            _ => None,
        }
    }

    /// Checks that there is one position for each atomic number, that atomic numbers are 1 to 118, that positions and
    /// cell are finite, and that the lattice vectors of periodic directions are independent and not longer than
    /// [`MAX_LATTICE_VECTOR`].
    ///
    /// # Errors
    /// `Error::Shape` for the wrong number of positions, else `Error::Structure`, which names the first fault.
    pub fn validate(&self) -> Result<()> {
        if self.positions.len() != self.atomic_numbers.len() {
            return Err(Error::Shape {
                what: "positions".into(),
                expected: vec![self.atomic_numbers.len(), 3],
                got: vec![self.positions.len(), 3],
            });
        }
        for (atom, &z) in self.atomic_numbers.iter().enumerate() {
            if symbol(z).is_none() {
                return Err(Error::Structure(format!("atom {atom} has atomic number {z}, expected 1 to 118")));
            }
        }
        // All at once, in vectors; which one it is matters only then.
        if !self.positions.as_flattened().iter().fold(true, |all, x| all & x.is_finite())
            && let Some((atom, r)) = self.positions.iter().enumerate().find(|(_, r)| !r.iter().all(|x| x.is_finite()))
        {
            return Err(Error::Structure(format!("position of atom {atom} is not finite: {r:?}")));
        }
        check_cell(self.cell.as_ref(), self.pbc)
    }
}

/// The one check of cells, of structures and of every step of a session: there where a direction repeats, finite in all rows,
/// and with independent lattice vectors of a usable length in the directions that repeat. What finite numbers the other rows
/// hold is no concern.
pub(crate) fn check_cell(cell: Option<&Mat3>, pbc: [bool; 3]) -> Result<()> {
    let is_periodic = pbc.contains(&true);
    let Some(cell) = cell else {
        return match is_periodic {
            true => Err(Error::Structure("a periodic structure needs a cell".into())),
            false => Ok(()),
        };
    };
    if !cell.iter().flatten().all(|x| x.is_finite()) {
        return Err(Error::Structure(format!("cell is not finite: {cell:?}")));
    }
    if !is_periodic {
        return Ok(());
    }
    for (row, name) in cell.iter().zip(["first", "second", "third"]).zip(pbc).filter_map(|(row, on)| on.then_some(row))
    {
        let length = norm(*row);
        if length > MAX_LATTICE_VECTOR {
            return Err(Error::Structure(format!(
                "the {name} lattice vector is {length:e} Å long, more than {MAX_LATTICE_VECTOR:e}: is the cell in Å? (a \
                 molecule needs no cell: pbc=\"F F F\")"
            )));
        }
    }
    // 1e-6 of a rectangular cell's volume: thinner cells are typing errors, unless the lattice has short vectors too.
    let thin = |cell: &Mat3| fullness(cell, pbc) < 1e-6;
    let is_lattice = |r: Reduced| !thin(&r.cell) && (0..3).all(|k| !pbc[k] || norm(r.cell[k]) >= SHORTEST);
    if thin(cell) && !reduced(cell, pbc).is_some_and(is_lattice) {
        return Err(Error::Structure(format!(
            "lattice vectors of the periodic directions are not independent: {cell:?}, pbc {pbc:?}"
        )));
    }
    Ok(())
}

/// Replaces the rows of non-periodic directions by unit vectors perpendicular to the periodic ones, so that the cell
/// can be inverted. Rows of periodic directions are kept.
#[doc(hidden)]
pub fn complete_cell(cell: &Mat3, pbc: [bool; 3]) -> Mat3 {
    let mut out = *cell;
    let periodic: Vec<usize> = (0..3).filter(|&k| pbc[k]).collect();
    match periodic[..] {
        [] => out = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [a] => {
            let along = cell[a];
            // The Cartesian axis least aligned with the periodic direction gives a well-conditioned complement.
            let axis = (0..3).min_by(|&x, &y| along[x].abs().total_cmp(&along[y].abs())).unwrap_or(0);
            let mut e = [0.0; 3];
            e[axis] = 1.0;
            let first = unit(cross(along, e));
            out[(a + 1) % 3] = first;
            out[(a + 2) % 3] = unit(cross(along, first));
        }
        [a, b] => out[3 - a - b] = unit(cross(cell[a], cell[b])),
        _ => {}
    }
    out
}

/// Determinant of a 3×3 matrix.
#[doc(hidden)]
pub fn determinant(m: &Mat3) -> f64 {
    dot(m[0], cross(m[1], m[2]))
}

/// Inverse of a 3×3 matrix with non-zero determinant.
#[doc(hidden)]
pub fn inverse(m: &Mat3) -> Mat3 {
    let d = determinant(m);
    let (a, b, c) = (cross(m[1], m[2]), cross(m[2], m[0]), cross(m[0], m[1]));
    std::array::from_fn(|i| [a[i] / d, b[i] / d, c[i] / d])
}

/// Displacement from one atom to another, or to its image at `offset`, Å: the one way in which it is formed, so that whatever looks
/// at a pair sees the same bits.
#[inline(always)]
pub(crate) fn displacement(from: &Vec3, to: &Vec3, offset: Option<&Vec3>) -> Vec3 {
    let r: Vec3 = std::array::from_fn(|k| to[k] - from[k]);
    match offset {
        Some(offset) => std::array::from_fn(|k| r[k] + offset[k]),
        None => r,
    }
}

/// A row vector times a matrix.
#[doc(hidden)]
pub fn times(v: Vec3, m: &Mat3) -> Vec3 {
    std::array::from_fn(|k| v[0] * m[0][k] + v[1] * m[1][k] + v[2] * m[2][k])
}

/// Product of two matrices.
#[doc(hidden)]
pub fn product(a: &Mat3, b: &Mat3) -> Mat3 {
    a.map(|row| times(row, b))
}

/// Inner product.
#[doc(hidden)]
pub fn dot(a: Vec3, b: Vec3) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Cross product.
#[doc(hidden)]
pub fn cross(a: Vec3, b: Vec3) -> Vec3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

/// Euclidean norm.
#[doc(hidden)]
pub fn norm(a: Vec3) -> f64 {
    dot(a, a).sqrt()
}

fn unit(a: Vec3) -> Vec3 {
    let n = norm(a);
    if n == 0.0 { a } else { a.map(|x| x / n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRICLINIC: Mat3 = [[5.6, 0.0, 0.0], [1.2, 5.1, 0.0], [0.7, -0.9, 4.8]];

    fn assert_identity(m: &Mat3) {
        for (i, row) in m.iter().enumerate() {
            for (j, x) in row.iter().enumerate() {
                let want = if i == j { 1.0 } else { 0.0 };
                assert!((x - want).abs() < 1e-12, "{m:?}");
            }
        }
    }

    fn periodic(cell: Mat3, pbc: [bool; 3]) -> Result<Structure> {
        Structure::new(vec![1], vec![[0.0; 3]], Some(cell), pbc)
    }

    #[test]
    fn inverse_times_matrix_is_the_identity() {
        for cell in [
            TRICLINIC,
            [TRICLINIC[1], TRICLINIC[0], TRICLINIC[2]],
            [[0.0, 2.0, 0.0], [0.0, 0.0, -3.0], [4.0, 0.0, 0.0]],
        ] {
            assert_identity(&product(&inverse(&cell), &cell));
            assert_identity(&product(&cell, &inverse(&cell)));
        }
    }

    #[test]
    fn complete_cell_keeps_periodic_rows_and_adds_perpendicular_units() {
        for bits in 0..8 {
            let pbc: [bool; 3] = std::array::from_fn(|k| bits >> k & 1 == 1);
            for zero_rows in [false, true] {
                let mut cell = TRICLINIC;
                for k in (0..3).filter(|&k| !pbc[k] && zero_rows) {
                    cell[k] = [0.0; 3];
                }
                let complete = complete_cell(&cell, pbc);
                for k in 0..3 {
                    if pbc[k] {
                        assert_eq!(complete[k], cell[k]);
                        continue;
                    }
                    assert!((norm(complete[k]) - 1.0).abs() < 1e-12);
                    for other in (0..3).filter(|&other| other != k) {
                        assert!(dot(complete[k], complete[other]).abs() < 1e-12, "{pbc:?}: {complete:?}");
                    }
                }
                assert_identity(&product(&inverse(&complete), &complete));
            }
        }
    }

    #[test]
    fn volume_is_positive_and_only_of_periodic_cells() {
        let left_handed = [TRICLINIC[1], TRICLINIC[0], TRICLINIC[2]];
        assert!(determinant(&left_handed) < 0.0);
        for cell in [TRICLINIC, left_handed] {
            let volume = periodic(cell, [true; 3]).expect("valid").volume().expect("defined");
            assert!((volume - 5.6 * 5.1 * 4.8).abs() < 1e-12);
            assert_eq!(periodic(cell, [true, true, false]).expect("valid").volume(), None);
        }
        assert_eq!(Structure::molecule(vec![1], vec![[0.0; 3]]).expect("valid").volume(), None);
    }

    #[test]
    fn validate_names_what_is_wrong() {
        let message = |outcome: Result<Structure>| outcome.expect_err("refused").to_string();
        assert!(message(Structure::molecule(vec![1], vec![])).contains("positions"));
        assert!(message(Structure::molecule(vec![1, 0], vec![[0.0; 3]; 2])).contains("atom 1 has atomic number 0"));
        assert!(message(Structure::molecule(vec![119], vec![[0.0; 3]])).contains("119"));
        assert!(message(Structure::molecule(vec![1], vec![[0.0, f64::NAN, 0.0]])).contains("atom 0 is not finite"));
        assert!(message(Structure::new(vec![1], vec![[0.0; 3]], None, [true, false, false])).contains("needs a cell"));
        let mut cell = TRICLINIC;
        cell[2][0] = f64::INFINITY;
        assert!(message(periodic(cell, [true, true, false])).contains("not finite"));
        for dependent in [[1.2, 5.1, 0.0], [0.0; 3], [6.8, 5.1, 1e-7]] {
            assert!(message(periodic([TRICLINIC[0], TRICLINIC[1], dependent], [true; 3])).contains("not independent"));
        }
        // Dependent rows of directions that do not repeat are no concern.
        assert!(periodic([TRICLINIC[0], TRICLINIC[1], TRICLINIC[1]], [true, true, false]).is_ok());
        assert!(periodic([[0.0; 3]; 3], [false; 3]).is_ok());
        assert!(Structure::new(vec![], vec![], None, [false; 3]).is_ok());
    }

    #[test]
    fn validate_refuses_lattice_vectors_longer_than_a_centimetre() {
        let scaled = |by: f64| TRICLINIC.map(|row| row.map(|x| x * by));
        for bits in 1..8 {
            let pbc: [bool; 3] = std::array::from_fn(|k| bits >> k & 1 == 1);
            assert!(periodic(scaled(1e7), pbc).is_ok());
            for by in [1e8, 1e17, 1e200, 1e307] {
                let message = periodic(scaled(by), pbc).expect_err("refused").to_string();
                assert!(message.contains("lattice vector is") && message.contains("more than 1e8"), "{message}");
            }
        }
        // Rows of directions that do not repeat may hold any finite number.
        let row = [1e300, -1e300, 1e-310];
        assert!(periodic([TRICLINIC[0], TRICLINIC[1], row], [true, true, false]).is_ok());
        assert!(periodic([row; 3], [false; 3]).is_ok());
        assert!(periodic([TRICLINIC[0], row, TRICLINIC[2]], [true; 3]).is_err());
        for bad in [f64::NAN, f64::INFINITY] {
            assert!(periodic([TRICLINIC[0], TRICLINIC[1], [bad, 0.0, 0.0]], [true, true, false]).is_err());
            assert!(periodic([[bad; 3]; 3], [false; 3]).is_err());
        }
    }
}
