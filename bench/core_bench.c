// SPDX-License-Identifier: Apache-2.0
// What the coordinator's core costs per step, without a model:
//   core_bench [SEQUENCES [STEPS]]
// A fake group answers each plan at once. A row is the time from an answer to the next plan (the
// answer checked and applied, tokens journaled and sent with their text, the plan built and handed
// over), as percentiles over the steps; clients and the group are not counted.
#include "base/check.h"
#include "base/config.h"
#include "coordinator/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SEQUENCES = 256,
    STEPS = 4000,
    WARM_STEPS = 200,
    VOCAB = 32000,
    CONTEXT = 8192,
    BLOCK_TOKENS = 16,
    BUDGET = 2048,
};

struct workload {
    const char *name;
    uint32_t prompt, output; // output 0: as long as the run
    uint32_t n_stops, n_logprobs, n_kv_groups, window, plans_in_flight;
};

static const struct workload workloads[] = {
    {"decode", .prompt = 128, .n_kv_groups = 1, .plans_in_flight = 1},
    {"decode, 2 plans in flight", .prompt = 128, .n_kv_groups = 1, .plans_in_flight = 2},
    {"decode, 2 stop strings", .prompt = 128, .n_stops = 2, .n_kv_groups = 1, .plans_in_flight = 1},
    {"decode, 5 logprobs", .prompt = 128, .n_logprobs = 5, .n_kv_groups = 1, .plans_in_flight = 1},
    {"decode, sliding window", .prompt = 128, .n_kv_groups = 2, .window = 512,
        .plans_in_flight = 1},
    {"requests of 64 + 64 tokens", .prompt = 64, .output = 64, .n_kv_groups = 1,
        .plans_in_flight = 1},
};

struct bench {
    const struct workload *work;
    struct core *core;
    uint32_t n_sequences;
    struct buf plans[LIMIT_PLANS_IN_FLIGHT], answer; // plans not answered, oldest first
    uint32_t n_plans;
    uint64_t now_us, n_requests, n_tokens, text_bytes, rng;
    uint8_t ended[LIMIT_SLOTS][REQUEST_ID_BYTES];
    uint32_t n_ended;
    uint32_t ids[CONTEXT];
    uint32_t length[LIMIT_SLOTS]; // ids of the sequence in a slot
    struct request request;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint32_t draw(struct bench *b, uint32_t n)
{
    b->rng = b->rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(b->rng >> 33) % n;
}

// ---- what the core is joined to -----------------------------------------------------------------

// Four bytes of text per token, as English has.
static void text_begin(const void *user, void *state, bool skip_special)
{
    (void)user, (void)state, (void)skip_special;
}

static void text_push(const void *user, void *state, uint32_t id, struct buf *out)
{
    static const char letters[] = "etaoinshrdlucmfw";
    char text[4] = {' ', letters[id % 16], letters[id / 16 % 16], letters[id / 256 % 16]};
    (void)user, (void)state;
    buf_append(out, text, sizeof text);
}

static void text_finish(const void *user, void *state, struct buf *out)
{
    (void)user, (void)state, (void)out;
}

static const struct text_decoder decoder = {
    .begin = text_begin, .push = text_push, .finish = text_finish};

static void emit(void *user, const struct core_out *out)
{
    struct bench *b = user;
    switch (out->type) {
    case CORE_OUT_PLAN:
        buf_clear(&b->plans[b->n_plans]);
        buf_append(&b->plans[b->n_plans++], out->plan.data, out->plan.n);
        break;
    case CORE_OUT_TOKENS:
        b->n_tokens += out->tokens.n;
        b->text_bytes += out->tokens.token->n_text;
        break;
    case CORE_OUT_FINISH:
        memcpy(b->ended[b->n_ended++], out->id, REQUEST_ID_BYTES);
        break;
    case CORE_OUT_BUSY:
    case CORE_OUT_REFUSED:
    case CORE_OUT_GROUP_BAD:
        check(false);
        break;
    default:
        break;
    }
}

static void step(struct bench *b, struct core_in *in)
{
    in->now_us = b->now_us;
    core_step(b->core, in);
}

static void submit(struct bench *b)
{
    static const char *const stops[] = {"\n\n", "### end"};
    struct request *q = &b->request;
    memset(q, 0, offsetof(struct request, stop));
    uint64_t number = ++b->n_requests;
    memcpy(q->id, &number, sizeof number);
    for (uint32_t i = 0; i < b->work->prompt; i++)
        b->ids[i] = draw(b, VOCAB);
    q->prompt_ids = b->ids;
    q->n_prompt_ids = b->work->prompt;
    q->prompt_logprobs = -1;
    q->n = 1;
    q->max_tokens = b->work->output ? b->work->output : CONTEXT;
    q->logprobs = b->work->n_logprobs;
    q->n_stop = b->work->n_stops;
    for (uint32_t i = 0; i < q->n_stop; i++)
        q->stop[i] = (struct request_text){(const uint8_t *)stops[i], strlen(stops[i])};
    q->cache_salt = (struct request_text){0};
    struct sampling_params params = {.seed = number, .temperature = 1, .top_p = 1};
    params.n_logprobs = q->logprobs;
    struct core_in in = {.type = CORE_IN_SUBMIT};
    in.submit = (struct core_in_submit){
        .client = {.peer = 1, .tenant = 1}, .request = q, .params = &params};
    step(b, &in);
}

// Clients that have got all close, and others come.
static void replace_ended(struct bench *b)
{
    uint32_t n = b->n_ended;
    b->n_ended = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct core_in in = {.type = CORE_IN_CLOSE};
        in.client = (struct core_in_client){.peer = 1, .tenant = 1};
        memcpy(in.client.id, b->ended[i], REQUEST_ID_BYTES);
        step(b, &in);
    }
    for (uint32_t i = 0; i < n; i++)
        submit(b);
}

