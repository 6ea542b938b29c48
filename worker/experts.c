// SPDX-License-Identifier: Apache-2.0
#include "worker/experts.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

_Static_assert((int)KERNELS_EXPERT_RANKS_MAX >= (int)COLL_RANKS_MAX, "room for all ranks");

struct experts {
    struct experts_open_args a;
    const struct model_config *m;
    struct coll_group *g;
    uint32_t n_ranks, me, rows_max;
    size_t slot_bytes;
    // In the heap, [n_ranks][slot_bytes]: parts of this rank's rows, and the sums of the others'.
    // Two, since a quick peer sends its sums while slow ones still add.
    uint8_t *parts, *sums;
    // On a device `sums` is what is sent, and these are [n_ranks] each, in the heap: bytes that are
    // sent and that have come.
    uint32_t *sent, *came;
    uint32_t bound[COLL_RANKS_MAX + 1]; // of the ranks' experts
    float *packed;                      // on the host: [rows_max, hidden_dim], what is sent
    const void *send[COLL_RANKS_MAX];
    size_t send_bytes[COLL_RANKS_MAX], receive_bytes[COLL_RANKS_MAX];
};

static uint32_t share_of(uint32_t n_ranks, uint32_t n_rows)
{
    return (n_rows + n_ranks - 1) / n_ranks;
}

static size_t whole(size_t bytes)
{
    return (bytes + 127) & ~(size_t)127;
}

// As wide as f32, whatever the activations are.
static size_t slot_bytes(const struct model_config *m, uint32_t n_ranks, uint32_t rows_max)
{
    return whole((size_t)share_of(n_ranks, rows_max) * m->hidden_dim * sizeof(float));
}

static size_t count_bytes(uint32_t n_ranks)
{
    return whole(n_ranks * sizeof(uint32_t));
}

uint64_t experts_heap_bytes(const struct model_config *m, uint32_t n_ranks, uint32_t rows_max)
{
    return 2ull * n_ranks * slot_bytes(m, n_ranks, rows_max) + 2ull * count_bytes(n_ranks);
}

uint32_t experts_x_rows(uint32_t n_ranks, uint32_t rows_max)
{
    return share_of(n_ranks, rows_max) * n_ranks;
}

static bool take_all(struct experts *e)
{
    e->parts = coll_heap_take(e->g, e->n_ranks * e->slot_bytes);
    e->sums = coll_heap_take(e->g, e->n_ranks * e->slot_bytes);
    e->sent = coll_heap_take(e->g, count_bytes(e->n_ranks));
    e->came = coll_heap_take(e->g, count_bytes(e->n_ranks));
    if (!e->a.kernels->device_memory)
        e->packed = malloc((size_t)e->rows_max * e->m->hidden_dim * sizeof *e->packed);
    return e->parts && e->sums && e->sent && e->came && (e->packed || e->a.kernels->device_memory);
}

enum status experts_open(const struct experts_open_args *args, struct experts **out)
{
    struct experts *e = calloc(1, sizeof *e);
    if (!e)
        return STATUS_NO_MEMORY;
    uint32_t n_ranks = coll_size(args->group);
    *e = (struct experts){.a = *args,
        .m = args->model,
        .g = args->group,
        .n_ranks = n_ranks,
        .me = coll_rank(args->group),
        .rows_max = args->rows_max,
        .slot_bytes = slot_bytes(args->model, n_ranks, args->rows_max)};
    for (uint32_t q = 0; q < n_ranks; q++) {
        struct shard_range r = shard_experts(e->m, n_ranks, q);
        e->bound[q] = r.begin;
        e->bound[q + 1] = r.begin + r.count;
    }
    if (!take_all(e)) {
        experts_close(e);
        return STATUS_NO_MEMORY;
    }
    *out = e;
    return STATUS_OK;
}

void experts_close(struct experts *e)
{
    if (e)
        free(e->packed);
    free(e);
}

// Rows of a step that a rank owns.
struct rows {
    size_t begin, end;
};

static struct rows rows_of(const struct experts *e, uint32_t rank, uint32_t n_rows)
{
    struct rows r;
    size_t count;
    coll_slice(n_rows, e->n_ranks, rank, &r.begin, &count);
    r.end = r.begin + count;
    return r;
}

// Whether the rank has made something of the row.
static bool has_part(const struct experts *e, uint32_t rank, const uint32_t *chosen, size_t row)
{
    struct shard_range mine = shard_experts(e->m, e->n_ranks, rank);
    uint32_t n = e->m->n_experts_per_token;
    for (uint32_t i = 0; i < n; i++)
        if (chosen[row * n + i] - mine.begin < mine.count)
            return true;
    return e->m->shared_ffn_dim > 0;
}

static size_t count_parts(
    const struct experts *e, uint32_t rank, const uint32_t *chosen, struct rows r)
{
    size_t n = 0;
    for (size_t row = r.begin; row < r.end; row++)
        n += has_part(e, rank, chosen, row);
    return n;
}

static size_t row_bytes(const struct experts *e)
{
    return e->m->hidden_dim * sizeof(float);
}

// Packs the parts that this rank has of each peer's rows, and says how many come from each.
static void pack(struct experts *e, const uint32_t *chosen, uint32_t n_rows, const float *x)
{
    size_t dim = e->m->hidden_dim, packed = 0;
    struct rows mine = rows_of(e, e->me, n_rows);
    for (uint32_t q = 0; q < e->n_ranks; q++) {
        struct rows r = rows_of(e, q, n_rows);
        size_t first = packed;
        for (size_t row = r.begin; q != e->me && row < r.end; row++)
            if (has_part(e, e->me, chosen, row))
                memcpy(e->packed + dim * packed++, x + dim * row, row_bytes(e));
        e->send[q] = e->packed + dim * first;
        e->send_bytes[q] = (packed - first) * row_bytes(e);
        e->receive_bytes[q] = q == e->me ? 0 : count_parts(e, q, chosen, mine) * row_bytes(e);
    }
}

