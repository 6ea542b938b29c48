// SPDX-License-Identifier: Apache-2.0
// What clients ask for.
#include "coordinator/shell.h"

#include "proto/message.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

// Whose request it is: the key says so, or the client where it has none.
static const char *tenant_name(const struct shell *s, const char *given)
{
    return s->caller.key_name ? s->caller.key_name : given ? given : "";
}

static bool tenant_find(const struct shell *s, const char *name, uint32_t *out)
{
    for (uint32_t i = 0; i < s->n_tenants; i++)
        if (strcmp(s->tenant[i], name) == 0) {
            *out = i;
            return true;
        }
    return false;
}

// The number of a tenant, given at its first request.
static enum status tenant_take(struct shell *s, const char *name, uint32_t *out, struct error *err)
{
    if (tenant_find(s, name, out))
        return STATUS_OK;
    if (s->n_tenants == LIMIT_TENANTS)
        return status_fail(err, STATUS_TOO_LARGE,
            "tenant \"%.64s\" is new and there are %d already, expected no more", name,
            LIMIT_TENANTS);
    snprintf(s->tenant[s->n_tenants], sizeof s->tenant[0], "%s", name);
    *out = s->n_tenants++;
    return STATUS_OK;
}

static enum status choose_model(struct shell *s, uint32_t *out, struct error *err)
{
    const struct request *r = &s->request;
    for (uint32_t i = 0; i < s->n_models; i++) {
        const struct shell_model *m = &s->model[i];
        if (strcmp(m->name, r->model) != 0)
            continue;
        if (m->state == SHELL_FAILED)
            return status_fail(
                err, STATUS_DEVICE_FAILED, "model %s has failed: %.400s", m->name, m->reason);
        if (!m->tokenizer && (!r->prompt_ids || r->n_stop > 0))
            return status_fail(err, STATUS_UNSUPPORTED,
                "model %s has no tokenizer, expected prompt_ids and no stop strings", m->name);
        if (r->chat.messages.data && !m->templates)
            return status_fail(err, STATUS_UNSUPPORTED,
                "model %s has no chat template, expected prompt or prompt_ids instead of messages",
                m->name);
        if (r->chat.messages.data)
            TRY(template_set_has(
                m->templates, r->chat.template_name, r->chat.tools.data != NULL, err));
        *out = i;
        return request_check_ids(r, m->vocab_size, m->context_tokens, err);
    }
    return status_fail(err, STATUS_NOT_FOUND, "model \"%.64s\" is not served here", r->model);
}

static enum status submit(
    struct shell *s, const Phalanx__Submit *m, uint64_t now_us, struct error *err)
{
    struct request *r = &s->request;
    TRY(request_from_submit(m, r, err));
    struct core_in in = {.type = CORE_IN_SUBMIT, .now_us = now_us};
    TRY(choose_model(s, &in.submit.model, err));
    TRY(tenant_take(s, tenant_name(s, r->tenant), &in.submit.client.tenant, err));
    struct sampling_params params;
    request_sampling(r, &params);
    if (!r->has_seed) {
        if (getrandom(&params.seed, sizeof params.seed, 0) != sizeof params.seed)
            return status_fail(err, STATUS_IO, "no random seed from the system");
        params.seed >>= 11; // 53 bits: every reader of JSON keeps them
    }
    in.submit.client.peer = s->caller.peer;
    memcpy(in.submit.client.id, r->id, REQUEST_ID_BYTES);
    in.submit.request = r;
    in.submit.params = &params;
    core_step(s->core, &in);
    return STATUS_OK;
}

// CANCEL, RESUME, CREDIT and CLOSE carry an id, a tenant and perhaps numbers.
static void request_event(struct shell *s, enum core_in_type type, const ProtobufCBinaryData *id,
    const char *tenant, struct core_in_client numbers, uint64_t now_us)
{
    char reason[96];
    if (id->len != REQUEST_ID_BYTES) {
        snprintf(reason, sizeof reason, "request_id has %zu bytes, expected %d", id->len,
            REQUEST_ID_BYTES);
        shell_reply_refuse(s, s->caller.peer, NULL, STATUS_INVALID, reason);
        return;
    }
    struct core_in in = {.type = type, .now_us = now_us, .client = numbers};
    in.client.peer = s->caller.peer;
    memcpy(in.client.id, id->data, REQUEST_ID_BYTES);
    s->resuming = type == CORE_IN_RESUME;
    if (tenant_find(s, tenant_name(s, tenant), &in.client.tenant))
        core_step(s->core, &in);
    else if (s->resuming)
        shell_reply_refuse(s, s->caller.peer, in.client.id, STATUS_NOT_FOUND,
            "no such request is known, and none of its tenant");
    s->resuming = false;
}

