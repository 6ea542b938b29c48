// SPDX-License-Identifier: Apache-2.0
// Weights on the device: packed rows, copied from the mapped file through pinned memory.
#include "kernels/cuda/device.cuh"

#include <stdlib.h>
#include <string.h>

namespace
{

bool dense(const struct weight_source *s)
{
    return s->format == WEIGHT_DENSE &&
           (s->dtype == DTYPE_F32 || s->dtype == DTYPE_F16 || s->dtype == DTYPE_BF16);
}

// Elements between rows: they begin at multiples of 16 bytes. A single row is as it is.
uint32_t stride_of(const struct weight_source *s)
{
    uint32_t each = 16 / dtype_bytes(s->dtype);
    return (s->k + each - 1) / each * each;
}

enum status check_source(const struct weight_source *s, struct error *err)
{
    if (!dense(s))
        return status_fail(err, STATUS_UNSUPPORTED,
            "a weight of format %d and type %s is not supported on devices; expected a dense one "
            "of f32, f16 or bf16",
            (int)s->format, dtype_name(s->dtype));
    uint64_t rows = 0;
    bool fine = s->n >= 1 && s->k >= 1 && s->k <= 1u << 30 && s->n_parts >= 1 &&
                s->n_parts <= KERNELS_WEIGHT_PARTS_MAX;
    for (uint32_t i = 0; fine && i < s->n_parts; i++) {
        fine = s->part[i].data != NULL &&
               s->part[i].row_stride_bytes >= (uint64_t)s->k * dtype_bytes(s->dtype);
        rows += s->part[i].n_rows;
    }
    if (!fine || rows != s->n)
        return status_fail(err, STATUS_INVALID,
            "a weight of %u rows, %u columns and %u parts that have %llu rows of their own: the "
            "parts must cover it",
            s->n, s->k, s->n_parts, (unsigned long long)rows);
    return STATUS_OK;
}

// Rows of one part, some at a time, packed on the way.
void send_part(
    struct device *d, const struct weight *w, const struct weight_part *part, uint8_t *to)
{
    size_t element = dtype_bytes(w->dtype), row = w->k * element, packed = w->stride * element;
    size_t at_once = d->chunk[0].bytes / packed;
    if (at_once == 0) { // a row is larger than a chunk
        for (uint32_t i = 0; i < part->n_rows; i++)
            cuda_copy_in(
                d, to + i * packed, (const uint8_t *)part->data + i * part->row_stride_bytes, row);
        return;
    }
    for (uint32_t i = 0; i < part->n_rows && d->failed == STATUS_OK; i += (uint32_t)at_once) {
        size_t n = part->n_rows - i < at_once ? part->n_rows - i : at_once;
        struct device_staging *s = &d->chunk[d->chunk_turn++ % DEVICE_STAGINGS];
        const uint8_t *from = (const uint8_t *)part->data + i * part->row_stride_bytes;
        device_staging_wait(d, s);
        if (part->row_stride_bytes == packed && row == packed)
            memcpy(s->host, from, n * packed);
        else
            for (size_t k = 0; k < n; k++) {
                memcpy(s->host + k * packed, from + k * part->row_stride_bytes, row);
                memset(s->host + k * packed + row, 0, packed - row);
            }
        device_staging_send(d, s, to + i * packed, n * packed);
    }
}

} // namespace

uint64_t cuda_weight_bytes(const struct weight_source *s)
{
    return dense(s) ? (uint64_t)s->n * stride_of(s) * dtype_bytes(s->dtype) : 0;
}

enum status cuda_weight_make(
    struct device *d, const struct weight_source *source, struct weight **out, struct error *err)
{
    TRY(check_source(source, err));
    struct weight *w = (struct weight *)calloc(1, sizeof *w);
    if (w == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for the handle of a weight");
    w->dtype = source->dtype;
    w->n = source->n;
    w->k = source->k;
    w->stride = stride_of(source);
    w->bytes = cuda_weight_bytes(source);
    w->data = cuda_mem_take(d, w->bytes);
    if (w->data == NULL) {
        free(w);
        return status_fail(err, STATUS_NO_MEMORY,
            "no device memory for a weight of %u x %u (%llu bytes)", source->n, source->k,
            (unsigned long long)cuda_weight_bytes(source));
    }
    uint8_t *to = (uint8_t *)w->data;
    for (uint32_t i = 0; i < source->n_parts; i++) {
        send_part(d, w, &source->part[i], to);
        to += (size_t)source->part[i].n_rows * w->stride * dtype_bytes(w->dtype);
    }
    if (d->failed != STATUS_OK) {
        cuda_weight_free(d, w);
        return status_fail(err, d->failed, "%s", d->error.text);
    }
    *out = w;
    return STATUS_OK;
}

void cuda_weight_free(struct device *d, struct weight *w)
{
    if (w == NULL)
        return;
    cuda_mem_give(d, w->data, w->bytes);
    free(w);
}

const void *cuda_weight_data(const struct weight *w, enum dtype *dtype)
{
    if (w->n != 1)
        return NULL;
    *dtype = w->dtype;
    return w->data;
}
