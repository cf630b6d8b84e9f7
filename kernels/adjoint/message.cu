// message: what neighbours send, filtered and summed at the receiver, with the filter's weights in registers.
//
// Source: Schütt, Unke, Gastegger, ICML 2021, eqs. 7 and 8, in the layout of SchNetPack 2 (`PaiNNInteraction`).
//
// A block takes consecutive atoms and walks their edges, which are neighbours in memory. A thread owns one feature: no sum
// over edges crosses threads. Filters are small matrix products: values of the radial functions for 16 edges, which the
// block puts into shared memory, times weights that a warp keeps in its registers as far as they fit, for the features that its own threads
// own. They pass through shared memory from the lanes that made them to those that use them, and are dropped: nothing
// of an edge is stored but its geometry.
#include "mma.cuh"

constexpr u32 N_RADIAL = MLFF_RADIAL;
constexpr u32 N_K = N_RADIAL + 1;         // radial functions times envelope, and the envelope
constexpr u32 K_STEPS = (N_K + 7) / 8;    // of eight terms
// Rows of functions: reads of two elements by sixteen lanes, four rows of four, meet every bank once.
constexpr u32 K_ROW = K_STEPS % 2 == 1 ? 8 * K_STEPS : 8 * K_STEPS + 8;
constexpr u32 LANES = F >= 128 ? 128 : (F + 31) / 32 * 32;  // threads of a block: a tile of features
constexpr u32 STAGE = 32;                 // edges between two barriers
constexpr u32 GROUP = 16;                 // edges whose filters are there at a time
constexpr u32 BATCH = 4;                  // edges whose neighbours' rows are in registers
constexpr u32 BLOCK_WARPS = LANES / WARP;
constexpr u32 TILES = 3 * WARP / 8;       // groups of eight columns that a warp makes: of three parts, for its features
// Of these, so many have their weights in registers: as many as there is room for. Those of the others come from the cache.
constexpr u32 HELD_FORWARD = K_STEPS <= 3 ? MLFF_HELD_FORWARD : 0;
constexpr u32 HELD_VJP = K_STEPS <= 3 ? MLFF_HELD_VJP : 0;

// Filters of a warp's features for a group of edges, [GROUP, ROW], by part and feature: writes of two elements by sixteen
// lanes, four rows of four, meet every bank once. With their derivatives the row is twice as long.
template <bool SLOPES>
constexpr u32 FILTER_ROW = (SLOPES ? 6 : 3) * WARP + 8;

// A lane's part of the weights, as right operands, HELD tiles of them in registers.
template <u32 HELD>
struct Filter {
    Pack<real, 2> at[HELD > 0 ? HELD : 1][HELD > 0 ? K_STEPS : 1];
    const real* from;

    // `weights` packed, [tiles of LANES features, warps, TILES, K_STEPS, 32 lanes, 2]: lane 4 g + t of step s has column g and
    // terms 8 s + 2 t and the one behind it. Tile number 4 part + q has features 8 q of the warp's and the seven behind it.
    __device__ __forceinline__ explicit Filter(const real* weights)
        : from(weights + (size_t(blockIdx.y) * BLOCK_WARPS + threadIdx.x / WARP) * TILES * K_STEPS * 64 +
               threadIdx.x % WARP * 2) {
#pragma unroll
        for (u32 tile = 0; tile < HELD; tile++) {
#pragma unroll
            for (u32 k = 0; k < K_STEPS; k++) at[tile][HELD > 0 ? k : 0] = load<2>(from + (tile * K_STEPS + k) * 64);
        }
    }
    __device__ __forceinline__ Pack<real, 2> weight(u32 tile, u32 k) const {
        return tile < HELD ? at[tile < HELD ? tile : 0][HELD > 0 ? k : 0] : load<2>(from + (tile * K_STEPS + k) * 64);
    }

