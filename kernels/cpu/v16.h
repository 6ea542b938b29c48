// SPDX-License-Identifier: Apache-2.0
// Sixteen float lanes, the width that canon.h is defined in: one AVX-512 register or two of AVX2.
// Included only by *_avx2.c and *_avx512.c; a body written once against it (NAME_v16.inc) becomes
// both versions. Every function does in each lane what its name says in canon.h and canon_act.h,
// with the same roundings.
#ifndef PHALANX_KERNELS_CPU_V16_H
#define PHALANX_KERNELS_CPU_V16_H

#include "base/dtype.h"
#include "kernels/cpu/canon_act.h"

#include <immintrin.h>

#define V16_INLINE static inline __attribute__((always_inline))

// Before a loop over a tile of registers: it must leave no loop behind.
#ifdef __clang__
#define V16_UNROLL _Pragma("unroll")
#else
#define V16_UNROLL _Pragma("GCC unroll 16")
#endif

#ifdef __AVX512F__
#include "kernels/cpu/v16_avx512.h"
#define V16_NAME(stem, name) stem##_avx512_##name
#else
#include "kernels/cpu/v16_avx2.h"
#define V16_NAME(stem, name) stem##_avx2_##name
#endif

V16_INLINE v16 v16_zero(void)
{
    return v16_set1(0.0f);
}

// Elements [k, k + n) of a row of f32, f16 or bf16, n in 1..16; lanes from n on are 0.
V16_INLINE v16 v16_load_dtype(const void *row, enum dtype t, uint32_t k, uint32_t n)
{
    if (t == DTYPE_F32)
        return v16_load_n((const float *)(const void *)((const char *)row + 4 * (size_t)k), n);
    const char *p = (const char *)row + 2 * (size_t)k;
    uint16_t h[16];
    if (n < 16) {
        memset(h, 0, sizeof h);
        memcpy(h, p, 2 * (size_t)n);
        p = (const char *)h;
    }
    return t == DTYPE_BF16 ? v16_load_bf16(p) : v16_load_f16(p);
}

// Rounds to nearest even and stores the first n lanes.
V16_INLINE void v16_store_dtype(void *row, enum dtype t, uint32_t k, v16 v, uint32_t n)
{
    if (t == DTYPE_F32) {
        v16_store_n((float *)(void *)((char *)row + 4 * (size_t)k), v, n);
        return;
    }
    char *p = (char *)row + 2 * (size_t)k;
    uint16_t h[16];
    char *to = n < 16 ? (char *)h : p;
    if (t == DTYPE_BF16)
        v16_store_bf16(to, v);
    else
        v16_store_f16(to, v);
    if (n < 16)
        memcpy(p, h, 2 * (size_t)n);
}

V16_INLINE v16 v16_neg(v16 x)
{
    return v16_xor(x, v16_set1(-0.0f));
}

V16_INLINE v16 v16_abs(v16 x)
{
    return v16_andnot(v16_set1(-0.0f), x);
}

V16_INLINE v16 v16_exp(v16 x)
{
    v16 n = v16_rint(v16_mul(x, v16_set1(1.44269504088896341f)));
    v16 r = v16_fma(n, v16_set1(-0.693145751953125f), x);
    r = v16_fma(n, v16_set1(-1.42860682030941723212e-6f), r);
    v16 p = v16_set1(1.9841269841e-4f);
    p = v16_fma(p, r, v16_set1(1.3888888889e-3f));
    p = v16_fma(p, r, v16_set1(8.3333333333e-3f));
    p = v16_fma(p, r, v16_set1(4.1666666667e-2f));
    p = v16_fma(p, r, v16_set1(1.6666666667e-1f));
    p = v16_fma(p, r, v16_set1(0.5f));
    p = v16_fma(v16_mul(p, r), r, r);
    p = v16_scale2(v16_add(p, v16_set1(1.0f)), n);
    p = v16_select_lt(x, v16_set1(-87.33654f), v16_zero(), p);
    return v16_select_lt(v16_set1(88.72283f), x, v16_set1(INFINITY), p);
}

V16_INLINE v16 v16_tanh(v16 x)
{
    v16 z = v16_mul(x, x);
    v16 p = v16_set1(CANON_TANH_0);
    p = v16_fma(p, z, v16_set1(CANON_TANH_1));
    p = v16_fma(p, z, v16_set1(CANON_TANH_2));
    p = v16_fma(p, z, v16_set1(CANON_TANH_3));
    p = v16_fma(p, z, v16_set1(CANON_TANH_4));
    v16 small = v16_fma(v16_mul(x, z), p, x);
    v16 a = v16_abs(x);
    v16 e = v16_add(v16_exp(v16_add(a, a)), v16_set1(1.0f));
    v16 large = v16_sub(v16_set1(1.0f), v16_div(v16_set1(2.0f), e));
    // copysign: `large` is not negative.
    large = v16_xor(v16_abs(large), v16_and(x, v16_set1(-0.0f)));
    return v16_select_lt(a, v16_set1(CANON_TANH_SMALL), small, large);
}

V16_INLINE v16 v16_softcap(v16 x, float cap)
{
    return v16_mul(v16_set1(cap), v16_tanh(v16_div(x, v16_set1(cap))));
}

V16_INLINE v16 v16_silu(v16 x)
{
    return v16_div(x, v16_add(v16_set1(1.0f), v16_exp(v16_neg(x))));
}

V16_INLINE v16 v16_gelu_erf(v16 x)
{
    v16 a = v16_abs(x);
    v16 t = v16_div(v16_set1(1.0f), v16_fma(v16_set1(CANON_TAIL_T), a, v16_set1(1.0f)));
    v16 p = v16_set1(CANON_TAIL_0);
    p = v16_fma(p, t, v16_set1(CANON_TAIL_1));
    p = v16_fma(p, t, v16_set1(CANON_TAIL_2));
    p = v16_fma(p, t, v16_set1(CANON_TAIL_3));
    p = v16_fma(p, t, v16_set1(CANON_TAIL_4));
    p = v16_fma(p, t, v16_set1(CANON_TAIL_5));
    p = v16_fma(p, t, v16_set1(CANON_TAIL_6));
    p = v16_fma(p, t, v16_set1(CANON_TAIL_7));
    p = v16_fma(p, t, v16_set1(CANON_TAIL_8));
    v16 e = v16_exp(v16_mul(v16_mul(x, x), v16_set1(-0.5f)));
    v16 y = v16_mul(x, v16_mul(e, v16_mul(p, t)));
    return v16_select_lt(x, v16_zero(), y, v16_sub(x, y));
}

V16_INLINE v16 v16_gelu_tanh(v16 x)
{
    v16 u = v16_fma(v16_mul(x, x), v16_set1(CANON_GELU_CUBIC), v16_set1(CANON_GELU_LINEAR));
    return v16_div(x, v16_add(v16_set1(1.0f), v16_exp(v16_mul(x, u))));
}

V16_INLINE v16 v16_relu(v16 x)
{
    return v16_select_lt(x, v16_zero(), v16_zero(), x);
}

#endif
