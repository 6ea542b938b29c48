// SPDX-License-Identifier: Apache-2.0
#include "model/random_weights.h"

#include "base/check.h"
#include "base/draw.h"
#include "base/hash.h"

// No element is a NaN or large, so that this is the whole of rounding to bf16.
static inline uint16_t to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

uint64_t random_weights_key(uint64_t seed, const char *name)
{
    return hash_64((struct hash_key){seed, 0}, name, strlen(name));
}

void random_weights_fill(const struct random_weights_args *a)
{
    uint64_t key = random_weights_key(a->seed, a->name);
    uint32_t n = a->n_columns, first = a->column_begin;
    float center = a->center, step = a->spread * 0x1p-31f;
    for (uint32_t r = 0; r < a->n_rows; r++) {
        uint64_t row = draw_row(key, a->row_begin + r);
        uint64_t at = (uint64_t)r * n;
        if (a->dtype == DTYPE_F32) {
            float *to = (float *)a->out + at;
            for (uint32_t c = 0; c < n; c++)
                to[c] = draw_element(row, first + c, center, step);
        } else if (a->dtype == DTYPE_BF16) {
            uint16_t *to = (uint16_t *)a->out + at;
            for (uint32_t c = 0; c < n; c++)
                to[c] = to_bf16(draw_element(row, first + c, center, step));
        } else {
            uint16_t *to = (uint16_t *)a->out + at;
            check(a->dtype == DTYPE_F16);
            for (uint32_t c = 0; c < n; c++)
                to[c] = dtype_f16_from_f32(draw_element(row, first + c, center, step));
        }
    }
}
