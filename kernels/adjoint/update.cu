// update, and the interaction context behind it: everything between two messages, for a tile of atoms in one kernel.
//
// Source: Schütt, Unke, Gastegger, ICML 2021, eqs. 9 and 10, in the layout of SchNetPack 2 (`PaiNNMixing`).
#include "tile.cuh"

constexpr u32 ROW = row_length(F), ROW2 = row_length(2 * F), ROW3 = row_length(3 * F);

// Where the last layer has no gates for vectors, its gates are those of scalars and products.
template <bool LAST>
constexpr u32 GATES = LAST ? 2 : 3;

// Scalars and vectors talk to each other; then the context of the next layer's message, unless this is the last.
//
// IN  scalars [n_atoms, F], moved [n_atoms, 3, F]: as the message left them; weights, packed, and biases.
// OUT scalars, overwritten; vectors [n_atoms, 3, F], contexts [n_atoms, 3F] (not in the last layer).
// SAVED for the VJP: mixed [n_atoms, 3, 2F]: V and W; slopes [n_atoms, F] of the hidden layer; gates [n_atoms, 2, F], of
//     vectors (not in the last layer) and of products; context_slopes [n_atoms, F] (not in the last layer).
// LAUNCH CLUSTER blocks per TILE_ATOMS atoms, WARPS warps; dynamic shared memory of (3 ROW + ROW2 + F) TILE_ATOMS elements.
template <bool LAST>
__device__ __forceinline__ void update_forward(u32 n_atoms, real epsilon, const real* moved, const real* mix,
                                               const real* hidden, const real* hidden_bias, const real* gate,
                                               const real* gate_bias, const real* context0, const real* context0_bias,
                                               const real* context1, const real* context1_bias, real* scalars, real* mixed,
                                               real* slopes, real* gates, real* vectors, real* context_slopes,
                                               real* contexts) {
    real* const vector_rows = DYNAMIC_SHARED(real);             // [3, TILE_ATOMS, ROW]
    real* const rows = vector_rows + 3 * TILE_ATOMS * ROW;      // [TILE_ATOMS, ROW2]: scalars; norms, then hidden layers
    real* const products = rows + TILE_ATOMS * ROW2;            // [TILE_ATOMS, F]
    const u32 first = tile_of_block() * TILE_ATOMS, n_rows = min(TILE_ATOMS, n_atoms - first), warp = first_columns();

    load_rows(scalars + size_t(first) * F, F, n_rows, rows, ROW2);
    for (u32 i = threadIdx.x; i < 3 * TILE_ATOMS * (F / 4); i += THREADS) {
        const u32 column = i % (F / 4) * 4, component = i / (F / 4) % 3, row = i / (F / 4) / 3;
        Pack<real, 4> pack{};
        if (row < n_rows) pack = load<4>(moved + (size_t(first + row) * 3 + component) * F + column);
        store<4>(vector_rows + (component * TILE_ATOMS + row) * ROW + column, pack);
    }
    sync_tile();

    for (u32 tile = warp; tile < F_TILES; tile += ALL_WARPS) {
        for (u32 group = 0; group < M_TILES; group++) {
            real acc[3][2][4] = {};
            product<3, 2>(vector_rows + group * 16 * ROW, ROW, TILE_ATOMS * ROW, mix, F, tile, F_TILES, acc);
            for_each_pair<1>(tile, [&](int, int half, u32 row_of_group, u32 column) {
                const u32 row = group * 16 + row_of_group;
                Pair norm, inner;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    real squares = 0, sum = 0;
#pragma unroll
                    for (int k = 0; k < 3; k++) {
                        const real v = acc[k][0][2 * half + i], w = acc[k][1][2 * half + i];
                        squares += v * v;
                        sum += v * w;
                    }
                    // epsilon inside the root: |v| is not differentiable at v = 0, where isolated atoms sit.
                    norm.at[i] = sqrt(squares + epsilon);
                    inner.at[i] = sum;
                }
                share(rows + row * ROW2 + F + column, norm);
                store<2>(products + row * F + column, inner);
                if (row < n_rows) {
#pragma unroll
                    for (int k = 0; k < 3; k++) {
                        real* at = mixed + (size_t(first + row) * 6 + 2 * k) * F + column;
                        store<2>(at, Pair{{acc[k][0][2 * half], acc[k][0][2 * half + 1]}});
                        store<2>(at + F, Pair{{acc[k][1][2 * half], acc[k][1][2 * half + 1]}});
                    }
                }
            });
        }
    }
    sync_tile();

    const auto silu_of = [&](Pair z, u32 row, u32 column, real* slope_rows) {
        Pair slope;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            slope.at[i] = silu_slope(z.at[i]);
            z.at[i] = silu(z.at[i]);
        }
        if (row < n_rows) store<2>(slope_rows + size_t(first + row) * F + column, slope);
        return z;
    };
    {
        // Written where norms are read: all of it waits in registers for the barrier.
        real acc[F_ROUNDS][M_TILES][PAIRED][4] = {};
#pragma unroll
        for (u32 round = 0; round < F_ROUNDS; round++) {
            const u32 tile = warp + round * PAIRED * ALL_WARPS;
            if (tile >= F_TILES) break;
            product<M_TILES, PAIRED>(rows, ROW2, 16 * ROW2, hidden, 2 * F, tile, ALL_WARPS, acc[round]);
        }
        sync_tile();
#pragma unroll
        for (u32 round = 0; round < F_ROUNDS; round++) {
#pragma unroll
            for (u32 n = 0; n < PAIRED; n++) {
                const u32 tile = warp + (round * PAIRED + n) * ALL_WARPS;
                if (tile >= F_TILES) break;
                for_each_pair<M_TILES>(tile, [&](int m, int half, u32 row, u32 column) {
                    const Pair bias = bias_at(hidden_bias, column);
                    const real* z = acc[round][m][n] + 2 * half;
                    const Pair y = silu_of(Pair{{z[0] + bias.at[0], z[1] + bias.at[1]}}, row, column, slopes);
                    share(rows + row * ROW2 + F + column, y);
                });
            }
        }
    }
    sync_tile();

    for (u32 tile = warp; tile < F_TILES; tile += ALL_WARPS) {
        constexpr u32 N = GATES<LAST>;
        real acc[M_TILES][N][4] = {};
        product<M_TILES, N>(rows + F, ROW2, 16 * ROW2, gate, F, tile, F_TILES, acc);
        for_each_pair<M_TILES>(tile, [&](int m, int half, u32 row, u32 column) {
            Pair a[N];
#pragma unroll
            for (u32 n = 0; n < N; n++) {
                const Pair bias = bias_at(gate_bias + n * F, column);
#pragma unroll
                for (int i = 0; i < 2; i++) a[n].at[i] = acc[m][n][2 * half + i] + bias.at[i];
            }
            const Pair inner = load<2>(products + row * F + column), factor = a[N - 1];
            Pair q = load<2>(rows + row * ROW2 + column);
#pragma unroll
            for (int i = 0; i < 2; i++) q.at[i] += a[0].at[i] + factor.at[i] * inner.at[i];
            if (row < n_rows) {
                const size_t atom = first + row;
                store<2>(scalars + atom * F + column, q);
                store<2>(gates + (atom * 2 + 1) * F + column, factor);
                if (!LAST) {
                    store<2>(gates + atom * 2 * F + column, a[1]);
#pragma unroll
                    for (int k = 0; k < 3; k++) {
                        const Pair w = load<2>(mixed + (atom * 6 + 2 * k + 1) * F + column);
                        Pair v = load<2>(vector_rows + (k * TILE_ATOMS + row) * ROW + column);
#pragma unroll
                        for (int i = 0; i < 2; i++) v.at[i] += a[1].at[i] * w.at[i];
                        store<2>(vectors + (atom * 3 + k) * F + column, v);
                    }
                }
            }
            // The last layer's are not multiplied again; another block may have ended.
            if (!LAST) share(rows + row * ROW2 + column, q);
        });
    }
    if (LAST) return;
    sync_tile();

    product_of_one(rows, ROW2, context0, F, [&](const real* z, u32 row, u32 column) {
        const Pair bias = bias_at(context0_bias, column);
        const Pair y = silu_of(Pair{{z[0] + bias.at[0], z[1] + bias.at[1]}}, row, column, context_slopes);
        share(rows + row * ROW2 + F + column, y);
    });
    sync_tile();

    for (u32 tile = warp; tile < F_TILES; tile += ALL_WARPS) {
        real acc[M_TILES][3][4] = {};
        product<M_TILES, 3>(rows + F, ROW2, 16 * ROW2, context1, F, tile, F_TILES, acc);
        for_each_pair<M_TILES>(tile, [&](int m, int half, u32 row, u32 column) {
            if (row >= n_rows) return;
#pragma unroll
            for (int n = 0; n < 3; n++) {
                const Pair bias = bias_at(context1_bias + n * F, column);
                const Pair y{{acc[m][n][2 * half] + bias.at[0], acc[m][n][2 * half + 1] + bias.at[1]}};
                store<2>(contexts + (size_t(first + row) * 3 + n) * F + column, y);
            }
        });
    }
}

