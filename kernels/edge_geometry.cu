// edge_geometry: distance and direction of each edge from positions, the only place where positions are read.
#include "arrays.cuh"
#include "common.cuh"

// Displacement, distance and direction in one pass, in f64; stored as T.
//
// IN  receivers, senders, structure_of [n_edges]; positions [n_atoms, 3] f64, Å; offsets [n_edges, 3] f64, Å, null for
//     no periodicity; strain [n_structures, 3, 3] f64, null for none; epsilon, Å, added to the distance that divides.
// OUT geometry [n_edges, 4]: (distance, direction), overwritten.
// SAVED for the VJP: geometry.   LAUNCH one thread per edge.
template <typename T>
__device__ __forceinline__ void edge_geometry_forward(const EdgeGeometrySizes& sizes, const EdgeGeometryArrays<T>& a,
                                                      double epsilon) {
    const size_t e = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (e >= sizes.n_edges) return;
    const double* from = a.positions + size_t(a.receivers[e]) * 3;
    const double* to = a.positions + size_t(a.senders[e]) * 3;
    double r[3];
#pragma unroll
    for (int k = 0; k < 3; k++) r[k] = to[k] - from[k] + (a.offsets ? a.offsets[e * 3 + k] : 0.0);
    if (a.strain) {
        const double* s = a.strain + size_t(a.structure_of[e]) * 9;
        double bent[3];
#pragma unroll
        for (int b = 0; b < 3; b++) bent[b] = r[b] + r[0] * s[b] + r[1] * s[3 + b] + r[2] * s[6 + b];
#pragma unroll
        for (int b = 0; b < 3; b++) r[b] = bent[b];
    }
    const double d = sqrt(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
    const double scale = 1.0 / (d + epsilon);
    // Allocations and rows of four elements are aligned: one store (two in f64).
    store<4>(a.geometry + e * 4, Pack<T, 4>{{T(d), T(r[0] * scale), T(r[1] * scale), T(r[2] * scale)}});
}

// Displacement of an edge and the cotangent g of it: g = grad_d û + (grad_u - (grad_u·û) û) / d for epsilon = 0.
template <typename T>
__device__ __forceinline__ void edge_cotangent(const T* geometry, const T* grad_geometry, size_t e, double epsilon,
                                               double (&r)[3], double (&g)[3]) {
    const Pack<T, 4> value = load<4>(geometry + e * 4), grad = load<4>(grad_geometry + e * 4);
    const double d = value.at[0], length = d + epsilon;
    double along = 0.0;
#pragma unroll
    for (int k = 0; k < 3; k++) {
        r[k] = double(value.at[1 + k]) * length;
        along += double(grad.at[1 + k]) * double(value.at[1 + k]);
    }
    const double inverse_d = 1.0 / d, inverse_length = 1.0 / length;
#pragma unroll
    for (int k = 0; k < 3; k++) {
        const double unit = r[k] * inverse_d;
        g[k] = double(grad.at[0]) * unit + (double(grad.at[1 + k]) - along * unit) * inverse_length;
    }
}

// Lanes that share an atom's edges: molecules have 10 to 20 of them, crystals three times as many.
constexpr u32 LANES_PER_ATOM = 16;

// Gathers the cotangents of an atom's incoming edges and, through reverse_edge, of its outgoing ones.
//
// IN  edge_ptr [n_atoms + 1]; reverse_edge [n_edges]; geometry as the forward left it, at zero strain;
//     grad_geometry [n_edges, 4]; epsilon.
// OUT grad_positions [n_atoms, 3] f64, accumulated; virials [n_atoms, 9] f64, sum of r ⊗ g over an atom's incoming
//     edges, overwritten, null where no strain is asked for.
// LAUNCH 16 lanes per atom.
template <typename T>
__device__ __forceinline__ void edge_geometry_vjp(const EdgeGeometrySizes& sizes, const EdgeGeometryArrays<T>& arrays,
                                                  double epsilon) {
    const size_t atom = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / LANES_PER_ATOM;
    const u32 lane = threadIdx.x % LANES_PER_ATOM;
    double force[3] = {}, virial[9] = {};
    if (atom < sizes.n_atoms) {
        for (u32 e = arrays.edge_ptr[atom] + lane; e < arrays.edge_ptr[atom + 1]; e += LANES_PER_ATOM) {
            double r[3], in[3], r_out[3], out[3];
            edge_cotangent(arrays.geometry, arrays.grad_geometry, e, epsilon, r, in);
            edge_cotangent(arrays.geometry, arrays.grad_geometry, arrays.reverse_edge[e], epsilon, r_out, out);
#pragma unroll
            for (int a = 0; a < 3; a++) {
                force[a] += out[a] - in[a];
#pragma unroll
                for (int b = 0; b < 3; b++) virial[3 * a + b] += r[a] * in[b];
            }
        }
    }
#pragma unroll
    for (int a = 0; a < 3; a++) force[a] = lanes_sum<LANES_PER_ATOM>(force[a]);
    if (arrays.virials) {
#pragma unroll
        for (int k = 0; k < 9; k++) virial[k] = lanes_sum<LANES_PER_ATOM>(virial[k]);
    }
    if (atom >= sizes.n_atoms || lane != 0) return;
#pragma unroll
    for (int a = 0; a < 3; a++) arrays.grad_positions[atom * 3 + a] += force[a];
    if (arrays.virials) {
#pragma unroll
        for (int k = 0; k < 9; k++) arrays.virials[atom * 9 + k] = virial[k];
    }
}

// Sums the atoms' virials by structure: the second half of edge_geometry's VJP.
//
// IN  atoms_of [n_structures, 2], first atom and one past the last; virials [n_atoms, 9] f64.
// OUT grad_strain [n_structures, 3, 3] f64, accumulated.
// LAUNCH one block of at most 256 threads per structure.
__device__ __forceinline__ void edge_geometry_strain_vjp(const EdgeGeometryArrays<double>& a) {
    __shared__ double scratch[9 * 8];
    const size_t s = blockIdx.x;
    double sum[9] = {};
    for (u32 i = a.atoms_of[2 * s] + threadIdx.x; i < a.atoms_of[2 * s + 1]; i += blockDim.x) {
#pragma unroll
        for (int k = 0; k < 9; k++) sum[k] += a.virials[size_t(i) * 9 + k];
    }
    block_sum(sum, scratch);
    if (threadIdx.x == 0) {
#pragma unroll
        for (int k = 0; k < 9; k++) a.grad_strain[s * 9 + k] += sum[k];
    }
}

#define EDGE_GEOMETRY(T, suffix)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        edge_geometry_forward_##suffix(EdgeGeometrySizes sizes, EdgeGeometryArrays<T> arrays, double epsilon) {        \
        edge_geometry_forward(sizes, arrays, epsilon);                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        edge_geometry_vjp_##suffix(EdgeGeometrySizes sizes, EdgeGeometryArrays<T> arrays, double epsilon) {            \
        edge_geometry_vjp(sizes, arrays, epsilon);                                                                     \
    }
EDGE_GEOMETRY(float, f32)
EDGE_GEOMETRY(double, f64)

extern "C" __global__ void __launch_bounds__(256)
    edge_geometry_strain_vjp_f64(EdgeGeometrySizes, EdgeGeometryArrays<double> arrays) {
    edge_geometry_strain_vjp(arrays);
}
