// SPDX-License-Identifier: Apache-2.0
#include "bench/serve_target.h"

#include "base/clock.h"
#include "client/phalanx_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct connection {
    struct phalanx_client *client;
    char model[160];
};

static void close_connection(void *user)
{
    struct connection *c = user;
    if (!c)
        return;
    phalanx_client_close(c->client);
    free(c);
}

static enum status find_model(struct connection *c, struct error *err)
{
    const Phalanx__Models *models;
    TRY(phalanx_client_models(c->client, 10000, &models, err));
    if (models->n_model != 1)
        return status_fail(err, STATUS_INVALID, "the server has %zu models, expected --model NAME",
            models->n_model);
    snprintf(c->model, sizeof c->model, "%s", models->model[0]->name);
    return STATUS_OK;
}

static enum status open_connection(
    const char *address, const char *model, void **out, struct error *err)
{
    struct connection *c = calloc(1, sizeof *c);
    if (!c)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a connection");
    struct phalanx_client_options options = {.endpoint = address};
    enum status s = phalanx_client_open(&options, &c->client, err);
    if (s == STATUS_OK && model)
        snprintf(c->model, sizeof c->model, "%s", model);
    else if (s == STATUS_OK)
        s = find_model(c, err);
    if (s != STATUS_OK) {
        close_connection(c);
        return s;
    }
    *out = c;
    return STATUS_OK;
}

static enum status follow(struct connection *c, struct target_times *times, struct error *err)
{
    for (;;) {
        struct phalanx_event e;
        TRY(phalanx_client_next(c->client, -1, &e, err));
        switch (e.kind) {
        case PHALANX_EVENT_TOKEN:
            times->last_us = clock_now_us();
            if (times->n_tokens++ == 0)
                times->first_us = times->last_us;
            break;
        case PHALANX_EVENT_FINISH:
            if (strcmp(e.finish->reason, "length") != 0)
                return status_fail(
                    err, STATUS_MISMATCH, "a request ended with \"%.32s\"", e.finish->reason);
            break;
        case PHALANX_EVENT_ENDED:
            return STATUS_OK;
        case PHALANX_EVENT_REFUSED:
            return status_fail(err, e.status, "a request was refused: %.300s", e.reason);
        default:
            break;
        }
    }
}

static enum status run(
    void *user, const struct target_request *request, struct target_times *times, struct error *err)
{
    struct connection *c = user;
    uint64_t number;
    Phalanx__Submit m = PHALANX__SUBMIT__INIT;
    m.model = c->model;
    m.prompt_ids = (uint32_t *)(uintptr_t)request->ids;
    m.n_prompt_ids = request->n_ids;
    m.has_max_tokens = m.has_temperature = m.has_ignore_eos = 1;
    m.max_tokens = request->max_tokens;
    m.ignore_eos = 1;
    *times = (struct target_times){.sent_us = clock_now_us()};
    TRY(phalanx_client_submit(c->client, &m, &number, err));
    return follow(c, times, err);
}

const struct target target_phalanx = {"phalanx", open_connection, close_connection, run};
