// SPDX-License-Identifier: Apache-2.0
// What a norm's bits depend on, for all kernels that norm rows: which thread sums which elements,
// and what becomes of one. Sums are of the residual as it is stored. `pack` elements lie together
// in 16 bytes of it; thread i of norm_threads() sums packs i, i + threads ... in their order, then
// the lanes of a warp are added pairwise, then the warps in their order.
#ifndef PHALANX_KERNELS_CUDA_NORM_CUH
#define PHALANX_KERNELS_CUDA_NORM_CUH

#include "kernels/cuda/port.cuh"

constexpr unsigned norm_threads_max = 512;

inline unsigned norm_threads(unsigned dim, unsigned pack)
{
    unsigned packs = (dim + pack - 1) / pack;
    return packs >= norm_threads_max ? norm_threads_max : (packs + 31) / 32 * 32;
}

// `w` has its offset; `b` is a bias where `biased`.
__device__ __forceinline__ float norm_element(
    float r, float mean, float scale, float w, bool biased, float b)
{
    float y = (r - mean) * scale;
    return biased ? fmaf(y, w, b) : y * w;
}

#endif
