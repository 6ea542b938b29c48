// SPDX-License-Identifier: Apache-2.0
#include "tests/model/forward_reference.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// A weight [n, k] in double.
struct matrix {
    uint32_t n, k;
    double *v; // NULL: the model has none
};

struct pass {
    const struct model_config *m;
    const struct weights_plan *plan;
    uint32_t n_ranks, n_tokens;
    double *x; // [n_tokens, hidden_dim], the residual stream
};

static double *doubles(size_t n)
{
    double *p = calloc(n ? n : 1, sizeof *p);
    check(p);
    return p;
}

static double element(const struct weight_slice *w, const uint8_t *at)
{
    uint16_t h;
    float f;
    if (w->dtype == DTYPE_F32) {
        memcpy(&f, at, 4);
        return (double)f;
    }
    memcpy(&h, at, 2);
    return (double)(w->dtype == DTYPE_BF16 ? dtype_f32_from_bf16(h) : dtype_f32_from_f16(h));
}

static struct matrix unpack(const struct weight_slice *w)
{
    struct matrix a = {w->n, w->k, NULL};
    if (w->n_parts == 0)
        return a;
    a.v = doubles((size_t)w->n * w->k);
    double *to = a.v;
    for (uint32_t p = 0; p < w->n_parts; p++)
        for (uint32_t r = 0; r < w->part[p].n_rows; r++)
            for (uint32_t c = 0; c < w->k; c++)
                *to++ =
                    element(w, (const uint8_t *)w->part[p].data + r * w->part[p].row_stride_bytes +
                                   (size_t)c * dtype_bytes(w->dtype));
    check(to == a.v + (size_t)w->n * w->k);
    return a;
}

static const struct weight_slice *layer_slot(
    const struct pass *p, uint32_t rank, uint32_t layer, enum layer_slot slot)
{
    return &p->plan[rank].layer[layer].slot[slot];
}

// out[t, n] = x[t, :] . w[n, :] (+ bias)
static double *linear(const double *x, uint32_t n_tokens, const struct weight_slice *weight,
    const struct weight_slice *bias)
{
    struct matrix w = unpack(weight), b = unpack(bias);
    double *out = doubles((size_t)n_tokens * w.n);
    check(!b.v || b.k == w.n);
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t n = 0; n < w.n; n++) {
            double sum = b.v ? b.v[n] : 0;
            for (uint32_t k = 0; k < w.k; k++)
                sum += x[(size_t)t * w.k + k] * w.v[(size_t)n * w.k + k];
            out[(size_t)t * w.n + n] = sum;
        }
    free(w.v);
    free(b.v);
    return out;
}

static void normalize_row(const struct pass *p, const double *x, uint32_t dim,
    const struct matrix *w, const struct matrix *b, bool layer_norm, double *out)
{
    double mean = 0, square = 0;
    for (uint32_t i = 0; i < dim; i++)
        mean += x[i] / dim;
    if (!layer_norm)
        mean = 0;
    for (uint32_t i = 0; i < dim; i++)
        square += (x[i] - mean) * (x[i] - mean) / dim;
    double scale = 1 / sqrt(square + (double)p->m->norm_eps);
    for (uint32_t i = 0; i < dim; i++)
        out[i] = (x[i] - mean) * scale * (w->v[i] + (double)p->m->norm_weight_offset) +
                 (b && b->v ? b->v[i] : 0);
}

static double *norm(
    const struct pass *p, const struct weight_slice *weight, const struct weight_slice *bias)
{
    struct matrix w = unpack(weight), b = unpack(bias);
    uint32_t dim = p->m->hidden_dim;
    double *out = doubles((size_t)p->n_tokens * dim);
    for (uint32_t t = 0; t < p->n_tokens; t++)
        normalize_row(p, p->x + (size_t)t * dim, dim, &w, &b, p->m->norm_kind == NORM_LAYER,
            out + (size_t)t * dim);
    free(w.v);
    free(b.v);
    return out;
}

static void rotate(const struct pass *p, double *head, uint32_t position)
{
    const struct rope_config *r = &p->m->rope[0];
    uint32_t half = r->rotary_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        double angle = (double)((float)position * r->inv_freq[i]);
        double c = cos(angle) * (double)r->attention_factor;
        double s = sin(angle) * (double)r->attention_factor;
        double a = head[i], b = head[i + half];
        head[i] = a * c - b * s;
        head[i + half] = b * c + a * s;
    }
}

