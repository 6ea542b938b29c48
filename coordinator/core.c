// SPDX-License-Identifier: Apache-2.0
// Set-up and the one entrance for events.
#include "coordinator/sched.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- set-up -------------------------------------------------------------------------------------

static void set_default(uint32_t *value, uint32_t if_zero)
{
    if (*value == 0)
        *value = if_zero;
}

static void set_defaults(struct core_config *c)
{
    set_default(&c->requests_max, LIMIT_REQUESTS);
    set_default(&c->samples_max, 2 * c->requests_max);
    set_default(&c->models_max, LIMIT_MODELS);
    set_default(&c->groups_max, LIMIT_GROUPS);
    set_default(&c->tenants_max, LIMIT_TENANTS);
    set_default(&c->context_tokens_max, LIMIT_CONTEXT_TOKENS);
    if (c->log_bytes == 0)
        c->log_bytes = (size_t)256 << 20;
    if (c->group_bytes == 0)
        c->group_bytes = (size_t)64 << 20;
    if (c->kept_us == 0)
        c->kept_us = (uint64_t)LIMIT_RESULT_KEPT_MS * 1000;
    if (c->silent_us == 0)
        c->silent_us = (uint64_t)LIMIT_CLIENT_SILENT_MS * 1000;
}

static enum status check_config(const struct core_config *c, struct error *err)
{
    if (!c->emit || c->requests_max > LIMIT_REQUESTS || c->samples_max > (1u << 24) ||
        c->models_max > LIMIT_MODELS || c->groups_max > LIMIT_GROUPS ||
        c->tenants_max > LIMIT_TENANTS || c->context_tokens_max > LIMIT_CONTEXT_TOKENS ||
        c->log_bytes / CORE_PAGE_BYTES >= UINT32_MAX)
        return status_fail(
            err, STATUS_INVALID, "core: a number of its configuration is over its limit");
    return STATUS_OK;
}

static bool take(void *pointer, size_t count, size_t size)
{
    void *memory = calloc(count, size);
    memcpy(pointer, &memory, sizeof memory);
    return memory != NULL;
}

// A buffer over memory of its own size never grows.
static bool take_buf(struct buf *b, size_t bytes)
{
    *b = (struct buf){.capacity = MUTANT(BUFFERS_GROW) ? 16 : bytes, .size_max = bytes};
    return take(&b->data, b->capacity, 1);
}

static bool take_pages(struct core_pages *pages, size_t bytes)
{
    pages->n = (uint32_t)(bytes / CORE_PAGE_BYTES);
    pages->first_free = CORE_PAGE_NONE;
    return take(&pages->data, pages->n, CORE_PAGE_BYTES) && take(&pages->next, pages->n, 4) &&
           take(&pages->prev, pages->n, 4);
}

static bool take_models(struct core *core)
{
    const struct core_config *c = &core->config;
    if (!take(&core->model, c->models_max, sizeof *core->model))
        return false;
    for (uint32_t i = 0; i < c->models_max; i++) {
        struct core_model_state *m = &core->model[i];
        m->suspects = NONE;
        if (!take(&m->tenant, c->tenants_max, sizeof *m->tenant) ||
            !take(&m->active, c->tenants_max, 4))
            return false;
        for (uint32_t t = 0; t < c->tenants_max; t++)
            m->tenant[t] = (struct core_tenant_queue){.root = NONE, .active_at = NONE};
    }
    return true;
}

static bool take_groups(struct core *core)
{
    if (!take(&core->group, core->config.groups_max, sizeof *core->group))
        return false;
    for (uint32_t i = 0; i < core->config.groups_max; i++) {
        struct core_group *g = &core->group[i];
        g->memory_bytes = core->config.group_bytes;
        // Not zeroed: a group that comes lays out what it needs of it anew, and the thread
        // sanitizer would write all of these gigabytes at start.
        g->memory = malloc(g->memory_bytes);
        if (!g->memory)
            return false;
    }
    return true;
}

static bool take_memory(struct core *core)
{
    const struct core_config *c = &core->config;
    core->requests_free = core->samples_free = NONE;
    core->n_buckets = 1;
    while (core->n_buckets < c->requests_max)
        core->n_buckets *= 2;
    if (!take(&core->request, c->requests_max, sizeof *core->request) ||
        !take(&core->timer, c->requests_max, 4) || !take(&core->table, core->n_buckets, 4) ||
        !take(&core->sample, c->samples_max, sizeof *core->sample) ||
        !take(&core->ids, c->context_tokens_max, 4) || !take_buf(&core->plan, LIMIT_PLAN_BYTES) ||
        !take_buf(&core->text, CORE_TEXT_BYTES) || !take_buf(&core->scratch, CORE_TEXT_BYTES))
        return false;
    memset(core->table, 0xff, (size_t)core->n_buckets * 4);
    return take_pages(&core->pages, c->log_bytes) && take_models(core) && take_groups(core);
}

enum status core_create(const struct core_config *config, struct core **out, struct error *err)
{
    struct core_config c = *config;
    set_defaults(&c);
    TRY(check_config(&c, err));
    struct core *core = calloc(1, sizeof *core);
    if (core)
        core->config = c;
    if (!core || !take_memory(core)) {
        core_destroy(core);
        return status_fail(err, STATUS_NO_MEMORY, "no memory for the coordinator's core");
    }
    *out = core;
    return STATUS_OK;
}

