// SPDX-License-Identifier: Apache-2.0
// The back end on devices that reach each other's memory: the host's side. It maps all members'
// memory, once (backend_cuda_share.c), and then only enqueues the kernels of
// collectives/cuda/device.h into the caller's streams; calls may be captured in graphs. CUDA is
// behind the table of the device (collectives/cuda/peers.h).
//
// Kernels have their own deadline, notice calls that differ, and tell all members when one gives
// up; coll_poll brings that to light, and it looks after processes that have ended.
#include "collectives/backend_cuda.h"

#include "base/clock.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum {
    CUDA_ALIGNMENT = 256,
    // A peer that is gone may have done its part of what still runs here.
    CUDA_GRACE_US = 100000,
    // How long memory that others may have mapped is kept for them (cudaIpc).
    CUDA_CLOSE_US = 1000000,
};

_Static_assert(CUDA_RECEIVED + COLL_CHANNELS_MAX * COLL_DEVICE_RANKS_MAX * sizeof(uint32_t) <=
                   CUDA_WORDS_BYTES,
    "the words hold the sizes of all channels");
_Static_assert((int)COLL_DEVICE_SOURCES_MAX >= (int)COLL_RANKS_MAX, "sums of all ranks");

// In the group's control segment: who has unmapped the others' memory.
struct cuda_shared {
    _Atomic uint32_t closed[COLL_DEVICE_RANKS_MAX];
};

static struct cuda_channel *channel_of(const struct coll_group *g)
{
    return &cuda_state_of(g)->channel[g->channel];
}

static struct cuda_shared *shared_of(const struct coll_group *g)
{
    return (struct cuda_shared *)(void *)g->segment->body;
}

static enum status probe(const struct coll_args *args, struct error *err)
{
    if (args->device->peers == NULL)
        return status_fail(
            err, STATUS_UNSUPPORTED, "the device has no memory that other members can map");
    return STATUS_OK;
}

static size_t segment_bytes(uint32_t size, uint32_t channels, size_t heap_bytes)
{
    (void)size;
    (void)channels;
    (void)heap_bytes;
    return sizeof(struct cuda_shared);
}

// ---- life cycle --------------------------------------------------------------------------------

static size_t round_up(size_t n)
{
    return (n + CUDA_ALIGNMENT - 1) / CUDA_ALIGNMENT * CUDA_ALIGNMENT;
}

static enum status open_channel(struct coll_group *g, struct error *err)
{
    struct cuda_state *s = cuda_state_of(g);
    void *pads[COLL_DEVICE_RANKS_MAX], *heaps[COLL_DEVICE_RANKS_MAX];
    for (uint32_t r = 0; r < g->size; r++) {
        uint8_t *base = s->memory[r].p;
        pads[r] = base + CUDA_WORDS_BYTES + g->channel * s->pad_bytes;
        heaps[r] = base + s->heap_at;
    }
    return s->peers->open(
        &(struct coll_device_args){.rank = g->rank,
            .size = g->size,
            .blocks = s->peers->blocks,
            .threads = s->peers->threads,
            .pads = pads,
            .heaps = heaps,
            .heap_bytes = g->main->heap_bytes,
            .multicast_heap =
                s->multicast.p != NULL ? (uint8_t *)s->multicast.p + s->heap_at : NULL,
            .timeout_ms = g->timeout_ms},
        &channel_of(g)->group, err);
}

static enum status open_cuda(
    struct coll_group *g, struct bootstrap *b, const struct coll_args *args, struct error *err)
{
    if (g->size > COLL_DEVICE_RANKS_MAX)
        return status_fail(err, STATUS_UNSUPPORTED, "%u ranks: devices share memory among up to %d",
            (unsigned)g->size, (int)COLL_DEVICE_RANKS_MAX);
    struct cuda_state *s = calloc(1, sizeof *s);
    g->state = s;
    TRY(backend_cuda_share_agree(g, b,
        s != NULL ? STATUS_OK : status_fail(err, STATUS_NO_MEMORY, "no memory for a group"), err));
    s->peers = args->device->peers;
    s->context = args->device->context;
    s->pad_bytes = round_up(s->peers->pad_bytes(g->size, s->peers->blocks));
    s->heap_at = CUDA_WORDS_BYTES + g->n_channels * s->pad_bytes;
    s->bytes = s->heap_at + g->heap_bytes;
    TRY(backend_cuda_share(g, b, err));
    backend_cuda_share_multicast(g, b);
    g->heap = (uint8_t *)s->memory[g->rank].p + s->heap_at;
    for (uint32_t k = 0; k < g->n_channels; k++)
        TRY(open_channel(&g[k], err));
    return STATUS_OK;
}

