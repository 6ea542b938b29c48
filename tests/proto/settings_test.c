// SPDX-License-Identifier: Apache-2.0
// The one table of settings: what serve passes on arrives, ranges hold in every program, and the
// environment of a child decides nothing.
#include "tests/test_support.h"

#include "base/check.h"
#include "base/log.h"
#include "proto/limits.h"
#include "proto/settings.h"

#include <stdlib.h>
#include <string.h>

enum { WORDS_MAX = 64, WORD_BYTES = 128 };

static const enum settings_program programs[] = {
    SETTINGS_SERVE, SETTINGS_COORDINATOR, SETTINGS_WORKER};

struct line {
    int n;
    char word[WORDS_MAX][WORD_BYTES];
};

static void add(void *user, const char *word)
{
    struct line *line = user;
    assert_true(line->n < WORDS_MAX && strlen(word) < WORD_BYTES);
    snprintf(line->word[line->n++], WORD_BYTES, "%s", word);
}

static enum status parse(
    enum settings_program program, struct line *line, struct settings *out, struct error *err)
{
    char *argv[WORDS_MAX + 1] = {(char *)(uintptr_t) "program"};
    bool help;
    for (int i = 0; i < line->n; i++)
        argv[i + 1] = line->word[i];
    *out = (struct settings){0};
    return settings_parse(program, line->n + 1, argv, out, NULL, &help, err);
}

static void parse_one(enum settings_program program, const char *word, enum status expected)
{
    struct line line = {0};
    struct settings s;
    struct error err = {0};
    add(&line, word);
    enum status got = parse(program, &line, &s, &err);
    if (got != expected)
        fail_msg("%s: %s (%s)", word, status_text(got), err.text);
    if (got != STATUS_OK)
        assert_non_null(strstr(err.text, "expected"));
}

static void option_of(const char *field, char out[CONFIG_NAME_BYTES])
{
    struct config_row row = {.name = field};
    config_spell(&row, 1, (char(*)[CONFIG_NAME_BYTES])out);
    assert_null(strchr(out, '_'));
}

// Every number at its borders and one beyond, in every program that takes it.
static void test_borders(void **state)
{
    (void)state;
    static const struct {
        const char *field;
        unsigned programs;
        double min, max;
    } number[] = {
#define SERVE SETTINGS_SERVE
#define COORDINATOR SETTINGS_COORDINATOR
#define WORKER SETTINGS_WORKER
#define TEXT(field, programs, value_name, help)
#define INT(field, programs, value, min, max, help)                                                \
    {#field, programs, (double)(min), (double)(max)},
#define BYTES(field, programs, value, help)
#define CHOICE(field, programs, value, words, help)
#define FLAG(field, programs, help)
#include "proto/settings.def"
#undef TEXT
#undef INT
#undef BYTES
#undef CHOICE
#undef FLAG
    };
    for (size_t i = 0; i < COUNT_OF(number); i++) {
        char name[CONFIG_NAME_BYTES], word[WORD_BYTES];
        const double values[] = {
            number[i].min - 1, number[i].min, number[i].max, number[i].max + 1};
        bool last_exists = number[i].max + 1 > number[i].max; // not beyond 2^53
        option_of(number[i].field, name);
        for (size_t p = 0; p < COUNT_OF(programs); p++)
            for (int k = 0; k < 3 + last_exists && (number[i].programs & programs[p]); k++) {
                snprintf(word, sizeof word, "--%s=%.0f", name, values[k]);
                parse_one(programs[p], word, k == 1 || k == 2 ? STATUS_OK : STATUS_INVALID);
            }
    }
    parse_one(SETTINGS_SERVE, "--seed=9007199254740993", STATUS_INVALID); // no double of its own
    parse_one(SETTINGS_SERVE, "--block-size=24", STATUS_INVALID);
    parse_one(SETTINGS_WORKER, "--block-size=24", STATUS_INVALID);
}

static struct settings unusual(void)
{
    return (struct settings){
        .model = "/models/with space",
        .model_name = "a=b",
        .endpoint = "ipc:///e",
        .control_endpoint = "ipc:///c",
        .worker_endpoint = "ipc:///w",
        .coordinator = "ipc:///w",
        .curve_server_key = "key",
        .curve_authorized_clients = "clients",
        .tokenizer_cache = "caches",
        .tensor_parallel_degree = 4,
        .copy = 3,
        .threads_per_rank = 5,
        .max_model_len = 777,
        .max_num_seqs = 9,
        .max_num_batched_tokens = 33,
        .max_waiting_requests = 12,
        .plans_in_flight = 2,
        .kv_cache_memory = (uint64_t)5 << 40,
        .kv_cache_percent = 60,
        .device = 2,
        .determinism = 1,
        .kv_cache_dtype = 2,
        .block_size = 32,
        .guaranteed_no_evict = true,
        .random_weights = true,
        .dtype = 3,
        .seed = 1LL << 53,
        .isa = 1,
        .drain_timeout_ms = 1234,
        .drain_alone_ms = 567,
        .supervisor_fd = 7,
        .log_level = LOG_LEVEL_DEBUG,
    };
}

// What a program is told is what it reads, whatever the environment says.
static void test_passed_on(void **state)
{
    (void)state;
    const struct settings s = unusual();
    setenv("PHALANX_NO_PREFIX_CACHE", "true", 1);
    setenv("PHALANX_SKIP_TOKENIZER", "true", 1);
    setenv("PHALANX_MAX_NUM_SEQS", "1", 1);
    setenv("PHALANX_BLOCK_SIZE", "8", 1);
    for (size_t p = 0; p < COUNT_OF(programs); p++) {
        struct line told = {0}, again = {0};
        struct settings got;
        struct error err = {0};
        settings_pass(programs[p], &s, add, &told);
        assert_true(told.n > 10);
        if (parse(programs[p], &told, &got, &err) != STATUS_OK)
            fail_msg("%s", err.text);
        assert_false(got.no_prefix_cache || got.skip_tokenizer);
        assert_int_equal(got.max_num_seqs, 9);
        settings_pass(programs[p], &got, add, &again);
        assert_int_equal(told.n, again.n);
        for (int i = 0; i < told.n; i++)
            assert_string_equal(told.word[i], again.word[i]);
    }
    unsetenv("PHALANX_NO_PREFIX_CACHE");
    unsetenv("PHALANX_SKIP_TOKENIZER");
    unsetenv("PHALANX_MAX_NUM_SEQS");
    unsetenv("PHALANX_BLOCK_SIZE");
}

static void test_words(void **state)
{
    (void)state;
    const struct settings s = unusual();
    char word[SETTINGS_WORD_BYTES];
    settings_word(&s, "kv_cache_dtype", word);
    assert_string_equal(word, "f16");
    settings_word(&s, "isa", word);
    assert_string_equal(word, "plain");
    settings_word(&s, "log_level", word);
    assert_string_equal(word, "debug");
    settings_word(&s, "device", word);
    assert_string_equal(word, "cuda");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_borders),
        cmocka_unit_test(test_passed_on),
        cmocka_unit_test(test_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
