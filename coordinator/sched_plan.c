// SPDX-License-Identifier: Apache-2.0
// Turns what was picked into a step plan and remembers it until it is answered.
#include "coordinator/sched.h"

#include "base/check.h"

void sched_plan_ids(
    const struct core *core, const struct core_sample *s, uint32_t begin, uint32_t n, uint32_t *out)
{
    const struct core_log *prompt = &core->request[s->request].prompt;
    if (begin < prompt->count) {
        uint32_t run = prompt->count - begin < n ? prompt->count - begin : n;
        core_log_copy(&core->pages, prompt, begin, run, out);
        begin += run;
        out += run;
        n -= run;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct core_record *record =
            core_log_at(&core->pages, &s->log, begin - prompt->count + i);
        out[i] = record->id;
    }
}

size_t sched_plan_base_bytes(const struct core_group *g)
{
    size_t entries = g->budget / g->limits.block_tokens + 2 * (size_t)g->limits.n_slots;
    return sizeof(struct plan_header) +
           g->limits.n_slots * (sizeof(struct plan_seq) + sizeof(struct plan_release) + 16) +
           entries * 4 * LIMIT_KV_GROUPS;
}

size_t sched_plan_first_bytes(
    const struct core *core, const struct core_group *g, const struct core_sample *s)
{
    const struct core_request *r = &core->request[s->request];
    uint32_t n = core_known(core, s);
    return sizeof(struct plan_first) + (size_t)n * 4 +
           ((size_t)n / g->limits.block_tokens + 2) * 4 * LIMIT_KV_GROUPS +
           (size_t)r->stop_ids.count * 4 + r->bias.count * sizeof(struct sampling_bias) + 64;
}

// Which of the picked rows predict a prompt token whose score is still wanted.
static void choose_scores(struct core *core, const struct core_sample *s, struct core_row *row)
{
    const struct core_request *r = &core->request[s->request];
    if (r->prompt_logprobs < 0 || s->index != 0)
        return;
    uint32_t begin = row->first > r->scores.count ? row->first : r->scores.count;
    uint32_t end = row->first + row->n_tokens;
    if (end > r->prompt.count - 1)
        end = r->prompt.count - 1;
    if (end <= begin)
        return;
    row->flags |= PLAN_SEQ_SCORE;
    row->score_begin = begin;
    row->score_count = end - begin;
}

static void set_blocks(
    const struct core_group *g, struct core_slot *slot, bool first, struct plan_seq_parts *parts)
{
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++) {
        struct core_table *t = &slot->table[k];
        uint32_t *block = g->block[k] + (size_t)(slot - g->slot) * g->stride;
        if (first) {
            // What lies before the window is never read; a block of its own stands there.
            for (uint32_t e = 0; e < t->first; e++)
                block[e] = block[t->first];
            t->sent = 0;
        }
        parts->head.block_begin[k] = t->sent;
        parts->head.n_blocks[k] = t->end - t->sent;
        parts->blocks[k] = block + t->sent;
        t->sent = t->end;
    }
}

struct first_parts {
    struct sampling_params params;
    uint32_t stop_ids[SAMPLING_STOP_IDS_MAX];
    struct sampling_bias bias[SAMPLING_LOGIT_BIAS_MAX];
};

static void set_first(struct core *core, const struct core_sample *s, struct first_parts *first,
    struct plan_seq_parts *parts)
{
    const struct core_request *r = &core->request[s->request];
    parts->head.flags |= PLAN_SEQ_FIRST;
    parts->head.n_ids = MUTANT(RESUMED_FROM_PROMPT) ? r->prompt.count : core_known(core, s);
    sched_plan_ids(core, s, 0, parts->head.n_ids, core->ids);
    parts->ids = core->ids;
    parts->prompt_length = r->prompt.count;
    first->params = r->params;
    first->params.sample_index = MUTANT(SAMPLES_ALIKE) ? 0 : s->index;
    core_log_copy(&core->pages, &r->stop_ids, 0, r->stop_ids.count, first->stop_ids);
    core_log_copy(&core->pages, &r->bias, 0, r->bias.count, first->bias);
    parts->params = &first->params;
    parts->stop_ids = first->stop_ids;
    parts->bias = first->bias;
}

