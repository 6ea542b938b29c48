// SPDX-License-Identifier: Apache-2.0
// Linear for a few rows of x with what stands before and behind it in a layer: x is the norm of a
// residual stream, which each block makes for itself as it reads it; the heads that come out are
// normed, rotated and appended by the last of the blocks that have a part of them. The sums, their
// orders and what is rounded on the way are those of the ops (norm.cuh, linear.cuh, rope.cuh), so
// the bits are theirs.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linear_rows.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/rope.cuh"

namespace
{

constexpr unsigned rows_max = 16, norm_warps_max = norm_threads_max / 32;

// Mean and scale of the rows; what the warps of norm.cuh would have summed on the way there.
struct fused_stats {
    float part[rows_max][norm_warps_max];
    float mean[rows_max], scale[rows_max];

    // Every warp does the work of several of norm.cuh, of any row.
    template <class F>
    __device__ __forceinline__ void sum(const linear_norm &n, unsigned m, unsigned k, F of)
    {
        unsigned warps = n.threads / 32, lane = threadIdx.x % 32;
        for (unsigned i = threadIdx.x / 32; i < m * warps; i += LINEAR_WARPS) {
            unsigned row = i / warps, warp = i % warps;
            float v = 0.0f;
            for (unsigned at = (warp * 32 + lane) * n.pack; at < k; at += n.threads * n.pack)
                v = of(row, at, v);
            v = phx_warp_sum(v);
            if (lane == 0)
                part[row][warp] = v;
        }
        __syncthreads();
    }

    __device__ __forceinline__ float total(const linear_norm &n, unsigned row) const
    {
        float v = part[row][0];
        for (unsigned i = 1; i < n.threads / 32; i++)
            v += part[row][i];
        return v;
    }

    __device__ __forceinline__ void make(const linear_norm &n, unsigned m, unsigned k)
    {
        unsigned i = threadIdx.x;
        if (n.layer) {
            sum(n, m, k, [&](unsigned row, unsigned at, float v) {
                return each(n, (uint64_t)row * k + at, v, [](float s, float r) { return s + r; });
            });
            if (i < m)
                mean[i] = total(n, i) / (float)k;
        } else if (i < m) {
            mean[i] = 0.0f;
        }
        __syncthreads();
        sum(n, m, k, [&](unsigned row, unsigned at, float v) {
            float mu = mean[row];
            return each(n, (uint64_t)row * k + at, v,
                [mu](float s, float r) { return fmaf(r - mu, r - mu, s); });
        });
        if (i < m)
            scale[i] = 1.0f / sqrtf(total(n, i) / (float)k + n.eps);
        __syncthreads();
    }

