// SPDX-License-Identifier: Apache-2.0
#include "worker/forward_internal.h"

#include "base/check.h"
#include "worker/alibi.h"

// Columns of the stream, or of the embedding where it is wider.
static uint32_t stream_dim(const struct model_config *m)
{
    return m->embed_dim > m->hidden_dim ? m->embed_dim : m->hidden_dim;
}

// Rows of the residual stream and of x, which change places.
static uint64_t shared_rows(const struct model_config *m, const struct shard *s, uint32_t rows_max)
{
    return shard_places_experts(m, s) ? experts_x_rows(s->tp_size, rows_max) : rows_max;
}

uint64_t forward_heap_bytes(const struct model_config *m, const struct shard *s, uint32_t rows_max)
{
    uint64_t experts = shard_places_experts(m, s) ? experts_heap_bytes(m, s->tp_size, rows_max) : 0;
    uint64_t each = shared_rows(m, s, rows_max) * stream_dim(m) * sizeof(float);
    uint64_t squares = m->qk_norm == QK_NORM_FULL ? 2 * sizeof(float) * (uint64_t)rows_max : 0;
    return 2 * ((each + 127) & ~(uint64_t)127) + ((squares + 127) & ~(uint64_t)127) + experts;
}

// Device memory, given back by forward_close; NULL when there is none.
static void *bytes_take(struct forward *f, uint64_t bytes)
{
    check(f->n_buffers < FORWARD_BUFFERS_MAX);
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
    uint64_t shared; // residual and x, with room for f32
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

// Experts of a device have room of their own, for choices instead of rows.
static bool needs_mlp_in(const struct forward_args *a)
{
    return !a->kernels->linear_act || (a->model->n_experts && !a->kernels->device_memory);
}

uint64_t forward_bytes(const struct forward_args *a)
{
    struct row_shape w = row_shape(a->model, a->shard);
    uint64_t each = w.stream + w.qkv + w.attended + w.mlp;
    each += needs_mlp_in(a) ? w.mlp_in : 0;
    each += a->model->n_experts ? w.stream : 0;
    each += a->kernels->device_memory ? w.stream : 0;
    uint64_t projected = (uint64_t)FORWARD_LOGIT_ROWS * a->model->embed_dim;
    return 2 * w.shared * shared_rows(a->model, a->shard, a->rows_max) * sizeof(float) +
           (each * a->rows_max + projected) * dtype_bytes(a->activation) +
           routes_bytes(a->model, a->rows_max);
}

static bool place_experts(struct forward *f)
{
    struct experts_open_args args = {.model = f->a.model,
        .group = f->a.group,
        .rows_max = f->a.rows_max,
        .kernels = f->a.kernels,
        .device = f->a.device,
        .activation = f->a.activation,
        .stream = f->a.stream};
    return !f->a.group || !shard_places_experts(f->a.model, f->a.shard) ||
           experts_open(&args, &f->experts) == STATUS_OK;
}

bool forward_memory_take(struct forward *f)
{
    struct row_shape w = row_shape(f->a.model, f->a.shard);
    uint64_t rows = f->a.rows_max;
    bool squares = f->a.model->qk_norm == QK_NORM_FULL, projects = f->a.weights->project_out;
    uint64_t shared = shared_rows(f->a.model, f->a.shard, f->a.rows_max) * w.shared * sizeof(float);
    f->residual = shared_take(f, shared);
    f->x = shared_take(f, shared);
    if (squares)
        f->squares = shared_take(f, rows * 2 * sizeof(float));
    if (projects)
        f->projected = buffer_take(f, (uint64_t)FORWARD_LOGIT_ROWS * f->a.model->embed_dim);
    f->normed = buffer_take(f, rows * w.stream);
    f->qkv = buffer_take(f, rows * w.qkv);
    f->attended = buffer_take(f, rows * w.attended);
    f->mlp = buffer_take(f, rows * w.mlp);
    if (needs_mlp_in(&f->a))
        f->mlp_in = buffer_take(f, rows * w.mlp_in);
    bool device = f->a.kernels->device_memory, experts = f->a.model->n_experts;
    if (experts) {
        if (!place_experts(f))
            return false;
        f->part = buffer_take(f, rows * w.stream);
        f->routes = bytes_take(f, routes_bytes(f->a.model, f->a.rows_max));
    }
    if (device)
        f->kept = buffer_take(f, rows * w.stream);
    return f->residual && f->x && f->normed && f->qkv && f->attended && f->mlp &&
           (f->mlp_in || !needs_mlp_in(&f->a)) && (f->kept || !device) &&
           (f->squares || !squares) && ((f->part && f->routes) || !experts) &&
           (f->projected || !projects) && take_tables(f);
}
