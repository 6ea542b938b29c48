// SPDX-License-Identifier: Apache-2.0
// The data lie in a buffer that is mapped twice in a row, so every message is contiguous, also the
// one that wraps. Positions count bytes since the beginning and never wrap.
//
//   | head | data bell | room bell | tail[size] | data (bytes) | the same data again |
//
// A bell wakes sleepers without a system call while nobody sleeps: the sleeper adds itself, then
// looks at the position again; the other side moves the position, then looks for sleepers. All four
// are sequentially consistent, so at least one of the two sees the other (Dekker).
#include "collectives/ring.h"

#include "base/check.h"
#include "base/clock.h"
#include "collectives/segment.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    RING_ALIGN = 16,
    RING_PAUSES_SPIN = 2000,
    RING_PAUSES_YIELD = 1,
    RING_YIELD_US = 2000, // messages that come more often than this find the reader awake
    RING_SLEEP_MS = 100,  // how long a sleeper may not notice that the other side has died
};

static const uint64_t ring_bytes_max = (uint64_t)1 << 32;

struct bell {
    _Alignas(SEGMENT_LINE) _Atomic uint32_t sleepers;
    _Atomic uint32_t count; // what they sleep on
};

struct position {
    _Alignas(SEGMENT_LINE) _Atomic uint64_t bytes;
};

struct ring_head {
    struct position head;
    struct bell data, room;
    struct position tail[COLL_RANKS_MAX]; // [0] is unused
};

struct message {
    uint64_t number;
    uint64_t bytes;
};
_Static_assert(sizeof(struct message) == RING_ALIGN, "data after it must stay aligned");

struct ring {
    struct segment segment;
    struct ring_head *shared;
    uint8_t *data;
    uint64_t bytes;
    uint64_t at;     // writer: head; reader: tail
    uint64_t number; // of the next message
    uint64_t held;   // bytes of the message that the reader holds, 0: none
    uint32_t pauses;
    struct error error;
};

