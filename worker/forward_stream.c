// SPDX-License-Identifier: Apache-2.0
#include "worker/forward_internal.h"

#include "base/check.h"
#include "base/clock.h"

#include <string.h>

static enum status sum_failed(const struct forward *f, enum status s, struct error *err)
{
    return status_fail(err, s, "rank %u of %u: the sum over ranks failed: %s",
        coll_rank(f->a.group), coll_size(f->a.group), status_text(s));
}

// Sums of the host read what the device has written: it must have.
static enum status before_sum(struct forward *f, struct error *err)
{
    bool waits = f->a.kernels->device_memory && !f->a.stream;
    return waits ? f->a.kernels->device_sync(f->a.device, err) : STATUS_OK;
}

// Sums [n_rows, dim] numbers of the heap over the ranks.
enum status forward_stream_sum(
    struct forward *f, void *buffer, uint32_t dim, enum dtype type, struct error *err)
{
    if (!f->a.group)
        return STATUS_OK;
    struct coll_all_reduce_args args = {.buffer = buffer,
        .count = (size_t)f->n_rows * dim,
        .dtype = type,
        .op = COLL_SUM,
        .symmetric = true,
        .stream = f->a.stream};
    TRY(before_sum(f, err));
    uint64_t begin = clock_now_us();
    enum status s = coll_all_reduce(f->a.group, &args);
    f->collective_us += clock_now_us() - begin;
    return s == STATUS_OK ? s : sum_failed(f, s, err);
}

// Whether the sum over ranks of a block's output can be added to the residual stream and normed
// with `weight` in the same operation: what add_and_norm would do next. The same on all ranks.
static bool norms_ahead(const struct forward *f, const struct weight *weight)
{
    const struct model_config *m = f->a.model;
    enum dtype t;
    return f->a.group && !f->a.separate_norms && m->norm_kind == NORM_RMS &&
           m->norm_placement == NORM_PRE && weight && f->a.kernels->weight_data &&
           f->a.kernels->weight_data(weight, &t);
}

static enum status sum_and_norm(
    struct forward *f, const struct weight *weight, const float *bias, struct error *err)
{
    const struct model_config *m = f->a.model;
    struct coll_all_reduce_norm_args args = {.x = f->x,
        .n_rows = f->n_rows,
        .dim = m->hidden_dim,
        .dtype = f->a.activation,
        .symmetric = true,
        .stream = f->a.stream,
        .residual = f->residual,
        .residual_scale = m->residual_scale,
        .bias = bias,
        .weight_offset = m->norm_weight_offset,
        .eps = m->norm_eps,
        .out = f->normed};
    args.weight = f->a.kernels->weight_data(weight, &args.weight_dtype);
    TRY(before_sum(f, err));
    uint64_t begin = clock_now_us();
    enum status s = coll_all_reduce_norm(f->a.group, &args);
    f->collective_us += clock_now_us() - begin;
    f->normed_ahead = true;
    return s == STATUS_OK ? s : sum_failed(f, s, err);
}

static struct norm_args norm_shape(const struct forward *f)
{
    const struct model_config *m = f->a.model;
    return (struct norm_args){.n_rows = f->n_rows,
        .dim = m->hidden_dim,
        .layer = m->norm_kind == NORM_LAYER,
        .eps = m->norm_eps,
        .weight_offset = m->norm_weight_offset};
}

// The rest of the arguments: what is pending is added to the residual stream.
static void add_pending(struct forward *f, struct norm_args *a)
{
    a->residual = f->residual;
    a->out_type = f->a.activation;
    if (f->pending) {
        a->x = f->x;
        a->x_scale = f->a.model->residual_scale;
        a->x_bias = f->pending_bias;
    }
    f->pending = false;
    if (a->x || a->out)
        f->a.kernels->norm(f->a.device, a);
}

// Adds what is pending to the residual stream and, unless `out` is NULL, writes its norm there.
void forward_stream_add_and_norm(
    struct forward *f, const struct weight *weight, const struct weight *bias, void *out)
{
    struct norm_args args = norm_shape(f);
    args.weight = weight;
    args.bias = bias;
    args.out = out;
    add_pending(f, &args);
}

