// SPDX-License-Identifier: Apache-2.0
// The life of a server as its operator sees it: it answers while the model loads, drains on
// SIGTERM, SIGINT and `phalanx stop`, ends at once on a second signal, survives readers that go
// away, has one endpoint per user, and leaves nothing to stay when it is killed.
#include "tests/e2e/cluster.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

enum { SAMPLES = 64, OUTPUT = 240 };

static char model_dir[512];

// A request that takes long: many samples to the end of the context.
static void long_request(struct command *m, const struct cluster *c)
{
    command_spawn(m, c,
        WORDS("generate", "--model", CLUSTER_MODEL, "--tokens", "1,5,9", "--ignore-eos", "--n",
            "64", "--max-tokens", "240", "--seed", "1", "--output", "jsonl"));
}

static void wait_lines(const struct command *m, int n)
{
    for (int tries = 0; tries < 2000; tries++) {
        char *out = command_peek(m);
        int found = 0;
        for (const char *p = out; (p = strchr(p, '\n')); p++)
            found++;
        free(out);
        if (found >= n)
            return;
        cluster_sleep_ms(5);
    }
    fail_msg("no tokens come");
}

static void expect_complete(struct command *m)
{
    static struct answer a;
    command_wait(m);
    for (int i = 0; i < SAMPLES; i++) {
        cluster_answer(m, i, &a);
        assert_int_equal(a.n, OUTPUT);
        assert_string_equal(a.reason, "length");
    }
    command_free(m);
}

static void expect_ends_well(struct cluster *c)
{
    int code = cluster_wait(c);
    if (code != 0)
        print_error("%s", c->serve.err);
    assert_int_equal(code, 0);
    command_free(&c->serve);
}

// Ctrl-C cancels in the middle of a stream that flows; one sentence, whatever the samples are.
static void test_interrupt_cancels(void **state)
{
    (void)state;
    struct cluster c;
    struct command m;
    cluster_start(&c, model_dir, NULL);
    long_request(&m, &c);
    wait_lines(&m, 20);
    assert_int_equal(kill(m.pid, SIGINT), 0);
    command_wait(&m);
    assert_int_equal(m.code, 1);
    assert_string_equal(m.err, "phalanx generate: cancelled by the client\n");
    const json_t *last = json_array_get(m.lines, json_array_size(m.lines) - 1);
    assert_string_equal(json_string_value(json_object_get(last, "finish_reason")), "abort");
    command_free(&m);
    cluster_stop(&c);
}

// ---- loading -----------------------------------------------------------------------------------

// An mpirun that takes a second more to start, in front of the real one.
static void slow_mpirun(char dir[32], char path[4096])
{
    char file[64], longer[4200];
    snprintf(dir, 32, "/tmp/phalanx-slow-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/mpirun", dir);
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    snprintf(path, 4096, "%s", getenv("PATH"));
    fprintf(f, "#!/bin/sh\nPATH='%s'\nsleep 1\nexec mpirun \"$@\"\n", path);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(file, 0700), 0);
    snprintf(longer, sizeof longer, "%s:%s", dir, path);
    assert_int_equal(setenv("PATH", longer, 1), 0);
}

static void usual_mpirun(const char *dir, const char *path)
{
    char file[64];
    snprintf(file, sizeof file, "%s/mpirun", dir);
    assert_int_equal(setenv("PATH", path, 1), 0);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(dir), 0);
}

// From the first answer on: `loading`, and requests are accepted and wait.
static void test_answers_while_loading(void **state)
{
    (void)state;
    static char dir[32], path[4096];
    struct cluster c;
    struct command m, g;
    bool loading = false;
    slow_mpirun(dir, path);
    cluster_spawn(&c, model_dir, WORDS("--tensor-parallel-degree", "4"));
    command_spawn(&g, &c,
        WORDS("generate", "--model", CLUSTER_MODEL, "--tokens", "1,5", "--ignore-eos", "--output",
            "jsonl", "--timeout-ms", "60000"));
    for (int i = 0; i < 1000 && !loading; i++) {
        cluster_run(&c, &m, WORDS("models", "--output", "jsonl", "--timeout-ms", "100"));
        loading = m.code == 0 && strstr(m.out, "\"state\":\"loading\"");
        assert_null(strstr(m.out, "\"state\":\"ready\""));
        command_free(&m);
    }
    assert_true(loading);
    cluster_wait_ready(&c);
    usual_mpirun(dir, path);
    command_wait(&g);
    assert_int_equal(g.code, 0);
    assert_int_equal(json_array_size(g.lines), 17);
    command_free(&g);
    cluster_stop(&c);
}

