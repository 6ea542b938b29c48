// SPDX-License-Identifier: Apache-2.0
// From messages to events: each token once and in order, whatever is lost, repeated or computed
// once more.
#include "client/client_internal.h"

#include "base/clock.h"
#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

// ---- what is asked of the server ---------------------------------------------------------------

static ProtobufCBinaryData id_of(struct client_request *r)
{
    return (ProtobufCBinaryData){REQUEST_ID_BYTES, r->id};
}

static char *tenant_of(struct client_request *r)
{
    return r->tenant[0] ? r->tenant : NULL;
}

// The first token that some sample has not got; UINT32_MAX when all have ended.
static uint32_t first_missing(const struct client_request *r)
{
    uint32_t from = UINT32_MAX;
    for (uint32_t i = 0; i < r->n_samples; i++)
        if (!r->sample[i].finished && r->sample[i].seen < from)
            from = r->sample[i].seen;
    return from;
}

// Asks for what is missing, and whether the server is there at all: RESUME alone has no answer
// while there is nothing to send.
static void send_resume(struct phalanx_client *c, struct client_request *r, uint32_t from)
{
    Phalanx__Resume resume = PHALANX__RESUME__INIT;
    Phalanx__Ping ping = PHALANX__PING__INIT;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    resume.has_request_id = resume.has_from = 1;
    resume.request_id = id_of(r);
    resume.from = from == UINT32_MAX ? 0 : from;
    resume.tenant = tenant_of(r);
    m.resume = &resume;
    m.ping = &ping;
    client_socket_send_message(c, &m, NULL);
}

static void send_submit(struct phalanx_client *c, struct client_request *r)
{
    r->state = CLIENT_SUBMITTED;
    client_socket_send(c, r->message.data, r->message.size, NULL);
}

static void send_close(struct phalanx_client *c, struct client_request *r)
{
    Phalanx__Close message = PHALANX__CLOSE__INIT;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    message.has_request_id = 1;
    message.request_id = id_of(r);
    message.tenant = tenant_of(r);
    m.close = &message;
    client_socket_send_message(c, &m, NULL);
}

// Lets the server go on once half of the window is used; `now` also before.
static void send_credit(struct phalanx_client *c, struct client_request *r, bool now)
{
    uint32_t acked = first_missing(r);
    if (r->credit_window == 0 || acked == UINT32_MAX ||
        (!now && acked < r->credit_sent + (r->credit_window + 1) / 2))
        return;
    r->credit_sent = acked;
    Phalanx__Credit credit = PHALANX__CREDIT__INIT;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    credit.has_request_id = credit.has_acked = credit.has_window = 1;
    credit.request_id = id_of(r);
    credit.acked = acked;
    credit.window = r->credit_window;
    credit.tenant = tenant_of(r);
    m.credit = &credit;
    client_socket_send_message(c, &m, NULL);
}

enum status client_stream_cancel(
    struct phalanx_client *c, struct client_request *r, struct error *err)
{
    Phalanx__Cancel cancel = PHALANX__CANCEL__INIT;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    r->cancelled = true;
    cancel.has_request_id = 1;
    cancel.request_id = id_of(r);
    cancel.tenant = tenant_of(r);
    m.cancel = &cancel;
    return client_socket_send_message(c, &m, err);
}

void client_stream_free(struct phalanx_client *c, struct client_request *r)
{
    for (struct client_request **p = &c->requests; *p; p = &(*p)->next)
        if (*p == r) {
            *p = r->next;
            break;
        }
    buf_deinit(&r->message);
    free(r);
}

// The server has no memory of a request that was accepted: it is asked for once more, under the
// same id and with the same seed, and what was delivered is compared and skipped.
static void submit_again(struct phalanx_client *c, struct client_request *r)
{
    for (uint32_t i = 0; i < r->n_samples; i++) {
        r->sample[i].seen = 0;
        r->sample[i].hash_seen = 0;
    }
    r->credit_sent = 0;
    r->nudged_us = clock_now_us();
    send_submit(c, r);
}

// ---- messages to events ------------------------------------------------------------------------

static struct client_request *request_find(struct phalanx_client *c, ProtobufCBinaryData id)
{
    if (id.len != REQUEST_ID_BYTES)
        return NULL;
    for (struct client_request *r = c->requests; r; r = r->next)
        if (memcmp(r->id, id.data, REQUEST_ID_BYTES) == 0)
            return r;
    return NULL;
}

