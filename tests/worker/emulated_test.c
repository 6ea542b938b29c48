// SPDX-License-Identifier: Apache-2.0
// The whole forward pass on the emulated device: the CPU's numbers within a tolerance, and the same
// bits alone, in pieces and without recorded steps.
#include "tests/test_support.h"

#include "tests/worker/drive.h"
#include "tests/worker/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS = 3, OUTPUT = 5, PROMPT_MAX = 11 };

struct texts {
    struct drive_request *request[REQUESTS];
};

// The first prompts of the model's golden, shortened.
static struct texts new_texts(const struct golden *g)
{
    struct texts t;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct golden_prompt *p = &g->prompt[i % g->n_prompts];
        struct drive_request *r = calloc(1, sizeof *r);
        assert_non_null(r);
        r->prompt = p->ids;
        r->n_prompt = p->n_ids < PROMPT_MAX ? p->n_ids : PROMPT_MAX;
        r->n_output = OUTPUT;
        r->slot = i;
        r->score = true;
        t.request[i] = r;
    }
    return t;
}

static void free_texts(struct texts *t)
{
    for (uint32_t i = 0; i < REQUESTS; i++)
        free(t->request[i]);
}

static void open_group(
    struct drive *d, const struct golden *g, const char *device, uint32_t degree, bool eager)
{
    struct rank_options o = {.model_dir = g->dir,
        .device = device,
        .threads = 1,
        .no_spin = true,
        .max_model_len = 64,
        .max_num_seqs = REQUESTS + 1,
        .max_num_batched_tokens = 64,
        .enforce_eager = eager,
        .kv_cache_bytes = 4 << 20};
    drive_open(d, &o, degree);
}

static struct texts run(const struct golden *g, const char *device, uint32_t degree, bool eager)
{
    struct drive d;
    struct texts t = new_texts(g);
    open_group(&d, g, device, degree, eager);
    drive_run(&d, t.request, REQUESTS);
    drive_close(&d);
    return t;
}

struct gap {
    double worst, squares;
    uint32_t n;
};

// Two ids that nearly tie may change places; what follows is then another text.
static void compare(struct gap *gap, const struct drive_request *expected,
    const struct drive_request *got, double worst)
{
    assert_int_equal(expected->n_results, got->n_results);
    for (uint32_t i = 0; i < got->n_results; i++) {
        const struct drive_result *e = &expected->result[i], *r = &got->result[i];
        double error = fabs((double)e->logprob - (double)r->logprob);
        assert_int_equal(e->position, r->position);
        gap->worst = error > gap->worst || isnan(error) ? error : gap->worst;
        gap->squares += error * error;
        gap->n++;
        if (e->id != r->id) {
            assert_true(error <= worst);
            break;
        }
    }
}

// Log-probabilities differ by `typical` in the mean (of squares) and nowhere by more than `worst`.
static void check(const char *name, uint32_t degree, double typical, double worst)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/golden/%s", test_source_dir(), name);
    struct golden *g = golden_open(dir);
    struct texts cpu = run(g, "cpu", 1, false), emu = run(g, "emu", degree, false);
    struct gap gap = {0};
    for (uint32_t i = 0; i < REQUESTS; i++)
        compare(&gap, cpu.request[i], emu.request[i], worst);
    double mean = sqrt(gap.squares / gap.n);
    print_message("%-20s degree %u: mean %.1e, worst %.1e\n", name, degree, mean, gap.worst);
    assert_true(gap.n > 20 && mean <= typical && gap.worst <= worst);
    free_texts(&cpu);
    free_texts(&emu);
    golden_close(g);
}

static void test_f32(void **state)
{
    (void)state;
    check("models/llama-gqa-sharded", 1, 1e-4, 1e-3);
}

static void test_two_ranks(void **state)
{
    (void)state;
    check("models/llama-gqa-sharded", 2, 1e-4, 1e-3);
}

static void test_bf16(void **state)
{
    (void)state;
    check("models/llama-mha-bf16", 1, 2e-2, 6e-2);
}

static void test_f16(void **state)
{
    (void)state;
    check("models/llama-mqa-f16", 1, 1e-2, 2e-2);
}