// Until serve has its endpoint; before that a signal ends it as it ends any program.
static void wait_lock(const struct cluster *c)
{
    char path[128];
    snprintf(path, sizeof path, "%s/client.ipc.lock", c->dir);
    for (int i = 0; i < 4000 && access(path, F_OK) != 0; i++)
        cluster_sleep_ms(5);
}

// Before the model is there: nothing has been promised to anybody, so it ends at once.
static void test_stop_while_loading(void **state)
{
    (void)state;
    for (int wait = 0; wait <= 400; wait += 80) {
        struct cluster c;
        cluster_spawn(&c, model_dir, WORDS("--tensor-parallel-degree", "2"));
        wait_lock(&c);
        cluster_sleep_ms(wait);
        kill(c.serve.pid, SIGTERM);
        expect_ends_well(&c);
    }
}

// ---- the end -----------------------------------------------------------------------------------

static void check_drain(int signal_number)
{
    struct cluster c;
    struct command g, m;
    cluster_start(&c, model_dir, WORDS("--tensor-parallel-degree", "2"));
    long_request(&g, &c);
    wait_lines(&g, 10);
    if (signal_number) {
        kill(c.serve.pid, signal_number);
    } else {
        cluster_run(&c, &m, WORDS("stop"));
        assert_int_equal(m.code, 0);
        command_free(&m);
    }
    cluster_sleep_ms(50);
    // While it drains it takes nothing new, and says so.
    cluster_run(&c, &m, WORDS("generate", "--model", CLUSTER_MODEL, "--tokens", "1,5"));
    assert_int_equal(m.code, 3);
    command_free(&m);
    expect_complete(&g);
    expect_ends_well(&c);
}

static void test_sigterm_drains(void **state)
{
    (void)state;
    check_drain(SIGTERM);
}

static void test_sigint_drains(void **state)
{
    (void)state;
    check_drain(SIGINT);
}

static void test_stop_drains(void **state)
{
    (void)state;
    check_drain(0);
}

// A second signal does not wait for requests; their clients notice the silence.
static void test_second_signal(void **state)
{
    (void)state;
    struct cluster c;
    struct command g;
    cluster_start(&c, model_dir, WORDS("--tensor-parallel-degree", "2"));
    long_request(&g, &c);
    wait_lines(&g, 10);
    kill(c.serve.pid, SIGTERM);
    cluster_sleep_ms(50);
    kill(c.serve.pid, SIGTERM);
    assert_int_equal(cluster_wait(&c), 1); // what was accepted was not done
    command_free(&c.serve);
    kill(g.pid, SIGTERM); // it would wait for another server for a while
    command_wait(&g);
    assert_int_not_equal(g.code, 0);
    command_free(&g);
}

// ---- surroundings ------------------------------------------------------------------------------

// Whoever read the server's output is gone: its next line must not kill it.
static void test_output_closed(void **state)
{
    (void)state;
    struct cluster c;
    struct command m;
    pid_t workers[CLUSTER_PIDS_MAX];
    cluster_spawn_shell(&c,
        "exec \"$0\" \"$@\" > >(head -n 1 >/dev/null) 2> >(head -c 1 >/dev/null)", model_dir,
        WORDS("--tensor-parallel-degree", "2"));
    cluster_wait_state(&c, "ready", 30);
    cluster_sleep_ms(100);
    assert_int_equal(cluster_pids(&c, "phalanx-worker", workers), 2);
    kill(workers[1], SIGKILL); // makes all of them speak
    cluster_sleep_ms(300);
    cluster_wait_state(&c, "ready", 30);
    cluster_run(&c, &m, WORDS("generate", "--tokens", "1,5", "--max-tokens", "4"));
    assert_int_equal(m.code, 0);
    command_free(&m);
    cluster_stop(&c);
}

