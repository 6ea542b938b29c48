// SPDX-License-Identifier: Apache-2.0
#include "coordinator/shell.h"

#include "base/log.h"
#include "proto/message.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

static struct shell_model *model_find(struct shell *s, const char *name, uint32_t *index)
{
    for (uint32_t i = 0; name && i < s->n_models; i++)
        if (strcmp(s->model[i].name, name) == 0) {
            *index = i;
            return &s->model[i];
        }
    return NULL;
}

static struct shell_group *group_find(struct shell *s, uint64_t peer)
{
    for (uint32_t i = 0; i < LIMIT_GROUPS; i++)
        if (s->group[i].used && s->group[i].peer == peer)
            return &s->group[i];
    return NULL;
}

static void send_control(struct shell *s, uint64_t peer, Phalanx__Worker__WorkerMessage *m)
{
    buf_clear(&s->packed);
    message_pack(&m->base, &s->packed);
    if (!buf_failed(&s->packed))
        shell_send(s->workers, peer, "C", 1, s->packed.data, s->packed.size);
}

static bool model_has_group(const struct shell *s, uint32_t model)
{
    for (uint32_t i = 0; i < LIMIT_GROUPS; i++)
        if (s->group[i].used && s->group[i].model == model)
            return true;
    return false;
}

static void drop_group(struct shell *s, uint32_t group, bool tell_core, uint64_t now_us)
{
    struct shell_group *g = &s->group[group];
    if (!g->used)
        return;
    g->used = false;
    log_warn("copy %u of %s is gone", g->copy, s->model[g->model].name);
    if (tell_core) {
        struct core_in in = {.type = CORE_IN_GROUP_GONE, .now_us = now_us};
        in.group.group = group;
        in.group.model = g->model;
        in.group.copy = g->copy;
        in.group.orderly = s->stopping;
        core_step(s->core, &in);
    }
    if (!model_has_group(s, g->model) && s->model[g->model].state == SHELL_READY)
        s->model[g->model].state = SHELL_LOADING;
}

void shell_groups_bad(struct shell *s, uint32_t group, const char *sentence)
{
    struct shell_model *m = &s->model[s->group[group].model];
    log_error("copy %u of %s: %s", s->group[group].copy, m->name, sentence);
    snprintf(m->reason, sizeof m->reason, "%s", sentence);
    drop_group(s, group, false, 0);
}

// These ranks cannot serve, nor could others that are started with the same settings.
static void refuse_group(struct shell *s, uint64_t peer, const char *reason)
{
    Phalanx__Worker__Failed failed = PHALANX__WORKER__FAILED__INIT;
    failed.reason = (char *)(uintptr_t)reason;
    Phalanx__Worker__WorkerMessage m = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    m.failed = &failed;
    send_control(s, peer, &m);
}

// What the worker says it can take, checked before the core sees it.
static bool limits_of(const Phalanx__Worker__Register *r, struct core_in_group *out)
{
    bool ok = r->n_n_blocks >= 1 && r->n_n_blocks <= LIMIT_KV_GROUPS &&
              r->n_window == r->n_n_blocks && r->n_slots >= 1 && r->n_slots <= LIMIT_SLOTS &&
              r->step_tokens >= 1 && r->step_tokens <= LIMIT_STEP_TOKENS &&
              r->context_tokens >= 1 && r->context_tokens <= LIMIT_CONTEXT_TOKENS &&
              r->vocab_size >= 1 && r->vocab_size <= MODEL_VOCAB_LIMIT && r->block_tokens >= 8 &&
              r->block_tokens <= LIMIT_BLOCK_TOKENS &&
              (r->block_tokens & (r->block_tokens - 1)) == 0 &&
              r->plans_in_flight <= LIMIT_PLANS_IN_FLIGHT && r->boot_id.len == sizeof out->boot_id;
    if (!ok)
        return false;
    memcpy(out->boot_id, r->boot_id.data, sizeof out->boot_id);
    out->limits = (struct plan_limits){.n_slots = r->n_slots,
        .step_tokens = r->step_tokens,
        .context_tokens = r->context_tokens,
        .vocab_size = r->vocab_size,
        .n_kv_groups = (uint32_t)r->n_n_blocks,
        .block_tokens = r->block_tokens};
    out->plans_in_flight = r->plans_in_flight;
    for (size_t i = 0; i < r->n_n_blocks; i++) {
        if (r->n_blocks[i] < 1 || r->n_blocks[i] > LIMIT_BLOCKS)
            return false;
        out->limits.n_blocks[i] = r->n_blocks[i];
        out->window[i] = r->window[i];
    }
    return true;
}

