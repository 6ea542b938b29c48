// SPDX-License-Identifier: Apache-2.0
// Sequences and the prefix index. All KV groups of a model copy have blocks of one size, so one
// chain of keys serves them; a prefix of L blocks is usable when each group has the blocks that
// rows from L on attend to: all of them, or those inside its window.
#include "coordinator/sched.h"

#include "coordinator/prefix.h"

static uint32_t *table_of(const struct core_group *g, const struct core_slot *slot, uint32_t k)
{
    return g->block[k] + (size_t)(slot - g->slot) * g->stride;
}

struct search {
    uint32_t run[LIMIT_KV_GROUPS]; // blocks found in a row up to here
    uint32_t best;
    struct hash128 chain; // key of the best prefix
};

// True while a longer prefix may still be found.
static bool look(const struct core_group *g, const struct core_slot *slot, struct search *search,
    uint32_t i, struct hash128 key, struct hash128 parent, const uint32_t *ids)
{
    bool usable = true, goes_on = true;
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        uint32_t b = prefix_find(&g->kv[k], key, parent, ids);
        table_of(g, slot, k)[i] = b;
        search->run[k] = b == KV_BLOCKS_NONE ? 0 : search->run[k] + 1;
        uint32_t begin = sched_slots_window_begin(g, k, (i + 1) * g->limits.block_tokens);
        usable = usable && search->run[k] >= i + 1 - begin;
        goes_on = goes_on && (g->window[k] != 0 || b != KV_BLOCKS_NONE);
    }
    if (usable) {
        search->best = i + 1;
        search->chain = key;
    }
    return goes_on;
}

void sched_prefix_attach(struct core *core, struct core_group *g, struct core_slot *slot)
{
    const struct core_sample *s = core_slot_sample(core, slot);
    const struct core_request *r = &core->request[s->request];
    uint32_t block_tokens = g->limits.block_tokens;
    slot->chain = r->root;
    bool scores = r->prompt_logprobs >= 0 && s->index == 0 && !MUTANT(SCORES_FROM_CACHE);
    // A suspect proves itself only by rows that are computed.
    if (core->model[g->model].config.no_prefix_cache || scores || s->suspect)
        return;
    uint32_t n = (core_known(core, s) - !MUTANT(LAST_ROW_FROM_CACHE)) / block_tokens;
    struct search search = {.chain = r->root};
    struct hash128 key = r->root;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t *ids = core->ids + (size_t)i * block_tokens;
        struct hash128 parent = key;
        key = prefix_next(core->config.key, parent, ids, block_tokens);
        if (!look(g, slot, &search, i, key, parent, ids))
            break;
    }
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        struct core_table *t = &slot->table[k];
        t->end = search.best;
        t->first = sched_slots_window_begin(g, k, search.best * block_tokens);
        for (uint32_t e = t->first; e < t->end; e++)
            kv_blocks_share(&g->kv[k], table_of(g, slot, k)[e]);
    }
    slot->n_done = slot->n_planned = search.best * block_tokens;
    slot->n_hashed = search.best;
    slot->chain = search.chain;
}

void sched_prefix_enter(struct core *core, struct core_group *g, struct core_slot *slot)
{
    if (core->model[g->model].config.no_prefix_cache)
        return;
    uint32_t block_tokens = g->limits.block_tokens;
    uint32_t done = MUTANT(UNFILLED_BLOCK_CACHED) ? slot->n_done + 1 : slot->n_done;
    while ((slot->n_hashed + 1) * block_tokens <= done) {
        uint32_t i = slot->n_hashed++;
        uint32_t ids[LIMIT_BLOCK_TOKENS];
        sched_plan_ids(core, core_slot_sample(core, slot), i * block_tokens, block_tokens, ids);
        struct hash128 parent = slot->chain;
        slot->chain = prefix_next(core->config.key, parent, ids, block_tokens);
        for (uint32_t k = 0; k < g->limits.n_kv_groups; k++)
            if (i >= slot->table[k].first && i < slot->table[k].end)
                prefix_put(&g->kv[k], table_of(g, slot, k)[i], slot->chain, parent, ids);
    }
}
