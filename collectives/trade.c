// SPDX-License-Identifier: Apache-2.0
#include "collectives/trade.h"

#include "base/check.h"

#include <string.h>

struct trade *trade_of(const struct coll_group *g)
{
    struct trade *const *all = g->main->state;
    return all[g->channel];
}

enum status trade_open(
    struct coll_group *g, struct trade *t, const struct coll_device *device, struct error *err)
{
    t->device = device;
    return device->take(device->context, (size_t)g->size * TRADE_CHUNK_BYTES, &t->scratch, err);
}

void trade_close(struct trade *t)
{
    if (t->scratch != NULL)
        t->device->give(t->device->context, t->scratch);
    t->scratch = NULL;
}

// A device's failure ends the group.
static enum status device(struct coll_group *g, enum status s)
{
    return s == STATUS_OK ? s : group_fail_because(g, s, "the device reports a failure");
}

static enum status copy(
    struct coll_group *g, void *dst, const void *src, size_t bytes, void *stream)
{
    const struct coll_device *d = trade_of(g)->device;
    if (bytes == 0 || dst == src)
        return STATUS_OK;
    return device(g, d->copy(d->context, dst, src, bytes, stream));
}

static uint8_t *scratch_of(const struct coll_group *g, uint32_t rank)
{
    return (uint8_t *)trade_of(g)->scratch + (size_t)rank * TRADE_CHUNK_BYTES;
}

// Sums what the others have sent into the scratch, and `mine`, in rank order.
struct sum {
    const void *mine;
    void *out;
    size_t count;
    enum dtype dtype;
    enum coll_op op;
    void *stream;
};

static enum status sum(struct coll_group *g, const struct sum *s)
{
    const struct coll_device *d = trade_of(g)->device;
    const void *src[COLL_RANKS_MAX];
    void *dst = s->out;
    if (s->count == 0)
        return STATUS_OK;
    for (uint32_t q = 0; q < g->size; q++)
        src[q] = q == g->rank ? s->mine : scratch_of(g, q);
    return device(
        g, d->reduce(d->context, &dst, 1, src, g->size, s->count, s->dtype, s->op, s->stream));
}

// `send` to everybody; theirs, as many bytes, to receive + q * stride.
static enum status gather(struct coll_group *g, const void *send, size_t bytes, void *receive,
    size_t stride, void *stream)
{
    struct trade_block b[COLL_RANKS_MAX] = {0};
    for (uint32_t q = 0; q < g->size; q++)
        if (q != g->rank)
            b[q] = (struct trade_block){.sends = true,
                .receives = true,
                .exact = true,
                .send = send,
                .send_bytes = bytes,
                .receive = (uint8_t *)receive + q * stride,
                .receive_bytes = bytes};
    return trade_of(g)->run(g, b, stream);
}

// One chunk of a buffer, its elements dealt in slices.
struct chunk {
    uint8_t *at;
    size_t count, e;
    enum dtype dtype;
    enum coll_op op;
    void *stream;
};

static enum status one_shot(struct coll_group *g, const struct chunk *c)
{
    size_t bytes = c->count * c->e;
    TRY(gather(g, c->at, bytes, scratch_of(g, 0), TRADE_CHUNK_BYTES, c->stream));
    return sum(g, &(struct sum){c->at, c->at, c->count, c->dtype, c->op, c->stream});
}

static enum status two_shot(struct coll_group *g, const struct chunk *c)
{
    struct trade_block b[COLL_RANKS_MAX] = {0};
    size_t begin, n, mine, count;
    coll_slice(c->count, g->size, g->rank, &mine, &count);
    for (uint32_t q = 0; q < g->size; q++) {
        coll_slice(c->count, g->size, q, &begin, &n);
        if (q != g->rank)
            b[q] = (struct trade_block){.sends = true,
                .receives = true,
                .exact = true,
                .send = c->at + begin * c->e,
                .send_bytes = n * c->e,
                .receive = scratch_of(g, q),
                .receive_bytes = count * c->e};
    }
    TRY(trade_of(g)->run(g, b, c->stream));
    uint8_t *own = c->at + mine * c->e;
    TRY(sum(g, &(struct sum){own, own, count, c->dtype, c->op, c->stream}));
    for (uint32_t q = 0; q < g->size; q++) {
        coll_slice(c->count, g->size, q, &begin, &n);
        b[q].send = own;
        b[q].send_bytes = count * c->e;
        b[q].receive = c->at + begin * c->e;
        b[q].receive_bytes = n * c->e;
    }
    return trade_of(g)->run(g, b, c->stream);
}

enum status trade_all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a)
{
    size_t e = dtype_bytes(a->dtype), most = TRADE_CHUNK_BYTES / e;
    enum tuning_algorithm pick = tuning_pick(&g->main->tuning, a->symmetric, a->count * e);
    if (a->count == 0)
        return trade_barrier(g, a->stream);
    for (size_t at = 0; at < a->count; at += most) {
        size_t n = a->count - at < most ? a->count - at : most;
        struct chunk c = {(uint8_t *)a->buffer + at * e, n, e, a->dtype, a->op, a->stream};
        TRY(pick == TUNING_ONE_SHOT && a->count <= most ? one_shot(g, &c) : two_shot(g, &c));
    }
    return STATUS_OK;
}

