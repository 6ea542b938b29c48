// SPDX-License-Identifier: Apache-2.0
// v16.h on AVX2 with FMA and F16C: lanes 0-7 and 8-15. Included by v16.h only.
#ifndef PHALANX_KERNELS_CPU_V16_AVX2_H
#define PHALANX_KERNELS_CPU_V16_AVX2_H

// A typedef, so that both widths have one name; __m512 is one as well.
typedef struct v16_pair {
    __m256 a, b;
} v16;

#define V16_OP2(name, intrinsic)                                                                   \
    V16_INLINE v16 name(v16 x, v16 y)                                                              \
    {                                                                                              \
        return (v16){intrinsic(x.a, y.a), intrinsic(x.b, y.b)};                                    \
    }
V16_OP2(v16_add, _mm256_add_ps)
V16_OP2(v16_sub, _mm256_sub_ps)
V16_OP2(v16_mul, _mm256_mul_ps)
V16_OP2(v16_div, _mm256_div_ps)
V16_OP2(v16_max, _mm256_max_ps)
V16_OP2(v16_and, _mm256_and_ps)
V16_OP2(v16_andnot, _mm256_andnot_ps)
V16_OP2(v16_xor, _mm256_xor_ps)
#undef V16_OP2

V16_INLINE v16 v16_set1(float f)
{
    return (v16){_mm256_set1_ps(f), _mm256_set1_ps(f)};
}

V16_INLINE v16 v16_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

V16_INLINE void v16_store(float *p, v16 v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}

// All ones in lanes below n, for n of any sign.
V16_INLINE __m256i v16_mask8(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

V16_INLINE v16 v16_load_n(const float *p, uint32_t n)
{
    if (n >= 16)
        return v16_load(p);
    if (n <= 8)
        return (v16){_mm256_maskload_ps(p, v16_mask8((int)n)), _mm256_setzero_ps()};
    return (v16){_mm256_loadu_ps(p), _mm256_maskload_ps(p + 8, v16_mask8((int)n - 8))};
}

V16_INLINE void v16_store_n(float *p, v16 v, uint32_t n)
{
    if (n >= 16) {
        v16_store(p, v);
        return;
    }
    _mm256_maskstore_ps(p, v16_mask8((int)n), v.a);
    if (n > 8)
        _mm256_maskstore_ps(p + 8, v16_mask8((int)n - 8), v.b);
}

V16_INLINE v16 v16_fma(v16 x, v16 y, v16 z)
{
    return (v16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

V16_INLINE v16 v16_rint(v16 x)
{
    enum { MODE = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (v16){_mm256_round_ps(x.a, MODE), _mm256_round_ps(x.b, MODE)};
}

V16_INLINE __m256 v16_scale2_half(__m256 p, __m256 n)
{
    __m256i k = _mm256_cvttps_epi32(n), half = _mm256_srai_epi32(k, 1);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i s1 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i s2 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(s1)), _mm256_castsi256_ps(s2));
}

// p * 2^n for whole n, in the two steps of canon_exp.
V16_INLINE v16 v16_scale2(v16 p, v16 n)
{
    return (v16){v16_scale2_half(p.a, n.a), v16_scale2_half(p.b, n.b)};
}

// x < y ? a : b, lane by lane.
V16_INLINE v16 v16_select_lt(v16 x, v16 y, v16 a, v16 b)
{
    return (v16){_mm256_blendv_ps(b.a, a.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
        _mm256_blendv_ps(b.b, a.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}

V16_INLINE uint32_t v16_count_lt(v16 x, v16 y)
{
    int m = _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)) |
            _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)) << 8;
    return (uint32_t)__builtin_popcount((unsigned)m);
}

V16_INLINE uint32_t v16_count_nan(v16 x)
{
    int m = _mm256_movemask_ps(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q)) |
            _mm256_movemask_ps(_mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q)) << 8;
    return (uint32_t)__builtin_popcount((unsigned)m);
}

V16_INLINE __m256 v16_load_bf16_half(const char *p)
{
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}

V16_INLINE v16 v16_load_bf16(const void *p)
{
    return (v16){v16_load_bf16_half(p), v16_load_bf16_half((const char *)p + 16)};
}

V16_INLINE v16 v16_load_f16(const void *p)
{
    const __m128i *q = p;
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}

V16_INLINE __m256i v16_round_bf16(__m256 v)
{
    __m256i u = _mm256_castps_si256(v), high = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(_mm256_srli_epi32(r, 16), quiet, nan);
}

