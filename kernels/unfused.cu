// unfused: the elementary operations of the unfused chains (src/cuda/unfused), as a tensor library has them: each reads
// its arguments from memory and writes its whole result there. What a calibration compares the fused kernels with, and
// what runs where they do not pay. Dense products are a library's or dense.cu's.
//
// An argument is a pointer with steps: its element (row, part, column) is at row * x_row + part * x_part + column *
// x_column. Columns of a wider array and what repeats (step 0) need no copy. Results are dense up to their `out_row`.
// SAVED for the VJPs: nothing; their chains consist of the same operations. All are bound by memory.
#include "common.cuh"

// Row and column of the thread's element, one thread per (row, column): neighbours in a row are neighbours in a warp.
struct Spot {
    size_t row;
    u32 column;
};

__device__ __forceinline__ Spot spot_of(u32 width) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    // Divisions of 32 bits are several times faster, and few arrays need others.
    if (i <= 0xffffffffu) return {u32(i) / width, u32(i) % width};
    return {i / width, u32(i % width)};
}

// Rows copied, gathered or added: out[r, c] = x[indices[r], c].
//
// IN  x [.., x_row], null for zeros; indices [n_rows], null for r itself.
// OUT out [n_rows, out_row], columns 0 to width: overwritten, or added to if `accumulates`.
// LAUNCH one thread per (row, column).
template <typename T>
__device__ __forceinline__ void unfused_copy(u32 n_rows, u32 width, const u32* indices, const T* x, u32 x_row,
                                             u32 accumulates, T* out, u32 out_row) {
    const Spot at = spot_of(width);
    if (at.row >= n_rows) return;
    const size_t from = indices ? size_t(indices[at.row]) : at.row;
    const T value = x ? x[from * x_row + at.column] : T(0);
    T* to = out + at.row * out_row + at.column;
    *to = accumulates ? *to + value : value;
}

// Operations on two elements by number, as src/cuda/unfused passes them.
enum Pairwise : u32 { MULTIPLY = 0, SUBTRACT = 1, DIVIDE = 2 };

// Two arrays, element by element; with steps of 0 an outer product or rows by numbers of their own.
//
// IN  a, b [n_rows, n_parts, n] by their steps.
// OUT out [n_rows, out_row], columns 0 to n_parts * n, overwritten.
// LAUNCH one thread per (row, part, column).
template <typename T>
__device__ __forceinline__ void unfused_combine(u32 n_rows, u32 n_parts, u32 n, u32 operation, const T* a, u32 a_row,
                                                u32 a_part, u32 a_column, const T* b, u32 b_row, u32 b_part,
                                                u32 b_column, T* out, u32 out_row) {
    const Spot at = spot_of(n_parts * n);
    if (at.row >= n_rows) return;
    const u32 part = at.column / n, column = at.column % n;
    const T x = a[at.row * a_row + size_t(part) * a_part + size_t(column) * a_column];
    const T y = b[at.row * b_row + size_t(part) * b_part + size_t(column) * b_column];
    out[at.row * out_row + at.column] = operation == MULTIPLY ? x * y : operation == SUBTRACT ? x - y : x / y;
}

// Sums over a few parts: out[r, c] = Σ_p a[r, p, c] b[of[r], p, c].
//
// IN  a [n_rows, n_parts, width] and b [.., n_parts, width] by their steps, b null for ones; of [n_rows], null for r.
// OUT out [n_rows, out_row], columns 0 to width, overwritten.
// LAUNCH one thread per (row, column).
template <typename T>
__device__ __forceinline__ void unfused_sum(u32 n_rows, u32 n_parts, u32 width, const T* a, u32 a_row, u32 a_part,
                                            u32 a_column, const u32* of, const T* b, u32 b_row, u32 b_part,
                                            u32 b_column, T* out, u32 out_row) {
    const Spot at = spot_of(width);
    if (at.row >= n_rows) return;
    const size_t other = of ? size_t(of[at.row]) : at.row;
    T sum = T(0);
    for (u32 p = 0; p < n_parts; p++) {
        const T x = a[at.row * a_row + size_t(p) * a_part + size_t(at.column) * a_column];
        const T y = b ? b[other * b_row + size_t(p) * b_part + size_t(at.column) * b_column] : T(1);
        sum += x * y;
    }
    out[at.row * out_row + at.column] = sum;
}

// Inner products of rows: out[r, p] = Σ_c a[r, p, c] b[r, p, c].
//
// IN  a, b [n_rows, n_parts, n] by their steps; columns are neighbours.
// OUT out [n_rows, n_parts], overwritten.
// LAUNCH 32 lanes per (row, part).
template <typename T>
__device__ __forceinline__ void unfused_inner(u32 n_rows, u32 n_parts, u32 n, const T* a, u32 a_row, u32 a_part,
                                              const T* b, u32 b_row, u32 b_part, T* out) {
    const size_t i = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    const size_t row = i / n_parts, part = i % n_parts;
    T sum = T(0);
    if (row < n_rows) {
        for (u32 c = threadIdx.x % WARP; c < n; c += WARP) {
            sum += a[row * a_row + part * a_part + c] * b[row * b_row + part * b_part + c];
        }
    }
    sum = lanes_sum<WARP>(sum);
    if (row < n_rows && threadIdx.x % WARP == 0) out[i] = sum;
}

