//! Neighbour search: which atoms, and which of their periodic images, lie within the cutoff of each other.
//!
//! Two algorithms give the same list, bit for bit:
//!
//! * *all pairs* compares every atom with every other atom and image. It needs no preparation, so it is faster for
//!   small systems.
//! * *linked cells* puts atoms and images into bins and compares every atom with the bins around it. Its time is linear
//!   in the number of atoms.
//!
//! Periodic directions are handled by *points*: the atoms, wrapped into the cell, and those of their images that can
//! lie within the cutoff of an atom. A cell smaller than the cutoff is no special case: it only has more points.
//!
//! # Why every edge has a reverse edge
//!
//! An edge exists if `d² ≤ cutoff²`, where d is the length of `r_ij = (positions[j] - positions[i]) + shift·cell`,
//! computed in f64 and in this order of operations ([`displacement`]). Rounding to nearest is symmetric about zero, so
//! the reverse edge has exactly the components `-r_ij` and the same d²: both directions always get the same answer. The
//! wrapped coordinates of the points only tell what is clearly inside or outside; pairs within their rounding error of
//! the cutoff are decided by the formula.

mod all_pairs;
mod linked_cells;
mod points;

use std::ops::Range;

use crate::error::{Error, Result};
use crate::structure::reduce::{self, Reduced};
use crate::structure::{self, Mat3, Structure, Vec3, dot, times};
use linked_cells::Grid;
use points::Points;

/// Most neighbours that an atom may have. In diamond, the densest ordinary matter, an atom has so many within 24 Å.
/// More neighbours come from a wrong unit or from atoms on top of each other, and would exhaust the memory.
pub const MAX_NEIGHBORS: usize = 10_000;

/// Molecules of up to this many atoms are searched pair by pair (measured: `benchmarks/results/neighbors.md`).
const ALL_PAIRS_ATOMS: usize = 400;

/// Periodic systems of up to this many points are searched pair by pair (measured, as above).
const ALL_PAIRS_POINTS: usize = 700;

/// Directed neighbour pairs (edges) of one structure, sorted by receiver, then sender, then shift.
///
/// Every pair is there twice, once in each direction. With i = `receivers[e]` and j = `senders[e]`, edge e has the
/// displacement `r_ij = positions[j] - positions[i] + shifts[e]·cell`. Shifts refer to the positions as they were
/// given, even where these lie outside the cell.
#[derive(Default, Clone, Debug, PartialEq)]
pub struct NeighborList {
    /// Atom i of each edge, which sums over its neighbours, `[n_edges]`.
    pub receivers: Vec<u32>,
    /// Atom j of each edge, the neighbour, `[n_edges]`.
    pub senders: Vec<u32>,
    /// How many times each lattice vector is added to the sender's position, `[n_edges]`.
    pub shifts: Vec<[i32; 3]>,
    /// The edges of receiver i are `edge_ptr[i]..edge_ptr[i + 1]`; `[n_atoms + 1]`.
    pub edge_ptr: Vec<u32>,
    /// For each edge (i, j, shift) the index of its reverse edge (j, i, -shift), `[n_edges]`.
    pub reverse_edge: Vec<u32>,
}

impl NeighborList {
    /// Number of directed edges.
    pub fn n_edges(&self) -> usize {
        self.senders.len()
    }

    /// Indices of the edges of atom `receiver`; empty for an atom that is not in the list.
    pub fn edges_of(&self, receiver: usize) -> Range<usize> {
        match (self.edge_ptr.get(receiver), self.edge_ptr.get(receiver + 1)) {
            (Some(&first), Some(&end)) => first as usize..end as usize,
            _ => 0..0,
        }
    }

    fn clear(&mut self) {
        self.receivers.clear();
        self.senders.clear();
        self.shifts.clear();
        self.edge_ptr.clear();
        self.edge_ptr.push(0);
        self.reverse_edge.clear();
    }

    /// Ends the row of `receiver`, to which senders and shifts have been appended.
    fn close_row(&mut self, receiver: usize) -> Result<()> {
        let n_edges = self.senders.len();
        let end = u32::try_from(n_edges).map_err(|_| {
            Error::Structure(format!(
                "the first {receiver} atoms have {n_edges} neighbours, more than 2^32 - 1 edges: split the structure"
            ))
        })?;
        self.receivers.resize(n_edges, index(receiver));
        self.edge_ptr.push(end);
        Ok(())
    }

