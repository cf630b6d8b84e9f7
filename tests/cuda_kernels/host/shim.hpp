// Enough of CUDA C++ to run a kernel's own source on the host: included before it with `-include`.
//
// Threads of a block are fibers on one thread of the host. A fiber runs until it waits at __syncthreads() or a shuffle;
// a warp runs to the next __syncthreads() before the next warp starts, in rising or in falling order of warps and lanes.
// Between two barriers a correct kernel gives the same bits in both orders, so a missing barrier shows as a difference.
// Blocks run one after the other, in the same order.
//
// What it refuses: a barrier or a shuffle that not all threads reach, and (through the sanitizers) every access outside
// an array, shared memory included, and every access that is not aligned as its type says.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define MLFF_HOST
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// One block runs at a time: static storage is its shared memory.
#define __shared__ static
#define DYNAMIC_SHARED(T) reinterpret_cast<T*>(shim::dynamic_shared())

namespace shim {

struct Dim3 {
    unsigned x, y, z;
};
extern Dim3 thread_index, block_index, block_size, grid_size;

void* dynamic_shared();
void wait_for_block();
void wait_for_cluster();
// The place in another block of the cluster that is the given one in this block's dynamic shared memory.
void* in_block(void* at, unsigned block);
template <typename T>
T* in_block(T* at, unsigned block) {
    return static_cast<T*>(in_block(static_cast<void*>(at), block));
}
// Gives `value` to the other lanes of the warp and returns that of `lane`.
std::uint64_t exchange(std::uint64_t value, unsigned lane);
// Gives six numbers to the other lanes of the warp and returns the first of its 32 lanes' numbers.
const double (*exchange_operands(const double (&own)[6]))[6];

// c += A B as `mma` has the operands of 16 rows, 8 columns and 8 terms spread over the lanes.
template <typename T>
void multiply(T (&c)[4], const T (&a)[4], const T (&b)[2]) {
    const unsigned lane = thread_index.x % 32;
    const double (*of)[6] = exchange_operands({a[0], a[1], a[2], a[3], b[0], b[1]});
    for (unsigned k = 0; k < 8; k++) {
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 * 4 + k % 4, column = (lane % 4 * 2 + i % 2) * 4 + k % 4;
            c[i] += T(of[row][(k < 4 ? 0 : 2) + i / 2]) * T(of[column][k < 4 ? 4 : 5]);
        }
    }
}

}  // namespace shim

#define threadIdx (shim::thread_index)
#define blockIdx (shim::block_index)
#define blockDim (shim::block_size)
#define gridDim (shim::grid_size)

inline void __syncthreads() { shim::wait_for_block(); }

template <typename T>
T __shfl_sync(unsigned mask, T value, unsigned lane) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
    std::uint64_t word = 0;
    std::memcpy(&word, &value, sizeof(T));
    if (mask != 0xffffffffu) __builtin_trap();
    word = shim::exchange(word, lane);
    std::memcpy(&value, &word, sizeof(T));
    return value;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, unsigned distance) {
    return __shfl_sync(mask, value, (threadIdx.x % 32) ^ distance);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
    const unsigned lane = threadIdx.x % 32;
    return __shfl_sync(mask, value, lane < distance ? lane : lane - distance);
}
inline void __syncwarp() { shim::exchange(0, threadIdx.x % 32); }
inline unsigned __ballot_sync(unsigned mask, bool bit) {
    if (mask != 0xffffffffu) __builtin_trap();
    const unsigned lane = threadIdx.x % 32;
    unsigned bits = bit ? 1u << lane : 0;
    for (unsigned distance = 1; distance < 32; distance *= 2) bits |= __shfl_xor_sync(mask, bits, distance);
    return bits;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }

using std::exp;
using std::min;
using std::sqrt;

inline void sincospi(double x, double* s, double* c) {
    *s = std::sin(M_PI * x);
    *c = std::cos(M_PI * x);
}
inline void sincospif(float x, float* s, float* c) {
    double sine, cosine;
    sincospi(x, &sine, &cosine);
    *s = float(sine);
    *c = float(cosine);
}
