// SPDX-License-Identifier: Apache-2.0
// Operations that mostly move bytes, staged through the slots in chunks, one step a chunk.
#include "collectives/group.h"

#include <string.h>

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static enum status meet(struct coll_group *g)
{
    group_signal(g);
    return group_wait_all(g);
}

enum status coll_barrier(struct coll_group *g, void *stream)
{
    (void)stream;
    enum status s = group_begin(g, GROUP_BARRIER, 0, 0, 0, 0);
    if (s == STATUS_OK)
        s = meet(g);
    return group_end(g, s);
}

static enum status gather_chunk(
    struct coll_group *g, const uint8_t *in, uint8_t *out, size_t stride, size_t bytes)
{
    uint8_t *slot;
    TRY(group_slot(g, &slot));
    g->reduce->copy(slot, in, bytes);
    group_signal(g);
    for (uint32_t d = 1; d < g->size; d++) {
        uint32_t peer = g->rank + d < g->size ? g->rank + d : g->rank + d - g->size;
        TRY(group_wait(g, peer, g->epoch));
        g->reduce->copy(out + peer * stride, group_peer_slot(g, peer), bytes);
    }
    group_slot_used(g);
    return STATUS_OK;
}

static enum status gather(struct coll_group *g, const uint8_t *in, uint8_t *out, size_t bytes)
{
    uint8_t *own = out + g->rank * bytes;
    if (own != in && bytes > 0)
        memcpy(own, in, bytes);
    if (g->size == 1)
        return STATUS_OK;
    if (bytes == 0)
        return meet(g);
    for (size_t at = 0; at < bytes; at += GROUP_SLOT_BYTES)
        TRY(gather_chunk(g, own + at, out + at, bytes, smaller(bytes - at, GROUP_SLOT_BYTES)));
    return STATUS_OK;
}

enum status coll_all_gather(
    struct coll_group *g, const void *in, void *out, size_t bytes, void *stream)
{
    (void)stream;
    enum status s = group_begin(g, GROUP_ALL_GATHER, bytes, 0, 0, 0);
    if (s == STATUS_OK)
        s = gather(g, in, out, bytes);
    return group_end(g, s);
}

// The root does not wait for readers here: it does when it needs the slot again.
static enum status broadcast_chunk(struct coll_group *g, uint8_t *at, size_t bytes, uint32_t root)
{
    if (g->rank == root) {
        uint8_t *slot;
        TRY(group_slot(g, &slot));
        g->reduce->copy(slot, at, bytes);
        group_signal(g);
    } else {
        group_signal(g);
        TRY(group_wait(g, root, g->epoch));
        g->reduce->copy(at, group_peer_slot(g, root), bytes);
    }
    group_slot_used(g);
    return STATUS_OK;
}

enum status coll_broadcast(
    struct coll_group *g, void *buffer, size_t bytes, uint32_t root, void *stream)
{
    (void)stream;
    if (root >= g->size)
        return group_refuse(g, STATUS_INVALID, "broadcast from rank %u in a group of %u",
            (unsigned)root, (unsigned)g->size);
    enum status s = group_begin(g, GROUP_BROADCAST, bytes, root, 0, 0);
    if (s == STATUS_OK && bytes == 0)
        s = meet(g);
    uint8_t *at = buffer;
    while (s == STATUS_OK && g->size > 1 && bytes > 0) {
        size_t n = smaller(bytes, GROUP_SLOT_BYTES);
        s = broadcast_chunk(g, at, n, root);
        at += n;
        bytes -= n;
    }
    return group_end(g, s);
}

struct scatter {
    reduce_fn *reduce;
    size_t element_bytes;
    const uint8_t *in;
    uint8_t *out;
    size_t count;
    size_t part; // elements of each slice in one chunk
};

// Elements [at, at + part) of slice `rank`, cut off at its end: where they begin in the input, and
// how many there are.
static size_t part_of(
    const struct coll_group *g, const struct scatter *j, uint32_t rank, size_t at, size_t *begin)
{
    size_t first, n;
    coll_slice(j->count, g->size, rank, &first, &n);
    *begin = first + at;
    return at < n ? smaller(n - at, j->part) : 0;
}

// A slot holds one part for each rank.
static enum status scatter_chunk(struct coll_group *g, const struct scatter *j, size_t at)
{
    size_t e = j->element_bytes, begin, n;
    uint8_t *slot;
    TRY(group_slot(g, &slot));
    for (uint32_t q = 0; q < g->size; q++) {
        if (q == g->rank)
            continue;
        n = part_of(g, j, q, at, &begin);
        g->reduce->copy(slot + q * j->part * e, j->in + begin * e, n * e);
    }
    group_signal(g);
    n = part_of(g, j, g->rank, at, &begin);
    const void *src[COLL_RANKS_MAX];
    for (uint32_t q = 0; q < g->size; q++)
        src[q] = q == g->rank ? j->in + begin * e : group_peer_slot(g, q) + g->rank * j->part * e;
    TRY(group_wait_all(g));
    void *dst = j->out + at * e;
    j->reduce(&dst, 1, src, g->size, n);
    group_slot_used(g);
    return STATUS_OK;
}

static enum status scatter(struct coll_group *g, struct scatter *j)
{
    if (g->size == 1) {
        if (j->count > 0)
            memmove(j->out, j->in, j->count * j->element_bytes);
        return STATUS_OK;
    }
    if (j->count == 0)
        return meet(g);
    size_t begin, longest;
    coll_slice(j->count, g->size, 0, &begin, &longest);
    j->part = GROUP_SLOT_BYTES / g->size / SEGMENT_LINE * SEGMENT_LINE / j->element_bytes;
    for (size_t at = 0; at < longest; at += j->part)
        TRY(scatter_chunk(g, j, at));
    return STATUS_OK;
}

enum status coll_reduce_scatter(struct coll_group *g, const void *in, void *out, size_t count,
    enum dtype dtype, enum coll_op op, void *stream)
{
    (void)stream;
    struct scatter j = {.reduce = reduce_find(g->reduce, (uint32_t)op, dtype),
        .element_bytes = dtype_bytes(dtype),
        .in = in,
        .out = out,
        .count = count};
    size_t bytes;
    if (j.reduce == NULL)
        return group_refuse(g, STATUS_UNSUPPORTED,
            "reduce_scatter of %s is not offered; f32, f16 and bf16, sum and max are",
            dtype_name(dtype));
    if (__builtin_mul_overflow(count, j.element_bytes, &bytes))
        return group_refuse(g, STATUS_TOO_LARGE, "reduce_scatter of %zu elements", count);
    enum status s = group_begin(g, GROUP_REDUCE_SCATTER, count, (uint64_t)dtype, (uint64_t)op, 0);
    if (s == STATUS_OK)
        s = scatter(g, &j);
    return group_end(g, s);
}
