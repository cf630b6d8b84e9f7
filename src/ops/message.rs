//! `message`: what neighbours send, summed at the receiver.
//!
//! Source: Schütt, Unke, Gastegger, ICML 2021, eqs. 7 and 8, in the layout of SchNetPack 2 (`PaiNNInteraction`).

use super::{Real, Topology, for_row_blocks, for_row_blocks2};

/// Arrays that a message is made of. F is `n_features`.
#[derive(Debug, Clone, Copy)]
pub struct MessageInputs<'a, T> {
    /// F.
    pub n_features: usize,
    /// Context x of each atom, `[n_atoms, 6F]`: scalar, direction and vector gates (F each), then the atom's vectors
    /// µ `[3, F]`.
    pub nodes: &'a [T],
    /// Filters W of each edge, `[n_edges, 3F]`, envelope included.
    pub filters: &'a [T],
    /// Distance and direction of each edge, `[n_edges, 4]`.
    pub geometry: &'a [T],
}

impl<'a, T> MessageInputs<'a, T> {
    fn node(&self, atom: usize) -> (&'a [T], &'a [T]) {
        let width = 6 * self.n_features;
        self.nodes[atom * width..][..width].split_at(3 * self.n_features)
    }

    fn filter(&self, edge: usize) -> [&'a [T]; 3] {
        split3(&self.filters[edge * 3 * self.n_features..][..3 * self.n_features], self.n_features)
    }

    fn direction(&self, edge: usize) -> &'a [T] {
        &self.geometry[4 * edge + 1..4 * edge + 4]
    }
}

/// Cotangents of [`MessageInputs`], accumulated.
#[derive(Debug)]
pub struct MessageGrads<'a, T> {
    /// `[n_atoms, 6F]`.
    pub nodes: &'a mut [T],
    /// `[n_edges, 3F]`.
    pub filters: &'a mut [T],
    /// `[n_edges, 4]`; the distance column is left alone.
    pub geometry: &'a mut [T],
}

fn split3<T>(row: &[T], n: usize) -> [&[T]; 3] {
    [&row[..n], &row[n..2 * n], &row[2 * n..3 * n]]
}

/// Sums the messages that each atom receives.
///
/// For edge e = (i ← j): `Δq_i += W₀ x₀_j`, `Δµ_i += (W₁ x₁_j) u_e + (W₂ x₂_j) µ_j`.
///
/// OUT `sums` [n_atoms, 4F]: Δq, then Δµ [3, F]; overwritten.
/// SAVED for the VJP: the inputs.
pub fn message<T: Real>(topology: &Topology, inputs: &MessageInputs<T>, sums: &mut [T]) {
    let n = inputs.n_features;
    for_row_blocks(sums, 4 * n, |first, rows| {
        for (row, i) in rows.chunks_exact_mut(4 * n).zip(first..) {
            row.fill(T::zero());
            let (dq, dmu) = row.split_at_mut(n);
            let (mx, rest) = dmu.split_at_mut(n);
            let (my, mz) = rest.split_at_mut(n);
            for e in topology.edges_of(i) {
                let (context, vectors) = inputs.node(topology.senders[e] as usize);
                let [w0, w1, w2] = inputs.filter(e);
                let [x0, x1, x2] = split3(context, n);
                let [vx, vy, vz] = split3(vectors, n);
                let u = inputs.direction(e);
                for f in 0..n {
                    let along = w1[f] * x1[f];
                    let gate = w2[f] * x2[f];
                    dq[f] += w0[f] * x0[f];
                    mx[f] += along * u[0] + gate * vx[f];
                    my[f] += along * u[1] + gate * vy[f];
                    mz[f] += along * u[2] + gate * vz[f];
                }
            }
        }
    });
}

