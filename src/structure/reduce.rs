//! Short lattice vectors in place of long, thin ones.
//!
//! Every lattice has many cells; `a, b - 2000a, c + 1000a` repeats the same atoms as `a, b, c`, but its images within a
//! cutoff have indices in the thousands. Such a cell is searched in the lattice's short vectors, and shifts are given
//! back in those of the file.

use crate::structure::{Mat3, Vec3, complete_cell, determinant, dot, norm};

/// Volume over the product of edge lengths below which a cell is reduced. Cells that programs write are far above it
/// (a rhombohedron with angles of 10° has 0.026); they are searched as they are.
const THIN: f64 = 1e-2;

/// Largest whole numbers that the short vectors may be made of: shifts must fit i32.
const MOST: f64 = (1u32 << 20) as f64;

/// Short vectors of a lattice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reduced {
    /// Rows; those of directions that are not periodic are as they were.
    pub cell: Mat3,
    /// Whole numbers: each row of `cell` is this row times the rows of the cell given.
    pub numbers: [[i32; 3]; 3],
}

impl Reduced {
    /// Lattice vectors of the cell given for those of the reduced cell; `None` beyond i32.
    pub(crate) fn shift(&self, reduced: [i32; 3]) -> Option<[i32; 3]> {
        let mut shift = [0; 3];
        for (j, out) in shift.iter_mut().enumerate() {
            let sum: i64 = (0..3).map(|i| i64::from(reduced[i]) * i64::from(self.numbers[i][j])).sum();
            *out = i32::try_from(sum).ok()?;
        }
        Some(shift)
    }

    /// Length against which coordinates by the reduced cell and by the one given are rounded, a reduced cell, Å. Vectors that
    /// are as they were add nothing: those of directions that are not periodic may be of any length, infinite for `norm`.
    pub(crate) fn scale(&self, given: &Mat3) -> f64 {
        let mut scale = 0.0;
        for (i, row) in self.numbers.iter().enumerate() {
            let is_as_it_was = (0..3).all(|j| row[j] == i32::from(i == j));
            for j in (0..3).filter(|&j| !is_as_it_was && row[j] != 0) {
                scale += f64::from(row[j]).abs() * norm(given[j]);
            }
        }
        scale
    }
}

/// Volume over the product of edge lengths: 1 for a rectangular cell, 0 for dependent vectors.
pub(crate) fn fullness(cell: &Mat3, pbc: [bool; 3]) -> f64 {
    let complete = complete_cell(cell, pbc);
    let product: f64 = complete.iter().map(|row| norm(*row)).product();
    if product > 0.0 { determinant(&complete).abs() / product } else { 0.0 }
}

/// The short vectors of a thin cell; `None` for all others, and where there are none to be found.
pub(crate) fn reduced(cell: &Mat3, pbc: [bool; 3]) -> Option<Reduced> {
    if fullness(cell, pbc) >= THIN {
        return None;
    }
    let periodic: Vec<usize> = (0..3).filter(|&k| pbc[k]).collect();
    let mut numbers: Mat3 = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    // Each step shortens a vector; the bound is for numbers that are not exact.
    for _ in 0..1000 {
        if !shorten(cell, &periodic, &mut numbers) {
            break;
        }
    }
    // On the way they may be larger.
    if !numbers.iter().flatten().all(|x| x.abs() <= MOST) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation)] // whole numbers, bounded just above
    let whole = numbers.map(|row| row.map(|x| x as i32));
    let reduced = Reduced { cell: rows(&numbers, cell, &periodic), numbers: whole };
    (reduced.cell != *cell).then_some(reduced)
}

