// Tiles of atoms: products of rows in shared memory with weights.
//
// A block carries TILE_ATOMS atoms through all layers between two messages. Activations stay in shared memory, row-major;
// weights come from the L2 cache in the order in which lanes need them (src/cuda/painn/weights.rs packs them). A warp makes
// columns in groups of eight; what it gets is spread over its lanes as mma.cuh says (`for_each_pair`). Steps that follow each
// other use the same columns, so that a lane goes on with its own numbers.
#pragma once
#include "mma.cuh"

constexpr u32 TILE_ATOMS = MLFF_TILE_ATOMS;   // a multiple of 16
constexpr u32 WARPS = MLFF_WARPS;             // of a block
constexpr u32 THREADS = WARPS * WARP;
constexpr u32 M_TILES = TILE_ATOMS / 16;
constexpr u32 F_TILES = F / 8;
// Blocks that share a tile's columns: a cluster (compute capability 9.0), which has every block's activations in the shared
// memory of all.
#ifndef MLFF_CLUSTER
#define MLFF_CLUSTER 1
#endif
constexpr u32 CLUSTER = MLFF_CLUSTER;
constexpr u32 ALL_WARPS = CLUSTER * WARPS;
#if MLFF_CLUSTER > 1 && !defined(MLFF_HOST)
#define TILE_CLUSTER __cluster_dims__(MLFF_CLUSTER, 1, 1)
#else
#define TILE_CLUSTER
#endif

// Groups of columns that a warp makes at a time of one matrix, so that rows are split once for both, and how often.
constexpr u32 PAIRED = F_TILES % (2 * ALL_WARPS) == 0 ? 2 : 1;
constexpr u32 F_ROUNDS = (F_TILES + PAIRED * ALL_WARPS - 1) / (PAIRED * ALL_WARPS);

// Names of kernels: those for few atoms, whose tiles are smaller, have a name of their own.
#ifdef MLFF_FEW
#define TILE_KERNEL(name) name##_few
#else
#define TILE_KERNEL(name) name
#endif

static_assert(F % 16 == 0 && TILE_ATOMS % 16 == 0, "whole tiles");

// Length of a row in shared memory: reads of four elements by eight lanes, two rows of sixteen, meet every bank once.
__device__ constexpr u32 row_length(u32 n) { return n % 32 == 16 ? n : n + 16; }

// The tile of this block.
__device__ __forceinline__ u32 tile_of_block() { return blockIdx.x / CLUSTER; }

// The first group of columns of this warp; the next ones follow by ALL_WARPS.
__device__ __forceinline__ u32 first_columns() { return blockIdx.x % CLUSTER * WARPS + threadIdx.x / WARP; }

// Waits for all threads that share a tile.
__device__ __forceinline__ void sync_tile() {
    if constexpr (CLUSTER == 1) {
        __syncthreads();
    } else {
#if defined(MLFF_HOST)
        shim::wait_for_cluster();
#elif MLFF_CLUSTER > 1
        asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
    }
}

// Stores two elements in shared memory, at the same place in all blocks that share the tile.
__device__ __forceinline__ void share(real* at, const Pack<real, 2>& pair) {
    if constexpr (CLUSTER == 1) {
        store<2>(at, pair);
    } else {
#pragma unroll
        for (u32 block = 0; block < CLUSTER; block++) {
#if defined(MLFF_HOST)
            store<2>(shim::in_block(at, block), pair);
#elif MLFF_CLUSTER > 1
            const u32 here = u32(__cvta_generic_to_shared(at));
            u32 there;
            asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(block));
            if constexpr (sizeof(real) == 4) {
                asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(there), "f"(float(pair.at[0])),
                             "f"(float(pair.at[1]))
                             : "memory");
            } else {
                asm volatile("st.shared::cluster.v2.f64 [%0], {%1, %2};" ::"r"(there), "d"(double(pair.at[0])),
                             "d"(double(pair.at[1]))
                             : "memory");
            }
#endif
        }
    }
}

