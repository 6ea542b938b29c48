// SPDX-License-Identifier: Apache-2.0
// What the kernels of linear share: the call, the order of the sums, and how a sum is stored.
//
// out[m, n] = sum_k x[m, k] w[n, k]. K is cut into segments of a length that depends on N and K
// only (linear_plan.h). A segment is summed from zero, in its own order; then the segments are
// added, from zero, in theirs. All kernels of one kind of product do this alike, so that a row of x
// gives the same bits alone and among any others, in any of them.
//
// Within a segment of 16-bit floats, mma.sync m16n8k16 takes 32 elements of K in two steps. Lane 4
// g
// + t holds the elements 8 t .. 8 t + 7 of row g: one load of 16 bytes, for A (weights) and B (x)
// alike. Of these, the first step takes 0-3 and the second 4-7. Weights are A in every kernel.
//
//   k    0..7      8..15     16..23    24..31
//       t = 0      t = 1     t = 2     t = 3      first step:  0-3, 8-11, 16-19, 24-27
//                                                 second step: 4-7, 12-15, 20-23, 28-31
//
// Products of floats, or of two types, are a chain of fmaf in the order of K.
#ifndef PHALANX_KERNELS_CUDA_LINEAR_CUH
#define PHALANX_KERNELS_CUDA_LINEAR_CUH

#include "kernels/cpu/canon_act.h"
#include "kernels/cuda/linear_plan.h"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/ptx.cuh"

// Everything on the device. Rows of w are multiples of 16 bytes long and apart; where x and w are
// of one 16-bit type, so are those of x, K is a multiple of 8, and what is beyond the real K is
// zeros.
struct linear_call {
    const void *x, *w, *bias; // bias: [n] or NULL
    void *out;
    uint64_t x_stride, w_stride, out_stride; // elements
    unsigned m, n, k;
    enum dtype x_type, w_type, bias_type, out_type;
    enum dtype act_type; // linear is rounded to it before the activation
    bool has_act, gated; // gated: w has n rows, out n / 2 columns
    enum act_kind act;
    bool x_aligned; // rows of x begin at multiples of 16 bytes (FFMA asks)
    unsigned segment, n_segments;
    float *partials;   // [n_segments][m][n] where blocks share K
    unsigned *tickets; // one a tile, zero between calls
    // residual[m, n] += (the product, rounded to act_type, + add_bias[n]) * add_scale instead of
    // storing it; NULL: no.
    void *residual; // [m][n]
    enum dtype residual_type;
    const float *add_bias; // [n] or NULL
    float add_scale;
};

// x is not there yet: its rows are norms of these, made as they are read. See norm.cuh.
struct linear_norm {
    const void *residual; // [m][k], rows of multiples of 16 bytes
    enum dtype residual_type;
    unsigned pack, threads;
    bool layer;
    float eps, weight_offset;
    const void *weight, *bias; // [k] or NULL
    enum dtype weight_type, bias_type;
};

// Rows of x that are multiplied with different weights of one shape: groups (experts). Which rows
// belong together is known on the device only; a tile has rows of one group. Where rows are counted
// here, they are in the order of groups.
struct linear_group_weight {
    const void *data;
    uint32_t stride; // elements
    enum dtype type;
};

struct linear_group_tile {
    unsigned group, first, n_rows;
};

struct linear_groups {
    const linear_group_tile *tile; // [*n_tiles], each with at most linear_plan_m_tile() rows
    const unsigned *n_tiles;
    const linear_group_weight *weight; // [groups]
    const unsigned *x_rows;            // which rows of x they are; NULL: x is in that order itself
};

// The product of one tile: its rows begin at 0.
struct linear_tile_call : linear_call {
    const unsigned *x_rows; // NULL: those of x
};

// Each starts its kernel; `p` is what linear_plan_make said.
struct device;
cudaError_t linear_rows(const linear_call &a, const linear_plan &p, struct device *d);
cudaError_t linear_tile(const linear_call &a, const linear_plan &p, struct device *d);
cudaError_t linear_ffma(const linear_call &a, const linear_plan &p, struct device *d);
// The same for groups; `p` is what linear_plan_grouped said. w, w_stride and w_type of the call are
// the groups', and x_aligned is of all rows of x.
cudaError_t linear_rows_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, struct device *d);
cudaError_t linear_tile_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, struct device *d);
cudaError_t linear_ffma_grouped(
    const linear_call &a, const linear_groups &g, const linear_plan &p, struct device *d);
// linear_rows for x that is a norm, or with rope_row behind it (`a.out` is its qkv, and behind the
// plan's tickets there is one for each head); either may be NULL.
struct rope_call;
cudaError_t linear_fused(const linear_call &a, const linear_norm *n, const rope_call *r,
    const linear_plan &p, struct device *d);

// By cuBLASLt: whether it may and should, and its product with BLAS_WORKSPACE_BYTES of workspace;
// false where cuBLASLt has no way to do it, and nothing was done. `file` is a library for tests.
enum status linear_blas_open(struct device *d, const char *file, struct error *err);
bool linear_blas_wants(struct device *d, const linear_call &a);
bool linear_blas_run(struct device *d, const linear_call &a, void *workspace);

bool linear_aligned(const void *x, uint64_t stride_bytes); // rows begin at multiples of 16 bytes
// Rows of 16-bit floats as tensor cores take them, whole chunks of eight with zeros at the end:
// whether they have to be copied for that, how long they are then, and the copy.
bool linear_must_pack(const void *x, uint64_t x_stride, uint32_t k);
uint32_t linear_packed_k(uint32_t k);
void linear_pack(
    struct device *d, const void *x, uint64_t x_stride, uint32_t m, uint32_t k, void *to);

