// SPDX-License-Identifier: Apache-2.0
// Looks at each output of the core as it comes out: exactly-once, dense offsets, durable before
// sent, nothing after the end, nothing planned for who is gone, blame only for those who are to
// blame.
#include "sim.h"

#include <string.h>

static struct sim_job *job_of(struct sim *sim, const struct core_out *out)
{
    for (uint32_t i = 0; i < sim->n_jobs; i++)
        if (sim->job[i].tenant == out->tenant &&
            memcmp(sim->job[i].id, out->id, REQUEST_ID_BYTES) == 0)
            return &sim->job[i];
    sim_fail(sim, "an output for nobody's request");
    return NULL;
}

void sim_watch_rewind(struct sim_job *job, uint32_t from)
{
    if (from == 0)
        job->scores_sent = 0;
    for (uint32_t i = 0; i < job->n; i++) {
        struct sim_seen *seen = &job->seen[i];
        seen->view_next = from < seen->n_journal ? from : seen->n_journal;
        seen->view_finish = false;
    }
}

// ---- the journal --------------------------------------------------------------------------------

static bool may_end(const struct sim *sim, const struct sim_job *job, enum core_reason reason)
{
    if (reason == CORE_ABORT)
        return job->may_abort || (job->deadline_us && sim->core_now_us >= job->deadline_us) ||
               (job->gone_us && !job->unattended && sim->core_now_us >= job->gone_us + 50000);
    if (reason == CORE_ERROR) {
        bool blamed = sim->random_deaths > 0 && (job->deaths >= 2);
        return blamed || job->poison_at >= 0 || job->bad_logits_at >= 0 || job->tokenize_fails;
    }
    return !job->deadline_us || sim->core_now_us < job->deadline_us;
}

static void journal_finish(struct sim *sim, struct sim_job *job, const struct core_finish *f)
{
    struct sim_seen *seen = &job->seen[f->sample];
    const struct sim_expected *e = &job->expected[f->sample];
    SIM_EXPECT(sim, !seen->journal_finish, "job %u finishes twice", job->number);
    SIM_EXPECT(sim, f->output_tokens == seen->n_journal, "job %u: finish miscounts", job->number);
    bool last = true;
    for (uint32_t i = 0; i < job->n; i++)
        last = last && (i == f->sample || job->seen[i].journal_finish);
    SIM_EXPECT(sim,
        f->last == last && f->prompt_tokens == (job->live ? job->n_prompt : 0) &&
            f->cached_tokens == (seen->planned ? seen->cached : 0),
        "job %u.%u: last %d, %u prompt and %u cached tokens are not what was seen", job->number,
        f->sample, f->last, f->prompt_tokens, f->cached_tokens);
    sim_order_end(sim, job, f->sample);
    SIM_EXPECT(sim, may_end(sim, job, f->reason), "job %u ends with %d without a cause (%s)",
        job->number, f->reason, f->sentence ? f->sentence : "");
    seen->journal_finish = true;
    if (f->reason == CORE_ABORT || f->reason == CORE_ERROR)
        return;
    SIM_EXPECT(sim, f->reason == e->reason && f->stop == e->stop && f->stop_value == e->stop_value,
        "job %u sample %u ends with reason %d stop %d, expected %d %d", job->number, f->sample,
        f->reason, f->stop, e->reason, e->stop);
    SIM_EXPECT(sim, f->output_tokens == e->n, "job %u sample %u has %u tokens, expected %u",
        job->number, f->sample, f->output_tokens, e->n);
}

static void journal_tokens(struct sim *sim, struct sim_job *job, const struct core_journal *j)
{
    struct sim_seen *seen = &job->seen[j->sample];
    const struct sim_expected *e = &job->expected[j->sample];
    SIM_EXPECT(sim, j->offset == seen->n_journal && !seen->journal_finish,
        "job %u: token %u after %u", job->number, j->offset, seen->n_journal);
    for (uint32_t i = 0; i < j->n; i++) {
        uint32_t at = j->offset + i;
        if (at >= e->n || j->tokens[i].id != e->id[at]) {
            sim_fail(sim, "job %u sample %u: token %u is %u, expected %u of %u", job->number,
                j->sample, at, j->tokens[i].id, at < e->n ? e->id[at] : 0, e->n);
            return;
        }
    }
    seen->n_journal += j->n;
    for (uint32_t i = 1; i < job->n && j->sample == 0 && j->offset == 0; i++)
        job->seen[i].waits = !job->seen[i].planned && !job->seen[i].journal_finish;
}

