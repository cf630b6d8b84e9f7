// message: what neighbours send, filtered and summed at the receiver, with the filter's weights in registers.
//
// Source: Schütt, Unke, Gastegger, ICML 2021, eqs. 7 and 8, in the layout of SchNetPack 2 (`PaiNNInteraction`).
//
// A thread owns one feature and keeps that feature's weights of all radial functions in registers; values of the functions
// are put into shared memory for some edges at a time, where one read serves a warp. A filter is used where it is made:
// nothing of an edge is stored but its geometry. No sum over edges crosses threads.
//
// There are two ways over the edges. `message_*` gives a block consecutive atoms and walks their edges, which are neighbours
// in memory. `message_pairs_*` gives a block a whole molecule and walks its pairs, so that one filter serves both
// directions; what an atom gets from lower ones is summed in shared memory. An atom's sum is in both that of what lower
// neighbours send, in rising order, plus that of what higher ones send: both give the same bits.
#include "painn.cuh"

constexpr u32 N_RADIAL = MLFF_RADIAL;
constexpr u32 N_K = N_RADIAL + 1;         // radial functions times envelope, and the envelope
constexpr u32 K_ROW = (N_K + 3) / 4 * 4;
constexpr u32 LANES = F >= 128 ? 128 : (F + 31) / 32 * 32;  // threads of a block: a tile of features
constexpr u32 STAGE = 32;                 // edges between two barriers
constexpr u32 BLOCK_WARPS = LANES / WARP;
// Weights of many functions stay in memory.
constexpr bool IN_REGISTERS = N_K <= 32;

// A thread's weights, [N_K, 3].
struct Filter {
    real at[IN_REGISTERS ? N_K : 1][3];
    const real* from;

    __device__ __forceinline__ Filter(const real* weights, u32 f) : from(weights + f) {
        if (IN_REGISTERS) {
#pragma unroll
            for (u32 k = 0; k < N_K; k++) {
#pragma unroll
                for (u32 part = 0; part < 3; part++) at[IN_REGISTERS ? k : 0][part] = from[(size_t(k) * 3 + part) * F];
            }
        }
    }
    __device__ __forceinline__ real weight(u32 k, u32 part) const {
        return IN_REGISTERS ? at[IN_REGISTERS ? k : 0][part] : from[(size_t(k) * 3 + part) * F];
    }
};

// out[b][part] = Σ_k weights[k, part] functions[b, k] for PARTS of the three parts and N edges.
template <int PARTS, u32 N>
__device__ __forceinline__ void filters_of(const Filter& filter, const real* functions, real (&out)[N][PARTS]) {
#pragma unroll
    for (u32 b = 0; b < N; b++) {
#pragma unroll
        for (int part = 0; part < PARTS; part++) out[b][part] = real(0);
    }
#pragma unroll
    for (u32 k = 0; k < N_K; k += 4) {
#pragma unroll
        for (u32 b = 0; b < N; b++) {
            const Pack<real, 4> value = load<4>(functions + b * K_ROW + k);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                if (k + i < N_K) {
#pragma unroll
                    for (int part = 0; part < PARTS; part++) {
                        out[b][part] = fma(filter.weight(k + i, part), value.at[i], out[b][part]);
                    }
                }
            }
        }
    }
}

// Values, and derivatives where asked for, of the radial functions times envelope for the edges of a stage; zero for the
// edges that are not there. `edge_of(b)` is the number of edge b.
template <bool SLOPES, typename EdgeOf>
__device__ __forceinline__ void radial_functions(const real* geometry, u32 n_staged, EdgeOf edge_of, const real* radial,
                                                 real cutoff, real* values, real* slopes) {
    constexpr u32 PER_EDGE = LANES / STAGE;
    const u32 b = threadIdx.x / PER_EDGE;
    const bool is_there = b < n_staged;
    real d = cutoff, envelope = 0, envelope_slope = 0;
    if (is_there) {
        d = geometry[size_t(edge_of(b)) * 4];
        envelope_at(d, cutoff, &envelope, &envelope_slope);
    }
    const real inverse_d = real(1) / d;
    for (u32 k = threadIdx.x % PER_EDGE; k < K_ROW; k += PER_EDGE) {
        real value = 0, slope = 0;
        if (is_there && k < N_RADIAL) {
            real function, derivative;
            function_at(MLFF_FUNCTIONS, radial[k], radial[N_RADIAL + k], d, inverse_d, &function, &derivative);
            value = function * envelope;
            slope = derivative * envelope + function * envelope_slope;
        } else if (k == N_RADIAL) {
            value = envelope;
            slope = envelope_slope;
        }
        values[b * K_ROW + k] = value;
        if (SLOPES) slopes[b * K_ROW + k] = slope;
    }
}

