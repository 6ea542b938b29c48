// SPDX-License-Identifier: Apache-2.0
// Model copies come and go. A new one starts with empty KV memory and step 1; when one goes, its
// sequences wait again with all they have emitted, and those in flight are suspected.
#include "coordinator/sched.h"
#include "coordinator/sched_queue.h"

#include "base/check.h"

#include <string.h>

// ---- coming -------------------------------------------------------------------------------------

static enum status check_limits(
    const struct core *core, const struct core_in_group *in, struct error *err)
{
    const struct plan_limits *l = &in->limits;
    const struct core_model *model = &core->model[in->model].config;
    uint32_t b = l->block_tokens;
    if (l->n_slots < 1 || l->n_slots > LIMIT_SLOTS || l->step_tokens < 1 ||
        l->step_tokens > LIMIT_STEP_TOKENS || l->context_tokens < 1 ||
        l->context_tokens > LIMIT_CONTEXT_TOKENS || l->n_kv_groups < 1 ||
        l->n_kv_groups > LIMIT_KV_GROUPS || b < 1 || b > LIMIT_BLOCK_TOKENS || (b & (b - 1)) != 0)
        return status_fail(err, STATUS_INVALID,
            "registration of copy %u: %u slots, %u rows, context %u, %u KV groups, blocks of %u: "
            "one is out of range",
            in->copy, l->n_slots, l->step_tokens, l->context_tokens, l->n_kv_groups, b);
    for (uint32_t k = 0; k < l->n_kv_groups; k++)
        if (l->n_blocks[k] < 1 || l->n_blocks[k] > LIMIT_BLOCKS)
            return status_fail(err, STATUS_INVALID,
                "registration of copy %u: KV group %u has %u blocks, expected 1 to %d", in->copy, k,
                l->n_blocks[k], LIMIT_BLOCKS);
    if (l->vocab_size != model->vocab_size)
        return status_fail(err, STATUS_MISMATCH,
            "registration of copy %u: its vocabulary has %u ids, the model's has %u", in->copy,
            l->vocab_size, model->vocab_size);
    return STATUS_OK;
}

// Hands out the group's memory from its beginning; `used` counts even where it is full.
struct carver {
    uint8_t *memory;
    size_t bytes, used;
};

static void *carve(struct carver *c, size_t count, size_t size)
{
    size_t bytes = (count * size + 15) & ~(size_t)15;
    size_t at = c->used;
    c->used += bytes;
    return c->used <= c->bytes ? c->memory + at : NULL;
}

// The arrays of a group; NULL pointers where memory is short.
static void carve_arrays(struct core_group *g, struct carver *c, void *kv_memory[LIMIT_KV_GROUPS])
{
    const struct plan_limits *l = &g->limits;
    g->slot = carve(c, l->n_slots, sizeof *g->slot);
    g->free_slots = carve(c, l->n_slots, 4);
    g->release = carve(c, l->n_slots, sizeof *g->release);
    g->pick = carve(c, l->n_slots, sizeof *g->pick);
    for (uint32_t i = 0; i < LIMIT_PLANS_IN_FLIGHT; i++)
        g->flight[i].row = carve(c, l->n_slots, sizeof *g->flight[i].row);
    for (uint32_t k = 0; k < l->n_kv_groups; k++) {
        g->block[k] = carve(c, (size_t)l->n_slots * g->stride, 4);
        kv_memory[k] = carve(c, kv_blocks_bytes(l->n_blocks[k], l->block_tokens), 1);
    }
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

// The longest sequence that the group can hold.
static uint32_t context_of(const struct core_model *model, const struct core_group *g)
{
    uint32_t context = min_u32(model->context_tokens, g->limits.context_tokens);
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        uint64_t tokens = (uint64_t)g->limits.n_blocks[k] * g->limits.block_tokens;
        if (g->window[k] == 0 && tokens < context)
            context = (uint32_t)tokens;
    }
    return context;
}