    /// Fills `reverse_edge` in one pass over the edges.
    ///
    /// Receivers are visited in ascending order, so the edges (j, i, ·) of receiver j are met in the order of their
    /// row: a cursor per row finds them. Several images of one pair follow each other; negation reverses their order.
    fn link_reverse_edges(&mut self, cursors: &mut Vec<u32>) {
        let n_atoms = self.edge_ptr.len() - 1;
        cursors.clear();
        cursors.extend_from_slice(&self.edge_ptr[..n_atoms]);
        self.reverse_edge.reserve(self.senders.len());
        for row in self.edge_ptr.windows(2) {
            let senders = &self.senders[row[0] as usize..row[1] as usize];
            let mut k = 0;
            while k < senders.len() {
                let sender = senders[k];
                let images = senders[k..].iter().take_while(|&&other| other == sender).count();
                let cursor = &mut cursors[sender as usize];
                let first = *cursor;
                *cursor += index(images);
                self.reverse_edge.extend((first..*cursor).rev());
                k += images;
            }
        }
    }
}

/// How to search. Both algorithms give the same list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Algorithm {
    /// The faster one for the size of the structure, by measurements.
    #[default]
    Auto,
    /// Compares every atom with every other atom and image.
    AllPairs,
    /// Compares every atom with the atoms and images in the bins around it.
    LinkedCells,
}

/// Searches for neighbours. It keeps its buffers from call to call: once they have grown to the size of the system, a
/// search allocates no memory.
#[derive(Debug, Default)]
pub struct NeighborSearch {
    points: Points,
    grid: Grid,
    row: Vec<u32>,
    cursors: Vec<u32>,
}

impl NeighborSearch {
    /// A search with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Finds all directed pairs of atoms at a distance of at most `cutoff` (Å), periodic images included, and writes
    /// them to `list`. What `list` held before is lost; after an error it has no edges.
    ///
    /// # Errors
    /// `Error::Usage` for a cutoff that is not positive and finite; `Error::Structure` and `Error::Shape` as
    /// [`Structure::validate`]; `Error::Structure` for more than [`MAX_NEIGHBORS`] neighbours of an atom, a cell too
    /// small for the cutoff, atoms too far outside the cell, or more edges than a u32 can count.
    pub fn search(&mut self, structure: &Structure, cutoff: f64, list: &mut NeighborList) -> Result<()> {
        self.search_with(Algorithm::Auto, structure, cutoff, list)
    }

    /// Like [`search`](Self::search), with the given algorithm.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_with(
        &mut self,
        algorithm: Algorithm,
        structure: &Structure,
        cutoff: f64,
        list: &mut NeighborList,
    ) -> Result<()> {
        list.clear();
        structure.validate()?;
        self.search_valid(algorithm, structure, cutoff, list)
    }

    /// As [`search_with`](Self::search_with), for a structure that has been validated.
    pub(crate) fn search_valid(
        &mut self,
        algorithm: Algorithm,
        structure: &Structure,
        cutoff: f64,
        list: &mut NeighborList,
    ) -> Result<()> {
        list.clear();
        let outcome = self.fill(algorithm, structure, cutoff, list);
        if outcome.is_err() {
            list.clear();
        }
        outcome
    }

    fn fill(
        &mut self,
        algorithm: Algorithm,
        structure: &Structure,
        cutoff: f64,
        list: &mut NeighborList,
    ) -> Result<()> {
        if !(cutoff.is_finite() && cutoff > 0.0) {
            return Err(Error::Usage(format!("cutoff is {cutoff} Å, expected a positive number")));
        }
        let n_atoms = structure.n_atoms();
        if u32::try_from(n_atoms).is_err() {
            return Err(Error::Structure(format!("{n_atoms} atoms, more than 2^32 - 1: split the structure")));
        }
        let small = match algorithm {
            Algorithm::AllPairs => true,
            Algorithm::LinkedCells => false,
            Algorithm::Auto => n_atoms <= ALL_PAIRS_ATOMS,
        };
        if small && !structure.is_periodic() {
            all_pairs::search_molecule(structure, cutoff, &mut self.points, &mut self.row, list)?;
        } else {
            let reduced = structure.cell.and_then(|cell| reduce::reduced(&cell, structure.pbc));
            self.points.build(structure, reduced.as_ref(), cutoff)?;
            let all_pairs = match algorithm {
                Algorithm::Auto => self.points.len() <= ALL_PAIRS_POINTS && structure.is_periodic(),
                _ => small,
            };
            let query = Query { structure, cutoff, points: &self.points, reduced };
            if all_pairs {
                all_pairs::search_points(&query, &mut self.row, list)?;
            } else {
                linked_cells::search(&query, &mut self.grid, &mut self.row, list)?;
            }
        }
        list.link_reverse_edges(&mut self.cursors);
        Ok(())
    }
}

