// SPDX-License-Identifier: Apache-2.0
#include "worker/forward_internal.h"

_Static_assert((int)ACT_SILU == (int)ACTIVATION_SILU, "one numbering");
_Static_assert((int)ACT_GELU_ERF == (int)ACTIVATION_GELU_ERF, "one numbering");
_Static_assert((int)ACT_GELU_TANH == (int)ACTIVATION_GELU_TANH, "one numbering");
_Static_assert((int)ACT_RELU == (int)ACTIVATION_RELU, "one numbering");
_Static_assert((int)ACT_RELU2 == (int)ACTIVATION_RELU2, "one numbering");

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
    TRY(forward_stream_sum(f, f->squares, 2, DTYPE_F32, err));
    args.sum_only = false;
    f->a.kernels->qk_norm(f->a.device, &args);
    return STATUS_OK;
}

static struct rope_kv_args rotation(struct forward *f, uint32_t layer)
{
    const struct model_config *m = f->a.model;
    const struct layer_weights *w = &f->a.weights->layer[layer];
    const struct layer_config *c = &m->layer[layer];
    const struct rope_config *rope = &m->rope[c->rope];
    bool norms = m->qk_norm == QK_NORM_HEAD;
    return (struct rope_kv_args){.batch = f->batch,
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
}

// Norm, projection, rotation and append as one, where nothing stands between them.
static bool project_at_once(struct forward *f, uint32_t layer, struct linear_args *linear)
{
    const struct model_config *m = f->a.model;
    const struct layer_weights *w = &f->a.weights->layer[layer];
    if (!forward_stream_fuses(f, f->n_rows) || m->qkv_clip != 0 || m->qk_norm > QK_NORM_HEAD)
        return false;
    struct norm_args norm = forward_stream_norm(f, w->attn_norm, w->attn_norm_bias);
    struct rope_kv_args rotate = rotation(f, layer);
    f->norm_taken =
        forward_stream_lends_norm(f) && !(m->parallel_residual && m->layer[layer].experts);
    linear->x = f->norm_taken ? norm.out : forward_stream_input(f, w->attn_norm, w->attn_norm_bias);
    f->a.kernels->norm_linear_rope(f->a.device, f->norm_taken ? &norm : NULL, linear, &rotate);
    return true;
}

static enum status project_qkv(struct forward *f, uint32_t layer, struct error *err)
{
    const struct model_config *m = f->a.model;
    const struct layer_weights *w = &f->a.weights->layer[layer];
    uint32_t dim = (f->n_heads + 2 * f->n_kv_heads) * m->head_dim;
    struct linear_args linear = {.n_rows = f->n_rows,
        .x_stride = m->hidden_dim,
        .w = w->qkv,
        .bias = w->qkv_bias,
        .out = f->qkv,
        .out_stride = dim};
    f->norm_taken = false;
    if (project_at_once(f, layer, &linear))
        return STATUS_OK;
    linear.x = forward_stream_input(f, w->attn_norm, w->attn_norm_bias);
    f->a.kernels->linear(f->a.device, &linear);
    if (m->qkv_clip != 0) {
        struct clip_args clip = {
            .n_rows = f->n_rows, .dim = dim, .limit = m->qkv_clip, .x = f->qkv};
        f->a.kernels->clip(f->a.device, &clip);
    }
    if (m->qk_norm > QK_NORM_HEAD)
        TRY(norm_qk(f, w, err));
    struct rope_kv_args rotate = rotation(f, layer);
    f->a.kernels->rope_kv(f->a.device, &rotate);
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

// What the MLP has inside, of `in`; of a norm that is yet to be made where one is given.
static void mlp_hidden(struct forward *f, const struct layer_weights *w,
    const struct norm_args *norm, const void *in, const uint32_t *row_ids)
{
    const struct model_config *m = f->a.model;
    struct linear_args linear = {.n_rows = f->n_rows,
        .x = norm ? norm->out : in,
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
    if (norm) {
        f->a.kernels->norm_linear_act(f->a.device, norm, &linear, &act);
    } else if (f->a.kernels->linear_act) {
        f->a.kernels->linear_act(f->a.device, &linear, &act);
    } else {
        f->a.kernels->linear(f->a.device, &linear);
        f->a.kernels->act(f->a.device, &act);
    }
}

// Where attention and MLP read the same stream, and the MLP its own norm of it: before either of
// them is added to it.
static void mlp_hidden_ahead(struct forward *f, const struct layer_weights *w)
{
    bool shared = f->a.model->shared_parallel_norm;
    struct norm_args norm = forward_stream_norm(
        f, shared ? w->attn_norm : w->mlp_norm, shared ? w->attn_norm_bias : w->mlp_norm_bias);
    mlp_hidden(f, w, &norm, NULL, NULL);
}

static enum status attention_block(struct forward *f, uint32_t layer, struct error *err)
{
    const struct layer_weights *w = &f->a.weights->layer[layer];
    TRY(project_qkv(f, layer, err));
    if (layer + 1 == f->a.weights->n_layers) {
        if (f->batch->n_logit_rows == 0)
            return STATUS_OK; // the pages are written, nothing else is asked
        forward_stream_keep_wanted(f);
    }
    attend(f, layer);
    uint32_t attended_dim = f->n_heads * f->a.model->head_dim;
    const void *attended = f->attended;
    if (f->wanted_only && f->a.kernels->device_memory) {
        forward_stream_gather(
            f, attended_dim, f->a.activation, f->attended, f->qkv); // q, k and v have been used
        attended = f->qkv;
    }
    bool parallel = f->a.model->parallel_residual;
    if (parallel && f->norm_taken)
        mlp_hidden_ahead(f, w);
    struct forward_output o = {.weight = w->o,
        .bias = w->o_bias,
        .bias_f32 = w->o_bias_f32,
        .norm = w->attn_out_norm,
        .norm_bias = w->attn_out_norm_bias,
        .next_norm = parallel ? NULL : w->mlp_norm,
        .in = attended,
        .in_dim = attended_dim,
        .row_ids = f->row_ids,
        .kept_apart = parallel && !f->norm_taken};
    return forward_stream_output(f, &o, err);
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

// Where the MLP reads, and which rows of that.
static const void *mlp_input(struct forward *f, uint32_t layer, const uint32_t **row_ids)
{
    const struct model_config *m = f->a.model;
    const struct layer_weights *w = &f->a.weights->layer[layer];
    if (!m->parallel_residual)
        return forward_stream_input(f, w->mlp_norm, w->mlp_norm_bias);
    if (m->shared_parallel_norm)
        *row_ids = f->row_ids; // normed still has all rows
    else
        forward_stream_norm_into(f, w->mlp_norm, w->mlp_norm_bias, f->normed);
    forward_stream_add_and_norm(f, NULL, NULL, NULL);
    return f->normed;
}

static enum status mlp_block(struct forward *f, uint32_t layer, struct error *err)
{
    const struct model_config *m = f->a.model;
    const struct layer_weights *w = &f->a.weights->layer[layer];
    bool last = layer + 1 == f->a.weights->n_layers, experts = m->layer[layer].experts;
    bool ahead = m->parallel_residual && f->norm_taken;
    const uint32_t *row_ids = NULL;
    struct forward_output o = {.weight = w->mlp_out,
        .bias = w->mlp_out_bias,
        .bias_f32 = w->mlp_out_bias_f32,
        .norm = w->mlp_out_norm,
        .norm_bias = w->mlp_out_norm_bias,
        .next_norm = last ? f->a.weights->final_norm : w[1].attn_norm,
        .in = f->mlp,
        .in_dim = f->ffn};
    if (experts) {
        const void *in = mlp_input(f, layer, &row_ids);
        experts_output(f, w, in, row_ids);
        o.of_experts = true;
        return forward_stream_output_sum(f, &o, err);
    }
    if (ahead) {
        forward_stream_add_and_norm(f, NULL, NULL, NULL);
    } else if (!m->parallel_residual && forward_stream_lends_norm(f)) {
        struct norm_args norm = forward_stream_norm(f, w->mlp_norm, w->mlp_norm_bias);
        mlp_hidden(f, w, &norm, NULL, NULL);
    } else {
        const void *in = mlp_input(f, layer, &row_ids);
        mlp_hidden(f, w, NULL, in, row_ids);
    }
    return forward_stream_output(f, &o, err);
}

// An embedding of another width, in x as activations, into the stream; positions are added behind
// that.
static void project_embedding(struct forward *f)
{
    const struct model_config *m = f->a.model;
    const struct weights *w = f->a.weights;
    struct linear_args project = {.n_rows = f->n_rows,
        .x = f->x,
        .x_stride = m->embed_dim,
        .w = w->project_in,
        .out = f->residual,
        .out_f32 = true,
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
        .out_type = projects ? f->a.activation : DTYPE_F32,
        .out = projects ? f->x : f->residual};
    f->a.kernels->embed(f->a.device, &args);
    TRY(forward_stream_sum(f, args.out, m->embed_dim, args.out_type, err));
    if (projects)
        project_embedding(f);
    if (w->embed_norm)
        forward_stream_norm_into(f, w->embed_norm, w->embed_norm_bias, f->residual);
    return STATUS_OK;
}

// Embedding, all layers and the last norm.
enum status forward_layers_run(
    struct forward *f, const struct forward_pulse *pulse, struct error *err)
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
    if (f->batch->n_logit_rows == 0 || f->normed_ahead)
        return STATUS_OK;
    if (f->a.model->final_norm)
        forward_stream_add_and_norm(
            f, f->a.weights->final_norm, f->a.weights->final_norm_bias, f->normed);
    else
        forward_stream_plain(f);
    return STATUS_OK;
}