// Lays the tables out; returns the bytes that they need.
static size_t lay_out(
    const struct core_model *model, struct core_group *g, void *kv_memory[LIMIT_KV_GROUPS])
{
    struct carver c = {.memory = g->memory, .bytes = g->memory_bytes};
    g->context_tokens = context_of(model, g);
    g->stride = g->context_tokens / g->limits.block_tokens + 1;
    carve_arrays(g, &c, kv_memory);
    return c.used;
}

// A copy may offer more blocks than there is room to keep books of: the last ones then stay unused.
// One sequence of full length keeps its place.
static bool drop_blocks(struct core_group *g)
{
    uint32_t least = g->context_tokens / g->limits.block_tokens + 1;
    bool dropped = false;
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        uint32_t fewer = g->limits.n_blocks[k] - (g->limits.n_blocks[k] + 15) / 16;
        if (fewer < least)
            continue;
        g->limits.n_blocks[k] = fewer;
        dropped = true;
    }
    return dropped;
}

static enum status set_up(struct core *core, struct core_group *g, struct error *err)
{
    const struct core_model *model = &core->model[g->model].config;
    const struct plan_limits *l = &g->limits;
    void *kv_memory[LIMIT_KV_GROUPS];
    size_t bytes = lay_out(model, g, kv_memory);
    while (bytes > g->memory_bytes && drop_blocks(g))
        bytes = lay_out(model, g, kv_memory);
    if (bytes > g->memory_bytes)
        return status_fail(err, STATUS_TOO_LARGE,
            "the tables of %u sequences of %u tokens need %zu bytes, expected at most %zu: fewer "
            "sequences (--max-num-seqs), a shorter context (--max-model-len) or larger blocks",
            l->n_slots, g->context_tokens, bytes, g->memory_bytes);
    g->budget = l->step_tokens;
    if (model->max_num_batched_tokens)
        g->budget = min_u32(g->budget, model->max_num_batched_tokens);
    g->max_seqs = l->n_slots;
    if (model->max_num_seqs)
        g->max_seqs = min_u32(g->max_seqs, model->max_num_seqs);
    if (model->plans_in_flight)
        g->plans_max = model->plans_in_flight;
    for (uint32_t k = 0; k < l->n_kv_groups; k++)
        kv_blocks_init(&g->kv[k], l->n_blocks[k], l->block_tokens, kv_memory[k]);
    memset(g->slot, 0, l->n_slots * sizeof *g->slot);
    for (uint32_t i = 0; i < l->n_slots; i++)
        g->free_slots[i] = l->n_slots - 1 - i;
    g->n_free_slots = l->n_slots;
    g->run_first = g->run_last = NONE;
    g->next_step = 1;
    return STATUS_OK;
}

static void emit_bad(struct core *core, uint32_t group, const struct error *err)
{
    struct core_out out = {.type = CORE_OUT_GROUP_BAD,
        .group_bad = {.group = group, .status = err->status, .sentence = err->text}};
    core->config.emit(core->config.user, &out);
}

void core_group_ready(struct core *core, const struct core_in_group *in)
{
    if (in->group >= core->config.groups_max || in->model >= core->config.models_max ||
        !core->model[in->model].added)
        return;
    struct core_group *g = &core->group[in->group];
    if (g->ready)
        core_group_gone(core, in->group, true);
    uint8_t *memory = g->memory;
    size_t memory_bytes = g->memory_bytes;
    *g = (struct core_group){.model = in->model,
        .copy = in->copy,
        .limits = in->limits,
        .plans_max = in->plans_in_flight == 2 ? 2 : 1,
        .memory = memory,
        .memory_bytes = memory_bytes};
    memcpy(g->boot_id, in->boot_id, sizeof g->boot_id);
    memcpy(g->window, in->window, sizeof g->window);
    struct error err = {0};
    if (check_limits(core, in, &err) != STATUS_OK || set_up(core, g, &err) != STATUS_OK) {
        emit_bad(core, in->group, &err);
        return;
    }
    struct core_model_state *m = &core->model[in->model];
    g->ready = true;
    m->n_groups++;
    m->failed = false;
    m->dirty = true;
}

