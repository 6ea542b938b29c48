// SPDX-License-Identifier: Apache-2.0
// A seeded simulation of the coordinator's core: the real core between fake workers that distrust
// every plan and fake clients that know what they must get, joined by a network that delays,
// repeats, reorders and loses. Everything follows from the seed; a failing one is printed.
//
//   sim_text.c    toy detokenizer, toy model, and what each request must give (the reference)
//   sim_worker.c  executes plans; remembers what each KV block holds
//   sim_client.c  submits, retries, cancels, resumes, reads slowly; compares
//   sim_watch.c   looks at every output of the core: order, counts, promises
//   sim_order.c   who may run before whom
//   sim_memory.c  counts what the core allocates
//   sim.c         the world: time, events, faults
#ifndef PHALANX_TESTS_COORDINATOR_SIM_H
#define PHALANX_TESTS_COORDINATOR_SIM_H

#include "coordinator/core.h"

#include <stdio.h>

enum {
    SIM_VOCAB = 64,
    SIM_END_ID = 1,
    SIM_CONTEXT_MAX = 160,
    SIM_OUTPUT_MAX = 64,
    SIM_TEXT_MAX = 8 * SIM_OUTPUT_MAX,
    SIM_SAMPLES_MAX = 3,
    SIM_STOPS_MAX = 3,
    SIM_JOBS_MAX = 40,
    SIM_GROUPS_MAX = 3,
    SIM_MODELS_MAX = 2,
    SIM_TENANTS_MAX = 4,
    SIM_SLOTS_MAX = 16,
    SIM_BLOCKS_MAX = 128,
    SIM_BLOCK_TOKENS_MAX = 16,
    SIM_EPOCH = 7,
    SIM_NONE = -1,
};

struct sim;

// ---- randomness ---------------------------------------------------------------------------------

uint64_t sim_mix(uint64_t a, uint64_t b);
uint64_t sim_u64(struct sim *sim);
uint32_t sim_below(struct sim *sim, uint32_t n); // 0 .. n-1
uint32_t sim_between(struct sim *sim, uint32_t min, uint32_t max);
bool sim_chance(struct sim *sim, uint32_t per_mille);

// ---- requests -----------------------------------------------------------------------------------

struct sim_expected {
    uint32_t n;
    uint32_t id[SIM_OUTPUT_MAX];
    enum core_reason reason;
    enum core_stop stop;
    uint32_t stop_value;
    char text[SIM_TEXT_MAX];
    uint32_t n_text;
};

// What a client holds of one sample.
struct sim_view {
    uint32_t next;
    bool finished;
    enum core_reason reason;
    char text[SIM_TEXT_MAX];
    uint32_t n_text;
};

// Where a sample was admitted last.
struct sim_seat {
    uint32_t group, slot, generation;
};

// What the core has said about one sample.
struct sim_seen {
    uint32_t n_journal;   // tokens made durable
    bool journal_finish;  // once in the life of the request
    bool view_finish;     // since the last SUBMIT or RESUME
    uint32_t view_next;   // next offset to be sent
    uint32_t min_attempt; // of its next ASSIGN
    uint32_t group;       // of its last ASSIGN
    uint64_t last_death;  // that was counted
    bool waits;           // it surely does
    bool planned;         // at least once,
    uint32_t cached;      // with so many rows out of the cache
    struct sim_seat seat;
};

struct sim_job {
    uint8_t id[REQUEST_ID_BYTES];
    uint32_t number, tenant, model;
    uint32_t prompt[SIM_CONTEXT_MAX], n_prompt;
    bool as_text, tokenize_fails;
    uint32_t n, max_tokens, min_tokens, n_logprobs;
    int32_t prompt_logprobs, priority;
    uint32_t n_stops, n_stop_ids, stop_ids[4];
    char stop[SIM_STOPS_MAX][8];
    bool include_stop, ignore_eos, skip_special, unattended;
    uint32_t deadline_ms, window;
    uint8_t salt;
    uint64_t seed;
    int poison_at, bad_logits_at; // position of a row, SIM_NONE: never
    struct sim_expected expected[SIM_SAMPLES_MAX];

    // The client.
    uint64_t peer; // 0: not connected
    bool accepted, done, gone_for_good, wants_scores;
    uint32_t scores_next;
    uint64_t heard_us;
    struct sim_view view[SIM_SAMPLES_MAX];

