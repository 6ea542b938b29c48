// SPDX-License-Identifier: Apache-2.0
// The world of the simulation: time, the heap of events, and what is drawn from the seed.
#include "sim.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { CALM_AT_US = 60000, END_AT_US = 8000000, STEPS_MAX = 400000 };

void sim_fail(struct sim *sim, const char *format, ...)
{
    if (sim->failed)
        return; // the first failure explains the others
    sim->failed = true;
    va_list args;
    va_start(args, format);
    vsnprintf(sim->why, sizeof sim->why, format, args);
    va_end(args);
}

// ---- randomness ---------------------------------------------------------------------------------

// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014).
uint64_t sim_mix(uint64_t a, uint64_t b)
{
    uint64_t z = a * 0x9e3779b97f4a7c15u + b + 0x632be59bd9b4e019u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t sim_u64(struct sim *sim)
{
    return sim_mix(sim->seed, ++sim->rng);
}

uint32_t sim_below(struct sim *sim, uint32_t n)
{
    return (uint32_t)(sim_u64(sim) % n);
}

uint32_t sim_between(struct sim *sim, uint32_t min, uint32_t max)
{
    return min + sim_below(sim, max - min + 1);
}

bool sim_chance(struct sim *sim, uint32_t per_mille)
{
    return per_mille > 0 && sim_below(sim, 1000) < per_mille;
}

// ---- events -------------------------------------------------------------------------------------

static bool earlier(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

void sim_post(struct sim *sim, uint64_t at_us, enum sim_event_type type, uint32_t a, uint64_t b,
    const void *data, size_t bytes)
{
    struct sim_event *e = calloc(1, sizeof *e);
    *e = (struct sim_event){
        .at_us = at_us, .order = sim->order++, .type = type, .a = a, .b = b, .bytes = bytes};
    if (bytes) {
        e->data = malloc(bytes);
        memcpy(e->data, data, bytes);
    }
    if (sim->n_events == sim->n_events_max) {
        sim->n_events_max = sim->n_events_max ? 2 * sim->n_events_max : 256;
        sim->event = realloc(sim->event, sim->n_events_max * sizeof *sim->event);
    }
    uint32_t i = sim->n_events++;
    for (; i > 0 && earlier(e, sim->event[(i - 1) / 2]); i = (i - 1) / 2)
        sim->event[i] = sim->event[(i - 1) / 2];
    sim->event[i] = e;
}

static struct sim_event *next_event(struct sim *sim)
{
    struct sim_event *first = sim->event[0], *e = sim->event[--sim->n_events];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= sim->n_events)
            break;
        if (child + 1 < sim->n_events && earlier(sim->event[child + 1], sim->event[child]))
            child++;
        if (!earlier(sim->event[child], e))
            break;
        sim->event[i] = sim->event[child];
        i = child;
    }
    sim->event[i] = e;
    return first;
}

void sim_step(struct sim *sim, struct core_in *in)
{
    in->now_us = sim->now_us;
    if (!sim->calm && sim->now_us > 1000 && sim_chance(sim, sim->faults.clock_jump))
        in->now_us -= sim_below(sim, 1000); // a clock that goes back is not believed
    if (in->now_us > sim->core_now_us)
        sim->core_now_us = in->now_us;
    sim->stepping++;
    bool before = sim_memory_forbid(true);
    uint64_t n_taken = sim_memory_count();
    core_step(sim->core, in);
    sim_memory_forbid(before);
    SIM_EXPECT(sim, sim_memory_count() == n_taken, "the core takes memory while it serves");
    sim->stepping--;
    sim->n_steps++;
    char why[200];
    if (!sim->failed && !core_check(sim->core, why, sizeof why))
        sim_fail(sim, "%s", why);
}

// ---- set-up -------------------------------------------------------------------------------------

static uint32_t rate(struct sim *sim, uint32_t max)
{
    return sim_chance(sim, 500) ? sim_below(sim, max + 1) : 0;
}

static void draw_faults(struct sim *sim)
{
    struct sim_faults *f = &sim->faults;
    *f = (struct sim_faults){.lose = rate(sim, 100),
        .repeat = rate(sim, 150),
        .reorder = rate(sim, 200),
        .cancel = rate(sim, 40),
        .resume = rate(sim, 150),
        .vanish = rate(sim, 80),
        .conflict = rate(sim, 60),
        .die = rate(sim, 40),
        .hostile = rate(sim, 30),
        .repeat_answer = rate(sim, 150),
        .poison = rate(sim, 600),
        .bad_logits = rate(sim, 60),
        .clock_jump = rate(sim, 20)};
}

static void draw_model(struct sim *sim, struct core_model *m)
{
    *m = (struct core_model){.vocab_size = SIM_VOCAB,
        .context_tokens = sim->context_tokens,
        .n_end_ids = 1,
        .end_ids = {SIM_END_ID},
        .decoder = &sim_decoder,
        .max_num_seqs = sim_between(sim, 1, 10),
        .max_num_batched_tokens = sim_between(sim, 2, 50),
        .long_prefill_tokens = sim_chance(sim, 300) ? sim_between(sim, 1, 20) : 0,
        .plans_in_flight = sim_below(sim, LIMIT_PLANS_IN_FLIGHT + 1),
        .waiting_requests_max = sim_chance(sim, 300) ? sim_between(sim, 1, 6) : 0,
        .waiting_tokens_max = sim_chance(sim, 200) ? sim_between(sim, 50, 400) : 0,
        .guaranteed_no_evict = sim_chance(sim, 250),
        .no_prefix_cache = sim_chance(sim, 150)};
}

