// SPDX-License-Identifier: Apache-2.0
// The seams inside linear: linear.c splits the work into tasks, which are ranges of rows of w;
// linear_avx2.c and linear_avx512.c have the inner loops (linear_tile.inc).
//
//   w [N, K]        x [M, K], prepared
//   +-----------+   +-----------+    A tile is NR rows of w times MR rows of x: NR * MR sums of
//   |  NR rows  | x |  MR rows  |    sixteen lanes, which stay in registers all along K. Weights
//   +-----------+   +-----------+    are widened as they are read; the lanes of each sum are added
//   |    ...    |   |    ...    |    in canon.h's tree at the end.
//
// For a few rows of x at a time (they stay in the second cache) the tiles of all of them follow one
// another for the same rows of w, which then come from the first cache; meanwhile memory is asked
// for the rows of w after them. One row of x is bound by memory alone: it asks a little ahead.
//
// x is copied once, each row padded with +0 to a multiple of sixteen; the tail of a row of w is
// padded with -0, since fma(+0, -0, a) is exactly a for every a, even -0.
#ifndef PHALANX_KERNELS_CPU_LINEAR_INTERNAL_H
#define PHALANX_KERNELS_CPU_LINEAR_INTERNAL_H

#include "kernels/cpu/canon.h"
#include "kernels/cpu/cpu.h"

enum {
    LINEAR_AHEAD = 10240,  // bytes asked for ahead with one row of x, all streams together
    LINEAR_ROWS_UNIT = 12, // tasks have a multiple of this many rows of w, and so whole tiles
    // Prepared rows lie this many floats further apart than they are long: with a power of two
    // between them they would meet in one set of the cache.
    LINEAR_X_PAD = 32,
};

// Rows n .. n + n_rows - 1 of w against all m rows of x; out[i * out_stride + j] for row i of x and
// row n + j of w.
struct linear_dot {
    const struct weight *w;
    uint32_t n, n_rows;
    const float *x; // [m][x_stride], prepared, aligned to 64 bytes
    uint32_t x_stride, m;
    float *out;
    uint64_t out_stride;
};

struct linear_isa {
    // Copies one row of x: k elements, padded with +0 up to k rounded up to 16, in the order that
    // `dot` wants.
    void (*prepare)(float *to, const float *x, uint32_t k);
    void (*dot)(const struct linear_dot *a);
};

extern const struct linear_isa linear_avx2, linear_avx512;

static inline uint32_t linear_min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t linear_max(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static inline uint32_t linear_div_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

#endif
