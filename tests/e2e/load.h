// SPDX-License-Identifier: Apache-2.0
// Requests of a crowd for tests that disturb a server: of different lengths, every second one
// sampled with a seed, and their answers in peace, which must come again bit for bit.
#ifndef PHALANX_TESTS_E2E_LOAD_H
#define PHALANX_TESTS_E2E_LOAD_H

#include "tests/e2e/crowd.h"

enum { LOAD_MAX = 24, LOAD_PROMPT = 40, LOAD_OUTPUT = 400 };

struct load {
    int n; // up to LOAD_MAX
    uint32_t prompt[LOAD_MAX][LOAD_PROMPT];
    struct answer expected[LOAD_MAX];
};

// Prompts for the golden model that the tests disturb; `expected` is the caller's to fill.
void load_make(struct load *l, int n, unsigned seed);
void load_send(const struct load *l, struct crowd *w, struct answer *out);
// Lets every request come some tokens further, so that all are hit half-way.
void load_wait_under_way(const struct load *l, struct crowd *w, const struct answer *out);
void load_expect_same(const struct load *l, const struct answer *got);

// Sends a signal to one of a cluster's two ranks.
void load_signal_rank(const struct cluster *c, uint32_t rank, int number);

#endif
