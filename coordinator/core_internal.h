// SPDX-License-Identifier: Apache-2.0
// What the files of the core share: its structures and who may change what.
//
//   request -- n samples -- each at most one slot of one group
//
// A request owns its prompt, stop rules, prompt scores and its samples; a sample owns its token log
// and how far its client has read (the view). A slot is a running sequence on a group: block
// tables, rows planned and rows answered. When a sample finishes or is preempted while plans that
// name its slot are in flight, it lets go at once and the slot stays behind as an orphan until the
// last of them is answered; whatever an answer says about an orphan is dropped.
//
//   rows of a slot:  0 ........ n_done ........ n_planned ........ known + n_sampling
//                    answered          in flight          not planned
//
// Indices stand for pointers throughout; NONE is "no such thing".
#ifndef PHALANX_COORDINATOR_CORE_INTERNAL_H
#define PHALANX_COORDINATOR_CORE_INTERNAL_H

#include "coordinator/core.h"
#include "coordinator/core_mutant.h"
#include "coordinator/core_pages.h"
#include "coordinator/kv_blocks.h"

#define NONE UINT32_MAX

enum {
    CORE_SUSPICIONS_MAX = 4, // of one request: it is quarantined, although it was proven each time
    CORE_SENTENCE_BYTES = 160,
    CORE_TOKENS_PER_EVENT = 64,
    CORE_TEXT_BYTES = 64 << 10,
};

// One entry of a token log or of the prompt's scores; n_top as far as the request asks for.
struct core_record {
    uint32_t id;
    float logprob;
    uint32_t rank, n_top;
    struct answer_top top[];
};

enum request_state {
    REQUEST_FREE,
    REQUEST_TOKENIZING,
    REQUEST_LIVE, // some sample is not finished
    REQUEST_KEPT, // all are; waits for CLOSE
};

struct core_request {
    enum request_state state;
    uint32_t generation; // of this entry; part of the handle
    uint32_t table_next; // chain of the request table, or of the free list
    uint32_t timer_at;   // position in the timer heap, NONE outside
    uint64_t due_us;

    uint8_t id[REQUEST_ID_BYTES];
    uint32_t tenant, model;
    struct hash128 body, root; // root: of the prefix chain
    uint64_t peer;             // 0: gone
    bool unattended;

    struct sampling_params params; // of sample 0
    struct core_log prompt;        // u32
    struct core_log stop_ids;      // u32; the client's first, then the model's
    struct core_log bias;          // struct sampling_bias
    struct core_log stops;         // whole pages of stop strings (core_stops.c)
    struct core_log scores;        // struct core_record of prompt positions 1 ..
    uint32_t n_client_stop_ids, n_stops;
    int32_t prompt_logprobs;
    uint32_t max_tokens, min_tokens; // max_tokens: what fits into the context
    bool include_stop, ignore_end, skip_special;
    int32_t priority;

    uint32_t n_samples, first_sample, n_live; // n_live: samples not finished
    uint64_t pages_reserved;
    bool counted_waiting; // in its model's n_waiting_requests and waiting_tokens
    uint64_t waiting_tokens;
    uint32_t suspicions; // deaths of groups that made a suspect of it
    bool died_alone;     // a group died while it computed nothing but this request

    uint64_t accepted_us, scheduled_us, deadline_us, detached_us, finished_us;
    uint32_t view_limit; // offsets below may be sent
    uint32_t score_next; // scores sent
    enum status error;   // why it failed, with the sentence
    char sentence[CORE_SENTENCE_BYTES];
};

enum sample_state {
    SAMPLE_BLOCKED, // the prompt is not tokenized, or not yet in the prefix cache
    SAMPLE_WAITING,
    SAMPLE_RUNNING,
    SAMPLE_FINISHED,
};

struct core_sample {
    enum sample_state state;
    uint32_t request, index;
    uint32_t next;    // of the request, or of the free list
    uint32_t attempt; // 1 + deaths of its groups
    uint64_t arrival;
    uint32_t heap_child, heap_next, heap_prev; // while waiting
    uint32_t group, slot;                      // while running
    bool suspect;           // was in flight when a group died: runs alone until proven
    uint32_t suspect_until; // rows answered that prove it

    struct core_log log; // struct core_record
    struct text_stream text, view_text;
    bool view_at_head; // the view's text is `text`
    uint32_t view_next;
    bool finish_sent;

