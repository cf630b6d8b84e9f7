// radial_basis: radial basis functions and cutoff in one pass, the envelope as the last column.
#include "arrays.cuh"
#include "common.cuh"

// Edges of a block, one thread each, and columns that are staged at a time. The odd row length keeps the columns of
// neighbouring edges in different banks of the shared memory.
constexpr u32 EDGES_PER_BLOCK = 128;
constexpr u32 COLUMNS = 32;
constexpr u32 ROW = COLUMNS + 1;

// Parameters of the columns at hand: one division a block and function, not one an edge.
template <typename T>
__device__ __forceinline__ void stage_parameters(u32 column, u32 n_rbf, const T* first, const T* widths, T* first_of,
                                                 T* inverse_width_of) {
    const u32 k = column + threadIdx.x;
    if (threadIdx.x < COLUMNS && k < n_rbf) {
        first_of[threadIdx.x] = first[k];
        inverse_width_of[threadIdx.x] = widths ? T(1) / widths[k] : T(0);
    }
}

// Basis times envelope, and the envelope.
//
// IN  distances, Å, each > 0; first, centers of Gaussians, or frequencies of Bessel functions, which have no widths; cutoff, Å.
// OUT basis [n_edges, n_rbf + 1], overwritten.
// SAVED for the VJP: distances.   LAUNCH blocks of 128 threads, one thread per edge.
template <typename T>
__device__ __forceinline__ void radial_basis_forward(const RadialBasisSizes& sizes, const RadialBasisArrays<T>& a,
                                                     T cutoff) {
    const u32 kind = a.widths ? GAUSSIAN : BESSEL;
    __shared__ T tile[EDGES_PER_BLOCK * ROW], first_of[COLUMNS], inverse_width_of[COLUMNS];
    const u32 width = sizes.n_rbf + 1;
    const size_t start = size_t(blockIdx.x) * EDGES_PER_BLOCK;
    const u32 n_rows = u32(min(size_t(EDGES_PER_BLOCK), size_t(sizes.n_edges) - start));
    const u32 t = threadIdx.x;
    const T d = t < n_rows ? a.distances[(start + t) * sizes.stride] : cutoff;
    const T inverse_d = T(1) / d;
    T envelope, slope;
    envelope_at(d, cutoff, &envelope, &slope);
    for (u32 column = 0; column < width; column += COLUMNS) {
        const u32 n_columns = min(COLUMNS, width - column);
        stage_parameters(column, sizes.n_rbf, a.first, a.widths, first_of, inverse_width_of);
        __syncthreads();
        for (u32 c = 0; c < n_columns; c++) {
            T value = T(1), derivative;
            if (column + c < sizes.n_rbf) {
                function_at(kind, first_of[c], inverse_width_of[c], d, inverse_d, &value, &derivative);
            }
            tile[t * ROW + c] = value * envelope;
        }
        __syncthreads();
        // Rows of up to 32 neighbouring elements leave the block coalesced.
        for (u32 i = t; i < n_rows * n_columns; i += EDGES_PER_BLOCK) {
            const u32 row = i / n_columns, c = i % n_columns;
            a.basis[(start + row) * width + column + c] = tile[row * ROW + c];
        }
        __syncthreads();
    }
}

// IN  as the forward; grad_basis [n_edges, n_rbf + 1].   OUT grad_distances, accumulated, at the same stride.
// LAUNCH blocks of 128 threads, one thread per edge.
template <typename T>
__device__ __forceinline__ void radial_basis_vjp(const RadialBasisSizes& sizes, const RadialBasisArrays<T>& a,
                                                 T cutoff) {
    const u32 kind = a.widths ? GAUSSIAN : BESSEL;
    __shared__ T tile[EDGES_PER_BLOCK * ROW], first_of[COLUMNS], inverse_width_of[COLUMNS];
    const u32 width = sizes.n_rbf + 1;
    const size_t start = size_t(blockIdx.x) * EDGES_PER_BLOCK;
    const u32 n_rows = u32(min(size_t(EDGES_PER_BLOCK), size_t(sizes.n_edges) - start));
    const u32 t = threadIdx.x;
    const T d = t < n_rows ? a.distances[(start + t) * sizes.stride] : cutoff;
    const T inverse_d = T(1) / d;
    T envelope, slope;
    envelope_at(d, cutoff, &envelope, &slope);
    T sum = T(0);
    for (u32 column = 0; column < width; column += COLUMNS) {
        const u32 n_columns = min(COLUMNS, width - column);
        stage_parameters(column, sizes.n_rbf, a.first, a.widths, first_of, inverse_width_of);
        for (u32 i = t; i < n_rows * n_columns; i += EDGES_PER_BLOCK) {
            const u32 row = i / n_columns, c = i % n_columns;
            tile[row * ROW + c] = a.grad_basis[(start + row) * width + column + c];
        }
        __syncthreads();
        if (t < n_rows) {
            for (u32 c = 0; c < n_columns; c++) {
                T value = T(1), derivative = T(0);
                if (column + c < sizes.n_rbf) {
                    function_at(kind, first_of[c], inverse_width_of[c], d, inverse_d, &value, &derivative);
                }
                sum += tile[t * ROW + c] * (derivative * envelope + value * slope);
            }
        }
        __syncthreads();
    }
    // Beyond the cutoff nothing is added, whatever the cotangent holds.
    if (t < n_rows && d < cutoff) a.grad_distances[(start + t) * sizes.stride] += sum;
}

#define RADIAL_BASIS(T, suffix)                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        radial_basis_forward_##suffix(RadialBasisSizes sizes, RadialBasisArrays<T> arrays, T cutoff) {                 \
        radial_basis_forward(sizes, arrays, cutoff);                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        radial_basis_vjp_##suffix(RadialBasisSizes sizes, RadialBasisArrays<T> arrays, T cutoff) {                     \
        radial_basis_vjp(sizes, arrays, cutoff);                                                                       \
    }
RADIAL_BASIS(float, f32)
RADIAL_BASIS(double, f64)
