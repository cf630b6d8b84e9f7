// update: an atom's scalars and vectors talk to each other. The dense layers around these steps are dense.cu's.
//
// All four kernels are bound by memory: a thread takes V neighbouring features of an atom, four where rows allow it.
#include "arrays.cuh"
#include "common.cuh"

// V features of row `index` of an array [.., F].
template <typename T, int V>
__device__ __forceinline__ Pack<T, V> row_at(const T* rows, size_t index, u32 n_features, u32 f) {
    return load<V>(rows + index * n_features + f);
}

template <typename T, int V>
__device__ __forceinline__ void add_at(T* rows, size_t index, u32 n_features, u32 f, const Pack<T, V>& change) {
    Pack<T, V> sum = load<V>(rows + index * n_features + f);
#pragma unroll
    for (int v = 0; v < V; v++) sum.at[v] += change.at[v];
    store<V>(rows + index * n_features + f, sum);
}

// Norms and inner products of the mixed vectors.
//
// IN  mixed [n_atoms, 3, 2F]: V and W; epsilon.
// OUT invariants [n_atoms, 2F]: sqrt(Σ V² + epsilon) and Σ V W, overwritten.
// SAVED for the VJP: mixed, invariants.   LAUNCH one thread per (atom, 4 features), or per (atom, feature) where rows
// cannot be read in fours.
struct Invariants {
    template <int V, typename T>
    static __device__ __forceinline__ void run(size_t atom, u32 f, u32 n, const InvariantsArrays<T>& a, T epsilon) {
        Pack<T, V> squares{}, products{};
#pragma unroll
        for (int k = 0; k < 3; k++) {
            const Pack<T, V> v = row_at<T, V>(a.mixed, atom * 6 + 2 * k, n, f);
            const Pack<T, V> w = row_at<T, V>(a.mixed, atom * 6 + 2 * k + 1, n, f);
#pragma unroll
            for (int x = 0; x < V; x++) {
                squares.at[x] += v.at[x] * v.at[x];
                products.at[x] += v.at[x] * w.at[x];
            }
        }
#pragma unroll
        // eps inside the root: |v| is not differentiable at v = 0, where isolated atoms sit.
        for (int x = 0; x < V; x++) squares.at[x] = sqrt(squares.at[x] + epsilon);
        store<V>(a.invariants + atom * 2 * n + f, squares);
        store<V>(a.invariants + atom * 2 * n + n + f, products);
    }
};

// IN  mixed, invariants as the forward had them; grad_invariants [n_atoms, 2F].
// OUT grad_mixed [n_atoms, 3, 2F], accumulated; the subgradient zero where a norm is zero.   LAUNCH as the forward.
struct InvariantsVjp {
    template <int V, typename T>
    static __device__ __forceinline__ void run(size_t atom, u32 f, u32 n, const InvariantsArrays<T>& a) {
        Pack<T, V> scale = row_at<T, V>(a.grad_invariants, atom * 2, n, f);
        const Pack<T, V> grad_products = row_at<T, V>(a.grad_invariants, atom * 2 + 1, n, f);
        const Pack<T, V> norms = row_at<T, V>(a.invariants, atom * 2, n, f);
#pragma unroll
        for (int x = 0; x < V; x++) scale.at[x] = norms.at[x] > T(0) ? scale.at[x] / norms.at[x] : T(0);
#pragma unroll
        for (int k = 0; k < 3; k++) {
            const Pack<T, V> v = row_at<T, V>(a.mixed, atom * 6 + 2 * k, n, f);
            const Pack<T, V> w = row_at<T, V>(a.mixed, atom * 6 + 2 * k + 1, n, f);
            Pack<T, V> grad_v, grad_w;
#pragma unroll
            for (int x = 0; x < V; x++) {
                grad_v.at[x] = scale.at[x] * v.at[x] + grad_products.at[x] * w.at[x];
                grad_w.at[x] = grad_products.at[x] * v.at[x];
            }
            add_at<T, V>(a.grad_mixed, atom * 6 + 2 * k, n, f, grad_v);
            add_at<T, V>(a.grad_mixed, atom * 6 + 2 * k + 1, n, f, grad_w);
        }
    }
};

// Gates: Δq = a₀ + a₂ ⟨V, W⟩, Δµ = a₁ W.
//
// IN  gates [n_atoms, 3F]; mixed [n_atoms, 3, 2F]; invariants [n_atoms, 2F].
// OUT change [n_atoms, 4F]: Δq, then Δµ [3, F]; overwritten.
// SAVED for the VJP: the inputs.   LAUNCH as above.
struct Gate {
    template <int V, typename T>
    static __device__ __forceinline__ void run(size_t atom, u32 f, u32 n, const GateArrays<T>& a) {
        Pack<T, V> dq = row_at<T, V>(a.gates, atom * 3, n, f);
        const Pack<T, V> gate = row_at<T, V>(a.gates, atom * 3 + 1, n, f);
        const Pack<T, V> factor = row_at<T, V>(a.gates, atom * 3 + 2, n, f);
        const Pack<T, V> products = row_at<T, V>(a.invariants, atom * 2 + 1, n, f);
#pragma unroll
        for (int x = 0; x < V; x++) dq.at[x] += factor.at[x] * products.at[x];
        store<V>(a.change + atom * 4 * n + f, dq);
#pragma unroll
        for (int k = 0; k < 3; k++) {
            Pack<T, V> w = row_at<T, V>(a.mixed, atom * 6 + 2 * k + 1, n, f);
#pragma unroll
            for (int x = 0; x < V; x++) w.at[x] *= gate.at[x];
            store<V>(a.change + (atom * 4 + k + 1) * n + f, w);
        }
    }
};

