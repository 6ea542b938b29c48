// SPDX-License-Identifier: Apache-2.0
// The heart of the coordinator: a pure state machine. Events go in with the time, events come out
// through a callback; inside there is no clock, no I/O, no randomness, no thread, and no memory is
// taken after core_create. The same events give the same outputs, in the same order.
//
//   SUBMIT -> ACCEPTED [-> TOKENIZE -> TOKENIZED] -> waiting -> running: PLAN -> ANSWER -> TOKENS
//          -> FINISH once per sample -> kept until CLOSE or its time is over -> CLOSED
//
// Results are exactly-once: tokens go into the request's log and are sent from there, so a client
// that repeats its SUBMIT, or resumes, reads the same log again. Text is not stored: it is a
// function of the ids and is decoded again where a client reads behind the head of the log.
//
// One thread calls; core_step is not reentrant (not from within emit).
#ifndef PHALANX_COORDINATOR_CORE_H
#define PHALANX_COORDINATOR_CORE_H

#include "base/hash.h"
#include "base/sampling_params.h"
#include "base/status.h"
#include "coordinator/text_stream.h"
#include "proto/limits.h"
#include "proto/plan.h"
#include "proto/validate.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct core;
struct core_out;

// ---- set-up ------------------------------------------------------------------------------------

// Zero stands for the default in brackets.
struct core_config {
    void (*emit)(void *user, const struct core_out *out); // pointers are valid during the call
    void *user;
    uint64_t epoch;              // of this coordinator's life; in every plan
    struct hash_key key;         // secret of the hash tables and of the prefix cache
    uint32_t requests_max;       // live or kept [LIMIT_REQUESTS]
    uint32_t samples_max;        // of all requests [2 * requests_max]
    uint32_t models_max;         // [LIMIT_MODELS]
    uint32_t groups_max;         // [LIMIT_GROUPS]
    uint32_t tenants_max;        // [LIMIT_TENANTS]
    uint32_t context_tokens_max; // of any model [LIMIT_CONTEXT_TOKENS]
    size_t log_bytes;            // prompts and token logs of all requests [256 MiB]
    size_t group_bytes;          // block tables, prefix index of one group [64 MiB]
    uint64_t kept_us;            // a finished request waits for CLOSE [LIMIT_RESULT_KEPT_MS]
    uint64_t silent_us;          // a request whose client is gone goes on [LIMIT_CLIENT_SILENT_MS]
};

// Takes all memory. INVALID for a configuration out of range, NO_MEMORY.
enum status core_create(const struct core_config *config, struct core **out, struct error *err);
void core_destroy(struct core *core); // NULL is allowed

enum { CORE_END_IDS_MAX = 32 };

struct core_model {
    uint32_t vocab_size;     // rows of the output layer: every id is below
    uint32_t context_tokens; // prompt and output together
    uint32_t n_end_ids;
    uint32_t end_ids[CORE_END_IDS_MAX]; // end-of-sequence tokens
    const struct text_decoder *decoder; // borrowed for the life of the core; NULL: no text
    uint32_t max_num_seqs;              // running per group [the group's slots]
    uint32_t max_num_batched_tokens;    // rows per step [the group's step_tokens]
    uint32_t long_prefill_tokens;       // most rows of one prompt per step; 0: no limit
    uint32_t plans_in_flight;           // 1 or 2 [as the group says]
    uint32_t waiting_requests_max;      // [requests_max] not started ones; beyond: BUSY
    uint64_t waiting_tokens_max;        // [no limit] prompt tokens of those
    bool guaranteed_no_evict;           // admit only what can finish without being preempted
    bool no_prefix_cache;
};

// ---- events in ---------------------------------------------------------------------------------

enum core_in_type {
    CORE_IN_TICK, // nothing but time; due at core_next_deadline
    CORE_IN_SUBMIT,
    CORE_IN_TOKENIZED,
    CORE_IN_CANCEL,
    CORE_IN_RESUME,
    CORE_IN_CREDIT,
    CORE_IN_CLOSE,
    CORE_IN_PEER_GONE,
    CORE_IN_MODEL_ADD,
    CORE_IN_MODEL_FAILED, // what waits for it ends with an error, until a group is ready again
    CORE_IN_GROUP_READY,
    CORE_IN_GROUP_GONE,
    CORE_IN_ANSWER,
    CORE_IN_DRAIN, // nothing new is accepted; DRAINED follows when nothing is live
    CORE_IN_COUNT,
};

