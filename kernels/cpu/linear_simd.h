// SPDX-License-Identifier: Apache-2.0
// What the AVX2 and the AVX-512 loops of linear share. Include only from files compiled with
// AVX2, FMA and F16C.
#ifndef PHALANX_KERNELS_CPU_LINEAR_SIMD_H
#define PHALANX_KERNELS_CPU_LINEAR_SIMD_H

#include "kernels/cpu/linear_internal.h"

#include <immintrin.h>

#if defined(__clang__)
#define LINEAR_UNROLL _Pragma("unroll")
#else
#define LINEAR_UNROLL _Pragma("GCC unroll 32")
#endif
#define LINEAR_INLINE static inline __attribute__((always_inline))

// The last 3 levels of the tree for four outputs: each of a..d holds lanes i + (i + 8) of one.
LINEAR_INLINE __m128 linear_tree8x4(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 ab =
        _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    __m256 cd =
        _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    __m256 q = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    __m256 s = _mm256_add_ps(_mm256_shuffle_ps(q, q, 0x88), _mm256_shuffle_ps(q, q, 0xdd));
    return _mm_unpacklo_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

// The k % 16 last elements of a row, as 16 elements of its type padded with -0.
LINEAR_INLINE void linear_tail(uint8_t to[64], const void *row, uint32_t k, enum dtype t)
{
    static const uint32_t minus0_f32 = 0x80000000u;
    static const uint16_t minus0_16 = 0x8000u;
    uint32_t bytes = dtype_bytes(t), rest = k % 16;
    for (uint32_t i = rest; i < 16; i++)
        memcpy(to + i * bytes, t == DTYPE_F32 ? (const void *)&minus0_f32 : &minus0_16, bytes);
    memcpy(to, (const char *)row + (uint64_t)(k - rest) * bytes, (size_t)rest * bytes);
}

#endif