static void fill_model(struct shell *s, uint32_t index, Phalanx__Model *to)
{
    static const char *const states[] = {"loading", "ready", "failed"};
    const struct shell_model *m = &s->model[index];
    struct core_model_stats stats;
    core_model_stats(s->core, index, &stats);
    phalanx__model__init(to);
    to->name = text_of(m->name);
    to->state = text_of(states[m->state]);
    to->device = text_of(m->device);
    to->reason = text_of(m->reason);
    to->has_degree = to->has_context_length = to->has_progress = to->has_running = 1;
    to->degree = m->degree;
    to->context_length = stats.context_tokens ? stats.context_tokens : m->context_tokens;
    to->progress = m->progress_percent;
    to->running = stats.running;
    to->has_waiting = to->has_kv_blocks = to->has_kv_blocks_free = to->has_vocab_size = 1;
    to->waiting = stats.waiting;
    to->kv_blocks = stats.kv_blocks;
    to->kv_blocks_free = stats.kv_blocks_free;
    to->has_preempted = to->has_group_deaths = 1;
    to->preempted = stats.preempted;
    to->group_deaths = stats.group_deaths;
    to->vocab_size = m->vocab_size;
    to->has_chat = 1;
    to->chat = m->templates != NULL;
    to->has_weight_bytes = to->has_kv_bytes = 1;
    to->weight_bytes = m->weight_bytes;
    to->kv_bytes = m->kv_bytes;
}

static void send_models(struct shell *s)
{
    arena_reset(&s->out);
    Phalanx__Models models = PHALANX__MODELS__INIT;
    Phalanx__Model *list = arena_array(&s->out, s->n_models, sizeof *list);
    models.model = arena_array(&s->out, s->n_models, sizeof *models.model);
    if (!list || !models.model)
        return;
    for (uint32_t i = 0; i < s->n_models; i++) {
        fill_model(s, i, &list[i]);
        models.model[i] = &list[i];
    }
    models.n_model = s->n_models;
    models.has_epoch = 1;
    models.epoch = s->epoch;
    models.server_version = text_of(PHALANX_VERSION);
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    m.models = &models;
    shell_reply(s, s->caller.peer, &m);
}

static void stop(struct shell *s)
{
    Phalanx__ServerMessage out = PHALANX__SERVER_MESSAGE__INIT;
    Phalanx__Stopping stopping = PHALANX__STOPPING__INIT;
    if (!s->caller.may_stop) {
        char reason[200];
        snprintf(reason, sizeof reason,
            "the key %s may not stop the server, expected one whose role is admin, or a client on "
            "the server's machine",
            s->caller.key_name);
        shell_reply_refuse(s, s->caller.peer, NULL, STATUS_DENIED, reason);
        return;
    }
    s->stopping = true;
    out.stopping = &stopping;
    shell_reply(s, s->caller.peer, &out);
}

static void answer_small(struct shell *s, const Phalanx__ClientMessage *m)
{
    Phalanx__ServerMessage out = PHALANX__SERVER_MESSAGE__INIT;
    Phalanx__Pong pong = PHALANX__PONG__INIT;
    if (m->list_models)
        send_models(s);
    if (m->stop)
        stop(s);
    if (m->ping) {
        pong.has_token = 1;
        pong.token = m->ping->token;
        out.pong = &pong;
        shell_reply(s, s->caller.peer, &out);
    }
}

static enum status unpack(
    struct shell *s, const void *data, size_t n, Phalanx__ClientMessage **out, struct error *err)
{
    arena_reset(&s->in);
    ProtobufCMessage *base;
    TRY(message_unpack(&phalanx__client_message__descriptor, data, n, &s->in, &base, err));
    Phalanx__ClientMessage *m = (Phalanx__ClientMessage *)base;
    if (m->has_version && m->version != 1)
        return status_fail(
            err, STATUS_UNSUPPORTED, "version is %u, expected 1", (unsigned)m->version);
    if (!m->submit && !m->cancel && !m->resume && !m->credit && !m->close && !m->list_models &&
        !m->stop && !m->ping)
        return status_fail(err, STATUS_UNSUPPORTED,
            "the ClientMessage has none of the fields that this server (%s) knows",
            PHALANX_VERSION);
    *out = m;
    return STATUS_OK;
}

static void request_events(struct shell *s, const Phalanx__ClientMessage *m, uint64_t now_us)
{
    struct core_in_client numbers = {0};
    if (m->cancel)
        request_event(
            s, CORE_IN_CANCEL, &m->cancel->request_id, m->cancel->tenant, numbers, now_us);
    if (m->resume) {
        numbers.from = m->resume->from;
        request_event(
            s, CORE_IN_RESUME, &m->resume->request_id, m->resume->tenant, numbers, now_us);
    }
    if (m->credit) {
        numbers.acked = m->credit->acked;
        numbers.window = m->credit->window;
        request_event(
            s, CORE_IN_CREDIT, &m->credit->request_id, m->credit->tenant, numbers, now_us);
    }
    if (m->close)
        request_event(s, CORE_IN_CLOSE, &m->close->request_id, m->close->tenant, numbers, now_us);
}

void shell_clients_handle(struct shell *s, const void *data, size_t n, uint64_t now_us)
{
    Phalanx__ClientMessage *m = NULL;
    struct error err = {0};
    enum status status = unpack(s, data, n, &m, &err);
    if (status != STATUS_OK) {
        s->dropped++;
        shell_reply_refuse(s, s->caller.peer, NULL, status, err.text);
        return;
    }
    if (m->submit && (status = submit(s, m->submit, now_us, &err)) != STATUS_OK) {
        const ProtobufCBinaryData *id = &m->submit->request_id;
        shell_reply_refuse(
            s, s->caller.peer, id->len == REQUEST_ID_BYTES ? id->data : NULL, status, err.text);
    }
    request_events(s, m, now_us);
    answer_small(s, m);
}
