// SPDX-License-Identifier: Apache-2.0
// The pieces of linear's kernels for a few rows of x, where the time is that of reading the
// weights: they go straight from memory into the registers that mma.sync takes them from, 16 bytes
// for each lane and load, with the next ones under way. x comes from the caches. A block has 16 or
// 32 rows of w; its eight warps take a segment of K each, and are added up through shared memory.
#ifndef PHALANX_KERNELS_CUDA_LINEAR_ROWS_CUH
#define PHALANX_KERNELS_CUDA_LINEAR_ROWS_CUH

#include "kernels/cuda/linear.cuh"

constexpr unsigned rows_threads = 32 * LINEAR_WARPS;

// x as it lies in memory: element k + 8 t of row g of each MT. Others can stand for it.
template <class T, int MT> struct rows_plain {
    const T *x[MT];

    template <class C> __device__ __forceinline__ void begin(const C &a)
    {
        unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < MT; j++) {
            uint64_t row = linear_x_row(a, min(8 * (unsigned)j + g, a.m - 1));
            x[j] = static_cast<const T *>(a.x) + row * a.x_stride + 8 * t;
        }
    }

    __device__ __forceinline__ uint4 get(int j, unsigned k) const
    {
        return *reinterpret_cast<const uint4 *>(x[j] + k);
    }
};

// NT tiles of 16 rows of w (gated: the first is of gate rows, the second of their up rows), MT
// tiles of 8 rows of x, U loads of 32 elements of K at a time.
template <class T, int NT, int MT, int U, bool gated> struct rows_warp {
    const T *w[NT][2];
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
        for (int j = 0; j < MT; j++)
#pragma unroll
            for (int i = 0; i < NT; i++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    c[i][j][e] = 0.0f;
    }

    // Asks for what `load` will ask for next, a few times over.
    __device__ __forceinline__ void prefetch(unsigned k, unsigned end)
    {
        constexpr unsigned line = 64, loads = 3; // elements of 128 bytes
        unsigned ahead = min(k + loads * 32 * U, end);
        if (threadIdx.x % 4 == 0)
            for (; k < ahead; k += line)
#pragma unroll
                for (int i = 0; i < NT; i++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        phx_prefetch(w[i][h] + k);
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
    template <class X> __device__ __forceinline__ void run(unsigned k, unsigned end, X &x)
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
                        b = x.get(j, k + 32 * u);
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
__device__ __forceinline__ unsigned rows_row_of(
    const linear_call &a, unsigned first, unsigned column)
{
    unsigned n = first + (gated ? column % 16 : column), limit = gated ? a.n / 2 : a.n;
    if (n >= limit)
        return a.n;
    return gated && column >= 16 ? n + limit : n;
}

template <int NT, int MT, bool gated>
__device__ __forceinline__ void rows_leave_partials(
    const linear_call &a, const rows_sums<NT, MT> &sums, unsigned first, unsigned n_warps)
{
    constexpr unsigned columns = 16 * NT;
    unsigned segment = blockIdx.y * LINEAR_WARPS;
    for (unsigned i = threadIdx.x; i < columns * a.m; i += rows_threads) {
        unsigned m = i / columns, n = rows_row_of<gated>(a, first, i % columns);
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
__device__ __forceinline__ void rows_finish(
    const linear_call &a, const rows_sums<NT, MT> &sums, unsigned first, unsigned n_warps)
{
    constexpr unsigned columns = gated ? 16 : 16 * NT;
    bool shared = gridDim.y > 1;
    for (unsigned i = threadIdx.x; i < columns * a.m; i += rows_threads) {
        unsigned m = i / columns, column = i % columns, n = rows_row_of<gated>(a, first, column);
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

// Behind run(): the sums of this block's warps, and where blocks share K, of theirs. False in all
// blocks but the last of those that share, which has stored the columns.
template <int NT, int MT, bool gated>
__device__ __forceinline__ bool rows_end(const linear_call &a, rows_sums<NT, MT> &sums,
    const float (&c)[NT][MT][4], unsigned first, unsigned n_warps)
{
    sums.put(c);
    __syncthreads();
    if (gridDim.y > 1) {
        rows_leave_partials<NT, MT, gated>(a, sums, first, n_warps);
        if (!linear_is_last(a.tickets + blockIdx.x, gridDim.y))
            return false;
    }
    rows_finish<NT, MT, gated>(a, sums, first, n_warps);
    return true;
}

#endif
