// SPDX-License-Identifier: Apache-2.0
#include "collectives/shm.h"

#include "collectives/shm_step.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t page_round(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n + page - 1) / page * page;
}

// Offsets in one channel's part of the segment, and its size.
struct layout {
    size_t pairs, slots, mails, bytes;
};

static struct layout layout_of(size_t size)
{
    struct layout l;
    l.pairs = size * sizeof(struct shm_line);
    l.slots = page_round(l.pairs + size * size * sizeof(struct shm_pair));
    l.mails = l.slots + size * 2 * SHM_SLOT_BYTES;
    l.bytes = page_round(
        l.mails + size * size * 2 * (sizeof(struct shm_mail) + shm_mail_bytes((uint32_t)size)));
    return l;
}

static enum status probe(const struct coll_args *args, struct error *err)
{
    (void)args;
    (void)err;
    return STATUS_OK;
}

static size_t segment_bytes(uint32_t size, uint32_t channels, size_t heap_bytes)
{
    return layout_of(size).bytes * channels + size * heap_bytes;
}

static enum status open_shm(
    struct coll_group *g, struct bootstrap *b, const struct coll_args *args, struct error *err)
{
    (void)b;
    (void)args;
    (void)err;
    struct layout l = layout_of(g->size);
    for (uint32_t k = 0; k < g->n_channels; k++) {
        struct shm *s = &g[k].shm;
        uint8_t *body = g->segment->body + k * l.bytes;
        s->lines = (struct shm_line *)(void *)body;
        s->pairs = (struct shm_pair *)(void *)(body + l.pairs);
        s->slots = body + l.slots;
        s->mails = body + l.mails;
        s->heaps = g->segment->body + g->n_channels * l.bytes;
        s->slot_epoch[0] = s->slot_epoch[1] = s->epoch - 1;
        // Own pages are touched first by their owner, so they lie near it.
        (void)madvise(s->slots + (size_t)g->rank * 2 * SHM_SLOT_BYTES, 2 * SHM_SLOT_BYTES,
            MADV_POPULATE_WRITE);
    }
    g->heap = shm_heap(g, g->rank);
    // Large pages save misses of the address cache where the system offers them for shared memory.
    if (g->heap_bytes > 0)
        (void)madvise(g->heap, g->heap_bytes, MADV_HUGEPAGE);
    return STATUS_OK;
}

static void close_shm(struct coll_group *g)
{
    (void)g; // all of it is the segment's
}

static const char *algorithm(
    const struct coll_group *g, const char *operation, size_t bytes, bool symmetric)
{
    if (strncmp(operation, "all_reduce", 10) == 0) {
        bool one = bytes <= SHM_SLOT_BYTES &&
                   tuning_pick(&g->main->tuning, symmetric, bytes) == TUNING_ONE_SHOT;
        return tuning_algorithm_name(one ? TUNING_ONE_SHOT : TUNING_TWO_SHOT);
    }
    if (strcmp(operation, "barrier") == 0)
        return "a signal of each";
    if (strcmp(operation, "exchange") != 0)
        return "staged in chunks";
    return bytes <= shm_mail_bytes(g->size) ? "mail between pairs"
                                            : "push into the receivers' heaps";
}

const struct coll_backend backend_shm = {
    .name = "shm",
    .probe = probe,
    .segment_bytes = segment_bytes,
    .open = open_shm,
    .close = close_shm,
    .all_reduce = shm_all_reduce,
    .all_reduce_norm = shm_all_reduce_norm,
    .reduce_scatter = shm_move_reduce_scatter,
    .all_gather = shm_move_all_gather,
    .broadcast = shm_move_broadcast,
    .barrier = shm_move_barrier,
    .exchange = shm_exchange,
    .algorithm = algorithm,
};

