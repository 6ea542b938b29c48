// SPDX-License-Identifier: Apache-2.0
#include "worker/local.h"

#include "base/check.h"
#include "collectives/bootstrap.h"

#include <pthread.h>
#include <stdlib.h>

struct member {
    pthread_t thread;
    bool started;
    const struct rank_options *options;
    struct bootstrap *bootstrap;
    struct rank *rank;
    enum status status;
    struct error err;
};

struct local_group {
    uint32_t degree;
    struct rank_options options;
    struct member member[COLL_RANKS_MAX];
};

static void *follow(void *arg)
{
    struct member *m = arg;
    m->status = rank_open(m->options, m->bootstrap, NULL, &m->rank, &m->err);
    if (m->status == STATUS_OK) {
        m->status = rank_follow(m->rank, &m->err);
        if (m->status != STATUS_OK)
            rank_abort(m->rank);
    }
    rank_close(m->rank);
    m->bootstrap->close(m->bootstrap);
    return NULL;
}

static enum status join_all(struct local_group *g, struct error *err)
{
    enum status s = STATUS_OK;
    for (uint32_t i = 1; i < g->degree; i++) {
        struct member *m = &g->member[i];
        if (m->started)
            pthread_join(m->thread, NULL);
        if (m->status != STATUS_OK && s == STATUS_OK)
            s = status_fail(err, m->status, "%s", m->err.text);
    }
    return s;
}

enum status local_open(const struct rank_options *options, uint32_t degree,
    struct local_group **out, struct error *err)
{
    check(degree >= 1 && degree <= COLL_RANKS_MAX);
    struct local_group *g = calloc(1, sizeof *g);
    struct bootstrap *b[COLL_RANKS_MAX];
    if (!g)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a group of %u", degree);
    enum status s = bootstrap_threads(degree, b, err);
    if (s != STATUS_OK) {
        free(g);
        return s;
    }
    g->degree = degree;
    g->options = *options;
    for (uint32_t i = 0; i < degree; i++) {
        struct member *m = &g->member[i];
        m->options = &g->options;
        m->bootstrap = b[i];
        // Without its thread a group cannot come up, and nothing here could go on.
        if (i > 0)
            check(pthread_create(&m->thread, NULL, follow, m) == 0);
        m->started = i > 0;
    }
    struct member *first = &g->member[0];
    s = rank_open(&g->options, first->bootstrap, NULL, &first->rank, err);
    if (s == STATUS_OK)
        s = rank_reset(first->rank, 1, 1, err);
    if (s != STATUS_OK) {
        rank_close(first->rank);
        first->bootstrap->close(first->bootstrap);
        join_all(g, NULL);
        free(g);
        return s;
    }
    *out = g;
    return STATUS_OK;
}

enum status local_close(struct local_group *g, struct error *err)
{
    if (!g)
        return STATUS_OK;
    struct member *first = &g->member[0];
    if (rank_stop(first->rank, NULL) != STATUS_OK)
        rank_abort(first->rank);
    enum status s = join_all(g, err);
    rank_close(first->rank);
    first->bootstrap->close(first->bootstrap);
    free(g);
    return s;
}

struct rank *local_rank(struct local_group *g)
{
    return g->member[0].rank;
}
