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
// What a client may do follows from its key: the keys that are let in are read at start, and the
// loop answers ZeroMQ's question about each new connection (ZAP, RFC 27).
#ifndef PHALANX_COORDINATOR_SHELL_H
#define PHALANX_COORDINATOR_SHELL_H

#include "base/arena.h"
#include "base/buf.h"
#include "coordinator/core.h"
#include "coordinator/watch.h"
#include "model/arch.h"
#include "model/template.h"
#include "model/tokenizer.h"
#include "proto/certificate.h"
#include "proto/client.pb-c.h"
#include "proto/settings.h"
#include "proto/worker.pb-c.h"

enum { SHELL_REASON_BYTES = 512 };

enum shell_model_state { SHELL_LOADING, SHELL_READY, SHELL_FAILED };

struct shell_model {
    char name[LIMIT_MODEL_NAME_BYTES + 1];
    struct tokenizer *tokenizer;    // NULL: token ids only
    struct template_set *templates; // NULL: no conversations
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
    uint8_t boot_id[16];
    struct watch watch;
};

// A client's key that is let in. The name is the tenant of all that it asks for.
struct shell_key {
    uint8_t public_key[32];
    char name[CERTIFICATE_NAME_BYTES + 1];
    bool admin;
};

// Who sent the message at hand.
struct shell_caller {
    uint64_t peer;
    const char *key_name; // of its CURVE key; NULL: it came without one, from this machine
    bool may_stop;
};

enum { SHELL_PEERS_GONE_MAX = 64 };

struct shell {
    struct settings settings;
    struct core *core;
    uint64_t epoch;
    void *context, *clients, *workers, *tokenize;
    void *zap; // answers ZeroMQ's questions about keys; NULL without CURVE
    uint32_t n_keys;
    struct shell_key *key;
    uint32_t n_models;
    struct shell_model model[LIMIT_MODELS];
    struct shell_group group[LIMIT_GROUPS];
    uint32_t n_tenants;
    char tenant[LIMIT_TENANTS][LIMIT_TENANT_BYTES + 1];
    struct request request; // the one being submitted
    struct arena in;        // the message being handled
    struct arena out;       // the message being built
    struct buf packed;
    struct buf answer;          // of a group, copied to be 8-byte aligned
    struct shell_caller caller; // of the message at hand
    bool resuming;              // the event at hand is a RESUME
    uint64_t dropped;           // messages that were not understood
    uint32_t n_peers_gone;      // found while sending, told to the core after its step
    uint64_t peers_gone[SHELL_PEERS_GONE_MAX];
    bool stopping, drained, gave_up;
    bool orphaned; // serve has died
    uint64_t stop_us;
    uint64_t ranks_us; // last sign of ranks that serve or load
};

// ---- sockets (shell.c) -------------------------------------------------------------------------

// Sends {routing id, first, second} without waiting. PEER_GONE when nobody is there, BUSY when the
// peer does not read.
enum status shell_send(
    void *socket, uint64_t peer, const void *first, size_t n_first, const void *body, size_t n);

// Takes one message {routing id, first, body} from `socket` and hands it on; false when none is
// there. A message of another shape is answered with a sentence, or dropped where a worker sent it.
bool shell_receive(struct shell *s, void *socket, bool from_workers);

// Opens and binds the sockets of clients and workers, with CURVE where the settings say so.
enum status shell_open(struct shell *s, struct error *err);
void shell_close(struct shell *s);

// ---- keys (shell_keys.c) -----------------------------------------------------------------------

// Reads the keys that are let in, and starts to answer for them. Call before any bind.
enum status shell_keys_open(struct shell *s, struct error *err);
// Makes sockets bound from now on speak CURVE with the server's key.
enum status shell_keys_secure(struct shell *s, void *socket, struct error *err);
// Answers what ZeroMQ asks about new connections.
void shell_keys_answer(struct shell *s);
// The key of that name; NULL if there is none.
const struct shell_key *shell_keys_find(const struct shell *s, const char *name);

// ---- clients (shell_clients.c) -----------------------------------------------------------------

// Handles one message of s->caller.
void shell_clients_handle(struct shell *s, const void *data, size_t n, uint64_t now_us);

// ---- answers to clients (shell_reply.c) --------------------------------------------------------

// Sends `m` to a client; one that is gone is remembered for shell_reply_tick.
void shell_reply(struct shell *s, uint64_t peer, Phalanx__ServerMessage *m);
// REFUSED; `id` is NULL where the message named no request.
void shell_reply_refuse(
    struct shell *s, uint64_t peer, const uint8_t *id, enum status status, const char *reason);
// The core's outputs that go to clients.
void shell_reply_emit(struct shell *s, const struct core_out *out);
// Tells the core of connections that turned out to be gone.
void shell_reply_tick(struct shell *s, uint64_t now_us);

// ---- groups (shell_groups.c) -------------------------------------------------------------------

void shell_groups_handle(
    struct shell *s, uint64_t peer, char kind, const void *data, size_t n, uint64_t now_us);
void shell_groups_send_plan(struct shell *s, const struct core_out *out);
// The core does not want this group any more: what it said is invalid.
void shell_groups_bad(struct shell *s, uint32_t group, const char *sentence);
// Drops groups that hang, and tells the supervisor to end them.
void shell_groups_tick(struct shell *s, uint64_t now_us);
void shell_groups_shutdown(struct shell *s);
// Ends all requests that are not done with an error.
void shell_groups_give_up(struct shell *s, const char *sentence, uint64_t now_us);

// ---- tokenizing (shell_tokenize.c) -------------------------------------------------------------

// Starts the thread; it ends when the context is terminated.
enum status shell_tokenize_open(struct shell *s, struct error *err);
void shell_tokenize_send(struct shell *s, const struct core_out *out);
void shell_tokenize_receive(struct shell *s, uint64_t now_us);

#endif
