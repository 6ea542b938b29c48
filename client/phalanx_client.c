// SPDX-License-Identifier: Apache-2.0
#include "client/phalanx_client.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/config.h"
#include "client/client_internal.h"
#include "proto/message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

// ---- connection --------------------------------------------------------------------------------

void phalanx_client_default_endpoint(char *text, size_t n)
{
    const char *given = config_env("PHALANX_ENDPOINT");
    const char *dir = config_env("XDG_RUNTIME_DIR");
    if (given)
        snprintf(text, n, "%s", given);
    else if (dir && *dir == '/' && access(dir, W_OK) == 0)
        snprintf(text, n, "ipc://%s/phalanx/client.ipc", dir);
    else
        snprintf(text, n, "ipc:///tmp/phalanx-%u/client.ipc", (unsigned)getuid());
}

// ZeroMQ would try to connect to a port that cannot be for ever.
static bool is_tcp(const char *endpoint)
{
    const char *colon = strrchr(endpoint, ':');
    int64_t port;
    return strncmp(endpoint, "tcp://", 6) == 0 && colon > endpoint + 6 &&
           config_int_parse(colon + 1, &port) && port >= 1 && port <= UINT16_MAX;
}

static enum status take_endpoint(struct phalanx_client *c, const char *endpoint, struct error *err)
{
    if (!endpoint) {
        phalanx_client_default_endpoint(c->endpoint, sizeof c->endpoint);
        return STATUS_OK;
    }
    if (strlen(endpoint) >= sizeof c->endpoint)
        return status_fail(err, STATUS_INVALID, "the endpoint has %zu bytes, expected at most %zu",
            strlen(endpoint), sizeof c->endpoint - 1);
    if (strncmp(endpoint, "ipc://", 6) != 0 && !is_tcp(endpoint))
        return status_fail(err, STATUS_INVALID,
            "endpoint \"%s\" is not understood, expected ipc://PATH or tcp://HOST:PORT", endpoint);
    snprintf(c->endpoint, sizeof c->endpoint, "%s", endpoint);
    return STATUS_OK;
}

enum status phalanx_client_open(
    const struct phalanx_client_options *options, struct phalanx_client **out, struct error *err)
{
    struct phalanx_client *c = calloc(1, sizeof *c);
    if (!c)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for a client");
    c->connect_timeout_ms =
        options->connect_timeout_ms ? options->connect_timeout_ms : CLIENT_CONNECT_TIMEOUT_MS;
    c->patience_ms = options->patience_ms ? options->patience_ms : CLIENT_PATIENCE_MS;
    if (c->patience_ms < c->connect_timeout_ms)
        c->patience_ms = c->connect_timeout_ms;
    c->next_number = 1;
    c->heard_us = clock_now_us();
    arena_init(&c->arena, LIMIT_MESSAGE_UNPACK_BYTES);
    buf_init(&c->out, LIMIT_MESSAGE_BYTES);
    enum status s = take_endpoint(c, options->endpoint, err);
    if (s == STATUS_OK)
        s = client_socket_open(c, options, err);
    if (s != STATUS_OK) {
        phalanx_client_close(c);
        return s;
    }
    *out = c;
    return STATUS_OK;
}

void phalanx_client_close(struct phalanx_client *c)
{
    if (!c)
        return;
    while (c->requests)
        client_stream_free(c, c->requests);
    client_socket_close(c);
    arena_reset(&c->arena);
    buf_deinit(&c->out);
    free(c);
}

const char *phalanx_client_endpoint(const struct phalanx_client *c)
{
    return c->endpoint;
}

// ---- requests ----------------------------------------------------------------------------------

static bool draw(void *out, size_t n)
{
    return getrandom(out, n, 0) == (ssize_t)n;
}