/// Neighbour list of one structure: all directed pairs at a distance of at most `cutoff`, Å.
///
/// To search again and again, use [`NeighborSearch`], which keeps its memory.
///
/// ```
/// use mlff::{Structure, neighbor_list};
///
/// let cell = [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]];
/// let polonium = Structure::new(vec![84], vec![[0.0; 3]], Some(cell), [true; 3])?;
/// let list = neighbor_list(&polonium, 3.5)?;
/// for e in list.edges_of(0) {
///     println!("atom {} in cell {:?}", list.senders[e], list.shifts[e]);
/// }
/// assert_eq!(list.n_edges(), 6); // its own nearest images
/// # Ok::<(), mlff::Error>(())
/// ```
///
/// # Errors
/// As [`NeighborSearch::search`].
pub fn neighbor_list(structure: &Structure, cutoff: f64) -> Result<NeighborList> {
    let mut list = NeighborList::default();
    NeighborSearch::new().search(structure, cutoff, &mut list)?;
    Ok(list)
}

/// Displacement of an edge, Å: `(to - from) + shift·cell`. That of the reverse edge is exactly its negative.
pub fn displacement(from: Vec3, to: Vec3, shift: [i32; 3], cell: &Mat3) -> Vec3 {
    structure::displacement(&from, &to, Some(&translation(shift, cell)))
}

/// `shift·cell`, Å.
pub(crate) fn translation(shift: [i32; 3], cell: &Mat3) -> Vec3 {
    times(shift.map(f64::from), cell)
}

/// What one search looks at.
struct Query<'a> {
    structure: &'a Structure,
    cutoff: f64,
    points: &'a Points,
    /// The short vectors that the points are counted in, where the cell is thin.
    reduced: Option<Reduced>,
}

impl Query<'_> {
    /// Appends the edges of `receiver` to the list. IN `row`: ids of points within reach, ascending, without the
    /// atom's own; `farthest`: largest of their d², Å², by wrapped coordinates.
    fn push_row(&self, receiver: usize, row: &[u32], farthest: f64, list: &mut NeighborList) -> Result<()> {
        let points = self.points;
        let wrap = points.wraps[receiver];
        let shift_of = |id: u32| {
            let shift = points.shifts[id as usize];
            [shift[0] + wrap[0], shift[1] + wrap[1], shift[2] + wrap[2]]
        };
        if let Some(reduced) = &self.reduced {
            self.push_reduced(
                receiver,
                row.iter().map(|&id| (points.atoms[id as usize], shift_of(id))),
                reduced,
                list,
            )?;
        } else if farthest <= points.surely_inside {
            list.senders.extend(row.iter().map(|&id| points.atoms[id as usize]));
            list.shifts.extend(row.iter().map(|&id| shift_of(id)));
        } else {
            let cell = self.structure.cell.unwrap_or_default();
            let positions = &self.structure.positions;
            for &id in row {
                let (sender, shift) = (points.atoms[id as usize], shift_of(id));
                let r = displacement(positions[receiver], positions[sender as usize], shift, &cell);
                if dot(r, r) <= self.cutoff * self.cutoff {
                    list.senders.push(sender);
                    list.shifts.push(shift);
                }
            }
        }
        list.close_row(receiver)
    }

    /// As [`push_row`](Self::push_row), for points with shifts of a reduced cell.
    #[cold]
    fn push_reduced(
        &self,
        receiver: usize,
        row: impl Iterator<Item = (u32, [i32; 3])>,
        reduced: &Reduced,
        list: &mut NeighborList,
    ) -> Result<()> {
        let cell = self.structure.cell.unwrap_or_default();
        let positions = &self.structure.positions;
        let first = list.senders.len();
        for (sender, shift) in row {
            let shift = reduced.shift(shift).ok_or_else(|| {
                Error::Structure(format!("atoms {receiver} and {sender} lie too many cells apart for a cell so thin"))
            })?;
            let r = displacement(positions[receiver], positions[sender as usize], shift, &cell);
            if dot(r, r) <= self.cutoff * self.cutoff {
                list.senders.push(sender);
                list.shifts.push(shift);
                // Images of one atom come in another order than by the shifts of the reduced cell.
                let mut k = list.senders.len() - 1;
                while k > first && (list.senders[k], list.shifts[k]) < (list.senders[k - 1], list.shifts[k - 1]) {
                    list.senders.swap(k, k - 1);
                    list.shifts.swap(k, k - 1);
                    k -= 1;
                }
            }
        }
        Ok(())
    }
}