    // Filters, or their derivatives, of GROUP edges, whose functions, or their derivatives, are at `functions`,
    // [GROUP, K_ROW]; rows of the filters are ROW long.
    template <int PARTS, u32 ROW>
    __device__ __forceinline__ void make(const real* functions, real* filters) const {
        const u32 lane = threadIdx.x % WARP, row = lane / 4, column = lane % 4 * 2;
        Operand<real, 4> left[K_STEPS];
#pragma unroll
        for (u32 k = 0; k < K_STEPS; k++) {
            const real* at = functions + row * K_ROW + 8 * k + column;
            const Pack<real, 2> upper = load<2>(at), lower = load<2>(at + 8 * K_ROW);
            const real part[4] = {upper.at[0], lower.at[0], upper.at[1], lower.at[1]};
            split(part, left[k]);
        }
#pragma unroll
        for (u32 tile = 0; tile < PARTS * WARP / 8; tile++) {
            real acc[4] = {};
#pragma unroll
            for (u32 k = 0; k < K_STEPS; k++) {
                const Pack<real, 2> w = weight(tile, k);
                Operand<real, 2> right;
                split(w.at, right);
                multiply(acc, left[k], right);
            }
            real* at = filters + row * ROW + tile * 8 + column;
            store<2>(at, Pack<real, 2>{{acc[0], acc[1]}});
            store<2>(at + 8 * ROW, Pack<real, 2>{{acc[2], acc[3]}});
        }
    }
};

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
    for (u32 k = threadIdx.x % PER_EDGE; k < 8 * K_STEPS; k += PER_EDGE) {
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
//     frequencies; weights, packed; contexts [n_atoms, 3F] (first: [n_species, 3F]); species [n_atoms] and embedding
//     [n_species, F] (first only); vectors [n_atoms, 3, F] (not first).
// OUT scalars [n_atoms, F], accumulated (first: overwritten); moved [n_atoms, 3, F], overwritten.
// SAVED for the VJP: contexts, vectors.
// LAUNCH grid (groups of atoms_per_block atoms, tiles of LANES features), LANES threads; dynamic shared memory of
//     BLOCK_WARPS GROUP FILTER_ROW elements.
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
    const Filter<HELD_FORWARD> filter(weights);
    real* const filters = DYNAMIC_SHARED(real) + t / WARP * GROUP * FILTER_ROW<false>;

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
            if (batch % GROUP == 0) {
                __syncwarp();
                filter.template make<PARTS, FILTER_ROW<false>>(functions[batch], filters);
                __syncwarp();
            }
            real x[BATCH][PARTS], mu[BATCH][3];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                const size_t row = size_t(sender_of[batch + b]) * 3 * F + own_f;
#pragma unroll
                for (int part = 0; part < PARTS; part++) x[b][part] = contexts[row + part * F];
#pragma unroll
                for (int a = 0; a < 3; a++) mu[b][a] = FIRST ? real(0) : vectors[row + a * F];
            }
            const real* own = filters + batch % GROUP * FILTER_ROW<false> + t % WARP;
            real w[PARTS][BATCH];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
#pragma unroll
                for (int part = 0; part < PARTS; part++) w[part][b] = own[b * FILTER_ROW<false> + part * WARP];
            }
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
    const Filter<HELD_VJP> filter(weights);
    real* const filters = DYNAMIC_SHARED(real) + t / WARP * GROUP * FILTER_ROW<true>;
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
            if (batch % GROUP == 0) {
                __syncwarp();
                filter.template make<PARTS, FILTER_ROW<true>>(values[batch], filters);
                filter.template make<PARTS, FILTER_ROW<true>>(slopes[batch], filters + 3 * WARP);
                __syncwarp();
            }
            real gq[BATCH], gmu[BATCH][3];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
                const size_t row = size_t(neighbor_of[batch + b]) * F + own_f;
                gq[b] = grad_scalars[row];
#pragma unroll
                for (int a = 0; a < 3; a++) gmu[b][a] = grad_vectors[(size_t(neighbor_of[batch + b]) * 3 + a) * F + own_f];
            }
            const real* own = filters + batch % GROUP * FILTER_ROW<true> + t % WARP;
            real w[PARTS][BATCH], slope[PARTS][BATCH], sums[4 * BATCH];
#pragma unroll
            for (u32 b = 0; b < BATCH; b++) {
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    w[part][b] = own[b * FILTER_ROW<true> + part * WARP];
                    slope[part][b] = own[b * FILTER_ROW<true> + (3 + part) * WARP];
                }
            }
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
