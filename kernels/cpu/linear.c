// SPDX-License-Identifier: Apache-2.0
// linear: the plain version, and which form the others take. Forms and sizes change the speed only;
// the bits are canon.h's.
#include "kernels/cpu/linear_internal.h"

#include "base/check.h"

enum {
    BIAS_CHUNK = 64,
    PLAIN_TASK_PRODUCTS = 16384,
};

void linear_add_bias(const struct linear_args *a, uint32_t n, uint32_t n_columns,
    uint32_t first_row, uint32_t n_rows)
{
    if (a->bias == NULL)
        return;
    const void *from = weight_row(a->bias, 0);
    for (uint32_t j = 0; j < n_columns; j += BIAS_CHUNK) {
        float bias[BIAS_CHUNK];
        uint32_t chunk = linear_min(BIAS_CHUNK, n_columns - j);
        for (uint32_t i = 0; i < chunk; i++)
            bias[i] = weight_load(from, a->bias->dtype, n + j + i);
        for (uint32_t m = first_row; m < first_row + n_rows; m++) {
            float *out = a->out + (uint64_t)m * a->out_stride + n + j;
            for (uint32_t i = 0; i < chunk; i++)
                out[i] += bias[i];
        }
    }
}

static float plain_dot(const float *x, const void *row, uint32_t k, enum dtype t)
{
    float acc[CANON_LANES] = {0};
    for (uint32_t i = 0; i < k; i++)
        acc[i % CANON_LANES] = fmaf(x[i], weight_load(row, t, i), acc[i % CANON_LANES]);
    return canon_tree16(acc);
}

struct plain {
    const struct linear_args *a;
    uint32_t rows; // of w in a task
};

static void plain_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct plain *p = arg;
    const struct linear_args *a = p->a;
    uint32_t begin = task * p->rows, end = linear_min(begin + p->rows, a->w->n);
    for (uint32_t n = begin; n < end; n++) {
        const void *row = weight_row(a->w, n);
        for (uint32_t m = 0; m < a->n_rows; m++)
            a->out[(uint64_t)m * a->out_stride + n] =
                plain_dot(linear_x_row(a, m), row, a->w->k, a->w->dtype);
    }
    linear_add_bias(a, begin, end - begin, 0, a->n_rows);
}

static void run_plain(struct device *d, const struct linear_args *a)
{
    uint64_t products = (uint64_t)a->w->k * a->n_rows;
    struct plain p = {a, linear_max(1, (uint32_t)(PLAIN_TASK_PRODUCTS / products))};
    team_run(d->team, plain_task, &p, linear_div_up(a->w->n, p.rows));
}

// Rows of x at a time, in passes of nearly equal size.
static uint32_t pass_rows(const struct linear_job *job)
{
    uint32_t unit = job->isa->panel_rows, most = linear_panel_rows_max(job), n = job->a->n_rows;
    if (n < job->isa->panel_from || most == 0)
        return linear_min(n, (uint32_t)(CPU_SHARED_BYTES / sizeof(float) / job->k16));
    uint32_t even = linear_div_up(n, linear_div_up(n, most));
    return linear_div_up(even, unit) * unit;
}

void cpu_linear(struct device *d, const struct linear_args *a)
{
    check(a->bias == NULL || a->bias->k == a->w->n);
    if (a->n_rows == 0)
        return;
    struct linear_job job = {
        .a = a,
        .isa = d->isa == CPU_ISA_AVX512 ? &linear_avx512 : &linear_avx2,
        .d = d,
        .n = a->w->n,
        .k = a->w->k,
        .k16 = linear_div_up(a->w->k, CANON_LANES) * CANON_LANES,
        .x = (float *)(void *)d->shared,
    };
    if (d->isa == CPU_ISA_PLAIN || job.k16 > CPU_SHARED_BYTES / sizeof(float)) {
        run_plain(d, a);
        return;
    }
    bool panels = linear_panel_rows_max(&job) > 0;
    uint32_t step = pass_rows(&job);
    for (uint32_t m = 0; m < a->n_rows; m += step) {
        job.first_row = m;
        job.n_rows = linear_min(step, a->n_rows - m);
        if (panels && job.n_rows >= job.isa->panel_from)
            linear_panel_run(&job);
        else
            linear_dot_run(&job);
    }
}
