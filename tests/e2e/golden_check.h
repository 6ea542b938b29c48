// SPDX-License-Identifier: Apache-2.0
// A model directory with goldens, served by real processes and asked through the command line:
// greedy tokens, every reported log-probability and every scored prompt token must be those that
// transformers computed.
#ifndef PHALANX_TESTS_E2E_GOLDEN_CHECK_H
#define PHALANX_TESTS_E2E_GOLDEN_CHECK_H

#include "tests/e2e/cluster.h"
#include "tests/worker/golden.h"

// Serves `dir` on `degree` ranks and checks every
// prompt; prints the worst distance of a log-probability.
void golden_check(const char *dir, const struct golden *g, const char *degree);

// The degrees that the model can be cut into, of 1 to 8; returns how many.
uint32_t golden_degrees(const char *dir, uint32_t out[8]);

#endif
