// SPDX-License-Identifier: Apache-2.0
// phalanx serve: the supervisor. Starts the coordinator and one mpirun per model copy, restarts
// each alone with back-off, shows loading progress, and takes everything down with it. It parses
// nothing that comes from clients.
#include "client/cmd.h"

#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/config.h"
#include "proto/certificate.h"
#include "proto/endpoint.h"
#include "proto/message.h"
#include "proto/worker.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

enum {
    SERVE_ARGS_MAX = 80,
    SERVE_POLL_MS = 20,
    SERVE_BACKOFF_FIRST_MS = 250,
    SERVE_BACKOFF_MAX_MS = 60000,
    SERVE_RESTARTS_MAX = 5, // in a row, none of which became ready
    SERVE_KILL_AFTER_US = 10000000,
    SERVE_TMPDIR_BYTES_MAX = 40,
    WORKER_EXIT_FINAL = 3, // a worker's exit code: starting it again would fail again
};

struct serve_settings {
    const char *model, *model_name, *endpoint, *kv_cache_memory, *kv_cache_dtype, *dtype, *isa;
    const char *log_level, *curve_server_key, *curve_authorized_clients;
    int device;
    int64_t degree, max_model_len, max_num_seqs, max_num_batched_tokens, block_size, threads, seed;
    bool guaranteed_no_evict, no_prefix_cache, random_weights, skip_tokenizer;
};

#define AT(field) offsetof(struct serve_settings, field)
// clang-format off
static const struct config_row rows[] = {
    {"model", CONFIG_TEXT, AT(model), NULL, 0, 0, NULL, "DIR", "Model directory in Hugging Face's layout (or given as the only word)."},
    {"model-name", CONFIG_TEXT, AT(model_name), NULL, 0, 0, NULL, "NAME", "Name it is served as; the directory's own if not given."},
    {"endpoint", CONFIG_TEXT, AT(endpoint), NULL, 0, 0, NULL, "E", "ipc://PATH or tcp://ADDRESS:PORT; one path per user if not given."},
    {"curve-server-key", CONFIG_TEXT, AT(curve_server_key), NULL, 0, 0, NULL, "FILE", "The server's key pair; needed where other machines can connect (phalanx keygen)."},
    {"curve-authorized-clients", CONFIG_TEXT, AT(curve_authorized_clients), NULL, 0, 0, NULL, "DIR|FILE", "Public keys of the clients that are let in."},
    {"tensor-parallel-degree", CONFIG_INT, AT(degree), "1", 1, 64, NULL, "N", "Ranks that share the model."},
    {"device", CONFIG_ENUM, AT(device), "cpu", 0, 0, "cpu", NULL, "What computes."},
    {"max-model-len", CONFIG_INT, AT(max_model_len), "0", 0, 1048576, NULL, "N", "Context in tokens; 0: what the model declares."},
    {"max-num-seqs", CONFIG_INT, AT(max_num_seqs), "64", 1, 1024, NULL, "N", "Sequences that run at once."},
    {"max-num-batched-tokens", CONFIG_INT, AT(max_num_batched_tokens), "256", 1, 65536, NULL, "N", "Tokens computed per step."},
    {"kv-cache-memory", CONFIG_TEXT, AT(kv_cache_memory), NULL, 0, 0, NULL, "BYTES", "KV cache per rank, such as 512MiB."},
    {"kv-cache-dtype", CONFIG_TEXT, AT(kv_cache_dtype), NULL, 0, 0, NULL, "auto|f32|f16|bf16", "Element type of the KV cache."},
    {"block-size", CONFIG_INT, AT(block_size), "16", 8, 256, NULL, "N", "Tokens per KV block, a power of two."},
    {"threads-per-rank", CONFIG_INT, AT(threads), "1", 1, 1024, NULL, "N", "CPU threads of each rank."},
    {"seed", CONFIG_INT, AT(seed), "0", 0, 9007199254740992.0, NULL, "N", "Seed of --random-weights."},
    {"random-weights", CONFIG_FLAG, AT(random_weights), NULL, 0, 0, NULL, NULL, "Make up weights; the directory needs only config.json."},
    {"guaranteed-no-evict", CONFIG_FLAG, AT(guaranteed_no_evict), NULL, 0, 0, NULL, NULL, "Admit only what can finish without being preempted."},
    {"no-prefix-cache", CONFIG_FLAG, AT(no_prefix_cache), NULL, 0, 0, NULL, NULL, "Compute every prompt anew."},
    {"skip-tokenizer", CONFIG_FLAG, AT(skip_tokenizer), NULL, 0, 0, NULL, NULL, "Serve token ids only."},
    {"isa", CONFIG_TEXT, AT(isa), NULL, 0, 0, NULL, "auto|plain|avx2|avx512", "Instruction set of the CPU kernels."},
    {"log-level", CONFIG_TEXT, AT(log_level), "warn", 0, 0, NULL, "LEVEL", "error, warn, info or debug."},
};
// clang-format on