static void draw_groups(struct sim *sim)
{
    uint32_t block_tokens = 2u << sim_below(sim, 4);
    uint32_t n_kv_groups = sim_between(sim, 1, LIMIT_KV_GROUPS);
    uint32_t n_seqs = sim_between(sim, 1, 5); // that fit into the KV memory at full length
    uint32_t window[LIMIT_KV_GROUPS] = {0};
    if (sim_chance(sim, 500))
        window[n_kv_groups - 1] = sim_between(sim, 1, 40);
    for (uint32_t i = 0; i < sim->n_groups; i++) {
        struct sim_worker *w = &sim->worker[i];
        w->group = i;
        w->model = i % sim->n_models;
        w->limits = (struct plan_limits){.n_slots = SIM_SLOTS_MAX,
            .step_tokens = 64,
            .context_tokens = sim->context_tokens,
            .vocab_size = SIM_VOCAB,
            .n_kv_groups = n_kv_groups,
            .block_tokens = block_tokens};
        w->plans_in_flight = sim_below(sim, LIMIT_PLANS_IN_FLIGHT + 1);
        for (uint32_t k = 0; k < n_kv_groups; k++) {
            uint32_t per_seq = sim->context_tokens / block_tokens + 1;
            if (window[k])
                per_seq = (window[k] + block_tokens - 1) / block_tokens + 4;
            uint32_t n = per_seq * n_seqs;
            w->limits.n_blocks[k] = n < SIM_BLOCKS_MAX ? n : SIM_BLOCKS_MAX;
        }
        memcpy(w->window, window, sizeof window);
        sim_post(sim, sim_below(sim, 4000), SIM_EVENT_START, i, 0, NULL, 0);
    }
}

static bool create_core(struct sim *sim)
{
    struct core_config config = {.emit = sim_watch_emit,
        .user = sim,
        .epoch = SIM_EPOCH,
        .key = {sim->seed, 99},
        .requests_max = sim_between(sim, 4, SIM_JOBS_MAX),
        .models_max = SIM_MODELS_MAX,
        .groups_max = SIM_GROUPS_MAX,
        .tenants_max = SIM_TENANTS_MAX,
        .context_tokens_max = SIM_CONTEXT_MAX,
        .log_bytes = (size_t)sim_between(sim, 40, 300) << 10,
        .group_bytes = 1 << 20,
        .kept_us = 200000,
        .silent_us = 50000};
    struct error err = {0};
    if (core_create(&config, &sim->core, &err) != STATUS_OK) {
        sim_fail(sim, "%s", err.text);
        return false;
    }
    return true;
}

static void set_up(struct sim *sim)
{
    sim->n_models = sim_between(sim, 1, SIM_MODELS_MAX);
    sim->n_groups = sim_between(sim, sim->n_models, SIM_GROUPS_MAX);
    sim->n_tenants = sim_between(sim, 1, SIM_TENANTS_MAX);
    sim->n_jobs = sim_between(sim, 3, SIM_JOBS_MAX);
    // Of a size that keeps blocks scarce: at most SIM_BLOCKS_MAX blocks of 2 tokens.
    sim->context_tokens = sim_between(sim, 24, SIM_CONTEXT_MAX);
    draw_faults(sim);
    if (!create_core(sim))
        return;
    for (uint32_t i = 0; i < sim->n_models; i++) {
        draw_model(sim, &sim->model[i]);
        struct core_in in = {.type = CORE_IN_MODEL_ADD};
        in.model_add.index = i;
        in.model_add.model = &sim->model[i];
        sim_step(sim, &in);
    }
    draw_groups(sim);
    for (uint32_t i = 0; i < sim->n_jobs; i++) {
        sim->job[i].number = i;
        sim_client_make(sim, &sim->job[i]);
        sim_post(sim, sim_below(sim, 30000), SIM_EVENT_LOOK, i, 0, NULL, 0);
    }
    sim_post(sim, CALM_AT_US, SIM_EVENT_CALM, 0, 0, NULL, 0);
}

// ---- running ------------------------------------------------------------------------------------

static void tokenized(struct sim *sim, struct sim_job *job, uint64_t handle)
{
    struct core_in in = {.type = CORE_IN_TOKENIZED};
    in.tokenized =
        (struct core_in_tokenized){.request = handle, .ids = job->prompt, .n_ids = job->n_prompt};
    if (job->tokenize_fails)
        in.tokenized.sentence = "it cannot be tokenized";
    sim_step(sim, &in);
}

static bool answers(const struct sim_event *e, uint64_t step)
{
    const struct answer_header *h = e->data;
    return h->epoch == SIM_EPOCH && h->step_id == step;
}

