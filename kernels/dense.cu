// dense: linear layer with everything around it in one kernel: activation of the argument, bias, residual, activation.
//
// One block makes one tile of the output. Operands pass through shared memory in slices of BK, the next slice is on its
// way from global memory while the present one is multiplied. An output element is one chain of multiply-adds in the
// order of k, whatever the tile, so the choice of the tile changes no bit.
#include "arrays.cuh"
#include "common.cuh"

// An output tile of BM x BN, TM x TN of it in the registers of each thread.
template <int bm, int bn, int bk, int tm, int tn>
struct Tile {
    static constexpr int BM = bm, BN = bn, BK = bk, TM = tm, TN = tn;
    static constexpr int THREADS = (BM / TM) * (BN / TN);
    // Four elements more in a row: the transposed stores meet fewer banks twice, rows stay aligned for packs.
    static constexpr int A_ROW = BM + 4, B_ROW = BN + 4;
    // Packs of four that each thread carries from global memory.
    static constexpr int A_PACKS = BM * BK / 4 / THREADS, B_PACKS = BN * BK / 4 / THREADS;
    static_assert(BM * BK % (4 * THREADS) == 0 && BN * BK % (4 * THREADS) == 0, "whole packs for each thread");
};
// Many rows: three 16-byte reads of shared memory for 32 multiply-adds.
using Wide = Tile<64, 64, 16, 8, 4>;
// Few rows: eight times as many blocks for the same output, so that a single molecule reaches more multiprocessors.
using Narrow = Tile<16, 32, 32, 2, 2>;

// Four neighbouring elements of a row, zero outside the matrix.
template <typename T>
__device__ __forceinline__ Pack<T, 4> load_row(const T* matrix, size_t row, u32 n_rows, u32 column, u32 n_columns,
                                               bool packed) {
    Pack<T, 4> out{};
    if (row >= n_rows) return out;
    const T* from = matrix + row * n_columns + column;
    if (packed && column + 4 <= n_columns) return load_constant<4>(from);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (column + i < n_columns) out.at[i] = constant(from + i);
    }
    return out;
}

// acc[TM, TN] = tile of A · B. A's slices come from `load_a(row, k)` as packs along k; B is `weight`, [n_k, n_columns]
// (B_ROWS) or [n_columns, n_k].
template <typename S, bool B_ROWS, typename T, typename LoadA>
__device__ __forceinline__ void multiply(u32 n_k, u32 n_columns, const T* weight, bool packed, LoadA load_a,
                                         T (&acc)[S::TM][S::TN]) {
    __shared__ __align__(16) T a_tile[S::BK][S::A_ROW];
    __shared__ __align__(16) T b_tile[S::BK][S::B_ROW];
    const u32 t = threadIdx.x, column0 = blockIdx.y * S::BN;
    const u32 tx = t % (S::BN / S::TN), ty = t / (S::BN / S::TN);
    Pack<T, 4> a_next[S::A_PACKS], b_next[S::B_PACKS];

    const auto fetch = [&](u32 k0) {
#pragma unroll
        for (int p = 0; p < S::A_PACKS; p++) {
            const u32 i = t + p * S::THREADS;
            a_next[p] = load_a(i / (S::BK / 4), k0 + i % (S::BK / 4) * 4);
        }
#pragma unroll
        for (int p = 0; p < S::B_PACKS; p++) {
            const u32 i = t + p * S::THREADS;
            if constexpr (B_ROWS) {
                b_next[p] = load_row(weight, k0 + i / (S::BN / 4), n_k, column0 + i % (S::BN / 4) * 4, n_columns, packed);
            } else {
                b_next[p] = load_row(weight, column0 + i / (S::BK / 4), n_columns, k0 + i % (S::BK / 4) * 4, n_k, packed);
            }
        }
    };
    const auto put = [&]() {
#pragma unroll
        for (int p = 0; p < S::A_PACKS; p++) {
            const u32 i = t + p * S::THREADS;
#pragma unroll
            for (int x = 0; x < 4; x++) a_tile[i % (S::BK / 4) * 4 + x][i / (S::BK / 4)] = a_next[p].at[x];
        }
#pragma unroll
        for (int p = 0; p < S::B_PACKS; p++) {
            const u32 i = t + p * S::THREADS;
            if constexpr (B_ROWS) {
                store<4>(&b_tile[i / (S::BN / 4)][i % (S::BN / 4) * 4], b_next[p]);
            } else {
#pragma unroll
                for (int x = 0; x < 4; x++) b_tile[i % (S::BK / 4) * 4 + x][i / (S::BK / 4)] = b_next[p].at[x];
            }
        }
    };

    fetch(0);
    for (u32 k0 = 0; k0 < n_k; k0 += S::BK) {
        put();
        __syncthreads();
        if (k0 + S::BK < n_k) fetch(k0 + S::BK);
#pragma unroll
        for (int k = 0; k < S::BK; k++) {
            const Pack<T, S::TM> a = load<S::TM>(&a_tile[k][ty * S::TM]);
            const Pack<T, S::TN> b = load<S::TN>(&b_tile[k][tx * S::TN]);
#pragma unroll
            for (int i = 0; i < S::TM; i++) {
#pragma unroll
                for (int j = 0; j < S::TN; j++) acc[i][j] += a.at[i] * b.at[j];
            }
        }
        __syncthreads();
    }
}

