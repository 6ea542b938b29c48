// SPDX-License-Identifier: Apache-2.0
#include "collectives/group.h"

#include "base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *const operation_name[] = {
    [0] = "nothing",
    [GROUP_BARRIER] = "barrier",
    [GROUP_ALL_REDUCE] = "all_reduce",
    [GROUP_REDUCE_SCATTER] = "reduce_scatter",
    [GROUP_ALL_GATHER] = "all_gather",
    [GROUP_BROADCAST] = "broadcast",
    [GROUP_EXCHANGE] = "exchange",
};

enum { DEFAULT_TIMEOUT_MS = 60000 };

// More than any address space holds, and small enough that no sum below overflows.
static const uint64_t heap_bytes_max = (uint64_t)1 << 40;

static enum status check_args(const struct coll_args *a, struct error *err)
{
    static const char *const later[] = {"mpi", "cuda", "nccl"};
    const char *name = a->backend != NULL ? a->backend : "auto";
    for (size_t i = 0; i < COUNT_OF(later); i++)
        if (strcmp(name, later[i]) == 0)
            return status_fail(err, STATUS_UNSUPPORTED,
                "the collectives back end \"%s\" is not in this build; \"auto\" and \"shm\" are",
                name);
    if (strcmp(name, "auto") != 0 && strcmp(name, "shm") != 0)
        return status_fail(err, STATUS_INVALID,
            "there is no collectives back end \"%.32s\"; \"auto\" and \"shm\" were expected", name);
    if (a->heap_bytes > heap_bytes_max)
        return status_fail(err, STATUS_TOO_LARGE,
            "a heap of %llu bytes was asked for, at most %llu", (unsigned long long)a->heap_bytes,
            (unsigned long long)heap_bytes_max);
    return STATUS_OK;
}

static size_t page_round(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n + page - 1) / page * page;
}

// Offsets in the body, and its size at the end.
struct layout {
    size_t pairs, slots, heaps, bytes;
};

static struct layout layout_of(size_t size, size_t heap_bytes)
{
    struct layout l;
    l.pairs = size * sizeof(struct group_line);
    l.slots = page_round(l.pairs + size * size * sizeof(struct group_pair));
    l.heaps = l.slots + size * 2 * GROUP_SLOT_BYTES;
    l.bytes = l.heaps + size * heap_bytes;
    return l;
}

static void place(struct coll_group *g, const struct layout *l)
{
    uint8_t *body = g->segment.body;
    g->lines = (struct group_line *)(void *)body;
    g->pairs = (struct group_pair *)(void *)(body + l->pairs);
    g->slots = body + l->slots;
    g->heaps = body + l->heaps;
    // Own pages are touched first by their owner, so they lie near it; large ones save misses of
    // the address cache where the system offers them for shared memory.
    uint8_t *mine = g->slots + (size_t)g->rank * 2 * GROUP_SLOT_BYTES;
    if (g->heap_bytes > 0)
        (void)madvise(group_heap(g, g->rank), g->heap_bytes, MADV_HUGEPAGE);
    (void)madvise(mine, 2 * GROUP_SLOT_BYTES, MADV_POPULATE_WRITE);
}

static uint64_t fingerprint(const struct coll_group *g)
{
    return tuning_hash(&g->tuning) ^ (uint64_t)g->heap_bytes * 0x9e3779b97f4a7c15u ^
           (uint64_t)g->timeout_ms << 32;
}

