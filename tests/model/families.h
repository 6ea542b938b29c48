// SPDX-License-Identifier: Apache-2.0
// The configurations of tests/golden/families: one of every architecture.
#ifndef PHALANX_TESTS_MODEL_FAMILIES_H
#define PHALANX_TESTS_MODEL_FAMILIES_H

#include "model/arch.h"

void families_each(void (*check)(const struct model_config *m));

#endif
