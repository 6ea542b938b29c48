// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention.h"
#include "kernels/cpu/v16.h"

// The lower three steps of canon_tree16 for eight accumulators at once, whose lanes i and i + 8
// have been added. The result's lane i is the sum of acc[i].
V16_INLINE __m256 tree_of_8(__m256 acc[8])
{
    V16_UNROLL
    for (int i = 0; i < 4; i++)
        acc[i] = _mm256_add_ps(_mm256_permute2f128_ps(acc[i], acc[i + 4], 0x20),
            _mm256_permute2f128_ps(acc[i], acc[i + 4], 0x31));
    V16_UNROLL
    for (int i = 0; i < 4; i += 2)
        acc[i] = _mm256_add_ps(_mm256_shuffle_ps(acc[i], acc[i + 1], 0x44),
            _mm256_shuffle_ps(acc[i], acc[i + 1], 0xee));
    return _mm256_add_ps(
        _mm256_shuffle_ps(acc[0], acc[2], 0x88), _mm256_shuffle_ps(acc[0], acc[2], 0xdd));
}

// Lanes 0-7 (q and k as given) or 8-15 (q and k eight further) of eight dots.
V16_INLINE void scores_half(uint32_t rows, uint32_t columns, const float *const *q,
    const float *const *k, uint32_t dim, uint32_t lane, __m256 acc[8])
{
    V16_UNROLL
    for (int i = 0; i < 8; i++)
        acc[i] = _mm256_setzero_ps();
    for (uint32_t d = lane; d < dim; d += 16) {
        __m256 x[4];
        V16_UNROLL
        for (uint32_t r = 0; r < rows; r++)
            x[r] = _mm256_loadu_ps(q[r] + d);
        V16_UNROLL
        for (uint32_t c = 0; c < columns; c++) {
            __m256 y = _mm256_loadu_ps(k[c] + d);
            V16_UNROLL
            for (uint32_t r = 0; r < rows; r++)
                acc[r * columns + c] = _mm256_fmadd_ps(x[r], y, acc[r * columns + c]);
        }
    }
}

V16_INLINE void scores_tile(uint32_t rows, uint32_t columns, const float *const *q,
    const float *const *k, uint32_t dim, float *const *out, uint32_t at)
{
    __m256 low[8], acc[8];
    scores_half(rows, columns, q, k, dim, 0, low);
    scores_half(rows, columns, q, k, dim, 8, acc);
    V16_UNROLL
    for (int i = 0; i < 8; i++)
        acc[i] = _mm256_add_ps(low[i], acc[i]);
    __m256 s = tree_of_8(acc);
    if (columns == 8) {
        _mm256_storeu_ps(out[0] + at, s);
    } else if (columns == 4) {
        _mm_storeu_ps(out[0] + at, _mm256_castps256_ps128(s));
        _mm_storeu_ps(out[1] + at, _mm256_extractf128_ps(s, 1));
    } else {
        __m128 upper = _mm256_extractf128_ps(s, 1);
        _mm_storel_pi((__m64 *)(void *)(out[0] + at), _mm256_castps256_ps128(s));
        _mm_storeh_pi((__m64 *)(void *)(out[1] + at), _mm256_castps256_ps128(s));
        _mm_storel_pi((__m64 *)(void *)(out[2] + at), upper);
        _mm_storeh_pi((__m64 *)(void *)(out[3] + at), upper);
    }
}

#define SCORES_SUMS 8
#define VALUES_VECTORS 1
#include "kernels/cpu/attention_v16.inc"

const struct attention_isa attention_avx2_isa = {
    .widen = attention_widen,
    .scores = attention_scores_all,
    .softmax = attention_softmax_row,
    .values = attention_values_all,
    .merge = attention_merge,
    .scale = attention_scale,
};