enum status coll_create(
    struct bootstrap *b, const struct coll_args *args, struct coll_group **out, struct error *err)
{
    struct error local = {0};
    struct coll_group *g = calloc(1, sizeof *g);
    enum status st = check_args(args, &local);
    if (g == NULL)
        st = status_fail(&local, STATUS_NO_MEMORY, "no memory for a group");
    if (st == STATUS_OK)
        st = tuning_load(args->tuning_file, &g->tuning, &local);
    // A rank that cannot go on still meets the others, so that all of them fail and none waits.
    struct segment_args sa = {.name = "phalanx-group", .status = st};
    struct layout l = {0};
    struct segment segment = {0};
    if (st == STATUS_OK) {
        g->rank = b->rank;
        g->size = b->size;
        g->heap_bytes = page_round((size_t)args->heap_bytes);
        g->timeout_ms = args->timeout_ms != 0 ? args->timeout_ms : DEFAULT_TIMEOUT_MS;
        g->pauses = args->spin ? GROUP_PAUSES_SPIN : GROUP_PAUSES_YIELD;
        g->reduce = reduce_best();
        l = layout_of(g->size, g->heap_bytes);
        sa.body_bytes = l.bytes;
        sa.fingerprint = fingerprint(g);
    }
    enum status met = segment_open(b, &sa, &segment, st == STATUS_OK ? err : NULL);
    if (st != STATUS_OK || met != STATUS_OK) {
        free(g);
        return st != STATUS_OK ? status_fail(err, st, "%s", local.text) : met;
    }
    g->segment = segment;
    place(g, &l);
    g->slot_epoch[0] = g->slot_epoch[1] = g->epoch - 1;
    *out = g;
    return STATUS_OK;
}

void coll_destroy(struct coll_group *g)
{
    if (g == NULL)
        return;
    segment_close(&g->segment);
    free(g);
}

uint32_t coll_rank(const struct coll_group *g)
{
    return g->rank;
}

uint32_t coll_size(const struct coll_group *g)
{
    return g->size;
}

void coll_abort(struct coll_group *g)
{
    segment_poison(&g->segment, STATUS_ABORTED, g->rank);
}

const struct error *coll_error(const struct coll_group *g)
{
    return &g->error;
}

void *coll_heap_take(struct coll_group *g, size_t bytes)
{
    size_t left = g->heap_bytes - g->heap_used;
    if (bytes > left)
        return NULL;
    size_t rounded = (bytes + SEGMENT_LINE - 1) / SEGMENT_LINE * SEGMENT_LINE;
    uint8_t *at = group_heap(g, g->rank) + g->heap_used;
    g->heap_used += rounded < left ? rounded : left;
    return at;
}

bool coll_heap_holds(const struct coll_group *g, const void *p, size_t bytes)
{
    uintptr_t begin = (uintptr_t)group_heap(g, g->rank), at = (uintptr_t)p;
    return at >= begin && at - begin <= g->heap_bytes && bytes <= g->heap_bytes - (at - begin);
}

void coll_slice(size_t total, uint32_t size, uint32_t rank, size_t *begin, size_t *count)
{
    size_t each = total / size, more = total % size;
    *begin = each * rank + (rank < more ? rank : more);
    *count = each + (rank < more);
}

void coll_explain(const struct coll_group *g, const char *operation, size_t bytes, bool symmetric,
    char *text, size_t n)
{
    const char *kind = symmetric ? "symmetric" : "private";
    if (g->size == 1) {
        (void)snprintf(text, n, "%s: nothing to do in a group of one", operation);
    } else if (strcmp(operation, "all_reduce") == 0) {
        enum tuning_algorithm a = tuning_pick(&g->tuning, g->size, symmetric, bytes);
        (void)snprintf(text, n,
            "all_reduce: shm %s for %zu %s bytes on %u ranks, by the %s table; sums with %s",
            tuning_algorithm_name(a), bytes, kind, (unsigned)g->size,
            g->tuning.built_in ? "built-in" : "given", g->reduce->name);
    } else if (strcmp(operation, "exchange") == 0) {
        (void)snprintf(text, n, "exchange: shm push of %zu bytes into the receivers' heaps", bytes);
    } else {
        (void)snprintf(text, n, "%s: shm, %zu bytes staged in chunks of %d", operation, bytes,
            GROUP_SLOT_BYTES);
    }
}

// Mixes one more number into the chain.
static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

enum status group_begin(
    struct coll_group *g, enum group_operation op, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    // Two threads at once would wait for each other's steps for ever: refused, and not sticky.
    if (atomic_exchange_explicit(&g->busy, true, memory_order_acquire))
        return STATUS_BUSY;
    g->running = op;
    if (g->sticky != STATUS_OK)
        return g->sticky;
    if (!segment_well(&g->segment))
        return group_fail(g, STATUS_ABORTED, g->rank);
    uint64_t h = mix(mix(g->signature, (uint64_t)op << 56 ^ a), b);
    g->signature = (uint32_t)mix(mix(h, c), d);
    return STATUS_OK;
}

