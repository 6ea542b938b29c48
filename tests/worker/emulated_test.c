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
        .max_num_seqs = REQUESTS,
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

int main(int argc, char **argv)
{
    const struct CMUnitTest quick[] = {
        cmocka_unit_test(test_f32), cmocka_unit_test(test_same_bits)};
    const struct CMUnitTest more[] = {cmocka_unit_test(test_bf16), cmocka_unit_test(test_f16),
        cmocka_unit_test(test_two_ranks), cmocka_unit_test(test_experts),
        cmocka_unit_test(test_experts_same_bits)};
    if (argc > 1 && strcmp(argv[1], "--long") == 0)
        return cmocka_run_group_tests(more, NULL, NULL);
    return cmocka_run_group_tests(quick, NULL, NULL);
}
