// SPDX-License-Identifier: Apache-2.0
// Rules about #include: the arrows between folders, private headers, and who may know which
// library.
#include "base/check.h"
#include "tests/tidy/tidy.h"

#include <ctype.h>
#include <string.h>

// The picture of the house: a folder may include itself and these.
static const struct arrow {
    const char *from, *to;
} arrows[] = {
    {"base/", ""},
    {"proto/", "base/"},
    {"model/", "base/"},
    {"kernels/", "base/"},
    {"collectives/", "base/"},
    {"worker/", "base/ proto/ model/ kernels/ collectives/"},
    {"coordinator/", "base/ proto/ model/"},
    {"client/", "base/ proto/ model/"},
    {"bench/", "base/ proto/ model/ kernels/ collectives/ worker/ coordinator/ client/"},
    {"tests/", "base/ proto/ model/ kernels/ collectives/ worker/ coordinator/ client/ bench/"},
};

// Which files may include a system header or a library. Tests and benches may include any.
static const struct owner {
    const char *header, *files;
} owners[] = {
    {"mpi.h", "collectives/bootstrap_mpi. collectives/backend_mpi. worker/main.c"},
    {"zmq.h", "coordinator/main.c coordinator/shell worker/uplink. worker/main.c client/ "
              "proto/certificate."},
    {"jansson.h", "model/ client/"},
    {"pcre2.h", "model/"},
    {"utf8proc.h", "model/"},
    {"protobuf-c/protobuf-c.h", "proto/"},
    {"pthread.h", "base/ kernels/cpu/team. collectives/ coordinator/shell worker/"},
    {"immintrin.h", "kernels/cpu/ collectives/reduce collectives/move base/"},
    {"assert.h", ""},
    {"alloca.h", ""},
};

// The pure state machine: no clock, no input or output, no randomness, no threads.
static const char core_files[] =
    "coordinator/core coordinator/sched coordinator/kv_blocks coordinator/prefix "
    "coordinator/text_stream";
static const char core_headers[] =
    "time.h sys/ unistd.h poll.h fcntl.h pthread.h signal.h zmq.h sched.h threads.h";

// Whether `path` begins with one of the words of `list`.
static bool begins_with_one(const char *path, const char *list)
{
    while (*list) {
        size_t n = strcspn(list, " ");
        if (n && strncmp(path, list, n) == 0)
            return true;
        list += n + (list[n] == ' ');
    }
    return false;
}

static bool same_folder(const char *a, const char *b)
{
    const char *slash = strrchr(a, '/');
    size_t n = slash ? (size_t)(slash - a) + 1 : 0;
    return strncmp(a, b, n) == 0 && !strchr(b + n, '/');
}

static void check_own(struct tidy *t, const struct source *s, const char *name, unsigned at)
{
    for (size_t i = 0; i < COUNT_OF(arrows); i++) {
        if (!path_begins(s->path, arrows[i].from))
            continue;
        if (!path_begins(name, arrows[i].from) && !begins_with_one(name, arrows[i].to))
            tidy_report(t, RULE_ARROW, s->path, at, name);
    }
    if (path_begins(s->path, "tests/") || path_begins(s->path, "bench/"))
        return;
    if (strstr(name, "_internal.") && !same_folder(s->path, name))
        tidy_report(t, RULE_PRIVATE, s->path, at, name);
    if (path_begins(name, "kernels/cpu/") && !path_begins(s->path, "kernels/cpu/"))
        tidy_report(t, RULE_PRIVATE, s->path, at, name);
}

static void check_system(struct tidy *t, const struct source *s, const char *name, unsigned at)
{
    if (path_begins(s->path, "tests/") || path_begins(s->path, "bench/"))
        return;
    for (size_t i = 0; i < COUNT_OF(owners); i++)
        if (strcmp(name, owners[i].header) == 0 && !begins_with_one(s->path, owners[i].files))
            tidy_report(t, RULE_SYSTEM_HEADER, s->path, at, name);
    if (begins_with_one(s->path, core_files) && begins_with_one(name, core_headers))
        tidy_report(t, RULE_SYSTEM_HEADER, s->path, at, name);
}

static void check_guard(struct tidy *t, const struct source *s)
{
    char guard[256] = "#ifndef PHALANX_";
    size_t n = strlen(guard);
    for (const char *p = s->path; *p && n + 2 < sizeof guard; p++)
        guard[n++] = isalnum((unsigned char)*p) ? (char)toupper((unsigned char)*p) : '_';
    guard[n++] = '\n';
    guard[n] = '\0';
    if (!strstr(s->text, guard))
        tidy_report(t, RULE_GUARD, s->path, 1, "no guard of this name");
}

void include_rules(struct tidy *t, const struct source *s)
{
    unsigned at = 0;
    for (const char *p = s->text; *p;) {
        char name[256];
        size_t n = strcspn(p, "\n");
        at++;
        if (sscanf(p, "#include \"%255[^\"\n]\"", name) == 1)
            check_own(t, s, name, at);
        else if (sscanf(p, "#include <%255[^>\n]>", name) == 1)
            check_system(t, s, name, at);
        p += n + (p[n] == '\n');
    }
    if (path_ends(s->path, ".h"))
        check_guard(t, s);
}
