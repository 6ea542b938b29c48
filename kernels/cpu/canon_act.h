// SPDX-License-Identifier: Apache-2.0
// Canonical elementwise functions, in the sense of canon.h: the plain C here is the definition, and
// SIMD versions (v16.h) do the same operations in each lane. All are for finite x; a NaN stays one.
//
// The polynomials are Chebyshev fits of our own, made with 40 digits; the errors beside them are of
// the whole function, measured against double precision by the tests.
#ifndef PHALANX_KERNELS_CPU_CANON_ACT_H
#define PHALANX_KERNELS_CPU_CANON_ACT_H

#include "kernels/cpu/canon.h"
#include "kernels/kernels.h"

// ---- constants, shared with v16.h --------------------------------------------------------------

#define CANON_TANH_SMALL 0.55f // below it the polynomial, above it the exponential
#define CANON_TANH_0 -6.610227831e-03f
#define CANON_TANH_1 2.130938866e-02f
#define CANON_TANH_2 -5.390942883e-02f
#define CANON_TANH_3 1.333311373e-01f
#define CANON_TANH_4 -3.333333201e-01f

// Upper tail of the normal distribution: Phi(-a) = exp(-a^2 / 2) * t * P(t), t = 1 / (1 + 0.3 a).
#define CANON_TAIL_T 0.3f
#define CANON_TAIL_0 1.869736666e-03f
#define CANON_TAIL_1 2.760419965e-02f
#define CANON_TAIL_2 -1.425629236e-01f
#define CANON_TAIL_3 1.918161021e-01f
#define CANON_TAIL_4 -4.505932841e-02f
#define CANON_TAIL_5 1.254346084e-01f
#define CANON_TAIL_6 1.005906324e-01f
#define CANON_TAIL_7 1.206736916e-01f
#define CANON_TAIL_8 1.196333018e-01f

#define CANON_GELU_LINEAR -1.5957691216057308f // -2 sqrt(2 / pi)
#define CANON_GELU_CUBIC -0.07135481627260025f // the same times 0.044715

// pi / 2 in two doubles, and the polynomials of sine and cosine on [-pi / 4, pi / 4].
#define CANON_2_OVER_PI 0.6366197723675814
#define CANON_PI_2_HIGH 1.5707963267948966
#define CANON_PI_2_LOW 6.123233995736766e-17
#define CANON_SIN_0 -2.480070624050586e-08
#define CANON_SIN_1 2.7555937170259983e-06
#define CANON_SIN_2 -0.00019841266737518747
#define CANON_SIN_3 0.008333333330892811
#define CANON_SIN_4 -0.16666666666663596
#define CANON_COS_0 2.0697074803485915e-09
#define CANON_COS_1 -2.755633125022941e-07
#define CANON_COS_2 2.4801585082648883e-05
#define CANON_COS_3 -0.001388888888714404
#define CANON_COS_4 0.04166666666666447

// ---- functions ---------------------------------------------------------------------------------

// Relative error below 5e-7.
CANON_INLINE float canon_tanh(float x)
{
    float z = x * x;
    float p = CANON_TANH_0;
    p = fmaf(p, z, CANON_TANH_1);
    p = fmaf(p, z, CANON_TANH_2);
    p = fmaf(p, z, CANON_TANH_3);
    p = fmaf(p, z, CANON_TANH_4);
    float small = fmaf(x * z, p, x);
    float a = fabsf(x);
    float large = 1.0f - 2.0f / (canon_exp(a + a) + 1.0f);
    return a < CANON_TANH_SMALL ? small : copysignf(large, x);
}

// cap * tanh(x / cap); x where cap is 0.
CANON_INLINE float canon_softcap(float x, float cap)
{
    return cap > 0.0f ? cap * canon_tanh(x / cap) : x;
}

CANON_INLINE float canon_silu(float x)
{
    return x / (1.0f + canon_exp(-x));
}

// x * Phi(x). Relative error below 1e-6 for x > -4, growing slowly in the far negative tail.
CANON_INLINE float canon_gelu_erf(float x)
{
    float a = fabsf(x);
    float t = 1.0f / fmaf(CANON_TAIL_T, a, 1.0f);
    float p = CANON_TAIL_0;
    p = fmaf(p, t, CANON_TAIL_1);
    p = fmaf(p, t, CANON_TAIL_2);
    p = fmaf(p, t, CANON_TAIL_3);
    p = fmaf(p, t, CANON_TAIL_4);
    p = fmaf(p, t, CANON_TAIL_5);
    p = fmaf(p, t, CANON_TAIL_6);
    p = fmaf(p, t, CANON_TAIL_7);
    p = fmaf(p, t, CANON_TAIL_8);
    float tail = canon_exp(x * x * -0.5f) * (p * t);
    float y = x * tail;
    return x < 0.0f ? y : x - y;
}

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)) with u = sqrt(2 / pi) (x + 0.044715 x^3).
CANON_INLINE float canon_gelu_tanh(float x)
{
    float u = x * fmaf(x * x, CANON_GELU_CUBIC, CANON_GELU_LINEAR);
    return x / (1.0f + canon_exp(u));
}

CANON_INLINE float canon_relu(float x)
{
    return x < 0.0f ? 0.0f : x;
}

// The activation `kind`; x for a kind that there is not.
CANON_INLINE float canon_act(enum act_kind kind, float x)
{
    switch (kind) {
    case ACT_SILU:
        return canon_silu(x);
    case ACT_GELU_ERF:
        return canon_gelu_erf(x);
    case ACT_GELU_TANH:
        return canon_gelu_tanh(x);
    case ACT_RELU:
        return canon_relu(x);
    case ACT_RELU2:
        return canon_relu(x) * canon_relu(x);
    case ACT_COUNT:
        break;
    }
    return x;
}

// Sine and cosine of a float, computed in double and rounded once: within 0.51 units in the last
// place for |x| < 2^30. Ours rather than the C library's, so that the bits are the same everywhere.
CANON_INLINE void canon_sincos(float x, float *sine, float *cosine)
{
    double n = rint((double)x * CANON_2_OVER_PI);
    double r = fma(-n, CANON_PI_2_HIGH, (double)x);
    r = fma(-n, CANON_PI_2_LOW, r);
    double z = r * r;
    double p = CANON_SIN_0;
    p = fma(p, z, CANON_SIN_1);
    p = fma(p, z, CANON_SIN_2);
    p = fma(p, z, CANON_SIN_3);
    p = fma(p, z, CANON_SIN_4);
    double q = CANON_COS_0;
    q = fma(q, z, CANON_COS_1);
    q = fma(q, z, CANON_COS_2);
    q = fma(q, z, CANON_COS_3);
    q = fma(q, z, CANON_COS_4);
    float s = (float)fma(r * z, p, r);
    float c = (float)fma(z * z, q, fma(z, -0.5, 1.0));
    int32_t quadrant = (int32_t)n;
    float a = quadrant & 1 ? c : s, b = quadrant & 1 ? s : c;
    *sine = quadrant & 2 ? -a : a;
    *cosine = (quadrant + 1) & 2 ? -b : b;
}

#endif
