// SPDX-License-Identifier: Apache-2.0
// All-reduce. Every element is summed once, or by every rank alike, by the same function in rank
// order: so the bits are equal on all ranks and for all algorithms.
//
//   one_shot   copy the buffer into the own slot, signal, read all slots. One step.
//   two_shot, private buffer, in chunks: copy in the slices that others sum, signal; sum the own
//              slice, leave it in the buffer and in the slot, signal; copy the others' slices out.
//   two_shot, symmetric buffer: signal; read the own slice of all buffers, write the sum to all of
//              them, signal. No copy. Slice r of all buffers is touched by rank r alone.
//
// With a norm behind it, each chunk's complete rows are added to the residual and normed while they
// are in the cache.
#include "collectives/shm_step.h"

enum { SYMMETRIC_CHUNK_BYTES = 1 << 20 };

// Slices begin on lines of their own, so that no two ranks write to one line of an aligned buffer.
static void slice_of(size_t bytes, uint32_t size, uint32_t rank, size_t *begin, size_t *n)
{
    size_t first, count;
    coll_slice((bytes + SEGMENT_LINE - 1) / SEGMENT_LINE, size, rank, &first, &count);
    size_t end = (first + count) * SEGMENT_LINE;
    *begin = first * SEGMENT_LINE;
    *n = count == 0 ? 0 : (end < bytes ? end : bytes) - *begin;
}

struct job {
    reduce_fn *reduce;
    size_t element_bytes;
    uint8_t *buffer;
    size_t bytes;
    const struct coll_all_reduce_norm_args *norm; // NULL: only the sum
    size_t rows_done;
};

// The first `bytes` of the buffer hold sums now.
static void summed(const struct coll_group *g, struct job *j, size_t bytes)
{
    if (j->norm == NULL || j->norm->dim == 0)
        return;
    size_t row = j->norm->dim * j->element_bytes, until = bytes / row;
    reduce_norm_rows(g->reduce, j->norm, j->rows_done, until);
    j->rows_done = until;
}

static enum status one_shot(struct coll_group *g, struct job *j)
{
    const void *src[COLL_RANKS_MAX];
    void *dst = j->buffer;
    uint8_t *slot;
    TRY(shm_slot(g, &slot));
    shm_put(g, slot, j->buffer, j->bytes);
    shm_signal(g);
    for (uint32_t r = 0; r < g->size; r++)
        src[r] = r == g->rank ? j->buffer : shm_peer_slot(g, r);
    TRY(shm_wait_all(g));
    j->reduce(&dst, 1, src, g->size, j->bytes / j->element_bytes);
    shm_slot_used(g);
    summed(g, j, j->bytes);
    return STATUS_OK;
}

// Copies all slices of the chunk but the own one, from the buffer to the slot.
static void copy_in(const struct coll_group *g, uint8_t *slot, const uint8_t *chunk, size_t bytes)
{
    size_t begin, n;
    slice_of(bytes, g->size, g->rank, &begin, &n);
    size_t end = n == 0 ? bytes : begin + n;
    shm_put(g, slot, chunk, n == 0 ? bytes : begin);
    shm_put(g, slot + end, chunk + end, bytes - end);
}

static enum status two_shot_chunk(struct coll_group *g, struct job *j, uint8_t *chunk, size_t bytes)
{
    const void *src[COLL_RANKS_MAX];
    size_t begin, n;
    uint8_t *slot;
    TRY(shm_slot(g, &slot));
    copy_in(g, slot, chunk, bytes);
    shm_signal(g);
    slice_of(bytes, g->size, g->rank, &begin, &n);
    for (uint32_t r = 0; r < g->size; r++)
        src[r] = (r == g->rank ? chunk : shm_peer_slot(g, r)) + begin;
    void *dst = chunk + begin;
    TRY(shm_wait_all(g));
    j->reduce(&dst, 1, src, g->size, n / j->element_bytes);
    shm_put(g, slot + begin, chunk + begin, n);
    shm_signal(g);
    for (uint32_t d = 1; d < g->size; d++) {
        uint32_t peer = group_next(g, d);
        TRY(shm_wait(g, peer, g->shm.epoch));
        slice_of(bytes, g->size, peer, &begin, &n);
        g->reduce->copy(chunk + begin, shm_peer_slot(g, peer) + begin, n);
    }
    shm_slot_used(g);
    return STATUS_OK;
}