static void watch_journal(struct sim *sim, struct sim_job *job, const struct core_out *out)
{
    const struct core_journal *j = &out->journal;
    if (j->type == CORE_JOURNAL_ACCEPT) {
        SIM_EXPECT(sim, !job->known, "job %u is accepted twice", job->number);
        job->known = true;
        job->closed = false;
        job->handle = out->request;
        memset(job->seen, 0, sizeof job->seen);
        job->deadline_us = job->deadline_ms ? sim->core_now_us + job->deadline_ms * 1000 : 0;
        job->arrival = sim->arrivals++;
        job->live = false;
        if (j->submit->request->prompt_ids)
            sim_order_begin(sim, job);
        return;
    }
    SIM_EXPECT(sim, job->known && job->handle == out->request, "job %u: a record before its ACCEPT",
        job->number);
    if (j->type == CORE_JOURNAL_ASSIGN) {
        struct sim_seen *seen = &job->seen[j->sample];
        SIM_EXPECT(sim, j->attempt >= seen->min_attempt && j->attempt >= 1,
            "job %u: attempt %u again", job->number, j->attempt);
        seen->min_attempt = j->attempt;
        seen->group = j->group;
    } else if (j->type == CORE_JOURNAL_TOKENS) {
        journal_tokens(sim, job, j);
    } else if (j->type == CORE_JOURNAL_FINISH) {
        journal_finish(sim, job, j->finish);
    } else if (j->type == CORE_JOURNAL_PROMPT) {
        SIM_EXPECT(sim, j->n == job->n_prompt && memcmp(j->ids, job->prompt, (size_t)j->n * 4) == 0,
            "job %u: another prompt is made durable", job->number);
        sim_order_begin(sim, job);
    }
}

// ---- messages to clients ------------------------------------------------------------------------

static uint64_t state_after(const struct sim_job *job, uint32_t sample, uint32_t n_output)
{
    uint64_t state = sim_model_begin(job);
    for (uint32_t i = 0; i < job->n_prompt; i++)
        state = sim_model_next(state, job->prompt[i]);
    for (uint32_t i = 0; i < n_output; i++)
        state = sim_model_next(state, job->expected[sample].id[i]);
    return state;
}

static void check_token(struct sim *sim, const struct sim_job *job, uint64_t state,
    const struct core_token *t, uint32_t n_top)
{
    SIM_EXPECT(sim, t->logprob == sim_model_logprob(state, t->id) && t->n_top == n_top,
        "job %u: another logprob or %u tops", job->number, t->n_top);
    for (uint32_t i = 0; i < t->n_top; i++)
        SIM_EXPECT(sim, t->top[i].id == sim_model_top(state, i).id, "job %u: another top %u",
            job->number, i);
}

static void watch_tokens(
    struct sim *sim, struct sim_job *job, const struct core_out *out, struct sim_message *m)
{
    struct sim_seen *seen = &job->seen[out->tokens.sample];
    SIM_EXPECT(sim, out->tokens.offset == seen->view_next, "job %u: offset %u is sent after %u",
        job->number, out->tokens.offset, seen->view_next);
    SIM_EXPECT(sim, !seen->view_finish, "job %u: tokens after the end", job->number);
    seen->view_next = out->tokens.offset + out->tokens.n;
    SIM_EXPECT(sim, seen->view_next <= seen->n_journal, "job %u: sent before durable", job->number);
    SIM_EXPECT(sim, seen->view_next <= job->view_limit, "job %u: token %u beyond its credit %llu",
        job->number, seen->view_next, (unsigned long long)job->view_limit);
    m->sample = out->tokens.sample;
    m->offset = out->tokens.offset;
    m->n = out->tokens.n;
    uint32_t at = 0;
    for (uint32_t i = 0; i < m->n && !sim->failed; i++) {
        const struct core_token *t = &out->tokens.token[i];
        uint64_t state = state_after(job, m->sample, m->offset + i);
        SIM_EXPECT(sim, t->id == job->expected[m->sample].id[m->offset + i],
            "job %u: another id is sent than was made durable", job->number);
        check_token(sim, job, state, t, job->n_logprobs);
        memcpy(m->text + at, t->text, t->n_text);
        m->n_text[i] = t->n_text;
        at += t->n_text;
    }
}

