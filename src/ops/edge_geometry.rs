//! `edge_geometry`: the only place where positions are read.

use super::Topology;
use super::table::operation;
use crate::structure::{Mat3, Vec3, dot};

operation! {
    "edge_geometry":
    /// Sizes of the edges' geometry.
    EdgeGeometrySizes {
        /// Atoms.
        n_atoms,
        /// Edges.
        n_edges,
        /// Structures.
        n_structures,
    }
    /// Arrays of the edges' geometry and its VJP.
    EdgeGeometryArrays {
        Index U32 receivers [n_edges; 1] Forward,
        Index U32 senders [n_edges; 1] Forward,
        /// Edges of each receiver.
        Index U32 edge_ptr [n_atoms + 1; 1] Vjp,
        /// The same pair seen from the sender.
        Index U32 reverse_edge [n_edges; 1] Vjp,
        /// Structure of each edge.
        Index U32 structure_of [n_edges; 1] Forward,
        /// First atom of each structure, and one past its last.
        Index U32 atoms_of [n_structures; 2] Vjp,
        /// Å.
        Input F64 positions [n_atoms; 3] Forward,
        /// `shift · cell`, Å; none without periodicity.
        Constant F64 offsets [n_edges; 3] Forward or_none,
        Input F64 strain [n_structures; 9] Forward or_none,
        /// Distance and direction.
        Output Real geometry [n_edges; 4] Both,
        Cotangent Real grad_geometry [n_edges; 4] Vjp,
        Gradient F64 grad_positions [n_atoms; 3] Vjp,
        Gradient F64 grad_strain [n_structures; 9] Vjp or_none,
        /// The strain's cotangent by atom, overwritten; none where it is not asked for.
        Room F64 virials [n_atoms; 9] Vjp or_none,
    }
}

/// Computes distance and direction of each edge, in f64.
///
/// With strain ε the displacement is `(positions[j] - positions[i] + offset) · (1 + ε)`, its length `d` the distance,
/// and `displacement / (d + epsilon)` the direction.
///
/// IN  `positions` `[n_atoms]`, Å; `offsets` `[n_edges]`, `shift · cell`, Å; `strain` `[n_structures]`;
///     `structure_of` `[n_edges]`, structure of each edge; `epsilon`, Å, zero for PaiNN.
/// OUT `geometry` `[n_edges, 4]`: (distance, direction), overwritten.
/// SAVED for the VJP: `geometry`.
pub fn edge_geometry(
    topology: &Topology,
    positions: &[Vec3],
    offsets: &[Vec3],
    strain: &[Mat3],
    structure_of: &[u32],
    epsilon: f64,
    geometry: &mut [[f64; 4]],
) {
    for (e, out) in geometry.iter_mut().enumerate() {
        let (i, j) = (topology.receivers[e] as usize, topology.senders[e] as usize);
        let r = std::array::from_fn(|k| positions[j][k] - positions[i][k] + offsets[e][k]);
        let r = deform(r, &strain[structure_of[e] as usize]);
        let d = dot(r, r).sqrt();
        let scale = 1.0 / (d + epsilon);
        *out = [d, r[0] * scale, r[1] * scale, r[2] * scale];
    }
}

