//! The atoms, wrapped into the cell, and the images of them that lie near enough to matter.

use super::{MAX_NEIGHBORS, index, translation};
use crate::error::{Error, Result};
use crate::structure::reduce::Reduced;
use crate::structure::{Mat3, Structure, Vec3, complete_cell, determinant, inverse, norm, times};

/// Most images of one search: 3 GB of them.
const MAX_IMAGES: f64 = (1u32 << 26) as f64;

/// Images that are looked at in any case, one by one, where the cell is thin: a few hundredths of a second.
const SOME_IMAGES: f64 = (1u32 << 22) as f64;

/// Most images that are kept, for each atom and each neighbour that an atom may have.
///
/// A cube of side L with n atoms has n (1 + 2r/L)³ points for a cutoff of r, and an atom n 4/3 π (r/L)³ neighbours. Where
/// these are no more than [`MAX_NEIGHBORS`], images are less than 8 for each of atoms and `MAX_NEIGHBORS` together. Skewed
/// cells have more by the ratio of the box around them to their volume: where that makes more than this, 26 MB of points for
/// a few atoms, images that are far from all atoms are sorted out one by one.
const IMAGES_PER_ATOM: f64 = 64.0;

/// Cells that an atom may lie outside of its own: shifts between two atoms then fit i32.
const MAX_WRAP: f64 = (1u32 << 29) as f64;

/// Points of one structure, sorted by atom, then by shift: the order of edges in a row of the list.
#[derive(Debug, Default)]
pub(super) struct Points {
    /// Wrapped coordinates, `[n_points]`, Å.
    pub x: Vec<f64>,
    pub y: Vec<f64>,
    pub z: Vec<f64>,
    /// Atom that each point is an image of, `[n_points]`.
    pub atoms: Vec<u32>,
    /// The point is at `positions[atom] + shift·cell`, `[n_points]`.
    pub shifts: Vec<[i32; 3]>,
    /// Cells that each atom was moved by to be wrapped, `[n_atoms]`: its own point has the shift `-wrap`.
    pub wraps: Vec<[i32; 3]>,
    /// Id of each atom's own point, `[n_atoms]`.
    pub homes: Vec<u32>,
    /// Wrapped fractional coordinates of the atoms, `[n_atoms]`; Å in directions that are not periodic.
    pub fractional: Vec<Vec3>,
    /// Smallest and largest fractional coordinate of the points.
    pub low: Vec3,
    pub high: Vec3,
    /// The cutoff in fractional coordinates, a little enlarged against rounding.
    pub reach: Vec3,
    /// Wrapped coordinates whose d² (Å²) is at most `surely_inside` are within the cutoff, beyond `maybe_inside` they
    /// are not; rounding leaves the rest open.
    pub surely_inside: f64,
    pub maybe_inside: f64,
}

impl Points {
    pub fn len(&self) -> usize {
        self.x.len()
    }

    /// Fractional coordinates of a point.
    pub fn fractional_of(&self, id: usize) -> Vec3 {
        let (atom, shift) = (self.atoms[id] as usize, self.shifts[id]);
        let (own, wrap) = (self.fractional[atom], self.wraps[atom]);
        std::array::from_fn(|k| own[k] + f64::from(shift[k] + wrap[k]))
    }

    fn clear(&mut self) {
        self.x.clear();
        self.y.clear();
        self.z.clear();
        self.atoms.clear();
        self.shifts.clear();
        self.wraps.clear();
        self.homes.clear();
        self.fractional.clear();
    }

    /// Only the coordinates, unwrapped, one point an atom.
    pub fn set_coordinates(&mut self, positions: &[Vec3]) {
        self.clear();
        self.x.extend(positions.iter().map(|r| r[0]));
        self.y.extend(positions.iter().map(|r| r[1]));
        self.z.extend(positions.iter().map(|r| r[2]));
    }

