// SPDX-License-Identifier: Apache-2.0
// The distribution that a token is drawn from, in double and as plainly as possible: the order of
// docs/sampling.md, for the parameters of a JSON object with the names of
// tests/golden/sampling.json.
#ifndef PHALANX_TESTS_E2E_SAMPLER_ORACLE_H
#define PHALANX_TESTS_E2E_SAMPLER_ORACLE_H

#include "tests/test_support.h"

#include <jansson.h>

struct oracle_history {
    const uint32_t *ids; // prompt and output
    uint32_t n_prompt, n_output;
};

// Fills probs [v]. `nudge` moves every threshold of a filter by this share of itself, to see
// whether a token hangs on rounding.
void sampler_oracle(const json_t *params, const double *logits, uint32_t v,
    const struct oracle_history *h, double nudge, double *probs);

// The id at which the running sum exceeds u.
uint32_t sampler_oracle_draw(const double *probs, uint32_t v, double u);

#endif