enum status trade_all_reduce_norm(struct coll_group *g, const struct coll_all_reduce_norm_args *a)
{
    const struct coll_device *d = trade_of(g)->device;
    if (g->size > 1)
        TRY(g->backend->all_reduce(g, &(struct coll_all_reduce_args){.buffer = a->x,
                                          .count = a->n_rows * a->dim,
                                          .dtype = a->dtype,
                                          .op = COLL_SUM,
                                          .symmetric = a->symmetric,
                                          .stream = a->stream}));
    return a->n_rows * a->dim == 0 ? STATUS_OK : device(g, d->norm(d->context, a, a->stream));
}

// Elements [at, at + part) of slice `rank`, cut off at its end.
static size_t part_of(const struct coll_group *g, const struct coll_reduce_scatter_args *a,
    uint32_t rank, size_t at, size_t part, size_t *begin)
{
    size_t n;
    coll_slice(a->count, g->size, rank, begin, &n);
    *begin += at;
    return at >= n ? 0 : n - at < part ? n - at : part;
}

enum status trade_reduce_scatter(struct coll_group *g, const struct coll_reduce_scatter_args *a)
{
    size_t e = dtype_bytes(a->dtype), part = TRADE_CHUNK_BYTES / e, begin, longest;
    coll_slice(a->count, g->size, 0, &begin, &longest);
    for (size_t at = 0; at < longest || at == 0; at += part) {
        struct trade_block b[COLL_RANKS_MAX] = {0};
        size_t mine, count = part_of(g, a, g->rank, at, part, &mine);
        for (uint32_t q = 0; q < g->size; q++) {
            size_t n = part_of(g, a, q, at, part, &begin);
            if (q != g->rank)
                b[q] = (struct trade_block){.sends = true,
                    .receives = true,
                    .exact = true,
                    .send = (const uint8_t *)a->in + begin * e,
                    .send_bytes = n * e,
                    .receive = scratch_of(g, q),
                    .receive_bytes = count * e};
        }
        TRY(trade_of(g)->run(g, b, a->stream));
        TRY(sum(g, &(struct sum){(const uint8_t *)a->in + mine * e, (uint8_t *)a->out + at * e,
                       count, a->dtype, a->op, a->stream}));
    }
    return STATUS_OK;
}

enum status trade_all_gather(struct coll_group *g, const struct coll_all_gather_args *a)
{
    uint8_t *own = (uint8_t *)a->out + g->rank * a->bytes;
    TRY(copy(g, own, a->in, a->bytes, a->stream));
    return gather(g, own, a->bytes, a->out, a->bytes, a->stream);
}

enum status trade_broadcast(struct coll_group *g, const struct coll_broadcast_args *a)
{
    struct trade_block b[COLL_RANKS_MAX] = {0};
    bool root = g->rank == a->root;
    for (uint32_t q = 0; q < g->size; q++)
        if (q != g->rank && (root || q == a->root))
            b[q] = (struct trade_block){.sends = root,
                .receives = !root,
                .exact = true,
                .send = a->buffer,
                .send_bytes = a->bytes,
                .receive = a->buffer,
                .receive_bytes = a->bytes};
    return trade_of(g)->run(g, b, a->stream);
}

// A few bytes, because a library need not do anything for none.
enum status trade_barrier(struct coll_group *g, void *stream)
{
    enum { TOKEN_BYTES = 4 };
    return gather(
        g, scratch_of(g, g->rank), TOKEN_BYTES, scratch_of(g, 0), TRADE_CHUNK_BYTES, stream);
}

// Counts "on the device" are host memory here: NCCL has an exchange of its own for them.
enum status trade_exchange(struct coll_group *g, const struct coll_exchange_args *a)
{
    struct trade_block b[COLL_RANKS_MAX] = {0};
    uint8_t *slots = a->receive;
    for (uint32_t q = 0; q < g->size; q++) {
        if ((a->peers >> q & 1) == 0)
            continue;
        size_t n;
        bool fixed = a->counts == COLL_COUNTS_FIXED;
        TRY(group_block(g, a, q, &n));
        b[q] = (struct trade_block){.sends = true,
            .receives = true,
            .exact = fixed,
            .send = a->send[q],
            .send_bytes = n,
            .receive = slots + q * a->slot_bytes,
            .receive_bytes = fixed ? a->receive_bytes[q] : a->slot_bytes};
    }
    struct trade_block own = b[g->rank];
    b[g->rank] = (struct trade_block){0};
    TRY(trade_of(g)->run(g, b, a->stream));
    if (own.sends) {
        if (own.exact && own.send_bytes != own.receive_bytes)
            return group_fail(g, STATUS_MISMATCH, g->rank);
        TRY(copy(g, own.receive, own.send, own.send_bytes, a->stream));
        b[g->rank].receive_bytes = own.send_bytes;
    }
    for (uint32_t q = 0; q < g->size; q++) {
        if ((a->peers >> q & 1) == 0)
            continue;
        if (a->counts == COLL_COUNTS_DEVICE)
            a->device_receive_bytes[q] = (uint32_t)b[q].receive_bytes;
        else
            a->receive_bytes[q] = b[q].receive_bytes;
    }
    return STATUS_OK;
}

const char *trade_algorithm(
    const struct coll_group *g, const char *operation, size_t bytes, bool symmetric)
{
    if (strncmp(operation, "all_reduce", 10) != 0)
        return "blocks between pairs";
    bool one = bytes <= TRADE_CHUNK_BYTES &&
               tuning_pick(&g->main->tuning, symmetric, bytes) == TUNING_ONE_SHOT;
    return one ? "one_shot" : "two_shot";
}
