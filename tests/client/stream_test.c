// SPDX-License-Identifier: Apache-2.0
// The client library against a server that this test plays, message by message: what is lost,
// repeated, forgotten or wrong must reach the caller as one stream, or as a sentence.
#include "tests/test_support.h"

#include "base/arena.h"
#include "base/buf.h"
#include "client/phalanx_client.h"
#include "proto/limits.h"
#include "proto/message.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

enum { WAIT_MS = 5000, QUIET_MS = 60 };

struct play {
    void *context, *server;
    char endpoint[64];
    struct phalanx_client *c;
    struct arena arena;
    uint8_t peer[32];
    size_t n_peer;
    const Phalanx__ClientMessage *m; // last one received
    uint8_t id[16];                  // of the request
    struct buf submitted;            // the first SUBMIT, packed
    uint64_t request;
    struct phalanx_event e;
};

static void play_open(struct play *p)
{
    struct error err = {0};
    int zero = 0;
    *p = (struct play){0};
    snprintf(p->endpoint, sizeof p->endpoint, "ipc:///tmp/phalanx-stream-%d.ipc", (int)getpid());
    p->context = zmq_ctx_new();
    p->server = zmq_socket(p->context, ZMQ_ROUTER);
    zmq_setsockopt(p->server, ZMQ_LINGER, &zero, sizeof zero);
    assert_int_equal(zmq_bind(p->server, p->endpoint), 0);
    arena_init(&p->arena, LIMIT_MESSAGE_UNPACK_BYTES);
    buf_init(&p->submitted, LIMIT_MESSAGE_BYTES);
    struct phalanx_client_options options = {.endpoint = p->endpoint};
    assert_int_equal(phalanx_client_open(&options, &p->c, &err), STATUS_OK);
}

static void play_close(struct play *p)
{
    phalanx_client_close(p->c);
    zmq_close(p->server);
    zmq_ctx_term(p->context);
    arena_reset(&p->arena);
    buf_deinit(&p->submitted);
    unlink(p->endpoint + 6);
}

// Lets the client work without an event and takes its next message.
static const Phalanx__ClientMessage *server_receive(struct play *p)
{
    struct error err;
    zmq_msg_t part;
    zmq_pollitem_t item = {p->server, 0, ZMQ_POLLIN, 0};
    for (int i = 0; i < WAIT_MS / 20 && zmq_poll(&item, 1, 20) == 0; i++)
        assert_int_equal(phalanx_client_next(p->c, 0, &p->e, &err), STATUS_AGAIN);
    p->n_peer = (size_t)zmq_recv(p->server, p->peer, sizeof p->peer, ZMQ_DONTWAIT);
    assert_true(p->n_peer > 0 && p->n_peer <= sizeof p->peer);
    assert_int_equal(zmq_recv(p->server, NULL, 0, ZMQ_DONTWAIT), 0);
    zmq_msg_init(&part);
    assert_true(zmq_msg_recv(&part, p->server, ZMQ_DONTWAIT) >= 0);
    assert_false(zmq_msg_more(&part));
    ProtobufCMessage *m;
    arena_reset(&p->arena);
    assert_int_equal(message_unpack(&phalanx__client_message__descriptor, zmq_msg_data(&part),
                         zmq_msg_size(&part), &p->arena, &m, &err),
        STATUS_OK);
    p->m = (const Phalanx__ClientMessage *)m;
    if (p->m->submit && p->submitted.size == 0) {
        assert_int_equal(p->m->submit->request_id.len, 16);
        memcpy(p->id, p->m->submit->request_id.data, 16);
        buf_append(&p->submitted, zmq_msg_data(&part), zmq_msg_size(&part));
    } else if (p->m->submit) {
        assert_int_equal(zmq_msg_size(&part), p->submitted.size);
        assert_memory_equal(zmq_msg_data(&part), p->submitted.data, p->submitted.size);
    }
    zmq_msg_close(&part);
    return p->m;
}

