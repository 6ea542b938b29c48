// SPDX-License-Identifier: Apache-2.0
// Which instruction sets this CPU and its operating system offer.
#ifndef PHALANX_KERNELS_CPU_CPUID_H
#define PHALANX_KERNELS_CPU_CPUID_H

#include "base/status.h"

enum cpu_isa {
    CPU_ISA_PLAIN,  // C only, any x86-64
    CPU_ISA_AVX2,   // AVX2, FMA, F16C
    CPU_ISA_AVX512, // AVX-512 F, BW, VL, DQ besides
    CPU_ISA_COUNT
};

// Widest one that runs here.
enum cpu_isa cpuid_best(void);
const char *cpuid_name(enum cpu_isa isa);
// "auto", "plain", "avx2" or "avx512"; NULL is "auto". A sentence where this CPU lacks it.
enum status cpuid_choose(const char *name, enum cpu_isa *out, struct error *err);

#endif
