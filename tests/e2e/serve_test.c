// SPDX-License-Identifier: Apache-2.0
// The whole chain with real processes: client, coordinator, mpirun with one and two ranks. Golden
// prompts are sent at once; every one must get the tokens that transformers computed for it alone.
#include "tests/e2e/cluster.h"

#include "client/phalanx_client.h"

#include <jansson.h>
#include <string.h>

enum { PROMPTS_MAX = 8, TOKENS_MAX = 64, COPIES = 8 };

struct golden {
    uint32_t ids[1024], n_ids;
    uint32_t greedy[TOKENS_MAX], n_greedy;
};

static uint32_t take_ids(json_t *list, uint32_t *out, size_t max)
{
    size_t n = json_array_size(list);
    assert_true(n > 0 && n <= max);
    for (size_t i = 0; i < n; i++)
        out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return (uint32_t)n;
}

static int golden_load(const char *dir, struct golden *out)
{
    json_t *root = json_load_file(test_path(dir, "golden.json"), 0, NULL);
    assert_non_null(root);
    json_t *prompts = json_object_get(root, "prompts");
    int n = (int)json_array_size(prompts);
    assert_true(n > 0 && n <= PROMPTS_MAX);
    for (int i = 0; i < n; i++) {
        json_t *p = json_array_get(prompts, (size_t)i);
        out[i].n_ids = take_ids(json_object_get(p, "input_ids"), out[i].ids, 1024);
        out[i].n_greedy = take_ids(json_object_get(p, "greedy_ids"), out[i].greedy, TOKENS_MAX);
    }
    json_decref(root);
    return n;
}

static void submit(struct phalanx_client *c, struct golden *g, uint64_t *request)
{
    Phalanx__Submit m = PHALANX__SUBMIT__INIT;
    struct error err = {0};
    m.model = (char *)(uintptr_t)CLUSTER_MODEL;
    m.prompt_ids = g->ids;
    m.n_prompt_ids = g->n_ids;
    m.has_max_tokens = m.has_temperature = m.has_ignore_eos = 1;
    m.max_tokens = g->n_greedy;
    m.temperature = 0;
    m.ignore_eos = 1;
    assert_int_equal(phalanx_client_submit(c, &m, request, &err), STATUS_OK);
}

// Sends every prompt COPIES times at once and compares each stream with its golden.
static void compare(struct phalanx_client *c, struct golden *golden, int n)
{
    uint64_t first = 0, request;
    int total = n * COPIES, ended = 0;
    static uint32_t seen[PROMPTS_MAX * COPIES];
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < total; i++) {
        submit(c, &golden[i % n], &request);
        if (i == 0)
            first = request;
    }
    while (ended < total) {
        struct phalanx_event e;
        struct error err = {0};
        enum status s = phalanx_client_next(c, -1, &e, &err);
        if (s != STATUS_OK)
            print_error("%s\n", err.text);
        assert_int_equal(s, STATUS_OK);
        int at = (int)(e.request - first);
        struct golden *g = &golden[at % n];
        if (e.kind == PHALANX_EVENT_TOKEN) {
            assert_int_equal(e.offset, seen[at]);
            assert_true(seen[at] < g->n_greedy);
            assert_int_equal(e.token->id, g->greedy[seen[at]++]);
        } else if (e.kind == PHALANX_EVENT_FINISH) {
            assert_string_equal(e.finish->reason, "length");
            assert_int_equal(e.finish->completion_tokens, g->n_greedy);
        } else if (e.kind == PHALANX_EVENT_ENDED) {
            assert_int_equal(seen[at], g->n_greedy);
            ended++;
        } else {
            assert_int_equal(e.kind, PHALANX_EVENT_ACCEPTED);
        }
    }
}

static void check_model(const char *name, const char *degree)
{
    static struct golden golden[PROMPTS_MAX];
    const char *dir = test_path(test_path(test_source_dir(), "tests/golden/models"), name);
    int n = golden_load(dir, golden);
    struct cluster cluster;
    cluster_start(&cluster, dir, (const char *const[]){"--tensor-parallel-degree", degree, NULL});
    struct phalanx_client *c;
    struct error err = {0};
    struct phalanx_client_options options = {.endpoint = cluster.endpoint};
    assert_int_equal(phalanx_client_open(&options, &c, &err), STATUS_OK);
    compare(c, golden, n);
    phalanx_client_close(c);
    cluster_stop(&cluster);
}

static void test_one_rank(void **state)
{
    (void)state;
    check_model("llama-gqa-sharded", "1");
}

static void test_two_ranks(void **state)
{
    (void)state;
    check_model("llama-gqa-sharded", "2");
    check_model("mistral-window24", "2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_rank),
        cmocka_unit_test(test_two_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
