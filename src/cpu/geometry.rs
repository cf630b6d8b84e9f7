//! [`edge_geometry`](crate::ops::edge_geometry): distances and directions from positions, and forces from their
//! cotangents.

use std::ops::Range;

use super::lanes::Lanes;
use crate::structure::{Mat3, Vec3, dot};

/// Who sends to whom, sorted by receiver.
#[derive(Debug, Clone, Copy)]
pub struct Edges<'a> {
    /// Edges of receiver i are `edge_ptr[i]..edge_ptr[i + 1]`.
    pub edge_ptr: &'a [u32],
    /// `[n_edges]`.
    pub senders: &'a [u32],
    /// The same pair seen from the sender, `[n_edges]`.
    pub reverse_edge: &'a [u32],
    /// `shift · cell`, Å, `[n_edges]`; empty where nothing is periodic.
    pub offsets: &'a [Vec3],
}

impl Edges<'_> {
    /// Edges that atom `i` receives.
    #[inline(always)]
    pub fn of(&self, i: usize) -> Range<usize> {
        self.edge_ptr[i] as usize..self.edge_ptr[i + 1] as usize
    }

    /// Edges that a range of atoms receives.
    #[inline(always)]
    pub fn of_all(&self, atoms: &Range<usize>) -> Range<usize> {
        self.edge_ptr[atoms.start] as usize..self.edge_ptr[atoms.end] as usize
    }

    /// Displacement from receiver to sender, Å.
    #[inline(always)]
    fn displacement(&self, positions: &[Vec3], i: usize, e: usize) -> Vec3 {
        let j = self.senders[e] as usize;
        let r: Vec3 = std::array::from_fn(|k| positions[j][k] - positions[i][k]);
        match self.offsets.get(e) {
            Some(offset) => std::array::from_fn(|k| r[k] + offset[k]),
            None => r,
        }
    }
}

/// Directions of the edges of `atoms`, in the precision of the network, and their distances.
///
/// OUT `directions`, `distances` (Å): of those edges, overwritten.
pub fn geometry<T: Lanes>(
    edges: &Edges,
    positions: &[Vec3],
    atoms: Range<usize>,
    directions: &mut [[T; 3]],
    distances: &mut [f64],
) {
    let first = edges.edge_ptr[atoms.start] as usize;
    for i in atoms {
        for e in edges.of(i) {
            let r = edges.displacement(positions, i, e);
            let d = dot(r, r).sqrt();
            distances[e - first] = d;
            let scale = 1.0 / d;
            directions[e - first] = r.map(|x| T::of(x * scale));
        }
    }
}

/// Gradient of the energy with respect to one atom's position, and its share of the virial.
///
/// `cotangents[e]` belongs to the distance and to the direction *towards the receiver* of edge e, as far as the
/// receiver's own state depends on them; the pair's other half stands at `reverse_edge[e]`, with the opposite direction.
///
/// OUT gradient, eV/Å; `Σ r ⊗ g / 2`, eV, added to `virial` where asked for.
pub fn geometry_vjp<T: Lanes>(
    edges: &Edges,
    positions: &[Vec3],
    i: usize,
    cotangents: &[[T; 4]],
    mut virial: Option<&mut Mat3>,
) -> Vec3 {
    let mut gradient = [0.0; 3];
    for e in edges.of(i) {
        let r = edges.displacement(positions, i, e);
        let d = dot(r, r).sqrt();
        let inverse = 1.0 / d;
        let (own, other) = (&cotangents[e], &cotangents[edges.reverse_edge[e] as usize]);
        let grad_d = own[0].wide() + other[0].wide();
        let grad_u: Vec3 = std::array::from_fn(|k| own[1 + k].wide() - other[1 + k].wide());
        // Towards the receiver.
        let u = r.map(|x| -x * inverse);
        let along = dot(grad_u, u);
        let g: Vec3 = std::array::from_fn(|k| grad_d * u[k] + (grad_u[k] - along * u[k]) * inverse);
        for k in 0..3 {
            gradient[k] += g[k];
        }
        if let Some(virial) = &mut virial {
            for a in 0..3 {
                for b in 0..3 {
                    virial[a][b] -= 0.5 * r[a] * g[b];
                }
            }
        }
    }
    gradient
}