static void abort_cuda(struct coll_group *g)
{
    struct cuda_state *s = cuda_state_of(g);
    for (uint32_t k = 0; s != NULL && k < g->main->n_channels; k++)
        if (s->channel[k].group != NULL)
            s->peers->abort(s->channel[k].group);
}

// Whether all others have unmapped this rank's memory, or are no more.
static bool all_closed(const struct coll_group *g)
{
    for (uint32_t r = 0; r < g->size; r++)
        if (r != g->rank &&
            atomic_load_explicit(&shared_of(g)->closed[r], memory_order_acquire) == 0 &&
            !segment_peer_gone(g->segment, r))
            return false;
    return true;
}

// Kernels that still wait end first. Memory of cudaIpc that others have mapped must not be given
// back; where they do not let go of it in time it stays until the process ends.
static void close_cuda(struct coll_group *g)
{
    struct cuda_state *s = g->state;
    if (s == NULL)
        return;
    abort_cuda(g);
    s->peers->multicast_give(s->context, &s->multicast);
    backend_cuda_share_give_imports(g);
    atomic_store_explicit(&shared_of(g)->closed[g->rank], 1, memory_order_release);
    uint64_t start = clock_now_us();
    while (s->way == COLL_PEERS_IPC && !all_closed(g) && clock_now_us() - start < CUDA_CLOSE_US)
        clock_sleep_us(100);
    if (s->way == COLL_PEERS_FD || all_closed(g))
        s->peers->give(s->context, &s->memory[g->rank]);
    for (uint32_t k = 0; k < g->n_channels; k++)
        if (s->channel[k].group != NULL)
            s->peers->close(s->channel[k].group);
    free(s);
    g->heap = NULL;
    g->state = NULL;
}

// Whether a kernel still waits some time after the peer was missed. What runs is not asked of
// streams: a graph may be replayed in any, and one that was captured from may be gone.
static bool waits_in_vain(struct coll_group *g)
{
    struct cuda_channel *c = channel_of(g);
    uint64_t now = clock_now_us();
    uint32_t waits = cuda_state_of(g)->peers->waits(c->group);
    if (c->gone_us == 0)
        c->gone_us = now;
    if (now - c->gone_us <= CUDA_GRACE_US)
        return false;
    bool changed = c->graced && waits != c->waits;
    c->graced = true;
    c->waits = waits;
    return changed;
}

static enum status poll_cuda(struct coll_group *g, struct error *err)
{
    TRY(cuda_state_of(g)->peers->poll(channel_of(g)->group, err));
    for (uint32_t q = 0; q < g->size; q++)
        if (q != g->rank && segment_peer_gone(g->segment, q))
            return waits_in_vain(g) ? status_fail(err, STATUS_PEER_GONE,
                                          "rank %u has left or ended", (unsigned)q)
                                    : STATUS_OK;
    return STATUS_OK;
}

// ---- operations --------------------------------------------------------------------------------

// What all members refuse alike, for their arguments, does no harm; everything else ends the group.
static enum status done(struct coll_group *g, enum status s, const struct error *err)
{
    if (s == STATUS_OK)
        return s;
    if (s == STATUS_INVALID || s == STATUS_UNSUPPORTED || s == STATUS_TOO_LARGE)
        return group_refuse(g, s, "%s", err->text);
    return group_fail_because(g, s, "%s", err->text);
}

