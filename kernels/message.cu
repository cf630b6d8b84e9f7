// message: what neighbours send, filtered and summed at the receiver; gather, filter, multiply and sum in one kernel.
//
// Source: Schütt, Unke, Gastegger, ICML 2021, eqs. 7 and 8, in the layout of SchNetPack 2 (`PaiNNInteraction`).
//
// A block takes consecutive atoms and walks their edges, which are neighbours in memory, eight at a time: the filters
// of eight edges are computed in registers, used and dropped. A thread owns one feature, so gathers of an atom's rows
// are coalesced and no sum over edges crosses threads. The filter's weights stay in shared memory, where one read
// serves eight edges.
#include "arrays.cuh"
#include "common.cuh"

constexpr int BATCH = 8;  // edges whose filters are in registers

// Row length of weights and edge features in shared memory: a multiple of 4 that is not one of 8, so that neighbouring
// rows read as packs of four lie in different banks.
__device__ __forceinline__ u32 padded(u32 k) {
    return 4 * ((k + 3) / 4 | 1);
}

// Weights of a tile of features, [3, tile, padded(K)], zero beyond K and F.
template <typename T>
__device__ __forceinline__ void stage_weights(const T* weight, u32 n, u32 n_k, u32 first, u32 tile, T* weights) {
    const u32 row_length = padded(n_k);
    for (u32 i = threadIdx.x; i < 3 * tile * row_length; i += blockDim.x) {
        const u32 row = i / row_length, k = i % row_length, f = first + row % tile;
        weights[i] = k < n_k && f < n ? constant(weight + (size_t(row / tile) * n + f) * n_k + k) : T(0);
    }
}

// filters[part][b] = bias + Σ_k weights[part, t, k] features[b, k] for the thread's feature t of the tile.
template <typename T>
__device__ __forceinline__ void filters_of(const T* weights, const T* features, const T (&bias)[3], u32 t, u32 tile,
                                           u32 n_k, T (&filters)[3][BATCH]) {
    const u32 row_length = padded(n_k);
#pragma unroll
    for (int part = 0; part < 3; part++) {
#pragma unroll
        for (int b = 0; b < BATCH; b++) filters[part][b] = bias[part];
    }
    for (u32 k = 0; k < n_k; k += 4) {
        Pack<T, 4> w[3];
#pragma unroll
        for (int part = 0; part < 3; part++) w[part] = load<4>(weights + (part * tile + t) * row_length + k);
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const Pack<T, 4> feature = load<4>(features + b * row_length + k);
#pragma unroll
            for (int part = 0; part < 3; part++) {
#pragma unroll
                for (int x = 0; x < 4; x++) filters[part][b] += w[part].at[x] * feature.at[x];
            }
        }
    }
}

template <typename T>
__device__ __forceinline__ void load_bias(const T* bias, u32 n, u32 f, T (&out)[3]) {
#pragma unroll
    for (int part = 0; part < 3; part++) out[part] = bias ? bias[part * n + f] : T(0);
}