  private:
    // v = of(v, element) for the elements of a pack, a multiple of four.
    template <class F>
    __device__ __forceinline__ float each(const linear_norm &n, uint64_t at, float v, F of)
    {
        for (unsigned i = 0; i < n.pack; i += 4) {
            float r[4];
            phx_load_any<4>(n.residual, n.residual_type, at + i, r);
#pragma unroll
            for (int e = 0; e < 4; e++)
                v = of(v, r[e]);
        }
        return v;
    }
};

template <class T> __device__ __forceinline__ unsigned pair_of(float a, float b)
{
    return (unsigned)phx_round<T>(a).bits | (unsigned)phx_round<T>(b).bits << 16;
}

// Stands for rows_plain.
template <class T, int MT> struct fused_normed {
    const linear_norm &n;
    const fused_stats &stats;
    unsigned row[MT], k_all;

    __device__ __forceinline__ fused_normed(
        const linear_call &a, const linear_norm &norm, const fused_stats &of)
        : n(norm), stats(of), k_all(a.k)
    {
#pragma unroll
        for (int j = 0; j < MT; j++)
            row[j] = min(8 * (unsigned)j + threadIdx.x % 32 / 4, a.m - 1);
    }

    // Four of them at a time, or registers run out.
    __device__ __forceinline__ uint4 get(int j, unsigned k) const
    {
        unsigned at = k + threadIdx.x % 4 * 8;
        uint2 low = four(row[j], at), high = four(row[j], at + 4);
        return make_uint4(low.x, low.y, high.x, high.y);
    }

  private:
    __device__ __forceinline__ uint2 four(unsigned m, unsigned at) const
    {
        float r[4], w[4] = {1.0f, 1.0f, 1.0f, 1.0f}, b[4] = {};
        phx_load_any<4>(n.residual, n.residual_type, (uint64_t)m * k_all + at, r);
        if (n.weight != nullptr)
            phx_load_any<4>(n.weight, n.weight_type, at, w);
        if (n.bias != nullptr)
            phx_load_any<4>(n.bias, n.bias_type, at, b);
        float mean = stats.mean[m], scale = stats.scale[m];
#pragma unroll
        for (int i = 0; i < 4; i++)
            r[i] = norm_element(r[i], mean, scale,
                n.weight != nullptr ? n.weight_offset + w[i] : 1.0f, n.bias != nullptr, b[i]);
        return make_uint2(pair_of<T>(r[0], r[1]), pair_of<T>(r[2], r[3]));
    }
};

// A block has stored its columns [first, first + columns): the last block of each head that they
// are of does the rest of that head, a warp for a row.
template <class T>
__device__ __forceinline__ void fused_heads(
    const linear_call &a, const rope_call &c, unsigned first, unsigned columns)
{
    unsigned dim = c.kv.head_dim, end = min(first + columns, a.n);
    unsigned *tickets = a.tickets + (gridDim.y > 1 ? gridDim.x : 0);
    for (unsigned head = first / dim; head * dim < end; head++) {
        unsigned sharers = ((head + 1) * dim - 1) / columns - head * dim / columns + 1;
        if (!linear_is_last(tickets + head, sharers))
            continue;
        for (unsigned row = threadIdx.x / 32; row < a.m; row += LINEAR_WARPS)
            rope_row<T>(c, static_cast<T *>(a.out), row, head);
    }
}

template <class T, int NT, int MT, int U, bool gated, bool normed, bool heads>
__global__ void __launch_bounds__(rows_threads, 2)
    fused_kernel(const __grid_constant__ linear_call a, const __grid_constant__ linear_norm n,
        const __grid_constant__ rope_call r)
{
    using sums_type = rows_sums<NT, MT>;
    PHX_SHARED(sums_type, sums);
    PHX_SHARED(fused_stats, stats);
    constexpr unsigned columns = gated ? 16 : 16 * NT;
    unsigned first = blockIdx.x * columns;
    unsigned segment = blockIdx.y * LINEAR_WARPS + threadIdx.x / 32;
    unsigned n_warps = min((unsigned)LINEAR_WARPS, a.n_segments - blockIdx.y * LINEAR_WARPS);
    unsigned begin = segment * a.segment, end = min(begin + a.segment, a.k);
    rows_warp<T, NT, MT, U, gated> warp;
    warp.begin(a, first);
    warp.load(begin, end);
    warp.prefetch(begin + 32 * U, end);
    phx_grid_wait();
    phx_grid_release();
    if constexpr (normed) {
        stats.make(n, a.m, a.k);
        fused_normed<T, MT> x(a, n, stats);
        warp.run(begin, end, x);
    } else {
        rows_plain<T, MT> x;
        x.begin(a);
        warp.run(begin, end, x);
    }
    bool stored = rows_end<NT, MT, gated>(a, sums, warp.c, first, n_warps);
    if constexpr (heads)
        if (stored)
            fused_heads<T>(a, r, first, columns);
}

template <class T, bool normed, bool heads>
cudaError_t start_plain(const phx_launch_config &l, const linear_plan &p, const linear_call &a,
    const linear_norm &n, const rope_call &r)
{
    if (p.kernel == LINEAR_ROWS_16x8)
        return phx_launch(l, fused_kernel<T, 1, 1, 4, false, normed, heads>, a, n, r);
    if (p.kernel == LINEAR_ROWS_32x16)
        return phx_launch(l, fused_kernel<T, 2, 2, 2, false, normed, heads>, a, n, r);
    return cudaErrorInvalidValue;
}

template <class T>
cudaError_t start(struct device *d, const linear_plan &p, const linear_call &a,
    const linear_norm *norm, const rope_call *rope)
{
    phx_launch_config l = device_launch_waiting(d, dim3(p.n_tiles, p.splits), dim3(rows_threads));
    linear_norm n = norm != nullptr ? *norm : linear_norm();
    rope_call r = rope != nullptr ? *rope : rope_call();
    if (p.kernel == LINEAR_ROWS_GATED_8)
        return phx_launch(l, fused_kernel<T, 2, 1, 2, true, true, false>, a, n, r);
    if (p.kernel == LINEAR_ROWS_GATED_16)
        return phx_launch(l, fused_kernel<T, 2, 2, 2, true, true, false>, a, n, r);
    if (rope == nullptr)
        return start_plain<T, true, false>(l, p, a, n, r);
    return norm != nullptr ? start_plain<T, true, true>(l, p, a, n, r)
                           : start_plain<T, false, true>(l, p, a, n, r);
}

} // namespace

cudaError_t linear_fused(const linear_call &a, const linear_norm *n, const rope_call *r,
    const linear_plan &p, struct device *d)
{
    check(a.m <= rows_max && (n != nullptr || r != nullptr));
    check(n == nullptr || n->threads <= norm_threads_max);
    return a.x_type == DTYPE_F16 ? start<phx_f16>(d, p, a, n, r) : start<phx_bf16>(d, p, a, n, r);
}
