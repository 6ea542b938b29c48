// SPDX-License-Identifier: Apache-2.0
#include "client/supervisor.h"

#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "proto/message.h"
#include "proto/worker.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

enum {
    ASK_EVERY_MS = 10, // while loading
    ASK_TIMEOUT_MS = 200,
    BACKOFF_FIRST_MS = 250,
    BACKOFF_MAX_MS = 60000,
    RESTARTS_MAX = 5, // in a row, none of which became ready
    PROGRESS_BAR = 30,
};
static const uint64_t kill_after_us = 10000000; // after the coordinator has ended

// ---- children ----------------------------------------------------------------------------------

void supervisor_add(struct supervisor_child *c, const char *word)
{
    check(c->n_args + 1 < SUPERVISOR_ARGS_MAX);
    c->args[c->n_args] = strdup(word);
    check(c->args[c->n_args]);
    c->n_args++;
}

void supervisor_add_text(struct supervisor_child *c, const char *name, const char *value)
{
    if (!value)
        return;
    supervisor_add(c, name);
    supervisor_add(c, value);
}

void supervisor_add_number(struct supervisor_child *c, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    supervisor_add_text(c, name, text);
}

static void child_start(struct supervisor *s, struct supervisor_child *c)
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
    sigprocmask(SIG_SETMASK, &s->signals_before, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    if (c == &s->coordinator)
        fcntl(s->hang_fd[1], F_SETFD, 0);
    // Only `ready:` goes to standard output.
    dup2(STDERR_FILENO, STDOUT_FILENO);
    execvp(c->args[0], c->args);
    fprintf(stderr, "phalanx serve: %s: %s\n", c->args[0], strerror(errno));
    _exit(SUPERVISOR_EXIT_FINAL);
}

static void child_signal(struct supervisor_child *c, int number)
{
    if (c->pid)
        kill(c->pid, number);
}

// Tells the coordinator at once that a copy is gone; its own watch would take seconds.
static void report_group_gone(struct supervisor *s, const char *reason)
{
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_DEALER);
    int linger = 500;
    struct buf packed;
    buf_init(&packed, 65536);
    Phalanx__Worker__Failed failed = PHALANX__WORKER__FAILED__INIT;
    failed.model = (char *)(uintptr_t)s->name;
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

static void begin_stop(struct supervisor *s, uint64_t now)
{
    if (!s->stopping)
        s->stop_us = now;
    s->stopping = true;
}

static void schedule_restart(struct supervisor *s, struct supervisor_child *c, uint64_t now)
{
    if (s->ready)
        c->failures = 0;
    c->failures++;
    c->backoff_ms = c->failures == 1 ? BACKOFF_FIRST_MS : c->backoff_ms * 2;
    if (c->backoff_ms > BACKOFF_MAX_MS)
        c->backoff_ms = BACKOFF_MAX_MS;
    c->start_at_us = now + (uint64_t)c->backoff_ms * 1000;
}

// A child that ends with a code of its own has said why; a signal leaves that to us.
static void say_ended(const char *what, int wait_status, bool final)
{
    const char *next = final ? "" : ", starting again";
    if (WIFSIGNALED(wait_status))
        fprintf(stderr, "phalanx serve: the %s ended with signal %d%s\n", what,
            WTERMSIG(wait_status), next);
    else if (!final || WEXITSTATUS(wait_status) > SUPERVISOR_EXIT_FINAL)
        fprintf(stderr, "phalanx serve: the %s ended with code %d%s\n", what,
            WEXITSTATUS(wait_status), next);
}

// Whether the coordinator still works on what was accepted.
static bool draining(const struct supervisor *s)
{
    return s->stopping && s->coordinator.pid && !s->failed && s->stop_signals < 2;
}