static void add_row(struct core *core, struct core_group *g, struct core_row *row)
{
    struct core_slot *slot = &g->slot[row->slot];
    struct core_sample *s = core_slot_sample(core, slot);
    struct core_request *r = core_request_of(core, s);
    uint32_t total = core_known(core, s) + slot->n_sampling;
    row->first = MUTANT(CHUNK_AFTER_ANSWERED) ? slot->n_done : slot->n_planned;
    row->flags = row->first + row->n_tokens == total && r->max_tokens > 0 ? PLAN_SEQ_SAMPLE : 0;
    choose_scores(core, s, row);
    struct plan_seq_parts parts = {.head = {.flags = row->flags,
                                       .slot = row->slot,
                                       .generation = slot->generation,
                                       .attempt = s->attempt,
                                       .first_position = row->first,
                                       .n_tokens = row->n_tokens,
                                       .score_begin = row->score_begin,
                                       .score_count = row->score_count}};
    if (row->score_count)
        parts.head.score_logprobs = (uint32_t)r->prompt_logprobs;
    struct first_parts first;
    if (!slot->shown)
        set_first(core, s, &first, &parts);
    set_blocks(g, slot, !slot->shown, &parts);
    plan_add_seq(&core->plan, &parts);
    slot->shown = true;
    slot->n_planned += row->n_tokens;
    slot->n_sampling += (row->flags & PLAN_SEQ_SAMPLE) != 0;
    slot->in_flight++;
    core->model[g->model].tenant[r->tenant].served += row->n_tokens;
    core->counters.rows += row->n_tokens;
}

// What must be known before the plan can be sent: who runs here for the first time.
static void begin_sample(struct core *core, struct core_group *g, const struct core_slot *slot)
{
    struct core_sample *s = core_slot_sample(core, slot);
    struct core_request *r = core_request_of(core, s);
    if (slot->shown)
        return;
    if (!s->scheduled) {
        s->scheduled = true;
        s->cached_tokens = slot->n_done;
        if (r->scheduled_us == 0)
            r->scheduled_us = core->now_us;
        core_finish_waiting(core, r);
    }
    struct core_out out = {.type = CORE_OUT_JOURNAL,
        .journal = {.type = CORE_JOURNAL_ASSIGN,
            .sample = s->index,
            .group = (uint32_t)(g - core->group),
            .attempt = s->attempt}};
    core_view_emit(core, r, &out);
}

void sched_plan_send(struct core *core, struct core_group *g, bool alone)
{
    check(g->n_flights < LIMIT_PLANS_IN_FLIGHT);
    struct core_flight *flight =
        &g->flight[(g->flight_first + g->n_flights) % LIMIT_PLANS_IN_FLIGHT];
    flight->n = 0;
    flight->alone = alone;
    flight->step_id = g->next_step++;
    plan_begin(&core->plan, core->config.epoch, flight->step_id);
    for (uint32_t i = 0; i < g->n_picks; i++) {
        if (g->pick[i].n_tokens == 0)
            continue; // preempted after it was picked
        struct core_row *row = &flight->row[flight->n++];
        *row = g->pick[i];
        begin_sample(core, g, &g->slot[row->slot]);
        add_row(core, g, row);
        g->slot[row->slot].pick = NONE;
    }
    for (uint32_t i = 0; i < g->n_releases; i++)
        plan_add_release(&core->plan, g->release[i].slot, g->release[i].generation);
    g->n_releases = 0;
    plan_end(&core->plan);
    check(!buf_failed(&core->plan));
    const struct plan_header *head = (const void *)core->plan.data;
    flight->hash = head->hash;
    g->n_flights++;
    core->counters.plans++;
    struct core_out out = {.type = CORE_OUT_PLAN,
        .model = g->model,
        .plan = {.group = (uint32_t)(g - core->group),
            .step_id = flight->step_id,
            .data = core->plan.data,
            .n = core->plan.size}};
    core->config.emit(core->config.user, &out);
}
