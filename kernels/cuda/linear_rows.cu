// SPDX-License-Identifier: Apache-2.0
// Linear for a few rows of x (linear_rows.cuh).
#include "kernels/cuda/linear_rows.cuh"

#include "kernels/cuda/device.cuh"

namespace
{

template <class T, int NT, int MT, int U, bool gated>
__global__ void __launch_bounds__(rows_threads) rows_kernel(const __grid_constant__ linear_call a)
{
    using sums_type = rows_sums<NT, MT>;
    PHX_SHARED(sums_type, sums);
    unsigned first = blockIdx.x * (gated ? 16 : 16 * NT);
    unsigned segment = blockIdx.y * LINEAR_WARPS + threadIdx.x / 32;
    unsigned n_warps = min((unsigned)LINEAR_WARPS, a.n_segments - blockIdx.y * LINEAR_WARPS);
    unsigned begin = segment * a.segment, end = min(begin + a.segment, a.k);
    rows_warp<T, NT, MT, U, gated> warp;
    rows_plain<T, MT> x;
    warp.begin(a, first);
    x.begin(a);
    warp.load(begin, end); // no kernel writes weights: they are asked for before the one that
                           // writes x has ended
    warp.prefetch(begin + 32 * U, end);
    phx_grid_wait();
    phx_grid_release();
    warp.run(begin, end, x);
    rows_end<NT, MT, gated>(a, sums, warp.c, first, n_warps);
}

// A block per tile of a group: nobody shares K.
template <class T, int NT, int MT, int U, bool gated>
__global__ void __launch_bounds__(rows_threads) rows_grouped_kernel(
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
    rows_plain<T, MT> x;
    warp.begin(a, first);
    x.begin(a);
    warp.load(begin, end);
    warp.run(begin, end, x);
    sums.put(warp.c);
    __syncthreads();
    rows_finish<NT, MT, gated>(a, sums, first, a.n_segments);
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
    phx_launch_config l = device_launch_waiting(d, dim3(p.n_tiles, p.splits), dim3(rows_threads));
    return a.x_type == DTYPE_F16 ? start<phx_f16>(a, p, l) : start<phx_bf16>(a, p, l);
}

cudaError_t linear_rows_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, struct device *d)
{
    phx_launch_config l =
        device_launch_waiting(d, dim3(p.n_tiles, 1, p.m_tiles), dim3(rows_threads));
    return a.x_type == DTYPE_F16 ? start_grouped<phx_f16>(a, g, p, l)
                                 : start_grouped<phx_bf16>(a, g, p, l);
}
