// SPDX-License-Identifier: Apache-2.0
// Two registers hold the sixteen lanes of a sum. With several rows of x a tile goes along K once
// for each of the two: twelve registers of sums, three vectors of w and one of x.
#include "kernels/cpu/linear_simd.h"

enum { LANES = 8, NR = 3, NR1 = 2, MR = 4 };

struct vec {
    __m256 v;
};

LINEAR_INLINE struct vec load_w(const void *row, uint64_t k, const enum dtype t)
{
    if (t == DTYPE_F32)
        return (struct vec){_mm256_loadu_ps((const float *)((const char *)row + 4 * k))};
    __m128i h = _mm_loadu_si128((const __m128i *)((const char *)row + 2 * k));
    if (t == DTYPE_F16)
        return (struct vec){_mm256_cvtph_ps(h)};
    return (struct vec){_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
}

LINEAR_INLINE struct vec vec_zero(void)
{
    return (struct vec){_mm256_setzero_ps()};
}

LINEAR_INLINE struct vec vec_load(const float *x)
{
    return (struct vec){_mm256_load_ps(x)};
}

// In assembly since compilers move sums to other registers and then run out of them.
LINEAR_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(c.v) : "x"(a.v), "x"(b.v));
    return c;
}

LINEAR_INLINE __m256 fold(const struct vec part[2])
{
    return _mm256_add_ps(part[0].v, part[1].v);
}

#include "kernels/cpu/linear_tile.inc"

const struct linear_isa linear_avx2 = {.prepare = prepare, .dot = dot};
