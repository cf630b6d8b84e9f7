//! Whether a batch is one that a model can be evaluated with: parts of a batch may come from anywhere.

use super::PackedBatch;
use crate::error::{Error, Result};

/// Refuses what would be read beyond its arrays; edges only where they are the batch's own.
///
/// # Errors
/// `Error::Usage`.
pub(crate) fn check(batch: &PackedBatch, n_species: usize, has_edges: bool) -> Result<()> {
    let n_atoms = batch.n_atoms();
    let lengths = [batch.positions.len(), batch.references.len()];
    // The largest, in vectors.
    let rows = batch.species.iter().fold(0, |most, &s| s.max(most));
    if lengths != [n_atoms; 2] || (n_atoms > 0 && usize::from(rows) >= n_species) {
        return Err(Error::Usage("the batch was prepared for another model".into()));
    }
    if has_edges {
        let edges = batch.edges();
        let n_offsets = edges.offsets.len();
        check_edges(edges.edge_ptr, edges.senders, edges.reverse_edge, n_atoms)?;
        if n_offsets != 0 && n_offsets != batch.n_edges() {
            return Err(Error::Usage("the batch's edges do not fit together".into()));
        }
    }
    Ok(())
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