// Takes over what the library must know of a message, and adds what every request has: an id, and
// a seed, so that a server which has forgotten the request draws the same tokens again.
static enum status take_submit(
    struct phalanx_client *c, struct client_request *r, Phalanx__Submit *m, struct error *err)
{
    uint64_t seed;
    if (!draw(r->id, sizeof r->id) || !draw(&seed, sizeof seed))
        return status_fail(err, STATUS_IO, "no random numbers from the system");
    if (m->has_request_id && m->request_id.len != REQUEST_ID_BYTES)
        return status_fail(err, STATUS_INVALID, "request_id has %zu bytes, expected %d",
            m->request_id.len, REQUEST_ID_BYTES);
    if (m->has_request_id)
        memcpy(r->id, m->request_id.data, REQUEST_ID_BYTES);
    for (const struct client_request *o = c->requests; o; o = o->next)
        if (memcmp(o->id, r->id, REQUEST_ID_BYTES) == 0)
            return status_fail(err, STATUS_CONFLICT, "a request with this request_id is open");
    m->has_request_id = 1;
    m->request_id = (ProtobufCBinaryData){REQUEST_ID_BYTES, r->id};
    if (!m->has_seed) {
        m->has_seed = 1;
        m->seed = seed >> 11; // 53 bits: every reader of JSON keeps them
    }
    if (m->tenant && strlen(m->tenant) >= sizeof r->tenant)
        return status_fail(err, STATUS_INVALID, "tenant has %zu bytes, expected at most %d",
            strlen(m->tenant), LIMIT_TENANT_BYTES);
    snprintf(r->tenant, sizeof r->tenant, "%s", m->tenant ? m->tenant : "");
    r->n_samples = m->has_n ? m->n : 1;
    if (r->n_samples == 0 || r->n_samples > LIMIT_SAMPLES)
        r->n_samples = LIMIT_SAMPLES; // the server refuses it with a sentence
    r->credit_window = m->has_window ? m->window : 0;
    r->scores = m->has_prompt_logprobs;
    return STATUS_OK;
}

static enum status pack_submit(struct client_request *r, Phalanx__Submit *submit, struct error *err)
{
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    m.submit = submit;
    m.has_version = 1;
    m.version = 1;
    message_pack(&m.base, &r->message);
    if (buf_failed(&r->message))
        return status_fail(
            err, STATUS_TOO_LARGE, "the request is larger than %d bytes", LIMIT_MESSAGE_BYTES);
    return STATUS_OK;
}

enum status phalanx_client_submit(
    struct phalanx_client *c, const Phalanx__Submit *submit, uint64_t *request, struct error *err)
{
    struct client_request *r = calloc(1, sizeof *r);
    if (!r)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for a request");
    Phalanx__Submit copy = *submit;
    buf_init(&r->message, LIMIT_MESSAGE_BYTES);
    enum status s = take_submit(c, r, &copy, err);
    if (s == STATUS_OK)
        s = pack_submit(r, &copy, err);
    if (s == STATUS_OK)
        s = client_socket_send(c, r->message.data, r->message.size, err);
    if (s != STATUS_OK) {
        buf_deinit(&r->message);
        free(r);
        return s;
    }
    r->number = c->next_number++;
    r->heard_us = r->nudged_us = clock_now_us();
    if (!c->requests)
        c->heard_us = r->heard_us;
    r->next = c->requests;
    c->requests = r;
    *request = r->number;
    return STATUS_OK;
}

enum status phalanx_client_cancel(struct phalanx_client *c, uint64_t request, struct error *err)
{
    for (struct client_request *r = c->requests; r; r = r->next)
        if (r->number == request)
            return client_stream_cancel(c, r, err);
    return status_fail(
        err, STATUS_NOT_FOUND, "no request %llu is open", (unsigned long long)request);
}

static enum status silence(const struct phalanx_client *c, uint64_t ms, struct error *err)
{
    return status_fail(err, STATUS_TIMEOUT, "no answer from %s for %llu ms, is the server running?",
        c->endpoint, (unsigned long long)ms);
}

