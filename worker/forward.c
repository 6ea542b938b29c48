// SPDX-License-Identifier: Apache-2.0
#include "worker/forward.h"

#include "base/check.h"
#include "base/clock.h"
#include "worker/alibi.h"
#include "worker/experts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)ACT_SILU == (int)ACTIVATION_SILU, "one numbering");
_Static_assert((int)ACT_GELU_ERF == (int)ACTIVATION_GELU_ERF, "one numbering");
_Static_assert((int)ACT_GELU_TANH == (int)ACTIVATION_GELU_TANH, "one numbering");
_Static_assert((int)ACT_RELU == (int)ACTIVATION_RELU, "one numbering");
_Static_assert((int)ACT_RELU2 == (int)ACTIVATION_RELU2, "one numbering");

enum {
    BUFFERS_MAX = 16,
    GRAPH_ROWS = 256, // most rows of a step that is recorded
};

struct forward {
    struct forward_args a;
    uint32_t n_heads, n_kv_heads, ffn; // of this rank
    struct shard_range vocab;
    uint32_t element; // bytes of a number of the activations
    // Activations, [rows_max, ...]. `residual` is the stream that blocks add to; `x` is a block's
    // output before it is added. Both are summed over ranks and lie in the symmetric heap.
    void *residual, *x; // [hidden_dim]
    void *normed;       // [hidden_dim]
    void *qkv;          // [(n_heads + 2 n_kv_heads) head_dim]
    void *attended;     // [n_heads head_dim]
    void *mlp_in;       // [ffn, or 2 ffn where gated]; NULL where the table fuses linear and act
    void *mlp;          // [ffn]
    void *part;         // [hidden_dim], one expert's; NULL where there are none
    void *routes;       // room for experts_args.routes
    struct experts *experts; // where experts are placed whole
    void *kept; // [hidden_dim], for gathered rows; NULL where activations are on the host
    float *inv_freq[MODEL_ROPES_MAX];
    float *alibi;    // [n_heads] or NULL
    float *squares;  // [2] of q and of k, in the heap; NULL where no norm is over all heads
    void *projected; // [FORWARD_LOGIT_ROWS, embed_dim]; NULL where the head reads the stream's norm
    struct {
        void *p;
        uint64_t bytes;
    } buffer[BUFFERS_MAX]; // what mem_take gave
    uint32_t n_buffers;

    // Of the step at hand.
    const struct batch *batch;
    uint32_t n_rows;           // of the activations: all rows, in the end the wanted ones only
    const uint32_t *row_ids;   // rows of `attended` and `normed` to take, NULL: all
    bool wanted_only;          // the activations hold the wanted rows only
    bool residual_swapped;     // with x, since the rows were gathered; until the step ends
    bool normed_swapped;       // with kept
    bool pending;              // x is yet to be added to the residual stream,
    const float *pending_bias; // with this bias (may be NULL)
    bool normed_ahead;         // `normed` holds what the next block reads
    uint64_t collective_us;
};

// ---- life cycle --------------------------------------------------------------------------------

enum status forward_supports(const struct model_config *m, const struct shard *s, struct error *err)
{
    if (s->layer_begin != 0 || s->layer_end != m->n_layers)
        return status_fail(err, STATUS_UNSUPPORTED, "pipeline stages are not supported yet");
    return STATUS_OK;
}

// What this op table lacks for the model.
static enum status table_supports(
    const struct kernels *k, const struct model_config *m, struct error *err)
{
    if (m->qkv_clip != 0 && !k->clip)
        return status_fail(err, STATUS_UNSUPPORTED,
            "clipped queries, keys and values are not supported on %s", k->name);
    if (m->qk_norm > QK_NORM_HEAD && !k->qk_norm)
        return status_fail(err, STATUS_UNSUPPORTED,
            "this model's norm of queries and keys is not supported on %s", k->name);
    if (m->n_experts > 0 && !k->experts)
        return status_fail(
            err, STATUS_UNSUPPORTED, "a mixture of experts is not supported on %s", k->name);
    return STATUS_OK;
}

// Columns of the stream, or of the embedding where it is wider.
static uint32_t stream_dim(const struct model_config *m)
{
    return m->embed_dim > m->hidden_dim ? m->embed_dim : m->hidden_dim;
}

