// SPDX-License-Identifier: Apache-2.0
// v16.h on AVX-512: one register. Included by v16.h only.
#ifndef PHALANX_KERNELS_CPU_V16_AVX512_H
#define PHALANX_KERNELS_CPU_V16_AVX512_H

typedef __m512 v16; // NOLINT: the vector types of the compiler are typedefs as well

#define V16_OP2(name, intrinsic)                                                                   \
    V16_INLINE v16 name(v16 x, v16 y)                                                              \
    {                                                                                              \
        return intrinsic(x, y);                                                                    \
    }
V16_OP2(v16_add, _mm512_add_ps)
V16_OP2(v16_sub, _mm512_sub_ps)
V16_OP2(v16_mul, _mm512_mul_ps)
V16_OP2(v16_div, _mm512_div_ps)
V16_OP2(v16_max, _mm512_max_ps)
V16_OP2(v16_and, _mm512_and_ps)
V16_OP2(v16_andnot, _mm512_andnot_ps)
V16_OP2(v16_xor, _mm512_xor_ps)
#undef V16_OP2

V16_INLINE v16 v16_set1(float f)
{
    return _mm512_set1_ps(f);
}

V16_INLINE v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

V16_INLINE void v16_store(float *p, v16 v)
{
    _mm512_storeu_ps(p, v);
}

V16_INLINE v16 v16_load_n(const float *p, uint32_t n)
{
    return n >= 16 ? v16_load(p) : _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

V16_INLINE void v16_store_n(float *p, v16 v, uint32_t n)
{
    if (n >= 16)
        v16_store(p, v);
    else
        _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}

V16_INLINE v16 v16_fma(v16 x, v16 y, v16 z)
{
    return _mm512_fmadd_ps(x, y, z);
}

V16_INLINE v16 v16_rint(v16 x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// p * 2^n for whole n; rounded once, as the two steps of canon_exp are.
V16_INLINE v16 v16_scale2(v16 p, v16 n)
{
    return _mm512_scalef_ps(p, n);
}

// x < y ? a : b, lane by lane.
V16_INLINE v16 v16_select_lt(v16 x, v16 y, v16 a, v16 b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}

V16_INLINE uint32_t v16_count_lt(v16 x, v16 y)
{
    return (uint32_t)__builtin_popcount(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ));
}

V16_INLINE uint32_t v16_count_nan(v16 x)
{
    return (uint32_t)__builtin_popcount(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q));
}

V16_INLINE v16 v16_load_bf16(const void *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

V16_INLINE v16 v16_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

V16_INLINE void v16_store_bf16(void *p, v16 v)
{
    __m512i u = _mm512_castps_si512(v), high = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    r = _mm512_srli_epi32(r, 16);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, high, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(r));
}

V16_INLINE void v16_store_f16(void *p, v16 v)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// canon_tree16 of the lanes.
V16_INLINE float v16_tree(v16 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

V16_INLINE float v16_reduce_max(v16 v)
{
    return _mm512_reduce_max_ps(v);
}

// Sines and cosines of sixteen angles, as canon_sincos.
V16_INLINE void v16_sincos(v16 x, v16 *sine, v16 *cosine)
{
    __m256 part[2] = {_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)};
    __m256 s[2], c[2];
    for (int i = 0; i < 2; i++) {
        __m512d a = _mm512_cvtps_pd(part[i]);
        __m512d n = _mm512_roundscale_pd(_mm512_mul_pd(a, _mm512_set1_pd(CANON_2_OVER_PI)),
            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        __m512d r = _mm512_fnmadd_pd(n, _mm512_set1_pd(CANON_PI_2_HIGH), a);
        r = _mm512_fnmadd_pd(n, _mm512_set1_pd(CANON_PI_2_LOW), r);
        __m512d z = _mm512_mul_pd(r, r);
        __m512d p = _mm512_set1_pd(CANON_SIN_0), q = _mm512_set1_pd(CANON_COS_0);
        p = _mm512_fmadd_pd(p, z, _mm512_set1_pd(CANON_SIN_1));
        q = _mm512_fmadd_pd(q, z, _mm512_set1_pd(CANON_COS_1));
        p = _mm512_fmadd_pd(p, z, _mm512_set1_pd(CANON_SIN_2));
        q = _mm512_fmadd_pd(q, z, _mm512_set1_pd(CANON_COS_2));
        p = _mm512_fmadd_pd(p, z, _mm512_set1_pd(CANON_SIN_3));
        q = _mm512_fmadd_pd(q, z, _mm512_set1_pd(CANON_COS_3));
        p = _mm512_fmadd_pd(p, z, _mm512_set1_pd(CANON_SIN_4));
        q = _mm512_fmadd_pd(q, z, _mm512_set1_pd(CANON_COS_4));
        __m256 sn = _mm512_cvtpd_ps(_mm512_fmadd_pd(_mm512_mul_pd(r, z), p, r));
        __m512d w = _mm512_fmadd_pd(z, _mm512_set1_pd(-0.5), _mm512_set1_pd(1.0));
        __m256 cs = _mm512_cvtpd_ps(_mm512_fmadd_pd(_mm512_mul_pd(z, z), q, w));
        __m256i k = _mm512_cvtpd_epi32(n);
        __mmask8 odd = _mm256_test_epi32_mask(k, _mm256_set1_epi32(1));
        __m256i two = _mm256_set1_epi32(2);
        __m256i sign_s = _mm256_slli_epi32(_mm256_and_si256(k, two), 30);
        __m256i k1 = _mm256_add_epi32(k, _mm256_set1_epi32(1));
        __m256i sign_c = _mm256_slli_epi32(_mm256_and_si256(k1, two), 30);
        s[i] = _mm256_xor_ps(_mm256_mask_blend_ps(odd, sn, cs), _mm256_castsi256_ps(sign_s));
        c[i] = _mm256_xor_ps(_mm256_mask_blend_ps(odd, cs, sn), _mm256_castsi256_ps(sign_c));
    }
    *sine = _mm512_insertf32x8(_mm512_castps256_ps512(s[0]), s[1], 1);
    *cosine = _mm512_insertf32x8(_mm512_castps256_ps512(c[0]), c[1], 1);
}

#endif
