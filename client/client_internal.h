// SPDX-License-Identifier: Apache-2.0
// What the files of the client library share. client_socket.c connects, sends and receives;
// client_stream.c turns messages into events; phalanx_client.c is what callers see.
#ifndef PHALANX_CLIENT_CLIENT_INTERNAL_H
#define PHALANX_CLIENT_CLIENT_INTERNAL_H

#include "base/arena.h"
#include "base/buf.h"
#include "client/phalanx_client.h"
#include "proto/limits.h"
#include "proto/validate.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    CLIENT_CONNECT_TIMEOUT_MS = 10000,
    CLIENT_PATIENCE_MS = 60000,
    CLIENT_NUDGE_MS = 1000, // silence after which a request is asked about
    CLIENT_BUSY_DEFAULT_MS = 100,
    CLIENT_RECONNECT_MAX_MS = 1000,
    CLIENT_HANDSHAKES_FAILED_MAX = 3, // in a row without a reason; a server that restarts fails one
};

// What is known of one sample. `seen` is behind `next` only while a server that had forgotten the
// request computes it once more: those tokens must be the ones that were delivered.
struct client_sample {
    uint32_t next;            // tokens delivered
    uint32_t seen;            // tokens that the server has sent since the last SUBMIT
    uint64_t hash, hash_seen; // of the ids delivered, of those seen again
    bool finished;
};

enum client_state {
    CLIENT_SUBMITTED, // sent, no answer yet
    CLIENT_BUSY,      // to be sent again at retry_us
    CLIENT_ACCEPTED,
};

struct client_request {
    struct client_request *next;
    uint64_t number;
    uint8_t id[REQUEST_ID_BYTES];
    char tenant[LIMIT_TENANT_BYTES + 1];
    struct buf message; // packed ClientMessage with the SUBMIT, for repetition
    enum client_state state;
    uint64_t heard_us, nudged_us;
    uint64_t retry_us; // when BUSY lets it come back, the last time; 0: never
    uint32_t n_samples, n_finished, prompt_next, credit_window, credit_sent;
    bool accepted_told, cancelled, scores;
    struct client_sample sample[LIMIT_SAMPLES];
};

struct phalanx_client {
    void *context, *socket, *monitor;
    char endpoint[256];
    bool curve;
    uint32_t connect_timeout_ms, patience_ms;
    uint32_t handshakes_failed;
    uint64_t heard_us; // of the server
    uint64_t next_number;
    struct client_request *requests;
    struct arena arena; // the message being delivered
    const Phalanx__ServerMessage *message;
    struct client_request *at; // the request it belongs to
    size_t position;           // next token of it
    bool closing;              // the request at hand ends with this message
    struct buf out;
};

// ---- client_socket.c ---------------------------------------------------------------------------

enum status client_socket_open(
    struct phalanx_client *c, const struct phalanx_client_options *o, struct error *err);
void client_socket_close(struct phalanx_client *c);

// Packed bytes of a ClientMessage. Never blocks: what cannot be sent is lost and asked for again.
enum status client_socket_send(
    struct phalanx_client *c, const void *data, size_t n, struct error *err);
enum status client_socket_send_message(
    struct phalanx_client *c, Phalanx__ClientMessage *m, struct error *err);

// Receives one message into c->message; AGAIN when none comes within timeout_ms. DENIED, MISMATCH
// or PEER_GONE when the server and this client cannot agree on a connection.
enum status client_socket_receive(struct phalanx_client *c, int timeout_ms, struct error *err);

// ---- client_stream.c ---------------------------------------------------------------------------

void client_stream_free(struct phalanx_client *c, struct client_request *r);
enum status client_stream_cancel(
    struct phalanx_client *c, struct client_request *r, struct error *err);
// Finds the request that the message just received is about, or forgets the message.
void client_stream_begin(struct phalanx_client *c);
// The next event of the message at hand; false when it holds no more.
bool client_stream_next(struct phalanx_client *c, struct phalanx_event *event);
// Until when the server may stay silent: a request that it accepted gives it longer, and while one
// waits because it was BUSY nothing is asked.
uint64_t client_stream_patience(const struct phalanx_client *c);
// Repeats what may have been lost; returns how many milliseconds to wait for the next thing to do.
int client_stream_tend(struct phalanx_client *c, uint64_t now_us);

#endif
