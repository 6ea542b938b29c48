// SPDX-License-Identifier: Apache-2.0
// Every loader with every one of its allocations failing in turn: each time a status, a sentence,
// no output and (under a sanitizer) no leak. The program is linked with --wrap for the allocator's
// functions, which counts our calls and not those of libraries: jansson 2.14 shortens strings
// without a word when it gets no memory, so nothing could be demanded of it.
#include "tests/test_support.h"

#include "model/arch.h"
#include "model/safetensors.h"
#include "model/tokenizer.h"
#include "model/weights_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALL_OF_THEM = 400 }; // of longer loads as many are tried, evenly spread

static uint64_t n_calls, failing_call; // counted from 1; 0: none fails

static bool fails(void)
{
    return ++n_calls == failing_call;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void *__real_realloc(void *memory, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void *__wrap_realloc(void *memory, size_t n);

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t count, size_t n)
{
    return fails() ? NULL : __real_calloc(count, n);
}

void *__wrap_realloc(void *memory, size_t n)
{
    return fails() ? NULL : __real_realloc(memory, n);
}

typedef enum status load_fn(struct error *err);

static void count_to(uint64_t failing)
{
    n_calls = 0;
    failing_call = failing;
}

static void fail_each(const char *name, load_fn *load)
{
    struct error err = {0};
    count_to(0);
    assert_int_equal(load(&err), STATUS_OK);
    uint64_t n = n_calls, step = n / ALL_OF_THEM + 1;
    assert_true(n > 0);
    for (uint64_t k = 1; k <= n; k += step) {
        err = (struct error){0};
        count_to(k);
        enum status s = load(&err);
        bool told = s == STATUS_NO_MEMORY || s == STATUS_TOO_LARGE;
        if (!told || !err.text[0] || err.status != s)
            fail_msg("%s: allocation %llu of %llu fails: %s \"%s\"", name, (unsigned long long)k,
                (unsigned long long)n, status_name(s), err.text);
    }
    count_to(0);
    assert_int_equal(load(&err), STATUS_OK);
    print_message("%s: %llu allocations\n", name, (unsigned long long)n);
}

static const char *model_dir(void)
{
    return test_path(test_source_dir(), "tests/golden/models/llama-gqa-sharded");
}

static enum status load_config(struct error *err)
{
    static struct model_config m;
    struct generation_defaults defaults;
    return arch_read(model_dir(), &m, &defaults, err);
}

static enum status load_safetensors(struct error *err)
{
    struct safetensors *files = NULL;
    enum status s = safetensors_open_dir(model_dir(), &files, err);
    assert_true((s == STATUS_OK) == (files != NULL));
    safetensors_close(files);
    return s;
}

static enum status plan(bool random, struct error *err)
{
    static struct model_config m;
    static struct safetensors *files;
    struct generation_defaults defaults;
    struct weights_plan p;
    if (!files) { // once, before anything fails
        assert_int_equal(arch_read(model_dir(), &m, &defaults, err), STATUS_OK);
        assert_int_equal(safetensors_open_dir(model_dir(), &files, err), STATUS_OK);
        n_calls = 0;
    }
    struct shard shard = weights_plan_shard(&m, 1, 2);
    enum status s = random ? weights_plan_random(&m, &shard, 7, &p, err)
                           : weights_plan_open(&m, &shard, files, &p, err);
    if (s == STATUS_OK)
        weights_plan_close(&p);
    return s;
}

static enum status plan_files(struct error *err)
{
    return plan(false, err);
}

static enum status plan_random(struct error *err)
{
    return plan(true, err);
}

static enum status load_small_tokenizer(struct error *err)
{
    struct tokenizer *t = NULL;
    enum status s = tokenizer_load(model_dir(), &t, err);
    assert_true((s == STATUS_OK) == (t != NULL));
    tokenizer_free(t);
    return s;
}

static enum status load_demo_tokenizer(struct error *err)
{
    struct tokenizer *t = NULL;
    enum status s = tokenizer_load(test_path(test_source_dir(), "deploy/demo-model"), &t, err);
    assert_true((s == STATUS_OK) == (t != NULL));
    tokenizer_free(t);
    return s;
}

static enum status load_file(const char *name, const char *path, struct error *err)
{
    static uint8_t data[1 << 20];
    FILE *f = fopen(test_path(test_source_dir(), path), "rb");
    assert_non_null(f);
    const struct tokenizer_file file = {name, data, fread(data, 1, sizeof data, f)};
    fclose(f);
    struct tokenizer *t = NULL;
    enum status s = tokenizer_load_files(&file, 1, &t, err);
    assert_true((s == STATUS_OK) == (t != NULL));
    tokenizer_free(t);
    return s;
}

static enum status load_bpe_model(struct error *err)
{
    return load_file("tokenizer.model", "tests/golden/tokenizers/spm/bpe-symbols.model", err);
}

static enum status load_unigram_model(struct error *err)
{
    return load_file("tokenizer.model", "tests/golden/tokenizers/spm/unigram.model", err);
}

static enum status load_vocabulary(struct error *err)
{
    return load_file("vocab.txt", "tests/golden/tokenizers/bert/vocab.txt", err);
}

static void test_config(void **state)
{
    (void)state;
    fail_each("config.json", load_config);
}

static void test_safetensors(void **state)
{
    (void)state;
    fail_each("safetensors", load_safetensors);
}

static void test_weights(void **state)
{
    (void)state;
    fail_each("weights of files", plan_files);
    fail_each("random weights", plan_random);
}

static void test_tokenizer(void **state)
{
    (void)state;
    fail_each("tokenizer.json", load_small_tokenizer);
    fail_each("tokenizer.json of the demo", load_demo_tokenizer);
    fail_each("tokenizer.model, BPE", load_bpe_model);
    fail_each("tokenizer.model, unigram", load_unigram_model);
    fail_each("vocab.txt", load_vocabulary);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_safetensors),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
