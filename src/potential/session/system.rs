//! What a session knows of its system from step to step: positions, pairs within cutoff and skin, and what they led to.

use std::sync::Arc;

use crate::batch::{Contacts, PackedBatch, Preparer, check_images};
use crate::engine::Evaluation;
use crate::engine::Results;
use crate::engine::results::negative;
use crate::error::{Error, Result};
use crate::model::limits::Limits;
use crate::model::{Model, Outside};
use crate::neighbors::{Algorithm, NeighborList, NeighborSearch, translation};
use crate::settings::Want;
use crate::structure::{Mat3, Structure, Vec3, check_cell, complete_cell, displacement, dot, inverse, product, times};
/// What the last step that succeeded found. Apart from what a step works on, which one that fails leaves half done.
pub(crate) struct Last {
    /// The structure's own before the first step.
    pub(super) cell: Option<Mat3>,
    pub(super) atomic_energies: Vec<f64>,
    pub(super) stress: Option<Mat3>,
    pub(super) virial: Option<Mat3>,
    pub(super) atomic_virials: Vec<Mat3>,
    pub(super) outside: Outside,
}

/// What does not depend on the precision.
pub(crate) struct System {
    limits: Arc<Limits>,
    /// Whether atoms are closer now than what the model was trained on.
    pub(super) contacts: Outside,
    /// Energy of all atoms if they were free, eV.
    references: f64,
    cutoff: f64,
    pub(super) skin: f64,
    /// The system at the last search.
    pub(super) reference: Structure,
    pub(super) search: NeighborSearch,
    /// All pairs within cutoff + `list_skin` of the reference.
    pub(super) list: NeighborList,
    /// The skin, or none where what is within it is more than a search can take.
    list_skin: f64,
    /// `shift · cell` of the list's edges, Å, for the cell at hand; empty for molecules.
    offsets: Vec<Vec3>,
    pub(super) offsets_cell: Option<Mat3>,
    /// Number of each edge of the list in the batch.
    numbers: Vec<u32>,
    pub(super) batch: PackedBatch,
    pub(super) want: Want,
    /// Whether `list` is that of `reference`.
    pub(super) is_searched: bool,
    pub(super) n_searches: u64,
}

impl Last {
    pub(super) fn new(structure: &Structure) -> Self {
        Last {
            cell: structure.cell,
            atomic_energies: Vec::with_capacity(structure.n_atoms()),
            stress: None,
            virial: None,
            atomic_virials: Vec::new(),
            outside: Outside::NONE,
        }
    }

    /// Keeps all but the forces; returns the energy, eV.
    pub fn take(&mut self, evaluation: Evaluation) -> f64 {
        let Evaluation { energy, atomic_energies, stress, virial, atomic_virials, outside, .. } = evaluation;
        (self.stress, self.virial, self.outside) = (stress, virial, outside);
        self.atomic_energies = atomic_energies;
        self.atomic_virials = atomic_virials.unwrap_or_default();
        energy
    }
}

impl System {
    /// A system before its first step.
    ///
    /// # Errors
    /// What is wrong with its elements, shapes and periodicity.
    pub(super) fn new(model: &Model, structure: &Structure, skin: f64) -> Result<Self> {
        let mut batch = PackedBatch::default();
        Preparer::new(model).describe(structure, &mut batch)?;
        let references = batch.references.iter().sum();
        Ok(System {
            limits: model.limits().clone(),
            contacts: Outside::default(),
            references,
            cutoff: model.config().cutoff,
            skin,
            reference: structure.clone(),
            search: NeighborSearch::new(),
            list: NeighborList::default(),
            list_skin: 0.0,
            offsets: Vec::new(),
            offsets_cell: None,
            numbers: Vec::new(),
            batch,
            want: Want::FORCES,
            is_searched: false,
            n_searches: 0,
        })
    }

    /// The system at the positions and in the cell at hand.
    pub fn now(&self) -> Structure {
        let positions = self.batch.positions.clone();
        Structure { positions, cell: self.offsets_cell, ..self.reference.clone() }
    }

