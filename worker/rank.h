// SPDX-License-Identifier: Apache-2.0
// One rank of a group: brought up together with its peers through a bootstrap, then led (rank 0)
// or following. The same code runs in phalanx-worker under mpirun and as threads of a test.
//
// Bring-up goes in phases; after each the ranks tell each other how it went, so that all of them
// fail with the sentence of the first one that failed, and none waits for a dead one.
//
//   read config -> | hello: hosts, config | -> size the KV cache -> | smallest | -> device, weights
//   -> | agree | -> group, ring -> KV pages, buffers -> | agree | -> ready
//
// Rank 0 leads: it writes each plan into the ring and executes it; the others read and execute. One
// thread per rank.
#ifndef PHALANX_WORKER_RANK_H
#define PHALANX_WORKER_RANK_H

#include "base/buf.h"
#include "collectives/collectives.h"
#include "proto/plan.h"
#include "worker/forward.h"
#include "worker/host.h"
#include "worker/session.h"
#include "worker/weights.h"

// Zero or NULL means the default.
struct rank_options {
    const char *model_dir;
    const char *device;              // "auto", "cpu", "cuda", "emu"
    const char *isa;                 // of the CPU: "auto"
    uint32_t threads;                // per rank; the host's cores divided among its ranks
    uint32_t max_model_len;          // the model's, or what the KV cache holds
    uint32_t max_num_seqs;           // 256
    uint32_t max_num_batched_tokens; // 512
    uint32_t block_tokens;           // 16; a power of two from 8 to LIMIT_BLOCK_TOKENS
    uint64_t kv_cache_bytes;         // per rank
    uint32_t kv_cache_percent;       // the same as a part of the free memory
    enum determinism determinism;    // of a device
    const char *kv_cache_dtype;      // "auto" is f32 on CPUs; "f32", "f16", "bf16"
    bool random_weights;             // of the model's shape; only config.json is read
    uint64_t seed;                   // of random weights
    const char *dtype;               // "auto"; of random weights: "f32", "f16", "bf16"
    uint32_t collective_timeout_ms;  // 60,000
    bool no_spin;                    // waits never spin
    bool enforce_eager;              // steps are never recorded
    bool no_kernel_overlap;          // kernels begin when the one before has ended
    bool expert_parallel;            // experts are placed whole, each on one rank
    bool separate_norms;             // never sum over ranks and norm in one; for tests and benches
    bool separate_ops;               // no operation stands for several; for tests and benches
};

// What the coordinator is told.
struct rank_info {
    uint32_t rank, size;
    struct plan_limits limits;
    uint32_t window[LIMIT_KV_GROUPS];
    uint64_t weight_bytes, kv_bytes; // of this rank
    enum dtype kv_dtype;
    uint8_t config_hash[16]; // of config.json and the tensors' names, types and shapes
    char device[128];
    char memory[512];         // the bill of a device's memory, for people; empty on CPUs
    uint32_t plans_in_flight; // that the group gains from having at once
    bool spin;                // every thread of the host's ranks has a core
    struct host_info host[COLL_RANKS_MAX];
};

struct rank;

// Collective over `b`, which is borrowed until rank_close. `progress` may be NULL. On failure every
// rank gets the same status and sentence.
enum status rank_open(const struct rank_options *options, struct bootstrap *b,
    const struct weights_progress *progress, struct rank **out, struct error *err);
void rank_close(struct rank *r); // NULL is allowed; not collective
const struct rank_info *rank_info(const struct rank *r);
// Kernels that its device was asked for so far; 0 where the device does not count.
uint64_t rank_launches(const struct rank *r);

// ---- rank 0 ------------------------------------------------------------------------------------

// A coordinator has welcomed the group: all ranks forget their sequences.
enum status rank_reset(struct rank *r, uint64_t epoch, uint64_t next_step_id, struct error *err);
// Begins a plan on all ranks; at most SESSION_STEPS_MAX may be unfinished. Statuses are those of
// session_begin; a plan that is refused reaches no other rank. *repeats: it is the last one once
// more, and nothing was done.
enum status rank_begin(struct rank *r, const void *plan, size_t n,
    const struct forward_pulse *pulse, bool *repeats, struct error *err);
uint32_t rank_unfinished(const struct rank *r);
// Finishes the oldest plan that was begun: session_finish.
enum status rank_finish(struct rank *r, bool wait, struct error *err);
const struct buf *rank_answer(const struct rank *r); // session_answer
// Begins a plan and finishes all; *answer is borrowed until the next call.
enum status rank_execute(struct rank *r, const void *plan, size_t n,
    const struct forward_pulse *pulse, const struct buf **answer, struct error *err);
// The other ranks' rank_follow returns.
enum status rank_stop(struct rank *r, struct error *err);
uint64_t rank_epoch(const struct rank *r);
uint64_t rank_last_step(const struct rank *r); // finished in that epoch; 0: none

// ---- the other ranks ---------------------------------------------------------------------------

// Executes what rank 0 writes until it stops (STATUS_OK) or something fails. Sleeps while idle.
enum status rank_follow(struct rank *r, struct error *err);

// Makes all ranks of the group fail at their next wait; from any thread.
void rank_abort(struct rank *r);

#endif