// With none of its standard streams, whose numbers its sockets must not get.
static void test_streams_closed(void **state)
{
    (void)state;
    struct cluster c;
    struct command m;
    cluster_spawn_shell(&c, "exec \"$0\" \"$@\" <&- >&- 2>&-", model_dir, NULL);
    cluster_wait_state(&c, "ready", 30);
    cluster_run(&c, &m, WORDS("generate", "--tokens", "1,5", "--max-tokens", "4"));
    assert_int_equal(m.code, 0);
    command_free(&m);
    cluster_stop(&c);
}

// Without --endpoint, server and clients of one user meet at one ipc:// path.
static void test_default_endpoint(void **state)
{
    (void)state;
    char dir[] = "/tmp/phalanx-e2e-run-XXXXXX", expected[128], path[128];
    struct command serve, m;
    assert_non_null(mkdtemp(dir));
    setenv("XDG_RUNTIME_DIR", dir, 1);
    command_spawn(&serve, NULL, WORDS("serve", model_dir));
    snprintf(expected, sizeof expected, "ready: llama-gqa-sharded on ipc://%s/phalanx/client.ipc\n",
        dir);
    for (int i = 0; i < 400; i++) {
        char *out = command_peek(&serve);
        bool ready = strcmp(out, expected) == 0;
        free(out);
        if (ready)
            break;
        cluster_sleep_ms(50);
    }
    cluster_run(NULL, &m, WORDS("generate", "--tokens", "1,5", "--max-tokens", "2"));
    assert_int_equal(m.code, 0);
    command_free(&m);
    struct stat st;
    snprintf(path, sizeof path, "%s/phalanx", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 077, 0); // nobody else's
    cluster_run(NULL, &m, WORDS("stop"));
    assert_int_equal(m.code, 0);
    command_free(&m);
    command_wait(&serve);
    assert_int_equal(serve.code, 0);
    assert_string_equal(serve.out, expected);
    command_free(&serve);
    assert_int_equal(rmdir(path), 0); // empty
    assert_int_equal(rmdir(dir), 0);
    unsetenv("XDG_RUNTIME_DIR");
}

// A folder that others can write to is no place for the endpoint that clients find by themselves.
static void test_default_endpoint_open(void **state)
{
    (void)state;
    char dir[] = "/tmp/phalanx-e2e-run-XXXXXX", path[128];
    struct command m;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/phalanx", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(chmod(path, 0777), 0);
    setenv("XDG_RUNTIME_DIR", dir, 1);
    cluster_run(NULL, &m, WORDS("serve", model_dir));
    unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(m.code, 1);
    assert_non_null(strstr(m.err, path));
    assert_non_null(strstr(m.err, "--endpoint"));
    command_free(&m);
    assert_int_equal(rmdir(path), 0); // empty
    assert_int_equal(rmdir(dir), 0);
}

static void wait_ready(struct command *serve)
{
    for (int i = 0; i < 400; i++) {
        char *out = command_peek(serve);
        bool ready = strncmp(out, "ready: ", 7) == 0;
        free(out);
        if (ready)
            return;
        cluster_sleep_ms(50);
    }
    fail_msg("serve is not ready");
}

static void expect_folders(const char *dir, int n)
{
    struct command m;
    cluster_run_shell(NULL, &m, "ls -d \"$1\"/phalanx-serve-* 2>/dev/null | wc -l", WORDS(dir));
    assert_int_equal(strtol(m.out, NULL, 10), n);
    command_free(&m);
}

