//! Elements of scratch that each chain takes: of the launcher's precision, f64 for the edges' geometry.

/// Of [`unfused_radial_basis`](crate::cuda::Launcher::unfused_radial_basis).
pub fn radial_basis(n_edges: usize, n_rbf: usize) -> usize {
    n_edges * (n_rbf + 1)
}

/// Of [`unfused_radial_basis_vjp`](crate::cuda::Launcher::unfused_radial_basis_vjp).
pub fn radial_basis_vjp(n_edges: usize, n_rbf: usize) -> usize {
    n_edges * (3 * n_rbf + 5)
}

/// Of [`unfused_edge_geometry`](crate::cuda::Launcher::unfused_edge_geometry).
pub fn edge_geometry(n_edges: usize) -> usize {
    18 * n_edges
}

/// Of [`unfused_edge_geometry_vjp`](crate::cuda::Launcher::unfused_edge_geometry_vjp).
pub fn edge_geometry_vjp(n_atoms: usize, n_edges: usize) -> usize {
    3 * n_atoms + 44 * n_edges
}

/// Of [`unfused_activation_dense`](crate::cuda::Launcher::unfused_activation_dense).
pub fn activation_dense(n_rows: usize, n_in: usize) -> usize {
    n_rows * n_in
}

/// Of [`unfused_activation_dense_vjp`](crate::cuda::Launcher::unfused_activation_dense_vjp).
pub fn activation_dense_vjp(n_rows: usize, n_in: usize) -> usize {
    3 * n_rows * n_in
}

/// Of [`unfused_message`](crate::cuda::Launcher::unfused_message).
pub fn message(n_atoms: usize, n_edges: usize, n_features: usize) -> usize {
    (4 * n_atoms + 19 * n_edges) * n_features
}

/// Of [`unfused_message_vjp`](crate::cuda::Launcher::unfused_message_vjp).
pub fn message_vjp(n_atoms: usize, n_edges: usize, n_features: usize) -> usize {
    (6 * n_atoms + 34 * n_edges) * n_features + 3 * n_edges
}

/// Of [`unfused_update_invariants`](crate::cuda::Launcher::unfused_update_invariants).
pub fn update_invariants(n_atoms: usize, n_features: usize) -> usize {
    15 * n_atoms * n_features
}

/// Of [`unfused_update_invariants_vjp`](crate::cuda::Launcher::unfused_update_invariants_vjp).
pub fn update_invariants_vjp(n_atoms: usize, n_features: usize) -> usize {
    20 * n_atoms * n_features
}

/// Of [`unfused_update_gate`](crate::cuda::Launcher::unfused_update_gate).
pub fn update_gate(n_atoms: usize, n_features: usize) -> usize {
    11 * n_atoms * n_features
}

/// Of [`unfused_update_gate_vjp`](crate::cuda::Launcher::unfused_update_gate_vjp).
pub fn update_gate_vjp(n_atoms: usize, n_features: usize) -> usize {
    19 * n_atoms * n_features
}