/// Appends to `row` the labels of all coordinates within `sqrt(limit)` of `center`, and returns the largest d² among
/// them, at least `farthest`.
///
/// IN  `x`, `y`, `z` [n], Å; `limit`, Å²; `label(k)` of coordinate k.   OUT `row[*n..]`, made longer where necessary.
#[inline(always)]
fn scan(
    [x, y, z]: [&[f64]; 3],
    center: Vec3,
    limit: f64,
    label: impl Fn(usize) -> u32,
    row: &mut Vec<u32>,
    n: &mut usize,
    mut farthest: f64,
) -> f64 {
    const WIDTH: usize = 8;
    if row.len() < *n + x.len() {
        row.resize(*n + x.len(), 0);
    }
    let found = &mut row[*n..*n + x.len()];
    let mut m = 0;
    let (x_chunks, x_rest) = x.as_chunks::<WIDTH>();
    let (y_chunks, y_rest) = y.as_chunks::<WIDTH>();
    let (z_chunks, z_rest) = z.as_chunks::<WIDTH>();
    // Distances first, which vectorises; then an append without a branch, which would be mispredicted.
    let mut maxima = [farthest; WIDTH];
    for (chunk, ((x, y), z)) in x_chunks.iter().zip(y_chunks).zip(z_chunks).enumerate() {
        let d2: [f64; WIDTH] = std::array::from_fn(|k| square_distance([x[k], y[k], z[k]], center));
        for k in 0..WIDTH {
            maxima[k] = if d2[k] <= limit && d2[k] > maxima[k] { d2[k] } else { maxima[k] };
        }
        for (k, &d2) in d2.iter().enumerate() {
            found[m] = label(chunk * WIDTH + k);
            m += usize::from(d2 <= limit);
        }
    }
    // Comparisons as they stand: `f64::max` would take care of NaN, one element at a time.
    for &maximum in &maxima {
        farthest = if maximum > farthest { maximum } else { farthest };
    }
    let done = x.len() - x_rest.len();
    for (k, ((&x, &y), &z)) in x_rest.iter().zip(y_rest).zip(z_rest).enumerate() {
        let d2 = square_distance([x, y, z], center);
        found[m] = label(done + k);
        if d2 <= limit {
            m += 1;
            farthest = if d2 > farthest { d2 } else { farthest };
        }
    }
    *n += m;
    farthest
}

/// Square of the distance, Å², with the arithmetic of [`displacement`] and [`dot`].
#[inline(always)]
fn square_distance(a: Vec3, b: Vec3) -> f64 {
    let (dx, dy, dz) = (a[0] - b[0], a[1] - b[1], a[2] - b[2]);
    dx * dx + dy * dy + dz * dz
}

fn check_neighbors(atom: usize, n_neighbors: usize, cutoff: f64) -> Result<()> {
    if n_neighbors <= MAX_NEIGHBORS {
        return Ok(());
    }
    Err(Error::Structure(format!(
        "atom {atom} has {n_neighbors} neighbours within {cutoff} Å, more than {MAX_NEIGHBORS}: are positions and cell in Å?"
    )))
}

/// Index as u32; the caller has checked that counts fit.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
fn index(i: usize) -> u32 {
    i as u32
}
