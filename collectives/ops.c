// SPDX-License-Identifier: Apache-2.0
// The operations as callers see them: arguments are checked here, once for all back ends.
#include "collectives/group.h"

#include <string.h>

static enum status check_elements(struct coll_group *g, const char *what, size_t count,
    enum dtype dtype, enum coll_op op, size_t *bytes)
{
    if (reduce_find(g->reduce, (uint32_t)op, dtype) == NULL)
        return group_refuse(g, STATUS_UNSUPPORTED,
            "%s of %s by operation %d is not offered; f32, f16 and bf16, sum and max are", what,
            dtype_name(dtype), (int)op);
    if (__builtin_mul_overflow(count, (size_t)dtype_bytes(dtype), bytes))
        return group_refuse(g, STATUS_TOO_LARGE, "%s of %zu elements", what, count);
    return STATUS_OK;
}

// A buffer that is there, and no longer than memory can be.
static enum status check_memory(struct coll_group *g, const char *what, const void *p, size_t bytes)
{
    if (bytes > PTRDIFF_MAX)
        return group_refuse(g, STATUS_TOO_LARGE, "%s of %zu bytes", what, bytes);
    if (bytes > 0 && p == NULL)
        return group_refuse(g, STATUS_INVALID, "%s: NULL in place of %zu bytes", what, bytes);
    return STATUS_OK;
}

static enum status check_symmetric(
    struct coll_group *g, const char *what, const void *p, size_t bytes, bool symmetric)
{
    if (symmetric && !coll_heap_holds(g, p, bytes))
        return group_refuse(g, STATUS_INVALID,
            "%s: the buffer of %zu bytes was called symmetric but is not in the heap", what, bytes);
    return STATUS_OK;
}

// Where in the heap, in common to all ranks; 0 for a private buffer.
static uint64_t place_of(const struct coll_group *g, const void *p, bool symmetric)
{
    return symmetric ? (uint64_t)((const uint8_t *)p - g->heap) + 1 : 0;
}

enum status coll_all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a)
{
    size_t bytes = 0;
    TRY(check_elements(g, "all_reduce", a->count, a->dtype, a->op, &bytes));
    TRY(check_memory(g, "all_reduce", a->buffer, bytes));
    TRY(check_symmetric(g, "all_reduce", a->buffer, bytes, a->symmetric));
    enum status s = group_begin(g, GROUP_ALL_REDUCE, a->count, (uint64_t)a->dtype, (uint64_t)a->op,
        place_of(g, a->buffer, a->symmetric));
    if (s == STATUS_OK && g->size > 1)
        s = g->backend->all_reduce(g, a);
    return group_end(g, s);
}

static enum status check_norm(struct coll_group *g, const struct coll_all_reduce_norm_args *a)
{
    size_t count, bytes = 0, residual;
    if (__builtin_mul_overflow(a->n_rows, a->dim, &count) ||
        __builtin_mul_overflow(count, sizeof(float), &residual))
        return group_refuse(
            g, STATUS_TOO_LARGE, "all_reduce_norm of %zu rows of %zu", a->n_rows, a->dim);
    TRY(check_elements(g, "all_reduce_norm", count, a->dtype, COLL_SUM, &bytes));
    TRY(check_memory(g, "all_reduce_norm", a->x, bytes));
    TRY(check_memory(g, "all_reduce_norm's residual", a->residual, residual));
    TRY(check_memory(g, "all_reduce_norm's result", a->out, bytes));
    TRY(check_symmetric(g, "all_reduce_norm", a->x, bytes, a->symmetric));
    if (a->weight != NULL && reduce_find(g->reduce, (uint32_t)COLL_SUM, a->weight_dtype) == NULL)
        return group_refuse(g, STATUS_UNSUPPORTED,
            "all_reduce_norm with weights of %s is not offered; f32, f16 and bf16 are",
            dtype_name(a->weight_dtype));
    return STATUS_OK;
}

static uint64_t bits_of(float a, float b)
{
    uint32_t x[2];
    memcpy(&x[0], &a, sizeof a);
    memcpy(&x[1], &b, sizeof b);
    return (uint64_t)x[0] << 32 | x[1];
}

// What a norm does beside the sum has to be the same on all ranks as well.
static uint64_t kind_of(const struct coll_all_reduce_norm_args *a)
{
    uint64_t kinds = (uint64_t)(a->bias != NULL) | (uint64_t)(a->weight != NULL) << 1 |
                     (a->weight != NULL ? (uint64_t)a->weight_dtype << 2 : 0);
    return kinds << 48 ^ bits_of(a->eps, a->residual_scale) ^
           bits_of(0, a->weight_offset) * 0x9e3779b97f4a7c15u;
}

enum status coll_all_reduce_norm(struct coll_group *g, const struct coll_all_reduce_norm_args *a)
{
    TRY(check_norm(g, a));
    enum status s = group_begin(g, GROUP_ALL_REDUCE_NORM, a->n_rows, a->dim, (uint64_t)a->dtype,
        place_of(g, a->x, a->symmetric) ^ kind_of(a));
    if (s == STATUS_OK)
        s = g->backend->all_reduce_norm(g, a);
    return group_end(g, s);
}

