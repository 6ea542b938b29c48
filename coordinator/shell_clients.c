// SPDX-License-Identifier: Apache-2.0
#include "coordinator/shell.h"

#include "base/log.h"
#include "proto/message.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

// ---- to clients --------------------------------------------------------------------------------

static void send_message(struct shell *s, uint64_t peer, Phalanx__ServerMessage *m)
{
    m->has_version = 1;
    m->version = 1;
    buf_clear(&s->packed);
    message_pack(&m->base, &s->packed);
    if (!buf_failed(&s->packed))
        shell_send(s->clients, peer, "", 0, s->packed.data, s->packed.size);
}

static ProtobufCBinaryData bytes_of(const void *data, size_t n)
{
    return (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)data};
}

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

static void refuse(
    struct shell *s, uint64_t peer, const uint8_t *id, enum status status, const char *reason)
{
    Phalanx__Refused refused = PHALANX__REFUSED__INIT;
    refused.has_request_id = id != NULL;
    refused.request_id = bytes_of(id, id ? REQUEST_ID_BYTES : 0);
    refused.status = text_of(status_name(status));
    refused.reason = text_of(reason);
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    m.refused = &refused;
    send_message(s, peer, &m);
}

static bool fill_tops(struct shell *s, const struct core_token *from, Phalanx__Token *to)
{
    to->top = arena_array(&s->out, from->n_top, sizeof to->top[0]);
    Phalanx__Top *tops = arena_array(&s->out, from->n_top, sizeof *tops);
    if (!to->top || !tops)
        return false;
    for (uint32_t i = 0; i < from->n_top; i++) {
        phalanx__top__init(&tops[i]);
        tops[i].has_id = tops[i].has_logprob = 1;
        tops[i].id = from->top[i].id;
        tops[i].logprob = from->top[i].logprob;
        to->top[i] = &tops[i];
    }
    to->n_top = from->n_top;
    return true;
}

// Builds `n` tokens in the out arena; NULL when it is full.
static Phalanx__Token **tokens_of(struct shell *s, const struct core_token *from, uint32_t n)
{
    arena_reset(&s->out);
    Phalanx__Token **list = arena_array(&s->out, n, sizeof *list);
    Phalanx__Token *tokens = arena_array(&s->out, n, sizeof *tokens);
    if (!list || !tokens)
        return NULL;
    for (uint32_t i = 0; i < n; i++) {
        Phalanx__Token *t = list[i] = &tokens[i];
        phalanx__token__init(t);
        t->has_id = t->has_text = 1;
        t->id = from[i].id;
        t->has_logprob = t->has_rank = from[i].rank != 0;
        t->logprob = from[i].logprob;
        t->rank = from[i].rank;
        t->text = bytes_of(from[i].text, from[i].n_text);
        if (from[i].n_top && !fill_tops(s, &from[i], t))
            return NULL;
    }
    return list;
}

static void emit_tokens(struct shell *s, const struct core_out *out)
{
    Phalanx__Token **list = tokens_of(s, out->tokens.token, out->tokens.n);
    if (!list)
        return; // the client sees the gap and resumes
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    Phalanx__Tokens tokens = PHALANX__TOKENS__INIT;
    Phalanx__PromptTokens prompt = PHALANX__PROMPT_TOKENS__INIT;
    if (out->type == CORE_OUT_TOKENS) {
        tokens.has_request_id = tokens.has_index = tokens.has_offset = tokens.has_attempt = 1;
        tokens.request_id = bytes_of(out->id, REQUEST_ID_BYTES);
        tokens.index = out->tokens.sample;
        tokens.offset = out->tokens.offset;
        tokens.attempt = out->tokens.attempt;
        tokens.n_token = out->tokens.n;
        tokens.token = list;
        m.tokens = &tokens;
    } else {
        prompt.has_request_id = prompt.has_offset = 1;
        prompt.request_id = bytes_of(out->id, REQUEST_ID_BYTES);
        prompt.offset = out->tokens.offset;
        prompt.n_token = out->tokens.n;
        prompt.token = list;
        m.prompt_tokens = &prompt;
    }
    send_message(s, out->peer, &m);
}

