// SPDX-License-Identifier: Apache-2.0
// One register holds the sixteen lanes of a sum: 24 sums, four vectors of x and one of w.
#include "kernels/cpu/linear_simd.h"

enum { LANES = 16, NR = 6, NR1 = 2, MR = 4 };

struct vec {
    __m512 v;
};

LINEAR_INLINE struct vec load_w(const void *row, uint64_t k, const enum dtype t)
{
    if (t == DTYPE_F32)
        return (struct vec){_mm512_loadu_ps((const char *)row + 4 * k)};
    __m256i h = _mm256_loadu_si256((const __m256i *)((const char *)row + 2 * k));
    if (t == DTYPE_F16)
        return (struct vec){_mm512_cvtph_ps(h)};
    return (struct vec){_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}

LINEAR_INLINE struct vec vec_zero(void)
{
    return (struct vec){_mm512_setzero_ps()};
}

LINEAR_INLINE struct vec vec_load(const float *x)
{
    return (struct vec){_mm512_load_ps(x)};
}

// In assembly since compilers move sums to other registers and then run out of them.
LINEAR_INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(c.v) : "v"(a.v), "v"(b.v));
    return c;
}

LINEAR_INLINE __m256 fold(const struct vec part[1])
{
    return _mm256_add_ps(_mm512_castps512_ps256(part[0].v), _mm512_extractf32x8_ps(part[0].v, 1));
}

#include "kernels/cpu/linear_tile.inc"

const struct linear_isa linear_avx512 = {.prepare = prepare, .dot = dot};
