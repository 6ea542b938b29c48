// SPDX-License-Identifier: Apache-2.0
// limits [THREADS]: prints this machine's limits at 1 and THREADS (2) threads.
#include "bench/limits.h"

#include <stdio.h>
#include <stdlib.h>

static int row(uint32_t n_threads, enum cpu_isa isa)
{
    struct error err;
    struct limits *l;
    if (limits_open(n_threads, isa, 0, &l, &err) != STATUS_OK) {
        fprintf(stderr, "limits: %s\n", err.text);
        return 1;
    }
    enum { ROUNDS = 5 };
    double read[ROUNDS], fma[ROUNDS], int8[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        read[i] = limits_read_gbs(l);
        fma[i] = limits_fma_gflops(l);
        int8[i] = limits_int8_gops(l);
    }
    printf("| %s | %u | %.1f | %.0f | %.0f |\n", cpuid_name(isa), n_threads,
        limits_median(read, ROUNDS), limits_median(fma, ROUNDS), limits_median(int8, ROUNDS));
    limits_close(l);
    return 0;
}

int main(int argc, char **argv)
{
    long most = argc > 1 ? strtol(argv[1], NULL, 10) : 2;
    if (most < 1 || most > 256) {
        fprintf(stderr, "usage: limits [THREADS], 1 to 256\n");
        return 2;
    }
    printf("| instructions | threads | read GB/s | fp32 GFLOP/s | int8 GOP/s |\n");
    printf("| --- | --- | --- | --- | --- |\n");
    int rc = 0;
    for (int isa = CPU_ISA_AVX2; isa <= (int)cpuid_best(); isa++) {
        rc |= row(1, (enum cpu_isa)isa);
        if (most > 1)
            rc |= row((uint32_t)most, (enum cpu_isa)isa);
    }
    return rc;
}
