// SPDX-License-Identifier: Apache-2.0
// Versions of rope_kv for one row. Definition, for each head of q and k:
//   norm     h[i] = h[i] * (1 / sqrt(dot(h, h) / head_dim + eps)) * (offset + w[i]), if asked for
//   angle    t[i] = (float)position * inv_freq[i], a float product as Hugging Face has it
//   c, s     cosine and sine of t[i] (canon_act.h), each times attention_factor
//   rotation x' = fma(x, c, -(y * s)), y' = fma(y, c, x * s) on the pair x, y
// and then k and v are rounded to the pages' type.
#ifndef PHALANX_KERNELS_CPU_ROPE_H
#define PHALANX_KERNELS_CPU_ROPE_H

#include "kernels/kernels.h"

enum { ROPE_HEAD_DIM_MAX = 512 };

struct rope_row {
    float *qkv; // [(n_heads + 2 n_kv_heads) * head_dim] of this row
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t position;
    const float *inv_freq; // [rotary_dim / 2] or NULL
    float attention_factor;
    uint32_t rotary_dim;
    bool interleaved;
    const void *q_norm, *k_norm; // rows of a struct weight, or NULL
    enum dtype q_norm_dtype, k_norm_dtype;
    float eps, weight_offset;
    void *k, *v; // where this row's first KV head goes
    uint64_t head_stride_bytes;
    enum dtype kv_dtype;
};

typedef void rope_row_fn(const struct rope_row *a);
rope_row_fn rope_plain_row, rope_avx2_row, rope_avx512_row;

#endif