static void child_ended(
    struct supervisor *s, struct supervisor_child *c, int wait_status, uint64_t now)
{
    bool group = c == &s->group;
    int code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1;
    c->pid = 0;
    bool needed = group && code != 0 && draining(s); // for what was accepted
    // It gave requests up, or was killed before they were done. SIGTERM kills it before it serves.
    bool killed = WIFSIGNALED(wait_status) && WTERMSIG(wait_status) != SIGTERM;
    if (!group && s->stopping && (code > 0 || killed)) {
        say_ended("coordinator", wait_status, true);
        s->failed = true;
    }
    if ((s->stopping && !needed) || (!group && code == 0)) {
        c->finished = true;
        begin_stop(s, now);
        return;
    }
    schedule_restart(s, c, now);
    bool final = code == SUPERVISOR_EXIT_FINAL || code == SUPERVISOR_EXIT_USAGE ||
                 c->failures > RESTARTS_MAX || (!group && !s->was_ready);
    say_ended(group ? "ranks" : "coordinator", wait_status, final);
    if (group)
        report_group_gone(s, final ? "its ranks cannot be started" : NULL);
    s->ready = false;
    if (final) {
        c->finished = s->failed = true;
        begin_stop(s, now);
    }
}

static void reap(struct supervisor *s, uint64_t now)
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

static void start_due(struct supervisor *s, uint64_t now)
{
    struct supervisor_child *both[] = {&s->coordinator, &s->group};
    for (int i = s->stopping; i < 2 && (!s->stopping || draining(s)); i++)
        if (!both[i]->pid && !both[i]->finished && now >= both[i]->start_at_us)
            child_start(s, both[i]);
}

// ---- readiness ---------------------------------------------------------------------------------

static void show_progress(struct supervisor *s, uint32_t percent)
{
    static const char full[] = "##############################";
    static const char empty[] = "..............................";
    _Static_assert(sizeof full == PROGRESS_BAR + 1, "one mark each");
    bool terminal = isatty(STDERR_FILENO);
    if (percent == s->shown_percent || percent > 100 || (!terminal && s->shown_percent))
        return;
    s->shown_percent = percent;
    int bars = (int)(percent * PROGRESS_BAR / 100);
    if (terminal)
        fprintf(stderr, "\rloading %s [%.*s%.*s] %3u%%", s->name, bars, full, PROGRESS_BAR - bars,
            empty, percent);
    else
        fprintf(stderr, "loading %s\n", s->name);
}

