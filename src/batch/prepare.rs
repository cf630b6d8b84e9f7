//! A structure on its way from its owner to a batch.

use std::sync::Arc;

use super::contacts::{check_images, look_through};
use super::{PackedBatch, Prepared};
use crate::clock::{Component, enter};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::check_charge;
use crate::model::limits::{Limits, Outside};
use crate::neighbors::{NeighborList, NeighborSearch, translation};
use crate::structure::{Structure, Vec3};

/// Checks structures, finds their edges, and puts them into batches; keeps the search's buffers.
pub struct Preparer {
    elements: Elements,
    charge: i32,
    cutoff: f64,
    limits: Arc<Limits>,
    search: NeighborSearch,
    /// Edges of the structure at hand.
    list: NeighborList,
}

impl std::fmt::Debug for Preparer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preparer")
            .field("supported", &self.elements.supported)
            .field("cutoff", &self.cutoff)
            .finish_non_exhaustive()
    }
}

/// What a model knows of each atomic number.
struct Elements {
    rows: [Option<u16>; 256],
    references: [f64; 256],
    supported: Vec<u8>,
}

impl Preparer {
    /// For structures to be evaluated with `model`.
    pub fn new(model: &Model) -> Self {
        let config = model.config();
        let mut references = [0.0; 256];
        for (&z, &energy) in &config.atomic_energies {
            references[z as usize] = energy;
        }
        Preparer {
            elements: Elements { rows: model.species_table(), references, supported: config.species.clone() },
            charge: config.charge,
            cutoff: config.cutoff,
            limits: model.limits().clone(),
            search: NeighborSearch::new(),
            list: NeighborList::default(),
        }
    }

    /// Checks a structure and finds its edges.
    ///
    /// # Errors
    /// `Error::Structure` and `Error::Shape` (see [`Structure::validate`]), `Error::UnknownElement`, `Error::Overlap`,
    /// `Error::OutOfRange`, `Error::ChargeOrSpin`.
    pub fn prepare(&mut self, structure: &Structure) -> Result<Prepared> {
        let mut prepared = Prepared::default();
        self.prepare_into(structure, &mut prepared)?;
        Ok(prepared)
    }

    /// As [`Preparer::prepare`], into memory that is there already. After an error the contents mean nothing.
    ///
    /// # Errors
    /// Those of [`Preparer::prepare`].
    pub fn prepare_into(&mut self, structure: &Structure, prepared: &mut Prepared) -> Result<()> {
        let Prepared { species, references, positions, edges, offsets, volume, outside } = prepared;
        self.check(structure)?;
        self.search.search(structure, self.cutoff, edges)?;
        species.clear();
        references.clear();
        offsets.clear();
        self.elements.append(&structure.atomic_numbers, species, references)?;
        append_offsets(structure, edges, offsets);
        *outside = look_through(&self.limits, edges, &structure.positions, offsets, species)?;
        positions.clone_from(&structure.positions);
        *volume = structure.volume();
        Ok(())
    }

    /// Checks a structure, finds its edges and appends it to a batch, which stays as it was where that fails. Returns whether
    /// atoms are closer than what the model was trained on.
    ///
    /// # Errors
    /// Those of [`Preparer::prepare`]; `Error::Usage` if the batch would have more atoms or edges than 32 bits can count.
    pub fn pack(&mut self, structure: &Structure, batch: &mut PackedBatch) -> Result<Outside> {
        enter(Component::NeighborSearch);
        self.check(structure)?;
        self.search.search(structure, self.cutoff, &mut self.list)?;
        enter(Component::Batch);
        let Preparer { elements, limits, list, .. } = self;
        let n_atoms = structure.n_atoms();
        batch.append(|batch| {
            batch.check_size(n_atoms, list.n_edges())?;
            let first = batch.n_atoms();
            elements.append(&structure.atomic_numbers, &mut batch.species, &mut batch.references)?;
            if batch.begin_offsets(list) {
                append_offsets(structure, list, &mut batch.offsets);
            }
            let rows = &batch.species[first..];
            let outside = look_through(limits, list, &structure.positions, batch.new_offsets(), rows)?;
            batch.push_edges(list, n_atoms);
            batch.close(&structure.positions, structure.volume());
            Ok(outside)
        })
    }

    /// Checks a structure whose neighbours are searched elsewhere, and appends its atoms to a batch, which
    /// stays as it was where that fails.
    ///
    /// # Errors
    /// `Error::Structure` and `Error::Shape` (see [`Structure::validate`]), `Error::UnknownElement`, `Error::ChargeOrSpin`;
    /// `Error::Usage` if the batch would have more atoms than 32 bits can count.
    pub fn pack_atoms(&self, structure: &Structure, batch: &mut PackedBatch) -> Result<()> {
        self.check_charge(structure)?;
        structure.validate()?;
        batch.append(|batch| {
            batch.check_size(structure.n_atoms(), 0)?;
            self.elements.append(&structure.atomic_numbers, &mut batch.species, &mut batch.references)?;
            batch.push_no_edges();
            batch.close(&structure.positions, structure.volume());
            Ok(())
        })
    }

    /// Whether atoms are closer than what the model was trained on; for a structure whose neighbours were searched elsewhere.
    ///
    /// # Errors
    /// Those of [`Preparer::prepare`].
    pub(crate) fn contacts(&mut self, structure: &Structure) -> Result<Outside> {
        self.pack(structure, &mut PackedBatch::default())
    }

    /// Frees what the search of a large structure took.
    pub(crate) fn forget(&mut self) {
        self.list = NeighborList::default();
    }

    /// Fills `batch` with the atoms of a structure, without edges.
    ///
    /// # Errors
    /// Those of [`Preparer::pack_atoms`].
    pub(crate) fn describe(&self, structure: &Structure, batch: &mut PackedBatch) -> Result<()> {
        batch.clear();
        self.pack_atoms(structure, batch)
    }

    /// What is seen without looking at positions.
    fn check(&self, structure: &Structure) -> Result<()> {
        self.check_charge(structure)?;
        check_images(structure.n_atoms(), structure.cell.as_ref(), structure.pbc)
    }

    fn check_charge(&self, structure: &Structure) -> Result<()> {
        structure.charge.map_or(Ok(()), |charge| check_charge(charge.into(), self.charge))
    }
}

impl Elements {
    /// Appends rows of the embedding, and energies of free atoms, eV.
    fn append(&self, atomic_numbers: &[u8], rows: &mut Vec<u16>, references: &mut Vec<f64>) -> Result<()> {
        for (atom, &z) in atomic_numbers.iter().enumerate() {
            let unknown = || Error::UnknownElement { z, atom, supported: self.supported.clone() };
            rows.push(self.rows[z as usize].ok_or_else(unknown)?);
        }
        references.extend(atomic_numbers.iter().map(|&z| self.references[z as usize]));
        Ok(())
    }
}

/// Appends `shift · cell` of each edge, Å.
fn append_offsets(structure: &Structure, list: &NeighborList, offsets: &mut Vec<Vec3>) {
    match structure.cell.filter(|_| structure.is_periodic()) {
        Some(cell) => offsets.extend(list.shifts.iter().map(|&shift| translation(shift, &cell))),
        None => offsets.resize(offsets.len() + list.n_edges(), [0.0; 3]),
    }
}