// IN  as the forward; grad_change [n_atoms, 4F].
// OUT grad_gates [n_atoms, 3F], grad_mixed [n_atoms, 3, 2F], grad_invariants [n_atoms, 2F], accumulated (no element of
//     V's cotangent and of the norms' is touched).   LAUNCH as above.
struct GateVjp {
    template <int V, typename T>
    static __device__ __forceinline__ void run(size_t atom, u32 f, u32 n, const GateArrays<T>& a) {
        const Pack<T, V> gate = row_at<T, V>(a.gates, atom * 3 + 1, n, f);
        const Pack<T, V> factor = row_at<T, V>(a.gates, atom * 3 + 2, n, f);
        const Pack<T, V> products = row_at<T, V>(a.invariants, atom * 2 + 1, n, f);
        const Pack<T, V> grad_q = row_at<T, V>(a.grad_change, atom * 4, n, f);
        Pack<T, V> grad_gate{}, grad_factor, grad_products;
#pragma unroll
        for (int k = 0; k < 3; k++) {
            const Pack<T, V> w = row_at<T, V>(a.mixed, atom * 6 + 2 * k + 1, n, f);
            Pack<T, V> grad_w = row_at<T, V>(a.grad_change, atom * 4 + k + 1, n, f);
#pragma unroll
            for (int x = 0; x < V; x++) {
                grad_gate.at[x] += grad_w.at[x] * w.at[x];
                grad_w.at[x] *= gate.at[x];
            }
            add_at<T, V>(a.grad_mixed, atom * 6 + 2 * k + 1, n, f, grad_w);
        }
#pragma unroll
        for (int x = 0; x < V; x++) {
            grad_factor.at[x] = grad_q.at[x] * products.at[x];
            grad_products.at[x] = grad_q.at[x] * factor.at[x];
        }
        add_at<T, V>(a.grad_gates, atom * 3, n, f, grad_q);
        add_at<T, V>(a.grad_gates, atom * 3 + 1, n, f, grad_gate);
        add_at<T, V>(a.grad_gates, atom * 3 + 2, n, f, grad_factor);
        add_at<T, V>(a.grad_invariants, atom * 2 + 1, n, f, grad_products);
    }
};

// Runs a step on the features of this thread. The launch gives a thread four features when F allows it; where an array
// starts at an odd address the same thread takes them one by one.
template <typename Step, typename... Args>
__device__ __forceinline__ void per_feature(u32 n_atoms, u32 n, bool aligned, Args... args) {
    const u32 per_thread = n % 4 == 0 ? 4 : 1;
    const u32 threads_per_atom = n / per_thread;
    const size_t thread = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t a = thread / threads_per_atom;
    const u32 f = u32(thread % threads_per_atom) * per_thread;
    if (a >= n_atoms) return;
    if (per_thread == 4 && aligned) {
        Step::template run<4>(a, f, n, args...);
    } else {
        for (u32 k = 0; k < per_thread; k++) Step::template run<1>(a, f + k, n, args...);
    }
}

template <typename... P>
__device__ __forceinline__ bool all_in_fours(u32 n, const P*... pointers) {
    return (packs_of_four(pointers, n) && ...);
}

#define UPDATE(T, suffix)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        update_invariants_forward_##suffix(InvariantsSizes s, InvariantsArrays<T> a, T epsilon) {                      \
        const bool aligned = all_in_fours(s.n_features, a.mixed, a.invariants);                                        \
        per_feature<Invariants>(s.n_atoms, s.n_features, aligned, a, epsilon);                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        update_invariants_vjp_##suffix(InvariantsSizes s, InvariantsArrays<T> a) {                                     \
        const bool aligned = all_in_fours(s.n_features, a.mixed, a.invariants, a.grad_invariants, a.grad_mixed);       \
        per_feature<InvariantsVjp>(s.n_atoms, s.n_features, aligned, a);                                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) update_gate_forward_##suffix(GateSizes s, GateArrays<T> a) {     \
        const bool aligned = all_in_fours(s.n_features, a.gates, a.mixed, a.invariants, a.change);                     \
        per_feature<Gate>(s.n_atoms, s.n_features, aligned, a);                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) update_gate_vjp_##suffix(GateSizes s, GateArrays<T> a) {         \
        const bool aligned = all_in_fours(s.n_features, a.gates, a.mixed, a.invariants, a.grad_change, a.grad_gates,   \
                                          a.grad_mixed, a.grad_invariants);                                            \
        per_feature<GateVjp>(s.n_atoms, s.n_features, aligned, a);                                                     \
    }
UPDATE(float, f32)
UPDATE(double, f64)
