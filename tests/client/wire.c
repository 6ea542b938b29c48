// SPDX-License-Identifier: Apache-2.0
#include "tests/client/malformed.h"

#include "base/buf.h"
#include "proto/limits.h"
#include "proto/message.h"

#include <stdio.h>
#include <string.h>
#include <zmq.h>

// ---- one connection ----------------------------------------------------------------------------

void wire_open(struct wire *w, const char *routing_id)
{
    int zero = 0;
    *w = (struct wire){0};
    w->context = zmq_ctx_new();
    w->socket = zmq_socket(w->context, ZMQ_DEALER);
    zmq_setsockopt(w->socket, ZMQ_LINGER, &zero, sizeof zero);
    if (routing_id)
        zmq_setsockopt(w->socket, ZMQ_ROUTING_ID, routing_id, strlen(routing_id));
    assert_int_equal(zmq_connect(w->socket, malformed_cluster->endpoint), 0);
    arena_init(&w->arena, LIMIT_MESSAGE_UNPACK_BYTES);
}

void wire_close(struct wire *w)
{
    zmq_close(w->socket);
    zmq_ctx_term(w->context);
    arena_reset(&w->arena);
}

void wire_frame(struct wire *w, const void *data, size_t n, bool more)
{
    assert_int_equal(zmq_send(w->socket, data, n, more ? ZMQ_SNDMORE : 0), n);
}

void wire_send(struct wire *w, const void *data, size_t n)
{
    wire_frame(w, "", 0, true);
    wire_frame(w, data, n, false);
}

void wire_send_message(struct wire *w, const Phalanx__ClientMessage *m)
{
    struct buf packed;
    buf_init(&packed, 64 << 20);
    message_pack(&m->base, &packed);
    assert_false(buf_failed(&packed));
    wire_send(w, packed.data, packed.size);
    buf_deinit(&packed);
}

const Phalanx__ServerMessage *wire_receive(struct wire *w)
{
    zmq_pollitem_t item = {w->socket, 0, ZMQ_POLLIN, 0};
    ProtobufCMessage *m = NULL;
    w->m = NULL;
    if (zmq_poll(&item, 1, WIRE_ANSWER_MS) <= 0)
        return NULL;
    assert_int_equal(zmq_recv(w->socket, NULL, 0, 0), 0);
    zmq_msg_t part;
    zmq_msg_init(&part);
    assert_true(zmq_msg_recv(&part, w->socket, 0) >= 0);
    assert_false(zmq_msg_more(&part));
    arena_reset(&w->arena);
    assert_int_equal(message_unpack(&phalanx__server_message__descriptor, zmq_msg_data(&part),
                         zmq_msg_size(&part), &w->arena, &m, NULL),
        STATUS_OK);
    zmq_msg_close(&part);
    return w->m = (const Phalanx__ServerMessage *)m;
}

// ---- what is expected --------------------------------------------------------------------------

static bool is_sentence(const char *text)
{
    return text && strlen(text) > 10 && !strchr(text, '\n') && !strchr(text, '\x1b');
}

void wire_expect_refused(struct wire *w, const char *row, const char *status, const char *part)
{
    const Phalanx__ServerMessage *m = wire_receive(w);
    bool right = m && m->refused && m->refused->status && strcmp(m->refused->status, status) == 0 &&
                 is_sentence(m->refused->reason) && strstr(m->refused->reason, part);
    if (!right)
        print_error("%s: expected %s \"%s\", got %s \"%s\"\n", row, status, part,
            m && m->refused ? m->refused->status
            : m             ? "another answer"
                            : "no answer",
            m && m->refused ? m->refused->reason : "");
    assert_true(right);
    malformed_rows++;
}

void wire_expect_silence(struct wire *w, const char *row)
{
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    Phalanx__Ping ping = PHALANX__PING__INIT;
    ping.has_token = 1;
    ping.token = ++w->n_pings;
    m.ping = &ping;
    wire_send_message(w, &m);
    const Phalanx__ServerMessage *answer = wire_receive(w);
    if (!answer || !answer->pong)
        print_error("%s: expected nothing, got %s\n", row,
            answer && answer->refused ? answer->refused->reason : "another answer");
    assert_non_null(answer);
    assert_non_null(answer->pong);
    assert_int_equal(answer->pong->token, w->n_pings);
    malformed_rows++;
}

const char *wire_expect_finish(struct wire *w, const char *row, const char **sentence)
{
    static char reason[32], text[512];
    for (;;) {
        const Phalanx__ServerMessage *m = wire_receive(w);
        if (m && m->finish) {
            snprintf(reason, sizeof reason, "%s", m->finish->reason);
            snprintf(text, sizeof text, "%s", m->finish->error ? m->finish->error : "");
            *sentence = text;
            return reason;
        }
        if (!m || (!m->accepted && !m->tokens && !m->prompt_tokens))
            fail_msg("%s: no FINISH but %s", row,
                m && m->refused ? m->refused->reason : "something else");
    }
}

void wire_good(struct wire_request *g)
{
    static uint64_t number;
    *g = (struct wire_request){.prompt = {1, 2}};
    phalanx__submit__init(&g->submit);
    number++;
    memcpy(g->id, &number, sizeof number);
    g->submit.has_request_id = 1;
    g->submit.request_id = (ProtobufCBinaryData){sizeof g->id, g->id};
    g->submit.model = (char *)(uintptr_t)CLUSTER_MODEL;
    g->submit.prompt_ids = g->prompt;
    g->submit.n_prompt_ids = 2;
    g->submit.has_max_tokens = g->submit.has_ignore_eos = 1;
    g->submit.max_tokens = 2;
    g->submit.ignore_eos = 1;
}

void wire_submit(struct wire *w, Phalanx__Submit *submit)
{
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    m.submit = submit;
    wire_send_message(w, &m);
}

void wire_expect_service(struct wire *w)
{
    struct wire_request g;
    const char *sentence;
    wire_good(&g);
    wire_submit(w, &g.submit);
    assert_string_equal(wire_expect_finish(w, "a good request", &sentence), "length");
}
