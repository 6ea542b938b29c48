// SPDX-License-Identifier: Apache-2.0
// A fake group. It takes each plan for an enemy's, and knows for every block and offset which
// prefix was written there: a row may only attend to entries that hold its own prefix.
#include "tests/coordinator/sim.h"

#include <stdlib.h>
#include <string.h>

struct sim_job *sim_job_by_seed(struct sim *sim, uint64_t seed)
{
    for (uint32_t i = 0; i < sim->n_jobs; i++)
        if (sim->job[i].seed == seed)
            return &sim->job[i];
    return NULL;
}

// ---- starting and dying -------------------------------------------------------------------------

void sim_worker_start(struct sim *sim, struct sim_worker *w)
{
    if (w->alive)
        return;
    if (w->known) // it is back before the coordinator has heard of its end
        sim_watch_death(sim, w, true);
    w->alive = true;
    w->boot++;
    w->next_step = 1;
    w->n_flights = 0;
    w->hostile = w->hostile_now = false;
    w->killer = NULL;
    memset(w->slot, 0, sizeof w->slot);
    memset(w->owner, 0, sizeof w->owner);
    memset(w->content, 0xee, sizeof w->content);
    free(w->last_answer);
    w->last_answer = NULL;
    w->known = true;
    struct core_in in = {.type = CORE_IN_GROUP_READY};
    in.group = (struct core_in_group){.group = w->group,
        .model = w->model,
        .copy = w->group,
        .limits = w->limits,
        .plans_in_flight = w->plans_in_flight};
    memcpy(in.group.window, w->window, sizeof w->window);
    in.group.boot_id[0] = (uint8_t)w->boot;
    sim_step(sim, &in);
}

// The process ends now; the coordinator hears of it at once or after a while.
void sim_worker_die(struct sim *sim, struct sim_worker *w, bool at_once)
{
    w->alive = false;
    uint64_t heard = sim->now_us + (at_once ? 0 : sim_between(sim, 10, 3000));
    sim_post(sim, heard, SIM_EVENT_GONE, w->group, w->boot, NULL, 0);
    sim_post(sim, heard + sim_between(sim, 100, 20000), SIM_EVENT_START, w->group, 0, NULL, 0);
}

uint32_t sim_worker_plans(const struct sim *sim, const struct sim_worker *w)
{
    uint32_t given = sim->model[w->model].plans_in_flight;
    return given ? given : w->plans_in_flight == 2 ? 2 : 1;
}

void sim_worker_answered(struct sim *sim, struct sim_worker *w, uint64_t step)
{
    SIM_EXPECT(sim, w->n_flights > 0 && w->flight[0].step == step, "an answer out of order");
    memmove(&w->flight[0], &w->flight[1], sizeof w->flight[0] * (LIMIT_PLANS_IN_FLIGHT - 1));
    w->n_flights--;
}

// ---- taking a plan ------------------------------------------------------------------------------

static void take_releases(struct sim *sim, struct sim_worker *w, const struct plan_header *plan)
{
    const struct plan_release *release = plan_releases(plan);
    for (uint32_t i = 0; i < plan->n_releases; i++) {
        struct sim_slot *slot = &w->slot[release[i].slot];
        SIM_EXPECT(sim, slot->used && slot->generation == release[i].generation,
            "release of slot %u, which is not used so", release[i].slot);
        slot->used = false;
    }
}

static void take_first(struct sim *sim, struct sim_slot *slot, const struct plan_seq_view *view)
{
    const struct plan_seq *head = view->head;
    SIM_EXPECT(sim, !slot->used, "slot %u is started while it is used", head->slot);
    SIM_EXPECT(sim, head->generation > slot->generation, "slot %u: generation %u after %u",
        head->slot, head->generation, slot->generation);
    memset(slot, 0, sizeof *slot);
    slot->used = true;
    slot->generation = head->generation;
    slot->attempt = head->attempt;
    slot->job = sim_job_by_seed(sim, view->first->params.seed);
    slot->sample = view->first->params.sample_index;
    slot->n_prompt = view->first->prompt_length;
    if (!slot->job || slot->sample >= slot->job->n) {
        sim_fail(sim, "slot %u computes nobody's request", head->slot);
        return;
    }
    slot->n_ids = head->n_ids;
    memcpy(slot->ids, view->ids, head->n_ids * 4);
    slot->state[0] = sim_model_begin(slot->job);
    for (uint32_t i = 0; i < slot->n_ids; i++)
        slot->state[i + 1] = sim_model_next(slot->state[i], slot->ids[i]);
    slot->n_computed = head->first_position; // the prefix cache's promise
    slot->n_stop_ids = view->first->params.n_stop_ids;
    memcpy(slot->stop_ids, view->stop_ids, slot->n_stop_ids * 4);
    SIM_EXPECT(sim,
        slot->n_prompt == slot->job->n_prompt &&
            memcmp(slot->ids, slot->job->prompt, slot->n_prompt * 4) == 0,
        "job %u: its prompt changed on the way", slot->job->number);
}

