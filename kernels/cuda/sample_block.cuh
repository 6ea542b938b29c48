// SPDX-License-Identifier: Apache-2.0
// What a block of sample_threads does together on one row. Each of these functions is called by all
// threads and begins and ends with the block in step.
#ifndef PHALANX_KERNELS_CUDA_SAMPLE_BLOCK_CUH
#define PHALANX_KERNELS_CUDA_SAMPLE_BLOCK_CUH

#include "kernels/cpu/canon.h"
#include "kernels/cuda/sample.cuh"

struct sample_shared {
    phx_u64 bucket[sample_buckets];
    unsigned bin[sample_buckets];
    unsigned list_id[sample_list_max];
    float list_x[sample_list_max];
    // One for each warp, read by all lanes of every warp; there are 32 or fewer warps.
    phx_u64 part[sample_warps];
    double part_f[sample_warps];
    float part_x[sample_warps];
    unsigned part_id[sample_warps];
    phx_u64 found[3];
    unsigned count, border[3];
};

// Larger floats have smaller keys; -0 and +0 have the same.
__device__ __forceinline__ unsigned sample_key(float x)
{
    unsigned u = __float_as_uint(x + 0.0f);
    return u & 0x80000000u ? u : ~(u | 0x80000000u);
}

// ---- passes ------------------------------------------------------------------------------------

// The ids to look at: a whole row, or a list in shared memory.
struct sample_source {
    const unsigned *id; // [n], or NULL: 0 to n - 1
    const float *x;     // [n]
    unsigned n;

    template <class F> __device__ __forceinline__ void each(F f) const
    {
#pragma unroll 1
        for (unsigned i = threadIdx.x; i < n; i += sample_threads)
            f(id != nullptr ? id[i] : i, x[i]);
    }
    // A whole row at the speed of memory where it is aligned: f(id, float4) for ids 0 to 3, 4 to 7
    // and so on, wherever the row lies, and f(id, {x, -infinity...}) for each id that is left over.
    template <class F> __device__ __forceinline__ void each_four(F f) const
    {
        bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
        const float4 *v = reinterpret_cast<const float4 *>(x);
        unsigned quads = n / 4;
#pragma unroll 4
        for (unsigned i = threadIdx.x; i < quads; i += sample_threads)
            f(4 * i,
                aligned ? v[i] : make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]));
        if (threadIdx.x < n - 4 * quads) {
            unsigned i = threadIdx.x + 4 * quads;
            f(i, make_float4(x[i], -INFINITY, -INFINITY, -INFINITY));
        }
    }
};

// ---- sums --------------------------------------------------------------------------------------

// Sum over the block, for all threads; integers, so in any order.
__device__ __forceinline__ phx_u64 sample_sum(sample_shared &s, phx_u64 v)
{
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        s.part[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < sample_warps ? s.part[threadIdx.x % 32] : 0;
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, d);
    __syncthreads();
    return v;
}

// Sum of what the threads before this one have.
__device__ __forceinline__ phx_u64 sample_sum_before(sample_shared &s, phx_u64 v)
{
    unsigned lane = threadIdx.x % 32;
    phx_u64 sum = v;
    for (unsigned d = 1; d < 32; d *= 2) {
        phx_u64 up = __shfl_up_sync(0xffffffffu, sum, d);
        sum += lane >= d ? up : 0;
    }
    __syncthreads();
    if (lane == 31)
        s.part[threadIdx.x / 32] = sum;
    __syncthreads();
    phx_u64 of_warps = lane < sample_warps ? s.part[lane] : 0;
    for (unsigned d = 1; d < 32; d *= 2) {
        phx_u64 up = __shfl_up_sync(0xffffffffu, of_warps, d);
        of_warps += lane >= d ? up : 0;
    }
    unsigned warp = threadIdx.x / 32;
    phx_u64 before = __shfl_sync(0xffffffffu, of_warps, warp > 0 ? (int)warp - 1 : 0);
    __syncthreads();
    return sum - v + (warp > 0 ? before : 0);
}

// ---- the largest logit -------------------------------------------------------------------------

