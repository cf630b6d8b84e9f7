//! Elements of scratch that each chain takes at most, counted by the chain itself: of the launcher's precision, f64 for the
//! edges' geometry.

use crate::ops::dense::LayerSizes;
use crate::ops::edge_geometry::EdgeGeometrySizes;
use crate::ops::message::MessageSizes;
use crate::ops::radial_basis::RadialBasisSizes;
use crate::ops::table::Operation;
use crate::ops::unfused::chains;
use crate::ops::unfused::counting::{Counting, There, count};
use crate::ops::update::{GateSizes, InvariantsSizes};

fn of<O: Operation>(s: &O, chain: impl FnOnce(&mut Counting, &O, &O::Arrays<There>)) -> usize {
    usize::try_from(count(s, chain).scratch).unwrap_or(usize::MAX)
}

/// Of [`unfused_radial_basis`](crate::cuda::Launcher::unfused_radial_basis).
pub fn radial_basis(s: &RadialBasisSizes) -> usize {
    of(s, |chain, s, a| chains::radial_basis(chain, s, 0.0, a))
}

/// Of [`unfused_radial_basis_vjp`](crate::cuda::Launcher::unfused_radial_basis_vjp).
pub fn radial_basis_vjp(s: &RadialBasisSizes) -> usize {
    of(s, |chain, s, a| chains::radial_basis_vjp(chain, s, 0.0, a))
}

/// Of [`unfused_edge_geometry`](crate::cuda::Launcher::unfused_edge_geometry).
pub fn edge_geometry(s: &EdgeGeometrySizes) -> usize {
    of(s, |chain, s, a| chains::edge_geometry(chain, s, 0.0, a))
}

/// Of [`unfused_edge_geometry_vjp`](crate::cuda::Launcher::unfused_edge_geometry_vjp).
pub fn edge_geometry_vjp(s: &EdgeGeometrySizes) -> usize {
    of(s, |chain, s, a| chains::edge_geometry_vjp(chain, s, 0.0, a))
}

/// Of [`unfused_activation_dense`](crate::cuda::Launcher::unfused_activation_dense).
pub fn activation_dense(s: &LayerSizes) -> usize {
    of(s, chains::activation_dense)
}

/// Of [`unfused_activation_dense_vjp`](crate::cuda::Launcher::unfused_activation_dense_vjp).
pub fn activation_dense_vjp(s: &LayerSizes) -> usize {
    of(s, chains::activation_dense_vjp)
}

/// Of [`unfused_message`](crate::cuda::Launcher::unfused_message).
pub fn message(s: &MessageSizes) -> usize {
    of(s, chains::message)
}

/// Of [`unfused_message_vjp`](crate::cuda::Launcher::unfused_message_vjp).
pub fn message_vjp(s: &MessageSizes) -> usize {
    of(s, chains::message_vjp)
}

/// Of [`unfused_update_invariants`](crate::cuda::Launcher::unfused_update_invariants).
pub fn update_invariants(s: &InvariantsSizes) -> usize {
    of(s, |chain, s, a| chains::update_invariants(chain, s, 0.0, a))
}

/// Of [`unfused_update_invariants_vjp`](crate::cuda::Launcher::unfused_update_invariants_vjp).
pub fn update_invariants_vjp(s: &InvariantsSizes) -> usize {
    of(s, chains::update_invariants_vjp)
}

/// Of [`unfused_update_gate`](crate::cuda::Launcher::unfused_update_gate).
pub fn update_gate(s: &GateSizes) -> usize {
    of(s, chains::update_gate)
}

/// Of [`unfused_update_gate_vjp`](crate::cuda::Launcher::unfused_update_gate_vjp).
pub fn update_gate_vjp(s: &GateSizes) -> usize {
    of(s, chains::update_gate_vjp)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the chains took when their scratch was counted by hand.
    #[test]
    fn scratch_is_what_the_chains_take() {
        let (n, m, f, k) = (7, 30, 5, 4);
        let s = RadialBasisSizes { n_edges: m, n_rbf: k, stride: 1 };
        assert_eq!([radial_basis(&s), radial_basis_vjp(&s)], [30 * 5, 30 * 17]);
        let s = EdgeGeometrySizes { n_atoms: n, n_edges: m, n_structures: 2 };
        assert_eq!([edge_geometry(&s), edge_geometry_vjp(&s)], [18 * 30, 3 * 7 + 44 * 30]);
        let s = LayerSizes { n_rows: m, n_in: f, n_out: k };
        assert_eq!([activation_dense(&s), activation_dense_vjp(&s)], [30 * 5, 3 * 30 * 5]);
        let s = MessageSizes { n_atoms: n, n_edges: m, n_features: f, n_edge_features: k };
        assert_eq!(message(&s), (4 * 7 + 19 * 30) * 5);
        assert_eq!(message_vjp(&s), (6 * 7 + 34 * 30) * 5 + 3 * 30);
        let s = InvariantsSizes { n_atoms: n, n_features: f };
        assert_eq!([update_invariants(&s), update_invariants_vjp(&s)], [15 * 35, 20 * 35]);
        let s = GateSizes { n_atoms: n, n_features: f };
        assert_eq!([update_gate(&s), update_gate_vjp(&s)], [11 * 35, 19 * 35]);
    }
}