// One feature of an atom as messages read it. In the first layer vectors are zero, and the third part of the context meets
// nothing but them.
template <bool FIRST>
struct Node {
    real x[FIRST ? 2 : 3], mu[3];

    // `row`, of contexts and vectors: the atom, or its species in the first layer.
    __device__ __forceinline__ void fetch(const real* contexts, const real* vectors, u32 row, u32 f) {
        const size_t at = size_t(row) * 3 * F + f;
#pragma unroll
        for (int part = 0; part < (FIRST ? 2 : 3); part++) x[part] = contexts[at + part * F];
#pragma unroll
        for (int a = 0; a < 3; a++) mu[a] = FIRST ? real(0) : vectors[at + a * F];
    }
};

// One feature of scalars and vectors: what an atom receives, or the cotangent of it.
struct Sums {
    real q, mu[3];

    __device__ __forceinline__ void clear() { q = mu[0] = mu[1] = mu[2] = real(0); }
    __device__ __forceinline__ void fetch(const real* scalars, const real* vectors, u32 atom, u32 f) {
        q = scalars[size_t(atom) * F + f];
#pragma unroll
        for (int a = 0; a < 3; a++) mu[a] = vectors[(size_t(atom) * 3 + a) * F + f];
    }
};

// c + a b, rounded twice: opposite products cancel exactly, which fused ones do not.
__device__ __forceinline__ float add_product(float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); }
__device__ __forceinline__ double add_product(double a, double b, double c) { return __dadd_rn(__dmul_rn(a, b), c); }

// Adds the message that `sender` sends along the direction u, with the filter w.
template <bool FIRST>
__device__ __forceinline__ void receive(Sums& sums, const Node<FIRST>& sender, const real* u, const real* w) {
    const real along = w[1] * sender.x[1];
    sums.q = fma(w[0], sender.x[0], sums.q);
    // At an atom between equal neighbours vectors are zero, and the derivative of their norm turns sharply there: what is left
    // of them by rounding moves forces of CO2 by 1e-4 eV/Å where epsilon is 1e-8.
#pragma unroll
    for (int a = 0; a < 3; a++) sums.mu[a] = add_product(along, u[a], sums.mu[a]);
    if (!FIRST) {
        const real factor = w[FIRST ? 0 : 2] * sender.x[FIRST ? 0 : 2];
#pragma unroll
        for (int a = 0; a < 3; a++) sums.mu[a] = add_product(factor, sender.mu[a], sums.mu[a]);
    }
}

// Pulls the cotangent `grad` of what an atom received along u back to its sender, with the filter and its derivative.
//
// OUT grad_x, grad_mu: accumulated, not in the first layer; edge[4]: cotangents of the length, and of the direction that
//     leads from the sender to the receiver, which is -u.
template <bool FIRST>
__device__ __forceinline__ void send_vjp(const Sums& grad, const Node<FIRST>& sender, const real* u, const real* w,
                                         const real* slope, real* grad_x, real* grad_mu, real* edge) {
    real on_direction = 0, on_vector = 0;
#pragma unroll
    for (int a = 0; a < 3; a++) {
        on_direction = fma(grad.mu[a], u[a], on_direction);
        if (!FIRST) on_vector = fma(grad.mu[a], sender.mu[a], on_vector);
    }
    const real along = w[1] * sender.x[1];
    real on_length = grad.q * sender.x[0] * slope[0];
    on_length = fma(on_direction * sender.x[1], slope[1], on_length);
    if (!FIRST) {
        constexpr int V = FIRST ? 0 : 2;
        const real factor = w[V] * sender.x[V];
        on_length = fma(on_vector * sender.x[V], slope[V], on_length);
        grad_x[0] = fma(grad.q, w[0], grad_x[0]);
        grad_x[1] = fma(on_direction, w[1], grad_x[1]);
        grad_x[2] = fma(on_vector, w[V], grad_x[2]);
#pragma unroll
        for (int a = 0; a < 3; a++) grad_mu[a] = fma(grad.mu[a], factor, grad_mu[a]);
    }
    edge[0] = on_length;
#pragma unroll
    for (int a = 0; a < 3; a++) edge[1 + a] = -along * grad.mu[a];
}

