// SPDX-License-Identifier: Apache-2.0
// The back end on NCCL, for devices that cannot reach each other's memory. NCCL moves bytes by
// grouped sends and receives; the device's own kernels sum (trade.h). Its native all-reduce is used
// only where coll_args.native allows it.
//
// NCCL knows nothing of calls that do not match, of deadlines or of dead peers. So before anything
// is enqueued each rank writes {epoch, signature} of the step into a table in the group's segment
// and looks at what the others have written there: of two ranks that disagree at least one sees it
// (stores and loads are sequentially consistent). Communicators are non-blocking, and coll_poll
// watches deadline, peers and NCCL's own errors while the caller waits for its stream; after a
// failure ncclCommAbort ends the kernels that wait, and the context survives.
//
//   segment, per channel: | word[size][NCCL_WORDS] | count[2][destination][source] |
#include "base/clock.h"
#include "collectives/nccl_load.h"
#include "collectives/trade.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { NCCL_WORDS = 1024 }; // how far a host may run ahead and still be compared

struct nccl_channel {
    struct trade trade;
    _Atomic(void *) comm; // taken out by whoever aborts it
    _Atomic uint64_t *words, *counts;
    uint32_t epoch, exchanges;
    void *stream; // of the last call; NULL may be a stream too
    bool outstanding;
    uint64_t since_us;
};

struct nccl_state {
    struct trade *trade[COLL_CHANNELS_MAX]; // what trade_of looks at
    struct nccl_channel channel[COLL_CHANNELS_MAX];
    struct nccl lib;
};

static struct nccl_state *state_of(const struct coll_group *g)
{
    return g->main->state;
}

static struct nccl_channel *channel_of(const struct coll_group *g)
{
    return &state_of(g)->channel[g->channel];
}

static enum status probe(const struct coll_args *args, struct error *err)
{
    struct nccl lib;
    TRY(nccl_load(args->nccl_library, &lib, err));
    nccl_unload(&lib);
    return STATUS_OK;
}

static size_t words_bytes(size_t size)
{
    return size * NCCL_WORDS * sizeof(uint64_t);
}

static size_t channel_bytes(size_t size)
{
    return words_bytes(size) + 2 * size * size * sizeof(uint64_t);
}

static size_t segment_bytes(uint32_t size, uint32_t channels, size_t heap_bytes)
{
    (void)heap_bytes;
    return channel_bytes(size) * channels;
}

static enum status run(struct coll_group *g, struct trade_block *blocks, void *stream);

static int async_error(const struct coll_group *g)
{
    int result = NCCL_OK;
    void *comm = atomic_load(&channel_of(g)->comm);
    if (comm == NULL)
        return NCCL_OK; // aborted: the poison says why
    int rc = state_of(g)->lib.comm_async_error(comm, &result);
    return rc != NCCL_OK ? rc : result;
}

// Waits until NCCL has done what it began on the host.
static enum status settle(const struct coll_group *g, int rc, struct error *err)
{
    uint64_t start = clock_now_us();
    while (rc == NCCL_IN_PROGRESS) {
        if (!segment_well(g->segment))
            return status_fail(err, STATUS_ABORTED, "the group was ended");
        if (clock_now_us() - start > (uint64_t)g->timeout_ms * 1000)
            return status_fail(
                err, STATUS_TIMEOUT, "NCCL did not get on for %u ms", (unsigned)g->timeout_ms);
        sched_yield();
        rc = async_error(g);
    }
    return rc == NCCL_OK ? STATUS_OK
                         : status_fail(err, STATUS_DEVICE_FAILED, "NCCL reports: %s",
                               state_of(g)->lib.error_string(rc));
}

static enum status open_channel(
    struct coll_group *g, struct bootstrap *b, const struct coll_device *device, struct error *err)
{
    struct nccl_state *s = state_of(g);
    struct nccl_channel *c = channel_of(g);
    struct nccl_id mine = {{0}}, all[COLL_RANKS_MAX];
    struct nccl_config config = {.size = sizeof config,
        .magic = (unsigned)NCCL_CONFIG_MAGIC,
        .version = NCCL_VERSION_LEAST,
        .blocking = 0};
    void *comm = NULL;
    uint8_t *at = g->segment->body + g->channel * channel_bytes(g->size);
    c->words = (_Atomic uint64_t *)(void *)at;
    c->counts = (_Atomic uint64_t *)(void *)(at + words_bytes(g->size));
    TRY(trade_open(g, &c->trade, device, err));
    int rc = g->rank == 0 ? s->lib.get_unique_id(&mine) : NCCL_OK;
    TRY(b->all_gather(b, &mine, sizeof mine, all, err));
    if (rc == NCCL_OK)
        rc = s->lib.comm_init(&comm, (int)g->size, all[0], (int)g->rank, &config);
    atomic_store(&c->comm, comm);
    return settle(g, rc, err);
}