// Sums the messages that each atom receives. For edge e = (i <- j), with W = filter(edges[e]):
// Δq_i += W₀ x₀_j, Δµ_i += (W₁ x₁_j) u_e + (W₂ x₂_j) µ_j.
//
// IN  edge_ptr [n_atoms + 1]; senders [n_edges]; nodes [n_atoms, 6F], three gates and µ [3, F]; edges [n_edges, K];
//     geometry [n_edges, 4]; weight [3F, K]; bias [3F] or null.
// OUT sums [n_atoms, 4F]: Δq, Δµ [3, F]; overwritten.
// SAVED for the VJP: the inputs.
// LAUNCH grid (groups of atoms_per_block atoms, tiles of `tile` features), one thread per feature of a tile, rounded up
//     to whole warps, at most 128; dynamic shared memory (3 tile + 4 BATCH) padded(K) elements.
template <typename T>
__device__ __forceinline__ void message_forward(const MessageSizes& s, const MessageArrays<T>& in, u32 atoms_per_block,
                                                u32 tile) {
    const u32 n = s.n_features, n_k = s.n_edge_features;
    constexpr u32 STAGED = 4 * BATCH;  // edges between two barriers
    __shared__ u32 sender_of[STAGED];
    __shared__ T direction_of[STAGED][3];
    T* weights = DYNAMIC_SHARED(T);
    const u32 row_length = padded(n_k), t = threadIdx.x;
    T* features = weights + size_t(3) * tile * row_length;
    const u32 first = blockIdx.x * atoms_per_block, last = min(first + atoms_per_block, s.n_atoms);
    const u32 first_edge = in.edge_ptr[first], last_edge = in.edge_ptr[last];

    // Threads without a feature of their own follow another one's and write nothing.
    const u32 f = blockIdx.y * tile + t;
    const bool owner = t < tile && f < n;
    const u32 own_f = owner ? f : n - 1, own_t = owner ? t : 0;
    T bias_of[3];
    load_bias(in.bias, n, own_f, bias_of);
    stage_weights(in.weight, n, n_k, blockIdx.y * tile, tile, weights);

    u32 atom = first, end = in.edge_ptr[first + 1];
    T dq = T(0), dmu[3] = {};
    const auto flush = [&]() {
        if (owner) {
            T* row = in.sums + size_t(atom) * 4 * n + f;
            row[0] = dq;
#pragma unroll
            for (int a = 0; a < 3; a++) row[size_t(a + 1) * n] = dmu[a];
        }
        dq = dmu[0] = dmu[1] = dmu[2] = T(0);
    };
    for (u32 staged = first_edge; staged < last_edge; staged += STAGED) {
        const u32 n_staged = min(STAGED, last_edge - staged);
        __syncthreads();
        for (u32 i = t; i < STAGED * row_length; i += blockDim.x) {
            const u32 b = i / row_length, k = i % row_length;
            features[i] = b < n_staged && k < n_k ? constant(in.edges + size_t(staged + b) * n_k + k) : T(0);
        }
        for (u32 b = t; b < n_staged; b += blockDim.x) {
            sender_of[b] = in.senders[staged + b];
#pragma unroll
            for (int a = 0; a < 3; a++) direction_of[b][a] = constant(in.geometry + size_t(staged + b) * 4 + 1 + a);
        }
        __syncthreads();
        for (u32 batch = 0; batch < n_staged; batch += BATCH) {
            T w[3][BATCH];
            filters_of(weights, features + batch * row_length, bias_of, own_t, tile, n_k, w);
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                if (batch + b < n_staged) {
                    while (staged + batch + b >= end) {
                        flush();
                        atom++;
                        end = in.edge_ptr[atom + 1];
                    }
                    const T* node = in.nodes + size_t(sender_of[batch + b]) * 6 * n + own_f;
                    const T along = w[1][b] * constant(node + n), gate = w[2][b] * constant(node + 2 * size_t(n));
                    dq += w[0][b] * constant(node);
#pragma unroll
                    for (int a = 0; a < 3; a++) {
                        dmu[a] += along * direction_of[batch + b][a] + gate * constant(node + size_t(3 + a) * n);
                    }
                }
            }
        }
    }
    for (; atom < last; atom++) flush();
}

// Columns of edge cotangents that the block contracts at a time, and the part of a thread: 4 edges by 6 columns.
constexpr u32 CHUNK = 24;
constexpr u32 TILE_EDGES = 4, TILE_COLUMNS = 6;
constexpr u32 TILES = (BATCH / TILE_EDGES) * (CHUNK / TILE_COLUMNS);  // 8 neighbouring lanes make a batch's chunk
constexpr u32 MAX_WARPS = 4;

// grad_edges[e_b, k] += Σ_r cotangents[r, b] weights[r, k] over the 3 tile rows r of the tile: eight neighbouring lanes
// share a row, the other lanes of the block take other rows; their parts are summed in a fixed order.
template <typename T>
__device__ __forceinline__ void contract(const T* cotangents, const T* weights, u32 tile, u32 n_k, const u32* edge_of,
                                         u32 n_batch, T (*parts)[BATCH][CHUNK], T* grad_edges) {
    const u32 row_length = padded(n_k), t = threadIdx.x, lane = t % WARP, n_warps = blockDim.x / WARP;
    const u32 b0 = t % (BATCH / TILE_EDGES) * TILE_EDGES;
    const u32 k0 = t % TILES / (BATCH / TILE_EDGES) * TILE_COLUMNS;
    for (u32 chunk = 0; chunk < n_k; chunk += CHUNK) {
        T sum[TILE_EDGES * TILE_COLUMNS] = {};
        const u32 k = chunk + k0;
        for (u32 r = t / TILES; k < row_length && r < 3 * tile; r += blockDim.x / TILES) {
            const Pack<T, TILE_EDGES> g = load<TILE_EDGES>(cotangents + r * BATCH + b0);
#pragma unroll
            for (u32 pair = 0; pair < TILE_COLUMNS; pair += 2) {
                // Rows are a multiple of four long, so a pair is inside or outside as a whole.
                if (k + pair < row_length) {
                    const Pack<T, 2> w = load<2>(weights + r * row_length + k + pair);
#pragma unroll
                    for (u32 b = 0; b < TILE_EDGES; b++) {
                        sum[b * TILE_COLUMNS + pair] += g.at[b] * w.at[0];
                        sum[b * TILE_COLUMNS + pair + 1] += g.at[b] * w.at[1];
                    }
                }
            }
        }
        // The four lanes of a warp that hold the same part end up with the sums of one edge each.
        fold_lanes<TILE_EDGES * TILE_COLUMNS>(sum, 8);
        fold_lanes<TILE_EDGES * TILE_COLUMNS / 2>(sum, 16);
        const u32 b = b0 + (lane & 8 ? 2 : 0) + (lane & 16 ? 1 : 0);
#pragma unroll
        for (u32 c = 0; c < TILE_COLUMNS; c++) parts[t / WARP][b][k0 + c] = sum[c];
        __syncthreads();
        for (u32 i = t; i < BATCH * CHUNK; i += blockDim.x) {
            const u32 edge = i / CHUNK, c = i % CHUNK;
            if (edge < n_batch && chunk + c < n_k) {
                T total = parts[0][edge][c];
                for (u32 warp = 1; warp < n_warps; warp++) total += parts[warp][edge][c];
                grad_edges[size_t(edge_of[edge]) * n_k + chunk + c] += total;
            }
        }
        __syncthreads();
    }
}

