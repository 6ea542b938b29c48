// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/norm.h"

#include "base/check.h"
#include "kernels/cpu/canon.h"
#include "kernels/cpu/cpu.h"

enum { TASK_ELEMENTS = 16384 };

static void add_plain(const struct norm_row *a)
{
    for (uint32_t i = 0; a->x != NULL && i < a->dim; i++) {
        float x = a->x_bias != NULL ? a->x[i] + a->x_bias[i] : a->x[i];
        a->residual[i] = fmaf(x, a->x_scale, a->residual[i]);
    }
}

void norm_plain_row(const struct norm_row *a)
{
    add_plain(a);
    if (a->out == NULL)
        return;
    const float *r = a->residual;
    float n = (float)a->dim, mean = 0;
    float lane[CANON_LANES] = {0};
    if (a->layer)
        mean = canon_sum(r, a->dim) / n;
    for (uint32_t i = 0; i < a->dim; i++)
        lane[i % CANON_LANES] = fmaf(r[i] - mean, r[i] - mean, lane[i % CANON_LANES]);
    float s = 1.0f / sqrtf(canon_tree16(lane) / n + a->eps);
    for (uint32_t i = 0; i < a->dim; i++) {
        float y = (r[i] - mean) * s, w = 1.0f;
        if (a->weight != NULL)
            w = a->weight_offset + weight_load(a->weight, a->weight_dtype, i);
        if (a->bias != NULL)
            a->out[i] = fmaf(y, w, weight_load(a->bias, a->bias_dtype, i));
        else
            a->out[i] = y * w;
    }
}

static void copy_row(const struct norm_row *a)
{
    add_plain(a);
    if (a->out != NULL)
        memcpy(a->out, a->residual, a->dim * sizeof *a->out);
}

struct norm_job {
    const struct norm_args *a;
    struct norm_row row; // what all rows share
    norm_row_fn *run;
    uint32_t rows_per_task;
};

static void norm_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct norm_job *j = arg;
    const struct norm_args *a = j->a;
    uint32_t begin = task * j->rows_per_task, end = begin + j->rows_per_task;
    for (uint32_t r = begin; r < end && r < a->n_rows; r++) {
        uint64_t at = (uint64_t)r * a->dim;
        struct norm_row row = j->row;
        row.x = a->x != NULL ? (const float *)a->x + at : NULL;
        row.residual = (float *)a->residual + at;
        row.out = a->out != NULL ? (float *)a->out + at : NULL;
        j->run(&row);
    }
}

void cpu_norm(struct device *d, const struct norm_args *a)
{
    check(a->dim > 0 && (a->x == NULL || a->out != a->residual));
    check(a->residual_type == DTYPE_F32 && a->out_type == DTYPE_F32);
    check(!a->copy || (a->weight == NULL && a->bias == NULL));
    check(!a->copy || a->out == NULL || a->out != a->residual);
    struct norm_job j = {.a = a, .run = norm_plain_row};
    j.row = (struct norm_row){.dim = a->dim,
        .layer = a->layer,
        .eps = a->eps,
        .weight_offset = a->weight_offset,
        .x_bias = a->x_bias,
        .x_scale = a->x_scale};
    if (a->weight != NULL) {
        check(a->weight->k == a->dim);
        j.row.weight = weight_row(a->weight, 0);
        j.row.weight_dtype = a->weight->dtype;
    }
    if (a->bias != NULL) {
        check(a->bias->k == a->dim);
        j.row.bias = weight_row(a->bias, 0);
        j.row.bias_dtype = a->bias->dtype;
    }
    if (a->copy)
        j.run = copy_row;
    else if (d->isa == CPU_ISA_AVX512)
        j.run = norm_avx512_row;
    else if (d->isa == CPU_ISA_AVX2)
        j.run = norm_avx2_row;
    j.rows_per_task = a->dim < TASK_ELEMENTS ? TASK_ELEMENTS / a->dim : 1;
    team_run(d->team, norm_task, &j, (a->n_rows + j.rows_per_task - 1) / j.rows_per_task);
}