void client_stream_begin(struct phalanx_client *c)
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
    c->at = request_find(c, id);
    c->position = 0;
    if (!c->at)
        c->message = NULL;
}

static bool deliver_end(
    struct phalanx_client *c, struct phalanx_event *e, enum status status, const char *reason)
{
    e->kind = PHALANX_EVENT_REFUSED;
    e->status = status;
    e->reason = reason;
    c->closing = true;
    return true;
}

// The tokens of a server that computes the request once more are not those delivered before.
static bool deliver_mismatch(
    struct phalanx_client *c, struct client_request *r, struct phalanx_event *e)
{
    send_close(c, r);
    return deliver_end(c, e, STATUS_MISMATCH,
        "the restarted server computes other tokens than those delivered before, so the stream "
        "cannot go on");
}

static bool deliver_refusal(
    struct phalanx_client *c, struct client_request *r, struct phalanx_event *e)
{
    if (c->message->conflict)
        return deliver_end(
            c, e, STATUS_CONFLICT, "another request was accepted under this request_id");
    const Phalanx__Refused *refused = c->message->refused;
    if (refused->unknown_request) {
        if (r->state == CLIENT_ACCEPTED)
            submit_again(c, r);
        return false;
    }
    enum status status = STATUS_INVALID;
    for (int s = 0; s < STATUS_COUNT; s++)
        if (refused->status && strcmp(refused->status, status_name((enum status)s)) == 0)
            status = (enum status)s;
    return deliver_end(
        c, e, status, refused->reason ? refused->reason : "refused without a reason");
}

static bool deliver_accepted(
    struct phalanx_client *c, struct client_request *r, struct phalanx_event *e)
{
    if (c->position > 0)
        return false;
    c->position = 1;
    if (r->cancelled)
        client_stream_cancel(c, r, NULL);
    bool first = !r->accepted_told;
    if (!first)
        send_credit(c, r, true);
    r->accepted_told = true;
    e->kind = PHALANX_EVENT_ACCEPTED;
    e->seed = c->message->accepted->seed;
    e->text = !c->message->accepted->has_text || c->message->accepted->text;
    return first;
}

static uint64_t mix(uint64_t hash, uint32_t id)
{
    return hash_64((struct hash_key){hash, 0}, &id, sizeof id);
}

// Tokens come one event each; those delivered before are dropped, a gap is asked for again.
static bool deliver_token(
    struct phalanx_client *c, struct client_request *r, struct phalanx_event *e)
{
    const Phalanx__Tokens *t = c->message->tokens;
    if (t->index >= r->n_samples || r->sample[t->index].finished)
        return false;
    struct client_sample *sample = &r->sample[t->index];
    if (t->offset > sample->seen) {
        if (c->position == 0)
            send_resume(c, r, first_missing(r));
        return false;
    }
    for (c->position = sample->seen - t->offset; c->position < t->n_token;) {
        const Phalanx__Token *token = t->token[c->position++];
        if (sample->seen < sample->next) {
            sample->hash_seen = mix(sample->hash_seen, token->id);
            if (++sample->seen == sample->next && sample->hash_seen != sample->hash)
                return deliver_mismatch(c, r, e);
            continue;
        }
        sample->hash = mix(sample->hash, token->id);
        sample->seen++;
        e->kind = PHALANX_EVENT_TOKEN;
        e->index = t->index;
        e->attempt = t->attempt;
        e->offset = sample->next++;
        e->token = token;
        return true;
    }
    send_credit(c, r, false);
    return false;
}

static bool deliver_prompt(
    struct phalanx_client *c, struct client_request *r, struct phalanx_event *e)
{
    const Phalanx__PromptTokens *t = c->message->prompt_tokens;
    if (t->offset > r->prompt_next) {
        if (c->position == 0)
            send_resume(c, r, 0);
        return false;
    }
    c->position = r->prompt_next - t->offset;
    if (c->position >= t->n_token)
        return false;
    e->kind = PHALANX_EVENT_PROMPT;
    e->offset = r->prompt_next++;
    e->token = t->token[c->position++];
    return true;
}

static bool ended_well(const Phalanx__Finish *f)
{
    return f->reason && (strcmp(f->reason, "stop") == 0 || strcmp(f->reason, "length") == 0);
}

