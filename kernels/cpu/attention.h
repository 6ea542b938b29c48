// SPDX-License-Identifier: Apache-2.0
// Paged causal attention on the CPU: what every version computes, bit for bit.
//
// For row r at position p and query head h, which reads KV head g = h / (n_heads / n_kv_heads):
// the visible positions are [b, p], b = max(0, p - window + 1) or 0 without a window. They are cut
// at absolute multiples of KERNELS_ATTENTION_CHUNK. For each chunk that has a visible position j:
//
//   s[j] = canon_dot(q, k[j]) * scale
//   s[j] = canon_softcap(s[j], softcap)                    where softcap > 0
//   s[j] = fma(slope[h], (float)(j - p), s[j])             with ALiBi
//   m    = max s[j]
//   e[j] = canon_exp(s[j] - m)
//   l    = canonical sum of e[j], lane (j mod 16): absent positions add nothing
//   o[d] = fma(e[j], v[j][d], o[d]) for j ascending, from +0
//
// The first chunk's (m, l, o) become (M, L, O); each later one is merged, ascending:
//
//   n = max(M, m), x = canon_exp(M - n), y = canon_exp(m - n)
//   L = fma(L, x, l * y);  O[d] = fma(O[d], x, o[d] * y);  M = n
//
// and out[d] = O[d] * (1 / L). k and v are the pages' elements widened to float. Nothing depends on
// the other rows of the step, on how a prompt was cut into steps, on pages or on threads.
//
// attention.c has this as it stands (plain). The SIMD versions share the blocked form of
// attention_tiles.c, which hands tiles to the functions below.
#ifndef PHALANX_KERNELS_CPU_ATTENTION_H
#define PHALANX_KERNELS_CPU_ATTENTION_H

#include "kernels/kernels.h"

enum {
    ATTENTION_HEAD_DIM_MAX = 512,
    ATTENTION_QUERIES = 64, // (row, head) pairs that share one pass over keys and values
    ATTENTION_KEYS = 64,    // keys or values at hand at a time, so that they stay in the L1 cache
};

// Dots of n_q queries with n_k keys (n_k a multiple of 16): out[i][j] at out + i * chunk + j.
// dim is a multiple of 16; rows of shorter heads are padded with zeros.
struct attention_scores {
    const float *const *q; // [n_q]
    const float *const *k; // [n_k]
    uint32_t n_q, n_k, dim;
    float *out;
};

// One query's scores of one chunk: s[begin, end) become e, m and l are returned.
struct attention_softmax {
    float *s; // [KERNELS_ATTENTION_CHUNK], written up to whole groups of 16 around [begin, end)
    uint32_t begin, end;
    float scale, softcap, slope;
    int32_t distance; // position of s[0] minus the query's
    bool alibi;
    float m, l;
};

// o[i][d] += e[i][j] * v[j][d], j ascending in [begin[i], end[i]).
struct attention_values {
    const float *e;        // [n_q] rows, a chunk apart
    const float *const *v; // indexed as e's columns are
    const uint32_t *begin, *end;
    uint32_t n_q, dim; // dim a multiple of 16
    float *o;          // [n_q][dim]
};

struct attention_isa {
    // Copies n rows of `dim` elements to `to`, as floats, padded with zeros to a multiple of 16,
    // and points row[] at the copies.
    void (*widen)(float *to, const float **row, uint32_t n, enum dtype t, uint32_t dim);
    void (*scores)(const struct attention_scores *a);
    void (*softmax)(struct attention_softmax *a);
    void (*values)(const struct attention_values *a);
    void (*merge)(float *to, float x, const float *o, float y, uint32_t dim); // fma(to, x, o * y)
    void (*scale)(float *out, const float *o, float factor, uint32_t dim);    // any dim
};

extern const struct attention_isa attention_avx2_isa, attention_avx512_isa;

struct device;
void attention_tiles_run(
    struct device *d, const struct attention_args *a, const struct attention_isa *isa);

// First visible position of a query at position p.
static inline uint32_t attention_first(uint32_t window, uint32_t p)
{
    return window > 0 && p >= window ? p - window + 1 : 0;
}

// Row of position p and KV head g in K or V pages.
static inline const void *attention_row(
    const struct kv_layer *kv, const void *pages, const uint32_t *blocks, uint32_t g, uint32_t p)
{
    uint64_t page = (uint64_t)blocks[p / kv->block_tokens] * kv->n_kv_heads + g;
    uint64_t at = page * kv->block_tokens + p % kv->block_tokens;
    return (const char *)pages + at * kv->head_dim * dtype_bytes(kv->dtype);
}

#endif