/// Replaces one vector by a shorter one; whether there was any.
fn shorten(cell: &Mat3, periodic: &[usize], numbers: &mut Mat3) -> bool {
    let vectors = rows(numbers, cell, periodic);
    for &i in periodic {
        for &j in periodic.iter().filter(|&&j| j != i) {
            let square = dot(vectors[j], vectors[j]);
            let times = (dot(vectors[i], vectors[j]) / square).round();
            let shorter: Vec3 = std::array::from_fn(|k| vectors[i][k] - times * vectors[j][k]);
            if square > 0.0 && times != 0.0 && dot(shorter, shorter) < dot(vectors[i], vectors[i]) {
                let other = numbers[j];
                numbers[i].iter_mut().zip(other).for_each(|(n, m)| *n -= times * m);
                return true;
            }
        }
    }
    // Three vectors in nearly one plane, each pair of them at 120°.
    let &[a, b, c] = periodic else { return false };
    let square = |k: usize| dot(vectors[k], vectors[k]);
    let longest = [a, b, c].into_iter().max_by(|&i, &j| square(i).total_cmp(&square(j))).unwrap_or(a);
    for signs in [[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]] {
        let sum = |rows: &Mat3| -> Vec3 { std::array::from_fn(|k| (0..3).map(|i| signs[i] * rows[i][k]).sum()) };
        let shorter = sum(&vectors);
        if dot(shorter, shorter) < square(longest) * (1.0 - 1e-9) {
            numbers[longest] = sum(numbers);
            return true;
        }
    }
    false
}

fn rows(numbers: &Mat3, cell: &Mat3, periodic: &[usize]) -> Mat3 {
    let mut out = *cell;
    for &i in periodic {
        out[i] = std::array::from_fn(|k| (0..3).map(|j| numbers[i][j] * cell[j][k]).sum());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduced_cell_is_the_same_lattice_with_short_vectors() {
        let given = [[5.0, 0.0, 0.0], [-10000.0, 5.2, 0.0], [5000.0, 0.0, 5.4]];
        let r = reduced(&given, [true; 3]).unwrap();
        assert_eq!(r.cell, [[5.0, 0.0, 0.0], [0.0, 5.2, 0.0], [0.0, 0.0, 5.4]]);
        assert_eq!(r.numbers, [[1, 0, 0], [2000, 1, 0], [-1000, 0, 1]]);
        assert_eq!(r.shift([1, 2, -1]), Some([5001, 2, -1]));
        assert_eq!(r.shift([0, i32::MAX, 0]), None);
        // Nearly in one plane, at 120° to each other: no pair of them can be shortened.
        let star = [[5.0, 0.0, 0.01], [-2.5, 4.330_127_018_922_193, 0.01], [-2.5, -4.330_127_018_922_193, 0.01]];
        let r = reduced(&star, [true; 3]).unwrap();
        assert!(fullness(&r.cell, [true; 3]) > 0.5, "{r:?}");
    }

    #[test]
    fn reduced_cell_of_a_cell_thin_in_two_ways_is_found() {
        let given = [
            [8.484375, 2.25, -0.40625],
            [-116436.453125, -30874.921875, 5578.0625],
            [-363149.9375, -96290.234375, 17395.609375],
        ];
        let r = reduced(&given, [true; 3]).unwrap();
        assert!(fullness(&r.cell, [true; 3]) > 0.5, "{r:?}");
        crate::structure::Structure::new(vec![1], vec![[0.0; 3]], Some(given), [true; 3]).unwrap();
    }

    #[test]
    fn reduced_cell_leaves_other_directions_alone() {
        let given = [[5.0, 0.0, 0.0], [0.1, 0.2, 9e9], [5000.0, 5.4, 0.0]];
        let r = reduced(&given, [true, false, true]).unwrap();
        assert_eq!(r.cell, [[5.0, 0.0, 0.0], [0.1, 0.2, 9e9], [0.0, 5.4, 0.0]]);
        assert_eq!(reduced(&given, [true, false, false]), None);
        // Whatever stands there: the length that numbers are rounded against is one.
        let endless = [[5.0, 0.0, 0.0], [1e300, -1e300, 1.0], [5000.0, 5.4, 0.0]];
        let scale = reduced(&endless, [true, false, true]).unwrap().scale(&endless);
        assert!((5000.0..2e4).contains(&scale), "{scale}");
    }

    #[test]
    fn reduced_cells_of_ordinary_shape_are_left_alone() {
        let cells =
            [[[5.0, 0.0, 0.0], [0.0, 5.2, 0.0], [0.0, 0.0, 5.4]], [[0.0, 2.0, 2.0], [2.0, 0.0, 2.0], [2.0, 2.0, 0.0]]];
        assert!(cells.iter().all(|cell| reduced(cell, [true; 3]).is_none()));
    }
}
