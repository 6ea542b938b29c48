// SPDX-License-Identifier: Apache-2.0
#include "worker/uplink.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"
#include "proto/message.h"
#include "proto/worker.pb-c.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <zmq.h>

enum {
    HEARTBEAT_MS = 1000,
    UPLINK_LINGER_MS = 3000,
    // After a plan the next one is near: for so long it finds rank 0 awake, where cores are free.
    UPLINK_SPIN_US = 300,
    UPLINK_BUSY_SLEEP_US = 20, // between two looks at a device that computes
};

struct uplink {
    struct uplink_args args;
    void *context, *socket;
    struct buf out, in; // the message being sent; the one at hand, 8-byte aligned
    struct arena arena;
    uint8_t boot_id[16];
    uint64_t beat_us;
    uint32_t shown_percent;
    bool shutdown;
};

enum status uplink_open(const struct uplink_args *args, struct uplink **out, struct error *err)
{
    struct uplink *u = calloc(1, sizeof *u);
    if (!u)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the connection");
    u->args = *args;
    buf_init(&u->out, LIMIT_WORKER_MESSAGE_BYTES);
    buf_init(&u->in, LIMIT_WORKER_MESSAGE_BYTES);
    arena_init(&u->arena, LIMIT_MESSAGE_UNPACK_BYTES);
    u->context = zmq_ctx_new();
    u->socket = u->context ? zmq_socket(u->context, ZMQ_DEALER) : NULL;
    int linger = UPLINK_LINGER_MS, reconnect = 50, reconnect_max = 1000;
    int64_t message_max = LIMIT_WORKER_MESSAGE_BYTES;
    bool ok = u->socket && getrandom(u->boot_id, sizeof u->boot_id, 0) == sizeof u->boot_id &&
              zmq_setsockopt(u->socket, ZMQ_LINGER, &linger, sizeof linger) == 0 &&
              zmq_setsockopt(u->socket, ZMQ_RECONNECT_IVL, &reconnect, sizeof reconnect) == 0 &&
              zmq_setsockopt(
                  u->socket, ZMQ_RECONNECT_IVL_MAX, &reconnect_max, sizeof reconnect_max) == 0 &&
              zmq_setsockopt(u->socket, ZMQ_MAXMSGSIZE, &message_max, sizeof message_max) == 0 &&
              zmq_connect(u->socket, args->endpoint) == 0;
    if (!ok) {
        enum status s = status_fail(
            err, STATUS_IO, "coordinator at \"%.200s\": %s", args->endpoint, zmq_strerror(errno));
        uplink_close(u);
        return s;
    }
    *out = u;
    return STATUS_OK;
}

void uplink_close(struct uplink *u)
{
    if (!u)
        return;
    if (u->socket)
        zmq_close(u->socket);
    if (u->context)
        zmq_ctx_term(u->context);
    buf_deinit(&u->out);
    buf_deinit(&u->in);
    arena_reset(&u->arena);
    free(u);
}

// ---- sending -----------------------------------------------------------------------------------

static void send_frames(struct uplink *u, const char *kind, const void *data, size_t n)
{
    // A full queue means that nobody listens; what is lost is told again after reconnecting.
    if (zmq_send(u->socket, kind, 1, ZMQ_SNDMORE | ZMQ_DONTWAIT) == 1)
        zmq_send(u->socket, data, n, ZMQ_DONTWAIT);
}

static void send_control(struct uplink *u, const Phalanx__Worker__WorkerMessage *m)
{
    buf_clear(&u->out);
    message_pack(&m->base, &u->out);
    if (!buf_failed(&u->out))
        send_frames(u, "C", u->out.data, u->out.size);
}

static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

void uplink_progress(struct uplink *u, uint64_t done, uint64_t total)
{
    uint32_t percent = total ? (uint32_t)((double)done / (double)total * 100) : 0;
    if (percent == u->shown_percent)
        return;
    u->shown_percent = percent;
    Phalanx__Worker__Progress p = PHALANX__WORKER__PROGRESS__INIT;
    p.model = text_of(u->args.model_name);
    p.has_copy = p.has_bytes_done = p.has_bytes_total = 1;
    p.copy = u->args.copy;
    p.bytes_done = done;
    p.bytes_total = total;
    Phalanx__Worker__WorkerMessage m = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    m.progress = &p;
    send_control(u, &m);
}

