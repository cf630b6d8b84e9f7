// Products of a warp: 16 rows, 8 columns and 8 terms at a time, on tensor cores where there are any for the type.
//
// Operands and sums are spread over the lanes as `mma` has them. Lane 4 g + t has of the left operand rows g and g + 8 at
// terms t and t + 4 (in the order (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)), of the right one column g at terms t and
// t + 4, and of the sums rows g and g + 8 at columns 2 t and 2 t + 1. Which terms these are is the caller's to say, alike for
// both operands.
//
// f32 products take three products in TF32 of operands split into two parts each, which keeps f32's accuracy; sums are f32.
// Where there is no such unit, and in f64, lanes exchange operands and multiply themselves.
#pragma once
#include "painn.cuh"

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

// acc[m] += Σ over two steps of eight terms of left[step][m] right[step].
template <int M, typename T>
__device__ __forceinline__ void multiply(T (&acc)[M][4], const Operand<T, 4> (&left)[2][M], const Operand<T, 2> (&right)[2]) {
#pragma unroll
    for (int step = 0; step < 2; step++) {
#pragma unroll
        for (int m = 0; m < M; m++) warp_multiply(acc[m], left[step][m].whole, right[step].whole);
    }
}

#ifdef MLFF_TF32
// x = large + small. The unit ignores the low 13 bits of an operand, so that half of one, added, rounds; what is left out by
// that has either sign. Left out by cutting it off it would have that of x, and the product of two small parts, which is not
// made, would be missing from every product in the same direction.
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
        out.large[i] = bits_of(x[i]) + 0x1000u;
        out.small[i] = bits_of(x[i] - float_of(out.large[i] & 0xffffe000u));
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

template <int M>
__device__ __forceinline__ void multiply(float (&acc)[M][4], const Operand<float, 4> (&left)[2][M],
                                         const Operand<float, 2> (&right)[2]) {
    // The unit cuts off below the last digit of the largest number that it adds: small terms first, and sums of few terms,
    // which are then added in f32.
#pragma unroll
    for (int step = 0; step < 2; step++) {
#pragma unroll
        for (int m = 0; m < M; m++) multiply_tf32(acc[m], left[step][m].small, right[step].large);
#pragma unroll
        for (int m = 0; m < M; m++) multiply_tf32(acc[m], left[step][m].large, right[step].small);
    }
#pragma unroll
    for (int step = 0; step < 2; step++) {
#pragma unroll
        for (int m = 0; m < M; m++) multiply_tf32(acc[m], left[step][m].large, right[step].large);
    }
}
#endif