// What a server that was killed leaves, the next one of this user removes; one that lives keeps
// its own.
static void test_killed(void **state)
{
    (void)state;
    char dir[] = "/tmp/phalanx-e2e-run-XXXXXX", first[64], second[64];
    struct command a, b;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    assert_non_null(mkdtemp(dir));
    setenv("TMPDIR", dir, 1);
    snprintf(first, sizeof first, "ipc://%s/a.ipc", dir);
    snprintf(second, sizeof second, "ipc://%s/b.ipc", dir);
    command_spawn(&a, NULL, WORDS("serve", model_dir, "--endpoint", first));
    wait_ready(&a);
    assert_int_equal(kill(a.pid, SIGKILL), 0);
    command_wait(&a);
    command_free(&a);
    while (waitpid(-1, NULL, 0) > 0) // its orphans have gone too
        continue;
    expect_folders(dir, 1);
    command_spawn(&a, NULL, WORDS("serve", model_dir, "--endpoint", first));
    wait_ready(&a);
    expect_folders(dir, 1);
    command_spawn(&b, NULL, WORDS("serve", model_dir, "--endpoint", second));
    wait_ready(&b);
    expect_folders(dir, 2);
    assert_int_equal(kill(a.pid, SIGTERM), 0);
    assert_int_equal(kill(b.pid, SIGTERM), 0);
    command_wait(&a);
    command_wait(&b);
    assert_int_equal(a.code, 0);
    assert_int_equal(b.code, 0);
    command_free(&a);
    command_free(&b);
    assert_int_equal(rmdir(dir), 0); // empty
    unsetenv("TMPDIR");
}

// A stream whose server is killed goes on at the one that takes its place, although nobody has told
// its coordinator to end.
static void test_killed_in_stream(void **state)
{
    (void)state;
    char dir[] = "/tmp/phalanx-e2e-run-XXXXXX";
    struct cluster c;
    struct command serve, g;
    assert_non_null(mkdtemp(dir));
    setenv("TMPDIR", dir, 1);
    snprintf(c.endpoint, sizeof c.endpoint, "ipc://%s/a.ipc", dir);
    const char *const words[] = {
        "serve", model_dir, "--model-name", CLUSTER_MODEL, "--endpoint", c.endpoint, NULL};
    command_spawn(&serve, NULL, words);
    wait_ready(&serve);
    long_request(&g, &c);
    wait_lines(&g, 10);
    assert_int_equal(kill(serve.pid, SIGKILL), 0);
    command_wait(&serve);
    command_free(&serve);
    command_spawn(&serve, NULL, words);
    wait_ready(&serve);
    expect_complete(&g);
    assert_int_equal(kill(serve.pid, SIGTERM), 0);
    command_wait(&serve);
    assert_int_equal(serve.code, 0);
    command_free(&serve);
    while (waitpid(-1, NULL, 0) > 0) // the orphans of the first one
        continue;
    assert_int_equal(rmdir(dir), 0); // empty
    unsetenv("TMPDIR");
}

static void test_tcp(void **state)
{
    (void)state;
    struct cluster c;
    struct command m;
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", 20000 + (int)getpid() % 12000);
    cluster_start(&c, model_dir, WORDS("--endpoint", endpoint));
    cluster_run(&c, &m, WORDS("generate", "--tokens", "1,5", "--max-tokens", "2"));
    assert_int_equal(m.code, 0);
    command_free(&m);
    struct cluster second;
    cluster_spawn(&second, model_dir, WORDS("--endpoint", endpoint));
    assert_int_equal(cluster_wait(&second), 1);
    assert_non_null(strstr(second.serve.err, endpoint));
    command_free(&second.serve);
    cluster_stop(&c);
}

static int start(void **state)
{
    (void)state;
    snprintf(
        model_dir, sizeof model_dir, "%s/tests/golden/models/llama-gqa-sharded", test_source_dir());
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_while_loading),
        cmocka_unit_test(test_stop_while_loading),
        cmocka_unit_test(test_sigterm_drains),
        cmocka_unit_test(test_sigint_drains),
        cmocka_unit_test(test_stop_drains),
        cmocka_unit_test(test_second_signal),
        cmocka_unit_test(test_output_closed),
        cmocka_unit_test(test_streams_closed),
        cmocka_unit_test(test_interrupt_cancels),
        cmocka_unit_test(test_default_endpoint),
        cmocka_unit_test(test_default_endpoint_open),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_killed_in_stream),
        cmocka_unit_test(test_tcp),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
