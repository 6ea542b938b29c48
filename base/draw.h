// SPDX-License-Identifier: Apache-2.0
// The numbers of random weights: each is a function of its tensor's key, its row and its column, so
// that whoever makes a part of a tensor, a thread, a rank or a device, makes the same bits.
// Plain 32-bit steps, of which compilers make vectors; for C, C++ and device code.
#ifndef PHALANX_BASE_DRAW_H
#define PHALANX_BASE_DRAW_H

#include <stdint.h>

#if defined(__CUDACC__)
#define DRAW_INLINE static __device__ __forceinline__
#else
#define DRAW_INLINE static inline
#endif

// One well-mixed word for a row: SplitMix64's finisher (Steele, Lea, Flood: "Fast splittable
// pseudorandom number generators", 2014).
DRAW_INLINE uint64_t draw_row(uint64_t key, uint32_t row)
{
    uint64_t x = key + (uint64_t)row * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// One element: a 32-bit mixer of its column, keyed by its row. Elements lie evenly in
// [center - spread, center + spread) where `step` is spread * 2^-31.
DRAW_INLINE float draw_element(uint64_t row, uint32_t column, float center, float step)
{
    uint32_t x = column * 0x9e3779b1u + (uint32_t)row;
    x = (x ^ x >> 16) * 0x21f0aaadu;
    x = ((x ^ x >> 15) + (uint32_t)(row >> 32)) * 0x735a2d97u;
    x ^= x >> 15;
    return center + (float)(int32_t)x * step;
}

#endif
