// Kernels with one fault each: the tests see that the host finds it.
#include "common.cuh"

// No barrier between writing and reading what other threads wrote.
extern "C" __global__ void faulty_race(u32* out) {
    __shared__ u32 shared[64];
    shared[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = shared[63 - threadIdx.x];
    __syncthreads();
    shared[threadIdx.x] = 0;
}

// One element more than the launch gave.
extern "C" __global__ void faulty_shared(u32* out) {
    u32* shared = DYNAMIC_SHARED(u32);
    shared[threadIdx.x + 1] = threadIdx.x;
    out[threadIdx.x] = shared[threadIdx.x + 1];
}

// One element more than the array has.
extern "C" __global__ void faulty_array(u32* out) { out[threadIdx.x + 1] = 0; }

// A barrier that half of the threads pass by.
extern "C" __global__ void faulty_barrier(u32* out) {
    if (threadIdx.x < 32) __syncthreads();
    out[threadIdx.x] = 1;
}
