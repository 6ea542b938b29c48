// SPDX-License-Identifier: Apache-2.0
// The one decoder loop: computes whatever a struct model_config says on one rank's shard, through
// the op table and the group's sums. Every rank of a group calls the same functions with the same
// batch; after each sum all ranks hold the same bits.
//
// A row's result depends on its ids, positions and pages only, never on the other rows of the step.
//
// Buffers are made once, for `rows_max` rows; those that are summed over ranks lie in the group's
// symmetric heap. One thread.
#ifndef PHALANX_WORKER_FORWARD_H
#define PHALANX_WORKER_FORWARD_H

#include "collectives/collectives.h"
#include "kernels/kernels.h"
#include "worker/kv_cache.h"
#include "worker/weights.h"

enum { FORWARD_LOGIT_ROWS = 64 }; // most rows of one call of forward_logits

struct forward_args {
    const struct kernels *kernels;
    struct device *device;
    struct coll_group *group;         // NULL: a group of one
    const struct model_config *model; // rope_prepare() has been called
    const struct shard *shard;
    const struct weights *weights;
    const struct kv_cache *kv;
    enum dtype activation; // of the device
    void *stream;          // of the device, where the group is on it; else NULL
    uint32_t rows_max;
    bool eager;          // never record the ops of a step
    bool separate_norms; // never sum over ranks and norm in one operation: the same bits
    bool separate_ops;   // no operation stands for several: the same bits
};

// All pointers of `args` are borrowed until forward_close.
struct forward;

// Whether the loop can compute this model; the sentence says what is missing.
enum status forward_supports(
    const struct model_config *m, const struct shard *s, struct error *err);
// Bytes of symmetric heap that forward_open takes on each rank.
uint64_t forward_heap_bytes(const struct model_config *m, const struct shard *s, uint32_t rows_max);
// Bytes of device memory that it takes in all, on each rank; the heap's are among them.
uint64_t forward_bytes(const struct forward_args *args);
enum status forward_open(const struct forward_args *args, struct forward **out, struct error *err);
void forward_close(struct forward *f); // NULL is allowed

// Called after each layer, so that a long step shows signs of life. `step` may be NULL.
struct forward_pulse {
    void (*step)(void *user);
    void *user;
};

// Copies pages of a KV group, in order.
void forward_copy_blocks(
    struct forward *f, uint32_t group, const uint32_t *src, const uint32_t *dst, uint32_t n);

// Runs all layers over the batch (at least one row) and keeps what the head needs of the rows in
// batch->logit_rows. On a device that is enqueued and not waited for. A failed sum over ranks is
// final for the rank.
enum status forward_rows(struct forward *f, const struct batch *batch,
    const struct forward_pulse *pulse, struct error *err);

// Where the table has marks: sets one behind all that has been enqueued. forward_reached says
// STATUS_AGAIN where it is not reached yet and `wait` is false; it notices what became of
// operations of the group that run on the device, and of its peers.
void forward_mark(struct forward *f, uint32_t mark);
enum status forward_reached(struct forward *f, uint32_t mark, bool wait, struct error *err);

// Logits of this rank's vocabulary rows for `n` (up to FORWARD_LOGIT_ROWS) of the wanted rows:
// wanted[i] is an index into batch->logit_rows of the last forward_rows. out [n, vocab rows of the
// rank], device memory.
void forward_logits(struct forward *f, const uint32_t *wanted, uint32_t n, float *out);

// Time spent in sums over ranks since the last call, which sets it back to 0.
uint64_t forward_take_collective_us(struct forward *f);

#endif
