//! Batches: several structures with their edges in one set of arrays.

mod check;

use std::ops::Range;
use std::sync::Arc;

use crate::cpu::geometry::Edges;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::check_charge;
use crate::model::limits::{Contact, Limits, Outside};
use crate::neighbors::{NeighborList, NeighborSearch, translation};
use crate::ops::Topology;
use crate::structure::{Mat3, Structure, Vec3, dot, norm};
pub(crate) use check::{check, check_edges};

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

/// One structure, checked against a model, with its edges.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    /// Row of the embedding of each atom.
    pub species: Vec<u16>,
    /// Energy of each free atom, eV.
    pub references: Vec<f64>,
    /// Positions, Å.
    pub positions: Vec<Vec3>,
    /// Edges, sorted by receiver.
    pub edges: NeighborList,
    /// `shift · cell` of each edge, Å.
    pub offsets: Vec<Vec3>,
    /// Volume where stress is defined, Å³.
    pub volume: Option<f64>,
    /// Whether atoms are closer than what the model was trained on.
    pub outside: Outside,
}

/// Turns structures into [`Prepared`] ones; keeps the search's buffers.
pub struct Preparer {
    species: [Option<u16>; 256],
    references: [f64; 256],
    supported: Vec<u8>,
    charge: i32,
    cutoff: f64,
    limits: Arc<Limits>,
    search: NeighborSearch,
}

impl std::fmt::Debug for Preparer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preparer")
            .field("supported", &self.supported)
            .field("cutoff", &self.cutoff)
            .finish_non_exhaustive()
    }
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
            species: model.species_table(),
            references,
            supported: config.species.clone(),
            charge: config.charge,
            cutoff: config.cutoff,
            limits: model.limits().clone(),
            search: NeighborSearch::new(),
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
        self.charge(structure)?;
        check_images(structure.n_atoms(), structure.cell.as_ref(), structure.pbc)?;
        // The search validates the structure, so that nothing below needs to.
        self.search.search(structure, self.cutoff, edges)?;
        self.species(&structure.atomic_numbers, species)?;
        self.references(&structure.atomic_numbers, references);
        positions.clone_from(&structure.positions);
        offsets.clear();
        match structure.cell.filter(|_| structure.pbc.contains(&true)) {
            Some(cell) => offsets.extend(edges.shifts.iter().map(|&s| translation(s, &cell))),
            None => offsets.resize(edges.n_edges(), [0.0; 3]),
        }
        let mut contacts = Contacts::new(&self.limits);
        for (e, offset) in offsets.iter().enumerate() {
            let (i, j) = (edges.receivers[e] as usize, edges.senders[e] as usize);
            let r: Vec3 = std::array::from_fn(|k| positions[j][k] - positions[i][k] + offset[k]);
            // Most edges are longer than what is close for any pair.
            let square = dot(r, r);
            if square < contacts.nearest() {
                contacts.look([i, j], [species[i], species[j]], square)?;
            }
        }
        *outside = contacts.outside()?;
        *volume = structure.volume();
        Ok(())
    }

    /// Checks a structure without periodicity, whose neighbours are searched elsewhere. After an error the contents mean nothing.
    ///
    /// # Errors
    /// `Error::Structure` and `Error::Shape` (see [`Structure::validate`]), `Error::UnknownElement`, `Error::ChargeOrSpin`.
    pub fn prepare_atoms(&self, structure: &Structure, prepared: &mut Prepared) -> Result<()> {
        self.charge(structure)?;
        structure.validate()?;
        self.species(&structure.atomic_numbers, &mut prepared.species)?;
        self.references(&structure.atomic_numbers, &mut prepared.references);
        prepared.positions.clone_from(&structure.positions);
        (prepared.volume, prepared.outside) = (None, Outside::NONE);
        Ok(())
    }

    /// Fills `batch` with the atoms of a valid structure, without edges.
    ///
    /// # Errors
    /// `Error::UnknownElement`, `Error::ChargeOrSpin`.
    pub(crate) fn describe(&self, structure: &Structure, batch: &mut PackedBatch) -> Result<()> {
        self.charge(structure)?;
        batch.clear();
        let n_atoms = structure.n_atoms();
        self.species(&structure.atomic_numbers, &mut batch.species)?;
        self.references(&structure.atomic_numbers, &mut batch.references);
        batch.positions.extend_from_slice(&structure.positions);
        batch.atom_ptr.extend([0, n_atoms]);
        batch.edge_ptr.resize(n_atoms + 1, 0);
        batch.volumes.push(structure.volume());
        Ok(())
    }

    fn charge(&self, structure: &Structure) -> Result<()> {
        structure.charge.map_or(Ok(()), |charge| check_charge(charge.into(), self.charge))
    }

    fn species(&self, atomic_numbers: &[u8], species: &mut Vec<u16>) -> Result<()> {
        species.clear();
        for (atom, &z) in atomic_numbers.iter().enumerate() {
            let unknown = || Error::UnknownElement { z, atom, supported: self.supported.clone() };
            species.push(self.species[z as usize].ok_or_else(unknown)?);
        }
        Ok(())
    }

    fn references(&self, atomic_numbers: &[u8], references: &mut Vec<f64>) {
        references.clear();
        references.extend(atomic_numbers.iter().map(|&z| self.references[z as usize]));
    }
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

