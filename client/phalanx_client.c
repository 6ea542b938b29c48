// SPDX-License-Identifier: Apache-2.0
#include "client/phalanx_client.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/config.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "proto/validate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <zmq.h>

enum {
    CLIENT_CONNECT_TIMEOUT_MS = 10000,
    CLIENT_NUDGE_MS = 1000, // silence after which a request is asked about
    CLIENT_BUSY_DEFAULT_MS = 100,
    CLIENT_RECONNECT_MAX_MS = 2000,
};

// What is known of one sample: how many tokens have been delivered.
struct client_sample {
    uint32_t next;
    bool finished;
};

enum client_state {
    CLIENT_SUBMITTED, // sent, no answer yet
    CLIENT_BUSY,      // to be sent again at retry_us
    CLIENT_ACCEPTED,
};

struct client_request {
    struct client_request *next;
    uint64_t number;
    uint8_t id[REQUEST_ID_BYTES];
    struct buf message; // packed ClientMessage with the SUBMIT, for repetition
    enum client_state state;
    uint64_t heard_us, nudged_us, retry_us;
    uint32_t n_samples, n_finished, prompt_next, credit_window, credit_sent;
    bool accepted_told, last_seen;
    struct client_sample sample[LIMIT_SAMPLES];
};

struct phalanx_client {
    void *context, *socket;
    char endpoint[256];
    uint32_t connect_timeout_ms;
    uint64_t heard_us; // of the server
    uint64_t next_number;
    struct client_request *requests;
    struct arena arena; // the message being delivered
    const Phalanx__ServerMessage *message;
    struct client_request *at; // the request it belongs to
    size_t position;           // next token of it
    bool closing;              // the request at hand ends with this message
    struct buf out;
};

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

static void set_int(void *socket, int option, int value)
{
    check(zmq_setsockopt(socket, option, &value, sizeof value) == 0);
}

static enum status set_keys(
    struct phalanx_client *c, const struct phalanx_client_options *o, struct error *err)
{
    if (!o->server_key)
        return STATUS_OK;
    char public_key[41], secret_key[41];
    if (o->public_key && o->secret_key) {
        if (strlen(o->public_key) != 40 || strlen(o->secret_key) != 40)
            return status_fail(err, STATUS_INVALID, "a CURVE key is not 40 characters of Z85");
        memcpy(public_key, o->public_key, 41);
        memcpy(secret_key, o->secret_key, 41);
    } else if (zmq_curve_keypair(public_key, secret_key) != 0) {
        return status_fail(err, STATUS_UNSUPPORTED, "this ZeroMQ was built without CURVE");
    }
    if (zmq_setsockopt(c->socket, ZMQ_CURVE_SERVERKEY, o->server_key, strlen(o->server_key)) ||
        zmq_setsockopt(c->socket, ZMQ_CURVE_PUBLICKEY, public_key, 40) ||
        zmq_setsockopt(c->socket, ZMQ_CURVE_SECRETKEY, secret_key, 40))
        return status_fail(err, STATUS_INVALID, "a CURVE key is not 40 characters of Z85");
    return STATUS_OK;
}

static enum status connect_socket(
    struct phalanx_client *c, const struct phalanx_client_options *o, struct error *err)
{
    c->context = zmq_ctx_new();
    c->socket = c->context ? zmq_socket(c->context, ZMQ_DEALER) : NULL;
    if (!c->socket)
        return status_fail(err, STATUS_IO, "no ZeroMQ socket: %s", zmq_strerror(errno));
    set_int(c->socket, ZMQ_LINGER, 200);
    set_int(c->socket, ZMQ_RECONNECT_IVL, 50);
    set_int(c->socket, ZMQ_RECONNECT_IVL_MAX, CLIENT_RECONNECT_MAX_MS);
    set_int(c->socket, ZMQ_SNDHWM, 100000);
    set_int(c->socket, ZMQ_RCVHWM, 100000);
    int64_t message_max = LIMIT_MESSAGE_BYTES;
    check(zmq_setsockopt(c->socket, ZMQ_MAXMSGSIZE, &message_max, sizeof message_max) == 0);
    TRY(set_keys(c, o, err));
    if (zmq_connect(c->socket, c->endpoint) != 0)
        return status_fail(err, STATUS_INVALID,
            "endpoint \"%s\": %s, expected ipc://PATH or "
            "tcp://HOST:PORT",
            c->endpoint, zmq_strerror(errno));
    return STATUS_OK;
}

