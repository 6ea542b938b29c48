// SPDX-License-Identifier: Apache-2.0
// Every operation at a few sizes, bit for bit against the rank-order reference: what each back end
// has to pass.
#ifndef PHALANX_TESTS_COLLECTIVES_OP_CASES_H
#define PHALANX_TESTS_COLLECTIVES_OP_CASES_H

#include "tests/collectives/ranks.h"

enum { OP_CASES_HEAP_BYTES = 1 << 20 };

// Takes memory of the heap; a group of 1 to 8 ranks.
int op_cases(struct coll_group *g);

// One fused all-reduce, residual add and norm, and what has to come out.
struct norm_case {
    size_t n_rows, dim;
    enum dtype dtype;
    bool symmetric, weighted;
    uint64_t seed;
};
int op_cases_norm(struct coll_group *g, void *x, const struct norm_case *c);

#endif
