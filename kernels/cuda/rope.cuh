// SPDX-License-Identifier: Apache-2.0
// Norm of a head, its rotation and its append to the pages, as a warp does it: in a kernel of its
// own (rope.cu), or behind the projection that gives the heads (linear_fused.cu).
#ifndef PHALANX_KERNELS_CUDA_ROPE_CUH
#define PHALANX_KERNELS_CUDA_ROPE_CUH

#include "kernels/cpu/canon_act.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pack.cuh"

struct rope_call {
    device_batch batch;
    struct kv_layer kv;
    uint32_t n_heads, rotary_dim;
    bool interleaved;
    const float *inv_freq;
    float attention_factor, eps, weight_offset;
    const void *q_norm, *k_norm;
    enum dtype q_norm_type, k_norm_type;
};

// What becomes of a head's element: written back (q) or into a page (k, v).
template <class T> struct rope_target {
    T *q;
    void *page;
    enum dtype page_type;
    size_t page_at;

    __device__ __forceinline__ void put(unsigned i, float f) const
    {
        if (q != nullptr)
            q[i] = phx_round<T>(f);
        else
            phx_store_any(page, page_type, page_at + i, f);
    }
};

// A head before its rotation: element i, normed where there is a weight.
template <class T> struct rope_source {
    const T *head;
    const void *weight;
    enum dtype weight_type;
    float scale, weight_offset;

    __device__ __forceinline__ float get(unsigned i) const
    {
        float f = phx_float(head[i]);
        if (weight == nullptr)
            return f;
        return f * scale * (weight_offset + phx_load_any(weight, weight_type, i));
    }
};

template <class T>
__device__ __forceinline__ void rope_head(const rope_call &c, const rope_source<T> &from,
    const rope_target<T> &to, uint32_t position, bool rotates)
{
    unsigned lane = threadIdx.x % 32, half = rotates ? c.rotary_dim / 2 : 0;
    for (unsigned i = lane; i < half; i += 32) {
        float s, k;
        canon_sincos((float)position * c.inv_freq[i], &s, &k);
        s = s * c.attention_factor;
        k = k * c.attention_factor;
        unsigned ix = c.interleaved ? 2 * i : i, iy = c.interleaved ? 2 * i + 1 : i + half;
        float x = from.get(ix), y = from.get(iy);
        to.put(ix, fmaf(x, k, -(y * s)));
        to.put(iy, fmaf(y, k, x * s));
    }
    for (unsigned i = 2 * half + lane; i < c.kv.head_dim; i += 32)
        to.put(i, from.get(i));
}

// Head `head` of row `row`, by a warp. Rows that the batch does not have are left alone.
template <class T>
__device__ __forceinline__ void rope_row(const rope_call &c, T *qkv, unsigned row, unsigned head)
{
    unsigned n_kv = c.kv.n_kv_heads, dim = c.kv.head_dim;
    if (row >= c.batch.counts[DEVICE_COUNT_ROWS] || head >= c.n_heads + 2 * n_kv)
        return;
    bool is_q = head < c.n_heads, is_v = head >= c.n_heads + n_kv;
    const device_seq *seq = &c.batch.seq[c.batch.row_seq[row]];
    uint32_t position = seq->first_position + (row - seq->first_row);
    T *at = qkv + ((size_t)row * (c.n_heads + 2 * n_kv) + head) * dim;
    rope_source<T> from = {at,
        is_v   ? nullptr
        : is_q ? c.q_norm
               : c.k_norm,
        is_q ? c.q_norm_type : c.k_norm_type, 1.0f, c.weight_offset};
    if (from.weight != nullptr) {
        float square = 0;
        for (unsigned i = threadIdx.x % 32; i < dim; i += 32)
            square = fmaf(phx_float(at[i]), phx_float(at[i]), square);
        from.scale = 1.0f / sqrtf(phx_warp_sum(square) / (float)dim + c.eps);
        __syncwarp(); // all have read what others are going to overwrite
    }
    rope_target<T> to = {is_q ? at : nullptr, is_v ? c.kv.v : c.kv.k, c.kv.dtype, 0};
    if (is_q && from.weight == nullptr && c.inv_freq == nullptr)
        return;
    if (!is_q) {
        uint32_t kv_head = (head - c.n_heads) % n_kv, tokens = c.kv.block_tokens;
        uint32_t page = c.batch.blocks[seq->table[c.kv.group] + position / tokens];
        to.page_at = (((size_t)page * n_kv + kv_head) * tokens + position % tokens) * dim;
    }
    rope_head<T>(c, from, to, position, !is_v && c.inv_freq != nullptr);
}

// What the kernel is told; checks the shapes.
rope_call rope_make_call(const struct device *d, const struct rope_kv_args *a);

#endif
