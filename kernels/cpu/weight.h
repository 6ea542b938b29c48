// SPDX-License-Identifier: Apache-2.0
// Dense weights on the CPU: rows of f32, f16 or bf16 used where they lie in the mapped file.
// Rows have any stride and any alignment: read them with memcpy or unaligned loads only.
#ifndef PHALANX_KERNELS_CPU_WEIGHT_H
#define PHALANX_KERNELS_CPU_WEIGHT_H

#include "kernels/kernels.h"

struct weight {
    enum dtype dtype; // DTYPE_F32, DTYPE_F16 or DTYPE_BF16
    uint32_t n, k;    // rows in all, elements of a row
    uint32_t n_parts;
    struct weight_part part[KERNELS_WEIGHT_PARTS_MAX];
};

// Address of row n, n < w->n.
static inline const void *weight_row(const struct weight *w, uint32_t n)
{
    uint32_t p = 0;
    while (n >= w->part[p].n_rows) // the sum of n_rows is w->n, so this ends
        n -= w->part[p++].n_rows;
    return (const char *)w->part[p].data + n * w->part[p].row_stride_bytes;
}

// Element k of a row that weight_row() returned.
static inline float weight_load(const void *row, enum dtype t, uint32_t k)
{
    if (t == DTYPE_F32) {
        float f;
        memcpy(&f, (const char *)row + 4 * (uint64_t)k, 4);
        return f;
    }
    uint16_t h;
    memcpy(&h, (const char *)row + 2 * (uint64_t)k, 2);
    return t == DTYPE_BF16 ? dtype_f32_from_bf16(h) : dtype_f32_from_f16(h);
}

static inline float weight_at(const struct weight *w, uint32_t n, uint32_t k)
{
    return weight_load(weight_row(w, n), w->dtype, k);
}

// The entries of kernels_cpu(); see kernels.h.
enum status weight_make(
    struct device *d, const struct weight_source *source, struct weight **out, struct error *err);
void weight_free(struct device *d, struct weight *w);
uint64_t weight_bytes(const struct weight_source *source);
const void *weight_data(const struct weight *w, enum dtype *dtype);

#endif
