// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "kernels/cpu/cpu.h"

struct embed_job {
    const struct embed_args *a;
    uint32_t dim;
    uint32_t rows_per_task;
};

// One loop per type, so that each can be vectorised; the bits do not depend on it.
static void take_row(const struct weight *table, uint32_t id, float scale, uint32_t dim, float *out)
{
    if (id >= table->n) {
        memset(out, 0, sizeof *out * dim);
        return;
    }
    const void *row = weight_row(table, id);
    if (table->dtype == DTYPE_F32)
        for (uint32_t i = 0; i < dim; i++)
            out[i] = weight_load(row, DTYPE_F32, i) * scale;
    else if (table->dtype == DTYPE_BF16)
        for (uint32_t i = 0; i < dim; i++)
            out[i] = weight_load(row, DTYPE_BF16, i) * scale;
    else
        for (uint32_t i = 0; i < dim; i++)
            out[i] = weight_load(row, DTYPE_F16, i) * scale;
}

// out = table[id] * scale, then + positions[p]: two roundings.
static void embed_row(const struct embed_job *j, uint32_t r)
{
    const struct embed_args *a = j->a;
    float *out = (float *)a->out + (uint64_t)r * j->dim;
    uint32_t id = a->batch->token_ids[r] - a->vocab_begin; // wraps where the id is below
    if (a->table != NULL)
        take_row(a->table, id, a->scale, j->dim, out);
    // Positions are added by the rank whose table has the token; without a table, by every rank.
    if (a->positions == NULL || (a->table != NULL && id >= a->table->n))
        return;
    uint32_t position = a->batch->positions[r] + a->position_offset;
    check(position < a->positions->n);
    const void *p = weight_row(a->positions, position);
    for (uint32_t i = 0; i < j->dim; i++)
        out[i] = out[i] + weight_load(p, a->positions->dtype, i);
}

static void embed_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct embed_job *j = arg;
    uint32_t begin = task * j->rows_per_task, end = begin + j->rows_per_task;
    for (uint32_t r = begin; r < end && r < j->a->batch->n_rows; r++)
        embed_row(j, r);
}

void cpu_embed(struct device *d, const struct embed_args *a)
{
    const struct weight *w = a->table != NULL ? a->table : a->positions;
    check(
        a->out_type == DTYPE_F32 && w != NULL && (a->positions == NULL || a->positions->k == w->k));
    struct embed_job j = {.a = a, .dim = w->k, .rows_per_task = 8};
    team_run(d->team, embed_task, &j, (a->batch->n_rows + 7) / 8);
}