// One query head at one position over its keys; stride is the row of qkv.
static void attend(const struct pass *p, const double *q, const double *k, const double *v,
    size_t stride, uint32_t first, uint32_t last, double *out)
{
    uint32_t dim = p->m->head_dim;
    double *score = doubles(last + 1), most = -INFINITY, sum = 0;
    for (uint32_t j = first; j <= last; j++) {
        for (uint32_t i = 0; i < dim; i++)
            score[j] += q[i] * k[j * stride + i] * (double)p->m->attention_scale;
        most = fmax(most, score[j]);
    }
    for (uint32_t j = first; j <= last; j++)
        sum += score[j] = exp(score[j] - most);
    for (uint32_t j = first; j <= last; j++)
        for (uint32_t i = 0; i < dim; i++)
            out[i] += score[j] / sum * v[j * stride + i];
    free(score);
}

static void prepare_heads(const struct pass *p, uint32_t rank, uint32_t layer, uint32_t n_heads,
    uint32_t n_kv, double *qkv)
{
    struct matrix qn = unpack(layer_slot(p, rank, layer, LAYER_SLOT_Q_NORM));
    struct matrix kn = unpack(layer_slot(p, rank, layer, LAYER_SLOT_K_NORM));
    uint32_t dim = p->m->head_dim;
    for (uint32_t t = 0; t < p->n_tokens; t++)
        for (uint32_t h = 0; h < n_heads + n_kv; h++) {
            double *head = qkv + ((size_t)t * (n_heads + 2 * n_kv) + h) * dim;
            const struct matrix *w = h < n_heads ? &qn : &kn;
            if (w->v)
                normalize_row(p, head, dim, w, NULL, false, head);
            rotate(p, head, t);
        }
    free(qn.v);
    free(kn.v);
}

static double *attention(const struct pass *p, uint32_t rank, uint32_t layer, const double *h)
{
    const struct shard *s = &p->plan[rank].shard;
    uint32_t n_heads = shard_heads(p->m, s).count, n_kv = shard_kv_heads(p->m, s).count;
    uint32_t dim = p->m->head_dim, window = p->m->layer[layer].window;
    size_t stride = (size_t)(n_heads + 2 * n_kv) * dim;
    double *qkv = linear(h, p->n_tokens, layer_slot(p, rank, layer, LAYER_SLOT_QKV),
        layer_slot(p, rank, layer, LAYER_SLOT_QKV_BIAS));
    prepare_heads(p, rank, layer, n_heads, n_kv, qkv);
    double *mixed = doubles((size_t)p->n_tokens * n_heads * dim);
    for (uint32_t t = 0; t < p->n_tokens; t++)
        for (uint32_t i = 0; i < n_heads; i++) {
            uint32_t kv = i / (n_heads / n_kv);
            uint32_t first = window && t >= window ? t - window + 1 : 0;
            attend(p, qkv + t * stride + (size_t)i * dim, qkv + (size_t)(n_heads + kv) * dim,
                qkv + (size_t)(n_heads + n_kv + kv) * dim, stride, first, t,
                mixed + ((size_t)t * n_heads + i) * dim);
        }
    static const struct weight_slice none;
    double *out = linear(mixed, p->n_tokens, layer_slot(p, rank, layer, LAYER_SLOT_O), &none);
    free(qkv);
    free(mixed);
    return out;
}

static double activate(enum activation kind, double x)
{
    switch (kind) {
    case ACTIVATION_SILU:
        return x / (1 + exp(-x));
    case ACTIVATION_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case ACTIVATION_RELU:
        return fmax(x, 0);
    case ACTIVATION_RELU2:
        return fmax(x, 0) * fmax(x, 0);
    }
    return NAN;
}

