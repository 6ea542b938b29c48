// SPDX-License-Identifier: Apache-2.0
// Plans and splits linear: tasks are groups of output columns (rows of w), so that each weight is
// read from memory by one thread, once for all rows of x. Which form and which sizes are taken
// changes the speed only; the bits are canon.h's.
#include "kernels/cpu/linear_internal.h"

#include "base/check.h"
#include "kernels/cpu/canon.h"
#include "kernels/cpu/cpu.h"

enum {
    DOT_TASK_BYTES = 1 << 20, // of weights: long streams of memory are faster
    DOT_TASK_BYTES_MIN = 64 << 10,
    DOT_LEVELS = 4,
    TASKS_PER_THREAD = 8,
    PANEL_TASK_FLOPS = 4 << 20,
    PANEL_X_ROWS_MAX = 512, // rows of x whose partial sums fit into a thread's scratch
    PACK_TASK_FLOATS = 16 << 10,
};

// Tasks of the dot form become smaller towards the end of w, so that threads finish together.
struct dot_level {
    uint32_t first_task, first_row, rows; // rows of each task
};

struct job {
    const struct linear_args *a;
    const struct linear_isa *isa;
    const struct device *d;
    uint32_t n, k, k16;         // k16: k rounded up to 16
    uint32_t first_row, n_rows; // of x, in this pass
    uint32_t task_rows;         // of w
    struct dot_level level[DOT_LEVELS];
    uint32_t n_panels, pack_split;
    float *x; // prepared rows or panels, in d->shared
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t div_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static const float *x_row(const struct linear_args *a, uint32_t m)
{
    uint32_t row = a->row_ids != NULL ? a->row_ids[m] : m;
    return a->x + (uint64_t)row * a->x_stride;
}

static float bias_at(const struct linear_args *a, uint32_t n)
{
    return a->bias != NULL ? weight_at(a->bias, 0, n) : 0.0f;
}

// Adds the bias to columns n .. n + n_columns - 1 of rows m .. m + n_rows - 1 of out.
static void add_bias(
    const struct linear_args *a, uint32_t n, uint32_t n_columns, uint32_t m, uint32_t n_rows)
{
    if (a->bias == NULL)
        return;
    for (uint32_t j = n; j < n + n_columns; j++) {
        float b = bias_at(a, j);
        for (uint32_t i = m; i < m + n_rows; i++)
            a->out[(uint64_t)i * a->out_stride + j] += b;
    }
}

// ---- plain C -----------------------------------------------------------------------------------

static float plain_dot(const float *x, const void *row, uint32_t k, enum dtype t)
{
    float acc[CANON_LANES] = {0};
    for (uint32_t i = 0; i < k; i++)
        acc[i % CANON_LANES] = fmaf(x[i], weight_load(row, t, i), acc[i % CANON_LANES]);
    return canon_tree16(acc);
}

static void plain_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct linear_args *a = job->a;
    uint32_t begin = task * job->task_rows, end = min_u32(begin + job->task_rows, job->n);
    for (uint32_t n = begin; n < end; n++) {
        const void *row = weight_row(a->w, n);
        for (uint32_t m = 0; m < a->n_rows; m++)
            a->out[(uint64_t)m * a->out_stride + n] =
                plain_dot(x_row(a, m), row, job->k, a->w->dtype);
    }
    add_bias(a, begin, end - begin, 0, a->n_rows);
}

// ---- dot form ----------------------------------------------------------------------------------

// Rows of w of a task.
static void dot_range(const struct job *job, uint32_t task, uint32_t *begin, uint32_t *end)
{
    uint32_t i = DOT_LEVELS - 1;
    while (task < job->level[i].first_task)
        i--;
    const struct dot_level *l = &job->level[i];
    *begin = l->first_row + (task - l->first_task) * l->rows;
    *end = min_u32(*begin + l->rows, i + 1 < DOT_LEVELS ? l[1].first_row : job->n);
}

static void dot_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct linear_args *a = job->a;
    uint32_t begin, end, step = div_up(job->n_rows, div_up(job->n_rows, job->isa->dot_rows));
    dot_range(job, task, &begin, &end);
    for (uint32_t m = 0; m < job->n_rows; m += step) {
        struct linear_dot dot = {
            .w = a->w,
            .n = begin,
            .n_rows = end - begin,
            .x = job->x + (uint64_t)m * job->k16,
            .x_stride = job->k16,
            .m = min_u32(step, job->n_rows - m),
            .out = a->out + (uint64_t)(job->first_row + m) * a->out_stride + begin,
            .out_stride = a->out_stride,
        };
        job->isa->dot(&dot);
    }
    add_bias(a, begin, end - begin, job->first_row, job->n_rows);
}

