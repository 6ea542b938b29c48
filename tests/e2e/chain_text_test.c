// SPDX-License-Identifier: Apache-2.0
// Text through the whole chain with the demo model: its goldens as text, and every way of stopping:
// stop strings wherever they begin and end, stop ids, end tokens, min_tokens, and text that was
// held back in vain.
#include "tests/e2e/cluster.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

enum { OUTPUT = 60, END_ID = 2 };

static struct cluster cluster;
static struct answer base;      // without any stop
static size_t text_end[OUTPUT]; // bytes of text up to and with each token
static const char *const story = "Once upon a time";

static void run(struct answer *out, const char *const *more)
{
    const char *words[48] = {"generate", "--prompt", story, "--temperature", "0", "--max-tokens",
        "60", "--output", "jsonl"};
    size_t n = 9;
    for (size_t i = 0; more && more[i]; i++)
        words[n++] = more[i];
    struct command m;
    cluster_run(&cluster, &m, words);
    cluster_answer(&m, 0, out);
    command_free(&m);
}

// ---- goldens -----------------------------------------------------------------------------------

static void check_golden(const json_t *prompt)
{
    static struct answer a;
    struct command m;
    const json_t *ids = json_object_get(prompt, "greedy_ids");
    const json_t *logprobs = json_object_get(prompt, "greedy_logprobs");
    char n[16];
    snprintf(n, sizeof n, "%zu", json_array_size(ids));
    cluster_run(&cluster, &m,
        WORDS("generate", "--prompt", json_string_value(json_object_get(prompt, "text")),
            "--temperature", "0", "--max-tokens", n, "--ignore-eos", "--output", "jsonl"));
    cluster_answer(&m, 0, &a);
    command_free(&m);
    assert_int_equal(a.n, json_array_size(ids));
    for (uint32_t i = 0; i < a.n; i++) {
        assert_int_equal(a.ids[i], json_integer_value(json_array_get(ids, i)));
        double expected = json_number_value(json_array_get(logprobs, i));
        assert_true(fabs((double)a.logprobs[i] - expected) <= 2e-2);
    }
    assert_int_equal(a.prompt_tokens, json_array_size(json_object_get(prompt, "input_ids")));
    assert_string_equal(a.text, json_string_value(json_object_get(prompt, "greedy_text")));
}

static void test_goldens(void **state)
{
    (void)state;
    json_t *root = json_load_file(test_path(test_source_dir(), "tests/golden/demo.json"), 0, NULL),
           *prompt;
    size_t i;
    assert_non_null(root);
    json_array_foreach(json_object_get(root, "prompts"), i, prompt) check_golden(prompt);
    assert_true(i >= 4);
    json_decref(root);
}

// What is printed as text is what the lines say.
static void test_plain_output(void **state)
{
    (void)state;
    struct command m;
    char expected[sizeof base.text + 1];
    cluster_run(&cluster, &m,
        WORDS("generate", "--prompt", story, "--temperature", "0", "--max-tokens", "60"));
    snprintf(expected, sizeof expected, "%s\n", base.text);
    assert_int_equal(m.code, 0);
    assert_string_equal(m.out, expected);
    command_free(&m);
}

// ---- stop strings ------------------------------------------------------------------------------

// The first end of `stop` inside the text of a token behind the first `min_tokens`, in bytes;
// `*n` is how many tokens there are then. 0: none.
static size_t find_stop(const char *stop, uint32_t min_tokens, uint32_t *n)
{
    size_t len = strlen(stop);
    for (const char *p = base.text; (p = strstr(p, stop)); p++) {
        size_t end = (size_t)(p - base.text) + len;
        for (*n = 1; text_end[*n - 1] < end;)
            ++*n;
        if (*n > min_tokens)
            return end;
    }
    return 0;
}

static void expect_stopped(
    const struct answer *a, const char *stop, size_t end, uint32_t n, bool included)
{
    size_t length = included ? end : end - strlen(stop);
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", stop);
    assert_string_equal(a->reason, "stop");
    assert_string_equal(a->stop, quoted);
    assert_int_equal(a->n, n);
    assert_memory_equal(a->ids, base.ids, n * sizeof *a->ids);
    if (a->n_text != length || memcmp(a->text, base.text, length) != 0)
        fail_msg("\"%s\" leaves \"%s\"", stop, a->text);
}