static void emit_finish(struct shell *s, const struct core_out *out)
{
    static const char *const reasons[] = {"stop", "length", "abort", "error"};
    const struct core_finish *f = &out->finish;
    Phalanx__Finish finish = PHALANX__FINISH__INIT;
    finish.has_request_id = finish.has_index = finish.has_last = finish.has_text = 1;
    finish.request_id = bytes_of(out->id, REQUEST_ID_BYTES);
    finish.index = f->sample;
    finish.reason = text_of(reasons[f->reason]);
    finish.has_stop_id = f->stop == CORE_STOP_ID;
    finish.stop_id = f->stop_value;
    finish.error = text_of(f->sentence);
    finish.has_prompt_tokens = finish.has_completion_tokens = finish.has_cached_tokens = 1;
    finish.prompt_tokens = f->prompt_tokens;
    finish.completion_tokens = f->output_tokens;
    finish.cached_tokens = f->cached_tokens;
    finish.text = bytes_of(f->text, f->n_text);
    finish.last = f->last;
    finish.has_queued_us = finish.has_first_token_us = finish.has_total_us = 1;
    finish.queued_us = f->queued_us;
    finish.first_token_us = f->first_token_us;
    finish.total_us = f->total_us;
    finish.has_stop_index = f->stop == CORE_STOP_STRING;
    finish.stop_index = f->stop_value;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    m.finish = &finish;
    send_message(s, out->peer, &m);
}

static void emit_accepted(struct shell *s, const struct core_out *out)
{
    Phalanx__Accepted accepted = PHALANX__ACCEPTED__INIT;
    accepted.has_request_id = accepted.has_epoch = accepted.has_seed = 1;
    accepted.request_id = bytes_of(out->id, REQUEST_ID_BYTES);
    accepted.epoch = out->accepted.epoch;
    accepted.seed = out->accepted.seed;
    accepted.durability = text_of("memory");
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    m.accepted = &accepted;
    send_message(s, out->peer, &m);
}

void shell_clients_emit(struct shell *s, const struct core_out *out)
{
    if (out->peer == 0)
        return;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    Phalanx__Busy busy = PHALANX__BUSY__INIT;
    Phalanx__Conflict conflict = PHALANX__CONFLICT__INIT;
    switch (out->type) {
    case CORE_OUT_ACCEPTED:
        emit_accepted(s, out);
        break;
    case CORE_OUT_BUSY:
        busy.has_request_id = busy.has_retry_after_ms = 1;
        busy.request_id = bytes_of(out->id, REQUEST_ID_BYTES);
        busy.retry_after_ms = out->retry_after_ms;
        m.busy = &busy;
        send_message(s, out->peer, &m);
        break;
    case CORE_OUT_REFUSED:
        refuse(s, out->peer, out->id, out->refused.status, out->refused.sentence);
        break;
    case CORE_OUT_CONFLICT:
        conflict.has_request_id = 1;
        conflict.request_id = bytes_of(out->id, REQUEST_ID_BYTES);
        m.conflict = &conflict;
        send_message(s, out->peer, &m);
        break;
    case CORE_OUT_TOKENS:
    case CORE_OUT_PROMPT_LOGPROBS:
        emit_tokens(s, out);
        break;
    default:
        emit_finish(s, out);
        break;
    }
}

// ---- from clients ------------------------------------------------------------------------------

static bool tenant_find(struct shell *s, const char *name, uint32_t *out)
{
    for (uint32_t i = 0; i < s->n_tenants; i++)
        if (strcmp(s->tenant[i], name) == 0) {
            *out = i;
            return true;
        }
    if (s->n_tenants == LIMIT_TENANTS)
        return false;
    snprintf(s->tenant[s->n_tenants], sizeof s->tenant[0], "%s", name);
    *out = s->n_tenants++;
    return true;
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
        *out = i;
        return request_check_ids(r, m->vocab_size, m->context_tokens, err);
    }
    return status_fail(err, STATUS_NOT_FOUND, "model \"%.64s\" is not served here", r->model);
}