void uplink_failed(struct uplink *u, const char *reason)
{
    Phalanx__Worker__Failed f = PHALANX__WORKER__FAILED__INIT;
    f.model = text_of(u->args.model_name);
    f.has_copy = 1;
    f.copy = u->args.copy;
    f.reason = text_of(reason);
    Phalanx__Worker__WorkerMessage m = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    m.failed = &f;
    send_control(u, &m);
}

static void send_register(struct uplink *u, struct rank *r)
{
    const struct rank_info *info = rank_info(r);
    uint32_t n_blocks[LIMIT_KV_GROUPS], window[LIMIT_KV_GROUPS];
    memcpy(n_blocks, info->limits.n_blocks, sizeof n_blocks);
    memcpy(window, info->window, sizeof window);
    Phalanx__Worker__Register g = PHALANX__WORKER__REGISTER__INIT;
    g.has_version = g.has_copy = g.has_boot_id = g.has_epoch = g.has_last_step_id = 1;
    g.version = 1;
    g.model = text_of(u->args.model_name);
    g.copy = u->args.copy;
    g.boot_id = (ProtobufCBinaryData){sizeof u->boot_id, u->boot_id};
    g.epoch = rank_epoch(r);
    g.last_step_id = rank_last_step(r);
    g.has_degree = g.has_n_slots = g.has_step_tokens = g.has_context_tokens = 1;
    g.degree = u->args.degree;
    g.device = text_of(info->device);
    g.n_slots = info->limits.n_slots;
    g.step_tokens = info->limits.step_tokens;
    g.context_tokens = info->limits.context_tokens;
    g.has_vocab_size = g.has_block_tokens = g.has_weight_bytes = g.has_kv_bytes = 1;
    g.vocab_size = info->limits.vocab_size;
    g.block_tokens = info->limits.block_tokens;
    g.n_n_blocks = g.n_window = info->limits.n_kv_groups;
    g.n_blocks = n_blocks;
    g.window = window;
    g.weight_bytes = info->weight_bytes;
    g.kv_bytes = info->kv_bytes;
    g.has_plans_in_flight = 1;
    g.plans_in_flight = info->plans_in_flight;
    g.kv_dtype = text_of(dtype_name(info->kv_dtype));
    g.has_config_hash = 1;
    g.config_hash =
        (ProtobufCBinaryData){sizeof info->config_hash, (uint8_t *)(uintptr_t)info->config_hash};
    Phalanx__Worker__Rank rank[COLL_RANKS_MAX], *ranks[COLL_RANKS_MAX];
    g.n_ranks = info->size;
    g.ranks = ranks;
    for (uint32_t i = 0; i < info->size; i++) {
        phalanx__worker__rank__init(&rank[i]);
        ranks[i] = &rank[i];
        rank[i].has_pid = rank[i].has_start_time = 1;
        rank[i].pid = info->host[i].pid;
        rank[i].start_time = info->host[i].start_time;
        rank[i].host = text_of(info->host[i].name);
    }
    Phalanx__Worker__WorkerMessage m = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    m.register_ = &g;
    send_control(u, &m);
}

static void beat(struct uplink *u, struct rank *r, uint64_t now)
{
    if (now - u->beat_us < (uint64_t)HEARTBEAT_MS * 1000)
        return;
    u->beat_us = now;
    Phalanx__Worker__Heartbeat h = PHALANX__WORKER__HEARTBEAT__INIT;
    h.has_epoch = h.has_last_step_id = 1;
    h.epoch = rank_epoch(r);
    h.last_step_id = rank_last_step(r);
    Phalanx__Worker__WorkerMessage m = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    m.heartbeat = &h;
    send_control(u, &m);
}

// ---- receiving ---------------------------------------------------------------------------------

// Takes one message {kind, body} into u->in; 0 when there is none or it has another shape.
static char receive(struct uplink *u)
{
    char kind[2];
    int n = zmq_recv(u->socket, kind, sizeof kind, ZMQ_DONTWAIT);
    if (n < 0)
        return 0;
    char found = 0;
    int more = 0;
    size_t size = sizeof more;
    for (int part = 1; zmq_getsockopt(u->socket, ZMQ_RCVMORE, &more, &size) == 0 && more; part++) {
        zmq_msg_t body;
        zmq_msg_init(&body);
        if (zmq_msg_recv(&body, u->socket, ZMQ_DONTWAIT) >= 0) {
            buf_clear(&u->in);
            buf_append(&u->in, zmq_msg_data(&body), zmq_msg_size(&body));
            found = part == 1 && n == 1 && !buf_failed(&u->in) ? kind[0] : 0;
        }
        zmq_msg_close(&body);
    }
    return found;
}

