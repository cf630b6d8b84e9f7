// message: what neighbours send, filtered and summed at the receiver, with the filter's weights in registers.
//
// Source: Schütt, Unke, Gastegger, ICML 2021, eqs. 7 and 8, in the layout of SchNetPack 2 (`PaiNNInteraction`).
//
// A block takes consecutive atoms and walks their edges, which are neighbours in memory. A thread owns one feature and
// keeps that feature's weights of all radial functions in registers; values of the functions are put into shared memory
// for some edges at a time, where one read serves a warp. A filter is used where it is made: nothing of an edge is stored
// but its geometry. No sum over edges crosses threads.
#include "painn.cuh"

constexpr u32 N_RADIAL = MLFF_RADIAL;
constexpr u32 N_K = N_RADIAL + 1;         // radial functions times envelope, and the envelope
constexpr u32 K_ROW = (N_K + 3) / 4 * 4;
constexpr u32 LANES = F >= 128 ? 128 : (F + 31) / 32 * 32;  // threads of a block: a tile of features
constexpr u32 STAGE = 32;                 // edges between two barriers
constexpr u32 BATCH = 4;                  // edges whose filters are in registers
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

// out[part][b] = Σ_k weights[k, part] functions[b, k] for PARTS of the three parts.
template <int PARTS>
__device__ __forceinline__ void filters_of(const Filter& filter, const real* functions, real (&out)[PARTS][BATCH]) {
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (u32 b = 0; b < BATCH; b++) out[part][b] = real(0);
    }
#pragma unroll
    for (u32 k = 0; k < N_K; k += 4) {
#pragma unroll
        for (u32 b = 0; b < BATCH; b++) {
            const Pack<real, 4> value = load<4>(functions + b * K_ROW + k);
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                if (k + i < N_K) {
#pragma unroll
                    for (int part = 0; part < PARTS; part++) out[part][b] += filter.weight(k + i, part) * value.at[i];
                }
            }
        }
    }
}

