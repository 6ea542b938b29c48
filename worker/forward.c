// SPDX-License-Identifier: Apache-2.0
#include "worker/forward_internal.h"

#include "base/check.h"
#include "base/clock.h"

#include <sched.h>
#include <stdlib.h>

enum {
    SPIN_TURNS = 1000, // of a wait for a mark, before it sleeps
    SLEEP_US = 20,
    GROUP_LOOKS = 64, // one look at the group for so many at the mark: it costs system calls
};

enum status forward_supports(const struct model_config *m, const struct shard *s, struct error *err)
{
    if (s->layer_begin != 0 || s->layer_end != m->n_layers)
        return status_fail(err, STATUS_UNSUPPORTED, "pipeline stages are not supported yet");
    return STATUS_OK;
}

// What this op table lacks for the model.
static enum status table_supports(const struct forward_args *a, struct error *err)
{
    const struct kernels *k = a->kernels;
    const struct model_config *m = a->model;
    if (m->qkv_clip != 0 && !k->clip)
        return status_fail(err, STATUS_UNSUPPORTED,
            "clipped queries, keys and values are not supported on %s", k->name);
    if (m->qk_norm > QK_NORM_HEAD && !k->qk_norm)
        return status_fail(err, STATUS_UNSUPPORTED,
            "this model's norm of queries and keys is not supported on %s", k->name);
    if (m->n_experts > 0 && !k->experts)
        return status_fail(
            err, STATUS_UNSUPPORTED, "a mixture of experts is not supported on %s", k->name);
    if (a->group && shard_places_experts(m, a->shard) && k->device_memory &&
        (!a->stream || !k->experts_pack))
        return status_fail(err, STATUS_UNSUPPORTED,
            "experts that lie whole on one rank need collectives on the device, which %s lacks "
            "here: leave out --enable-expert-parallel",
            k->name);
    return STATUS_OK;
}

enum status forward_open(const struct forward_args *args, struct forward **out, struct error *err)
{
    TRY(forward_supports(args->model, args->shard, err));
    TRY(table_supports(args, err));
    struct forward *f = calloc(1, sizeof *f);
    if (f) {
        f->a = *args;
        f->n_heads = shard_heads(args->model, args->shard).count;
        f->n_kv_heads = shard_kv_heads(args->model, args->shard).count;
        f->ffn = shard_ffn(args->model, args->shard).count;
        f->vocab = shard_vocab(args->model, args->shard);
        f->element = dtype_bytes(args->activation);
    }
    if (!f || !forward_memory_take(f)) {
        forward_close(f);
        return status_fail(err, STATUS_NO_MEMORY,
            "no memory for the activations of %u rows; give a smaller --max-num-batched-tokens",
            args->rows_max);
    }
    *out = f;
    return STATUS_OK;
}

void forward_close(struct forward *f)
{
    if (!f)
        return;
    experts_close(f->experts);
    for (uint32_t i = 0; i < f->n_buffers; i++)
        f->a.kernels->mem_give(f->a.device, f->buffer[i].p, f->buffer[i].bytes);
    free(f);
}

void forward_mark(struct forward *f, uint32_t mark)
{
    f->a.kernels->mark_set(f->a.device, mark);
}

static enum status poll_group(struct forward *f, struct error *err)
{
    enum status s = coll_poll(f->a.group);
    return s == STATUS_OK ? s : status_fail(err, s, "%s", coll_error(f->a.group)->text);
}

enum status forward_reached(struct forward *f, uint32_t mark, bool wait, struct error *err)
{
    const struct kernels *k = f->a.kernels;
    bool peers = f->a.group && f->a.stream;
    for (uint32_t turn = 0;; turn++) {
        enum status s = k->mark_reached(f->a.device, mark, wait && !peers, err);
        if (peers && (s == STATUS_OK || (s == STATUS_AGAIN && f->looks++ % GROUP_LOOKS == 0)))
            TRY(poll_group(f, err));
        if (s != STATUS_AGAIN || !wait)
            return s;
        if (turn < SPIN_TURNS)
            sched_yield();
        else
            clock_sleep_us(SLEEP_US);
    }
}

