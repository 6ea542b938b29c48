// SPDX-License-Identifier: Apache-2.0
// How samples and requests end.
#include "coordinator/sched.h"
#include "coordinator/sched_queue.h"

#include "base/check.h"

#include <stdio.h>

void core_finish_waiting(struct core *core, struct core_request *r)
{
    if (!r->counted_waiting)
        return;
    struct core_model_state *m = &core->model[r->model];
    r->counted_waiting = false;
    m->n_waiting_requests--;
    m->waiting_tokens -= r->waiting_tokens;
}

void core_finish_arm(struct core *core, struct core_request *r)
{
    uint64_t due = UINT64_MAX;
    if (r->state == REQUEST_KEPT) {
        due = r->finished_us + core->config.kept_us;
    } else {
        if (r->deadline_us && !MUTANT(DEADLINE_IGNORED))
            due = r->deadline_us;
        if (r->peer == 0 && !r->unattended && r->detached_us + core->config.silent_us < due)
            due = r->detached_us + core->config.silent_us;
    }
    core_timer_set(core, r, due);
}

void core_finish_unblock(struct core *core, struct core_request *r)
{
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next)
        if (core->sample[i].state == SAMPLE_BLOCKED)
            sched_queue_put(core, &core->sample[i]);
}

static void let_go(struct core *core, struct core_request *r, struct core_sample *s)
{
    if (s->state == SAMPLE_WAITING)
        sched_queue_remove(core, s);
    else if (s->state == SAMPLE_RUNNING && !MUTANT(ENDED_KEEPS_SLOT))
        sched_slots_detach(core, s);
    if (r->state == REQUEST_LIVE) // the tenant's samples count from the tokenized prompt on
        sched_queue_tenant_end(core, r);
    if (s->suspect)
        core->n_suspects--;
    s->suspect = false;
    s->state = SAMPLE_FINISHED;
}

static void journal_finish(struct core *core, struct core_request *r, struct core_sample *s)
{
    struct core_finish finish;
    core_view_finish_facts(core, s, &finish);
    finish.last = r->n_live == 0;
    struct core_out out = {.type = CORE_OUT_JOURNAL,
        .journal = {.type = CORE_JOURNAL_FINISH, .sample = s->index, .finish = &finish}};
    core_view_emit(core, r, &out);
}

static void end_request(struct core *core, struct core_request *r)
{
    core_finish_waiting(core, r);
    r->state = REQUEST_KEPT;
    r->finished_us = core->now_us;
    core->n_live--;
    core->n_kept++;
    core->counters.finished++;
    core_finish_arm(core, r);
}

void core_finish_sample(struct core *core, struct core_sample *s, const struct core_end *end)
{
    struct core_request *r = core_request_of(core, s);
    check(s->state != SAMPLE_FINISHED && r->n_live > 0);
    let_go(core, r, s);
    s->reason = end->reason;
    s->stop = end->stop;
    s->stop_value = end->stop_value;
    s->finished_us = core->now_us;
    if (end->sentence && r->error == STATUS_OK) {
        r->error = end->status;
        snprintf(r->sentence, sizeof r->sentence, "%s", end->sentence);
    }
    r->n_live--;
    if (s->index == 0 && r->state == REQUEST_LIVE)
        core_finish_unblock(core, r);
    journal_finish(core, r, s);
    if (MUTANT(FINISH_JOURNALED_TWICE))
        journal_finish(core, r, s);
    if (r->n_live == 0)
        end_request(core, r);
    core_view_deliver(core, r);
}

void core_finish_request(struct core *core, struct core_request *r, const struct core_end *end)
{
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next)
        if (core->sample[i].state != SAMPLE_FINISHED)
            core_finish_sample(core, &core->sample[i], end);
}