enum status shm_await(struct coll_group *g, uint32_t peer, const _Atomic uint64_t *word,
    uint32_t epoch, uint64_t *got)
{
    struct segment_wait w = {.timeout_ms = g->timeout_ms};
    for (;;) {
        for (uint32_t i = 0; i < g->shm.pauses; i++) {
            *got = atomic_load_explicit(word, memory_order_acquire);
            if (shm_reached(*got, epoch))
                return STATUS_OK;
            segment_pause();
        }
        enum status s = segment_wait_turn(g->segment, &w, peer);
        if (s != STATUS_OK)
            return group_fail(g, s, peer);
    }
}

// Whether the peer, which is ahead by more steps than words are kept, made an exchange of this one.
static bool exchanged(const struct coll_group *g, uint32_t peer, uint32_t epoch)
{
    uint64_t run = atomic_load_explicit(&g->shm.lines[peer].run, memory_order_acquire);
    return shm_reached(epoch, (uint32_t)(run >> 32)) && shm_reached(run, epoch);
}

enum status shm_wait(struct coll_group *g, uint32_t peer, uint32_t epoch)
{
    uint64_t got;
    TRY(shm_await(g, peer, &g->shm.lines[peer].word[epoch % SHM_WORDS], epoch, &got));
    bool agrees = (uint32_t)got == epoch
                      ? (uint32_t)(got >> 32) == g->signature
                      : g->running == GROUP_EXCHANGE || !exchanged(g, peer, epoch);
    return agrees ? STATUS_OK : group_fail(g, STATUS_MISMATCH, peer);
}

enum status shm_wait_all(struct coll_group *g)
{
    for (uint32_t d = 1; d < g->size; d++)
        TRY(shm_wait(g, group_next(g, d), g->shm.epoch));
    return STATUS_OK;
}

enum status shm_meet(struct coll_group *g)
{
    shm_signal(g);
    return shm_wait_all(g);
}

enum status shm_slot(struct coll_group *g, uint8_t **slot)
{
    uint32_t after = g->shm.slot_epoch[g->shm.slot_next] + 1;
    for (uint32_t d = 1; d < g->size; d++) {
        uint64_t got;
        uint32_t peer = group_next(g, d);
        TRY(shm_await(g, peer, &g->shm.lines[peer].word[after % SHM_WORDS], after, &got));
    }
    *slot = shm_peer_slot(g, g->rank);
    return STATUS_OK;
}

static uint32_t not_older(uint32_t then, uint32_t now)
{
    const uint32_t most = 2 * SHM_FORGET_STEPS;
    return now - then > most ? now - most : then;
}

// Of a flag that this rank raises.
static void forget(_Atomic uint64_t *flag, uint32_t now)
{
    uint32_t then = (uint32_t)atomic_load_explicit(flag, memory_order_relaxed);
    if (not_older(then, now) != then)
        atomic_store_explicit(flag, (uint64_t)not_older(then, now), memory_order_release);
}

void shm_forget(struct coll_group *g)
{
    const struct shm *s = &g->shm;
    for (uint32_t i = 0; i < 2; i++)
        g->shm.slot_epoch[i] = not_older(s->slot_epoch[i], s->epoch);
    forget(&s->lines[g->rank].run, s->epoch);
    for (uint32_t q = 0; q < g->size; q++) {
        forget(&s->pairs[q * g->size + g->rank].done, s->epoch);
        for (uint32_t turn = 0; turn < 2; turn++)
            forget(&shm_mail_of(s, g->size, q, g->rank, turn)->done, s->epoch);
    }
}

void shm_set_epoch(struct coll_group *g, uint32_t epoch)
{
    for (;;) {
        uint32_t next = SHM_FORGET_STEPS - g->shm.epoch % SHM_FORGET_STEPS;
        if (epoch - g->shm.epoch < next)
            break;
        g->shm.epoch += next;
        shm_forget(g);
    }
    g->shm.epoch = epoch;
    for (uint32_t i = 0; i < SHM_WORDS; i++)
        atomic_store_explicit(
            &g->shm.lines[g->rank].word[i], (uint64_t)epoch, memory_order_release);
}
