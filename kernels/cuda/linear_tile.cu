// SPDX-License-Identifier: Apache-2.0
// Linear for many rows of x: tiles of w and x go through shared memory, several stages of 64
// elements of K under way by cp.async, and meet in mma.sync.
//
// A row of a stage is 128 bytes: eight chunks of 16. Chunk c of an odd row lies at c ^ 4, so that
// the eight lanes that read together, four chunks of two neighbouring rows, touch all 32 banks
// once.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linear.cuh"

namespace
{

constexpr unsigned stage_k = 64, row_bytes = 128, chunks = 8;

// BN rows of w and BM of x by WN x WM warps.
template <int BN, int BM, int WN, int WM, int STAGES> struct tile_shape {
    static constexpr unsigned bn = BN, bm = BM, wn = WN, stages = STAGES;
    static constexpr unsigned threads = 32 * WN * WM, rows = BN + BM;
    static constexpr unsigned n_tiles = BN / WN / 16, m_tiles = BM / WM / 8; // of a warp
    static constexpr unsigned copies = rows * chunks / threads; // of a thread and stage
    static constexpr unsigned stage_bytes = rows * row_bytes;
    static constexpr unsigned distance = BN + 4; // of rows of the result, in floats
    static_assert(rows * chunks % threads == 0 && threads % chunks == 0, "whole rows of copies");
    static_assert(distance * 4 * BM <= stages * stage_bytes, "the result has room");
};
using large = tile_shape<128, 128, 2, 4, 4>;
using small = tile_shape<64, 64, 2, 2, 4>;

__device__ __forceinline__ unsigned place_of(unsigned row, unsigned chunk)
{
    return row * row_bytes + (chunk ^ (row & 1) << 2) * 16;
}

// Neighbouring blocks share rows of w and of x: eight tiles of w, then the next rows of x.
__device__ __forceinline__ void tile_of_block(unsigned n_tiles, unsigned &n, unsigned &m)
{
    constexpr unsigned width = 8;
    unsigned m_tiles = gridDim.x / n_tiles, group = blockIdx.x / (width * m_tiles);
    unsigned left = n_tiles - group * width, columns = left < width ? left : width;
    unsigned i = blockIdx.x - group * width * m_tiles;
    n = group * width + i % columns;
    m = i / columns;
}

// Gated: the first half of the rows of w are of the gate, the others their up rows.
template <class T, class S, class C = linear_call, bool gated = false> struct tile_block {
    static constexpr unsigned outputs = gated ? S::bn / 2 : S::bn; // columns of the result
    const C &a;
    unsigned char *memory;
    unsigned n0, m0;
    const T *from[S::copies];
    float c[S::n_tiles][S::m_tiles][4], total[S::n_tiles][S::m_tiles][4];

    __device__ __forceinline__ tile_block(const C &call, unsigned char *p)
        : a(call), memory(p), n0(0), m0(0)
    {
    }

    __device__ __forceinline__ unsigned columns() const
    {
        return gated ? a.n / 2 : a.n;
    }

    // Which row of w is row n of the tile; a.n where there is none.
    __device__ __forceinline__ unsigned sum_of(unsigned n) const
    {
        bool up = gated && n >= outputs;
        unsigned at = n0 + n - (up ? outputs : 0);
        return at < columns() ? at + (up ? columns() : 0) : a.n;
    }

    __device__ __forceinline__ uint64_t w_row(unsigned row) const
    {
        bool up = gated && row >= outputs;
        return min(n0 + row - (up ? outputs : 0), columns() - 1) + (up ? columns() : 0);
    }

    // Rows beyond the last one are the last one again; what they give is not stored.
    __device__ __forceinline__ void begin(unsigned n_tile, unsigned m_tile)
    {
        n0 = n_tile * outputs;
        m0 = m_tile * S::bm;
        unsigned chunk = threadIdx.x % chunks;
#pragma unroll
        for (unsigned i = 0; i < S::copies; i++) {
            unsigned row = threadIdx.x / chunks + i * (S::threads / chunks);
            from[i] = row < S::bn
                          ? static_cast<const T *>(a.w) + w_row(row) * a.w_stride
                          : static_cast<const T *>(a.x) +
                                linear_x_row(a, min(m0 + row - S::bn, a.m - 1)) * a.x_stride;
            from[i] += 8 * chunk;
        }
        clear(c);
        clear(total);
    }

    __device__ __forceinline__ void clear(float (&v)[S::n_tiles][S::m_tiles][4])
    {
#pragma unroll
        for (unsigned i = 0; i < S::n_tiles; i++)
#pragma unroll
            for (unsigned j = 0; j < S::m_tiles; j++)
#pragma unroll
                for (unsigned e = 0; e < 4; e++)
                    v[i][j][e] = 0.0f;
    }

    // Asks for k .. k + 63, zeros from K on.
    __device__ __forceinline__ void load(unsigned stage, unsigned k)
    {
        unsigned char *to = memory + stage * S::stage_bytes;
        unsigned chunk = threadIdx.x % chunks;
        bool there = k + 8 * chunk < a.k;
#pragma unroll
        for (unsigned i = 0; i < S::copies; i++) {
            unsigned row = threadIdx.x / chunks + i * (S::threads / chunks);
            phx_copy_async_16_if(to + place_of(row, chunk), there ? from[i] + k : from[i], there);
        }
    }

    __device__ __forceinline__ uint4 chunk_at(unsigned stage, unsigned row, unsigned chunk) const
    {
        return *reinterpret_cast<const uint4 *>(
            memory + stage * S::stage_bytes + place_of(row, chunk));
    }

    // 32 elements of K: half h of a stage.
    __device__ __forceinline__ void multiply(unsigned stage, unsigned h)
    {
        unsigned warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        unsigned n = warp % S::wn * (16 * S::n_tiles) + g;
        unsigned m = S::bn + warp / S::wn * (8 * S::m_tiles) + g;
        uint4 x[S::m_tiles];
#pragma unroll
        for (unsigned j = 0; j < S::m_tiles; j++)
            x[j] = chunk_at(stage, m + 8 * j, 4 * h + t);
#pragma unroll
        for (unsigned i = 0; i < S::n_tiles; i++) {
            uint4 low = chunk_at(stage, n + 16 * i, 4 * h + t);
            uint4 high = chunk_at(stage, n + 16 * i + 8, 4 * h + t);
            unsigned first[4] = {low.x, high.x, low.y, high.y};
            unsigned second[4] = {low.z, high.z, low.w, high.w};
            // One sum is not asked for twice in a row: its second step would wait for the first.
#pragma unroll
            for (unsigned j = 0; j < S::m_tiles; j++) {
                unsigned b[2] = {x[j].x, x[j].y};
                phx_multiply_16x8x16<T>(c[i][j], first, b);
            }
#pragma unroll
            for (unsigned j = 0; j < S::m_tiles; j++) {
                unsigned b[2] = {x[j].z, x[j].w};
                phx_multiply_16x8x16<T>(c[i][j], second, b);
            }
        }
    }

    // Calls f(row of w, row of x, which) for each of this thread's sums.
    template <class F> __device__ __forceinline__ void each(F f)
    {
        unsigned warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (unsigned i = 0; i < S::n_tiles; i++)
#pragma unroll
            for (unsigned j = 0; j < S::m_tiles; j++)
#pragma unroll
                for (unsigned e = 0; e < 4; e++)
                    f(warp % S::wn * (16 * S::n_tiles) + 16 * i + g + e / 2 * 8,
                        warp / S::wn * (8 * S::m_tiles) + 8 * j + 2 * t + e % 2, i, j, e);
    }

    // A segment is summed: it joins the total, or lies down for the block that adds them all.
    __device__ __forceinline__ void end_segment(unsigned segment)
    {
        if (blockIdx.z == 0) {
            each([&](unsigned, unsigned, unsigned i, unsigned j, unsigned e) {
                total[i][j][e] += c[i][j][e];
            });
        } else {
            each([&](unsigned n, unsigned m, unsigned i, unsigned j, unsigned e) {
                if (sum_of(n) < a.n && m0 + m < a.m)
                    *linear_partial(a, segment, m0 + m, sum_of(n)) = c[i][j][e];
            });
        }
        clear(c);
    }

    // Segments [segment, end).
    __device__ __forceinline__ void run(unsigned segment, unsigned end)
    {
        unsigned k0 = segment * a.segment, k_end = min(end * a.segment, a.k);
        unsigned steps = (k_end - k0 + stage_k - 1) / stage_k, in_segment = a.segment / stage_k;
#pragma unroll
        for (unsigned i = 0; i < S::stages - 1; i++) {
            if (i < steps)
                load(i, k0 + i * stage_k);
            phx_copy_commit();
        }
        for (unsigned i = 0, left = in_segment; i < steps; i++) {
            phx_copy_wait<S::stages - 2>();
            __syncthreads(); // the stage is there for all, and the one before is done with
            unsigned ahead = i + S::stages - 1;
            if (ahead < steps)
                load(ahead % S::stages, k0 + ahead * stage_k);
            phx_copy_commit();
            multiply(i % S::stages, 0);
            if (k0 + i * stage_k + 32 < a.k)
                multiply(i % S::stages, 1);
            if (--left == 0 || i + 1 == steps) {
                end_segment(segment++);
                left = in_segment;
            }
        }
    }

    // Through shared memory, so that neighbouring threads store neighbouring columns.
    __device__ __forceinline__ void store()
    {
        float *result = reinterpret_cast<float *>(memory);
        phx_copy_wait<0>();
        __syncthreads();
        each([&](unsigned n, unsigned m, unsigned i, unsigned j, unsigned e) {
            result[m * S::distance + n] = total[i][j][e];
        });
        __syncthreads();
        for (unsigned i = threadIdx.x; i < outputs * S::bm; i += S::threads) {
            unsigned n = i % outputs, m = i / outputs;
            const float *sum = result + m * S::distance + n;
            if (n0 + n >= columns() || m0 + m >= a.m)
                continue;
            if (gated)
                linear_store_gated(a, m0 + m, n0 + n, sum[0], sum[outputs]);
            else
                linear_store(a, m0 + m, n0 + n, sum[0]);
        }
    }

    __device__ __forceinline__ void store_combined(unsigned of_first)
    {
        for (unsigned i = threadIdx.x; i < outputs * S::bm; i += S::threads) {
            unsigned n = n0 + i % outputs, m = m0 + i / outputs;
            if (n >= columns() || m >= a.m)
                continue;
            float sum = linear_combine(a, of_first, m, n);
            if (gated)
                linear_store_gated(a, m, n, sum, linear_combine(a, of_first, m, columns() + n));
            else
                linear_store(a, m, n, sum);
        }
    }

    __device__ __forceinline__ void leave_total()
    {
        each([&](unsigned n, unsigned m, unsigned i, unsigned j, unsigned e) {
            if (sum_of(n) < a.n && m0 + m < a.m)
                *linear_partial(a, 0, m0 + m, sum_of(n)) = total[i][j][e];
        });
    }
};

template <class T, class S, bool gated>
__global__ void __launch_bounds__(S::threads) tile_kernel(const __grid_constant__ linear_call a)
{
    PHX_SHARED_DYNAMIC(unsigned char, memory);
    tile_block<T, S, linear_call, gated> block(a, memory);
    unsigned splits = gridDim.z;
    unsigned n_tile, m_tile;
    tile_of_block((a.n + S::bn - 1) / S::bn, n_tile, m_tile);
    block.begin(n_tile, m_tile);
    phx_grid_wait();
    phx_grid_release();
    block.run(blockIdx.z * a.n_segments / splits, (blockIdx.z + 1) * a.n_segments / splits);
    if (splits == 1) {
        block.store();
        return;
    }
    if (blockIdx.z == 0)
        block.leave_total();
    if (linear_is_last(a.tickets + blockIdx.x, splits))
        block.store_combined(a.n_segments / splits);
}

template <class T, class S, bool gated>
__global__ void __launch_bounds__(S::threads) tile_grouped_kernel(
    const __grid_constant__ linear_call all, const __grid_constant__ linear_groups groups)
{
    PHX_SHARED_DYNAMIC(unsigned char, memory);
    linear_tile_call a;
    tile_block<T, S, linear_tile_call, gated> block(a, memory);
    unsigned n_tiles = (all.n + S::bn - 1) / S::bn, n_tile, tile;
    tile_of_block(n_tiles, n_tile, tile);
    phx_grid_wait();
    phx_grid_release();
    if (!linear_begin_tile(a, all, groups, tile))
        return;
    block.begin(n_tile, 0);
    block.run(0, a.n_segments);
    block.store();
}

template <class T, class S, bool gated>
cudaError_t start_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, struct device *d)
{
    constexpr int bytes = S::stages * S::stage_bytes;
    cudaError_t e = device_allow_shared(d, tile_grouped_kernel<T, S, gated>, bytes);
    if (e != cudaSuccess)
        return e;
    phx_launch_config l =
        device_launch_waiting(d, dim3(p.n_tiles * p.m_tiles), dim3(S::threads), bytes);
    return phx_launch(l, tile_grouped_kernel<T, S, gated>, a, g);
}