enum status phalanx_client_open(
    const struct phalanx_client_options *options, struct phalanx_client **out, struct error *err)
{
    struct phalanx_client *c = calloc(1, sizeof *c);
    if (!c)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for a client");
    if (options->endpoint)
        snprintf(c->endpoint, sizeof c->endpoint, "%s", options->endpoint);
    else
        phalanx_client_default_endpoint(c->endpoint, sizeof c->endpoint);
    c->connect_timeout_ms =
        options->connect_timeout_ms ? options->connect_timeout_ms : CLIENT_CONNECT_TIMEOUT_MS;
    c->next_number = 1;
    c->heard_us = clock_now_us();
    arena_init(&c->arena, LIMIT_MESSAGE_UNPACK_BYTES);
    buf_init(&c->out, LIMIT_MESSAGE_BYTES);
    enum status s = connect_socket(c, options, err);
    if (s != STATUS_OK) {
        phalanx_client_close(c);
        return s;
    }
    *out = c;
    return STATUS_OK;
}

static void request_free(struct phalanx_client *c, struct client_request *r)
{
    for (struct client_request **p = &c->requests; *p; p = &(*p)->next)
        if (*p == r) {
            *p = r->next;
            break;
        }
    buf_deinit(&r->message);
    free(r);
}

void phalanx_client_close(struct phalanx_client *c)
{
    if (!c)
        return;
    while (c->requests)
        request_free(c, c->requests);
    if (c->socket)
        zmq_close(c->socket);
    if (c->context)
        zmq_ctx_term(c->context);
    arena_reset(&c->arena);
    buf_deinit(&c->out);
    free(c);
}

const char *phalanx_client_endpoint(const struct phalanx_client *c)
{
    return c->endpoint;
}

// ---- sending -----------------------------------------------------------------------------------

