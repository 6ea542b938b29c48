// SPDX-License-Identifier: Apache-2.0
// Compiled with -mavx512f -mavx512bw -mavx512vl -mfma; called only where the CPU has them.
#include <immintrin.h>
#include <stdint.h>

#define V __m512
#define LANES 16
#define TABLE reduce_avx512
#define NAME "avx512"

static inline V v_add(V a, V b)
{
    return _mm512_add_ps(a, b);
}

static inline V v_mul(V a, V b)
{
    return _mm512_mul_ps(a, b);
}

static inline V v_fma(V a, V b, V c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline V v_set1(float f)
{
    return _mm512_set1_ps(f);
}

// vmaxps gives its second operand when they are equal or unordered; a NaN in `a` has to stay.
static inline V v_max(V a, V b)
{
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
}

static inline V v_load_f32(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void v_store_f32(float *p, V v)
{
    _mm512_storeu_ps(p, v);
}

static inline V v_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline void v_store_f16(uint16_t *p, V v)
{
    _mm256_storeu_si256(
        (__m256i *)(void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline V v_load_bf16(const uint16_t *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

static inline void v_store_bf16(uint16_t *p, V v)
{
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i h = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    h = _mm512_mask_or_epi32(h, is_nan, u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(h, 16)));
}

#include "collectives/reduce_body.inc"
