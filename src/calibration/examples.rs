//! Arrays of each pattern at a size, the same on the processor and on a GPU.

use super::counts::EDGE_FEATURES;
use crate::ops::dense::LayerSizes;
use crate::ops::edge_geometry::EdgeGeometrySizes;
use crate::ops::example::{Example, ring, small};
use crate::ops::message::MessageSizes;
use crate::ops::radial_basis::RadialBasisSizes;
use crate::ops::update::{GateSizes, InvariantsSizes};
use crate::ops::{Topology, count};

/// Cutoff of the radial functions, Å.
pub(super) const CUTOFF: f64 = 5.0;

/// An optional array that is not there.
fn none() -> Option<Vec<f64>> {
    Some(Vec::new())
}

/// Gaussians, at distances from 1.5 to 4.5 Å.
pub(super) fn radial_basis(n_edges: usize, n_rbf: usize) -> Example<RadialBasisSizes> {
    let width = CUTOFF / n_rbf as f64;
    let sizes = RadialBasisSizes { n_edges: count(n_edges), n_rbf: count(n_rbf), stride: 1 };
    Example::new(sizes, &Topology::default(), |array| match array.name {
        "first" => Some((0..n_rbf).map(|k| k as f64 * width).collect()),
        "widths" => Some(vec![width; n_rbf]),
        "distances" => Some((0..array.len()).map(|k| 3.0 + 3.0 * small(k)).collect()),
        _ => None,
    })
}

/// One periodic structure under a strain of zero, and its edges.
pub(super) fn edge_geometry(n_edges: usize) -> (Topology, Example<EdgeGeometrySizes>) {
    let t = ring(n_edges);
    let sizes = EdgeGeometrySizes { n_atoms: count(t.n_atoms()), n_edges: count(t.n_edges()), n_structures: 1 };
    let example = Example::new(sizes, &t, |array| match array.name {
        // Along x, so that no two are at the same place.
        "positions" => {
            Some((0..array.len()).map(|k| small(k) + if k % 3 == 0 { (k / 3) as f64 } else { 0.0 }).collect())
        }
        // An atom may be its own neighbour, in the next cell.
        "offsets" => Some([0.0, 3.0, 0.0].repeat(array.rows)),
        "strain" | "grad_strain" => Some(vec![0.0; array.len()]),
        "atoms_of" => Some(vec![0.0, t.n_atoms() as f64]),
        _ => None,
    });
    (t, example)
}

/// A layer; whether it adds a residual, and whether it keeps what its VJP needs.
pub(super) fn layer([n_rows, n_in, n_out]: [usize; 3], residual: bool, keeps: bool) -> Example<LayerSizes> {
    let sizes = LayerSizes { n_rows: count(n_rows), n_in: count(n_in), n_out: count(n_out) };
    let scale = 1.0 / (n_in as f64).sqrt();
    Example::new(sizes, &Topology::default(), |array| match array.name {
        "weight" => Some((0..array.len()).map(|k| scale * small(k)).collect()),
        "residual" | "grad_residual" if !residual => none(),
        "saved" | "grad_z" if !keeps => none(),
        _ => None,
    })
}

/// Messages along the edges, with [`EDGE_FEATURES`] features and no bias.
pub(super) fn message(n_edges: usize, n_features: usize) -> (Topology, Example<MessageSizes>) {
    let t = ring(n_edges);
    let [n_atoms, n_edges, n_features, n_edge_features] =
        [t.n_atoms(), t.n_edges(), n_features, EDGE_FEATURES].map(count);
    let sizes = MessageSizes { n_atoms, n_edges, n_features, n_edge_features };
    let example = Example::new(sizes, &t, |array| if array.name == "bias" { none() } else { None });
    (t, example)
}

/// Both steps of an update.
pub(super) fn update(n_atoms: usize, n_features: usize) -> (Example<InvariantsSizes>, Example<GateSizes>) {
    let (n_atoms, n_features, none) = (count(n_atoms), count(n_features), Topology::default());
    let invariants = Example::new(InvariantsSizes { n_atoms, n_features }, &none, |_| None);
    (invariants, Example::new(GateSizes { n_atoms, n_features }, &none, |_| None))
}