static void watch_scores(
    struct sim *sim, struct sim_job *job, const struct core_out *out, struct sim_message *m)
{
    m->offset = out->tokens.offset;
    m->n = out->tokens.n;
    SIM_EXPECT(sim, m->offset == job->scores_sent, "job %u: score %u is sent after %u", job->number,
        m->offset, job->scores_sent);
    job->scores_sent = m->offset + m->n;
    uint64_t state = sim_model_begin(job);
    for (uint32_t i = 0; i < m->offset + m->n && i < job->n_prompt; i++) {
        if (i >= m->offset) {
            const struct core_token *t = &out->tokens.token[i - m->offset];
            SIM_EXPECT(
                sim, t->id == job->prompt[i], "job %u: another prompt is scored", job->number);
            if (i > 0)
                check_token(sim, job, state, t, (uint32_t)job->prompt_logprobs);
        }
        state = sim_model_next(state, job->prompt[i]);
    }
    SIM_EXPECT(sim, m->offset + m->n <= job->n_prompt, "job %u: too many scores", job->number);
}

static void watch_finish(
    struct sim *sim, struct sim_job *job, const struct core_out *out, struct sim_message *m)
{
    struct sim_seen *seen = &job->seen[out->finish.sample];
    SIM_EXPECT(sim, seen->journal_finish, "job %u: an end that is not durable", job->number);
    SIM_EXPECT(sim, !seen->view_finish, "job %u: two ends are sent", job->number);
    SIM_EXPECT(sim, seen->view_next == seen->n_journal, "job %u: the end is sent before token %u",
        job->number, seen->view_next);
    if (out->finish.sample == 0 && job->prompt_logprobs >= 0 &&
        (out->finish.reason == CORE_STOP || out->finish.reason == CORE_LENGTH))
        SIM_EXPECT(sim, job->scores_sent == job->n_prompt, "job %u: %u scores of %u prompt tokens",
            job->number, job->scores_sent, job->n_prompt);
    bool last = true;
    for (uint32_t i = 0; i < job->n; i++)
        last = last && (i == out->finish.sample || job->seen[i].view_finish);
    SIM_EXPECT(sim, out->finish.last == last, "job %u: the last end is not called so", job->number);
    seen->view_finish = true;
    m->finish = out->finish;
    m->n_text[0] = out->finish.n_text;
    memcpy(m->text, out->finish.text, out->finish.n_text);
    m->finish.text = NULL;
    m->finish.sentence = NULL;
}

static void watch_client(struct sim *sim, struct sim_job *job, const struct core_out *out)
{
    struct sim_message m = {.job = job, .peer = out->peer, .type = out->type};
    if (out->type == CORE_OUT_ACCEPTED) {
        SIM_EXPECT(sim, job->known, "job %u: ACCEPTED before it is durable", job->number);
        SIM_EXPECT(sim, !job->tried_conflict, "job %u: another body is ACCEPTED", job->number);
        sim_watch_rewind(job, job->submit_from);
        uint64_t from = out->accepted.attached ? job->submit_from : 0;
        job->view_limit = job->window ? from + job->window : UINT64_MAX;
    } else if (out->type == CORE_OUT_TOKENS) {
        watch_tokens(sim, job, out, &m);
    } else if (out->type == CORE_OUT_PROMPT_LOGPROBS) {
        watch_scores(sim, job, out, &m);
    } else if (out->type == CORE_OUT_FINISH) {
        watch_finish(sim, job, out, &m);
    } else if (out->type == CORE_OUT_BUSY) {
        SIM_EXPECT(sim, !job->known || job->closed, "job %u: BUSY after ACCEPTED", job->number);
        SIM_EXPECT(sim, out->retry_after_ms > 0, "BUSY without a hint");
    } else if (out->type == CORE_OUT_CONFLICT) {
        SIM_EXPECT(sim, job->tried_conflict, "job %u: CONFLICT for its own body", job->number);
    } else if (out->type == CORE_OUT_REFUSED) {
        SIM_EXPECT(sim, sim->draining || job->closed || !job->known, "job %u is refused: %s",
            job->number, out->refused.sentence);
    }
    if (out->peer == 0 || sim->failed)
        return;
    bool lost = !sim->calm && sim_chance(sim, sim->faults.lose);
    bool late = !sim->calm && sim_chance(sim, sim->faults.reorder);
    uint64_t at = sim->now_us + 100 + (late ? sim_below(sim, 5000) : 0);
    if (!lost)
        sim_post(sim, at, SIM_EVENT_TO_CLIENT, 0, 0, &m, sizeof m);
    if (!sim->calm && sim_chance(sim, sim->faults.repeat))
        sim_post(sim, at + sim_below(sim, 3000), SIM_EVENT_TO_CLIENT, 0, 0, &m, sizeof m);
}

// ---- groups -------------------------------------------------------------------------------------