// A client's request of its tenant. A tenant and a model are small numbers that the shell gives.
struct core_in_client {
    uint64_t peer;   // connection; not 0
    uint32_t tenant; // below tenants_max
    uint8_t id[REQUEST_ID_BYTES];
    uint32_t from;          // SUBMIT, RESUME: send again from this token of each sample on
    uint32_t acked, window; // CREDIT: tokens acked .. acked + window of each sample may be sent
};

struct core_in_submit {
    struct core_in_client client;         // its id is request->id
    uint32_t model;                       // added before
    bool unattended;                      // goes on when its client is gone
    const struct request *request;        // validated
    const struct sampling_params *params; // of sample 0, with the seed given or drawn; the core
                                          // adds the model's end ids to the stop ids
};

struct core_in_tokenized {
    uint64_t request; // handle out of CORE_OUT_TOKENIZE
    const uint32_t *ids;
    uint32_t n_ids;
    const char *sentence; // not NULL: the prompt cannot be tokenized, and why
};

struct core_in_group {
    uint32_t group; // below groups_max: the shell's number of the connection
    uint32_t model, copy;
    uint8_t boot_id[16];
    struct plan_limits limits;
    uint32_t window[LIMIT_KV_GROUPS]; // positions a row attends to, itself included; 0: all
    uint32_t plans_in_flight;         // that it gains from having at once: 1 or 2 [1]
    bool orderly;                     // GONE: nobody crashed, so no request is to blame
};

struct core_in {
    enum core_in_type type;
    uint64_t now_us; // never less than before; a smaller one counts as the last one
    union {
        struct core_in_client client; // CANCEL RESUME CREDIT CLOSE
        struct core_in_submit submit;
        struct core_in_tokenized tokenized;
        uint64_t peer; // PEER_GONE
        struct {
            uint32_t index; // below models_max
            const struct core_model *model;
        } model_add;
        struct {
            uint32_t index;
            const char *sentence;
        } model_failed;
        struct core_in_group group; // GROUP_READY GROUP_GONE
        struct {
            uint32_t group;
            const void *data; // 8-byte aligned
            size_t n;
        } answer;
    };
};

// Nothing that comes in can make this fail: what is wrong with an event is said through emit.
void core_step(struct core *core, const struct core_in *in);

// When a TICK is due (microseconds, as in now_us); UINT64_MAX: never.
uint64_t core_next_deadline(const struct core *core);

// ---- events out --------------------------------------------------------------------------------

enum core_out_type {
    // To the client of a request: peer, tenant and id are set. `request` is 0 in BUSY, REFUSED and
    // CONFLICT, which concern no request of the core.
    CORE_OUT_ACCEPTED,
    CORE_OUT_BUSY,
    CORE_OUT_REFUSED, // also the answer to RESUME of an unknown id (NOT_FOUND)
    CORE_OUT_CONFLICT,
    CORE_OUT_TOKENS,
    CORE_OUT_PROMPT_LOGPROBS,
    CORE_OUT_FINISH,
    // To the shell.
    CORE_OUT_TOKENIZE,  // answer with TOKENIZED, in any order
    CORE_OUT_PLAN,      // send to the group
    CORE_OUT_JOURNAL,   // make durable before anything emitted after it is sent
    CORE_OUT_GROUP_BAD, // its answer or registration is invalid; the core has dropped it already
    CORE_OUT_CLOSED,    // the core has forgotten the request
    CORE_OUT_DRAINED,
    CORE_OUT_COUNT,
};

struct core_token {
    uint32_t id;
    float logprob;
    uint32_t rank;  // 1: no id was likelier; 0: none is known (first token of a prompt)
    uint32_t n_top; // may be 0
    const struct answer_top *top;
    const uint8_t *text; // that became final with this token
    uint32_t n_text;
};

