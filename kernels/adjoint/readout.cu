// readout: from scalars to each atom's output and, in the same kernel, the cotangent of the scalars.
#include "tile.cuh"

// Padded widths: of the scalars, then of each layer's output. The last layer has one output in a group of eight columns.
constexpr u32 WIDTHS[] = {MLFF_READOUT_WIDTHS};
constexpr u32 N_LAYERS = sizeof(WIDTHS) / sizeof(WIDTHS[0]) - 1;

__device__ constexpr u32 widest() {
    u32 most = 0;
    for (u32 k = 0; k < N_LAYERS; k++) most = WIDTHS[k] > most ? WIDTHS[k] : most;
    return most;
}
constexpr u32 LONGEST = row_length(widest());

// Where a layer's weights and biases stand behind one another.
__device__ constexpr u32 weight_offset(u32 layer) {
    u32 sum = 0;
    for (u32 k = 0; k < layer; k++) sum += WIDTHS[k] * WIDTHS[k + 1];
    return sum;
}
__device__ constexpr u32 bias_offset(u32 layer) {
    u32 sum = 0;
    for (u32 k = 0; k < layer; k++) sum += WIDTHS[k + 1];
    return sum;
}

// Layers with SiLU between them.
//
// IN  scalars [n_atoms, F]; weights of all layers, packed one behind the other, biases likewise; `transposed`, the weights
//     of all but the last layer packed for the transposed products, in the same places; last_row [the last layer's n_in];
//     energy_scale, the cotangent of an output; `gradient`, whether cotangents are asked for.
// OUT outputs [n_atoms], overwritten; grad_scalars [n_atoms, F], overwritten, where asked for.
// LAUNCH one block per TILE_ATOMS atoms, WARPS warps; dynamic shared memory of 2 LONGEST TILE_ATOMS elements and, for the
//     slopes, the sum of the widths between layers times TILE_ATOMS.
extern "C" __global__ void __launch_bounds__(THREADS, MLFF_BLOCKS)
    TILE_KERNEL(painn_readout)(u32 n_atoms, u32 gradient, real energy_scale, const real* __restrict__ scalars,
                  const real* __restrict__ weights, const real* __restrict__ biases, const real* __restrict__ transposed,
                  const real* __restrict__ last_row, real* outputs, real* grad_scalars) {
    real* here = DYNAMIC_SHARED(real);                      // [TILE_ATOMS, LONGEST]
    real* there = here + TILE_ATOMS * LONGEST;              // the same
    real* const slopes = there + TILE_ATOMS * LONGEST;      // [TILE_ATOMS, width] of each layer but the last
    const u32 first = blockIdx.x * TILE_ATOMS, n_rows = min(TILE_ATOMS, n_atoms - first), warp = threadIdx.x / WARP;
    const auto swap = [&]() {
        real* const other = here;
        here = there;
        there = other;
    };

    load_rows(scalars + size_t(first) * F, F, n_rows, here, LONGEST);
    __syncthreads();
#pragma unroll
    for (u32 k = 0; k < N_LAYERS; k++) {
        const bool is_last = k + 1 == N_LAYERS;
        const u32 n_out = WIDTHS[k + 1];
        real* const slope_rows = slopes + TILE_ATOMS * bias_offset(k);
        for (u32 tile = warp; tile < (is_last ? 1 : n_out / 8); tile += WARPS) {
            real acc[M_TILES][1][4] = {};
            product<M_TILES, 1>(here, LONGEST, 16 * LONGEST, weights + weight_offset(k), WIDTHS[k], tile, 0, acc);
            for_each_pair<M_TILES>(tile, [&](int m, int half, u32 row, u32 column) {
                const Pair bias = bias_at(biases + bias_offset(k), column);
                Pair z, slope;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    z.at[i] = acc[m][0][2 * half + i] + bias.at[i];
                    slope.at[i] = silu_slope(z.at[i]);
                    if (!is_last) z.at[i] = silu(z.at[i]);
                }
                if (is_last) {
                    if (column == 0 && row < n_rows) outputs[first + row] = z.at[0];
                } else {
                    store<2>(slope_rows + row * n_out + column, slope);
                    store<2>(there + row * LONGEST + column, z);
                }
            });
        }
        __syncthreads();
        swap();
    }
    if (!gradient) return;

    // The last layer's transposed product is a row of its weights.
    for (u32 i = threadIdx.x; i < TILE_ATOMS * WIDTHS[N_LAYERS - 1]; i += THREADS) {
        const u32 row = i / WIDTHS[N_LAYERS - 1], column = i % WIDTHS[N_LAYERS - 1];
        real grad = energy_scale * last_row[column];
        if (N_LAYERS > 1) {
            grad *= slopes[TILE_ATOMS * bias_offset(N_LAYERS < 2 ? 0 : N_LAYERS - 2) + i];
            here[row * LONGEST + column] = grad;
        } else if (row < n_rows) {
            grad_scalars[size_t(first + row) * F + column] = grad;
        }
    }
    __syncthreads();
#pragma unroll
    for (u32 above = N_LAYERS - 1; above > 0; above--) {
        const u32 k = above - 1;
        for (u32 tile = warp; tile < WIDTHS[k] / 8; tile += WARPS) {
            real acc[M_TILES][1][4] = {};
            product<M_TILES, 1>(here, LONGEST, 16 * LONGEST, transposed + weight_offset(k), WIDTHS[k + 1], tile, 0, acc);
            for_each_pair<M_TILES>(tile, [&](int m, int half, u32 row, u32 column) {
                Pair grad{{acc[m][0][2 * half], acc[m][0][2 * half + 1]}};
                if (k > 0) {
                    const Pair slope = load<2>(slopes + TILE_ATOMS * bias_offset(k - 1) + row * WIDTHS[k] + column);
#pragma unroll
                    for (int i = 0; i < 2; i++) grad.at[i] *= slope.at[i];
                    store<2>(there + row * LONGEST + column, grad);
                } else if (row < n_rows) {
                    store<2>(grad_scalars + size_t(first + row) * F + column, grad);
                }
            });
        }
        __syncthreads();
        swap();
    }
}