static enum status submit(
    struct shell *s, uint64_t peer, const Phalanx__Submit *m, uint64_t now_us, struct error *err)
{
    struct request *r = &s->request;
    TRY(request_from_submit(m, r, err));
    struct core_in in = {.type = CORE_IN_SUBMIT, .now_us = now_us};
    TRY(choose_model(s, &in.submit.model, err));
    if (!tenant_find(s, r->tenant, &in.submit.client.tenant))
        return status_fail(err, STATUS_TOO_LARGE, "more than %d tenants", LIMIT_TENANTS);
    struct sampling_params params;
    request_sampling(r, &params);
    if (!r->has_seed && getrandom(&params.seed, sizeof params.seed, 0) != sizeof params.seed)
        return status_fail(err, STATUS_IO, "no random seed from the system");
    in.submit.client.peer = peer;
    memcpy(in.submit.client.id, r->id, REQUEST_ID_BYTES);
    in.submit.request = r;
    in.submit.params = &params;
    core_step(s->core, &in);
    return STATUS_OK;
}

// CANCEL, RESUME, CREDIT and CLOSE carry an id and perhaps numbers.
static void request_event(struct shell *s, enum core_in_type type, uint64_t peer,
    const ProtobufCBinaryData *id, struct core_in_client numbers, uint64_t now_us)
{
    if (id->len != REQUEST_ID_BYTES) {
        refuse(s, peer, NULL, STATUS_INVALID, "request_id is missing, expected 16 bytes");
        return;
    }
    struct core_in in = {.type = type, .now_us = now_us, .client = numbers};
    in.client.peer = peer;
    memcpy(in.client.id, id->data, REQUEST_ID_BYTES);
    core_step(s->core, &in);
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
    to->context_length = m->context_tokens;
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
    to->has_weight_bytes = to->has_kv_bytes = 1;
    to->weight_bytes = m->weight_bytes;
    to->kv_bytes = m->kv_bytes;
}

static void send_models(struct shell *s, uint64_t peer)
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
    send_message(s, peer, &m);
}

static void answer_small(struct shell *s, uint64_t peer, const Phalanx__ClientMessage *m)
{
    Phalanx__ServerMessage out = PHALANX__SERVER_MESSAGE__INIT;
    Phalanx__Stopping stopping = PHALANX__STOPPING__INIT;
    Phalanx__Pong pong = PHALANX__PONG__INIT;
    if (m->list_models)
        send_models(s, peer);
    if (m->ping) {
        pong.has_token = 1;
        pong.token = m->ping->token;
        out.pong = &pong;
        send_message(s, peer, &out);
        out.pong = NULL;
    }
    if (m->stop) {
        s->stopping = true;
        out.stopping = &stopping;
        send_message(s, peer, &out);
    }
}

void shell_clients_handle(
    struct shell *s, uint64_t peer, const void *data, size_t n, uint64_t now_us)
{
    arena_reset(&s->in);
    ProtobufCMessage *base;
    struct error err = {0};
    if (message_unpack(&phalanx__client_message__descriptor, data, n, &s->in, &base, &err) !=
        STATUS_OK) {
        refuse(s, peer, NULL, STATUS_INVALID, err.text);
        return;
    }
    const Phalanx__ClientMessage *m = (const Phalanx__ClientMessage *)base;
    struct core_in_client numbers = {0};
    if (m->submit) {
        enum status status = submit(s, peer, m->submit, now_us, &err);
        const ProtobufCBinaryData *id = &m->submit->request_id;
        if (status != STATUS_OK)
            refuse(s, peer, id->len == REQUEST_ID_BYTES ? id->data : NULL, status, err.text);
    }
    if (m->cancel)
        request_event(s, CORE_IN_CANCEL, peer, &m->cancel->request_id, numbers, now_us);
    if (m->resume) {
        numbers.from = m->resume->from;
        request_event(s, CORE_IN_RESUME, peer, &m->resume->request_id, numbers, now_us);
    }
    if (m->credit) {
        numbers.acked = m->credit->acked;
        numbers.window = m->credit->window;
        request_event(s, CORE_IN_CREDIT, peer, &m->credit->request_id, numbers, now_us);
    }
    if (m->close)
        request_event(s, CORE_IN_CLOSE, peer, &m->close->request_id, numbers, now_us);
    answer_small(s, peer, m);
}