static void server_send(struct play *p, Phalanx__ServerMessage *m)
{
    uint8_t bytes[8192];
    assert_true(phalanx__server_message__get_packed_size(m) <= sizeof bytes);
    size_t n = phalanx__server_message__pack(m, bytes);
    assert_true(zmq_send(p->server, p->peer, p->n_peer, ZMQ_SNDMORE) >= 0);
    assert_true(zmq_send(p->server, "", 0, ZMQ_SNDMORE) >= 0);
    assert_true(zmq_send(p->server, bytes, n, 0) >= 0);
}

static ProtobufCBinaryData id_of(struct play *p)
{
    return (ProtobufCBinaryData){sizeof p->id, p->id};
}

static void send_accepted(struct play *p)
{
    Phalanx__Accepted a = PHALANX__ACCEPTED__INIT;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    a.has_request_id = a.has_seed = 1;
    a.request_id = id_of(p);
    a.seed = 77;
    m.accepted = &a;
    server_send(p, &m);
}

// Token at offset i has id base + i.
static void send_tokens(struct play *p, uint32_t index, uint32_t offset, uint32_t n, uint32_t base)
{
    Phalanx__Tokens t = PHALANX__TOKENS__INIT;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    Phalanx__Token token[64], *list[64];
    assert_true(n <= 64);
    for (uint32_t i = 0; i < n; i++) {
        phalanx__token__init(&token[i]);
        token[i].has_id = 1;
        token[i].id = base + offset + i;
        list[i] = &token[i];
    }
    t.has_request_id = t.has_index = t.has_offset = 1;
    t.request_id = id_of(p);
    t.index = index;
    t.offset = offset;
    t.n_token = n;
    t.token = list;
    m.tokens = &t;
    server_send(p, &m);
}

static void send_finish(struct play *p, uint32_t index, uint32_t n, char *reason)
{
    Phalanx__Finish f = PHALANX__FINISH__INIT;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    f.has_request_id = f.has_index = f.has_completion_tokens = f.has_prompt_tokens = 1;
    f.request_id = id_of(p);
    f.index = index;
    f.reason = reason;
    f.completion_tokens = n;
    f.prompt_tokens = 3;
    m.finish = &f;
    server_send(p, &m);
}

static void send_refused(struct play *p, char *status, bool unknown)
{
    Phalanx__Refused r = PHALANX__REFUSED__INIT;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    r.has_request_id = r.has_unknown_request = 1;
    r.request_id = id_of(p);
    r.status = status;
    r.reason = status;
    r.unknown_request = unknown;
    m.refused = &r;
    server_send(p, &m);
}

static void expect(struct play *p, enum phalanx_event_kind kind)
{
    struct error err = {0};
    enum status s = phalanx_client_next(p->c, WAIT_MS, &p->e, &err);
    if (s != STATUS_OK)
        print_error("%s %s\n", status_name(s), err.text);
    assert_int_equal(s, STATUS_OK);
    assert_int_equal(p->e.kind, kind);
}

static void expect_tokens(struct play *p, uint32_t index, uint32_t from, uint32_t to, uint32_t base)
{
    for (uint32_t i = from; i < to; i++) {
        expect(p, PHALANX_EVENT_TOKEN);
        assert_int_equal(p->e.index, index);
        assert_int_equal(p->e.offset, i);
        assert_int_equal(p->e.token->id, base + i);
    }
}

static void expect_nothing(struct play *p)
{
    struct error err;
    assert_int_equal(phalanx_client_next(p->c, QUIET_MS, &p->e, &err), STATUS_AGAIN);
}

static void begin(struct play *p, uint32_t n, uint32_t window)
{
    uint32_t ids[] = {1, 2, 3};
    struct error err;
    Phalanx__Submit s = PHALANX__SUBMIT__INIT;
    s.model = (char *)(uintptr_t) "m";
    s.prompt_ids = ids;
    s.n_prompt_ids = 3;
    s.has_n = 1;
    s.n = n;
    s.has_window = window > 0;
    s.window = window;
    s.tenant = (char *)(uintptr_t) "t";
    assert_int_equal(phalanx_client_submit(p->c, &s, &p->request, &err), STATUS_OK);
    assert_non_null(server_receive(p)->submit);
}