static enum status two_shot_private(struct coll_group *g, struct job *j)
{
    for (size_t at = 0; at < j->bytes; at += SHM_SLOT_BYTES) {
        size_t left = j->bytes - at;
        size_t n = left < SHM_SLOT_BYTES ? left : SHM_SLOT_BYTES;
        TRY(two_shot_chunk(g, j, j->buffer + at, n));
        summed(g, j, at + n);
    }
    return STATUS_OK;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

// How lines are asked for while a slice of `bytes` is summed: in blocks of `each`, up to `ahead`
// bytes before their turn.
struct asking {
    bool theirs, all; // the lines of peers, or one's own too
    size_t each, ahead;
};

// Of peers that have cores of their own, theirs are asked for. Of ranks that share cores, all, once
// they have to come from memory, in shorter blocks: all streams together have to fit into the first
// cache. The numbers are measured; see bench/NOTES.md.
static struct asking how_to_ask(const struct coll_group *g, const struct job *j, size_t bytes)
{
    if (shm_asks(g))
        return (struct asking){.theirs = true,
            .each = bytes < 8 * SHM_ASK_BYTES ? SHM_ASK_BYTES : SHM_ASK_BYTES / 2,
            .ahead = 2 * SHM_ASK_BYTES};
    if (j->bytes * g->size >= SHM_CACHE_BYTES)
        return (struct asking){
            .theirs = true, .all = true, .each = SHM_ASK_BYTES / 8, .ahead = SHM_ASK_BYTES};
    return (struct asking){.each = bytes};
}

static void ask_for(const struct coll_group *g, bool all, size_t offset, size_t bytes)
{
    for (uint32_t d = all ? 0 : 1; d < g->size; d++)
        shm_ask_to_write(shm_heap(g, group_next(g, d)) + offset, bytes);
}

// Sums `bytes` at `offset` of all heaps into all of them.
static void sum_in_heaps(struct coll_group *g, const struct job *j, size_t offset, size_t bytes)
{
    void *at[COLL_RANKS_MAX];
    const struct asking how = how_to_ask(g, j, bytes);
    size_t asked = 0;
    for (size_t begin = 0; begin < bytes; begin += how.each) {
        for (; how.theirs && asked < bytes && asked < begin + how.ahead; asked += how.each)
            ask_for(g, how.all, offset + asked, smaller(bytes - asked, how.each));
        for (uint32_t r = 0; r < g->size; r++)
            at[r] = shm_heap(g, r) + offset + begin;
        j->reduce(at, g->size, (const void *const *)at, g->size,
            smaller(bytes - begin, how.each) / j->element_bytes);
    }
}

// Meets, and asks meanwhile for the first of what peers have been writing and this rank reads next,
// their heaps at `offset` or, of the slices of a chunk at `offset` that they have summed, one's
// own. Most of it is there already, and what is not is only asked for twice; but what a peer is
// about to write must not be taken from it, so before the sums it is little.
static enum status meet_asking(struct coll_group *g, size_t offset, size_t bytes, bool summed)
{
    shm_signal(g);
    for (uint32_t d = 1; shm_asks(g) && d < g->size; d++) {
        uint32_t peer = group_next(g, d);
        size_t begin, n;
        slice_of(bytes, g->size, summed ? peer : g->rank, &begin, &n);
        shm_ask_to_read(shm_heap(g, summed ? g->rank : peer) + offset + begin,
            smaller(n, summed ? SHM_ASK_SUMS_BYTES : SHM_ASK_BYTES));
    }
    return shm_wait_all(g);
}

static enum status two_shot_symmetric_chunk(
    struct coll_group *g, struct job *j, size_t at, size_t bytes)
{
    size_t begin, n, offset = (size_t)(j->buffer - g->heap) + at;
    slice_of(bytes, g->size, g->rank, &begin, &n);
    TRY(meet_asking(g, offset, bytes, false));
    sum_in_heaps(g, j, offset + begin, n);
    return meet_asking(g, offset, bytes, true);
}

// In one go, but in chunks where a norm follows.
static enum status two_shot_symmetric(struct coll_group *g, struct job *j)
{
    size_t most = j->norm != NULL ? SYMMETRIC_CHUNK_BYTES : j->bytes;
    for (size_t at = 0; at < j->bytes; at += most) {
        size_t left = j->bytes - at, n = left < most ? left : most;
        TRY(two_shot_symmetric_chunk(g, j, at, n));
        summed(g, j, at + n);
    }
    return STATUS_OK;
}

static enum status run(struct coll_group *g, struct job *j, bool symmetric)
{
    if (j->bytes == 0)
        return shm_meet(g);
    if (j->bytes <= SHM_SLOT_BYTES &&
        tuning_pick(&g->main->tuning, symmetric, j->bytes) == TUNING_ONE_SHOT)
        return one_shot(g, j);
    return symmetric ? two_shot_symmetric(g, j) : two_shot_private(g, j);
}

enum status shm_all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a)
{
    size_t e = dtype_bytes(a->dtype);
    struct job j = {.reduce = reduce_find(g->reduce, (uint32_t)a->op, a->dtype),
        .element_bytes = e,
        .buffer = a->buffer,
        .bytes = a->count * e};
    return run(g, &j, a->symmetric);
}

enum status shm_all_reduce_norm(struct coll_group *g, const struct coll_all_reduce_norm_args *a)
{
    size_t e = dtype_bytes(a->dtype);
    struct job j = {.reduce = reduce_find(g->reduce, COLL_SUM, a->dtype),
        .element_bytes = e,
        .buffer = a->x,
        .bytes = a->n_rows * a->dim * e,
        .norm = a};
    if (g->size > 1)
        return run(g, &j, a->symmetric);
    summed(g, &j, j.bytes);
    return STATUS_OK;
}