struct child {
    pid_t pid; // 0: not running
    int n_args;
    char *args[SERVE_ARGS_MAX];
    uint64_t start_at_us; // when to start it (again)
    uint32_t backoff_ms, failures;
    bool finished; // ended and not to be started again
};

struct serve {
    struct serve_settings settings;
    char endpoint[256], worker_endpoint[320], control_endpoint[320], dir[256], bin[256], name[160];
    int lock_fd;
    struct child coordinator, group;
    struct phalanx_client *client;
    bool ready, was_ready, stopping, failed;
    uint64_t stop_us;
    uint32_t shown_percent;
};

static volatile sig_atomic_t signals_seen;

static void on_signal(int number)
{
    (void)number;
    signals_seen++;
}

// ---- children ----------------------------------------------------------------------------------

static void add_arg(struct child *c, const char *text)
{
    check(c->n_args + 1 < SERVE_ARGS_MAX);
    c->args[c->n_args] = strdup(text);
    check(c->args[c->n_args]);
    c->n_args++;
}

static void add_text(struct child *c, const char *name, const char *value)
{
    if (!value)
        return;
    add_arg(c, name);
    add_arg(c, value);
}

static void add_number(struct child *c, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    add_text(c, name, text);
}

static void add_flag(struct child *c, const char *name, bool on)
{
    if (on)
        add_arg(c, name);
}

static void coordinator_args(struct serve *s)
{
    struct child *c = &s->coordinator;
    const struct serve_settings *o = &s->settings;
    char program[320];
    snprintf(program, sizeof program, "%s/phalanx-coordinator", s->bin);
    add_arg(c, program);
    add_text(c, "--model", o->model);
    add_text(c, "--model-name", s->name);
    add_text(c, "--endpoint", s->endpoint);
    add_text(c, "--worker-endpoint", s->worker_endpoint);
    if (o->curve_server_key)
        add_text(c, "--control-endpoint", s->control_endpoint);
    add_text(c, "--curve-server-key", o->curve_server_key);
    add_text(c, "--curve-authorized-clients", o->curve_authorized_clients);
    add_number(c, "--tensor-parallel-degree", o->degree);
    add_number(c, "--max-model-len", o->max_model_len);
    add_number(c, "--max-num-seqs", o->max_num_seqs);
    add_number(c, "--max-num-batched-tokens", o->max_num_batched_tokens);
    add_flag(c, "--guaranteed-no-evict", o->guaranteed_no_evict);
    add_flag(c, "--no-prefix-cache", o->no_prefix_cache);
    add_flag(c, "--skip-tokenizer", o->skip_tokenizer);
    add_text(c, "--log-level", o->log_level);
}

// What mpirun needs on one machine: root is allowed, ranks may exceed cores, nothing is bound,
// no remote shell is looked for, its files stay in our folder, and a dead rank is noticed at once.
static void mpirun_args(struct serve *s)
{
    static const char *const parameters[][2] = {{"plm", "isolated"}, {"pml", "ob1"},
        {"btl", "self,vader"}, {"btl_vader_single_copy_mechanism", "none"},
        {"odls_base_sigkill_timeout", "0"}, {"oob_tcp_if_include", "lo"},
        {"mpi_yield_when_idle", "1"}};
    struct child *c = &s->group;
    add_arg(c, "mpirun");
    if (geteuid() == 0)
        add_arg(c, "--allow-run-as-root");
    add_arg(c, "--oversubscribe");
    add_text(c, "--bind-to", "none");
    for (size_t i = 0; i < COUNT_OF(parameters); i++) {
        add_text(c, "--mca", parameters[i][0]);
        add_arg(c, parameters[i][1]);
    }
    add_text(c, "--mca", "orte_tmpdir_base");
    add_arg(c, s->dir);
    add_text(c, "--mca", "btl_vader_backing_directory");
    add_arg(c, s->dir);
    add_number(c, "-np", s->settings.degree);
}