// out = norm(residual stream) and nothing else; in place where `out` is the stream.
void forward_stream_norm_into(
    struct forward *f, const struct weight *weight, const struct weight *bias, void *out)
{
    struct norm_args args = norm_shape(f);
    args.residual = f->residual;
    args.out_type = out == f->residual ? DTYPE_F32 : f->a.activation;
    args.weight = weight;
    args.bias = bias;
    args.out = out;
    f->a.kernels->norm(f->a.device, &args);
}

// Norms a block's output in place.
static void norm_output(struct forward *f, const struct forward_output *o)
{
    struct norm_args args = norm_shape(f);
    args.residual_type = args.out_type = f->a.activation;
    args.residual = args.out = f->x;
    args.weight = o->norm;
    args.bias = o->norm_bias;
    f->a.kernels->norm(f->a.device, &args);
}

// Adds what is pending. The stream as activations: itself, where it is of their type.
const void *forward_stream_plain(struct forward *f)
{
    struct norm_args args = norm_shape(f);
    bool copies = f->a.activation != DTYPE_F32;
    args.copy = copies;
    args.out = copies ? f->normed : NULL;
    add_pending(f, &args);
    return copies ? f->normed : f->residual;
}

// What a block reads: the norm of the residual stream, or the stream itself where norms stand
// behind the blocks only, or where the stream is normed in place.
const void *forward_stream_input(
    struct forward *f, const struct weight *weight, const struct weight *bias)
{
    enum norm_placement p = f->a.model->norm_placement;
    bool plain = p == NORM_POST || p == NORM_SUM || p == NORM_BOTH;
    if (f->normed_ahead) {
        f->normed_ahead = false;
        return f->normed;
    }
    if (p == NORM_BOTH) {
        forward_stream_add_and_norm(f, NULL, NULL, NULL);
        forward_stream_norm_into(f, weight, bias, f->residual);
    }
    if (plain)
        return forward_stream_plain(f);
    forward_stream_add_and_norm(f, weight, bias, f->normed);
    return f->normed;
}

bool forward_stream_fuses(const struct forward *f, uint32_t n_rows)
{
    const struct kernels *k = f->a.kernels;
    return k->norm_linear_rope && k->norm_linear_act && k->linear_add && !f->a.separate_ops &&
           n_rows <= KERNELS_FUSED_ROWS;
}

bool forward_stream_lends_norm(const struct forward *f)
{
    enum norm_placement p = f->a.model->norm_placement;
    return forward_stream_fuses(f, f->n_rows) && !f->pending && !f->normed_ahead &&
           (p == NORM_PRE || p == NORM_SANDWICH);
}

struct norm_args forward_stream_norm(
    struct forward *f, const struct weight *weight, const struct weight *bias)
{
    struct norm_args args = norm_shape(f);
    args.residual = f->residual;
    args.weight = weight;
    args.bias = bias;
    args.out_type = f->a.activation;
    args.out = f->normed;
    return args;
}

static enum status combine_experts(struct forward *f, struct error *err)
{
    uint64_t begin = clock_now_us();
    enum status s = experts_combine(f->experts, f->routes, f->n_rows, f->x);
    f->collective_us += clock_now_us() - begin;
    return s == STATUS_OK ? s : sum_failed(f, s, err);
}

static bool normed_behind(const struct forward *f)
{
    enum norm_placement p = f->a.model->norm_placement;
    return p == NORM_POST || p == NORM_SANDWICH;
}

// Where a block's output is spread over the ranks in x: its sum, and what is done with it.
enum status forward_stream_output_sum(
    struct forward *f, const struct forward_output *o, struct error *err)
{
    const struct model_config *m = f->a.model;
    bool normed = normed_behind(f);
    if (o->of_experts && f->experts) {
        TRY(combine_experts(f, err));
    } else if (norms_ahead(f, o->next_norm)) {
        return sum_and_norm(f, o->next_norm, o->bias_f32, err);
    } else {
        TRY(forward_stream_sum(f, f->x, m->hidden_dim, f->a.activation, err));
    }
    if (normed)
        norm_output(f, o);
    f->pending = true;
    f->pending_bias = normed ? NULL : o->bias_f32;
    if (m->norm_placement == NORM_SUM) {
        forward_stream_add_and_norm(f, NULL, NULL, NULL);
        forward_stream_norm_into(f, o->norm, o->norm_bias, f->residual);
    }
    return STATUS_OK;
}