static enum coll_device_algorithm pick(const struct coll_group *g, size_t bytes, bool symmetric)
{
    switch (tuning_pick(&g->main->tuning, symmetric, bytes)) {
    case TUNING_MULTIMEM:
        // Whole words of 16 bytes only. The address exists only where inexact sums are allowed.
        return symmetric && bytes % 16 == 0 && cuda_state_of(g)->multicast.p != NULL
                   ? COLL_DEVICE_MULTICAST
                   : COLL_DEVICE_TWO_SHOT;
    case TUNING_LL:
        return COLL_DEVICE_PACKETS;
    case TUNING_ONE_SHOT:
        return COLL_DEVICE_ONE_SHOT;
    default:
        return COLL_DEVICE_TWO_SHOT;
    }
}

static enum status all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a)
{
    struct error err = {0};
    struct coll_device_reduce_args d = {.in = a->buffer,
        .out = a->buffer,
        .count = a->count,
        .dtype = a->dtype,
        .max = a->op == COLL_MAX,
        .symmetric = a->symmetric,
        .algorithm = pick(g, a->count * dtype_bytes(a->dtype), a->symmetric),
        .stream = a->stream};
    // The switch adds only, and where words of 16 bytes begin.
    bool words = ((const uint8_t *)a->buffer - g->heap) % 16 == 0;
    if (d.algorithm == COLL_DEVICE_MULTICAST && (d.max || !words))
        d.algorithm = COLL_DEVICE_TWO_SHOT;
    enum status s = cuda_state_of(g)->peers->all_reduce(channel_of(g)->group, &d, &err);
    return done(g, s, &err);
}

// Packets carry few bytes well: what they serve is summed and normed in one kernel, the rest in
// two.
static bool fuses(const struct coll_group *g, size_t bytes, size_t dim, bool symmetric)
{
    return pick(g, bytes, symmetric) == COLL_DEVICE_PACKETS && dim <= COLL_DEVICE_DIM_MAX;
}

static enum status norm_alone(struct coll_group *g, const struct coll_all_reduce_norm_args *a)
{
    const struct coll_device *d = g->main->device;
    enum status s = d->norm(d->context, a, a->stream);
    return done(g, s, &(struct error){.text = "the norm failed on the device"});
}

static enum status all_reduce_norm(struct coll_group *g, const struct coll_all_reduce_norm_args *a)
{
    struct error err = {0};
    size_t count = a->n_rows * a->dim, bytes = count * dtype_bytes(a->dtype);
    if (g->size > 1 && count > 0 && fuses(g, bytes, a->dim, a->symmetric)) {
        struct coll_device_norm_args d = {.x = a->x,
            .residual = a->residual,
            .bias = a->bias,
            .weight = a->weight,
            .dtype = a->dtype,
            .weight_dtype = a->weight_dtype,
            .out = a->out,
            .rows = (uint32_t)a->n_rows,
            .dim = (uint32_t)a->dim,
            .scale = a->residual_scale,
            .offset = a->weight_offset,
            .eps = a->eps,
            .stream = a->stream};
        enum status s = cuda_state_of(g)->peers->norm(channel_of(g)->group, &d, &err);
        return done(g, s, &err);
    }
    if (g->size > 1)
        TRY(all_reduce(g, &(struct coll_all_reduce_args){.buffer = a->x,
                              .count = count,
                              .dtype = a->dtype,
                              .op = COLL_SUM,
                              .symmetric = a->symmetric,
                              .stream = a->stream}));
    return count > 0 ? norm_alone(g, a) : STATUS_OK;
}

static enum status reduce_scatter(struct coll_group *g, const struct coll_reduce_scatter_args *a)
{
    struct error err = {0};
    struct coll_device_reduce_args d = {.in = a->in,
        .out = a->out,
        .count = a->count,
        .dtype = a->dtype,
        .max = a->op == COLL_MAX,
        .stream = a->stream};
    enum status s = cuda_state_of(g)->peers->reduce_scatter(channel_of(g)->group, &d, &err);
    return done(g, s, &err);
}

static enum status all_gather(struct coll_group *g, const struct coll_all_gather_args *a)
{
    struct error err = {0};
    enum status s = cuda_state_of(g)->peers->all_gather(
        channel_of(g)->group, a->in, a->out, a->bytes, a->stream, &err);
    return done(g, s, &err);
}

static enum status broadcast(struct coll_group *g, const struct coll_broadcast_args *a)
{
    struct error err = {0};
    enum status s = cuda_state_of(g)->peers->broadcast(
        channel_of(g)->group, a->buffer, a->bytes, a->root, a->stream, &err);
    return done(g, s, &err);
}

