// SPDX-License-Identifier: Apache-2.0
#include "collectives/group.h"

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_TIMEOUT_MS = 60000 };

// More than any address space holds, and small enough that no sum below overflows.
static const uint64_t heap_bytes_max = (uint64_t)1 << 40;

static enum status check_args(const struct coll_args *args, struct error *err)
{
    if (args->heap_bytes > heap_bytes_max)
        return status_fail(err, STATUS_TOO_LARGE,
            "a heap of %llu bytes was asked for, at most %llu",
            (unsigned long long)args->heap_bytes, (unsigned long long)heap_bytes_max);
    if (args->channels > COLL_CHANNELS_MAX)
        return status_fail(err, STATUS_TOO_LARGE, "%u channels were asked for, at most %d",
            (unsigned)args->channels, COLL_CHANNELS_MAX);
    return STATUS_OK;
}

static size_t page_round(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n + page - 1) / page * page;
}

static uint64_t fingerprint(const struct coll_group *g)
{
    uint64_t h = tuning_hash(&g->tuning) ^ (uint64_t)g->heap_bytes * 0x9e3779b97f4a7c15u;
    h ^= (uint64_t)g->timeout_ms << 32 | (uint64_t)g->n_channels << 8 | (uint64_t)g->native;
    for (const char *p = g->backend->name; *p != '\0'; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001b3u;
    for (const char *p = g->arch; *p != '\0'; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001b3u;
    return h;
}

static uint32_t channels_of(const struct coll_args *args)
{
    return args->channels != 0 ? args->channels : 1;
}

static void fill(struct coll_group *g, const struct bootstrap *b, const struct coll_args *args,
    const struct coll_backend *backend)
{
    uint32_t n = channels_of(args);
    g->heap_bytes = page_round((size_t)args->heap_bytes);
    g->device = args->device;
    g->arch = args->device != NULL ? args->device->arch : "host";
    g->native = args->native;
    for (uint32_t k = 0; k < n; k++) {
        g[k].rank = b->rank;
        g[k].size = b->size;
        g[k].backend = backend;
        g[k].reduce = reduce_best();
        g[k].segment = &g->own_segment;
        g[k].timeout_ms = args->timeout_ms != 0 ? args->timeout_ms : DEFAULT_TIMEOUT_MS;
        g[k].shm.pauses = args->spin ? SHM_PAUSES_SPIN : SHM_PAUSES_YIELD;
        g[k].shm.heap_bytes = g->heap_bytes;
        g[k].main = g;
        g[k].channel = k;
        g[k].n_channels = n;
    }
}

// All members have the back end, or none.
static enum status open_backend(
    struct coll_group *g, struct bootstrap *b, const struct coll_args *args, struct error *err)
{
    struct error local = {0};
    uint32_t all[COLL_RANKS_MAX], mine = g->backend->open(g, b, args, &local);
    enum status st = b->all_gather(b, &mine, sizeof mine, all, err);
    if (mine != STATUS_OK)
        return status_fail(err, (enum status)mine, "%s", local.text);
    TRY(st);
    for (uint32_t r = 0; r < g->size; r++)
        if (all[r] != STATUS_OK)
            return status_fail(err, all[r] < STATUS_COUNT ? (enum status)all[r] : STATUS_PEER_GONE,
                "rank %u could not open the back end %s", (unsigned)r, g->backend->name);
    return STATUS_OK;
}

static enum status open_all(
    struct coll_group *g, struct bootstrap *b, const struct coll_args *args, struct error *err)
{
    struct segment_args sa = {.name = "phalanx-group",
        .body_bytes = g->backend->segment_bytes(g->size, g->n_channels, g->heap_bytes),
        .fingerprint = fingerprint(g)};
    TRY(segment_open(b, &sa, &g->own_segment, err));
    tuning_narrow(&g->tuning, g->arch, g->size);
    enum status st = open_backend(g, b, args, err);
    if (st != STATUS_OK) {
        g->backend->close(g);
        segment_close(&g->own_segment);
    }
    for (uint32_t k = 1; k < g->n_channels; k++)
        g[k].heap = g->heap;
    return st;
}

// The first back end that comes up on all ranks: whether it does is known only when they try, and
// all of them fail or none. The sentence is that of the preferred one.
static enum status open_first(struct coll_group *g, struct bootstrap *b,
    const struct coll_args *args, const struct group_choices *choices, struct error *err)
{
    const struct tuning tuning = g->tuning;
    enum status first = STATUS_OK;
    for (uint32_t i = 0; i < choices->n; i++) {
        memset(g, 0, channels_of(args) * sizeof *g);
        fill(g, b, args, choices->of[i]);
        g->tuning = tuning;
        enum status st = open_all(g, b, args, i == 0 ? err : NULL);
        if (st == STATUS_OK)
            return st;
        first = i == 0 ? st : first;
    }
    return first;
}

enum status coll_create(
    struct bootstrap *b, const struct coll_args *args, struct coll_group **out, struct error *err)
{
    struct error local = {0};
    struct group_choices choices = {0};
    struct tuning tuning = {0};
    enum status mine = check_args(args, &local);
    struct coll_group *g = mine == STATUS_OK ? calloc(channels_of(args), sizeof *g) : NULL;
    if (mine == STATUS_OK && g == NULL)
        mine = status_fail(&local, STATUS_NO_MEMORY, "no memory for a group");
    if (mine == STATUS_OK)
        mine = tuning_load(args->tuning_file, &tuning, &local);
    // A rank that cannot go on still meets the others, so that all of them fail and none waits.
    enum status st = group_choose(b, args, mine, &choices, mine == STATUS_OK ? err : NULL);
    if (mine != STATUS_OK)
        st = status_fail(err, mine, "%s", local.text);
    if (st == STATUS_OK) {
        g->tuning = tuning;
        st = open_first(g, b, args, &choices, err);
    }
    if (st != STATUS_OK) {
        free(g);
        return st;
    }
    *out = g;
    return STATUS_OK;
}

void coll_destroy(struct coll_group *g)
{
    if (g == NULL)
        return;
    check(g->main == g);
    g->backend->close(g);
    segment_close(&g->own_segment);
    free(g);
}

struct coll_group *coll_channel(struct coll_group *g, uint32_t index)
{
    return index < g->n_channels ? &g->main[index] : NULL;
}

uint32_t coll_rank(const struct coll_group *g)
{
    return g->rank;
}

uint32_t coll_size(const struct coll_group *g)
{
    return g->size;
}

bool coll_can_be_recorded(const struct coll_group *g)
{
    return g->backend->recorded;
}

const char *coll_backend_name(const struct coll_group *g)
{
    return g->backend->name;
}

void *coll_heap_take(struct coll_group *g, size_t bytes)
{
    struct coll_group *m = g->main;
    size_t left = m->heap_bytes - m->heap_used;
    if (bytes > left)
        return NULL;
    size_t rounded = (bytes + SEGMENT_LINE - 1) / SEGMENT_LINE * SEGMENT_LINE;
    uint8_t *at = m->heap + m->heap_used;
    m->heap_used += rounded < left ? rounded : left;
    return at;
}

bool coll_heap_holds(const struct coll_group *g, const void *p, size_t bytes)
{
    uintptr_t begin = (uintptr_t)g->heap, at = (uintptr_t)p;
    size_t all = g->main->heap_bytes;
    return at >= begin && at - begin <= all && bytes <= all - (at - begin);
}

void coll_slice(size_t total, uint32_t size, uint32_t rank, size_t *begin, size_t *count)
{
    size_t each = total / size, more = total % size;
    *begin = each * rank + (rank < more ? rank : more);
    *count = each + (rank < more);
}

void coll_explain(const struct coll_group *g, const char *operation, size_t bytes, bool symmetric,
    char *text, size_t n)
{
    const struct tuning *t = &g->main->tuning;
    bool reduces = strncmp(operation, "all_reduce", 10) == 0;
    if (!group_offers(operation))
        (void)snprintf(text, n, "%s: there is no such operation", operation);
    else if (g->size == 1)
        (void)snprintf(text, n, "%s: nothing to exchange in a group of one", operation);
    else
        (void)snprintf(text, n, "%s: %s %s for %zu %s bytes on %u ranks%s%s%s%s%s%s%s", operation,
            g->backend->name, g->backend->algorithm(g, operation, bytes, symmetric), bytes,
            symmetric ? "symmetric" : "private", (unsigned)g->size, reduces ? ", by the " : "",
            reduces ? (t->built_in ? "built-in" : "given") : "",
            reduces ? " table; sums on the " : "",
            reduces && !g->backend->on_device ? "host with " : "",
            !reduces                ? ""
            : g->backend->on_device ? g->arch
                                    : g->reduce->name,
            g->backend->reach != NULL ? "; memory is shared " : "",
            g->backend->reach != NULL ? g->backend->reach(g) : "");
}
