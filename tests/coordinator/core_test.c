// SPDX-License-Identifier: Apache-2.0
// Short stories of the core, one rule each; core_sim tests them all together and at random.
#include "coordinator/core.h"
#include "tests/test_support.h"

#include <stdlib.h>
#include <string.h>

enum { GROUPS = 2, BLOCK_TOKENS = 4, BLOCKS = 32, CONTEXT = 64, VOCAB = 100, HEARD_MAX = 200 };

struct heard {
    enum core_out_type type;
    uint8_t request; // first byte of its id
    uint32_t sample, offset, n, retry_after_ms;
    enum core_reason reason;
};

struct story {
    struct core *core;
    struct buf plan[GROUPS]; // the last one
    struct heard heard[HEARD_MAX];
    uint32_t n_heard;
    struct request request;
};

static void emit(void *user, const struct core_out *out)
{
    struct story *s = user;
    if (out->type == CORE_OUT_PLAN) {
        buf_clear(&s->plan[out->plan.group]);
        buf_append(&s->plan[out->plan.group], out->plan.data, out->plan.n);
        return;
    }
    if (out->type == CORE_OUT_JOURNAL)
        return;
    assert_true(s->n_heard < HEARD_MAX);
    struct heard *h = &s->heard[s->n_heard++];
    *h = (struct heard){.type = out->type, .request = out->id ? out->id[0] : 0};
    if (out->type == CORE_OUT_TOKENS) {
        h->sample = out->tokens.sample;
        h->offset = out->tokens.offset;
        h->n = out->tokens.n;
    } else if (out->type == CORE_OUT_FINISH) {
        h->sample = out->finish.sample;
        h->reason = out->finish.reason;
    } else if (out->type == CORE_OUT_BUSY) {
        h->retry_after_ms = out->retry_after_ms;
    }
}

// ---- events -------------------------------------------------------------------------------------

static void step(struct story *s, struct core_in *in)
{
    char why[200] = "";
    s->n_heard = 0;
    core_step(s->core, in);
    if (!core_check(s->core, why, sizeof why))
        fail_msg("%s", why);
}

static void begin(struct story *s, struct core_model model)
{
    memset(s, 0, sizeof *s);
    struct core_config config = {.emit = emit,
        .user = s,
        .epoch = 1,
        .requests_max = 8,
        .models_max = 1,
        .groups_max = GROUPS,
        .tenants_max = 1,
        .context_tokens_max = CONTEXT,
        .log_bytes = 1 << 18,
        .group_bytes = 1 << 18};
    struct error err = {0};
    assert_int_equal(core_create(&config, &s->core, &err), STATUS_OK);
    for (uint32_t i = 0; i < GROUPS; i++)
        buf_init(&s->plan[i], 1 << 20);
    model.vocab_size = VOCAB;
    model.context_tokens = CONTEXT;
    struct core_in in = {.type = CORE_IN_MODEL_ADD};
    in.model_add.model = &model;
    step(s, &in);
}

static void end(struct story *s)
{
    core_destroy(s->core);
    for (uint32_t i = 0; i < GROUPS; i++)
        buf_deinit(&s->plan[i]);
}

static void come(struct story *s, uint32_t group, uint32_t n_slots, uint32_t n_blocks)
{
    struct core_in in = {.type = CORE_IN_GROUP_READY};
    in.group = (struct core_in_group){.group = group,
        .limits = {.n_slots = n_slots,
            .step_tokens = 64,
            .context_tokens = CONTEXT,
            .vocab_size = VOCAB,
            .n_kv_groups = 1,
            .block_tokens = BLOCK_TOKENS,
            .n_blocks = {n_blocks}}};
    step(s, &in);
}

static void ready(struct story *s, uint32_t group)
{
    come(s, group, 4, BLOCKS);
}

static void die(struct story *s, uint32_t group)
{
    struct core_in in = {.type = CORE_IN_GROUP_GONE};
    in.group.group = group;
    step(s, &in);
}

