// SPDX-License-Identifier: Apache-2.0
// The seams inside linear: linear.c picks a form, linear_dot.c and linear_panel.c split its work
// into tasks, linear_avx2.c and linear_avx512.c have the inner loops. Two forms compute the same
// bits, since lanes are independent of one another:
//
//   dot    few rows of x. Sixteen accumulators for each output run along K. x is copied once, each
//          row padded with +0 to a multiple of sixteen; the tail of a row of w is padded with -0,
//          since fma(+0, -0, a) is exactly a for every a, even -0.
//   panel  many rows of x. x is transposed once into panels of P rows, sorted by lane. Rows of w
//          are widened into a small buffer, and for each lane by itself a tile of R x P
//          accumulators takes one element of each of R rows of w times P rows of x. The lanes'
//          tiles go to memory and are added in canon.h's tree at the end.
#ifndef PHALANX_KERNELS_CPU_LINEAR_INTERNAL_H
#define PHALANX_KERNELS_CPU_LINEAR_INTERNAL_H

#include "kernels/cpu/canon.h"
#include "kernels/cpu/cpu.h"

enum {
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

// A few rows of w over a part of K: where they lie and where they are widened to.
struct linear_block {
    enum dtype dtype;
    uint32_t rows, k; // k: elements of each, at most LINEAR_KC
    const char *from[LINEAR_TILE_ROWS];
    float *wide; // [rows][LINEAR_KC_STRIDE], padded with -0 to a multiple of sixteen
};

// A tile of the panel form: for each lane l, partial[l][r][i] goes on from what it holds (`first`:
// from +0) with the block's elements.
struct linear_tile {
    const struct linear_block *w; // widened
    uint32_t p;                   // rows of x in the panel
    const float *x;               // [16][steps][p], x[lane][j][i] = element 16 * j + lane of row i
    bool first;
    float *partial; // [16][rows][p]
    // Each lane does a sixteenth of what will be needed later, which costs little beside the
    // multiplications: widens the next block, and asks memory for the one after. Either may be
    // NULL.
    const struct linear_block *next, *after;
};

struct linear_isa {
    uint32_t panel_from;     // from this many rows of x on, the panel form is faster
    uint32_t panel_rows;     // rows of x in a panel, but for the last, which may have
    uint32_t panel_rows_min; // this many
    uint32_t tile_rows;      // rows of w that are widened together

    // Copies one row of x for the dot form: k elements, padded with +0 up to k rounded up to 16.
    // `t` is the type of the weights, which may want another order inside each group of 16.
    void (*dot_prepare)(float *to, const float *x, uint32_t k, enum dtype t);
    void (*dot)(const struct linear_dot *a);
    // Transposes n_steps groups of sixteen elements of p rows: to[(lane * n_steps + j) * p + i] =
    // rows[i][16 * j + lane]. Every row has k elements; +0 stands for those beyond.
    void (*pack)(float *to, const float *const *rows, uint32_t p, uint32_t k, uint32_t n_steps);
    // Widens the sixteenth `slice` of a block.
    void (*widen)(const struct linear_block *b, uint32_t slice);
    void (*tile)(const struct linear_tile *a);
    // out[i * out_stride + r] = tree of partial[l][r][i] over the lanes, for r < rows, i < m <= p.
    // `sum` has room for rows * p floats.
    void (*finish)(const float *partial, float *sum, uint32_t rows, uint32_t p, uint32_t m,
        float *out, uint64_t out_stride);
};

extern const struct linear_isa linear_avx2, linear_avx512;

// Rows first_row .. first_row + n_rows - 1 of one call, by one form.
struct linear_job {
    const struct linear_args *a;
    const struct linear_isa *isa;
    const struct device *d;
    uint32_t n, k, k16; // k16: k rounded up to 16
    uint32_t first_row, n_rows;
    float *x; // prepared rows or panels, in d->shared
};

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

static inline const float *linear_x_row(const struct linear_args *a, uint32_t m)
{
    uint32_t row = a->row_ids != NULL ? a->row_ids[m] : m;
    return a->x + (uint64_t)row * a->x_stride;
}

// Adds the bias, if there is one, to columns n .. n + n_columns - 1 of the rows.
void linear_add_bias(const struct linear_args *a, uint32_t n, uint32_t n_columns,
    uint32_t first_row, uint32_t n_rows);

void linear_dot_run(const struct linear_job *job);

// Rows of x that one linear_panel_run may have, a multiple of panel_rows; 0: none, K is too large.
uint32_t linear_panel_rows_max(const struct linear_job *job);
void linear_panel_run(const struct linear_job *job);

#endif