/// Pulls the cotangent of distances and directions back to positions and strain.
///
/// `g = grad_d · û + (grad_u − (grad_u·û) û) / d` for `epsilon = 0`, with `û = r / d`;
/// `grad_positions[j] += g`, `grad_positions[i] −= g`, `grad_strain[s][a][b] += r_a g_b` at zero strain.
///
/// IN  `geometry` as the forward left it, at zero strain; `grad_geometry` `[n_edges, 4]`.
/// OUT `grad_positions` `[n_atoms]`, `grad_strain` `[n_structures]`, accumulated.
pub fn edge_geometry_vjp(
    topology: &Topology,
    geometry: &[[f64; 4]],
    structure_of: &[u32],
    epsilon: f64,
    grad_geometry: &[[f64; 4]],
    grad_positions: &mut [Vec3],
    grad_strain: &mut [Mat3],
) {
    for (e, (value, grad)) in geometry.iter().zip(grad_geometry).enumerate() {
        let (i, j) = (topology.receivers[e] as usize, topology.senders[e] as usize);
        let d = value[0];
        let direction = [value[1], value[2], value[3]];
        let grad_u = [grad[1], grad[2], grad[3]];
        // u = r / (d + eps):  du/dr = 1 / (d + eps) − r rᵀ / (d (d + eps)²), and r = u (d + eps).
        let length = d + epsilon;
        let unit = direction.map(|x| x * length / d);
        let along = dot(grad_u, direction);
        let g: Vec3 = std::array::from_fn(|k| grad[0] * unit[k] + (grad_u[k] - along * unit[k]) / length);
        for k in 0..3 {
            grad_positions[j][k] += g[k];
            grad_positions[i][k] -= g[k];
        }
        let virial = &mut grad_strain[structure_of[e] as usize];
        for a in 0..3 {
            for b in 0..3 {
                virial[a][b] += direction[a] * length * g[b];
            }
        }
    }
}

fn deform(r: Vec3, strain: &Mat3) -> Vec3 {
    std::array::from_fn(|b| r[b] + r[0] * strain[0][b] + r[1] * strain[1][b] + r[2] * strain[2][b])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, assert_vjp, ring};

    fn case(epsilon: f64) {
        let topology = ring(5);
        let n_edges = topology.n_edges();
        let mut random = Random::new(1);
        let positions = random.array(15, 2.0);
        let mut offsets: Vec<Vec3> = (0..n_edges).map(|_| [0.0; 3]).collect();
        for e in 0..n_edges {
            let reverse = topology.reverse_edge[e] as usize;
            if reverse > e {
                offsets[e] = [random.next(), random.next(), random.next()];
                offsets[reverse] = offsets[e].map(|x| -x);
            }
        }
        let structure_of: Vec<u32> = (0..n_edges).map(|e| u32::from(topology.receivers[e] > 2)).collect();
        let run = |x: &[f64]| {
            let positions: Vec<Vec3> = x[..15].as_chunks::<3>().0.to_vec();
            let strain: Vec<Mat3> =
                x[15..].chunks(9).map(|m| std::array::from_fn(|a| std::array::from_fn(|b| m[3 * a + b]))).collect();
            let mut out = vec![[0.0; 4]; n_edges];
            edge_geometry(&topology, &positions, &offsets, &strain, &structure_of, epsilon, &mut out);
            out
        };
        let mut x = positions;
        x.extend([0.0; 18]);
        let geometry = run(&x);
        assert_vjp(
            &x,
            |x| run(x).concat(),
            |grad_out| {
                let mut grad_positions = vec![[0.0; 3]; 5];
                let mut grad_strain = vec![[[0.0; 3]; 3]; 2];
                let grad: Vec<[f64; 4]> = grad_out.as_chunks::<4>().0.to_vec();
                edge_geometry_vjp(
                    &topology,
                    &geometry,
                    &structure_of,
                    epsilon,
                    &grad,
                    &mut grad_positions,
                    &mut grad_strain,
                );
                let mut all = grad_positions.concat();
                all.extend(grad_strain.iter().flatten().flatten());
                all
            },
        );
    }

    #[test]
    fn edge_geometry_vjp_matches_finite_difference() {
        case(0.0);
    }

    #[test]
    fn edge_geometry_vjp_with_epsilon_matches_finite_difference() {
        case(0.05);
    }

    #[test]
    fn edge_geometry_measures_a_known_triangle() {
        let topology = ring(2);
        let mut out = vec![[0.0; 4]; topology.n_edges()];
        let zero = vec![[0.0; 3]; topology.n_edges()];
        let strain = [[[0.0; 3]; 3]];
        let of = vec![0; topology.n_edges()];
        edge_geometry(&topology, &[[0.0; 3], [3.0, 4.0, 0.0]], &zero, &strain, &of, 0.0, &mut out);
        assert_close("geometry", &out[0], &[5.0, 0.6, 0.8, 0.0], 1e-15, 0.0);
    }
}
