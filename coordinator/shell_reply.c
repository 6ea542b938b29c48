// SPDX-License-Identifier: Apache-2.0
// What clients are told.
#include "coordinator/shell.h"

#include "proto/message.h"

#include <string.h>

void shell_reply(struct shell *s, uint64_t peer, Phalanx__ServerMessage *m)
{
    m->has_version = 1;
    m->version = 1;
    buf_clear(&s->packed);
    message_pack(&m->base, &s->packed);
    if (buf_failed(&s->packed))
        return;
    enum status status = shell_send(s->clients, peer, "", 0, s->packed.data, s->packed.size);
    // The core may be in the middle of a step: it is told afterwards.
    if (status == STATUS_PEER_GONE && s->n_peers_gone < SHELL_PEERS_GONE_MAX &&
        (s->n_peers_gone == 0 || s->peers_gone[s->n_peers_gone - 1] != peer))
        s->peers_gone[s->n_peers_gone++] = peer;
}

void shell_reply_tick(struct shell *s, uint64_t now_us)
{
    uint32_t n = s->n_peers_gone;
    uint64_t gone[SHELL_PEERS_GONE_MAX];
    memcpy(gone, s->peers_gone, n * sizeof gone[0]);
    s->n_peers_gone = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct core_in in = {.type = CORE_IN_PEER_GONE, .now_us = now_us, .peer = gone[i]};
        core_step(s->core, &in);
    }
}

static ProtobufCBinaryData bytes_of(const void *data, size_t n)
{
    return (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)data};
}

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

void shell_reply_refuse(
    struct shell *s, uint64_t peer, const uint8_t *id, enum status status, const char *reason)
{
    Phalanx__Refused refused = PHALANX__REFUSED__INIT;
    refused.has_request_id = id != NULL;
    refused.request_id = bytes_of(id, id ? REQUEST_ID_BYTES : 0);
    refused.status = text_of(status_name(status));
    refused.reason = text_of(reason);
    refused.has_unknown_request = refused.unknown_request = s->resuming;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    m.refused = &refused;
    shell_reply(s, peer, &m);
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
    shell_reply(s, out->peer, &m);
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
    finish.status = f->sentence ? text_of(status_name(f->status)) : NULL;
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
    shell_reply(s, out->peer, &m);
}

static void emit_accepted(struct shell *s, const struct core_out *out)
{
    Phalanx__Accepted accepted = PHALANX__ACCEPTED__INIT;
    accepted.has_request_id = accepted.has_epoch = accepted.has_seed = 1;
    accepted.request_id = bytes_of(out->id, REQUEST_ID_BYTES);
    accepted.epoch = out->accepted.epoch;
    accepted.seed = out->accepted.seed;
    accepted.durability = text_of("memory");
    accepted.has_text = 1;
    accepted.text = s->model[out->model].tokenizer != NULL;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    m.accepted = &accepted;
    shell_reply(s, out->peer, &m);
}

void shell_reply_emit(struct shell *s, const struct core_out *out)
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
        shell_reply(s, out->peer, &m);
        break;
    case CORE_OUT_REFUSED:
        shell_reply_refuse(s, out->peer, out->id, out->refused.status, out->refused.sentence);
        break;
    case CORE_OUT_CONFLICT:
        conflict.has_request_id = 1;
        conflict.request_id = bytes_of(out->id, REQUEST_ID_BYTES);
        m.conflict = &conflict;
        shell_reply(s, out->peer, &m);
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
