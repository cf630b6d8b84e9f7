//! [`edge_geometry`](crate::ops::edge_geometry): edges, and forces from the cotangents of their distances and directions.

use std::ops::Range;

use super::lanes::Lanes;
use crate::structure::{Mat3, Vec3, displacement, dot};

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

    /// Whether edge `e` of receiver `i` is its pair as seen from the lower atom; of an atom and its own image, the first.
    #[inline(always)]
    pub fn is_lower(&self, i: usize, e: usize) -> bool {
        let j = self.senders[e] as usize;
        i < j || (i == j && e < self.reverse_edge[e] as usize)
    }

    /// Displacement from receiver to sender, Å.
    #[inline(always)]
    pub fn displacement(&self, positions: &[Vec3], i: usize, e: usize) -> Vec3 {
        displacement(&positions[i], &positions[self.senders[e] as usize], self.offsets.get(e))
    }
}

/// Gradient of the energy with respect to one atom's position, and its share of the virial.
///
/// IN  `cotangents` of the atom's pairs: of the distance, and of the direction from the lower to the upper atom;
///     `pair_of_edge` `[edges of the atom]`: where they stand.
/// OUT gradient, eV/Å; `Σ r ⊗ g / 2`, eV, added to `virial` where asked for.
pub fn geometry_vjp<T: Lanes>(
    edges: &Edges,
    positions: &[Vec3],
    i: usize,
    pair_of_edge: &[u32],
    cotangents: &[[T; 4]],
    mut virial: Option<&mut Mat3>,
) -> Vec3 {
    let mut gradient = [0.0; 3];
    for (e, &pair) in edges.of(i).zip(pair_of_edge) {
        let r = edges.displacement(positions, i, e);
        let d = dot(r, r).sqrt();
        let inverse = 1.0 / d;
        let [grad_d, grad_u @ ..] = cotangents[pair as usize].map(|x| x.wide());
        // Towards this atom, and as the cotangent of that direction.
        let u = r.map(|x| -x * inverse);
        let sign = if edges.is_lower(i, e) { -1.0 } else { 1.0 };
        let grad_u = grad_u.map(|x| sign * x);
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