/// Structures padded to one number of atoms, as batched autograd wants them.
///
/// Atom `a` of structure `s` sits in row `s · rows_per_structure + a`; the rows after a structure's last atom are
/// padding: they have no edges and belong to no structure's energy. Edges are not padded: they are already one flat
/// list.
#[derive(Debug, Clone, Default)]
pub struct PaddedBatch {
    /// Rows that each structure takes.
    pub rows_per_structure: usize,
    /// Rows of each structure's atoms, `[n_structures]`: the mask.
    pub atoms_of: Vec<Range<usize>>,
    /// Row of the embedding, `[n_rows]`; 0 in padding rows.
    pub species: Vec<u16>,
    /// Energy of each free atom, eV, `[n_rows]`.
    pub references: Vec<f64>,
    /// Positions, Å, `[n_rows]`.
    pub positions: Vec<Vec3>,
    /// Edges over rows.
    pub topology: Topology,
    /// `shift · cell`, Å, `[n_edges]`.
    pub offsets: Vec<Vec3>,
    /// Structure of each edge, `[n_edges]`.
    pub structure_of: Vec<u32>,
    /// Volumes where stress is defined, Å³, `[n_structures]`.
    pub volumes: Vec<Option<f64>>,
}

impl PaddedBatch {
    /// Puts structures together, each padded to the largest number of atoms.
    ///
    /// # Errors
    /// `Error::Usage` if the batch has more rows or edges than 32 bits can count.
    pub fn new(structures: &[&Prepared]) -> Result<Self> {
        let width = structures.iter().map(|s| s.species.len()).max().unwrap_or(0).max(1);
        let n_rows = width * structures.len();
        let n_edges: usize = structures.iter().map(|s| s.edges.n_edges()).sum();
        if u32::try_from(n_rows.max(n_edges)).is_err() {
            return Err(Error::Usage(format!(
                "a batch of {n_rows} rows and {n_edges} edges is too large: use a smaller BatchSize"
            )));
        }
        let mut batch = PaddedBatch {
            rows_per_structure: width,
            species: vec![0; n_rows],
            references: vec![0.0; n_rows],
            positions: vec![[0.0; 3]; n_rows],
            ..PaddedBatch::default()
        };
        let topology = &mut batch.topology;
        topology.receivers.reserve(n_edges);
        topology.senders.reserve(n_edges);
        topology.reverse_edge.reserve(n_edges);
        topology.edge_ptr.reserve(n_rows + 1);
        batch.offsets.reserve(n_edges);
        batch.structure_of.reserve(n_edges);
        for (s, structure) in structures.iter().enumerate() {
            let first = s * width;
            let rows = first..first + structure.species.len();
            batch.species[rows.clone()].copy_from_slice(&structure.species);
            batch.references[rows.clone()].copy_from_slice(&structure.references);
            batch.positions[rows.clone()].copy_from_slice(&structure.positions);
            let (row, edge) = (first as u32, topology.receivers.len() as u32);
            let edges = &structure.edges;
            topology.receivers.extend(edges.receivers.iter().map(|i| i + row));
            topology.senders.extend(edges.senders.iter().map(|j| j + row));
            topology.reverse_edge.extend(edges.reverse_edge.iter().map(|e| e + edge));
            topology.edge_ptr.extend(edges.edge_ptr.iter().take(structure.species.len()).map(|e| e + edge));
            let end = topology.receivers.len() as u32;
            topology.edge_ptr.resize(first + width, end);
            batch.offsets.extend_from_slice(&structure.offsets);
            batch.structure_of.resize(end as usize, s as u32);
            batch.volumes.push(structure.volume);
            batch.atoms_of.push(rows);
        }
        let end = batch.topology.receivers.len() as u32;
        batch.topology.edge_ptr.push(end);
        Ok(batch)
    }

