// SPDX-License-Identifier: Apache-2.0
// What another implementation computed for a model directory: golden.safetensors with whole rows of
// logits, or golden.json with the likeliest tokens of each step.
#ifndef PHALANX_TESTS_WORKER_GOLDEN_H
#define PHALANX_TESTS_WORKER_GOLDEN_H

#include "proto/plan.h"

enum { GOLDEN_PROMPTS_MAX = 16, GOLDEN_IDS_MAX = 1024, GOLDEN_TOPS = 5 };

struct golden_prompt {
    uint32_t ids[GOLDEN_IDS_MAX], n_ids;
    uint32_t greedy[GOLDEN_IDS_MAX], n_greedy;
    double *logprobs; // [n_rows, vocab_size] of the last n_rows prompt positions, or NULL
    uint32_t n_rows;
    double *nll;                           // [n_ids - 1] of the prompt, or NULL
    double *greedy_logprob;                // [n_greedy] or NULL
    struct answer_top (*top)[GOLDEN_TOPS]; // [n_greedy] or NULL
};

struct golden {
    char dir[512];
    uint32_t vocab_size, max_model_len; // 0: not said
    uint32_t n_prompts;
    struct golden_prompt prompt[GOLDEN_PROMPTS_MAX];
};

// Fails the test where files are missing or malformed.
struct golden *golden_open(const char *dir);
void golden_close(struct golden *g);

// The log-probabilities [vocab_size] behind prompt position `row`, or NULL where there are none.
const double *golden_row(const struct golden *g, const struct golden_prompt *p, uint32_t row);

// The largest distance between what was got and what was expected; a NaN stays.
struct golden_worst {
    double error;
    uint32_t n;
};
void golden_compare(struct golden_worst *w, double got, double expected);

#endif
