// SPDX-License-Identifier: Apache-2.0
#include "collectives/device_host.h"

#include "collectives/reduce.h"

#include <stdlib.h>
#include <string.h>

static enum status take(void *context, size_t bytes, void **out, struct error *err)
{
    (void)context;
    size_t rounded = (bytes + 127) / 128 * 128;
    void *p = aligned_alloc(128, rounded != 0 ? rounded : 128);
    if (p == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for %zu bytes", bytes);
    memset(p, 0, rounded);
    *out = p;
    return STATUS_OK;
}

static void give(void *context, void *p)
{
    (void)context;
    free(p);
}

static enum status copy(void *context, void *dst, const void *src, size_t bytes, void *stream)
{
    (void)context;
    (void)stream;
    if (bytes > 0)
        memmove(dst, src, bytes);
    return STATUS_OK;
}

static enum status reduce(void *context, void *const *dst, uint32_t n_dst, const void *const *src,
    uint32_t n_src, size_t count, enum dtype dtype, enum coll_op op, void *stream)
{
    (void)context;
    (void)stream;
    reduce_find(reduce_best(), (uint32_t)op, dtype)(dst, n_dst, src, n_src, count);
    return STATUS_OK;
}

static enum status norm(void *context, const struct coll_all_reduce_norm_args *a, void *stream)
{
    (void)context;
    (void)stream;
    reduce_norm_rows(reduce_best(), a, 0, a->n_rows);
    return STATUS_OK;
}

static enum status query(void *context, void *stream)
{
    (void)context;
    (void)stream;
    return STATUS_OK;
}

const struct coll_device device_host = {
    .arch = "host",
    .take = take,
    .give = give,
    .copy = copy,
    .reduce = reduce,
    .norm = norm,
    .query = query,
};
