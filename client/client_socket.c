// SPDX-License-Identifier: Apache-2.0
#include "client/client_internal.h"

#include "base/check.h"
#include "base/clock.h"
#include "proto/message.h"

#include <errno.h>
#include <string.h>
#include <zmq.h>

#define MONITOR_ENDPOINT "inproc://handshakes"

enum {
    MONITORED = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH,
    ZAP_DENIED = 400,
    Z85_KEY_CHARS = 40,
    HEARTBEAT_MS = 5000, // of TCP connections, so that a dead host is noticed
    HEARTBEAT_TIMEOUT_MS = 15000,
};

// ---- connecting --------------------------------------------------------------------------------

static void set_int(void *socket, int option, int value)
{
    check(zmq_setsockopt(socket, option, &value, sizeof value) == 0);
}

static enum status set_keys(
    struct phalanx_client *c, const struct phalanx_client_options *o, struct error *err)
{
    if (!o->server_key)
        return STATUS_OK;
    if (!zmq_has("curve"))
        return status_fail(err, STATUS_UNSUPPORTED,
            "this libzmq was built without CURVE, expected one with libsodium (Debian's has it)");
    char public_key[Z85_KEY_CHARS + 1], secret_key[Z85_KEY_CHARS + 1];
    if (!o->public_key || !o->secret_key)
        check(zmq_curve_keypair(public_key, secret_key) == 0);
    const char *own_public = o->public_key && o->secret_key ? o->public_key : public_key;
    const char *own_secret = o->public_key && o->secret_key ? o->secret_key : secret_key;
    if (zmq_setsockopt(c->socket, ZMQ_CURVE_SERVERKEY, o->server_key, strlen(o->server_key)) ||
        zmq_setsockopt(c->socket, ZMQ_CURVE_PUBLICKEY, own_public, strlen(own_public)) ||
        zmq_setsockopt(c->socket, ZMQ_CURVE_SECRETKEY, own_secret, strlen(own_secret)))
        return status_fail(err, STATUS_INVALID, "a CURVE key is not 40 characters of Z85");
    c->curve = true;
    return STATUS_OK;
}

// Failed handshakes are told through a pair of sockets inside the process.
static enum status watch_handshakes(struct phalanx_client *c, struct error *err)
{
    c->monitor = zmq_socket(c->context, ZMQ_PAIR);
    if (!c->monitor || zmq_socket_monitor(c->socket, MONITOR_ENDPOINT, MONITORED) != 0 ||
        zmq_connect(c->monitor, MONITOR_ENDPOINT) != 0)
        return status_fail(err, STATUS_IO, "no monitor of a socket: %s", zmq_strerror(errno));
    set_int(c->monitor, ZMQ_LINGER, 0);
    return STATUS_OK;
}

enum status client_socket_open(
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
    if (strncmp(c->endpoint, "tcp://", 6) == 0) {
        set_int(c->socket, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS);
        set_int(c->socket, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS);
    }
    int64_t message_max = LIMIT_MESSAGE_BYTES;
    check(zmq_setsockopt(c->socket, ZMQ_MAXMSGSIZE, &message_max, sizeof message_max) == 0);
    TRY(set_keys(c, o, err));
    TRY(watch_handshakes(c, err));
    if (zmq_connect(c->socket, c->endpoint) != 0)
        return status_fail(err, STATUS_INVALID,
            "endpoint \"%s\": %s, expected ipc://PATH or tcp://HOST:PORT", c->endpoint,
            zmq_strerror(errno));
    return STATUS_OK;
}

void client_socket_close(struct phalanx_client *c)
{
    if (c->socket)
        zmq_close(c->socket);
    if (c->monitor)
        zmq_close(c->monitor);
    if (c->context)
        zmq_ctx_term(c->context);
}

// ---- sending -----------------------------------------------------------------------------------

