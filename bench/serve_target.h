// SPDX-License-Identifier: Apache-2.0
// A server under load, as serve_bench sees it: connections on which one request at a time runs.
// Two kinds: Phalanx's own protocol, and HTTP with server-sent events as OpenAI's completions have
// them, for peers. A connection belongs to one thread.
#ifndef PHALANX_BENCH_SERVE_TARGET_H
#define PHALANX_BENCH_SERVE_TARGET_H

#include "base/status.h"

#include <stdint.h>

struct target_request {
    const uint32_t *ids; // [n_ids]
    uint32_t n_ids, max_tokens;
};

// When the request left, when its first and its last token came, and how many there were.
struct target_times {
    uint64_t sent_us, first_us, last_us;
    uint32_t n_tokens;
};

struct target {
    const char *name;
    enum status (*open)(
        const char *address, const char *model, void **connection, struct error *err);
    void (*close)(void *connection);
    // Runs one greedy request to its end, never ending before max_tokens.
    enum status (*run)(void *connection, const struct target_request *request,
        struct target_times *times, struct error *err);
};

extern const struct target target_phalanx; // address: the endpoint, NULL for the user's own
extern const struct target target_http;    // address: HOST:PORT

#endif