    /// Number of structures.
    pub fn n_structures(&self) -> usize {
        self.atoms_of.len()
    }

    /// Number of rows, padding included.
    pub fn n_rows(&self) -> usize {
        self.species.len()
    }
}

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
    offsets: Vec<Vec3>,
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
    /// `Error::Usage` if the batch would have more atoms or edges than 32 bits can count.
    pub fn push(&mut self, structure: &Prepared) -> Result<()> {
        let (first, first_edge) = (self.species.len(), self.senders.len());
        let (n_atoms, n_edges) = (first + structure.species.len(), first_edge + structure.edges.n_edges());
        if u32::try_from(n_atoms.max(n_edges)).is_err() {
            return Err(Error::Usage(format!(
                "a batch of {n_atoms} atoms and {n_edges} edges is too large: use a smaller BatchSize"
            )));
        }
        // The kernels rely on it.
        let inside = |edges: &[u32], n: usize| edges.iter().all(|&e| (e as usize) < n);
        if !inside(&structure.edges.senders, structure.species.len())
            || !inside(&structure.edges.reverse_edge, structure.edges.n_edges())
            || structure.edges.edge_ptr.len() != structure.species.len() + 1
        {
            return Err(Error::Usage("the structure's edges are not those of its atoms".into()));
        }
        self.add_atoms(structure);
        let (row, edge) = (first as u32, first_edge as u32);
        let edges = &structure.edges;
        self.senders.extend(edges.senders.iter().map(|j| j + row));
        self.reverse_edge.extend(edges.reverse_edge.iter().map(|e| e + edge));
        self.edge_ptr.extend(edges.edge_ptr[1..].iter().map(|e| e + edge));
        let periodic = edges.shifts.iter().any(|shift| *shift != [0; 3]);
        if periodic || !self.offsets.is_empty() {
            self.offsets.resize(first_edge, [0.0; 3]);
            self.offsets.extend_from_slice(&structure.offsets);
        }
        Ok(())
    }

    fn add_atoms(&mut self, structure: &Prepared) {
        if self.atom_ptr.is_empty() {
            self.atom_ptr.push(0);
            self.edge_ptr.push(0);
        }
        self.species.extend_from_slice(&structure.species);
        self.references.extend_from_slice(&structure.references);
        self.positions.extend_from_slice(&structure.positions);
        self.volumes.push(structure.volume);
        self.atom_ptr.push(self.species.len());
    }

    /// Appends a structure's atoms alone, for a search of neighbours elsewhere. The batch has no edges then.
    ///
    /// # Errors
    /// `Error::Usage` if the batch would have more atoms than 32 bits can count.
    pub fn push_atoms(&mut self, structure: &Prepared) -> Result<()> {
        let n_atoms = self.species.len() + structure.species.len();
        if u32::try_from(n_atoms).is_err() {
            return Err(Error::Usage(format!("a batch of {n_atoms} atoms is too large: use a smaller BatchSize")));
        }
        self.add_atoms(structure);
        self.edge_ptr.resize(n_atoms + 1, self.senders.len() as u32);
        Ok(())
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

/// Sorts structures by size into batches of about equal size, so that little is padded.
///
/// Structures of one batch differ by at most a quarter in size. Batches hold at most `max_structures`, and rows and
/// edges up to the limits unless one structure alone has more. The result depends on nothing but the arguments.
/// Returns the structures' indices.
pub fn size_buckets(
    sizes: &[(usize, usize)],
    max_structures: usize,
    max_rows: usize,
    max_edges: usize,
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&s| (sizes[s], s));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut edges = 0;
    for s in order {
        let (n_atoms, n_edges) = sizes[s];
        edges += n_edges;
        let fits = batches.last().is_some_and(|batch| {
            let smallest = batch.first().map_or(0, |&first| sizes[first].0);
            batch.len() < max_structures
                && (batch.len() + 1) * n_atoms <= max_rows
                && edges <= max_edges
                && n_atoms <= smallest + smallest / 4 + 2
        });
        match batches.last_mut().filter(|_| fits) {
            Some(batch) => batch.push(s),
            None => {
                batches.push(vec![s]);
                edges = n_edges;
            }
        }
    }
    batches
}
