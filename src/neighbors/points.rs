//! The atoms, wrapped into the cell, and the images of them that lie near enough to matter.

use super::reduce::Reduced;
use super::{MAX_NEIGHBORS, index, translation};
use crate::error::{Error, Result};
use crate::structure::{Mat3, Structure, Vec3, complete_cell, inverse, norm};

/// Most images of one search: 3 GB of them. Only cells far smaller than the cutoff, or far too thin, have more.
const MAX_IMAGES: f64 = (1u32 << 26) as f64;

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
        if let Some(volume) = structure.volume() {
            #[allow(clippy::cast_precision_loss)]
            let expected = structure.n_atoms() as f64 / volume * 4.0 / 3.0 * std::f64::consts::PI * cutoff.powi(3);
            #[allow(clippy::cast_precision_loss)]
            if expected > MAX_NEIGHBORS as f64 {
                return Err(Error::Structure(format!(
                    "a cell of {volume:.3e} Å³ with {} atoms gives each about {expected:.1e} neighbours within {cutoff} Å, \
                     more than {MAX_NEIGHBORS}: are positions and cell in Å?",
                    structure.n_atoms()
                )));
            }
        }
        let largest = structure.positions.iter().flatten().fold(0.0, |a: f64, x| a.max(x.abs()));
        self.wrap(structure, &inverse)?;
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
        self.check_count(pbc, cutoff)?;
        // Two cells differ by the rounding of the longer one's vectors.
        let skew = reduced.map_or(0.0, |r| r.scale(&given));
        self.set_margins(structure, &cell, skew, cutoff, largest);
        for (atom, position) in structure.positions.iter().enumerate() {
            let (wrap, ranges) = (self.wraps[atom], self.images(atom, pbc));
            for s0 in ranges[0].0..=ranges[0].1 {
                for s1 in ranges[1].0..=ranges[1].1 {
                    for s2 in ranges[2].0..=ranges[2].1 {
                        if [s0, s1, s2] == [0; 3] {
                            self.homes.push(index(self.x.len()));
                        }
                        let shift = [s0 - wrap[0], s1 - wrap[1], s2 - wrap[2]];
                        let offset = translation(shift, &cell);
                        self.x.push(position[0] + offset[0]);
                        self.y.push(position[1] + offset[1]);
                        self.z.push(position[2] + offset[2]);
                        self.atoms.push(index(atom));
                        self.shifts.push(shift);
                    }
                }
            }
        }
        Ok(())
    }

    /// Fills `wraps`, `fractional`, and `low` and `high` of the atoms.
    fn wrap(&mut self, structure: &Structure, inverse: &[Vec3; 3]) -> Result<()> {
        (self.low, self.high) = ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]);
        for (atom, r) in structure.positions.iter().enumerate() {
            let mut wrap = [0; 3];
            let mut fractional: Vec3 =
                std::array::from_fn(|k| r[0] * inverse[0][k] + r[1] * inverse[1][k] + r[2] * inverse[2][k]);
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

    /// Counts the points, in floating point since there may be very many, and makes room for them.
    fn check_count(&mut self, pbc: [bool; 3], cutoff: f64) -> Result<()> {
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
        if n_images > MAX_IMAGES || n_points > f64::from(u32::MAX) {
            return Err(Error::Structure(format!(
                "{n_atoms} atoms have {n_images:.1e} periodic images within {cutoff} Å of the cell, more than \
                 {MAX_IMAGES:.1e}: the cell is too small or too thin for this cutoff; are positions and cell in Å?"
            )));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let n_points = n_points as usize;
        self.x.reserve(n_points);
        self.y.reserve(n_points);
        self.z.reserve(n_points);
        self.atoms.reserve(n_points);
        self.shifts.reserve(n_points);
        Ok(())
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
        let inner = (cutoff - rounding).max(0.0);
        self.surely_inside = inner * inner;
        self.maybe_inside = (cutoff + rounding) * (cutoff + rounding);
    }
}