    /// What steps compute.
    pub fn want(&self) -> Want {
        self.want
    }

    /// Checks what an evaluation led to, and hands it on. Returns the energy.
    pub(super) fn take_results(&self, results: &Results, forces: &mut [Vec3], last: &mut Last) -> Result<f64> {
        let refuse = |what: &str| Err(Error::NonFinite { what: what.into() });
        if !results.energies[0].is_finite() {
            return refuse("the energy");
        }
        if !results.gradients.iter().flatten().all(|x| x.is_finite()) {
            return refuse("a force");
        }
        if !results.strain_gradients.iter().flatten().flatten().all(|x| x.is_finite()) {
            return refuse(if self.want.stress { "the stress" } else { "the virial" });
        }
        let energy = results.energies[0];
        let outside = self.contacts
            | self.limits.energy(energy, self.references, self.batch.n_atoms())?
            | self.limits.forces(&results.gradients)?;
        for (force, gradient) in forces.iter_mut().zip(&results.gradients) {
            *force = gradient.map(|x| 0.0 - x);
        }
        last.atomic_energies.clear();
        last.atomic_energies.extend_from_slice(&results.atomic_energies);
        last.stress = results.stress(&self.batch, 0).filter(|_| self.want.stress);
        last.virial = results.virial(0).filter(|_| self.want.virial);
        last.atomic_virials.clear();
        if self.want.atomic_virials {
            last.atomic_virials.extend(results.virials.iter().map(negative));
        }
        last.outside = outside;
        Ok(energy)
    }

    /// Takes new positions and the cell to go with them. Refuses what an evaluation from nothing would.
    pub(super) fn update(&mut self, positions: &[Vec3], cell: Option<Mat3>) -> Result<()> {
        // The cell at hand has passed; one with a NaN never equals it.
        let (pbc, is_new) = (self.reference.pbc, !self.is_searched || cell != self.offsets_cell);
        if is_new {
            check_images(positions.len(), cell.as_ref(), pbc)?;
        }
        if let Some((atom, r)) = positions.iter().enumerate().find(|(_, r)| !r.iter().all(|x| x.is_finite())) {
            return Err(Error::Structure(format!("position of atom {atom} is not finite: {r:?}")));
        }
        if is_new {
            check_cell(cell.as_ref(), pbc)?;
        }
        if !self.is_searched || self.is_stale(positions, cell.as_ref()) {
            self.search(positions, cell)?;
        }
        if cell != self.offsets_cell {
            self.set_cell(cell);
        }
        self.batch.positions.copy_from_slice(positions);
        Ok(())
    }

    /// Whether a pair within the cutoff may be missing from the list.
    ///
    /// With the cell's deformation F since the search, a pair was at r·F⁻¹ then, up to the two atoms' own
    /// displacements: it is in the list if ‖F⁻¹‖ (cutoff + 2 δ) ≤ cutoff + skin.
    fn is_stale(&self, positions: &[Vec3], cell: Option<&Mat3>) -> bool {
        let (mut deformation, mut stretch) = (None, 1.0);
        if let (true, Some(now), Some(then)) = (self.reference.is_periodic(), cell, &self.reference.cell)
            && now != then
        {
            let (now, then) = (complete_cell(now, self.reference.pbc), complete_cell(then, self.reference.pbc));
            deformation = Some(product(&inverse(&then), &now));
            stretch = norm_bound(&product(&inverse(&now), &then));
        }
        let moved = |(r, from): (&Vec3, &Vec3)| -> f64 {
            let from = deformation.as_ref().map_or(*from, |f| times(*from, f));
            let d: Vec3 = std::array::from_fn(|k| r[k] - from[k]);
            dot(d, d)
        };
        let farthest = positions.iter().zip(&self.reference.positions).map(moved).fold(0.0, f64::max).sqrt();
        if farthest == 0.0 && stretch == 1.0 {
            return false;
        }
        // A little less than the skin, against rounding. NaN, from a cell that cannot be inverted, counts as stale.
        let holds = stretch * (self.cutoff + 2.0 * farthest) < (self.cutoff + self.list_skin) * (1.0 - 1e-12);
        !holds
    }

