// SPDX-License-Identifier: Apache-2.0
// Partial all-to-all. Pairs outside the relation are not looked at, and ranks that exchange with
// nobody go straight on.
//
//   push   for large slots. A rank's signal at the start says that its receive region may be
//          written; that is one store, however many peers it has. Then each source writes its block
//          straight into the receiver's heap and raises the flag of the pair.
//   mail   for slots of up to shm_mail_bytes. A source leaves its block in the pair's mail and
//          raises the mail's flag; the receiver copies it out. The block is moved twice, but a rank
//          waits only once, which is what counts where ranks share cores.
#include "collectives/shm_step.h"

// Before the signal of the step: see struct shm_line.
static void note_run(struct coll_group *g)
{
    _Atomic uint64_t *run = &g->shm.lines[g->rank].run;
    uint32_t step = g->shm.epoch + 1;
    uint64_t was = atomic_load_explicit(run, memory_order_relaxed);
    uint32_t first = (uint32_t)was == g->shm.epoch ? (uint32_t)(was >> 32) : step;
    atomic_store_explicit(run, (uint64_t)first << 32 | step, memory_order_release);
}

static bool is_peer(const struct coll_exchange_args *a, uint32_t q)
{
    return (a->peers >> q & 1) != 0;
}

// How many bytes go to a peer; the front has checked that they fit, but for counts that are read
// only now.
static struct shm_pair *pair(struct coll_group *g, uint32_t destination, uint32_t source)
{
    return &g->shm.pairs[destination * g->size + source];
}

static void raise_flag(struct coll_group *g, _Atomic uint64_t *flag)
{
    atomic_store_explicit(flag, (uint64_t)g->signature << 32 | g->shm.epoch, memory_order_release);
}

static enum status push(struct coll_group *g, const struct coll_exchange_args *a, uint32_t to)
{
    size_t offset = (size_t)((uint8_t *)a->receive - shm_heap(g, g->rank));
    size_t n;
    struct shm_pair *p = pair(g, to, g->rank);
    TRY(group_block(g, a, to, &n));
    if (n > 0)
        shm_put(g, shm_heap(g, to) + offset + g->rank * a->slot_bytes, a->send[to], n);
    p->bytes = n;
    raise_flag(g, &p->done);
    return STATUS_OK;
}

// Whether a flag is of this very step. An older one, be it half a round of the epochs old, was
// raised for an earlier exchange, and a later one is for a call in which the pair does not mean the
// same exchange any more.
static bool raised(const struct coll_group *g, uint64_t flag)
{
    return (uint32_t)flag == g->shm.epoch;
}

// A peer that goes on to another step without having raised the pair's flag for this one does not
// count this rank among its peers: without this look it would be waited for until the deadline.
static bool passed_by(struct coll_group *g, uint32_t from, const _Atomic uint64_t *flag)
{
    uint32_t next = g->shm.epoch + 1;
    uint64_t w =
        atomic_load_explicit(&g->shm.lines[from].word[next % SHM_WORDS], memory_order_acquire);
    return shm_reached(w, next) && !raised(g, atomic_load_explicit(flag, memory_order_acquire));
}

static enum status await_block(struct coll_group *g, uint32_t from, const _Atomic uint64_t *flag)
{
    struct segment_wait w = {.timeout_ms = g->timeout_ms};
    for (;;) {
        for (uint32_t i = 0; i < g->shm.pauses; i++) {
            uint64_t got = atomic_load_explicit(flag, memory_order_acquire);
            if (raised(g, got))
                return (uint32_t)(got >> 32) == g->signature ? STATUS_OK
                                                             : group_fail(g, STATUS_MISMATCH, from);
            segment_pause();
        }
        enum status s =
            passed_by(g, from, flag) ? STATUS_MISMATCH : segment_wait_turn(g->segment, &w, from);
        if (s != STATUS_OK)
            return group_fail(g, s, from);
    }
}

static enum status came(
    struct coll_group *g, const struct coll_exchange_args *a, uint32_t from, size_t n)
{
    if (n > a->slot_bytes || (a->counts == COLL_COUNTS_FIXED && n != a->receive_bytes[from]))
        return group_fail(g, STATUS_MISMATCH, from);
    if (a->counts == COLL_COUNTS_DEVICE)
        a->device_receive_bytes[from] = (uint32_t)n;
    else
        a->receive_bytes[from] = n;
    return STATUS_OK;
}

static enum status take_block(
    struct coll_group *g, const struct coll_exchange_args *a, uint32_t from)
{
    const struct shm_pair *p = pair(g, g->rank, from);
    TRY(await_block(g, from, &p->done));
    return came(g, a, from, p->bytes);
}

static struct shm_mail *mail(
    const struct coll_group *g, uint32_t destination, uint32_t source, uint32_t peer)
{
    return shm_mail_of(
        &g->shm, g->size, destination, source, (uint32_t)(g->shm.mail_next >> peer & 1));
}

static enum status post(struct coll_group *g, const struct coll_exchange_args *a, uint32_t to)
{
    struct shm_mail *m = mail(g, to, g->rank, to);
    size_t n;
    TRY(group_block(g, a, to, &n));
    if (n > 0)
        shm_put(g, m->block, a->send[to], n);
    m->bytes = n;
    raise_flag(g, &m->done);
    return STATUS_OK;
}

static enum status take_mail(
    struct coll_group *g, const struct coll_exchange_args *a, uint32_t from)
{
    const struct shm_mail *m = mail(g, g->rank, from, from);
    TRY(await_block(g, from, &m->done));
    size_t n = m->bytes;
    TRY(came(g, a, from, n));
    if (n > 0)
        g->reduce->copy((uint8_t *)a->receive + from * a->slot_bytes, m->block, n);
    g->shm.mail_next ^= (uint64_t)1 << from;
    return STATUS_OK;
}

enum status shm_exchange(struct coll_group *g, const struct coll_exchange_args *a)
{
    bool by_mail = a->slot_bytes <= shm_mail_bytes(g->size);
    note_run(g);
    shm_signal(g);
    for (uint32_t d = 0; d < g->size; d++) {
        uint32_t to = group_next(g, d);
        if (!is_peer(a, to))
            continue;
        if (to != g->rank && !by_mail)
            TRY(shm_wait(g, to, g->shm.epoch));
        TRY(by_mail ? post(g, a, to) : push(g, a, to));
    }
    for (uint32_t d = 0; d < g->size; d++) {
        uint32_t from = g->rank >= d ? g->rank - d : g->rank + g->size - d;
        if (is_peer(a, from))
            TRY(by_mail ? take_mail(g, a, from) : take_block(g, a, from));
    }
    return STATUS_OK;
}