// ---- going --------------------------------------------------------------------------------------

static bool is_suspected(const struct core *core, const struct core_request *r)
{
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next)
        if (core->sample[i].suspect)
            return true;
    return false;
}

// Suspects all samples of the request: each must compute all rows up to `until` alone, one sample
// at a time. A death of a plan that was sent before the request was suspected says nothing new:
// whoever is to blame may have been in both plans. Those that run elsewhere wait, too, for a place
// that one of them holds while it is not its turn may be the one that the other needs; only one
// that is tried already goes on.
static void suspect(struct core *core, struct core_request *r, uint32_t until, bool alone)
{
    r->died_alone = r->died_alone || alone || (MUTANT(NEIGHBOUR_BLAMED) && is_suspected(core, r));
    r->suspicions += alone || !is_suspected(core, r);
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next) {
        struct core_sample *s = &core->sample[i];
        bool waits = s->state == SAMPLE_WAITING;
        if (s->state == SAMPLE_FINISHED)
            continue;
        if (waits)
            sched_queue_remove(core, s);
        bool ran = s->state == SAMPLE_RUNNING && !s->suspect && !MUTANT(SUSPECTS_KEEP_PLACES);
        if (ran)
            sched_slots_detach(core, s);
        core->n_suspects += !s->suspect;
        s->suspect = true;
        if (s->suspect_until < until)
            s->suspect_until = until;
        if (waits || ran)
            sched_queue_put(core, s);
    }
}

// Whatever had rows in flight is suspected, even if it was preempted meanwhile; where it has ended
// meanwhile, the other samples of its request are, for they may compute the same rows.
static void suspect_slot(struct core *core, const struct core_slot *slot, bool alone)
{
    if (slot->sample != NONE) {
        suspect(core, core_request_of(core, &core->sample[slot->sample]), slot->n_planned, alone);
        return;
    }
    struct core_request *r = core_table_by_handle(core, slot->former_request);
    struct core_sample *s = &core->sample[slot->former];
    if (!r || r->n_live == 0)
        return;
    s->attempt += s->state == SAMPLE_WAITING;
    suspect(core, r, slot->n_planned, alone);
}

// Who is surely, or far too often, the cause of a death is not tried again.
static void quarantine(struct core *core, struct core_request *r)
{
    if (r->n_live == 0 || !(r->died_alone || r->suspicions >= CORE_SUSPICIONS_MAX))
        return;
    struct core_end end = {.reason = CORE_ERROR,
        .status = STATUS_DEVICE_FAILED,
        .sentence = "workers died repeatedly while they computed this request"};
    core->counters.quarantined++;
    core_finish_request(core, r, &end);
}

void core_group_gone(struct core *core, uint32_t group, bool crashed)
{
    if (group >= core->config.groups_max || !core->group[group].ready)
        return;
    struct core_group *g = &core->group[group];
    struct core_model_state *m = &core->model[g->model];
    g->ready = false;
    m->n_groups--;
    m->dirty = true;
    core->counters.group_deaths++;
    m->n_deaths++;
    bool alone = g->n_flights > 0 && g->flight[g->flight_first].alone;
    for (uint32_t i = g->run_first; i != NONE; i = g->slot[i].run_next) {
        struct core_sample *s = core_slot_sample(core, &g->slot[i]);
        s->group = s->slot = NONE;
        s->attempt += !MUTANT(ATTEMPT_REUSED);
        sched_queue_put(core, s);
    }
    for (uint32_t i = 0; i < g->limits.n_slots && crashed; i++)
        if (g->slot[i].used && g->slot[i].in_flight > 0)
            suspect_slot(core, &g->slot[i], alone);
    for (uint32_t i = 0; i < core->requests_touched; i++)
        if (core->request[i].state == REQUEST_LIVE)
            quarantine(core, &core->request[i]);
}

void core_group_bad(struct core *core, uint32_t group, const struct error *err)
{
    core->counters.bad_answers++;
    emit_bad(core, group, err);
    core_group_gone(core, group, true);
}