static enum status open_nccl(
    struct coll_group *g, struct bootstrap *b, const struct coll_args *args, struct error *err)
{
    struct nccl_state *s = calloc(1, sizeof *s);
    void *heap = NULL;
    if (s == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a group");
    g->state = s;
    TRY(nccl_load(args->nccl_library, &s->lib, err));
    for (uint32_t k = 0; k < g->n_channels; k++) {
        s->channel[k].trade.run = run;
        s->trade[k] = &s->channel[k].trade;
        TRY(open_channel(&g[k], b, args->device, err));
    }
    TRY(args->device->take(args->device->context, g->heap_bytes, &heap, err));
    g->heap = heap;
    return STATUS_OK;
}

static void abort_nccl(struct coll_group *g)
{
    struct nccl_state *s = state_of(g);
    for (uint32_t k = 0; s != NULL && k < g->n_channels; k++) {
        void *comm = atomic_exchange(&s->channel[k].comm, NULL);
        if (comm != NULL)
            (void)s->lib.comm_abort(comm);
    }
}

// Streams have been waited for, or what they still hold is given up: so aborting is right, and it
// needs nobody else.
static void close_nccl(struct coll_group *g)
{
    struct nccl_state *s = g->state;
    if (s == NULL)
        return;
    abort_nccl(g);
    for (uint32_t k = 0; k < g->n_channels; k++)
        if (s->channel[k].trade.device != NULL)
            trade_close(&s->channel[k].trade);
    if (g->heap != NULL)
        g->device->give(g->device->context, g->heap);
    nccl_unload(&s->lib);
    free(s);
    g->heap = NULL;
    g->state = NULL;
}

// Begins the next step of the channel: tells the others which call it belongs to, and compares.
static enum status step(struct coll_group *g, void *stream)
{
    struct nccl_channel *c = channel_of(g);
    uint32_t e = ++c->epoch;
    uint64_t word = (uint64_t)g->signature << 32 | e;
    atomic_store(&c->words[g->rank * NCCL_WORDS + e % NCCL_WORDS], word);
    for (uint32_t q = 0; q < g->size; q++) {
        uint64_t other = atomic_load(&c->words[q * NCCL_WORDS + e % NCCL_WORDS]);
        if ((uint32_t)other == e && other != word)
            return group_fail(g, STATUS_MISMATCH, q);
    }
    c->stream = stream;
    c->outstanding = true;
    c->since_us = clock_now_us();
    return STATUS_OK;
}

static enum status finish(struct coll_group *g, int rc)
{
    struct error local = {0};
    enum status s = settle(g, rc, &local);
    return s == STATUS_OK ? s : group_fail_because(g, s, "%s", local.text);
}

static _Atomic uint64_t *count_of(struct coll_group *g, uint32_t to, uint32_t from)
{
    struct nccl_channel *c = channel_of(g);
    return &c->counts[((c->exchanges & 1) * g->size + to) * g->size + from];
}

// Sizes that only the sender knows go through the segment. Two sets in turn: a sender is at most
// one exchange ahead of a receiver, because it needs the receiver's own size to go on.
static enum status trade_counts(struct coll_group *g, struct trade_block *blocks)
{
    struct nccl_channel *c = channel_of(g);
    uint32_t n = ++c->exchanges;
    for (uint32_t q = 0; q < g->size; q++)
        if (blocks[q].sends && blocks[q].send_bytes > UINT32_MAX)
            return group_fail_because(g, STATUS_TOO_LARGE, "a block of more than 4 GiB");
    for (uint32_t q = 0; q < g->size; q++)
        if (blocks[q].sends)
            atomic_store(
                count_of(g, q, g->rank), (uint64_t)n << 32 | (uint32_t)blocks[q].send_bytes);
    for (uint32_t q = 0; q < g->size; q++) {
        struct segment_wait w = {.timeout_ms = g->timeout_ms};
        uint64_t got = 0;
        if (!blocks[q].receives)
            continue;
        while ((uint32_t)((got = atomic_load(count_of(g, g->rank, q))) >> 32) != n) {
            enum status s = segment_wait_turn(g->segment, &w, q);
            if (s != STATUS_OK)
                return group_fail(g, s, q);
        }
        if ((uint32_t)got > blocks[q].receive_bytes)
            return group_fail(g, STATUS_MISMATCH, q);
        blocks[q].receive_bytes = (uint32_t)got;
    }
    return STATUS_OK;
}

static enum status run(struct coll_group *g, struct trade_block *blocks, void *stream)
{
    struct nccl_channel *c = channel_of(g);
    const struct nccl *lib = &state_of(g)->lib;
    bool bounded = false;
    for (uint32_t q = 0; q < g->size; q++)
        bounded |= blocks[q].receives && !blocks[q].exact;
    TRY(step(g, stream));
    if (bounded)
        TRY(trade_counts(g, blocks));
    void *comm = atomic_load(&c->comm);
    if (comm == NULL)
        return group_fail(g, STATUS_ABORTED, g->rank);
    int rc = lib->group_start();
    for (uint32_t q = 0; q < g->size && rc == NCCL_OK; q++) {
        const struct trade_block *b = &blocks[q];
        if (b->sends && b->send_bytes > 0)
            rc = lib->send(b->send, b->send_bytes, NCCL_UINT8, (int)q, comm, stream);
        if (b->receives && b->receive_bytes > 0 && rc == NCCL_OK)
            rc = lib->receive(b->receive, b->receive_bytes, NCCL_UINT8, (int)q, comm, stream);
    }
    int end = lib->group_end();
    return finish(g, rc != NCCL_OK ? rc : end);
}

// Sizes in device memory go along as blocks of their own, and slots go whole: the host never learns
// the sizes, so the call can be captured.
static enum status exchange_device(struct coll_group *g, const struct coll_exchange_args *a)
{
    struct trade_block size[COLL_RANKS_MAX] = {0}, block[COLL_RANKS_MAX] = {0};
    const struct coll_device *d = g->main->device;
    uint8_t *slots = a->receive;
    for (uint32_t q = 0; q < g->size; q++) {
        if ((a->peers >> q & 1) == 0)
            continue;
        size[q] = (struct trade_block){true, true, true, a->device_send_bytes + q, sizeof(uint32_t),
            a->device_receive_bytes + q, sizeof(uint32_t)};
        block[q] = (struct trade_block){
            true, true, true, a->send[q], a->slot_bytes, slots + q * a->slot_bytes, a->slot_bytes};
    }
    const struct trade_block own[] = {size[g->rank], block[g->rank]};
    size[g->rank] = block[g->rank] = (struct trade_block){0};
    TRY(run(g, size, a->stream));
    TRY(run(g, block, a->stream));
    for (int i = 0; i < 2 && own[0].sends; i++)
        if (d->copy(d->context, own[i].receive, own[i].send, own[i].send_bytes, a->stream) !=
            STATUS_OK)
            return group_fail_because(g, STATUS_DEVICE_FAILED, "the device reports a failure");
    return STATUS_OK;
}

static enum status exchange(struct coll_group *g, const struct coll_exchange_args *a)
{
    return a->counts == COLL_COUNTS_DEVICE ? exchange_device(g, a) : trade_exchange(g, a);
}

static bool is_native(const struct coll_group *g, size_t bytes, bool symmetric)
{
    const struct tuning *t = &g->main->tuning;
    return g->main->native && (t->built_in || tuning_pick(t, symmetric, bytes) == TUNING_NATIVE);
}

static enum status all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a)
{
    if (a->count == 0 || !is_native(g, a->count * dtype_bytes(a->dtype), a->symmetric))
        return trade_all_reduce(g, a);
    TRY(step(g, a->stream));
    void *comm = atomic_load(&channel_of(g)->comm);
    if (comm == NULL)
        return group_fail(g, STATUS_ABORTED, g->rank);
    int type = a->dtype == DTYPE_F32 ? NCCL_F32 : a->dtype == DTYPE_F16 ? NCCL_F16 : NCCL_BF16;
    return finish(g, state_of(g)->lib.all_reduce(a->buffer, a->buffer, a->count, type,
                         a->op == COLL_SUM ? NCCL_SUM : NCCL_MAX, comm, a->stream));
}