// Pulls the cotangent of the sums back to nodes, edge features and directions, in one pass over the edges by sender.
//
// An atom j finds the edges that it sends along through reverse_edge, so its own row stays in registers, only the
// receivers' cotangents are gathered, and one computation of an edge's filter serves all its cotangents. Each atom has
// one block and each edge one sender: nothing is added by two blocks.
//
// IN  as the forward; reverse_edge [n_edges]; grad_sums [n_atoms, 4F].
// OUT grad_nodes [n_atoms, 6F], grad_edges [n_edges, K], grad_geometry [n_edges, 4] (the distance column is left alone),
//     accumulated.
// LAUNCH one block per atoms_per_block atoms; threads as many as features in a tile, rounded up to whole warps, at most
//     128; dynamic shared memory (3 tile + BATCH) padded(K) + 3 tile BATCH elements. Fast where tile >= F.
template <typename T>
__device__ __forceinline__ void message_vjp(const MessageSizes& s, const MessageArrays<T>& in, u32 atoms_per_block,
                                            u32 tile) {
    const u32 n = s.n_features, n_k = s.n_edge_features;
    __shared__ u32 edge_of[BATCH], receiver_of[BATCH];
    __shared__ T direction_of[BATCH][3];
    __shared__ __align__(16) T parts[MAX_WARPS][BATCH][CHUNK];
    __shared__ T direction_parts[MAX_WARPS][WARP];
    T* weights = DYNAMIC_SHARED(T);
    const u32 row_length = padded(n_k), t = threadIdx.x, lane = t % WARP, n_warps = blockDim.x / WARP;
    T* features = weights + size_t(3) * tile * row_length;
    T* cotangents = features + BATCH * row_length;  // [3, tile, BATCH]
    const u32 first_atom = blockIdx.x * atoms_per_block, last_atom = min(first_atom + atoms_per_block, s.n_atoms);
    const u32 first_edge = in.edge_ptr[first_atom], last_edge = in.edge_ptr[last_atom];
    const bool one_tile = tile >= n;
    if (one_tile) stage_weights(in.weight, n, n_k, 0, tile, weights);

    u32 atom_of_batch = first_atom;  // atom of the batch's first edge
    T own[6] = {}, grad[6] = {};     // row of the atom at hand and its cotangent
    for (u32 batch = first_edge; batch < last_edge; batch += BATCH) {
        const u32 n_batch = min(u32(BATCH), last_edge - batch);
        __syncthreads();
        for (u32 b = t; b < BATCH; b += blockDim.x) {
            const u32 e = b < n_batch ? in.reverse_edge[batch + b] : 0;
            edge_of[b] = e;
            receiver_of[b] = b < n_batch ? in.senders[batch + b] : 0;  // the receiver of the reverse edge
#pragma unroll
            for (int a = 0; a < 3; a++) {
                direction_of[b][a] = b < n_batch ? constant(in.geometry + size_t(e) * 4 + 1 + a) : T(0);
            }
        }
        __syncthreads();
        for (u32 i = t; i < BATCH * row_length; i += blockDim.x) {
            const u32 b = i / row_length, k = i % row_length;
            features[i] = b < n_batch && k < n_k ? constant(in.edges + size_t(edge_of[b]) * n_k + k) : T(0);
        }
        u32 atom = atom_of_batch;
        for (u32 first = 0; first < n; first += tile) {
            // The last readers of these weights are behind a barrier already: the batch's first, or contract's last.
            if (!one_tile) stage_weights(in.weight, n, n_k, first, tile, weights);
            __syncthreads();
            const u32 f = first + t;
            const bool owner = t < tile && f < n;
            const u32 own_f = owner ? f : n - 1, own_t = owner ? t : 0;
            const auto fetch = [&]() {
#pragma unroll
                for (int c = 0; c < 6; c++) own[c] = constant(in.nodes + (size_t(atom) * 6 + c) * n + own_f);
            };
            const auto flush = [&]() {
#pragma unroll
                for (int c = 0; c < 6; c++) {
                    if (owner) in.grad_nodes[(size_t(atom) * 6 + c) * n + f] += grad[c];
                    grad[c] = T(0);
                }
            };
            if (!one_tile || batch == first_edge) {
                atom = atom_of_batch;
                fetch();
            }
            u32 end = in.edge_ptr[atom + 1];
            T bias_of[3], w[3][BATCH], along_direction[WARP] = {};
            load_bias(in.bias, n, own_f, bias_of);
            filters_of(weights, features, bias_of, own_t, tile, n_k, w);
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                if (b < int(n_batch)) {
                    if (batch + b >= end) {
                        flush();
                        while (batch + b >= end) end = in.edge_ptr[++atom + 1];
                        fetch();
                    }
                    const T* grad_sum = in.grad_sums + size_t(receiver_of[b]) * 4 * n + own_f;
                    const T grad_q = constant(grad_sum);
                    const T along = w[1][b] * own[1], gate = w[2][b] * own[2];
                    T on_direction = T(0), on_vector = T(0);
#pragma unroll
                    for (int a = 0; a < 3; a++) {
                        const T g = constant(grad_sum + size_t(a + 1) * n);
                        on_direction += g * direction_of[b][a];
                        on_vector += g * own[3 + a];
                        grad[3 + a] += g * gate;
                        along_direction[3 * b + a] = owner ? g * along : T(0);
                    }
                    grad[0] += grad_q * w[0][b];
                    grad[1] += on_direction * w[1][b];
                    grad[2] += on_vector * w[2][b];
                    // Each filter gives way to its cotangent.
                    w[0][b] = grad_q * own[0];
                    w[1][b] = on_direction * own[1];
                    w[2][b] = on_vector * own[2];
                }
            }
            if (t < tile) {
#pragma unroll
                for (int part = 0; part < 3; part++) {
                    Pack<T, BATCH> column;
#pragma unroll
                    for (int b = 0; b < BATCH; b++) column.at[b] = f < n && b < int(n_batch) ? w[part][b] : T(0);
                    store<BATCH>(cotangents + (part * tile + t) * BATCH, column);
                }
            }
            // Lane 3 b + a ends up with the warp's sum of the cotangent of component a of edge b's direction.
            fold_lanes<32>(along_direction, 16);
            fold_lanes<16>(along_direction, 8);
            fold_lanes<8>(along_direction, 4);
            fold_lanes<4>(along_direction, 2);
            fold_lanes<2>(along_direction, 1);
            direction_parts[t / WARP][lane] = along_direction[0];
            if (!one_tile) flush();
            __syncthreads();
            for (u32 i = t; i < 3 * n_batch; i += blockDim.x) {
                T total = direction_parts[0][i];
                for (u32 warp = 1; warp < n_warps; warp++) total += direction_parts[warp][i];
                in.grad_geometry[size_t(edge_of[i / 3]) * 4 + 1 + i % 3] += total;
            }
            contract(cotangents, weights, tile, n_k, edge_of, n_batch, parts, in.grad_edges);
        }
        atom_of_batch = atom;
    }
    if (one_tile && first_edge < last_edge) {
        const u32 f = t;
#pragma unroll
        for (int c = 0; c < 6; c++) {
            if (f < n) in.grad_nodes[(size_t(atom_of_batch) * 6 + c) * n + f] += grad[c];
        }
    }
}

#define MESSAGE(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        message_forward_##suffix(MessageSizes s, MessageArrays<T> a, u32 atoms_per_block, u32 tile) {                  \
        message_forward(s, a, atoms_per_block, tile);                                                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        message_vjp_##suffix(MessageSizes s, MessageArrays<T> a, u32 atoms_per_block, u32 tile) {                      \
        message_vjp(s, a, atoms_per_block, tile);                                                                      \
    }
MESSAGE(float, f32)
MESSAGE(double, f64)
