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
    uint32_t n_ids;      // known
    uint32_t n_computed; // positions whose keys and values are in the pages
    uint32_t n_blocks[LIMIT_KV_GROUPS];
    uint32_t *ids;                     // [context_tokens + 1]
    uint32_t *blocks[LIMIT_KV_GROUPS]; // [blocks_max]
};

struct session {
    struct session_args a;
    uint32_t blocks_max; // of one table
    uint64_t epoch, next_step;
    uint64_t last_hash; // of the last plan executed; 0: none
    struct slot *slot;  // [n_slots]
    uint8_t *memory;    // of ids and tables; resident where used
    uint64_t memory_bytes;

    // The step at hand.
    uint32_t *token_ids, *positions, *logit_rows; // [step_tokens]
    struct batch_seq *seq;                        // [n_slots]
    struct sample_want *want;                     // [step_tokens]
    struct sample_outcome *outcome;               // [step_tokens]
    uint32_t *copy_src, *copy_dst;                // [COPIES_AT_ONCE]
    struct buf answer;
};

// Whether the plan, which has passed plan_check, fits what the slots hold.
enum status session_check(struct session *s, const struct plan_header *plan, struct error *err);

#endif
