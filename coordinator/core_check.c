// SPDX-License-Identifier: Apache-2.0
// Every invariant of the core, recomputed from scratch, and a digest of its state.
#include "coordinator/sched_queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct check_state {
    const struct core *core;
    char *why;
    size_t n;
};

#define EXPECT(c, x, ...)                                                                          \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            snprintf((c)->why, (c)->n, __VA_ARGS__);                                               \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

// ---- groups -------------------------------------------------------------------------------------

static uint32_t flights_naming(const struct core_group *g, uint32_t slot)
{
    uint32_t n = 0;
    for (uint32_t f = 0; f < g->n_flights; f++) {
        const struct core_flight *flight =
            &g->flight[(g->flight_first + f) % LIMIT_PLANS_IN_FLIGHT];
        for (uint32_t i = 0; i < flight->n; i++)
            n += flight->row[i].slot == slot;
    }
    return n;
}

static bool check_slot(struct check_state *c, const struct core_group *g, uint32_t i)
{
    const struct core_slot *slot = &g->slot[i];
    EXPECT(
        c, slot->in_flight == flights_naming(g, i), "slot %u: plans in flight are miscounted", i);
    EXPECT(c, slot->in_flight <= g->plans_max, "slot %u is in too many plans", i);
    if (slot->sample == NONE) {
        EXPECT(c, slot->in_flight > 0, "slot %u is an orphan that nothing holds", i);
        return true;
    }
    const struct core_sample *s = &c->core->sample[slot->sample];
    EXPECT(c, s->state == SAMPLE_RUNNING && s->slot == i && &c->core->group[s->group] == g,
        "slot %u and its sample disagree", i);
    EXPECT(c, slot->n_done <= slot->n_planned, "slot %u: more rows answered than planned", i);
    EXPECT(c, slot->n_planned <= core_known(c->core, s) + slot->n_sampling,
        "slot %u: rows planned beyond the tokens in sight", i);
    EXPECT(c, (slot->in_flight > 0) == (slot->n_planned > slot->n_done),
        "slot %u: rows in flight without a plan", i);
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++)
        EXPECT(c, (uint64_t)slot->table[k].end * g->limits.block_tokens >= slot->n_planned,
            "slot %u: rows without blocks in KV group %u", i, k);
    return true;
}

static bool check_blocks(struct check_state *c, const struct core_group *g, uint32_t k)
{
    uint32_t *refs = calloc(g->kv[k].n, 4);
    EXPECT(c, refs, "no memory to check with");
    uint64_t reserved = 0;
    bool inside = true;
    for (uint32_t i = 0; i < g->limits.n_slots; i++) {
        const struct core_slot *slot = &g->slot[i];
        const uint32_t *block = g->block[k] + (size_t)i * g->stride;
        if (!slot->used)
            continue;
        reserved += slot->table[k].reserved;
        for (uint32_t e = slot->table[k].first; e < slot->table[k].end; e++) {
            inside = inside && block[e] < g->kv[k].n;
            if (inside)
                refs[block[e]]++;
        }
    }
    bool ok = inside && kv_blocks_check(&g->kv[k], refs);
    free(refs);
    EXPECT(c, ok, "KV group %u: references, free list or index are wrong", k);
    EXPECT(c, reserved == g->kv[k].n_reserved, "KV group %u: promises are miscounted", k);
    return true;
}