// Gives the registering copy a number; an older connection of the same copy is dropped first.
static struct shell_group *group_take(
    struct shell *s, uint32_t model, uint32_t copy, uint64_t now_us)
{
    for (uint32_t i = 0; i < LIMIT_GROUPS; i++)
        if (s->group[i].used && s->group[i].model == model && s->group[i].copy == copy)
            drop_group(s, i, true, now_us);
    for (uint32_t i = 0; i < LIMIT_GROUPS; i++)
        if (!s->group[i].used)
            return &s->group[i];
    return NULL;
}

static void model_describe(struct shell_model *m, const Phalanx__Worker__Register *r)
{
    m->state = SHELL_READY;
    m->degree = r->degree;
    m->progress_percent = 100;
    m->weight_bytes = r->weight_bytes;
    m->kv_bytes = r->kv_bytes;
    m->reason[0] = '\0';
    snprintf(m->device, sizeof m->device, "%s", r->device ? r->device : "");
}

// Whether this group is registered already: after a restart of the coordinator several of its
// heartbeats may wait in the queue, each is answered by asking it to register, and so it does.
static bool registered(struct shell *s, uint64_t peer, const struct core_in_group *in)
{
    const struct shell_group *g = group_find(s, peer);
    return g && memcmp(g->boot_id, in->boot_id, sizeof g->boot_id) == 0;
}

// Its processes, as far as they are named; a group without names is watched by its silence alone.
static void watch_group(struct shell_group *g, const Phalanx__Worker__Register *r, uint64_t now_us)
{
    struct watch *w = &g->watch;
    w->n_ranks = r->degree >= 1 && r->degree <= WATCH_RANKS_MAX ? r->degree : 1;
    for (size_t i = 0; i < r->n_ranks && i < w->n_ranks; i++)
        w->pid[i] = r->ranks[i]->pid;
    watch_heard(w, now_us);
}

static void handle_register(
    struct shell *s, uint64_t peer, const Phalanx__Worker__Register *r, uint64_t now_us)
{
    uint32_t index;
    struct shell_model *m = model_find(s, r->model, &index);
    struct core_in in = {.type = CORE_IN_GROUP_READY, .now_us = now_us};
    if (!m || !limits_of(r, &in.group) || in.group.limits.vocab_size != m->vocab_size) {
        refuse_group(s, peer, "its model or a value is unknown here or out of range");
        return;
    }
    if (registered(s, peer, &in.group))
        return; // it keeps what it is computing
    struct shell_group *g = group_take(s, index, r->copy, now_us);
    if (!g) {
        refuse_group(s, peer, "there are too many copies already");
        return;
    }
    *g = (struct shell_group){.used = true, .peer = peer, .model = index, .copy = r->copy};
    watch_group(g, r, now_us);
    memcpy(g->boot_id, in.group.boot_id, sizeof g->boot_id);
    Phalanx__Worker__Welcome welcome = PHALANX__WORKER__WELCOME__INIT;
    welcome.has_epoch = 1;
    welcome.epoch = s->epoch;
    welcome.has_next_step_id = 1;
    welcome.next_step_id = 1;
    Phalanx__Worker__WorkerMessage message = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    message.welcome = &welcome;
    send_control(s, peer, &message);
    model_describe(m, r);
    in.group.group = (uint32_t)(g - s->group);
    in.group.model = index;
    in.group.copy = r->copy;
    core_step(s->core, &in);
    if (!g->used) // the core has found it bad
        refuse_group(s, peer, m->reason);
}

static void handle_failed(struct shell *s, const Phalanx__Worker__Failed *f, uint64_t now_us)
{
    uint32_t index;
    struct shell_model *m = model_find(s, f->model, &index);
    if (!m)
        return;
    for (uint32_t i = 0; i < LIMIT_GROUPS; i++)
        if (s->group[i].used && s->group[i].model == index && s->group[i].copy == f->copy)
            drop_group(s, i, true, now_us);
    if (model_has_group(s, index) || !f->reason)
        return;
    m->state = SHELL_FAILED;
    snprintf(m->reason, sizeof m->reason, "%s", f->reason);
    struct core_in in = {.type = CORE_IN_MODEL_FAILED, .now_us = now_us};
    in.model_failed.index = index;
    in.model_failed.sentence = m->reason;
    core_step(s->core, &in);
}

static void handle_progress(struct shell *s, const Phalanx__Worker__Progress *p, uint64_t now_us)
{
    uint32_t index;
    s->ranks_us = now_us;
    struct shell_model *m = model_find(s, p->model, &index);
    if (m && p->bytes_total > 0 && p->bytes_done <= p->bytes_total)
        m->progress_percent = (uint32_t)((double)p->bytes_done / (double)p->bytes_total * 100);
}

