// SPDX-License-Identifier: Apache-2.0
// Inside of sampling: what sample.c, which waits for each tile's tokens, and sample_ahead.c, which
// leaves them on the device, have in common.
#ifndef PHALANX_WORKER_SAMPLE_INTERNAL_H
#define PHALANX_WORKER_SAMPLE_INTERNAL_H

#include "worker/sample.h"

enum { SAMPLE_TILE = FORWARD_LOGIT_ROWS }; // rows at a time, so that memory does not grow

struct sampler {
    struct sampler_args a;
    uint32_t rank, size;
    uint32_t part_max;               // vocabulary rows of the largest part
    float *logits;                   // [SAMPLE_TILE, vocabulary part], device memory
    float *rows;                     // [SAMPLE_TILE, vocab_size], device memory; group of one: NULL
    uint8_t *receive;                // [size][SAMPLE_TILE, part of the source], in the heap
    struct sample_outcome *gathered; // [size][SAMPLE_TILE], in the heap, or owned; NULL: ahead
    uint64_t logits_bytes, rows_bytes;
    struct sample_row row[SAMPLE_TILE];
    struct sample_result *result; // [SAMPLE_TILE]

    // Where results stay on the device.
    bool ahead;
    uint8_t *passed; // [size][SAMPLE_TILE] results, device memory; of a group: in the heap
    uint32_t *kept;  // [n_slots] the token sampled last, device memory
    uint32_t tiles_max;
    uint8_t *read[SAMPLER_STEPS_MAX];        // [tiles_max][size][SAMPLE_TILE] results, host memory
    uint32_t n_collected[SAMPLER_STEPS_MAX]; // rows whose outcomes have been made already
};

// The rows of one tile, in the order of their owners.
struct sample_tile {
    const struct sample_want *want; // [n]
    uint32_t first, n;              // among all wanted rows
    uint32_t order[SAMPLE_TILE];    // index into want of the i-th row in this order
    uint32_t begin[COLL_RANKS_MAX + 1];
    uint32_t stride; // rows of the rank that has most
};

// The tile of `want` that begins at row `first` of `n`.
struct sample_tile sample_tile_of(
    const struct sampler *s, const struct sample_want *want, uint32_t first, uint32_t n);
uint32_t sample_tile_rows(const struct sample_tile *t, uint32_t rank);
// Logits of the tile; those of this rank's rows are whole then.
enum status sample_tile_logits(
    struct sampler *s, struct forward *f, const struct sample_tile *t, struct error *err);
// What is asked of the op table for this rank's rows, but for where results go.
struct sample_args sample_tile_args(struct sampler *s, const struct sample_tile *t);
void sample_tile_outcome(const struct sample_result *r, struct sample_outcome *out);

// ---- sample_ahead.c ----------------------------------------------------------------------------

// Bytes of device memory for results, which lie in the heap of a group.
uint64_t sample_ahead_bytes(uint32_t size);
// Takes what is needed beside; false: there is no memory.
bool sample_ahead_take(struct sampler *s);
void sample_ahead_give(struct sampler *s);
// sampler_run without waiting, but where a step has more tiles than there is room for.
enum status sample_ahead_run(struct sampler *s, struct forward *f, uint32_t step,
    const struct sample_want *want, uint32_t n, struct sample_outcome *out, struct error *err);
void sample_ahead_collect(struct sampler *s, uint32_t step, const struct sample_want *want,
    uint32_t n, struct sample_outcome *out);

#endif
