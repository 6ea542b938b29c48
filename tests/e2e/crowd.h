// SPDX-License-Identifier: Apache-2.0
// Many requests at once from one client, through the client library, each collected into a
// `struct answer` that compares with what the command line prints. Fails the test on errors.
#ifndef PHALANX_TESTS_E2E_CROWD_H
#define PHALANX_TESTS_E2E_CROWD_H

#include "client/phalanx_client.h"
#include "tests/e2e/cluster.h"

enum { CROWD_MAX = 256 };

struct crowd {
    struct phalanx_client *client;
    uint64_t first; // number of the first request
    int n, n_ended;
    struct answer *answer[CROWD_MAX]; // of the caller; of sample 0 where there are several
};

void crowd_open(struct crowd *w, const struct cluster *c);
// SUBMIT with the cluster's model, ids as the prompt, max_tokens and ignore_eos filled in; greedy.
Phalanx__Submit crowd_request(const uint32_t *ids, size_t n_ids, uint32_t max_tokens);
// Sends it; `out` is filled while crowd_wait() runs.
void crowd_send(struct crowd *w, const Phalanx__Submit *submit, struct answer *out);
// Handles events until at most `left` requests have not ended.
void crowd_wait(struct crowd *w, int left);
// Handles what has come; returns how many requests have not ended.
int crowd_poll(struct crowd *w);
void crowd_close(struct crowd *w);

#endif
