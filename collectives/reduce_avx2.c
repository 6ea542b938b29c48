// SPDX-License-Identifier: Apache-2.0
// Compiled with -mavx2 -mfma -mf16c; called only where the CPU has them.
#include <immintrin.h>
#include <stdint.h>

#define V __m256
#define LANES 8
#define TABLE reduce_avx2
#define NAME "avx2"

static inline V v_add(V a, V b)
{
    return _mm256_add_ps(a, b);
}

static inline V v_mul(V a, V b)
{
    return _mm256_mul_ps(a, b);
}

static inline V v_fma(V a, V b, V c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline V v_set1(float f)
{
    return _mm256_set1_ps(f);
}

// vmaxps gives its second operand when they are equal or unordered; a NaN in `a` has to stay.
static inline V v_max(V a, V b)
{
    return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}

static inline V v_load_f32(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void v_store_f32(float *p, V v)
{
    _mm256_storeu_ps(p, v);
}

static inline V v_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline void v_store_f16(uint16_t *p, V v)
{
    _mm_storeu_si128(
        (__m128i *)(void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline V v_load_bf16(const uint16_t *p)
{
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}

static inline void v_store_bf16(uint16_t *p, V v)
{
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i near = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i h = _mm256_srli_epi32(_mm256_blendv_epi8(near, nan, is_nan), 16);
    h = _mm256_permute4x64_epi64(_mm256_packus_epi32(h, h), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(h));
}

#include "collectives/reduce_body.inc"
