// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sched_queue.h"

#include "base/check.h"

static bool sooner(const struct core *core, uint32_t a, uint32_t b)
{
    const struct core_sample *x = &core->sample[a], *y = &core->sample[b];
    int32_t px = core->request[x->request].priority, py = core->request[y->request].priority;
    if (px != py)
        return MUTANT(PRIORITY_REVERSED) ? px > py : px < py;
    return MUTANT(LAST_COME_FIRST) ? x->arrival > y->arrival : x->arrival < y->arrival;
}

// Joins two heaps whose roots have no siblings.
static uint32_t join(struct core *core, uint32_t a, uint32_t b)
{
    if (a == NONE)
        return b;
    if (b == NONE)
        return a;
    if (!sooner(core, a, b)) {
        uint32_t c = a;
        a = b;
        b = c;
    }
    struct core_sample *top = &core->sample[a], *below = &core->sample[b];
    below->heap_prev = a;
    below->heap_next = top->heap_child;
    if (top->heap_child != NONE)
        core->sample[top->heap_child].heap_prev = b;
    top->heap_child = b;
    top->heap_next = top->heap_prev = NONE;
    return a;
}

// Joins a list of siblings: in pairs from the left, then all from the right.
static uint32_t join_siblings(struct core *core, uint32_t first)
{
    uint32_t pairs = NONE;
    while (first != NONE) {
        uint32_t a = first, b = core->sample[a].heap_next;
        first = b == NONE ? NONE : core->sample[b].heap_next;
        core->sample[a].heap_next = core->sample[a].heap_prev = NONE;
        if (b != NONE)
            core->sample[b].heap_next = core->sample[b].heap_prev = NONE;
        uint32_t both = join(core, a, b);
        core->sample[both].heap_next = pairs;
        pairs = both;
    }
    uint32_t root = NONE;
    while (pairs != NONE) {
        uint32_t next = core->sample[pairs].heap_next;
        core->sample[pairs].heap_next = NONE;
        root = join(core, root, pairs);
        pairs = next;
    }
    return root;
}

static void heap_remove(struct core *core, uint32_t *root, uint32_t i)
{
    struct core_sample *s = &core->sample[i];
    if (*root == i) {
        *root = join_siblings(core, s->heap_child);
    } else {
        struct core_sample *prev = &core->sample[s->heap_prev];
        if (prev->heap_child == i)
            prev->heap_child = s->heap_next;
        else
            prev->heap_next = s->heap_next;
        if (s->heap_next != NONE)
            core->sample[s->heap_next].heap_prev = s->heap_prev;
        *root = join(core, *root, join_siblings(core, s->heap_child));
    }
    s->heap_child = s->heap_next = s->heap_prev = NONE;
}

static void activate(struct core_model_state *m, uint32_t tenant)
{
    m->tenant[tenant].active_at = m->n_active;
    m->active[m->n_active++] = tenant;
}

static void deactivate(struct core_model_state *m, uint32_t tenant)
{
    uint32_t at = m->tenant[tenant].active_at;
    uint32_t moved = m->active[--m->n_active];
    m->active[at] = moved;
    m->tenant[moved].active_at = at;
    m->tenant[tenant].active_at = NONE;
}

// Suspects are tried one by one, in a queue of their own.
static bool has_own_turn(const struct core_sample *s)
{
    return s->suspect && !MUTANT(SUSPECTS_RUN_WITH_OTHERS);
}

void sched_queue_put(struct core *core, struct core_sample *s)
{
    const struct core_request *r = &core->request[s->request];
    struct core_model_state *m = &core->model[r->model];
    uint32_t i = core_sample_index(core, s);
    s->state = SAMPLE_WAITING;
    s->heap_child = s->heap_next = s->heap_prev = NONE;
    m->n_waiting++;
    m->dirty = true;
    if (has_own_turn(s)) {
        m->suspects = join(core, m->suspects, i);
        return;
    }
    struct core_tenant_queue *t = &m->tenant[r->tenant];
    if (t->root == NONE)
        activate(m, r->tenant);
    t->root = join(core, t->root, i);
}

