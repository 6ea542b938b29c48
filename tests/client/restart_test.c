// SPDX-License-Identifier: Apache-2.0
// The coordinator is killed in the middle of streams. It comes back without memory, ranks and
// clients return to it, and every caller sees the stream that it would have seen without the kill.
#include "tests/e2e/cluster.h"

#include "client/phalanx_client.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REQUESTS = 5, SAMPLES = 3, TOKENS = 300, SCORES = 8, KILL_AFTER = 40 };

struct stream {
    uint64_t seed;
    uint32_t n_scores, scores[SCORES];
    float score_logprobs[SCORES];
    uint32_t n[SAMPLES];
    uint32_t ids[SAMPLES][TOKENS];
    float logprobs[SAMPLES][TOKENS];
    char text[SAMPLES][TOKENS * 8];
    size_t n_text[SAMPLES];
    char reason[SAMPLES][16];
    bool ended;
};

static void add_text(struct stream *s, uint32_t index, ProtobufCBinaryData text)
{
    assert_true(s->n_text[index] + text.len < sizeof s->text[0]);
    if (text.len) // an empty text is NULL
        memcpy(s->text[index] + s->n_text[index], text.data, text.len);
    s->n_text[index] += text.len;
}

static void take(struct stream *s, const struct phalanx_event *e)
{
    assert_false(s->ended);
    switch (e->kind) {
    case PHALANX_EVENT_ACCEPTED:
        assert_int_equal(s->seed, 0);
        s->seed = e->seed;
        break;
    case PHALANX_EVENT_PROMPT:
        assert_int_equal(e->offset, s->n_scores);
        assert_true(s->n_scores < SCORES);
        s->score_logprobs[s->n_scores] = e->token->logprob;
        s->scores[s->n_scores++] = e->token->id;
        break;
    case PHALANX_EVENT_TOKEN:
        assert_int_equal(e->offset, s->n[e->index]);
        assert_int_equal(s->reason[e->index][0], 0);
        assert_true(e->offset < TOKENS);
        s->logprobs[e->index][e->offset] = e->token->logprob;
        s->ids[e->index][s->n[e->index]++] = e->token->id;
        add_text(s, e->index, e->token->text);
        break;
    case PHALANX_EVENT_FINISH:
        assert_int_equal(s->reason[e->index][0], 0);
        if (e->finish->completion_tokens != s->n[e->index])
            print_error("%s after %u of %u tokens: %s\n", e->finish->reason, s->n[e->index],
                e->finish->completion_tokens, e->finish->error);
        assert_int_equal(e->finish->completion_tokens, s->n[e->index]);
        snprintf(s->reason[e->index], sizeof s->reason[0], "%s", e->finish->reason);
        add_text(s, e->index, e->finish->text);
        break;
    case PHALANX_EVENT_ENDED:
        s->ended = true;
        break;
    default:
        fail_msg("%s: %s", status_name(e->status), e->reason);
    }
}

// Request i: greedy; sampled with a seed; sampled without one; several samples with scores of the
// prompt; in the name of a tenant with a window.
static void submit(struct phalanx_client *c, int i, uint64_t seed, uint64_t *request)
{
    uint32_t ids[] = {1, 5, 9, 200 + (uint32_t)i, 7};
    struct error err = {0};
    Phalanx__Submit m = PHALANX__SUBMIT__INIT;
    m.model = (char *)(uintptr_t)CLUSTER_MODEL;
    m.prompt_ids = ids;
    m.n_prompt_ids = 5;
    m.has_max_tokens = m.has_temperature = m.has_ignore_eos = m.has_window = 1;
    m.max_tokens = TOKENS;
    m.temperature = i == 0 ? 0.0f : 1.0f;
    m.ignore_eos = 1;
    m.window = 16; // so that no server runs ahead of the kill
    m.has_seed = i == 1 || seed;
    m.seed = seed ? seed : 1234;
    m.has_n = m.has_prompt_logprobs = i == 3;
    m.n = SAMPLES;
    m.tenant = i == 4 ? (char *)(uintptr_t) "someone" : NULL;
    enum status s = phalanx_client_submit(c, &m, request, &err);
    if (s != STATUS_OK)
        print_error("%s\n", err.text);
    assert_int_equal(s, STATUS_OK);
}

static void kill_coordinator(const struct cluster *cluster)
{
    pid_t pids[CLUSTER_PIDS_MAX];
    assert_int_equal(cluster_pids(cluster, "phalanx-coordinator", pids), 1);
    assert_int_equal(kill(pids[0], SIGKILL), 0);
}

