// SPDX-License-Identifier: Apache-2.0
#include "model/random_weights.h"

#include "base/check.h"
#include "base/hash.h"

// SplitMix64's finisher (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
// 2014): one well-mixed word per row.
static uint64_t mix64(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// One element: a 32-bit mixer of its column, keyed by its row. Plain 32-bit steps, so that the
// compiler makes vectors of them.
static inline float element(uint32_t column, uint32_t a, uint32_t b, float center, float step)
{
    uint32_t x = column * 0x9e3779b1u + a;
    x = (x ^ x >> 16) * 0x21f0aaadu;
    x = ((x ^ x >> 15) + b) * 0x735a2d97u;
    x ^= x >> 15;
    return center + (float)(int32_t)x * step;
}

// No element is a NaN or large, so that this is the whole of rounding to bf16.
static inline uint16_t to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

void random_weights_fill(const struct random_weights_args *a)
{
    uint64_t key = hash_64((struct hash_key){a->seed, 0}, a->name, strlen(a->name));
    uint32_t n = a->n_columns, first = a->column_begin;
    float center = a->center, step = a->spread * 0x1p-31f;
    for (uint32_t r = 0; r < a->n_rows; r++) {
        uint64_t row_key = mix64(key + (uint64_t)(a->row_begin + r) * 0x9e3779b97f4a7c15u);
        uint32_t k0 = (uint32_t)row_key, k1 = (uint32_t)(row_key >> 32);
        uint64_t at = (uint64_t)r * n;
        if (a->dtype == DTYPE_F32) {
            float *to = (float *)a->out + at;
            for (uint32_t c = 0; c < n; c++)
                to[c] = element(first + c, k0, k1, center, step);
        } else if (a->dtype == DTYPE_BF16) {
            uint16_t *to = (uint16_t *)a->out + at;
            for (uint32_t c = 0; c < n; c++)
                to[c] = to_bf16(element(first + c, k0, k1, center, step));
        } else {
            uint16_t *to = (uint16_t *)a->out + at;
            check(a->dtype == DTYPE_F16);
            for (uint32_t c = 0; c < n; c++)
                to[c] = dtype_f16_from_f32(element(first + c, k0, k1, center, step));
        }
    }
}
