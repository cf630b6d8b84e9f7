//! Structures one after another without padding.

use std::ops::Range;

use super::prepared::{Prepared, check_edges};
use crate::cpu::geometry::Edges;
use crate::error::{Error, Result};
use crate::neighbors::NeighborList;
use crate::structure::Vec3;

/// Structures one after another without padding, as the adjoint engine wants them.
#[derive(Debug, Clone, Default)]
pub struct PackedBatch {
    /// First atom of each structure, and the end, `[n_structures + 1]`.
    atom_ptr: Vec<usize>,
    /// Row of the embedding, `[n_atoms]`.
    pub(crate) species: Vec<u16>,
    /// Energy of each free atom, eV, `[n_atoms]`.
    pub(crate) references: Vec<f64>,
    /// Positions, Å, `[n_atoms]`.
    pub(crate) positions: Vec<Vec3>,
    edge_ptr: Vec<u32>,
    senders: Vec<u32>,
    reverse_edge: Vec<u32>,
    /// `shift · cell`, Å, `[n_edges]`; empty as long as no structure is periodic.
    pub(super) offsets: Vec<Vec3>,
    /// Volumes where stress is defined, Å³, `[n_structures]`.
    pub(crate) volumes: Vec<Option<f64>>,
}

impl PackedBatch {
    /// Removes all structures; keeps the memory.
    pub fn clear(&mut self) {
        self.atom_ptr.clear();
        self.species.clear();
        self.references.clear();
        self.positions.clear();
        self.edge_ptr.clear();
        self.senders.clear();
        self.reverse_edge.clear();
        self.offsets.clear();
        self.volumes.clear();
    }

    /// Appends a structure.
    ///
    /// # Errors
    /// `Error::Usage` if the batch would have more atoms or edges than 32 bits can count, and for edges that are not those of
    /// the structure's atoms.
    pub fn push(&mut self, structure: &Prepared) -> Result<()> {
        let edges = &structure.edges;
        // The kernels rely on it.
        check_edges(&edges.edge_ptr, &edges.senders, &edges.reverse_edge, structure.species.len())?;
        self.append(|batch| {
            batch.check_size(structure.species.len(), edges.n_edges())?;
            if batch.begin_offsets(edges) {
                batch.offsets.extend_from_slice(&structure.offsets);
            }
            batch.push_rows(structure);
            batch.push_edges(edges, structure.species.len());
            batch.close(&structure.positions, structure.volume);
            Ok(())
        })
    }

    /// Appends a structure's atoms alone, for a search of neighbours elsewhere. The batch has no edges then.
    ///
    /// # Errors
    /// `Error::Usage` if the batch would have more atoms than 32 bits can count.
    pub fn push_atoms(&mut self, structure: &Prepared) -> Result<()> {
        self.append(|batch| {
            batch.check_size(structure.species.len(), 0)?;
            batch.push_rows(structure);
            batch.push_no_edges();
            batch.close(&structure.positions, structure.volume);
            Ok(())
        })
    }

    /// Does what appends a structure, and takes back what was written of one that is refused.
    pub(super) fn append<R>(&mut self, append: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        if self.atom_ptr.is_empty() {
            self.atom_ptr.push(0);
            self.edge_ptr.push(0);
        }
        let (n_structures, n_offsets) = (self.n_structures(), self.offsets.len());
        let (n_atoms, n_edges) = (self.atom_ptr[n_structures], self.n_edges());
        let appended = append(self);
        if appended.is_err() {
            self.atom_ptr.truncate(n_structures + 1);
            self.species.truncate(n_atoms);
            self.references.truncate(n_atoms);
            self.positions.truncate(n_atoms);
            self.edge_ptr.truncate(n_atoms + 1);
            self.senders.truncate(n_edges);
            self.reverse_edge.truncate(n_edges);
            self.offsets.truncate(n_offsets);
            self.volumes.truncate(n_structures);
        }
        appended
    }