// Values, and derivatives where asked for, of the radial functions times envelope for edges of a stage; zero for the edges
// that are not there.
template <bool SLOPES>
__device__ __forceinline__ void radial_functions(const real* geometry, u32 n_staged, const real* radial, real cutoff,
                                                 real* values, real* slopes) {
    constexpr u32 PER_EDGE = LANES / STAGE;
    const u32 e = threadIdx.x / PER_EDGE;
    const bool is_there = e < n_staged;
    real d = cutoff, envelope = 0, envelope_slope = 0;
    if (is_there) {
        d = geometry[size_t(e) * 4];
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
        values[e * K_ROW + k] = value;
        if (SLOPES) slopes[e * K_ROW + k] = slope;
    }
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
    constexpr int PARTS = FIRST ? 2 : 3;
    __shared__ __align__(16) real functions[STAGE][K_ROW];
    __shared__ real direction_of[STAGE][3];
    __shared__ u32 sender_of[STAGE];
    const u32 t = threadIdx.x, f = blockIdx.y * LANES + t;
    const bool owner = f < F;
    const u32 own_f = owner ? f : F - 1;
    const u32 first = blockIdx.x * atoms_per_block, last = min(first + atoms_per_block, n_atoms);
    const u32 first_edge = edge_ptr[first], last_edge = edge_ptr[last];
    const Filter filter(weights, own_f);

    u32 atom = first, end = edge_ptr[first + 1];
    real dq = 0, dmu[3] = {};
    const auto flush = [&]() {
        if (owner) {
            real* const q = scalars + size_t(atom) * F + f;
            *q = (FIRST ? embedding[size_t(species[atom]) * F + f] : *q) + dq;
#pragma unroll
            for (int a = 0; a < 3; a++) {
                const size_t at = (size_t(atom) * 3 + a) * F + f;
                moved[at] = FIRST ? dmu[a] : vectors[at] + dmu[a];
            }
        }
        dq = dmu[0] = dmu[1] = dmu[2] = real(0);
    };
    for (u32 staged = first_edge; staged < last_edge; staged += STAGE) {
        const u32 n_staged = min(STAGE, last_edge - staged);
        __syncthreads();
        radial_functions<false>(geometry + size_t(staged) * 4, n_staged, radial, cutoff, &functions[0][0], nullptr);
        for (u32 b = t; b < STAGE; b += LANES) {
            // An edge that is not there has a filter of zero.
            const u32 e = staged + (b < n_staged ? b : 0), sender = senders[e];
            sender_of[b] = FIRST ? species[sender] : sender;
#pragma unroll
            for (int a = 0; a < 3; a++) direction_of[b][a] = geometry[size_t(e) * 4 + 1 + a];
        }
        __syncthreads();
        for (u32 batch = 0; batch < n_staged; batch += BATCH) {
            real x[BATCH][PARTS], mu[BATCH][3];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                const size_t row = size_t(sender_of[batch + b]) * 3 * F + own_f;
#pragma unroll
                for (int part = 0; part < PARTS; part++) x[b][part] = contexts[row + part * F];
#pragma unroll
                for (int a = 0; a < 3; a++) mu[b][a] = FIRST ? real(0) : vectors[row + a * F];
            }
            real w[PARTS][BATCH];
            filters_of<PARTS>(filter, functions[batch], w);
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                if (batch + b < n_staged) {
                    while (staged + batch + b >= end) {
                        flush();
                        atom++;
                        end = edge_ptr[atom + 1];
                    }
                    const real along = w[1][b] * x[b][1];
                    dq += w[0][b] * x[b][0];
#pragma unroll
                    for (int a = 0; a < 3; a++) dmu[a] += along * direction_of[batch + b][a];
                    if (!FIRST) {
                        const real factor = w[PARTS - 1][b] * x[b][PARTS - 1];
#pragma unroll
                        for (int a = 0; a < 3; a++) dmu[a] += factor * mu[b][a];
                    }
                }
            }
        }
    }
    for (; atom < last; atom++) flush();
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
    constexpr int PARTS = FIRST ? 2 : 3;
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
    real x[PARTS], mu[3] = {}, grad_x[PARTS] = {}, grad_mu[3] = {};
    const auto fetch = [&]() {
        const size_t row = FIRST ? size_t(species[atom]) * 3 * F : size_t(atom) * 3 * F;
#pragma unroll
        for (int part = 0; part < PARTS; part++) x[part] = contexts[row + part * F + own_f];
        if (!FIRST) {
#pragma unroll
            for (int a = 0; a < 3; a++) mu[a] = vectors[row + a * F + own_f];
        }
    };
    const auto flush = [&]() {
        if (FIRST) return;
        const size_t row = size_t(atom) * 3 * F + f;
        if (owner) {
#pragma unroll
            for (int a = 0; a < 3; a++) {
                grad_contexts[row + a * F] = grad_x[a < PARTS ? a : 0];
                grad_sent[row + a * F] = grad_vectors[row + a * F] + grad_mu[a];
            }
        }
#pragma unroll
        for (int a = 0; a < 3; a++) grad_x[a < PARTS ? a : 0] = grad_mu[a] = real(0);
    };
    fetch();
    for (u32 staged = first_edge; staged < last_edge; staged += STAGE) {
        const u32 n_staged = min(STAGE, last_edge - staged);
        __syncthreads();
        radial_functions<true>(geometry + size_t(staged) * 4, n_staged, radial, cutoff, &values[0][0], &slopes[0][0]);
        for (u32 b = t; b < STAGE; b += LANES) {
            const u32 e = staged + (b < n_staged ? b : 0);
            neighbor_of[b] = senders[e];
#pragma unroll
            for (int a = 0; a < 3; a++) direction_of[b][a] = geometry[size_t(e) * 4 + 1 + a];
        }
        __syncthreads();
        for (u32 batch = 0; batch < n_staged; batch += BATCH) {
            real gq[BATCH], gmu[BATCH][3];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                const size_t row = size_t(neighbor_of[batch + b]) * F + own_f;
                gq[b] = grad_scalars[row];
#pragma unroll
                for (int a = 0; a < 3; a++) gmu[b][a] = grad_vectors[(size_t(neighbor_of[batch + b]) * 3 + a) * F + own_f];
            }
            real w[PARTS][BATCH], slope[PARTS][BATCH], sums[4 * BATCH];
            filters_of<PARTS>(filter, values[batch], w);
            filters_of<PARTS>(filter, slopes[batch], slope);
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                if (batch + b < n_staged && staged + batch + b >= end) {
                    do {
                        flush();
                        atom++;
                        end = edge_ptr[atom + 1];
                    } while (staged + batch + b >= end);
                    fetch();
                }
                // The direction along which this atom sends is the opposite one.
                real on_direction = 0, on_vector = 0;
#pragma unroll
                for (int a = 0; a < 3; a++) {
                    on_direction -= gmu[b][a] * direction_of[batch + b][a];
                    if (!FIRST) on_vector += gmu[b][a] * mu[a];
                }
                const real to_q = gq[b] * x[0], to_direction = on_direction * x[1], along = w[1][b] * x[1];
                real on_length = to_q * slope[0][b] + to_direction * slope[1][b];
                if (!FIRST) {
                    constexpr int V = PARTS - 1;
                    on_length += on_vector * x[V] * slope[V][b];
                    const real factor = w[V][b] * x[V];
                    grad_x[0] += gq[b] * w[0][b];
                    grad_x[1] += on_direction * w[1][b];
                    grad_x[V] += on_vector * w[V][b];
#pragma unroll
                    for (int a = 0; a < 3; a++) grad_mu[a] += gmu[b][a] * factor;
                }
                sums[4 * b] = owner ? on_length : real(0);
#pragma unroll
                for (int a = 0; a < 3; a++) sums[4 * b + 1 + a] = owner ? -along * gmu[b][a] : real(0);
            }
            // Lanes 2 s and 2 s + 1 end up with the warp's sum number s.
            fold_lanes<16>(sums, 16);
            fold_lanes<8>(sums, 8);
            fold_lanes<4>(sums, 4);
            fold_lanes<2>(sums, 2);
            const real sum = sums[0] + __shfl_xor_sync(ALL_LANES, sums[0], 1);
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

