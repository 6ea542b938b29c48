// SPDX-License-Identifier: Apache-2.0
// The back end on MPI: for groups that shared memory cannot serve, and to compare with. MPI moves
// bytes with non-blocking messages; sums are ours. Before each block goes a header with the
// signature of the call and the block's size, so that members that disagree notice instead of
// waiting for messages that never match. Every wait looks at the deadline, the poison word and the
// peer.
//
// MPI's own reduction is used for f32 where coll_args.native allows it; its order is MPI's choice.
#include "base/check.h"
#include "collectives/device_host.h"
#include "collectives/trade.h"

#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

struct header {
    uint64_t signature;
    uint64_t bytes;
};

// One block on its way.
struct flight {
    struct header out, in;
    MPI_Request send_header, send_block, receive_header, receive_block;
    bool heard;
};

struct mpi_channel {
    struct trade trade;
    MPI_Comm comm;
    struct flight flight[COLL_RANKS_MAX];
};

struct mpi_state {
    struct trade *trade[COLL_CHANNELS_MAX]; // what trade_of looks at
    struct mpi_channel channel[COLL_CHANNELS_MAX];
};

enum { TAG_HEADER = 1, TAG_BLOCK = 2 };

static struct mpi_channel *channel_of(const struct coll_group *g)
{
    struct mpi_state *s = g->main->state;
    return &s->channel[g->channel];
}

static enum status probe(const struct coll_args *args, struct error *err)
{
    int begun = 0, ended = 0, level = 0;
    if (MPI_Initialized(&begun) != MPI_SUCCESS || MPI_Finalized(&ended) != MPI_SUCCESS || !begun ||
        ended)
        return status_fail(err, STATUS_UNSUPPORTED,
            "the back end \"mpi\" needs MPI_Init, which has not been called");
    MPI_Query_thread(&level);
    if (args->channels > 1 && level != MPI_THREAD_MULTIPLE)
        return status_fail(err, STATUS_UNSUPPORTED, "%u channels on MPI need MPI_THREAD_MULTIPLE",
            (unsigned)args->channels);
    return STATUS_OK;
}

static size_t segment_bytes(uint32_t size, uint32_t channels, size_t heap_bytes)
{
    (void)size;
    (void)channels;
    (void)heap_bytes;
    return 1; // only the head: poison, marks
}

// Communicators of these ranks alone; nobody else takes part.
static enum status make_comms(
    struct coll_group *g, struct bootstrap *b, struct mpi_state *s, struct error *err)
{
    int mine = 0, ranks[COLL_RANKS_MAX];
    MPI_Group world, members;
    MPI_Comm_rank(MPI_COMM_WORLD, &mine);
    TRY(b->all_gather(b, &mine, sizeof mine, ranks, err));
    for (uint32_t i = 0; i < g->size; i++)
        for (uint32_t k = 0; k < i; k++)
            if (ranks[i] == ranks[k])
                return status_fail(err, STATUS_UNSUPPORTED,
                    "ranks %u and %u are one MPI process; the back end \"mpi\" needs one each",
                    (unsigned)k, (unsigned)i);
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    MPI_Group_incl(world, (int)g->size, ranks, &members);
    enum status st = STATUS_OK;
    for (uint32_t k = 0; k < g->n_channels && st == STATUS_OK; k++) {
        if (MPI_Comm_create_group(MPI_COMM_WORLD, members, 7, &s->channel[k].comm) != MPI_SUCCESS)
            st = status_fail(err, STATUS_IO, "MPI_Comm_create_group failed");
        else
            MPI_Comm_set_errhandler(s->channel[k].comm, MPI_ERRORS_RETURN);
    }
    MPI_Group_free(&members);
    MPI_Group_free(&world);
    return st;
}

static enum status run(struct coll_group *g, struct trade_block *blocks, void *stream);

