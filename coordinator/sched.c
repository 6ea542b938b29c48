// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sched.h"

#include "base/check.h"
#include "coordinator/sched_queue.h"

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

// A plan under construction.
struct step {
    struct core *core;
    struct core_group *g;
    const struct core_model *config;
    uint32_t budget; // rows left
    size_t bytes;    // of the plan, at most
    bool preempted;
};

// Rows that could be computed now. A row beyond the known ids takes what plans in flight sample;
// none is planned whose token could not be used.
static uint32_t rows_wanted(const struct step *step, const struct core_slot *slot)
{
    const struct core_sample *s = core_slot_sample(step->core, slot);
    const struct core_request *r = &step->core->request[s->request];
    uint32_t known = core_known(step->core, s);
    uint32_t total = known + slot->n_sampling;
    if (slot->n_planned >= known &&
        (s->log.count + slot->n_sampling >= r->max_tokens || total >= step->g->context_tokens))
        return 0;
    return total - slot->n_planned;
}

static uint32_t rows_limit(const struct step *step, uint32_t n)
{
    n = min_u32(n, step->budget + MUTANT(BUDGET_EXCEEDED));
    if (step->config->long_prefill_tokens && !MUTANT(LONG_PROMPT_NOT_CUT))
        n = min_u32(n, step->config->long_prefill_tokens);
    return n;
}

static void pick(struct step *step, struct core_slot *slot, uint32_t n)
{
    sched_slots_grow(step->g, slot, slot->n_planned + n);
    slot->pick = step->g->n_picks;
    step->g->pick[step->g->n_picks++] =
        (struct core_row){.slot = (uint32_t)(slot - step->g->slot), .n_tokens = n};
    step->budget -= n;
}

static void preempt(struct step *step, struct core_sample *s)
{
    struct core_slot *slot = &step->g->slot[s->slot];
    if (slot->pick != NONE) {
        struct core_row *row = &step->g->pick[slot->pick];
        step->budget += row->n_tokens;
        row->n_tokens = 0;
        slot->pick = NONE;
    }
    sched_slots_detach(step->core, s);
    if (!MUTANT(PREEMPTED_IS_LOST))
        sched_queue_put(step->core, s);
    step->preempted = true;
    step->core->counters.preempted++;
    step->core->model[step->g->model].n_preempted++;
}

// The least important running sample: lowest priority, then latest arrival.
static struct core_sample *worst_running(const struct step *step)
{
    struct core_sample *worst = NULL;
    for (uint32_t i = step->g->run_first; i != NONE; i = step->g->slot[i].run_next) {
        struct core_sample *s = core_slot_sample(step->core, &step->g->slot[i]);
        if (!worst) {
            worst = s;
            continue;
        }
        int32_t p = core_request_of(step->core, s)->priority;
        int32_t q = core_request_of(step->core, worst)->priority;
        if (p != q ? p > q : s->arrival > worst->arrival && !MUTANT(OLDEST_PREEMPTED))
            worst = s;
    }
    return worst;
}

// A sequence that has the whole KV memory and needs more of it.
static void end_too_large(struct step *step, struct core_sample *s)
{
    struct core_end end = {.reason = CORE_LENGTH};
    if (s->log.count == 0)
        end = (struct core_end){.reason = CORE_ERROR,
            .status = STATUS_TOO_LARGE,
            .sentence = "the prompt does not fit into the KV memory of the model's copy"};
    core_finish_sample(step->core, s, &end);
}

// Picks rows of a running sequence, making room if need be.
static void continue_running(struct step *step, struct core_slot *slot)
{
    struct core_sample *s = core_slot_sample(step->core, slot);
    uint32_t n = rows_limit(step, rows_wanted(step, slot));
    while (n > 0) {
        uint32_t fit = sched_slots_rows_fit(step->core, step->g, slot, n);
        if (fit > 0) {
            pick(step, slot, fit);
            return;
        }
        if (step->g->n_orphans > 0)
            return; // blocks come back with the next answer
        struct core_sample *victim = worst_running(step);
        if (victim == s && step->g->n_running == 1) {
            if (slot->in_flight == 0)
                end_too_large(step, s);
            return;
        }
        preempt(step, victim);
        if (victim == s)
            return;
    }
}