// Reads all streams; after so many events the coordinator is killed, unless `kill_after` is 0.
static void read_all(struct phalanx_client *c, const struct cluster *cluster, uint64_t first,
    struct stream *streams, int kill_after)
{
    int ended = 0;
    for (int events = 1; ended < REQUESTS; events++) {
        struct phalanx_event e;
        struct error err = {0};
        enum status s = phalanx_client_next(c, -1, &e, &err);
        if (s != STATUS_OK)
            print_error("%s\n", err.text);
        assert_int_equal(s, STATUS_OK);
        take(&streams[e.request - first], &e);
        ended += e.kind == PHALANX_EVENT_ENDED;
        if (events == kill_after)
            kill_coordinator(cluster);
    }
}

static void run(
    const struct cluster *cluster, const uint64_t *seeds, struct stream *streams, int kill_after)
{
    struct error err;
    struct phalanx_client *c;
    struct phalanx_client_options options = {.endpoint = cluster->endpoint};
    assert_int_equal(phalanx_client_open(&options, &c, &err), STATUS_OK);
    uint64_t first = 0, request;
    for (int i = 0; i < REQUESTS; i++) {
        submit(c, i, seeds ? seeds[i] : 0, &request);
        first = i == 0 ? request : first;
    }
    read_all(c, cluster, first, streams, kill_after);
    phalanx_client_close(c);
}

static void check_same(const struct stream *a, const struct stream *b)
{
    assert_int_equal(a->seed, b->seed);
    assert_int_equal(a->n_scores, b->n_scores);
    assert_memory_equal(a->scores, b->scores, sizeof a->scores);
    assert_memory_equal(a->score_logprobs, b->score_logprobs, sizeof a->score_logprobs);
    for (int i = 0; i < SAMPLES; i++) {
        assert_int_equal(a->n[i], b->n[i]);
        assert_memory_equal(a->ids[i], b->ids[i], sizeof a->ids[0]);
        assert_memory_equal(a->logprobs[i], b->logprobs[i], sizeof a->logprobs[0]);
        assert_int_equal(a->n_text[i], b->n_text[i]);
        assert_memory_equal(a->text[i], b->text[i], a->n_text[i]);
        assert_string_equal(a->reason[i], b->reason[i]);
    }
}

static void test_kill(void **state)
{
    (void)state;
    static struct stream killed[REQUESTS], whole[REQUESTS];
    const char *model = test_path(test_source_dir(), "tests/golden/models/llama-gqa-sharded");
    struct cluster cluster;
    cluster_start(&cluster, model, (const char *const[]){"--tensor-parallel-degree", "2", NULL});
    run(&cluster, NULL, killed, KILL_AFTER);
    uint64_t seeds[REQUESTS];
    for (int i = 0; i < REQUESTS; i++) {
        seeds[i] = killed[i].seed;
        assert_int_equal(killed[i].n[0], TOKENS);
        assert_string_equal(killed[i].reason[0], "length");
    }
    assert_int_equal(killed[3].n_scores, 5);
    run(&cluster, seeds, whole, 0);
    for (int i = 0; i < REQUESTS; i++)
        check_same(&killed[i], &whole[i]);
    cluster_wait_log(&cluster, "the coordinator ended", 1);
    cluster_stop(&cluster);
}

// The command line neither notices.
static void kill_generate_after(long ms)
{
    static struct answer killed, whole;
    const char *model = test_path(test_source_dir(), "tests/golden/models/llama-gqa-sharded");
    const char *const words[] = {"generate", "--tokens", "1,17,300", "--max-tokens", "500",
        "--ignore-eos", "--temperature", "0", "--window", "2", "--output", "jsonl", NULL};
    struct cluster cluster;
    struct command m;
    cluster_start(&cluster, model, NULL);
    command_spawn(&m, &cluster, words);
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
    kill_coordinator(&cluster);
    command_wait(&m);
    cluster_answer(&m, 0, &killed);
    command_free(&m);
    cluster_run(&cluster, &m, words);
    cluster_answer(&m, 0, &whole);
    command_free(&m);
    assert_int_equal(whole.n, 500);
    assert_true(cluster_answer_same(&killed, &whole));
    cluster_stop(&cluster);
}

// While it asks which models there are, while it submits, while it streams.
static void test_kill_generate(void **state)
{
    (void)state;
    static const long after_ms[] = {2, 4, 6, 60};
    for (size_t i = 0; i < sizeof after_ms / sizeof *after_ms; i++)
        kill_generate_after(after_ms[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_kill_generate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