// Each level takes half of the rows that are left, in tasks half as large as the level's before;
// the last one takes all. Returns the number of tasks.
static uint32_t dot_plan(struct job *job, uint32_t row_bytes)
{
    uint32_t least = div_up(div_up(DOT_TASK_BYTES_MIN, row_bytes), 4) * 4;
    uint32_t most = max_u32(DOT_TASK_BYTES / row_bytes, least);
    uint32_t rows = min_u32(div_up(job->n, job->d->n_threads * DOT_LEVELS), most);
    uint32_t task = 0, row = 0;
    if (job->d->n_threads == 1)
        rows = job->n;
    for (uint32_t i = 0; i < DOT_LEVELS; i++, rows /= 2) {
        rows = max_u32(div_up(rows, 4) * 4, least);
        job->level[i] = (struct dot_level){task, row, rows};
        uint32_t n_tasks =
            i + 1 < DOT_LEVELS ? (job->n - row) / 2 / rows : div_up(job->n - row, rows);
        task += n_tasks;
        row += min_u32(n_tasks * rows, job->n - row);
    }
    return task;
}

static void run_dot(struct job *job)
{
    for (uint32_t m = 0; m < job->n_rows; m++)
        job->isa->dot_prepare(job->x + (uint64_t)m * job->k16, x_row(job->a, job->first_row + m),
            job->k, job->a->w->dtype);
    uint32_t n_tasks = dot_plan(job, job->k * dtype_bytes(job->a->w->dtype));
    team_run(job->d->team, dot_task, job, n_tasks);
}

// ---- panel form --------------------------------------------------------------------------------

// Rows of x that panel p has room for: all panels are full but the last, which may be small.
static uint32_t panel_size(const struct job *job, uint32_t p)
{
    uint32_t left = job->n_rows - p * job->isa->panel_rows;
    return left <= job->isa->panel_rows_min ? job->isa->panel_rows_min : job->isa->panel_rows;
}

static float *panel_at(const struct job *job, uint32_t p)
{
    return job->x + (uint64_t)p * job->isa->panel_rows * job->k16;
}

static void pack_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct job *job = arg;
    uint32_t p = task / job->pack_split, part = task % job->pack_split;
    uint32_t n_steps = job->k16 / CANON_LANES, size = panel_size(job, p);
    uint32_t begin = (uint32_t)((uint64_t)n_steps * part / job->pack_split);
    uint32_t end = (uint32_t)((uint64_t)n_steps * (part + 1) / job->pack_split);
    const float *rows[LINEAR_PANEL_ROWS];
    for (uint32_t i = 0; i < size; i++) {
        // Rows beyond the last repeat it; what they give is not kept.
        uint32_t m = min_u32(p * job->isa->panel_rows + i, job->n_rows - 1);
        rows[i] = x_row(job->a, job->first_row + m) + begin * CANON_LANES;
    }
    job->isa->pack(panel_at(job, p) + (uint64_t)begin * size, (uint64_t)n_steps * size, rows, size,
        job->k - begin * CANON_LANES, end - begin);
}

struct group {
    uint32_t n, rows;
    float *wide;    // [rows][LINEAR_KC_STRIDE]
    float *partial; // [n_panels][16][rows][panel]
};

static float *partial_at(const struct job *job, const struct group *g, uint32_t p)
{
    return g->partial + (uint64_t)p * job->isa->panel_rows * CANON_LANES * g->rows;
}

// Names the bytes of w that will be widened after those of group n from element k on.
static void name_next(const struct job *job, uint32_t n, uint32_t k, struct linear_tile *tile)
{
    const struct weight *w = job->a->w;
    k += LINEAR_KC;
    if (k >= job->k) {
        n += job->isa->tile_rows;
        k = 0;
    }
    tile->n_next = n < job->n ? min_u32(job->isa->tile_rows, job->n - n) : 0;
    tile->next_bytes = min_u32(LINEAR_KC, job->k - k) * dtype_bytes(w->dtype);
    for (uint32_t i = 0; i < tile->n_next; i++)
        tile->next[i] = (const char *)weight_row(w, n + i) + (uint64_t)k * dtype_bytes(w->dtype);
}

static void group_step(const struct job *job, const struct group *g, uint32_t k)
{
    const struct weight *w = job->a->w;
    uint32_t kc = min_u32(LINEAR_KC, job->k - k);
    for (uint32_t r = 0; r < g->rows; r++)
        job->isa->widen(g->wide + (uint64_t)r * LINEAR_KC_STRIDE,
            (const char *)weight_row(w, g->n + r) + (uint64_t)k * dtype_bytes(w->dtype), kc,
            w->dtype);
    struct linear_tile tile = {
        .rows = g->rows,
        .w = g->wide,
        .n_steps = div_up(kc, CANON_LANES),
        .first = k == 0,
    };
    name_next(job, g->n, k, &tile);
    for (uint32_t p = 0; p < job->n_panels; p++) {
        tile.p = panel_size(job, p);
        tile.lane_stride = (uint64_t)(job->k16 / CANON_LANES) * tile.p;
        tile.x = panel_at(job, p) + (uint64_t)(k / CANON_LANES) * tile.p;
        tile.partial = partial_at(job, g, p);
        job->isa->tile(&tile);
        tile.n_next = 0;
    }
}

