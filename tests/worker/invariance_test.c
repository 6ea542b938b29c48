// SPDX-License-Identifier: Apache-2.0
// A request gives the same bits however it is served: alone or among others, whole or in chunks,
// from whatever pages, after a preemption, behind a prefix hit, with any instruction set and number
// of threads. Across degrees tokens are the same and numbers nearly so.
#include "tests/test_support.h"

#include "tests/worker/drive.h"

#include "base/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 70, OUTPUT = 30, OTHERS = 31 };

static uint32_t prompt[PROMPT], other_prompt[OTHERS][PROMPT];

static int make_prompts(void **state)
{
    (void)state;
    srand(11);
    for (uint32_t i = 0; i < PROMPT; i++)
        prompt[i] = 3 + (uint32_t)rand() % 500;
    for (uint32_t k = 0; k < OTHERS; k++)
        for (uint32_t i = 0; i < PROMPT; i++)
            other_prompt[k][i] = k % 3 == 0 && i < 40 ? prompt[i] : 3 + (uint32_t)rand() % 500;
    return 0;
}

static struct rank_options options(const char *model)
{
    static char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/golden/models/%s", test_source_dir(), model);
    return (struct rank_options){.model_dir = dir,
        .threads = 1,
        .no_spin = true,
        .max_num_seqs = 40,
        .max_num_batched_tokens = 256,
        .kv_cache_bytes = 32 << 20};
}

static struct drive_request *sampled_request(uint32_t slot)
{
    struct drive_request *r = calloc(1, sizeof *r);
    r->prompt = prompt;
    r->n_prompt = PROMPT;
    r->n_output = OUTPUT;
    r->slot = slot;
    r->params = (struct sampling_params){.seed = 99,
        .temperature = 0.9f,
        .top_p = 0.95f,
        .top_k = 100,
        .typical_p = 1,
        .repetition_penalty = 1.1f,
        .presence_penalty = 0.2f,
        .frequency_penalty = 0.1f,
        .n_logprobs = DRIVE_TOPS};
    return r;
}

static struct drive_request *scored_request(uint32_t slot)
{
    struct drive_request *r = sampled_request(slot);
    r->score = true;
    return r;
}

static void batch_of_32(struct drive *d, struct drive_request *r)
{
    struct drive_request *all[OTHERS + 1];
    for (uint32_t k = 0; k < OTHERS; k++) {
        all[k] = sampled_request(k < r->slot ? k : k + 1);
        all[k]->prompt = other_prompt[k];
        all[k]->n_prompt = 1 + k * 2;
        all[k]->n_output = 1 + (k * 7) % 40;
        all[k]->start_step = k % 9;
        all[k]->chunk = k % 4 * 5;
        all[k]->score = k % 5 == 0;
        all[k]->params.seed = k;
    }
    all[OTHERS] = r;
    r->start_step = 3;
    drive_run(d, all, OTHERS + 1);
    for (uint32_t k = 0; k < OTHERS; k++)
        free(all[k]);
}

// Sampled results alone: a prefix hit does not score what it does not compute.
static void keep_sampled(struct drive_request *r)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n_results; i++)
        if (r->result[i].kind == ANSWER_SAMPLED)
            r->result[n++] = r->result[i];
    r->n_results = n;
}

static void expect_same(
    struct drive_request *base, struct drive_request *r, const char *what, uint32_t degree)
{
    if (!drive_same(base, r))
        fail_msg("%s differs at degree %u", what, degree);
    free(r);
}

// With two plans under way the second one's rows name tokens that nobody has read: the same bits,
// alone and in a batch, in chunks and thrown out meanwhile; what was computed behind an end harms
// nobody.
static void check_two_plans(struct drive *d, struct drive_request *base, uint32_t degree)
{
    d->depth = 2;
    struct drive_request *r = scored_request(4);
    r->chunk = 9;
    drive_run_one(d, r);
    expect_same(base, r, "with two plans under way", degree);
    assert_int_equal(d->n_surplus, 0);
    r = scored_request(7);
    batch_of_32(d, r);
    expect_same(base, r, "in a batch of 32, with two plans under way", degree);
    drive_shuffle_blocks(d, 79);
    r = scored_request(3);
    r->preempt_after = 11;
    r->resume_slot = 6;
    drive_run_one(d, r);
    expect_same(base, r, "thrown out with two plans under way", degree);
    assert_int_equal(d->n_surplus, 1);
    struct drive_request *stops = sampled_request(5), *goes_on = scored_request(6);
    stops->stop_after = 9;
    stops->prompt = other_prompt[1];
    drive_run(d, (struct drive_request *[]){stops, goes_on}, 2);
    assert_int_equal(stops->n_results, 9);
    assert_int_equal(d->n_surplus, 2);
    expect_same(base, goes_on, "beside one that stopped a step late", degree);
    free(stops);
    d->depth = 1;
}

