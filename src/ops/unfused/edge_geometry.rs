//! Displacement, strain, distance, direction. In f64 always.

use super::{accumulate, gather, map, rows, segment_sum, zip};
use crate::ops::Topology;
use crate::structure::{Mat3, Vec3};

/// Squares or products of rows of three, summed.
fn dots(a: &[f64], b: &[f64]) -> Vec<f64> {
    rows(
        a.len() / 3,
        1,
        #[inline(always)]
        |e, out| {
            let (a, b) = (&a[3 * e..][..3], &b[3 * e..][..3]);
            out[0] = a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
        },
    )
}

/// Rows of three, each times a number of its own.
fn scale(x: &[f64], by: &[f64]) -> Vec<f64> {
    rows(
        by.len(),
        3,
        #[inline(always)]
        |e, row| row.iter_mut().zip(&x[3 * e..]).for_each(|(out, &x)| *out = x * by[e]),
    )
}

/// `a − b`, element by element.
fn subtract(a: &[f64], b: &[f64]) -> Vec<f64> {
    zip(
        a,
        b,
        #[inline(always)]
        |a, b| a - b,
    )
}

/// See [`crate::ops::edge_geometry::edge_geometry`].
pub fn edge_geometry(
    topology: &Topology,
    positions: &[Vec3],
    offsets: &[Vec3],
    strain: &[Mat3],
    structure_of: &[u32],
    epsilon: f64,
    geometry: &mut [[f64; 4]],
) {
    let positions = positions.as_flattened();
    let (senders, receivers) = (gather(positions, 3, &topology.senders), gather(positions, 3, &topology.receivers));
    let mut r = subtract(&senders, &receivers);
    accumulate(&mut r, offsets.as_flattened());
    let stretch = rows(
        structure_of.len(),
        3,
        #[inline(always)]
        |e, row| {
            let (r, strain) = (&r[3 * e..][..3], &strain[structure_of[e] as usize]);
            (0..3).for_each(|b| row[b] = r[0] * strain[0][b] + r[1] * strain[1][b] + r[2] * strain[2][b]);
        },
    );
    accumulate(&mut r, &stretch);
    let distances = map(&dots(&r, &r), f64::sqrt);
    let inverse = map(
        &distances,
        #[inline(always)]
        |d| 1.0 / (d + epsilon),
    );
    let directions = scale(&r, &inverse);
    super::fill_rows(
        geometry.as_flattened_mut(),
        4,
        #[inline(always)]
        |e, row| {
            row[0] = distances[e];
            row[1..].copy_from_slice(&directions[3 * e..][..3]);
        },
    );
}

/// See [`crate::ops::edge_geometry::edge_geometry_vjp`].
pub fn edge_geometry_vjp(
    topology: &Topology,
    geometry: &[[f64; 4]],
    structure_of: &[u32],
    epsilon: f64,
    grad_geometry: &[[f64; 4]],
    grad_positions: &mut [Vec3],
    grad_strain: &mut [Mat3],
) {
    let n_edges = geometry.len();
    let last3 = |x: &[[f64; 4]]| {
        rows(
            n_edges,
            3,
            #[inline(always)]
            |e, row| row.copy_from_slice(&x[e][1..]),
        )
    };
    let (directions, grad_u) = (last3(geometry), last3(grad_geometry));
    let lengths = rows(
        n_edges,
        1,
        #[inline(always)]
        |e, out: &mut [f64]| out[0] = geometry[e][0] + epsilon,
    );
    let to_unit = rows(
        n_edges,
        1,
        #[inline(always)]
        |e, out: &mut [f64]| out[0] = lengths[e] / geometry[e][0],
    );
    let unit = scale(&directions, &to_unit);
    // du/dr = 1 / (d + eps) − r rᵀ / (d (d + eps)²), dd/dr = r / d.
    let across = subtract(&grad_u, &scale(&unit, &dots(&grad_u, &directions)));
    let inverse = map(
        &lengths,
        #[inline(always)]
        |x| 1.0 / x,
    );
    let grad_d = rows(
        n_edges,
        1,
        #[inline(always)]
        |e, out: &mut [f64]| out[0] = grad_geometry[e][0],
    );
    let mut g = scale(&unit, &grad_d);
    accumulate(&mut g, &scale(&across, &inverse));

    // An atom's outgoing edges are the reverse of those that it receives.
    let sent = gather(&g, 3, &topology.reverse_edge);
    let both = segment_sum(&subtract(&sent, &g), 3, &topology.edge_ptr);
    accumulate(grad_positions.as_flattened_mut(), &both);

    let displacements = scale(&directions, &lengths);
    let virials = rows(
        n_edges,
        9,
        #[inline(always)]
        |e, row| (0..9).for_each(|k| row[k] = displacements[3 * e + k / 3] * g[3 * e + k % 3]),
    );
    for (virial, &s) in virials.chunks_exact(9).zip(structure_of) {
        let out = grad_strain[s as usize].as_flattened_mut();
        out.iter_mut().zip(virial).for_each(|(out, &x)| *out += x);
    }
}