// Whether the group could admit the sample now, judged roughly.
static bool could_take(const struct step *step, const struct core_group *g, uint32_t rows)
{
    if (!g->ready || g->n_running >= g->max_seqs || g->n_free_slots == 0)
        return false;
    uint32_t blocks = min_u32(rows, g->budget) / g->limits.block_tokens + 1;
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++)
        if (g->kv[k].n_free - g->kv[k].n_reserved < blocks)
            return false;
    return rows < g->context_tokens && step->core->model[g->model].added;
}

// Samples of one request go where their first one runs, others to the copy with the least load.
static bool better_elsewhere(const struct step *step, const struct core_sample *s)
{
    struct core *core = step->core;
    if (core->model[step->g->model].n_groups < 2)
        return false;
    uint32_t rows = core_known(core, s);
    const struct core_sample *first = &core->sample[core->request[s->request].first_sample];
    if (first != s && first->state == SAMPLE_RUNNING && first->group != NONE) {
        const struct core_group *home = &core->group[first->group];
        if (home == step->g)
            return false;
        if (could_take(step, home, rows))
            return true;
    }
    for (uint32_t i = 0; i < core->config.groups_max; i++) {
        const struct core_group *g = &core->group[i];
        if (g->ready && g->model == step->g->model && g->n_running < step->g->n_running &&
            could_take(step, g, rows))
            return true;
    }
    return false;
}

static bool known_to_be_blocked(const struct step *step, const struct core_sample *s)
{
    const struct core_group *g = step->g;
    if (s->blocked_group != (uint32_t)(g - step->core->group))
        return false;
    for (uint32_t k = 0; k < g->limits.n_kv_groups; k++)
        if (g->kv[k].n_free - g->kv[k].n_reserved > s->blocked_available[k])
            return false;
    return g->n_running > 0;
}

static void remember_blocked(const struct step *step, struct core_sample *s)
{
    s->blocked_group = (uint32_t)(step->g - step->core->group);
    for (uint32_t k = 0; k < step->g->limits.n_kv_groups; k++)
        s->blocked_available[k] = step->g->kv[k].n_free - step->g->kv[k].n_reserved;
}

// Rows that the sequence needs until its end; the last token's row is never computed.
static uint32_t rows_until_end(const struct step *step, const struct core_sample *s)
{
    const struct core_request *r = &step->core->request[s->request];
    if (r->max_tokens == 0)
        return r->prompt.count;
    return min_u32(r->prompt.count + r->max_tokens - 1, step->g->context_tokens);
}

// Ends samples that this group, and thus its model, can never run.
static bool end_impossible(struct step *step, struct core_sample *s)
{
    uint32_t known = core_known(step->core, s);
    bool fits =
        known < step->g->context_tokens ||
        (known == step->g->context_tokens && step->core->request[s->request].max_tokens == 0);
    if (!fits)
        end_too_large(step, s);
    return !fits;
}

// Gives a waiting sample a slot and picks its first rows; false if it does not fit now.
static bool admit(struct step *step, struct core_sample *s)
{
    struct core *core = step->core;
    struct core_group *g = step->g;
    size_t bytes = sched_plan_first_bytes(core, g, s);
    if (known_to_be_blocked(step, s) || (g->n_picks > 0 && step->bytes + bytes > LIMIT_PLAN_BYTES))
        return false;
    uint32_t known = core_known(core, s);
    sched_plan_ids(core, s, 0, known, core->ids);
    struct core_slot *slot = sched_slots_take(core, (uint32_t)(g - core->group), s);
    sched_prefix_attach(core, g, slot);
    uint32_t n = rows_limit(step, known - slot->n_planned);
    bool fits =
        !step->config->guaranteed_no_evict || sched_slots_promise(g, slot, rows_until_end(step, s));
    uint32_t fit = fits ? sched_slots_rows_fit(core, g, slot, n) : 0;
    if (fit == 0 || (fit < n && g->n_running > 1)) {
        sched_slots_undo(core, s);
        remember_blocked(step, s);
        return false;
    }
    uint32_t slot_index = s->slot;
    s->state = SAMPLE_WAITING; // as its queue knows it
    sched_queue_remove(core, s);
    s->state = SAMPLE_RUNNING;
    s->blocked_group = NONE;
    core->counters.prefix_queried_tokens += known;
    core->counters.prefix_hit_tokens += slot->n_done;
    step->bytes += bytes;
    pick(step, &g->slot[slot_index], fit);
    return true;
}

static bool has_room(const struct step *step)
{
    return step->budget > 0 &&
           step->g->n_running < step->g->max_seqs + MUTANT(TOO_MANY_SEQUENCES) &&
           step->g->n_free_slots > 0;
}

