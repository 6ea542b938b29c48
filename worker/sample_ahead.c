// SPDX-License-Identifier: Apache-2.0
// Sampling that nobody waits for: results stay on the device, where the ranks of a group exchange
// them in the stream and the next step finds its tokens; copies of them come to the host behind.
#include "worker/sample_internal.h"

#include "base/check.h"

#include <stddef.h>

enum {
    RESULT_BYTES = 192, // of one on the device, with LIMIT_LOGPROBS ids
    MARK = KERNELS_MARKS - 1,
};
_Static_assert(offsetof(struct sample_result, top) + LIMIT_LOGPROBS * sizeof(struct sample_top) <=
                   RESULT_BYTES,
    "a result fits");
_Static_assert((int)SAMPLER_STEPS_MAX <= (int)MARK, "each step has a mark of its own");

uint64_t sample_ahead_bytes(uint32_t size)
{
    return (uint64_t)size * SAMPLE_TILE * RESULT_BYTES;
}

bool sample_ahead_take(struct sampler *s)
{
    const struct kernels *k = s->a.kernels;
    uint64_t bytes = sample_ahead_bytes(s->size);
    s->passed = s->a.group ? coll_heap_take(s->a.group, bytes) : k->mem_take(s->a.device, bytes);
    s->kept = k->mem_take(s->a.device, s->a.n_slots * sizeof *s->kept);
    // One row for each sequence, and as many that are scored.
    s->tiles_max = 2 * ((s->a.n_slots + SAMPLE_TILE - 1) / SAMPLE_TILE);
    bool taken = s->passed && s->kept;
    for (uint32_t i = 0; i < SAMPLER_STEPS_MAX; i++) {
        s->read[i] = k->host_take(s->a.device, s->tiles_max * bytes);
        taken = taken && s->read[i];
    }
    return taken;
}

void sample_ahead_give(struct sampler *s)
{
    const struct kernels *k = s->a.kernels;
    if (!s->ahead)
        return;
    for (uint32_t i = 0; i < SAMPLER_STEPS_MAX; i++)
        k->host_give(s->a.device, s->read[i]);
    k->mem_give(s->a.device, s->kept, s->a.n_slots * sizeof *s->kept);
    if (!s->a.group)
        k->mem_give(s->a.device, s->passed, sample_ahead_bytes(s->size));
}

// What was chosen becomes what the next step's rows may name.
static void keep_tokens(struct sampler *s, const struct sample_tile *t)
{
    uint32_t slot[SAMPLE_TILE], from[SAMPLE_TILE];
    struct keep_args args = {.slot = slot,
        .from = from,
        .results = s->passed,
        .result_stride = RESULT_BYTES,
        .kept = s->kept};
    for (uint32_t q = 0; q < s->size; q++)
        for (uint32_t i = 0; i < sample_tile_rows(t, q); i++) {
            const struct sample_want *w = &t->want[t->order[t->begin[q] + i]];
            if (w->scored)
                continue;
            slot[args.n] = w->slot;
            from[args.n++] = q * t->stride + i;
        }
    if (args.n > 0)
        s->a.kernels->keep_tokens(s->a.device, &args);
}

static enum status run_tile(struct sampler *s, struct forward *f, const struct sample_tile *t,
    uint8_t *read, struct error *err)
{
    size_t bytes = (size_t)t->stride * RESULT_BYTES;
    uint8_t *mine = s->passed + s->rank * bytes;
    TRY(sample_tile_logits(s, f, t, err));
    struct sample_args args = sample_tile_args(s, t);
    args.result = (void *)mine;
    args.result_stride = RESULT_BYTES;
    if (args.n_rows > 0)
        s->a.kernels->sample(s->a.device, &args);
    enum status status = STATUS_OK;
    if (s->a.group)
        status = coll_all_gather(s->a.group, mine, s->passed, bytes, s->a.stream);
    if (status != STATUS_OK)
        return status_fail(err, status, "rank %u of %u: the exchange of tokens failed: %s", s->rank,
            s->size, status_text(status));
    keep_tokens(s, t);
    s->a.kernels->copy_out(s->a.device, read, s->passed, s->size * bytes);
    return STATUS_OK;
}

static uint8_t *read_of(const struct sampler *s, uint32_t step, uint32_t first)
{
    return s->read[step] + first / SAMPLE_TILE % s->tiles_max * sample_ahead_bytes(s->size);
}

static void collect_tile(const struct sampler *s, const struct sample_tile *t, const uint8_t *read,
    struct sample_outcome *out)
{
    for (uint32_t q = 0; q < s->size; q++)
        for (uint32_t i = 0; i < sample_tile_rows(t, q); i++)
            sample_tile_outcome((const void *)(read + (size_t)(q * t->stride + i) * RESULT_BYTES),
                &out[t->order[t->begin[q] + i]]);
}

static void collect(struct sampler *s, uint32_t step, const struct sample_want *want, uint32_t n,
    uint32_t end, struct sample_outcome *out)
{
    for (uint32_t i = s->n_collected[step]; i < end; i += SAMPLE_TILE) {
        struct sample_tile t = sample_tile_of(s, want, i, n);
        collect_tile(s, &t, read_of(s, step, i), out + i);
    }
    s->n_collected[step] = end;
}

enum status sample_ahead_run(struct sampler *s, struct forward *f, uint32_t step,
    const struct sample_want *want, uint32_t n, struct sample_outcome *out, struct error *err)
{
    s->n_collected[step] = 0;
    for (uint32_t i = 0; i < n; i += SAMPLE_TILE) {
        struct sample_tile t = sample_tile_of(s, want, i, n);
        if (i > 0 && i / SAMPLE_TILE % s->tiles_max == 0) { // there is no room for more
            forward_mark(f, MARK);
            TRY(forward_reached(f, MARK, true, err));
            collect(s, step, want, n, i, out);
        }
        TRY(run_tile(s, f, &t, read_of(s, step, i), err));
    }
    return STATUS_OK;
}

void sample_ahead_collect(struct sampler *s, uint32_t step, const struct sample_want *want,
    uint32_t n, struct sample_outcome *out)
{
    collect(s, step, want, n, n, out);
}
