// SPDX-License-Identifier: Apache-2.0
// linear: the plain version, and the tasks of the others. How the work is cut changes the speed
// only; the bits are canon.h's.
#include "kernels/cpu/linear_internal.h"

#include "base/check.h"

enum {
    BIAS_CHUNK = 64,
    PLAIN_TASK_PRODUCTS = 16384,
    PREPARE_TASK_FLOATS = 64 << 10, // of x copied by one task
    TASK_BYTES = 1 << 20,           // of weights: long streams of memory are faster
    TASK_BYTES_MIN = 64 << 10,
    TASK_LEVELS = 4,
    // Rows of x that are multiplied with a task's rows of w before the next: they stay in a core's
    // second cache.
    X_BYTES = 384 << 10,
    X_ROWS_MIN = 8,
    X_ROWS_UNIT = 4, // whole tiles
};

static const float *x_row(const struct linear_args *a, uint32_t m)
{
    uint32_t row = a->row_ids != NULL ? a->row_ids[m] : m;
    return (const float *)a->x + (uint64_t)row * a->x_stride;
}

// Adds the bias, if there is one, to columns n .. n + n_columns - 1 of the rows.
static void add_bias(const struct linear_args *a, uint32_t n, uint32_t n_columns,
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
            float *out = (float *)a->out + (uint64_t)m * a->out_stride + n + j;
            for (uint32_t i = 0; i < chunk; i++)
                out[i] += bias[i];
        }
    }
}

// ---- plain -------------------------------------------------------------------------------------

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
            ((float *)a->out)[(uint64_t)m * a->out_stride + n] =
                plain_dot(x_row(a, m), row, a->w->k, a->w->dtype);
    }
    add_bias(a, begin, end - begin, 0, a->n_rows);
}

static void run_plain(struct device *d, const struct linear_args *a)
{
    uint64_t products = (uint64_t)a->w->k * a->n_rows;
    struct plain p = {a, linear_max(1, (uint32_t)(PLAIN_TASK_PRODUCTS / products))};
    team_run(d->team, plain_task, &p, linear_div_up(a->w->n, p.rows));
}

// ---- tiles -------------------------------------------------------------------------------------

// Tasks become smaller towards the end of w, so that threads finish together.
struct level {
    uint32_t first_task, first_row, rows; // rows of each task
};

// Rows first_row .. first_row + n_rows - 1 of a call.
struct job {
    const struct linear_args *a;
    const struct linear_isa *isa;
    uint32_t first_row, n_rows;
    float *x; // [n_rows][x_stride], prepared
    uint32_t x_stride, prepare_rows;
    struct level level[TASK_LEVELS];
};

static void prepare_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct job *job = arg;
    uint32_t begin = task * job->prepare_rows;
    uint32_t end = linear_min(begin + job->prepare_rows, job->n_rows);
    for (uint32_t m = begin; m < end; m++)
        job->isa->prepare(
            job->x + (uint64_t)m * job->x_stride, x_row(job->a, job->first_row + m), job->a->w->k);
}

static void multiply(const struct job *job, uint32_t n, uint32_t n_rows, uint32_t m, uint32_t m_end)
{
    const struct linear_args *a = job->a;
    struct linear_dot part = {
        .w = a->w,
        .n = n,
        .n_rows = n_rows,
        .x = job->x + (uint64_t)m * job->x_stride,
        .x_stride = job->x_stride,
        .m = m_end - m,
        .out = (float *)a->out + (uint64_t)(job->first_row + m) * a->out_stride + n,
        .out_stride = a->out_stride,
    };
    job->isa->dot(&part);
}

static void dot_range(const struct job *job, uint32_t task, uint32_t *begin, uint32_t *end)
{
    uint32_t i = TASK_LEVELS - 1;
    while (task < job->level[i].first_task)
        i--;
    const struct level *l = &job->level[i];
    *begin = l->first_row + (task - l->first_task) * l->rows;
    *end = linear_min(*begin + l->rows, i + 1 < TASK_LEVELS ? l[1].first_row : job->a->w->n);
}

// `rows`, rounded up to a multiple of unit.
static uint32_t whole_units(uint32_t rows, uint32_t unit)
{
    return linear_div_up(rows, unit) * unit;
}

static void dot_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct job *job = arg;
    uint32_t x_rows = linear_max(X_BYTES / (job->x_stride * (uint32_t)sizeof(float)), X_ROWS_MIN);
    uint32_t n_chunks = linear_div_up(job->n_rows, x_rows), begin, end;
    x_rows = whole_units(linear_div_up(job->n_rows, n_chunks), X_ROWS_UNIT);
    dot_range(job, task, &begin, &end);
    for (uint32_t m = 0; m < job->n_rows; m += x_rows)
        multiply(job, begin, end - begin, m, linear_min(m + x_rows, job->n_rows));
    add_bias(job->a, begin, end - begin, job->first_row, job->n_rows);
}

// Each level takes half of the rows that are left, in tasks half as large as the level's before;
// the last one takes all. Returns the number of tasks.
static uint32_t plan_tasks(struct job *job, uint32_t n_threads)
{
    uint32_t n = job->a->w->n, row_bytes = job->a->w->k * dtype_bytes(job->a->w->dtype);
    uint32_t least = whole_units(linear_div_up(TASK_BYTES_MIN, row_bytes), LINEAR_ROWS_UNIT);
    uint32_t most = linear_max(TASK_BYTES / row_bytes, least);
    uint32_t rows = linear_min(linear_div_up(n, n_threads * TASK_LEVELS), most);
    uint32_t task = 0, row = 0;
    if (n_threads == 1)
        rows = n;
    for (uint32_t i = 0; i < TASK_LEVELS; i++, rows /= 2) {
        rows = linear_max(whole_units(rows, LINEAR_ROWS_UNIT), least);
        job->level[i] = (struct level){task, row, rows};
        uint32_t n_tasks =
            i + 1 < TASK_LEVELS ? (n - row) / 2 / rows : linear_div_up(n - row, rows);
        task += n_tasks;
        row += linear_min(n_tasks * rows, n - row);
    }
    return task;
}

void cpu_linear(struct device *d, const struct linear_args *a)
{
    check(a->bias == NULL || a->bias->k == a->w->n);
    if (a->n_rows == 0)
        return;
    uint32_t k16 = linear_div_up(a->w->k, CANON_LANES) * CANON_LANES, room;
    room = k16 < CPU_SHARED_BYTES
               ? (uint32_t)(CPU_SHARED_BYTES / sizeof(float) / (k16 + LINEAR_X_PAD))
               : 0;
    if (d->isa == CPU_ISA_PLAIN || room == 0) {
        run_plain(d, a);
        return;
    }
    struct job job = {.a = a,
        .isa = d->isa == CPU_ISA_AVX512 ? &linear_avx512 : &linear_avx2,
        .x = (float *)(void *)d->shared,
        .x_stride = k16 + LINEAR_X_PAD,
        .prepare_rows = linear_max(1, PREPARE_TASK_FLOATS / k16)};
    uint32_t n_tasks = plan_tasks(&job, d->n_threads);
    // In passes of nearly equal size, where x is too large for the room there is.
    uint32_t step = linear_div_up(a->n_rows, linear_div_up(a->n_rows, room));
    for (; job.first_row < a->n_rows; job.first_row += step) {
        job.n_rows = linear_min(step, a->n_rows - job.first_row);
        team_run(d->team, prepare_task, &job, linear_div_up(job.n_rows, job.prepare_rows));
        team_run(d->team, dot_task, &job, n_tasks);
    }
}