uint64_t forward_heap_bytes(
    const struct model_config *m, const struct shard *s, enum dtype activation, uint32_t rows_max)
{
    uint64_t experts = shard_places_experts(m, s) ? experts_heap_bytes(m, s->tp_size, rows_max) : 0;
    uint64_t each = (uint64_t)rows_max * stream_dim(m) * dtype_bytes(activation);
    uint64_t squares = m->qk_norm == QK_NORM_FULL ? 2 * sizeof(float) * (uint64_t)rows_max : 0;
    return 2 * ((each + 127) & ~(uint64_t)127) + ((squares + 127) & ~(uint64_t)127) + experts;
}

// Device memory, given back by forward_close; NULL when there is none.
static void *bytes_take(struct forward *f, uint64_t bytes)
{
    check(f->n_buffers < BUFFERS_MAX);
    void *p = f->a.kernels->mem_take(f->a.device, bytes);
    f->buffer[f->n_buffers].p = p;
    f->buffer[f->n_buffers++].bytes = bytes;
    return p;
}

// `n` numbers of the activations' type.
static void *buffer_take(struct forward *f, uint64_t n)
{
    return bytes_take(f, n * f->element);
}

static void *shared_take(struct forward *f, uint64_t bytes)
{
    return f->a.group ? coll_heap_take(f->a.group, bytes) : bytes_take(f, bytes);
}

static bool take_tables(struct forward *f)
{
    const struct model_config *m = f->a.model;
    const struct kernels *k = f->a.kernels;
    for (uint32_t i = 0; i < m->n_ropes && m->position_kind == POSITION_ROPE; i++) {
        uint32_t n = m->rope[i].rotary_dim / 2;
        f->inv_freq[i] = bytes_take(f, n * sizeof(float));
        if (!f->inv_freq[i])
            return false;
        k->copy_in(f->a.device, f->inv_freq[i], m->rope[i].inv_freq, n * sizeof(float));
    }
    if (m->position_kind != POSITION_ALIBI)
        return true;
    float slopes[MODEL_HEADS_MAX];
    struct shard_range heads = shard_heads(m, f->a.shard);
    for (uint32_t i = 0; i < heads.count; i++)
        slopes[i] = alibi_slope(m, heads.begin + i);
    f->alibi = bytes_take(f, heads.count * sizeof(float));
    if (f->alibi)
        k->copy_in(f->a.device, f->alibi, slopes, heads.count * sizeof(float));
    return f->alibi != NULL;
}

// What each row needs in each buffer, in numbers of the activations' type.
struct row_shape {
    uint64_t shared; // residual and x
    uint64_t stream, qkv, attended, mlp, mlp_in;
};

static uint32_t widest_mlp(const struct model_config *m, const struct shard *s)
{
    uint32_t ffn = shard_ffn(m, s).count, expert = m->n_experts ? shard_expert_ffn(m, s).count : 0;
    uint32_t shared = shard_shared_ffn(m, s).count;
    ffn = ffn > expert ? ffn : expert;
    return ffn > shared ? ffn : shared;
}

static struct row_shape row_shape(const struct model_config *m, const struct shard *s)
{
    uint64_t heads = shard_heads(m, s).count, kv_heads = shard_kv_heads(m, s).count;
    uint64_t ffn = widest_mlp(m, s);
    return (struct row_shape){.shared = stream_dim(m),
        .stream = m->hidden_dim,
        .qkv = (heads + 2 * kv_heads) * m->head_dim,
        .attended = heads * m->head_dim,
        .mlp = ffn,
        .mlp_in = ffn * (m->gated ? 2 : 1)};
}

static uint64_t routes_bytes(const struct model_config *m, uint32_t rows_max)
{
    return m->n_experts ? kernels_experts_bytes(rows_max, m->n_experts, m->n_experts_per_token) : 0;
}

uint64_t forward_bytes(const struct forward_args *a)
{
    struct row_shape w = row_shape(a->model, a->shard);
    uint64_t each = 2 * w.shared + w.stream + w.qkv + w.attended + w.mlp;
    each += a->kernels->linear_act && !a->model->n_experts ? 0 : w.mlp_in;
    each += a->model->n_experts ? w.stream : 0;
    each += a->kernels->device_memory ? w.stream : 0;
    uint64_t projected = (uint64_t)FORWARD_LOGIT_ROWS * a->model->embed_dim;
    return (each * a->rows_max + projected) * dtype_bytes(a->activation) +
           routes_bytes(a->model, a->rows_max);
}

