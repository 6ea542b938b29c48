// SPDX-License-Identifier: Apache-2.0
// A binary heap of requests by the time at which they need attention.
#include "coordinator/core_internal.h"

static bool earlier(const struct core *core, uint32_t a, uint32_t b)
{
    uint64_t x = core->request[a].due_us, y = core->request[b].due_us;
    return x != y ? x < y : a < b;
}

static void place(struct core *core, uint32_t at, uint32_t request)
{
    core->timer[at] = request;
    core->request[request].timer_at = at;
}

static void sift(struct core *core, uint32_t at)
{
    uint32_t moving = core->timer[at];
    while (at > 0 && earlier(core, moving, core->timer[(at - 1) / 2])) {
        place(core, at, core->timer[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= core->n_timers)
            break;
        if (child + 1 < core->n_timers && earlier(core, core->timer[child + 1], core->timer[child]))
            child++;
        if (!earlier(core, core->timer[child], moving))
            break;
        place(core, at, core->timer[child]);
        at = child;
    }
    place(core, at, moving);
}

void core_timer_set(struct core *core, struct core_request *r, uint64_t due_us)
{
    if (due_us == UINT64_MAX) {
        core_timer_clear(core, r);
        return;
    }
    if (r->timer_at != NONE && r->due_us == due_us)
        return;
    r->due_us = due_us;
    uint32_t at = r->timer_at;
    if (at == NONE) {
        at = core->n_timers++;
        core->timer[at] = core_request_index(core, r);
    }
    sift(core, at);
}

void core_timer_clear(struct core *core, struct core_request *r)
{
    uint32_t at = r->timer_at;
    if (at == NONE)
        return;
    r->timer_at = NONE;
    uint32_t last = core->timer[--core->n_timers];
    if (at == core->n_timers)
        return;
    place(core, at, last);
    if (!MUTANT(TIMERS_OUT_OF_ORDER))
        sift(core, at);
}
