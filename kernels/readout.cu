// readout: from the network's output per atom to the energy of each structure, summed in f64.
#include "common.cuh"

// energies[s] = Σ (energy_scale outputs[i] + references[i]) over the atoms of structure s.
//
// IN  outputs [n_atoms]; references [n_atoms] f64, eV; atoms_of [n_structures, 2], first atom and one past the last
//     (atoms in no range are padding).
// OUT energies [n_structures] f64, eV, overwritten.
// SAVED for the VJP: nothing.   LAUNCH one block of 128 threads per structure, whatever the batch: the same sums.
template <typename T>
__device__ __forceinline__ void readout_forward(double energy_scale, const T* outputs, const double* references,
                                                const u32* atoms_of, double* energies) {
    __shared__ double scratch[4];
    const size_t s = blockIdx.x;
    double sum[1] = {};
    for (u32 i = atoms_of[2 * s] + threadIdx.x; i < atoms_of[2 * s + 1]; i += blockDim.x) {
        sum[0] += energy_scale * double(outputs[i]) + references[i];
    }
    block_sum(sum, scratch);
    if (threadIdx.x == 0) energies[s] = sum[0];
}

// IN  grad_energies [n_structures] f64.   OUT grad_outputs [n_atoms], accumulated; padding atoms are left alone.
// LAUNCH one block per structure.
template <typename T>
__device__ __forceinline__ void readout_vjp(double energy_scale, const u32* atoms_of, const double* grad_energies,
                                            T* grad_outputs) {
    const size_t s = blockIdx.x;
    const T grad = T(energy_scale * grad_energies[s]);
    for (u32 i = atoms_of[2 * s] + threadIdx.x; i < atoms_of[2 * s + 1]; i += blockDim.x) grad_outputs[i] += grad;
}

#define READOUT(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        readout_forward_##suffix(double energy_scale, const T* outputs, const double* references, const u32* atoms_of, \
                                 double* energies) {                                                                   \
        readout_forward<T>(energy_scale, outputs, references, atoms_of, energies);                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128) readout_vjp_##suffix(                                            \
        double energy_scale, const u32* atoms_of, const double* grad_energies, T* grad_outputs) {                      \
        readout_vjp<T>(energy_scale, atoms_of, grad_energies, grad_outputs);                                           \
    }
READOUT(float, f32)
READOUT(double, f64)