// Applies `write(row, column, pack_of_one_or_TN)` to this thread's part of the tile.
template <typename S, typename T, typename Write>
__device__ __forceinline__ void for_outputs(u32 n_rows, u32 n_columns, bool packed, const T (&acc)[S::TM][S::TN],
                                            Write write) {
    const u32 column = blockIdx.y * S::BN + threadIdx.x % (S::BN / S::TN) * S::TN;
    const size_t row0 = size_t(blockIdx.x) * S::BM + threadIdx.x / (S::BN / S::TN) * S::TM;
#pragma unroll
    for (int i = 0; i < S::TM; i++) {
        if (row0 + i >= n_rows) return;
        if (packed && column + S::TN <= n_columns) {
            Pack<T, S::TN> z;
#pragma unroll
            for (int j = 0; j < S::TN; j++) z.at[j] = acc[i][j];
            write(row0 + i, column, z);
        } else {
#pragma unroll
            for (int j = 0; j < S::TN; j++) {
                if (column + j < n_columns) write(row0 + i, column + j, Pack<T, 1>{{acc[i][j]}});
            }
        }
    }
}

// y = activation(before(x) · weightᵀ + bias + residual), z the argument of `activation`.
//
// IN  x [n_rows, n_in]; weight [n_out, n_in]; bias [n_out] or null; residual [n_rows, n_out] or null; activations `before`
//     and `activation` by number.
// OUT y [n_rows, n_out], overwritten; saved [n_rows, n_out] or null: activation'(z) if `save_slope`, else z; overwritten.
// SAVED for the VJP: saved (with SiLU), x (with `before`).
// LAUNCH one block per tile, grid (tiles of rows, tiles of columns); Wide and Narrow: 128 threads.
template <typename S, typename T>
__device__ __forceinline__ void dense_forward(const LayerSizes& s, const DenseArrays<T>& a, u32 before, u32 activation,
                                              u32 save_slope) {
    T acc[S::TM][S::TN] = {};
    const bool packed_in = packs_of_four(a.x, s.n_in) && packs_of_four(a.weight, s.n_in);
    const size_t first_row = size_t(blockIdx.x) * S::BM;
    multiply<S, false>(s.n_in, s.n_out, a.weight, packed_in, [&](u32 row, u32 k) {
        Pack<T, 4> pack = load_row(a.x, first_row + row, s.n_rows, k, s.n_in, packed_in);
        if (before == SILU) {
#pragma unroll
            for (int i = 0; i < 4; i++) pack.at[i] = silu(pack.at[i]);
        }
        return pack;
    }, acc);
    const bool packed_out = packs_of_four(a.bias, s.n_out) && packs_of_four(a.residual, s.n_out) &&
                            packs_of_four(a.y, s.n_out) && packs_of_four(a.saved, s.n_out);
    for_outputs<S>(s.n_rows, s.n_out, packed_out, acc, [&](size_t row, u32 column, auto z) {
        constexpr int V = sizeof(z) / sizeof(T);
        const size_t at = row * s.n_out + column;
        if (a.bias) {
            const Pack<T, V> b = load<V>(a.bias + column);
#pragma unroll
            for (int i = 0; i < V; i++) z.at[i] += b.at[i];
        }
        if (a.residual) {
            const Pack<T, V> r = load<V>(a.residual + at);
#pragma unroll
            for (int i = 0; i < V; i++) z.at[i] += r.at[i];
        }
        Pack<T, V> out = z;
        if (activation == SILU) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                out.at[i] = silu(z.at[i]);
                if (save_slope) z.at[i] = silu_slope(z.at[i]);
            }
        }
        store<V>(a.y + at, out);
        if (a.saved) store<V>(a.saved + at, z);
    });
}

