// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/cluster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READY_SECONDS = 60, LEFT_SECONDS = 5, WORDS_MAX = 64, CLUSTERS_MAX = 8 };

// Clusters that run, for the end of a test program that failed half-way: copies, since the structs
// of a failed test are gone.
static struct {
    pid_t pid; // 0: unused
    char dir[40];
} running[CLUSTERS_MAX];

void cluster_sleep_ms(int ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

// ---- commands ----------------------------------------------------------------------------------

static const char *program(void)
{
    const char *bin = getenv("PHALANX_BIN");
    return test_path(bin ? bin : "build/release/bin", "phalanx");
}

static void start(struct command *m, const char *const *argv, const char *tmp_dir)
{
    *m = (struct command){.code = -1};
    m->out_fd = memfd_create("out", MFD_CLOEXEC);
    m->err_fd = memfd_create("err", MFD_CLOEXEC);
    assert_true(m->out_fd >= 0 && m->err_fd >= 0);
    m->pid = fork();
    assert_true(m->pid >= 0);
    if (m->pid != 0)
        return;
    // The test's death takes it along, in an orderly way.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(m->out_fd, STDOUT_FILENO);
    dup2(m->err_fd, STDERR_FILENO);
    if (tmp_dir)
        setenv("TMPDIR", tmp_dir, 1);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

// Words to start: the program, or bash with a script and the program as its $0.
struct argv {
    const char *word[WORDS_MAX];
    size_t n;
};

static void push(struct argv *a, const char *word)
{
    assert_true(a->n + 1 < WORDS_MAX);
    a->word[a->n++] = word;
}

static struct argv argv_begin(const char *script)
{
    struct argv a = {0};
    if (script) {
        push(&a, "/bin/bash");
        push(&a, "-c");
        push(&a, script);
    }
    push(&a, program());
    return a;
}

void command_spawn_shell(
    struct command *m, const struct cluster *c, const char *script, const char *const *words)
{
    struct argv a = argv_begin(script);
    if (words[0])
        push(&a, words[0]);
    if (c) {
        push(&a, "--endpoint");
        push(&a, c->endpoint);
    }
    for (size_t i = 1; words[0] && words[i]; i++)
        push(&a, words[i]);
    start(m, a.word, NULL);
}

void command_spawn(struct command *m, const struct cluster *c, const char *const *words)
{
    command_spawn_shell(m, c, NULL, words);
}

static char *read_all(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    char *text = calloc(1, (size_t)st.st_size + 1);
    assert_non_null(text);
    ssize_t n = pread(fd, text, (size_t)st.st_size, 0);
    assert_true(n >= 0);
    return text;
}

// The lines of `text` as JSON objects; NULL if there is none or one is something else.
static json_t *read_lines(const char *text)
{
    json_t *lines = json_array();
    while (*text) {
        const char *end = strchr(text, '\n');
        json_t *o = end ? json_loadb(text, (size_t)(end - text), JSON_ALLOW_NUL, NULL) : NULL;
        if (!o || !json_is_object(o)) {
            json_decref(o);
            json_decref(lines);
            return NULL;
        }
        json_array_append_new(lines, o);
        text = end + 1;
    }
    return lines;
}

static void command_ended(struct command *m, int status)
{
    m->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    m->pid = 0;
    m->out = read_all(m->out_fd);
    m->err = read_all(m->err_fd);
    m->lines = read_lines(m->out);
}

void command_wait(struct command *m)
{
    int status;
    pid_t pid;
    do
        pid = waitpid(m->pid, &status, 0);
    while (pid < 0 && errno == EINTR);
    assert_int_equal(pid, m->pid);
    command_ended(m, status);
}

void cluster_run(const struct cluster *c, struct command *m, const char *const *words)
{
    command_spawn(m, c, words);
    command_wait(m);
}

void cluster_run_shell(
    const struct cluster *c, struct command *m, const char *script, const char *const *words)
{
    command_spawn_shell(m, c, script, words);
    command_wait(m);
}

char *command_peek(const struct command *m)
{
    return read_all(m->out_fd);
}

void command_free(struct command *m)
{
    close(m->out_fd);
    close(m->err_fd);
    free(m->out);
    free(m->err);
    json_decref(m->lines);
    *m = (struct command){.out_fd = -1, .err_fd = -1};
}

json_t *cluster_model(const struct cluster *c)
{
    struct command m;
    cluster_run(c, &m, (const char *const[]){"models", "--output", "jsonl", NULL});
    assert_int_equal(m.code, 0);
    assert_non_null(m.lines);
    json_t *model = json_incref(json_array_get(m.lines, 0));
    command_free(&m);
    assert_non_null(model);
    return model;
}

int64_t cluster_stat(const struct cluster *c, const char *name)
{
    json_t *model = cluster_model(c);
    json_t *field = json_object_get(model, name);
    assert_true(json_is_integer(field));
    int64_t value = json_integer_value(field);
    json_decref(model);
    return value;
}

// ---- processes ---------------------------------------------------------------------------------

static int children_of(pid_t pid, pid_t *out, int n)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *f = fopen(path, "r");
    int child;
    while (f && n < CLUSTER_PIDS_MAX && fscanf(f, "%d", &child) == 1)
        out[n++] = child;
    if (f)
        fclose(f);
    return n;
}

// All processes below serve, whatever they are.
static int descendants(const struct cluster *c, pid_t out[CLUSTER_PIDS_MAX])
{
    int n = children_of(c->serve.pid, out, 0);
    for (int i = 0; i < n; i++)
        n = children_of(out[i], out, n);
    return n;
}

static bool program_is(pid_t pid, const char *name)
{
    char path[64], found[512];
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    ssize_t n = readlink(path, found, sizeof found - 1);
    if (n <= 0)
        return false;
    found[n] = '\0';
    const char *slash = strrchr(found, '/');
    return slash && strcmp(slash + 1, name) == 0;
}

int cluster_pids(const struct cluster *c, const char *name, pid_t out[CLUSTER_PIDS_MAX])
{
    pid_t all[CLUSTER_PIDS_MAX];
    int n = descendants(c, all), found = 0;
    for (int i = 0; i < n; i++)
        if (program_is(all[i], name))
            out[found++] = all[i];
    return found;
}

static void note_shm_of(struct cluster *c, pid_t pid)
{
    char line[512];
    snprintf(line, sizeof line, "/proc/%d/maps", (int)pid);
    FILE *f = fopen(line, "r");
    while (f && fgets(line, sizeof line, f)) {
        char *path = strstr(line, "/dev/shm/");
        if (!path || strstr(path, "(deleted)") || c->n_shm == CLUSTER_PATHS_MAX)
            continue;
        path[strcspn(path, "\n")] = '\0';
        snprintf(c->shm[c->n_shm++], sizeof c->shm[0], "%s", path);
    }
    if (f)
        fclose(f);
}

static void note_shm(struct cluster *c)
{
    pid_t all[CLUSTER_PIDS_MAX];
    int n = descendants(c, all);
    for (int i = 0; i < n; i++)
        note_shm_of(c, all[i]);
}

// ---- server ------------------------------------------------------------------------------------

static void forget(const struct cluster *c)
{
    for (int i = 0; i < CLUSTERS_MAX; i++)
        if (strcmp(running[i].dir, c->dir) == 0)
            running[i].pid = 0;
}

// A failed test leaves its clusters to the end of the program.
static void end_running(void)
{
    for (int i = 0; i < CLUSTERS_MAX; i++) {
        pid_t pid = running[i].pid;
        if (pid <= 0)
            continue;
        for (int k = 0; k < 200 && waitpid(pid, NULL, WNOHANG) == 0; k++) {
            // The second SIGTERM ends without waiting for requests.
            if (k % 40 == 0)
                kill(pid, SIGTERM);
            cluster_sleep_ms(50);
        }
        nftw(running[i].dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
}

static void remember(const struct cluster *c)
{
    static bool first = true;
    if (first)
        atexit(end_running);
    first = false;
    for (int i = 0; i < CLUSTERS_MAX; i++)
        if (running[i].pid == 0) {
            running[i].pid = c->serve.pid;
            memcpy(running[i].dir, c->dir, sizeof c->dir);
            return;
        }
    fail_msg("more than %d clusters at once", CLUSTERS_MAX);
}

void cluster_spawn_shell(
    struct cluster *c, const char *script, const char *model, const char *const *words)
{
    *c = (struct cluster){0};
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    snprintf(c->dir, sizeof c->dir, "/tmp/phalanx-e2e-XXXXXX");
    assert_non_null(mkdtemp(c->dir));
    snprintf(c->endpoint, sizeof c->endpoint, "ipc://%s/client.ipc", c->dir);
    struct argv a = argv_begin(script);
    const char *const first[] = {"serve", "--model", model, "--model-name", CLUSTER_MODEL};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        push(&a, first[i]);
    bool given = false;
    for (size_t i = 0; words && words[i]; i++) {
        given = given || strcmp(words[i], "--endpoint") == 0;
        if (i > 0 && strcmp(words[i - 1], "--endpoint") == 0)
            snprintf(c->endpoint, sizeof c->endpoint, "%s", words[i]);
        push(&a, words[i]);
    }
    if (!given) {
        push(&a, "--endpoint");
        push(&a, c->endpoint);
    }
    start(&c->serve, a.word, c->dir);
    remember(c);
}

void cluster_spawn(struct cluster *c, const char *model, const char *const *words)
{
    cluster_spawn_shell(c, NULL, model, words);
}

char *cluster_log(const struct cluster *c)
{
    return read_all(c->serve.err_fd);
}

static bool contains(int fd, const char *text)
{
    char *all = read_all(fd);
    bool found = strstr(all, text) != NULL;
    free(all);
    return found;
}

static bool has_ended(const struct cluster *c)
{
    siginfo_t info = {0};
    waitid(P_PID, (id_t)c->serve.pid, &info, WEXITED | WNOHANG | WNOWAIT);
    return info.si_pid != 0;
}

// Waits for `text` in one of serve's outputs while it runs.
static bool wait_text(const struct cluster *c, int fd, const char *text, int seconds)
{
    for (int i = 0; i < seconds * 200; i++) {
        bool ended = has_ended(c);
        if (contains(fd, text))
            return true;
        if (ended)
            return false;
        cluster_sleep_ms(5);
    }
    return false;
}

void cluster_wait_ready(struct cluster *c)
{
    char expected[160];
    snprintf(expected, sizeof expected, "ready: %s on %s\n", CLUSTER_MODEL, c->endpoint);
    if (!wait_text(c, c->serve.out_fd, expected, READY_SECONDS)) {
        char *log = cluster_log(c);
        print_error("the server does not become ready:\n%s\n", log);
        free(log);
        fail();
    }
}

void cluster_wait_log(const struct cluster *c, const char *text, int seconds)
{
    if (!wait_text(c, c->serve.err_fd, text, seconds)) {
        char *log = cluster_log(c);
        print_error("\"%s\" is missing in the log:\n%s\n", text, log);
        free(log);
        fail();
    }
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void cluster_wait_state(const struct cluster *c, const char *state, int seconds)
{
    char line[64];
    snprintf(line, sizeof line, "\"state\":\"%s\"", state);
    for (int64_t end = now_ms() + seconds * 1000LL; now_ms() < end; cluster_sleep_ms(50)) {
        struct command m;
        cluster_run(c, &m,
            (const char *const[]){"models", "--output", "jsonl", "--timeout-ms", "500", NULL});
        bool found = m.code == 0 && strstr(m.out, line);
        command_free(&m);
        if (found)
            return;
        if (has_ended(c))
            break;
    }
    fail_msg("the model is not %s after %d s, or the server has ended", state, seconds);
}

void cluster_start(struct cluster *c, const char *model, const char *const *words)
{
    cluster_spawn(c, model, words);
    cluster_wait_ready(c);
}

// Orphans are ours now: whoever still runs a while after serve's end was left behind.
static void check_no_process(const struct cluster *c, const pid_t *was, int n_was)
{
    for (int i = 0; i < n_was; i++) {
        int left = LEFT_SECONDS * 100;
        while (waitpid(was[i], NULL, WNOHANG) <= 0 && kill(was[i], 0) == 0 && left-- > 0)
            cluster_sleep_ms(10);
        if (left <= 0)
            fail_msg("process %d of %s is left behind", (int)was[i], c->dir);
    }
}

static void check_nothing_left(struct cluster *c)
{
    for (int i = 0; i < c->n_shm; i++)
        if (access(c->shm[i], F_OK) == 0)
            fail_msg("%s is left behind", c->shm[i]);
    DIR *d = opendir(c->dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            fail_msg("%s/%s is left behind", c->dir, e->d_name);
    closedir(d);
    assert_int_equal(rmdir(c->dir), 0);
}

int cluster_wait(struct cluster *c)
{
    pid_t all[CLUSTER_PIDS_MAX];
    note_shm(c);
    int n = descendants(c, all);
    command_wait(&c->serve);
    check_no_process(c, all, n);
    check_nothing_left(c);
    forget(c);
    return c->serve.code;
}

void cluster_stop(struct cluster *c)
{
    note_shm(c);
    pid_t pid = c->serve.pid;
    assert_int_equal(kill(pid, SIGTERM), 0);
    int code = cluster_wait(c);
    if (code != 0)
        print_error("%s", c->serve.err);
    assert_int_equal(code, 0);
    command_free(&c->serve);
}
