// SPDX-License-Identifier: Apache-2.0
#include "tests/collectives/all_reduce_cases.h"

#include <stdlib.h>
#include <string.h>

// Large buffers repeat this many random elements: a prime, so that no chunk or slice begins where
// another does. It keeps the making of inputs from taking most of the time.
enum { PERIOD = 8191, GUARD = 32 };

static void repeat(uint8_t *to, size_t count, size_t e, const uint8_t *period)
{
    for (size_t i = 0; i < count; i += PERIOD)
        memcpy(to + i * e, period, (count - i < PERIOD ? count - i : PERIOD) * e);
}

static int same(const uint8_t *got, size_t count, size_t e, const uint8_t *period)
{
    for (size_t i = 0; i < count; i += PERIOD)
        WANT(memcmp(got + i * e, period, (count - i < PERIOD ? count - i : PERIOD) * e) == 0);
    return 0;
}

int all_reduce_case(struct coll_group *g, void *room, const struct all_reduce_case *c)
{
    size_t e = dtype_bytes(c->dtype), used = c->count < PERIOD ? c->count : PERIOD;
    uint8_t *at = (uint8_t *)room + c->offset * e;
    static _Thread_local uint8_t period[PERIOD * 4];
    ranks_fill(period, used, c->dtype, c->seed, coll_rank(g), c->integers);
    repeat(at, c->count, e, period);
    memset(at + c->count * e, 0x77, GUARD);
    WANT_OK(coll_all_reduce(g, &(struct coll_all_reduce_args){.buffer = at,
                                   .count = c->count,
                                   .dtype = c->dtype,
                                   .op = c->op,
                                   .symmetric = c->symmetric}));
    ranks_expect(period, used, c->dtype, c->op, c->seed, coll_size(g), c->integers);
    int rc = same(at, c->count, e, period);
    for (size_t i = 0; i < GUARD; i++)
        rc |= at[c->count * e + i] != 0x77;
    if (rc != 0)
        fprintf(stderr, "rank %u of %u: %zu %s, op %d, offset %zu, %s\n", (unsigned)coll_rank(g),
            (unsigned)coll_size(g), c->count, dtype_name(c->dtype), (int)c->op, c->offset,
            c->symmetric ? "symmetric" : "private");
    return rc;
}
