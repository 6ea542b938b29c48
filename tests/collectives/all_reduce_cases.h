// SPDX-License-Identifier: Apache-2.0
// One all-reduce of a group against the rank-order reference, bit for bit. The quick and the long
// test share it.
#ifndef PHALANX_TESTS_COLLECTIVES_ALL_REDUCE_CASES_H
#define PHALANX_TESTS_COLLECTIVES_ALL_REDUCE_CASES_H

#include "tests/collectives/ranks.h"

struct all_reduce_case {
    size_t count;
    size_t offset; // elements from an aligned address
    enum dtype dtype;
    enum coll_op op;
    bool symmetric, integers;
    uint64_t seed;
};

// `room` is a buffer of the group's heap or of this rank, as the case says, with at least 64 bytes
// more than the data at its end; what lies around the data must stay. Returns 0 if all is right.
int all_reduce_case(struct coll_group *g, void *room, const struct all_reduce_case *c);

#endif
