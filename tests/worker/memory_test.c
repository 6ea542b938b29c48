// SPDX-License-Identifier: Apache-2.0
// The bill of a device's memory, on an emulated device as small as each case wants it: what is
// refused, with which sentence, that nothing is left behind, and that the bill is no less than what
// is taken.
#include "tests/test_support.h"

#include "tests/worker/drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 16, ROWS = 32, SEQS = 4 };

static const uint64_t plenty = (uint64_t)1 << 30;

static void set_memory(uint64_t bytes)
{
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)bytes);
    setenv("PHALANX_EMU_MEMORY", text, 1);
}

static struct rank_options options(void)
{
    static char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/golden/models/llama-gqa-sharded", test_source_dir());
    return (struct rank_options){.model_dir = dir,
        .device = "emu",
        .threads = 1,
        .no_spin = true,
        .max_model_len = 64,
        .max_num_seqs = SEQS,
        .max_num_batched_tokens = ROWS,
        .block_tokens = BLOCK,
        .random_weights = true,
        .dtype = "f32",
        .seed = 3,
        .enforce_eager = true};
}

// What is free on the emulated device of this process when nobody uses it.
static uint64_t free_now(void)
{
    const struct kernels *k;
    struct device *d;
    struct error err;
    struct device_args args = {.activation = DTYPE_F32};
    uint64_t left, total;
    assert_int_equal(kernels_find("emu", &k, &err), STATUS_OK);
    assert_int_equal(k->device_open(&args, &d, &err), STATUS_OK);
    k->mem_info(d, &left, &total);
    k->device_close(d);
    return left;
}

// Opens, expects the refusal, and that all memory is back. `parts` are words of the sentence.
static void assert_refused(
    const struct rank_options *o, uint32_t degree, const char *const parts[], struct error *err)
{
    struct local_group *g = NULL;
    uint64_t before = free_now();
    enum status s = local_open(o, degree, &g, err);
    if (s == STATUS_OK)
        fail_msg("a start that should be refused was not");
    print_message("%s\n", err->text);
    assert_int_equal(s, STATUS_NO_MEMORY);
    for (; *parts; parts++)
        if (!strstr(err->text, *parts))
            fail_msg("\"%s\" does not say \"%s\"", err->text, *parts);
    assert_int_equal(free_now(), before);
}

// The number that stands before `word` in a sentence, or behind it.
static uint64_t number_before(const char *text, const char *word)
{
    const char *p = strstr(text, word);
    assert_non_null(p);
    while (p > text && (p[-1] < '0' || p[-1] > '9'))
        p--;
    while (p > text && p[-1] >= '0' && p[-1] <= '9')
        p--;
    return strtoull(p, NULL, 10);
}

static uint64_t number_behind(const char *text, const char *word)
{
    const char *p = strstr(text, word);
    assert_non_null(p);
    return strtoull(p + strlen(word), NULL, 10);
}

// The most rows of a step and all slots at once, twice, so that the second step of a kind is
// recorded: everything that is taken while serving is taken.
static void assert_serves_all(const struct rank_options *o, struct rank_info *info)
{
    static uint32_t prompt[SEQS][40];
    struct drive d;
    struct drive_request *r[SEQS];
    drive_open(&d, o, 1);
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < SEQS; i++) {
            r[i] = calloc(1, sizeof *r[i]);
            assert_non_null(r[i]);
            for (uint32_t k = 0; k < 40; k++)
                prompt[i][k] = 1 + (k * 7 + i) % 50;
            r[i]->prompt = prompt[i];
            r[i]->n_prompt = 40;
            r[i]->n_output = 4;
            r[i]->slot = i;
        }
        drive_run(&d, r, SEQS);
        for (uint32_t i = 0; i < SEQS; i++)
            free(r[i]);
    }
    *info = *d.info;
    drive_close(&d);
}

static void assert_serves(const struct rank_options *o, uint32_t degree, struct rank_info *info)
{
    static const uint32_t prompt[] = {5, 4, 3, 2, 1};
    struct drive d;
    struct drive_request *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->prompt = prompt;
    r->n_prompt = 5;
    r->n_output = 3;
    drive_open(&d, o, degree);
    drive_run_one(&d, r);
    assert_int_equal(r->n_ids, 8);
    *info = *d.info;
    drive_close(&d);
    free(r);
}

// The advice is good: what would fit fits, and one block more does not.
static void test_cache_too_large(void **state)
{
    (void)state;
    struct rank_options o = options();
    struct error err = {0};
    struct rank_info info;
    set_memory(64 << 20);
    o.kv_cache_bytes = 64 << 20;
    assert_refused(&o, 1,
        (const char *const[]){"a KV cache of 64.0 MiB beside weights", "activations", "workspace",
            "samplers", "free on the device: ", "bytes are missing", "--kv-cache-memory", NULL},
        &err);
    uint64_t fits = number_behind(err.text, "--kv-cache-memory ");
    assert_int_equal(number_before(err.text, " bytes are missing") + fits, o.kv_cache_bytes);
    o.kv_cache_bytes = fits + 1;
    assert_refused(&o, 1, (const char *const[]){": 1 bytes are missing", NULL}, &err);
    o.kv_cache_bytes = fits;
    assert_serves(&o, 1, &info);
    assert_true(info.kv_bytes <= fits + (64 << 10)); // each layer begins at a page
}

