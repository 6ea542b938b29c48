// SPDX-License-Identifier: Apache-2.0
// The seam between linear.c, which plans and splits the work, and its inner loops, one set for each
// instruction set. Two forms compute the same bits (lanes are independent of one another):
//
//   dot    few rows of x. Sixteen accumulators for each output run along K. x is copied once, each
//          row padded with +0 to a multiple of sixteen; the tail of a row of w is padded with -0,
//          since fma(+0, -0, a) is exactly a for every a, even -0.
//   panel  many rows of x. x is transposed once into panels of P rows, sorted by lane:
//          panel[lane][j][P] holds x[.., 16 j + lane]. Rows of w are widened into a small buffer,
//          and for each lane by itself a tile of R x P accumulators takes w broadcast times P rows
//          of x. The lanes' tiles go to memory and are added in canon.h's tree at the end.
#ifndef PHALANX_KERNELS_CPU_LINEAR_INTERNAL_H
#define PHALANX_KERNELS_CPU_LINEAR_INTERNAL_H

#include "kernels/cpu/canon.h"
#include "kernels/cpu/weight.h"

enum {
    LINEAR_DOT_ROWS = 8,    // most rows of x in the dot form
    LINEAR_TILE_ROWS = 12,  // most rows of w in a tile of the panel form
    LINEAR_PANEL_ROWS = 32, // most rows of x in a panel
    LINEAR_KC = 512,        // elements of a row of w that are widened at a time
    // Rows in the buffer are a cache line further apart, lest all meet in one set of the cache.
    LINEAR_KC_STRIDE = LINEAR_KC + 16,
    LINEAR_AHEAD = 8192, // bytes asked for ahead in the dot form, all streams together
};

// Rows n .. n + n_rows - 1 of w against all m rows of x; out[i * out_stride + j] for row i of x and
// row n + j of w. The rows are read as a few streams side by side, each as long as n_rows allows:
// memory is faster that way than row by row or in adjacent rows.
struct linear_dot {
    const struct weight *w;
    uint32_t n, n_rows;
    const float *x; // [m][x_stride], prepared by dot_prepare, aligned to 64 bytes
    uint32_t x_stride, m;
    float *out;
    uint64_t out_stride;
};

// A tile of the panel form over part of K: for each lane l, partial[l][r][i] goes on from what it
// holds (`first`: from +0) with n_steps groups of sixteen elements.
struct linear_tile {
    uint32_t rows, p;     // rows of w; rows of x in the panel
    const float *w;       // [rows][LINEAR_KC_STRIDE], widened, from the first step on
    const float *x;       // [n_steps][p] for lane 0, from the first step on
    uint64_t lane_stride; // from one lane's x to the next one's
    uint32_t n_steps;
    bool first;
    float *partial; // [16][rows][p]
    // Bytes of w that will be wanted next: `next_bytes` from each of n_next addresses on. Each lane
    // asks for its share, so that memory works while the tile computes.
    const char *next[LINEAR_TILE_ROWS];
    uint32_t n_next, next_bytes;
};

struct linear_isa {
    uint32_t dot_rows;       // rows of x that the dot form takes at once
    uint32_t panel_from;     // from this many rows of x on, the panel form is faster
    uint32_t panel_rows;     // rows of x in a panel, but for the last, which may have
    uint32_t panel_rows_min; // this many
    uint32_t tile_rows;      // rows of w that are widened together

    // Copies one row of x for the dot form: k elements, padded with +0 up to k rounded up to 16.
    // `t` is the type of the weights, which may want another order inside each group of 16.
    void (*dot_prepare)(float *to, const float *x, uint32_t k, enum dtype t);
    void (*dot)(const struct linear_dot *a);
    // Widens k elements; pads with -0 up to k rounded up to 16.
    void (*widen)(float *to, const void *from, uint32_t k, enum dtype t);
    // Transposes n_steps groups of sixteen elements of p rows: to[lane * lane_stride + j * p + i] =
    // rows[i][16 * j + lane]. Every row has k elements; +0 stands for those beyond.
    void (*pack)(float *to, uint64_t lane_stride, const float *const *rows, uint32_t p, uint32_t k,
        uint32_t n_steps);
    void (*tile)(const struct linear_tile *a);
    // out[r * p + i] = tree of partial[l][r][i] over the lanes, n = rows * p floats.
    void (*tree)(float *out, const float *partial, uint32_t n);
};

extern const struct linear_isa linear_avx2, linear_avx512;

#endif
