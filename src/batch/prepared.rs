//! A structure that is ready to be put into batches.

use crate::error::{Error, Result};
use crate::model::limits::Outside;
use crate::neighbors::NeighborList;
use crate::structure::Vec3;

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

/// Refuses edges that are not those of so many atoms.
///
/// # Errors
/// `Error::Usage`.
pub(crate) fn check_edges(edge_ptr: &[u32], senders: &[u32], reverse_edge: &[u32], n_atoms: usize) -> Result<()> {
    let n_edges = senders.len();
    // A batch that never had a structure has no edges to begin.
    let rows = edge_ptr.len() == n_atoms + 1 || (n_atoms == 0 && edge_ptr.is_empty());
    let rising = edge_ptr.first().is_none_or(|&first| first == 0) && edge_ptr.is_sorted();
    let ends = edge_ptr.last().is_none_or(|&last| last as usize == n_edges) && reverse_edge.len() == n_edges;
    let inside = |of: &[u32], n: usize| of.is_empty() || (of.iter().fold(0, |most, &x| x.max(most)) as usize) < n;
    match rows && rising && ends && inside(senders, n_atoms) && inside(reverse_edge, n_edges) {
        true => Ok(()),
        false => Err(Error::Usage("the edges are not those of the atoms".into())),
    }
}
