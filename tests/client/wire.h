// SPDX-License-Identifier: Apache-2.0
// A client that sends whatever it likes, and what the server must answer. Each expectation that
// holds counts as a row of malformed_rows.
#ifndef PHALANX_TESTS_CLIENT_WIRE_H
#define PHALANX_TESTS_CLIENT_WIRE_H

#include "tests/e2e/cluster.h"

#include "base/arena.h"
#include "proto/client.pb-c.h"

enum { WIRE_ANSWER_MS = 10000 };

// One raw DEALER connection to the server under test.
struct wire {
    void *context, *socket;
    struct arena arena;
    const Phalanx__ServerMessage *m; // the last one received
    uint64_t n_pings;
};

void wire_open(struct wire *w, const char *routing_id);
void wire_close(struct wire *w);
// One frame of a message.
void wire_frame(struct wire *w, const void *data, size_t n, bool more);
// An empty frame and this body.
void wire_send(struct wire *w, const void *data, size_t n);
void wire_send_message(struct wire *w, const Phalanx__ClientMessage *m);
// The next message; NULL when none comes for WIRE_ANSWER_MS.
const Phalanx__ServerMessage *wire_receive(struct wire *w);

// The server must refuse what was sent last, with this status and `part` in its sentence.
void wire_expect_refused(struct wire *w, const char *row, const char *status, const char *part);
// The server must not answer what was sent last; it still answers PING.
void wire_expect_silence(struct wire *w, const char *row);
// A good request must be served.
void wire_expect_service(struct wire *w);
// Reads until FINISH; returns its reason in static storage. Other answers fail the test.
const char *wire_expect_finish(struct wire *w, const char *row, const char **sentence);

// A SUBMIT that is all right, with an id of its own: callers change a field of it.
struct wire_request {
    Phalanx__Submit submit;
    uint8_t id[16];
    uint32_t prompt[2];
};
void wire_good(struct wire_request *g);
void wire_submit(struct wire *w, Phalanx__Submit *submit);

#endif