enum status group_end(struct coll_group *g, enum status s)
{
    if (s != STATUS_BUSY)
        atomic_store_explicit(&g->busy, false, memory_order_release);
    return s;
}

enum status group_refuse(struct coll_group *g, enum status s, const char *format, ...)
{
    va_list ap;
    char text[ERROR_TEXT_BYTES];
    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return status_fail(g->sticky == STATUS_OK ? &g->error : NULL, s, "%s", text);
}

static enum status explain_failure(
    struct coll_group *g, enum status s, uint32_t reporter, uint32_t culprit)
{
    const char *op = operation_name[g->running];
    unsigned r = (unsigned)reporter, c = (unsigned)culprit;
    switch (s) {
    case STATUS_ABORTED:
        return status_fail(&g->error, s, "rank %u ended the group before or during %s", r, op);
    case STATUS_TIMEOUT:
        return status_fail(&g->error, s, "rank %u waited %u ms for rank %u; seen in %s", r,
            (unsigned)g->timeout_ms, c, op);
    case STATUS_PEER_GONE:
        return status_fail(
            &g->error, s, "rank %u has left or ended, says rank %u; seen in %s", c, r, op);
    case STATUS_MISMATCH:
        return status_fail(&g->error, s,
            "rank %u and rank %u call different operations, counts or types; seen in %s", r, c, op);
    default:
        return status_fail(&g->error, s, "rank %u failed; seen in %s", r, op);
    }
}

enum status group_fail(struct coll_group *g, enum status s, uint32_t culprit)
{
    uint32_t reporter;
    segment_poison(&g->segment, s, culprit);
    g->sticky = segment_poisoned(&g->segment, &reporter, &culprit);
    return explain_failure(g, g->sticky, reporter, culprit);
}

enum status group_await(struct coll_group *g, uint32_t peer, const _Atomic uint64_t *word,
    uint32_t epoch, uint64_t *got)
{
    struct segment_wait w = {.timeout_ms = g->timeout_ms};
    for (;;) {
        for (uint32_t i = 0; i < g->pauses; i++) {
            *got = atomic_load_explicit(word, memory_order_acquire);
            if (group_reached(*got, epoch))
                return STATUS_OK;
            segment_pause();
        }
        enum status s = segment_wait_turn(&g->segment, &w, peer);
        if (s != STATUS_OK)
            return group_fail(g, s, peer);
    }
}

enum status group_wait(struct coll_group *g, uint32_t peer, uint32_t epoch)
{
    uint64_t got;
    TRY(group_await(g, peer, &g->lines[peer].word[epoch % GROUP_WORDS], epoch, &got));
    return group_agrees(g, got, epoch) ? STATUS_OK : group_fail(g, STATUS_MISMATCH, peer);
}

enum status group_wait_all(struct coll_group *g)
{
    for (uint32_t d = 1; d < g->size; d++) {
        uint32_t peer = g->rank + d < g->size ? g->rank + d : g->rank + d - g->size;
        TRY(group_wait(g, peer, g->epoch));
    }
    return STATUS_OK;
}

enum status group_slot(struct coll_group *g, uint8_t **slot)
{
    uint32_t after = g->slot_epoch[g->slot_next] + 1;
    for (uint32_t peer = 0; peer < g->size; peer++) {
        uint64_t got;
        if (peer != g->rank)
            TRY(group_await(g, peer, &g->lines[peer].word[after % GROUP_WORDS], after, &got));
    }
    *slot = group_peer_slot(g, g->rank);
    return STATUS_OK;
}

void group_set_epoch(struct coll_group *g, uint32_t epoch)
{
    g->epoch = epoch;
    g->slot_epoch[0] = g->slot_epoch[1] = epoch - 1;
    for (uint32_t i = 0; i < GROUP_WORDS; i++)
        atomic_store_explicit(&g->lines[g->rank].word[i], (uint64_t)epoch, memory_order_release);
    for (uint32_t q = 0; q < g->size; q++)
        atomic_store_explicit(
            &g->pairs[q * g->size + g->rank].done, (uint64_t)epoch, memory_order_release);
}
