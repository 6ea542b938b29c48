// SPDX-License-Identifier: Apache-2.0
// The panel form of linear in tasks: ranges of rows of w, after x has been packed.
#include "kernels/cpu/linear_internal.h"

enum {
    TASK_FLOPS = 8 << 20,
    TASKS_PER_THREAD = 8,
    X_ROWS_MAX = 256,    // rows of x whose partial sums fit into a thread's scratch
    X_BYTES = 512 << 10, // packed x that stays in a core's second cache
    X_ROWS_MIN = 64,     // but weights are read again for each this many rows at the least
    BLOCK_FLOATS = LINEAR_TILE_ROWS * LINEAR_KC_STRIDE,
};

struct panels {
    const struct linear_job *job;
    uint32_t n_panels, n_blocks; // blocks of LINEAR_KC along K
    uint32_t task_rows;          // of w
};

_Static_assert(sizeof(float) * (2 * BLOCK_FLOATS + LINEAR_TILE_ROWS * LINEAR_PANEL_ROWS +
                                   LINEAR_TILE_ROWS * CANON_LANES * X_ROWS_MAX) <=
                   CPU_SCRATCH_BYTES,
    "two widened blocks, a tile and a group's partial sums fit into a thread's scratch");

uint32_t linear_panel_rows_max(const struct linear_job *job)
{
    uint32_t unit = job->isa->panel_rows, row_bytes = job->k16 * (uint32_t)sizeof(float);
    uint32_t rows = linear_max(X_BYTES / row_bytes, X_ROWS_MIN);
    rows = linear_min(linear_min(rows, CPU_SHARED_BYTES / row_bytes), X_ROWS_MAX);
    return rows / unit * unit;
}

// Rows of x that panel p has room for: all panels are full but the last, which may be small.
static uint32_t panel_size(const struct linear_job *job, uint32_t p)
{
    uint32_t left = job->n_rows - p * job->isa->panel_rows;
    return left <= job->isa->panel_rows_min ? job->isa->panel_rows_min : job->isa->panel_rows;
}

// A panel is [blocks of K][16 lanes][steps][size].
static float *panel_at(const struct linear_job *job, uint32_t p, uint32_t k)
{
    return job->x + (uint64_t)p * job->isa->panel_rows * job->k16 +
           (uint64_t)k * panel_size(job, p);
}

static void pack_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct panels *panels = arg;
    const struct linear_job *job = panels->job;
    uint32_t p = task / panels->n_blocks, k = task % panels->n_blocks * LINEAR_KC;
    uint32_t size = panel_size(job, p), kc = linear_min(LINEAR_KC, job->k - k);
    const float *rows[LINEAR_PANEL_ROWS];
    for (uint32_t i = 0; i < size; i++) {
        // Rows beyond the last repeat it; what they give is not kept.
        uint32_t m = linear_min(p * job->isa->panel_rows + i, job->n_rows - 1);
        rows[i] = linear_x_row(job->a, job->first_row + m) + k;
    }
    job->isa->pack(panel_at(job, p, k), rows, size, kc, linear_div_up(kc, CANON_LANES));
}

// Rows begin .. end - 1 of w by one thread, block after block: groups of tile_rows rows, and for
// each group along K.
struct strip {
    const struct panels *panels;
    uint32_t begin, end;
    float *wide[2], *sum, *partial; // partial: [n_panels][16][rows][panel]
};

static uint32_t strip_rows(const struct strip *s, uint32_t block)
{
    uint32_t tile_rows = s->panels->job->isa->tile_rows;
    uint32_t n = s->begin + block / s->panels->n_blocks * tile_rows;
    return n < s->end ? linear_min(tile_rows, s->end - n) : 0;
}

// Describes the block; false: the strip has ended.
static bool strip_block(const struct strip *s, uint32_t block, struct linear_block *b)
{
    const struct linear_job *job = s->panels->job;
    const struct weight *w = job->a->w;
    uint32_t n = s->begin + block / s->panels->n_blocks * job->isa->tile_rows;
    uint32_t k = block % s->panels->n_blocks * LINEAR_KC;
    b->dtype = w->dtype;
    b->rows = strip_rows(s, block);
    b->k = linear_min(LINEAR_KC, job->k - k);
    b->wide = s->wide[block % 2];
    for (uint32_t r = 0; r < b->rows; r++)
        b->from[r] = (const char *)weight_row(w, n + r) + (uint64_t)k * dtype_bytes(w->dtype);
    return b->rows > 0;
}

