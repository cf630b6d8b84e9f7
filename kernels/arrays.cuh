// Sizes and arrays of the operations, as kernels take them. Written from the tables in src/ops by
// `MLFF_WRITE=1 cargo test header_of_arrays`: change them there. An array that is absent is null.
#pragma once

// edge_geometry
struct EdgeGeometrySizes {
    unsigned int n_atoms, n_edges, n_structures;
};
template <typename T>
struct EdgeGeometryArrays {
    const unsigned int* receivers;
    const unsigned int* senders;
    const unsigned int* edge_ptr;
    const unsigned int* reverse_edge;
    const unsigned int* structure_of;
    const unsigned int* atoms_of;
    const double* __restrict__ positions;
    const double* __restrict__ offsets;
    const double* __restrict__ strain;
    T* geometry;
    const T* __restrict__ grad_geometry;
    double* grad_positions;
    double* grad_strain;
    double* virials;
};

// radial_basis
struct RadialBasisSizes {
    unsigned int n_edges, n_rbf, stride;
};
template <typename T>
struct RadialBasisArrays {
    const T* __restrict__ first;
    const T* __restrict__ widths;
    const T* __restrict__ distances;
    T* basis;
    const T* __restrict__ grad_basis;
    T* grad_distances;
};

// dense
struct LayerSizes {
    unsigned int n_rows, n_in, n_out;
};
template <typename T>
struct DenseArrays {
    const T* __restrict__ x;
    const T* __restrict__ weight;
    const T* __restrict__ bias;
    const T* __restrict__ residual;
    T* y;
    T* saved;
    const T* __restrict__ grad_y;
    T* grad_x;
    T* grad_residual;
    T* grad_z;
};

// message
struct MessageSizes {
    unsigned int n_atoms, n_edges, n_features, n_edge_features;
};
template <typename T>
struct MessageArrays {
    const unsigned int* edge_ptr;
    const unsigned int* receivers;
    const unsigned int* senders;
    const unsigned int* reverse_edge;
    const T* __restrict__ nodes;
    const T* __restrict__ edges;
    const T* __restrict__ geometry;
    const T* __restrict__ weight;
    const T* __restrict__ bias;
    T* sums;
    const T* __restrict__ grad_sums;
    T* grad_nodes;
    T* grad_edges;
    T* grad_geometry;
};

// update_invariants
struct InvariantsSizes {
    unsigned int n_atoms, n_features;
};
template <typename T>
struct InvariantsArrays {
    const T* __restrict__ mixed;
    T* invariants;
    const T* __restrict__ grad_invariants;
    T* grad_mixed;
};

// update_gate
struct GateSizes {
    unsigned int n_atoms, n_features;
};
template <typename T>
struct GateArrays {
    const T* __restrict__ gates;
    const T* __restrict__ mixed;
    const T* __restrict__ invariants;
    T* change;
    const T* __restrict__ grad_change;
    T* grad_gates;
    T* grad_mixed;
    T* grad_invariants;
};

// readout
struct ReadoutSizes {
    unsigned int n_atoms, n_structures;
};
template <typename T>
struct ReadoutArrays {
    const unsigned int* atoms_of;
    const double* __restrict__ references;
    const T* __restrict__ outputs;
    double* energies;
    const double* __restrict__ grad_energies;
    T* grad_outputs;
};
