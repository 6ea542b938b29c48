// SPDX-License-Identifier: Apache-2.0
// Linear for a few rows of x, where the time is that of reading the weights: they go straight from
// memory into the registers that mma.sync takes them from, 16 bytes for each lane and load, with
// the next ones under way. x comes from the caches. A block has 16 or 32 rows of w; its eight warps
// take a segment of K each, and are added up through shared memory.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linear.cuh"

namespace
{

constexpr unsigned threads = 32 * LINEAR_WARPS;

// NT tiles of 16 rows of w (gated: the first is of gate rows, the second of their up rows), MT
// tiles of 8 rows of x, U loads of 32 elements of K at a time.
template <class T, int NT, int MT, int U, bool gated> struct rows_warp {
    const T *w[NT][2], *x[MT];
    uint4 held[U][NT][2];
    float c[NT][MT][4];

    // Rows beyond the last one are the last one again: its bytes are read anyway, and what they
    // give is not stored.
    template <class C> __device__ __forceinline__ void begin(const C &a, unsigned first)
    {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        unsigned half = a.n / 2;
#pragma unroll
        for (int i = 0; i < NT; i++)
#pragma unroll
            for (unsigned h = 0; h < 2; h++) {
                unsigned row = first + g + 8 * h + (gated ? 0 : 16 * (unsigned)i);
                row = min(row, (gated ? half : a.n) - 1) + (gated && i == 1 ? half : 0);
                w[i][h] = static_cast<const T *>(a.w) + row * a.w_stride + 8 * t;
            }
#pragma unroll
        for (int j = 0; j < MT; j++) {
            uint64_t row = linear_x_row(a, min(8 * (unsigned)j + g, a.m - 1));
            x[j] = static_cast<const T *>(a.x) + row * a.x_stride + 8 * t;
#pragma unroll
            for (int i = 0; i < NT; i++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    c[i][j][e] = 0.0f;
        }
    }

    // Weights of k .. k + 32 U - 1, zeros from `end` on.
    __device__ __forceinline__ void load(unsigned k, unsigned end)
    {
        unsigned t = threadIdx.x % 4;
#pragma unroll
        for (unsigned u = 0; u < U; u++)
#pragma unroll
            for (int i = 0; i < NT; i++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    held[u][i][h] = k + 32 * u + 8 * t < end
                                        ? phx_load_stream_16(w[i][h] + k + 32 * u)
                                        : make_uint4(0, 0, 0, 0);
    }

    // The sums over [k, end) of this segment.
    __device__ __forceinline__ void run(unsigned k, unsigned end)
    {
        unsigned t = threadIdx.x % 4;
        for (; k < end; k += 32 * U) {
            uint4 now[U][NT][2];
#pragma unroll
            for (unsigned u = 0; u < U; u++)
#pragma unroll
                for (int i = 0; i < NT; i++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        now[u][i][h] = held[u][i][h];
            load(k + 32 * U, end);
#pragma unroll
            for (unsigned u = 0; u < U; u++) {
                if (k + 32 * u >= end)
                    break;
#pragma unroll
                for (int j = 0; j < MT; j++) {
                    uint4 b = make_uint4(0, 0, 0, 0);
                    if (k + 32 * u + 8 * t < end)
                        b = *reinterpret_cast<const uint4 *>(x[j] + k + 32 * u);
#pragma unroll
                    for (int i = 0; i < NT; i++)
                        linear_multiply<T>(c[i][j], now[u][i][0], now[u][i][1], b);
                }
            }
        }
    }
};

// Sums of the warps of a block, [warp][row of x][row of w]; the odd distance between rows keeps the
// lanes of a warp out of each other's banks.
template <int NT, int MT> struct rows_sums {
    static constexpr unsigned columns = 16 * NT, distance = columns + 4;
    float at[LINEAR_WARPS][8 * MT][distance];

    __device__ __forceinline__ void put(const float (&c)[NT][MT][4])
    {
        unsigned warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (unsigned i = 0; i < NT; i++)
#pragma unroll
            for (unsigned j = 0; j < MT; j++)
#pragma unroll
                for (unsigned e = 0; e < 4; e++)
                    at[warp][8 * j + 2 * t + e % 2][16 * i + g + e / 2 * 8] = c[i][j][e];
    }

    __device__ __forceinline__ float total(unsigned n_warps, unsigned m, unsigned column) const
    {
        float v = 0.0f;
        for (unsigned i = 0; i < n_warps; i++)
            v += at[i][m][column];
        return v;
    }
};

// Which row of w a column of the block is; a.n where there is none.
template <bool gated>
__device__ __forceinline__ unsigned row_of(const linear_call &a, unsigned first, unsigned column)
{
    unsigned n = first + (gated ? column % 16 : column), limit = gated ? a.n / 2 : a.n;
    if (n >= limit)
        return a.n;
    return gated && column >= 16 ? n + limit : n;
}

template <int NT, int MT, bool gated>
__device__ __forceinline__ void leave_partials(
    const linear_call &a, const rows_sums<NT, MT> &sums, unsigned first, unsigned n_warps)
{
    constexpr unsigned columns = 16 * NT;
    unsigned segment = blockIdx.y * LINEAR_WARPS;
    for (unsigned i = threadIdx.x; i < columns * a.m; i += threads) {
        unsigned m = i / columns, n = row_of<gated>(a, first, i % columns);
        if (n == a.n)
            continue;
        if (blockIdx.y == 0)
            *linear_partial(a, 0, m, n) = sums.total(n_warps, m, i % columns);
        else
            for (unsigned s = 0; s < n_warps; s++)
                *linear_partial(a, segment + s, m, n) = sums.at[s][m][i % columns];
    }
}

template <int NT, int MT, bool gated>
__device__ __forceinline__ void finish(
    const linear_call &a, const rows_sums<NT, MT> &sums, unsigned first, unsigned n_warps)
{
    constexpr unsigned columns = gated ? 16 : 16 * NT;
    bool shared = gridDim.y > 1;
    for (unsigned i = threadIdx.x; i < columns * a.m; i += threads) {
        unsigned m = i / columns, column = i % columns, n = row_of<gated>(a, first, column);
        if (n == a.n)
            continue;
        float v = shared ? linear_combine(a, LINEAR_WARPS, m, n) : sums.total(n_warps, m, column);
        if (gated) {
            float up = shared ? linear_combine(a, LINEAR_WARPS, m, a.n / 2 + n)
                              : sums.total(n_warps, m, column + 16);
            linear_store_gated(a, m, n, v, up);
        } else {
            linear_store(a, m, n, v);
        }
    }
}

template <class T, int NT, int MT, int U, bool gated>
__global__ void __launch_bounds__(threads) rows_kernel(const __grid_constant__ linear_call a)
{
    using sums_type = rows_sums<NT, MT>;
    PHX_SHARED(sums_type, sums);
    unsigned first = blockIdx.x * (gated ? 16 : 16 * NT);
    unsigned segment = blockIdx.y * LINEAR_WARPS + threadIdx.x / 32;
    unsigned n_warps = min((unsigned)LINEAR_WARPS, a.n_segments - blockIdx.y * LINEAR_WARPS);
    unsigned begin = segment * a.segment, end = min(begin + a.segment, a.k);
    rows_warp<T, NT, MT, U, gated> warp;
    warp.begin(a, first);
    warp.load(begin, end); // no kernel writes weights: they are asked for before the one that
                           // writes x has ended
    phx_grid_wait();
    phx_grid_release();
    warp.run(begin, end);
    sums.put(warp.c);
    __syncthreads();
    if (gridDim.y > 1) {
        leave_partials<NT, MT, gated>(a, sums, first, n_warps);
        if (!linear_is_last(a.tickets + blockIdx.x, gridDim.y))
            return;
    }
    finish<NT, MT, gated>(a, sums, first, n_warps);
}

// A block per tile of a group: nobody shares K.
template <class T, int NT, int MT, int U, bool gated>
__global__ void __launch_bounds__(threads) rows_grouped_kernel(
    const __grid_constant__ linear_call all, const __grid_constant__ linear_groups groups)
{
    using sums_type = rows_sums<NT, MT>;
    PHX_SHARED(sums_type, sums);
    linear_tile_call a;
    phx_grid_wait();
    phx_grid_release();
    if (!linear_begin_tile(a, all, groups, blockIdx.z))
        return;
    unsigned first = blockIdx.x * (gated ? 16 : 16 * NT);
    unsigned begin = threadIdx.x / 32 * a.segment, end = min(begin + a.segment, a.k);
    rows_warp<T, NT, MT, U, gated> warp;
    warp.begin(a, first);
    warp.load(begin, end);
    warp.run(begin, end);
    sums.put(warp.c);
    __syncthreads();
    finish<NT, MT, gated>(a, sums, first, a.n_segments);
}

template <class T>
cudaError_t start_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, const phx_launch_config &l)
{
    switch (p.kernel) {
    case LINEAR_ROWS_16x8:
        return phx_launch(l, rows_grouped_kernel<T, 1, 1, 4, false>, a, g);
    case LINEAR_ROWS_32x16:
        return phx_launch(l, rows_grouped_kernel<T, 2, 2, 2, false>, a, g);
    case LINEAR_ROWS_GATED_8:
        return phx_launch(l, rows_grouped_kernel<T, 2, 1, 2, true>, a, g);
    case LINEAR_ROWS_GATED_16:
        return phx_launch(l, rows_grouped_kernel<T, 2, 2, 2, true>, a, g);
    default:
        return cudaErrorInvalidValue;
    }
}

template <class T>
cudaError_t start(const linear_call &a, const linear_plan &p, const phx_launch_config &l)
{
    switch (p.kernel) {
    case LINEAR_ROWS_16x8:
        return phx_launch(l, rows_kernel<T, 1, 1, 4, false>, a);
    case LINEAR_ROWS_32x16:
        return phx_launch(l, rows_kernel<T, 2, 2, 2, false>, a);
    case LINEAR_ROWS_32x32:
        return phx_launch(l, rows_kernel<T, 2, 4, 2, false>, a);
    case LINEAR_ROWS_GATED_8:
        return phx_launch(l, rows_kernel<T, 2, 1, 2, true>, a);
    case LINEAR_ROWS_GATED_16:
        return phx_launch(l, rows_kernel<T, 2, 2, 2, true>, a);
    default:
        return cudaErrorInvalidValue;
    }
}

} // namespace

cudaError_t linear_rows(const linear_call &a, const linear_plan &p, struct device *d)
{
    phx_launch_config l = device_launch_waiting(d, dim3(p.n_tiles, p.splits), dim3(threads));
    return a.x_type == DTYPE_F16 ? start<phx_f16>(a, p, l) : start<phx_bf16>(a, p, l);
}

cudaError_t linear_rows_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, struct device *d)
{
    phx_launch_config l = device_launch_waiting(d, dim3(p.n_tiles, 1, p.m_tiles), dim3(threads));
    return a.x_type == DTYPE_F16 ? start_grouped<phx_f16>(a, g, p, l)
                                 : start_grouped<phx_bf16>(a, g, p, l);
}