static void expect_close(struct play *p)
{
    expect(p, PHALANX_EVENT_ENDED);
    while (!server_receive(p)->close)
        ;
    assert_string_equal(p->m->close->tenant, "t");
}

// ---- tests -------------------------------------------------------------------------------------

static void test_seed_is_fixed(void **state)
{
    (void)state;
    struct play p;
    play_open(&p);
    begin(&p, 1, 0);
    assert_true(p.m->submit->has_seed);
    assert_true(p.m->submit->seed < (uint64_t)1 << 53);
    send_accepted(&p);
    expect(&p, PHALANX_EVENT_ACCEPTED);
    assert_int_equal(p.e.seed, 77);
    send_accepted(&p); // a repeated SUBMIT attaches: nothing new
    send_finish(&p, 0, 0, "length");
    expect(&p, PHALANX_EVENT_FINISH);
    expect_close(&p);
    play_close(&p);
}

static void test_gaps_and_repeats(void **state)
{
    (void)state;
    struct play p;
    play_open(&p);
    begin(&p, 1, 0);
    send_accepted(&p);
    expect(&p, PHALANX_EVENT_ACCEPTED);
    send_tokens(&p, 0, 0, 4, 100);
    send_tokens(&p, 0, 2, 4, 100);
    expect_tokens(&p, 0, 0, 6, 100);
    send_tokens(&p, 0, 9, 2, 100); // 6 .. 8 are lost
    expect_nothing(&p);
    assert_non_null(server_receive(&p)->resume);
    assert_int_equal(p.m->resume->from, 6);
    assert_string_equal(p.m->resume->tenant, "t");
    assert_non_null(p.m->ping);
    send_tokens(&p, 0, 6, 5, 100);
    expect_tokens(&p, 0, 6, 11, 100);
    send_finish(&p, 0, 13, "length"); // two more are lost
    expect_nothing(&p);
    assert_int_equal(server_receive(&p)->resume->from, 11);
    send_tokens(&p, 0, 11, 2, 100);
    send_finish(&p, 0, 13, "length");
    expect_tokens(&p, 0, 11, 13, 100);
    expect(&p, PHALANX_EVENT_FINISH);
    send_finish(&p, 0, 13, "length"); // twice
    expect_close(&p);
    play_close(&p);
}

// The server has forgotten the request: SUBMIT again, byte for byte; one stream for the caller.
static void test_forgotten(void **state)
{
    (void)state;
    struct play p;
    play_open(&p);
    begin(&p, 2, 0);
    send_accepted(&p);
    expect(&p, PHALANX_EVENT_ACCEPTED);
    send_tokens(&p, 0, 0, 5, 100);
    expect_tokens(&p, 0, 0, 5, 100);
    send_tokens(&p, 1, 0, 2, 500);
    expect_tokens(&p, 1, 0, 2, 500);
    send_finish(&p, 1, 2, "stop");
    expect(&p, PHALANX_EVENT_FINISH);
    assert_non_null(server_receive(&p)->resume); // after a second of silence
    send_refused(&p, "not_found", true);
    send_refused(&p, "not_found", true); // answers a RESUME sent before
    assert_non_null(server_receive(&p)->submit);
    expect_nothing(&p);
    zmq_pollitem_t item = {p.server, 0, ZMQ_POLLIN, 0};
    assert_int_equal(zmq_poll(&item, 1, QUIET_MS), 0); // once is enough
    send_accepted(&p);
    send_tokens(&p, 1, 0, 2, 500); // a sample that has ended is not told again
    send_finish(&p, 1, 2, "stop");
    send_tokens(&p, 0, 0, 3, 100);
    expect_nothing(&p);
    send_tokens(&p, 0, 3, 5, 100);
    expect_tokens(&p, 0, 5, 8, 100);
    send_finish(&p, 0, 8, "length");
    expect(&p, PHALANX_EVENT_FINISH);
    expect_close(&p);
    play_close(&p);
}

