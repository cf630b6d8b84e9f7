// What the kernels share: vectors of elements, activations, radial functions, reductions in a fixed order.
//
// Conventions. Arrays are dense, row-major and those of the CPU ops (src/ops): a forward overwrites, a VJP accumulates.
// `T` is float or double; each kernel exists as `NAME_f32` and `NAME_f64`. Counts and indices are 32 bits, offsets into
// arrays 64. Blocks are one-dimensional and a multiple of 32 threads. No kernel adds with atomics: every output has one
// writer and one order of summation, so results are the same bits from run to run.
#pragma once

using u32 = unsigned int;

// N consecutive elements, loaded and stored at once.
template <typename T, int N>
struct alignas(sizeof(T) * N <= 16 ? sizeof(T) * N : 16) Pack {
    T at[N];
};

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}

// The same of an array that nobody writes while the kernel runs: by the read-only path, and free to move over stores. Compilers
// see that of pointers that are arguments, not of those in a struct.
template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_constant(const T* from) {
#ifdef MLFF_HOST
    return load<N>(from);
#else
    Pack<T, N> out;
    if constexpr (sizeof(out) % 16 == 0) {
#pragma unroll
        for (int i = 0; i < int(sizeof(out) / 16); i++) {
            reinterpret_cast<float4*>(&out)[i] = __ldg(reinterpret_cast<const float4*>(from) + i);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) out.at[i] = __ldg(from + i);
    }
    return out;
#endif
}

template <typename T>
__device__ __forceinline__ T constant(const T* from) {
    return load_constant<1>(from).at[0];
}

template <int N, typename T>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Whether rows of `width` elements from `base` may be read as packs of four; true for a null pointer.
template <typename T>
__device__ __forceinline__ bool packs_of_four(const T* base, u32 width) {
    return width % 4 == 0 && reinterpret_cast<unsigned long long>(base) % alignof(Pack<T, 4>) == 0;
}

template <typename T>
__device__ __forceinline__ T sigmoid(T x) {
    return T(1) / (T(1) + exp(-x));
}

template <typename T>
__device__ __forceinline__ T silu(T x) {
    return x * sigmoid(x);
}

template <typename T>
__device__ __forceinline__ T silu_slope(T x) {
    const T s = sigmoid(x);
    return s * (T(1) + x * (T(1) - s));
}

// Activations by number, as src/cuda/launcher.rs passes them.
enum Activation : u32 { IDENTITY = 0, SILU = 1 };

template <typename T>
__device__ __forceinline__ T activate(u32 activation, T x) {
    return activation == SILU ? silu(x) : x;
}

// Radial functions by number, as src/cuda/launcher.rs passes them.
enum Functions : u32 {
    GAUSSIAN = 0,  // exp(-½ ((d - center) / width)²), parameters: centers, widths
    BESSEL = 1,    // sin(frequency d) / d, parameters: frequencies
};

__device__ __forceinline__ void sin_cos(float x, float* s, float* c) { sincosf(x, s, c); }
__device__ __forceinline__ void sin_cos(double x, double* s, double* c) { sincos(x, s, c); }
__device__ __forceinline__ void sin_cos_pi(float x, float* s, float* c) { sincospif(x, s, c); }
__device__ __forceinline__ void sin_cos_pi(double x, double* s, double* c) { sincospi(x, s, c); }

// Cosine cutoff ½ (cos(π d / cutoff) + 1) and its derivative; zero from the cutoff on.
template <typename T>
__device__ __forceinline__ void envelope_at(T d, T cutoff, T* value, T* slope) {
    T s, c;
    sin_cos_pi(d / cutoff, &s, &c);
    const bool inside = d < cutoff;
    *value = inside ? T(0.5) * (c + T(1)) : T(0);
    *slope = inside ? T(-0.5) * (T(3.14159265358979323846) / cutoff) * s : T(0);
}

template <typename T>
__device__ __forceinline__ void function_at(u32 kind, T first, T inverse_width, T d, T inverse_d, T* value,
                                            T* derivative) {
    if (kind == GAUSSIAN) {
        const T x = (d - first) * inverse_width;
        *value = exp(T(-0.5) * x * x);
        *derivative = -*value * x * inverse_width;
    } else {
        T s, c;
        sin_cos(first * d, &s, &c);
        *value = s * inverse_d;
        *derivative = (first * c - *value) * inverse_d;
    }
}

constexpr u32 ALL_LANES = 0xffffffffu;
constexpr u32 WARP = 32;

// Sum over `lanes` neighbouring lanes, the same tree on every run; all lanes get it.
template <int lanes, typename T>
__device__ __forceinline__ T lanes_sum(T x) {
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, distance);
    }
    return x;
}

// One step of a reduction of N values at once over pairs of lanes: the lane whose bit `distance` is clear keeps the pair's
// sums of the first half in x[0..N/2], the other lane those of the second half. Half the shuffles of N separate sums.
template <int N, typename T>
__device__ __forceinline__ void fold_lanes(T* x, u32 distance) {
    const bool upper = (threadIdx.x & distance) != 0;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const T kept = upper ? x[i + N / 2] : x[i];
        const T given = upper ? x[i] : x[i + N / 2];
        x[i] = kept + __shfl_xor_sync(ALL_LANES, given, distance);
    }
}

// Sums of N values over a block of at most 32 warps; every thread of the first warp gets them. `scratch` holds
// N * (blockDim.x / 32) elements and is free again after the caller's next __syncthreads().
template <int N, typename T>
__device__ __forceinline__ void block_sum(T (&x)[N], T* scratch) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n_warps = blockDim.x / WARP;
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = lanes_sum<WARP>(x[i]);
        if (lane == 0) scratch[warp * N + i] = x[i];
    }
    __syncthreads();
    if (warp == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            x[i] = scratch[i];
            for (u32 w = 1; w < n_warps; w++) x[i] += scratch[w * N + i];
        }
    }
}

// Shared memory of the size that the launch gives. The host's shim has its own definition, with bounds that are checked.
#ifndef DYNAMIC_SHARED
extern __shared__ __align__(16) unsigned char dynamic_shared[];
#define DYNAMIC_SHARED(T) reinterpret_cast<T*>(dynamic_shared)
#endif
