// SPDX-License-Identifier: Apache-2.0
// The frame of every operation: one at a time, signatures, errors that stay.
#include "collectives/group.h"

#include "base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const operation_name[] = {
    [0] = "nothing",
    [GROUP_BARRIER] = "barrier",
    [GROUP_ALL_REDUCE] = "all_reduce",
    [GROUP_ALL_REDUCE_NORM] = "all_reduce_norm",
    [GROUP_REDUCE_SCATTER] = "reduce_scatter",
    [GROUP_ALL_GATHER] = "all_gather",
    [GROUP_BROADCAST] = "broadcast",
    [GROUP_EXCHANGE] = "exchange",
};

bool group_offers(const char *operation)
{
    for (uint32_t i = 1; i < COUNT_OF(operation_name); i++)
        if (strcmp(operation_name[i], operation) == 0)
            return true;
    return false;
}

// Mixes one more number into the chain.
static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

enum status group_begin(
    struct coll_group *g, enum group_operation op, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    // Two threads at once would wait for each other's steps for ever: refused, and not sticky.
    if (atomic_exchange_explicit(&g->busy, true, memory_order_acquire))
        return STATUS_BUSY;
    g->running = op;
    if (g->sticky != STATUS_OK)
        return g->sticky;
    if (!segment_well(g->segment))
        return group_fail(g, STATUS_ABORTED, g->rank);
    uint64_t h = mix(mix(g->signature, (uint64_t)op << 56 ^ a), b);
    g->signature = (uint32_t)mix(mix(h, c), d);
    return STATUS_OK;
}

enum status group_end(struct coll_group *g, enum status s)
{
    if (s != STATUS_BUSY)
        atomic_store_explicit(&g->busy, false, memory_order_release);
    return s;
}

enum status group_refuse(struct coll_group *g, enum status s, const char *format, ...)
{
    va_list ap;
    char text[ERROR_TEXT_BYTES];
    if (g->sticky != STATUS_OK)
        return g->sticky;
    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return status_fail(&g->error, s, "%s", text);
}

static enum status explain_failure(
    struct coll_group *g, enum status s, uint32_t reporter, uint32_t culprit)
{
    const char *op = operation_name[g->running];
    unsigned r = (unsigned)reporter, c = (unsigned)culprit;
    switch (s) {
    case STATUS_ABORTED:
        return status_fail(&g->error, s, "rank %u ended the group before or during %s", r, op);
    case STATUS_TIMEOUT:
        return status_fail(&g->error, s, "rank %u waited %u ms for rank %u; seen in %s", r,
            (unsigned)g->timeout_ms, c, op);
    case STATUS_PEER_GONE:
        return status_fail(
            &g->error, s, "rank %u has left or ended, says rank %u; seen in %s", c, r, op);
    case STATUS_MISMATCH:
        return status_fail(&g->error, s,
            "rank %u and rank %u call different operations, counts or types; seen in %s", r, c, op);
    default:
        return status_fail(&g->error, s, "rank %u failed; seen in %s", r, op);
    }
}

enum status group_fail(struct coll_group *g, enum status s, uint32_t culprit)
{
    uint32_t reporter;
    segment_poison(g->segment, s, culprit);
    if (g->backend->abort != NULL)
        g->backend->abort(g);
    g->sticky = segment_poisoned(g->segment, &reporter, &culprit);
    return explain_failure(g, g->sticky, reporter, culprit);
}

enum status group_fail_because(struct coll_group *g, enum status s, const char *format, ...)
{
    va_list ap;
    char text[ERROR_TEXT_BYTES];
    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    (void)group_fail(g, s, g->rank);
    if (g->sticky == s) // another member's failure, if that was first, explains this one
        (void)status_fail(&g->error, s, "rank %u: %s; seen in %s", (unsigned)g->rank, text,
            operation_name[g->running]);
    return g->sticky;
}

enum status group_block(
    struct coll_group *g, const struct coll_exchange_args *a, uint32_t q, size_t *bytes)
{
    size_t n = a->counts == COLL_COUNTS_DEVICE ? a->device_send_bytes[q] : a->send_bytes[q];
    if (n > a->slot_bytes)
        return group_fail_because(g, STATUS_TOO_LARGE,
            "a block of %zu bytes for rank %u does not fit its slot of %zu", n, (unsigned)q,
            a->slot_bytes);
    if (n > 0 && a->send[q] == NULL)
        return group_fail_because(
            g, STATUS_INVALID, "NULL in place of a block of %zu bytes for rank %u", n, (unsigned)q);
    *bytes = n;
    return STATUS_OK;
}

enum status coll_poll(struct coll_group *g)
{
    struct error local = {0};
    if (g->sticky != STATUS_OK)
        return g->sticky;
    if (!segment_well(g->segment))
        return group_fail(g, STATUS_ABORTED, g->rank);
    enum status s = g->backend->poll != NULL ? g->backend->poll(g, &local) : STATUS_OK;
    return s == STATUS_OK ? s : group_fail_because(g, s, "%s", local.text);
}

void coll_abort(struct coll_group *g)
{
    segment_poison(g->segment, STATUS_ABORTED, g->rank);
    if (g->backend->abort != NULL)
        g->backend->abort(g);
}

const struct error *coll_error(const struct coll_group *g)
{
    return &g->error;
}
