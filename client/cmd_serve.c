// SPDX-License-Identifier: Apache-2.0
// phalanx serve: turns its options into the command lines of the coordinator and of one mpirun,
// makes the folder that their sockets live in, and lets the supervisor run them.
#include "client/cmd.h"

#include "base/check.h"
#include "base/utf8.h"
#include "client/scratch.h"
#include "client/supervisor.h"
#include "proto/certificate.h"
#include "proto/endpoint.h"
#include "proto/limits.h"
#include "proto/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SERVE_TMPDIR_BYTES_MAX = 40 };

struct serve {
    struct settings settings;
    char endpoint[256], worker_endpoint[320], control_endpoint[320], bin[256], name[160];
    int lock_fd;
    struct scratch scratch;
    struct supervisor supervisor;
};

// ---- command lines -----------------------------------------------------------------------------

static void add_program(struct supervisor_child *c, const struct serve *s, const char *name)
{
    char path[320];
    snprintf(path, sizeof path, "%s/%s", s->bin, name);
    supervisor_add(c, path);
}

static void add_word(void *user, const char *word)
{
    supervisor_add(user, word);
}

// What the programs are told: the settings with what serve has decided.
static struct settings child_settings(const struct serve *s)
{
    struct settings c = s->settings;
    c.model_name = s->name;
    c.endpoint = s->endpoint;
    c.control_endpoint = s->control_endpoint;
    c.worker_endpoint = c.coordinator = s->worker_endpoint;
    c.supervisor_fd = s->supervisor.hang_fd[1];
    if (!c.random_weights)
        c.seed = 0; // only random weights depend on it
    return c;
}

static void coordinator_args(struct serve *s)
{
    struct settings settings = child_settings(s);
    add_program(&s->supervisor.coordinator, s, "phalanx-coordinator");
    settings_pass(SETTINGS_COORDINATOR, &settings, add_word, &s->supervisor.coordinator);
}

// What mpirun needs on one machine: root is allowed, ranks may exceed cores, nothing is bound,
// no remote shell is looked for, its files stay in our folder, and a dead rank is noticed at once.
static void mpirun_args(struct serve *s)
{
    static const char *const parameters[][2] = {{"plm", "isolated"}, {"pml", "ob1"},
        {"btl", "self,vader"}, {"btl_vader_single_copy_mechanism", "none"},
        {"odls_base_sigkill_timeout", "0"}, {"oob_tcp_if_include", "lo"},
        {"mpi_yield_when_idle", "1"}};
    struct supervisor_child *c = &s->supervisor.group;
    supervisor_add(c, "mpirun");
    supervisor_add(c, "-q"); // a rank that ends says why by itself
    if (geteuid() == 0)
        supervisor_add(c, "--allow-run-as-root");
    supervisor_add(c, "--oversubscribe");
    supervisor_add_text(c, "--bind-to", "none");
    for (size_t i = 0; i < COUNT_OF(parameters); i++) {
        supervisor_add_text(c, "--mca", parameters[i][0]);
        supervisor_add(c, parameters[i][1]);
    }
    supervisor_add_text(c, "--mca", "orte_tmpdir_base");
    supervisor_add(c, s->scratch.path);
    supervisor_add_text(c, "--mca", "btl_vader_backing_directory");
    supervisor_add(c, s->scratch.path);
    supervisor_add_number(c, "-np", s->settings.tensor_parallel_degree);
}

static void group_args(struct serve *s)
{
    struct settings settings = child_settings(s);
    mpirun_args(s);
    add_program(&s->supervisor.group, s, "phalanx-worker");
    settings_pass(SETTINGS_WORKER, &settings, add_word, &s->supervisor.group);
}

// ---- start and end -----------------------------------------------------------------------------

