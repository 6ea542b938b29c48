// SPDX-License-Identifier: Apache-2.0
// What ranks that have whole experts give each other: the rows of a peer that this rank has made
// something of, packed one behind the other, and the sums of this rank's own rows. Which rows those
// are every rank knows from the choices; a place among them is the number of such rows before.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/ptx.cuh"

#include <type_traits>

namespace
{

constexpr unsigned threads = 256;

struct parts_call {
    const uint32_t *chosen, *live;
    uint32_t bound[KERNELS_EXPERT_RANKS_MAX + 1];
    uint32_t *bytes;
    uint8_t *slots;
    uint64_t slot_bytes;
    unsigned n_rows, dim, n_ranks, rank, share, n_used;
    bool all;
};

__device__ __forceinline__ unsigned rows_there(const parts_call &c)
{
    return c.live != nullptr ? min(*c.live, c.n_rows) : c.n_rows;
}

__device__ __forceinline__ bool has_part(const parts_call &c, unsigned rank, unsigned row)
{
    unsigned begin = c.bound[rank], count = c.bound[rank + 1] - begin;
    bool has = c.all;
    for (unsigned i = 0; i < c.n_used && !has; i++)
        has = c.chosen[(uint64_t)row * c.n_used + i] - begin < count;
    return has;
}

// Rows [begin, end) that the rank has a part of; by all threads of the block, which all get it. A
// step has few enough rows for floats to count them.
__device__ __forceinline__ unsigned count_parts(
    const parts_call &c, unsigned rank, unsigned begin, unsigned end, float *room)
{
    unsigned n = 0;
    for (unsigned row = begin + threadIdx.x; row < end; row += blockDim.x)
        n += has_part(c, rank, row);
    return (unsigned)phx_block_sum((float)n, room);
}

// A block per row; the last row of each rank's says how many bytes there are for it.
template <class T, int V>
__global__ void __launch_bounds__(threads)
    pack_kernel(const __grid_constant__ parts_call c, const T *x)
{
    PHX_SHARED(float[32], room);
    phx_grid_wait();
    phx_grid_release();
    unsigned row = blockIdx.x, to = row / c.share, there = rows_there(c);
    unsigned begin = to * c.share, end = min(begin + c.share, c.n_rows);
    for (unsigned q = threadIdx.x; row == 0 && q < c.n_ranks; q += threads)
        if (q == c.rank || q * c.share >= c.n_rows)
            c.bytes[q] = 0;
    if (to == c.rank)
        return;
    unsigned place = count_parts(c, c.rank, begin, min(row, there), room);
    bool has = row < there && has_part(c, c.rank, row);
    if (row + 1 == end && threadIdx.x == 0)
        c.bytes[to] = (place + (has ? 1 : 0)) * c.dim * (unsigned)sizeof(T);
    if (!has)
        return;
    T *slot = reinterpret_cast<T *>(c.slots + to * c.slot_bytes) + (uint64_t)place * c.dim;
    for (unsigned at = threadIdx.x * V; at < c.dim; at += threads * V) {
        float v[V];
        phx_load<T, V>(x + (uint64_t)row * c.dim + at, v);
        phx_store<T, V>(slot + at, v);
    }
}

// A block per row of this rank's: the parts of all ranks in their order, into x.
template <class T, int V>
__global__ void __launch_bounds__(threads) add_kernel(const __grid_constant__ parts_call c, T *x)
{
    using sources = const T *[KERNELS_EXPERT_RANKS_MAX];
    PHX_SHARED(float[32], room);
    PHX_SHARED(sources, from);
    phx_grid_wait();
    phx_grid_release();
    unsigned begin = c.rank * c.share, row = begin + blockIdx.x;
    if (row >= rows_there(c))
        return;
    T *own = x + (uint64_t)row * c.dim;
    for (unsigned q = 0; q < c.n_ranks; q++) {
        unsigned place = q == c.rank ? 0 : count_parts(c, q, begin, row, room);
        const T *slot = reinterpret_cast<const T *>(c.slots + q * c.slot_bytes);
        if (threadIdx.x == 0)
            from[q] = !has_part(c, q, row) ? nullptr
                      : q == c.rank        ? own
                                           : slot + (uint64_t)place * c.dim;
    }
    __syncthreads();
    for (unsigned at = threadIdx.x * V; at < c.dim; at += threads * V) {
        float sum[V] = {}, v[V];
        for (unsigned q = 0; q < c.n_ranks; q++) {
            if (from[q] == nullptr)
                continue;
            phx_load<T, V>(from[q] + at, v);
#pragma unroll
            for (int e = 0; e < V; e++)
                sum[e] += v[e];
        }
        phx_store<T, V>(own + at, sum);
    }
}

parts_call call_of(const struct device *d, const struct experts_parts_args *a)
{
    parts_call c = {};
    check(a->n_ranks >= 1 && a->n_ranks <= KERNELS_EXPERT_RANKS_MAX && a->rank < a->n_ranks);
    check(a->share >= 1 && (uint64_t)a->share * a->n_ranks >= a->n_rows);
    c.chosen = a->chosen;
    c.live = device_live_rows(d);
    for (uint32_t q = 0; q <= a->n_ranks; q++)
        c.bound[q] = a->bound[q];
    c.bytes = a->bytes;
    c.slots = static_cast<uint8_t *>(a->slots);
    c.slot_bytes = a->slot_bytes;
    c.n_rows = a->n_rows;
    c.dim = a->dim;
    c.n_ranks = a->n_ranks;
    c.rank = a->rank;
    c.share = a->share;
    c.n_used = a->n_used;
    c.all = a->all;
    return c;
}

// Calls f(a number of the activations' type, how many are moved at once).
template <class F> void choose(const struct device *d, const struct experts_parts_args *a, F f)
{
    phx_dispatch(d->activation, [&](auto type) {
        using T = decltype(type);
        constexpr int V = 16 / sizeof(T);
        if (phx_packs<T, V>(a->dim, a->x, a->slots) && a->slot_bytes % 16 == 0)
            f(type, std::integral_constant<int, V>());
        else
            f(type, std::integral_constant<int, 1>());
    });
}

} // namespace

void cuda_experts_pack(struct device *d, const struct experts_parts_args *a)
{
    if (a->n_rows == 0)
        return;
    parts_call c = call_of(d, a);
    choose(d, a, [&](auto type, auto v) {
        using T = decltype(type);
        device_keep(d,
            phx_launch(device_launch_waiting(d, dim3(a->n_rows), dim3(threads)),
                pack_kernel<T, decltype(v)::value>, c, static_cast<const T *>(a->x)),
            "experts: pack");
    });
}

void cuda_experts_add(struct device *d, const struct experts_parts_args *a)
{
    if (a->n_rows <= a->rank * a->share)
        return;
    unsigned left = a->n_rows - a->rank * a->share;
    parts_call c = call_of(d, a);
    choose(d, a, [&](auto type, auto v) {
        using T = decltype(type);
        device_keep(d,
            phx_launch(
                device_launch_waiting(d, dim3(left < a->share ? left : a->share), dim3(threads)),
                add_kernel<T, decltype(v)::value>, c, static_cast<T *>(a->x)),
            "experts: add");
    });
}