static void take_blocks(struct sim *sim, const struct sim_worker *w, struct sim_slot *slot,
    const struct plan_seq_view *v)
{
    for (uint32_t k = 0; k < w->limits.n_kv_groups; k++) {
        SIM_EXPECT(sim, v->head->block_begin[k] == slot->n_table[k],
            "slot %u: a gap in its block table", v->head->slot);
        memcpy(&slot->table[k][v->head->block_begin[k]], v->blocks[k], v->head->n_blocks[k] * 4);
        slot->n_table[k] = v->head->block_begin[k] + v->head->n_blocks[k];
    }
}

// ---- computing ----------------------------------------------------------------------------------

static uint64_t *content_of(
    struct sim_worker *w, const struct sim_slot *slot, uint32_t k, uint32_t position)
{
    uint32_t bt = w->limits.block_tokens;
    return &w->content[k][slot->table[k][position / bt]][position % bt];
}

// One row: reads what it attends to, writes its own entry.
static void compute_row(
    struct sim *sim, struct sim_worker *w, struct sim_slot *slot, uint32_t position)
{
    for (uint32_t k = 0; k < w->limits.n_kv_groups; k++) {
        if (position / w->limits.block_tokens >= slot->n_table[k]) {
            sim_fail(sim, "job %u: row %u has no block", slot->job->number, position);
            return;
        }
        uint32_t begin = 0;
        if (w->window[k] && position + 1 > w->window[k])
            begin = position + 1 - w->window[k];
        for (uint32_t p = begin; p < position; p++)
            if (*content_of(w, slot, k, p) != slot->state[p + 1]) {
                sim_fail(sim, "job %u: row %u finds another's prefix at %u (KV group %u)",
                    slot->job->number, position, p, k);
                return;
            }
        *content_of(w, slot, k, position) = slot->state[position + 1];
    }
}

static void add_scores(struct sim_slot *slot, const struct plan_seq *head, struct buf *out)
{
    for (uint32_t i = 0; i < head->score_count; i++) {
        uint32_t row = head->score_begin + i;
        uint64_t state = slot->state[row + 1];
        struct answer_result r = {.kind = ANSWER_SCORED,
            .position = row + 1,
            .id = slot->ids[row + 1],
            .rank = 1 + row % SIM_VOCAB,
            .n_top = head->score_logprobs,
            .logprob = sim_model_logprob(state, slot->ids[row + 1])};
        struct answer_top top[LIMIT_LOGPROBS];
        for (uint32_t t = 0; t < r.n_top; t++)
            top[t] = sim_model_top(state, t);
        answer_add_result(out, &r, top);
    }
}

static void add_token(struct sim_slot *slot, uint32_t n_logprobs, struct buf *out)
{
    uint64_t state = slot->state[slot->n_ids];
    bool masked = slot->n_ids - slot->n_prompt < slot->job->min_tokens;
    uint32_t id = sim_model_sample(state, slot->job->seed, slot->sample, slot->n_ids,
        slot->stop_ids, slot->n_stop_ids, masked);
    struct answer_result r = {.kind = ANSWER_SAMPLED,
        .position = slot->n_ids,
        .id = id,
        .rank = 1 + slot->n_ids % SIM_VOCAB,
        .n_top = n_logprobs,
        .logprob = sim_model_logprob(state, id)};
    struct answer_top top[LIMIT_LOGPROBS];
    for (uint32_t t = 0; t < r.n_top; t++)
        top[t] = sim_model_top(state, t);
    answer_add_result(out, &r, top);
    slot->ids[slot->n_ids] = id;
    slot->state[slot->n_ids + 1] = sim_model_next(state, id);
    slot->n_ids++;
}

// A poisonous row. Plans that were sent before the first death was heard cannot be called back;
// after that a request may kill once more, alone.
static void kill(struct sim *sim, struct sim_worker *w, struct sim_job *job)
{
    w->killer = job;
    for (uint32_t f = 0; f < w->n_flights; f++)
        for (uint32_t i = 0; i < w->flight[f].n; i++)
            if (w->flight[f].step == w->next_step - 1 && w->flight[f].job[i] == job &&
                w->flight[f].kill_known[i]) {
                job->late_kills++;
                SIM_EXPECT(sim, w->flight[f].n == 1, "job %u kills again, and others with it",
                    job->number);
            }
    SIM_EXPECT(sim, job->late_kills <= 1, "job %u kills groups although it is known", job->number);
}