static enum status poll_nccl(struct coll_group *g, struct error *err)
{
    struct nccl_channel *c = channel_of(g);
    if (!c->outstanding)
        return STATUS_OK;
    enum status s = g->main->device->query(g->main->device->context, c->stream);
    if (s == STATUS_OK)
        c->outstanding = false;
    if (s == STATUS_OK)
        return s;
    if (s != STATUS_AGAIN)
        return status_fail(err, s, "the device reports a failure");
    int rc = async_error(g);
    if (rc != NCCL_OK && rc != NCCL_IN_PROGRESS)
        return status_fail(
            err, STATUS_DEVICE_FAILED, "NCCL reports: %s", state_of(g)->lib.error_string(rc));
    for (uint32_t q = 0; q < g->size; q++)
        if (q != g->rank && segment_peer_gone(g->segment, q))
            return status_fail(err, STATUS_PEER_GONE, "rank %u has left or ended", (unsigned)q);
    if (clock_now_us() - c->since_us > (uint64_t)g->timeout_ms * 1000)
        return status_fail(
            err, STATUS_TIMEOUT, "an operation took longer than %u ms", (unsigned)g->timeout_ms);
    return STATUS_OK;
}

static const char *algorithm(
    const struct coll_group *g, const char *operation, size_t bytes, bool symmetric)
{
    if (strncmp(operation, "all_reduce", 10) == 0 && is_native(g, bytes, symmetric))
        return "native (inexact)";
    return trade_algorithm(g, operation, bytes, symmetric);
}

const struct coll_backend backend_nccl = {
    .name = "nccl",
    .on_device = true,
    .probe = probe,
    .segment_bytes = segment_bytes,
    .open = open_nccl,
    .close = close_nccl,
    .all_reduce = all_reduce,
    .all_reduce_norm = trade_all_reduce_norm,
    .reduce_scatter = trade_reduce_scatter,
    .all_gather = trade_all_gather,
    .broadcast = trade_broadcast,
    .barrier = trade_barrier,
    .exchange = exchange,
    .abort = abort_nccl,
    .poll = poll_nccl,
    .algorithm = algorithm,
};