// `body` tells two requests under one id apart.
static void submit(struct story *s, uint8_t id, uint32_t n, uint32_t max_tokens, uint64_t body)
{
    static const uint32_t prompt[] = {5, 6, 7, 8, 9};
    struct request *q = &s->request;
    memset(q, 0, sizeof *q);
    q->id[0] = id;
    q->body.lo = body;
    q->prompt_ids = prompt;
    q->n_prompt_ids = 5;
    q->prompt_logprobs = -1;
    q->n = n;
    q->max_tokens = max_tokens;
    struct sampling_params params = {.seed = id, .temperature = 1};
    struct core_in in = {.type = CORE_IN_SUBMIT};
    in.submit = (struct core_in_submit){.client = {.peer = 1}, .request = q, .params = &params};
    step(s, &in);
}

static void client_says(struct story *s, enum core_in_type type, uint8_t id)
{
    struct core_in in = {.type = type};
    in.client = (struct core_in_client){.peer = 1, .id = {id}};
    step(s, &in);
}

// The group answers its plan with a token for each sequence that samples.
static void answer(struct story *s, uint32_t group)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    const struct plan_header *plan = (const void *)s->plan[group].data;
    answer_begin(&b, plan);
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view view;
    while (plan_next_seq(&c, &view)) {
        answer_add_seq(&b, view.head, ANSWER_SEQ_OK);
        struct answer_result r = {.kind = ANSWER_SAMPLED,
            .position = view.head->first_position + view.head->n_tokens,
            .id = 50,
            .rank = 1};
        if (view.head->flags & PLAN_SEQ_SAMPLE)
            answer_add_result(&b, &r, NULL);
    }
    answer_end(&b, 1, 1, 1, 3);
    struct core_in in = {.type = CORE_IN_ANSWER};
    in.answer.group = group;
    in.answer.data = b.data;
    in.answer.n = b.size;
    step(s, &in);
    buf_deinit(&b);
}

// ---- what was heard -----------------------------------------------------------------------------

static const struct heard *hear(const struct story *s, enum core_out_type type, uint8_t request)
{
    for (uint32_t i = 0; i < s->n_heard; i++)
        if (s->heard[i].type == type && s->heard[i].request == request)
            return &s->heard[i];
    return NULL;
}

// The last plan has these sequences, by their number.
static void expect_plan(const struct story *s, uint32_t group, uint32_t n_seqs, uint32_t n_rows)
{
    const struct plan_header *plan = (const void *)s->plan[group].data;
    assert_int_equal(plan->n_seqs, n_seqs);
    assert_int_equal(plan->n_rows, n_rows);
}

static void expect_blocks_free(const struct story *s, uint64_t n)
{
    struct core_model_stats stats;
    core_model_stats(s->core, 0, &stats);
    assert_int_equal(stats.kv_blocks_free, n);
}

// ---- stories ------------------------------------------------------------------------------------

static void from_submit_to_closed(void **state)
{
    (void)state;
    struct story s;
    begin(&s, (struct core_model){0});
    ready(&s, 0);
    submit(&s, 'A', 1, 2, 1);
    assert_non_null(hear(&s, CORE_OUT_ACCEPTED, 'A'));
    expect_plan(&s, 0, 1, 5); // the prompt
    expect_blocks_free(&s, BLOCKS - 2);
    answer(&s, 0);
    assert_int_equal(hear(&s, CORE_OUT_TOKENS, 'A')->offset, 0);
    expect_plan(&s, 0, 1, 1); // the token
    answer(&s, 0);
    assert_int_equal(hear(&s, CORE_OUT_TOKENS, 'A')->offset, 1);
    assert_int_equal(hear(&s, CORE_OUT_FINISH, 'A')->reason, CORE_LENGTH);
    expect_blocks_free(&s, BLOCKS);
    client_says(&s, CORE_IN_CLOSE, 'A');
    assert_non_null(hear(&s, CORE_OUT_CLOSED, 'A'));
    end(&s);
}

