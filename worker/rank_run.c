// SPDX-License-Identifier: Apache-2.0
#include "worker/rank.h"

#include "base/check.h"
#include "base/clock.h"
#include "worker/rank_internal.h"

#include <sched.h>
#include <string.h>

// What rank 0 writes into the ring: step plans as they are, and these.
enum note_kind { NOTE_RESET, NOTE_STOP };
enum { NOTE_MAGIC = 0x45544f4e }; // "NOTE"
struct note {
    uint32_t magic, kind;
    uint64_t epoch, next_step_id; // NOTE_RESET
};

enum {
    WRITE_TIMEOUT_MS = 60000,
    READ_TIMEOUT_MS = 60000, // a wait begins awake, so an idle rank begins one rarely
    SPIN_TURNS = 1000,       // while a step is under way, before this rank sleeps in between
    SLEEP_US = 20,
};

// ---- rank 0 ------------------------------------------------------------------------------------

static enum status tell(struct rank *r, const void *data, size_t n, struct error *err)
{
    check(r->info.rank == 0);
    if (!r->ring)
        return STATUS_OK;
    enum status s = ring_write(r->ring, data, n, WRITE_TIMEOUT_MS);
    if (s != STATUS_OK)
        return status_fail(err, s, "the other ranks do not take a message: %s", status_text(s));
    return STATUS_OK;
}

static enum status finish_all(struct rank *r, struct error *err)
{
    while (session_unfinished(r->session) > 0)
        TRY(session_finish(r->session, true, err));
    return STATUS_OK;
}

enum status rank_reset(struct rank *r, uint64_t epoch, uint64_t next_step_id, struct error *err)
{
    struct note note = {NOTE_MAGIC, NOTE_RESET, epoch, next_step_id};
    TRY(tell(r, &note, sizeof note, err));
    TRY(finish_all(r, err));
    session_reset(r->session, epoch, next_step_id);
    return STATUS_OK;
}

enum status rank_begin(struct rank *r, const void *plan, size_t n,
    const struct forward_pulse *pulse, bool *repeats, struct error *err)
{
    TRY(session_accepts(r->session, plan, n, err));
    *repeats = session_repeats(r->session, plan);
    if (*repeats)
        return STATUS_OK;
    TRY(tell(r, plan, n, err));
    return session_begin(r->session, plan, n, pulse, err);
}

uint32_t rank_unfinished(const struct rank *r)
{
    return session_unfinished(r->session);
}

enum status rank_finish(struct rank *r, bool wait, struct error *err)
{
    return session_finish(r->session, wait, err);
}

const struct buf *rank_answer(const struct rank *r)
{
    return session_answer(r->session);
}

enum status rank_execute(struct rank *r, const void *plan, size_t n,
    const struct forward_pulse *pulse, const struct buf **answer, struct error *err)
{
    bool repeats;
    TRY(finish_all(r, err));
    TRY(rank_begin(r, plan, n, pulse, &repeats, err));
    TRY(finish_all(r, err));
    *answer = session_answer(r->session);
    return STATUS_OK;
}

enum status rank_stop(struct rank *r, struct error *err)
{
    struct note note = {.magic = NOTE_MAGIC, .kind = NOTE_STOP};
    return tell(r, &note, sizeof note, err);
}

uint64_t rank_epoch(const struct rank *r)
{
    return session_epoch(r->session);
}

uint64_t rank_last_step(const struct rank *r)
{
    return session_last_step(r->session);
}

// ---- the other ranks ---------------------------------------------------------------------------

// Plans are read as structs, so they must lie on 8 bytes.
static const void *aligned(struct rank *r, const void *data, size_t n)
{
    if ((uintptr_t)data % 8 == 0)
        return data;
    buf_clear(&r->copy);
    buf_append(&r->copy, data, n);
    return buf_failed(&r->copy) ? NULL : r->copy.data;
}

static enum status obey(struct rank *r, const void *data, size_t n, bool *stop, struct error *err)
{
    struct note note;
    memcpy(&note, data, n < sizeof note ? n : sizeof note);
    if (n != sizeof note || note.magic != NOTE_MAGIC) {
        const void *plan = aligned(r, data, n);
        if (!plan)
            return status_fail(err, STATUS_NO_MEMORY, "no memory for a step plan");
        if (session_unfinished(r->session) == SESSION_STEPS_MAX)
            TRY(session_finish(r->session, true, err));
        return session_begin(r->session, plan, n, NULL, err);
    }
    TRY(finish_all(r, err));
    if (note.kind == NOTE_RESET)
        session_reset(r->session, note.epoch, note.next_step_id);
    *stop = note.kind == NOTE_STOP;
    return STATUS_OK;
}

// The next message. While steps are under way this rank looks after them, too: they may fail, and
// nobody else would notice it here.
static enum status await(struct rank *r, const void **data, size_t *n, struct error *err)
{
    for (uint32_t turn = 0;; turn++) {
        bool busy = session_unfinished(r->session) > 0;
        enum status s = ring_read(r->ring, data, n, busy ? 0 : READ_TIMEOUT_MS);
        if (s != STATUS_OK && s != STATUS_TIMEOUT)
            return status_fail(err, s, "rank %u of %u: waiting for a step plan: %s", r->info.rank,
                r->info.size, status_text(s));
        if (s == STATUS_OK)
            return s;
        s = busy ? session_finish(r->session, false, err) : STATUS_OK;
        if (s != STATUS_OK && s != STATUS_AGAIN)
            return s;
        if (s == STATUS_AGAIN && turn < SPIN_TURNS)
            sched_yield();
        else if (s == STATUS_AGAIN)
            clock_sleep_us(SLEEP_US);
    }
}

enum status rank_follow(struct rank *r, struct error *err)
{
    check(r->ring && r->info.rank != 0);
    for (bool stop = false; !stop;) {
        const void *data;
        size_t n;
        TRY(await(r, &data, &n, err));
        TRY(obey(r, data, n, &stop, err));
        ring_release(r->ring);
    }
    return STATUS_OK;
}

void rank_abort(struct rank *r)
{
    if (r->group)
        coll_abort(r->group);
    if (r->ring)
        ring_abort(r->ring);
}
