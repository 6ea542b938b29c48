// SPDX-License-Identifier: Apache-2.0
// A request gives the same bits through the whole chain however it is served: alone, in a batch of
// 32 others, in chunks of 7, after a preemption, behind a prefix hit. That each of these happened
// is proved by what the server reports. Across degrees greedy tokens are equal.
#include "tests/e2e/crowd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 70, OUTPUT = 40, LONG_OUTPUT = 330, OTHERS = 32, TRIES = 20, VOCAB = 515 };

// What --kv-cache-memory below comes to: blocks of 16 tokens.
enum { TINY_BLOCKS = 40 };

enum kind { GREEDY, SAMPLED, KINDS };

static uint32_t prompt[PROMPT], other_prompt[OTHERS][PROMPT];

static int make_prompts(void **state)
{
    (void)state;
    srand(5);
    for (int i = 0; i < PROMPT; i++)
        prompt[i] = 3 + (uint32_t)rand() % (VOCAB - 3);
    for (int k = 0; k < OTHERS; k++)
        for (int i = 0; i < PROMPT; i++)
            other_prompt[k][i] = 3 + (uint32_t)rand() % (VOCAB - 3);
    return 0;
}

static const char *number_text(int n)
{
    static char text[8][16];
    static unsigned next;
    char *out = text[next++ % 8];
    snprintf(out, sizeof text[0], "%d", n);
    return out;
}

// The request under test, as a command that is started but not waited for.
static void request_spawn(
    const struct cluster *c, enum kind kind, int n_output, const char *priority, struct command *m)
{
    const char *words[40] = {"generate", "--model", CLUSTER_MODEL, "--tokens",
        cluster_answer_ids(prompt, PROMPT), "--max-tokens", number_text(n_output), "--ignore-eos",
        "--output", "jsonl", "--priority", priority, "--logprobs", "3"};
    size_t n = 14;
    const char *greedy[] = {"--temperature", "0", NULL};
    const char *sampled[] = {"--temperature", "0.9", "--top-p", "0.95", "--top-k", "100",
        "--repetition-penalty", "1.1", "--presence-penalty", "0.2", "--frequency-penalty", "0.1",
        "--seed", "99", NULL};
    for (const char **more = kind == GREEDY ? greedy : sampled; *more; more++)
        words[n++] = *more;
    command_spawn(m, c, words);
}

// jsonl without the last line, whose timings differ.
static char *token_lines(const struct command *m)
{
    char *lines = strdup(m->out), *last = lines + strlen(lines);
    assert_non_null(lines);
    while (last > lines && (last[-1] != '\n' || last[0] == '\0'))
        last--;
    *last = '\0';
    return lines;
}

struct result {
    struct answer answer;
    char *lines;
    double gap[LONG_OUTPUT]; // between the two likeliest tokens of each step
};

static void take_gaps(const struct command *m, struct result *out)
{
    for (uint32_t i = 0; i < out->answer.n; i++) {
        json_t *tops = json_object_get(json_array_get(m->lines, i), "top_logprobs");
        assert_int_equal(json_array_size(tops), 3);
        double best[2];
        for (size_t k = 0; k < 2; k++)
            best[k] = json_number_value(json_object_get(json_array_get(tops, k), "logprob"));
        out->gap[i] = best[0] - best[1];
    }
}

static void request_finish(struct command *m, int n_output, struct result *out)
{
    command_wait(m);
    cluster_answer(m, 0, &out->answer);
    assert_int_equal(out->answer.n, n_output);
    assert_string_equal(out->answer.reason, "length");
    out->lines = token_lines(m);
    take_gaps(m, out);
    command_free(m);
}

static void request_run(const struct cluster *c, enum kind kind, int n_output, struct result *out)
{
    struct command m;
    request_spawn(c, kind, n_output, "0", &m);
    request_finish(&m, n_output, out);
}

static void expect_same(const struct result *base, struct result *r, const char *what)
{
    if (!cluster_answer_same(&base->answer, &r->answer) || strcmp(base->lines, r->lines) != 0)
        fail_msg("%s: another answer", what);
    free(r->lines);
}

// Runs the request while 32 others are running from its beginning to its end.
static void in_a_crowd(const struct cluster *c, enum kind kind, struct result *out)
{
    static struct answer other[OTHERS];
    for (int tries = 0; tries < TRIES; tries++) {
        struct crowd w;
        struct command m;
        crowd_open(&w, c);
        for (uint32_t k = 0; k < OTHERS; k++) {
            Phalanx__Submit s = crowd_request(other_prompt[k], 1 + k, 512 - PROMPT);
            s.temperature = (float)(k % 2);
            crowd_send(&w, &s, &other[k]);
        }
        while (cluster_stat(c, "running") < OTHERS && crowd_poll(&w) == OTHERS)
            ;
        bool before = crowd_poll(&w) == OTHERS;
        request_spawn(c, kind, OUTPUT, "0", &m);
        request_finish(&m, OUTPUT, out);
        bool after = cluster_stat(c, "running") >= OTHERS;
        crowd_wait(&w, 0);
        crowd_close(&w);
        if (before && after)
            return;
        free(out->lines);
    }
    fail_msg("the others ended too early %d times", TRIES);
}

