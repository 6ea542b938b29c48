// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/weight.h"

#include <stdlib.h>

static bool dense_dtype(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16;
}

static enum status check_parts(const struct weight_source *s, struct error *err)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < s->n_parts; i++) {
        const struct weight_part *p = &s->part[i];
        if (p->data == NULL || p->row_stride_bytes < (uint64_t)s->k * dtype_bytes(s->dtype))
            return status_fail(err, STATUS_INVALID,
                "part %u of a weight has rows %llu bytes apart; expected at least %llu", i,
                (unsigned long long)p->row_stride_bytes,
                (unsigned long long)s->k * dtype_bytes(s->dtype));
        rows += p->n_rows;
    }
    if (rows != s->n)
        return status_fail(err, STATUS_INVALID,
            "the parts of a weight have %llu rows in all; expected %u", (unsigned long long)rows,
            s->n);
    return STATUS_OK;
}

enum status weight_make(
    struct device *d, const struct weight_source *source, struct weight **out, struct error *err)
{
    (void)d;
    if (source->format != WEIGHT_DENSE)
        return status_fail(err, STATUS_UNSUPPORTED,
            "weight format %d is not supported on the CPU; expected a dense weight",
            (int)source->format);
    if (!dense_dtype(source->dtype))
        return status_fail(err, STATUS_UNSUPPORTED,
            "a dense weight of type %s is not supported; expected f32, f16 or bf16",
            dtype_name(source->dtype));
    if (source->n < 1 || source->k < 1 || source->n_parts < 1 ||
        source->n_parts > KERNELS_WEIGHT_PARTS_MAX)
        return status_fail(err, STATUS_INVALID,
            "a weight of %u rows, %u columns and %u parts; expected at least 1 of each and at most "
            "%d parts",
            source->n, source->k, source->n_parts, KERNELS_WEIGHT_PARTS_MAX);
    TRY(check_parts(source, err));
    struct weight *w = malloc(sizeof *w);
    if (w == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for the handle of a weight");
    *w = (struct weight){
        .dtype = source->dtype, .n = source->n, .k = source->k, .n_parts = source->n_parts};
    memcpy(w->part, source->part, sizeof w->part);
    *out = w;
    return STATUS_OK;
}

void weight_free(struct device *d, struct weight *w)
{
    (void)d;
    free(w);
}

uint64_t weight_bytes(const struct weight_source *source)
{
    (void)source;
    return 0;
}

const void *weight_data(const struct weight *w, enum dtype *dtype)
{
    if (w->n != 1)
        return NULL;
    *dtype = w->dtype;
    return weight_row(w, 0);
}
