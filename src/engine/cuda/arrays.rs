//! Where a batch's arrays stand in the memory of the device.

use crate::cuda::Address;

/// Hands out places one behind the other.
#[derive(Debug, Default)]
pub(super) struct Places {
    end: usize,
}

impl Places {
    /// Room for `n` elements of so many bytes; offset of the first.
    pub fn take(&mut self, n: usize, bytes: usize) -> usize {
        let place = self.end;
        self.end += (n * bytes).next_multiple_of(256);
        place
    }

    /// Bytes handed out.
    pub fn n_bytes(&self) -> usize {
        self.end
    }
}

/// Sizes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub n_structures: usize,
    pub n_atoms: usize,
    /// Of the largest structure.
    pub max_atoms: usize,
    /// Edges, or as many as there can be.
    pub n_edges: usize,
    /// Whether edges come from the host.
    pub edges_given: bool,
    /// Whether they have offsets.
    pub periodic: bool,
    /// Whether they are those of a list, which has a cell.
    pub listed: bool,
    /// Whether virials are asked for.
    pub virials: bool,
}

/// Offsets of all arrays, bytes. What comes from the host stands first, what goes there next, with `close` in both.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    pub positions: usize,
    pub cell: usize,
    pub offsets: usize,
    pub atom_ptr: usize,
    pub structure_of: usize,
    pub species: usize,
    pub edge_ptr: usize,
    pub senders: usize,
    pub reverse_edge: usize,
    pub close: usize,
    /// Bytes that come from the host, from the first on.
    pub n_in: usize,
    pub gradients: usize,
    pub virials: usize,
    pub outputs: usize,
    /// End of what goes to the host, which begins with `close`.
    pub out_end: usize,
    pub counts: usize,
    pub higher: usize,
    pub pair_ptr: usize,
    pub pairs: usize,
    pub geometry: usize,
    pub cotangents: usize,
    pub scalars: usize,
    pub moved: usize,
    pub grad_scalars: usize,
    pub grad_vectors: usize,
    pub grad_contexts: usize,
    pub layers: Vec<LayerArrays>,
    pub n_bytes: usize,
}

/// What a layer keeps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LayerArrays {
    pub mixed: usize,
    pub slopes: usize,
    pub gates: usize,
    pub vectors: usize,
    pub context_slopes: usize,
    pub contexts: usize,
}

impl Layout {
    /// For a batch of a model with `n` features and so many layers, whose messages take `tiles` tiles of features, in
    /// elements of `real` bytes.
    pub fn new(s: &Sizes, n: usize, n_layers: usize, tiles: usize, real: usize) -> Self {
        let mut p = Places::default();
        let (atoms, edges) = (s.n_atoms, s.n_edges);
        let mut out = Layout {
            positions: p.take(3 * atoms, 8),
            cell: p.take(if s.listed { 9 } else { 0 }, 8),
            offsets: p.take(if s.periodic { 3 * edges } else { 0 }, 8),
            atom_ptr: p.take(s.n_structures + 1, 4),
            structure_of: p.take(atoms, 4),
            species: p.take(atoms, 4),
            ..Layout::default()
        };
        let place_edges = |p: &mut Places, out: &mut Layout| {
            out.edge_ptr = p.take(atoms + 1, 4);
            out.senders = p.take(edges, 4);
            out.reverse_edge = p.take(edges, 4);
        };
        if s.edges_given {
            place_edges(&mut p, &mut out);
        }
        out.close = p.take(s.n_structures, 4);
        out.n_in = p.n_bytes();
        out.gradients = p.take(3 * atoms, 8);
        out.virials = p.take(if s.virials { 9 * atoms } else { 0 }, 8);
        out.outputs = p.take(atoms, real);
        out.out_end = p.n_bytes();
        if !s.edges_given {
            place_edges(&mut p, &mut out);
            out.counts = p.take(atoms, 4);
            out.higher = p.take(atoms, 4);
            out.pair_ptr = p.take(atoms + 1, 4);
            // Two numbers for two edges; of a list, a number for each of its edges.
            out.pairs = p.take(edges, 4);
        }
        out.geometry = p.take(4 * edges, real);
        out.cotangents = p.take(tiles * 4 * edges, real);
        let mut rows = |width: usize| p.take(atoms * width * n, real);
        out.scalars = rows(1);
        // What a message leaves for the update, and what the next layer's message leaves for the update's VJP.
        out.moved = rows(3);
        out.grad_scalars = rows(1);
        out.grad_vectors = rows(3);
        out.grad_contexts = rows(3);
        out.layers = (0..n_layers)
            .map(|l| {
                let kept = |width| if l + 1 < n_layers { width } else { 0 };
                LayerArrays {
                    mixed: rows(6),
                    slopes: rows(1),
                    gates: rows(2),
                    vectors: rows(kept(3)),
                    context_slopes: rows(kept(1)),
                    contexts: rows(kept(3)),
                }
            })
            .collect();
        out.n_bytes = p.n_bytes();
        out
    }
}

/// An address that may be absent.
pub(super) fn at(base: Address, offset: usize) -> Address {
    base + offset as u64
}
