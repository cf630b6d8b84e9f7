// Tiles of atoms: products of rows in shared memory with weights, on tensor cores where there are any for the type.
//
// A block carries TILE_ATOMS atoms through all layers between two messages. Activations stay in shared memory, row-major;
// weights come from the L2 cache in the order in which lanes need them (src/cuda/painn/weights.rs packs them). A warp makes
// columns in groups of eight; what it gets is spread over its lanes as `mma` leaves it: lane 4 g + t has rows g and g + 8,
// columns 2 t and 2 t + 1 (`for_each_pair`). Steps that follow each other use the same columns, so that a lane goes on
// with its own numbers.
//
// f32 products take three products in TF32 of operands split into two parts each, which keeps f32's accuracy; sums are f32.
// Where there is no such unit, and in f64, lanes exchange operands and multiply themselves.
#pragma once
#include "painn.cuh"

constexpr u32 TILE_ATOMS = MLFF_TILE_ATOMS;   // a multiple of 16
constexpr u32 WARPS = MLFF_WARPS;             // of a block
constexpr u32 THREADS = WARPS * WARP;
constexpr u32 M_TILES = TILE_ATOMS / 16;
constexpr u32 F_TILES = F / 8;
// Groups of columns that a warp makes, one after the other.
constexpr u32 F_ROUNDS = (F_TILES + WARPS - 1) / WARPS;

static_assert(F % 16 == 0 && TILE_ATOMS % 16 == 0, "whole tiles");

// Length of a row in shared memory: reads of four elements by eight lanes, two rows of sixteen, meet every bank once.
__device__ constexpr u32 row_length(u32 n) { return n % 32 == 16 ? n : n + 16; }

#if defined(MLFF_HOST)
// The shim's.
template <typename T>
__device__ void warp_multiply(T (&c)[4], const T (&a)[4], const T (&b)[2]) {
    shim::multiply(c, a, b);
}
#else
// c += A B for 16 rows, 8 columns and 8 terms, by multiply-adds: lanes ask each other for operands.
template <typename T>
__device__ __forceinline__ void warp_multiply(T (&c)[4], const T (&a)[4], const T (&b)[2]) {
    const u32 lane = threadIdx.x % WARP, row = lane & ~3u, column = lane % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            const T upper = __shfl_sync(ALL_LANES, a[2 * half], row + k);
            const T lower = __shfl_sync(ALL_LANES, a[2 * half + 1], row + k);
            const T left = __shfl_sync(ALL_LANES, b[half], column + k);
            const T right = __shfl_sync(ALL_LANES, b[half], column + 4 + k);
            c[0] += upper * left;
            c[1] += upper * right;
            c[2] += lower * left;
            c[3] += lower * right;
        }
    }
}
#endif

#if defined(MLFF_HOST)
#define MLFF_TF32 1
#elif defined(__CUDA_ARCH__)
#if __CUDA_ARCH__ >= 800
#define MLFF_TF32 1
#endif
#endif

// An operand as the unit takes it.
template <typename T, int N>
struct Operand {
    T whole[N];
};

template <typename T, int N>
__device__ __forceinline__ void split(const T (&x)[N], Operand<T, N>& out) {
#pragma unroll
    for (int i = 0; i < N; i++) out.whole[i] = x[i];
}

template <typename T>
__device__ __forceinline__ void multiply(T (&c)[4], const Operand<T, 4>& a, const Operand<T, 2>& b) {
    warp_multiply(c, a.whole, b.whole);
}

#ifdef MLFF_TF32
// x = large + small up to 2^-23 of x; both are TF32.
template <int N>
struct Operand<float, N> {
    u32 large[N], small[N];
};

__device__ __forceinline__ u32 bits_of(float x) {
#if defined(MLFF_HOST)
    u32 bits;
    std::memcpy(&bits, &x, 4);
    return bits;
#else
    return __float_as_uint(x);
#endif
}

__device__ __forceinline__ float float_of(u32 bits) {
#if defined(MLFF_HOST)
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
#else
    return __uint_as_float(bits);
#endif
}

template <int N>
__device__ __forceinline__ void split(const float (&x)[N], Operand<float, N>& out) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        // Rounded to ten bits of mantissa; of `small` the unit ignores the bits below, so half of one is added.
        out.large[i] = (bits_of(x[i]) + 0x1000u) & 0xffffe000u;
        out.small[i] = bits_of(x[i] - float_of(out.large[i])) + 0x1000u;
    }
}

__device__ __forceinline__ void multiply_tf32(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if defined(MLFF_HOST)
    float x[4], y[2];
    for (int i = 0; i < 4; i++) x[i] = float_of(a[i] & 0xffffe000u);
    for (int i = 0; i < 2; i++) y[i] = float_of(b[i] & 0xffffe000u);
    shim::multiply(c, x, y);
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ __forceinline__ void multiply(float (&c)[4], const Operand<float, 4>& a, const Operand<float, 2>& b) {
    // The small terms first: they are lost beside a large sum.
    multiply_tf32(c, a.small, b.large);
    multiply_tf32(c, a.large, b.small);
    multiply_tf32(c, a.large, b.large);
}
#endif

// acc[m][n] += rows · weights for M groups of 16 rows and N groups of 8 columns.
//
// IN  `rows`, the first row of the first group, in shared memory; groups follow each other by `group_stride` elements, rows
//     by `row_stride`, a length of `row_length`. `weights` packed, [columns / 8, n_k / 16, 32 lanes, 4]: lane 4 g + t of
//     step s has column g and terms 16 s + 4 t and the three behind it. Group n is number first + n · stride. `n_k`, a
//     multiple of 16.
template <int M, int N>
__device__ __forceinline__ void product(const real* rows, u32 row_stride, u32 group_stride, const real* weights, u32 n_k,
                                        u32 first, u32 stride, real (&acc)[M][N][4]) {
    const u32 lane = threadIdx.x % WARP;
    const real* a = rows + lane / 4 * row_stride + lane % 4 * 4;
    const real* w = weights + size_t(first) * n_k * 8 + lane * 4;
    const size_t next_group = size_t(stride) * n_k * 8;
    const u32 lower = 8 * row_stride;
#pragma unroll 2
    for (u32 k = 0; k < n_k; k += 16) {
        Pack<real, 4> b[N];
#pragma unroll
        for (int n = 0; n < N; n++) b[n] = load<4>(w + n * next_group + size_t(k) * 8);
        Pack<real, 4> x[M][2];
#pragma unroll
        for (int m = 0; m < M; m++) {
            x[m][0] = load<4>(a + m * group_stride + k);
            x[m][1] = load<4>(a + m * group_stride + lower + k);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            Operand<real, 2> right[N];
#pragma unroll
            for (int n = 0; n < N; n++) {
                const real pair[2] = {b[n].at[2 * half], b[n].at[2 * half + 1]};
                split(pair, right[n]);
            }
#pragma unroll
            for (int m = 0; m < M; m++) {
                Operand<real, 4> left;
                const real part[4] = {x[m][0].at[2 * half], x[m][1].at[2 * half], x[m][0].at[2 * half + 1],
                                      x[m][1].at[2 * half + 1]};
                split(part, left);
#pragma unroll
                for (int n = 0; n < N; n++) multiply(acc[m][n], left, right[n]);
            }
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
