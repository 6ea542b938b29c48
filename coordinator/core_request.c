// SPDX-License-Identifier: Apache-2.0
// What clients do with a request once it is accepted, and what time does.
#include "coordinator/core_internal.h"

static struct core_request *find(struct core *core, const struct core_in_client *in)
{
    return in->tenant < core->config.tenants_max ? core_table_find(core, in->tenant, in->id) : NULL;
}

static void journal(struct core *core, const struct core_request *r, enum core_journal_type type)
{
    struct core_out out = {.type = CORE_OUT_JOURNAL, .journal = {.type = type}};
    core_view_emit(core, r, &out);
}

static void cancel(
    struct core *core, struct core_request *r, enum status status, const char *sentence)
{
    struct core_end end = {.reason = CORE_ABORT, .status = status, .sentence = sentence};
    if (r->n_live == 0)
        return;
    journal(core, r, CORE_JOURNAL_CANCEL);
    core_finish_request(core, r, &end);
}

void core_request_cancel(struct core *core, const struct core_in_client *in)
{
    struct core_request *r = find(core, in);
    if (r)
        cancel(core, r, STATUS_ABORTED, "cancelled by the client");
}

void core_request_resume(struct core *core, const struct core_in_client *in)
{
    struct core_request *r = find(core, in);
    if (!r) {
        struct core_out out = {.type = CORE_OUT_REFUSED,
            .peer = in->peer,
            .tenant = in->tenant,
            .id = in->id,
            .refused = {STATUS_NOT_FOUND, "no such request is known"}};
        core->config.emit(core->config.user, &out);
        return;
    }
    if (in->peer)
        r->peer = in->peer;
    if (!MUTANT(RETURN_NOT_NOTICED))
        core_finish_arm(core, r);
    core_view_rewind(core, r, in->from);
    core_view_deliver(core, r);
}

void core_request_credit(struct core *core, const struct core_in_client *in)
{
    struct core_request *r = find(core, in);
    if (!r)
        return;
    uint64_t limit = (uint64_t)in->acked + in->window;
    r->view_limit = limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX;
    core_view_deliver(core, r);
}

// Forgets a finished request.
static void close_request(struct core *core, struct core_request *r)
{
    journal(core, r, CORE_JOURNAL_CLOSE);
    struct core_out out = {.type = CORE_OUT_CLOSED};
    core_view_emit(core, r, &out);
    core->n_kept--;
    core_table_remove(core, r);
}

void core_request_close(struct core *core, const struct core_in_client *in)
{
    struct core_request *r = find(core, in);
    if (!r)
        return;
    r->peer = 0; // who closes wants to hear no more
    cancel(core, r, STATUS_ABORTED, "closed by the client");
    close_request(core, r);
}

void core_request_peer_gone(struct core *core, uint64_t peer)
{
    for (uint32_t i = 0; i < core->requests_touched && peer; i++) {
        struct core_request *r = &core->request[i];
        if (r->state == REQUEST_FREE || r->peer != peer)
            continue;
        r->peer = 0;
        r->detached_us = core->now_us;
        core_finish_arm(core, r);
    }
}

void core_request_fail_waiting(struct core *core, uint32_t model)
{
    struct core_model_state *m = &core->model[model];
    struct core_end end = {
        .reason = CORE_ERROR, .status = STATUS_DEVICE_FAILED, .sentence = m->failure};
    for (uint32_t i = 0; i < core->requests_touched; i++) {
        struct core_request *r = &core->request[i];
        if (r->state != REQUEST_FREE && r->model == model && r->n_live > 0)
            core_finish_request(core, r, &end);
    }
}

void core_request_expire(struct core *core)
{
    while (core->n_timers > 0) {
        struct core_request *r = &core->request[core->timer[0]];
        if (r->due_us > core->now_us)
            return;
        if (r->state == REQUEST_KEPT)
            close_request(core, r);
        else if (r->deadline_us && r->deadline_us <= core->now_us)
            cancel(core, r, STATUS_TIMEOUT, "the deadline has passed");
        else
            cancel(core, r, STATUS_PEER_GONE, "the client has been gone for too long");
    }
}