static enum status open_mpi(
    struct coll_group *g, struct bootstrap *b, const struct coll_args *args, struct error *err)
{
    (void)args;
    struct mpi_state *s = calloc(1, sizeof *s);
    void *heap = NULL;
    if (s == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a group");
    g->state = s;
    for (uint32_t k = 0; k < g->n_channels; k++) {
        s->channel[k].comm = MPI_COMM_NULL;
        s->channel[k].trade.run = run;
        s->trade[k] = &s->channel[k].trade;
    }
    TRY(make_comms(g, b, s, err));
    for (uint32_t k = 0; k < g->n_channels; k++)
        TRY(trade_open(&g[k], &s->channel[k].trade, &device_host, err));
    TRY(device_host.take(NULL, g->heap_bytes, &heap, err));
    g->heap = heap;
    return STATUS_OK;
}

static void close_mpi(struct coll_group *g)
{
    struct mpi_state *s = g->state;
    int ended = 0;
    MPI_Finalized(&ended);
    for (uint32_t k = 0; s != NULL && k < g->n_channels; k++) {
        // After an error messages may still be on their way: the communicator is left to MPI.
        if (!ended && g[k].sticky == STATUS_OK && s->channel[k].comm != MPI_COMM_NULL)
            MPI_Comm_free(&s->channel[k].comm);
        trade_close(&s->channel[k].trade);
    }
    free(g->heap);
    free(s);
    g->heap = NULL;
    g->state = NULL;
}

static enum status mpi_failed(struct coll_group *g, const char *what)
{
    return group_fail_because(g, STATUS_IO, "MPI reports a failure of %s", what);
}

static enum status post(
    struct coll_group *g, struct mpi_channel *c, uint32_t peer, const struct trade_block *b)
{
    struct flight *f = &c->flight[peer];
    *f = (struct flight){.out = {g->signature, b->send_bytes},
        .send_header = MPI_REQUEST_NULL,
        .send_block = MPI_REQUEST_NULL,
        .receive_header = MPI_REQUEST_NULL,
        .receive_block = MPI_REQUEST_NULL};
    int to = (int)peer, rc = MPI_SUCCESS;
    if (b->receives)
        rc |=
            MPI_Irecv(&f->in, sizeof f->in, MPI_BYTE, to, TAG_HEADER, c->comm, &f->receive_header);
    if (b->sends)
        rc |= MPI_Isend(&f->out, sizeof f->out, MPI_BYTE, to, TAG_HEADER, c->comm, &f->send_header);
    if (b->sends && b->send_bytes > 0)
        rc |= MPI_Isend(
            b->send, (int)b->send_bytes, MPI_BYTE, to, TAG_BLOCK, c->comm, &f->send_block);
    return rc == MPI_SUCCESS ? STATUS_OK : mpi_failed(g, "MPI_Isend or MPI_Irecv");
}

// The header has come: is it of the same call, and does the block fit?
static enum status hear(
    struct coll_group *g, struct mpi_channel *c, uint32_t peer, struct trade_block *b)
{
    struct flight *f = &c->flight[peer];
    f->heard = true;
    if (f->in.signature != g->signature || f->in.bytes > b->receive_bytes ||
        (b->exact && f->in.bytes != b->receive_bytes))
        return group_fail(g, STATUS_MISMATCH, peer);
    b->receive_bytes = (size_t)f->in.bytes;
    if (b->receive_bytes > 0 && MPI_Irecv(b->receive, (int)b->receive_bytes, MPI_BYTE, (int)peer,
                                    TAG_BLOCK, c->comm, &f->receive_block) != MPI_SUCCESS)
        return mpi_failed(g, "MPI_Irecv");
    return STATUS_OK;
}

// Looks at what is on its way between this rank and one peer; *done when that is nothing.
static enum status look(
    struct coll_group *g, struct mpi_channel *c, uint32_t peer, struct trade_block *b, bool *done)
{
    struct flight *f = &c->flight[peer];
    int here = 0, sent = 0;
    if (b->receives && !f->heard) {
        if (MPI_Test(&f->receive_header, &here, MPI_STATUS_IGNORE) != MPI_SUCCESS)
            return mpi_failed(g, "a message");
        if (here)
            TRY(hear(g, c, peer, b));
    }
    MPI_Request rest[] = {f->send_header, f->send_block, f->receive_block};
    int rc = MPI_Testall(3, rest, &sent, MPI_STATUSES_IGNORE);
    f->send_header = rest[0];
    f->send_block = rest[1];
    f->receive_block = rest[2];
    if (rc != MPI_SUCCESS)
        return mpi_failed(g, "a message");
    *done = sent && (f->heard || !b->receives);
    return STATUS_OK;
}

// After an error: nothing of this group will be waited for any more.
static void drop(
    const struct coll_group *g, struct mpi_channel *c, const struct trade_block *blocks)
{
    for (uint32_t q = 0; q < g->size; q++) {
        struct flight *f = &c->flight[q];
        MPI_Request *all[] = {&f->receive_header, &f->receive_block};
        if (!blocks[q].sends && !blocks[q].receives)
            continue;
        for (size_t i = 0; i < COUNT_OF(all); i++)
            if (*all[i] != MPI_REQUEST_NULL) {
                MPI_Cancel(all[i]);
                MPI_Request_free(all[i]);
            }
    }
}

// One turn over all peers; *late becomes the first that is not done, or the group's size.
static enum status look_at_all(
    struct coll_group *g, struct mpi_channel *c, struct trade_block *blocks, uint32_t *late)
{
    *late = g->size;
    for (uint32_t q = 0; q < g->size; q++) {
        bool done = !blocks[q].sends && !blocks[q].receives;
        if (!done)
            TRY(look(g, c, q, &blocks[q], &done));
        if (!done && *late == g->size)
            *late = q;
    }
    return STATUS_OK;
}

static enum status wait_all(struct coll_group *g, struct mpi_channel *c, struct trade_block *blocks)
{
    struct segment_wait w = {.timeout_ms = g->timeout_ms};
    uint32_t late, before = g->size;
    for (;;) {
        TRY(look_at_all(g, c, blocks, &late));
        if (late == g->size)
            return STATUS_OK;
        if (late != before)
            w.peer_gone = false;
        before = late;
        enum status s = segment_wait_turn(g->segment, &w, late);
        if (s != STATUS_OK)
            return group_fail(g, s, late);
    }
}

static enum status run(struct coll_group *g, struct trade_block *blocks, void *stream)
{
    struct mpi_channel *c = channel_of(g);
    (void)stream;
    for (uint32_t q = 0; q < g->size; q++)
        if (blocks[q].send_bytes > INT_MAX || blocks[q].receive_bytes > INT_MAX)
            return group_fail_because(g, STATUS_TOO_LARGE, "MPI blocks are limited to 2 GiB");
    enum status s = STATUS_OK;
    for (uint32_t d = 1; d < g->size && s == STATUS_OK; d++) {
        uint32_t q = group_next(g, d);
        if (blocks[q].sends || blocks[q].receives)
            s = post(g, c, q, &blocks[q]);
    }
    if (s == STATUS_OK)
        s = wait_all(g, c, blocks);
    if (s != STATUS_OK)
        drop(g, c, blocks);
    return s;
}

static bool is_native(const struct coll_group *g, enum dtype dtype, size_t bytes, bool symmetric)
{
    const struct tuning *t = &g->main->tuning;
    return g->main->native && dtype == DTYPE_F32 && bytes / sizeof(float) <= INT_MAX &&
           (t->built_in || tuning_pick(t, symmetric, bytes) == TUNING_NATIVE);
}

// All members first make sure that they mean the same call; then MPI is waited for as ever.
static enum status native(struct coll_group *g, const struct coll_all_reduce_args *a)
{
    MPI_Request r;
    MPI_Op op = a->op == COLL_SUM ? MPI_SUM : MPI_MAX;
    struct segment_wait w = {.timeout_ms = g->timeout_ms};
    TRY(trade_barrier(g, a->stream));
    if (MPI_Iallreduce(MPI_IN_PLACE, a->buffer, (int)a->count, MPI_FLOAT, op, channel_of(g)->comm,
            &r) != MPI_SUCCESS)
        return mpi_failed(g, "MPI_Iallreduce");
    for (int done = 0; !done;) {
        if (MPI_Test(&r, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS)
            return mpi_failed(g, "MPI_Iallreduce");
        // Every rank watches the next one; whoever finds it gone tells all.
        uint32_t peer = group_next(g, 1);
        enum status s = done ? STATUS_OK : segment_wait_turn(g->segment, &w, peer);
        if (s != STATUS_OK)
            return group_fail(g, s, peer);
    }
    return STATUS_OK;
}

static enum status all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a)
{
    if (a->count > 0 && is_native(g, a->dtype, a->count * dtype_bytes(a->dtype), a->symmetric))
        return native(g, a);
    return trade_all_reduce(g, a);
}

static const char *algorithm(
    const struct coll_group *g, const char *operation, size_t bytes, bool symmetric)
{
    if (strncmp(operation, "all_reduce", 10) == 0 && is_native(g, DTYPE_F32, bytes, symmetric))
        return "native (inexact, f32 only)";
    return trade_algorithm(g, operation, bytes, symmetric);
}

const struct coll_backend backend_mpi = {
    .name = "mpi",
    .probe = probe,
    .segment_bytes = segment_bytes,
    .open = open_mpi,
    .close = close_mpi,
    .all_reduce = all_reduce,
    .all_reduce_norm = trade_all_reduce_norm,
    .reduce_scatter = trade_reduce_scatter,
    .all_gather = trade_all_gather,
    .broadcast = trade_broadcast,
    .barrier = trade_barrier,
    .exchange = trade_exchange,
    .algorithm = algorithm,
};