static void bell_ring(struct bell *b)
{
    if (atomic_load_explicit(&b->sleepers, memory_order_seq_cst) == 0)
        return;
    atomic_fetch_add(&b->count, 1);
    (void)syscall(SYS_futex, &b->count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

// Sleeps until the bell rings, unless `position` has reached `until` by now.
static void bell_sleep(struct bell *b, const struct position *position, uint64_t until, uint64_t us)
{
    atomic_fetch_add(&b->sleepers, 1);
    uint32_t seen = atomic_load(&b->count);
    if (atomic_load_explicit(&position->bytes, memory_order_seq_cst) < until) {
        struct timespec ts = {
            .tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
        (void)syscall(SYS_futex, &b->count, FUTEX_WAIT, seen, &ts, NULL, 0);
    }
    atomic_fetch_sub(&b->sleepers, 1);
}

static enum status check_args(uint64_t bytes, struct error *err)
{
    if (bytes == 0 || (bytes & (bytes - 1)) != 0 || bytes > ring_bytes_max)
        return status_fail(err, STATUS_INVALID,
            "a ring of %llu bytes was asked for; a power of two up to %llu was expected",
            (unsigned long long)bytes, (unsigned long long)ring_bytes_max);
    return STATUS_OK;
}

enum status ring_create(
    struct bootstrap *b, uint64_t bytes, bool spin, struct ring **out, struct error *err)
{
    struct error local = {0};
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    size_t head = (sizeof(struct ring_head) + page - 1) / page * page;
    struct ring *r = calloc(1, sizeof *r);
    enum status st = check_args(bytes, &local);
    if (st == STATUS_OK && r == NULL)
        st = status_fail(&local, STATUS_NO_MEMORY, "no memory for a ring");
    bytes = bytes < page ? page : bytes;
    struct segment_args sa = {.name = "phalanx-ring",
        .body_bytes = st == STATUS_OK ? head + bytes : 0,
        .mirror_bytes = st == STATUS_OK ? bytes : 0,
        .fingerprint = bytes,
        .status = st};
    struct segment segment;
    enum status met = segment_open(b, &sa, &segment, st == STATUS_OK ? err : NULL);
    if (st != STATUS_OK || met != STATUS_OK) {
        free(r);
        return st != STATUS_OK ? status_fail(err, st, "%s", local.text) : met;
    }
    r->segment = segment;
    r->shared = (struct ring_head *)(void *)segment.body;
    r->data = segment.body + head;
    r->bytes = bytes;
    r->pauses = spin ? RING_PAUSES_SPIN : RING_PAUSES_YIELD;
    *out = r;
    return STATUS_OK;
}

static void wake_all(struct ring *r)
{
    struct bell *bells[] = {&r->shared->data, &r->shared->room};
    for (size_t i = 0; i < COUNT_OF(bells); i++) {
        atomic_fetch_add(&bells[i]->count, 1);
        (void)syscall(SYS_futex, &bells[i]->count, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }
}

void ring_destroy(struct ring *r)
{
    if (r == NULL)
        return;
    atomic_store_explicit(&r->segment.head->mark[r->segment.rank].left, 1, memory_order_release);
    wake_all(r);
    segment_close(&r->segment);
    free(r);
}

void ring_abort(struct ring *r)
{
    segment_poison(&r->segment, STATUS_ABORTED, r->segment.rank);
    wake_all(r);
}

const struct error *ring_error(const struct ring *r)
{
    return &r->error;
}

static bool reached(const struct position *p, uint64_t until)
{
    return atomic_load_explicit(&p->bytes, memory_order_acquire) >= until;
}

static enum status fail(struct ring *r, enum status s, uint32_t peer, uint32_t timeout_ms)
{
    uint32_t reporter, culprit;
    switch (s) {
    case STATUS_TIMEOUT:
        return status_fail(&r->error, s, "waited %u ms for rank %u at the control ring",
            (unsigned)timeout_ms, (unsigned)peer);
    case STATUS_PEER_GONE:
        return status_fail(
            &r->error, s, "rank %u has left the control ring or ended", (unsigned)peer);
    default:
        s = segment_poisoned(&r->segment, &reporter, &culprit);
        return status_fail(&r->error, s, "rank %u ended the control ring", (unsigned)reporter);
    }
}

// Waits until `position`, which `peer` moves, has reached `until`: by spinning, then yielding, then
// asleep.
static enum status await(struct ring *r, uint32_t peer, const struct position *position,
    uint64_t until, struct bell *bell, uint32_t timeout_ms)
{
    uint64_t start_us = 0, timeout_us = (uint64_t)timeout_ms * 1000;
    bool gone = false;
    for (;;) {
        for (uint32_t i = 0; i < r->pauses; i++) {
            if (reached(position, until))
                return STATUS_OK;
            segment_pause();
        }
        if (!segment_well(&r->segment))
            return fail(r, STATUS_ABORTED, peer, timeout_ms);
        if (gone)
            return fail(r, STATUS_PEER_GONE, peer, timeout_ms);
        uint64_t now = clock_now_us();
        start_us = start_us == 0 ? now : start_us;
        uint64_t waited = now - start_us;
        if (waited >= timeout_us)
            return fail(r, STATUS_TIMEOUT, peer, timeout_ms);
        if (waited < RING_YIELD_US) {
            sched_yield();
            continue;
        }
        gone = segment_peer_gone(&r->segment, peer);
        uint64_t left = timeout_us - waited, most = RING_SLEEP_MS * 1000;
        if (!gone)
            bell_sleep(bell, position, until, left < most ? left : most);
    }
}

enum status ring_write(struct ring *r, const void *data, size_t n, uint32_t timeout_ms)
{
    if (r->segment.rank != 0)
        return status_fail(&r->error, STATUS_INVALID,
            "rank %u would write to the control ring of "
            "rank 0",
            (unsigned)r->segment.rank);
    if (data == NULL && n > 0)
        return status_fail(&r->error, STATUS_INVALID, "NULL in place of a message");
    if (n > r->bytes - sizeof(struct message))
        return status_fail(&r->error, STATUS_TOO_LARGE,
            "a message of %zu bytes does not fit a control ring of %llu", n,
            (unsigned long long)r->bytes);
    uint64_t whole = (sizeof(struct message) + n + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
    for (uint32_t peer = 1; peer < r->segment.size && r->at + whole > r->bytes; peer++)
        TRY(await(r, peer, &r->shared->tail[peer], r->at + whole - r->bytes, &r->shared->room,
            timeout_ms));
    if (!segment_well(&r->segment))
        return fail(r, STATUS_ABORTED, 0, 0);
    uint8_t *to = r->data + (r->at & (r->bytes - 1));
    struct message m = {.number = r->number++, .bytes = n};
    memcpy(to, &m, sizeof m);
    if (n > 0)
        memcpy(to + sizeof m, data, n);
    r->at += whole;
    atomic_store_explicit(&r->shared->head.bytes, r->at, memory_order_seq_cst);
    bell_ring(&r->shared->data);
    return STATUS_OK;
}

enum status ring_read(struct ring *r, const void **data, size_t *n, uint32_t timeout_ms)
{
    if (r->segment.rank == 0 || r->held != 0)
        return status_fail(&r->error, STATUS_INVALID,
            r->held != 0 ? "the message before has not been released"
                         : "rank 0 would read its own control ring");
    TRY(await(r, 0, &r->shared->head, r->at + 1, &r->shared->data, timeout_ms));
    const uint8_t *from = r->data + (r->at & (r->bytes - 1));
    struct message m;
    memcpy(&m, from, sizeof m);
    if (m.number != r->number || m.bytes > r->bytes - sizeof m)
        return status_fail(&r->error, STATUS_MISMATCH,
            "message %llu of the control ring is damaged", (unsigned long long)r->number);
    r->held = (sizeof m + m.bytes + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
    *data = from + sizeof m;
    *n = (size_t)m.bytes;
    return STATUS_OK;
}

void ring_release(struct ring *r)
{
    if (r->held == 0)
        return;
    r->at += r->held;
    r->number++;
    r->held = 0;
    atomic_store_explicit(&r->shared->tail[r->segment.rank].bytes, r->at, memory_order_seq_cst);
    bell_ring(&r->shared->room);
}