enum status forward_rows(struct forward *f, const struct batch *batch,
    const struct forward_pulse *pulse, struct error *err)
{
    struct graph_bounds bounds;
    check(batch->n_rows >= 1 && batch->n_rows <= f->a.rows_max);
    f->batch = batch;
    forward_stream_swap_back(f);
    if (f->a.kernels->batch_begin)
        f->a.kernels->batch_begin(f->a.device, batch);
    f->n_rows = batch->n_rows;
    f->row_ids = NULL;
    f->wanted_only = false;
    return forward_record_bounds(f, &bounds) ? forward_record_step(f, &bounds, pulse, err)
                                             : forward_layers_run(f, pulse, err);
}

// Where the head reads its rows: `rows` of what stands behind the last layer, gathered on a device.
static const void *head_input(struct forward *f, uint32_t *rows, uint32_t n)
{
    bool plain = !f->a.model->final_norm && f->a.activation == DTYPE_F32;
    const void *all = plain ? f->residual : f->normed;
    if (!f->a.kernels->device_memory)
        return all;
    size_t bytes = (size_t)f->a.model->hidden_dim * f->element;
    uint32_t in_order = 1;
    while (in_order < n && rows[in_order] == rows[0] + in_order)
        in_order++;
    if (in_order >= n)
        return (const uint8_t *)all + rows[0] * bytes;
    struct gather_args args = {.batch = f->batch,
        .n_rows = n,
        .dim = f->a.model->hidden_dim,
        .type = f->a.activation,
        .row_ids = rows,
        .in = all,
        .out = f->kept};
    f->a.kernels->gather(f->a.device, &args);
    return f->kept;
}

// The rows as the head's weights are wide: the same on every rank.
static void project_out(struct forward *f, struct linear_args *head)
{
    struct linear_args args = {.n_rows = head->n_rows,
        .x = head->x,
        .x_stride = head->x_stride,
        .w = f->a.weights->project_out,
        .out = f->projected,
        .out_stride = f->a.model->embed_dim,
        .row_ids = head->row_ids};
    f->a.kernels->linear(f->a.device, &args);
    head->x = f->projected;
    head->x_stride = f->a.model->embed_dim;
    head->row_ids = NULL;
}

void forward_logits(struct forward *f, const uint32_t *wanted, uint32_t n, float *out)
{
    const struct model_config *m = f->a.model;
    check(n >= 1 && n <= FORWARD_LOGIT_ROWS);
    uint32_t rows[FORWARD_LOGIT_ROWS];
    for (uint32_t i = 0; i < n; i++) {
        check(wanted[i] < f->batch->n_logit_rows);
        rows[i] = f->wanted_only ? wanted[i] : f->batch->logit_rows[wanted[i]];
    }
    struct linear_args args = {.n_rows = n,
        .x = head_input(f, rows, n),
        .x_stride = m->hidden_dim,
        .w = f->a.weights->head,
        .bias = f->a.weights->head_bias,
        .out = out,
        .out_stride = f->vocab.count,
        .out_f32 = true,
        .row_ids = f->a.kernels->device_memory ? NULL : rows};
    if (f->projected)
        project_out(f, &args);
    f->a.kernels->linear(f->a.device, &args);
    if (m->logit_scale == 1 && m->logit_softcap == 0)
        return;
    struct logit_scale_args scale = {.n_rows = n,
        .n = f->vocab.count,
        .scale = m->logit_scale,
        .softcap = m->logit_softcap,
        .logits = out};
    f->a.kernels->logit_scale(f->a.device, &scale);
}

void forward_copy_blocks(
    struct forward *f, uint32_t group, const uint32_t *src, const uint32_t *dst, uint32_t n)
{
    struct block_copy_args args = {.layers = f->a.kv->layer,
        .n_layers = f->a.kv->n_layers,
        .n_pairs = n,
        .group = group,
        .src = src,
        .dst = dst};
    f->a.kernels->block_copy(f->a.device, &args);
}

uint64_t forward_take_collective_us(struct forward *f)
{
    uint64_t us = f->collective_us;
    f->collective_us = 0;
    return us;
}