static void group_args(struct serve *s)
{
    struct child *c = &s->group;
    const struct serve_settings *o = &s->settings;
    char program[320];
    mpirun_args(s);
    snprintf(program, sizeof program, "%s/phalanx-worker", s->bin);
    add_arg(c, program);
    add_text(c, "--coordinator", s->worker_endpoint);
    add_text(c, "--model", o->model);
    add_text(c, "--model-name", s->name);
    add_number(c, "--max-model-len", o->max_model_len);
    add_number(c, "--max-num-seqs", o->max_num_seqs);
    add_number(c, "--max-num-batched-tokens", o->max_num_batched_tokens);
    add_text(c, "--kv-cache-memory", o->kv_cache_memory);
    add_text(c, "--kv-cache-dtype", o->kv_cache_dtype);
    add_text(c, "--isa", o->isa);
    add_number(c, "--block-size", o->block_size);
    add_number(c, "--threads-per-rank", o->threads);
    add_flag(c, "--random-weights", o->random_weights);
    if (o->random_weights)
        add_number(c, "--seed", o->seed);
}

static void child_start(struct child *c)
{
    c->args[c->n_args] = NULL;
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0) {
        c->pid = pid > 0 ? pid : 0;
        return;
    }
    // A group of its own, so that Ctrl-C in the terminal reaches only the supervisor.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    // Only `ready:` goes to standard output.
    dup2(STDERR_FILENO, STDOUT_FILENO);
    execvp(c->args[0], c->args);
    fprintf(stderr, "phalanx serve: %s: %s\n", c->args[0], strerror(errno));
    _exit(WORKER_EXIT_FINAL);
}

static void child_signal(struct child *c, int number)
{
    if (c->pid)
        kill(c->pid, number);
}

// Tells the coordinator at once that a copy is gone; its own watch would take seconds.
static void report_group_gone(struct serve *s, const char *reason)
{
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_DEALER);
    int linger = 500;
    struct buf packed;
    buf_init(&packed, 65536);
    Phalanx__Worker__Failed failed = PHALANX__WORKER__FAILED__INIT;
    failed.model = s->name;
    failed.reason = (char *)(uintptr_t)reason;
    Phalanx__Worker__WorkerMessage m = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    m.failed = &failed;
    message_pack(&m.base, &packed);
    if (zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger) == 0 &&
        zmq_connect(socket, s->worker_endpoint) == 0) {
        zmq_send(socket, "C", 1, ZMQ_SNDMORE);
        zmq_send(socket, packed.data, packed.size, 0);
    }
    zmq_close(socket);
    zmq_ctx_term(context);
    buf_deinit(&packed);
}

static void schedule_restart(struct serve *s, struct child *c, uint64_t now)
{
    if (s->ready)
        c->failures = 0;
    c->failures++;
    c->backoff_ms = c->failures == 1 ? SERVE_BACKOFF_FIRST_MS : c->backoff_ms * 2;
    if (c->backoff_ms > SERVE_BACKOFF_MAX_MS)
        c->backoff_ms = SERVE_BACKOFF_MAX_MS;
    c->start_at_us = now + (uint64_t)c->backoff_ms * 1000;
}

static void child_ended(struct serve *s, struct child *c, int wait_status, uint64_t now)
{
    bool group = c == &s->group;
    int code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
    c->pid = 0;
    if (s->stopping || (!group && code == 0)) {
        c->finished = true;
        s->stopping = true;
        if (s->stop_us == 0)
            s->stop_us = now;
        return;
    }
    fprintf(stderr, "phalanx serve: the %s ended with %d\n", group ? "ranks" : "coordinator", code);
    schedule_restart(s, c, now);
    bool final =
        code == WORKER_EXIT_FINAL || c->failures > SERVE_RESTARTS_MAX || (!group && !s->was_ready);
    if (group)
        report_group_gone(s, final ? "its ranks cannot be started" : NULL);
    s->ready = false;
    if (final) {
        c->finished = s->failed = s->stopping = true;
        s->stop_us = now;
    }
}

static void reap(struct serve *s, uint64_t now)
{
    int wait_status;
    pid_t pid;
    while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0) {
        if (pid == s->coordinator.pid)
            child_ended(s, &s->coordinator, wait_status, now);
        else if (pid == s->group.pid)
            child_ended(s, &s->group, wait_status, now);
    }
}