// Sums of 16 values over the lanes of a warp: lanes 2 s and 2 s + 1 get number s.
__device__ __forceinline__ real sums_of_16(real (&values)[16]) {
    fold_lanes<16>(values, 16);
    fold_lanes<8>(values, 8);
    fold_lanes<4>(values, 4);
    fold_lanes<2>(values, 2);
    return values[0] + __shfl_xor_sync(ALL_LANES, values[0], 1);
}

// Sums the messages that each atom receives. For edge e = (i <- j), with W the filter of its length:
// q_i += Σ W₀ x₀_j, µ_i += Σ (W₁ x₁_j) u_e + (W₂ x₂_j) µ_j. In the first layer vectors are zero and an atom's context is
// that of its species.
//
// IN  edge_ptr [n_atoms + 1]; senders [n_edges]; geometry [n_edges, 4]; radial [2, N_RADIAL], centres and inverse widths, or
//     frequencies; weights [N_K, 3, F]; contexts [n_atoms, 3F] (first: [n_species, 3F]); species [n_atoms] and embedding
//     [n_species, F] (first only); vectors [n_atoms, 3, F] (not first).
// OUT scalars [n_atoms, F], accumulated (first: overwritten); moved [n_atoms, 3, F], overwritten.
// SAVED for the VJP: contexts, vectors.
// LAUNCH grid (groups of atoms_per_block atoms, tiles of LANES features), LANES threads.
template <bool FIRST>
__device__ __forceinline__ void message_forward(u32 n_atoms, u32 atoms_per_block, real cutoff, const u32* edge_ptr,
                                                const u32* senders, const real* geometry, const real* radial,
                                                const real* weights, const real* contexts, const u32* species,
                                                const real* embedding, const real* vectors, real* scalars, real* moved) {
    constexpr u32 BATCH = 4;  // edges whose filters are in registers
    __shared__ __align__(16) real functions[STAGE][K_ROW];
    __shared__ real direction_of[STAGE][3];
    __shared__ u32 sender_of[STAGE], row_of[STAGE];
    const u32 t = threadIdx.x, f = blockIdx.y * LANES + t;
    const bool owner = f < F;
    const u32 own_f = owner ? f : F - 1;
    const u32 first = blockIdx.x * atoms_per_block, last = min(first + atoms_per_block, n_atoms);
    const u32 first_edge = edge_ptr[first], last_edge = edge_ptr[last];
    const Filter filter(weights, own_f);

    u32 atom = first, end = edge_ptr[first + 1];
    Sums sums, lower;  // of what higher neighbours, or all so far, send; of what lower ones do
    sums.clear();
    lower.clear();
    bool is_upper = false;
    const auto flush = [&]() {
        if (owner) {
            real* const q = scalars + size_t(atom) * F + f;
            *q = (FIRST ? embedding[size_t(species[atom]) * F + f] : *q) + (lower.q + sums.q);
#pragma unroll
            for (int a = 0; a < 3; a++) {
                const size_t at = (size_t(atom) * 3 + a) * F + f;
                const real change = lower.mu[a] + sums.mu[a];
                moved[at] = FIRST ? change : vectors[at] + change;
            }
        }
        sums.clear();
        lower.clear();
        is_upper = false;
    };
    for (u32 staged = first_edge; staged < last_edge; staged += STAGE) {
        const u32 n_staged = min(STAGE, last_edge - staged);
        __syncthreads();
        radial_functions<false>(geometry, n_staged, [&](u32 b) { return staged + b; }, radial, cutoff, &functions[0][0],
                                nullptr);
        for (u32 b = t; b < STAGE; b += LANES) {
            // An edge that is not there has a filter of zero.
            const u32 e = staged + (b < n_staged ? b : 0), sender = senders[e];
            sender_of[b] = sender;
            row_of[b] = FIRST ? species[sender] : sender;
#pragma unroll
            for (int a = 0; a < 3; a++) direction_of[b][a] = geometry[size_t(e) * 4 + 1 + a];
        }
        __syncthreads();
        for (u32 batch = 0; batch < n_staged; batch += BATCH) {
            Node<FIRST> sender[BATCH];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) sender[b].fetch(contexts, vectors, row_of[batch + b], own_f);
            real w[BATCH][FIRST ? 2 : 3];
            filters_of(filter, functions[batch], w);
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                if (batch + b < n_staged) {
                    while (staged + batch + b >= end) {
                        flush();
                        atom++;
                        end = edge_ptr[atom + 1];
                    }
                    if (!is_upper && sender_of[batch + b] > atom) {
                        lower = sums;
                        sums.clear();
                        is_upper = true;
                    }
                    receive(sums, sender[b], direction_of[batch + b], w[b]);
                }
            }
        }
    }
    for (; atom < last; atom++) flush();
}

