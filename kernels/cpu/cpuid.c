// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpuid.h"

#include "base/check.h"

#include <cpuid.h>
#include <stdbool.h>
#include <string.h>

static const char *const names[CPU_ISA_COUNT] = {"plain", "avx2", "avx512"};

// CPUID leaf 1, ECX bit 29; clang's __builtin_cpu_supports does not know the name.
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1u) != 0;
}

// The compiler's run-time tests look at the operating system's support (XGETBV) as well.
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

enum cpu_isa cpuid_best(void)
{
    __builtin_cpu_init();
    return has_avx512() ? CPU_ISA_AVX512 : has_avx2() ? CPU_ISA_AVX2 : CPU_ISA_PLAIN;
}

const char *cpuid_name(enum cpu_isa isa)
{
    check((unsigned)isa < CPU_ISA_COUNT);
    return names[isa];
}

enum status cpuid_choose(const char *name, enum cpu_isa *out, struct error *err)
{
    enum cpu_isa best = cpuid_best();
    if (name == NULL || strcmp(name, "auto") == 0) {
        *out = best;
        return STATUS_OK;
    }
    for (unsigned i = 0; i < CPU_ISA_COUNT; i++)
        if (strcmp(name, names[i]) == 0) {
            if (i > (unsigned)best)
                return status_fail(err, STATUS_UNSUPPORTED,
                    "instruction set '%s' was asked for, but this CPU offers '%s'", name,
                    names[best]);
            *out = (enum cpu_isa)i;
            return STATUS_OK;
        }
    return status_fail(err, STATUS_INVALID,
        "instruction set '%s' is unknown; expected auto, plain, avx2 or avx512", name);
}