static float *partial_at(const struct strip *s, uint32_t p, uint32_t rows)
{
    return s->partial + (uint64_t)p * s->panels->job->isa->panel_rows * CANON_LANES * rows;
}

static void strip_multiply(const struct strip *s, uint32_t block, const struct linear_block *b,
    const struct linear_block *next, const struct linear_block *after)
{
    const struct linear_job *job = s->panels->job;
    uint32_t k = block % s->panels->n_blocks * LINEAR_KC;
    for (uint32_t p = 0; p < s->panels->n_panels; p++) {
        struct linear_tile tile = {
            .w = b,
            .p = panel_size(job, p),
            .x = panel_at(job, p, k),
            .first = k == 0,
            .partial = partial_at(s, p, b->rows),
            .next = p == 0 ? next : NULL,
            .after = p == 0 ? after : NULL,
        };
        job->isa->tile(&tile);
    }
}

static void strip_finish(const struct strip *s, uint32_t n, uint32_t rows)
{
    const struct linear_job *job = s->panels->job;
    const struct linear_args *a = job->a;
    for (uint32_t p = 0; p < s->panels->n_panels; p++) {
        uint32_t size = panel_size(job, p), m = p * job->isa->panel_rows;
        float *out = a->out + (uint64_t)(job->first_row + m) * a->out_stride + n;
        job->isa->finish(partial_at(s, p, rows), s->sum, rows, size,
            linear_min(size, job->n_rows - m), out, a->out_stride);
    }
    linear_add_bias(a, n, rows, job->first_row, job->n_rows);
}

static void panel_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct panels *panels = arg;
    const struct linear_job *job = panels->job;
    float *scratch = cpu_scratch(job->d, thread);
    struct strip s = {
        .panels = panels,
        .begin = task * panels->task_rows,
        .end = linear_min((task + 1) * panels->task_rows, job->n),
        .wide = {scratch, scratch + BLOCK_FLOATS},
        .sum = scratch + 2 * BLOCK_FLOATS,
        .partial = scratch + 2 * BLOCK_FLOATS + LINEAR_TILE_ROWS * LINEAR_PANEL_ROWS,
    };
    struct linear_block b[3];
    bool more = strip_block(&s, 0, &b[0]), next = strip_block(&s, 1, &b[1]);
    for (uint32_t slice = 0; slice < CANON_LANES; slice++)
        job->isa->widen(&b[0], slice);
    uint32_t n = s.begin;
    for (uint32_t i = 0; more; i++) {
        bool after = strip_block(&s, i + 2, &b[(i + 2) % 3]);
        strip_multiply(
            &s, i, &b[i % 3], next ? &b[(i + 1) % 3] : NULL, after ? &b[(i + 2) % 3] : NULL);
        if (i % panels->n_blocks == panels->n_blocks - 1) {
            strip_finish(&s, n, b[i % 3].rows);
            n += b[i % 3].rows;
        }
        more = next;
        next = after;
    }
}

void linear_panel_run(const struct linear_job *job)
{
    const struct linear_isa *isa = job->isa;
    struct panels panels = {
        .job = job,
        .n_panels = linear_div_up(job->n_rows, isa->panel_rows),
        .n_blocks = linear_div_up(job->k, LINEAR_KC),
    };
    team_run(job->d->team, pack_task, &panels, panels.n_panels * panels.n_blocks);

    uint64_t flops = 2ull * job->n_rows * job->k * isa->tile_rows;
    uint32_t groups = linear_div_up(job->n, isa->tile_rows);
    uint32_t fair = linear_div_up(groups, job->d->n_threads * TASKS_PER_THREAD);
    panels.task_rows =
        linear_max(1, linear_min((uint32_t)(TASK_FLOPS / flops), fair)) * isa->tile_rows;
    team_run(job->d->team, panel_task, &panels, linear_div_up(job->n, panels.task_rows));
}