// The same for whole molecules, pair by pair.
//
// IN  as above; atom_ptr [n_structures + 1]; pair_ptr [n_atoms + 1]: pairs of each atom with higher ones; pairs [n_pairs, 2]:
//     edge and its receiver, the lower atom, in rising order.
// LAUNCH grid (structures, tiles of LANES features), LANES threads; dynamic shared memory of 4 LANES elements for each atom of
//     the largest structure.
template <bool FIRST>
__device__ __forceinline__ void message_pairs_forward(real cutoff, const u32* atom_ptr, const u32* pair_ptr,
                                                      const u32* pairs, const u32* senders, const real* geometry,
                                                      const real* radial, const real* weights, const real* contexts,
                                                      const u32* species, const real* embedding, const real* vectors,
                                                      real* scalars, real* moved) {
    constexpr u32 BATCH = 4;
    __shared__ __align__(16) real functions[STAGE][K_ROW];
    __shared__ real direction_of[STAGE][3];
    __shared__ u32 atoms_of[STAGE][2], row_of[STAGE];
    const u32 t = threadIdx.x, f = blockIdx.y * LANES + t;
    const bool owner = f < F;
    const u32 own_f = owner ? f : F - 1;
    const u32 first = atom_ptr[blockIdx.x], last = atom_ptr[blockIdx.x + 1];
    if (first == last) return;
    const u32 first_pair = pair_ptr[first], last_pair = pair_ptr[last];
    const Filter filter(weights, own_f);
    real* const received = DYNAMIC_SHARED(real) + t;  // [n_atoms, 4, LANES], the thread's own column
    for (u32 i = 0; i < 4 * (last - first); i++) received[i * LANES] = real(0);

    u32 atom = ~0u;
    Node<FIRST> own;
    Sums sums;
    const auto flush = [&]() {
        if (atom == ~0u) return;
        real* const at = received + (atom - first) * 4 * LANES;
        at[0] += sums.q;
#pragma unroll
        for (int a = 0; a < 3; a++) at[(1 + a) * LANES] += sums.mu[a];
    };
    for (u32 staged = first_pair; staged < last_pair; staged += STAGE) {
        const u32 n_staged = min(STAGE, last_pair - staged);
        __syncthreads();
        radial_functions<false>(geometry, n_staged, [&](u32 b) { return pairs[2 * size_t(staged + b)]; }, radial, cutoff,
                                &functions[0][0], nullptr);
        for (u32 b = t; b < STAGE; b += LANES) {
            const size_t pair = staged + (b < n_staged ? b : 0);
            const u32 e = pairs[2 * pair], sender = senders[e];
            atoms_of[b][0] = pairs[2 * pair + 1];
            atoms_of[b][1] = sender;
            row_of[b] = FIRST ? species[sender] : sender;
#pragma unroll
            for (int a = 0; a < 3; a++) direction_of[b][a] = geometry[size_t(e) * 4 + 1 + a];
        }
        __syncthreads();
        for (u32 batch = 0; batch < n_staged; batch += BATCH) {
            Node<FIRST> sender[BATCH];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) sender[b].fetch(contexts, vectors, row_of[batch + b], own_f);
            real w[BATCH][FIRST ? 2 : 3];
            filters_of(filter, functions[batch], w);
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                if (batch + b < n_staged) {
                    if (atoms_of[batch + b][0] != atom) {
                        flush();
                        atom = atoms_of[batch + b][0];
                        sums.clear();
                        own.fetch(contexts, vectors, FIRST ? species[atom] : atom, own_f);
                    }
                    const real* const u = direction_of[batch + b];
                    receive(sums, sender[b], u, w[b]);
                    const real opposite[3] = {-u[0], -u[1], -u[2]};
                    real* const at = received + (atoms_of[batch + b][1] - first) * 4 * LANES;
                    Sums other;
                    other.q = at[0];
#pragma unroll
                    for (int a = 0; a < 3; a++) other.mu[a] = at[(1 + a) * LANES];
                    receive(other, own, opposite, w[b]);
                    at[0] = other.q;
#pragma unroll
                    for (int a = 0; a < 3; a++) at[(1 + a) * LANES] = other.mu[a];
                }
            }
        }
    }
    flush();
    if (!owner) return;
    for (u32 i = first; i < last; i++) {
        const real* const at = received + (i - first) * 4 * LANES;
        real* const q = scalars + size_t(i) * F + f;
        *q = (FIRST ? embedding[size_t(species[i]) * F + f] : *q) + at[0];
#pragma unroll
        for (int a = 0; a < 3; a++) {
            const size_t to = (size_t(i) * 3 + a) * F + f;
            moved[to] = FIRST ? at[(1 + a) * LANES] : vectors[to] + at[(1 + a) * LANES];
        }
    }
}