// grad_x += (grad_z · weight) before'(x), with grad_z = grad_y activation'(z).
//
// IN  grad_y [n_rows, n_out]; saved [n_rows, n_out] as the forward left it (null for the identity), a slope if
//     `save_slope`; weight [n_out, n_in]; x [n_rows, n_in], read only where `before` is SiLU.
// OUT grad_x [n_rows, n_in], accumulated; grad_residual [n_rows, n_out] += grad_z, or null.
// LAUNCH one block per tile of grad_x, grid (tiles of rows, tiles of columns); Wide and Narrow: 128 threads.
template <typename S, typename T>
__device__ __forceinline__ void dense_vjp(const LayerSizes& s, const DenseArrays<T>& a, u32 before, u32 save_slope) {
    T acc[S::TM][S::TN] = {};
    const size_t first_row = size_t(blockIdx.x) * S::BM;
    const bool packed_y = packs_of_four(a.grad_y, s.n_out) && packs_of_four(a.saved, s.n_out);
    const bool packed_weight = packs_of_four(a.weight, s.n_in);
    // Every element of grad_z passes through the first column of tiles once: that one adds it to the residual's.
    const bool adds_residual = a.grad_residual && blockIdx.y == 0;
    multiply<S, true>(s.n_out, s.n_in, a.weight, packed_weight, [&](u32 tile_row, u32 k) {
        const size_t row = first_row + tile_row;
        Pack<T, 4> grad = load_row(a.grad_y, row, s.n_rows, k, s.n_out, packed_y);
        if (a.saved) {
            const Pack<T, 4> z = load_row(a.saved, row, s.n_rows, k, s.n_out, packed_y);
#pragma unroll
            for (int i = 0; i < 4; i++) grad.at[i] *= save_slope ? z.at[i] : silu_slope(z.at[i]);
        }
        if (adds_residual && row < s.n_rows) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (k + i < s.n_out) a.grad_residual[row * s.n_out + k + i] += grad.at[i];
            }
        }
        return grad;
    }, acc);
    const bool packed_x = packs_of_four(a.grad_x, s.n_in) && packs_of_four(a.x, s.n_in);
    for_outputs<S>(s.n_rows, s.n_in, packed_x, acc, [&](size_t row, u32 column, auto grad) {
        constexpr int V = sizeof(grad) / sizeof(T);
        const size_t at = row * s.n_in + column;
        if (before == SILU) {
            const Pack<T, V> argument = load<V>(a.x + at);
#pragma unroll
            for (int i = 0; i < V; i++) grad.at[i] *= silu_slope(argument.at[i]);
        }
        Pack<T, V> sum = load<V>(a.grad_x + at);
#pragma unroll
        for (int i = 0; i < V; i++) sum.at[i] += grad.at[i];
        store<V>(a.grad_x + at, sum);
    });
}

// What a library's product leaves to do: y = activation(z), in place. Only SiLU has anything to do.
//
// IN  y [n], z as the product left it.
// OUT y [n]; saved [n] or null: activation'(z) if `save_slope`, else z; overwritten.
// LAUNCH one thread per element.
template <typename T>
__device__ __forceinline__ void dense_activation_forward(u32 n, u32 save_slope, T* y, T* saved) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const T z = y[i];
    y[i] = silu(z);
    if (saved) saved[i] = save_slope ? silu_slope(z) : z;
}

// The cotangent of z, before a library multiplies it by the weights.
//
// IN  grad_y [n]; saved [n] as the forward left it.
// OUT grad_z [n], overwritten; grad_residual [n] += grad_z, or null.
// LAUNCH one thread per element.
template <typename T>
__device__ __forceinline__ void dense_activation_vjp(u32 n, u32 save_slope, const T* grad_y, const T* saved, T* grad_z,
                                                     T* grad_residual) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const T grad = grad_y[i] * (save_slope ? saved[i] : silu_slope(saved[i]));
    grad_z[i] = grad;
    if (grad_residual) grad_residual[i] += grad;
}

extern "C" __global__ void __launch_bounds__(256)
    dense_activation_forward_f32(u32 n, u32 save_slope, float* y, float* saved) {
    dense_activation_forward<float>(n, save_slope, y, saved);
}
extern "C" __global__ void __launch_bounds__(256) dense_activation_vjp_f32(u32 n, u32 save_slope, const float* grad_y,
                                                                           const float* saved, float* grad_z,
                                                                           float* grad_residual) {
    dense_activation_vjp<float>(n, save_slope, grad_y, saved, grad_z, grad_residual);
}

#define DENSE(T, tile, name)                                                                                           \
    extern "C" __global__ void __launch_bounds__(tile::THREADS)                                                        \
        dense_forward_##name(LayerSizes s, DenseArrays<T> a, u32 before, u32 activation, u32 save_slope) {             \
        dense_forward<tile>(s, a, before, activation, save_slope);                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(tile::THREADS)                                                        \
        dense_vjp_##name(LayerSizes s, DenseArrays<T> a, u32 before, u32 save_slope) {                                 \
        dense_vjp<tile>(s, a, before, save_slope);                                                                     \
    }
DENSE(float, Wide, wide_f32)
DENSE(double, Wide, wide_f64)
DENSE(float, Narrow, narrow_f32)
DENSE(double, Narrow, narrow_f64)
