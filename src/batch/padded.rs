//! Structures padded to one number of atoms.

use std::ops::Range;

use super::Prepared;
use crate::error::{Error, Result};
use crate::ops::Topology;
use crate::structure::Vec3;

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