// Pulls the cotangents of what atoms received back to what they sent, and to the edges.
//
// Atom j's edges are those that it receives along; the same pairs are those that it sends along, with the opposite
// direction. So its own row stays in registers and only the receivers' cotangents are gathered.
//
// IN  as the forward; grad_scalars [n_atoms, F], grad_vectors [n_atoms, 3, F] of what messages made.
// OUT grad_contexts [n_atoms, 3F], grad_sent [n_atoms, 3, F] = grad_vectors and what came through messages (not first),
//     overwritten; cotangents [tiles of features, n_edges, 4], of the length and the direction of each edge e, as far as
//     they come from what its receiver sends along the reverse edge: accumulated, or overwritten where `add` is 0.
// LAUNCH as the forward.
template <bool FIRST>
__device__ __forceinline__ void message_vjp(u32 n_atoms, u32 atoms_per_block, u32 add, real cutoff, const u32* edge_ptr,
                                            const u32* senders, const real* geometry, const real* radial,
                                            const real* weights, const real* contexts, const u32* species,
                                            const real* vectors, const real* grad_scalars, const real* grad_vectors,
                                            real* grad_contexts, real* grad_sent, real* cotangents) {
    constexpr u32 BATCH = 4;
    __shared__ __align__(16) real values[STAGE][K_ROW];
    __shared__ __align__(16) real slopes[STAGE][K_ROW];
    __shared__ real direction_of[STAGE][3];
    __shared__ u32 neighbor_of[STAGE];
    __shared__ real parts[BLOCK_WARPS][STAGE * 4];
    const u32 t = threadIdx.x, f = blockIdx.y * LANES + t, lane = t % WARP;
    const bool owner = f < F;
    const u32 own_f = owner ? f : F - 1;
    const u32 first = blockIdx.x * atoms_per_block, last = min(first + atoms_per_block, n_atoms);
    const u32 first_edge = edge_ptr[first], last_edge = edge_ptr[last], n_edges = edge_ptr[n_atoms];
    const Filter filter(weights, own_f);
    real* const cotangent_rows = cotangents + size_t(blockIdx.y) * n_edges * 4;

    u32 atom = first, end = edge_ptr[first + 1];
    Node<FIRST> own;
    real grads[6] = {}, lower[6] = {};
    bool is_upper = false;
    const auto fetch = [&]() { own.fetch(contexts, vectors, FIRST ? species[atom] : atom, own_f); };
    const auto flush = [&]() {
        if (FIRST) return;
        const size_t row = size_t(atom) * 3 * F + f;
        if (owner) {
#pragma unroll
            for (int a = 0; a < 3; a++) {
                grad_contexts[row + a * F] = lower[a] + grads[a];
                grad_sent[row + a * F] = grad_vectors[row + a * F] + (lower[3 + a] + grads[3 + a]);
            }
        }
#pragma unroll
        for (int c = 0; c < 6; c++) grads[c] = lower[c] = real(0);
        is_upper = false;
    };
    fetch();
    for (u32 staged = first_edge; staged < last_edge; staged += STAGE) {
        const u32 n_staged = min(STAGE, last_edge - staged);
        __syncthreads();
        radial_functions<true>(geometry, n_staged, [&](u32 b) { return staged + b; }, radial, cutoff, &values[0][0],
                               &slopes[0][0]);
        for (u32 b = t; b < STAGE; b += LANES) {
            const u32 e = staged + (b < n_staged ? b : 0);
            neighbor_of[b] = senders[e];
#pragma unroll
            for (int a = 0; a < 3; a++) direction_of[b][a] = -geometry[size_t(e) * 4 + 1 + a];
        }
        __syncthreads();
        for (u32 batch = 0; batch < n_staged; batch += BATCH) {
            Sums grad[BATCH];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) grad[b].fetch(grad_scalars, grad_vectors, neighbor_of[batch + b], own_f);
            constexpr int PARTS = FIRST ? 2 : 3;
            real w[BATCH][PARTS], slope[BATCH][PARTS], edge[4 * BATCH];
            filters_of(filter, values[batch], w);
            filters_of(filter, slopes[batch], slope);
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                if (batch + b < n_staged) {
                    if (staged + batch + b >= end) {
                        do {
                            flush();
                            atom++;
                            end = edge_ptr[atom + 1];
                        } while (staged + batch + b >= end);
                        fetch();
                    }
                    if (!FIRST && !is_upper && neighbor_of[batch + b] > atom) {
#pragma unroll
                        for (int c = 0; c < 6; c++) {
                            lower[c] = grads[c];
                            grads[c] = real(0);
                        }
                        is_upper = true;
                    }
                }
                // An edge that is not there has a filter of zero.
                send_vjp(grad[b], own, direction_of[batch + b], w[b], slope[b], grads, grads + 3, edge + 4 * b);
#pragma unroll
                for (int c = 0; c < 4; c++) edge[4 * b + c] = owner ? edge[4 * b + c] : real(0);
            }
            const real sum = sums_of_16(edge);
            if (lane % 2 == 0) parts[t / WARP][batch * 4 + lane / 2] = sum;
        }
        __syncthreads();
        for (u32 i = t; i < 4 * n_staged; i += LANES) {
            real total = parts[0][i];
#pragma unroll
            for (u32 warp = 1; warp < BLOCK_WARPS; warp++) total += parts[warp][i];
            real* const at = cotangent_rows + size_t(staged) * 4 + i;
            *at = add ? *at + total : total;
        }
    }
    for (; atom < last; atom++) flush();
}