// down(act(in(h))) for `n` columns.
static double *plain_mlp(const struct pass *p, const double *h, uint32_t n,
    const struct weight_slice *up, const struct weight_slice *bias, const struct weight_slice *down)
{
    double *in = linear(h, p->n_tokens, up, bias);
    double *mid = doubles((size_t)p->n_tokens * n);
    for (uint32_t t = 0; t < p->n_tokens; t++)
        for (uint32_t i = 0; i < n; i++) {
            const double *row = in + (size_t)t * (p->m->gated ? 2 * n : n);
            double a = activate(p->m->activation, row[i]);
            mid[(size_t)t * n + i] = p->m->gated ? a * row[n + i] : a;
        }
    static const struct weight_slice none;
    double *out = linear(mid, p->n_tokens, down, &none);
    free(in);
    free(mid);
    return out;
}

// How much of each expert a token takes: softmax, then the largest ones.
static void route(const struct model_config *m, const double *logit, double *factor)
{
    double most = -INFINITY, sum = 0, kept = 0;
    for (uint32_t e = 0; e < m->n_experts; e++)
        most = fmax(most, logit[e]);
    for (uint32_t e = 0; e < m->n_experts; e++) {
        factor[e] = 0;
        sum += exp(logit[e] - most);
    }
    for (uint32_t i = 0; i < m->n_experts_per_token; i++) {
        uint32_t best = m->n_experts;
        for (uint32_t e = 0; e < m->n_experts; e++)
            if (factor[e] == 0 && (best == m->n_experts || logit[e] > logit[best]))
                best = e;
        factor[best] = exp(logit[best] - most) / sum;
        kept += factor[best];
    }
    for (uint32_t e = 0; m->experts_renormalize && e < m->n_experts; e++)
        factor[e] /= kept;
}

// out += factor[t] * part, which is freed; factors are `stride` apart.
static void add_scaled(
    const struct pass *p, double *part, const double *factor, uint32_t stride, double *out)
{
    uint32_t dim = p->m->hidden_dim;
    for (uint32_t t = 0; t < p->n_tokens; t++)
        for (uint32_t i = 0; i < dim; i++)
            out[(size_t)t * dim + i] += factor[(size_t)t * stride] * part[(size_t)t * dim + i];
    free(part);
}

// The shared expert, times the sigmoid of its gate.
static void add_shared(
    const struct pass *p, uint32_t rank, uint32_t layer, const double *h, double *out)
{
    static const struct weight_slice none;
    const struct weight_slice *gate = layer_slot(p, rank, layer, LAYER_SLOT_SHARED_GATE);
    uint32_t n = shard_shared_ffn(p->m, &p->plan[rank].shard).count;
    double *factor = gate->n_parts ? linear(h, p->n_tokens, gate, &none) : doubles(p->n_tokens);
    for (uint32_t t = 0; t < p->n_tokens; t++)
        factor[t] = gate->n_parts ? 1 / (1 + exp(-factor[t])) : 1;
    add_scaled(p,
        plain_mlp(p, h, n, layer_slot(p, rank, layer, LAYER_SLOT_SHARED_IN), &none,
            layer_slot(p, rank, layer, LAYER_SLOT_SHARED_OUT)),
        factor, 1, out);
    free(factor);
}

// What a rank has of a mixture of experts, for every token and expert.
static double *mixture(const struct pass *p, uint32_t rank, uint32_t layer, const double *h)
{
    static const struct weight_slice none;
    const struct weights_plan *plan = &p->plan[rank];
    uint32_t n_experts = p->m->n_experts, n = shard_expert_ffn(p->m, &plan->shard).count;
    double *out = doubles((size_t)p->n_tokens * p->m->hidden_dim);
    double *factor = linear(h, p->n_tokens, layer_slot(p, rank, layer, LAYER_SLOT_ROUTER), &none);
    double *logit = doubles(n_experts);
    for (uint32_t t = 0; t < p->n_tokens; t++) {
        memcpy(logit, factor + (size_t)t * n_experts, n_experts * sizeof *logit);
        route(p->m, logit, factor + (size_t)t * n_experts);
    }
    for (uint32_t i = 0; i < plan->n_local_experts; i++) {
        const struct weight_slice *slot = plan->layer[layer].expert[i].slot;
        add_scaled(p, plain_mlp(p, h, n, &slot[EXPERT_SLOT_IN], &none, &slot[EXPERT_SLOT_OUT]),
            factor + plan->shard.expert_begin + i, n_experts, out);
    }
    if (p->m->shared_ffn_dim)
        add_shared(p, rank, layer, h, out);
    free(factor);
    free(logit);
    return out;
}