// The user's own path is found without asking, so nobody else may be able to put a socket there.
static enum status check_owner(const char *dir, struct error *err)
{
    struct stat st;
    if (lstat(dir, &st) != 0)
        return status_fail(err, STATUS_IO, "%s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        return status_fail(err, STATUS_IO,
            "%s is not a folder that only this user can write to, expected one for the default "
            "endpoint, or --endpoint",
            dir);
    return STATUS_OK;
}

// One server per endpoint: whoever holds the lock may use the socket's path.
static enum status lock_endpoint(struct serve *s, struct error *err)
{
    char path[256];
    if (strncmp(s->endpoint, "ipc://", 6) != 0)
        return STATUS_OK;
    snprintf(path, sizeof path, "%s", s->endpoint + 6);
    char *slash = strrchr(path, '/');
    if (!slash || path[0] != '/' || strlen(path) > 100)
        return status_fail(err, STATUS_INVALID,
            "endpoint \"%s\" is not ipc:// with an absolute path of at most 100 bytes",
            s->endpoint);
    *slash = '\0';
    if (*path && mkdir(path, 0700) != 0 && errno != EEXIST)
        return status_fail(err, STATUS_IO, "%s: %s", path, strerror(errno));
    if (!s->settings.endpoint)
        TRY(check_owner(path, err));
    snprintf(path, sizeof path, "%s.lock", s->endpoint + 6);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return status_fail(err, STATUS_IO, "%s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        return status_fail(
            err, STATUS_BUSY, "endpoint %s is in use by another server", s->endpoint);
    }
    s->lock_fd = fd;
    unlink(s->endpoint + 6); // of a server that was killed
    return STATUS_OK;
}

static enum status make_dir(struct serve *s, struct error *err)
{
    // Sockets live there, whose paths are short: a long TMPDIR is not used.
    const char *tmp = config_env("TMPDIR");
    bool fits = tmp && *tmp == '/' && strlen(tmp) <= SERVE_TMPDIR_BYTES_MAX;
    TRY(scratch_open(fits ? tmp : "/tmp", &s->scratch, err));
    const char *dir = s->scratch.path;
    snprintf(s->worker_endpoint, sizeof s->worker_endpoint, "ipc://%s/workers.ipc", dir);
    snprintf(s->control_endpoint, sizeof s->control_endpoint, "ipc://%s/control.ipc", dir);
    return STATUS_OK;
}

static void clean_up(struct serve *s)
{
    supervisor_close(&s->supervisor);
    scratch_close(&s->scratch);
    if (s->lock_fd >= 0) {
        char path[256];
        unlink(s->endpoint + 6);
        snprintf(path, sizeof path, "%s.lock", s->endpoint + 6);
        unlink(path);
        close(s->lock_fd);
    }
}

// What the coordinator would refuse anyway, before anything is started.
static enum status check_keys(const struct serve *s, struct error *err)
{
    const struct settings *o = &s->settings;
    struct certificate c;
    TRY(endpoint_check(s->endpoint, o->curve_server_key != NULL, err));
    if (!o->curve_server_key != !o->curve_authorized_clients)
        return status_fail(err, STATUS_INVALID,
            "expected --curve-server-key and --curve-authorized-clients together");
    if (o->curve_server_key)
        TRY(certificate_read("--curve-server-key", o->curve_server_key, true, &c, err));
    return STATUS_OK;
}

static enum status choose_model(struct serve *s, struct config_list *words, struct error *err)
{
    struct settings *o = &s->settings;
    if (words->count == 1 && !o->model)
        o->model = words->item[0];
    else if (words->count > 0)
        return status_fail(
            err, STATUS_INVALID, "unexpected word \"%.64s\", see --help", words->item[0]);
    if (!o->model)
        return status_fail(err, STATUS_INVALID, "--model is missing, expected a model directory");
    struct stat st;
    bool there = stat(o->model, &st) == 0;
    if (there && S_ISREG(st.st_mode) && o->random_weights)
        return STATUS_OK;
    if (!there || !S_ISDIR(st.st_mode))
        return status_fail(err, STATUS_NOT_FOUND,
            "%.200s is not a directory, expected one with config.json and safetensors files",
            o->model);
    return STATUS_OK;
}

