// SPDX-License-Identifier: Apache-2.0
// One request from SUBMIT to its end, for phalanx generate, score and chat; Ctrl-C cancels it.
#include "client/generate.h"

#include <signal.h>
#include <string.h>

enum { POLL_MS = 100 };

// The one model that is served, where none is named.
enum status generate_stream_model(struct generate *g, struct phalanx_client *c, struct error *err)
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

void generate_stream_catch(void)
{
    // Printing goes on; the wait for an event ends in any case.
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
}

bool generate_stream_interrupted(void)
{
    bool was = interrupted;
    interrupted = 0;
    return was;
}

// What an answer says is kept where somebody wants it.
static void keep_text(struct generate *g, const struct phalanx_event *e)
{
    ProtobufCBinaryData text = {0};
    if (e->kind == PHALANX_EVENT_TOKEN)
        text = e->token->text;
    else if (e->kind == PHALANX_EVENT_FINISH)
        text = e->finish->text;
    if (g->answer && text.len)
        buf_append(g->answer, text.data, text.len);
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

enum status generate_stream_run(struct generate *g, struct phalanx_client *c, struct error *err)
{
    uint64_t request;
    bool cancelled = false;
    TRY(phalanx_client_submit(c, &g->submit, &request, err));
    generate_stream_catch();
    for (;;) {
        struct phalanx_event e;
        enum status s = next(c, request, &e, &cancelled, err);
        if (s != STATUS_OK)
            return s;
        keep_text(g, &e);
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