// In a plan that was sent after the job was known to be poisonous.
static bool in_flight(const struct sim *sim, const struct sim_job *job)
{
    bool found = false;
    for (uint32_t g = 0; g < sim->n_groups; g++)
        for (uint32_t f = 0; f < sim->worker[g].n_flights; f++)
            for (uint32_t i = 0; i < sim->worker[g].flight[f].n; i++)
                found = found || (sim->worker[g].flight[f].job[i] == job &&
                                     sim->worker[g].flight[f].kill_known[i]);
    return found;
}

static void watch_first(struct sim *sim, struct sim_worker *w, const struct plan_seq_view *v)
{
    uint32_t slot = v->head->slot, sample = w->owner[slot].sample;
    struct sim_job *job = w->owner[slot].job;
    if (!job || sample >= job->n)
        return;
    struct sim_seen *seen = &job->seen[sample];
    if (!seen->planned)
        seen->cached = v->head->first_position;
    seen->planned = true;
    struct sim_seat seat = {w->group, slot, v->head->generation};
    sim_order_admit(sim, job, sample, &seat);
}

static void watch_releases(
    struct sim *sim, const struct sim_worker *w, const struct plan_header *plan)
{
    const struct plan_release *release = plan_releases(plan);
    for (uint32_t i = 0; i < plan->n_releases; i++) {
        struct sim_seat seat = {w->group, release[i].slot, release[i].generation};
        if (w->owner[seat.slot].job)
            sim_order_release(
                sim, &seat, w->owner[seat.slot].job, w->owner[seat.slot].sample, plan);
    }
}

static void watch_seq(struct sim *sim, struct sim_worker *w, const struct plan_seq_view *v)
{
    uint32_t slot = v->head->slot;
    if (v->first) {
        w->owner[slot].job = sim_job_by_seed(sim, v->first->params.seed);
        w->owner[slot].sample = v->first->params.sample_index;
        w->owner[slot].generation = v->head->generation;
        watch_first(sim, w, v);
    }
    struct sim_job *job = w->owner[slot].job;
    uint32_t sample = w->owner[slot].sample;
    if (!job || sample >= job->n || w->owner[slot].generation != v->head->generation) {
        sim_fail(sim, "slot %u is planned for nobody", slot);
        return;
    }
    SIM_EXPECT(sim, job->known && !job->closed && !job->seen[sample].journal_finish,
        "job %u is planned after its end", job->number);
    SIM_EXPECT(sim, !job->deadline_us || sim->core_now_us < job->deadline_us,
        "job %u is planned after its deadline", job->number);
    SIM_EXPECT(sim, !job->kill_known || !in_flight(sim, job),
        "job %u is known to kill, and is tried twice at once", job->number);
    uint32_t n = w->flight[w->n_flights].n++;
    w->flight[w->n_flights].job[n] = job;
    w->flight[w->n_flights].sample[n] = sample;
    w->flight[w->n_flights].kill_known[n] = job->kill_known;
    w->flight[w->n_flights].n_rows[n] = v->head->n_tokens;
    uint32_t n_max = sim->model[w->model].long_prefill_tokens;
    SIM_EXPECT(sim, n_max == 0 || v->head->n_tokens <= n_max, "%u rows of one sequence in a step",
        v->head->n_tokens);
}

static void watch_plan(struct sim *sim, const struct core_out *out)
{
    struct sim_worker *w = &sim->worker[out->plan.group];
    struct error err = {0};
    if (!w->known || plan_check(out->plan.data, out->plan.n, &w->limits, &err) != STATUS_OK) {
        sim_fail(sim, "a plan for a group that is not there, or %s", err.text);
        return;
    }
    const struct plan_header *plan = out->plan.data;
    const struct core_model *model = &sim->model[w->model];
    SIM_EXPECT(sim, w->n_flights < sim_worker_plans(sim, w), "too many plans in flight");
    SIM_EXPECT(
        sim, plan->n_rows <= model->max_num_batched_tokens, "%u rows in a step", plan->n_rows);
    SIM_EXPECT(sim, plan->n_seqs <= model->max_num_seqs, "%u sequences in a step", plan->n_seqs);
    if (sim->failed)
        return;
    w->flight[w->n_flights].step = plan->step_id;
    w->flight[w->n_flights].n = 0;
    watch_releases(sim, w, plan);
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view view;
    while (!sim->failed && plan_next_seq(&c, &view))
        watch_seq(sim, w, &view);
    for (uint32_t i = 0; i < w->flight[w->n_flights].n; i++)
        sim_order_rows(sim, w->flight[w->n_flights].job[i], w->flight[w->n_flights].n_rows[i]);
    w->n_flights++;
    sim_post(sim, sim->now_us + 20, SIM_EVENT_PLAN, w->group, w->boot, out->plan.data, out->plan.n);
}