static void group_finish(const struct job *job, const struct group *g)
{
    const struct linear_args *a = job->a;
    for (uint32_t p = 0; p < job->n_panels; p++) {
        uint32_t size = panel_size(job, p), m = p * job->isa->panel_rows;
        uint32_t used = min_u32(size, job->n_rows - m);
        float *sum = g->wide;
        job->isa->tree(sum, partial_at(job, g, p), g->rows * size);
        for (uint32_t i = 0; i < used; i++) {
            float *out = a->out + (uint64_t)(job->first_row + m + i) * a->out_stride + g->n;
            for (uint32_t r = 0; r < g->rows; r++)
                out[r] = sum[r * size + i];
        }
    }
    add_bias(a, g->n, g->rows, job->first_row, job->n_rows);
}

static void panel_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct job *job = arg;
    uint32_t begin = task * job->task_rows, end = min_u32(begin + job->task_rows, job->n);
    float *wide = cpu_scratch(job->d, thread);
    for (uint32_t n = begin; n < end; n += job->isa->tile_rows) {
        struct group g = {
            .n = n,
            .rows = min_u32(job->isa->tile_rows, end - n),
            .wide = wide,
            .partial = wide + LINEAR_TILE_ROWS * LINEAR_KC_STRIDE,
        };
        for (uint32_t k = 0; k < job->k; k += LINEAR_KC)
            group_step(job, &g, k);
        group_finish(job, &g);
    }
}

_Static_assert(
    sizeof(float) * LINEAR_TILE_ROWS * (LINEAR_KC_STRIDE + CANON_LANES * PANEL_X_ROWS_MAX) <=
        CPU_SCRATCH_BYTES,
    "a group's widened rows and partial sums fit into a thread's scratch");
_Static_assert(
    LINEAR_PANEL_ROWS <= LINEAR_KC_STRIDE, "the tree's result fits into the widened rows");

static void run_panels(struct job *job)
{
    const struct linear_isa *isa = job->isa;
    job->n_panels = div_up(job->n_rows, isa->panel_rows);
    uint32_t panel_floats = isa->panel_rows * job->k16;
    job->pack_split = max_u32(1, min_u32(panel_floats / PACK_TASK_FLOATS, job->k16 / CANON_LANES));
    team_run(job->d->team, pack_task, job, job->n_panels * job->pack_split);

    uint64_t flops = 2ull * job->n_rows * job->k * isa->tile_rows;
    uint32_t groups = (uint32_t)(PANEL_TASK_FLOPS / flops);
    uint32_t fair = div_up(div_up(job->n, isa->tile_rows), job->d->n_threads * TASKS_PER_THREAD);
    job->task_rows = max_u32(1, min_u32(groups, fair)) * isa->tile_rows;
    team_run(job->d->team, panel_task, job, div_up(job->n, job->task_rows));
}

// ---- the op ------------------------------------------------------------------------------------

static void run_plain(struct job *job)
{
    uint64_t work = (uint64_t)job->k * max_u32(1, job->n_rows);
    job->task_rows = (uint32_t)max_u32(1, (uint32_t)(16384 / work));
    team_run(job->d->team, plain_task, job, div_up(job->n, job->task_rows));
}

// Rows of x in a pass: what fits into the shared memory, in passes of equal size.
static uint32_t pass_rows(const struct job *job)
{
    uint32_t unit = job->isa->panel_rows;
    uint64_t fit = CPU_SHARED_BYTES / sizeof(float) / job->k16;
    uint32_t most = min_u32((uint32_t)fit / unit * unit, PANEL_X_ROWS_MAX);
    uint32_t n = job->a->n_rows;
    if (most == 0)
        return min_u32((uint32_t)fit, job->isa->dot_rows);
    return min_u32(div_up(div_up(n, div_up(n, most)), unit) * unit, n);
}

void cpu_linear(struct device *d, const struct linear_args *a)
{
    check(a->bias == NULL || a->bias->k == a->w->n);
    if (a->n_rows == 0)
        return;
    struct job job = {
        .a = a,
        .isa = d->isa == CPU_ISA_AVX512 ? &linear_avx512 : &linear_avx2,
        .d = d,
        .n = a->w->n,
        .k = a->w->k,
        .k16 = div_up(a->w->k, CANON_LANES) * CANON_LANES,
        .n_rows = a->n_rows,
        .x = (float *)(void *)d->shared,
    };
    uint32_t step = job.k16 <= CPU_SHARED_BYTES / sizeof(float) ? pass_rows(&job) : 0;
    if (d->isa == CPU_ISA_PLAIN || step == 0) {
        run_plain(&job);
        return;
    }
    for (uint32_t m = 0; m < a->n_rows; m += step) {
        job.first_row = m;
        job.n_rows = min_u32(step, a->n_rows - m);
        if (job.n_rows < job.isa->panel_from || step < job.isa->panel_rows)
            run_dot(&job);
        else
            run_panels(&job);
    }
}