// The projection and its addition to the residual stream as one.
static bool adds_at_once(
    struct forward *f, const struct forward_output *o, const struct linear_args *linear)
{
    const struct model_config *m = f->a.model;
    if (o->kept_apart || f->a.group || m->norm_placement != NORM_PRE ||
        !forward_stream_fuses(f, f->n_rows))
        return false;
    check(!f->pending);
    struct norm_args add = norm_shape(f);
    add.residual = f->residual;
    add.x = f->x;
    add.x_scale = m->residual_scale;
    add.x_bias = o->bias_f32;
    f->a.kernels->linear_add(f->a.device, linear, &add);
    return true;
}

enum status forward_stream_output(
    struct forward *f, const struct forward_output *o, struct error *err)
{
    const struct model_config *m = f->a.model;
    bool normed = normed_behind(f);
    struct linear_args args = {.n_rows = f->n_rows,
        .x = o->in,
        .x_stride = o->in_dim,
        .w = o->weight,
        .bias = normed && f->a.shard->tp_rank == 0 ? o->bias : NULL,
        .out = f->x,
        .out_stride = m->hidden_dim,
        .row_ids = o->row_ids};
    if (adds_at_once(f, o, &args))
        return STATUS_OK;
    f->a.kernels->linear(f->a.device, &args);
    return forward_stream_output_sum(f, o, err);
}

// Where activations are in host memory, rows that are not wanted are dropped in place (rows are
// ascending, so each moves towards the front), and what still has all rows is read through row_ids.
static void keep_on_host(struct forward *f)
{
    const struct batch *b = f->batch;
    size_t bytes = (size_t)f->a.model->hidden_dim * sizeof(float);
    uint8_t *stream = f->residual;
    for (uint32_t i = 0; i < b->n_logit_rows; i++)
        if (b->logit_rows[i] != i)
            memcpy(stream + i * bytes, stream + b->logit_rows[i] * bytes, bytes);
    f->row_ids = b->logit_rows;
}

void forward_stream_gather(
    struct forward *f, uint32_t dim, enum dtype type, const void *in, void *out)
{
    struct gather_args args = {.batch = f->batch,
        .n_rows = f->batch->n_logit_rows,
        .dim = dim,
        .type = type,
        .in = in,
        .out = out};
    f->a.kernels->gather(f->a.device, &args);
}

// Exchanges two buffers; forward_rows puts them back before the next step.
static void swap(void **a, void **b, bool *swapped)
{
    void *p = *a;
    *a = *b;
    *b = p;
    *swapped = !*swapped;
}

void forward_stream_swap_back(struct forward *f)
{
    if (f->residual_swapped)
        swap(&f->residual, &f->x, &f->residual_swapped);
    if (f->normed_swapped)
        swap(&f->normed, &f->kept, &f->normed_swapped);
}

// On a device they are gathered into other buffers. x is free here: nothing is pending. `normed`
// is asked for once more only where attention and MLP read the same norm.
static void keep_on_device(struct forward *f)
{
    const struct model_config *m = f->a.model;
    check(!f->pending);
    forward_stream_gather(f, m->hidden_dim, DTYPE_F32, f->residual, f->x);
    swap(&f->residual, &f->x, &f->residual_swapped);
    if (m->parallel_residual && m->shared_parallel_norm && !f->norm_taken) {
        forward_stream_gather(f, m->hidden_dim, f->a.activation, f->normed, f->kept);
        swap(&f->normed, &f->kept, &f->normed_swapped);
    }
}

// Behind the last layer's attention only the wanted rows are needed.
void forward_stream_keep_wanted(struct forward *f)
{
    const struct batch *b = f->batch;
    if (b->n_logit_rows == b->n_rows)
        return;
    if (f->a.kernels->device_memory)
        keep_on_device(f);
    else
        keep_on_host(f);
    f->n_rows = b->n_logit_rows;
    f->wanted_only = true;
}
