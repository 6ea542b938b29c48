// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/crowd.h"

#include <stdio.h>
#include <string.h>

void crowd_open(struct crowd *w, const struct cluster *c)
{
    *w = (struct crowd){0};
    struct error err = {0};
    struct phalanx_client_options options = {.endpoint = c->endpoint};
    assert_int_equal(phalanx_client_open(&options, &w->client, &err), STATUS_OK);
}

Phalanx__Submit crowd_request(const uint32_t *ids, size_t n_ids, uint32_t max_tokens)
{
    Phalanx__Submit m = PHALANX__SUBMIT__INIT;
    m.model = (char *)(uintptr_t)CLUSTER_MODEL;
    m.prompt_ids = (uint32_t *)(uintptr_t)ids;
    m.n_prompt_ids = n_ids;
    m.has_max_tokens = m.has_temperature = m.has_ignore_eos = 1;
    m.max_tokens = max_tokens;
    m.ignore_eos = 1;
    return m;
}

void crowd_send(struct crowd *w, const Phalanx__Submit *submit, struct answer *out)
{
    uint64_t request;
    struct error err = {0};
    assert_true(w->n < CROWD_MAX);
    assert_int_equal(phalanx_client_submit(w->client, submit, &request, &err), STATUS_OK);
    if (w->n == 0)
        w->first = request;
    assert_int_equal(request, w->first + (uint64_t)w->n);
    *out = (struct answer){0};
    w->answer[w->n++] = out;
}

static void append_text(struct answer *out, ProtobufCBinaryData text)
{
    assert_true(out->n_text + text.len < sizeof out->text);
    if (text.len)
        memcpy(out->text + out->n_text, text.data, text.len);
    out->n_text += text.len;
    out->text[out->n_text] = '\0';
}

static void handle(struct crowd *w, const struct phalanx_event *e)
{
    struct answer *out = w->answer[e->request - w->first];
    if (e->kind == PHALANX_EVENT_REFUSED)
        fail_msg("refused: %s", e->reason);
    if (e->kind == PHALANX_EVENT_ENDED)
        w->n_ended++;
    if (e->index != 0)
        return;
    if (e->kind == PHALANX_EVENT_TOKEN) {
        assert_int_equal(e->offset, out->n);
        assert_true(out->n < ANSWER_TOKENS_MAX);
        out->ids[out->n] = e->token->id;
        out->logprobs[out->n++] = e->token->logprob;
        append_text(out, e->token->text);
    } else if (e->kind == PHALANX_EVENT_FINISH) {
        snprintf(out->reason, sizeof out->reason, "%s", e->finish->reason);
        out->prompt_tokens = (int)e->finish->prompt_tokens;
        out->completion_tokens = (int)e->finish->completion_tokens;
        out->cached_tokens = (int)e->finish->cached_tokens;
        append_text(out, e->finish->text);
        if (e->finish->error)
            print_error("%s: %s\n", out->reason, e->finish->error);
    }
}

static bool step(struct crowd *w, int timeout_ms)
{
    struct phalanx_event e;
    struct error err = {0};
    enum status s = phalanx_client_next(w->client, timeout_ms, &e, &err);
    if (s == STATUS_AGAIN)
        return false;
    if (s != STATUS_OK)
        fail_msg("%s", err.text);
    handle(w, &e);
    return true;
}

void crowd_wait(struct crowd *w, int left)
{
    while (w->n - w->n_ended > left)
        step(w, -1);
}

int crowd_poll(struct crowd *w)
{
    while (w->n_ended < w->n && step(w, 0))
        ;
    return w->n - w->n_ended;
}

void crowd_close(struct crowd *w)
{
    phalanx_client_close(w->client);
    *w = (struct crowd){0};
}