static bool take_all(struct forward *f)
{
    struct row_shape w = row_shape(f->a.model, f->a.shard);
    uint64_t rows = f->a.rows_max;
    bool squares = f->a.model->qk_norm == QK_NORM_FULL, projects = f->a.weights->project_out;
    f->residual = shared_take(f, rows * w.shared * f->element);
    f->x = shared_take(f, rows * w.shared * f->element);
    if (squares)
        f->squares = shared_take(f, rows * 2 * sizeof(float));
    if (projects)
        f->projected = buffer_take(f, (uint64_t)FORWARD_LOGIT_ROWS * f->a.model->embed_dim);
    f->normed = buffer_take(f, rows * w.stream);
    f->qkv = buffer_take(f, rows * w.qkv);
    f->attended = buffer_take(f, rows * w.attended);
    f->mlp = buffer_take(f, rows * w.mlp);
    if (!f->a.kernels->linear_act || f->a.model->n_experts)
        f->mlp_in = buffer_take(f, rows * w.mlp_in);
    bool device = f->a.kernels->device_memory, experts = f->a.model->n_experts;
    if (experts) {
        if (f->a.group && shard_places_experts(f->a.model, f->a.shard) &&
            experts_open(f->a.model, f->a.group, f->a.rows_max, &f->experts) != STATUS_OK)
            return false;
        f->part = buffer_take(f, rows * w.stream);
        f->routes = bytes_take(f, routes_bytes(f->a.model, f->a.rows_max));
    }
    if (device)
        f->kept = buffer_take(f, rows * w.stream);
    return f->residual && f->x && f->normed && f->qkv && f->attended && f->mlp &&
           (f->mlp_in || f->a.kernels->linear_act) && (f->kept || !device) &&
           (f->squares || !squares) && ((f->part && f->routes) || !experts) &&
           (f->projected || !projects) && take_tables(f);
}

