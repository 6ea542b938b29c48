// SPDX-License-Identifier: Apache-2.0
// A rank that hangs is not dead, so nobody is told: the coordinator finds it out, the supervisor
// ends the group and starts it again, and clients see nothing of it, not in one bit. A server that
// is told to stop meanwhile finishes what it has accepted, or says that it does not.
#include "tests/e2e/load.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

enum { REQUESTS = 8, CLUSTERS = 2 };

static char model_dir[512];
static struct load load;
static struct answer got[CLUSTERS][REQUESTS];

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
        load_send(&load, &w[i], load.expected);
        crowd_wait(&w[i], 0);
        crowd_close(&w[i]);
        crowd_open(&w[i], &c[i]);
        load_send(&load, &w[i], got[i]);
        load_wait_under_way(&load, &w[i], got[i]);
        load_signal_rank(&c[i], i, SIGSTOP);
    }
    for (uint32_t i = 0; i < CLUSTERS; i++) {
        char sentence[64];
        snprintf(sentence, sizeof sentence, "and rank %u does not run", i);
        cluster_wait_log(&c[i], sentence, 30); // the collectives' own deadline is a minute
        crowd_wait(&w[i], 0);
        crowd_close(&w[i]);
        load_expect_same(&load, got[i]);
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
    load_send(&load, &w, got[0]);
    load_wait_under_way(&load, &w, got[0]);
    load_signal_rank(&c, 1, SIGKILL);
    assert_int_equal(kill(c.serve.pid, SIGTERM), 0);
    crowd_wait(&w, 0);
    crowd_close(&w);
    load_expect_same(&load, got[0]);
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
        cluster_sleep_ms(2);
    load_signal_rank(&c, 0, SIGKILL);
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
    load_make(&load, REQUESTS, 5);
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
