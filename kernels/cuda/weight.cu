// SPDX-License-Identifier: Apache-2.0
// Weights on the device: packed rows, copied from the mapped file through pinned memory, or drawn
// where they lie.
#include "base/draw.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pack.cuh"

#include <stdlib.h>
#include <string.h>

namespace
{

bool dense(const struct weight_source *s)
{
    return s->format == WEIGHT_DENSE &&
           (s->dtype == DTYPE_F32 || s->dtype == DTYPE_F16 || s->dtype == DTYPE_BF16);
}

// Elements between rows: they begin at multiples of 16 bytes.
uint32_t stride_of(enum dtype dtype, uint32_t k)
{
    uint32_t each = 16 / dtype_bytes(dtype);
    return (k + each - 1) / each * each;
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

// A handle with memory of zeros.
enum status take_weight(struct device *d, enum dtype dtype, uint32_t n, uint32_t k,
    struct weight **out, struct error *err)
{
    struct weight *w = (struct weight *)calloc(1, sizeof *w);
    if (w == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for the handle of a weight");
    w->dtype = dtype;
    w->n = n;
    w->k = k;
    w->stride = stride_of(dtype, k);
    w->bytes = (uint64_t)n * w->stride * dtype_bytes(dtype);
    w->data = cuda_mem_take(d, w->bytes);
    if (w->data == NULL) {
        status_fail(err, STATUS_NO_MEMORY, "no device memory for a weight of %u x %u (%llu bytes)",
            n, k, (unsigned long long)w->bytes);
        free(w);
        return STATUS_NO_MEMORY;
    }
    *out = w;
    return STATUS_OK;
}

enum status keep_weight(struct device *d, struct weight *w, struct weight **out, struct error *err)
{
    if (d->failed != STATUS_OK) {
        cuda_weight_free(d, w);
        return status_fail(err, d->failed, "%s", d->error.text);
    }
    *out = w;
    return STATUS_OK;
}

// cudaMalloc cuts small pieces out of a block, and gives whole blocks otherwise.
constexpr uint64_t memory_unit = 512, memory_block = 2 << 20;

constexpr unsigned draw_threads = 256, draw_blocks_max = 8192;

// A block draws row after row; the columns behind K stay zeros.
template <class T>
__global__ void __launch_bounds__(draw_threads)
    draw_kernel(T *out, uint32_t k, uint32_t stride, weight_draw_part part)
{
    float step = part.spread * 0x1p-31f;
    for (uint32_t r = blockIdx.x; r < part.n_rows; r += gridDim.x) {
        uint64_t row = draw_row(part.key, part.row_begin + r);
        T *to = out + (uint64_t)r * stride;
        for (uint32_t c = threadIdx.x; c < k; c += draw_threads)
            to[c] = phx_round<T>(draw_element(row, part.column_begin + c, part.center, step));
    }
}

template <class T> void draw_all(struct device *d, struct weight *w, const weight_draw_args *a)
{
    T *to = static_cast<T *>(w->data);
    for (uint32_t i = 0; i < a->n_parts; i++) {
        const weight_draw_part &part = a->part[i];
        unsigned blocks = part.n_rows < draw_blocks_max ? part.n_rows : draw_blocks_max;
        if (blocks > 0)
            device_keep(d,
                phx_launch(device_launch(d, blocks, draw_threads), draw_kernel<T>, to, w->k,
                    w->stride, part),
                "drawing a weight");
        to += (size_t)part.n_rows * w->stride;
    }
}

} // namespace

uint64_t cuda_weight_bytes(const struct weight_source *s)
{
    uint64_t bytes = (uint64_t)s->n * stride_of(s->dtype, s->k) * dtype_bytes(s->dtype);
    uint64_t unit = bytes < memory_block / 2 ? memory_unit : memory_block;
    return dense(s) ? (bytes + unit - 1) / unit * unit : 0;
}

enum status cuda_weight_make(
    struct device *d, const struct weight_source *source, struct weight **out, struct error *err)
{
    struct weight *w;
    TRY(check_source(source, err));
    TRY(take_weight(d, source->dtype, source->n, source->k, &w, err));
    uint8_t *to = (uint8_t *)w->data;
    for (uint32_t i = 0; i < source->n_parts; i++) {
        send_part(d, w, &source->part[i], to);
        to += (size_t)source->part[i].n_rows * w->stride * dtype_bytes(w->dtype);
    }
    return keep_weight(d, w, out, err);
}

enum status cuda_weight_draw(
    struct device *d, const struct weight_draw_args *a, struct weight **out, struct error *err)
{
    struct weight *w;
    uint64_t rows = 0;
    for (uint32_t i = 0; i < a->n_parts; i++)
        rows += a->part[i].n_rows;
    check(a->n >= 1 && a->k >= 1 && rows == a->n);
    check(a->dtype == DTYPE_F32 || a->dtype == DTYPE_F16 || a->dtype == DTYPE_BF16);
    TRY(take_weight(d, a->dtype, a->n, a->k, &w, err));
    phx_dispatch(a->dtype, [&](auto type) { draw_all<decltype(type)>(d, w, a); });
    return keep_weight(d, w, out, err);
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
