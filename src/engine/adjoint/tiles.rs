//! How the atoms of a batch are cut.

use std::ops::Range;

use crate::batch::PackedBatch;

/// Atoms that a thread carries through a layer at a time, at most.
const TILE_ATOMS: usize = 64;

/// Atoms of a tile: tiles enough for all threads, and none larger than the cache; a small batch is one tile.
pub(super) fn tile_size(n_atoms: usize, n_threads: usize) -> usize {
    match n_threads {
        1 if n_atoms <= 2 * TILE_ATOMS => n_atoms,
        1 => TILE_ATOMS,
        _ => n_atoms.div_ceil(n_threads).min(TILE_ATOMS),
    }
}

/// Tiles, each the work of one thread in one stage, and the groups of atoms in them whose filters are evaluated together.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub tiles: Vec<Tile>,
    pub groups: Vec<Range<usize>>,
}

#[derive(Debug, Clone)]
pub(super) struct Tile {
    pub atoms: Range<usize>,
    pub groups: Range<usize>,
}

/// Edges of a group at most, unless an atom has more: their filters stay in the cache.
pub(super) const EDGES_PER_GROUP: usize = 2048;

/// Edges of a group of several structures at most.
const FEW_EDGES: usize = 1280;

impl Partition {
    /// Cuts the atoms of a batch into tiles of about `tile` atoms.
    pub fn fill(&mut self, batch: &PackedBatch, tile: usize) {
        self.tiles.clear();
        self.groups.clear();
        let (n_atoms, edges) = (batch.n_atoms(), batch.edges());
        let n_tiles = n_atoms.div_ceil(tile.max(1));
        let mut s = 0;
        for t in 0..n_tiles {
            let atoms = n_atoms * t / n_tiles..n_atoms * (t + 1) / n_tiles;
            let first_group = self.groups.len();
            let mut start = atoms.start;
            // Structures stay whole where they can: a pair inside a group is evaluated once.
            while s < batch.n_structures() && batch.atoms_of(s).start < atoms.end {
                let piece = batch.atoms_of(s).start.max(atoms.start)..batch.atoms_of(s).end.min(atoms.end);
                if piece.start > start && edges.of_all(&(start..piece.end)).len() > FEW_EDGES {
                    self.groups.push(start..piece.start);
                    start = piece.start;
                }
                for i in piece.clone() {
                    if i > start && edges.of_all(&(start..i + 1)).len() > EDGES_PER_GROUP {
                        self.groups.push(start..i);
                        start = i;
                    }
                }
                if batch.atoms_of(s).end > atoms.end {
                    break;
                }
                s += 1;
            }
            self.groups.push(start..atoms.end);
            self.tiles.push(Tile { atoms, groups: first_group..self.groups.len() });
        }
    }
}