enum status phalanx_client_next(
    struct phalanx_client *c, int timeout_ms, struct phalanx_event *event, struct error *err)
{
    uint64_t start = clock_now_us();
    for (;;) {
        if (client_stream_next(c, event))
            return STATUS_OK;
        if (!c->requests)
            return status_fail(err, STATUS_NOT_FOUND, "no request is open");
        uint64_t now = clock_now_us();
        int wait_ms = client_stream_tend(c, now);
        int64_t left_ms = timeout_ms - (int64_t)((now - start) / 1000);
        if (timeout_ms >= 0 && left_ms < wait_ms)
            wait_ms = left_ms > 0 ? (int)left_ms : 0;
        enum status s = client_socket_receive(c, wait_ms, err);
        if (s == STATUS_OK) {
            client_stream_begin(c);
            continue;
        }
        if (s != STATUS_AGAIN)
            return s;
        now = clock_now_us();
        if (now > client_stream_patience(c))
            return silence(c, (now - c->heard_us) / 1000, err);
        if (timeout_ms >= 0 && now - start >= (uint64_t)timeout_ms * 1000)
            return STATUS_AGAIN;
    }
}

// ---- questions ---------------------------------------------------------------------------------

static enum status refusal(const Phalanx__Refused *refused, struct error *err)
{
    return status_fail(
        err, STATUS_DENIED, "%s", refused->reason ? refused->reason : "refused without a reason");
}

// Sends `m`, again each time that nothing comes for a while, since a coordinator that is killed
// takes the question with it, and waits for a message for which `want` is true. Tokens that come in
// between are dropped; the gap is noticed and they are asked for again.
static enum status ask(struct phalanx_client *c, Phalanx__ClientMessage *m, int timeout_ms,
    bool (*want)(const Phalanx__ServerMessage *), struct error *err)
{
    check(!c->at || !c->message); // not between the events of one message
    uint64_t now = clock_now_us(), end = now + (uint64_t)timeout_ms * 1000, sent_us = 0;
    for (;; now = clock_now_us()) {
        if (now >= end)
            return silence(c, (uint64_t)timeout_ms, err);
        if (now - sent_us >= CLIENT_NUDGE_MS * 1000) {
            TRY(client_socket_send_message(c, m, err));
            sent_us = now;
        }
        uint64_t again_us = sent_us + CLIENT_NUDGE_MS * 1000;
        uint64_t due = again_us < end ? again_us : end;
        int wait_ms = due > now ? (int)((due - now + 999) / 1000) : 0;
        enum status s = client_socket_receive(c, wait_ms, err);
        if (s == STATUS_OK && want(c->message))
            return STATUS_OK;
        if (s == STATUS_OK && c->message->refused && !c->message->refused->has_request_id)
            return refusal(c->message->refused, err);
        if (s != STATUS_OK && s != STATUS_AGAIN)
            return s;
    }
}

static bool is_models(const Phalanx__ServerMessage *m)
{
    return m->models != NULL;
}

enum status phalanx_client_models(
    struct phalanx_client *c, int timeout_ms, const Phalanx__Models **out, struct error *err)
{
    Phalanx__ListModels list = PHALANX__LIST_MODELS__INIT;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    m.list_models = &list;
    TRY(ask(c, &m, timeout_ms, is_models, err));
    *out = c->message->models;
    c->message = NULL;
    return STATUS_OK;
}

static bool is_stopping(const Phalanx__ServerMessage *m)
{
    return m->stopping != NULL;
}

enum status phalanx_client_stop(struct phalanx_client *c, int timeout_ms, struct error *err)
{
    Phalanx__Stop stop = PHALANX__STOP__INIT;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    m.stop = &stop;
    TRY(ask(c, &m, timeout_ms, is_stopping, err));
    c->message = NULL;
    return STATUS_OK;
}
