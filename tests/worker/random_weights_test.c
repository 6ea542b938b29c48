// SPDX-License-Identifier: Apache-2.0
// Models of random weights: what an emulated device draws for itself is the CPU's model.
#include "tests/test_support.h"

#include "tests/worker/drive.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 9, OUTPUT = 4 };

static const uint32_t prompt[PROMPT] = {3, 1, 41, 59, 26, 5, 35, 89, 79};

static struct drive_request *run(const char *model, const char *device, uint32_t degree)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/golden/models/%s", test_source_dir(), model);
    struct rank_options o = {.model_dir = dir,
        .device = device,
        .threads = 1,
        .no_spin = true,
        .max_model_len = 64,
        .max_num_seqs = 2,
        .max_num_batched_tokens = 32,
        .random_weights = true,
        .dtype = "f32",
        .seed = 5,
        .kv_cache_bytes = 1 << 20};
    struct drive d;
    struct drive_request *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->prompt = prompt;
    r->n_prompt = PROMPT;
    r->n_output = OUTPUT;
    r->score = true;
    drive_open(&d, &o, degree);
    drive_run_one(&d, r);
    drive_close(&d);
    return r;
}

static void compare(const char *model, uint32_t degree)
{
    struct drive_request *cpu = run(model, "cpu", 1), *emu = run(model, "emu", degree);
    double worst = 0;
    assert_int_equal(cpu->n_results, emu->n_results);
    for (uint32_t i = 0; i < cpu->n_results; i++) {
        double e = fabs((double)cpu->result[i].logprob - (double)emu->result[i].logprob);
        assert_int_equal(cpu->result[i].id, emu->result[i].id);
        worst = e > worst || isnan(e) ? e : worst;
    }
    print_message("%s, degree %u: worst %.1e\n", model, degree, worst);
    assert_true(worst <= 1e-4);
    free(cpu);
    free(emu);
}

static void test_one_rank(void **state)
{
    (void)state;
    compare("llama-gqa-sharded", 1);
    compare("llama-mha-bf16", 1);
}

static void test_two_ranks(void **state)
{
    (void)state;
    compare("llama-gqa-sharded", 2);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest quick[] = {cmocka_unit_test(test_one_rank)};
    const struct CMUnitTest more[] = {cmocka_unit_test(test_two_ranks)};
    if (argc > 1 && strcmp(argv[1], "--long") == 0)
        return cmocka_run_group_tests(more, NULL, NULL);
    return cmocka_run_group_tests(quick, NULL, NULL);
}