void core_destroy(struct core *core)
{
    if (!core)
        return;
    for (uint32_t i = 0; core->model && i < core->config.models_max; i++) {
        free(core->model[i].tenant);
        free(core->model[i].active);
    }
    for (uint32_t i = 0; core->group && i < core->config.groups_max; i++)
        free(core->group[i].memory);
    void *blocks[] = {core->model, core->group, core->request, core->timer, core->table,
        core->sample, core->ids, core->plan.data, core->text.data, core->scratch.data,
        core->pages.data, core->pages.next, core->pages.prev};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        free(blocks[i]);
    free(core);
}

// ---- models -------------------------------------------------------------------------------------

static void model_add(struct core *core, uint32_t index, const struct core_model *config)
{
    if (index >= core->config.models_max || core->model[index].added || config->vocab_size < 1 ||
        config->context_tokens < 1 || config->context_tokens > core->config.context_tokens_max ||
        config->n_end_ids > CORE_END_IDS_MAX)
        return;
    struct core_model_state *m = &core->model[index];
    m->added = true;
    m->config = *config;
    if (m->config.plans_in_flight > LIMIT_PLANS_IN_FLIGHT)
        m->config.plans_in_flight = LIMIT_PLANS_IN_FLIGHT;
    set_default(&m->config.waiting_requests_max, core->config.requests_max);
    if (m->config.waiting_tokens_max == 0)
        m->config.waiting_tokens_max = UINT64_MAX;
}

static void model_failed(struct core *core, uint32_t index, const char *sentence)
{
    if (index >= core->config.models_max || core->model[index].n_groups > 0)
        return;
    struct core_model_state *m = &core->model[index];
    m->failed = true;
    snprintf(m->failure, sizeof m->failure, "%s", sentence);
    core_request_fail_waiting(core, index);
}

// ---- events -------------------------------------------------------------------------------------

static void handle(struct core *core, const struct core_in *in)
{
    switch (in->type) {
    case CORE_IN_SUBMIT:
        core_request_submit(core, &in->submit);
        break;
    case CORE_IN_TOKENIZED:
        core_request_tokenized(core, &in->tokenized);
        break;
    case CORE_IN_CANCEL:
        core_request_cancel(core, &in->client);
        break;
    case CORE_IN_RESUME:
        core_request_resume(core, &in->client);
        break;
    case CORE_IN_CREDIT:
        core_request_credit(core, &in->client);
        break;
    case CORE_IN_CLOSE:
        core_request_close(core, &in->client);
        break;
    case CORE_IN_PEER_GONE:
        core_request_peer_gone(core, in->peer);
        break;
    case CORE_IN_MODEL_ADD:
        model_add(core, in->model_add.index, in->model_add.model);
        break;
    case CORE_IN_MODEL_FAILED:
        model_failed(core, in->model_failed.index, in->model_failed.sentence);
        break;
    case CORE_IN_GROUP_READY:
        core_group_ready(core, &in->group);
        break;
    case CORE_IN_GROUP_GONE:
        core_group_gone(core, in->group.group, !in->group.orderly);
        break;
    case CORE_IN_ANSWER:
        core_answer(core, in->answer.group, in->answer.data, in->answer.n);
        break;
    case CORE_IN_DRAIN:
        core->draining = true;
        break;
    case CORE_IN_TICK:
    case CORE_IN_COUNT:
        break;
    }
}

void core_step(struct core *core, const struct core_in *in)
{
    if (in->now_us > core->now_us)
        core->now_us = in->now_us;
    // What is over by now is over before the event is looked at.
    core_request_expire(core);
    handle(core, in);
    sched_run(core);
    if (core->draining && !core->drained && !MUTANT(DRAINED_UNSAID) && core->n_live == 0) {
        core->drained = true;
        struct core_out out = {.type = CORE_OUT_DRAINED};
        core->config.emit(core->config.user, &out);
    }
}

uint64_t core_next_deadline(const struct core *core)
{
    return core->n_timers ? core->request[core->timer[0]].due_us : UINT64_MAX;
}

// ---- looking in ---------------------------------------------------------------------------------

void core_model_stats(const struct core *core, uint32_t model, struct core_model_stats *out)
{
    *out = (struct core_model_stats){0};
    if (model >= core->config.models_max || !core->model[model].added)
        return;
    const struct core_model_state *m = &core->model[model];
    out->failed = m->failed;
    out->context_tokens = m->config.context_tokens;
    out->waiting = m->n_waiting;
    out->preempted = m->n_preempted;
    out->group_deaths = m->n_deaths;
    for (uint32_t i = 0; i < core->config.groups_max; i++) {
        const struct core_group *g = &core->group[i];
        if (!g->ready || g->model != model)
            continue;
        out->groups_ready++;
        out->running += g->n_running;
        if (g->context_tokens < out->context_tokens)
            out->context_tokens = g->context_tokens;
        for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
            out->kv_blocks += g->kv[k].n;
            out->kv_blocks_free += g->kv[k].n_free;
        }
    }
}

void core_counters(const struct core *core, struct core_counters *out)
{
    *out = core->counters;
    out->live = core->n_live;
    out->kept = core->n_kept;
}
