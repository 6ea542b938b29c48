// SPDX-License-Identifier: Apache-2.0
#include "coordinator/shell.h"

#include "base/clock.h"
#include "proto/endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum { ROUTING_ID_BYTES = 5, MESSAGE_PARTS = 3 };

// ---- sending -----------------------------------------------------------------------------------

// The routing id as a number; 0 where it is not one that libzmq drew.
static uint64_t peer_of(const void *id, size_t n)
{
    const uint8_t *p = id;
    if (n != ROUTING_ID_BYTES || p[0] != 0)
        return 0;
    uint32_t number;
    memcpy(&number, p + 1, 4);
    return (uint64_t)1 << 32 | number;
}

enum status shell_send(
    void *socket, uint64_t peer, const void *first, size_t n_first, const void *body, size_t n)
{
    uint8_t id[ROUTING_ID_BYTES] = {0};
    uint32_t number = (uint32_t)peer;
    memcpy(id + 1, &number, 4);
    if (zmq_send(socket, id, sizeof id, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return errno == EAGAIN ? STATUS_BUSY : STATUS_PEER_GONE;
    // Once the routing id is taken the other parts of the message are taken too.
    zmq_send(socket, first, n_first, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    if (zmq_send(socket, body, n, ZMQ_DONTWAIT) < 0)
        return STATUS_BUSY;
    return STATUS_OK;
}

// ---- receiving ---------------------------------------------------------------------------------

// The first parts of one message; `n` counts all it had.
struct received {
    zmq_msg_t part[MESSAGE_PARTS];
    int n;
    bool whole;
};

static void take_message(void *socket, struct received *m)
{
    int more = 1;
    m->n = 0;
    m->whole = true;
    while (more) {
        zmq_msg_t extra;
        zmq_msg_t *to = m->n < MESSAGE_PARTS ? &m->part[m->n] : &extra;
        zmq_msg_init(to);
        if (zmq_msg_recv(to, socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(to);
            m->whole = false;
            return;
        }
        more = zmq_msg_more(to);
        if (to == &extra)
            zmq_msg_close(to);
        m->n++;
    }
}

// Whoever came with a key has the rights of its name; whoever came without one connected through
// ipc or loopback, because no other endpoint is opened without CURVE.
static struct shell_caller caller_of(const struct shell *s, uint64_t peer, zmq_msg_t *body)
{
    struct shell_caller caller = {.peer = peer, .may_stop = true};
    const char *user = zmq_msg_gets(body, "User-Id");
    if (!user || !*user)
        return caller;
    const struct shell_key *k = shell_keys_find(s, user);
    const char *address = zmq_msg_gets(body, "Peer-Address");
    struct in_addr v4;
    bool here =
        address &&
        ((inet_pton(AF_INET, address, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == IN_LOOPBACKNET) ||
            strcmp(address, "::1") == 0);
    caller.key_name = k ? k->name : "?";
    caller.may_stop = here || (k && k->admin);
    return caller;
}

static void handle_client(struct shell *s, uint64_t peer, struct received *m)
{
    if (m->whole && m->n == MESSAGE_PARTS && zmq_msg_size(&m->part[1]) == 0) {
        zmq_msg_t *body = &m->part[2];
        s->caller = caller_of(s, peer, body);
        shell_clients_handle(s, zmq_msg_data(body), zmq_msg_size(body), clock_now_us());
        return;
    }
    char reason[160];
    if (m->n == MESSAGE_PARTS)
        snprintf(reason, sizeof reason, "the first frame has %zu bytes, expected an empty one",
            zmq_msg_size(&m->part[1]));
    else
        snprintf(reason, sizeof reason,
            "the message has %d frame%s, expected two: an empty one and one ClientMessage",
            m->n - 1, m->n == 2 ? "" : "s");
    s->dropped++;
    shell_reply_refuse(s, peer, NULL, STATUS_INVALID, reason);
}

bool shell_receive(struct shell *s, void *socket, bool from_workers)
{
    struct received m;
    take_message(socket, &m);
    if (m.n == 0)
        return false;
    uint64_t peer = peer_of(zmq_msg_data(&m.part[0]), zmq_msg_size(&m.part[0]));
    bool fits = m.whole && m.n == MESSAGE_PARTS && zmq_msg_size(&m.part[1]) == 1;
    if (peer && from_workers && fits)
        shell_groups_handle(s, peer, *(const char *)zmq_msg_data(&m.part[1]),
            zmq_msg_data(&m.part[2]), zmq_msg_size(&m.part[2]), clock_now_us());
    else if (peer && !from_workers)
        handle_client(s, peer, &m);
    else
        s->dropped++;
    for (int i = 0; i < m.n && i < MESSAGE_PARTS; i++)
        zmq_msg_close(&m.part[i]);
    return true;
}

// ---- opening -----------------------------------------------------------------------------------

static enum status open_socket(struct shell *s, void **out, int64_t message_max, struct error *err)
{
    void *socket = *out = zmq_socket(s->context, ZMQ_ROUTER);
    if (!socket)
        return status_fail(err, STATUS_IO, "no ZeroMQ socket: %s", zmq_strerror(errno));
    int one = 1, zero = 0, handshake_ms = 5000, high_water = 10000;
    bool set = zmq_setsockopt(socket, ZMQ_ROUTER_MANDATORY, &one, sizeof one) == 0 &&
               zmq_setsockopt(socket, ZMQ_LINGER, &zero, sizeof zero) == 0 &&
               zmq_setsockopt(socket, ZMQ_HANDSHAKE_IVL, &handshake_ms, sizeof handshake_ms) == 0 &&
               zmq_setsockopt(socket, ZMQ_SNDHWM, &high_water, sizeof high_water) == 0 &&
               zmq_setsockopt(socket, ZMQ_RCVHWM, &high_water, sizeof high_water) == 0 &&
               zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &message_max, sizeof message_max) == 0;
    if (!set)
        return status_fail(err, STATUS_IO, "no ZeroMQ socket: %s", zmq_strerror(errno));
    return STATUS_OK;
}

static enum status bind_socket(void *socket, const char *endpoint, struct error *err)
{
    if (zmq_bind(socket, endpoint) != 0)
        return status_fail(
            err, STATUS_IO, "endpoint \"%.200s\": %s", endpoint, zmq_strerror(errno));
    return STATUS_OK;
}

// Dead hosts are noticed: TCP alone keeps their connections for hours.
static enum status set_heartbeat(void *socket, struct error *err)
{
    int every_ms = 5000, timeout_ms = 15000;
    if (zmq_setsockopt(socket, ZMQ_HEARTBEAT_IVL, &every_ms, sizeof every_ms) != 0 ||
        zmq_setsockopt(socket, ZMQ_HEARTBEAT_TIMEOUT, &timeout_ms, sizeof timeout_ms) != 0)
        return status_fail(err, STATUS_IO, "heartbeats: %s", zmq_strerror(errno));
    return STATUS_OK;
}

static enum status open_clients(struct shell *s, struct error *err)
{
    const struct settings *o = &s->settings;
    TRY(endpoint_check(o->endpoint, o->curve_server_key != NULL, err));
    TRY(shell_keys_open(s, err));
    TRY(open_socket(s, &s->clients, LIMIT_MESSAGE_BYTES, err));
    // Options count for what is bound after them: the supervisor's path has no keys.
    if (o->control_endpoint)
        TRY(bind_socket(s->clients, o->control_endpoint, err));
    TRY(shell_keys_secure(s, s->clients, err));
    if (strncmp(o->endpoint, "tcp://", 6) == 0)
        TRY(set_heartbeat(s->clients, err));
    return bind_socket(s->clients, o->endpoint, err);
}

enum status shell_open(struct shell *s, struct error *err)
{
    const char *control = s->settings.control_endpoint, *workers = s->settings.worker_endpoint;
    if ((control && strncmp(control, "ipc://", 6) != 0) || !endpoint_is_local(workers))
        return status_fail(err, STATUS_INVALID,
            "endpoint \"%.200s\" is not this machine's alone, expected ipc:// (or tcp://127.0.0.1 "
            "for workers)",
            control && strncmp(control, "ipc://", 6) != 0 ? control : workers);
    TRY(open_clients(s, err));
    TRY(open_socket(s, &s->workers, LIMIT_WORKER_MESSAGE_BYTES, err));
    return bind_socket(s->workers, workers, err);
}

void shell_close(struct shell *s)
{
    void *sockets[] = {s->clients, s->workers, s->tokenize, s->zap};
    for (size_t i = 0; i < sizeof sockets / sizeof sockets[0]; i++)
        if (sockets[i])
            zmq_close(sockets[i]);
    if (s->context)
        zmq_ctx_term(s->context); // ends the tokenizing thread
}