// Scripts read the name from a line, and requests carry it.
static bool name_fits(const char *name)
{
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return false;
    size_t n = strlen(name);
    return n >= 1 && n <= LIMIT_MODEL_NAME_BYTES && utf8_valid(name, n);
}

// The name given, or the directory's.
static enum status choose_name(struct serve *s, struct error *err)
{
    const struct settings *o = &s->settings;
    char real[4096];
    if (!realpath(o->model, real))
        return status_fail(err, STATUS_IO, "%.200s: %s", o->model, strerror(errno));
    const char *name = o->model_name ? o->model_name : strrchr(real, '/') + 1;
    if (!name_fits(name))
        return status_fail(err, STATUS_INVALID,
            "--model-name%s is \"%.128s\", expected 1 to %d bytes of UTF-8 without control "
            "characters",
            o->model_name ? "" : " is not given, and the directory's name", name,
            LIMIT_MODEL_NAME_BYTES);
    snprintf(s->name, sizeof s->name, "%s", name);
    return STATUS_OK;
}

static enum status prepare(struct serve *s, struct config_list *words, struct error *err)
{
    const struct settings *o = &s->settings;
    TRY(choose_model(s, words, err));
    if (o->endpoint && strlen(o->endpoint) >= sizeof s->endpoint)
        return status_fail(
            err, STATUS_INVALID, "--endpoint is longer than %zu bytes", sizeof s->endpoint - 1);
    if (o->endpoint)
        snprintf(s->endpoint, sizeof s->endpoint, "%s", o->endpoint);
    else
        phalanx_client_default_endpoint(s->endpoint, sizeof s->endpoint);
    ssize_t n = readlink("/proc/self/exe", s->bin, sizeof s->bin - 1);
    if (n <= 0)
        return status_fail(err, STATUS_IO, "/proc/self/exe: %s", strerror(errno));
    *strrchr(s->bin, '/') = '\0';
    TRY(check_keys(s, err));
    TRY(choose_name(s, err));
    TRY(lock_endpoint(s, err));
    TRY(make_dir(s, err));
    coordinator_args(s);
    group_args(s);
    return STATUS_OK;
}

// The supervisor's view of what prepare() has decided.
static bool supervise(struct serve *s)
{
    struct supervisor *v = &s->supervisor;
    v->name = s->name;
    v->endpoint = s->endpoint;
    v->worker_endpoint = s->worker_endpoint;
    // A path of its own: the public one may need keys, or belong to another server.
    v->ask_endpoint = s->control_endpoint;
    v->block_tokens = (uint32_t)s->settings.block_size;
    return supervisor_run(v);
}

int cmd_serve(int argc, char **argv)
{
    static struct serve s = {.lock_fd = -1,
        .scratch.lock_fd = -1,
        .supervisor.signal_fd = -1,
        .supervisor.hang_fd = {-1, -1}};
    static struct config_list words;
    struct error err = {0};
    bool help = false;
    enum status status =
        settings_parse(SETTINGS_SERVE, argc, argv, &s.settings, &words, &help, &err);
    if (help) {
        printf("usage: phalanx serve [--model] DIR [options]\n"
               "Serves a model until SIGTERM or phalanx stop. Prints `ready: NAME on ENDPOINT` on\n"
               "standard output once requests can come, everything else on standard error.\n\n");
        settings_help(SETTINGS_SERVE, stdout);
        cmd_help_end();
        return CMD_DONE;
    }
    if (status == STATUS_OK)
        status = supervisor_open(&s.supervisor, &err);
    if (status == STATUS_OK)
        status = prepare(&s, &words, &err);
    int code =
        status == STATUS_OK ? (supervise(&s) ? CMD_DONE : CMD_FAILED) : cmd_fail("serve", &err);
    clean_up(&s);
    return code;
}
