// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/rope.h"

#include "base/check.h"
#include "kernels/cpu/canon_act.h"
#include "kernels/cpu/cpu.h"

enum { TASK_ELEMENTS = 8192 };

static void norm_head(const struct rope_row *a, float *h, const void *w, enum dtype t)
{
    float ss = canon_dot(h, h, a->head_dim);
    float s = 1.0f / sqrtf(ss / (float)a->head_dim + a->eps);
    for (uint32_t i = 0; i < a->head_dim; i++)
        h[i] = h[i] * s * (a->weight_offset + weight_load(w, t, i));
}

static void rotate_head(const struct rope_row *a, float *h, const float *c, const float *s)
{
    uint32_t half = a->rotary_dim / 2;
    for (uint32_t i = 0; a->inv_freq != NULL && i < half; i++) {
        float *px = a->interleaved ? h + 2 * i : h + i;
        float *py = a->interleaved ? px + 1 : px + half;
        float x = *px, y = *py;
        *px = fmaf(x, c[i], -(y * s[i]));
        *py = fmaf(y, c[i], x * s[i]);
    }
}

static void store_head(void *to, enum dtype t, const float *h, uint32_t n)
{
    if (t == DTYPE_F32) {
        memcpy(to, h, 4 * (uint64_t)n);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint16_t u = t == DTYPE_BF16 ? dtype_bf16_from_f32(h[i]) : dtype_f16_from_f32(h[i]);
        memcpy((char *)to + 2 * (uint64_t)i, &u, 2);
    }
}

void rope_plain_row(const struct rope_row *a)
{
    float c[ROPE_HEAD_DIM_MAX / 2], s[ROPE_HEAD_DIM_MAX / 2];
    for (uint32_t i = 0; a->inv_freq != NULL && i < a->rotary_dim / 2; i++) {
        canon_sincos((float)a->position * a->inv_freq[i], &s[i], &c[i]);
        s[i] = s[i] * a->attention_factor;
        c[i] = c[i] * a->attention_factor;
    }
    float *h = a->qkv;
    for (uint32_t i = 0; i < a->n_heads; i++, h += a->head_dim) {
        if (a->q_norm != NULL)
            norm_head(a, h, a->q_norm, a->q_norm_dtype);
        rotate_head(a, h, c, s);
    }
    float k[ROPE_HEAD_DIM_MAX];
    for (uint32_t i = 0; i < a->n_kv_heads; i++, h += a->head_dim) {
        memcpy(k, h, sizeof *k * a->head_dim);
        if (a->k_norm != NULL)
            norm_head(a, k, a->k_norm, a->k_norm_dtype);
        rotate_head(a, k, c, s);
        store_head((char *)a->k + i * a->head_stride_bytes, a->kv_dtype, k, a->head_dim);
    }
    for (uint32_t i = 0; i < a->n_kv_heads; i++, h += a->head_dim)
        store_head((char *)a->v + i * a->head_stride_bytes, a->kv_dtype, h, a->head_dim);
}

struct rope_job {
    const struct rope_kv_args *a;
    struct rope_row row; // what all rows share
    rope_row_fn *run;
    uint32_t rows_per_task;
};

// The sequence that row r belongs to; rows of sequences ascend.
static const struct batch_seq *seq_of(const struct batch *b, uint32_t r)
{
    uint32_t low = 0, high = b->n_seqs;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (b->seq[middle].first_row <= r)
            low = middle;
        else
            high = middle;
    }
    return &b->seq[low];
}

static void rope_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct rope_job *j = arg;
    const struct kv_layer *kv = &j->a->kv;
    uint32_t begin = task * j->rows_per_task, end = begin + j->rows_per_task;
    uint64_t qkv_dim = (uint64_t)(j->a->n_heads + 2 * kv->n_kv_heads) * kv->head_dim;
    uint64_t token_bytes = (uint64_t)kv->head_dim * dtype_bytes(kv->dtype);
    for (uint32_t r = begin; r < end && r < j->a->batch->n_rows; r++) {
        const struct batch_seq *seq = seq_of(j->a->batch, r);
        struct rope_row row = j->row;
        row.qkv = (float *)j->a->qkv + r * qkv_dim;
        row.position = seq->first_position + (r - seq->first_row);
        uint64_t page = seq->blocks[kv->group][row.position / kv->block_tokens];
        uint64_t at = page * kv->n_kv_heads * kv->block_tokens + row.position % kv->block_tokens;
        row.k = (char *)kv->k + at * token_bytes;
        row.v = (char *)kv->v + at * token_bytes;
        j->run(&row);
    }
}

static void check_shapes(const struct rope_kv_args *a)
{
    check(a->kv.head_dim > 0 && a->kv.head_dim <= ROPE_HEAD_DIM_MAX);
    check(a->rotary_dim % 2 == 0 && a->rotary_dim <= a->kv.head_dim);
    check(a->kv.dtype == DTYPE_F32 || a->kv.dtype == DTYPE_F16 || a->kv.dtype == DTYPE_BF16);
    check(a->kv.group < KERNELS_KV_GROUPS_MAX && a->kv.block_tokens > 0);
    check(a->q_norm == NULL || a->q_norm->k == a->kv.head_dim);
    check(a->k_norm == NULL || a->k_norm->k == a->kv.head_dim);
}

void cpu_rope_kv(struct device *d, const struct rope_kv_args *a)
{
    check_shapes(a);
    struct rope_job j = {.a = a, .run = rope_plain_row};
    j.row = (struct rope_row){.n_heads = a->n_heads,
        .n_kv_heads = a->kv.n_kv_heads,
        .head_dim = a->kv.head_dim,
        .inv_freq = a->inv_freq,
        .attention_factor = a->attention_factor,
        .rotary_dim = a->rotary_dim,
        .interleaved = a->interleaved,
        .eps = a->norm_eps,
        .weight_offset = a->norm_weight_offset,
        .head_stride_bytes =
            (uint64_t)a->kv.block_tokens * a->kv.head_dim * dtype_bytes(a->kv.dtype),
        .kv_dtype = a->kv.dtype};
    if (a->q_norm != NULL) {
        j.row.q_norm = weight_row(a->q_norm, 0);
        j.row.q_norm_dtype = a->q_norm->dtype;
    }
    if (a->k_norm != NULL) {
        j.row.k_norm = weight_row(a->k_norm, 0);
        j.row.k_norm_dtype = a->k_norm->dtype;
    }
    if (d->isa == CPU_ISA_AVX512)
        j.run = rope_avx512_row;
    else if (d->isa == CPU_ISA_AVX2)
        j.run = rope_avx2_row;
    uint32_t dim = (a->n_heads + 2 * a->kv.n_kv_heads) * a->kv.head_dim;
    j.rows_per_task = dim < TASK_ELEMENTS ? TASK_ELEMENTS / dim : 1;
    uint32_t n_rows = a->batch->n_rows;
    team_run(d->team, rope_task, &j, (n_rows + j.rows_per_task - 1) / j.rows_per_task);
}
