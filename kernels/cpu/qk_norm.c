// SPDX-License-Identifier: Apache-2.0
// Norms of queries and keys that rope_kv does not do, and the clipping before them.
//
// LayerNorm over a head is the norm of norm.h over its elements. RMS over all heads: the sum of
// squares has sixteen lanes along the rank's elements, lane[i mod 16] = lane + x * x with two
// roundings, and the tree of canon.h; then x = x * s * (offset + w), s = 1 / sqrt(sum * mean +
// eps).
#include "base/check.h"
#include "kernels/cpu/canon.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm.h"

enum { ROWS_PER_TASK = 4 };

struct qk_job {
    const struct qk_norm_args *a;
    norm_row_fn *norm; // of one head
    uint64_t stride;   // elements of a row
};

static float sum_of_squares(const float *x, uint32_t n)
{
    float lane[CANON_LANES] = {0};
    for (uint32_t i = 0; i < n; i++)
        lane[i % CANON_LANES] = lane[i % CANON_LANES] + x[i] * x[i];
    return canon_tree16(lane);
}

// The part of a vector that belongs to one head: all of them share it, or each has its own.
static const void *part_of(const struct weight *w, uint32_t head, uint32_t dim)
{
    if (w == NULL)
        return NULL;
    uint64_t skipped = w->k == dim ? 0 : (uint64_t)head * dim * dtype_bytes(w->dtype);
    return (const char *)weight_row(w, 0) + skipped;
}

static void norm_heads(const struct qk_job *j, float *x, uint32_t n_heads, const struct weight *w,
    const struct weight *bias)
{
    const struct qk_norm_args *a = j->a;
    for (uint32_t h = 0; h < n_heads; h++, x += a->head_dim) {
        struct norm_row row = {.dim = a->head_dim,
            .layer = true,
            .eps = a->eps,
            .weight_offset = a->weight_offset,
            .residual = x,
            .weight = part_of(w, h, a->head_dim),
            .bias = part_of(bias, h, a->head_dim),
            .weight_dtype = w->dtype,
            .bias_dtype = bias != NULL ? bias->dtype : DTYPE_F32,
            .out = x};
        j->norm(&row);
    }
}

static void scale_all(
    const struct qk_norm_args *a, float *x, uint32_t n, float square, const struct weight *w)
{
    const void *row = weight_row(w, 0);
    float s = 1.0f / sqrtf(square + a->eps);
    for (uint32_t i = 0; i < n; i++)
        x[i] = x[i] * s * (a->weight_offset + weight_load(row, w->dtype, i));
}

static void qk_row(const struct qk_job *j, uint32_t r)
{
    const struct qk_norm_args *a = j->a;
    uint32_t q_dim = a->n_heads * a->head_dim, k_dim = a->n_kv_heads * a->head_dim;
    float *q = (float *)a->qkv + r * j->stride, *k = q + q_dim;
    if (a->squares == NULL) {
        norm_heads(j, q, a->n_heads, a->q_norm, a->q_bias);
        norm_heads(j, k, a->n_kv_heads, a->k_norm, a->k_bias);
    } else if (a->sum_only) {
        a->squares[2 * (uint64_t)r] = sum_of_squares(q, q_dim);
        a->squares[2 * (uint64_t)r + 1] = sum_of_squares(k, k_dim);
    } else {
        scale_all(a, q, q_dim, a->squares[2 * (uint64_t)r] * a->q_mean, a->q_norm);
        scale_all(a, k, k_dim, a->squares[2 * (uint64_t)r + 1] * a->k_mean, a->k_norm);
    }
}

static void qk_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct qk_job *j = arg;
    uint32_t begin = task * ROWS_PER_TASK;
    for (uint32_t r = begin; r < begin + ROWS_PER_TASK && r < j->a->n_rows; r++)
        qk_row(j, r);
}

static bool fits(const struct qk_norm_args *a, const struct weight *w, uint32_t n_heads)
{
    bool shared = w->k == a->head_dim && a->squares == NULL;
    return w->n == 1 && (shared || w->k == n_heads * a->head_dim);
}

void cpu_qk_norm(struct device *d, const struct qk_norm_args *a)
{
    check(a->head_dim > 0 && a->n_heads > 0 && a->n_kv_heads > 0);
    check(a->sum_only || (fits(a, a->q_norm, a->n_heads) && fits(a, a->k_norm, a->n_kv_heads)));
    check(a->q_bias == NULL || fits(a, a->q_bias, a->n_heads));
    check(a->k_bias == NULL || fits(a, a->k_bias, a->n_kv_heads));
    struct qk_job j = {.a = a,
        .norm = norm_plain_row,
        .stride = (uint64_t)(a->n_heads + 2 * a->n_kv_heads) * a->head_dim};
    if (d->isa == CPU_ISA_AVX512)
        j.norm = norm_avx512_row;
    else if (d->isa == CPU_ISA_AVX2)
        j.norm = norm_avx2_row;
    team_run(d->team, qk_task, &j, (a->n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
}

static void clip_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct clip_args *a = arg;
    uint32_t begin = task * ROWS_PER_TASK;
    uint32_t end = begin + ROWS_PER_TASK < a->n_rows ? begin + ROWS_PER_TASK : a->n_rows;
    float *x = (float *)a->x, limit = a->limit;
    // A NaN compares false and stays.
    for (uint64_t i = (uint64_t)begin * a->dim; i < (uint64_t)end * a->dim; i++) {
        x[i] = x[i] > limit ? limit : x[i];
        x[i] = x[i] < -limit ? -limit : x[i];
    }
}

void cpu_clip(struct device *d, const struct clip_args *a)
{
    check(a->dim > 0 && a->limit > 0);
    struct clip_args args = *a;
    team_run(d->team, clip_task, &args, (a->n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
}
