// SPDX-License-Identifier: Apache-2.0
// Step plans and answers from an enemy: the input is a plan or an answer whose sizes and hash are
// made right, so that the fuzzer reaches the checks behind them; what passes is walked.
#include "proto/plan.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const struct plan_limits limits = {.n_slots = 8,
    .step_tokens = 64,
    .context_tokens = 100,
    .vocab_size = 50,
    .n_kv_groups = 2,
    .block_tokens = 8,
    .n_blocks = {20, 10}};

static volatile uint64_t sink;

static void walk_plan(const struct plan_header *h)
{
    struct plan_cursor c = plan_seqs(h);
    struct plan_seq_view v;
    while (plan_next_seq(&c, &v)) {
        for (uint32_t i = 0; i < v.head->n_ids; i++)
            sink += v.ids[i];
        for (int g = 0; g < LIMIT_KV_GROUPS; g++)
            for (uint32_t i = 0; i < v.head->n_blocks[g]; i++)
                sink += v.blocks[g][i];
        if (!v.first)
            continue;
        for (uint32_t i = 0; i < v.first->params.n_stop_ids; i++)
            sink += v.stop_ids[i];
        for (uint32_t i = 0; i < v.first->params.n_logit_bias; i++)
            sink += v.bias[i].id;
    }
    for (uint32_t i = 0; i < h->n_releases; i++)
        sink += plan_releases(h)[i].slot;
    for (uint32_t i = 0; i < h->n_copies; i++)
        sink += plan_copies(h)[i].dst;
}

static void walk_answer(const struct answer_header *h)
{
    struct plan_cursor c = answer_seqs(h), results;
    const struct answer_seq *seq;
    const struct answer_result *r;
    const struct answer_top *top;
    while (answer_next_seq(&c, &seq, &results))
        while (answer_next_result(&results, &r, &top))
            for (uint32_t i = 0; i < r->n_top; i++)
                sink += top[i].id;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        return 0;
    memcpy(copy, data, n);
    plan_check(copy, n, &limits, NULL);
    if (n >= sizeof(struct plan_header)) {
        struct plan_header *h = (void *)copy;
        h->bytes = n;
        h->hash = plan_hash(h);
        if (plan_check(copy, n, &limits, NULL) == STATUS_OK)
            walk_plan(h);
        memcpy(copy, data, n);
    }
    if (n >= sizeof(struct answer_header)) {
        ((struct answer_header *)(void *)copy)->bytes = n;
        if (answer_check(copy, n, &limits, NULL) == STATUS_OK)
            walk_answer((void *)copy);
    }
    free(copy);
    return 0;
}