struct sample_most {
    float max;    // NaN if there is one
    unsigned id;  // the smallest that has it
    double total; // of exp(x - max)
};

__device__ __forceinline__ bool sample_before(float x, unsigned id, float than_x, unsigned than_id)
{
    return x > than_x || (x == than_x && id < than_id);
}

// Sums of exp(x - max) of two parts of a row as one. A part without a finite logit adds nothing.
__device__ __forceinline__ void sample_join(sample_most &a, const sample_most &b)
{
    bool first = sample_before(a.max, a.id, b.max, b.id);
    const sample_most &large = first ? a : b, &small = first ? b : a;
    double factor = small.max > -INFINITY ? (double)canon_exp(small.max - large.max) : 0.0;
    a = {large.max, large.id, large.total + small.total * factor};
}

__device__ __forceinline__ sample_most sample_join_warp(sample_most m)
{
    for (int d = 16; d > 0; d /= 2) {
        sample_most other = {__shfl_xor_sync(0xffffffffu, m.max, d),
            __shfl_xor_sync(0xffffffffu, m.id, d), __shfl_xor_sync(0xffffffffu, m.total, d)};
        sample_join(m, other);
    }
    return m;
}

// One pass: the maximum, its id and the total.
PHX_NOINLINE inline __device__ sample_most sample_scan(sample_shared &s, const sample_source &row)
{
    sample_most m = {-INFINITY, 0xffffffffu, 0};
    bool nan = false;
    row.each_four([&](unsigned id, float4 v) {
        float x[4] = {v.x, v.y, v.z, v.w}, most = m.max;
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            nan |= x[i] != x[i];
            if (sample_before(x[i], id + i, most, m.id)) {
                most = x[i];
                m.id = id + i;
            }
        }
        if (most > m.max) {
            m.total *= (double)canon_exp(m.max - most);
            m.max = most;
        }
        float sum = 0;
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            sum += x[i] > -INFINITY ? canon_exp(x[i] - m.max) : 0.0f;
        m.total += (double)sum;
    });
    nan = __syncthreads_or(nan) != 0;
    m = sample_join_warp(m);
    if (threadIdx.x % 32 == 0) {
        s.part_x[threadIdx.x / 32] = m.max;
        s.part_id[threadIdx.x / 32] = m.id;
        s.part_f[threadIdx.x / 32] = m.total;
    }
    __syncthreads();
    unsigned i = threadIdx.x % sample_warps;
    m = {s.part_x[i], s.part_id[i], s.part_f[i]};
    if (threadIdx.x % 32 >= sample_warps)
        m = {-INFINITY, 0xffffffffu, 0};
    m = sample_join_warp(m);
    __syncthreads();
    if (nan)
        m.max = NAN;
    return m;
}

// ---- buckets -----------------------------------------------------------------------------------

// The bucket at which the running sum reaches `target` (or the whole sum, if that is less), into
// s.found: its number, the sum before it and its own. A thread has buckets beside one another.
__device__ __forceinline__ void sample_find(sample_shared &s, phx_u64 target)
{
    constexpr unsigned mine = sample_buckets / sample_threads;
    phx_u64 sum = 0;
    for (unsigned i = 0; i < mine; i++)
        sum += s.bucket[threadIdx.x * mine + i];
    phx_u64 before = sample_sum_before(s, sum), total = sample_sum(s, sum);
    target = target < total ? target : total;
    if (before < target && before + sum >= target)
        for (unsigned i = 0; i < mine; i++) {
            phx_u64 b = s.bucket[threadIdx.x * mine + i];
            if (before < target && before + b >= target) {
                s.found[0] = threadIdx.x * mine + i;
                s.found[1] = before;
                s.found[2] = b;
            }
            before += b;
        }
    __syncthreads();
}

__device__ __forceinline__ void sample_clear_buckets(sample_shared &s)
{
    for (unsigned i = threadIdx.x; i < sample_buckets; i += sample_threads)
        s.bucket[i] = 0;
    if (threadIdx.x == 0)
        s.found[0] = s.found[1] = s.found[2] = 0;
    __syncthreads();
}

#endif
