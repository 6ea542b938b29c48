// SPDX-License-Identifier: Apache-2.0
// Planted bugs: MUTANT(NAME) is 0 in the product. tests/coordinator compiles a copy of the core
// with CORE_MUTANTS, turns on one bug at a time, and demands that the simulation finds each. The
// list, with what each breaks, is core_mutants.def.
#ifndef PHALANX_COORDINATOR_CORE_MUTANT_H
#define PHALANX_COORDINATOR_CORE_MUTANT_H

#ifdef CORE_MUTANTS

enum core_mutant_name {
    CORE_MUTANT_NONE,
#define X(name, what) CORE_MUTANT_##name,
#include "coordinator/core_mutants.def"
#undef X
    CORE_MUTANT_COUNT
};
extern enum core_mutant_name core_mutant;
#define MUTANT(name) (core_mutant == CORE_MUTANT_##name)

#else
#define MUTANT(name) 0
#endif

#endif