static void answer(struct sim *sim, struct sim_worker *w, const struct sim_event *e)
{
    if (!w->known || (uint32_t)e->b != w->boot)
        return; // the connection is gone
    w->hostile_now = e->b >> 32 != 0;
    if (!w->hostile_now && w->n_flights > 0 && answers(e, w->flight[0].step))
        sim_worker_answered(sim, w, w->flight[0].step);
    struct core_in in = {.type = CORE_IN_ANSWER};
    in.answer.group = w->group;
    in.answer.data = e->data;
    in.answer.n = e->bytes;
    sim_step(sim, &in);
    SIM_EXPECT(
        sim, !w->hostile_now, "a false answer of kind %u goes through", (unsigned)(e->b >> 32) - 1);
}

static void gone(struct sim *sim, struct sim_worker *w, uint64_t boot)
{
    if (!w->known || boot != w->boot)
        return;
    sim_watch_death(sim, w, true);
    struct core_in in = {.type = CORE_IN_GROUP_GONE};
    in.group.group = w->group;
    in.group.model = w->model;
    sim_step(sim, &in);
}

static void peer_gone(struct sim *sim, struct sim_job *job, uint64_t peer)
{
    if (job->core_peer == peer && job->gone_us == 0)
        job->gone_us = sim->core_now_us;
    struct core_in in = {.type = CORE_IN_PEER_GONE, .peer = peer};
    sim_step(sim, &in);
}

static void become_calm(struct sim *sim)
{
    sim->calm = true;
    if (!sim_chance(sim, 200))
        return;
    struct core_in in = {.type = CORE_IN_DRAIN};
    sim->draining = true;
    sim_step(sim, &in);
}

static void handle(struct sim *sim, struct sim_event *e)
{
    struct sim_worker *w = &sim->worker[e->a < SIM_GROUPS_MAX ? e->a : 0];
    struct core_in tick = {.type = CORE_IN_TICK};
    switch (e->type) {
    case SIM_EVENT_LOOK:
        sim_client_look(sim, &sim->job[e->a]);
        break;
    case SIM_EVENT_TO_CORE:
        sim_client_deliver(sim, &sim->job[e->a], e->data, e->b != 0);
        break;
    case SIM_EVENT_TO_CLIENT:
        sim_client_receive(sim, e->data);
        break;
    case SIM_EVENT_TOKENIZED:
        tokenized(sim, &sim->job[e->a], e->b);
        break;
    case SIM_EVENT_PLAN:
        if (w->alive && e->b == w->boot)
            sim_worker_plan(sim, w, e->data, e->bytes);
        break;
    case SIM_EVENT_ANSWER:
        answer(sim, w, e);
        break;
    case SIM_EVENT_GONE:
        gone(sim, w, e->b);
        break;
    case SIM_EVENT_START:
        sim_worker_start(sim, w);
        break;
    case SIM_EVENT_PEER_GONE:
        peer_gone(sim, &sim->job[e->a], e->b);
        break;
    case SIM_EVENT_TICK:
        sim_step(sim, &tick);
        break;
    case SIM_EVENT_CALM:
        become_calm(sim);
        break;
    }
}

static bool over(const struct sim *sim)
{
    for (uint32_t i = 0; i < sim->n_jobs; i++)
        if (!sim->job[i].done)
            return false;
    for (uint32_t i = 0; i < sim->n_groups; i++)
        if (sim->worker[i].n_flights > 0)
            return false;
    struct core_counters counters;
    core_counters(sim->core, &counters);
    return sim->calm && counters.live == 0 && counters.kept == 0;
}

static void advance(struct sim *sim)
{
    uint64_t due = core_next_deadline(sim->core);
    if (sim->n_events == 0 || due < sim->event[0]->at_us)
        sim_post(sim, due > sim->now_us ? due : sim->now_us, SIM_EVENT_TICK, 0, 0, NULL, 0);
    struct sim_event *e = next_event(sim);
    if (e->at_us > sim->now_us)
        sim->now_us = e->at_us;
    handle(sim, e);
    free(e->data);
    free(e);
}

static void tear_down(struct sim *sim)
{
    while (sim->n_events) {
        struct sim_event *e = next_event(sim);
        free(e->data);
        free(e);
    }
    for (uint32_t i = 0; i < SIM_GROUPS_MAX; i++)
        free(sim->worker[i].last_answer);
    free(sim->event);
    core_destroy(sim->core);
    free(sim);
}

bool sim_run(uint64_t seed, char *why, size_t n, uint64_t *digest)
{
    struct sim *sim = calloc(1, sizeof *sim);
    sim->seed = sim_mix(seed, 1);
    set_up(sim);
    while (!sim->failed && !over(sim)) {
        advance(sim);
        SIM_EXPECT(sim, sim->now_us < END_AT_US && sim->n_steps < STEPS_MAX,
            "it does not end (%llu steps)", (unsigned long long)sim->n_steps);
    }
    if (!sim->failed)
        sim_watch_end(sim);
    bool ok = !sim->failed;
    snprintf(why, n, "%s", sim->why);
    if (digest)
        *digest = core_hash(sim->core);
    tear_down(sim);
    return ok;
}
