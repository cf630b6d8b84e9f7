// edges: neighbours of small molecules, geometry of edges, and forces from the edges' cotangents.
#include "painn.cuh"

// Square of a displacement, operation by operation as src/neighbors computes it: an edge exists here exactly where it
// exists there, and is as long wherever it comes from.
__device__ __forceinline__ double square_of(const double (&r)[3]) {
    return __dadd_rn(__dadd_rn(__dmul_rn(r[0], r[0]), __dmul_rn(r[1], r[1])), __dmul_rn(r[2], r[2]));
}

// Displacement from atom i to atom j and its square.
__device__ __forceinline__ double displacement(const double* positions, u32 i, u32 j, double (&r)[3]) {
#pragma unroll
    for (int a = 0; a < 3; a++) r[a] = positions[size_t(j) * 3 + a] - positions[size_t(i) * 3 + a];
    return square_of(r);
}

__device__ __forceinline__ void store_geometry(const double (&r)[3], double square, real* geometry) {
    const double d = sqrt(square), scale = 1.0 / d;
    store<4>(geometry, Pack<real, 4>{{real(d), real(r[0] * scale), real(r[1] * scale), real(r[2] * scale)}});
}

// Neighbours of each atom of structures without periodicity: counted, every atom against every atom.
//
// IN  structure_of [n_atoms]; atom_ptr [n_structures + 1]; positions [n_atoms, 3], Å; limit, the cutoff's square.
// OUT counts [n_atoms], higher [n_atoms]: how many of them have a higher number; overwritten.   LAUNCH one warp per atom.
extern "C" __global__ void painn_count_edges(u32 n_atoms, double limit, const u32* __restrict__ structure_of,
                                             const u32* __restrict__ atom_ptr, const double* __restrict__ positions,
                                             u32* counts, u32* higher) {
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (i >= n_atoms) return;
    const u32 s = structure_of[i], last = atom_ptr[s + 1];
    u32 count = 0, higher_count = 0;
    double r[3];
    for (u32 j = atom_ptr[s] + lane; j < last; j += WARP) {
        if (displacement(positions, i, j, r) <= limit && j != i) {
            count++;
            if (j > i) higher_count++;
        }
    }
    count = lanes_sum<WARP>(count);
    higher_count = lanes_sum<WARP>(higher_count);
    if (lane == 0) {
        counts[i] = count;
        higher[i] = higher_count;
    }
}

// edge_ptr, pair_ptr [n + 1]: sums of `counts` and of `higher`, [n], before each atom.
//
// LAUNCH two blocks of 1024 threads.
extern "C" __global__ void __launch_bounds__(1024)
    painn_scan_edges(u32 n, const u32* __restrict__ counts, const u32* __restrict__ higher, u32* edge_ptr, u32* pair_ptr) {
    const u32* const in = blockIdx.x == 0 ? counts : higher;
    u32* const out = blockIdx.x == 0 ? edge_ptr : pair_ptr;
    constexpr u32 EACH = 8;
    __shared__ u32 sums[32];
    const u32 t = threadIdx.x, lane = t % WARP, warp = t / WARP;
    const auto scan = [&](u32 sum) {
#pragma unroll
        for (u32 distance = 1; distance < WARP; distance *= 2) {
            const u32 other = __shfl_up_sync(ALL_LANES, sum, distance);
            if (lane >= distance) sum += other;
        }
        return sum;
    };
    u32 before = 0;
    for (u32 first = 0; first < n; first += EACH * 1024) {
        u32 own[EACH], total = 0;
        const u32 at_0 = first + t * EACH;
        if (at_0 + EACH <= n) {
#pragma unroll
            for (u32 k = 0; k < EACH; k += 4) {
                const Pack<u32, 4> pack = load<4>(in + at_0 + k);
#pragma unroll
                for (u32 i = 0; i < 4; i++) own[k + i] = pack.at[i];
            }
        } else {
#pragma unroll
            for (u32 k = 0; k < EACH; k++) own[k] = at_0 + k < n ? in[at_0 + k] : 0;
        }
#pragma unroll
        for (u32 k = 0; k < EACH; k++) total += own[k];
        const u32 sum = scan(total);
        if (lane == WARP - 1) sums[warp] = sum;
        __syncthreads();
        if (warp == 0) sums[lane] = scan(sums[lane]);
        __syncthreads();
        u32 at = before + (warp > 0 ? sums[warp - 1] : 0) + sum - total;
#pragma unroll
        for (u32 k = 0; k < EACH; k += 4) {
            Pack<u32, 4> pack;
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                pack.at[i] = at;
                at += own[k + i];
            }
            if (at_0 + k + 4 <= n) {
                store<4>(out + at_0 + k, pack);
            } else {
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    if (at_0 + k + i < n) out[at_0 + k + i] = pack.at[i];
                }
            }
        }
        before += sums[31];
        __syncthreads();
    }
    if (t == 0) out[n] = before;
}