static void a_full_queue_says_when_to_come_back(void **state)
{
    (void)state;
    struct story s;
    begin(&s, (struct core_model){.waiting_requests_max = 1});
    submit(&s, 'A', 1, 2, 1);
    assert_non_null(hear(&s, CORE_OUT_ACCEPTED, 'A'));
    submit(&s, 'B', 1, 2, 1);
    assert_null(hear(&s, CORE_OUT_ACCEPTED, 'B'));
    assert_true(hear(&s, CORE_OUT_BUSY, 'B')->retry_after_ms > 0);
    ready(&s, 0); // A runs, so there is room
    submit(&s, 'B', 1, 2, 1);
    assert_non_null(hear(&s, CORE_OUT_ACCEPTED, 'B'));
    end(&s);
}

static void a_repeated_submit_reads_the_same_tokens(void **state)
{
    (void)state;
    struct story s;
    begin(&s, (struct core_model){0});
    ready(&s, 0);
    submit(&s, 'A', 1, 8, 1);
    answer(&s, 0);
    answer(&s, 0);
    submit(&s, 'A', 1, 8, 1);
    assert_non_null(hear(&s, CORE_OUT_ACCEPTED, 'A'));
    assert_int_equal(hear(&s, CORE_OUT_TOKENS, 'A')->offset, 0);
    assert_int_equal(hear(&s, CORE_OUT_TOKENS, 'A')->n, 2);
    submit(&s, 'A', 1, 8, 2); // not the same request
    assert_non_null(hear(&s, CORE_OUT_CONFLICT, 'A'));
    struct core_counters counters;
    core_counters(s.core, &counters);
    assert_int_equal(counters.accepted, 1);
    end(&s);
}

static void a_cancelled_request_frees_its_blocks_with_the_plan_in_flight(void **state)
{
    (void)state;
    struct story s;
    begin(&s, (struct core_model){0});
    ready(&s, 0);
    submit(&s, 'A', 1, 8, 1);
    client_says(&s, CORE_IN_CANCEL, 'A');
    assert_int_equal(hear(&s, CORE_OUT_FINISH, 'A')->reason, CORE_ABORT);
    expect_blocks_free(&s, BLOCKS - 2); // the worker may still write them
    answer(&s, 0);
    assert_null(hear(&s, CORE_OUT_TOKENS, 'A'));
    expect_blocks_free(&s, BLOCKS);
    end(&s);
}

static void a_death_costs_no_token(void **state)
{
    (void)state;
    struct story s;
    begin(&s, (struct core_model){0});
    ready(&s, 0);
    submit(&s, 'A', 1, 8, 1);
    answer(&s, 0);
    answer(&s, 0);
    die(&s, 0);
    assert_null(hear(&s, CORE_OUT_FINISH, 'A'));
    ready(&s, 0);
    expect_plan(&s, 0, 1, 7); // prompt and both tokens
    struct plan_cursor c = plan_seqs((const void *)s.plan[0].data);
    struct plan_seq_view view;
    assert_true(plan_next_seq(&c, &view));
    assert_int_equal(view.head->attempt, 2);
    assert_int_equal(view.first->prompt_length, 5);
    assert_int_equal(view.head->n_ids, 7);
    answer(&s, 0);
    assert_int_equal(hear(&s, CORE_OUT_TOKENS, 'A')->offset, 2);
    end(&s);
}

static void who_kills_twice_is_quarantined_and_others_go_on(void **state)
{
    (void)state;
    struct story s;
    begin(&s, (struct core_model){0});
    ready(&s, 0);
    submit(&s, 'A', 1, 8, 1);
    submit(&s, 'B', 1, 8, 1); // not in the plan that dies
    die(&s, 0);
    ready(&s, 0);
    expect_plan(&s, 0, 1, 5); // A alone
    die(&s, 0);
    assert_int_equal(hear(&s, CORE_OUT_FINISH, 'A')->reason, CORE_ERROR);
    assert_null(hear(&s, CORE_OUT_FINISH, 'B'));
    ready(&s, 0);
    answer(&s, 0);
    assert_int_equal(hear(&s, CORE_OUT_TOKENS, 'B')->offset, 0);
    end(&s);
}

