// SPDX-License-Identifier: Apache-2.0
// The C client library of Phalanx: connects to a coordinator, submits requests and delivers their
// tokens exactly once and in order, whatever happens to connections and workers in between.
//
//   struct phalanx_client *c;
//   phalanx_client_open(&(struct phalanx_client_options){.endpoint = "ipc:///..."}, &c, &err);
//   Phalanx__Submit submit = PHALANX__SUBMIT__INIT;
//   submit.model = "demo"; ... fields of proto/client.proto ...
//   phalanx_client_submit(c, &submit, &request, &err);
//   while (phalanx_client_next(c, -1, &event, &err) == STATUS_OK && event.kind != ...ENDED) ...
//   phalanx_client_close(c);
//
// The library retries while the server is busy, repeats what was lost, drops what comes twice, and
// closes a request once it has ended. A coordinator that was restarted and has no memory of a
// request is given it again; since every request carries a seed (one is drawn here where the caller
// gives none), the same tokens come again, are compared with those delivered, and the caller sees
// one stream. One thread uses a client at a time; several clients may live in one process. Nothing
// here prints or exits.
#ifndef PHALANX_CLIENT_PHALANX_CLIENT_H
#define PHALANX_CLIENT_PHALANX_CLIENT_H

#include "base/status.h"
#include "proto/client.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

struct phalanx_client;

struct phalanx_client_options {
    const char *endpoint;   // "ipc://PATH" or "tcp://HOST:PORT"; NULL: the user's default
    const char *server_key; // CURVE public key of the server, 40 characters of Z85; NULL: no CURVE
    const char *public_key; // own key pair, Z85; NULL with server_key: a fresh one, which only a
    const char *secret_key; // server knows that is told of it
    uint32_t connect_timeout_ms; // without any answer for so long a call fails; 0: 10,000
    uint32_t patience_ms; // the same while a request that was accepted is open: its server may have
                          // to start again; 0: 60,000; at least connect_timeout_ms
};

enum phalanx_event_kind {
    PHALANX_EVENT_ACCEPTED, // seed and text are set
    PHALANX_EVENT_PROMPT,   // one prompt token's log-probability (token, offset)
    PHALANX_EVENT_TOKEN,    // one token (token, offset, index)
    PHALANX_EVENT_FINISH,   // one sample has ended (finish, index)
    PHALANX_EVENT_ENDED,    // the request is over, nothing follows
    PHALANX_EVENT_REFUSED,  // not accepted, or (MISMATCH) cannot be continued; status and reason;
                            // nothing follows
    PHALANX_EVENT_COUNT
};

struct phalanx_event {
    enum phalanx_event_kind kind;
    uint64_t request; // number that phalanx_client_submit returned
    uint32_t index, offset, attempt;
    uint64_t seed;
    bool text;                     // tokens have text; false: the model has no tokenizer
    const Phalanx__Token *token;   // until the next call
    const Phalanx__Finish *finish; // until the next call
    enum status status;
    const char *reason; // until the next call
};

// Connects (ZeroMQ does it in the background: a server that is not there shows as STATUS_TIMEOUT
// of later calls). The options are copied.
enum status phalanx_client_open(
    const struct phalanx_client_options *options, struct phalanx_client **out, struct error *err);
void phalanx_client_close(struct phalanx_client *c);
// The endpoint in use.
const char *phalanx_client_endpoint(const struct phalanx_client *c);

// The default endpoint of this user; one ipc:// path. Writes at most n bytes, zero-terminated.
void phalanx_client_default_endpoint(char *text, size_t n);

// Sends a request. The message is copied; in the copy a missing request_id is filled in with random
// bytes, and a missing seed is drawn (53 bits). `*request` numbers the request for events and calls
// below.
enum status phalanx_client_submit(
    struct phalanx_client *c, const Phalanx__Submit *submit, uint64_t *request, struct error *err);

// The next event of any request, waiting at most timeout_ms (-1: as long as it takes; the wait
// still ends with STATUS_TIMEOUT when the server does not answer at all for connect_timeout_ms, or
// patience_ms once it has accepted a request that is still open).
// STATUS_AGAIN: nothing came within timeout_ms. STATUS_NOT_FOUND: no request is open.
// STATUS_DENIED: the keys do not fit. STATUS_MISMATCH: what listens there is no server of ours.
enum status phalanx_client_next(
    struct phalanx_client *c, int timeout_ms, struct phalanx_event *event, struct error *err);

// Asks for a request to end; its FINISH and ENDED events still come.
enum status phalanx_client_cancel(struct phalanx_client *c, uint64_t request, struct error *err);

// Asks what is served; waits at most timeout_ms. The answer lives until the next call.
enum status phalanx_client_models(
    struct phalanx_client *c, int timeout_ms, const Phalanx__Models **out, struct error *err);

// Asks the server to drain and stop; returns when it has agreed.
enum status phalanx_client_stop(struct phalanx_client *c, int timeout_ms, struct error *err);

#endif
