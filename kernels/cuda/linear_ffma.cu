// SPDX-License-Identifier: Apache-2.0
// Linear with floats on either side, and with two different types: fused multiply-adds of single
// precision (never TF32), one chain for each segment. Any K, any distance between rows of x.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linear.cuh"

namespace
{

constexpr unsigned threads = 256, tile_n = 64, tile_k = 32, held = 8, lanes_k = tile_k / held;
static_assert(tile_n * lanes_k == threads, "a thread brings eight elements of w");

// BM rows of x; a thread sums TN x TM outputs. Gated: the first half of the tile's rows of w are of
// the gate, the others their up rows.
template <unsigned BM, unsigned TN, unsigned TM, class C = linear_call, bool gated = false>
struct ffma_block {
    static constexpr unsigned outputs = gated ? tile_n / 2 : tile_n; // columns of the result
    static constexpr unsigned columns = tile_n / TN;                 // threads side by side
    static_assert(columns * (BM / TM) == threads, "every thread has its outputs");

    static constexpr unsigned distance = tile_n + 4; // of rows of the result

    // Elements of K lie in rows, so that the outputs of a thread read neighbours. The result of
    // the tile takes the same place.
    struct memory {
        alignas(16) float w[tile_k][tile_n + 4];
        float x[tile_k][BM + 4];
    };
    static_assert(BM * distance * sizeof(float) <= sizeof(memory), "the result has room");

    const C &a;
    memory &tile;
    unsigned n0, m0;
    float w[held], x[held], c[TN][TM], total[TN][TM];

    __device__ __forceinline__ ffma_block(
        const C &call, memory &shared, unsigned n_tile, unsigned m_tile)
        : a(call), tile(shared), n0(n_tile * outputs), m0(m_tile * BM)
    {
#pragma unroll
        for (unsigned i = 0; i < TN; i++)
#pragma unroll
            for (unsigned j = 0; j < TM; j++)
                c[i][j] = total[i][j] = 0.0f;
    }

    __device__ __forceinline__ unsigned n_outputs() const
    {
        return gated ? a.n / 2 : a.n;
    }

    __device__ __forceinline__ uint64_t w_row(unsigned row) const
    {
        bool up = gated && row >= outputs;
        return min(n0 + row - (up ? outputs : 0), n_outputs() - 1) + (up ? n_outputs() : 0);
    }

    // Elements k .. k + 7 of a row, zeros from K on.
    __device__ __forceinline__ void fetch(
        float *to, const void *from, enum dtype type, uint64_t row_at, unsigned k, bool aligned)
    {
        if (aligned && k + held <= a.k) {
            fetch_whole(to, from, type, row_at + k);
            return;
        }
#pragma unroll
        for (unsigned i = 0; i < held; i++)
            to[i] = k + i < a.k ? phx_load_any(from, type, row_at + k + i) : 0.0f;
    }

    __device__ __forceinline__ void fetch_whole(
        float *to, const void *from, enum dtype type, uint64_t at)
    {
        if (type == DTYPE_F32) {
            const float4 *p =
                reinterpret_cast<const float4 *>(static_cast<const float *>(from) + at);
            float4 low = p[0], high = p[1];
            float v[held] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (unsigned i = 0; i < held; i++)
                to[i] = v[i];
            return;
        }
        uint4 v = *reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(from) + at);
        unsigned pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (unsigned i = 0; i < held; i++) {
            uint16_t bits = (uint16_t)(pairs[i / 2] >> i % 2 * 16);
            to[i] = type == DTYPE_F16 ? phx_float(phx_f16{bits}) : phx_float(phx_bf16{bits});
        }
    }

    __device__ __forceinline__ void load(unsigned k)
    {
        unsigned row = threadIdx.x / lanes_k, at = k + threadIdx.x % lanes_k * held;
        fetch(w, a.w, a.w_type, w_row(row) * a.w_stride, at, true);
        if (row < BM)
            fetch(x, a.x, a.x_type, linear_x_row(a, min(m0 + row, a.m - 1)) * a.x_stride, at,
                a.x_aligned);
    }

    __device__ __forceinline__ void lay_down()
    {
        unsigned row = threadIdx.x / lanes_k, k = threadIdx.x % lanes_k * held;
#pragma unroll
        for (unsigned i = 0; i < held; i++) {
            tile.w[k + i][row] = w[i];
            if (row < BM)
                tile.x[k + i][row] = x[i];
        }
    }

    __device__ __forceinline__ void multiply(unsigned n_k)
    {
        unsigned n = threadIdx.x % columns * TN, m = threadIdx.x / columns * TM;
        for (unsigned k = 0; k < n_k; k++) {
            float wk[TN], xk[TM];
#pragma unroll
            for (unsigned i = 0; i < TN; i++)
                wk[i] = tile.w[k][n + i];
#pragma unroll
            for (unsigned j = 0; j < TM; j++)
                xk[j] = tile.x[k][m + j];
#pragma unroll
            for (unsigned i = 0; i < TN; i++)
#pragma unroll
                for (unsigned j = 0; j < TM; j++)
                    c[i][j] = fmaf(xk[j], wk[i], c[i][j]);
        }
    }

    // Calls f(row of w, row of x, sum) for this thread's sums, counted in the tile.
    template <class F> __device__ __forceinline__ void each(const float (&of)[TN][TM], F f)
    {
        unsigned n = threadIdx.x % columns * TN, m = threadIdx.x / columns * TM;
#pragma unroll
        for (unsigned j = 0; j < TM; j++)
#pragma unroll
            for (unsigned i = 0; i < TN; i++)
                f(n + i, m + j, of[i][j]);
    }