static bool deliver_finish(
    struct phalanx_client *c, struct client_request *r, struct phalanx_event *e)
{
    const Phalanx__Finish *f = c->message->finish;
    if (c->position > 0 || f->index >= r->n_samples || r->sample[f->index].finished)
        return false;
    struct client_sample *sample = &r->sample[f->index];
    bool scores_missing = r->scores && ended_well(f) && r->prompt_next < f->prompt_tokens;
    if (f->completion_tokens > sample->seen || scores_missing) {
        send_resume(c, r, scores_missing ? 0 : first_missing(r));
        return false;
    }
    if (f->completion_tokens < sample->next && ended_well(f))
        return deliver_mismatch(c, r, e);
    c->position = 1;
    sample->finished = true;
    r->n_finished++;
    e->kind = PHALANX_EVENT_FINISH;
    e->index = f->index;
    e->finish = f;
    c->closing = r->n_finished == r->n_samples;
    return true;
}

static void take_busy(struct phalanx_client *c, struct client_request *r)
{
    const Phalanx__Busy *busy = c->message->busy;
    uint32_t ms = busy->retry_after_ms;
    if (ms == 0 || ms > LIMIT_RETRY_AFTER_MS)
        ms = CLIENT_BUSY_DEFAULT_MS;
    if (r->state == CLIENT_SUBMITTED) {
        r->state = CLIENT_BUSY;
        r->retry_us = r->heard_us + (uint64_t)ms * 1000;
    }
}

// Turns the message at hand into the next event; false when it holds no more.
static bool deliver(struct phalanx_client *c, struct phalanx_event *e)
{
    struct client_request *r = c->at;
    const Phalanx__ServerMessage *m = c->message;
    *e = (struct phalanx_event){.request = r->number};
    r->heard_us = clock_now_us();
    if (m->busy)
        take_busy(c, r);
    if (m->refused || m->conflict)
        return deliver_refusal(c, r, e);
    if (m->busy)
        return false;
    r->state = CLIENT_ACCEPTED;
    if (m->accepted)
        return deliver_accepted(c, r, e);
    if (m->tokens)
        return deliver_token(c, r, e);
    if (m->prompt_tokens)
        return deliver_prompt(c, r, e);
    return m->finish && deliver_finish(c, r, e);
}

static void end_request(struct phalanx_client *c, struct phalanx_event *e)
{
    *e = (struct phalanx_event){.kind = PHALANX_EVENT_ENDED, .request = c->at->number};
    send_close(c, c->at);
    client_stream_free(c, c->at);
    c->at = NULL;
    c->message = NULL;
    c->closing = false;
}

bool client_stream_next(struct phalanx_client *c, struct phalanx_event *event)
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
        client_stream_free(c, c->at);
        c->at = NULL;
        c->closing = false;
    }
    return true;
}

// ---- time --------------------------------------------------------------------------------------

static void nudge(struct phalanx_client *c, struct client_request *r, uint64_t now_us)
{
    r->nudged_us = now_us;
    if (r->state != CLIENT_ACCEPTED) {
        send_submit(c, r);
        return;
    }
    if (r->cancelled)
        client_stream_cancel(c, r, NULL);
    bool scores_missing = r->scores && r->prompt_next == 0;
    send_resume(c, r, scores_missing ? 0 : first_missing(r));
}

uint64_t client_stream_patience(const struct phalanx_client *c)
{
    uint64_t since_us = c->heard_us, ms = c->connect_timeout_ms;
    for (const struct client_request *r = c->requests; r; r = r->next) {
        if (r->retry_us > since_us)
            since_us = r->retry_us;
        if (r->accepted_told)
            ms = c->patience_ms;
    }
    return since_us + ms * 1000;
}

int client_stream_tend(struct phalanx_client *c, uint64_t now_us)
{
    const uint64_t nudge_us = (uint64_t)CLIENT_NUDGE_MS * 1000;
    uint64_t soonest = now_us + nudge_us;
    for (struct client_request *r = c->requests; r; r = r->next) {
        uint64_t silent_since = r->heard_us > r->nudged_us ? r->heard_us : r->nudged_us;
        uint64_t due = r->state == CLIENT_BUSY ? r->retry_us : silent_since + nudge_us;
        if (now_us >= due) {
            nudge(c, r, now_us);
            due = now_us + nudge_us;
        }
        if (due < soonest)
            soonest = due;
    }
    return (int)((soonest - now_us + 999) / 1000);
}