// The mirror: from the cotangents that the next layer's message left (in the last layer, the readout) to those of what
// this layer's message made.
//
// IN  grad_scalars [n_atoms, F], grad_sent [n_atoms, 3, F], grad_contexts [n_atoms, 3F] (the last two not in the last
//     layer); what the forward saved; weights, packed for the transposed products.
// OUT grad_scalars, overwritten; grad_vectors [n_atoms, 3, F], overwritten.
// LAUNCH as the forward; dynamic shared memory of (3 ROW + ROW + F) TILE_ATOMS elements, with ROW3 where it is longer
//     than 3 ROW.
template <bool LAST>
__device__ __forceinline__ void update_vjp(u32 n_atoms, real epsilon, const real* grad_sent, const real* grad_contexts,
                                           const real* context_slopes, const real* context1, const real* context0,
                                           const real* mixed, const real* slopes, const real* gates, const real* gate,
                                           const real* hidden, const real* mix, real* grad_scalars, real* grad_vectors) {
    constexpr u32 WIDE = ROW3 > 3 * ROW ? ROW3 : 3 * ROW;
    real* const wide = DYNAMIC_SHARED(real);           // [TILE_ATOMS, ROW3], later [3, TILE_ATOMS, ROW]
    real* const rows = wide + TILE_ATOMS * WIDE;       // [TILE_ATOMS, ROW]
    real* const grad_q = rows + TILE_ATOMS * ROW;      // [TILE_ATOMS, F], of the scalars behind this update
    const u32 first = tile_of_block() * TILE_ATOMS, n_rows = min(TILE_ATOMS, n_atoms - first), warp = first_columns();
    const auto scaled = [&](const real* z, const real* slope_rows, u32 row, u32 column) {
        Pair y{{z[0], z[1]}};
        if (row < n_rows) {
            const Pair slope = load<2>(slope_rows + size_t(first + row) * F + column);
#pragma unroll
            for (int i = 0; i < 2; i++) y.at[i] *= slope.at[i];
        }
        return y;
    };

    // What is shared below goes to blocks that must have begun.
    if (LAST && CLUSTER > 1) sync_tile();
    if (!LAST) {
        load_rows(grad_contexts + size_t(first) * 3 * F, 3 * F, n_rows, wide, ROW3);
        sync_tile();
        product_of_one(wide, ROW3, context1, 3 * F, [&](const real* z, u32 row, u32 column) {
            share(rows + row * ROW + column, scaled(z, context_slopes, row, column));
        });
        sync_tile();
    }
    product_of_one(rows, ROW, context0, LAST ? 0 : F, [&](const real* z, u32 row, u32 column) {
            Pair gq{}, gate_1{}, gate_2{};
            if (row < n_rows) {
                const size_t atom = first + row;
                gq = load<2>(grad_scalars + atom * F + column);
#pragma unroll
                for (int i = 0; i < 2; i++) gq.at[i] += z[i];
#pragma unroll
                for (int k = 0; k < 3; k++) {
                    const real* at = mixed + (atom * 6 + 2 * k) * F + column;
                    const Pair v = load<2>(at), w = load<2>(at + F);
                    Pair g{};
                    if (!LAST) g = load<2>(grad_sent + (atom * 3 + k) * F + column);
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        gate_1.at[i] += g.at[i] * w.at[i];
                        gate_2.at[i] += v.at[i] * w.at[i];
                    }
                }
#pragma unroll
                for (int i = 0; i < 2; i++) gate_2.at[i] *= gq.at[i];
            }
            store<2>(grad_q + row * F + column, gq);
            real* const at = wide + row * ROW3 + column;
            share(at, gq);
            if (!LAST) share(at + F, gate_1);
            share(at + (GATES<LAST> - 1) * F, gate_2);
    });
    sync_tile();

    product_of_one(wide, ROW3, gate, GATES<LAST> * F, [&](const real* z, u32 row, u32 column) {
        share(rows + row * ROW + column, scaled(z, slopes, row, column));
    });
    sync_tile();

    for (u32 tile = warp; tile < F_TILES; tile += ALL_WARPS) {
        real acc[M_TILES][2][4] = {};
        product<M_TILES, 2>(rows, ROW, 16 * ROW, hidden, F, tile, F_TILES, acc);
        for_each_pair<M_TILES>(tile, [&](int m, int half, u32 row, u32 column) {
            Pair gv[3] = {};
            if (row < n_rows) {
                const size_t atom = first + row;
                const Pair gq = load<2>(grad_q + row * F + column);
                const Pair factor = load<2>(gates + (atom * 2 + 1) * F + column);
                Pair v[3], w[3], scale, grad_inner, total;
#pragma unroll
                for (int k = 0; k < 3; k++) {
                    const real* at = mixed + (atom * 6 + 2 * k) * F + column;
                    v[k] = load<2>(at), w[k] = load<2>(at + F);
                }
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    real squares = 0;
#pragma unroll
                    for (int k = 0; k < 3; k++) squares += v[k].at[i] * v[k].at[i];
                    const real norm = sqrt(squares + epsilon);
                    // Without epsilon, the subgradient zero where a norm is zero.
                    scale.at[i] = norm > 0 ? acc[m][1][2 * half + i] / norm : real(0);
                    grad_inner.at[i] = gq.at[i] * factor.at[i];
                    total.at[i] = gq.at[i] + acc[m][0][2 * half + i];
                }
                store<2>(grad_scalars + atom * F + column, total);
#pragma unroll
                for (int k = 0; k < 3; k++) {
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        gv[k].at[i] = scale.at[i] * v[k].at[i] + grad_inner.at[i] * w[k].at[i];
                    }
                }
            }
#pragma unroll
            for (int k = 0; k < 3; k++) share(wide + (k * TILE_ATOMS + row) * ROW + column, gv[k]);
        });
    }
    sync_tile();

    // V's part of the product, then W's in the same sums. Where they are many they leave no registers for weights ahead.
    constexpr u32 ROUNDS = (F_TILES + ALL_WARPS - 1) / ALL_WARPS;
    real sums[ROUNDS][M_TILES][3][1][4] = {};
    const auto add_part = [&](const real* weights) {
#pragma unroll
        for (u32 round = 0; round < ROUNDS; round++) {
            const u32 tile = warp + round * ALL_WARPS;
            if (tile >= F_TILES) break;
#pragma unroll
            for (u32 group = 0; group < M_TILES; group++) {
                product<3, 1, ROUNDS == 1>(wide + group * 16 * ROW, ROW, TILE_ATOMS * ROW, weights, F, tile, 0,
                                           sums[round][group]);
            }
        }
    };
    add_part(mix);
    sync_tile();
    for (u32 tile = warp; tile < F_TILES; tile += ALL_WARPS) {
        for_each_pair<M_TILES>(tile, [&](int, int, u32 row, u32 column) {
            Pair gw[3] = {};
            if (row < n_rows) {
                const size_t atom = first + row;
                const Pair gq = load<2>(grad_q + row * F + column);
                const Pair factor = load<2>(gates + (atom * 2 + 1) * F + column);
                Pair gate_1{};
                if (!LAST) gate_1 = load<2>(gates + atom * 2 * F + column);
#pragma unroll
                for (int k = 0; k < 3; k++) {
                    const Pair v = load<2>(mixed + (atom * 6 + 2 * k) * F + column);
                    Pair g{};
                    if (!LAST) g = load<2>(grad_sent + (atom * 3 + k) * F + column);
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        gw[k].at[i] = g.at[i] * gate_1.at[i] + gq.at[i] * factor.at[i] * v.at[i];
                    }
                }
            }
#pragma unroll
            for (int k = 0; k < 3; k++) share(wide + (k * TILE_ATOMS + row) * ROW + column, gw[k]);
        });
    }
    sync_tile();
    add_part(mix + size_t(F) * F);