// The edges themselves, in the order of their senders, with their geometry.
//
// IN  as painn_count_edges; edge_ptr, pair_ptr [n_atoms + 1]; species [n_atoms]; nearest [n_species, n_species], squares of the
//     distances below which a pair is to be looked at.
// OUT senders, reverse_edge [n_edges], geometry [n_edges, 4], pairs [n_edges / 2, 2], the edge of each pair that the lower
//     atom receives along, and that atom; overwritten; close [n_structures], set to 1 where atoms are
//     nearer than that, else left alone.
// LAUNCH one warp per atom.
extern "C" __global__ void painn_fill_edges(u32 n_atoms, u32 n_species, double limit, const u32* __restrict__ species,
                                            const double* __restrict__ nearest, const u32* __restrict__ structure_of,
                                            const u32* __restrict__ atom_ptr, const double* __restrict__ positions,
                                            const u32* __restrict__ edge_ptr, const u32* __restrict__ pair_ptr,
                                            u32* senders, u32* reverse_edge, real* geometry, u32* pairs, u32* close) {
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (i >= n_atoms) return;
    const u32 s = structure_of[i], first = atom_ptr[s], last = atom_ptr[s + 1];
    u32 start = edge_ptr[i], start_pair = pair_ptr[i];
    for (u32 group = first; group < last; group += WARP) {
        const u32 j = group + lane;
        double r[3], other[3];
        const double square = j < last ? displacement(positions, i, j, r) : 0.0;
        const bool is_edge = j < last && square <= limit && j != i;
        const u32 mask = __ballot_sync(ALL_LANES, is_edge), higher = __ballot_sync(ALL_LANES, is_edge && j > i);
        if (is_edge) {
            const u32 e = start + __popc(mask & ((1u << lane) - 1));
            if (square < nearest[species[i] * n_species + species[j]]) close[s] = 1;
            senders[e] = j;
            store_geometry(r, square, geometry + size_t(e) * 4);
            // This atom's place among the neighbours of j.
            u32 reverse = edge_ptr[j];
            for (u32 k = first; k < i; k++) {
                if (displacement(positions, j, k, other) <= limit && k != j) reverse++;
            }
            reverse_edge[e] = reverse;
            if (j > i) {
                u32* const pair = pairs + 2 * size_t(start_pair + __popc(higher & ((1u << lane) - 1)));
                pair[0] = e;
                pair[1] = i;
            }
        }
        start += __popc(mask);
        start_pair += __popc(higher);
    }
}

// Neighbours from a list that has all of them and some more, as molecular dynamics keeps it from step to step.
//
// A list has the edges of atom i at list_ptr[i]..list_ptr[i + 1]: senders, and shifts, three signed bytes a word, that say
// which image of the sender it is; null where nothing is periodic.
struct List {
    const u32 *ptr, *senders, *shifts;

    // Displacement along an edge of atom i, operation by operation as src/neighbors computes it, and its square.
    __device__ __forceinline__ double displacement_of(const double* positions, const double* cell, u32 i, u32 e,
                                                      double (&r)[3]) const {
        displacement(positions, i, senders[e], r);
        if (shifts) {
            const u32 word = shifts[e];
            double s[3];
#pragma unroll
            for (int k = 0; k < 3; k++) s[k] = double(static_cast<signed char>(word >> (8 * k)));
#pragma unroll
            for (int a = 0; a < 3; a++) {
                const double xy = __dadd_rn(__dmul_rn(s[0], cell[a]), __dmul_rn(s[1], cell[3 + a]));
                r[a] = __dadd_rn(r[a], __dadd_rn(xy, __dmul_rn(s[2], cell[6 + a])));
            }
        }
        return square_of(r);
    }
};