static void start_due(struct serve *s, uint64_t now)
{
    struct child *both[] = {&s->coordinator, &s->group};
    for (int i = 0; i < 2 && !s->stopping; i++)
        if (!both[i]->pid && !both[i]->finished && now >= both[i]->start_at_us)
            child_start(both[i]);
}

// ---- readiness ---------------------------------------------------------------------------------

static void show_progress(struct serve *s, const Phalanx__Model *m)
{
    if (m->progress == s->shown_percent || m->progress == 0 || m->progress > 100)
        return;
    s->shown_percent = m->progress;
    int bars = (int)(m->progress * 30 / 100);
    fprintf(stderr, "%sloading %s [%.*s%.*s] %u%%%s", isatty(STDERR_FILENO) ? "\r" : "", s->name,
        bars, "##############################", 30 - bars, "..............................",
        m->progress, isatty(STDERR_FILENO) && m->progress < 100 ? "" : "\n");
}

static void ask_ready(struct serve *s)
{
    const Phalanx__Models *models;
    struct error err;
    if (phalanx_client_models(s->client, 200, &models, &err) != STATUS_OK)
        return;
    if (models->n_model != 1)
        return;
    const Phalanx__Model *m = models->model[0];
    if (strcmp(m->state, "loading") == 0) {
        show_progress(s, m);
    } else if (strcmp(m->state, "failed") == 0) {
        fprintf(stderr, "phalanx serve: %s\n", m->reason);
        s->failed = s->stopping = true;
        s->stop_us = clock_now_us();
    } else {
        s->ready = s->was_ready = true;
        printf("ready: %s on %s\n", s->name, s->endpoint);
        fflush(stdout);
    }
}

// ---- start and end -----------------------------------------------------------------------------

static enum status make_dirs(struct serve *s, struct error *err)
{
    char path[256];
    if (strncmp(s->endpoint, "ipc://", 6) == 0) {
        snprintf(path, sizeof path, "%s", s->endpoint + 6);
        char *slash = strrchr(path, '/');
        if (!slash || path[0] != '/' || strlen(path) > 100)
            return status_fail(err, STATUS_INVALID,
                "endpoint \"%s\" is not ipc:// with an absolute path of at most 100 bytes",
                s->endpoint);
        *slash = '\0';
        if (*path && mkdir(path, 0700) != 0 && errno != EEXIST)
            return status_fail(err, STATUS_IO, "%s: %s", path, strerror(errno));
        snprintf(path, sizeof path, "%s.lock", s->endpoint + 6);
        s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (s->lock_fd < 0 || flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0)
            return status_fail(err, STATUS_BUSY,
                "endpoint %s is in use by another server, or %s cannot be locked", s->endpoint,
                path);
    }
    // Sockets live there, whose paths are short: a long TMPDIR is not used.
    const char *tmp = config_env("TMPDIR");
    bool fits = tmp && *tmp == '/' && strlen(tmp) <= SERVE_TMPDIR_BYTES_MAX;
    snprintf(
        s->dir, sizeof s->dir, "%s/phalanx-%u-XXXXXX", fits ? tmp : "/tmp", (unsigned)getuid());
    if (!mkdtemp(s->dir))
        return status_fail(err, STATUS_IO, "%s: %s", s->dir, strerror(errno));
    snprintf(s->worker_endpoint, sizeof s->worker_endpoint, "ipc://%s/workers.ipc", s->dir);
    snprintf(s->control_endpoint, sizeof s->control_endpoint, "ipc://%s/control.ipc", s->dir);
    return STATUS_OK;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    remove(path);
    return 0;
}

static void clean_up(struct serve *s)
{
    phalanx_client_close(s->client);
    if (s->dir[0])
        nftw(s->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (s->lock_fd >= 0) {
        char path[256];
        unlink(s->endpoint + 6);
        snprintf(path, sizeof path, "%s.lock", s->endpoint + 6);
        unlink(path);
        close(s->lock_fd);
    }
    struct child *both[] = {&s->coordinator, &s->group};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < both[i]->n_args; k++)
            free(both[i]->args[k]);
}

// What the coordinator would refuse anyway, before anything is started.
static enum status check_keys(const struct serve *s, struct error *err)
{
    const struct serve_settings *o = &s->settings;
    struct certificate c;
    TRY(endpoint_check(s->endpoint, o->curve_server_key != NULL, err));
    if (!o->curve_server_key != !o->curve_authorized_clients)
        return status_fail(err, STATUS_INVALID,
            "expected --curve-server-key and --curve-authorized-clients together");
    if (o->curve_server_key)
        TRY(certificate_read("--curve-server-key", o->curve_server_key, true, &c, err));
    return STATUS_OK;
}