    fn search(&mut self, positions: &[Vec3], cell: Option<Mat3>) -> Result<()> {
        self.is_searched = false;
        self.reference.positions.copy_from_slice(positions);
        self.reference.cell = cell;
        self.list_skin = self.skin;
        // Positions and cell have passed `update`, all else does not change.
        let (search, auto) = (&mut self.search, Algorithm::Auto);
        if search.search_valid(auto, &self.reference, self.cutoff + self.skin, &mut self.list).is_err() {
            // What an evaluation from nothing says counts: it looks no farther than the cutoff.
            self.list_skin = 0.0;
            search.search_valid(auto, &self.reference, self.cutoff, &mut self.list)?;
        }
        self.set_cell(cell);
        self.numbers.resize(self.list.n_edges(), 0);
        self.is_searched = true;
        self.n_searches += 1;
        Ok(())
    }

    /// Puts the list into a cell that has been checked.
    fn set_cell(&mut self, cell: Option<Mat3>) {
        self.offsets.clear();
        if let (true, Some(cell)) = (self.reference.is_periodic(), cell) {
            self.offsets.extend(self.list.shifts.iter().map(|&s| translation(s, &cell)));
        }
        let volume = Structure { cell, atomic_numbers: vec![], positions: vec![], ..self.reference }.volume();
        self.batch.volumes[0] = volume;
        self.offsets_cell = cell;
    }

    /// Fills the batch with the list's edges that are within the cutoff now.
    pub(super) fn take_edges(&mut self) -> Result<()> {
        let (list, offsets, numbers) = (&self.list, &self.offsets, &mut self.numbers);
        // Out of the way of the edges that are written beside them.
        let positions = std::mem::take(&mut self.batch.positions);
        let taken = Self::edges_within(&positions, self.cutoff, &self.limits, list, offsets, numbers, &mut self.batch);
        self.batch.positions = positions;
        self.contacts = taken?;
        Ok(())
    }

    /// What [`take_edges`](System::take_edges) does; returns whether atoms are closer than what the model was trained on.
    fn edges_within(
        positions: &[Vec3],
        cutoff: f64,
        limits: &Limits,
        list: &NeighborList,
        offsets: &[Vec3],
        numbers: &mut [u32],
        batch: &mut PackedBatch,
    ) -> Result<Outside> {
        let mut edges = batch.start_edges(list.n_edges(), !offsets.is_empty());
        let limit = cutoff * cutoff;
        let mut contacts = Contacts::new(limits);
        for i in 0..positions.len() {
            for e in list.edges_of(i) {
                let j = list.senders[e] as usize;
                let r = displacement(&positions[i], &positions[j], offsets.get(e));
                let square = dot(r, r);
                if square <= limit {
                    if square < contacts.nearest() {
                        contacts.look([i, j], edges.rows([i, j]), square)?;
                    }
                    numbers[e] = edges.push(list.senders[e], list.reverse_edge[e], offsets.get(e));
                } else {
                    numbers[e] = u32::MAX;
                }
            }
            edges.close_row();
        }
        // Both edges of a pair have the same length, so neither is there without the other.
        edges.renumber_reverse(numbers);
        contacts.outside()
    }
}

/// A bound of the spectral norm, exactly one for the identity: √(‖m‖₁ ‖m‖∞).
fn norm_bound(m: &Mat3) -> f64 {
    let rows = m.iter().map(|row| row.iter().map(|x| x.abs()).sum::<f64>()).fold(0.0, f64::max);
    let columns = (0..3).map(|k| m.iter().map(|row| row[k].abs()).sum::<f64>()).fold(0.0, f64::max);
    (rows * columns).sqrt()
}
