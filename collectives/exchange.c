// SPDX-License-Identifier: Apache-2.0
// Partial all-to-all by pushing. A rank's signal at the start says that its receive region may be
// written; that is one store, however many peers it has. Then each source writes its block straight
// into the receiver's heap and raises the flag of the pair. Pairs outside the relation are not
// looked at, and ranks that exchange with nobody go straight on.
#include "collectives/group.h"

static bool is_peer(const struct coll_exchange_args *a, uint32_t q)
{
    return (a->peers >> q & 1) != 0;
}

static enum status check_args(struct coll_group *g, const struct coll_exchange_args *a)
{
    size_t all;
    if (a->counts == COLL_COUNTS_DEVICE)
        return group_refuse(g, STATUS_UNSUPPORTED,
            "exchange: counts in device memory need a device back end; this group is on the host");
    if (a->counts != COLL_COUNTS_FIXED && a->counts != COLL_COUNTS_BOUNDED)
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
    for (uint32_t q = 0; q < g->size; q++) {
        size_t expected = a->counts == COLL_COUNTS_FIXED ? a->receive_bytes[q] : 0;
        if (is_peer(a, q) && (a->send_bytes[q] > a->slot_bytes || expected > a->slot_bytes))
            return group_refuse(g, STATUS_TOO_LARGE,
                "exchange: a block with rank %u is larger than the slot of %zu bytes", (unsigned)q,
                a->slot_bytes);
    }
    return STATUS_OK;
}

static struct group_pair *pair(struct coll_group *g, uint32_t destination, uint32_t source)
{
    return &g->pairs[destination * g->size + source];
}

static void push(struct coll_group *g, const struct coll_exchange_args *a, uint32_t to)
{
    size_t offset = (size_t)((uint8_t *)a->receive - group_heap(g, g->rank));
    size_t n = a->send_bytes[to];
    struct group_pair *p = pair(g, to, g->rank);
    if (n > 0)
        g->reduce->copy(group_heap(g, to) + offset + g->rank * a->slot_bytes, a->send[to], n);
    p->bytes = n;
    atomic_store_explicit(&p->done, (uint64_t)g->signature << 32 | g->epoch, memory_order_release);
}

// A peer that goes on to another step without having raised the pair's flag does not count this
// rank among its peers: without this look it would be waited for until the deadline.
static bool passed_by(struct coll_group *g, uint32_t from, const struct group_pair *p)
{
    uint32_t next = g->epoch + 1;
    uint64_t w =
        atomic_load_explicit(&g->lines[from].word[next % GROUP_WORDS], memory_order_acquire);
    return group_reached(w, next) &&
           !group_reached(atomic_load_explicit(&p->done, memory_order_acquire), g->epoch);
}

static enum status await_block(struct coll_group *g, uint32_t from, const struct group_pair *p)
{
    struct segment_wait w = {.timeout_ms = g->timeout_ms};
    for (;;) {
        for (uint32_t i = 0; i < g->pauses; i++) {
            uint64_t got = atomic_load_explicit(&p->done, memory_order_acquire);
            if (group_reached(got, g->epoch))
                return group_agrees(g, got, g->epoch) ? STATUS_OK
                                                      : group_fail(g, STATUS_MISMATCH, from);
            segment_pause();
        }
        enum status s =
            passed_by(g, from, p) ? STATUS_MISMATCH : segment_wait_turn(&g->segment, &w, from);
        if (s != STATUS_OK)
            return group_fail(g, s, from);
    }
}

static enum status take_block(
    struct coll_group *g, const struct coll_exchange_args *a, uint32_t from)
{
    const struct group_pair *p = pair(g, g->rank, from);
    TRY(await_block(g, from, p));
    size_t n = p->bytes;
    if (n > a->slot_bytes || (a->counts == COLL_COUNTS_FIXED && n != a->receive_bytes[from]))
        return group_fail(g, STATUS_MISMATCH, from);
    a->receive_bytes[from] = n;
    return STATUS_OK;
}

static enum status run(struct coll_group *g, const struct coll_exchange_args *a)
{
    group_signal(g);
    for (uint32_t d = 0; d < g->size; d++) {
        uint32_t to = g->rank + d < g->size ? g->rank + d : g->rank + d - g->size;
        if (!is_peer(a, to))
            continue;
        if (to != g->rank)
            TRY(group_wait(g, to, g->epoch));
        push(g, a, to);
    }
    for (uint32_t d = 0; d < g->size; d++) {
        uint32_t from = g->rank >= d ? g->rank - d : g->rank + g->size - d;
        if (is_peer(a, from))
            TRY(take_block(g, a, from));
    }
    return STATUS_OK;
}

enum status coll_exchange(struct coll_group *g, const struct coll_exchange_args *a)
{
    TRY(check_args(g, a));
    size_t offset = (size_t)((uint8_t *)a->receive - group_heap(g, g->rank));
    enum status s =
        group_begin(g, GROUP_EXCHANGE, (uint64_t)a->counts, a->slot_bytes, (uint64_t)offset, 0);
    if (s == STATUS_OK)
        s = run(g, a);
    return group_end(g, s);
}