static enum status handle_control(struct uplink *u, struct rank *r, struct error *err)
{
    arena_reset(&u->arena);
    ProtobufCMessage *base;
    struct error why;
    if (message_unpack(&phalanx__worker__worker_message__descriptor, u->in.data, u->in.size,
            &u->arena, &base, &why) != STATUS_OK) {
        log_error("from the coordinator: %s", why.text);
        return STATUS_OK;
    }
    const Phalanx__Worker__WorkerMessage *m = (const Phalanx__Worker__WorkerMessage *)base;
    if (m->failed)
        return status_fail(err, STATUS_DENIED, "the coordinator refuses these ranks: %.400s",
            m->failed->reason ? m->failed->reason : "it does not say why");
    if (m->shutdown)
        u->shutdown = true;
    if (!m->welcome)
        return STATUS_OK;
    if (m->welcome->epoch == 0) {
        send_register(u, r);
        return STATUS_OK;
    }
    return rank_reset(r, m->welcome->epoch, m->welcome->next_step_id, err);
}

struct beating {
    struct uplink *uplink;
    struct rank *rank;
};

// A step may take longer than the coordinator's patience: after each layer there is a sign of life.
static void beat_in_step(void *user)
{
    const struct beating *b = user;
    beat(b->uplink, b->rank, clock_now_us());
}

static enum status handle_plan(struct uplink *u, struct rank *r, struct error *err)
{
    struct beating beating = {u, r};
    struct forward_pulse pulse = {beat_in_step, &beating};
    bool repeats = false;
    enum status s = rank_begin(r, u->in.data, u->in.size, &pulse, &repeats, err);
    if (s != STATUS_OK && status_class(s) != STATUS_CLASS_CALLER)
        return s;
    if (s != STATUS_OK)
        log_error("a plan is refused: %s", err->text);
    else if (repeats && rank_unfinished(r) == 0)
        send_frames(u, "A", rank_answer(r)->data, rank_answer(r)->size);
    return STATUS_OK;
}

// Answers the oldest plan that was begun; AGAIN: there is none that is done.
static enum status answer_plan(struct uplink *u, struct rank *r, bool wait, struct error *err)
{
    if (rank_unfinished(r) == 0)
        return STATUS_AGAIN;
    enum status s = rank_finish(r, wait, err);
    if (s == STATUS_OK)
        send_frames(u, "A", rank_answer(r)->data, rank_answer(r)->size);
    return s;
}

// Sleeps until the coordinator says something or a sign of life is due.
static enum status await_message(struct uplink *u, struct error *err)
{
    zmq_pollitem_t item = {u->socket, 0, ZMQ_POLLIN, 0};
    if (zmq_poll(&item, 1, HEARTBEAT_MS) < 0 && errno != EINTR)
        return status_fail(err, STATUS_IO, "coordinator: %s", zmq_strerror(errno));
    return STATUS_OK;
}

// What to do when there was nothing to do.
static enum status rest(struct uplink *u, bool busy, uint64_t awake_until_us, struct error *err)
{
    if (clock_now_us() < awake_until_us)
        sched_yield();
    else if (busy)
        clock_sleep_us(UPLINK_BUSY_SLEEP_US);
    else
        return await_message(u, err);
    return STATUS_OK;
}

enum status uplink_serve(
    struct uplink *u, struct rank *r, const volatile sig_atomic_t *stop, struct error *err)
{
    uint64_t awake_until_us = 0;
    send_register(u, r);
    u->beat_us = clock_now_us();
    while (!*stop && !u->shutdown) {
        char kind = rank_unfinished(r) < SESSION_STEPS_MAX ? receive(u) : 0;
        if (kind == 'C')
            TRY(handle_control(u, r, err));
        else if (kind == 'P')
            TRY(handle_plan(u, r, err));
        enum status s = answer_plan(u, r, false, err);
        if (s != STATUS_OK && s != STATUS_AGAIN)
            return s;
        uint64_t now = clock_now_us();
        beat(u, r, now);
        if ((kind == 'P' || rank_unfinished(r) > 0) && rank_info(r)->spin)
            awake_until_us = now + UPLINK_SPIN_US;
        if (kind == 0 && s == STATUS_AGAIN)
            TRY(rest(u, rank_unfinished(r) > 0, awake_until_us, err));
    }
    while (rank_unfinished(r) > 0)
        TRY(answer_plan(u, r, true, err));
    return STATUS_OK;
}
