// SPDX-License-Identifier: Apache-2.0
// What a group answers to a plan. An answer is checked whole before any of it is used: that it is
// well formed, that it belongs to the oldest plan in flight, and that it says about each row
// exactly what was asked. A repeated or late one is dropped; anything else condemns the group.
#include "coordinator/sched.h"

#include <string.h>

#define BAD(err, ...) status_fail(err, STATUS_INVALID, "step answer: " __VA_ARGS__)

// The results that a row must have: scores of consecutive prompt tokens, then a sampled one.
static enum status check_results(struct core *core, const struct core_sample *s,
    const struct core_row *row, struct plan_cursor results, struct error *err)
{
    const struct core_request *r = &core->request[s->request];
    const struct answer_result *result;
    const struct answer_top *top;
    for (uint32_t i = 0; i < row->score_count; i++) {
        if (!answer_next_result(&results, &result, &top) || result->kind != ANSWER_SCORED ||
            result->position != row->score_begin + i + 1 ||
            result->n_top > (uint32_t)r->prompt_logprobs)
            return BAD(
                err, "slot %u lacks the score of position %u", row->slot, row->score_begin + i + 1);
        const uint32_t *id = core_log_at(&core->pages, &r->prompt, result->position);
        if (*id != result->id)
            return BAD(err, "slot %u scores id %u at position %u, expected %u", row->slot,
                result->id, result->position, *id);
    }
    if (row->flags & PLAN_SEQ_SAMPLE) {
        if (!answer_next_result(&results, &result, &top) || result->kind != ANSWER_SAMPLED ||
            result->position != row->first + row->n_tokens || result->n_top > r->params.n_logprobs)
            return BAD(err, "slot %u lacks the token of position %u", row->slot,
                row->first + row->n_tokens);
    }
    if (answer_next_result(&results, &result, &top))
        return BAD(err, "slot %u has more results than were asked for", row->slot);
    return STATUS_OK;
}

static enum status check_rows(struct core *core, const struct core_group *g,
    const struct core_flight *flight, const struct answer_header *h, struct error *err)
{
    if (h->n_seqs != flight->n)
        return BAD(err, "%u sequences, expected %u", h->n_seqs, flight->n);
    struct plan_cursor c = answer_seqs(h), results;
    const struct answer_seq *seq;
    for (uint32_t i = 0; i < flight->n; i++) {
        const struct core_row *row = &flight->row[i];
        const struct core_slot *slot = &g->slot[row->slot];
        answer_next_seq(&c, &seq, &results);
        if (seq->slot != row->slot || seq->generation != slot->generation)
            return BAD(err, "slot %u of generation %u, expected %u of %u", seq->slot,
                seq->generation, row->slot, slot->generation);
        const struct core_sample *s = core_slot_sample(core, slot);
        if (!s || seq->status != ANSWER_SEQ_OK)
            continue; // an orphan's results are dropped, a failed one's are not looked at
        if (seq->attempt != s->attempt)
            return BAD(
                err, "slot %u of attempt %u, expected %u", seq->slot, seq->attempt, s->attempt);
        TRY(check_results(core, s, row, results, err));
    }
    return STATUS_OK;
}

static void append_score(struct core *core, struct core_request *r,
    const struct answer_result *result, const struct answer_top *top)
{
    // A preempted prompt may be scored twice; the first time counts.
    if (result->position != r->scores.count + 1)
        return;
    struct core_record *record = core_log_append(&core->pages, &r->scores);
    *record = (struct core_record){result->id, result->logprob, result->rank, result->n_top};
    memcpy(record->top, top, result->n_top * sizeof *top);
}

// The sequence got as far as it was when a group died under it: it is not to blame.
static void prove(struct core *core, struct core_sample *s)
{
    s->suspect = false;
    core->n_suspects--;
}

// Lets the other samples of the request run once they can share the first one's prompt.
static void unblock(struct core *core, const struct core_group *g, const struct core_slot *slot,
    const struct core_sample *s)
{
    struct core_request *r = core_request_of(core, s);
    if (s->index != 0 || r->n_samples == 1)
        return;
    uint32_t shared = (r->prompt.count - 1) / g->limits.block_tokens * g->limits.block_tokens;
    if (slot->n_done >= shared && !MUTANT(SAMPLES_STAY_BLOCKED))
        core_finish_unblock(core, r);
}

// The group gave numbers that are none: the sequence cannot go on, the group can.
static void end_bad_logits(struct core *core, struct core_sample *s)
{
    struct core_end end = {.reason = CORE_ERROR,
        .status = STATUS_DEVICE_FAILED,
        .sentence = "the model computed logits that are not finite"};
    core_finish_sample(core, s, &end);
}