static bool check_group(struct check_state *c, const struct core_group *g)
{
    uint32_t n_running = 0, n_orphans = 0, n_used = 0;
    for (uint32_t i = g->run_first; i != NONE; i = g->slot[i].run_next) {
        EXPECT(c, g->slot[i].used && g->slot[i].sample != NONE, "slot %u runs unused", i);
        EXPECT(c, ++n_running <= g->limits.n_slots, "the list of running slots is a ring");
    }
    for (uint32_t i = 0; i < g->limits.n_slots; i++) {
        if (!g->slot[i].used)
            continue;
        n_used++;
        n_orphans += g->slot[i].sample == NONE;
        if (!check_slot(c, g, i))
            return false;
    }
    EXPECT(c, n_running == g->n_running && n_orphans == g->n_orphans, "slots are miscounted");
    EXPECT(c, n_used + g->n_free_slots == g->limits.n_slots && n_used == n_running + n_orphans,
        "%u used and %u free slots of %u", n_used, g->n_free_slots, g->limits.n_slots);
    EXPECT(c, g->n_running <= g->max_seqs, "more sequences run than allowed");
    EXPECT(c, g->n_flights <= g->plans_max, "too many plans are in flight");
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++)
        if (!check_blocks(c, g, k))
            return false;
    return true;
}

// ---- requests -----------------------------------------------------------------------------------

struct totals {
    uint32_t live, kept, samples, suspects;
    uint64_t reserved, used;
};

static uint64_t log_pages(const struct core_log *log)
{
    return log->count ? (log->count - 1) / log->per_page + 1 : 0;
}

static bool check_sample(struct check_state *c, const struct core_request *r,
    const struct core_sample *s, struct totals *t)
{
    const struct core *core = c->core;
    t->samples++;
    t->suspects += s->suspect;
    t->used += log_pages(&s->log);
    EXPECT(c, s->view_next <= s->log.count, "a view is ahead of its log");
    EXPECT(c, !s->view_at_head || s->view_next == s->log.count, "a view at the head is not there");
    EXPECT(c, !s->finish_sent || (s->state == SAMPLE_FINISHED && s->view_next == s->log.count),
        "a finish was sent before the tokens");
    EXPECT(c, s->log.count <= r->max_tokens, "a sample has more tokens than asked for");
    if (s->state == SAMPLE_RUNNING)
        EXPECT(c,
            core->group[s->group].ready &&
                core->group[s->group].slot[s->slot].sample == core_sample_index(core, s),
            "a running sample has no slot");
    else
        EXPECT(c, s->group == NONE && s->slot == NONE, "a sample has a slot and does not run");
    return true;
}

static bool check_request(struct check_state *c, const struct core_request *r, struct totals *t)
{
    const struct core *core = c->core;
    uint32_t n = 0, n_live = 0, n_tried = 0;
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next, n++) {
        n_live += core->sample[i].state != SAMPLE_FINISHED;
        n_tried += core->sample[i].suspect && core->sample[i].state == SAMPLE_RUNNING;
        if (!check_sample(c, r, &core->sample[i], t))
            return false;
    }
    EXPECT(c, n_tried <= 1, "two samples of a suspected request are tried at once");
    EXPECT(c, n == r->n_samples && n_live == r->n_live, "samples of a request are miscounted");
    EXPECT(c, (r->state == REQUEST_KEPT) == (n_live == 0), "a request is over and is not");
    t->live += r->state != REQUEST_KEPT;
    t->kept += r->state == REQUEST_KEPT;
    t->reserved += r->pages_reserved;
    t->used += log_pages(&r->prompt) + log_pages(&r->stop_ids) + log_pages(&r->bias) +
               log_pages(&r->stops) + log_pages(&r->scores);
    EXPECT(c, r->state != REQUEST_KEPT || r->timer_at != NONE, "a kept request has no timer");
    EXPECT(c, r->timer_at == NONE || core->timer[r->timer_at] == core_request_index(core, r),
        "a timer is lost");
    return true;
}

// A model with copies and with work has a plan in flight.
static bool check_progress(struct check_state *c, uint32_t model)
{
    const struct core_model_state *m = &c->core->model[model];
    uint32_t n_flights = 0, n_running = 0;
    for (uint32_t i = 0; i < c->core->config.groups_max; i++) {
        const struct core_group *g = &c->core->group[i];
        if (!g->ready || g->model != model)
            continue;
        n_flights += g->n_flights;
        n_running += g->n_running;
    }
    EXPECT(c, m->n_groups == 0 || n_flights > 0 || n_running + m->n_waiting == 0,
        "%u sequences of model %u run and %u wait, and nothing is planned", n_running, model,
        m->n_waiting);
    return true;
}

