// SPDX-License-Identifier: Apache-2.0
#include "worker/forward_internal.h"

enum { GRAPH_ROWS = 256 }; // most rows of a step that is recorded

static uint32_t round_up(uint32_t n, uint32_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static uint32_t power_above(uint32_t n, uint32_t least)
{
    while (least < n)
        least *= 2;
    return least;
}

// Sums over ranks must be recorded with the rest. Where whole experts are exchanged, rows that only
// fill up the bounds would be sent about, so those steps run op by op.
static bool group_allows(const struct forward *f)
{
    return !f->a.group || (f->a.stream && coll_can_be_recorded(f->a.group) && !f->experts);
}

// Whether this step is one that is recorded, and the bounds that it shares with others: up to 8
// rows powers of two, then few sizes that waste little; powers of two of keys. The same on all
// ranks.
bool forward_record_bounds(const struct forward *f, struct graph_bounds *out)
{
    const struct batch *b = f->batch;
    uint32_t n = b->n_rows, n_keys = 0;
    if (f->a.eager || !group_allows(f) || !f->a.kernels->graph_begin || n > GRAPH_ROWS ||
        b->n_seqs != n || b->n_logit_rows != n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t keys = b->seq[i].first_position + 1;
        if (b->seq[i].n_rows != 1)
            return false;
        n_keys = keys > n_keys ? keys : n_keys;
    }
    out->n_rows = n <= 8 ? power_above(n, 1) : n <= 64 ? round_up(n, 8) : round_up(n, 32);
    out->n_keys = power_above(n_keys, KERNELS_ATTENTION_CHUNK);
    return out->n_rows <= f->a.rows_max;
}

// Op by op. One rank of a group may do so while another replays what it has recorded, so the
// group's sums have the bounds' rows in any case.
static enum status run_plainly(struct forward *f, const struct graph_bounds *bounds,
    const struct forward_pulse *pulse, struct error *err)
{
    f->n_rows = f->a.group ? bounds->n_rows : f->batch->n_rows;
    enum status s = forward_layers_run(f, pulse, err);
    f->n_rows = f->batch->n_rows;
    return s;
}

enum status forward_record_step(struct forward *f, const struct graph_bounds *bounds,
    const struct forward_pulse *pulse, struct error *err)
{
    enum graph_state state = f->a.kernels->graph_begin(f->a.device, bounds);
    if (state == GRAPH_DONE)
        return STATUS_OK;
    if (state == GRAPH_NONE)
        return run_plainly(f, bounds, pulse, err);
    f->n_rows = bounds->n_rows;
    enum status s = forward_layers_run(f, pulse, err);
    bool enqueued = f->a.kernels->graph_end(f->a.device, f->batch);
    f->n_rows = f->batch->n_rows;
    return s != STATUS_OK || enqueued ? s : run_plainly(f, bounds, NULL, err);
}