// IN  list_ptr [n_atoms + 1], list_senders, list_shifts [n_list], null for no periodicity; positions [n_atoms, 3], Å; cell
//     [3, 3], rows are lattice vectors; limit, the cutoff's square.
// OUT counts [n_atoms], edges of each atom that are within the cutoff, overwritten.   LAUNCH one warp per atom.
extern "C" __global__ void painn_count_listed(u32 n_atoms, double limit, const u32* __restrict__ list_ptr,
                                              const u32* __restrict__ list_senders, const u32* __restrict__ list_shifts,
                                              const double* __restrict__ positions, const double* __restrict__ cell,
                                              u32* counts) {
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (i >= n_atoms) return;
    const List list{list_ptr, list_senders, list_shifts};
    u32 count = 0;
    double r[3];
    for (u32 e = list_ptr[i] + lane; e < list_ptr[i + 1]; e += WARP) {
        if (list.displacement_of(positions, cell, i, e, r) <= limit) count++;
    }
    count = lanes_sum<WARP>(count);
    if (lane == 0) counts[i] = count;
}

// IN  as painn_count_listed; edge_ptr [n_atoms + 1]; species, nearest as painn_fill_edges.
// OUT senders [n_edges], geometry [n_edges, 4], numbers [n_list], of each edge of the list among those within the cutoff,
//     ~0 for the others; overwritten; close [1], set to 1 where atoms are nearer than that.
// LAUNCH one warp per atom.
extern "C" __global__ void painn_fill_listed(u32 n_atoms, u32 n_species, double limit, const u32* __restrict__ species,
                                             const double* __restrict__ nearest, const u32* __restrict__ list_ptr,
                                             const u32* __restrict__ list_senders, const u32* __restrict__ list_shifts,
                                             const double* __restrict__ positions, const double* __restrict__ cell,
                                             const u32* __restrict__ edge_ptr, u32* senders, real* geometry, u32* numbers,
                                             u32* close) {
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (i >= n_atoms) return;
    const List list{list_ptr, list_senders, list_shifts};
    u32 start = edge_ptr[i];
    for (u32 group = list_ptr[i]; group < list_ptr[i + 1]; group += WARP) {
        const u32 listed = group + lane;
        const bool is_there = listed < list_ptr[i + 1];
        double r[3];
        const double square = is_there ? list.displacement_of(positions, cell, i, listed, r) : 0.0;
        const bool is_edge = is_there && square <= limit;
        const u32 mask = __ballot_sync(ALL_LANES, is_edge), e = start + __popc(mask & ((1u << lane) - 1));
        if (is_there) numbers[listed] = is_edge ? e : ~0u;
        if (is_edge) {
            if (square < nearest[species[i] * n_species + species[list_senders[listed]]]) *close = 1;
            senders[e] = list_senders[listed];
            store_geometry(r, square, geometry + size_t(e) * 4);
        }
        start += __popc(mask);
    }
}

// Both edges of a pair are as long, so that neither is there without the other.
//
// IN  list_reverse [n_list]; numbers [n_list].
// OUT reverse_edge [n_edges], overwritten.   LAUNCH one thread per edge of the list.
extern "C" __global__ void painn_link_listed(u32 n_list, const u32* __restrict__ list_reverse,
                                             const u32* __restrict__ numbers, u32* reverse_edge) {
    const u32 listed = blockIdx.x * blockDim.x + threadIdx.x;
    if (listed >= n_list) return;
    const u32 e = numbers[listed];
    if (e != ~0u) reverse_edge[e] = numbers[list_reverse[listed]];
}

constexpr u32 LANES_PER_ATOM = 16;

