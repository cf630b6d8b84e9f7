// readout: from the network's output per atom to the energy of each structure, summed in f64.
#include "arrays.cuh"
#include "common.cuh"

// energies[s] = Σ (energy_scale outputs[i] + references[i]) over the atoms of structure s.
//
// IN  outputs [n_atoms]; references [n_atoms] f64, eV; atoms_of [n_structures, 2], first atom and one past the last
//     (atoms in no range are padding).
// OUT energies [n_structures] f64, eV, overwritten.
// SAVED for the VJP: nothing.   LAUNCH one block of 128 threads per structure, whatever the batch: the same sums.
template <typename T>
__device__ __forceinline__ void readout_forward(const ReadoutArrays<T>& a, double energy_scale) {
    __shared__ double scratch[4];
    const size_t s = blockIdx.x;
    double sum[1] = {};
    for (u32 i = a.atoms_of[2 * s] + threadIdx.x; i < a.atoms_of[2 * s + 1]; i += blockDim.x) {
        sum[0] += energy_scale * double(a.outputs[i]) + a.references[i];
    }
    block_sum(sum, scratch);
    if (threadIdx.x == 0) a.energies[s] = sum[0];
}

// IN  grad_energies [n_structures] f64.   OUT grad_outputs [n_atoms], accumulated; padding atoms are left alone.
// LAUNCH one block per structure.
template <typename T>
__device__ __forceinline__ void readout_vjp(const ReadoutArrays<T>& a, double energy_scale) {
    const size_t s = blockIdx.x;
    const T grad = T(energy_scale * a.grad_energies[s]);
    for (u32 i = a.atoms_of[2 * s] + threadIdx.x; i < a.atoms_of[2 * s + 1]; i += blockDim.x) a.grad_outputs[i] += grad;
}

#define READOUT(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        readout_forward_##suffix(ReadoutSizes, ReadoutArrays<T> arrays, double energy_scale) {                         \
        readout_forward(arrays, energy_scale);                                                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        readout_vjp_##suffix(ReadoutSizes, ReadoutArrays<T> arrays, double energy_scale) {                             \
        readout_vjp(arrays, energy_scale);                                                                             \
    }
READOUT(float, f32)
READOUT(double, f64)