V16_INLINE void v16_store_bf16(void *p, v16 v)
{
    // packus works within 128-bit halves; the permutation puts their quarters in order.
    __m256i r = _mm256_packus_epi32(v16_round_bf16(v.a), v16_round_bf16(v.b));
    _mm256_storeu_si256(p, _mm256_permute4x64_epi64(r, 0xd8));
}

V16_INLINE void v16_store_f16(void *p, v16 v)
{
    __m128i *q = p;
    enum { MODE = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    _mm_storeu_si128(q, _mm256_cvtps_ph(v.a, MODE));
    _mm_storeu_si128(q + 1, _mm256_cvtps_ph(v.b, MODE));
}

// canon_tree16 of the lanes.
V16_INLINE float v16_tree(v16 v)
{
    __m256 a = _mm256_add_ps(v.a, v.b);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

V16_INLINE float v16_reduce_max(v16 v)
{
    __m256 a = _mm256_max_ps(v.a, v.b);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

// Four angles, as canon_sincos.
V16_INLINE void v16_sincos_quarter(__m128 x, __m128 *sine, __m128 *cosine)
{
    __m256d a = _mm256_cvtps_pd(x);
    __m256d n = _mm256_round_pd(_mm256_mul_pd(a, _mm256_set1_pd(CANON_2_OVER_PI)),
        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256d r = _mm256_fnmadd_pd(n, _mm256_set1_pd(CANON_PI_2_HIGH), a);
    r = _mm256_fnmadd_pd(n, _mm256_set1_pd(CANON_PI_2_LOW), r);
    __m256d z = _mm256_mul_pd(r, r);
    __m256d p = _mm256_set1_pd(CANON_SIN_0), q = _mm256_set1_pd(CANON_COS_0);
    p = _mm256_fmadd_pd(p, z, _mm256_set1_pd(CANON_SIN_1));
    q = _mm256_fmadd_pd(q, z, _mm256_set1_pd(CANON_COS_1));
    p = _mm256_fmadd_pd(p, z, _mm256_set1_pd(CANON_SIN_2));
    q = _mm256_fmadd_pd(q, z, _mm256_set1_pd(CANON_COS_2));
    p = _mm256_fmadd_pd(p, z, _mm256_set1_pd(CANON_SIN_3));
    q = _mm256_fmadd_pd(q, z, _mm256_set1_pd(CANON_COS_3));
    p = _mm256_fmadd_pd(p, z, _mm256_set1_pd(CANON_SIN_4));
    q = _mm256_fmadd_pd(q, z, _mm256_set1_pd(CANON_COS_4));
    __m128 sn = _mm256_cvtpd_ps(_mm256_fmadd_pd(_mm256_mul_pd(r, z), p, r));
    __m256d w = _mm256_fmadd_pd(z, _mm256_set1_pd(-0.5), _mm256_set1_pd(1.0));
    __m128 cs = _mm256_cvtpd_ps(_mm256_fmadd_pd(_mm256_mul_pd(z, z), q, w));
    __m128i k = _mm256_cvtpd_epi32(n), two = _mm_set1_epi32(2);
    __m128 odd = _mm_castsi128_ps(_mm_slli_epi32(k, 31)); // blendv looks at the sign bit
    __m128i sign_s = _mm_slli_epi32(_mm_and_si128(k, two), 30);
    __m128i k1 = _mm_add_epi32(k, _mm_set1_epi32(1));
    __m128i sign_c = _mm_slli_epi32(_mm_and_si128(k1, two), 30);
    *sine = _mm_xor_ps(_mm_blendv_ps(sn, cs, odd), _mm_castsi128_ps(sign_s));
    *cosine = _mm_xor_ps(_mm_blendv_ps(cs, sn, odd), _mm_castsi128_ps(sign_c));
}

V16_INLINE void v16_sincos(v16 x, v16 *sine, v16 *cosine)
{
    __m128 in[4] = {_mm256_castps256_ps128(x.a), _mm256_extractf128_ps(x.a, 1),
        _mm256_castps256_ps128(x.b), _mm256_extractf128_ps(x.b, 1)};
    __m128 s[4], c[4];
    for (int i = 0; i < 4; i++)
        v16_sincos_quarter(in[i], &s[i], &c[i]);
    *sine = (v16){_mm256_set_m128(s[1], s[0]), _mm256_set_m128(s[3], s[2])};
    *cosine = (v16){_mm256_set_m128(c[1], c[0]), _mm256_set_m128(c[3], c[2])};
}

#endif
