// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "kernels/cpu/cpu.h"

struct embed_job {
    const struct embed_args *a;
    uint32_t dim;
    uint32_t rows_per_task;
};

// out = table[id] * scale, then + positions[p]: two roundings. One loop per type, so that each can
// be vectorised; the bits do not depend on it.
static void embed_row(const struct embed_job *j, uint32_t r)
{
    const struct embed_args *a = j->a;
    float *out = (float *)a->out + (uint64_t)r * j->dim;
    uint32_t id = a->batch->token_ids[r] - a->vocab_begin; // wraps where the id is below
    if (id >= a->table->n) {
        memset(out, 0, sizeof *out * j->dim);
        return;
    }
    const void *row = weight_row(a->table, id);
    if (a->table->dtype == DTYPE_F32)
        for (uint32_t i = 0; i < j->dim; i++)
            out[i] = weight_load(row, DTYPE_F32, i) * a->scale;
    else if (a->table->dtype == DTYPE_BF16)
        for (uint32_t i = 0; i < j->dim; i++)
            out[i] = weight_load(row, DTYPE_BF16, i) * a->scale;
    else
        for (uint32_t i = 0; i < j->dim; i++)
            out[i] = weight_load(row, DTYPE_F16, i) * a->scale;
    if (a->positions == NULL)
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
    check(a->positions == NULL || a->positions->k == a->table->k);
    struct embed_job j = {.a = a, .dim = a->table->k, .rows_per_task = 8};
    team_run(d->team, embed_task, &j, (a->batch->n_rows + 7) / 8);
}