static enum status prepare(struct serve *s, struct config_list *words, struct error *err)
{
    struct serve_settings *o = &s->settings;
    if (words->count == 1 && !o->model)
        o->model = words->item[0];
    else if (words->count > 0)
        return status_fail(
            err, STATUS_INVALID, "unexpected word \"%.64s\", see --help", words->item[0]);
    if (!o->model)
        return status_fail(err, STATUS_INVALID, "--model is missing, expected a model directory");
    struct stat st;
    if (stat(o->model, &st) != 0 || !S_ISDIR(st.st_mode))
        return status_fail(err, STATUS_NOT_FOUND,
            "%.200s is not a directory, expected one with config.json and safetensors files",
            o->model);
    char real[4096];
    if (!realpath(o->model, real))
        return status_fail(err, STATUS_IO, "%.200s: %s", o->model, strerror(errno));
    const char *slash = strrchr(real, '/');
    snprintf(s->name, sizeof s->name, "%.128s", o->model_name ? o->model_name : slash + 1);
    if (o->endpoint)
        snprintf(s->endpoint, sizeof s->endpoint, "%s", o->endpoint);
    else
        phalanx_client_default_endpoint(s->endpoint, sizeof s->endpoint);
    ssize_t n = readlink("/proc/self/exe", s->bin, sizeof s->bin - 1);
    if (n <= 0)
        return status_fail(err, STATUS_IO, "/proc/self/exe: %s", strerror(errno));
    *strrchr(s->bin, '/') = '\0';
    TRY(check_keys(s, err));
    TRY(make_dirs(s, err));
    coordinator_args(s);
    group_args(s);
    // Where clients need keys, the supervisor asks on a path of its own.
    struct cmd_connection connection = {
        .endpoint = o->curve_server_key ? s->control_endpoint : s->endpoint};
    return cmd_connect(&connection, 0, &s->client, err);
}

// First SIGTERM: drain. A second one, or ten seconds after the coordinator has ended: kill.
static void stop_children(struct serve *s, uint64_t now, int signals)
{
    static int signals_sent;
    if (signals_sent == 0) {
        child_signal(&s->coordinator, SIGTERM);
        signals_sent = 1;
    }
    bool late = !s->coordinator.pid && now - s->stop_us > SERVE_KILL_AFTER_US;
    if (s->failed || late)
        child_signal(&s->group, SIGTERM);
    if (signals > 1 || (late && now - s->stop_us > 2 * (uint64_t)SERVE_KILL_AFTER_US)) {
        child_signal(&s->coordinator, SIGKILL);
        child_signal(&s->group, SIGKILL);
    }
    if (s->coordinator.pid)
        s->stop_us = now; // the drain has its own limit, in the coordinator
}

static void run(struct serve *s)
{
    while (!s->stopping || s->coordinator.pid || s->group.pid) {
        uint64_t now = clock_now_us();
        reap(s, now);
        int signals = signals_seen;
        if (signals > 0 && !s->stopping) {
            s->stopping = true;
            s->stop_us = now;
        }
        if (s->stopping)
            stop_children(s, now, signals);
        else
            start_due(s, now);
        if (!s->ready && !s->stopping && s->coordinator.pid)
            ask_ready(s);
        // Signals end the sleep early; otherwise an idle supervisor wakes a few times a second.
        clock_sleep_us((uint64_t)(s->ready ? 10 * SERVE_POLL_MS : SERVE_POLL_MS) * 1000);
    }
}

int cmd_serve(int argc, char **argv)
{
    static struct serve s = {.lock_fd = -1};
    static struct config_list words;
    struct error err = {0};
    bool help = false;
    enum status status =
        config_parse(rows, COUNT_OF(rows), argc, argv, &s.settings, &words, &help, &err);
    if (help) {
        printf(
            "usage: phalanx serve --model DIR [options]\n"
            "Serves a model until SIGTERM or phalanx stop. Prints `ready: NAME on ENDPOINT`.\n\n");
        config_help(rows, COUNT_OF(rows), stdout);
        return CMD_DONE;
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    if (status == STATUS_OK)
        status = prepare(&s, &words, &err);
    if (status == STATUS_OK)
        run(&s);
    int code = s.failed ? CMD_FAILED : CMD_DONE;
    if (status != STATUS_OK)
        code = cmd_fail("serve", &err);
    clean_up(&s);
    return code;
}