enum status client_socket_send(
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

enum status client_socket_send_message(
    struct phalanx_client *c, Phalanx__ClientMessage *m, struct error *err)
{
    m->has_version = 1;
    m->version = 1;
    buf_clear(&c->out);
    message_pack(&m->base, &c->out);
    if (buf_failed(&c->out))
        return status_fail(
            err, STATUS_TOO_LARGE, "the message is larger than %d bytes", LIMIT_MESSAGE_BYTES);
    return client_socket_send(c, c->out.data, c->out.size, err);
}

// ---- handshakes --------------------------------------------------------------------------------

static enum status failed_protocol(struct phalanx_client *c, uint32_t value, struct error *err)
{
    if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH && c->curve)
        return status_fail(err, STATUS_DENIED,
            "the server at %s does not use CURVE, expected no keys (neither "
            "--curve-server-public-key nor --curve-key)",
            c->endpoint);
    if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
        return status_fail(err, STATUS_DENIED,
            "the server at %s wants CURVE, expected its public key and a key of your own "
            "(--curve-server-public-key and --curve-key)",
            c->endpoint);
    return status_fail(err, STATUS_MISMATCH,
        "what listens at %s does not speak ZeroMQ as expected, is it a Phalanx server?",
        c->endpoint);
}

// A server with another key, or one that is not ZeroMQ's, just ends the connection.
static enum status failed_without_reason(struct phalanx_client *c, struct error *err)
{
    if (++c->handshakes_failed < CLIENT_HANDSHAKES_FAILED_MAX)
        return STATUS_AGAIN;
    if (c->curve)
        return status_fail(err, STATUS_DENIED,
            "the server at %s ends every handshake, expected one that uses CURVE and has the key "
            "of --curve-server-public-key",
            c->endpoint);
    return status_fail(err, STATUS_DENIED,
        "what listens at %s ends every connection, expected a Phalanx server, or, where it wants "
        "CURVE, its public key and a key of your own (--curve-server-public-key and --curve-key)",
        c->endpoint);
}

static enum status judge(
    struct phalanx_client *c, unsigned event, uint32_t value, struct error *err)
{
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        c->handshakes_failed = 0;
        return STATUS_AGAIN;
    }
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL)
        return failed_protocol(c, value, err);
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH && value == ZAP_DENIED)
        return status_fail(err, STATUS_DENIED,
            "the server at %s does not know this client's key, expected one that its "
            "--curve-authorized-clients names",
            c->endpoint);
    return failed_without_reason(c, err);
}

// Reads what the monitor has to say; AGAIN: nothing against the connection.
static enum status read_monitor(struct phalanx_client *c, struct error *err)
{
    enum status s = STATUS_AGAIN;
    uint8_t head[6]; // 16 bits of event, 32 bits of value
    while (zmq_recv(c->monitor, head, sizeof head, ZMQ_DONTWAIT) == (int)sizeof head) {
        char address[256];
        zmq_recv(c->monitor, address, sizeof address, ZMQ_DONTWAIT);
        uint16_t event;
        uint32_t value;
        memcpy(&event, head, sizeof event);
        memcpy(&value, head + sizeof event, sizeof value);
        s = judge(c, event, value, err);
    }
    return s;
}

// ---- receiving ---------------------------------------------------------------------------------

// Takes one message of two frames; AGAIN for what is not for us to understand.
static enum status take_message(struct phalanx_client *c)
{
    enum status s = STATUS_AGAIN;
    int more = 1;
    for (int parts = 1; more; parts++) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, c->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            return STATUS_AGAIN;
        }
        more = zmq_msg_more(&part);
        if (parts == 2 && !more) {
            arena_reset(&c->arena);
            ProtobufCMessage *m;
            s = message_unpack(&phalanx__server_message__descriptor, zmq_msg_data(&part),
                zmq_msg_size(&part), &c->arena, &m, NULL);
            if (s == STATUS_OK)
                c->message = (const Phalanx__ServerMessage *)m;
            else
                s = STATUS_AGAIN;
        }
        zmq_msg_close(&part);
    }
    return s;
}

enum status client_socket_receive(struct phalanx_client *c, int timeout_ms, struct error *err)
{
    c->message = NULL;
    zmq_pollitem_t items[] = {{c->socket, 0, ZMQ_POLLIN, 0}, {c->monitor, 0, ZMQ_POLLIN, 0}};
    int n = zmq_poll(items, 2, timeout_ms);
    if (n < 0 && errno != EINTR)
        return status_fail(err, STATUS_IO, "waiting for %s: %s", c->endpoint, zmq_strerror(errno));
    if (n <= 0)
        return STATUS_AGAIN;
    if (items[0].revents) {
        enum status s = take_message(c);
        if (s == STATUS_OK)
            c->heard_us = clock_now_us();
        return s;
    }
    return read_monitor(c, err);
}
