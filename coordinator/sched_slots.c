// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sched.h"

#include "base/check.h"

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

uint32_t sched_slots_window_begin(const struct core_group *g, uint32_t kv_group, uint32_t position)
{
    uint32_t window = g->window[kv_group];
    if (window == 0 || position + 1 <= window)
        return 0;
    if (MUTANT(WINDOW_TOO_SHORT))
        position += g->limits.block_tokens;
    return (position + 1 - window) / g->limits.block_tokens;
}

static uint32_t slot_index(const struct core_group *g, const struct core_slot *slot)
{
    return (uint32_t)(slot - g->slot);
}

static uint32_t *table_of(const struct core_group *g, const struct core_slot *slot, uint32_t k)
{
    return g->block[k] + (size_t)slot_index(g, slot) * g->stride;
}

struct core_slot *sched_slots_take(struct core *core, uint32_t group, struct core_sample *s)
{
    struct core_group *g = &core->group[group];
    check(g->n_free_slots > 0);
    uint32_t i = g->free_slots[--g->n_free_slots];
    struct core_slot *slot = &g->slot[i];
    uint32_t generation = slot->generation + !MUTANT(GENERATION_REUSED);
    *slot = (struct core_slot){.used = true,
        .generation = generation,
        .sample = core_sample_index(core, s),
        .run_next = NONE,
        .run_prev = g->run_last,
        .pick = NONE};
    if (g->run_last == NONE)
        g->run_first = i;
    else
        g->slot[g->run_last].run_next = i;
    g->run_last = i;
    g->n_running++;
    s->state = SAMPLE_RUNNING;
    s->group = group;
    s->slot = i;
    return slot;
}

static void unpromise(struct core_group *g, struct core_slot *slot)
{
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        g->kv[k].n_reserved -= slot->table[k].reserved;
        slot->table[k].reserved = 0;
    }
    slot->alone_reserve = false;
}

// Returns the blocks, the tail first, so that it is evicted before what others more likely share.
static void give_blocks(struct core_group *g, struct core_slot *slot)
{
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        struct core_table *t = &slot->table[k];
        const uint32_t *block = table_of(g, slot, k);
        for (uint32_t e = t->end; e > t->first; e--)
            if (!MUTANT(TAIL_BLOCK_LEAKS) || e != t->end)
                kv_blocks_give(&g->kv[k], block[e - 1]);
        *t = (struct core_table){0};
    }
}

void sched_slots_free(struct core_group *g, struct core_slot *slot)
{
    check(slot->sample == NONE && slot->used);
    give_blocks(g, slot);
    uint32_t i = slot_index(g, slot);
    if (slot->shown && !MUTANT(RELEASE_FORGOTTEN))
        g->release[g->n_releases++] = (struct plan_release){i, slot->generation};
    slot->used = false;
    g->free_slots[g->n_free_slots++] = i;
}

void sched_slots_detach(struct core *core, struct core_sample *s)
{
    struct core_group *g = &core->group[s->group];
    struct core_slot *slot = &g->slot[s->slot];
    if (slot->run_prev == NONE)
        g->run_first = slot->run_next;
    else
        g->slot[slot->run_prev].run_next = slot->run_next;
    if (slot->run_next == NONE)
        g->run_last = slot->run_prev;
    else
        g->slot[slot->run_next].run_prev = slot->run_prev;
    g->n_running--;
    slot->sample = NONE;
    slot->former = core_sample_index(core, s);
    slot->former_request = core_handle(core, core_request_of(core, s));
    s->group = s->slot = NONE;
    unpromise(g, slot);
    core->model[g->model].dirty = true;
    if (slot->in_flight == 0 || MUTANT(ORPHAN_FREED_EARLY))
        sched_slots_free(g, slot);
    else
        g->n_orphans++;
}

bool sched_slots_promise(struct core_group *g, struct core_slot *slot, uint32_t rows)
{
    uint32_t end = (rows + g->limits.block_tokens - 1) / g->limits.block_tokens;
    bool all = false; // it needs more than there is, so it may run only with all of it
    uint32_t wanted[LIMIT_KV_GROUPS];
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        const struct kv_blocks *kv = &g->kv[k];
        wanted[k] = end - slot->table[k].end;
        uint32_t shared = slot->table[k].end - slot->table[k].first;
        if (wanted[k] > kv->n - shared) {
            wanted[k] = kv->n - shared;
            all = true;
        }
        // The prefix that it shares may itself have been free, and promised to others.
        uint32_t promised = MUTANT(PROMISED_TWICE) ? 0 : kv->n_reserved;
        if (kv->n_free < promised || wanted[k] > kv->n_free - promised)
            return false;
    }
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        slot->table[k].reserved = wanted[k];
        g->kv[k].n_reserved += wanted[k];
    }
    slot->alone_reserve = all;
    return true;
}

void sched_slots_undo(struct core *core, struct core_sample *s)
{
    struct core_group *g = &core->group[s->group];
    bool dirty = core->model[g->model].dirty;
    g->slot[s->slot].generation--;
    sched_slots_detach(core, s);
    s->state = SAMPLE_WAITING;
    core->model[g->model].dirty = dirty; // nothing has changed
}

void sched_slots_grow(struct core_group *g, struct core_slot *slot, uint32_t rows)
{
    uint32_t end = (rows + g->limits.block_tokens - 1) / g->limits.block_tokens;
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        struct core_table *t = &slot->table[k];
        uint32_t *block = table_of(g, slot, k);
        while (t->end < end) {
            uint32_t b = kv_blocks_take(&g->kv[k]);
            check(b != KV_BLOCKS_NONE);
            block[t->end++] = b;
            if (t->reserved > 0) {
                t->reserved--;
                g->kv[k].n_reserved--;
            }
        }
    }
}

uint32_t sched_slots_rows_fit(
    const struct core *core, const struct core_group *g, const struct core_slot *slot, uint32_t n)
{
    bool promised = core->model[g->model].config.guaranteed_no_evict;
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        const struct core_table *t = &slot->table[k];
        uint32_t blocks = promised ? t->reserved : g->kv[k].n_free;
        uint64_t rows = (uint64_t)(t->end + blocks) * g->limits.block_tokens;
        if (rows < (uint64_t)slot->n_planned + n)
            n = rows <= slot->n_planned ? 0 : (uint32_t)(rows - slot->n_planned);
    }
    return n;
}

void sched_slots_trim(struct core_group *g, struct core_slot *slot)
{
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        struct core_table *t = &slot->table[k];
        uint32_t begin = min_u32(sched_slots_window_begin(g, k, slot->n_done), t->end);
        const uint32_t *block = table_of(g, slot, k);
        for (; t->first < begin; t->first++) {
            bool freed = kv_blocks_give(&g->kv[k], block[t->first]);
            // Who was promised all blocks keeps the promise when it returns some.
            if (freed && slot->alone_reserve) {
                t->reserved++;
                g->kv[k].n_reserved++;
            }
        }
    }
}