// Sums of consecutive rows: those from starts[k] to starts[k + 1] are row k of the result.
//
// IN  starts [n_segments + 1]; x [.., width].
// OUT out [n_segments, width], overwritten; zero where a segment is empty.
// LAUNCH one thread per (segment, column).
template <typename T>
__device__ __forceinline__ void unfused_segment_sum(u32 n_segments, u32 width, const u32* starts, const T* x, T* out) {
    const Spot at = spot_of(width);
    if (at.row >= n_segments) return;
    T sum = T(0);
    for (u32 e = starts[at.row]; e < starts[at.row + 1]; e++) sum += x[size_t(e) * width + at.column];
    out[at.row * width + at.column] = sum;
}

// Functions of one element by number, as src/cuda/unfused passes them; p is a parameter.
enum Elementwise : u32 {
    ADD = 0,             // x + p
    ROOT = 1,            // sqrt(x + p)
    INVERSE = 2,         // 1 / (x + p), zero unless x + p > 0: the subgradient of a norm
    SILU_VALUE = 3,
    SILU_SLOPE = 4,
    ENVELOPE = 5,        // cosine cutoff at x, Å; p is the cutoff, Å
    ENVELOPE_SLOPE = 6,  // its derivative, 1/Å
};

// A function of every element.
//
// IN  x [n_rows, x_row], columns 0 to width; parameter.
// OUT out [n_rows, width], overwritten.
// LAUNCH one thread per element.
template <typename T>
__device__ __forceinline__ void unfused_map(u32 n_rows, u32 width, u32 function, T parameter, const T* x, u32 x_row,
                                            T* out) {
    const Spot at = spot_of(width);
    if (at.row >= n_rows) return;
    const T value = x[at.row * x_row + at.column];
    T result, other;
    switch (function) {
        case ADD: result = value + parameter; break;
        case ROOT: result = sqrt(value + parameter); break;
        case INVERSE: result = value + parameter > T(0) ? T(1) / (value + parameter) : T(0); break;
        case SILU_VALUE: result = silu(value); break;
        case SILU_SLOPE: result = silu_slope(value); break;
        case ENVELOPE: envelope_at(value, parameter, &result, &other); break;
        default: envelope_at(value, parameter, &other, &result); break;
    }
    out[at.row * width + at.column] = result;
}

// Radial functions without their envelope, or their derivatives.
//
// IN  distances [n_edges], one every `stride` elements, Å, each > 0; kind; first [n_rbf] centers or frequencies; widths
//     [n_rbf] or null.
// OUT out [n_edges, n_rbf]: values, derivatives if `is_slope`; overwritten.
// LAUNCH one thread per (edge, function).
template <typename T>
__device__ __forceinline__ void unfused_functions(u32 n_edges, u32 n_rbf, u32 kind, const T* first, const T* widths,
                                                  u32 is_slope, const T* distances, u32 stride, T* out) {
    const Spot at = spot_of(n_rbf);
    if (at.row >= n_edges) return;
    const T d = distances[at.row * stride];
    T value, slope;
    function_at(kind, first[at.column], widths ? T(1) / widths[at.column] : T(0), d, T(1) / d, &value, &slope);
    out[at.row * n_rbf + at.column] = is_slope ? slope : value;
}

#define UNFUSED(T, suffix)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        unfused_copy_##suffix(u32 n_rows, u32 width, const u32* indices, const T* x, u32 x_row, u32 accumulates,       \
                              T* out, u32 out_row) {                                                                   \
        unfused_copy<T>(n_rows, width, indices, x, x_row, accumulates, out, out_row);                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) unfused_combine_##suffix(                                        \
        u32 n_rows, u32 n_parts, u32 n, u32 operation, const T* a, u32 a_row, u32 a_part, u32 a_column, const T* b,    \
        u32 b_row, u32 b_part, u32 b_column, T* out, u32 out_row) {                                                    \
        unfused_combine<T>(n_rows, n_parts, n, operation, a, a_row, a_part, a_column, b, b_row, b_part, b_column, out, \
                           out_row);                                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) unfused_sum_##suffix(                                            \
        u32 n_rows, u32 n_parts, u32 width, const T* a, u32 a_row, u32 a_part, u32 a_column, const u32* of,            \
        const T* b, u32 b_row, u32 b_part, u32 b_column, T* out, u32 out_row) {                                        \
        unfused_sum<T>(n_rows, n_parts, width, a, a_row, a_part, a_column, of, b, b_row, b_part, b_column, out,        \
                       out_row);                                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        unfused_inner_##suffix(u32 n_rows, u32 n_parts, u32 n, const T* a, u32 a_row, u32 a_part, const T* b,          \
                               u32 b_row, u32 b_part, T* out) {                                                        \
        unfused_inner<T>(n_rows, n_parts, n, a, a_row, a_part, b, b_row, b_part, out);                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        unfused_segment_sum_##suffix(u32 n_segments, u32 width, const u32* starts, const T* x, T* out) {               \
        unfused_segment_sum<T>(n_segments, width, starts, x, out);                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        unfused_map_##suffix(u32 n_rows, u32 width, u32 function, T parameter, const T* x, u32 x_row, T* out) {        \
        unfused_map<T>(n_rows, width, function, parameter, x, x_row, out);                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        unfused_functions_##suffix(u32 n_edges, u32 n_rbf, u32 kind, const T* first, const T* widths, u32 is_slope,    \
                                   const T* distances, u32 stride, T* out) {                                           \
        unfused_functions<T>(n_edges, n_rbf, kind, first, widths, is_slope, distances, stride, out);                   \
    }
UNFUSED(float, f32)
UNFUSED(double, f64)
