// SPDX-License-Identifier: Apache-2.0
// Real models of the shared oracle through the whole chain, on two ranks: each answers as its
// golden says, text included, and 32 of its prompts at once give what each gives alone, bit for
// bit. The chat model alone, or with --stories those that write stories. Skipped where the oracle
// is missing.
#include "tests/e2e/crowd.h"
#include "tests/e2e/golden_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AT_ONCE = 32, PROMPTS_MAX = 16, OUTPUT_MAX = 96 };

struct model {
    char dir[512];
    json_t *prompts; // of golden.json
    struct golden *golden;
};

static bool model_open(const char *name, struct model *out)
{
    const char *shared = test_shared_dir();
    if (!shared)
        return false;
    snprintf(out->dir, sizeof out->dir, "%s/oracle/models/%s", shared, name);
    json_t *root = json_load_file(test_path(out->dir, "golden.json"), 0, NULL);
    assert_non_null(root);
    out->prompts = json_incref(json_object_get(root, "prompts"));
    json_decref(root);
    out->golden = golden_open(out->dir);
    assert_int_equal(json_array_size(out->prompts), out->golden->n_prompts);
    return true;
}

static void model_close(struct model *m)
{
    json_decref(m->prompts);
    golden_close(m->golden);
}

// As a user asks: text in, text out, to the end that the model itself finds.
static void check_text(const struct cluster *c, const struct model *m, uint32_t k)
{
    static struct answer a;
    const json_t *prompt = json_array_get(m->prompts, k);
    const struct golden_prompt *g = &m->golden->prompt[k];
    const char *expected = json_string_value(json_object_get(prompt, "greedy_text"));
    struct command g_run;
    cluster_run(c, &g_run,
        (const char *const[]){"generate", "--model", CLUSTER_MODEL, "--prompt",
            json_string_value(json_object_get(prompt, "text")), "--parse-special-tokens",
            "--max-tokens", "96", "--temperature", "0", "--output", "jsonl", NULL});
    cluster_answer(&g_run, 0, &a);
    command_free(&g_run);
    bool ended = g->n_greedy < OUTPUT_MAX;
    assert_string_equal(a.reason, ended ? "stop" : "length");
    assert_int_equal(a.n, g->n_greedy);
    for (uint32_t i = 0; i < a.n; i++)
        if (a.ids[i] != g->greedy[i])
            fail_msg(
                "%s, prompt %u: id %u is %u, expected %u", m->dir, k, i, a.ids[i], g->greedy[i]);
    assert_string_equal(a.text, expected);
}

static void check_at_once(const struct cluster *c, const struct model *m)
{
    static struct answer alone[PROMPTS_MAX], crowd[AT_ONCE];
    uint32_t n = m->golden->n_prompts;
    struct crowd w;
    crowd_open(&w, c);
    for (uint32_t k = 0; k < n; k++) {
        const struct golden_prompt *p = &m->golden->prompt[k];
        Phalanx__Submit s = crowd_request(p->ids, p->n_ids, OUTPUT_MAX);
        crowd_send(&w, &s, &alone[k]);
        crowd_wait(&w, 0);
        assert_int_equal(alone[k].n, OUTPUT_MAX);
    }
    for (uint32_t i = 0; i < AT_ONCE; i++) {
        const struct golden_prompt *p = &m->golden->prompt[i % n];
        Phalanx__Submit s = crowd_request(p->ids, p->n_ids, OUTPUT_MAX);
        crowd_send(&w, &s, &crowd[i]);
    }
    int64_t most = 0;
    while (crowd_poll(&w) > 0 && most < AT_ONCE) {
        int64_t running = cluster_stat(c, "running");
        most = running > most ? running : most;
    }
    crowd_wait(&w, 0);
    crowd_close(&w);
    print_message("%s: %d of %d at once\n", strrchr(m->dir, '/') + 1, (int)most, AT_ONCE);
    for (uint32_t i = 0; i < AT_ONCE; i++)
        if (!cluster_answer_same(&alone[i % n], &crowd[i]))
            fail_msg("%s: request %u among %d differs from itself alone", m->dir, i, AT_ONCE);
}

static void check_model(const char *name, const char *degree)
{
    struct model m;
    if (!model_open(name, &m))
        return;
    struct cluster c;
    // A whole crowd fits into one step, and nobody's prompt is found in a cache.
    cluster_start(&c, m.dir,
        (const char *const[]){"--tensor-parallel-degree", degree, "--kv-cache-memory", "256M",
            "--no-prefix-cache", "--max-num-batched-tokens", "1024", NULL});
    for (uint32_t k = 0; k < m.golden->n_prompts; k++)
        check_text(&c, &m, k);
    check_at_once(&c, &m);
    cluster_stop(&c);
    golden_check(m.dir, m.golden, degree);
    model_close(&m);
}

static void test_minimind(void **state)
{
    (void)state;
    check_model("minimind2-small", "2");
}

static void test_stories_small(void **state)
{
    (void)state;
    check_model("stories260K", "2");
    check_model("stories260K", "4");
}

static void test_stories_large(void **state)
{
    (void)state;
    check_model("stories15M-f16", "2");
    check_model("stories15M-f16", "3");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest minimind[] = {cmocka_unit_test(test_minimind)};
    const struct CMUnitTest stories[] = {
        cmocka_unit_test(test_stories_small),
        cmocka_unit_test(test_stories_large),
    };
    if (argc > 1 && strcmp(argv[1], "--stories") == 0)
        return cmocka_run_group_tests(stories, NULL, NULL);
    return cmocka_run_group_tests(minimind, NULL, NULL);
}