    enum core_reason reason;
    enum core_stop stop;
    uint32_t stop_value;
    bool scheduled; // at least once
    uint32_t cached_tokens;
    uint32_t blocked_group; // could not be admitted there with so many blocks available
    uint32_t blocked_available[LIMIT_KV_GROUPS];
    uint64_t first_token_us, finished_us;
};

struct core_tenant_queue {
    uint32_t root;      // heap of waiting samples
    uint32_t active_at; // position in active
    uint32_t n_live;    // samples waiting or running
    uint64_t served;    // rows
};

struct core_model_state {
    bool added, failed;
    struct core_model config;
    char failure[CORE_SENTENCE_BYTES];
    uint32_t n_waiting_requests; // accepted and never scheduled
    uint64_t waiting_tokens;
    uint32_t n_waiting, n_groups;
    uint64_t n_preempted, n_deaths;   // since the start
    struct core_tenant_queue *tenant; // [tenants_max]
    uint32_t *active;                 // tenants with waiting samples
    uint32_t n_active;
    uint32_t suspects; // root of the heap of waiting suspects
    bool dirty;        // something may be schedulable
};

struct core_table {
    uint32_t first, end; // live entries of the block table
    uint32_t sent;       // entries that the worker has
    uint32_t reserved;   // blocks promised (guaranteed_no_evict)
};

struct core_slot {
    uint32_t generation;
    bool used;
    uint32_t sample; // NONE: an orphan
    uint32_t former; // of an orphan: whose it was, if that request still has this handle
    uint64_t former_request;
    uint32_t n_done, n_planned, n_sampling, in_flight;
    bool shown;           // the worker has seen PLAN_SEQ_FIRST
    bool alone_reserve;   // its promise is all blocks there are
    uint32_t n_hashed;    // blocks entered into the prefix index
    struct hash128 chain; // key of the last of them
    uint32_t run_next, run_prev;
    uint32_t pick; // position in the plan under construction, NONE outside
    struct core_table table[LIMIT_KV_GROUPS];
};

struct core_row {
    uint32_t slot, first, n_tokens, flags, score_begin, score_count;
};

struct core_flight {
    uint64_t step_id, hash;
    uint32_t n;
    bool alone;           // a suspect
    struct core_row *row; // [n_slots]
};

struct core_group {
    bool ready;
    uint32_t model, copy;
    uint8_t boot_id[16];
    struct plan_limits limits;
    uint32_t window[LIMIT_KV_GROUPS];
    uint32_t context_tokens, budget, max_seqs; // after the model's and the group's limits
    uint32_t plans_max;                        // in flight at once
    uint64_t next_step;
    struct core_flight flight[LIMIT_PLANS_IN_FLIGHT];
    uint32_t flight_first, n_flights;
    bool was_alone; // the last plan was a suspect's

    struct kv_blocks kv[LIMIT_KV_GROUPS];
    uint32_t *block[LIMIT_KV_GROUPS]; // block tables [n_slots][stride]
    uint32_t stride;
    struct core_slot *slot; // [n_slots]
    uint32_t *free_slots;   // stack
    uint32_t n_free_slots, n_running, n_orphans;
    uint32_t run_first, run_last; // slots in order of admission; orphans are not among them
    struct plan_release *release; // [n_slots], for the next plan
    uint32_t n_releases;
    struct core_row *pick; // [n_slots]
    uint32_t n_picks;

    uint8_t *memory;
    size_t memory_bytes;
};

struct core {
    struct core_config config;
    uint64_t now_us;
    bool draining, drained;
    uint64_t arrivals;

    struct core_request *request; // [requests_max]
    uint32_t requests_touched, requests_free, n_requests;
    uint32_t *table; // buckets
    uint32_t n_buckets;
    uint32_t *timer; // heap of requests
    uint32_t n_timers;
    struct core_sample *sample; // [samples_max]
    uint32_t samples_touched, samples_free, n_samples;
    struct core_pages pages;
    struct core_model_state *model; // [models_max]
    struct core_group *group;       // [groups_max]
    uint32_t n_live, n_kept, n_suspects;

    struct core_counters counters;
    uint32_t *ids; // [context_tokens_max] scratch
    struct buf plan, text, scratch;
    struct core_token token[CORE_TOKENS_PER_EVENT];
};

static inline struct core_request *core_request_of(struct core *core, const struct core_sample *s)
{
    return &core->request[s->request];
}

static inline uint32_t core_sample_index(const struct core *core, const struct core_sample *s)
{
    return (uint32_t)(s - core->sample);
}

