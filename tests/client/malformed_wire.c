// SPDX-License-Identifier: Apache-2.0
// Frames and protobuf that are not what they should be.
#include "tests/client/malformed.h"

#include "proto/limits.h"

#include <stdlib.h>
#include <string.h>
#include <zmq.h>

// ---- frames ------------------------------------------------------------------------------------

static void many_frames(struct wire *w, int n, const char *row)
{
    char part[64];
    for (int i = 0; i < n; i++)
        wire_frame(w, i == 0 ? "" : "x", i == 0 ? 0 : 1, i + 1 < n);
    snprintf(part, sizeof part, "%d frame%s, expected two", n, n == 1 ? "" : "s");
    wire_expect_refused(w, row, "invalid", part);
    wire_expect_service(w);
}

// A frame above the limit ends the connection; ZeroMQ makes a new one by itself.
static void giant_frame(size_t n)
{
    struct wire w;
    void *data = calloc(n, 1);
    assert_non_null(data);
    wire_open(&w, NULL);
    wire_expect_service(&w);
    wire_send(&w, data, n);
    wire_close(&w);
    free(data);
    wire_open(&w, NULL);
    wire_expect_service(&w);
    wire_close(&w);
    malformed_rows++;
}

void malformed_frames(void **state)
{
    (void)state;
    struct wire w;
    wire_open(&w, NULL);
    wire_expect_service(&w);
    many_frames(&w, 1, "only the empty frame");
    many_frames(&w, 3, "three frames");
    many_frames(&w, 4, "four frames");
    many_frames(&w, 1000, "a thousand frames");
    wire_frame(&w, "\x08\x01", 2, false);
    wire_expect_refused(&w, "no empty frame", "invalid", "1 frame, expected two");
    wire_frame(&w, "x", 1, true);
    wire_frame(&w, "\x4a\x00", 2, false);
    wire_expect_refused(&w, "first frame not empty", "invalid", "first frame has 1 bytes");
    wire_frame(&w, "\x4a\x00", 2, true);
    wire_frame(&w, "", 0, false);
    wire_expect_refused(&w, "frames exchanged", "invalid", "first frame has 2 bytes");
    wire_expect_service(&w);
    wire_close(&w);
    giant_frame(LIMIT_MESSAGE_BYTES + 1);
    giant_frame(64 << 20);
    // A client that names itself is not served, and takes nobody else's answers.
    wire_open(&w, "me");
    wire_send(&w, "\x4a\x00", 2);
    zmq_pollitem_t item = {w.socket, 0, ZMQ_POLLIN, 0};
    assert_int_equal(zmq_poll(&item, 1, 100), 0);
    wire_close(&w);
    malformed_rows++;
    wire_open(&w, NULL);
    wire_expect_service(&w);
    wire_close(&w);
}

// ---- protobuf ----------------------------------------------------------------------------------

struct bytes_row {
    const char *name, *status, *part;
    size_t n;
    const char *bytes;
};

#define ROW(name, status, part, bytes)                                                             \
    {                                                                                              \
        name, status, part, sizeof(bytes) - 1, bytes                                               \
    }
// A SUBMIT (field 2) of ten bytes or less.
#define SUBMIT(name, bytes) ROW("submit with " name, "invalid", "not a valid", bytes)