__device__ __forceinline__ float linear_rounded(float v, enum dtype t)
{
    if (t == DTYPE_F32)
        return v;
    return t == DTYPE_F16 ? phx_float(phx_round<phx_f16>(v)) : phx_float(phx_round<phx_bf16>(v));
}

// A finished sum, with what linear adds to it.
__device__ __forceinline__ float linear_biased(const linear_call &a, unsigned n, float sum)
{
    return a.bias != nullptr ? sum + phx_load_any(a.bias, a.bias_type, n) : sum;
}

__device__ __forceinline__ void linear_add(const linear_call &a, unsigned m, unsigned n, float v)
{
    uint64_t at = (uint64_t)m * a.n + n;
    float sum = linear_rounded(v, a.act_type);
    if (a.add_bias != nullptr)
        sum = sum + a.add_bias[n];
    float r = fmaf(sum, a.add_scale, phx_load_any(a.residual, a.residual_type, at));
    phx_store_any(a.residual, a.residual_type, at, r);
}

__device__ __forceinline__ void linear_put(const linear_call &a, unsigned m, unsigned n, float v)
{
    phx_store_any(a.out, a.out_type, m * a.out_stride + n, v);
}

// Stores out[m, n], not gated.
__device__ __forceinline__ void linear_store(
    const linear_call &a, unsigned m, unsigned n, float sum)
{
    float v = linear_biased(a, n, sum);
    if (a.has_act)
        v = canon_act(a.act, linear_rounded(v, a.act_type));
    if (a.residual != nullptr)
        linear_add(a, m, n, v);
    else
        linear_put(a, m, n, v);
}

// Stores out[m, n] from the sums of its gate and its up.
__device__ __forceinline__ void linear_store_gated(
    const linear_call &a, unsigned m, unsigned n, float gate, float up)
{
    float g = linear_rounded(linear_biased(a, n, gate), a.act_type);
    float u = linear_rounded(linear_biased(a, a.n / 2 + n, up), a.act_type);
    linear_put(a, m, n, canon_act(a.act, g) * u);
}

__device__ __forceinline__ float *linear_partial(
    const linear_call &a, unsigned segment, unsigned m, unsigned n)
{
    return a.partials + ((uint64_t)segment * a.m + m) * a.n + n;
}

// What blocks that share K have left: the first `of_first` segments are one partial already, which
// lies in the first place.
__device__ __forceinline__ float linear_combine(
    const linear_call &a, unsigned of_first, unsigned m, unsigned n)
{
    float v = *linear_partial(a, 0, m, n);
    for (unsigned s = of_first; s < a.n_segments; s++)
        v += *linear_partial(a, s, m, n);
    return v;
}

// Called by all threads of a block once its partials are written; true in the last block of the
// `n_blocks` that share the ticket, which then sees the partials of all.
__device__ __forceinline__ bool linear_is_last(unsigned *ticket, unsigned n_blocks)
{
    PHX_SHARED(unsigned, before);
    __syncthreads();
    if (threadIdx.x == 0) {
        before = phx_add_acq_rel_gpu(ticket, 1u);
        if (before == n_blocks - 1)
            phx_store_relaxed_gpu(ticket, 0u); // for the next call
    }
    __syncthreads();
    return before == n_blocks - 1;
}

__device__ __forceinline__ uint64_t linear_x_row(const linear_call &, unsigned m)
{
    return m;
}

__device__ __forceinline__ uint64_t linear_x_row(const linear_tile_call &a, unsigned m)
{
    return a.x_rows != nullptr ? a.x_rows[m] : m;
}

// Fills `a` for tile `i`; false where there is none.
__device__ __forceinline__ bool linear_begin_tile(
    linear_tile_call &a, const linear_call &all, const linear_groups &g, unsigned i)
{
    if (i >= *g.n_tiles)
        return false;
    linear_group_tile tile = g.tile[i];
    linear_group_weight w = g.weight[tile.group];
    static_cast<linear_call &>(a) = all;
    a.m = tile.n_rows;
    a.w = w.data;
    a.w_stride = w.stride;
    a.w_type = w.type;
    a.out = static_cast<char *>(all.out) +
            tile.first * all.out_stride * (all.out_type == DTYPE_F32 ? 4 : 2);
    a.x_rows = g.x_rows != nullptr ? g.x_rows + tile.first : nullptr;
    if (g.x_rows == nullptr)
        a.x = static_cast<const char *>(all.x) +
              tile.first * all.x_stride * (all.x_type == DTYPE_F32 ? 4 : 2);
    return true;
}

// Two steps of mma.sync over 32 elements of K: c[i] belongs to (low, high), rows g and g + 8 of 16
// rows of w, and to x, row g of 8 rows of x.
template <class T>
__device__ __forceinline__ void linear_multiply(
    float *c, const uint4 &low, const uint4 &high, const uint4 &x)
{
    unsigned a0[4] = {low.x, high.x, low.y, high.y}, b0[2] = {x.x, x.y};
    unsigned a1[4] = {low.z, high.z, low.w, high.w}, b1[2] = {x.z, x.w};
    phx_multiply_16x8x16<T>(c, a0, b0);
    phx_multiply_16x8x16<T>(c, a1, b1);
}

#endif