// With those peers with which anything is exchanged, in either direction. Called by all ranks, also
// by those that meet nobody: operations of a group are counted.
static enum status exchange(struct experts *e, uint8_t *receive)
{
    uint64_t peers = 0;
    for (uint32_t q = 0; q < e->n_ranks; q++)
        if (e->send_bytes[q] + e->receive_bytes[q] > 0)
            peers |= (uint64_t)1 << q;
    return coll_exchange(e->g, &(struct coll_exchange_args){.counts = COLL_COUNTS_FIXED,
                                   .peers = peers,
                                   .send = e->send,
                                   .send_bytes = e->send_bytes,
                                   .receive = receive,
                                   .slot_bytes = e->slot_bytes,
                                   .receive_bytes = e->receive_bytes});
}

// Adds the parts of this rank's rows in the order of ranks. A row's parts are packed in the order
// of rows, so each source is read along.
static void add_parts(struct experts *e, const uint32_t *chosen, uint32_t n_rows, float *x)
{
    size_t dim = e->m->hidden_dim, seen[COLL_RANKS_MAX] = {0};
    struct rows mine = rows_of(e, e->me, n_rows);
    for (size_t row = mine.begin; row < mine.end; row++) {
        float *own = e->packed, *out = x + dim * row; // what was packed has been sent
        memcpy(own, out, row_bytes(e));
        memset(out, 0, row_bytes(e));
        for (uint32_t q = 0; q < e->n_ranks; q++) {
            if (!has_part(e, q, chosen, row))
                continue;
            const float *part = own;
            if (q != e->me)
                part = (const float *)(void *)(e->parts + q * e->slot_bytes) + dim * seen[q]++;
            for (size_t i = 0; i < dim; i++)
                out[i] += part[i];
        }
    }
}

// Every rank gives the sums of its rows to all.
static enum status share(struct experts *e, uint32_t n_rows, float *x)
{
    struct rows mine = rows_of(e, e->me, n_rows);
    size_t dim = e->m->hidden_dim;
    for (uint32_t q = 0; q < e->n_ranks; q++) {
        struct rows r = rows_of(e, q, n_rows);
        e->send[q] = x + dim * mine.begin;
        e->send_bytes[q] = q == e->me ? 0 : (mine.end - mine.begin) * row_bytes(e);
        e->receive_bytes[q] = q == e->me ? 0 : (r.end - r.begin) * row_bytes(e);
    }
    TRY(exchange(e, e->sums));
    for (uint32_t q = 0; q < e->n_ranks; q++)
        if (e->receive_bytes[q] > 0)
            memcpy(x + dim * rows_of(e, q, n_rows).begin, e->sums + q * e->slot_bytes,
                e->receive_bytes[q]);
    return STATUS_OK;
}

// ---- on a device -------------------------------------------------------------------------------

static struct experts_parts_args parts_args(
    const struct experts *e, const uint32_t *chosen, uint32_t n_rows, void *x)
{
    uint32_t share = share_of(e->n_ranks, n_rows);
    size_t row = e->m->hidden_dim * dtype_bytes(e->a.activation);
    return (struct experts_parts_args){.n_rows = n_rows,
        .dim = e->m->hidden_dim,
        .n_used = e->m->n_experts_per_token,
        .n_ranks = e->n_ranks,
        .rank = e->me,
        .share = share,
        .chosen = chosen,
        .bound = e->bound,
        .all = e->m->shared_ffn_dim > 0,
        .x = x,
        .slot_bytes = whole(share * row),
        .bytes = e->sent};
}

static enum status combine_on_device(
    struct experts *e, const uint32_t *chosen, uint32_t n_rows, void *x)
{
    struct experts_parts_args p = parts_args(e, chosen, n_rows, x);
    p.slots = e->sums;
    e->a.kernels->experts_pack(e->a.device, &p);
    for (uint32_t q = 0; q < e->n_ranks; q++)
        e->send[q] = e->sums + q * p.slot_bytes;
    TRY(coll_exchange(
        e->g, &(struct coll_exchange_args){.counts = COLL_COUNTS_DEVICE,
                  .peers = (UINT64_MAX >> (64 - e->n_ranks)) & ~((uint64_t)1 << e->me),
                  .send = e->send,
                  .receive = e->parts,
                  .slot_bytes = p.slot_bytes,
                  .device_send_bytes = e->sent,
                  .device_receive_bytes = e->came,
                  .stream = e->a.stream}));
    p.slots = e->parts;
    e->a.kernels->experts_add(e->a.device, &p);
    size_t share = (size_t)p.share * e->m->hidden_dim * dtype_bytes(e->a.activation);
    return coll_all_gather(e->g, (uint8_t *)x + e->me * share, x, share, e->a.stream);
}

enum status experts_combine(struct experts *e, const uint32_t *chosen, uint32_t n_rows, void *x)
{
    check(n_rows <= e->rows_max);
    if (e->a.kernels->device_memory)
        return combine_on_device(e, chosen, n_rows, x);
    pack(e, chosen, n_rows, x);
    TRY(exchange(e, e->parts));
    add_parts(e, chosen, n_rows, x);
    return share(e, n_rows, x);
}
