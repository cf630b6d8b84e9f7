//! Molecules whose atoms each have 18 neighbours, all in the same molecule.

/// Å.
pub const CUTOFF: f64 = 5.0;
pub const N_RBF: usize = 20;
/// Neighbours on either side of an atom.
const REACH: usize = 9;

pub struct Workload {
    pub receivers: Vec<u32>,
    pub senders: Vec<u32>,
    pub edge_ptr: Vec<u32>,
    pub reverse_edge: Vec<u32>,
    /// `[n_atoms, 3]`, Å.
    pub positions: Vec<f64>,
    /// `[n_edges]`, Å, within the cutoff.
    pub distances: Vec<f32>,
    /// First atom of each molecule and one past its last.
    pub atoms_of: Vec<u32>,
}

impl Workload {
    /// Molecules of `size` atoms, more than 18, each atom beside the nine before and the nine behind it on a ring.
    pub fn new(n_molecules: usize, size: usize) -> Self {
        let n_atoms = n_molecules * size;
        let neighbours = |i: usize| -> Vec<usize> {
            let (first, at) = (i / size * size, i % size);
            let mut found: Vec<usize> =
                (1..=REACH).flat_map(|k| [(at + k) % size, (at + size - k) % size]).map(|a| first + a).collect();
            found.sort_unstable();
            found
        };
        let lists: Vec<Vec<usize>> = (0..n_atoms).map(neighbours).collect();
        let edge = |i: usize, j: usize| (i * 2 * REACH + lists[i].partition_point(|&k| k < j)) as u32;
        let pairs = || lists.iter().enumerate().flat_map(|(i, list)| list.iter().map(move |&j| (i, j)));
        let n_edges = n_atoms * 2 * REACH;
        Workload {
            receivers: pairs().map(|(i, _)| i as u32).collect(),
            senders: pairs().map(|(_, j)| j as u32).collect(),
            edge_ptr: (0..=n_atoms).map(|i| (i * 2 * REACH) as u32).collect(),
            reverse_edge: pairs().map(|(i, j)| edge(j, i)).collect(),
            positions: (0..3 * n_atoms).map(|k| (k * 7919 % 1009) as f64 * 0.005).collect(),
            distances: (0..n_edges).map(|e| 0.9 + 4.0 * ((e * 7919) % 1009) as f32 / 1009.0).collect(),
            atoms_of: (0..n_molecules).flat_map(|m| [(m * size) as u32, ((m + 1) * size) as u32]).collect(),
        }
    }

    pub fn n_atoms(&self) -> usize {
        self.edge_ptr.len() - 1
    }

    pub fn n_edges(&self) -> usize {
        self.senders.len()
    }
}