// The same for whole molecules, pair by pair.
//
// IN  as above, and as message_pairs_forward; edge_ptr's last, n_edges; reverse_edge [n_edges].
// LAUNCH as message_pairs_forward, with 6 LANES elements of dynamic shared memory an atom.
template <bool FIRST>
__device__ __forceinline__ void message_pairs_vjp(u32 n_atoms, u32 add, real cutoff, const u32* atom_ptr,
                                                  const u32* pair_ptr, const u32* pairs, const u32* senders,
                                                  const u32* reverse_edge, const real* geometry, const real* radial,
                                                  const real* weights, const real* contexts, const u32* species,
                                                  const real* vectors, const real* grad_scalars,
                                                  const real* grad_vectors, real* grad_contexts, real* grad_sent,
                                                  real* cotangents) {
    constexpr u32 BATCH = 2;  // 16 sums: four for each direction
    __shared__ __align__(16) real values[STAGE][K_ROW];
    __shared__ __align__(16) real slopes[STAGE][K_ROW];
    __shared__ real direction_of[STAGE][3];
    __shared__ u32 atoms_of[STAGE][2], edges_of[STAGE][2];
    __shared__ real parts[BLOCK_WARPS][STAGE * 8];
    const u32 t = threadIdx.x, f = blockIdx.y * LANES + t, lane = t % WARP;
    const bool owner = f < F;
    const u32 own_f = owner ? f : F - 1;
    const u32 first = atom_ptr[blockIdx.x], last = atom_ptr[blockIdx.x + 1];
    if (first == last) return;
    const u32 first_pair = pair_ptr[first], last_pair = pair_ptr[last];
    // A pair is two edges.
    real* const cotangent_rows = cotangents + size_t(blockIdx.y) * 2 * pair_ptr[n_atoms] * 4;
    const Filter filter(weights, own_f);
    real* const sent = DYNAMIC_SHARED(real) + t;  // [n_atoms, 6, LANES], the thread's own column
    if (!FIRST) {
        for (u32 i = 0; i < 6 * (last - first); i++) sent[i * LANES] = real(0);
    }

    u32 atom = ~0u;
    Node<FIRST> own;
    Sums own_grad;
    real grads[6] = {};
    const auto flush = [&]() {
        if (FIRST || atom == ~0u) return;
        real* const at = sent + (atom - first) * 6 * LANES;
#pragma unroll
        for (int c = 0; c < 6; c++) {
            at[c * LANES] += grads[c];
            grads[c] = real(0);
        }
    };
    for (u32 staged = first_pair; staged < last_pair; staged += STAGE) {
        const u32 n_staged = min(STAGE, last_pair - staged);
        __syncthreads();
        radial_functions<true>(geometry, n_staged, [&](u32 b) { return pairs[2 * size_t(staged + b)]; }, radial, cutoff,
                               &values[0][0], &slopes[0][0]);
        for (u32 b = t; b < STAGE; b += LANES) {
            const size_t pair = staged + (b < n_staged ? b : 0);
            const u32 e = pairs[2 * pair];
            atoms_of[b][0] = pairs[2 * pair + 1];
            atoms_of[b][1] = senders[e];
            edges_of[b][0] = e;
            edges_of[b][1] = reverse_edge[e];
#pragma unroll
            for (int a = 0; a < 3; a++) direction_of[b][a] = geometry[size_t(e) * 4 + 1 + a];
        }
        __syncthreads();
        for (u32 batch = 0; batch < n_staged; batch += BATCH) {
            Node<FIRST> other[BATCH];
            Sums grad[BATCH];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                const u32 j = atoms_of[batch + b][1];
                other[b].fetch(contexts, vectors, FIRST ? species[j] : j, own_f);
                grad[b].fetch(grad_scalars, grad_vectors, j, own_f);
            }
            constexpr int PARTS = FIRST ? 2 : 3;
            real w[BATCH][PARTS], slope[BATCH][PARTS], edge[8 * BATCH];
            filters_of(filter, values[batch], w);
            filters_of(filter, slopes[batch], slope);
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                if (atoms_of[batch + b][0] != atom && batch + b < n_staged) {
                    flush();
                    atom = atoms_of[batch + b][0];
                    own.fetch(contexts, vectors, FIRST ? species[atom] : atom, own_f);
                    own_grad.fetch(grad_scalars, grad_vectors, atom, own_f);
                }
                const real* const u = direction_of[batch + b];
                const real opposite[3] = {-u[0], -u[1], -u[2]};
                // What this atom sends along the reverse edge, and what the other one sends along this one.
                send_vjp(grad[b], own, opposite, w[b], slope[b], grads, grads + 3, edge + 8 * b);
                real theirs[6];
                real* const at = sent + (atoms_of[batch + b][1] - first) * 6 * LANES;
                if (!FIRST) {
#pragma unroll
                    for (int c = 0; c < 6; c++) theirs[c] = at[c * LANES];
                }
                send_vjp(own_grad, other[b], u, w[b], slope[b], theirs, theirs + 3, edge + 8 * b + 4);
                if (!FIRST && batch + b < n_staged) {
#pragma unroll
                    for (int c = 0; c < 6; c++) at[c * LANES] = theirs[c];
                }
#pragma unroll
                for (int c = 0; c < 8; c++) edge[8 * b + c] = owner ? edge[8 * b + c] : real(0);
            }
            const real sum = sums_of_16(edge);
            if (lane % 2 == 0) parts[t / WARP][batch * 8 + lane / 2] = sum;
        }
        __syncthreads();
        for (u32 i = t; i < 8 * n_staged; i += LANES) {
            real total = parts[0][i];
#pragma unroll
            for (u32 warp = 1; warp < BLOCK_WARPS; warp++) total += parts[warp][i];
            real* const at = cotangent_rows + size_t(edges_of[i / 8][i / 4 % 2]) * 4 + i % 4;
            *at = add ? *at + total : total;
        }
    }
    flush();
    if (FIRST || !owner) return;
    for (u32 i = first; i < last; i++) {
        const real* const at = sent + (i - first) * 6 * LANES;
        const size_t row = size_t(i) * 3 * F + f;
#pragma unroll
        for (int a = 0; a < 3; a++) {
            grad_contexts[row + a * F] = at[a * LANES];
            grad_sent[row + a * F] = grad_vectors[row + a * F] + at[(3 + a) * LANES];
        }
    }
}