void sched_queue_remove(struct core *core, struct core_sample *s)
{
    const struct core_request *r = &core->request[s->request];
    struct core_model_state *m = &core->model[r->model];
    uint32_t i = core_sample_index(core, s);
    m->n_waiting--;
    if (has_own_turn(s)) {
        heap_remove(core, &m->suspects, i);
        return;
    }
    struct core_tenant_queue *t = &m->tenant[r->tenant];
    heap_remove(core, &t->root, i);
    if (t->root == NONE)
        deactivate(m, r->tenant);
}

static bool root_sooner(
    const struct core *core, const struct core_model_state *m, uint32_t a, uint32_t b)
{
    const struct core_tenant_queue *x = &m->tenant[a], *y = &m->tenant[b];
    const struct core_sample *s = &core->sample[x->root], *t = &core->sample[y->root];
    int32_t ps = core->request[s->request].priority, pt = core->request[t->request].priority;
    if (ps != pt)
        return MUTANT(PRIORITY_REVERSED) ? ps > pt : ps < pt;
    if (x->served != y->served)
        return MUTANT(MOST_SERVED_FIRST) ? x->served > y->served : x->served < y->served;
    return s->arrival < t->arrival;
}

struct core_sample *sched_queue_peek(struct core *core, uint32_t model)
{
    const struct core_model_state *m = &core->model[model];
    if (m->n_active == 0)
        return NULL;
    uint32_t best = m->active[0];
    for (uint32_t i = 1; i < m->n_active; i++)
        if (root_sooner(core, m, m->active[i], best))
            best = m->active[i];
    return &core->sample[m->tenant[best].root];
}

struct core_sample *sched_queue_peek_suspect(struct core *core, uint32_t model)
{
    uint32_t i = core->model[model].suspects;
    return i == NONE ? NULL : &core->sample[i];
}

void sched_queue_tenant_begin(struct core *core, const struct core_request *r)
{
    struct core_model_state *m = &core->model[r->model];
    struct core_tenant_queue *t = &m->tenant[r->tenant];
    if (t->n_live++ > 0)
        return;
    // Time away earns no credit: start level with the least served of those who are here.
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < core->config.tenants_max; i++)
        if (i != r->tenant && m->tenant[i].n_live > 0 && m->tenant[i].served < least)
            least = m->tenant[i].served;
    if (least != UINT64_MAX && t->served < least && !MUTANT(ABSENCE_EARNS_CREDIT))
        t->served = least;
}

void sched_queue_tenant_end(struct core *core, const struct core_request *r)
{
    struct core_tenant_queue *t = &core->model[r->model].tenant[r->tenant];
    check(t->n_live > 0);
    t->n_live -= !MUTANT(TENANT_NEVER_LEAVES);
}

// Counts a heap without recursion: walks children first, then siblings, then up.
static uint32_t count_heap(const struct core *core, uint32_t root)
{
    uint32_t n = 0, at = root;
    while (at != NONE) {
        const struct core_sample *s = &core->sample[at];
        if (++n > core->config.samples_max || s->state != SAMPLE_WAITING)
            return NONE;
        if (s->heap_child != NONE) {
            if (core->sample[s->heap_child].heap_prev != at || sooner(core, s->heap_child, at))
                return NONE;
            at = s->heap_child;
            continue;
        }
        while (at != root && core->sample[at].heap_next == NONE) {
            // Back to the first sibling, then to the parent.
            uint32_t prev = core->sample[at].heap_prev;
            while (prev != NONE && core->sample[prev].heap_child != at) {
                at = prev;
                prev = core->sample[at].heap_prev;
            }
            at = prev;
            if (at == NONE)
                return NONE;
        }
        at = at == root ? NONE : core->sample[at].heap_next;
    }
    return n;
}

uint32_t sched_queue_check(const struct core *core, uint32_t model)
{
    const struct core_model_state *m = &core->model[model];
    uint32_t n = count_heap(core, m->suspects);
    for (uint32_t i = 0; i < core->config.tenants_max && n != NONE; i++) {
        const struct core_tenant_queue *t = &m->tenant[i];
        if ((t->root != NONE) != (t->active_at != NONE) ||
            (t->root != NONE && m->active[t->active_at] != i))
            return NONE;
        uint32_t k = count_heap(core, t->root);
        n = k == NONE ? NONE : n + k;
    }
    return n == m->n_waiting ? n : NONE;
}
