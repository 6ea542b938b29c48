// SPDX-License-Identifier: Apache-2.0
// All-reduce. Every element is summed once, or by every rank alike, by the same function in rank
// order: so the bits are equal on all ranks and for all algorithms.
//
//   one_shot   copy the buffer into the own slot, signal, read all slots. One step.
//   two_shot, private buffer, in chunks: copy in the slices that others sum, signal; sum the own
//              slice, leave it in the buffer and in the slot, signal; copy the others' slices out.
//   two_shot, symmetric buffer: signal; read the own slice of all buffers, write the sum to all of
//              them, signal. No copy. Slice r of all buffers is touched by rank r alone.
#include "base/check.h"
#include "collectives/group.h"

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
};

static enum status one_shot(struct coll_group *g, const struct job *j)
{
    const void *src[COLL_RANKS_MAX];
    void *dst = j->buffer;
    uint8_t *slot;
    TRY(group_slot(g, &slot));
    g->reduce->copy(slot, j->buffer, j->bytes);
    group_signal(g);
    for (uint32_t r = 0; r < g->size; r++)
        src[r] = r == g->rank ? j->buffer : group_peer_slot(g, r);
    TRY(group_wait_all(g));
    j->reduce(&dst, 1, src, g->size, j->bytes / j->element_bytes);
    group_slot_used(g);
    return STATUS_OK;
}

// Copies all slices of the chunk but the own one, from the buffer to the slot.
static void copy_in(const struct coll_group *g, uint8_t *slot, const uint8_t *chunk, size_t bytes)
{
    size_t begin, n;
    slice_of(bytes, g->size, g->rank, &begin, &n);
    size_t end = n == 0 ? bytes : begin + n;
    g->reduce->copy(slot, chunk, n == 0 ? bytes : begin);
    g->reduce->copy(slot + end, chunk + end, bytes - end);
}

static enum status two_shot_chunk(
    struct coll_group *g, const struct job *j, uint8_t *chunk, size_t bytes)
{
    const void *src[COLL_RANKS_MAX];
    size_t begin, n;
    uint8_t *slot;
    TRY(group_slot(g, &slot));
    copy_in(g, slot, chunk, bytes);
    group_signal(g);
    slice_of(bytes, g->size, g->rank, &begin, &n);
    for (uint32_t r = 0; r < g->size; r++)
        src[r] = (r == g->rank ? chunk : group_peer_slot(g, r)) + begin;
    void *dst[2] = {chunk + begin, slot + begin};
    TRY(group_wait_all(g));
    j->reduce(dst, 2, src, g->size, n / j->element_bytes);
    group_signal(g);
    for (uint32_t d = 1; d < g->size; d++) {
        uint32_t peer = g->rank + d < g->size ? g->rank + d : g->rank + d - g->size;
        TRY(group_wait(g, peer, g->epoch));
        slice_of(bytes, g->size, peer, &begin, &n);
        g->reduce->copy(chunk + begin, group_peer_slot(g, peer) + begin, n);
    }
    group_slot_used(g);
    return STATUS_OK;
}

static enum status two_shot_private(struct coll_group *g, const struct job *j)
{
    for (size_t at = 0; at < j->bytes; at += GROUP_SLOT_BYTES) {
        size_t left = j->bytes - at;
        TRY(two_shot_chunk(
            g, j, j->buffer + at, left < GROUP_SLOT_BYTES ? left : GROUP_SLOT_BYTES));
    }
    return STATUS_OK;
}

static enum status two_shot_symmetric(struct coll_group *g, const struct job *j)
{
    const void *src[COLL_RANKS_MAX];
    void *dst[COLL_RANKS_MAX];
    size_t begin, n, offset = (size_t)(j->buffer - group_heap(g, g->rank));
    slice_of(j->bytes, g->size, g->rank, &begin, &n);
    for (uint32_t r = 0; r < g->size; r++)
        src[r] = dst[r] = group_heap(g, r) + offset + begin;
    group_signal(g);
    TRY(group_wait_all(g));
    j->reduce(dst, g->size, src, g->size, n / j->element_bytes);
    group_signal(g);
    return group_wait_all(g);
}

static enum status run(struct coll_group *g, const struct job *j, bool symmetric)
{
    if (j->bytes == 0) {
        group_signal(g);
        return group_wait_all(g);
    }
    if (j->bytes <= GROUP_SLOT_BYTES &&
        tuning_pick(&g->tuning, g->size, symmetric, j->bytes) == TUNING_ONE_SHOT)
        return one_shot(g, j);
    return symmetric ? two_shot_symmetric(g, j) : two_shot_private(g, j);
}

enum status coll_all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a)
{
    struct job j = {.reduce = reduce_find(g->reduce, (uint32_t)a->op, a->dtype),
        .element_bytes = dtype_bytes(a->dtype),
        .buffer = a->buffer};
    if (j.reduce == NULL)
        return group_refuse(g, STATUS_UNSUPPORTED,
            "all_reduce of %s is not offered; f32, f16 and bf16, sum and max are",
            dtype_name(a->dtype));
    if (__builtin_mul_overflow(a->count, j.element_bytes, &j.bytes))
        return group_refuse(g, STATUS_TOO_LARGE, "all_reduce of %zu elements", a->count);
    if (a->symmetric && !coll_heap_holds(g, a->buffer, j.bytes))
        return group_refuse(g, STATUS_INVALID,
            "all_reduce: the buffer of %zu bytes was called symmetric but is not in the heap",
            j.bytes);
    uint64_t where = a->symmetric ? (uint64_t)(j.buffer - group_heap(g, g->rank)) + 1 : 0;
    enum status s =
        group_begin(g, GROUP_ALL_REDUCE, a->count, (uint64_t)a->dtype, (uint64_t)a->op, where);
    if (s == STATUS_OK && g->size > 1)
        s = run(g, &j, a->symmetric);
    return group_end(g, s);
}
