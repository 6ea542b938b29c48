// SPDX-License-Identifier: Apache-2.0
// Who computes which row: a warp per row chooses, the last block that is done sorts.
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/pack.cuh"

namespace
{

constexpr unsigned threads = 256, warps = threads / 32, experts_max = 1023;
static_assert(1 + experts_max <= DEVICE_TICKETS, "each expert has a counter");

// Where an expert's rows and tiles begin.
struct beginnings {
    unsigned row[experts_max], tile[experts_max], rows[experts_max];
    unsigned n_tiles;
};

// The larger logit has the larger key, of equal ones the smaller expert; a NaN has the smallest. No
// key is 0.
__device__ __forceinline__ phx_u64 key_of(float logit, unsigned expert)
{
    unsigned bits = __float_as_uint(logit + 0.0f); // both zeros are the same one
    bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return (phx_u64)(logit == logit ? bits : 0u) << 32 | (0xffffffffu - expert);
}

__device__ __forceinline__ phx_u64 warp_max(phx_u64 v)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        phx_u64 other = __shfl_xor_sync(0xffffffffu, v, i);
        v = other > v ? other : v;
    }
    return v;
}

// The largest of those that are not taken; bit i of a lane is expert 32 i + lane.
__device__ __forceinline__ unsigned choose(const float *logit, unsigned n, unsigned taken)
{
    phx_u64 best = 0;
    unsigned i = 0;
    for (unsigned e = threadIdx.x % 32; e < n; e += 32, i++) {
        phx_u64 key = key_of(logit[e], e);
        if ((taken >> i & 1) == 0 && key > best)
            best = key;
    }
    return 0xffffffffu - (unsigned)warp_max(best);
}

__device__ __forceinline__ float sum_of_weights(const float *logit, unsigned n, float top)
{
    float sum = 0.0f;
    for (unsigned e = threadIdx.x % 32; e < n; e += 32)
        sum += canon_exp(logit[e] - top);
    return phx_warp_sum(sum);
}

__device__ void route_row(const experts_routes &r, unsigned row)
{
    const float *logit = r.logit + (uint64_t)row * r.n_experts;
    float *probability = r.probability + (uint64_t)row * r.n_used;
    uint64_t first = (uint64_t)row * r.n_used;
    unsigned lane = threadIdx.x % 32, taken = 0;
    float top = 0.0f, sum = 0.0f, kept = 0.0f;
    for (unsigned i = 0; i < r.n_used; i++) {
        unsigned e = choose(logit, r.n_experts, taken);
        if (i == 0) {
            top = logit[e];
            sum = sum_of_weights(logit, r.n_experts, top);
        }
        float p = canon_exp(logit[e] - top) / sum;
        kept += p;
        if (e % 32 == lane)
            taken |= 1u << e / 32;
        if (lane == 0) {
            r.expert[first + i] = e;
            probability[i] = p;
            if (e - r.begin < r.count)
                r.rank[first + i] = atomicAdd(&r.tickets[1 + e - r.begin], 1u);
        }
    }
    __syncwarp();
    for (unsigned i = lane; r.renormalize && i < r.n_used; i += 32)
        probability[i] /= kept;
}

__device__ __forceinline__ unsigned sum_before(unsigned v)
{
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned i = 1; i < 32; i *= 2) {
        unsigned other = __shfl_up_sync(0xffffffffu, v, i);
        v += lane >= i ? other : 0;
    }
    return v;
}

// By one warp: 32 experts at a time.
__device__ __forceinline__ void begin_experts(const experts_routes &r, beginnings &b)
{
    unsigned lane = threadIdx.x % 32, row = 0, tile = 0;
    for (unsigned first = 0; first < r.count; first += 32) {
        unsigned e = first + lane, n = 0;
        if (e < r.count) {
            n = phx_load_relaxed_gpu(&r.tickets[1 + e]);
            phx_store_relaxed_gpu(&r.tickets[1 + e], 0u); // for the next call
        }
        unsigned tiles = (n + r.m_tile - 1) / r.m_tile;
        unsigned rows_to = sum_before(n), tiles_to = sum_before(tiles);
        if (e < r.count) {
            b.row[e] = row + rows_to - n;
            b.tile[e] = tile + tiles_to - tiles;
            b.rows[e] = n;
        }
        row += __shfl_sync(0xffffffffu, rows_to, 31);
        tile += __shfl_sync(0xffffffffu, tiles_to, 31);
    }
    if (lane == 0)
        b.n_tiles = tile;
}

__device__ __forceinline__ void make_tiles(const experts_routes &r, const beginnings &b, unsigned e)
{
    linear_group_tile *tile = r.tile + b.tile[e];
    for (unsigned i = 0; i < b.rows[e]; i += r.m_tile)
        *tile++ = {e, b.row[e] + i, min(r.m_tile, b.rows[e] - i)};
}

// By the last block: tiles, and the rows in the order of experts.
__device__ void sort_choices(const experts_routes &r, beginnings &b, unsigned n_rows)
{
    if (threadIdx.x < 32)
        begin_experts(r, b);
    __syncthreads();
    for (unsigned e = threadIdx.x; e < r.count; e += threads)
        make_tiles(r, b, e);
    if (threadIdx.x == 0)
        *r.n_tiles = b.n_tiles;
    for (unsigned i = threadIdx.x; i < n_rows * r.n_used; i += threads) {
        unsigned e = r.expert[i] - r.begin, place = experts_nowhere;
        if (e < r.count) {
            place = b.row[e] + r.rank[i];
            r.rows[place] = i / r.n_used;
        }
        r.place[i] = place;
    }
}

__global__ void __launch_bounds__(threads) route_kernel(const __grid_constant__ experts_routes r)
{
    PHX_SHARED(beginnings, b);
    phx_grid_wait();
    phx_grid_release();
    unsigned row = blockIdx.x * warps + threadIdx.x / 32;
    unsigned n_rows = r.live != nullptr ? min(*r.live, r.n_rows) : r.n_rows;
    if (row < n_rows)
        route_row(r, row);
    if (linear_is_last(r.tickets, gridDim.x))
        sort_choices(r, b, n_rows);
}

} // namespace

cudaError_t experts_route(const experts_routes &r, struct device *d)
{
    check(r.n_rows > 0 && r.n_used >= 1 && r.n_used <= r.n_experts && r.n_experts <= experts_max);
    check(r.count >= 1 && r.begin + r.count <= r.n_experts);
    dim3 grid((r.n_rows + warps - 1) / warps);
    return phx_launch(device_launch_waiting(d, grid, dim3(threads)), route_kernel, r);
}