// Geometry of edges that are there already.
//
// IN  edge_ptr [n_atoms + 1]; senders [n_edges]; positions [n_atoms, 3], Å; offsets [n_edges, 3], Å, null where nothing is
//     periodic.
// OUT geometry [n_edges, 4]: (distance, direction), overwritten.   LAUNCH 16 lanes per atom.
extern "C" __global__ void painn_edge_geometry(u32 n_atoms, const u32* __restrict__ edge_ptr,
                                               const u32* __restrict__ senders, const double* __restrict__ positions,
                                               const double* __restrict__ offsets, real* geometry) {
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) / LANES_PER_ATOM;
    if (i >= n_atoms) return;
    for (u32 e = edge_ptr[i] + threadIdx.x % LANES_PER_ATOM; e < edge_ptr[i + 1]; e += LANES_PER_ATOM) {
        double r[3];
        displacement(positions, i, senders[e], r);
        if (offsets) {
#pragma unroll
            for (int a = 0; a < 3; a++) r[a] = __dadd_rn(r[a], offsets[size_t(e) * 3 + a]);
        }
        store_geometry(r, square_of(r), geometry + size_t(e) * 4);
    }
}

// Displacement r of an edge and the cotangent g of it: g = grad_d û + (grad_u - (grad_u·û) û) / d.
__device__ __forceinline__ void edge_cotangent(const real* geometry, const real* cotangents, u32 n_tiles, u32 n_edges,
                                               u32 e, double (&r)[3], double (&g)[3]) {
    const Pack<real, 4> value = load<4>(geometry + size_t(e) * 4);
    double grad[4] = {};
    for (u32 tile = 0; tile < n_tiles; tile++) {
        const Pack<real, 4> part = load<4>(cotangents + (size_t(tile) * n_edges + e) * 4);
#pragma unroll
        for (int k = 0; k < 4; k++) grad[k] += double(part.at[k]);
    }
    const double d = value.at[0], inverse = 1.0 / d;
    double along = 0;
#pragma unroll
    for (int a = 0; a < 3; a++) {
        r[a] = double(value.at[1 + a]) * d;
        along += grad[1 + a] * double(value.at[1 + a]);
    }
#pragma unroll
    for (int a = 0; a < 3; a++) {
        const double unit = value.at[1 + a];
        g[a] = grad[0] * unit + (grad[1 + a] - along * unit) * inverse;
    }
}

// From edges to atoms.
//
// IN  edge_ptr [n_atoms + 1]; reverse_edge [n_edges]; geometry [n_edges, 4]; cotangents [n_tiles, n_edges, 4].
// OUT gradients [n_atoms, 3], eV/Å; virials [n_atoms, 9], eV, Σ r ⊗ g over an atom's edges, null where not asked for;
//     overwritten.   LAUNCH 16 lanes per atom.
extern "C" __global__ void painn_gradients(u32 n_atoms, u32 n_tiles, const u32* __restrict__ edge_ptr,
                                           const u32* __restrict__ reverse_edge, const real* __restrict__ geometry,
                                           const real* __restrict__ cotangents, double* gradients, double* virials) {
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) / LANES_PER_ATOM, lane = threadIdx.x % LANES_PER_ATOM;
    const u32 n_edges = edge_ptr[n_atoms];
    double gradient[3] = {}, virial[9] = {};
    if (i < n_atoms) {
        for (u32 e = edge_ptr[i] + lane; e < edge_ptr[i + 1]; e += LANES_PER_ATOM) {
            double r[3], in[3], r_out[3], out[3];
            edge_cotangent(geometry, cotangents, n_tiles, n_edges, e, r, in);
            edge_cotangent(geometry, cotangents, n_tiles, n_edges, reverse_edge[e], r_out, out);
#pragma unroll
            for (int a = 0; a < 3; a++) {
                gradient[a] += out[a] - in[a];
#pragma unroll
                for (int b = 0; b < 3; b++) virial[3 * a + b] += r[a] * in[b];
            }
        }
    }
#pragma unroll
    for (int a = 0; a < 3; a++) gradient[a] = lanes_sum<LANES_PER_ATOM>(gradient[a]);
    if (virials) {
#pragma unroll
        for (int k = 0; k < 9; k++) virial[k] = lanes_sum<LANES_PER_ATOM>(virial[k]);
    }
    if (i >= n_atoms || lane != 0) return;
#pragma unroll
    for (int a = 0; a < 3; a++) gradients[size_t(i) * 3 + a] = gradient[a];
    if (virials) {
#pragma unroll
        for (int k = 0; k < 9; k++) virials[size_t(i) * 9 + k] = virial[k];
    }
}