    /// All points of a valid structure that can lie within the cutoff (Å) of an atom, with shifts in the cell given or
    /// in the reduced one.
    pub fn build(&mut self, structure: &Structure, reduced: Option<&Reduced>, cutoff: f64) -> Result<()> {
        self.clear();
        let pbc = structure.pbc;
        let given = structure.cell.unwrap_or_default();
        let cell = reduced.map_or(given, |r| r.cell);
        let inverse = inverse(&complete_cell(&cell, pbc));
        if !inverse.iter().flatten().all(|x| x.is_finite()) {
            return Err(Error::Structure(format!("cell is too large or too small to be inverted: {cell:?}")));
        }
        let largest = structure.positions.iter().flatten().fold(0.0, |a: f64, x| a.max(x.abs()));
        self.wrap(structure, &inverse)?;
        self.check_density(structure, &cell, cutoff)?;
        for k in 0..3 {
            let column = [inverse[0][k], inverse[1][k], inverse[2][k]];
            // Rounding of fractional coordinates, plus a margin far above that of the arithmetic on them.
            let rounding = 64.0 * f64::EPSILON * largest * norm(column);
            self.reach[k] = cutoff * norm(column) * (1.0 + 1e-9) + rounding + 1e-12;
            if pbc[k] {
                self.low[k] -= self.reach[k];
                self.high[k] += self.reach[k];
            }
        }
        let is_thin = self.check_count(pbc, cutoff)?;
        // Two cells differ by the rounding of the longer one's vectors.
        let skew = reduced.map_or(0.0, |r| r.scale(&given));
        self.set_margins(structure, &cell, skew, cutoff, largest);
        let box_of_atoms = is_thin.then(|| self.box_of_atoms(structure, &cell));
        for (atom, position) in structure.positions.iter().enumerate() {
            let (wrap, ranges) = (self.wraps[atom], self.images(atom, pbc));
            for s0 in ranges[0].0..=ranges[0].1 {
                for s1 in ranges[1].0..=ranges[1].1 {
                    for s2 in ranges[2].0..=ranges[2].1 {
                        let shift = [s0 - wrap[0], s1 - wrap[1], s2 - wrap[2]];
                        let offset = translation(shift, &cell);
                        let place: Vec3 = std::array::from_fn(|k| position[k] + offset[k]);
                        if let Some((low, high)) = &box_of_atoms
                            && (0..3).any(|k| place[k] < low[k] || place[k] > high[k])
                        {
                            continue;
                        }
                        if [s0, s1, s2] == [0; 3] {
                            self.homes.push(index(self.x.len()));
                        }
                        self.x.push(place[0]);
                        self.y.push(place[1]);
                        self.z.push(place[2]);
                        self.atoms.push(index(atom));
                        self.shifts.push(shift);
                    }
                }
            }
            if is_thin {
                let (n_atoms, n_images) = (structure.n_atoms(), self.x.len() - (atom + 1));
                #[allow(clippy::cast_precision_loss)]
                check_images(n_atoms, n_images as f64, most_kept(n_atoms), cutoff)?;
            }
        }
        Ok(())
    }