static void apply_results(struct core *core, const struct core_group *g, struct core_sample *s,
    const struct core_row *row, struct plan_cursor results)
{
    struct core_request *r = core_request_of(core, s);
    const struct answer_result *result;
    const struct answer_top *top;
    for (uint32_t i = 0; i < row->score_count && answer_next_result(&results, &result, &top); i++)
        append_score(core, r, result, top);
    if (row->score_count)
        core_view_deliver(core, r);
    if (row->flags & PLAN_SEQ_SAMPLE && answer_next_result(&results, &result, &top)) {
        core_view_append(core, s, result, top, g->context_tokens);
    } else if (r->max_tokens == 0 && row->first + row->n_tokens == r->prompt.count) {
        struct core_end end = {.reason = CORE_LENGTH};
        core_finish_sample(core, s, &end);
    }
}

// An orphan's token, in the core that bugs are planted in.
static void plant_late(struct core *core, const struct core_group *g, const struct core_slot *slot,
    const struct core_row *row, struct plan_cursor results)
{
    struct core_sample *s = &core->sample[slot->former];
    bool late = (MUTANT(SURPLUS_TOKEN_DELIVERED) && s->reason == CORE_STOP) ||
                (MUTANT(LATE_RESULT_ACCEPTED) && s->reason == CORE_ABORT);
    if (late && core_table_by_handle(core, slot->former_request) && row->score_count == 0)
        apply_results(core, g, s, row, results);
}

static void apply_row(struct core *core, struct core_group *g, const struct core_row *row,
    const struct answer_seq *seq, struct plan_cursor results)
{
    struct core_slot *slot = &g->slot[row->slot];
    struct core_sample *s = core_slot_sample(core, slot);
    slot->in_flight--;
    if (!s) {
        plant_late(core, g, slot, row, results);
        if (slot->in_flight == 0) {
            g->n_orphans--;
            sched_slots_free(g, slot);
        }
        return;
    }
    slot->n_done = MUTANT(SURPLUS_ROW_COUNTS) ? slot->n_planned : row->first + row->n_tokens;
    slot->n_sampling -= (row->flags & PLAN_SEQ_SAMPLE) != 0;
    if (seq->status != ANSWER_SEQ_OK && !MUTANT(BAD_LOGITS_GO_ON)) {
        end_bad_logits(core, s);
        return;
    }
    sched_prefix_enter(core, g, slot);
    sched_slots_trim(g, slot);
    if (s->suspect && slot->n_done >= s->suspect_until)
        prove(core, s);
    unblock(core, g, slot, s);
    apply_results(core, g, s, row, results);
}

static void apply(struct core *core, struct core_group *g, const struct answer_header *h)
{
    const struct core_flight *flight = &g->flight[g->flight_first];
    struct plan_cursor c = answer_seqs(h), results;
    const struct answer_seq *seq;
    for (uint32_t i = 0; i < flight->n; i++) {
        answer_next_seq(&c, &seq, &results);
        apply_row(core, g, &flight->row[i], seq, results);
    }
    g->flight_first = (g->flight_first + 1) % LIMIT_PLANS_IN_FLIGHT;
    g->n_flights--;
    core->model[g->model].dirty |= !MUTANT(ANSWER_WAKES_NOBODY);
}

void core_answer(struct core *core, uint32_t group, const void *data, size_t n)
{
    if (group >= core->config.groups_max || !core->group[group].ready)
        return;
    struct core_group *g = &core->group[group];
    struct error err = {0};
    if (answer_check(data, n, &g->limits, &err) != STATUS_OK) {
        core_group_bad(core, group, &err);
        return;
    }
    const struct answer_header *h = data;
    const struct core_flight *flight = &g->flight[g->flight_first];
    if ((h->epoch < core->config.epoch && !MUTANT(OLD_EPOCH_CONDEMNS)) ||
        (h->epoch == core->config.epoch &&
            (g->n_flights == 0 ? h->step_id < g->next_step : h->step_id < flight->step_id))) {
        core->counters.stale_answers++;
        return;
    }
    bool bad = h->epoch != core->config.epoch || g->n_flights == 0 ||
               h->step_id != flight->step_id ||
               (h->plan_hash != flight->hash && !MUTANT(HASH_NOT_COMPARED));
    if (bad)
        BAD(&err, "step %llu of epoch %llu, or its hash, is not that of the plan in flight",
            (unsigned long long)h->step_id, (unsigned long long)h->epoch);
    if (bad || check_rows(core, g, flight, h, &err) != STATUS_OK) {
        core_group_bad(core, group, &err);
        return;
    }
    apply(core, g, h);
}
