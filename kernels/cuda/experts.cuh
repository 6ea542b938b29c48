// SPDX-License-Identifier: Apache-2.0
// What the files of the op `experts` share.
//
//   router   logits of all rows, as any linear
//   route    probabilities and choices of each row; the last block makes a table of tiles,
//            each with rows of one expert, and the list of the rows in the order of experts
//   up       act(gate(x)) * up(x) of each tile's rows       a product of groups of rows: an expert
//   down                                                    that no row chose is not read
//   combine  a row's results times their probabilities, in ascending order of experts
//
// A choice is a pair of a row and an expert; `place` says where it lies in the order of experts,
// which within one expert is that of arrival: no result depends on it.
#ifndef PHALANX_KERNELS_CUDA_EXPERTS_CUH
#define PHALANX_KERNELS_CUDA_EXPERTS_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linear.cuh"

constexpr unsigned experts_nowhere = 0xffffffffu; // place of a choice that another rank computes

struct experts_routes {
    // Of all rows, in the caller's memory.
    uint32_t *expert;   // [n_rows, n_used]
    float *probability; // [n_rows, n_used]
    const float *logit; // [n_rows, n_experts]
    // Of the workspace.
    unsigned *rank;          // [n_rows, n_used] among the choices of its expert
    unsigned *place;         // [n_rows, n_used]
    unsigned *rows;          // [n_rows * n_used] the row of each place
    linear_group_tile *tile; // [n_rows * n_used at most]
    unsigned *n_tiles;
    unsigned *tickets;    // [1 + count] zeros, and left so
    const uint32_t *live; // how many rows there really are, where a step is recorded; NULL: n_rows
    unsigned n_rows, n_experts, n_used, begin, count, m_tile;
    bool renormalize;
};

cudaError_t experts_route(const experts_routes &r, struct device *d);

#endif
