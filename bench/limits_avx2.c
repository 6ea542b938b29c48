// SPDX-License-Identifier: Apache-2.0
#include "bench/limits.h"

#include <immintrin.h>

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

static inline __attribute__((always_inline)) uint64_t read_streams(
    const uint8_t *p, size_t n, const int streams)
{
    __m256i a[8] = {0};
    size_t part = n / (size_t)streams;
    for (size_t i = 0; i < part; i += 64)
        for (int s = 0; s < streams; s++) {
            const uint8_t *q = p + (size_t)s * part + i;
            a[s] = _mm256_xor_si256(a[s], _mm256_load_si256((const __m256i *)q));
            a[s] = _mm256_xor_si256(a[s], _mm256_load_si256((const __m256i *)(q + 32)));
        }
    uint64_t r = 0;
    for (int s = 0; s < streams; s++)
        r ^= (uint64_t)_mm256_extract_epi64(a[s], 0) ^ (uint64_t)_mm256_extract_epi64(a[s], 3);
    return r;
}

static uint64_t read_bytes(const void *p, size_t n, int streams)
{
    switch (streams) {
    case 1:
        return read_streams(p, n, 1);
    case 2:
        return read_streams(p, n, 2);
    case 4:
        return read_streams(p, n, 4);
    default:
        return read_streams(p, n, 8);
    }
}

// The empty asm statements keep a chain's value unknown to the compiler, which would otherwise see
// that all chains are equal and compute one.
static double fma_chains(uint64_t rounds)
{
    __m256 a[12], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
    UNROLL
    for (int c = 0; c < 12; c++) {
        a[c] = _mm256_setzero_ps();
        __asm__ volatile("" : "+x"(a[c]));
    }
    for (uint64_t i = 0; i < rounds; i++) {
        UNROLL
        for (int c = 0; c < 12; c++)
            a[c] = _mm256_fmadd_ps(a[c], x, y);
    }
    UNROLL
    for (int c = 0; c < 12; c++)
        __asm__ volatile("" ::"x"(a[c]));
    return (double)rounds * 12 * 8 * 2;
}

// maddubs, madd, add: what a product of int8 costs where there is no dot instruction.
static double int8_chains(uint64_t rounds)
{
    __m256i a[8], u = _mm256_set1_epi8(3), w = _mm256_set1_epi8(2), one = _mm256_set1_epi16(1);
    UNROLL
    for (int c = 0; c < 8; c++) {
        a[c] = _mm256_setzero_si256();
        __asm__ volatile("" : "+x"(a[c]));
    }
    for (uint64_t i = 0; i < rounds; i++) {
        UNROLL
        for (int c = 0; c < 8; c++) {
            __asm__ volatile("" : "+x"(w));
            __m256i p = _mm256_madd_epi16(_mm256_maddubs_epi16(u, w), one);
            a[c] = _mm256_add_epi32(a[c], p);
        }
    }
    UNROLL
    for (int c = 0; c < 8; c++)
        __asm__ volatile("" ::"x"(a[c]));
    return (double)rounds * 8 * 32 * 2;
}

const struct limits_loops limits_avx2 = {read_bytes, fma_chains, int8_chains};
