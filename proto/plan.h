// SPDX-License-Identifier: Apache-2.0
// The step plan: what the coordinator tells every rank of a group to compute in one step, and the
// answer of rank 0. Flat, little-endian, versioned; written once, carried unchanged over ZeroMQ to
// rank 0 and through the control ring to the other ranks, recorded and replayed as it is.
//
//   plan   = plan_header, n_seqs x (plan_seq + payload), n_releases x plan_release,
//            n_copies x plan_copy
//   answer = answer_header, n_seqs x (answer_seq + n_results x (answer_result + tops))
//
// Order within a step: releases, then block copies, then the sequences' rows.
//
// What a worker knows. A slot holds one sequence: its complete ids (prompt, then what was sampled),
// the prompt's length, its sampler and its block tables. A sequence is shown for the first time
// with PLAN_SEQ_FIRST and all its ids; from then on each record says only how many rows are
// computed from which position, and which block table entries are new. Row i has position
// first_position + i and the id that the slot's history has there. first_position + n_tokens may
// exceed the known ids by what plans still in flight will sample ("use the last sampled one").
//
// The worker checks everything as if it came from an enemy; plan_check is that check.
#ifndef PHALANX_PROTO_PLAN_H
#define PHALANX_PROTO_PLAN_H

#include "base/buf.h"
#include "base/sampling_params.h"
#include "base/status.h"
#include "proto/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PLAN_MAGIC = 0x4e4c5050,   // "PPLN"
    ANSWER_MAGIC = 0x534e4150, // "PANS"
    PLAN_VERSION = 1,
};

struct plan_header {
    uint32_t magic, version;
    uint64_t bytes;   // of the whole plan
    uint64_t epoch;   // of the coordinator; older ones are dropped
    uint64_t step_id; // previous + 1; repeating the last one returns the stored answer
    uint64_t hash;    // plan_hash
    uint32_t n_seqs, n_releases, n_copies;
    uint32_t n_rows; // of all sequences
};
_Static_assert(sizeof(struct plan_header) == 56, "no padding");

enum plan_seq_flags {
    PLAN_SEQ_FIRST = 1u << 0,  // the slot is (re)started: ids, parameters and full tables follow
    PLAN_SEQ_SAMPLE = 1u << 1, // choose a token from the last row's logits
    PLAN_SEQ_SCORE = 1u << 2,  // report log-probabilities of rows score_begin .. + score_count
    PLAN_SEQ_FLAGS_ALL = 7u,
};

// Payload, in this order, each part padded to 8 bytes: ids [n_ids] u32; per KV group g the block
// table entries [n_blocks[g]] u32 that replace entries from block_begin[g] on; and with
// PLAN_SEQ_FIRST a plan_first with its stop ids and biases.
struct plan_seq {
    uint32_t bytes; // of record and payload, a multiple of 8
    uint32_t flags;
    uint32_t slot;
    uint32_t generation;               // grows each time the slot is given to another sequence
    uint32_t attempt;                  // of the sequence; grows after each death of its group
    uint32_t first_position, n_tokens; // n_tokens rows; at least 1
    uint32_t n_ids;    // FIRST: all ids known; otherwise 0, or draft ids after the last one
    uint32_t n_drafts; // 0; reserved for speculative decoding
    uint32_t adapter;  // 0: none
    uint32_t grammar;  // 0: none
    uint32_t score_begin, score_count; // positions whose next id is scored (prompt_logprobs)
    uint32_t score_logprobs;           // tops per scored position
    uint32_t block_begin[LIMIT_KV_GROUPS], n_blocks[LIMIT_KV_GROUPS];
};
_Static_assert(sizeof(struct plan_seq) == 72, "no padding");

struct plan_first {
    uint32_t prompt_length; // of ids
    uint32_t pad;
    struct sampling_params params; // followed by stop ids [n_stop_ids] u32, then biases
};
_Static_assert(sizeof(struct sampling_params) == 64, "no padding");
_Static_assert(sizeof(struct plan_first) == 72, "no padding");

struct plan_release {
    uint32_t slot, generation;
};

struct plan_copy {
    uint32_t group, src, dst, pad;
};

struct answer_header {
    uint32_t magic, version;
    uint64_t bytes;
    uint64_t epoch, step_id, plan_hash;
    uint32_t n_seqs;
    uint32_t pad;
    uint32_t forward_us, sample_us, collective_us, total_us;
};
_Static_assert(sizeof(struct answer_header) == 64, "no padding");

