// SPDX-License-Identifier: Apache-2.0
// Who may run before whom. Knows from the outside which samples surely wait, and what each tenant
// was served; looks at each sequence that is shown to a group for the first time, and at each that
// is released unfinished. Jobs that a group has died under are left out: they have turns of their
// own.
#include "sim.h"

struct place {
    int32_t priority;
    uint64_t served, arrival;
    uint32_t tenant;
};

static struct place place_of(const struct sim *sim, const struct sim_job *job, uint32_t sample)
{
    return (struct place){.priority = job->priority,
        .served = sim->tenant[job->model][job->tenant].served,
        .arrival = job->arrival * SIM_SAMPLES_MAX + sample,
        .tenant = job->tenant};
}

static bool sooner(struct place a, struct place b)
{
    if (a.priority != b.priority)
        return a.priority < b.priority;
    if (a.tenant != b.tenant && a.served != b.served)
        return a.served < b.served;
    return a.arrival < b.arrival;
}

// The prompt is known: all samples count as the tenant's, and the first one waits.
void sim_order_begin(struct sim *sim, struct sim_job *job)
{
    struct sim_tenant *all = sim->tenant[job->model], *t = &all[job->tenant];
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < SIM_TENANTS_MAX; i++)
        if (all[i].n_live > 0 && all[i].served < least)
            least = all[i].served;
    if (t->n_live == 0 && least != UINT64_MAX && t->served < least)
        t->served = least; // being away earns no credit
    t->n_live += job->n;
    job->live = job->seen[0].waits = true;
}

void sim_order_end(struct sim *sim, struct sim_job *job, uint32_t sample)
{
    sim->tenant[job->model][job->tenant].n_live -= job->live;
    job->seen[sample].waits = false;
}

// A group may run the sample from now on.
void sim_order_admit(
    struct sim *sim, struct sim_job *job, uint32_t sample, const struct sim_seat *seat)
{
    struct sim_seen *seen = &job->seen[sample];
    seen->waits = false;
    seen->seat = *seat;
    struct place mine = place_of(sim, job, sample);
    for (uint32_t i = 0; i < sim->n_jobs && job->deaths == 0; i++) {
        const struct sim_job *other = &sim->job[i];
        for (uint32_t k = 0; k < other->n && other->model == job->model; k++)
            SIM_EXPECT(sim,
                !other->seen[k].waits || other->deaths > 0 ||
                    !sooner(place_of(sim, other, k), mine),
                "job %u.%u is admitted before job %u.%u", job->number, sample, other->number, k);
    }
}

// A slot is given back by this plan. If its sample has not ended, it was preempted.
void sim_order_release(struct sim *sim, const struct sim_seat *seat, struct sim_job *job,
    uint32_t sample, const struct plan_header *plan)
{
    struct sim_seen *seen = &job->seen[sample];
    if (!job->known || seen->journal_finish || job->deaths > 0 || seen->seat.group != seat->group ||
        seen->seat.slot != seat->slot || seen->seat.generation != seat->generation)
        return;
    seen->waits = true;
    SIM_EXPECT(sim, !sim->model[job->model].guaranteed_no_evict,
        "job %u.%u is preempted in spite of the guarantee", job->number, sample);
    // With one plan in flight it was preempted for this plan, and then nobody new gets in.
    bool now = sim_worker_plans(sim, &sim->worker[seat->group]) == 1;
    struct place mine = place_of(sim, job, sample);
    const struct sim_worker *w = &sim->worker[seat->group];
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view view;
    while (plan_next_seq(&c, &view)) {
        const struct sim_job *other = w->owner[view.head->slot].job;
        if (view.first)
            SIM_EXPECT(
                sim, !now, "job %u.%u is preempted and others are admitted", job->number, sample);
        if (view.first || !other)
            continue;
        struct place its = place_of(sim, other, w->owner[view.head->slot].sample);
        its.served = mine.served; // whom to preempt is a matter of priority and arrival alone
        SIM_EXPECT(sim, other->deaths > 0 || sooner(its, mine),
            "job %u.%u is preempted while job %u goes on", job->number, sample, other->number);
    }
}

void sim_order_rows(struct sim *sim, const struct sim_job *job, uint32_t n)
{
    sim->tenant[job->model][job->tenant].served += n;
}