#define MESSAGE(name, is_first)                                                                                        \
    extern "C" __global__ void __launch_bounds__(LANES, MLFF_FORWARD_THREADS / LANES) painn_message_forward##name(                      \
        u32 n_atoms, u32 atoms_per_block, real cutoff, const u32* __restrict__ edge_ptr,                               \
        const u32* __restrict__ senders, const real* __restrict__ geometry, const real* __restrict__ radial,           \
        const real* __restrict__ weights, const real* __restrict__ contexts, const u32* __restrict__ species,          \
        const real* __restrict__ embedding, const real* __restrict__ vectors, real* scalars, real* moved) {            \
        message_forward<is_first>(n_atoms, atoms_per_block, cutoff, edge_ptr, senders, geometry, radial, weights,      \
                                  contexts, species, embedding, vectors, scalars, moved);                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(LANES, MLFF_VJP_THREADS / LANES) painn_message_vjp##name(             \
        u32 n_atoms, u32 atoms_per_block, u32 add, real cutoff, const u32* __restrict__ edge_ptr,                      \
        const u32* __restrict__ senders, const real* __restrict__ geometry, const real* __restrict__ radial,           \
        const real* __restrict__ weights, const real* __restrict__ contexts, const u32* __restrict__ species,          \
        const real* __restrict__ vectors, const real* __restrict__ grad_scalars,                                       \
        const real* __restrict__ grad_vectors, real* grad_contexts, real* grad_sent, real* cotangents) {               \
        message_vjp<is_first>(n_atoms, atoms_per_block, add, cutoff, edge_ptr, senders, geometry, radial, weights,     \
                              contexts, species, vectors, grad_scalars, grad_vectors, grad_contexts, grad_sent,        \
                              cotangents);                                                                             \
    }
MESSAGE(, false)
MESSAGE(_first, true)
