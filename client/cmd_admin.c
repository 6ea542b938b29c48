// SPDX-License-Identifier: Apache-2.0
// phalanx models, phalanx stop.
#include "client/cmd.h"

#include "base/check.h"
#include "base/config.h"

#include <stdio.h>

struct admin_settings {
    struct cmd_connection connection;
    int output;
    int64_t timeout_ms;
};

static const struct config_row rows[] = {
    CMD_CONNECTION_ROWS(admin_settings),
    {"timeout-ms", CONFIG_INT, offsetof(struct admin_settings, timeout_ms), "5000", 1, 3600000,
        NULL, "N", "How long to wait for an answer."},
    // The last one: stop prints nothing.
    {"output", CONFIG_ENUM, offsetof(struct admin_settings, output), "text", 0, 0, "text|jsonl",
        NULL, "How to print; jsonl has a line per model."},
};

static bool parse(
    int argc, char **argv, size_t n_rows, const char *about, struct admin_settings *out, int *code)
{
    struct error err = {0};
    bool help = false;
    enum status s = config_parse(rows, n_rows, argc, argv, out, NULL, &help, &err);
    if (help) {
        printf("usage: phalanx %s [options]\n%s\n\n", argv[0], about);
        config_help(rows, n_rows, stdout);
        cmd_help_end();
        *code = CMD_DONE;
        return false;
    }
    if (s != STATUS_OK)
        *code = cmd_fail(argv[0], &err);
    return s == STATUS_OK;
}

static void print_model(const Phalanx__Model *m, int output)
{
    if (output == CMD_TEXT) {
        printf("%-24s %-8s degree %u  context %u  running %u  waiting %u  %s%s\n", m->name,
            m->state, m->degree, m->context_length, m->running, m->waiting,
            m->device ? m->device : "", m->reason ? m->reason : "");
        return;
    }
    json_t *o = json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:i}", "name",
        m->name, "state", m->state, "degree", (int)m->degree, "context_length",
        (int)m->context_length, "progress", (int)m->progress, "running", (int)m->running, "waiting",
        (int)m->waiting, "kv_blocks", (json_int_t)m->kv_blocks, "kv_blocks_free",
        (json_int_t)m->kv_blocks_free, "weight_bytes", (json_int_t)m->weight_bytes, "kv_bytes",
        (json_int_t)m->kv_bytes, "vocab_size", (int)m->vocab_size);
    json_object_set_new(o, "device", json_string(m->device ? m->device : ""));
    json_object_set_new(o, "preempted", json_integer((json_int_t)m->preempted));
    json_object_set_new(o, "chat", json_boolean(m->chat));
    json_object_set_new(o, "group_deaths", json_integer((json_int_t)m->group_deaths));
    if (m->reason && *m->reason)
        json_object_set_new(o, "reason", json_string(m->reason));
    cmd_print_json(o);
}

int cmd_models(int argc, char **argv)
{
    struct admin_settings settings = {0};
    int code;
    if (!parse(argc, argv, COUNT_OF(rows),
            "Lists the models of a server and their state: loading, ready or failed.", &settings,
            &code))
        return code;
    struct error err = {0};
    struct phalanx_client *c = NULL;
    const Phalanx__Models *models;
    enum status s = cmd_connect(&settings.connection, 0, 0, &c, &err);
    if (s == STATUS_OK)
        s = phalanx_client_models(c, (int)settings.timeout_ms, &models, &err);
    for (size_t i = 0; s == STATUS_OK && i < models->n_model; i++)
        print_model(models->model[i], settings.output);
    phalanx_client_close(c);
    return s == STATUS_OK ? CMD_DONE : cmd_fail(argv[0], &err);
}

int cmd_stop(int argc, char **argv)
{
    struct admin_settings settings = {0};
    int code;
    if (!parse(argc, argv, COUNT_OF(rows) - 1,
            "Asks a server to finish what it has accepted and to end; returns when it has agreed.",
            &settings, &code))
        return code;
    struct error err = {0};
    struct phalanx_client *c = NULL;
    enum status s = cmd_connect(&settings.connection, 0, 0, &c, &err);
    if (s == STATUS_OK)
        s = phalanx_client_stop(c, (int)settings.timeout_ms, &err);
    phalanx_client_close(c);
    return s == STATUS_OK ? CMD_DONE : cmd_fail(argv[0], &err);
}
