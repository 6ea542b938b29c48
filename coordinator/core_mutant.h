// SPDX-License-Identifier: Apache-2.0
// Planted bugs: MUTANT(n) is 0 in the product. The build of tests/coordinator that is made with
// CORE_MUTANTS turns on one of them at a time and demands that the simulation finds it; the list
// stands in tests/coordinator/mutants.def.
#ifndef PHALANX_COORDINATOR_CORE_MUTANT_H
#define PHALANX_COORDINATOR_CORE_MUTANT_H

#ifdef CORE_MUTANTS
extern int core_mutant;
#define MUTANT(n) (core_mutant == (n))
#else
#define MUTANT(n) 0
#endif

#endif