// The model itself does not fit, whatever the steps.
static void test_model_too_large(void **state)
{
    (void)state;
    struct rank_options o = options();
    struct error err = {0};
    struct rank_info info;
    set_memory(8 << 20);
    assert_refused(&o, 1,
        (const char *const[]){"weights ", "do not fit into the ", "that are free on the device: ",
            "bytes are missing; give a larger --tensor-parallel-degree", NULL},
        &err);
    uint64_t missing = number_before(err.text, " bytes are missing");
    set_memory((8 << 20) + missing - 1);
    assert_refused(&o, 1, (const char *const[]){": 1 bytes are missing", NULL}, &err);
    // One byte is left now, which holds no block; a cache of one sequence more is enough.
    set_memory((8 << 20) + missing);
    assert_refused(&o, 1,
        (const char *const[]){"cannot hold one sequence of 64 tokens", "bytes are missing", NULL},
        &err);
    set_memory((8 << 20) + missing + (4 << 20));
    assert_serves(&o, 1, &info);
}

// Smaller steps are proposed where they help, and they do.
static void test_steps_too_large(void **state)
{
    (void)state;
    struct rank_options o = options();
    struct error err = {0};
    struct rank_info info;
    o.max_num_batched_tokens = LIMIT_STEP_TOKENS;
    set_memory(150 << 20);
    assert_refused(&o, 1,
        (const char *const[]){"bytes are missing; --max-num-batched-tokens ", " would fit", NULL},
        &err);
    o.max_num_batched_tokens = (uint32_t)number_behind(err.text, "--max-num-batched-tokens ");
    assert_true(o.max_num_batched_tokens >= 16 && o.max_num_batched_tokens < LIMIT_STEP_TOKENS);
    o.kv_cache_percent = 90;
    assert_serves(&o, 1, &info);
}

// One sequence of the length that was asked for does not fit; the length that would, does.
static void test_sequence_too_long(void **state)
{
    (void)state;
    struct rank_options o = options();
    struct error err = {0};
    struct rank_info info;
    set_memory(plenty);
    o.kv_cache_bytes = 60 << 10;
    o.max_model_len = 128;
    assert_refused(&o, 1,
        (const char *const[]){"a KV cache of 60.0 KiB per rank cannot hold one sequence of 128",
            "bytes are missing; --max-model-len ", " would fit", NULL},
        &err);
    o.max_model_len = (uint32_t)number_behind(err.text, "--max-model-len ");
    assert_serves(&o, 1, &info);
    assert_int_equal(info.limits.context_tokens, o.max_model_len);
    o.kv_cache_bytes = 10;
    assert_refused(&o, 1,
        (const char *const[]){"bytes are missing; give a larger --kv-cache-memory", NULL}, &err);
}

// A part of what is free; and never more by itself than max-num-seqs can use.
static void test_percent(void **state)
{
    (void)state;
    struct rank_options o = options();
    struct rank_info half, all, own;
    set_memory(128 << 20);
    o.kv_cache_percent = 40;
    assert_serves(&o, 1, &half);
    o.kv_cache_percent = 80;
    assert_serves(&o, 1, &all);
    o.kv_cache_percent = 0;
    assert_serves(&o, 1, &own);
    double ratio = (double)all.kv_bytes / (double)half.kv_bytes;
    assert_true(ratio > 1.99 && ratio < 2.01);
    assert_int_equal(own.limits.n_blocks[0], SEQS * 64 / BLOCK);
}

// Two ranks share the device: each counts half of what both leave, or both are refused alike.
static void test_shared_device(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); // the threads of both ranks are more mappings in one process than the system allows
#endif
    struct rank_options o = options();
    struct error err = {0};
    struct rank_info one, two;
    set_memory(256 << 20);
    o.kv_cache_percent = 50;
    assert_serves(&o, 1, &one);
    assert_serves(&o, 2, &two);
    // Both ranks' pages together are less than what one rank alone would take.
    assert_true(two.kv_bytes * 2 < one.kv_bytes && two.kv_bytes * 4 > one.kv_bytes);
    assert_non_null(strstr(two.memory, "which 2 ranks share"));
    o.kv_cache_percent = 0;
    o.kv_cache_bytes = 120 << 20;
    assert_refused(&o, 2,
        (const char *const[]){"which 2 ranks share", "bytes are missing; --kv-cache-memory ", NULL},
        &err);
    set_memory(16 << 20);
    o.kv_cache_bytes = 0;
    assert_refused(&o, 2,
        (const char *const[]){"which 2 ranks share", "give each rank a device of its own", NULL},
        &err);
}

// What is left when a bill is paid to the last byte is enough for every step: the bill is no less
// than what is taken.
static void test_bill_is_enough(void **state)
{
    (void)state;
    struct rank_options o = options();
    struct error err = {0};
    struct rank_info info;
    static const char *const types[] = {"f32", "bf16"};
    o.max_num_seqs = LIMIT_SLOTS; // samplers that nothing else has room for
    for (uint32_t i = 0; i < 4; i++) {
        o.dtype = types[i % 2];
        o.enforce_eager = i >= 2;
        o.kv_cache_bytes = plenty;
        set_memory(192 << 20);
        assert_refused(&o, 1, (const char *const[]){"--kv-cache-memory", NULL}, &err);
        o.kv_cache_bytes = number_behind(err.text, "--kv-cache-memory ");
        assert_serves_all(&o, &info);
        assert_non_null(strstr(info.memory, "memory: weights "));
        assert_non_null(strstr(info.memory, "KV cache "));
    }
    print_message("%s\n", info.memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cache_too_large),
        cmocka_unit_test(test_model_too_large),
        cmocka_unit_test(test_steps_too_large),
        cmocka_unit_test(test_sequence_too_long),
        cmocka_unit_test(test_percent),
        cmocka_unit_test(test_shared_device),
        cmocka_unit_test(test_bill_is_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
