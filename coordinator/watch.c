// SPDX-License-Identifier: Apache-2.0
#include "coordinator/watch.h"

#include <string.h>
#include <time.h>

void watch_planned(struct watch *w)
{
    if (w->n_plans++ == 0)
        w->looked_us = 0; // ranks that were idle may start only now
}

void watch_answered(struct watch *w)
{
    w->n_plans -= w->n_plans > 0;
}

void watch_heard(struct watch *w, uint64_t now_us)
{
    w->heard_us = now_us;
    w->first_look_us = w->looked_us = 0;
}

bool watch_due(const struct watch *w, uint64_t now_us)
{
    uint64_t since_us = w->looked_us ? w->looked_us : w->heard_us;
    uint64_t wait_us = w->looked_us ? WATCH_STALL_US : WATCH_SILENT_US;
    return now_us >= since_us + wait_us;
}

static uint32_t find_stalled(const struct watch *w, const uint64_t *cpu_us)
{
    uint32_t busy = w->n_plans ? w->n_ranks : 1;
    for (uint32_t r = 0; r < busy; r++)
        if (cpu_us[r] < w->cpu_us[r] + WATCH_RUN_US)
            return r;
    return w->n_ranks;
}

bool watch_judge(struct watch *w, const uint64_t *cpu_us, uint64_t now_us, uint32_t *rank)
{
    if (!watch_due(w, now_us))
        return false;
    if (w->looked_us) {
        *rank = find_stalled(w, cpu_us);
        if (*rank < w->n_ranks || now_us >= w->first_look_us + WATCH_SLOW_US)
            return true;
    }
    if (!w->first_look_us)
        w->first_look_us = now_us;
    w->looked_us = now_us;
    memcpy(w->cpu_us, cpu_us, w->n_ranks * sizeof *cpu_us);
    return false;
}

void watch_read(const struct watch *w, uint64_t *cpu_us)
{
    for (uint32_t r = 0; r < w->n_ranks; r++) {
        clockid_t id;
        struct timespec t;
        // Linux has no larger ones, and the id of a clock would hold another process's number.
        bool possible = w->pid[r] >= 1 && w->pid[r] < 1 << 22;
        bool known = possible && clock_getcpuclockid((pid_t)w->pid[r], &id) == 0 &&
                     clock_gettime(id, &t) == 0;
        cpu_us[r] = known ? (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u : 0;
    }
}
