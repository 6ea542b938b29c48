// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most, measured now: benches call these just before and just after
// each row and print the row as a ratio, which survives neighbours and clock changes that absolute
// numbers do not.
#ifndef PHALANX_BENCH_LIMITS_H
#define PHALANX_BENCH_LIMITS_H

#include "kernels/cpu/cpuid.h"

#include <stddef.h>
#include <stdint.h>

struct limits;

// Starts a team of n_threads and takes a buffer of `bytes` (0: 512 MiB) to read from. `isa` is one
// that this CPU has; plain measures nothing and is taken as AVX2.
enum status limits_open(
    uint32_t n_threads, enum cpu_isa isa, size_t bytes, struct limits **out, struct error *err);
void limits_close(struct limits *l);

// Each takes about 30-100 ms and returns the best of a few passes: in the first the threads may
// still share a core.
double limits_read_gbs(struct limits *l);   // memory read, GB/s (10^9)
double limits_fma_gflops(struct limits *l); // fp32 multiply and add, GFLOP/s
double limits_int8_gops(struct limits *l);  // u8 x s8 into s32, multiply and add, GOP/s

// Median of n numbers, which are reordered.
double limits_median(double *v, size_t n);
// Seconds since some fixed moment, in nanoseconds' steps.
double limits_now_s(void);

// ---- the loops, one set for each instruction set (limits_avx2.c, limits_avx512.c) --------------

struct limits_loops {
    // Reads n bytes, a multiple of 64 * streams, as that many streams side by side.
    uint64_t (*read)(const void *p, size_t n, int streams);
    double (*fma)(uint64_t rounds); // floating-point operations done
    double (*int8)(uint64_t rounds);
};
extern const struct limits_loops limits_avx2, limits_avx512;

#endif