static double *mlp(const struct pass *p, uint32_t rank, uint32_t layer, const double *h)
{
    if (p->m->layer[layer].experts)
        return mixture(p, rank, layer, h);
    return plain_mlp(p, h, shard_ffn(p->m, &p->plan[rank].shard).count,
        layer_slot(p, rank, layer, LAYER_SLOT_MLP_IN),
        layer_slot(p, rank, layer, LAYER_SLOT_MLP_IN_BIAS),
        layer_slot(p, rank, layer, LAYER_SLOT_MLP_OUT));
}

// x += residual_scale * (sum over ranks of f(norm(x)) + bias, which any rank has whole).
static void block(struct pass *p, uint32_t layer, enum layer_slot norm_slot,
    enum layer_slot norm_bias, enum layer_slot bias_slot,
    double *(*f)(const struct pass *, uint32_t, uint32_t, const double *))
{
    size_t n = (size_t)p->n_tokens * p->m->hidden_dim;
    double *h = norm(p, layer_slot(p, 0, layer, norm_slot), layer_slot(p, 0, layer, norm_bias));
    double *sum = doubles(n);
    struct matrix bias = unpack(layer_slot(p, p->n_ranks - 1, layer, bias_slot));
    for (uint32_t rank = 0; rank < p->n_ranks; rank++) {
        double *part = f(p, rank, layer, h);
        for (size_t i = 0; i < n; i++)
            sum[i] += part[i];
        free(part);
    }
    for (size_t i = 0; i < n; i++)
        p->x[i] +=
            (double)p->m->residual_scale * (sum[i] + (bias.v ? bias.v[i % p->m->hidden_dim] : 0));
    free(h);
    free(sum);
    free(bias.v);
}

static void embed(struct pass *p, const uint32_t *ids)
{
    uint32_t dim = p->m->hidden_dim;
    for (uint32_t rank = 0; rank < p->n_ranks; rank++) {
        struct matrix w = unpack(&p->plan[rank].slot[MODEL_SLOT_EMBED]);
        struct shard_range mine = shard_vocab(p->m, &p->plan[rank].shard);
        for (uint32_t t = 0; t < p->n_tokens; t++)
            for (uint32_t i = 0; i < dim && ids[t] - mine.begin < mine.count; i++)
                p->x[(size_t)t * dim + i] =
                    w.v[(size_t)(ids[t] - mine.begin) * dim + i] * (double)p->m->embedding_scale;
        free(w.v);
    }
}

static void head(struct pass *p, double *logits)
{
    double *h = norm(
        p, &p->plan[0].slot[MODEL_SLOT_FINAL_NORM], &p->plan[0].slot[MODEL_SLOT_FINAL_NORM_BIAS]);
    for (uint32_t rank = 0; rank < p->n_ranks; rank++) {
        struct shard_range mine = shard_vocab(p->m, &p->plan[rank].shard);
        double *part = linear(h, p->n_tokens, &p->plan[rank].slot[MODEL_SLOT_HEAD],
            &p->plan[rank].slot[MODEL_SLOT_HEAD_BIAS]);
        for (uint32_t t = 0; t < p->n_tokens; t++)
            for (uint32_t i = 0; i < mine.count; i++)
                logits[(size_t)t * p->m->vocab_size + mine.begin + i] =
                    part[(size_t)t * mine.count + i] * (double)p->m->logit_scale;
        free(part);
    }
    free(h);
}

void forward_reference(const struct model_config *m, const struct weights_plan *plan,
    uint32_t n_ranks, const uint32_t *ids, uint32_t n_tokens, double *logits)
{
    struct pass p = {.m = m, .plan = plan, .n_ranks = n_ranks, .n_tokens = n_tokens};
    p.x = doubles((size_t)n_tokens * m->hidden_dim);
    embed(&p, ids);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        block(&p, i, LAYER_SLOT_ATTN_NORM, LAYER_SLOT_ATTN_NORM_BIAS, LAYER_SLOT_O_BIAS, attention);
        block(&p, i, LAYER_SLOT_MLP_NORM, LAYER_SLOT_MLP_NORM_BIAS, LAYER_SLOT_MLP_OUT_BIAS, mlp);
    }
    head(&p, logits);
    free(p.x);
}