// Each sample that waits is in a queue; each tenant counts its samples.
static bool check_waiting(struct check_state *c, uint32_t model)
{
    const struct core *core = c->core;
    const struct core_model_state *m = &core->model[model];
    uint32_t n_waiting = 0, n_live = 0;
    for (uint32_t i = 0; i < core->requests_touched; i++) {
        const struct core_request *r = &core->request[i];
        if (r->state == REQUEST_FREE || r->model != model)
            continue;
        n_live += r->state == REQUEST_LIVE ? r->n_live : 0;
        for (uint32_t k = r->first_sample; k != NONE; k = core->sample[k].next)
            n_waiting += core->sample[k].state == SAMPLE_WAITING;
    }
    for (uint32_t i = 0; i < core->config.tenants_max; i++)
        n_live -= m->tenant[i].n_live;
    EXPECT(c, n_waiting == m->n_waiting, "model %u: a waiting sequence is in no queue", model);
    EXPECT(c, n_live == 0, "model %u: samples of tenants are miscounted", model);
    return true;
}

static bool check_model(struct check_state *c, uint32_t model)
{
    const struct core_model_state *m = &c->core->model[model];
    EXPECT(c, sched_queue_check(c->core, model) != NONE, "the queue of model %u is broken", model);
    uint32_t n_requests = 0;
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < c->core->requests_touched; i++) {
        const struct core_request *r = &c->core->request[i];
        if (r->state == REQUEST_FREE || r->model != model || !r->counted_waiting)
            continue;
        n_requests++;
        tokens += r->waiting_tokens;
    }
    EXPECT(c, n_requests == m->n_waiting_requests && tokens == m->waiting_tokens,
        "waiting requests of model %u are miscounted", model);
    EXPECT(c, n_requests <= m->config.waiting_requests_max, "too many requests wait");
    return check_waiting(c, model) && check_progress(c, model);
}

static uint32_t chain_length(const uint32_t *next, size_t stride, uint32_t first, uint32_t max)
{
    uint32_t n = 0;
    for (uint32_t i = first; i != NONE && n <= max; n++)
        i = *(const uint32_t *)(const void *)((const uint8_t *)next + i * stride);
    return n;
}

// Whatever is not used is free, once.
static bool check_pools(struct check_state *c)
{
    const struct core *core = c->core;
    const struct core_pages *p = &core->pages;
    EXPECT(c,
        core->n_requests + chain_length(&core->request->table_next, sizeof *core->request,
                               core->requests_free, core->requests_touched) ==
            core->requests_touched,
        "a request is neither used nor free");
    EXPECT(c,
        core->n_samples + chain_length(&core->sample->next, sizeof *core->sample,
                              core->samples_free, core->samples_touched) ==
            core->samples_touched,
        "a sample is neither used nor free");
    EXPECT(c,
        p->n_used + chain_length(p->next, sizeof *p->next, p->first_free, p->n_touched) ==
            p->n_touched,
        "a page is neither used nor free");
    return true;
}

static bool check_timers(struct check_state *c)
{
    const struct core *core = c->core;
    for (uint32_t i = 0; i < core->n_timers; i++) {
        const struct core_request *r = &core->request[core->timer[i]];
        EXPECT(c, r->timer_at == i && r->state != REQUEST_FREE, "timer %u is nobody's", i);
        EXPECT(c, i == 0 || core->request[core->timer[(i - 1) / 2]].due_us <= r->due_us,
            "timers are out of order");
    }
    return true;
}