// An epoch of 0 welcomes nobody: the group registers again.
static void ask_to_register(struct shell *s, uint64_t peer)
{
    Phalanx__Worker__Welcome welcome = PHALANX__WORKER__WELCOME__INIT;
    welcome.has_epoch = 1;
    Phalanx__Worker__WorkerMessage m = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    m.welcome = &welcome;
    send_control(s, peer, &m);
}

static void handle_control(
    struct shell *s, uint64_t peer, const void *data, size_t n, uint64_t now_us)
{
    arena_reset(&s->in);
    ProtobufCMessage *base;
    struct error err;
    if (message_unpack(&phalanx__worker__worker_message__descriptor, data, n, &s->in, &base,
            &err) != STATUS_OK) {
        log_error("from a worker: %s", err.text);
        return;
    }
    const Phalanx__Worker__WorkerMessage *m = (const Phalanx__Worker__WorkerMessage *)base;
    if (m->register_)
        handle_register(s, peer, m->register_, now_us);
    if (m->progress)
        handle_progress(s, m->progress, now_us);
    if (m->heartbeat && !group_find(s, peer))
        ask_to_register(s, peer);
    if (m->failed)
        handle_failed(s, m->failed, now_us);
}

void shell_groups_handle(
    struct shell *s, uint64_t peer, char kind, const void *data, size_t n, uint64_t now_us)
{
    struct shell_group *g = group_find(s, peer);
    if (g)
        watch_heard(&g->watch, now_us);
    if (kind == 'C') {
        handle_control(s, peer, data, n, now_us);
    } else if (kind == 'A' && g) {
        struct core_in in = {.type = CORE_IN_ANSWER, .now_us = now_us};
        in.answer.group = (uint32_t)(g - s->group);
        buf_clear(&s->answer);
        buf_append(&s->answer, data, n);
        in.answer.data = s->answer.data;
        in.answer.n = s->answer.size;
        watch_answered(&g->watch);
        core_step(s->core, &in);
    }
}

void shell_groups_send_plan(struct shell *s, const struct core_out *out)
{
    struct shell_group *g = &s->group[out->plan.group];
    if (!g->used)
        return;
    // A plan that cannot be delivered is noticed by the silence of the group.
    watch_planned(&g->watch);
    shell_send(s->workers, g->peer, "P", 1, out->plan.data, out->plan.n);
}

// The supervisor ends the copy and starts it again; without one that is its user's to do.
static void tell_supervisor(const struct shell *s, uint32_t copy)
{
    int fd = (int)s->settings.supervisor_fd;
    if (fd >= 0 && write(fd, &copy, sizeof copy) != (ssize_t)sizeof copy)
        log_error("the supervisor cannot be told that copy %u hangs", copy);
}

static void check_group(struct shell *s, uint32_t group, uint64_t now_us)
{
    struct shell_group *g = &s->group[group];
    uint64_t cpu_us[WATCH_RANKS_MAX], silent_s = (now_us - g->watch.heard_us) / 1000000;
    uint32_t rank;
    if (!g->used || !watch_due(&g->watch, now_us))
        return;
    watch_read(&g->watch, cpu_us);
    if (!watch_judge(&g->watch, cpu_us, now_us, &rank))
        return;
    const char *name = s->model[g->model].name;
    if (rank < g->watch.n_ranks)
        log_error("copy %u of %s hangs: silent for %llu s, and rank %u does not run", g->copy, name,
            (unsigned long long)silent_s, rank);
    else
        log_error("copy %u of %s hangs: silent for %llu s, although its ranks run", g->copy, name,
            (unsigned long long)silent_s);
    uint32_t copy = g->copy;
    drop_group(s, group, true, now_us);
    tell_supervisor(s, copy);
}

void shell_groups_tick(struct shell *s, uint64_t now_us)
{
    for (uint32_t i = 0; i < LIMIT_GROUPS; i++) {
        check_group(s, i, now_us);
        if (s->group[i].used)
            s->ranks_us = now_us;
    }
}

void shell_groups_give_up(struct shell *s, const char *sentence, uint64_t now_us)
{
    for (uint32_t i = 0; i < LIMIT_GROUPS; i++)
        drop_group(s, i, true, now_us);
    for (uint32_t i = 0; i < s->n_models; i++) {
        struct core_in in = {.type = CORE_IN_MODEL_FAILED, .now_us = now_us};
        in.model_failed.index = i;
        in.model_failed.sentence = sentence;
        core_step(s->core, &in);
    }
}

void shell_groups_shutdown(struct shell *s)
{
    Phalanx__Worker__Shutdown shutdown = PHALANX__WORKER__SHUTDOWN__INIT;
    Phalanx__Worker__WorkerMessage m = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    m.shutdown = &shutdown;
    for (uint32_t i = 0; i < LIMIT_GROUPS; i++)
        if (s->group[i].used)
            send_control(s, s->group[i].peer, &m);
}
