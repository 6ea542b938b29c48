// SPDX-License-Identifier: Apache-2.0
// Requests by (tenant, id): a hash table with chains, keyed, for the ids come from outside. Pools
// hand out untouched entries first, so memory that is never needed is never touched.
#include "coordinator/core_internal.h"

#include "base/check.h"

#include <string.h>

static uint32_t *bucket_of(struct core *core, uint32_t tenant, const uint8_t *id)
{
    uint8_t key[REQUEST_ID_BYTES + 4];
    memcpy(key, id, REQUEST_ID_BYTES);
    memcpy(key + REQUEST_ID_BYTES, &tenant, 4);
    return &core->table[hash_64(core->config.key, key, sizeof key) & (core->n_buckets - 1)];
}

struct core_request *core_table_find(struct core *core, uint32_t tenant, const uint8_t *id)
{
    uint32_t i = *bucket_of(core, tenant, id);
    for (; i != NONE; i = core->request[i].table_next) {
        struct core_request *r = &core->request[i];
        if (r->tenant == tenant && memcmp(r->id, id, REQUEST_ID_BYTES) == 0)
            return r;
    }
    return NULL;
}

struct core_request *core_table_by_handle(struct core *core, uint64_t handle)
{
    uint32_t index = (uint32_t)handle - 1;
    if (index >= core->requests_touched)
        return NULL;
    struct core_request *r = &core->request[index];
    return r->state != REQUEST_FREE && r->generation == handle >> 32 ? r : NULL;
}

struct core_request *core_table_add(struct core *core, uint32_t tenant, const uint8_t *id)
{
    uint32_t i = core->requests_free;
    if (i != NONE)
        core->requests_free = core->request[i].table_next;
    else if (core->requests_touched < core->config.requests_max)
        i = core->requests_touched++;
    else
        return NULL;
    struct core_request *r = &core->request[i];
    uint32_t generation = r->generation + 1;
    memset(r, 0, sizeof *r);
    r->generation = generation;
    r->tenant = tenant;
    memcpy(r->id, id, REQUEST_ID_BYTES);
    r->timer_at = r->first_sample = NONE;
    uint32_t *bucket = bucket_of(core, tenant, id);
    r->table_next = *bucket;
    *bucket = i;
    core->n_requests++;
    return r;
}

static struct core_sample *take_sample(struct core *core)
{
    uint32_t i = core->samples_free;
    if (i != NONE)
        core->samples_free = core->sample[i].next;
    else
        i = core->samples_touched++;
    struct core_sample *s = &core->sample[i];
    memset(s, 0, sizeof *s);
    s->heap_child = s->heap_next = s->heap_prev = s->group = s->slot = s->next = s->blocked_group =
        NONE;
    core->n_samples++;
    return s;
}

bool core_table_add_samples(struct core *core, struct core_request *r, uint32_t n)
{
    if (n > core->config.samples_max - core->n_samples)
        return false;
    uint32_t *link = &r->first_sample;
    for (uint32_t i = 0; i < n; i++) {
        struct core_sample *s = take_sample(core);
        s->request = core_request_index(core, r);
        s->index = i;
        s->attempt = 1;
        s->arrival = core->arrivals++;
        s->view_at_head = true;
        core_log_init(&s->log, (uint32_t)(sizeof(struct core_record) +
                                          r->params.n_logprobs * sizeof(struct answer_top)));
        *link = core_sample_index(core, s);
        link = &s->next;
    }
    r->n_samples = r->n_live = n;
    return true;
}

static void free_samples(struct core *core, struct core_request *r)
{
    uint32_t i = r->first_sample;
    while (i != NONE) {
        struct core_sample *s = &core->sample[i];
        uint32_t next = s->next;
        if (!MUTANT(TOKEN_LOG_LEAKS))
            core_log_clear(&core->pages, &s->log);
        s->next = core->samples_free;
        s->request = NONE;
        core->samples_free = i;
        core->n_samples--;
        i = next;
    }
}

void core_table_remove(struct core *core, struct core_request *r)
{
    free_samples(core, r);
    core_timer_clear(core, r);
    core_log_clear(&core->pages, &r->prompt);
    core_log_clear(&core->pages, &r->stop_ids);
    core_log_clear(&core->pages, &r->bias);
    core_log_clear(&core->pages, &r->stops);
    core_log_clear(&core->pages, &r->scores);
    if (!MUTANT(RESERVATION_LEAKS))
        core_pages_unreserve(&core->pages, r->pages_reserved);
    uint32_t i = core_request_index(core, r);
    uint32_t *at = bucket_of(core, r->tenant, r->id);
    while (*at != i) {
        check(*at != NONE);
        at = &core->request[*at].table_next;
    }
    *at = r->table_next;
    r->state = REQUEST_FREE;
    r->table_next = core->requests_free;
    core->requests_free = i;
    core->n_requests--;
}