enum status coll_reduce_scatter(struct coll_group *g, const void *in, void *out, size_t count,
    enum dtype dtype, enum coll_op op, void *stream)
{
    size_t bytes = 0, begin, own;
    TRY(check_elements(g, "reduce_scatter", count, dtype, op, &bytes));
    coll_slice(count, g->size, g->rank, &begin, &own);
    TRY(check_memory(g, "reduce_scatter", in, bytes));
    TRY(check_memory(g, "reduce_scatter's result", out, own * dtype_bytes(dtype)));
    enum status s = group_begin(g, GROUP_REDUCE_SCATTER, count, (uint64_t)dtype, (uint64_t)op, 0);
    if (s == STATUS_OK)
        s = g->backend->reduce_scatter(
            g, &(struct coll_reduce_scatter_args){in, out, count, dtype, op, stream});
    return group_end(g, s);
}

enum status coll_all_gather(
    struct coll_group *g, const void *in, void *out, size_t bytes, void *stream)
{
    size_t all;
    if (__builtin_mul_overflow(bytes, (size_t)g->size, &all))
        return group_refuse(g, STATUS_TOO_LARGE, "all_gather of %zu bytes", bytes);
    TRY(check_memory(g, "all_gather", in, bytes));
    TRY(check_memory(g, "all_gather's result", out, all));
    enum status s = group_begin(g, GROUP_ALL_GATHER, bytes, 0, 0, 0);
    if (s == STATUS_OK)
        s = g->backend->all_gather(g, &(struct coll_all_gather_args){in, out, bytes, stream});
    return group_end(g, s);
}

enum status coll_broadcast(
    struct coll_group *g, void *buffer, size_t bytes, uint32_t root, void *stream)
{
    if (root >= g->size)
        return group_refuse(g, STATUS_INVALID, "broadcast from rank %u in a group of %u",
            (unsigned)root, (unsigned)g->size);
    TRY(check_memory(g, "broadcast", buffer, bytes));
    enum status s = group_begin(g, GROUP_BROADCAST, bytes, root, 0, 0);
    if (s == STATUS_OK && g->size > 1)
        s = g->backend->broadcast(g, &(struct coll_broadcast_args){buffer, bytes, root, stream});
    return group_end(g, s);
}

enum status coll_barrier(struct coll_group *g, void *stream)
{
    enum status s = group_begin(g, GROUP_BARRIER, 0, 0, 0, 0);
    if (s == STATUS_OK && g->size > 1)
        s = g->backend->barrier(g, stream);
    return group_end(g, s);
}

// Sizes that are known on the host fit their slots.
static enum status check_blocks(struct coll_group *g, const struct coll_exchange_args *a)
{
    if (a->peers != 0 && (a->send_bytes == NULL || a->receive_bytes == NULL))
        return group_refuse(g, STATUS_INVALID, "exchange: no arrays for sizes");
    for (uint32_t q = 0; q < g->size; q++) {
        if ((a->peers >> q & 1) == 0)
            continue;
        size_t expected = a->counts == COLL_COUNTS_FIXED ? a->receive_bytes[q] : 0;
        TRY(check_memory(g, "exchange: a block", a->send[q], a->send_bytes[q]));
        if (a->send_bytes[q] > a->slot_bytes || expected > a->slot_bytes)
            return group_refuse(g, STATUS_TOO_LARGE,
                "exchange: a block with rank %u is larger than the slot of %zu bytes", (unsigned)q,
                a->slot_bytes);
    }
    return STATUS_OK;
}

static enum status check_exchange(struct coll_group *g, const struct coll_exchange_args *a)
{
    size_t all;
    if (a->counts != COLL_COUNTS_FIXED && a->counts != COLL_COUNTS_BOUNDED &&
        a->counts != COLL_COUNTS_DEVICE)
        return group_refuse(g, STATUS_INVALID, "exchange: unknown kind of counts");
    if (g->size < COLL_RANKS_MAX && a->peers >> g->size != 0)
        return group_refuse(g, STATUS_INVALID,
            "exchange: peers 0x%llx name ranks beyond the group of %u",
            (unsigned long long)a->peers, (unsigned)g->size);
    if (__builtin_mul_overflow(a->slot_bytes, (size_t)g->size, &all) ||
        !coll_heap_holds(g, a->receive, all))
        return group_refuse(g, STATUS_INVALID,
            "exchange: %u slots of %zu bytes to receive into do not lie in the heap",
            (unsigned)g->size, a->slot_bytes);
    if (a->peers != 0 && a->send == NULL)
        return group_refuse(g, STATUS_INVALID, "exchange: no array of blocks to send");
    if (a->counts != COLL_COUNTS_DEVICE)
        return check_blocks(g, a);
    if (a->device_send_bytes == NULL || a->device_receive_bytes == NULL)
        return group_refuse(g, STATUS_INVALID, "exchange: no arrays for counts on the device");
    return STATUS_OK;
}

enum status coll_exchange(struct coll_group *g, const struct coll_exchange_args *a)
{
    TRY(check_exchange(g, a));
    enum status s = group_begin(
        g, GROUP_EXCHANGE, (uint64_t)a->counts, a->slot_bytes, place_of(g, a->receive, true), 0);
    if (s == STATUS_OK)
        s = g->backend->exchange(g, a);
    return group_end(g, s);
}