static enum status barrier(struct coll_group *g, void *stream)
{
    struct error err = {0};
    enum status s = cuda_state_of(g)->peers->barrier(channel_of(g)->group, stream, &err);
    return done(g, s, &err);
}

// Sizes that only the sender knows have to come to the host: so this one waits for its stream.
static enum status fetch_sizes(
    struct coll_group *g, const struct coll_exchange_args *a, const uint32_t *received)
{
    const struct coll_device *d = g->main->device;
    uint32_t sizes[COLL_DEVICE_RANKS_MAX] = {0};
    enum status s = d->copy(d->context, sizes, received, g->size * sizeof *sizes, a->stream);
    while (s == STATUS_OK && (s = d->query(d->context, a->stream)) == STATUS_AGAIN) {
        s = coll_poll(g);
        if (s != STATUS_OK)
            return s;
        sched_yield();
    }
    if (s != STATUS_OK)
        return group_fail_because(g, s, "the sizes of an exchange could not be fetched");
    TRY(coll_poll(g));
    for (uint32_t q = 0; q < g->size; q++)
        if ((a->peers >> q & 1) != 0)
            a->receive_bytes[q] = sizes[q];
    return STATUS_OK;
}

static enum status exchange(struct coll_group *g, const struct coll_exchange_args *a)
{
    struct error err = {0};
    bool on_device = a->counts == COLL_COUNTS_DEVICE;
    uint32_t *words = cuda_words_of(g, g->rank) + CUDA_RECEIVED / sizeof(uint32_t);
    uint32_t *received = words + g->channel * COLL_DEVICE_RANKS_MAX;
    struct coll_device_exchange_args d = {.peers = a->peers,
        .device_counts = on_device ? a->device_send_bytes : NULL,
        .fixed = a->counts == COLL_COUNTS_FIXED,
        .received = on_device ? a->device_receive_bytes : received,
        .receive = a->receive,
        .slot_bytes = a->slot_bytes,
        .stream = a->stream};
    for (uint32_t q = 0; q < g->size; q++) {
        if ((a->peers >> q & 1) == 0)
            continue;
        d.send[q] = a->send[q];
        d.send_bytes[q] = on_device ? 0 : a->send_bytes[q];
        d.receive_bytes[q] = d.fixed ? a->receive_bytes[q] : 0;
    }
    enum status s = cuda_state_of(g)->peers->exchange(channel_of(g)->group, &d, &err);
    TRY(done(g, s, &err));
    return a->counts == COLL_COUNTS_BOUNDED ? fetch_sizes(g, a, received) : STATUS_OK;
}

static const char *algorithm(
    const struct coll_group *g, const char *operation, size_t bytes, bool symmetric)
{
    static const char *const names[] = {
        [COLL_DEVICE_PACKETS] = "ll, flags in the data, pushed",
        [COLL_DEVICE_ONE_SHOT] = "one_shot, pushed",
        [COLL_DEVICE_TWO_SHOT] = "two_shot, pushed",
        [COLL_DEVICE_MULTICAST] = "multimem, summed by the switch (inexact; maxima: two_shot)",
    };
    if (strcmp(operation, "exchange") == 0)
        return "push into the receivers' heaps";
    if (strncmp(operation, "all_reduce", 10) != 0)
        return "pushed in pieces";
    enum coll_device_algorithm a = pick(g, bytes, symmetric);
    return symmetric && a == COLL_DEVICE_TWO_SHOT ? "two_shot in the heaps" : names[a];
}

static const char *reach(const struct coll_group *g)
{
    return cuda_state_of(g)->reach;
}

const struct coll_backend backend_cuda = {
    .name = "cuda",
    .on_device = true,
    .recorded = true,
    .probe = probe,
    .segment_bytes = segment_bytes,
    .open = open_cuda,
    .close = close_cuda,
    .all_reduce = all_reduce,
    .all_reduce_norm = all_reduce_norm,
    .reduce_scatter = reduce_scatter,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .barrier = barrier,
    .exchange = exchange,
    .abort = abort_cuda,
    .poll = poll_cuda,
    .algorithm = algorithm,
    .reach = reach,
};
