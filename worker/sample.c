// SPDX-License-Identifier: Apache-2.0
#include "worker/sample_internal.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

static uint64_t slot_bytes(uint32_t part_max)
{
    return ((uint64_t)SAMPLE_TILE * part_max * sizeof(float) + 127) & ~(uint64_t)127;
}

static uint64_t gathered_bytes(uint32_t size)
{
    return (uint64_t)size * SAMPLE_TILE * sizeof(struct sample_outcome);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

// ---- life cycle --------------------------------------------------------------------------------

uint64_t sampler_heap_bytes(const struct model_config *m, const struct shard *s)
{
    struct shard_range largest = shard_split(m->vocab_size, 1, s->tp_size, 0);
    return s->tp_size * slot_bytes(largest.count) +
           larger(gathered_bytes(s->tp_size), sample_ahead_bytes(s->tp_size)) + 256;
}

uint64_t sampler_bytes(const struct model_config *m, const struct shard *s)
{
    uint64_t part = shard_split(m->vocab_size, 1, s->tp_size, 0).count;
    return (uint64_t)SAMPLE_TILE * (part + (s->tp_size > 1 ? m->vocab_size : 0)) * sizeof(float) +
           sample_ahead_bytes(s->tp_size);
}

static bool take_all(struct sampler *s)
{
    const struct sampler_args *a = &s->a;
    s->result = calloc(SAMPLE_TILE, sizeof *s->result);
    s->logits = a->kernels->mem_take(a->device, s->logits_bytes);
    s->ahead = a->kernels->keep_tokens && (!a->group || a->stream);
    check(s->ahead || !a->stream);
    if (!s->result || !s->logits || (s->ahead && !sample_ahead_take(s)))
        return false;
    if (!a->group) {
        s->gathered = s->ahead ? NULL : calloc(1, gathered_bytes(1));
        return s->ahead || s->gathered;
    }
    s->rows = a->kernels->mem_take(a->device, s->rows_bytes);
    s->receive = coll_heap_take(a->group, s->size * slot_bytes(s->part_max));
    if (!s->ahead)
        s->gathered = coll_heap_take(a->group, gathered_bytes(s->size));
    return s->rows && s->receive && (s->ahead || s->gathered);
}

enum status sampler_open(const struct sampler_args *args, struct sampler **out, struct error *err)
{
    struct sampler *s = calloc(1, sizeof *s);
    if (!s)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for the sampler");
    s->a = *args;
    s->rank = args->shard->tp_rank;
    s->size = args->shard->tp_size;
    s->part_max = shard_split(args->model->vocab_size, 1, s->size, 0).count;
    s->logits_bytes = (uint64_t)SAMPLE_TILE * s->part_max * sizeof(float);
    s->rows_bytes = (uint64_t)SAMPLE_TILE * args->model->vocab_size * sizeof(float);
    enum status status = STATUS_OK;
    if (!take_all(s))
        status = status_fail(err, STATUS_NO_MEMORY, "no memory for %d rows of logits", SAMPLE_TILE);
    if (status == STATUS_OK)
        status = args->kernels->sampler_open(args->device, (args->n_slots + s->size - 1) / s->size,
            args->model->vocab_size, args->context_tokens + 1, err);
    if (status != STATUS_OK) {
        sampler_close(s);
        return status;
    }
    *out = s;
    return STATUS_OK;
}

void sampler_close(struct sampler *s)
{
    if (!s)
        return;
    s->a.kernels->mem_give(s->a.device, s->logits, s->logits_bytes);
    if (s->rows)
        s->a.kernels->mem_give(s->a.device, s->rows, s->rows_bytes);
    sample_ahead_give(s);
    if (!s->a.group)
        free(s->gathered);
    free(s->result);
    free(s);
}

// A rank keeps samplers for its own slots only, numbered without gaps.
void sampler_begin(struct sampler *s, const struct sampler_begin_args *args)
{
    if (args->slot % s->size != s->rank)
        return;
    struct sampler_begin_args mine = *args;
    mine.slot = args->slot / s->size;
    s->a.kernels->sampler_begin(s->a.device, &mine);
}

// ---- one tile ----------------------------------------------------------------------------------

static uint32_t owner_of(const struct sampler *s, const struct sample_want *w, uint32_t index)
{
    return (w->scored ? index : w->slot) % s->size;
}

// Sorts the tile's rows by owner, keeping their order otherwise.
static void sort_tile(const struct sampler *s, struct sample_tile *t)
{
    uint32_t n = 0;
    for (uint32_t q = 0; q < s->size; q++) {
        t->begin[q] = n;
        for (uint32_t i = 0; i < t->n; i++)
            if (owner_of(s, &t->want[i], i) == q)
                t->order[n++] = i;
    }
    t->begin[s->size] = n;
    check(n == t->n);
}

uint32_t sample_tile_rows(const struct sample_tile *t, uint32_t rank)
{
    return t->begin[rank + 1] - t->begin[rank];
}

struct sample_tile sample_tile_of(
    const struct sampler *s, const struct sample_want *want, uint32_t first, uint32_t n)
{
    struct sample_tile t = {.want = want + first,
        .first = first,
        .n = n - first < SAMPLE_TILE ? n - first : SAMPLE_TILE};
    sort_tile(s, &t);
    for (uint32_t q = 0; q < s->size; q++)
        if (sample_tile_rows(&t, q) > t.stride)
            t.stride = sample_tile_rows(&t, q);
    return t;
}

// Sends each owner this rank's columns of its rows, which lie together in `logits`, and gets the
// other ranks' columns of the own rows.
static enum status exchange(struct sampler *s, const struct sample_tile *t, struct error *err)
{
    const void *send[COLL_RANKS_MAX] = {0};
    size_t send_bytes[COLL_RANKS_MAX] = {0}, receive_bytes[COLL_RANKS_MAX] = {0};
    struct coll_exchange_args args = {.counts = COLL_COUNTS_FIXED,
        .send = send,
        .send_bytes = send_bytes,
        .receive = s->receive,
        .slot_bytes = slot_bytes(s->part_max),
        .receive_bytes = receive_bytes,
        .stream = s->a.stream};
    uint32_t mine = sample_tile_rows(t, s->rank);
    uint32_t part = shard_vocab(s->a.model, s->a.shard).count;
    for (uint32_t q = 0; q < s->size; q++) {
        if (q == s->rank || (mine == 0 && sample_tile_rows(t, q) == 0))
            continue;
        args.peers |= (uint64_t)1 << q;
        send[q] = s->logits + (size_t)t->begin[q] * part;
        send_bytes[q] = (size_t)sample_tile_rows(t, q) * part * sizeof(float);
        size_t columns = shard_split(s->a.model->vocab_size, 1, s->size, q).count;
        receive_bytes[q] = mine * columns * sizeof(float);
    }
    enum status status = args.peers ? coll_exchange(s->a.group, &args) : STATUS_OK;
    if (status != STATUS_OK)
        return status_fail(err, status, "rank %u of %u: the exchange of logits failed: %s", s->rank,
            s->size, status_text(status));
    return STATUS_OK;
}

static void place(struct sampler *s, const struct place_args *a)
{
    if (s->a.kernels->device_memory)
        s->a.kernels->place(s->a.device, a);
    else
        for (size_t i = 0; i < a->n_rows; i++)
            memcpy(a->out + i * a->out_stride, a->in + i * a->n, a->n * sizeof(float));
}

// Puts the parts of the own rows side by side.
static void join_parts(struct sampler *s, const struct sample_tile *t)
{
    for (uint32_t q = 0; q < s->size; q++) {
        struct shard_range part = shard_split(s->a.model->vocab_size, 1, s->size, q);
        const float *from = (const void *)(s->receive + q * slot_bytes(s->part_max));
        if (q == s->rank)
            from = s->logits + (size_t)t->begin[q] * part.count;
        place(s, &(struct place_args){.n_rows = sample_tile_rows(t, s->rank),
                     .n = part.count,
                     .in = from,
                     .out = s->rows + part.begin,
                     .out_stride = s->a.model->vocab_size});
    }
}

void sample_tile_outcome(const struct sample_result *r, struct sample_outcome *out)
{
    check(r->n_top <= LIMIT_LOGPROBS);
    *out = (struct sample_outcome){.id = r->id,
        .logprob = r->logprob,
        .rank = r->rank,
        .n_top = (uint16_t)r->n_top,
        .failed = r->failed};
    memcpy(out->top, r->top, r->n_top * sizeof r->top[0]);
}

enum status sample_tile_logits(
    struct sampler *s, struct forward *f, const struct sample_tile *t, struct error *err)
{
    uint32_t wanted[SAMPLE_TILE];
    for (uint32_t i = 0; i < t->n; i++)
        wanted[i] = t->first + t->order[i];
    forward_logits(f, wanted, t->n, s->logits);
    if (!s->a.group)
        return STATUS_OK;
    if (!s->a.stream) // the host's exchange reads what the device has written
        TRY(s->a.kernels->device_sync(s->a.device, err));
    TRY(exchange(s, t, err));
    join_parts(s, t);
    return STATUS_OK;
}

struct sample_args sample_tile_args(struct sampler *s, const struct sample_tile *t)
{
    uint32_t n = sample_tile_rows(t, s->rank);
    for (uint32_t i = 0; i < n; i++) {
        const struct sample_want *w = &t->want[t->order[t->begin[s->rank] + i]];
        s->row[i] = (struct sample_row){.slot = w->scored ? 0 : w->slot / s->size,
            .position = w->position,
            .scored = w->scored,
            .target = w->target,
            .n_logprobs = w->n_logprobs};
    }
    return (struct sample_args){.n_rows = n,
        .vocab_size = s->a.model->vocab_size,
        .logits = s->rows ? s->rows : s->logits,
        .row = s->row,
        .result = s->result};
}

// Samples this rank's rows of the tile into its part of `gathered`.
static enum status sample_mine(struct sampler *s, const struct sample_tile *t, struct error *err)
{
    struct sample_args args = sample_tile_args(s, t);
    if (args.n_rows > 0)
        s->a.kernels->sample(s->a.device, &args);
    TRY(s->a.kernels->device_sync(s->a.device, err));
    for (uint32_t i = 0; i < args.n_rows; i++)
        sample_tile_outcome(&s->result[i], &s->gathered[s->rank * t->stride + i]);
    return STATUS_OK;
}

static enum status tell_all(struct sampler *s, const struct sample_tile *t, struct error *err)
{
    size_t bytes = t->stride * sizeof *s->gathered;
    enum status status = coll_all_gather(
        s->a.group, s->gathered + (size_t)s->rank * t->stride, s->gathered, bytes, NULL);
    if (status != STATUS_OK)
        return status_fail(err, status, "rank %u of %u: the exchange of tokens failed: %s", s->rank,
            s->size, status_text(status));
    return STATUS_OK;
}

static enum status run_tile(struct sampler *s, struct forward *f, const struct sample_tile *t,
    struct sample_outcome *out, struct error *err)
{
    TRY(sample_tile_logits(s, f, t, err));
    TRY(sample_mine(s, t, err));
    if (s->a.group)
        TRY(tell_all(s, t, err));
    for (uint32_t q = 0; q < s->size; q++)
        for (uint32_t i = 0; i < sample_tile_rows(t, q); i++)
            out[t->order[t->begin[q] + i]] = s->gathered[q * t->stride + i];
    return STATUS_OK;
}

enum status sampler_run(struct sampler *s, struct forward *f, uint32_t step,
    const struct sample_want *want, uint32_t n, struct sample_outcome *out, struct error *err)
{
    check(step < SAMPLER_STEPS_MAX);
    if (s->ahead)
        return sample_ahead_run(s, f, step, want, n, out, err);
    for (uint32_t i = 0; i < n; i += SAMPLE_TILE) {
        struct sample_tile t = sample_tile_of(s, want, i, n);
        TRY(run_tile(s, f, &t, out + i, err));
    }
    return STATUS_OK;
}

void sampler_collect(struct sampler *s, uint32_t step, const struct sample_want *want, uint32_t n,
    struct sample_outcome *out)
{
    check(step < SAMPLER_STEPS_MAX);
    if (s->ahead)
        sample_ahead_collect(s, step, want, n, out);
}

const uint32_t *sampler_kept(const struct sampler *s)
{
    return s->kept;
}