template <class T>
cudaError_t start_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, struct device *d)
{
    if (p.kernel == LINEAR_TILE_128x128)
        return a.gated ? start_grouped<T, large, true>(a, g, p, d)
                       : start_grouped<T, large, false>(a, g, p, d);
    return a.gated ? start_grouped<T, small, true>(a, g, p, d)
                   : start_grouped<T, small, false>(a, g, p, d);
}

template <class T, class S, bool gated>
cudaError_t start(const linear_call &a, const linear_plan &p, struct device *d)
{
    constexpr int bytes = S::stages * S::stage_bytes;
    cudaError_t e = device_allow_shared(d, tile_kernel<T, S, gated>, bytes);
    if (e != cudaSuccess)
        return e;
    phx_launch_config l =
        device_launch_waiting(d, dim3(p.n_tiles * p.m_tiles, 1, p.splits), dim3(S::threads), bytes);
    return phx_launch(l, tile_kernel<T, S, gated>, a);
}

template <class T> cudaError_t start(const linear_call &a, const linear_plan &p, struct device *d)
{
    if (p.kernel == LINEAR_TILE_128x128)
        return a.gated ? start<T, large, true>(a, p, d) : start<T, large, false>(a, p, d);
    return a.gated ? start<T, small, true>(a, p, d) : start<T, small, false>(a, p, d);
}

} // namespace

cudaError_t linear_tile(const linear_call &a, const linear_plan &p, struct device *d)
{
    return a.x_type == DTYPE_F16 ? start<phx_f16>(a, p, d) : start<phx_bf16>(a, p, d);
}

cudaError_t linear_tile_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, struct device *d)
{
    return a.x_type == DTYPE_F16 ? start_grouped<phx_f16>(a, g, p, d)
                                 : start_grouped<phx_bf16>(a, g, p, d);
}
