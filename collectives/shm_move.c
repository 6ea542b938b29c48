// SPDX-License-Identifier: Apache-2.0
// Operations that mostly move bytes, staged through the slots in chunks, one step a chunk.
#include "collectives/shm_step.h"

#include <string.h>

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

enum status shm_move_barrier(struct coll_group *g, void *stream)
{
    (void)stream;
    return shm_meet(g);
}

static enum status gather_chunk(
    struct coll_group *g, const uint8_t *in, uint8_t *out, size_t stride, size_t bytes)
{
    uint8_t *slot;
    TRY(shm_slot(g, &slot));
    shm_put(g, slot, in, bytes);
    shm_signal(g);
    for (uint32_t d = 1; d < g->size; d++) {
        uint32_t peer = group_next(g, d);
        TRY(shm_wait(g, peer, g->shm.epoch));
        g->reduce->copy(out + peer * stride, shm_peer_slot(g, peer), bytes);
    }
    shm_slot_used(g);
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
        return shm_meet(g);
    for (size_t at = 0; at < bytes; at += SHM_SLOT_BYTES)
        TRY(gather_chunk(g, own + at, out + at, bytes, smaller(bytes - at, SHM_SLOT_BYTES)));
    return STATUS_OK;
}

enum status shm_move_all_gather(struct coll_group *g, const struct coll_all_gather_args *a)
{
    return gather(g, a->in, a->out, a->bytes);
}

// The root does not wait for readers here: it does when it needs the slot again.
static enum status broadcast_chunk(struct coll_group *g, uint8_t *at, size_t bytes, uint32_t root)
{
    if (g->rank == root) {
        uint8_t *slot;
        TRY(shm_slot(g, &slot));
        shm_put(g, slot, at, bytes);
        shm_signal(g);
    } else {
        shm_signal(g);
        TRY(shm_wait(g, root, g->shm.epoch));
        g->reduce->copy(at, shm_peer_slot(g, root), bytes);
    }
    shm_slot_used(g);
    return STATUS_OK;
}

enum status shm_move_broadcast(struct coll_group *g, const struct coll_broadcast_args *a)
{
    uint8_t *buffer = a->buffer;
    if (a->bytes == 0)
        return shm_meet(g);
    for (size_t at = 0; at < a->bytes; at += SHM_SLOT_BYTES)
        TRY(broadcast_chunk(g, buffer + at, smaller(a->bytes - at, SHM_SLOT_BYTES), a->root));
    return STATUS_OK;
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
    TRY(shm_slot(g, &slot));
    for (uint32_t q = 0; q < g->size; q++) {
        if (q == g->rank)
            continue;
        n = part_of(g, j, q, at, &begin);
        shm_put(g, slot + q * j->part * e, j->in + begin * e, n * e);
    }
    shm_signal(g);
    n = part_of(g, j, g->rank, at, &begin);
    const void *src[COLL_RANKS_MAX];
    for (uint32_t q = 0; q < g->size; q++)
        src[q] = q == g->rank ? j->in + begin * e : shm_peer_slot(g, q) + g->rank * j->part * e;
    TRY(shm_wait_all(g));
    void *dst = j->out + at * e;
    j->reduce(&dst, 1, src, g->size, n);
    shm_slot_used(g);
    return STATUS_OK;
}

static enum status scatter(struct coll_group *g, struct scatter *j)
{
    if (j->count == 0)
        return shm_meet(g);
    size_t begin, longest;
    coll_slice(j->count, g->size, 0, &begin, &longest);
    j->part = SHM_SLOT_BYTES / g->size / SEGMENT_LINE * SEGMENT_LINE / j->element_bytes;
    for (size_t at = 0; at < longest; at += j->part)
        TRY(scatter_chunk(g, j, at));
    return STATUS_OK;
}

enum status shm_move_reduce_scatter(struct coll_group *g, const struct coll_reduce_scatter_args *a)
{
    struct scatter j = {.reduce = reduce_find(g->reduce, (uint32_t)a->op, a->dtype),
        .element_bytes = dtype_bytes(a->dtype),
        .in = a->in,
        .out = a->out,
        .count = a->count};
    return scatter(g, &j);
}
