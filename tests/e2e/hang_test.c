// SPDX-License-Identifier: Apache-2.0
// A rank that hangs is not dead, so nobody is told: the coordinator finds it out, the supervisor
// ends the group and starts it again, and clients see nothing of it, not in one bit. A server that
// is told to stop meanwhile finishes what it has accepted, or says that it does not.
#include "tests/e2e/crowd.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

enum { REQUESTS = 8, OUTPUT = 400, PROMPT = 40, CLUSTERS = 2 };

static char model_dir[512];
static uint32_t prompt[REQUESTS][PROMPT];
static struct answer expected[REQUESTS], got[CLUSTERS][REQUESTS];

static void sleep_ms(int ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static void send_all(struct crowd *w, struct answer *out)
{
    for (uint32_t k = 0; k < REQUESTS; k++) {
        Phalanx__Submit s = crowd_request(prompt[k], 1 + k, OUTPUT);
        s.temperature = (float)(k % 2);
        s.has_seed = 1;
        s.seed = k;
        crowd_send(w, &s, &out[k]);
    }
}

static void wait_under_way(struct crowd *w, const struct answer *a)
{
    for (int tries = 0; tries < 20000; tries++) {
        int begun = 0;
        assert_int_equal(crowd_poll(w), REQUESTS);
        for (int k = 0; k < REQUESTS; k++)
            begun += a[k].n >= 5;
        if (begun == REQUESTS)
            return;
        sleep_ms(1);
    }
    fail_msg("the requests do not begin");
}

static void expect_same(const struct answer *a)
{
    for (int k = 0; k < REQUESTS; k++)
        if (!cluster_answer_same(&expected[k], &a[k]))
            fail_msg("request %d differs from itself in peace", k);
}

static void signal_rank(const struct cluster *c, uint32_t rank, int number)
{
    pid_t workers[CLUSTER_PIDS_MAX];
    assert_int_equal(cluster_pids(c, "phalanx-worker", workers), 2);
    assert_int_equal(kill(workers[rank], number), 0);
}

// Two servers at once: in one rank 0 is stopped, in the other rank 1.
static void test_rank_hangs(void **state)
{
    (void)state;
    struct cluster c[CLUSTERS];
    struct crowd w[CLUSTERS];
    for (uint32_t i = 0; i < CLUSTERS; i++)
        cluster_start(&c[i], model_dir, WORDS("--tensor-parallel-degree", "2"));
    for (uint32_t i = 0; i < CLUSTERS; i++) {
        crowd_open(&w[i], &c[i]);
        send_all(&w[i], expected);
        crowd_wait(&w[i], 0);
        crowd_close(&w[i]);
        crowd_open(&w[i], &c[i]);
        send_all(&w[i], got[i]);
        wait_under_way(&w[i], got[i]);
        signal_rank(&c[i], i, SIGSTOP);
    }
    for (uint32_t i = 0; i < CLUSTERS; i++) {
        char sentence[64];
        snprintf(sentence, sizeof sentence, "and rank %u does not run", i);
        cluster_wait_log(&c[i], sentence, 30); // the collectives' own deadline is a minute
        crowd_wait(&w[i], 0);
        crowd_close(&w[i]);
        expect_same(got[i]);
        assert_int_equal(cluster_stat(&c[i], "group_deaths"), 1);
        cluster_stop(&c[i]);
    }
}

// ---- stopping ----------------------------------------------------------------------------------

// A rank dies, and the server is told to stop before the next one is there.
static void test_stop_while_down(void **state)
{
    (void)state;
    struct cluster c;
    struct crowd w;
    cluster_start(&c, model_dir, WORDS("--tensor-parallel-degree", "2"));
    crowd_open(&w, &c);
    send_all(&w, got[0]);
    wait_under_way(&w, got[0]);
    signal_rank(&c, 1, SIGKILL);
    assert_int_equal(kill(c.serve.pid, SIGTERM), 0);
    crowd_wait(&w, 0);
    crowd_close(&w);
    expect_same(got[0]);
    assert_int_equal(cluster_wait(&c), 0);
    command_free(&c.serve);
}

// An mpirun in front of the real one, whose file the test may write again.
static void write_mpirun(const char *file, const char *script)
{
    char fresh[128];
    snprintf(fresh, sizeof fresh, "%s.new", file);
    FILE *f = fopen(fresh, "w");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\n%s\n", script);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(fresh, 0700), 0);
    assert_int_equal(rename(fresh, file), 0);
}

// The ranks never come back: the server ends in bounded time, and tells its clients.
static void test_stop_gives_up(void **state)
{
    (void)state;
    char dir[] = "/tmp/phalanx-hang-XXXXXX", file[64];
    static char path[4096], longer[4200], script[4200];
    struct cluster c;
    struct command g;
    assert_non_null(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/mpirun", dir);
    snprintf(path, sizeof path, "%s", getenv("PATH"));
    snprintf(longer, sizeof longer, "%s:%s", dir, path);
    snprintf(script, sizeof script, "PATH='%s' exec mpirun \"$@\"", path);
    write_mpirun(file, script);
    assert_int_equal(setenv("PATH", longer, 1), 0);
    cluster_start(
        &c, model_dir, WORDS("--tensor-parallel-degree", "2", "--drain-timeout-ms", "3000"));
    assert_int_equal(setenv("PATH", path, 1), 0);
    write_mpirun(file, "exec sleep 600");
    command_spawn(&g, &c,
        WORDS("generate", "--tokens", "1,5", "--max-tokens", "500", "--n", "64", "--ignore-eos",
            "--output", "jsonl"));
    for (int i = 0; i < 1000 && cluster_stat(&c, "running") == 0; i++)
        sleep_ms(2);
    signal_rank(&c, 0, SIGKILL);
    assert_int_equal(kill(c.serve.pid, SIGTERM), 0);
    assert_int_equal(cluster_wait(&c), 1);
    assert_non_null(strstr(c.serve.err, "stopped before all requests were done"));
    command_wait(&g);
    assert_int_equal(g.code, 1);
    assert_string_equal(
        g.err, "phalanx generate: the server has stopped before this request was done\n");
    command_free(&g);
    command_free(&c.serve);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(dir), 0);
}

static int start(void **state)
{
    (void)state;
    snprintf(
        model_dir, sizeof model_dir, "%s/tests/golden/models/llama-gqa-sharded", test_source_dir());
    srand(5);
    for (int k = 0; k < REQUESTS; k++)
        for (int i = 0; i < PROMPT; i++)
            prompt[k][i] = 3 + (uint32_t)rand() % 500;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rank_hangs),
        cmocka_unit_test(test_stop_while_down),
        cmocka_unit_test(test_stop_gives_up),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
