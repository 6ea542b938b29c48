// SPDX-License-Identifier: Apache-2.0
// What every bootstrap has to do, whatever it is made of.
#ifndef PHALANX_TESTS_COLLECTIVES_BOOTSTRAP_CASES_H
#define PHALANX_TESTS_COLLECTIVES_BOOTSTRAP_CASES_H

#include "tests/collectives/ranks.h"

// Gathers, shares descriptors, splits. `processes` is not NULL where the other ranks are processes:
// then there have to be handles of them. Returns 0 if all is right; a ranks_fn.
int bootstrap_cases(struct bootstrap *b, void *processes);

#endif