// Two samples each of P, which is poisonous, and of I, which is not, run side by side on two
// copies. P kills both before anybody has heard of the first death; I must not pay for it.
static void an_innocent_neighbour_on_both_copies_survives(void **state)
{
    (void)state;
    struct story s;
    begin(&s, (struct core_model){.max_num_seqs = 2, .no_prefix_cache = true});
    ready(&s, 0);
    submit(&s, 'X', 1, 2, 1); // keeps a place until the others are where they shall be
    submit(&s, 'P', 2, 8, 1);
    submit(&s, 'I', 2, 8, 1);
    answer(&s, 0); // copy 0: X and P.0
    ready(&s, 1);  // copy 1: P.1 and I.0
    answer(&s, 0); // X is done; copy 0: P.0 and I.1
    expect_plan(&s, 0, 2, 1 + 5);
    expect_plan(&s, 1, 2, 5 + 5);
    die(&s, 0);
    die(&s, 1);
    assert_null(hear(&s, CORE_OUT_FINISH, 'P'));
    assert_null(hear(&s, CORE_OUT_FINISH, 'I'));
    ready(&s, 0);
    expect_plan(&s, 0, 1, 6); // P.0 alone, with the token that it had
    die(&s, 0);
    assert_int_equal(hear(&s, CORE_OUT_FINISH, 'P')->reason, CORE_ERROR);
    assert_null(hear(&s, CORE_OUT_FINISH, 'I'));
    ready(&s, 0);
    answer(&s, 0);
    assert_non_null(hear(&s, CORE_OUT_TOKENS, 'I'));
    end(&s);
}

// What runs elsewhere must not keep the place that the sample to be tried first needs.
static void samples_of_a_suspect_do_not_wait_for_each_other(void **state)
{
    (void)state;
    struct story s;
    begin(&s, (struct core_model){.max_num_seqs = 1, .no_prefix_cache = true});
    ready(&s, 0);
    ready(&s, 1);
    submit(&s, 'A', 2, 8, 1); // a sample on each copy
    expect_plan(&s, 0, 1, 5);
    expect_plan(&s, 1, 1, 5);
    answer(&s, 0);
    answer(&s, 0);
    die(&s, 0); // it was ahead of the other, and does not come back
    answer(&s, 1);
    for (uint32_t i = 0; i < 30; i++) {
        struct core_model_stats stats;
        core_model_stats(s.core, 0, &stats);
        if (stats.running == 0)
            break;
        answer(&s, 1);
    }
    struct core_counters counters;
    core_counters(s.core, &counters);
    assert_int_equal(counters.finished, 1);
    assert_int_equal(counters.tokens, 16);
    end(&s);
}

// A copy with more blocks than the core has memory to keep books of serves with fewer of them; one
// whose sequences alone take more is refused.
static void a_copy_may_offer_too_much(void **state)
{
    (void)state;
    struct story s;
    struct core_model_stats stats;
    begin(&s, (struct core_model){0});
    come(&s, 0, 4, LIMIT_BLOCKS);
    core_model_stats(s.core, 0, &stats);
    assert_in_range(stats.kv_blocks, 1000, LIMIT_BLOCKS - 1);
    submit(&s, 'A', 1, 2, 1);
    expect_plan(&s, 0, 1, 5);
    answer(&s, 0);
    answer(&s, 0);
    assert_int_equal(hear(&s, CORE_OUT_FINISH, 'A')->reason, CORE_LENGTH);
    die(&s, 0);
    come(&s, 0, LIMIT_SLOTS, LIMIT_BLOCKS);
    assert_non_null(hear(&s, CORE_OUT_GROUP_BAD, 0));
    core_model_stats(s.core, 0, &stats);
    assert_int_equal(stats.kv_blocks, 0);
    end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_submit_to_closed),
        cmocka_unit_test(a_full_queue_says_when_to_come_back),
        cmocka_unit_test(a_repeated_submit_reads_the_same_tokens),
        cmocka_unit_test(a_cancelled_request_frees_its_blocks_with_the_plan_in_flight),
        cmocka_unit_test(a_death_costs_no_token),
        cmocka_unit_test(who_kills_twice_is_quarantined_and_others_go_on),
        cmocka_unit_test(an_innocent_neighbour_on_both_copies_survives),
        cmocka_unit_test(samples_of_a_suspect_do_not_wait_for_each_other),
        cmocka_unit_test(a_copy_may_offer_too_much),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
