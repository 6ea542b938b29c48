// SPDX-License-Identifier: Apache-2.0
// How one product [M, K] x [N, K]^T is cut into blocks. Which kernel runs and how many blocks share
// K may depend on M and on the device; `segment` may not: it decides the order of the sums, and so
// the bits. What was measured is data, in linear.def.
#ifndef PHALANX_KERNELS_CUDA_LINEAR_PLAN_H
#define PHALANX_KERNELS_CUDA_LINEAR_PLAN_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum linear_kernel {
#define LINEAR_KERNEL(NAME, n_tile, m_tile) LINEAR_##NAME,
#include "kernels/cuda/linear.def"
#undef LINEAR_KERNEL
    LINEAR_KERNEL_COUNT
};

enum {
    LINEAR_WARPS = 8,         // of a block of the ROWS kernels; each sums one segment
    LINEAR_SEGMENT_UNIT = 64, // elements of K
    LINEAR_SPLITS_MAX = 8,
    LINEAR_PARTIALS_MAX = 4 << 20, // floats, of one product; linear_plan_make stays below
    LINEAR_TICKETS_MAX = 1024,
};

struct linear_shape {
    uint32_t m, n, k;
    bool half;  // x and w are of one 16-bit type: tensor cores multiply them
    bool gated; // gate and up rows of one output in one block
    uint32_t n_sms;
};

struct linear_plan {
    enum linear_kernel kernel;
    uint32_t segment, n_segments; // K in pieces that are summed alone, then added in their order
    uint32_t splits;              // blocks that share K, each some of the segments
    uint32_t n_tiles, m_tiles;
};

struct linear_plan linear_plan_make(const struct linear_shape *s);
// For groups of rows with a weight each: s->m rows in all, `n_groups` of them have rows. K has at
// most LINEAR_WARPS segments and nobody shares it; m_tiles is an upper bound.
struct linear_plan linear_plan_grouped(const struct linear_shape *s, uint32_t n_groups);

// Rows of w and of x in a tile.
uint32_t linear_plan_n_tile(enum linear_kernel kernel);
uint32_t linear_plan_m_tile(enum linear_kernel kernel);
const char *linear_plan_name(enum linear_kernel kernel);

// Floats that blocks which share K exchange, and tickets by which the last of them knows that it
// is.
size_t linear_plan_partials(const struct linear_plan *p, const struct linear_shape *s);
uint32_t linear_plan_tickets(const struct linear_plan *p);

#ifdef __cplusplus
}
#endif

#endif