static const struct bytes_row rows[] = {
    ROW("nothing", "unsupported", "none of the fields", ""),
    ROW("version 0", "unsupported", "version is 0, expected 1", "\x08\x00\x4a\x00"),
    ROW("version 2", "unsupported", "version is 2, expected 1", "\x08\x02\x4a\x00"),
    ROW("largest version", "unsupported", "4294967295", "\x08\xff\xff\xff\xff\x0f\x4a\x00"),
    ROW("only a version", "unsupported", "none of the fields", "\x08\x01"),
    ROW("an unknown field only", "unsupported", "none of the fields", "\xa2\x06\x01x"),
    ROW("a reserved field only", "unsupported", "none of the fields", "\xa2\x01\x00"),
    ROW("HTTP", "invalid", "not a valid", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ROW("JSON", "invalid", "not a valid", "{\"model\": \"demo\", \"prompt\": \"hello\"}"),
    ROW("ones", "invalid", "not a valid", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    ROW("zeros", "invalid", "not a valid", "\x00\x00\x00\x00"),
    ROW("field 0", "invalid", "not a valid", "\x02\x00"),
    ROW("a group", "invalid", "not a valid", "\x13\x14"),
    ROW("end of a group", "invalid", "not a valid", "\x14"),
    ROW("wire type 6", "invalid", "not a valid", "\x16\x00"),
    ROW("wire type 7", "invalid", "not a valid", "\x17\x00"),
    ROW("a length beyond the end", "invalid", "not a valid", "\x12\x7f\x00"),
    ROW("a length of 2^32 - 1", "invalid", "not a valid", "\x12\xff\xff\xff\xff\x0f"),
    ROW("a length of 2^64 - 1", "invalid", "not a valid",
        "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ROW("a length without an end", "invalid", "not a valid", "\x12\xff\xff\xff"),
    ROW("a number without an end", "invalid", "not a valid", "\x08\xff"),
    ROW("a number of eleven bytes", "invalid", "not a valid",
        "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ROW("submit as a number", "invalid", "not a valid", "\x10\x05"),
    ROW("submit as 32 bits", "invalid", "not a valid", "\x15\x01\x02\x03\x04"),
    ROW("ping as 64 bits", "invalid", "not a valid", "\x49\x01\x02\x03\x04\x05\x06\x07\x08"),
    ROW("version as text", "invalid", "not a valid", "\x0a\x01x"),
    SUBMIT("an id as a number", "\x12\x02\x08\x01"),
    SUBMIT("a model as a number", "\x12\x02\x10\x01"),
    SUBMIT("a prompt of 32 bits", "\x12\x05\x1d\x01\x02\x03\x04"),
    SUBMIT("n as text", "\x12\x03\x52\x01x"),
    SUBMIT("a temperature as a number", "\x12\x03\xa0\x01\x01"),
    SUBMIT("a temperature of 64 bits", "\x12\x0a\xa1\x01\x01\x02\x03\x04\x05\x06\x07\x08"),
    SUBMIT("half a temperature", "\x12\x04\xa5\x01\x01\x02"),
    SUBMIT("a seed of 32 bits", "\x12\x06\xed\x01\x01\x02\x03\x04"),
    SUBMIT("a bias as a number", "\x12\x03\xe0\x01\x01"),
    SUBMIT("a bias cut off", "\x12\x04\xe2\x01\x05\x08"),
    SUBMIT("a stop as a number", "\x12\x02\x70\x01"),
    SUBMIT("ids cut off", "\x12\x04\x22\x02\x01\xff"),
    SUBMIT("a length beyond itself", "\x12\x02\x12\x7f"),
    ROW("an empty submit", "invalid", "request_id has 0 bytes, expected 16", "\x12\x00"),
    ROW("an empty cancel", "invalid", "request_id has 0 bytes, expected 16", "\x1a\x00"),
    ROW("an empty resume", "invalid", "request_id has 0 bytes, expected 16", "\x22\x00"),
    ROW("an empty credit", "invalid", "request_id has 0 bytes, expected 16", "\x2a\x00"),
    ROW("an empty close", "invalid", "request_id has 0 bytes, expected 16", "\x32\x00"),
    ROW("a resume with a short id", "invalid", "has 3 bytes", "\x22\x05\x0a\x03xyz"),
    ROW("a cancel with a long id", "invalid", "has 17 bytes",
        "\x1a\x13\x0a\x11"
        "0123456789abcdefg"),
};

// A good message cut off at every byte: inside its one field nothing can be understood.
static void truncations(struct wire *w)
{
    struct wire_request g;
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    uint8_t bytes[256];
    wire_good(&g);
    m.submit = &g.submit;
    size_t n = phalanx__client_message__get_packed_size(&m);
    assert_true(n < sizeof bytes);
    phalanx__client_message__pack(&m, bytes);
    for (size_t i = 1; i < n; i++) {
        wire_send(w, bytes, i);
        wire_expect_refused(w, "a message cut off", "invalid", "not a valid");
    }
    wire_expect_service(w);
}

// So many equal fields; what the server says about them.
static void repeated(struct wire *w, const char *name, const char *unit, size_t n_unit, uint32_t n,
    const char *status, const char *part)
{
    uint8_t *body = malloc(16 + n_unit * n), *p = body;
    assert_non_null(body);
    size_t length = n_unit * n;
    *p++ = 0x12; // SUBMIT of five bytes of length
    for (int i = 0; i < 4; i++, length >>= 7)
        *p++ = (uint8_t)(length | 0x80);
    *p++ = (uint8_t)length;
    for (uint32_t i = 0; i < n; i++, p += n_unit)
        memcpy(p, unit, n_unit);
    wire_send(w, body, (size_t)(p - body));
    wire_expect_refused(w, name, status, part);
    free(body);
    wire_expect_service(w);
}

static void unknown_fields(struct wire *w)
{
    uint8_t bytes[4 * 80];
    for (size_t i = 0; i < 80; i++)
        memcpy(bytes + 4 * i, "\xa2\x06\x01x", 4);
    wire_send(w, bytes, 4 * 65);
    wire_expect_refused(w, "65 unknown fields", "invalid", "65 unknown fields, expected at most");
    bytes[4 * 64] = 0x4a; // 64 of them and a PING
    bytes[4 * 64 + 1] = 0;
    wire_send(w, bytes, 4 * 64 + 2);
    assert_non_null(wire_receive(w));
    assert_non_null(w->m->pong);
}

void malformed_protobuf(void **state)
{
    (void)state;
    struct wire w;
    wire_open(&w, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        wire_send(&w, rows[i].bytes, rows[i].n);
        wire_expect_refused(&w, rows[i].name, rows[i].status, rows[i].part);
    }
    wire_expect_service(&w);
    truncations(&w);
    unknown_fields(&w);
    repeated(&w, "a million biases", "\xe2\x01\x00", 3, 1000000, "invalid", "of memory");
    repeated(&w, "a million stops", "\x72\x01x", 3, 1000000, "invalid", "of memory");
    repeated(&w, "a million temperatures", "\x52\x00", 2, 1000000, "invalid", "not a valid");
    repeated(&w, "unpacked ids", "\x20\x01", 2, 2000000, "invalid", "of memory");
    wire_close(&w);
}

// ---- requests of others, and of nobody ---------------------------------------------------------

enum verb { CANCEL, RESUME, CREDIT, CLOSE };

static void ask(struct wire *w, enum verb verb, uint8_t *id, uint32_t a, uint32_t b, char *tenant)
{
    Phalanx__ClientMessage m = PHALANX__CLIENT_MESSAGE__INIT;
    Phalanx__Cancel cancel = PHALANX__CANCEL__INIT;
    Phalanx__Resume resume = PHALANX__RESUME__INIT;
    Phalanx__Credit credit = PHALANX__CREDIT__INIT;
    Phalanx__Close close = PHALANX__CLOSE__INIT;
    cancel.has_request_id = resume.has_request_id = 1;
    credit.has_request_id = close.has_request_id = 1;
    cancel.request_id = resume.request_id = credit.request_id = close.request_id =
        (ProtobufCBinaryData){16, id};
    cancel.tenant = resume.tenant = credit.tenant = close.tenant = tenant;
    resume.has_from = credit.has_acked = credit.has_window = 1;
    resume.from = credit.acked = a;
    credit.window = b;
    m.cancel = verb == CANCEL ? &cancel : NULL;
    m.resume = verb == RESUME ? &resume : NULL;
    m.credit = verb == CREDIT ? &credit : NULL;
    m.close = verb == CLOSE ? &close : NULL;
    wire_send_message(w, &m);
}

static void unknown_requests(struct wire *w)
{
    uint8_t id[16] = "nobody's request";
    ask(w, RESUME, id, 0, 0, NULL);
    wire_expect_refused(w, "resume of nobody's", "not_found", "no such request");
    assert_true(w->m->refused->unknown_request);
    assert_memory_equal(w->m->refused->request_id.data, id, 16);
    ask(w, RESUME, id, UINT32_MAX, 0, (char *)(uintptr_t) "a tenant that is not known");
    wire_expect_refused(w, "resume of a tenant's", "not_found", "no such request");
    ask(w, CANCEL, id, 0, 0, NULL);
    wire_expect_silence(w, "cancel of nobody's");
    ask(w, CREDIT, id, UINT32_MAX, UINT32_MAX, NULL);
    wire_expect_silence(w, "credit of nobody's");
    ask(w, CLOSE, id, 0, 0, NULL);
    wire_expect_silence(w, "close of nobody's");
}

static void expect_conflict(struct wire *w, struct wire_request *g, const char *row)
{
    wire_submit(w, &g->submit);
    const Phalanx__ServerMessage *m = wire_receive(w);
    if (!m || !m->conflict)
        print_error("%s\n", row);
    assert_non_null(m);
    assert_non_null(m->conflict);
    malformed_rows++;
}

// What others may not do with a request that is there.
static void known_requests(struct wire *w)
{
    struct wire_request g;
    const char *sentence;
    wire_good(&g);
    g.submit.has_window = 1;
    g.submit.window = 1;
    wire_submit(w, &g.submit);
    assert_non_null(wire_receive(w)->accepted);
    assert_non_null(wire_receive(w)->tokens);
    ask(w, CREDIT, g.id, 0, 0, NULL);
    wire_expect_silence(w, "credit of nothing");
    ask(w, CREDIT, g.id, 0, 1, NULL);
    wire_expect_silence(w, "the same credit once more");
    ask(w, RESUME, g.id, 0, 0, (char *)(uintptr_t) "other");
    wire_expect_refused(w, "resume by another tenant", "not_found", "no such request");
    ask(w, CANCEL, g.id, 0, 0, (char *)(uintptr_t) "other");
    wire_expect_silence(w, "cancel by another tenant");
    ask(w, CREDIT, g.id, UINT32_MAX, UINT32_MAX, NULL);
    assert_string_equal(wire_expect_finish(w, "endless credit", &sentence), "length");
    malformed_rows++;
    g.submit.max_tokens = 3;
    expect_conflict(w, &g, "more tokens under the same id");
    g.submit.max_tokens = 2;
    g.prompt[1] = 3;
    expect_conflict(w, &g, "another prompt under the same id");
    g.prompt[1] = 2;
    g.submit.has_seed = 1;
    expect_conflict(w, &g, "a seed under the same id");
    ask(w, RESUME, g.id, UINT32_MAX, 0, NULL);
    assert_non_null(wire_receive(w)->finish);
    malformed_rows++;
    ask(w, CLOSE, g.id, 0, 0, NULL);
    ask(w, RESUME, g.id, 0, 0, NULL);
    wire_expect_refused(w, "resume after close", "not_found", "no such request");
}

void malformed_requests(void **state)
{
    (void)state;
    struct wire w;
    wire_open(&w, NULL);
    unknown_requests(&w);
    wire_expect_service(&w);
    known_requests(&w);
    wire_expect_service(&w);
    wire_close(&w);
}
