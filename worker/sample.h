// SPDX-License-Identifier: Apache-2.0
// From a step's logits to tokens that every rank knows.
//
// Each rank computes the logits of its part of the vocabulary for all wanted rows. A row has one
// owner, who alone gets the other parts of it (partial all-to-all), samples or scores it, and tells
// all (all-gather):
//
//   rank 0: rows 0..3 x vocab part 0      rank 0: rows 0, 2 whole --sample--> ids 0, 2
//   rank 1: rows 0..3 x vocab part 1  =>  rank 1: rows 1, 3 whole --sample--> ids 1, 3  => all ids
//
// The sequence in slot s is owned by rank s mod n for its whole life: only there lies its sampler.
// A scored row has no state and goes to whoever has little to do.
//
// Where the device can (op table: keep_tokens), nothing of this is waited for: the chosen tokens
// stay there for the next step, and the host reads them behind a mark.
//
// Every rank of the group makes the same calls with the same arguments. One thread.
#ifndef PHALANX_WORKER_SAMPLE_H
#define PHALANX_WORKER_SAMPLE_H

#include "collectives/collectives.h"
#include "kernels/kernels.h"
#include "proto/limits.h"
#include "worker/forward.h"

enum { SAMPLER_STEPS_MAX = 2 }; // steps whose outcomes are not collected yet

struct sampler_args {
    const struct kernels *kernels;
    struct device *device;
    struct coll_group *group; // NULL: a group of one
    void *stream;             // of the device, where the group is on it; else NULL
    const struct model_config *model;
    const struct shard *shard;
    uint32_t n_slots, context_tokens;
};

// All pointers of `args` are borrowed until sampler_close.
struct sampler;

uint64_t sampler_heap_bytes(const struct model_config *m, const struct shard *s);
// Bytes of memory that it takes besides, on each rank.
uint64_t sampler_bytes(const struct model_config *m, const struct shard *s);
enum status sampler_open(const struct sampler_args *args, struct sampler **out, struct error *err);
void sampler_close(struct sampler *s); // NULL is allowed

// Starts the sampler of a slot, on its owner; elsewhere nothing happens. `args->slot` is the
// plan's.
void sampler_begin(struct sampler *s, const struct sampler_begin_args *args);

// One row that is wanted: the i-th one of the batch's logit rows.
struct sample_want {
    uint32_t slot;
    uint32_t position; // of the token chosen
    bool scored;       // report `target`, choose nothing
    uint32_t target;
    uint32_t n_logprobs; // scored rows; at most LIMIT_LOGPROBS
};

// As struct sample_result of the op table, the same on every rank.
struct sample_outcome {
    uint32_t id;
    float logprob;
    uint32_t rank;
    uint16_t n_top;
    bool failed; // the row had a NaN, or no finite logit
    bool pad;
    struct sample_top top[LIMIT_LOGPROBS];
};

// Samples or scores all `n` logit rows of the last forward_rows. out [n]. Without sampler_kept they
// are there on return; with it they are complete when sampler_collect has been called with the same
// arguments, after what was enqueued has run. `step`: below SAMPLER_STEPS_MAX, in turn.
enum status sampler_run(struct sampler *s, struct forward *f, uint32_t step,
    const struct sample_want *want, uint32_t n, struct sample_outcome *out, struct error *err);
void sampler_collect(struct sampler *s, uint32_t step, const struct sample_want *want, uint32_t n,
    struct sample_outcome *out);

// Where results stay on the device: the token that each slot sampled last, device memory (for
// batch.kept). NULL elsewhere.
const uint32_t *sampler_kept(const struct sampler *s);

#endif