static void forget(struct play *p)
{
    begin(p, 1, 0);
    send_accepted(p);
    expect(p, PHALANX_EVENT_ACCEPTED);
    send_tokens(p, 0, 0, 5, 100);
    expect_tokens(p, 0, 0, 5, 100);
    assert_non_null(server_receive(p)->resume);
    send_refused(p, "not_found", true);
    assert_non_null(server_receive(p)->submit);
    send_accepted(p);
}

// Other tokens than before: the caller is told, never given a mixture.
static void test_forgotten_and_different(void **state)
{
    (void)state;
    struct play p;
    play_open(&p);
    forget(&p);
    send_tokens(&p, 0, 0, 4, 100);
    send_tokens(&p, 0, 4, 4, 900);
    expect(&p, PHALANX_EVENT_REFUSED);
    assert_int_equal(p.e.status, STATUS_MISMATCH);
    play_close(&p);
    play_open(&p);
    forget(&p);
    send_tokens(&p, 0, 0, 3, 100);
    send_finish(&p, 0, 3, "stop"); // shorter than before
    expect(&p, PHALANX_EVENT_REFUSED);
    assert_int_equal(p.e.status, STATUS_MISMATCH);
    play_close(&p);
}

// What was cancelled before the server forgot it is cancelled again.
static void test_forgotten_and_cancelled(void **state)
{
    (void)state;
    struct play p;
    struct error err;
    play_open(&p);
    begin(&p, 1, 0);
    send_accepted(&p);
    expect(&p, PHALANX_EVENT_ACCEPTED);
    send_tokens(&p, 0, 0, 2, 100);
    expect_tokens(&p, 0, 0, 2, 100);
    assert_int_equal(phalanx_client_cancel(p.c, p.request, &err), STATUS_OK);
    assert_non_null(server_receive(&p)->cancel);
    while (!server_receive(&p)->resume)
        ;
    send_refused(&p, "not_found", true);
    assert_non_null(server_receive(&p)->submit);
    send_accepted(&p);
    assert_non_null(server_receive(&p)->cancel);
    send_finish(&p, 0, 0, "abort");
    expect(&p, PHALANX_EVENT_FINISH);
    expect_close(&p);
    play_close(&p);
}

// A refusal of the SUBMIT itself ends the request, also after the server forgot it.
static void test_refused(void **state)
{
    (void)state;
    struct play p;
    play_open(&p);
    begin(&p, 1, 0);
    send_refused(&p, "not_found", false);
    expect(&p, PHALANX_EVENT_REFUSED);
    assert_int_equal(p.e.status, STATUS_NOT_FOUND);
    assert_string_equal(p.e.reason, "not_found");
    struct error err;
    assert_int_equal(phalanx_client_next(p.c, 0, &p.e, &err), STATUS_NOT_FOUND);
    play_close(&p);
}

static void test_busy(void **state)
{
    (void)state;
    struct play p;
    play_open(&p);
    begin(&p, 1, 0);
    Phalanx__Busy busy = PHALANX__BUSY__INIT;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    busy.has_request_id = busy.has_retry_after_ms = 1;
    busy.request_id = id_of(&p);
    busy.retry_after_ms = 30;
    m.busy = &busy;
    server_send(&p, &m);
    assert_non_null(server_receive(&p)->submit);
    send_accepted(&p);
    expect(&p, PHALANX_EVENT_ACCEPTED);
    play_close(&p);
}

// With a window the client gives credit as it reads; after a restart it says where it is.
static void test_credit(void **state)
{
    (void)state;
    struct play p;
    play_open(&p);
    begin(&p, 1, 4);
    send_accepted(&p);
    expect(&p, PHALANX_EVENT_ACCEPTED);
    send_tokens(&p, 0, 0, 4, 100);
    expect_tokens(&p, 0, 0, 4, 100);
    expect_nothing(&p);
    assert_non_null(server_receive(&p)->credit);
    assert_int_equal(p.m->credit->acked, 4);
    assert_int_equal(p.m->credit->window, 4);
    assert_string_equal(p.m->credit->tenant, "t");
    while (!server_receive(&p)->resume)
        ;
    send_refused(&p, "not_found", true);
    assert_non_null(server_receive(&p)->submit);
    send_accepted(&p);
    send_tokens(&p, 0, 0, 4, 100);
    expect_nothing(&p);
    while (!server_receive(&p)->credit || p.m->credit->acked < 4)
        ;
    send_tokens(&p, 0, 4, 1, 100);
    expect_tokens(&p, 0, 4, 5, 100);
    play_close(&p);
}

