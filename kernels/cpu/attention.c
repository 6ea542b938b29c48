// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/attention.h"

#include "base/check.h"
#include "kernels/cpu/canon_act.h"
#include "kernels/cpu/cpu.h"

enum { CHUNK = KERNELS_ATTENTION_CHUNK };

// One query: what attention.h says, word for word.
struct query {
    const struct attention_args *a;
    const uint32_t *blocks;
    const float *q;
    uint32_t position, kv_head;
    float slope;
    float m, l, o[ATTENTION_HEAD_DIM_MAX];
};

static float score(const struct query *c, uint32_t j)
{
    const struct attention_args *a = c->a;
    float k[ATTENTION_HEAD_DIM_MAX];
    const void *row = attention_row(&a->kv, a->kv.k, c->blocks, c->kv_head, j);
    for (uint32_t d = 0; d < a->kv.head_dim; d++)
        k[d] = weight_load(row, a->kv.dtype, d);
    float s = canon_dot(c->q, k, a->kv.head_dim) * a->scale;
    s = canon_softcap(s, a->softcap);
    return a->alibi_slopes != NULL ? fmaf(c->slope, (float)((int32_t)j - (int32_t)c->position), s)
                                   : s;
}

// Positions [begin, end) of one chunk into m, l and o.
static void attend_chunk(struct query *c, uint32_t begin, uint32_t end)
{
    const struct kv_layer *kv = &c->a->kv;
    float s[CHUNK], lane[CANON_LANES] = {0};
    c->m = -INFINITY;
    for (uint32_t j = begin; j < end; j++) {
        s[j % CHUNK] = score(c, j);
        c->m = s[j % CHUNK] > c->m ? s[j % CHUNK] : c->m;
    }
    memset(c->o, 0, sizeof *c->o * kv->head_dim);
    for (uint32_t j = begin; j < end; j++) {
        float e = canon_exp(s[j % CHUNK] - c->m);
        lane[j % CANON_LANES] = lane[j % CANON_LANES] + e;
        const void *v = attention_row(kv, kv->v, c->blocks, c->kv_head, j);
        for (uint32_t d = 0; d < kv->head_dim; d++)
            c->o[d] = fmaf(e, weight_load(v, kv->dtype, d), c->o[d]);
    }
    c->l = canon_tree16(lane);
}

static void attend(struct query *c, float *out)
{
    uint32_t dim = c->a->kv.head_dim, p = c->position;
    float m = 0, l = 0, o[ATTENTION_HEAD_DIM_MAX];
    uint32_t first = attention_first(c->a->window, p), next;
    for (uint32_t begin = first; begin <= p; begin = next) {
        next = (begin / CHUNK + 1) * CHUNK;
        attend_chunk(c, begin, next <= p ? next : p + 1);
        if (begin == first) {
            m = c->m;
            l = c->l;
            memcpy(o, c->o, sizeof *o * dim);
            continue;
        }
        float n = m > c->m ? m : c->m;
        float x = canon_exp(m - n), y = canon_exp(c->m - n);
        l = fmaf(l, x, c->l * y);
        for (uint32_t d = 0; d < dim; d++)
            o[d] = fmaf(o[d], x, c->o[d] * y);
        m = n;
    }
    float factor = 1.0f / l;
    for (uint32_t d = 0; d < dim; d++)
        out[d] = o[d] * factor;
}

struct plain_job {
    const struct attention_args *a;
    const struct batch_seq *seq;
};

static void plain_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct plain_job *j = arg;
    const struct attention_args *a = j->a;
    uint32_t i = task / a->n_heads, h = task % a->n_heads, dim = a->kv.head_dim;
    uint64_t r = j->seq->first_row + i;
    struct query c = {.a = a,
        .blocks = j->seq->blocks[a->kv.group],
        .q = (const float *)a->qkv + (r * (a->n_heads + 2 * a->kv.n_kv_heads) + h) * dim,
        .position = j->seq->first_position + i,
        .kv_head = h / (a->n_heads / a->kv.n_kv_heads),
        .slope = a->alibi_slopes != NULL ? a->alibi_slopes[h] : 0};
    attend(&c, (float *)a->out + (r * a->n_heads + h) * dim);
}

static void check_shapes(const struct attention_args *a)
{
    check(a->kv.head_dim > 0 && a->kv.head_dim <= ATTENTION_HEAD_DIM_MAX);
    check(a->kv.n_kv_heads > 0 && a->n_heads % a->kv.n_kv_heads == 0);
    check(a->kv.dtype == DTYPE_F32 || a->kv.dtype == DTYPE_F16 || a->kv.dtype == DTYPE_BF16);
    check(a->kv.group < KERNELS_KV_GROUPS_MAX && a->kv.block_tokens > 0);
}

void cpu_attention(struct device *d, const struct attention_args *a)
{
    check_shapes(a);
    if (d->isa == CPU_ISA_AVX512) {
        attention_tiles_run(d, a, &attention_avx512_isa);
        return;
    }
    if (d->isa == CPU_ISA_AVX2) {
        attention_tiles_run(d, a, &attention_avx2_isa);
        return;
    }
    for (uint32_t i = 0; i < a->batch->n_seqs; i++) {
        struct plain_job j = {.a = a, .seq = &a->batch->seq[i]};
        team_run(d->team, plain_task, &j, j.seq->n_rows * a->n_heads);
    }
}
