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

#include "kernels/cpu/weight.h"

enum {
    LINEAR_DOT_ROWS = 8,    // most rows of x in the dot form
    LINEAR_TILE_ROWS = 12,  // most rows of w in a tile of the panel form
    LINEAR_PANEL_ROWS = 32, // most rows of x in a panel
    LINEAR_KC = 512,        // elements of a row of w that are widened at a time
    // Rows in the buffer are a cache line further apart, lest all meet in one set of the cache.
    LINEAR_KC_STRIDE = LINEAR_KC + 16,
};

// Rows n .. n + n_rows - 1 of w against all m rows of x; out[i * out_stride + j] for row i of x and
// row n + j of w.
struct linear_dot {
    const struct weight *w;
    uint32_t n, n_rows;
    const float *x; // [m][x_stride], prepared by dot_prepare, aligned to 64 bytes
    uint32_t x_stride, m;
    float *out;
    uint64_t out_stride;
};

// One tile of the panel form over part of K: for each lane l, partial[l][r][i] continues from what
// it holds (`first`: from +0) with steps j_begin .. j_end - 1 of the panel.
struct linear_tile {
    const float *w;         // [rows][LINEAR_KC_STRIDE], widened from k = 16 * j_begin on
    uint32_t rows, p;       // rows of w, rows of x in the panel
    const float *panel;     // [16][n_steps][p], see linear_panel_floats
    uint32_t k, j_begin, j_end;
    bool first;
    float *partial; // [16][rows][p]
};

struct linear_isa {
    uint32_t dot_rows;      // rows of x that the dot form takes at once, at most LINEAR_DOT_ROWS
    uint32_t panel_from;    // from this many rows of x on, the panel form is faster
    uint32_t tile_rows;     // rows of w in a full tile
    uint32_t panel_rows[2]; // sizes of panels, large and small

    // Copies one row of x for the dot form: k elements, padded with +0 up to k rounded up to 16.
    void (*dot_prepare)(float *to, const float *x, uint32_t k, enum dtype t);
    void (*dot)(const struct linear_dot *a);
    // Widens k elements of a row.
    void (*widen)(float *to, const void *row, uint32_t k, enum dtype t);
    // Transposes up to p rows (NULL: zeros) into a panel, lane by lane; elements 16 * j_begin on.
    void (*pack)(float *panel, const float *const *rows, uint32_t p, uint32_t k, uint32_t j_begin,
        uint32_t j_end);
    void (*tile)(const struct linear_tile *a);
    // out[i * out_stride + r] = tree of the lanes' partial[l][r][i], for r < rows, i < m <= p.
    void (*tree)(const float *partial, uint32_t rows, uint32_t p, uint32_t m, float *out,
        uint64_t out_stride);
};

extern const struct linear_isa linear_avx2, linear_avx512;

#endif
