// SPDX-License-Identifier: Apache-2.0
// phalanx keygen: CURVE keys for a server that other machines reach, and for its clients.
#include "client/cmd.h"

#include "base/check.h"
#include "base/config.h"
#include "proto/certificate.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIR_BYTES_MAX = 3800 };

struct keygen_settings {
    const char *dir;
    struct config_list clients;
    bool admin;
};

#define AT(field) offsetof(struct keygen_settings, field)
static const struct config_row rows[] = {
    {"client", CONFIG_LIST, AT(clients), NULL, 0, 0, NULL, "NAME",
        "Make keys for this client only, of a server that has its own; may be repeated."},
    {"admin", CONFIG_FLAG, AT(admin), NULL, 0, 0, NULL, NULL,
        "These clients may stop the server from other machines."},
};

static const char about[] =
    "usage: phalanx keygen DIR [--client NAME]... [--admin]\n"
    "Makes CURVE key files. Without --client: the server's, and one client's named client.\n"
    "Never overwrites a file.\n\n"
    "  DIR/server.key            secret, stays with the server: serve --curve-server-key\n"
    "  DIR/server.pub            for every client: --curve-server-public-key\n"
    "  DIR/NAME.key              secret, of one client: --curve-key\n"
    "  DIR/authorized/NAME.pub   who is let in: serve --curve-authorized-clients "
    "DIR/authorized\n\n";

static enum status make_dir(const char *path, struct error *err)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return status_fail(err, STATUS_IO, "%.200s: %s", path, strerror(errno));
    return STATUS_OK;
}

static void path_of(const char *dir, const char *name, const char *end, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%.3800s/%.200s%s", dir, name, end);
}

// Nothing is written when one of the files is there.
static enum status check_free(const struct keygen_settings *o, struct error *err)
{
    static const char *const ends[] = {".key", ".pub"};
    char path[PATH_MAX], name[128];
    for (int i = -1; i < o->clients.count; i++)
        for (int k = 0; k < 2; k++) {
            const char *client = i >= 0 ? o->clients.item[i] : "client";
            snprintf(name, sizeof name, "%s%.100s", k ? "authorized/" : "", client);
            if (i < 0 && o->clients.count > 0)
                continue;
            path_of(o->dir, name, ends[k], path);
            if (access(path, F_OK) == 0)
                return status_fail(err, STATUS_CONFLICT,
                    "%.200s is there already, expected none: keys are never overwritten", path);
            path_of(o->dir, "server", ends[k], path);
            if (o->clients.count == 0 && access(path, F_OK) == 0)
                return status_fail(err, STATUS_CONFLICT,
                    "%.200s is there already, expected none (--client NAME adds a client)", path);
        }
    return STATUS_OK;
}

static enum status write_half(const char *dir, const char *name, const char *end,
    const struct certificate *c, bool secret, struct error *err)
{
    char path[PATH_MAX];
    path_of(dir, name, end, path);
    TRY(certificate_write(path, c, secret, err));
    printf("%s\n", path);
    return STATUS_OK;
}

static enum status make_client(const struct keygen_settings *o, const char *name, struct error *err)
{
    struct certificate c = {.admin = o->admin};
    char public_name[128];
    snprintf(c.name, sizeof c.name, "%s", name);
    snprintf(public_name, sizeof public_name, "authorized/%.100s", name);
    TRY(certificate_make(&c, err));
    TRY(write_half(o->dir, name, ".key", &c, true, err));
    return write_half(o->dir, public_name, ".pub", &c, false, err);
}

static enum status make_server(const char *dir, struct error *err)
{
    struct certificate c = {0};
    TRY(certificate_make(&c, err));
    TRY(write_half(dir, "server", ".key", &c, true, err));
    return write_half(dir, "server", ".pub", &c, false, err);
}

static enum status make_all(const struct keygen_settings *o, struct error *err)
{
    char path[PATH_MAX];
    for (int i = 0; i < o->clients.count; i++)
        if (!certificate_name_valid(o->clients.item[i]) ||
            strcmp(o->clients.item[i], "server") == 0)
            return status_fail(err, STATUS_INVALID,
                "--client is \"%.80s\", expected up to 64 letters, digits, - _ . and not server",
                o->clients.item[i]);
    for (int i = 0; i < o->clients.count; i++)
        for (int k = 0; k < i; k++)
            if (strcmp(o->clients.item[i], o->clients.item[k]) == 0)
                return status_fail(err, STATUS_INVALID, "--client %s is given twice, expected once",
                    o->clients.item[i]);
    TRY(certificate_available(err));
    TRY(make_dir(o->dir, err));
    path_of(o->dir, "authorized", "", path);
    TRY(make_dir(path, err));
    TRY(check_free(o, err));
    if (o->clients.count == 0) {
        TRY(make_server(o->dir, err));
        return make_client(o, "client", err);
    }
    for (int i = 0; i < o->clients.count; i++)
        TRY(make_client(o, o->clients.item[i], err));
    return STATUS_OK;
}

int cmd_keygen(int argc, char **argv)
{
    struct keygen_settings settings = {0};
    struct config_list words = {0};
    struct error err = {0};
    bool help = false;
    enum status s = config_parse(rows, COUNT_OF(rows), argc, argv, &settings, &words, &help, &err);
    if (help) {
        fputs(about, stdout);
        config_help(rows, COUNT_OF(rows), stdout);
        return CMD_DONE;
    }
    if (s == STATUS_OK && words.count != 1)
        s = status_fail(&err, STATUS_INVALID,
            "%d folders are named, expected one: phalanx keygen DIR", words.count);
    settings.dir = words.item[0];
    if (s == STATUS_OK && (!*settings.dir || strlen(settings.dir) > DIR_BYTES_MAX))
        s = status_fail(&err, STATUS_INVALID, "DIR has %zu bytes, expected 1 to %d",
            strlen(settings.dir), DIR_BYTES_MAX);
    if (s == STATUS_OK)
        s = make_all(&settings, &err);
    return s == STATUS_OK ? CMD_DONE : cmd_fail(argv[0], &err);
}