static void test_stop_strings(void **state)
{
    (void)state;
    static struct answer a;
    static const uint32_t sizes[] = {1, 2, 5, 11};
    for (uint32_t from = 3; from + 20 < base.n_text; from += 31)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            char stop[16];
            uint32_t n = 0;
            snprintf(stop, sizeof stop, "%.*s", (int)sizes[k], base.text + from);
            if (strpbrk(stop, "\"\\\n"))
                continue; // as JSON they look different
            size_t end = find_stop(stop, 0, &n);
            run(&a, WORDS("--stop", stop));
            expect_stopped(&a, stop, end, n, false);
            run(&a, WORDS("--stop", stop, "--include-stop-str-in-output"));
            expect_stopped(&a, stop, end, n, true);
            run(&a, WORDS("--stop", "qqq", "--stop", stop, "--stop", "time time"));
            expect_stopped(&a, stop, end, n, false);
        }
}

static void test_min_tokens(void **state)
{
    (void)state;
    static struct answer a;
    uint32_t n = 0;
    for (uint32_t least = 0; least < 30; least += 5) {
        char text[16];
        snprintf(text, sizeof text, "%u", least);
        size_t end = find_stop(" the", least, &n);
        if (end == 0)
            continue;
        run(&a, WORDS("--stop", " the", "--min-tokens", text));
        expect_stopped(&a, " the", end, n, false);
    }
}

// The end of the text could become a stop string up to the last token.
static void test_held_back_in_vain(void **state)
{
    (void)state;
    static struct answer a;
    for (size_t held = 1; held < 30; held += 7) {
        char stop[64];
        snprintf(stop, sizeof stop, "%szz", base.text + base.n_text - held);
        run(&a, WORDS("--stop", stop));
        assert_true(cluster_answer_same(&base, &a));
        assert_string_equal(a.stop, "null");
    }
}

// ---- ids ---------------------------------------------------------------------------------------

static void test_stop_ids(void **state)
{
    (void)state;
    static struct answer a;
    for (uint32_t at = 2; at < OUTPUT; at += 13) {
        uint32_t first = 0;
        char id[16];
        while (base.ids[first] != base.ids[at])
            first++;
        snprintf(id, sizeof id, "%u", base.ids[at]);
        for (int included = 0; included < 2; included++) {
            run(&a, WORDS("--stop-token-id", id,
                        included ? "--include-stop-str-in-output" : "--stats=false"));
            assert_string_equal(a.reason, "stop");
            assert_string_equal(a.stop, id);
            assert_int_equal(a.n, first + 1);
            size_t length = included ? text_end[first] : first ? text_end[first - 1] : 0;
            assert_int_equal(a.n_text, length);
            assert_memory_equal(a.text, base.text, length);
        }
    }
}

static void test_end_token(void **state)
{
    (void)state;
    static struct answer a;
    run(&a, WORDS("--logit-bias", "2:100"));
    assert_int_equal(a.n, 1);
    assert_int_equal(a.ids[0], END_ID);
    assert_string_equal(a.reason, "stop");
    assert_string_equal(a.stop, "null");
    assert_string_equal(a.text, "");
    run(&a, WORDS("--logit-bias", "2:100", "--ignore-eos"));
    assert_int_equal(a.n, OUTPUT);
    assert_string_equal(a.reason, "length");
    run(&a, WORDS("--logit-bias", "2:100", "--min-tokens", "7"));
    assert_int_equal(a.n, 8);
    assert_memory_equal(a.ids, base.ids, 7 * sizeof *a.ids);
    assert_string_equal(a.reason, "stop");
}

// ---- the cluster -------------------------------------------------------------------------------

static int start(void **state)
{
    (void)state;
    const char *dir = test_path(test_source_dir(), "deploy/demo-model");
    cluster_start(&cluster, dir, WORDS("--tensor-parallel-degree", "2"));
    struct command m;
    cluster_run(&cluster, &m,
        WORDS("generate", "--prompt", story, "--temperature", "0", "--max-tokens", "60", "--output",
            "jsonl"));
    cluster_answer(&m, 0, &base);
    size_t end = 0;
    for (uint32_t i = 0; i < base.n; i++) {
        end += json_string_length(json_object_get(json_array_get(m.lines, i), "text"));
        text_end[i] = end;
    }
    command_free(&m);
    assert_int_equal(base.n, OUTPUT);
    assert_true(end == base.n_text && strlen(base.text) == end);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    cluster_stop(&cluster);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_plain_output),
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_min_tokens),
        cmocka_unit_test(test_held_back_in_vain),
        cmocka_unit_test(test_stop_ids),
        cmocka_unit_test(test_end_token),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