// What was in flight is suspected; a job counts once for each death, whatever it had in flight.
void sim_watch_death(struct sim *sim, struct sim_worker *w, bool crashed)
{
    sim->n_deaths++;
    if (w->killer)
        w->killer->kill_known = true;
    for (uint32_t f = 0; f < w->n_flights && crashed; f++)
        for (uint32_t i = 0; i < w->flight[f].n; i++) {
            struct sim_job *job = w->flight[f].job[i];
            struct sim_seen *seen = &job->seen[w->flight[f].sample[i]];
            if (!seen->journal_finish && seen->group == w->group &&
                seen->last_death != sim->n_deaths) {
                seen->min_attempt++;
                seen->last_death = sim->n_deaths;
            }
            if (job->last_death != sim->n_deaths)
                job->deaths++;
            job->last_death = sim->n_deaths;
        }
    w->n_flights = 0;
    w->known = false;
}

static void watch_bad(struct sim *sim, const struct core_out *out)
{
    struct sim_worker *w = &sim->worker[out->group_bad.group];
    SIM_EXPECT(sim, w->hostile_now, "an honest group is condemned: %s", out->group_bad.sentence);
    w->hostile_now = false;
    sim->random_deaths++;
    sim_watch_death(sim, w, true);
    w->alive = false;
    sim_post(sim, sim->now_us + sim_between(sim, 100, 9000), SIM_EVENT_START, w->group, 0, NULL, 0);
}

static void watch_closed(struct sim *sim, struct sim_job *job)
{
    SIM_EXPECT(sim, job->known && !job->closed, "job %u is closed twice", job->number);
    for (uint32_t i = 0; i < job->n; i++)
        SIM_EXPECT(sim, job->seen[i].journal_finish, "job %u is forgotten unfinished", job->number);
    job->closed = true;
    job->known = false;
    job->done = true;
}

static void watch_tokenize(struct sim *sim, struct sim_job *job, const struct core_out *out)
{
    char text[SIM_CONTEXT_MAX];
    size_t n = sim_client_text(job, text);
    SIM_EXPECT(sim, out->tokenize.n == n && memcmp(out->tokenize.text, text, n) == 0,
        "job %u: another text is tokenized", job->number);
    sim_post(sim, sim->now_us + sim_between(sim, 10, 3000), SIM_EVENT_TOKENIZED, job->number,
        out->request, NULL, 0);
}

static void watch(struct sim *sim, const struct core_out *out)
{
    if (out->type == CORE_OUT_PLAN) {
        watch_plan(sim, out);
    } else if (out->type == CORE_OUT_GROUP_BAD) {
        watch_bad(sim, out);
    } else if (out->type == CORE_OUT_DRAINED) {
        SIM_EXPECT(sim, sim->draining && !sim->drained, "drained unasked");
        sim->drained = true;
    } else {
        struct sim_job *job = job_of(sim, out);
        if (!job)
            return;
        if (out->type == CORE_OUT_JOURNAL)
            watch_journal(sim, job, out);
        else if (out->type == CORE_OUT_CLOSED)
            watch_closed(sim, job);
        else if (out->type == CORE_OUT_TOKENIZE)
            watch_tokenize(sim, job, out);
        else
            watch_client(sim, job, out);
    }
}

void sim_watch_emit(void *user, const struct core_out *out)
{
    struct sim *sim = user;
    SIM_EXPECT(sim, sim->stepping, "an output outside of a step");
    if (sim->failed)
        return;
    bool before = sim_memory_forbid(false);
    watch(sim, out);
    sim_memory_forbid(before);
}

// Everybody is gone: nothing may be held any more.
void sim_watch_end(struct sim *sim)
{
    struct core_counters counters;
    core_counters(sim->core, &counters);
    SIM_EXPECT(sim, counters.live == 0 && counters.kept == 0,
        "%u requests live, %u kept at the end", counters.live, counters.kept);
    SIM_EXPECT(sim, !sim->draining || sim->drained, "drained, and nobody said so");
    for (uint32_t m = 0; m < sim->n_models; m++) {
        struct core_model_stats stats;
        core_model_stats(sim->core, m, &stats);
        SIM_EXPECT(sim, stats.kv_blocks == stats.kv_blocks_free && !stats.running && !stats.waiting,
            "model %u: %llu of %llu blocks are free at the end", m,
            (unsigned long long)stats.kv_blocks_free, (unsigned long long)stats.kv_blocks);
    }
}