static enum status send_bytes(
    struct phalanx_client *c, const void *data, size_t n, struct error *err)
{
    if (zmq_send(c->socket, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(c->socket, data, n, ZMQ_DONTWAIT) < 0) {
        if (errno == EAGAIN)
            return STATUS_OK; // the nudge repeats it
        return status_fail(err, STATUS_IO, "sending to %s: %s", c->endpoint, zmq_strerror(errno));
    }
    return STATUS_OK;
}

static enum status send_message(
    struct phalanx_client *c, Phalanx__ClientMessage *m, struct error *err)
{
    m->has_version = 1;
    m->version = 1;
    buf_clear(&c->out);
    message_pack(&m->base, &c->out);
    if (buf_failed(&c->out))
        return status_fail(
            err, STATUS_TOO_LARGE, "the message is larger than %d bytes", LIMIT_MESSAGE_BYTES);
    return send_bytes(c, c->out.data, c->out.size, err);
}

static ProtobufCBinaryData id_of(struct client_request *r)
{
    return (ProtobufCBinaryData){REQUEST_ID_BYTES, r->id};
}

static enum status send_resume(
    struct phalanx_client *c, struct client_request *r, struct error *err)
{
    uint32_t from = UINT32_MAX;
    for (uint32_t i = 0; i < r->n_samples; i++)
        if (!r->sample[i].finished && r->sample[i].next < from)
            from = r->sample[i].next;
    Phalanx__Resume resume = PHALANX__RESUME__INIT;
    resume.has_request_id = 1;
    resume.request_id = id_of(r);
    resume.has_from = 1;
    resume.from = from == UINT32_MAX ? 0 : from;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    m.resume = &resume;
    return send_message(c, &m, err);
}

static enum status send_close(struct phalanx_client *c, struct client_request *r)
{
    Phalanx__Close message = PHALANX__CLOSE__INIT;
    message.has_request_id = 1;
    message.request_id = id_of(r);
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    m.close = &message;
    return send_message(c, &m, NULL);
}

static enum status send_credit(struct phalanx_client *c, struct client_request *r)
{
    uint32_t acked = UINT32_MAX;
    for (uint32_t i = 0; i < r->n_samples; i++)
        if (!r->sample[i].finished && r->sample[i].next < acked)
            acked = r->sample[i].next;
    if (r->credit_window == 0 || acked == UINT32_MAX ||
        acked < r->credit_sent + (r->credit_window + 1) / 2)
        return STATUS_OK;
    r->credit_sent = acked;
    Phalanx__Credit credit = PHALANX__CREDIT__INIT;
    credit.has_request_id = 1;
    credit.request_id = id_of(r);
    credit.has_acked = 1;
    credit.acked = acked;
    credit.has_window = 1;
    credit.window = r->credit_window;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    m.credit = &credit;
    return send_message(c, &m, NULL);
}

enum status phalanx_client_cancel(struct phalanx_client *c, uint64_t request, struct error *err)
{
    for (struct client_request *r = c->requests; r; r = r->next) {
        if (r->number != request)
            continue;
        Phalanx__Cancel cancel = PHALANX__CANCEL__INIT;
        cancel.has_request_id = 1;
        cancel.request_id = id_of(r);
        Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
        m.cancel = &cancel;
        return send_message(c, &m, err);
    }
    return status_fail(
        err, STATUS_NOT_FOUND, "no request %llu is open", (unsigned long long)request);
}

enum status phalanx_client_submit(
    struct phalanx_client *c, const Phalanx__Submit *submit, uint64_t *request, struct error *err)
{
    struct client_request *r = calloc(1, sizeof *r);
    if (!r)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for a request");
    Phalanx__Submit copy = *submit;
    if (!copy.has_request_id) {
        if (getrandom(r->id, sizeof r->id, 0) != (ssize_t)sizeof r->id) {
            free(r);
            return status_fail(err, STATUS_IO, "no random numbers from the system");
        }
        copy.has_request_id = 1;
        copy.request_id = id_of(r);
    } else if (copy.request_id.len == REQUEST_ID_BYTES) {
        memcpy(r->id, copy.request_id.data, REQUEST_ID_BYTES);
    }
    r->n_samples = copy.has_n ? copy.n : 1;
    if (r->n_samples == 0 || r->n_samples > LIMIT_SAMPLES)
        r->n_samples = LIMIT_SAMPLES; // the server refuses it with a sentence
    r->credit_window = copy.has_window ? copy.window : 0;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    m.submit = &copy;
    m.has_version = 1;
    m.version = 1;
    buf_init(&r->message, LIMIT_MESSAGE_BYTES);
    message_pack(&m.base, &r->message);
    enum status s = STATUS_OK;
    if (buf_failed(&r->message))
        s = status_fail(
            err, STATUS_TOO_LARGE, "the request is larger than %d bytes", LIMIT_MESSAGE_BYTES);
    if (s == STATUS_OK)
        s = send_bytes(c, r->message.data, r->message.size, err);
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

// ---- receiving ---------------------------------------------------------------------------------

// Receives one message into the arena; STATUS_AGAIN when none comes within timeout_ms.
static enum status receive(struct phalanx_client *c, int timeout_ms, struct error *err)
{
    c->message = NULL;
    zmq_pollitem_t item = {c->socket, 0, ZMQ_POLLIN, 0};
    int n = zmq_poll(&item, 1, timeout_ms);
    if (n < 0 && errno != EINTR)
        return status_fail(err, STATUS_IO, "waiting for %s: %s", c->endpoint, zmq_strerror(errno));
    if (n <= 0)
        return STATUS_AGAIN;
    enum status s = STATUS_AGAIN;
    int more = 1, parts = 0;
    while (more) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, c->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            return STATUS_AGAIN;
        }
        more = zmq_msg_more(&part);
        if (++parts == 2 && !more) {
            arena_reset(&c->arena);
            ProtobufCMessage *m;
            s = message_unpack(&phalanx__server_message__descriptor, zmq_msg_data(&part),
                zmq_msg_size(&part), &c->arena, &m, NULL);
            if (s == STATUS_OK)
                c->message = (const Phalanx__ServerMessage *)m;
            else
                s = STATUS_AGAIN; // not for us to understand: ignored
        }
        zmq_msg_close(&part);
    }
    if (s == STATUS_OK)
        c->heard_us = clock_now_us();
    return s;
}

static struct client_request *request_find(struct phalanx_client *c, ProtobufCBinaryData id)
{
    if (id.len != REQUEST_ID_BYTES)
        return NULL;
    for (struct client_request *r = c->requests; r; r = r->next)
        if (memcmp(r->id, id.data, REQUEST_ID_BYTES) == 0)
            return r;
    return NULL;
}

// The request that the message at hand is about; NULL if it is none of ours.
static struct client_request *request_of(struct phalanx_client *c)
{
    const Phalanx__ServerMessage *m = c->message;
    ProtobufCBinaryData id = {0, NULL};
    if (m->accepted)
        id = m->accepted->request_id;
    else if (m->busy)
        id = m->busy->request_id;
    else if (m->refused)
        id = m->refused->request_id;
    else if (m->conflict)
        id = m->conflict->request_id;
    else if (m->tokens)
        id = m->tokens->request_id;
    else if (m->prompt_tokens)
        id = m->prompt_tokens->request_id;
    else if (m->finish)
        id = m->finish->request_id;
    return request_find(c, id);
}