// Recorded steps change no bit; nor does what else is in the batch, or how a prompt is cut.
static void check_same_bits(const char *name)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/golden/%s", test_source_dir(), name);
    struct golden *g = golden_open(dir);
    struct texts recorded = run(g, "emu", 1, false), eager = run(g, "emu", 1, true);
    struct texts alone = new_texts(g);
    struct drive d;
    open_group(&d, g, "emu", 1, false);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_true(drive_same(recorded.request[i], eager.request[i]));
        alone.request[i]->chunk = 3 + i;
        drive_run_one(&d, alone.request[i]);
        assert_true(drive_same(recorded.request[i], alone.request[i]));
    }
    drive_close(&d);
    free_texts(&recorded);
    free_texts(&eager);
    free_texts(&alone);
    golden_close(g);
}

static void test_same_bits(void **state)
{
    (void)state;
    check_same_bits("models/llama-mha-bf16");
}

// A choice between experts that nearly tie may be another in 16 bits, so the worst has more room.
static void test_experts(void **state)
{
    (void)state;
    check("families/mixtral-window", 1, 2e-2, 1e-1);
    check("families/qwen2-moe-layers", 2, 2e-2, 1e-1);
}

static void test_experts_same_bits(void **state)
{
    (void)state;
    check_same_bits("families/mixtral-window");
    check_same_bits("families/qwen2-moe-layers");
}

// What is drawn needs what was drawn before: penalties count it on the device.
static struct texts drawn_texts(const struct golden *g)
{
    struct texts t = new_texts(g);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        t.request[i]->score = i == 0;
        t.request[i]->params = (struct sampling_params){.seed = 7 + i,
            .temperature = 1.5f,
            .top_p = 0.98f,
            .typical_p = 1,
            .repetition_penalty = 1.3f,
            .presence_penalty = 0.5f,
            .frequency_penalty = 0.7f,
            .n_logprobs = 3};
    }
    return t;
}

static void run_drawn(
    const struct golden *g, uint32_t degree, bool eager, uint32_t depth, struct texts *t)
{
    struct drive d;
    open_group(&d, g, "emu", degree, eager);
    assert_int_equal(d.info->plans_in_flight, SESSION_STEPS_MAX);
    d.depth = depth;
    drive_run(&d, t->request, REQUESTS);
    assert_int_equal(d.n_surplus > 0, depth > 1);
    drive_close(&d);
}

// The next step is enqueued before the last one's tokens were read: the same bits. One sequence
// stops, and one is thrown out, when a step of theirs is under way.
static void check_ahead(uint32_t degree)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/golden/models/llama-gqa-sharded", test_source_dir());
    struct golden *g = golden_open(dir);
    struct texts plain = drawn_texts(g), ahead = drawn_texts(g);
    for (int k = 0; k < 2; k++) {
        struct texts *t = k ? &ahead : &plain;
        t->request[0]->chunk = 4;
        t->request[1]->stop_after = 3;
        t->request[2]->preempt_after = 2;
        t->request[2]->resume_slot = 0;
        t->request[0]->slot = 2;
        t->request[2]->slot = 3;
    }
    run_drawn(g, degree, true, 1, &plain);
    run_drawn(g, degree, false, 2, &ahead);
    for (uint32_t i = 0; i < REQUESTS; i++)
        assert_true(drive_same(plain.request[i], ahead.request[i]));
    assert_int_equal(ahead.request[1]->n_results, 3);
    free_texts(&plain);
    free_texts(&ahead);
    golden_close(g);
}

static void test_ahead(void **state)
{
    (void)state;
    check_ahead(1);
}

static void test_ahead_two_ranks(void **state)
{
    (void)state;
    check_ahead(2);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest quick[] = {
        cmocka_unit_test(test_f32), cmocka_unit_test(test_same_bits), cmocka_unit_test(test_ahead)};
    const struct CMUnitTest more[] = {cmocka_unit_test(test_bf16), cmocka_unit_test(test_f16),
        cmocka_unit_test(test_two_ranks), cmocka_unit_test(test_ahead_two_ranks),
        cmocka_unit_test(test_experts), cmocka_unit_test(test_experts_same_bits)};
    if (argc > 1 && strcmp(argv[1], "--long") == 0)
        return cmocka_run_group_tests(more, NULL, NULL);
    return cmocka_run_group_tests(quick, NULL, NULL);
}