// Two programs, so that they compile side by side.
#define MESSAGE_FORWARD(name, is_first)                                                                                \
    extern "C" __global__ void __launch_bounds__(LANES, MLFF_FORWARD_THREADS / LANES) painn_message_forward##name(     \
        u32 n_atoms, u32 atoms_per_block, real cutoff, const u32* __restrict__ edge_ptr,                               \
        const u32* __restrict__ senders, const real* __restrict__ geometry, const real* __restrict__ radial,           \
        const real* __restrict__ weights, const real* __restrict__ contexts, const u32* __restrict__ species,          \
        const real* __restrict__ embedding, const real* __restrict__ vectors, real* scalars, real* moved) {            \
        message_forward<is_first>(n_atoms, atoms_per_block, cutoff, edge_ptr, senders, geometry, radial, weights,      \
                                  contexts, species, embedding, vectors, scalars, moved);                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(LANES, MLFF_FORWARD_THREADS / LANES)                                  \
        painn_message_pairs_forward##name(                                                                             \
            real cutoff, const u32* __restrict__ atom_ptr, const u32* __restrict__ pair_ptr,                           \
            const u32* __restrict__ pairs, const u32* __restrict__ senders, const real* __restrict__ geometry,         \
            const real* __restrict__ radial, const real* __restrict__ weights, const real* __restrict__ contexts,      \
            const u32* __restrict__ species, const real* __restrict__ embedding, const real* __restrict__ vectors,     \
            real* scalars, real* moved) {                                                                              \
        message_pairs_forward<is_first>(cutoff, atom_ptr, pair_ptr, pairs, senders, geometry, radial, weights,         \
                                        contexts, species, embedding, vectors, scalars, moved);                        \
    }