    /// What all points within the cutoff of an atom lie in, Å.
    fn box_of_atoms(&self, structure: &Structure, cell: &Mat3) -> (Vec3, Vec3) {
        let (mut low, mut high) = ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]);
        let reach = self.maybe_inside.sqrt() * (1.0 + 1e-9);
        for (position, wrap) in structure.positions.iter().zip(&self.wraps) {
            let offset = translation(wrap.map(|w| -w), cell);
            for k in 0..3 {
                let x = position[k] + offset[k];
                low[k] = low[k].min(x - reach);
                high[k] = high[k].max(x + reach);
            }
        }
        (low, high)
    }

    /// Fills `wraps`, `fractional`, and `low` and `high` of the atoms.
    fn wrap(&mut self, structure: &Structure, inverse: &[Vec3; 3]) -> Result<()> {
        (self.low, self.high) = ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]);
        for (atom, r) in structure.positions.iter().enumerate() {
            let mut wrap = [0; 3];
            let mut fractional = times(*r, inverse);
            for k in 0..3 {
                if structure.pbc[k] {
                    let whole = fractional[k].floor();
                    if whole.abs() > MAX_WRAP || whole.is_nan() {
                        return Err(Error::Structure(format!(
                            "atom {atom} at {r:?} lies {whole:e} cells outside the cell, more than {MAX_WRAP:e}"
                        )));
                    }
                    fractional[k] -= whole;
                    #[allow(clippy::cast_possible_truncation)] // bounded just above
                    {
                        wrap[k] = whole as i32;
                    }
                }
                self.low[k] = self.low[k].min(fractional[k]);
                self.high[k] = self.high[k].max(fractional[k]);
            }
            self.wraps.push(wrap);
            self.fractional.push(fractional);
        }
        Ok(())
    }

    /// First and last image of an atom inside `low..high`, along each direction.
    fn images(&self, atom: usize, pbc: [bool; 3]) -> [(i32, i32); 3] {
        let fractional = self.fractional[atom];
        std::array::from_fn(|k| {
            if !pbc[k] {
                return (0, 0);
            }
            // Bounded by `check_count`.
            #[allow(clippy::cast_possible_truncation)]
            ((self.low[k] - fractional[k]).ceil() as i32, (self.high[k] - fractional[k]).floor() as i32)
        })
    }

    /// Refuses, before any image is made, what has far too many neighbours: by the mean over the space that the atoms and what
    /// they reach take up, in Å in directions that do not repeat. IN `low` and `high` of the atoms.
    fn check_density(&self, structure: &Structure, cell: &Mat3, cutoff: f64) -> Result<()> {
        let (pbc, n_atoms) = (structure.pbc, structure.n_atoms());
        if !structure.is_periodic() || n_atoms == 0 {
            return Ok(());
        }
        let content = determinant(&complete_cell(cell, pbc)).abs();
        let room: f64 = (0..3).filter(|&k| !pbc[k]).map(|k| self.high[k] - self.low[k] + 2.0 * cutoff).product();
        #[allow(clippy::cast_precision_loss)]
        let expected = n_atoms as f64 / (content * room) * 4.0 / 3.0 * std::f64::consts::PI * cutoff.powi(3);
        #[allow(clippy::cast_precision_loss)]
        if expected > MAX_NEIGHBORS as f64 {
            let unit = ["Å", "Å²", "Å³"][pbc.iter().filter(|&&periodic| periodic).count() - 1];
            return Err(Error::Structure(format!(
                "a cell of {content:.3e} {unit} with {n_atoms} atoms gives each about {expected:.1e} neighbours within \
                 {cutoff} Å, more than {MAX_NEIGHBORS}: are positions and cell in Å?"
            )));
        }
        Ok(())
    }

    /// Counts the points, in floating point since there may be very many, and makes room for them. Returns whether they are
    /// too many to keep all.
    fn check_count(&mut self, pbc: [bool; 3], cutoff: f64) -> Result<bool> {
        let mut n_points = 0.0;
        for fractional in &self.fractional {
            n_points += (0..3)
                .filter(|&k| pbc[k])
                .map(|k| (self.high[k] - fractional[k]).floor() - (self.low[k] - fractional[k]).ceil() + 1.0)
                .product::<f64>();
        }
        let n_atoms = self.fractional.len();
        #[allow(clippy::cast_precision_loss)]
        let n_images = n_points - n_atoms as f64;
        check_images(n_atoms, n_images, most_kept(n_atoms).max(SOME_IMAGES), cutoff)?;
        if n_images > most_kept(n_atoms) {
            return Ok(true);
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let n_points = n_points as usize;
        self.x.reserve(n_points);
        self.y.reserve(n_points);
        self.z.reserve(n_points);
        self.atoms.reserve(n_points);
        self.shifts.reserve(n_points);
        Ok(false)
    }

    /// Sets the d² between which wrapped coordinates leave open whether a pair is within the cutoff.
    fn set_margins(&mut self, structure: &Structure, cell: &Mat3, skew: f64, cutoff: f64, largest: f64) {
        let mut scale = cutoff + largest;
        if structure.cell.is_some() {
            for k in (0..3).filter(|&k| structure.pbc[k]) {
                let farthest = self.wraps.iter().fold(0.0, |a: f64, wrap| a.max(f64::from(wrap[k]).abs()));
                scale += (farthest + self.high[k].abs().max(self.low[k].abs()) + 1.0) * (norm(cell[k]) + skew);
            }
        }
        let rounding = if structure.is_periodic() { 32.0 * f64::EPSILON * scale } else { 0.0 };
        // Without periodic directions wrapped coordinates are the positions: nothing is open.
        let inner = cutoff - rounding;
        // Nothing is sure where rounding exceeds the cutoff: not even a distance of zero.
        self.surely_inside = if inner > 0.0 { inner * inner } else { -1.0 };
        self.maybe_inside = (cutoff + rounding) * (cutoff + rounding);
    }
}

/// Images that a search may keep, for so many atoms.
#[allow(clippy::cast_precision_loss)]
fn most_kept(n_atoms: usize) -> f64 {
    (IMAGES_PER_ATOM * (n_atoms + MAX_NEIGHBORS) as f64).min(MAX_IMAGES)
}

fn check_images(n_atoms: usize, n_images: f64, most: f64, cutoff: f64) -> Result<()> {
    // With the atoms themselves no more than 32 bits can count. NaN is refused.
    if n_images <= most {
        return Ok(());
    }
    Err(Error::Structure(format!(
        "{n_atoms} atoms have {n_images:.1e} periodic images within {cutoff} Å of the cell, more than {most:.1e}: the cell is \
         too small or too thin for this cutoff; are positions and cell in Å? (a reduced cell of the same lattice has fewer)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_leave_everything_open_where_rounding_exceeds_the_cutoff() {
        // Coordinates wrapped into such a cell are all the same number: a distance of zero says nothing.
        let cell = [[1e17, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]];
        let structure = Structure { cell: Some(cell), pbc: [true, false, false], ..Structure::default() };
        let mut points = Points::default();
        points.set_margins(&structure, &cell, 0.0, 5.0, 10.0);
        assert!(points.surely_inside < 0.0 && points.maybe_inside > 25.0);
    }
}
