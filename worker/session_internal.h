// SPDX-License-Identifier: Apache-2.0
// The slots of a session, shared by its check and its execution.
#ifndef PHALANX_WORKER_SESSION_INTERNAL_H
#define PHALANX_WORKER_SESSION_INTERNAL_H

#include "worker/session.h"

// One sequence. `ids` has room for the whole context and one token sampled behind its end.
struct slot {
    bool used;
    bool failed;    // its logits were no numbers: every further answer says so
    bool releasing; // by the plan that is being checked
    uint32_t generation, attempt;
    uint64_t begun;      // the step that began it
    uint32_t n_given;    // ids that came with it
    uint32_t n_ids;      // with those that were sampled
    uint32_t n_computed; // positions whose keys and values are in the pages
    uint32_t n_blocks[LIMIT_KV_GROUPS];
    uint32_t *ids; // [context_tokens + 1]; KERNELS_TOKEN_KEPT | slot: sampled, not read yet
    uint32_t *blocks[LIMIT_KV_GROUPS]; // [blocks_max]
};

// A step that has begun: what is needed of its plan when its outcomes are there.
struct session_step {
    struct plan_header plan;
    struct session_seq {
        struct plan_seq head;
        uint64_t begun;             // of the slot
        bool failed;                // before this step
    } * seq;                        // [n_slots]
    struct sample_want *want;       // [step_tokens]
    struct sample_outcome *outcome; // [step_tokens]
    uint32_t n_wanted;
    uint64_t begin_us, forward_us, enqueued_us, collective_us;
};

struct session {
    struct session_args a;
    uint32_t blocks_max; // of one table
    uint64_t epoch, next_step;
    uint64_t last_hash;     // of the last plan begun; 0: none
    uint64_t last_finished; // step; 0: none
    bool ahead;             // what is sampled stays on the device until a step is finished
    struct session_step step[SESSION_STEPS_MAX]; // by turns
    uint32_t n_begun, n_finished;
    struct slot *slot; // [n_slots]
    uint8_t *memory;   // of ids and tables; resident where used
    uint64_t memory_bytes;

    // Of the step that is being begun.
    uint32_t *token_ids, *positions, *logit_rows; // [step_tokens]
    struct batch_seq *seq;                        // [n_slots]
    uint32_t *copy_src, *copy_dst;                // [COPIES_AT_ONCE]
    struct buf answer;
};

// Whether the plan, which has passed plan_check, fits what the slots hold.
enum status session_check(struct session *s, const struct plan_header *plan, struct error *err);

#endif
