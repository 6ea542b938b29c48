// SPDX-License-Identifier: Apache-2.0
// The Python client of docs/protocol.md, as it stands there, against real servers: it streams what
// the command line streams, survives the coordinator's death, cancels, and shows keys.
#include "tests/client/shell.h"
#include "tests/e2e/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PYTHON "/usr/bin/python3"
#define PROMPT "the house"

static char dir[64], script[96];
static bool missing;

// What stands between ```python and ``` in the document.
static void extract(void)
{
    char *line = NULL;
    size_t size = 0;
    bool inside = false;
    int n_lines = 0;
    FILE *in = fopen(test_path(test_source_dir(), "docs/protocol.md"), "r");
    FILE *out = fopen(script, "w");
    assert_non_null(in);
    assert_non_null(out);
    while (getline(&line, &size, in) > 0) {
        if (strncmp(line, "```", 3) == 0) {
            inside = strcmp(line, "```python\n") == 0;
        } else if (inside) {
            fputs(line, out);
            n_lines++;
        }
    }
    free(line);
    fclose(in);
    assert_int_equal(fclose(out), 0);
    assert_true(n_lines > 50);
}

static int prepare(void **state)
{
    (void)state;
    char command[2400];
    missing = shell_run(PYTHON " -c 'import zmq, zmq.auth, google.protobuf' 2>/dev/null") != 0 ||
              shell_run("protoc --version >/dev/null 2>&1") != 0;
    if (missing) {
        printf("skipped: no python3-zmq and python3-protobuf under " PYTHON ", or no protoc\n");
        return 0;
    }
    snprintf(dir, sizeof dir, "/tmp/phalanx-protocol-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(script, sizeof script, "%s/client.py", dir);
    extract();
    snprintf(command, sizeof command, "protoc --python_out=%s -I %s/proto client.proto", dir,
        test_source_dir());
    assert_int_equal(shell_run(command), 0);
    return 0;
}

static int clean_up(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return missing ? 0 : shell_run(command);
}

// ---- the example as a process ------------------------------------------------------------------

struct example {
    pid_t pid;
    int out_fd, err_fd, code;
    char out[65536], err[4096];
};

static void example_start(struct example *x, const char *endpoint, const char *model,
    const char *server_pub, const char *client_key)
{
    *x = (struct example){
        .out_fd = memfd_create("out", MFD_CLOEXEC), .err_fd = memfd_create("err", MFD_CLOEXEC)};
    x->pid = fork();
    assert_true(x->pid >= 0);
    if (x->pid > 0)
        return;
    dup2(x->out_fd, STDOUT_FILENO);
    dup2(x->err_fd, STDERR_FILENO);
    execl(PYTHON, PYTHON, script, endpoint, model, PROMPT, server_pub, client_key, (char *)NULL);
    _exit(127);
}

static void read_file(int fd, char *out, size_t n)
{
    ssize_t size = pread(fd, out, n - 1, 0);
    assert_true(size >= 0);
    out[size] = '\0';
}

static void example_end(struct example *x)
{
    int status;
    while (waitpid(x->pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    x->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_file(x->out_fd, x->out, sizeof x->out);
    read_file(x->err_fd, x->err, sizeof x->err);
    close(x->out_fd);
    close(x->err_fd);
}

// Waits until it has written so many bytes.
static void example_wait_output(const struct example *x, off_t bytes)
{
    struct stat st;
    for (int i = 0; i < 20000; i++) {
        assert_int_equal(fstat(x->out_fd, &st), 0);
        if (st.st_size >= bytes)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); // 20 s in all
    }
    fail_msg("the example writes nothing");
}

// The command line's answer under the seed that the example names must be the same bytes.
static void check_same(const struct cluster *c, const struct example *x)
{
    bool ended = strncmp(x->err, "length: ", 8) == 0 || strncmp(x->err, "stop: ", 6) == 0;
    if (x->code != 0 || !ended)
        print_error("%d %s", x->code, x->err);
    assert_int_equal(x->code, 0);
    assert_true(ended);
    const char *seed = strstr(x->err, "seed ");
    assert_non_null(seed);
    char number[32] = "";
    assert_int_equal(sscanf(seed, "seed %31[0-9]", number), 1);
    struct command m;
    cluster_run(c, &m,
        (const char *const[]){"generate", "--model", CLUSTER_MODEL, "--prompt", PROMPT,
            "--max-tokens", "400", "--temperature", "0.8", "--seed", number, NULL});
    assert_int_equal(m.code, 0);
    assert_string_equal(m.out, x->out);
    command_free(&m);
}

static const char *golden(void)
{
    return test_path(test_source_dir(), "tests/golden/models/llama-mqa-f16");
}

// ---- tests -------------------------------------------------------------------------------------

static void test_stream(void **state)
{
    (void)state;
    if (missing)
        return;
    static struct example x;
    struct cluster c;
    cluster_start(&c, golden(), NULL);
    example_start(&x, c.endpoint, CLUSTER_MODEL, NULL, NULL);
    example_end(&x);
    check_same(&c, &x);
    example_start(&x, c.endpoint, "unknown", NULL, NULL);
    example_end(&x);
    assert_int_equal(x.code, 1);
    assert_string_equal(x.err, "not_found: model \"unknown\" is not served here\n");
    cluster_stop(&c);
}

// A model of random weights that takes its time, so that a signal finds a stream in its middle. The
// thread sanitizer takes it by itself.
#ifdef __SANITIZE_THREAD__
#define SLOW_LAYERS "1"
#else
#define SLOW_LAYERS "6"
#endif

static void make_slow_model(const char *path)
{
    static const char config[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\","
        "\"hidden_size\": 384, \"intermediate_size\": 1536, \"num_hidden_layers\": " SLOW_LAYERS ","
        "\"num_attention_heads\": 6, \"num_key_value_heads\": 6, \"vocab_size\": 515,"
        "\"max_position_embeddings\": 1024, \"rms_norm_eps\": 1e-5, \"torch_dtype\": \"float32\","
        "\"bos_token_id\": 1, \"eos_token_id\": [], \"tie_word_embeddings\": false}";
    char command[2400];
    assert_int_equal(mkdir(path, 0700), 0);
    FILE *f = fopen(test_path(path, "config.json"), "w");
    assert_non_null(f);
    fputs(config, f);
    assert_int_equal(fclose(f), 0);
    snprintf(command, sizeof command, "cp %s/tokenizer.json %s/tokenizer_config.json %s", golden(),
        golden(), path);
    assert_int_equal(shell_run(command), 0);
}

static void test_kill_and_cancel(void **state)
{
    (void)state;
    if (missing)
        return;
    static struct example x;
    struct cluster c;
    pid_t pids[CLUSTER_PIDS_MAX];
    char model[96];
    snprintf(model, sizeof model, "%s/slow", dir);
    make_slow_model(model);
    cluster_start(&c, model, (const char *const[]){"--random-weights", NULL});
    example_start(&x, c.endpoint, CLUSTER_MODEL, NULL, NULL);
    example_wait_output(&x, 20);
    assert_int_equal(cluster_pids(&c, "phalanx-coordinator", pids), 1);
    assert_int_equal(kill(pids[0], SIGKILL), 0);
    example_end(&x);
    check_same(&c, &x);
    example_start(&x, c.endpoint, CLUSTER_MODEL, NULL, NULL);
    example_wait_output(&x, 20);
    assert_int_equal(kill(x.pid, SIGINT), 0);
    example_end(&x);
    assert_int_equal(x.code, 0);
    assert_int_equal(strncmp(x.err, "abort: ", 7), 0);
    assert_non_null(strstr(x.err, "cancelled by the client"));
    cluster_stop(&c);
}

static void test_keys(void **state)
{
    (void)state;
    if (missing)
        return;
    static struct example x;
    char keys[96], server[128], client[128], server_key[128], authorized[128];
    struct command m;
    struct cluster c;
    snprintf(keys, sizeof keys, "%s/keys", dir);
    snprintf(server, sizeof server, "%s/server.pub", keys);
    snprintf(server_key, sizeof server_key, "%s/server.key", keys);
    snprintf(client, sizeof client, "%s/client.key", keys);
    snprintf(authorized, sizeof authorized, "%s/authorized/client.pub", keys);
    cluster_run(NULL, &m, (const char *const[]){"keygen", keys, NULL});
    assert_int_equal(m.code, 0);
    command_free(&m);
    cluster_start(&c, golden(),
        (const char *const[]){"--curve-server-key", server_key, "--curve-authorized-clients",
            authorized, NULL}); // CURVE over ipc is allowed too, and a single file
    example_start(&x, c.endpoint, CLUSTER_MODEL, server, client);
    example_end(&x);
    if (x.code != 0)
        print_error("%s", x.err);
    assert_int_equal(x.code, 0);
    assert_non_null(strstr(x.err, " prompt tokens, "));
    cluster_stop(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_kill_and_cancel),
        cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests(tests, prepare, clean_up);
}
