//! Atoms that are too close to each other.

use crate::error::{Error, Result};
use crate::model::limits::{Contact, Limits, Outside};
use crate::neighbors::NeighborList;
use crate::structure::{Mat3, Vec3, displacement, dot, norm};

/// Atoms closer than this cannot be evaluated by any model, Å.
pub const MIN_DISTANCE: f64 = 0.1;

/// Refuses at once what the search would take long to find: a lattice vector so short that every atom overlaps with its own
/// image.
pub(crate) fn check_images(n_atoms: usize, cell: Option<&Mat3>, pbc: [bool; 3]) -> Result<()> {
    let Some(cell) = cell.filter(|_| n_atoms > 0) else { return Ok(()) };
    for row in (0..3).filter(|&k| pbc[k]).map(|k| cell[k]) {
        let distance = norm(row);
        // One of zero length is no lattice vector: `check_cell` says so.
        if distance > 0.0 && distance < MIN_DISTANCE {
            return Err(Error::Overlap { i: 0, j: 0, distance, minimum: MIN_DISTANCE });
        }
    }
    Ok(())
}

/// Looks for atoms that are too close, edge by edge.
pub(crate) struct Contacts<'a> {
    limits: &'a Limits,
    nearest: f64,
    outside: Outside,
    on_top: Option<([usize; 2], [u16; 2], f64)>,
}

impl<'a> Contacts<'a> {
    pub fn new(limits: &'a Limits) -> Self {
        let nearest = limits.nearest().max(MIN_DISTANCE * MIN_DISTANCE);
        Contacts { limits, nearest, outside: Outside::NONE, on_top: None }
    }

    /// Square of the distance below which to [`look`](Contacts::look), Å².
    #[inline(always)]
    pub fn nearest(&self) -> f64 {
        self.nearest
    }

    /// Takes a pair, its rows of the embedding and its distance's square.
    ///
    /// # Errors
    /// `Error::Overlap`.
    #[inline]
    pub fn look(&mut self, [i, j]: [usize; 2], rows: [u16; 2], square: f64) -> Result<()> {
        if square < MIN_DISTANCE * MIN_DISTANCE {
            return Err(Error::Overlap { i, j, distance: square.sqrt(), minimum: MIN_DISTANCE });
        }
        match self.limits.pair(rows[0], rows[1], square) {
            Contact::Far => {}
            Contact::Close => self.outside |= Outside::CLOSE_CONTACT,
            // The first in the order of the edges; an overlap behind it comes before it.
            Contact::OnTop if self.on_top.is_none() => self.on_top = Some(([i, j], rows, square)),
            Contact::OnTop => {}
        }
        Ok(())
    }

    /// What was found.
    ///
    /// # Errors
    /// `Error::OutOfRange`.
    pub fn outside(self) -> Result<Outside> {
        match self.on_top {
            Some((pair, rows, square)) => Err(self.limits.on_top(pair, rows, square.sqrt())),
            None => Ok(self.outside),
        }
    }
}

/// Looks through the edges of a structure; `offsets` is empty where nothing is periodic, `rows` are those of the embedding.
///
/// # Errors
/// `Error::Overlap`, `Error::OutOfRange`.
pub(super) fn look_through(
    limits: &Limits,
    list: &NeighborList,
    positions: &[Vec3],
    offsets: &[Vec3],
    rows: &[u16],
) -> Result<Outside> {
    let mut contacts = Contacts::new(limits);
    for i in 0..positions.len() {
        for e in list.edges_of(i) {
            let j = list.senders[e] as usize;
            // The pair has been seen from the other side.
            if j < i {
                continue;
            }
            let r = displacement(&positions[i], &positions[j], offsets.get(e));
            // Most edges are longer than what is close for any pair.
            let square = dot(r, r);
            if square < contacts.nearest() {
                contacts.look([i, j], [rows[i], rows[j]], square)?;
            }
        }
    }
    contacts.outside()
}