static void print_bytes(FILE *to, uint64_t bytes)
{
    static const char *const unit[] = {"KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes / 1024;
    size_t i = 0;
    for (; value >= 1000 && i + 1 < COUNT_OF(unit); i++)
        value /= 1024;
    fprintf(to, "%.*f %s", value < 10 ? 2 : value < 100 ? 1 : 0, value, unit[i]);
}

// The bill: what each rank holds. KV pages take memory when they are first written.
static void show_bill(const struct supervisor *s, const Phalanx__Model *m)
{
    if (s->shown_percent && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    fprintf(stderr, "%s: %u rank%s (%s), each ", s->name, m->degree, m->degree == 1 ? "" : "s",
        m->device ? m->device : "");
    print_bytes(stderr, m->weight_bytes);
    fprintf(stderr, " of weights and up to ");
    print_bytes(stderr, m->kv_bytes);
    fprintf(stderr, " of KV cache (%llu tokens); context %u\n",
        (unsigned long long)m->kv_blocks * s->block_tokens, m->context_length);
}

static void say_ready(struct supervisor *s, const Phalanx__Model *m)
{
    show_bill(s, m);
    s->ready = s->was_ready = true;
    s->shown_percent = 0;
    printf("ready: %s on %s\n", s->name, s->endpoint);
    fflush(stdout);
}

// The socket of an ipc:// endpoint is there once the coordinator listens. Connecting before would
// only make ZeroMQ wait before it tries again.
static bool can_ask(const struct supervisor *s)
{
    return strncmp(s->ask_endpoint, "ipc://", 6) != 0 || access(s->ask_endpoint + 6, F_OK) == 0;
}

static void ask_ready(struct supervisor *s)
{
    const Phalanx__Models *models;
    struct error err;
    struct cmd_connection connection = {.endpoint = s->ask_endpoint};
    if (!can_ask(s) ||
        (!s->client && cmd_connect(&connection, 0, 0, &s->client, &err) != STATUS_OK))
        return;
    if (phalanx_client_models(s->client, ASK_TIMEOUT_MS, &models, &err) != STATUS_OK ||
        models->n_model != 1)
        return;
    const Phalanx__Model *m = models->model[0];
    if (strcmp(m->state, "loading") == 0)
        show_progress(s, m->progress);
    else if (strcmp(m->state, "ready") == 0)
        say_ready(s, m);
    // A model that failed ends its ranks, and that decides.
    if (s->ready) {
        phalanx_client_close(s->client);
        s->client = NULL;
    }
}

// ---- the loop ----------------------------------------------------------------------------------

// First SIGTERM: drain. A second one, or ten seconds after the coordinator has ended: kill.
static void stop_children(struct supervisor *s, uint64_t now)
{
    if (!s->drain_asked)
        child_signal(&s->coordinator, SIGTERM);
    s->drain_asked = true;
    bool late = !s->coordinator.pid && now - s->stop_us > kill_after_us;
    // Ranks that have not reached the coordinator before it ended have nobody who tells them.
    bool lost = !s->coordinator.pid && !s->ready;
    if (s->failed || late || lost)
        child_signal(&s->group, SIGTERM);
    if (s->stop_signals > 1 || (late && now - s->stop_us > 2 * kill_after_us)) {
        child_signal(&s->coordinator, SIGKILL);
        child_signal(&s->group, SIGKILL);
    }
    if (s->coordinator.pid)
        s->stop_us = now; // the drain has its own limit, in the coordinator
}

// How long nothing is to be done unless a signal comes; -1: for ever.
static int wait_ms(const struct supervisor *s, uint64_t now)
{
    if (s->stopping && !draining(s))
        return 1000;
    if (!s->stopping && !s->ready && s->coordinator.pid)
        return ASK_EVERY_MS;
    uint64_t due = UINT64_MAX;
    const struct supervisor_child *both[] = {&s->coordinator, &s->group};
    for (int i = 0; i < 2; i++)
        if (!both[i]->pid && !both[i]->finished && both[i]->start_at_us < due)
            due = both[i]->start_at_us;
    if (due == UINT64_MAX)
        return -1;
    return due <= now ? 0 : (int)((due - now) / 1000 + 1);
}

static void take_signals(struct supervisor *s, uint64_t now)
{
    struct signalfd_siginfo info;
    while (read(s->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo != SIGCHLD) {
            s->stop_signals++;
            begin_stop(s, now);
        }
}

// mpirun's death takes its ranks along, also those that are stopped.
static void take_hangs(struct supervisor *s)
{
    uint32_t copy;
    while (read(s->hang_fd[0], &copy, sizeof copy) == (ssize_t)sizeof copy)
        if (s->group.pid) {
            fprintf(stderr, "phalanx serve: the ranks hang, ending them\n");
            child_signal(&s->group, SIGKILL);
        }
}

bool supervisor_run(struct supervisor *s)
{
    while (!s->stopping || s->coordinator.pid || s->group.pid) {
        uint64_t now = clock_now_us();
        take_signals(s, now);
        reap(s, now);
        take_hangs(s);
        if (s->stopping)
            stop_children(s, now);
        start_due(s, now);
        if (!s->ready && !s->stopping && s->coordinator.pid)
            ask_ready(s);
        bool ended = s->stopping && !s->coordinator.pid && !s->group.pid;
        struct pollfd items[] = {
            {.fd = s->signal_fd, .events = POLLIN}, {.fd = s->hang_fd[0], .events = POLLIN}};
        if (!ended)
            poll(items, COUNT_OF(items), wait_ms(s, clock_now_us()));
    }
    return !s->failed;
}

enum status supervisor_open(struct supervisor *s, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    s->signal_fd = -1;
    // Whoever reads our output may go away; the children inherit this.
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, NULL);
    if (sigprocmask(SIG_BLOCK, &set, &s->signals_before) == 0)
        s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0)
        return status_fail(err, STATUS_IO, "signals: %s", strerror(errno));
    if (pipe2(s->hang_fd, O_CLOEXEC | O_NONBLOCK) != 0)
        return status_fail(err, STATUS_IO, "no pipe: %s", strerror(errno));
    return STATUS_OK;
}

void supervisor_close(struct supervisor *s)
{
    phalanx_client_close(s->client);
    if (s->signal_fd >= 0)
        close(s->signal_fd);
    for (int i = 0; i < 2; i++)
        if (s->hang_fd[i] >= 0)
            close(s->hang_fd[i]);
    struct supervisor_child *both[] = {&s->coordinator, &s->group};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < both[i]->n_args; k++)
            free(both[i]->args[k]);
}