#pragma unroll
    for (u32 round = 0; round < ROUNDS; round++) {
        const u32 tile = warp + round * ALL_WARPS;
        if (tile >= F_TILES) break;
        for_each_pair<M_TILES>(tile, [&](int m, int half, u32 row, u32 column) {
            if (row >= n_rows) return;
#pragma unroll
            for (int k = 0; k < 3; k++) {
                const size_t at = (size_t(first + row) * 3 + k) * F + column;
                const real* z = sums[round][m][k][0] + 2 * half;
                Pair g{{z[0], z[1]}};
                if (!LAST) {
                    const Pair sent = load<2>(grad_sent + at);
#pragma unroll
                    for (int i = 0; i < 2; i++) g.at[i] += sent.at[i];
                }
                store<2>(grad_vectors + at, g);
            }
        });
    }
}

// Blocks that share a multiprocessor. The last layer's kernels, which run once, would spill registers for a third.
__device__ constexpr u32 blocks_for(bool last) { return last && MLFF_BLOCKS > 2 ? 2 : MLFF_BLOCKS; }

// Two programs, so that they compile side by side.
#define UPDATE_FORWARD(name, last)                                                                                     \
    extern "C" __global__ void TILE_CLUSTER __launch_bounds__(THREADS, blocks_for(last))                           \
        TILE_KERNEL(painn_update_forward##name)(                                                                       \
        u32 n_atoms, real epsilon, const real* __restrict__ moved, const real* __restrict__ mix,                       \
        const real* __restrict__ hidden, const real* __restrict__ hidden_bias, const real* __restrict__ gate,          \
        const real* __restrict__ gate_bias, const real* __restrict__ context0, const real* __restrict__ context0_bias, \
        const real* __restrict__ context1, const real* __restrict__ context1_bias, real* scalars, real* mixed,         \
        real* slopes, real* gates, real* vectors, real* context_slopes, real* contexts) {                              \
        update_forward<last>(n_atoms, epsilon, moved, mix, hidden, hidden_bias, gate, gate_bias, context0,             \
                             context0_bias, context1, context1_bias, scalars, mixed, slopes, gates, vectors,           \
                             context_slopes, contexts);                                                                \
    }
#define UPDATE_VJP(name, last)                                                                                         \
    extern "C" __global__ void TILE_CLUSTER __launch_bounds__(THREADS, blocks_for(last))                           \
        TILE_KERNEL(painn_update_vjp##name)(                                                                           \
        u32 n_atoms, real epsilon, const real* __restrict__ grad_sent, const real* __restrict__ grad_contexts,         \
        const real* __restrict__ context_slopes, const real* __restrict__ context1, const real* __restrict__ context0, \
        const real* __restrict__ mixed, const real* __restrict__ slopes, const real* __restrict__ gates,               \
        const real* __restrict__ gate, const real* __restrict__ hidden, const real* __restrict__ mix,                  \
        real* grad_scalars, real* grad_vectors) {                                                                      \
        update_vjp<last>(n_atoms, epsilon, grad_sent, grad_contexts, context_slopes, context1, context0, mixed,        \
                         slopes, gates, gate, hidden, mix, grad_scalars, grad_vectors);                                \
    }
#ifdef MLFF_FORWARD
UPDATE_FORWARD(, false)
UPDATE_FORWARD(_last, true)
#endif
#ifdef MLFF_BACKWARD
UPDATE_VJP(, false)
UPDATE_VJP(_last, true)
#endif