// acc[m][n] += rows · weights for M groups of 16 rows and N groups of 8 columns.
//
// IN  `rows`, the first row of the first group, in shared memory; groups follow each other by `group_stride` elements, rows
//     by `row_stride`, a length of `row_length`. `weights` packed, [columns / 8, n_k / 16, 32 lanes, 4]: lane 4 g + t of
//     step s has column g and terms 16 s + 4 t and the three behind it. Group n is number first + n · stride. `n_k`, a
//     multiple of 16.
template <int M, int N, bool AHEAD = true>
__device__ __forceinline__ void product(const real* rows, u32 row_stride, u32 group_stride, const real* weights, u32 n_k,
                                        u32 first, u32 stride, real (&acc)[M][N][4]) {
    const u32 lane = threadIdx.x % WARP;
    const real* a = rows + lane / 4 * row_stride + lane % 4 * 4;
    const real* w = weights + size_t(first) * n_k * 8 + lane * 4;
    const size_t next_group = size_t(stride) * n_k * 8;
    const u32 lower = 8 * row_stride;
    // Weights come from afar: the next ones are on their way while the present ones are multiplied, if `AHEAD`.
    Pack<real, 4> b[N];
    if (AHEAD && n_k > 0) {
#pragma unroll
        for (int n = 0; n < N; n++) b[n] = load<4>(w + n * next_group);
    }
#pragma unroll 1
    for (u32 k = 0; k < n_k; k += 16) {
        Pack<real, 4> next[N];
        const u32 at = AHEAD && k + 16 < n_k ? k + 16 : k;
#pragma unroll
        for (int n = 0; n < N; n++) {
            next[n] = load<4>(w + n * next_group + size_t(at) * 8);
            if (!AHEAD) b[n] = next[n];
        }
        Operand<real, 4> left[2][M];
#pragma unroll
        for (int m = 0; m < M; m++) {
            const Pack<real, 4> upper = load<4>(a + m * group_stride + k);
            const Pack<real, 4> under = load<4>(a + m * group_stride + lower + k);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const real part[4] = {upper.at[2 * half], under.at[2 * half], upper.at[2 * half + 1],
                                      under.at[2 * half + 1]};
                split(part, left[half][m]);
            }
        }
#pragma unroll
        for (int n = 0; n < N; n++) {
            Operand<real, 2> right[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const real pair[2] = {b[n].at[2 * half], b[n].at[2 * half + 1]};
                split(pair, right[half]);
            }
            real piece[M][4] = {};
            multiply(piece, left, right);
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
                for (int i = 0; i < 4; i++) acc[m][n][i] += piece[m][i];
            }
            b[n] = next[n];
        }
    }
}

// Calls `step(m, half, row, column)` for the lane's pairs of elements of M groups of 16 rows and the group of columns
// `tile`: acc[m][n][2 half] and acc[m][n][2 half + 1] are at (row, column) and (row, column + 1).
template <int M, typename Step>
__device__ __forceinline__ void for_each_pair(u32 tile, Step step) {
    const u32 lane = threadIdx.x % WARP, column = tile * 8 + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) step(m, half, m * 16 + half * 8 + lane / 4, column);
    }
}

// rows · weights for F columns; calls `step(z, row, column)` with the lane's pairs of elements z[0] and z[1].
template <typename Step>
__device__ __forceinline__ void product_of_one(const real* rows, u32 row_stride, const real* weights, u32 n_k, Step step) {
    for (u32 tile = first_columns(); tile < F_TILES; tile += PAIRED * ALL_WARPS) {
        real acc[M_TILES][PAIRED][4] = {};
        product<M_TILES, PAIRED>(rows, row_stride, 16 * row_stride, weights, n_k, tile, ALL_WARPS, acc);
#pragma unroll
        for (u32 n = 0; n < PAIRED; n++) {
            for_each_pair<M_TILES>(tile + n * ALL_WARPS, [&](int m, int half, u32 row, u32 column) {
                step(acc[m][n] + 2 * half, row, column);
            });
        }
    }
}

using Pair = Pack<real, 2>;

__device__ __forceinline__ Pair bias_at(const real* bias, u32 column) { return load<2>(bias + column); }

// Rows [n_rows, width] of an array in global memory into shared memory, zero for the atoms of a tile that are not there.
__device__ __forceinline__ void load_rows(const real* from, u32 width, u32 n_rows, real* to, u32 row_stride) {
    const u32 packs = width / 4;
    for (u32 i = threadIdx.x; i < TILE_ATOMS * packs; i += THREADS) {
        const u32 row = i / packs, column = i % packs * 4;
        Pack<real, 4> pack{};
        if (row < n_rows) pack = load<4>(from + size_t(row) * width + column);
        store<4>(to + row * row_stride + column, pack);
    }
}