    // What the core has said.
    bool known, live, closed, may_abort, tried_conflict; // live: the prompt is known
    uint64_t arrival;
    uint32_t scores_sent; // since the last rewind to the beginning
    uint64_t handle, deadline_us, gone_us;
    uint64_t last_death;
    uint64_t core_peer;   // the connection that the core sends to
    bool kill_known;      // the core has heard that a group died of it
    uint32_t late_kills;  // by plans that were sent after that
    uint32_t deaths;      // of groups while it was in flight
    uint64_t view_limit;  // offsets that may be sent
    uint32_t submit_from; // of the SUBMIT that the core is looking at
    struct sim_seen seen[SIM_SAMPLES_MAX];
};

// ---- workers ------------------------------------------------------------------------------------

struct sim_slot {
    bool used, broken;
    uint32_t generation, attempt;
    struct sim_job *job;
    uint32_t sample, n_prompt;
    uint32_t ids[SIM_CONTEXT_MAX + 1], n_ids, n_computed;
    uint64_t state[SIM_CONTEXT_MAX + 1]; // of the model after each id
    uint32_t table[LIMIT_KV_GROUPS][SIM_CONTEXT_MAX], n_table[LIMIT_KV_GROUPS];
    uint32_t stop_ids[SAMPLING_STOP_IDS_MAX], n_stop_ids;
};

struct sim_worker {
    bool alive; // the process runs
    bool known; // the core has it as ready
    uint32_t group, model, boot;
    uint64_t next_step;
    uint64_t link_us; // messages of the link arrive in order
    struct plan_limits limits;
    uint32_t window[LIMIT_KV_GROUPS];
    uint32_t plans_in_flight; // it asks for so many, 0: one
    struct sim_slot slot[SIM_SLOTS_MAX];
    uint64_t content[LIMIT_KV_GROUPS][SIM_BLOCKS_MAX][SIM_BLOCK_TOKENS_MAX];
    void *last_answer;
    size_t last_answer_bytes;
    // Jobs in plans that the core has not seen answered.
    struct {
        uint64_t step;
        uint32_t n;
        struct sim_job *job[SIM_SLOTS_MAX];
        uint32_t sample[SIM_SLOTS_MAX];
        uint32_t n_rows[SIM_SLOTS_MAX];
        bool kill_known[SIM_SLOTS_MAX];
    } flight[LIMIT_PLANS_IN_FLIGHT];
    uint32_t n_flights;
    // Who holds a slot, by the plans that the core has sent.
    struct {
        uint32_t generation;
        struct sim_job *job;
        uint32_t sample;
    } owner[SIM_SLOTS_MAX];
    struct sim_job *killer;    // of whose rows it has died
    bool hostile, hostile_now; // a false answer is under way, is looked at
};

// ---- the world ----------------------------------------------------------------------------------

// Chances per mille; each is 0 in some seeds.
struct sim_faults {
    uint32_t lose, repeat, reorder;            // messages between clients and coordinator
    uint32_t cancel, resume, vanish, conflict; // clients, per look around
    uint32_t die, hostile, repeat_answer;      // workers, per plan
    uint32_t poison, bad_logits;               // requests
    uint32_t clock_jump;                       // per event
};

struct sim_event;

struct sim_tenant {
    uint32_t n_live; // samples
    uint64_t served; // rows
};

struct sim {
    uint64_t seed, rng, now_us, core_now_us; // core_now_us: as the core believes
    struct core *core;
    struct sim_faults faults;
    bool calm; // faults are off
    uint32_t n_models, n_groups, n_tenants, n_jobs, n_done;
    struct core_model model[SIM_MODELS_MAX];
    struct text_decoder decoder;
    uint32_t context_tokens; // of all copies
    struct sim_job job[SIM_JOBS_MAX];
    struct sim_worker worker[SIM_GROUPS_MAX];
    struct sim_event **event; // heap
    uint32_t n_events, n_events_max;
    uint64_t order, n_steps;
    uint64_t next_peer, n_deaths, random_deaths; // random: not a poisonous request's
    bool draining, drained;
    struct request request; // scratch
    uint32_t stepping;      // inside core_step
    uint64_t arrivals;
    struct sim_tenant tenant[SIM_MODELS_MAX][SIM_TENANTS_MAX];
    bool failed;
    char why[256];
};

void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define SIM_EXPECT(sim, x, ...)                                                                    \
    do {                                                                                           \
        if (!(x))                                                                                  \
            sim_fail(sim, __VA_ARGS__);                                                            \
    } while (0)

// Runs one seed; false with sim->why. `digest` (may be NULL): of the core at the end.
bool sim_run(uint64_t seed, char *why, size_t n, uint64_t *digest);
void sim_step(struct sim *sim, struct core_in *in);