static void check_alone_crowd_hit(
    const char *model, const char *degree, struct result base[KINDS], struct result tail[KINDS])
{
    struct cluster c;
    cluster_start(&c, model, (const char *const[]){"--tensor-parallel-degree", degree, NULL});
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct result r;
        request_run(&c, kind, OUTPUT, &base[kind]);
        // The first request of all computes its whole prompt; the others find its blocks.
        assert_int_equal(base[kind].answer.cached_tokens, kind == 0 ? 0 : PROMPT / 16 * 16);
        request_run(&c, kind, OUTPUT, &r);
        assert_int_equal(r.answer.cached_tokens, PROMPT / 16 * 16);
        expect_same(&base[kind], &r, "with a prefix hit");
        in_a_crowd(&c, kind, &r);
        expect_same(&base[kind], &r, "in a batch of 33");
        request_run(&c, kind, LONG_OUTPUT, &tail[kind]);
    }
    assert_int_equal(cluster_stat(&c, "preempted"), 0);
    cluster_stop(&c);
    cluster_start(&c, model,
        (const char *const[]){"--tensor-parallel-degree", degree, "--no-prefix-cache", NULL});
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct result r;
        for (int again = 0; again < 2; again++) {
            request_run(&c, kind, OUTPUT, &r);
            assert_int_equal(r.answer.cached_tokens, 0);
            expect_same(&base[kind], &r, "without a prefix cache");
        }
    }
    cluster_stop(&c);
}

static void check_chunks(const char *model, const char *degree, const struct result base[KINDS])
{
    struct cluster c;
    cluster_start(&c, model,
        (const char *const[]){"--tensor-parallel-degree", degree, "--max-num-batched-tokens", "7",
            "--no-prefix-cache", NULL});
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct result r;
        request_run(&c, kind, OUTPUT, &r);
        expect_same(&base[kind], &r, "in chunks of 7");
    }
    cluster_stop(&c);
}

// Two requests of higher priority, which fit beside each other, and ours, for which no blocks are
// left when all have grown: whatever is preempted is ours.
static void check_preempted(
    const char *model, const char *degree, const char *memory, const struct result tail[KINDS])
{
    struct cluster c;
    cluster_start(&c, model,
        (const char *const[]){"--tensor-parallel-degree", degree, "--kv-cache-memory", memory,
            "--no-prefix-cache", NULL});
    assert_int_equal(cluster_stat(&c, "kv_blocks"), TINY_BLOCKS);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        int64_t before = cluster_stat(&c, "preempted"), after = before;
        for (int tries = 0; tries < TRIES && after == before; tries++) {
            struct crowd w;
            struct command m;
            struct result r;
            struct answer other[2];
            crowd_open(&w, &c);
            request_spawn(&c, kind, LONG_OUTPUT, "5", &m);
            for (int k = 0; k < 2; k++) {
                Phalanx__Submit s = crowd_request(other_prompt[k], 50, 250);
                crowd_send(&w, &s, &other[k]);
            }
            crowd_wait(&w, 0);
            crowd_close(&w);
            request_finish(&m, LONG_OUTPUT, &r);
            expect_same(&tail[kind], &r, "preempted");
            after = cluster_stat(&c, "preempted");
        }
        assert_true(after > before);
    }
    cluster_stop(&c);
}

// The same tokens at another degree, up to the first step at which two nearly tie.
static void compare_degrees(const struct result *a, const struct result *b)
{
    assert_int_equal(a->answer.n, b->answer.n);
    for (uint32_t i = 0; i < a->answer.n; i++) {
        if (a->answer.ids[i] != b->answer.ids[i]) {
            assert_true(a->gap[i] < 1e-4);
            return;
        }
        assert_true(fabs((double)a->answer.logprobs[i] - (double)b->answer.logprobs[i]) < 1e-4);
    }
}

static void check_model(
    const char *name, const char *degree, const char *memory, struct result *greedy)
{
    static struct result base[KINDS], tail[KINDS];
    char model[512]; // the buffers of test_path() are used again
    snprintf(model, sizeof model, "%s/tests/golden/models/%s", test_source_dir(), name);
    check_alone_crowd_hit(model, degree, base, tail);
    check_chunks(model, degree, base);
    if (memory)
        check_preempted(model, degree, memory, tail);
    if (greedy)
        *greedy = tail[GREEDY];
    for (enum kind kind = 0; kind < KINDS; kind++) {
        free(base[kind].lines);
        free(tail[kind].lines);
    }
}

static struct result at_degree[3];

static void test_one_rank(void **state)
{
    (void)state;
    check_model("llama-gqa-sharded", "1", "320K", &at_degree[0]);
}

static void test_two_ranks(void **state)
{
    (void)state;
    check_model("llama-gqa-sharded", "2", "160K", &at_degree[1]);
}

static void test_four_ranks(void **state)
{
    (void)state;
    check_model("llama-gqa-sharded", "4", "80K", &at_degree[2]);
}

static void test_across_degrees(void **state)
{
    (void)state;
    compare_degrees(&at_degree[0], &at_degree[1]);
    compare_degrees(&at_degree[0], &at_degree[2]);
}

static void test_window(void **state)
{
    (void)state;
    check_model("mistral-window24", "2", NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_rank),
        cmocka_unit_test(test_two_ranks),
        cmocka_unit_test(test_four_ranks),
        cmocka_unit_test(test_across_degrees),
        cmocka_unit_test(test_window),
    };
    return cmocka_run_group_tests(tests, make_prompts, NULL);
}
