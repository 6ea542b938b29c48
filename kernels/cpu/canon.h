// SPDX-License-Identifier: Apache-2.0
// The canonical arithmetic of the CPU back end: what every version of an op must compute, bit for
// bit. Plain C here is the definition; SIMD versions are tested against it with ==.
//
//   dot(x, w, K)  sixteen float lanes; lane l takes k = l, l + 16, ...: acc[l] = fma(x, w, acc[l]),
//                 starting from +0; a last partial group uses only the lanes it has. Then
//                 tree16: 16 -> 8 -> 4 -> 2 -> 1 by adding lane i + half to lane i.
//   sum(x, K)     the same lanes and tree with plain additions.
//   max(x, K)     any order (the maximum of floats without NaN does not depend on it).
//   exp(x)        canon_exp below, the same operations in each lane.
//
// Nothing depends on the number of rows or threads: work is split between output elements only.
#ifndef PHALANX_KERNELS_CPU_CANON_H
#define PHALANX_KERNELS_CPU_CANON_H

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { CANON_LANES = 16 };

// The same source on devices (kernels/cuda): the same operations, and so the same bits.
#if defined(__CUDACC__)
#define CANON_INLINE static __device__ __forceinline__
#else
#define CANON_INLINE static inline
#endif

CANON_INLINE float canon_tree16(float a[CANON_LANES])
{
    for (int half = CANON_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a[i] = a[i] + a[i + half];
    return a[0];
}

CANON_INLINE float canon_dot(const float *x, const float *w, uint32_t k)
{
    float acc[CANON_LANES] = {0};
    for (uint32_t i = 0; i < k; i++)
        acc[i % CANON_LANES] = fmaf(x[i], w[i], acc[i % CANON_LANES]);
    return canon_tree16(acc);
}

CANON_INLINE float canon_sum(const float *x, uint32_t k)
{
    float acc[CANON_LANES] = {0};
    for (uint32_t i = 0; i < k; i++)
        acc[i % CANON_LANES] = acc[i % CANON_LANES] + x[i];
    return canon_tree16(acc);
}

// exp(x) for finite x: 2^n * p(r) with r = x - n ln 2 in two steps (Cody, Waite: "Software manual
// for the elementary functions", 1980) and a polynomial of degree 6; below -87.3 the result is 0,
// above 88.7 infinity. Within 2 units in the last place; exp(0) is exactly 1.
CANON_INLINE float canon_exp(float x)
{
    if (x < -87.33654f)
        return 0.0f;
    if (x > 88.72283f)
        return INFINITY;
    float n = rintf(x * 1.44269504088896341f);
    float r = fmaf(n, -0.693145751953125f, x);
    r = fmaf(n, -1.42860682030941723212e-6f, r);
    float p = 1.9841269841e-4f;
    p = fmaf(p, r, 1.3888888889e-3f);
    p = fmaf(p, r, 8.3333333333e-3f);
    p = fmaf(p, r, 4.1666666667e-2f);
    p = fmaf(p, r, 1.6666666667e-1f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p * r, r, r);
    p = p + 1.0f;
    // Two factors, so that n = 128 does not overflow the exponent field too early.
    int32_t half = (int32_t)n >> 1;
    uint32_t u1 = (uint32_t)(half + 127) << 23, u2 = (uint32_t)((int32_t)n - half + 127) << 23;
    float s1, s2;
    memcpy(&s1, &u1, 4);
    memcpy(&s2, &u2, 4);
    return p * s1 * s2;
}

#endif