/// Pulls the cotangent of the sums back to nodes, filters and directions.
///
/// Edge cotangents are written by the edge's receiver; node cotangents are gathered by the sender over its reverse
/// edges, so that nothing is added by two tasks.
///
/// IN  `grad_sums` [n_atoms, 4F].   OUT `grads`, accumulated.
pub fn message_vjp<T: Real>(
    topology: &Topology,
    inputs: &MessageInputs<T>,
    grad_sums: &[T],
    grads: &mut MessageGrads<T>,
) {
    let n = inputs.n_features;
    let grad_of = |atom: usize| {
        let (grad_q, grad_mu) = grad_sums[atom * 4 * n..][..4 * n].split_at(n);
        (grad_q, split3(grad_mu, n))
    };

    for_row_blocks2((grads.filters, 3 * n), (grads.geometry, 4), |first, filters, geometry| {
        for ((row, out), e) in filters.chunks_exact_mut(3 * n).zip(geometry.chunks_exact_mut(4)).zip(first..) {
            let (context, vectors) = inputs.node(topology.senders[e] as usize);
            let [_, w1, _] = inputs.filter(e);
            let [x0, x1, x2] = split3(context, n);
            let [vx, vy, vz] = split3(vectors, n);
            let (grad_q, [gx, gy, gz]) = grad_of(topology.receivers[e] as usize);
            let u = inputs.direction(e);
            let (g0, rest) = row.split_at_mut(n);
            let (g1, g2) = rest.split_at_mut(n);
            for f in 0..n {
                g0[f] += grad_q[f] * x0[f];
                g1[f] += (gx[f] * u[0] + gy[f] * u[1] + gz[f] * u[2]) * x1[f];
                g2[f] += (gx[f] * vx[f] + gy[f] * vy[f] + gz[f] * vz[f]) * x2[f];
            }
            let mut grad_u = [T::zero(); 3];
            for f in 0..n {
                let along = w1[f] * x1[f];
                grad_u[0] += gx[f] * along;
                grad_u[1] += gy[f] * along;
                grad_u[2] += gz[f] * along;
            }
            out[1] += grad_u[0];
            out[2] += grad_u[1];
            out[3] += grad_u[2];
        }
    });

    for_row_blocks(grads.nodes, 6 * n, |first, rows| {
        for (row, j) in rows.chunks_exact_mut(6 * n).zip(first..) {
            let (context, vectors) = inputs.node(j);
            let [_, _, x2] = split3(context, n);
            let [vx, vy, vz] = split3(vectors, n);
            let (g0, rest) = row.split_at_mut(n);
            let (g1, rest) = rest.split_at_mut(n);
            let (g2, rest) = rest.split_at_mut(n);
            let (ox, rest) = rest.split_at_mut(n);
            let (oy, oz) = rest.split_at_mut(n);
            for incoming in topology.edges_of(j) {
                let e = topology.reverse_edge[incoming] as usize;
                let [w0, w1, w2] = inputs.filter(e);
                let u = inputs.direction(e);
                let (grad_q, [gx, gy, gz]) = grad_of(topology.receivers[e] as usize);
                for f in 0..n {
                    let gate = w2[f] * x2[f];
                    g0[f] += grad_q[f] * w0[f];
                    g1[f] += (gx[f] * u[0] + gy[f] * u[1] + gz[f] * u[2]) * w1[f];
                    g2[f] += (gx[f] * vx[f] + gy[f] * vy[f] + gz[f] * vz[f]) * w2[f];
                    ox[f] += gx[f] * gate;
                    oy[f] += gy[f] * gate;
                    oz[f] += gz[f] * gate;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, assert_close, assert_vjp, ring};

    const ATOMS: usize = 70;

    fn widths(n: usize, topology: &Topology) -> [usize; 3] {
        [ATOMS * 6 * n, topology.n_edges() * 3 * n, topology.n_edges() * 4]
    }

    fn run(n: usize, topology: &Topology, x: &[f64]) -> Vec<f64> {
        let [a, b, _] = widths(n, topology);
        let inputs = MessageInputs { n_features: n, nodes: &x[..a], filters: &x[a..a + b], geometry: &x[a + b..] };
        let mut out = vec![f64::NAN; ATOMS * 4 * n];
        message(topology, &inputs, &mut out);
        out
    }

    #[test]
    fn message_matches_plain_scatter() {
        let (n, topology) = (3, ring(ATOMS));
        let x = Random::new(8).array(widths(n, &topology).iter().sum(), 1.0);
        let [a, b, _] = widths(n, &topology);
        let (nodes, filters, geometry) = (&x[..a], &x[a..a + b], &x[a + b..]);
        let mut want = vec![0.0; ATOMS * 4 * n];
        for e in 0..topology.n_edges() {
            let (i, j) = (topology.receivers[e] as usize, topology.senders[e] as usize);
            for f in 0..n {
                let w = |part: usize| filters[e * 3 * n + part * n + f] * nodes[j * 6 * n + part * n + f];
                want[i * 4 * n + f] += w(0);
                for k in 0..3 {
                    want[i * 4 * n + (k + 1) * n + f] +=
                        w(1) * geometry[4 * e + 1 + k] + w(2) * nodes[j * 6 * n + (3 + k) * n + f];
                }
            }
        }
        assert_close("sums", &run(n, &topology, &x), &want, 1e-14, 1e-13);
    }

    #[test]
    fn message_vjp_matches_finite_difference() {
        let (n, topology) = (2, ring(ATOMS));
        let [a, b, c] = widths(n, &topology);
        let x = Random::new(9).array(a + b + c, 1.0);
        assert_vjp(
            &x,
            |x| run(n, &topology, x),
            |grad| {
                let inputs =
                    MessageInputs { n_features: n, nodes: &x[..a], filters: &x[a..a + b], geometry: &x[a + b..] };
                let mut out = vec![0.0; x.len()];
                let (nodes, rest) = out.split_at_mut(a);
                let (filters, geometry) = rest.split_at_mut(b);
                message_vjp(&topology, &inputs, grad, &mut MessageGrads { nodes, filters, geometry });
                out
            },
        );
    }
}
