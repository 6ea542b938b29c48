// SPDX-License-Identifier: Apache-2.0
#include "proto/validate.h"

#include "base/utf8.h"
#include "proto/client.pb-c.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum status bad_int(
    const char *name, long long value, long long min, long long max, struct error *err)
{
    return status_fail(
        err, STATUS_INVALID, "%s is %lld, expected %lld to %lld", name, value, min, max);
}

static enum status bad_real(
    const char *name, double value, bool open, double min, double max, struct error *err)
{
    return status_fail(err, STATUS_INVALID, "%s is %g, expected a number %s %g and at most %g",
        name, value, open ? "above" : "of at least", min, max);
}

static enum status take_scalars(const Phalanx__Submit *m, struct request *out, struct error *err)
{
#define INT(name, type, min, max, value, help)                                                     \
    out->name = m->has_##name ? (type)m->name : (type)(value);                                     \
    if ((long long)out->name < (long long)(min) || (long long)out->name > (long long)(max))        \
        return bad_int(#name, (long long)out->name, min, max, err);
#define REAL(name, open, min, max, value, help)                                                    \
    out->name = m->has_##name ? m->name : (value);                                                 \
    if (!(isfinite(out->name) && out->name >= (min) && out->name <= (max)) ||                      \
        ((open) && !(out->name > (min))))                                                          \
        return bad_real(#name, (double)out->name, open, (double)(min), (double)(max), err);
#define FLAG(name, value, help) out->name = m->has_##name ? m->name != 0 : (value);
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
    // A template writes the special tokens itself, and either asks for an answer or goes on with
    // one.
    if (m->has_messages && !m->has_add_special_tokens)
        out->add_special_tokens = false;
    if (out->continue_final_message && !m->has_add_generation_prompt)
        out->add_generation_prompt = false;
    return STATUS_OK;
}

// A text of the conversation: valid UTF-8 of at most `max` bytes.
static enum status take_json(const char *name, bool given, const ProtobufCBinaryData *from,
    size_t max, struct request_text *out, struct error *err)
{
    if (!given)
        return STATUS_OK;
    if (from->len > max)
        return status_fail(
            err, STATUS_TOO_LARGE, "%s has %zu bytes, expected at most %zu", name, from->len, max);
    if (from->len == 0)
        return status_fail(err, STATUS_INVALID, "%s is empty, expected JSON", name);
    if (!utf8_valid(from->data, from->len))
        return status_fail(err, STATUS_INVALID, "%s is not valid UTF-8", name);
    *out = (struct request_text){from->data, from->len};
    return STATUS_OK;
}

static enum status take_chat(const Phalanx__Submit *m, struct request *out, struct error *err)
{
    struct request_chat *chat = &out->chat;
    chat->template_name = m->chat_template ? m->chat_template : "";
    if (!m->has_messages && (m->has_tools || m->has_chat_template_kwargs || m->chat_template))
        return status_fail(err, STATUS_INVALID,
            "messages is missing, expected it with tools, chat_template_kwargs or chat_template");
    TRY(take_json(
        "messages", m->has_messages, &m->messages, LIMIT_PROMPT_BYTES, &chat->messages, err));
    TRY(take_json("tools", m->has_tools, &m->tools, LIMIT_TOOLS_BYTES, &chat->tools, err));
    TRY(take_json("chat_template_kwargs", m->has_chat_template_kwargs, &m->chat_template_kwargs,
        LIMIT_KWARGS_BYTES, &chat->kwargs, err));
    if (strlen(chat->template_name) > LIMIT_TEMPLATE_NAME_BYTES ||
        !utf8_valid(chat->template_name, strlen(chat->template_name)))
        return status_fail(err, STATUS_INVALID,
            "chat_template is no UTF-8 or longer than %d bytes, expected a name",
            LIMIT_TEMPLATE_NAME_BYTES);
    return STATUS_OK;
}

static enum status take_prompt(const Phalanx__Submit *m, struct request *out, struct error *err)
{
    bool ids = m->n_prompt_ids > 0;
    if (ids + (m->has_prompt != 0) + (m->has_messages != 0) > 1)
        return status_fail(err, STATUS_INVALID, "both %s and %s are given, expected one of them",
            m->has_prompt ? "prompt" : "prompt_ids",
            ids && m->has_prompt ? "prompt_ids" : "messages");
    TRY(take_chat(m, out, err));
    if (m->has_messages)
        return STATUS_OK;
    if (!ids && !m->has_prompt)
        return status_fail(err, STATUS_INVALID, "prompt is missing, expected text or token ids");
    if (ids && m->n_prompt_ids > LIMIT_CONTEXT_TOKENS)
        return status_fail(err, STATUS_TOO_LARGE, "prompt_ids has %zu ids, expected at most %d",
            m->n_prompt_ids, LIMIT_CONTEXT_TOKENS);
    if (!ids && m->prompt.len > LIMIT_PROMPT_BYTES)
        return status_fail(err, STATUS_TOO_LARGE, "prompt has %zu bytes, expected at most %d",
            m->prompt.len, LIMIT_PROMPT_BYTES);
    if (!ids && !utf8_valid(m->prompt.data, m->prompt.len))
        return status_fail(err, STATUS_INVALID, "prompt is not valid UTF-8");
    out->prompt = (struct request_text){m->prompt.data, m->prompt.len};
    out->prompt_ids = ids ? m->prompt_ids : NULL;
    out->n_prompt_ids = ids ? (uint32_t)m->n_prompt_ids : 0;
    return STATUS_OK;
}

static enum status take_stops(const Phalanx__Submit *m, struct request *out, struct error *err)
{
    if (m->n_stop > LIMIT_STOP_STRINGS)
        return status_fail(err, STATUS_TOO_LARGE, "stop has %zu strings, expected at most %d",
            m->n_stop, LIMIT_STOP_STRINGS);
    for (size_t i = 0; i < m->n_stop; i++) {
        const ProtobufCBinaryData *s = &m->stop[i];
        if (s->len == 0 || s->len > LIMIT_STOP_STRING_BYTES)
            return status_fail(err, STATUS_INVALID,
                "stop string %zu has %zu bytes, expected 1 to %d", i, s->len,
                LIMIT_STOP_STRING_BYTES);
        if (!utf8_valid(s->data, s->len))
            return status_fail(err, STATUS_INVALID, "stop string %zu is not valid UTF-8", i);
        out->stop[i] = (struct request_text){s->data, s->len};
    }
    out->n_stop = (uint32_t)m->n_stop;
    if (m->n_stop_token_ids > LIMIT_STOP_IDS)
        return status_fail(err, STATUS_TOO_LARGE, "stop_token_ids has %zu ids, expected at most %d",
            m->n_stop_token_ids, LIMIT_STOP_IDS);
    out->stop_ids = m->stop_token_ids;
    out->n_stop_ids = (uint32_t)m->n_stop_token_ids;
    return STATUS_OK;
}

static enum status take_bias(const Phalanx__Submit *m, struct request *out, struct error *err)
{
    if (m->n_logit_bias > LIMIT_LOGIT_BIAS)
        return status_fail(err, STATUS_TOO_LARGE, "logit_bias has %zu entries, expected at most %d",
            m->n_logit_bias, LIMIT_LOGIT_BIAS);
    for (size_t i = 0; i < m->n_logit_bias; i++) {
        const Phalanx__LogitBias *b = m->logit_bias[i];
        float bias = b->has_bias ? b->bias : 0;
        if (!(isfinite(bias) && bias >= -100 && bias <= 100))
            return bad_real("logit_bias", (double)bias, false, -100, 100, err);
        out->bias[i] = (struct sampling_bias){b->id, bias};
    }
    out->n_bias = (uint32_t)m->n_logit_bias;
    return STATUS_OK;
}

static enum status take_names(const Phalanx__Submit *m, struct request *out, struct error *err)
{
    if (!m->has_request_id || m->request_id.len != REQUEST_ID_BYTES)
        return status_fail(err, STATUS_INVALID, "request_id has %zu bytes, expected %d",
            m->has_request_id ? m->request_id.len : 0, REQUEST_ID_BYTES);
    memcpy(out->id, m->request_id.data, REQUEST_ID_BYTES);
    if (!m->model || !*m->model || strlen(m->model) > LIMIT_MODEL_NAME_BYTES)
        return status_fail(err, STATUS_INVALID, "model is missing or longer than %d bytes",
            LIMIT_MODEL_NAME_BYTES);
    if (!utf8_valid(m->model, strlen(m->model)))
        return status_fail(err, STATUS_INVALID, "model is not valid UTF-8");
    out->model = m->model;
    out->tenant = m->tenant ? m->tenant : "";
    if (strlen(out->tenant) > LIMIT_TENANT_BYTES)
        return status_fail(
            err, STATUS_INVALID, "tenant is longer than %d bytes", LIMIT_TENANT_BYTES);
    if (!utf8_valid(out->tenant, strlen(out->tenant)))
        return status_fail(err, STATUS_INVALID, "tenant is not valid UTF-8");
    if (m->has_cache_salt && m->cache_salt.len > CACHE_SALT_BYTES)
        return status_fail(err, STATUS_INVALID, "cache_salt has %zu bytes, expected at most %d",
            m->cache_salt.len, CACHE_SALT_BYTES);
    out->cache_salt = (struct request_text){m->cache_salt.data, m->cache_salt.len};
    return STATUS_OK;
}

// The hash covers the message as this library packs it, without what may differ between two
// sendings of the same request.
static enum status hash_body(const Phalanx__Submit *m, struct hash128 *out, struct error *err)
{
    Phalanx__Submit body = *m;
    body.has_window = 0;
    body.base.n_unknown_fields = 0;
    size_t n = phalanx__submit__get_packed_size(&body);
    uint8_t *bytes = malloc(n ? n : 1);
    if (!bytes)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for a request of %zu bytes", n);
    phalanx__submit__pack(&body, bytes);
    *out = hash_128((struct hash_key){0x706c78u, 1}, bytes, n);
    free(bytes);
    return STATUS_OK;
}

static enum status check_together(const struct request *r, struct error *err)
{
    if (r->max_tokens == 0 && r->prompt_logprobs < 0)
        return status_fail(err, STATUS_INVALID,
            "max_tokens is 0, expected at least 1 unless prompt_logprobs is given");
    if (r->chat.messages.data && r->add_generation_prompt && r->continue_final_message)
        return status_fail(err, STATUS_INVALID,
            "both add_generation_prompt and continue_final_message are set, expected one of them");
    if (r->min_tokens > r->max_tokens)
        return status_fail(err, STATUS_INVALID,
            "min_tokens is %u, expected at most max_tokens (%u)", r->min_tokens, r->max_tokens);
    return STATUS_OK;
}

enum status request_from_submit(const Phalanx__Submit *m, struct request *out, struct error *err)
{
    memset(out, 0, sizeof *out);
    TRY(take_names(m, out, err));
    TRY(take_prompt(m, out, err));
    TRY(take_scalars(m, out, err));
    TRY(take_stops(m, out, err));
    TRY(take_bias(m, out, err));
    out->has_seed = m->has_seed;
    out->seed = m->has_seed ? m->seed : 0;
    out->prompt_logprobs = m->has_prompt_logprobs ? (int32_t)m->prompt_logprobs : -1;
    if (m->has_prompt_logprobs && m->prompt_logprobs > LIMIT_LOGPROBS)
        return bad_int("prompt_logprobs", m->prompt_logprobs, 0, LIMIT_LOGPROBS, err);
    TRY(check_together(out, err));
    return hash_body(m, &out->body, err);
}

static enum status bad_id(const char *what, uint32_t id, uint32_t vocab_size, struct error *err)
{
    return status_fail(
        err, STATUS_INVALID, "%s names token %u, expected ids below %u", what, id, vocab_size);
}

enum status request_check_ids(
    const struct request *r, uint32_t vocab_size, uint32_t context_tokens, struct error *err)
{
    for (uint32_t i = 0; i < r->n_prompt_ids; i++)
        if (r->prompt_ids[i] >= vocab_size)
            return bad_id("prompt_ids", r->prompt_ids[i], vocab_size, err);
    for (uint32_t i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] >= vocab_size)
            return bad_id("stop_token_ids", r->stop_ids[i], vocab_size, err);
    for (uint32_t i = 0; i < r->n_bias; i++)
        if (r->bias[i].id >= vocab_size)
            return bad_id("logit_bias", r->bias[i].id, vocab_size, err);
    uint32_t room = context_tokens - (r->max_tokens > 0 ? 1 : 0);
    if (r->n_prompt_ids > room)
        return status_fail(err, STATUS_TOO_LARGE,
            "the prompt has %u tokens, expected at most %u (context of %u)", r->n_prompt_ids, room,
            context_tokens);
    return STATUS_OK;
}

void request_sampling(const struct request *r, struct sampling_params *out)
{
    *out = (struct sampling_params){
        .seed = r->seed,
        .temperature = r->temperature,
        .top_p = r->top_p,
        .min_p = r->min_p,
        .typical_p = r->typical_p,
        .repetition_penalty = r->repetition_penalty,
        .presence_penalty = r->presence_penalty,
        .frequency_penalty = r->frequency_penalty,
        .top_k = r->top_k,
        .min_tokens = r->min_tokens,
        .n_logprobs = r->logprobs,
        .n_stop_ids = r->n_stop_ids,
        .n_logit_bias = r->n_bias,
    };
}