// A client that gives up after so long without an answer, before and after acceptance.
static void play_patient(struct play *p, uint32_t connect_ms, uint32_t patience_ms)
{
    struct error err;
    play_open(p);
    phalanx_client_close(p->c);
    struct phalanx_client_options options = {
        .endpoint = p->endpoint, .connect_timeout_ms = connect_ms, .patience_ms = patience_ms};
    assert_int_equal(phalanx_client_open(&options, &p->c, &err), STATUS_OK);
}

// A server that accepts and then has to start again is waited for; one that never answered is not.
static void test_silent_server(void **state)
{
    (void)state;
    struct play p;
    struct error err;
    play_patient(&p, 200, 0);
    begin(&p, 1, 0);
    assert_int_equal(phalanx_client_next(p.c, -1, &p.e, &err), STATUS_TIMEOUT);
    send_accepted(&p);
    expect(&p, PHALANX_EVENT_ACCEPTED);
    assert_true(p.e.text);
    for (int i = 0; i < 10; i++) { // 600 ms
        assert_int_equal(phalanx_client_next(p.c, QUIET_MS, &p.e, &err), STATUS_AGAIN);
    }
    while (!server_receive(&p)->resume)
        ;
    send_refused(&p, "not_found", true); // it has started again, and takes its time to accept
    assert_non_null(server_receive(&p)->submit);
    for (int i = 0; i < 10; i++)
        assert_int_equal(phalanx_client_next(p.c, QUIET_MS, &p.e, &err), STATUS_AGAIN);
    send_accepted(&p);
    send_tokens(&p, 0, 0, 2, 100);
    expect_tokens(&p, 0, 0, 2, 100);
    play_close(&p);
}

// Asked to come back later than the client would wait for an answer: it comes back then.
static void test_busy_for_long(void **state)
{
    (void)state;
    struct play p;
    struct error err;
    play_patient(&p, 200, 0);
    begin(&p, 1, 0);
    Phalanx__Busy busy = PHALANX__BUSY__INIT;
    Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
    busy.has_request_id = busy.has_retry_after_ms = 1;
    busy.request_id = id_of(&p);
    busy.retry_after_ms = 700;
    m.busy = &busy;
    server_send(&p, &m);
    for (int i = 0; i < 8; i++)
        assert_int_equal(phalanx_client_next(p.c, QUIET_MS, &p.e, &err), STATUS_AGAIN);
    assert_non_null(server_receive(&p)->submit);
    send_accepted(&p);
    expect(&p, PHALANX_EVENT_ACCEPTED);
    play_close(&p);
}

// A server that is there but has nothing to say is not taken for dead.
static void test_patience(void **state)
{
    (void)state;
    struct play p;
    struct error err;
    play_patient(&p, 1500, 1);
    begin(&p, 1, 0);
    send_accepted(&p);
    expect(&p, PHALANX_EVENT_ACCEPTED);
    for (int i = 0; i < 2; i++) {
        assert_non_null(server_receive(&p)->ping);
        Phalanx__Pong pong = PHALANX__PONG__INIT;
        Phalanx__ServerMessage m = PHALANX__SERVER_MESSAGE__INIT;
        m.pong = &pong;
        server_send(&p, &m);
    }
    expect_nothing(&p);
    assert_int_equal(phalanx_client_next(p.c, -1, &p.e, &err), STATUS_TIMEOUT);
    play_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seed_is_fixed),
        cmocka_unit_test(test_gaps_and_repeats),
        cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_forgotten_and_different),
        cmocka_unit_test(test_forgotten_and_cancelled),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_credit),
        cmocka_unit_test(test_silent_server),
        cmocka_unit_test(test_busy_for_long),
        cmocka_unit_test(test_patience),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
