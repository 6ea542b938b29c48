// SPDX-License-Identifier: Apache-2.0
// The dot form of linear in tasks: ranges of rows of w.
#include "kernels/cpu/linear_internal.h"

enum {
    TASK_BYTES = 1 << 20, // of weights: long streams of memory are faster
    TASK_BYTES_MIN = 64 << 10,
    LEVELS = 4,
};

// Tasks become smaller towards the end of w, so that threads finish together.
struct level {
    uint32_t first_task, first_row, rows; // rows of each task
};

struct dot {
    const struct linear_job *job;
    struct level level[LEVELS];
};

static void dot_range(const struct dot *dot, uint32_t task, uint32_t *begin, uint32_t *end)
{
    uint32_t i = LEVELS - 1;
    while (task < dot->level[i].first_task)
        i--;
    const struct level *l = &dot->level[i];
    *begin = l->first_row + (task - l->first_task) * l->rows;
    *end = linear_min(*begin + l->rows, i + 1 < LEVELS ? l[1].first_row : dot->job->n);
}

static void dot_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct dot *dot = arg;
    const struct linear_job *job = dot->job;
    const struct linear_args *a = job->a;
    uint32_t begin, end;
    dot_range(dot, task, &begin, &end);
    struct linear_dot part = {
        .w = a->w,
        .n = begin,
        .n_rows = end - begin,
        .x = job->x,
        .x_stride = job->k16,
        .m = job->n_rows,
        .out = a->out + (uint64_t)job->first_row * a->out_stride + begin,
        .out_stride = a->out_stride,
    };
    job->isa->dot(&part);
    linear_add_bias(a, begin, end - begin, job->first_row, job->n_rows);
}

// Each level takes half of the rows that are left, in tasks half as large as the level's before;
// the last one takes all. Returns the number of tasks.
static uint32_t dot_plan(struct dot *dot, uint32_t n_threads)
{
    uint32_t n = dot->job->n, row_bytes = dot->job->k * dtype_bytes(dot->job->a->w->dtype);
    uint32_t least = linear_div_up(linear_div_up(TASK_BYTES_MIN, row_bytes), 4) * 4;
    uint32_t most = linear_max(TASK_BYTES / row_bytes, least);
    uint32_t rows = linear_min(linear_div_up(n, n_threads * LEVELS), most);
    uint32_t task = 0, row = 0;
    if (n_threads == 1)
        rows = n;
    for (uint32_t i = 0; i < LEVELS; i++, rows /= 2) {
        rows = linear_max(linear_div_up(rows, 4) * 4, least);
        dot->level[i] = (struct level){task, row, rows};
        uint32_t n_tasks = i + 1 < LEVELS ? (n - row) / 2 / rows : linear_div_up(n - row, rows);
        task += n_tasks;
        row += linear_min(n_tasks * rows, n - row);
    }
    return task;
}

void linear_dot_run(const struct linear_job *job)
{
    for (uint32_t m = 0; m < job->n_rows; m++)
        job->isa->dot_prepare(job->x + (uint64_t)m * job->k16,
            linear_x_row(job->a, job->first_row + m), job->k, job->a->w->dtype);
    struct dot dot = {.job = job};
    uint32_t n_tasks = dot_plan(&dot, job->d->n_threads);
    team_run(job->d->team, dot_task, &dot, n_tasks);
}