// The oldest plan's answer: a token for each sequence that wants one.
static void make_answer(struct bench *b)
{
    const struct plan_header *plan = (const void *)b->plans[0].data;
    answer_begin(&b->answer, plan);
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view view;
    struct answer_top top[LIMIT_LOGPROBS] = {{0}};
    while (plan_next_seq(&c, &view)) {
        answer_add_seq(&b->answer, view.head, ANSWER_SEQ_OK);
        uint32_t position = view.head->first_position + view.head->n_tokens;
        struct answer_result r = {.kind = ANSWER_SAMPLED,
            .position = position,
            .id = draw(b, VOCAB),
            .logprob = -1,
            .rank = 1,
            .n_top = b->work->n_logprobs};
        if (view.head->flags & PLAN_SEQ_SAMPLE)
            answer_add_result(&b->answer, &r, top);
    }
    answer_end(&b->answer, 1, 1, 1, 3);
    struct buf first = b->plans[0];
    b->plans[0] = b->plans[1];
    b->plans[1] = first;
    b->n_plans--;
}

// ---- measuring ----------------------------------------------------------------------------------

static void set_up(struct bench *b)
{
    struct core_config config = {.emit = emit,
        .user = b,
        .epoch = 1,
        .key = {1, 2},
        .requests_max = 2 * LIMIT_SLOTS,
        .models_max = 1,
        .groups_max = 1,
        .tenants_max = 4,
        .context_tokens_max = CONTEXT,
        .log_bytes = (size_t)2 << 30};
    struct error err = {0};
    check(core_create(&config, &b->core, &err) == STATUS_OK);
    struct core_model model = {.vocab_size = VOCAB,
        .context_tokens = CONTEXT,
        .n_end_ids = 1,
        .end_ids = {VOCAB - 1},
        .decoder = &decoder,
        .max_num_batched_tokens = BUDGET,
        .plans_in_flight = b->work->plans_in_flight};
    struct core_in in = {.type = CORE_IN_MODEL_ADD};
    in.model_add.model = &model;
    step(b, &in);
    in = (struct core_in){.type = CORE_IN_GROUP_READY};
    in.group.limits = (struct plan_limits){.n_slots = b->n_sequences,
        .step_tokens = BUDGET,
        .context_tokens = CONTEXT,
        .vocab_size = VOCAB,
        .n_kv_groups = b->work->n_kv_groups,
        .block_tokens = BLOCK_TOKENS};
    for (uint32_t k = 0; k < b->work->n_kv_groups; k++)
        in.group.limits.n_blocks[k] = b->n_sequences * (CONTEXT / BLOCK_TOKENS + 1);
    in.group.window[b->work->n_kv_groups - 1] = b->work->window;
    step(b, &in);
    for (uint32_t i = 0; i < LIMIT_PLANS_IN_FLIGHT; i++)
        buf_init(&b->plans[i], LIMIT_PLAN_BYTES);
    buf_init(&b->answer, LIMIT_PLAN_BYTES);
    for (uint32_t i = 0; i < b->n_sequences; i++)
        submit(b);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double percentile(const uint64_t *sorted, uint32_t n, double p)
{
    return (double)sorted[(uint32_t)(p * (n - 1))] / 1000;
}

static void measure(const struct workload *work, uint32_t n_sequences, uint32_t n_steps)
{
    struct bench *b = calloc(1, sizeof *b);
    uint64_t *ns = calloc(n_steps, sizeof *ns);
    check(b && ns);
    b->work = work;
    b->n_sequences = n_sequences;
    set_up(b);
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < WARM_STEPS + n_steps; i++) {
        if (i == WARM_STEPS)
            tokens = b->n_tokens;
        make_answer(b);
        struct core_in in = {.type = CORE_IN_ANSWER};
        in.answer.data = b->answer.data;
        in.answer.n = b->answer.size;
        b->now_us += 1000;
        uint64_t begin = now_ns();
        step(b, &in);
        replace_ended(b);
        if (i >= WARM_STEPS)
            ns[i - WARM_STEPS] = now_ns() - begin;
    }
    tokens = b->n_tokens - tokens;
    qsort(ns, n_steps, sizeof *ns, compare);
    printf("%-28s %8.1f %8.1f %8.1f %8.1f %10.1f\n", work->name, percentile(ns, n_steps, 0.5),
        percentile(ns, n_steps, 0.9), percentile(ns, n_steps, 0.99), percentile(ns, n_steps, 1),
        (double)tokens / n_steps);
    core_destroy(b->core);
    for (uint32_t i = 0; i < LIMIT_PLANS_IN_FLIGHT; i++)
        buf_deinit(&b->plans[i]);
    buf_deinit(&b->answer);
    free(ns);
    free(b);
}

int main(int argc, char **argv)
{
    int64_t n_sequences = SEQUENCES, n_steps = STEPS;
    if ((argc > 1 && !config_int_parse(argv[1], &n_sequences)) ||
        (argc > 2 && !config_int_parse(argv[2], &n_steps)) || n_sequences < 1 ||
        n_sequences > LIMIT_SLOTS || n_steps < 1 || n_steps > 7000) {
        fprintf(stderr, "usage: core_bench [SEQUENCES up to %d [STEPS up to 7000]]\n", LIMIT_SLOTS);
        return 2;
    }
    printf("%lld sequences, %lld steps   p50 us   p90 us   p99 us   max us tokens/step\n",
        (long long)n_sequences, (long long)n_steps);
    for (size_t i = 0; i < COUNT_OF(workloads); i++)
        measure(&workloads[i], (uint32_t)n_sequences, (uint32_t)n_steps);
    return 0;
}
