// SPDX-License-Identifier: Apache-2.0
// What stands around the core: sockets, time, random seeds, the tokenizing thread. One loop thread
// owns everything here; the tokenizing thread shares only the (immutable) tokenizers and a pair of
// inproc sockets.
//
//   clients  ==ROUTER==>  loop  ==core_step==>  core  ==emit==>  clients, groups, tokenizing thread
//   groups   ==ROUTER==>
//
// Peers and groups are named by ZeroMQ's own routing ids, five bytes that libzmq draws for each
// connection; a client that sets its own id is not served (an id is a name, never an authority).
#ifndef PHALANX_COORDINATOR_SHELL_H
#define PHALANX_COORDINATOR_SHELL_H

#include "base/arena.h"
#include "base/buf.h"
#include "coordinator/core.h"
#include "model/arch.h"
#include "model/tokenizer.h"
#include "proto/client.pb-c.h"
#include "proto/worker.pb-c.h"

enum { SHELL_REASON_BYTES = 512 };

enum shell_model_state { SHELL_LOADING, SHELL_READY, SHELL_FAILED };

struct shell_model {
    char name[LIMIT_MODEL_NAME_BYTES + 1];
    struct tokenizer *tokenizer; // NULL: token ids only
    struct text_decoder decoder;
    uint32_t vocab_size, context_tokens;
    enum shell_model_state state;
    uint32_t degree, progress_percent;
    uint64_t weight_bytes, kv_bytes; // per rank
    char device[96];
    char reason[SHELL_REASON_BYTES]; // FAILED
};

struct shell_group {
    bool used;
    uint64_t peer;
    uint32_t model, copy;
    uint64_t heard_us;
    uint8_t boot_id[16];
};

struct shell_settings {
    const char *endpoint, *worker_endpoint, *model, *model_name, *log_level;
    int64_t degree, max_model_len, max_num_seqs, max_num_batched_tokens, max_waiting;
    int64_t plans_in_flight;
    bool guaranteed_no_evict, no_prefix_cache, no_tokenizer;
};

struct shell {
    struct shell_settings settings;
    struct core *core;
    uint64_t epoch;
    void *context, *clients, *workers, *tokenize;
    uint32_t n_models;
    struct shell_model model[LIMIT_MODELS];
    struct shell_group group[LIMIT_GROUPS];
    uint32_t n_tenants;
    char tenant[LIMIT_TENANTS][LIMIT_TENANT_BYTES + 1];
    struct request request; // the one being submitted
    struct arena in;        // the message being handled
    struct arena out;       // the message being built
    struct buf packed;
    struct buf answer; // of a group, copied to be 8-byte aligned
    bool stopping, drained;
    uint64_t stop_us;
};

// ---- sockets (shell.c) -------------------------------------------------------------------------

enum { SHELL_PARTS_MAX = 4 };

struct shell_part {
    const uint8_t *data; // 8-byte aligned copies where `n` is more than 64, until the next receive
    size_t n;
};

// The routing id as a number; 0 where it is not one that libzmq drew.
uint64_t shell_peer(const void *id, size_t n);
// Sends {routing id, first, second} without waiting. PEER_GONE when nobody is there, BUSY when the
// peer does not read.
enum status shell_send(
    void *socket, uint64_t peer, const void *first, size_t n_first, const void *body, size_t n);

// ---- clients (shell_clients.c) -----------------------------------------------------------------

void shell_clients_handle(
    struct shell *s, uint64_t peer, const void *data, size_t n, uint64_t now_us);
// The core's outputs that go to clients.
void shell_clients_emit(struct shell *s, const struct core_out *out);

// ---- groups (shell_groups.c) -------------------------------------------------------------------

void shell_groups_handle(
    struct shell *s, uint64_t peer, char kind, const void *data, size_t n, uint64_t now_us);
void shell_groups_send_plan(struct shell *s, const struct core_out *out);
void shell_groups_drop(struct shell *s, uint32_t group, bool tell_core, uint64_t now_us);
// Drops groups that have been silent too long.
void shell_groups_tick(struct shell *s, uint64_t now_us);
void shell_groups_shutdown(struct shell *s);

// ---- tokenizing (shell_tokenize.c) -------------------------------------------------------------

// Starts the thread; it ends when the context is terminated.
enum status shell_tokenize_open(struct shell *s, struct error *err);
void shell_tokenize_send(struct shell *s, const struct core_out *out);
void shell_tokenize_receive(struct shell *s, uint64_t now_us);

#endif