enum answer_seq_status {
    ANSWER_SEQ_OK,
    ANSWER_SEQ_BAD_LOGITS, // not a number, or nothing finite: the sequence ends with an error
};

struct answer_seq {
    uint32_t bytes; // of record and results, a multiple of 8
    uint32_t slot, generation, attempt;
    uint32_t status; // enum answer_seq_status
    uint32_t n_results;
};
_Static_assert(sizeof(struct answer_seq) == 24, "no padding");

enum answer_kind { ANSWER_SAMPLED, ANSWER_SCORED };

// Followed by n_top pairs {u32 id, f32 logprob}.
struct answer_result {
    uint32_t kind;
    uint32_t position; // of the token `id`
    uint32_t id;
    float logprob;
    uint32_t rank; // 1: no id is likelier
    uint32_t n_top;
};
_Static_assert(sizeof(struct answer_result) == 24, "no padding");

// ---- writing (coordinator for plans, rank 0 for answers) ---------------------------------------

// Appends to `b`, which is cleared first. Every call of a writer happens in the order of the
// format; plan_end fills in sizes and the hash. Failure to grow shows in buf_failed(b).
struct plan_seq_parts {
    struct plan_seq head; // bytes is filled in
    const uint32_t *ids;
    const uint32_t *blocks[LIMIT_KV_GROUPS];
    const struct sampling_params *params; // FIRST only, with the following
    uint32_t prompt_length;
    const uint32_t *stop_ids;         // [params->n_stop_ids]
    const struct sampling_bias *bias; // [params->n_logit_bias]
};
void plan_begin(struct buf *b, uint64_t epoch, uint64_t step_id);
void plan_add_seq(struct buf *b, const struct plan_seq_parts *parts);
// All releases come after all sequences, all copies after all releases.
void plan_add_release(struct buf *b, uint32_t slot, uint32_t generation);
void plan_add_copy(struct buf *b, uint32_t group, uint32_t src, uint32_t dst);
void plan_end(struct buf *b);
// SipHash-2-4 over what follows the header, keyed with the hash (key 0) of the header with its own
// field 0. `plan` has plan->bytes bytes.
uint64_t plan_hash(const struct plan_header *plan);

struct answer_top {
    uint32_t id;
    float logprob;
};
void answer_begin(struct buf *b, const struct plan_header *plan);
void answer_add_seq(struct buf *b, const struct plan_seq *seq, enum answer_seq_status status);
// Adds a result to the sequence added last.
void answer_add_result(
    struct buf *b, const struct answer_result *result, const struct answer_top *top);
void answer_end(struct buf *b, uint32_t forward_us, uint32_t sample_us, uint32_t collective_us,
    uint32_t total_us);

// ---- reading -----------------------------------------------------------------------------------

// What the group can take; part of its registration.
struct plan_limits {
    uint32_t n_slots, step_tokens, context_tokens, vocab_size;
    uint32_t n_kv_groups, block_tokens;
    uint32_t n_blocks[LIMIT_KV_GROUPS];
};

// Checks sizes, counts, ranges, finite numbers and the hash of a whole plan of `n` bytes (8-byte
// aligned). Does not know what slots hold: the session checks that.
enum status plan_check(
    const void *data, size_t n, const struct plan_limits *limits, struct error *err);
enum status answer_check(
    const void *data, size_t n, const struct plan_limits *limits, struct error *err);

// Walks over a checked plan. Pointers lead into the plan.
struct plan_seq_view {
    const struct plan_seq *head;
    const uint32_t *ids;
    const uint32_t *blocks[LIMIT_KV_GROUPS];
    const struct plan_first *first; // NULL without PLAN_SEQ_FIRST
    const uint32_t *stop_ids;
    const struct sampling_bias *bias;
};
struct plan_cursor {
    const uint8_t *at;
    uint32_t left;
};
struct plan_cursor plan_seqs(const struct plan_header *plan);
// False at the end.
bool plan_next_seq(struct plan_cursor *c, struct plan_seq_view *out);
const struct plan_release *plan_releases(const struct plan_header *plan);
const struct plan_copy *plan_copies(const struct plan_header *plan);

struct plan_cursor answer_seqs(const struct answer_header *answer);
bool answer_next_seq(
    struct plan_cursor *c, const struct answer_seq **out, struct plan_cursor *results);
bool answer_next_result(
    struct plan_cursor *c, const struct answer_result **out, const struct answer_top **top);

#endif