    /// Refuses more atoms and edges than can be counted.
    pub(super) fn check_size(&self, n_atoms: usize, n_edges: usize) -> Result<()> {
        let (n_atoms, n_edges) = (self.n_atoms() + n_atoms, self.n_edges() + n_edges);
        match u32::try_from(n_atoms.max(n_edges)) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Usage(format!(
                "a batch of {n_atoms} atoms and {n_edges} edges is too large: use a smaller BatchSize"
            ))),
        }
    }

    fn push_rows(&mut self, structure: &Prepared) {
        self.species.extend_from_slice(&structure.species);
        self.references.extend_from_slice(&structure.references);
    }

    /// Whether offsets of the edges to come are to be appended, which is so as soon as a structure has images of atoms.
    pub(super) fn begin_offsets(&mut self, edges: &NeighborList) -> bool {
        let has_offsets = !self.offsets.is_empty() || edges.shifts.iter().any(|shift| *shift != [0; 3]);
        if has_offsets {
            self.offsets.resize(self.senders.len(), [0.0; 3]);
        }
        has_offsets
    }

    /// Offsets of the edges to come; empty where there are none.
    pub(super) fn new_offsets(&self) -> &[Vec3] {
        self.offsets.get(self.senders.len()..).unwrap_or_default()
    }

    /// Appends the edges of so many atoms, the last to have been appended.
    pub(super) fn push_edges(&mut self, edges: &NeighborList, n_atoms: usize) {
        let (row, edge) = ((self.species.len() - n_atoms) as u32, self.senders.len() as u32);
        self.senders.extend(edges.senders.iter().map(|j| j + row));
        self.reverse_edge.extend(edges.reverse_edge.iter().map(|e| e + edge));
        self.edge_ptr.extend(edges.edge_ptr.iter().skip(1).map(|e| e + edge));
    }

    /// The atoms appended last have no edges.
    pub(super) fn push_no_edges(&mut self) {
        self.edge_ptr.resize(self.species.len() + 1, self.senders.len() as u32);
    }

    /// Ends a structure.
    pub(super) fn close(&mut self, positions: &[Vec3], volume: Option<f64>) {
        self.positions.extend_from_slice(positions);
        self.volumes.push(volume);
        self.atom_ptr.push(self.species.len());
    }

    /// Replaces all edges by those that the writer is given, receiver by receiver.
    pub(crate) fn start_edges(&mut self, max_edges: usize, periodic: bool) -> EdgeWriter<'_> {
        self.edge_ptr.clear();
        self.senders.clear();
        self.reverse_edge.clear();
        self.offsets.clear();
        self.edge_ptr.push(0);
        self.senders.reserve(max_edges);
        self.reverse_edge.reserve(max_edges);
        if periodic {
            self.offsets.reserve(max_edges);
        }
        EdgeWriter(self)
    }

    /// Refuses what would be read beyond its arrays, as parts of a batch may come from anywhere; edges only where they are the
    /// batch's own.
    ///
    /// # Errors
    /// `Error::Usage`.
    pub(crate) fn check(&self, n_species: usize, has_edges: bool) -> Result<()> {
        let n_atoms = self.n_atoms();
        let lengths = [self.positions.len(), self.references.len()];
        // The largest, in vectors.
        let rows = self.species.iter().fold(0, |most, &s| s.max(most));
        if lengths != [n_atoms; 2] || (n_atoms > 0 && usize::from(rows) >= n_species) {
            return Err(Error::Usage("the batch was prepared for another model".into()));
        }
        if has_edges {
            let n_offsets = self.offsets.len();
            check_edges(&self.edge_ptr, &self.senders, &self.reverse_edge, n_atoms)?;
            if n_offsets != 0 && n_offsets != self.n_edges() {
                return Err(Error::Usage("the batch's edges do not fit together".into()));
            }
        }
        Ok(())
    }

    /// Number of structures.
    pub fn n_structures(&self) -> usize {
        self.volumes.len()
    }

    /// Number of atoms.
    pub fn n_atoms(&self) -> usize {
        self.species.len()
    }

    /// Number of directed edges.
    pub fn n_edges(&self) -> usize {
        self.senders.len()
    }

    /// Atoms of a structure.
    pub fn atoms_of(&self, structure: usize) -> Range<usize> {
        self.atom_ptr[structure]..self.atom_ptr[structure + 1]
    }

    /// The edges of all structures.
    pub(crate) fn edges(&self) -> Edges<'_> {
        Edges {
            edge_ptr: &self.edge_ptr,
            senders: &self.senders,
            reverse_edge: &self.reverse_edge,
            offsets: &self.offsets,
        }
    }
}

/// Takes the edges of a batch in the order of their receivers.
pub(crate) struct EdgeWriter<'a>(&'a mut PackedBatch);

impl EdgeWriter<'_> {
    /// Appends an edge of the receiver at hand; `reverse` is numbered as the caller likes. Returns the edge's number.
    #[inline(always)]
    pub fn push(&mut self, sender: u32, reverse: u32, offset: Option<&Vec3>) -> u32 {
        let number = self.0.senders.len() as u32;
        self.0.senders.push(sender);
        self.0.reverse_edge.push(reverse);
        self.0.offsets.extend(offset);
        number
    }

    /// Rows of the embedding of two atoms.
    #[inline]
    pub fn rows(&self, atoms: [usize; 2]) -> [u16; 2] {
        atoms.map(|i| self.0.species[i])
    }

    /// Ends the edges of a receiver.
    pub fn close_row(&mut self) {
        self.0.edge_ptr.push(self.0.senders.len() as u32);
    }

    /// Replaces every reverse edge by its number in this batch.
    pub fn renumber_reverse(self, numbers: &[u32]) {
        for reverse in &mut self.0.reverse_edge {
            *reverse = numbers[*reverse as usize];
        }
    }
}
