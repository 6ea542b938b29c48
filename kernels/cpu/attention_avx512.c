// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention.h"
#include "kernels/cpu/v16.h"

// canon_tree16 of sixteen accumulators at once: each step adds the upper half of every group of
// lanes to its lower half, two registers becoming one. The result's lane i is the sum of acc[i].
V16_INLINE v16 tree_of_16(v16 acc[16])
{
    V16_UNROLL
    for (int i = 0; i < 8; i++)
        acc[i] = _mm512_add_ps(_mm512_shuffle_f32x4(acc[i], acc[i + 8], 0x44),
            _mm512_shuffle_f32x4(acc[i], acc[i + 8], 0xee));
    V16_UNROLL
    for (int i = 0; i < 4; i++)
        acc[i] = _mm512_add_ps(_mm512_shuffle_f32x4(acc[i], acc[i + 4], 0x88),
            _mm512_shuffle_f32x4(acc[i], acc[i + 4], 0xdd));
    V16_UNROLL
    for (int i = 0; i < 4; i += 2)
        acc[i] = _mm512_add_ps(_mm512_shuffle_ps(acc[i], acc[i + 1], 0x44),
            _mm512_shuffle_ps(acc[i], acc[i + 1], 0xee));
    v16 r = _mm512_add_ps(
        _mm512_shuffle_ps(acc[0], acc[2], 0x88), _mm512_shuffle_ps(acc[0], acc[2], 0xdd));
    return _mm512_shuffle_f32x4(r, r, 0xd8); // quarters 0, 2, 1, 3
}

V16_INLINE void scores_tile(uint32_t rows, uint32_t columns, const float *const *q,
    const float *const *k, uint32_t dim, float *const *out, uint32_t at)
{
    v16 acc[16];
    V16_UNROLL
    for (int i = 0; i < 16; i++)
        acc[i] = v16_zero();
    for (uint32_t d = 0; d < dim; d += 16) {
        v16 x[4];
        V16_UNROLL
        for (uint32_t r = 0; r < rows; r++)
            x[r] = v16_load(q[r] + d);
        V16_UNROLL
        for (uint32_t c = 0; c < columns; c++) {
            v16 y = v16_load(k[c] + d);
            V16_UNROLL
            for (uint32_t r = 0; r < rows; r++)
                acc[r * columns + c] = v16_fma(x[r], y, acc[r * columns + c]);
        }
    }
    v16 s = tree_of_16(acc);
    if (columns == 16) {
        v16_store(out[0] + at, s);
    } else if (columns == 8) {
        _mm256_storeu_ps(out[0] + at, _mm512_castps512_ps256(s));
        _mm256_storeu_ps(out[1] + at, _mm512_extractf32x8_ps(s, 1));
    } else {
        _mm_storeu_ps(out[0] + at, _mm512_castps512_ps128(s));
        _mm_storeu_ps(out[1] + at, _mm512_extractf32x4_ps(s, 1));
        _mm_storeu_ps(out[2] + at, _mm512_extractf32x4_ps(s, 2));
        _mm_storeu_ps(out[3] + at, _mm512_extractf32x4_ps(s, 3));
    }
}

#define SCORES_SUMS 16
#define VALUES_VECTORS 4
#include "kernels/cpu/attention_v16.inc"

const struct attention_isa attention_avx512_isa = {
    .widen = attention_widen,
    .scores = attention_scores_all,
    .softmax = attention_softmax_row,
    .values = attention_values_all,
    .merge = attention_merge,
    .scale = attention_scale,
};