// Executes one record; false if the group dies of it.
static bool execute(
    struct sim *sim, struct sim_worker *w, const struct plan_seq_view *view, struct buf *out)
{
    const struct plan_seq *head = view->head;
    struct sim_slot *slot = &w->slot[head->slot];
    if (view->first)
        take_first(sim, slot, view);
    SIM_EXPECT(sim,
        slot->used && slot->generation == head->generation && slot->attempt == head->attempt,
        "slot %u of generation %u is not the one that is planned", head->slot, head->generation);
    SIM_EXPECT(sim, head->first_position == slot->n_computed,
        "slot %u: rows from %u, computed are %u", head->slot, head->first_position,
        slot->n_computed);
    uint32_t end = head->first_position + head->n_tokens;
    if (slot->broken) { // planned before its bad logits were known
        slot->n_computed = end;
        answer_add_seq(out, head, ANSWER_SEQ_BAD_LOGITS);
        return true;
    }
    SIM_EXPECT(sim, end <= slot->n_ids, "slot %u: rows beyond its ids", head->slot);
    if (sim->failed)
        return true;
    take_blocks(sim, w, slot, view);
    for (uint32_t p = head->first_position; p < end && !sim->failed; p++) {
        compute_row(sim, w, slot, p);
        if (slot->job->poison_at == (int)p) {
            kill(sim, w, slot->job);
            return false;
        }
    }
    slot->n_computed = end;
    int bad = slot->job->bad_logits_at;
    bool is_bad = bad >= (int)head->first_position && bad < (int)end;
    answer_add_seq(out, head, is_bad ? ANSWER_SEQ_BAD_LOGITS : ANSWER_SEQ_OK);
    slot->broken = is_bad;
    if (is_bad)
        return true;
    add_scores(slot, head, out);
    if (head->flags & PLAN_SEQ_SAMPLE) {
        SIM_EXPECT(sim, end == slot->n_ids, "slot %u samples in the middle", head->slot);
        add_token(slot, slot->job->n_logprobs, out);
    }
    return true;
}

// ---- answering ----------------------------------------------------------------------------------

enum { HOSTILE_KINDS = 8 };

static uint32_t spoil(struct sim *sim, struct buf *b, uint32_t kind)
{
    struct answer_header *h = (void *)b->data;
    struct answer_seq *seq = (void *)(h + 1);
    switch (kind) {
    case 0:
        h->step_id++;
        break;
    case 1:
        h->plan_hash ^= 1;
        break;
    case 2:
        h->epoch++;
        break;
    case 3:
        seq->generation++;
        break;
    case 4:
        seq->slot = SIM_SLOTS_MAX + 7;
        break;
    case 5:
        b->size -= 8;
        break;
    case 6: // the last byte of a size
        h->bytes += 8;
        break;
    default:
        h->n_seqs += 1 + sim_below(sim, 3);
        break;
    }
    return kind;
}

static void send_answer(struct sim *sim, struct sim_worker *w, struct buf *b)
{
    uint64_t at = sim->now_us + sim_between(sim, 50, 1500);
    if (at <= w->link_us)
        at = w->link_us + 1;
    w->link_us = at;
    if (!sim->calm && w->last_answer && sim_chance(sim, sim->faults.repeat_answer))
        sim_post(
            sim, at, SIM_EVENT_ANSWER, w->group, w->boot, w->last_answer, w->last_answer_bytes);
    if (!sim->calm && sim_chance(sim, sim->faults.repeat_answer)) {
        // What it once said to the coordinator before this one.
        struct answer_header *h = (void *)b->data;
        h->epoch--;
        sim_post(sim, at, SIM_EVENT_ANSWER, w->group, w->boot, b->data, b->size);
        h->epoch++;
    }
    free(w->last_answer);
    w->last_answer = malloc(b->size);
    memcpy(w->last_answer, b->data, b->size);
    w->last_answer_bytes = b->size;
    uint64_t kind = 0;
    if (!sim->calm && !w->hostile && sim_chance(sim, sim->faults.hostile)) {
        w->hostile = true;
        kind = 1 + spoil(sim, b, sim_below(sim, HOSTILE_KINDS));
    }
    sim_post(sim, at, SIM_EVENT_ANSWER, w->group, w->boot | kind << 32, b->data, b->size);
    if (!sim->calm && sim_chance(sim, sim->faults.repeat_answer) && !w->hostile)
        sim_post(
            sim, at + sim_below(sim, 2000), SIM_EVENT_ANSWER, w->group, w->boot, b->data, b->size);
}

void sim_worker_plan(struct sim *sim, struct sim_worker *w, const void *data, size_t n)
{
    struct error err = {0};
    if (plan_check(data, n, &w->limits, &err) != STATUS_OK) {
        sim_fail(sim, "%s", err.text);
        return;
    }
    const struct plan_header *plan = data;
    SIM_EXPECT(sim, plan->epoch == SIM_EPOCH && plan->step_id == w->next_step,
        "step %llu after %llu", (unsigned long long)plan->step_id,
        (unsigned long long)w->next_step - 1);
    SIM_EXPECT(sim, plan->n_seqs > 0, "a plan without sequences");
    w->next_step++;
    take_releases(sim, w, plan);
    struct buf b;
    buf_init(&b, 1 << 20);
    answer_begin(&b, plan);
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view view;
    bool lives = true;
    while (!sim->failed && lives && plan_next_seq(&c, &view))
        lives = execute(sim, w, &view, &b);
    answer_end(&b, 1, 2, 3, 6);
    if (!lives) {
        sim_worker_die(sim, w, false);
    } else if (!sim->failed) {
        if (!sim->calm && sim_chance(sim, sim->faults.die)) {
            sim->random_deaths++;
            sim_worker_die(sim, w, false);
        } else {
            send_answer(sim, w, &b);
        }
    }
    buf_deinit(&b);
}
