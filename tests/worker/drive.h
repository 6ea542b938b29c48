// SPDX-License-Identifier: Apache-2.0
// A small stand-in for the coordinator: turns requests into step plans for a group of threads and
// keeps every number that comes back, so that runs can be compared bit for bit.
#ifndef PHALANX_TESTS_WORKER_DRIVE_H
#define PHALANX_TESTS_WORKER_DRIVE_H

#include "worker/local.h"

enum { DRIVE_TOPS = 20, DRIVE_IDS_MAX = 1024, DRIVE_BLOCKS_MAX = 256, DRIVE_SLOTS_MAX = 64 };

struct drive_result {
    uint32_t kind, position, id;
    float logprob;
    uint32_t rank, n_top;
    struct answer_top top[DRIVE_TOPS];
};

struct drive_request {
    const uint32_t *prompt;
    uint32_t n_prompt, n_output;
    uint32_t chunk; // most rows per step; 0: no limit
    uint32_t slot;
    struct sampling_params params; // zeroed: greedy, with DRIVE_TOPS log-probabilities
    const struct sampling_bias *bias;
    bool score;             // all prompt tokens
    uint32_t preempt_after; // so many outputs: the sequence is thrown out and begins again ...
    uint32_t resume_slot;   // ... in this slot
    const struct drive_request *prefix; // pages of this finished request are taken over ...
    uint32_t prefix_tokens;             // ... for so many tokens, a multiple of the block size
    uint32_t start_step;                // joins the batch so much later
    uint32_t stop_after; // ends with so many outputs, which nobody knows before; 0: never

    // Filled by drive_run. Results are ordered by position, scored ones first.
    struct drive_result result[DRIVE_IDS_MAX];
    uint32_t n_results;
    uint32_t ids[DRIVE_IDS_MAX], n_ids; // prompt and output
    bool bad_logits;

    // Of the run.
    uint32_t block[DRIVE_BLOCKS_MAX], n_blocks, n_sent, n_computed, generation, attempt;
    uint32_t n_coming; // sampled by plans under way
    bool first, done;
};

// A plan under way.
struct drive_flight {
    uint64_t step;
    uint32_t n;
    struct {
        struct drive_request *request;
        uint32_t slot, generation;
        bool samples;
    } seq[DRIVE_SLOTS_MAX];
};

struct drive {
    struct local_group *group;
    struct rank *rank;
    const struct rank_info *info;
    uint64_t step;
    struct buf plan;
    uint32_t *free_block, n_free;
    uint32_t generation;

    uint32_t depth; // plans under way at once: 1, or up to SESSION_STEPS_MAX
    struct drive_flight flight[SESSION_STEPS_MAX];
    uint32_t n_flights, n_surplus; // rows of sequences that had ended or been thrown out
    uint32_t in_flight[DRIVE_SLOTS_MAX], ending[DRIVE_SLOTS_MAX]; // by slot: plans; generation
    struct plan_release release[DRIVE_SLOTS_MAX];
    uint32_t n_release;
};

// Fails the test where the group does not come up.
void drive_open(struct drive *d, const struct rank_options *options, uint32_t degree);
void drive_close(struct drive *d);
// Gives all pages back and deals them in another order from now on (0: ascending).
void drive_shuffle_blocks(struct drive *d, uint32_t seed);
// Runs requests together until each has its outputs, then releases their slots; fails the test on
// any error.
void drive_run(struct drive *d, struct drive_request *requests[], uint32_t n);
void drive_run_one(struct drive *d, struct drive_request *request);
// Whether both have the same results, bit for bit; prints the first difference.
bool drive_same(const struct drive_request *a, const struct drive_request *b);

#endif