struct sim_message {
    struct sim_job *job;
    uint64_t peer;
    enum core_out_type type;
    uint32_t sample, offset, n; // TOKENS: what the watcher has checked; text of each below
    struct core_finish finish;
    uint32_t n_text[SIM_OUTPUT_MAX];
    char text[SIM_TEXT_MAX]; // of all tokens, or of FINISH
};

enum sim_event_type {
    SIM_EVENT_LOOK,      // a client looks around (a: job)
    SIM_EVENT_TO_CORE,   // a: job, b: another body, data: struct core_in of a client
    SIM_EVENT_TO_CLIENT, // data: struct sim_message
    SIM_EVENT_TOKENIZED, // a: job, b: handle
    SIM_EVENT_PLAN,      // a: group, b: boot, data
    SIM_EVENT_ANSWER,    // a: group, b: boot and, from bit 32, 1 + kind of a false one; data
    SIM_EVENT_GONE,      // a: group, b: boot
    SIM_EVENT_START,     // a: group
    SIM_EVENT_PEER_GONE, // b: peer
    SIM_EVENT_TICK,
    SIM_EVENT_CALM,
};

struct sim_event {
    uint64_t at_us, order;
    enum sim_event_type type;
    uint32_t a;
    uint64_t b;
    size_t bytes;
    void *data; // owned
};

void sim_post(struct sim *sim, uint64_t at_us, enum sim_event_type type, uint32_t a, uint64_t b,
    const void *data, size_t bytes);

// ---- sim_text.c ---------------------------------------------------------------------------------

extern const struct text_decoder sim_decoder;
// The model's state before the first id, and after one more.
uint64_t sim_model_begin(const struct sim_job *job);
uint64_t sim_model_next(uint64_t state, uint32_t id);
// The token after `state`; ids in `stop` are masked while fewer than min_tokens are out.
uint32_t sim_model_sample(uint64_t state, uint64_t seed, uint32_t sample, uint32_t position,
    const uint32_t *stop, uint32_t n_stop, bool masked);
float sim_model_logprob(uint64_t state, uint32_t id);
struct answer_top sim_model_top(uint64_t state, uint32_t i);
// The text of the first `n` ids of a sample; returns its size.
size_t sim_text(const struct sim_job *job, const uint32_t *ids, uint32_t n, bool finish, char *out);
// Fills job->expected.
void sim_expect(struct sim *sim, struct sim_job *job);

// ---- sim_worker.c -------------------------------------------------------------------------------

void sim_worker_start(struct sim *sim, struct sim_worker *w);
void sim_worker_plan(struct sim *sim, struct sim_worker *w, const void *data, size_t n);
void sim_worker_die(struct sim *sim, struct sim_worker *w, bool at_once);
// Plans that it may have at once.
uint32_t sim_worker_plans(const struct sim *sim, const struct sim_worker *w);
void sim_worker_answered(struct sim *sim, struct sim_worker *w, uint64_t step);
struct sim_job *sim_job_by_seed(struct sim *sim, uint64_t seed);

// ---- sim_client.c -------------------------------------------------------------------------------

void sim_client_make(struct sim *sim, struct sim_job *job);
void sim_client_look(struct sim *sim, struct sim_job *job);
void sim_client_receive(struct sim *sim, const struct sim_message *m);
// A message of the client reaches the core. `other_body`: SUBMIT under the same id.
void sim_client_deliver(struct sim *sim, struct sim_job *job, struct core_in *in, bool other_body);
// The texts of jobs that are submitted as text.
size_t sim_client_text(const struct sim_job *job, char out[SIM_CONTEXT_MAX]);

// ---- sim_watch.c --------------------------------------------------------------------------------

void sim_watch_emit(void *sim, const struct core_out *out);
void sim_watch_death(struct sim *sim, struct sim_worker *w, bool crashed);
// The view of a request moves: offsets from `from` on are sent again.
void sim_watch_rewind(struct sim_job *job, uint32_t from);
void sim_watch_end(struct sim *sim);

// ---- sim_order.c --------------------------------------------------------------------------------

void sim_order_begin(struct sim *sim, struct sim_job *job);
void sim_order_end(struct sim *sim, struct sim_job *job, uint32_t sample);
void sim_order_admit(
    struct sim *sim, struct sim_job *job, uint32_t sample, const struct sim_seat *seat);
void sim_order_release(struct sim *sim, const struct sim_seat *seat, struct sim_job *job,
    uint32_t sample, const struct plan_header *plan);
void sim_order_rows(struct sim *sim, const struct sim_job *job, uint32_t n);

// ---- sim_memory.c -------------------------------------------------------------------------------

// While forbidden, allocations are counted. Returns what held before.
bool sim_memory_forbid(bool forbid);
uint64_t sim_memory_count(void);

#endif
