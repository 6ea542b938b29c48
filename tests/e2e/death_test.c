// SPDX-License-Identifier: Apache-2.0
// A rank dies while requests run: the supervisor starts the group again, the coordinator computes
// anew what was lost, and clients see nothing of it, not in one bit. Where the ranks cannot be
// started again, serve says so and ends, and the clients are told.
#include "tests/e2e/load.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

enum { REQUESTS = 24 };

static char model_dir[512];
static struct load load;
static struct answer got[REQUESTS];

static void test_rank_dies(void **state)
{
    (void)state;
    struct cluster c;
    struct crowd w;
    cluster_start(&c, model_dir, WORDS("--tensor-parallel-degree", "2"));
    crowd_open(&w, &c);
    load_send(&load, &w, load.expected);
    crowd_wait(&w, 0);
    assert_int_equal(cluster_stat(&c, "group_deaths"), 0);
    for (int which = 0; which < 2; which++) {
        crowd_close(&w);
        crowd_open(&w, &c);
        load_send(&load, &w, got);
        load_wait_under_way(&load, &w, got);
        load_signal_rank(&c, (uint32_t)which, SIGKILL);
        crowd_wait(&w, 0);
        load_expect_same(&load, got);
        assert_int_equal(cluster_stat(&c, "group_deaths"), which + 1);
    }
    crowd_close(&w);
    cluster_wait_log(&c, "the ranks ended", 5);
    cluster_stop(&c);
}

// The whole mpirun at once, and idle: the next request waits for the new ranks.
static void test_launcher_dies(void **state)
{
    (void)state;
    struct cluster c;
    struct crowd w;
    pid_t pids[CLUSTER_PIDS_MAX];
    cluster_start(&c, model_dir, WORDS("--tensor-parallel-degree", "2"));
    int n = cluster_pids(&c, "orterun", pids);
    if (n == 0)
        n = cluster_pids(&c, "mpirun", pids);
    assert_int_equal(n, 1);
    kill(pids[0], SIGKILL);
    crowd_open(&w, &c);
    load_send(&load, &w, got);
    crowd_wait(&w, 0);
    crowd_close(&w);
    load_expect_same(&load, got);
    cluster_stop(&c);
}

// A rank that is stopped for less than what makes it hang goes on where it was.
static void test_rank_stops(void **state)
{
    (void)state;
    struct cluster c;
    struct crowd w;
    pid_t workers[CLUSTER_PIDS_MAX];
    cluster_start(&c, model_dir, WORDS("--tensor-parallel-degree", "2"));
    crowd_open(&w, &c);
    load_send(&load, &w, got);
    load_wait_under_way(&load, &w, got);
    assert_int_equal(cluster_pids(&c, "phalanx-worker", workers), 2);
    kill(workers[1], SIGSTOP);
    cluster_sleep_ms(900);
    kill(workers[1], SIGCONT);
    crowd_wait(&w, 0);
    crowd_close(&w);
    load_expect_same(&load, got);
    assert_int_equal(cluster_stat(&c, "group_deaths"), 0);
    cluster_stop(&c);
}

// The weights are gone when the ranks come back: serve ends with 1 and says what is missing.
static void test_cannot_restart(void **state)
{
    (void)state;
    char dir[] = "/tmp/phalanx-e2e-model-XXXXXX", script[1024];
    struct cluster c;
    struct command m, g;
    assert_non_null(mkdtemp(dir));
    snprintf(script, sizeof script, "cp %s/* %s", model_dir, dir);
    cluster_run_shell(NULL, &m, script, WORDS(NULL));
    assert_int_equal(m.code, 0);
    command_free(&m);
    cluster_start(&c, dir, WORDS("--tensor-parallel-degree", "2"));
    snprintf(script, sizeof script, "rm %s/*.safetensors", dir);
    cluster_run_shell(NULL, &m, script, WORDS(NULL));
    command_free(&m);
    command_spawn(&g, &c,
        WORDS("generate", "--tokens", "1,5", "--max-tokens", "500", "--n", "64", "--ignore-eos",
            "--output", "jsonl"));
    for (int i = 0; i < 500 && cluster_stat(&c, "running") == 0; i++)
        cluster_sleep_ms(2);
    load_signal_rank(&c, 0, SIGKILL);
    assert_int_equal(cluster_wait(&c), 1);
    assert_non_null(strstr(c.serve.err, "safetensors"));
    command_wait(&g);
    assert_int_equal(g.code, 1);
    assert_non_null(strstr(g.err, "phalanx generate: "));
    command_free(&g);
    command_free(&c.serve);
    snprintf(script, sizeof script, "rm -r %s", dir);
    cluster_run_shell(NULL, &m, script, WORDS(NULL));
    command_free(&m);
}

static int start(void **state)
{
    (void)state;
    snprintf(
        model_dir, sizeof model_dir, "%s/tests/golden/models/llama-gqa-sharded", test_source_dir());
    load_make(&load, REQUESTS, 3);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rank_dies),
        cmocka_unit_test(test_launcher_dies),
        cmocka_unit_test(test_rank_stops),
        cmocka_unit_test(test_cannot_restart),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