#define MESSAGE_VJP(name, is_first)                                                                                    \
    extern "C" __global__ void __launch_bounds__(LANES, MLFF_VJP_THREADS / LANES) painn_message_vjp##name(             \
        u32 n_atoms, u32 atoms_per_block, u32 add, real cutoff, const u32* __restrict__ edge_ptr,                      \
        const u32* __restrict__ senders, const real* __restrict__ geometry, const real* __restrict__ radial,           \
        const real* __restrict__ weights, const real* __restrict__ contexts, const u32* __restrict__ species,          \
        const real* __restrict__ vectors, const real* __restrict__ grad_scalars,                                       \
        const real* __restrict__ grad_vectors, real* grad_contexts, real* grad_sent, real* cotangents) {               \
        message_vjp<is_first>(n_atoms, atoms_per_block, add, cutoff, edge_ptr, senders, geometry, radial, weights,     \
                              contexts, species, vectors, grad_scalars, grad_vectors, grad_contexts, grad_sent,        \
                              cotangents);                                                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(LANES, MLFF_VJP_THREADS / LANES) painn_message_pairs_vjp##name(       \
        u32 n_atoms, u32 add, real cutoff, const u32* __restrict__ atom_ptr, const u32* __restrict__ pair_ptr,         \
        const u32* __restrict__ pairs, const u32* __restrict__ senders, const u32* __restrict__ reverse_edge,          \
        const real* __restrict__ geometry, const real* __restrict__ radial, const real* __restrict__ weights,          \
        const real* __restrict__ contexts, const u32* __restrict__ species, const real* __restrict__ vectors,          \
        const real* __restrict__ grad_scalars, const real* __restrict__ grad_vectors, real* grad_contexts,             \
        real* grad_sent, real* cotangents) {                                                                           \
        message_pairs_vjp<is_first>(n_atoms, add, cutoff, atom_ptr, pair_ptr, pairs, senders, reverse_edge, geometry,  \
                                    radial, weights, contexts, species, vectors, grad_scalars, grad_vectors,           \
                                    grad_contexts, grad_sent, cotangents);                                             \
    }
#ifdef MLFF_FORWARD
MESSAGE_FORWARD(, false)
MESSAGE_FORWARD(_first, true)
#endif
#ifdef MLFF_BACKWARD
MESSAGE_VJP(, false)
MESSAGE_VJP(_first, true)
#endif