enum core_reason { CORE_STOP, CORE_LENGTH, CORE_ABORT, CORE_ERROR };

enum core_stop {
    CORE_STOP_NONE,   // reason is not STOP
    CORE_STOP_END,    // the model's end token
    CORE_STOP_ID,     // a stop id of the client: stop_value
    CORE_STOP_STRING, // stop_value is its index in the request
};

struct core_finish {
    uint32_t sample;
    enum core_reason reason;
    enum core_stop stop;
    uint32_t stop_value;
    enum status status;   // ABORT, ERROR: why
    const char *sentence; // ABORT, ERROR
    const uint8_t *text;  // held back until now
    uint32_t n_text;
    uint32_t prompt_tokens, output_tokens, cached_tokens;
    uint64_t queued_us;      // acceptance to first scheduled
    uint64_t first_token_us; // acceptance to first token; 0 if none
    uint64_t total_us;       // acceptance to the end
    bool last;               // no sample of the request is left
};

// Records of one core_step belong into one transaction.
enum core_journal_type {
    CORE_JOURNAL_ACCEPT, // submit is set
    CORE_JOURNAL_PROMPT, // ids of a tokenized prompt
    CORE_JOURNAL_ASSIGN, // sample, group, attempt: before its first plan on a group
    CORE_JOURNAL_TOKENS, // sample, offset, tokens without text
    CORE_JOURNAL_FINISH, // finish is set
    CORE_JOURNAL_CANCEL,
    CORE_JOURNAL_CLOSE,
    CORE_JOURNAL_COUNT,
};

struct core_journal {
    enum core_journal_type type;
    uint32_t sample, group, attempt, offset, n;
    const struct core_in_submit *submit;
    const uint32_t *ids; // [n], one piece of the prompt from `offset` on
    const struct core_token *tokens;
    const struct core_finish *finish;
};

struct core_out {
    enum core_out_type type;
    uint64_t request; // handle, never reused; 0: none
    uint64_t peer;    // connection that reads the request; 0: it is gone
    uint32_t tenant, model;
    const uint8_t *id; // [REQUEST_ID_BYTES]
    union {
        struct {
            uint64_t epoch, seed;
            bool attached; // it had been accepted before
        } accepted;
        uint32_t retry_after_ms;
        struct {
            enum status status;
            const char *sentence;
        } refused;
        struct {
            const uint8_t *text; // UTF-8
            size_t n;
            bool add_special, parse_special;
            const struct request *chat; // not NULL: its conversation is to be made into the text
        } tokenize;
        struct {
            uint32_t sample, offset, attempt, n;
            const struct core_token *token;
        } tokens; // and PROMPT_LOGPROBS: offset is the position in the prompt
        struct core_finish finish;
        struct {
            uint32_t group;
            uint64_t step_id;
            const void *data;
            size_t n;
        } plan;
        struct core_journal journal;
        struct {
            uint32_t group;
            enum status status;
            const char *sentence;
        } group_bad;
    };
};

// ---- looking in --------------------------------------------------------------------------------

struct core_model_stats {
    bool failed;
    uint32_t groups_ready;
    uint32_t context_tokens; // of the model, or less where the groups' KV memory is smaller
    uint32_t running, waiting;
    uint64_t kv_blocks, kv_blocks_free; // of all its groups; free ones may be cached
    uint64_t preempted, group_deaths;   // since the start
};
void core_model_stats(const struct core *core, uint32_t model, struct core_model_stats *out);

struct core_counters {
    uint64_t accepted, finished, refused, busy, conflicts, attached;
    uint64_t plans, rows, tokens, preempted, stale_answers, bad_answers, group_deaths, quarantined;
    uint64_t prefix_queried_tokens, prefix_hit_tokens;
    uint32_t live, kept; // requests
};
void core_counters(const struct core *core, struct core_counters *out);

// Checks every invariant, O(everything): after each event in tests, rarely in service. On failure
// writes one sentence to `why` [n].
bool core_check(const struct core *core, char *why, size_t n);
// Of the whole logical state, for the comparison of replays.
uint64_t core_hash(const struct core *core);

#endif
