// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device.cuh"

#include <string.h>

// One block of memory: counts, sequences, then four arrays of rows, then the tables, which end
// where the step's do. `base` is on the host or on the device.
struct batch_layout {
    uint32_t *counts;
    device_seq *seq;
    uint32_t *token_ids, *positions, *row_seq, *logit_rows, *blocks;
};

static size_t batch_head_bytes(const struct device *d)
{
    return DEVICE_COUNTS * sizeof(uint32_t) + d->seqs_max * sizeof(device_seq) +
           4 * (size_t)d->rows_max * sizeof(uint32_t);
}

static uint32_t power_above(uint32_t n, uint32_t least)
{
    uint32_t p = least;
    while (p < n)
        p *= 2;
    return p;
}

// Rooms are powers of two, and the old one is given back before the new one is taken.
uint64_t device_batch_bytes(uint32_t n_rows, uint32_t n_seqs, uint32_t n_tables)
{
    struct device d = {};
    d.rows_max = power_above(n_rows, 64);
    d.seqs_max = power_above(n_seqs, 16);
    return batch_head_bytes(&d) + (uint64_t)power_above(n_tables, 1024) * sizeof(uint32_t);
}

static batch_layout batch_lay(const struct device *d, uint8_t *base)
{
    batch_layout l;
    l.counts = (uint32_t *)base;
    l.seq = (device_seq *)(l.counts + DEVICE_COUNTS);
    l.token_ids = (uint32_t *)(l.seq + d->seqs_max);
    l.positions = l.token_ids + d->rows_max;
    l.row_seq = l.positions + d->rows_max;
    l.logit_rows = l.row_seq + d->rows_max;
    l.blocks = l.logit_rows + d->rows_max;
    return l;
}

static uint32_t tables_of(const struct batch *b)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < b->n_seqs; i++)
        for (uint32_t g = 0; g < KERNELS_KV_GROUPS_MAX; g++)
            n += b->seq[i].blocks[g] != NULL ? b->seq[i].n_blocks[g] : 0;
    check(n < (uint64_t)1 << 31);
    return (uint32_t)n;
}

// Room for this batch; a larger one than ever before gets new memory.
static bool batch_room(struct device *d, const struct batch *b, uint32_t n_tables)
{
    if (d->batch_memory != NULL && b->n_rows <= d->rows_max && b->n_seqs <= d->seqs_max &&
        n_tables <= d->blocks_max)
        return true;
    check(!d->recording);
    device_keep(d, cudaStreamSynchronize(d->stream), "the work enqueued");
    d->rows_max = power_above(b->n_rows, d->rows_max > 64 ? d->rows_max : 64);
    d->seqs_max = power_above(b->n_seqs, d->seqs_max > 16 ? d->seqs_max : 16);
    d->blocks_max = power_above(n_tables, d->blocks_max > 1024 ? d->blocks_max : 1024);
    size_t bytes = batch_head_bytes(d) + d->blocks_max * sizeof(uint32_t);
    if (d->batch_memory != NULL)
        device_keep(d, cudaFree(d->batch_memory), "giving memory back");
    d->batch_memory = (uint8_t *)device_take(d, bytes);
    for (int i = 0; i < DEVICE_STAGINGS && d->failed == STATUS_OK; i++) {
        device_staging_close(&d->batches[i]);
        d->failed = device_staging_open(&d->batches[i], bytes, false, &d->error);
    }
    d->memory_turn++;
    return d->failed == STATUS_OK;
}

void device_bound_batch(struct device *d, const struct batch *b)
{
    d->batch.n_rows = b->n_rows;
    d->batch.n_seqs = b->n_seqs;
    d->batch.n_logit_rows = b->n_logit_rows;
    d->batch.n_keys = d->batch.seq_rows = 0;
    d->batch.seq_rows_least = UINT32_MAX;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct batch_seq *s = &b->seq[i];
        d->batch.n_keys = max(d->batch.n_keys, s->first_position + s->n_rows);
        d->batch.seq_rows = max(d->batch.seq_rows, s->n_rows);
        if (s->n_rows > 0)
            d->batch.seq_rows_least = min(d->batch.seq_rows_least, s->n_rows);
    }
}

// Returns the number of table entries written.
static uint32_t batch_fill(const struct device *d, const struct batch *b, const batch_layout *l)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct batch_seq *s = &b->seq[i];
        device_seq *to = &l->seq[i];
        to->first_row = s->first_row;
        to->n_rows = s->n_rows;
        to->first_position = s->first_position;
        for (uint32_t g = 0; g < KERNELS_KV_GROUPS_MAX; g++) {
            to->table[g] = n;
            if (s->blocks[g] == NULL)
                continue;
            memcpy(l->blocks + n, s->blocks[g], s->n_blocks[g] * sizeof(uint32_t));
            n += s->n_blocks[g];
        }
        for (uint32_t r = 0; r < s->n_rows; r++) {
            l->row_seq[s->first_row + r] = i;
            l->positions[s->first_row + r] = s->first_position + r;
        }
    }
    if (b->positions != NULL)
        memcpy(l->positions, b->positions, b->n_rows * sizeof(uint32_t));
    if (b->token_ids != NULL)
        memcpy(l->token_ids, b->token_ids, b->n_rows * sizeof(uint32_t));
    if (b->n_logit_rows > 0)
        memcpy(l->logit_rows, b->logit_rows, b->n_logit_rows * sizeof(uint32_t));
    l->counts[DEVICE_COUNT_ROWS] = b->n_rows;
    l->counts[DEVICE_COUNT_SEQS] = b->n_seqs;
    l->counts[DEVICE_COUNT_LOGIT_ROWS] = b->n_logit_rows;
    l->counts[DEVICE_COUNT_KEYS] = d->batch.n_keys;
    return n;
}

void cuda_batch_begin(struct device *d, const struct batch *b)
{
    check(b->n_logit_rows <= b->n_rows);
    d->host_batch = b;
    if (d->failed != STATUS_OK || !batch_room(d, b, tables_of(b)))
        return;
    struct device_staging *s = &d->batches[d->batch_turn++ % DEVICE_STAGINGS];
    device_staging_wait(d, s);
    batch_layout on_host = batch_lay(d, s->host), there = batch_lay(d, d->batch_memory);
    device_bound_batch(d, b);
    uint32_t n_blocks = batch_fill(d, b, &on_host);
    device_staging_send(d, s, d->batch_memory, batch_head_bytes(d) + n_blocks * sizeof(uint32_t));
    d->batch.counts = there.counts;
    d->batch.seq = there.seq;
    d->batch.token_ids = there.token_ids;
    d->batch.positions = there.positions;
    d->batch.row_seq = there.row_seq;
    d->batch.logit_rows = there.logit_rows;
    d->batch.blocks = there.blocks;
    if (d->batch.kept != b->kept)
        d->memory_turn++; // recorded steps have the old address
    d->batch.kept = b->kept;
}
