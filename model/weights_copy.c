// SPDX-License-Identifier: Apache-2.0
#include "model/weights_copy.h"

#include <math.h>
#include <string.h>

enum { STRIP = 32 }; // rows that share cache lines of a turned tensor

static void copy_rows(const struct weights_copy_source *t, struct shard_range rows,
    struct shard_range columns, uint8_t *out)
{
    uint64_t size = dtype_bytes(t->dtype), row = columns.count * size;
    for (uint32_t r = 0; r < rows.count; r++)
        memcpy(out + r * row,
            t->data + ((uint64_t)(rows.begin + r) * t->columns + columns.begin) * size, row);
}

static void copy_turned(const struct weights_copy_source *t, struct shard_range rows,
    struct shard_range columns, uint8_t *out)
{
    uint64_t size = dtype_bytes(t->dtype), row = columns.count * size;
    for (uint32_t first = 0; first < rows.count; first += STRIP) {
        uint32_t n = rows.count - first < STRIP ? rows.count - first : STRIP;
        for (uint32_t c = 0; c < columns.count; c++) {
            uint64_t at = (uint64_t)(columns.begin + c) * t->rows + rows.begin + first;
            for (uint32_t r = 0; r < n; r++)
                memcpy(out + (first + r) * row + c * size, t->data + (at + r) * size, size);
        }
    }
}

void weights_copy_block(const struct weights_copy_source *from, struct shard_range rows,
    struct shard_range columns, uint8_t *out)
{
    if (from->turned)
        copy_turned(from, rows, columns, out);
    else
        copy_rows(from, rows, columns, out);
}

static double element(const uint8_t *row, enum dtype t, uint32_t i)
{
    float f;
    uint16_t h;
    if (t == DTYPE_F32) {
        memcpy(&f, row + 4 * (uint64_t)i, 4);
        return (double)f;
    }
    memcpy(&h, row + 2 * (uint64_t)i, 2);
    return (double)(t == DTYPE_BF16 ? dtype_f32_from_bf16(h) : dtype_f32_from_f16(h));
}

static void set_element(uint8_t *row, enum dtype t, uint32_t i, float f)
{
    if (t == DTYPE_F32) {
        memcpy(row + 4 * (uint64_t)i, &f, 4);
        return;
    }
    uint16_t h = t == DTYPE_BF16 ? dtype_bf16_from_f32(f) : dtype_f16_from_f32(f);
    memcpy(row + 2 * (uint64_t)i, &h, 2);
}

void weights_copy_unit(enum dtype dtype, const uint8_t *row, uint32_t n, uint8_t *out)
{
    double square = 0;
    for (uint32_t i = 0; i < n; i++)
        square += element(row, dtype, i) * element(row, dtype, i);
    double length = fmax(sqrt(square), 1e-12);
    for (uint32_t i = 0; i < n; i++)
        set_element(out, dtype, i, (float)(element(row, dtype, i) / length));
}