    __device__ __forceinline__ void leave(unsigned segment, const float (&of)[TN][TM])
    {
        each(of, [&](unsigned n, unsigned m, float v) {
            if (n0 + n < a.n && m0 + m < a.m)
                *linear_partial(a, segment, m0 + m, n0 + n) = v;
        });
    }

    // Calls f(row of w, row of x, place) for outputs of the tile, neighbouring threads side by
    // side.
    template <class F> __device__ __forceinline__ void each_stored(F f)
    {
        for (unsigned i = threadIdx.x; i < BM * outputs; i += threads) {
            unsigned n = i % outputs, m = i / outputs;
            if (n0 + n < n_outputs() && m0 + m < a.m)
                f(n0 + n, m0 + m, m * distance + n);
        }
    }

    __device__ __forceinline__ void store()
    {
        float *result = &tile.w[0][0];
        __syncthreads();
        each(total, [&](unsigned n, unsigned m, float v) { result[m * distance + n] = v; });
        __syncthreads();
        each_stored([&](unsigned n, unsigned m, unsigned at) {
            if (gated)
                linear_store_gated(a, m, n, result[at], result[at + outputs]);
            else
                linear_store(a, m, n, result[at]);
        });
    }

    __device__ __forceinline__ void store_combined(unsigned of_first)
    {
        each_stored([&](unsigned n, unsigned m, unsigned) {
            linear_store(a, m, n, linear_combine(a, of_first, m, n));
        });
    }

    __device__ __forceinline__ void end_segment(unsigned segment)
    {
        if (blockIdx.z > 0)
            leave(segment, c);
#pragma unroll
        for (unsigned i = 0; i < TN; i++)
#pragma unroll
            for (unsigned j = 0; j < TM; j++) {
                total[i][j] += c[i][j];
                c[i][j] = 0.0f;
            }
    }

    // Segments [segment, end); the next tile is under way while one is multiplied.
    __device__ __forceinline__ void run(unsigned segment, unsigned end)
    {
        unsigned k_end = min(end * a.segment, a.k), in_segment = a.segment / tile_k;
        unsigned k = segment * a.segment, left = in_segment;
        load(k);
        for (; k < k_end; k += tile_k) {
            __syncthreads();
            lay_down();
            __syncthreads();
            if (k + tile_k < k_end)
                load(k + tile_k);
            multiply(min(tile_k, k_end - k));
            if (--left == 0 || k + tile_k >= k_end) {
                end_segment(segment++);
                left = in_segment;
            }
        }
    }
};

template <unsigned BM, unsigned TN, unsigned TM>
__global__ void __launch_bounds__(threads, 2) ffma_kernel(const __grid_constant__ linear_call a)
{
    using block_type = ffma_block<BM, TN, TM>;
    PHX_SHARED(typename block_type::memory, tile);
    block_type block(a, tile, blockIdx.x, blockIdx.y);
    unsigned splits = gridDim.z;
    phx_grid_wait();
    phx_grid_release();
    block.run(blockIdx.z * a.n_segments / splits, (blockIdx.z + 1) * a.n_segments / splits);
    if (splits == 1) {
        block.store();
        return;
    }
    if (blockIdx.z == 0)
        block.leave(0, block.total);
    if (linear_is_last(a.tickets + blockIdx.y * gridDim.x + blockIdx.x, splits))
        block.store_combined(a.n_segments / splits);
}

template <unsigned BM, unsigned TN, unsigned TM, bool gated>
__global__ void __launch_bounds__(threads, 2) ffma_grouped_kernel(
    const __grid_constant__ linear_call all, const __grid_constant__ linear_groups groups)
{
    using block_type = ffma_block<BM, TN, TM, linear_tile_call, gated>;
    PHX_SHARED(typename block_type::memory, tile);
    linear_tile_call a;
    phx_grid_wait();
    phx_grid_release();
    if (!linear_begin_tile(a, all, groups, blockIdx.y))
        return;
    block_type block(a, tile, blockIdx.x, 0);
    block.run(0, a.n_segments);
    block.store();
}

} // namespace

cudaError_t linear_ffma(const linear_call &a, const linear_plan &p, struct device *d)
{
    phx_launch_config l =
        device_launch_waiting(d, dim3(p.n_tiles, p.m_tiles, p.splits), dim3(threads));
    if (p.kernel == LINEAR_FFMA_64x8)
        return phx_launch(l, ffma_kernel<8, 1, 2>, a);
    return phx_launch(l, ffma_kernel<64, 4, 4>, a);
}

cudaError_t linear_ffma_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, struct device *d)
{
    phx_launch_config l = device_launch_waiting(d, dim3(p.n_tiles, p.m_tiles), dim3(threads));
    if (p.kernel == LINEAR_FFMA_64x8)
        return a.gated ? phx_launch(l, ffma_grouped_kernel<8, 1, 2, true>, a, g)
                       : phx_launch(l, ffma_grouped_kernel<8, 1, 2, false>, a, g);
    return a.gated ? phx_launch(l, ffma_grouped_kernel<64, 4, 4, true>, a, g)
                   : phx_launch(l, ffma_grouped_kernel<64, 4, 4, false>, a, g);
}
