// SPDX-License-Identifier: Apache-2.0
// phalanx generate, phalanx score: submit what the options say and print what comes, until it ends
// or Ctrl-C cancels it.
#include "client/generate.h"

#include "base/check.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POLL_MS = 100 };

// The one model that is served, where none is named.
static enum status take_model(struct generate *g, struct phalanx_client *c, struct error *err)
{
    const Phalanx__Models *models;
    g->submit.model = (char *)(uintptr_t)g->settings.model;
    if (g->settings.model)
        return STATUS_OK;
    TRY(phalanx_client_models(c, (int)g->settings.timeout_ms, &models, err));
    if (models->n_model != 1)
        return status_fail(err, STATUS_INVALID,
            "--model is missing, and the server has %zu models, see phalanx models",
            models->n_model);
    g->submit.model = strdup(models->model[0]->name);
    return g->submit.model ? STATUS_OK : status_fail(err, STATUS_NO_MEMORY, "out of memory");
}

static volatile sig_atomic_t interrupted;

// The second Ctrl-C ends the program at once.
static void on_interrupt(int number)
{
    struct sigaction again = {.sa_handler = SIG_DFL};
    interrupted = 1;
    sigaction(number, &again, NULL);
}

// The next event; the first Ctrl-C cancels the request, whose end is then an event as well.
static enum status next(struct phalanx_client *c, uint64_t request, struct phalanx_event *e,
    bool *cancelled, struct error *err)
{
    for (;;) {
        // Asked before each event: a stream that flows leaves no pause in which to ask.
        if (interrupted && !*cancelled) {
            *cancelled = true;
            TRY(phalanx_client_cancel(c, request, err));
        }
        enum status s = phalanx_client_next(c, POLL_MS, e, err);
        if (s != STATUS_AGAIN)
            return s;
    }
}

static enum status stream(struct generate *g, struct phalanx_client *c, struct error *err)
{
    uint64_t request;
    bool cancelled = false;
    TRY(phalanx_client_submit(c, &g->submit, &request, err));
    // Printing goes on; the wait for an event ends in any case.
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    for (;;) {
        struct phalanx_event e;
        enum status s = next(c, request, &e, &cancelled, err);
        if (s != STATUS_OK)
            return s;
        switch (e.kind) {
        case PHALANX_EVENT_ACCEPTED:
            g->seed = e.seed;
            g->ids_as_text = !e.text;
            break;
        case PHALANX_EVENT_PROMPT:
        case PHALANX_EVENT_TOKEN:
            generate_print_token(g, &e);
            break;
        case PHALANX_EVENT_FINISH:
            generate_print_finish(g, &e);
            break;
        case PHALANX_EVENT_REFUSED:
            g->exit_code = CMD_REFUSED;
            return status_fail(err, e.status, "refused: %s", e.reason);
        default:
            generate_print_stats(g);
            return STATUS_OK;
        }
    }
}

static enum status go(struct generate *g, struct phalanx_client **c, struct error *err)
{
    const struct generate_settings *o = &g->settings;
    TRY(cmd_connect(&o->connection, (uint32_t)o->timeout_ms, (uint32_t)o->patience_ms, c, err));
    TRY(take_model(g, *c, err));
    return stream(g, *c, err);
}

static void free_generate(struct generate *g)
{
    if (!g->settings.model)
        free(g->submit.model);
    buf_deinit(&g->prompt);
    for (int i = 0; i < LIMIT_SAMPLES; i++)
        buf_deinit(&g->held[i]);
    free(g);
}

static int run(int argc, char **argv, bool scoring)
{
    struct generate *g = calloc(1, sizeof *g);
    struct error err = {0};
    bool help = false;
    struct phalanx_client *c = NULL;
    if (!g)
        return CMD_FAILED;
    phalanx__submit__init(&g->submit);
    g->scoring = scoring;
    for (int i = 0; i < LIMIT_SAMPLES; i++)
        buf_init(&g->held[i], LIMIT_MESSAGE_UNPACK_BYTES);
    enum status s = generate_options_parse(g, argc, argv, &help, &err);
    if (help)
        generate_options_help(scoring);
    else if (s == STATUS_OK)
        s = go(g, &c, &err);
    int code = g->exit_code;
    if (s != STATUS_OK) {
        int from_status = cmd_fail(argv[0], &err);
        code = code ? code : from_status;
    }
    phalanx_client_close(c);
    free_generate(g);
    return code;
}

int cmd_generate(int argc, char **argv)
{
    return run(argc, argv, false);
}

int cmd_score(int argc, char **argv)
{
    return run(argc, argv, true);
}