static bool deliver_refusal(struct phalanx_client *c, struct phalanx_event *e)
{
    const Phalanx__Refused *refused = c->message->refused;
    e->kind = PHALANX_EVENT_REFUSED;
    e->status = STATUS_INVALID;
    e->reason = "another request was accepted under this id";
    if (c->message->conflict) {
        e->status = STATUS_CONFLICT;
    } else {
        for (int s = 0; s < STATUS_COUNT; s++)
            if (refused->status && strcmp(refused->status, status_name((enum status)s)) == 0)
                e->status = (enum status)s;
        e->reason = refused->reason ? refused->reason : "refused without a reason";
    }
    c->closing = true;
    return true;
}

// Tokens come one event each; those delivered before are dropped, a gap is asked for again.
static bool deliver_token(
    struct phalanx_client *c, struct client_request *r, struct phalanx_event *e)
{
    const Phalanx__Tokens *t = c->message->tokens;
    if (t->index >= r->n_samples)
        return false;
    struct client_sample *sample = &r->sample[t->index];
    if (t->offset > sample->next && c->position == 0) {
        send_resume(c, r, NULL);
        return false;
    }
    if (c->position < sample->next - t->offset)
        c->position = sample->next - t->offset;
    if (c->position >= t->n_token) {
        send_credit(c, r);
        return false;
    }
    e->kind = PHALANX_EVENT_TOKEN;
    e->index = t->index;
    e->attempt = t->attempt;
    e->offset = sample->next++;
    e->token = t->token[c->position++];
    return true;
}

static bool deliver_prompt(
    struct phalanx_client *c, struct client_request *r, struct phalanx_event *e)
{
    const Phalanx__PromptTokens *t = c->message->prompt_tokens;
    if (t->offset > r->prompt_next)
        return false;
    if (c->position < r->prompt_next - t->offset)
        c->position = r->prompt_next - t->offset;
    if (c->position >= t->n_token)
        return false;
    e->kind = PHALANX_EVENT_PROMPT;
    e->offset = r->prompt_next++;
    e->token = t->token[c->position++];
    return true;
}

static bool deliver_finish(
    struct phalanx_client *c, struct client_request *r, struct phalanx_event *e)
{
    const Phalanx__Finish *f = c->message->finish;
    if (c->position > 0 || f->index >= r->n_samples || r->sample[f->index].finished)
        return false;
    struct client_sample *sample = &r->sample[f->index];
    if (f->completion_tokens > sample->next) {
        send_resume(c, r, NULL);
        return false;
    }
    c->position = 1;
    sample->finished = true;
    r->n_finished++;
    e->kind = PHALANX_EVENT_FINISH;
    e->index = f->index;
    e->finish = f;
    if (r->n_finished == r->n_samples || (f->last && r->n_samples == LIMIT_SAMPLES))
        c->closing = true;
    return true;
}

// Turns the message at hand into the next event; false when it holds no more.
static bool deliver(struct phalanx_client *c, struct phalanx_event *e)
{
    struct client_request *r = c->at;
    const Phalanx__ServerMessage *m = c->message;
    *e = (struct phalanx_event){.request = r->number};
    r->heard_us = clock_now_us();
    if (m->busy) {
        uint32_t ms = m->busy->has_retry_after_ms ? m->busy->retry_after_ms : 0;
        if (ms == 0 || ms > LIMIT_RETRY_AFTER_MS)
            ms = CLIENT_BUSY_DEFAULT_MS;
        if (r->state == CLIENT_SUBMITTED) {
            r->state = CLIENT_BUSY;
            r->retry_us = r->heard_us + (uint64_t)ms * 1000;
        }
        return false;
    }
    if (m->refused || m->conflict)
        return c->position == 0 && (c->position = 1) && deliver_refusal(c, e);
    r->state = CLIENT_ACCEPTED;
    if (m->accepted) {
        e->kind = PHALANX_EVENT_ACCEPTED;
        e->seed = m->accepted->seed;
        bool first = !r->accepted_told;
        r->accepted_told = true;
        return first;
    }
    if (m->tokens)
        return deliver_token(c, r, e);
    if (m->prompt_tokens)
        return deliver_prompt(c, r, e);
    return m->finish && deliver_finish(c, r, e);
}