static struct step step_begin(struct core *core, struct core_group *g)
{
    g->n_picks = 0;
    return (struct step){.core = core,
        .g = g,
        .config = &core->model[g->model].config,
        .budget = g->budget,
        .bytes = sched_plan_base_bytes(g)};
}

// Sends the plan if anything is left in it.
static bool step_end(struct step *step, bool alone)
{
    bool any = false;
    for (uint32_t i = 0; i < step->g->n_picks; i++)
        any = any || step->g->pick[i].n_tokens > 0;
    if (any)
        sched_plan_send(step->core, step->g, alone);
    return any;
}

static bool plan_all(struct core *core, struct core_group *g)
{
    struct step step = step_begin(core, g);
    uint32_t next;
    for (uint32_t i = g->run_first; i != NONE && step.budget > 0; i = next) {
        if (!core_slot_sample(core, &g->slot[i])->suspect || MUTANT(SUSPECTS_RUN_WITH_OTHERS))
            continue_running(&step, &g->slot[i]);
        next = g->slot[i].run_next;
    }
    while (has_room(&step) && (!step.preempted || MUTANT(ADMITS_AFTER_PREEMPTING))) {
        struct core_sample *s = sched_queue_peek(core, g->model);
        if (!s)
            break;
        if (end_impossible(&step, s))
            continue;
        if (better_elsewhere(&step, s) || !admit(&step, s))
            break;
    }
    return step_end(&step, false);
}

// Samples of one request are tried one after the other: the one that has a slot, or the first.
static bool has_its_turn(const struct core *core, const struct core_sample *s)
{
    const struct core_sample *turn = NULL;
    for (uint32_t i = core->request[s->request].first_sample; i != NONE; i = core->sample[i].next) {
        const struct core_sample *other = &core->sample[i];
        if (other->suspect && (!turn || other->state == SAMPLE_RUNNING))
            turn = other;
    }
    return turn == s || MUTANT(SUSPECTS_TRIED_AT_ONCE);
}

// A plan for one suspect: if the group dies again, it is the only one to blame.
static bool plan_suspect(struct core *core, struct core_group *g)
{
    struct step step = step_begin(core, g);
    for (uint32_t i = g->run_first; i != NONE; i = g->slot[i].run_next) {
        const struct core_sample *running = core_slot_sample(core, &g->slot[i]);
        if (!running->suspect)
            continue;
        continue_running(&step, &g->slot[i]);
        return step_end(&step, true);
    }
    struct core_sample *s = sched_queue_peek_suspect(core, g->model);
    if (s && has_its_turn(core, s) && has_room(&step) && !end_impossible(&step, s))
        admit(&step, s);
    return step_end(&step, true);
}

static bool has_suspect(struct core *core, const struct core_group *g)
{
    if (core->n_suspects == 0 || MUTANT(SUSPECTS_RUN_WITH_OTHERS))
        return false;
    if (core->model[g->model].suspects != NONE)
        return true;
    for (uint32_t i = g->run_first; i != NONE; i = g->slot[i].run_next)
        if (core_slot_sample(core, &g->slot[i])->suspect)
            return true;
    return false;
}

// Suspects and the others take turns; a suspect's plan is in flight alone.
static bool plan_next(struct core *core, struct core_group *g)
{
    if (g->n_flights > 0 && g->flight[g->flight_first].alone)
        return false;
    bool suspect = has_suspect(core, g);
    if (suspect && !g->was_alone) {
        if (g->n_flights > 0)
            return false;
        g->was_alone = plan_suspect(core, g);
        if (g->was_alone)
            return true;
    }
    if (plan_all(core, g)) {
        g->was_alone = false;
        return true;
    }
    if (suspect && g->was_alone && g->n_flights == 0)
        return plan_suspect(core, g);
    return false;
}

void sched_run(struct core *core)
{
    for (uint32_t m = 0; m < core->config.models_max; m++) {
        struct core_model_state *model = &core->model[m];
        // Planning may itself change what can run; a few rounds settle it.
        for (int round = 0; round < 4 && model->dirty; round++) {
            model->dirty = false;
            for (uint32_t i = 0; i < core->config.groups_max; i++) {
                struct core_group *g = &core->group[i];
                uint32_t plans_max = MUTANT(DEPTH_IGNORED) ? LIMIT_PLANS_IN_FLIGHT : g->plans_max;
                while (g->ready && g->model == m && g->n_flights < plans_max && plan_next(core, g))
                    ;
            }
        }
    }
}
