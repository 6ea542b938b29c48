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
    __m512i a[8] = {0};
    size_t part = n / (size_t)streams;
    for (size_t i = 0; i < part; i += 64)
        for (int s = 0; s < streams; s++)
            a[s] = _mm512_xor_si512(a[s], _mm512_load_si512(p + (size_t)s * part + i));
    uint64_t r = 0;
    for (int s = 0; s < streams; s++)
        r ^= (uint64_t)_mm512_reduce_add_epi64(a[s]);
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
    __m512 a[12], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
    UNROLL
    for (int c = 0; c < 12; c++) {
        a[c] = _mm512_setzero_ps();
        __asm__ volatile("" : "+v"(a[c]));
    }
    for (uint64_t i = 0; i < rounds; i++) {
        UNROLL
        for (int c = 0; c < 12; c++)
            a[c] = _mm512_fmadd_ps(a[c], x, y);
    }
    UNROLL
    for (int c = 0; c < 12; c++)
        __asm__ volatile("" ::"v"(a[c]));
    return (double)rounds * 12 * 16 * 2;
}

static double int8_madd(uint64_t rounds)
{
    __m512i a[8], u = _mm512_set1_epi8(3), w = _mm512_set1_epi8(2), one = _mm512_set1_epi16(1);
    UNROLL
    for (int c = 0; c < 8; c++) {
        a[c] = _mm512_setzero_si512();
        __asm__ volatile("" : "+v"(a[c]));
    }
    for (uint64_t i = 0; i < rounds; i++) {
        UNROLL
        for (int c = 0; c < 8; c++) {
            __asm__ volatile("" : "+v"(w));
            __m512i p = _mm512_madd_epi16(_mm512_maddubs_epi16(u, w), one);
            a[c] = _mm512_add_epi32(a[c], p);
        }
    }
    UNROLL
    for (int c = 0; c < 8; c++)
        __asm__ volatile("" ::"v"(a[c]));
    return (double)rounds * 8 * 64 * 2;
}

__attribute__((target("avx512vnni"))) static double int8_vnni(uint64_t rounds)
{
    __m512i a[12], u = _mm512_set1_epi8(3), w = _mm512_set1_epi8(2);
    UNROLL
    for (int c = 0; c < 12; c++) {
        a[c] = _mm512_setzero_si512();
        __asm__ volatile("" : "+v"(a[c]));
    }
    for (uint64_t i = 0; i < rounds; i++) {
        __asm__ volatile("" : "+v"(w));
        UNROLL
        for (int c = 0; c < 12; c++)
            a[c] = _mm512_dpbusd_epi32(a[c], u, w);
    }
    UNROLL
    for (int c = 0; c < 12; c++)
        __asm__ volatile("" ::"v"(a[c]));
    return (double)rounds * 12 * 64 * 2;
}

static double int8_chains(uint64_t rounds)
{
    return __builtin_cpu_supports("avx512vnni") ? int8_vnni(rounds) : int8_madd(rounds);
}

const struct limits_loops limits_avx512 = {read_bytes, fma_chains, int8_chains};