enum status forward_open(const struct forward_args *args, struct forward **out, struct error *err)
{
    TRY(forward_supports(args->model, args->shard, err));
    TRY(table_supports(args->kernels, args->model, err));
    struct forward *f = calloc(1, sizeof *f);
    if (f) {
        f->a = *args;
        f->n_heads = shard_heads(args->model, args->shard).count;
        f->n_kv_heads = shard_kv_heads(args->model, args->shard).count;
        f->ffn = shard_ffn(args->model, args->shard).count;
        f->vocab = shard_vocab(args->model, args->shard);
        f->element = dtype_bytes(args->activation);
    }
    if (!f || !take_all(f)) {
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

// ---- pieces of a layer -------------------------------------------------------------------------

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
static enum status sum_over_ranks(
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

// Adds what is pending to the residual stream and, unless `out` is NULL, writes its norm there.
static void add_and_norm(
    struct forward *f, const struct weight *weight, const struct weight *bias, void *out)
{
    struct norm_args args = norm_shape(f);
    args.residual = f->residual;
    args.weight = weight;
    args.bias = bias;
    args.out = out;
    if (f->pending) {
        args.x = f->x;
        args.x_scale = f->a.model->residual_scale;
        args.x_bias = f->pending_bias;
    }
    f->pending = false;
    if (args.x || out)
        f->a.kernels->norm(f->a.device, &args);
}

// out = norm(in) and nothing else; they may be the same.
static void norm_into(
    struct forward *f, const struct weight *weight, const struct weight *bias, void *in, void *out)
{
    struct norm_args args = norm_shape(f);
    args.residual = in;
    args.weight = weight;
    args.bias = bias;
    args.out = out;
    f->a.kernels->norm(f->a.device, &args);
}

// What a block reads: the norm of the residual stream, or the stream itself where norms stand
// behind the blocks only, or where the stream is normed in place.
static const void *block_input(
    struct forward *f, const struct weight *weight, const struct weight *bias)
{
    enum norm_placement p = f->a.model->norm_placement;
    bool plain = p == NORM_POST || p == NORM_SUM || p == NORM_BOTH;
    if (f->normed_ahead) {
        f->normed_ahead = false;
        return f->normed;
    }
    add_and_norm(f, weight, bias, plain ? NULL : f->normed);
    if (p == NORM_BOTH)
        norm_into(f, weight, bias, f->residual, f->residual);
    return plain ? f->residual : f->normed;
}

// A projection whose input columns are spread over the ranks, into x, and the sum over them. Its
// bias, which is whole on every rank, is added with x to the residual stream; but where a norm
// stands between, rank 0 alone adds it before the sum.
struct block_output {
    const struct weight *weight, *bias, *norm, *norm_bias;
    const struct weight *next_norm; // of the block that reads the sum next, NULL: none reads it yet
    const float *bias_f32;
    const void *in;
    uint32_t in_dim;
    const uint32_t *row_ids;
    bool of_experts; // x is what `experts` has written
};

static enum status combine_experts(struct forward *f, struct error *err)
{
    check(f->a.activation == DTYPE_F32 && !f->a.kernels->device_memory);
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
static enum status block_sum(struct forward *f, const struct block_output *o, struct error *err)
{
    const struct model_config *m = f->a.model;
    bool normed = normed_behind(f);
    if (o->of_experts && f->experts) {
        TRY(combine_experts(f, err));
    } else if (norms_ahead(f, o->next_norm)) {
        return sum_and_norm(f, o->next_norm, o->bias_f32, err);
    } else {
        TRY(sum_over_ranks(f, f->x, m->hidden_dim, f->a.activation, err));
    }
    if (normed)
        norm_into(f, o->norm, o->norm_bias, f->x, f->x);
    f->pending = true;
    f->pending_bias = normed ? NULL : o->bias_f32;
    if (m->norm_placement == NORM_SUM) {
        add_and_norm(f, NULL, NULL, NULL);
        norm_into(f, o->norm, o->norm_bias, f->residual, f->residual);
    }
    return STATUS_OK;
}

static enum status block_output(struct forward *f, const struct block_output *o, struct error *err)
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
    f->a.kernels->linear(f->a.device, &args);
    return block_sum(f, o, err);
}

// Where activations are in host memory, rows that are not wanted are dropped in place (rows are
// ascending, so each moves towards the front), and what still has all rows is read through row_ids.
static void keep_on_host(struct forward *f)
{
    const struct batch *b = f->batch;
    size_t bytes = (size_t)f->a.model->hidden_dim * f->element;
    uint8_t *stream = f->residual;
    for (uint32_t i = 0; i < b->n_logit_rows; i++)
        if (b->logit_rows[i] != i)
            memcpy(stream + i * bytes, stream + b->logit_rows[i] * bytes, bytes);
    f->row_ids = b->logit_rows;
}

static void gather_wanted(struct forward *f, uint32_t dim, const void *in, void *out)
{
    struct gather_args args = {
        .batch = f->batch, .n_rows = f->batch->n_logit_rows, .dim = dim, .in = in, .out = out};
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

static void swap_back(struct forward *f)
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
    gather_wanted(f, m->hidden_dim, f->residual, f->x);
    swap(&f->residual, &f->x, &f->residual_swapped);
    if (m->parallel_residual && m->shared_parallel_norm) {
        gather_wanted(f, m->hidden_dim, f->normed, f->kept);
        swap(&f->normed, &f->kept, &f->normed_swapped);
    }
}

// Behind the last layer's attention only the wanted rows are needed.
static void keep_wanted_rows(struct forward *f)
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

// ---- layers ------------------------------------------------------------------------------------

// Norms of q and k that rope_kv does not do. One over all heads needs a sum over ranks, in which
// each KV head counts as often as there are ranks that have it.
static enum status norm_qk(struct forward *f, const struct layer_weights *w, struct error *err)
{
    const struct model_config *m = f->a.model;
    uint32_t ranks = f->a.shard->tp_size;
    uint32_t copies = ranks > m->n_kv_heads ? ranks / m->n_kv_heads : 1;
    struct qk_norm_args args = {.n_rows = f->n_rows,
        .n_heads = f->n_heads,
        .n_kv_heads = f->n_kv_heads,
        .head_dim = m->head_dim,
        .qkv = f->qkv,
        .q_norm = w->q_norm,
        .k_norm = w->k_norm,
        .q_bias = w->q_norm_bias,
        .k_bias = w->k_norm_bias,
        .eps = m->norm_eps,
        .weight_offset = m->norm_weight_offset,
        .squares = f->squares,
        .sum_only = f->squares,
        .q_mean = 1 / (float)(m->n_heads * m->head_dim),
        .k_mean = 1 / (float)(m->n_kv_heads * m->head_dim * copies)};
    f->a.kernels->qk_norm(f->a.device, &args);
    if (!f->squares)
        return STATUS_OK;
    TRY(sum_over_ranks(f, f->squares, 2, DTYPE_F32, err));
    args.sum_only = false;
    f->a.kernels->qk_norm(f->a.device, &args);
    return STATUS_OK;
}

static void rotate_and_store(struct forward *f, uint32_t layer)
{
    const struct model_config *m = f->a.model;
    const struct layer_weights *w = &f->a.weights->layer[layer];
    const struct layer_config *c = &m->layer[layer];
    const struct rope_config *rope = &m->rope[c->rope];
    bool norms = m->qk_norm == QK_NORM_HEAD;
    struct rope_kv_args rotate = {.batch = f->batch,
        .qkv = f->qkv,
        .n_heads = f->n_heads,
        .kv = f->a.kv->layer[layer],
        .inv_freq = c->no_rope ? NULL : f->inv_freq[c->rope],
        .attention_factor = rope->attention_factor,
        .rotary_dim = rope->rotary_dim,
        .interleaved = rope->pairing == ROPE_INTERLEAVED,
        .q_norm = norms ? w->q_norm : NULL,
        .k_norm = norms ? w->k_norm : NULL,
        .norm_eps = m->norm_eps,
        .norm_weight_offset = m->norm_weight_offset};
    f->a.kernels->rope_kv(f->a.device, &rotate);
}

static enum status project_qkv(struct forward *f, uint32_t layer, const void *in, struct error *err)
{
    const struct model_config *m = f->a.model;
    const struct layer_weights *w = &f->a.weights->layer[layer];
    uint32_t dim = (f->n_heads + 2 * f->n_kv_heads) * m->head_dim;
    struct linear_args linear = {.n_rows = f->n_rows,
        .x = in,
        .x_stride = m->hidden_dim,
        .w = w->qkv,
        .bias = w->qkv_bias,
        .out = f->qkv,
        .out_stride = dim};
    f->a.kernels->linear(f->a.device, &linear);
    if (m->qkv_clip != 0) {
        struct clip_args clip = {
            .n_rows = f->n_rows, .dim = dim, .limit = m->qkv_clip, .x = f->qkv};
        f->a.kernels->clip(f->a.device, &clip);
    }
    if (m->qk_norm > QK_NORM_HEAD)
        TRY(norm_qk(f, w, err));
    rotate_and_store(f, layer);
    return STATUS_OK;
}

static void attend(struct forward *f, uint32_t layer)
{
    const struct model_config *m = f->a.model;
    struct attention_args args = {.batch = f->batch,
        .qkv = f->qkv,
        .n_heads = f->n_heads,
        .kv = f->a.kv->layer[layer],
        .scale = m->attention_scale / (m->attention_scale_by_layer ? (float)(layer + 1) : 1),
        .softcap = m->attention_softcap,
        .window = m->layer[layer].window,
        .alibi_slopes = f->alibi,
        .out = f->attended};
    f->a.kernels->attention(f->a.device, &args);
}

static enum status attention_block(struct forward *f, uint32_t layer, struct error *err)
{
    const struct layer_weights *w = &f->a.weights->layer[layer];
    TRY(project_qkv(f, layer, block_input(f, w->attn_norm, w->attn_norm_bias), err));
    if (layer + 1 == f->a.weights->n_layers) {
        if (f->batch->n_logit_rows == 0)
            return STATUS_OK; // the pages are written, nothing else is asked
        keep_wanted_rows(f);
    }
    attend(f, layer);
    uint32_t attended_dim = f->n_heads * f->a.model->head_dim;
    const void *attended = f->attended;
    if (f->wanted_only && f->a.kernels->device_memory) {
        gather_wanted(f, attended_dim, f->attended, f->qkv); // q, k and v have been used
        attended = f->qkv;
    }
    struct block_output o = {.weight = w->o,
        .bias = w->o_bias,
        .bias_f32 = w->o_bias_f32,
        .norm = w->attn_out_norm,
        .norm_bias = w->attn_out_norm_bias,
        .next_norm = f->a.model->parallel_residual ? NULL : w->mlp_norm,
        .in = attended,
        .in_dim = attended_dim,
        .row_ids = f->row_ids};
    return block_output(f, &o, err);
}

static void mlp_hidden(
    struct forward *f, const struct layer_weights *w, const void *in, const uint32_t *row_ids)
{
    const struct model_config *m = f->a.model;
    struct linear_args linear = {.n_rows = f->n_rows,
        .x = in,
        .x_stride = m->hidden_dim,
        .w = w->mlp_in,
        .bias = w->mlp_in_bias,
        .out = f->mlp_in,
        .out_stride = f->ffn * (m->gated ? 2 : 1),
        .row_ids = row_ids};
    struct act_args act = {.n_rows = f->n_rows,
        .dim = f->ffn,
        .gated = m->gated,
        .kind = (enum act_kind)m->activation,
        .x = f->mlp_in,
        .out = f->mlp};
    if (f->a.kernels->linear_act) {
        f->a.kernels->linear_act(f->a.device, &linear, &act);
    } else {
        f->a.kernels->linear(f->a.device, &linear);
        f->a.kernels->act(f->a.device, &act);
    }
}

// The part of a mixture of experts that this rank has, into x.
static void experts_output(
    struct forward *f, const struct layer_weights *w, const void *in, const uint32_t *row_ids)
{
    const struct model_config *m = f->a.model;
    const struct shard *s = f->a.shard;
    struct experts_args args = {.n_rows = f->n_rows,
        .hidden_dim = m->hidden_dim,
        .x = in,
        .row_ids = row_ids,
        .router = w->router,
        .n_experts = m->n_experts,
        .n_used = m->n_experts_per_token,
        .renormalize = m->experts_renormalize,
        .gated = m->gated,
        .kind = (enum act_kind)m->activation,
        .begin = s->expert_begin,
        .count = w->n_experts,
        .ffn = shard_expert_ffn(m, s).count,
        .shared_ffn = shard_shared_ffn(m, s).count,
        .in = w->expert_in,
        .down = w->expert_out,
        .shared_in = w->shared_in,
        .shared_down = w->shared_out,
        .shared_gate = w->shared_gate,
        .mlp_in = f->mlp_in,
        .mlp = f->mlp,
        .part = f->part,
        .routes = f->routes,
        .out = f->x};
    f->a.kernels->experts(f->a.device, &args);
}

static enum status mlp_block(struct forward *f, uint32_t layer, struct error *err)
{
    const struct model_config *m = f->a.model;
    const struct layer_weights *w = &f->a.weights->layer[layer];
    bool last = layer + 1 == f->a.weights->n_layers;
    const void *in = f->normed;
    const uint32_t *row_ids = NULL;
    if (!m->parallel_residual) {
        in = block_input(f, w->mlp_norm, w->mlp_norm_bias);
    } else if (m->shared_parallel_norm) {
        row_ids = f->row_ids; // normed still has all rows
        add_and_norm(f, NULL, NULL, NULL);
    } else {
        norm_into(f, w->mlp_norm, w->mlp_norm_bias, f->residual, f->normed);
        add_and_norm(f, NULL, NULL, NULL);
    }
    struct block_output o = {.weight = w->mlp_out,
        .bias = w->mlp_out_bias,
        .bias_f32 = w->mlp_out_bias_f32,
        .norm = w->mlp_out_norm,
        .norm_bias = w->mlp_out_norm_bias,
        .next_norm = last ? f->a.weights->final_norm : w[1].attn_norm,
        .in = f->mlp,
        .in_dim = f->ffn};
    if (m->layer[layer].experts) {
        experts_output(f, w, in, row_ids);
        o.of_experts = true;
        return block_sum(f, &o, err);
    }
    mlp_hidden(f, w, in, row_ids);
    return block_output(f, &o, err);
}

// An embedding of another width, in x, into the stream; positions are added behind that.
static void project_embedding(struct forward *f)
{
    const struct model_config *m = f->a.model;
    const struct weights *w = f->a.weights;
    struct linear_args project = {.n_rows = f->n_rows,
        .x = f->x,
        .x_stride = m->embed_dim,
        .w = w->project_in,
        .out = f->residual,
        .out_stride = m->hidden_dim};
    struct embed_args add = {.batch = f->batch,
        .positions = w->positions,
        .position_offset = m->learned_position_offset,
        .out = f->residual};
    f->a.kernels->linear(f->a.device, &project);
    if (w->positions)
        f->a.kernels->embed(f->a.device, &add);
}

static enum status embed(struct forward *f, struct error *err)
{
    const struct model_config *m = f->a.model;
    const struct weights *w = f->a.weights;
    bool projects = w->project_in;
    struct embed_args args = {.batch = f->batch,
        .table = w->embed,
        .vocab_begin = f->vocab.begin,
        .scale = m->embedding_scale,
        .positions = projects ? NULL : w->positions,
        .position_offset = m->learned_position_offset,
        .out = projects ? f->x : f->residual};
    f->a.kernels->embed(f->a.device, &args);
    TRY(sum_over_ranks(f, args.out, m->embed_dim, f->a.activation, err));
    if (projects)
        project_embedding(f);
    if (w->embed_norm)
        norm_into(f, w->embed_norm, w->embed_norm_bias, f->residual, f->residual);
    return STATUS_OK;
}

enum status forward_sync(struct forward *f, struct error *err)
{
    TRY(f->a.kernels->device_sync(f->a.device, err));
    if (!f->a.group || !f->a.stream)
        return STATUS_OK;
    enum status s = coll_poll(f->a.group);
    return s == STATUS_OK ? s : status_fail(err, s, "%s", coll_error(f->a.group)->text);
}

// Embedding, all layers and the last norm.
static enum status run_step(struct forward *f, const struct forward_pulse *pulse, struct error *err)
{
    f->pending = f->normed_ahead = false;
    TRY(embed(f, err));
    for (uint32_t i = 0; i < f->a.weights->n_layers; i++) {
        TRY(attention_block(f, i, err));
        if (i + 1 < f->a.weights->n_layers || f->batch->n_logit_rows)
            TRY(mlp_block(f, i, err));
        if (pulse && pulse->step)
            pulse->step(pulse->user);
    }
    if (f->batch->n_logit_rows && !f->normed_ahead)
        add_and_norm(f, f->a.weights->final_norm, f->a.weights->final_norm_bias,
            f->a.model->final_norm ? f->normed : NULL);
    return STATUS_OK;
}

static uint32_t round_up(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static uint32_t power_above(uint32_t n, uint32_t least)
{
    while (least < n)
        least *= 2;
    return least;
}

// Whether this step is one that is recorded, and the bounds that it shares with others: up to 8
// rows powers of two, then few sizes that waste little; powers of two of keys.
static bool step_bounds(const struct forward *f, struct graph_bounds *out)
{
    const struct batch *b = f->batch;
    uint32_t n = b->n_rows, n_keys = 0;
    if (f->a.eager || f->a.group || !f->a.kernels->graph_begin || n > GRAPH_ROWS ||
        b->n_seqs != n || b->n_logit_rows != n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t keys = b->seq[i].first_position + 1;
        if (b->seq[i].n_rows != 1)
            return false;
        n_keys = keys > n_keys ? keys : n_keys;
    }
    out->n_rows = n <= 8 ? power_above(n, 1) : n <= 64 ? round_up(n, 8) : round_up(n, 32);
    out->n_keys = power_above(n_keys, KERNELS_ATTENTION_CHUNK);
    return out->n_rows <= f->a.rows_max;
}

static enum status record_step(struct forward *f, const struct graph_bounds *bounds,
    const struct forward_pulse *pulse, struct error *err)
{
    enum graph_state state = f->a.kernels->graph_begin(f->a.device, bounds);
    if (state == GRAPH_DONE)
        return STATUS_OK;
    if (state == GRAPH_NONE)
        return run_step(f, pulse, err);
    f->n_rows = bounds->n_rows;
    enum status s = run_step(f, pulse, err);
    bool enqueued = f->a.kernels->graph_end(f->a.device, f->batch);
    f->n_rows = f->batch->n_rows;
    return s != STATUS_OK || enqueued ? s : run_step(f, NULL, err);
}

enum status forward_rows(struct forward *f, const struct batch *batch,
    const struct forward_pulse *pulse, struct error *err)
{
    struct graph_bounds bounds;
    check(batch->n_rows >= 1 && batch->n_rows <= f->a.rows_max);
    f->batch = batch;
    swap_back(f);
    if (f->a.kernels->batch_begin)
        f->a.kernels->batch_begin(f->a.device, batch);
    f->n_rows = batch->n_rows;
    f->row_ids = NULL;
    f->wanted_only = false;
    if (step_bounds(f, &bounds))
        TRY(record_step(f, &bounds, pulse, err));
    else
        TRY(run_step(f, pulse, err));
    return forward_sync(f, err);
}

// Where the head reads its rows: `rows` of what stands behind the last layer, gathered on a device.
static const void *head_input(struct forward *f, uint32_t *rows, uint32_t n)
{
    const void *all = f->a.model->final_norm ? f->normed : f->residual;
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
