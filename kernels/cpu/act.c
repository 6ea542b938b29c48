// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/act.h"

#include "base/check.h"
#include "kernels/cpu/canon_act.h"
#include "kernels/cpu/cpu.h"

enum { TASK_ELEMENTS = 4096 };

void act_plain_run(enum act_kind kind, const float *x, const float *up, float *out, uint32_t n)
{
    check(kind < ACT_COUNT);
    for (uint32_t i = 0; i < n; i++) {
        float y = canon_act(kind, x[i]);
        out[i] = up != NULL ? y * up[i] : y;
    }
}

void act_plain_scale(float *x, uint32_t n, float scale, float softcap)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = canon_softcap(x[i] * scale, softcap);
}

static uint32_t columns_of(uint32_t task_in_row, uint32_t dim)
{
    uint32_t left = dim - task_in_row * TASK_ELEMENTS;
    return left < TASK_ELEMENTS ? left : TASK_ELEMENTS;
}

// Rows are cut into pieces; short rows go several to a task, so that a task is worth waking for.
struct pieces {
    uint32_t n_rows, dim;
    uint32_t per_row;       // tasks of a row, when it is long
    uint32_t rows_per_task; // rows of a task, when they are short
    uint32_t n_tasks;
};

static struct pieces cut(uint32_t n_rows, uint32_t dim)
{
    struct pieces p = {.n_rows = n_rows, .dim = dim, .per_row = 1, .rows_per_task = 1};
    if (dim > TASK_ELEMENTS)
        p.per_row = (dim + TASK_ELEMENTS - 1) / TASK_ELEMENTS;
    else
        p.rows_per_task = TASK_ELEMENTS / dim;
    p.n_tasks = (n_rows + p.rows_per_task - 1) / p.rows_per_task * p.per_row;
    return p;
}

struct act_job {
    const struct act_args *a;
    struct pieces p;
    void (*run)(enum act_kind kind, const float *x, const float *up, float *out, uint32_t n);
};

static void act_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct act_job *j = arg;
    const struct act_args *a = j->a;
    uint32_t part = task % j->p.per_row, first = task / j->p.per_row * j->p.rows_per_task;
    uint32_t begin = part * TASK_ELEMENTS, n = columns_of(part, a->dim);
    for (uint32_t i = 0; i < j->p.rows_per_task && first + i < a->n_rows; i++) {
        const float *x =
            (const float *)a->x + (uint64_t)(first + i) * a->dim * (a->gated ? 2 : 1) + begin;
        float *out = (float *)a->out + (uint64_t)(first + i) * a->dim + begin;
        j->run(a->kind, x, a->gated ? x + a->dim : NULL, out, n);
    }
}

void cpu_act(struct device *d, const struct act_args *a)
{
    check((unsigned)a->kind < ACT_COUNT && a->dim > 0);
    struct act_job j = {.a = a, .p = cut(a->n_rows, a->dim), .run = act_plain_run};
    if (d->isa == CPU_ISA_AVX512)
        j.run = act_avx512_run;
    else if (d->isa == CPU_ISA_AVX2)
        j.run = act_avx2_run;
    team_run(d->team, act_task, &j, j.p.n_tasks);
}

struct scale_job {
    const struct logit_scale_args *a;
    struct pieces p;
    void (*run)(float *x, uint32_t n, float scale, float softcap);
};

static void scale_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct scale_job *j = arg;
    const struct logit_scale_args *a = j->a;
    uint32_t part = task % j->p.per_row, first = task / j->p.per_row * j->p.rows_per_task;
    uint32_t begin = part * TASK_ELEMENTS, n = columns_of(part, a->n);
    for (uint32_t i = 0; i < j->p.rows_per_task && first + i < a->n_rows; i++)
        j->run(a->logits + (uint64_t)(first + i) * a->n + begin, n, a->scale, a->softcap);
}

void cpu_logit_scale(struct device *d, const struct logit_scale_args *a)
{
    check(a->n > 0);
    if (a->scale == 1.0f && a->softcap == 0.0f)
        return;
    struct scale_job j = {.a = a, .p = cut(a->n_rows, a->n), .run = act_plain_scale};
    if (d->isa == CPU_ISA_AVX512)
        j.run = act_avx512_scale;
    else if (d->isa == CPU_ISA_AVX2)
        j.run = act_avx2_scale;
    team_run(d->team, scale_task, &j, j.p.n_tasks);
}