static bool check_requests(struct check_state *c)
{
    const struct core *core = c->core;
    struct totals t = {0};
    for (uint32_t i = 0; i < core->requests_touched; i++)
        if (core->request[i].state != REQUEST_FREE && !check_request(c, &core->request[i], &t))
            return false;
    EXPECT(c,
        t.live == core->n_live && t.kept == core->n_kept && t.live + t.kept == core->n_requests,
        "%u requests live and %u kept, counted as %u and %u of %u", t.live, t.kept, core->n_live,
        core->n_kept, core->n_requests);
    EXPECT(c, core->counters.accepted == core->n_live + core->counters.finished,
        "accepted requests are neither live nor finished");
    EXPECT(c, t.samples == core->n_samples && t.suspects == core->n_suspects,
        "samples are miscounted");
    EXPECT(c,
        t.reserved == core->pages.n_reserved && t.used == core->pages.n_used &&
            t.used <= t.reserved,
        "pages are miscounted");
    return true;
}

bool core_check(const struct core *core, char *why, size_t n)
{
    struct check_state c = {core, why, n};
    if (!check_requests(&c) || !check_pools(&c) || !check_timers(&c))
        return false;
    for (uint32_t i = 0; i < core->config.models_max; i++)
        if (core->model[i].added && !check_model(&c, i))
            return false;
    for (uint32_t i = 0; i < core->config.groups_max; i++)
        if (core->group[i].ready && !check_group(&c, &core->group[i]))
            return false;
    return true;
}

// ---- digest -------------------------------------------------------------------------------------

static void mix(uint64_t *h, const void *data, size_t n)
{
    *h = hash_64((struct hash_key){*h, 0}, data, n);
}

static void mix_u64(uint64_t *h, uint64_t x)
{
    mix(h, &x, sizeof x);
}

static void mix_log(uint64_t *h, const struct core *core, const struct core_log *log)
{
    mix_u64(h, log->count);
    for (uint32_t i = 0; i < log->count; i++)
        mix(h, core_log_at(&core->pages, log, i), log->item_bytes > 16 ? 16 : log->item_bytes);
}

static void mix_request(uint64_t *h, const struct core *core, const struct core_request *r)
{
    mix(h, r->id, sizeof r->id);
    mix_u64(h, (uint64_t)r->tenant << 32 | r->model);
    mix_u64(h, (uint64_t)r->state << 32 | r->generation);
    mix_u64(h, r->peer);
    mix_u64(h, r->timer_at == NONE ? UINT64_MAX : r->due_us);
    mix_log(h, core, &r->prompt);
    mix_log(h, core, &r->scores);
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next) {
        const struct core_sample *s = &core->sample[i];
        mix_u64(h, (uint64_t)s->state << 32 | s->attempt);
        mix_u64(h, (uint64_t)s->view_next << 32 | s->slot);
        mix_u64(h, (uint64_t)s->reason << 32 | s->stop);
        mix_log(h, core, &s->log);
    }
}

static void mix_group(uint64_t *h, const struct core_group *g)
{
    mix_u64(h, g->next_step << 8 | g->n_flights);
    for (uint32_t i = 0; i < g->limits.n_slots; i++) {
        const struct core_slot *slot = &g->slot[i];
        if (!slot->used)
            continue;
        mix_u64(h, (uint64_t)slot->generation << 32 | slot->sample);
        mix_u64(h, (uint64_t)slot->n_done << 32 | slot->n_planned);
        for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
            const struct core_table *t = &slot->table[k];
            mix(h, g->block[k] + (size_t)i * g->stride + t->first, (size_t)(t->end - t->first) * 4);
        }
    }
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++)
        for (uint32_t b = g->kv[k].block[g->kv[k].n].next; b != g->kv[k].n;
             b = g->kv[k].block[b].next)
            mix_u64(h, b);
}

uint64_t core_hash(const struct core *core)
{
    uint64_t h = core->now_us;
    mix(&h, &core->counters, sizeof core->counters);
    for (uint32_t i = 0; i < core->requests_touched; i++)
        if (core->request[i].state != REQUEST_FREE)
            mix_request(&h, core, &core->request[i]);
    for (uint32_t i = 0; i < core->config.groups_max; i++)
        if (core->group[i].ready)
            mix_group(&h, &core->group[i]);
    return h;
}