static void check_invariance(const char *model, uint32_t degree)
{
    struct rank_options o = options(model);
    struct drive d;
    drive_open(&d, &o, degree);
    struct drive_request *base = scored_request(0), *r;
    drive_run_one(&d, base);
    assert_int_equal(base->n_results, PROMPT - 1 + OUTPUT);

    r = scored_request(0);
    drive_run_one(&d, r);
    expect_same(base, r, "a second time", degree);
    r = scored_request(0);
    r->chunk = 7;
    drive_run_one(&d, r);
    expect_same(base, r, "in chunks of 7", degree);
    r = scored_request(5);
    drive_shuffle_blocks(&d, 77);
    drive_run_one(&d, r);
    expect_same(base, r, "in other pages and another slot", degree);
    r = scored_request(7);
    batch_of_32(&d, r);
    expect_same(base, r, "in a batch of 32", degree);
    drive_shuffle_blocks(&d, 78);
    r = scored_request(3);
    r->preempt_after = 11;
    r->resume_slot = 6;
    drive_run_one(&d, r);
    expect_same(base, r, "preempted and computed again", degree);
    check_two_plans(&d, base, degree);

    struct drive_request *owner = sampled_request(1);
    owner->n_output = 2;
    drive_run_one(&d, owner);
    r = sampled_request(2);
    r->prefix = owner;
    r->prefix_tokens = 64;
    drive_run_one(&d, r);
    keep_sampled(base);
    expect_same(base, r, "behind a prefix hit", degree);
    free(owner);
    free(base);
    drive_close(&d);
}

static void test_f32(void **state)
{
    (void)state;
    for (uint32_t degree = 1; degree <= 8; degree *= 2)
        check_invariance("llama-gqa-sharded", degree);
}

static void test_window(void **state)
{
    (void)state;
    check_invariance("mistral-window24", 1);
    check_invariance("mistral-window24", 2);
}

static void test_16_bits(void **state)
{
    (void)state;
    check_invariance("llama-mha-bf16", 2);
    check_invariance("llama-mqa-f16", 4);
    check_invariance("llama-bias", 2);
}

// The sum over ranks with the residual and the norm in one operation has the bits of its parts.
static void test_separate_norms(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        uint32_t degree;
    } c[] = {{"llama-mha-bf16", 2}, {"llama-bias", 2}, {"llama-gqa-sharded", 8},
        {"mistral-window24", 2}};
    for (uint32_t i = 0; i < COUNT_OF(c); i++) {
        struct drive_request *r[2];
        for (int separate = 0; separate < 2; separate++) {
            struct rank_options o = options(c[i].model);
            struct drive d;
            o.separate_norms = separate != 0;
            o.random_weights = true; // biases of trained tiny models are zeros
            drive_open(&d, &o, c[i].degree);
            r[separate] = scored_request(0);
            r[separate]->chunk = 30;
            drive_run_one(&d, r[separate]);
            drive_close(&d);
        }
        expect_same(r[0], r[1], "with norms of their own", c[i].degree);
        free(r[0]);
    }
}

// Every instruction set and team size computes the same bits.
static void test_machines(void **state)
{
    (void)state;
    static const char *const isa[] = {"plain", "avx2", "avx512"};
    struct drive_request *base = NULL;
    for (uint32_t i = 0; i < 6; i++) {
        struct rank_options o = options("llama-mha-bf16");
        o.isa = isa[i / 2];
        o.threads = 1 + i % 2 * 2;
        struct local_group *probe;
        struct error err = {0};
        if (local_open(&o, 1, &probe, &err) != STATUS_OK) {
            print_message("left out: %s\n", err.text);
            continue;
        }
        local_close(probe, NULL);
        struct drive d;
        drive_open(&d, &o, 2);
        struct drive_request *r = scored_request(0);
        drive_run_one(&d, r);
        drive_close(&d);
        if (base)
            expect_same(base, r, isa[i / 2], 2);
        else
            base = r;
    }
    free(base);
}

// Sampled tokens are the same at every degree: the draws are, and the logits nearly.
static void test_degrees(void **state)
{
    (void)state;
    struct drive_request *base = NULL;
    for (uint32_t degree = 1; degree <= 8; degree *= 2) {
        struct rank_options o = options("llama-gqa-sharded");
        struct drive d;
        drive_open(&d, &o, degree);
        struct drive_request *r = scored_request(degree - 1);
        drive_run_one(&d, r);
        drive_close(&d);
        if (!base) {
            base = r;
            continue;
        }
        assert_memory_equal(r->ids, base->ids, sizeof r->ids);
        for (uint32_t i = 0; i < r->n_results; i++)
            assert_true(fabsf(r->result[i].logprob - base->result[i].logprob) < 1e-4f);
        free(r);
    }
    free(base);
}

// Pages of 16 bits: other numbers, but the same ones however the request is served.
static void test_kv_dtype(void **state)
{
    (void)state;
    static const char *const dtype[] = {"f16", "bf16"};
    for (int i = 0; i < 2; i++) {
        struct rank_options o = options("llama-gqa-sharded");
        o.kv_cache_dtype = dtype[i];
        struct drive d;
        drive_open(&d, &o, 2);
        struct drive_request *base = scored_request(0), *r = scored_request(1);
        drive_run_one(&d, base);
        r->chunk = 7;
        drive_run_one(&d, r);
        expect_same(base, r, dtype[i], 2);
        free(base);
        drive_close(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_16_bits),
        cmocka_unit_test(test_separate_norms),
        cmocka_unit_test(test_machines),
        cmocka_unit_test(test_degrees),
        cmocka_unit_test(test_kv_dtype),
    };
    return cmocka_run_group_tests(tests, make_prompts, NULL);
}