// Repeats what may have been lost; returns how long to wait for the next thing to do.
static int tend(struct phalanx_client *c, uint64_t now)
{
    uint64_t soonest = now + (uint64_t)CLIENT_NUDGE_MS * 1000;
    for (struct client_request *r = c->requests; r; r = r->next) {
        if (r->state == CLIENT_BUSY && now >= r->retry_us) {
            r->state = CLIENT_SUBMITTED;
            r->nudged_us = now;
            send_bytes(c, r->message.data, r->message.size, NULL);
        }
        uint64_t silent_since = r->heard_us > r->nudged_us ? r->heard_us : r->nudged_us;
        uint64_t due =
            r->state == CLIENT_BUSY ? r->retry_us : silent_since + (uint64_t)CLIENT_NUDGE_MS * 1000;
        if (r->state != CLIENT_BUSY && now >= due) {
            r->nudged_us = now;
            due = now + (uint64_t)CLIENT_NUDGE_MS * 1000;
            if (r->state == CLIENT_SUBMITTED)
                send_bytes(c, r->message.data, r->message.size, NULL);
            else
                send_resume(c, r, NULL);
        }
        if (due < soonest)
            soonest = due;
    }
    return (int)((soonest - now + 999) / 1000);
}

static void end_request(struct phalanx_client *c, struct phalanx_event *e)
{
    *e = (struct phalanx_event){.kind = PHALANX_EVENT_ENDED, .request = c->at->number};
    send_close(c, c->at);
    request_free(c, c->at);
    c->at = NULL;
    c->message = NULL;
    c->closing = false;
}

// Events that the message at hand still holds.
static bool next_of_message(struct phalanx_client *c, struct phalanx_event *event)
{
    if (!c->message || !c->at)
        return false;
    if (c->closing) {
        end_request(c, event);
        return true;
    }
    if (!deliver(c, event)) {
        c->message = NULL;
        return false;
    }
    if (event->kind == PHALANX_EVENT_REFUSED) {
        // Its sentence must outlive the request: the message stays until the next call.
        request_free(c, c->at);
        c->at = NULL;
        c->closing = false;
    }
    return true;
}

enum status phalanx_client_next(
    struct phalanx_client *c, int timeout_ms, struct phalanx_event *event, struct error *err)
{
    uint64_t start = clock_now_us();
    for (;;) {
        if (next_of_message(c, event))
            return STATUS_OK;
        if (!c->requests)
            return status_fail(err, STATUS_NOT_FOUND, "no request is open");
        uint64_t now = clock_now_us();
        int wait_ms = tend(c, now);
        int64_t left_ms = timeout_ms - (int64_t)((now - start) / 1000);
        if (timeout_ms >= 0 && left_ms < wait_ms)
            wait_ms = left_ms > 0 ? (int)left_ms : 0;
        enum status s = receive(c, wait_ms, err);
        if (s == STATUS_OK) {
            c->at = request_of(c);
            c->position = 0;
            if (!c->at)
                c->message = NULL;
            continue;
        }
        if (s != STATUS_AGAIN)
            return s;
        now = clock_now_us();
        if (now - c->heard_us > (uint64_t)c->connect_timeout_ms * 1000)
            return status_fail(err, STATUS_TIMEOUT,
                "no answer from %s for %u ms, is the server running?", c->endpoint,
                c->connect_timeout_ms);
        if (timeout_ms >= 0 && now - start >= (uint64_t)timeout_ms * 1000)
            return STATUS_AGAIN;
    }
}

// Sends `m` and waits for a message for which `want` is true.
static enum status ask(struct phalanx_client *c, Phalanx__ClientMessage *m, int timeout_ms,
    bool (*want)(const Phalanx__ServerMessage *), struct error *err)
{
    check(!c->at || !c->message); // not between the events of one message
    TRY(send_message(c, m, err));
    uint64_t end = clock_now_us() + (uint64_t)timeout_ms * 1000;
    for (;;) {
        uint64_t now = clock_now_us();
        if (now >= end)
            return status_fail(err, STATUS_TIMEOUT,
                "no answer from %s within %d ms, is the server running?", c->endpoint, timeout_ms);
        enum status s = receive(c, (int)((end - now + 999) / 1000), err);
        if (s == STATUS_OK && want(c->message))
            return STATUS_OK;
        if (s == STATUS_OK && c->message->refused)
            return status_fail(err, STATUS_DENIED, "%s",
                c->message->refused->reason ? c->message->refused->reason : "refused");
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