static inline uint32_t core_request_index(const struct core *core, const struct core_request *r)
{
    return (uint32_t)(r - core->request);
}

static inline uint64_t core_handle(const struct core *core, const struct core_request *r)
{
    return (uint64_t)r->generation << 32 | (core_request_index(core, r) + 1);
}

// Ids known of a sample: prompt and output.
static inline uint32_t core_known(const struct core *core, const struct core_sample *s)
{
    return core->request[s->request].prompt.count + s->log.count;
}

static inline struct core_sample *core_slot_sample(struct core *core, const struct core_slot *slot)
{
    return slot->sample == NONE ? NULL : &core->sample[slot->sample];
}

// ---- core_request.c ----------------------------------------------------------------------------

void core_request_submit(struct core *core, const struct core_in_submit *in);
void core_request_tokenized(struct core *core, const struct core_in_tokenized *in);
void core_request_cancel(struct core *core, const struct core_in_client *in);
void core_request_resume(struct core *core, const struct core_in_client *in);
void core_request_credit(struct core *core, const struct core_in_client *in);
void core_request_close(struct core *core, const struct core_in_client *in);
void core_request_peer_gone(struct core *core, uint64_t peer);
// Everything that waits for this model ends with an error.
void core_request_fail_waiting(struct core *core, uint32_t model);
// Handles requests whose time has come.
void core_request_expire(struct core *core);

// ---- core_finish.c -----------------------------------------------------------------------------

struct core_end {
    enum core_reason reason;
    enum core_stop stop;
    uint32_t stop_value;
    enum status status;
    const char *sentence;
};
// Ends one sample, or all that are not finished; lets go of slots and of places in queues.
void core_finish_sample(struct core *core, struct core_sample *s, const struct core_end *end);
void core_finish_request(struct core *core, struct core_request *r, const struct core_end *end);
// The request was scheduled or has ended: it no longer counts as waiting.
void core_finish_waiting(struct core *core, struct core_request *r);
// Samples that wait for sample 0's prefill may run.
void core_finish_unblock(struct core *core, struct core_request *r);
// Sets the time at which the request needs attention.
void core_finish_arm(struct core *core, struct core_request *r);

// ---- core_table.c: requests by (tenant, id), and pools ------------------------------------------

struct core_request *core_table_find(struct core *core, uint32_t tenant, const uint8_t *id);
struct core_request *core_table_by_handle(struct core *core, uint64_t handle);
// A zeroed request in the table; NULL when all are taken.
struct core_request *core_table_add(struct core *core, uint32_t tenant, const uint8_t *id);
// Takes it out and frees it with its samples, logs and reservations.
void core_table_remove(struct core *core, struct core_request *r);
// Gives `n` samples to the request; false when fewer are left.
bool core_table_add_samples(struct core *core, struct core_request *r, uint32_t n);

// ---- core_timer.c ------------------------------------------------------------------------------

void core_timer_set(struct core *core, struct core_request *r, uint64_t due_us);
void core_timer_clear(struct core *core, struct core_request *r);

// ---- core_stops.c ------------------------------------------------------------------------------

uint32_t core_stops_pages(const struct request *request);
void core_stops_store(struct core *core, struct core_request *r, const struct request *request);
void core_stops_load(const struct core *core, const struct core_request *r, struct text_stops *out);

// ---- core_view.c -------------------------------------------------------------------------------

void core_view_emit(struct core *core, const struct core_request *r, struct core_out *out);
// Appends a token to the sample's log, sends it if the client keeps up, and ends the sample if a
// stop rule says so. `context_tokens` is the group's.
void core_view_append(struct core *core, struct core_sample *s, const struct answer_result *result,
    const struct answer_top *top, uint32_t context_tokens);
// Sends whatever the view may have.
void core_view_deliver(struct core *core, struct core_request *r);
// Moves all views to `from`.
void core_view_rewind(struct core *core, struct core_request *r, uint32_t from);
void core_view_finish_facts(
    const struct core *core, const struct core_sample *s, struct core_finish *out);

// ---- core_group.c, core_answer.c ---------------------------------------------------------------

void core_group_ready(struct core *core, const struct core_in_group *in);
// The group is gone; `crashed`: what was in flight may be to blame.
void core_group_gone(struct core *core, uint32_t group, bool crashed);
void core_group_bad(struct core *core, uint32_t group, const struct error *err);
void core_answer(struct core *core, uint32_t group, const void *data, size_t n);

#endif
