// SPDX-License-Identifier: Apache-2.0
// The outputs of experts that are placed whole, each on one rank. Rows of a step are dealt out to
// the ranks; a rank sends what its experts made of a row to the row's owner, who adds in the order
// of ranks and gives the sum to all.
//
//   rank 0: experts 0, 1     row 0 -> 1, 2     owner of row 0: rank 0     rank 1 sends row 0 to it
//   rank 1: experts 2, 3     row 1 -> 2, 3     owner of row 1: rank 1     nobody sends
//
// Every rank has the rows themselves and knows who chose whom, so nothing else travels, and ranks
// that have no row for each other do not meet (a partial all-to-all). A shared expert, of which
// each rank has a slice, makes every rank send every row.
//
// On a device who has what is known there only, and the host does not wait for it: all ranks meet,
// with blocks whose sizes lie in device memory, and rows are dealt out in equal shares.
#ifndef PHALANX_WORKER_EXPERTS_H
#define PHALANX_WORKER_EXPERTS_H

#include "collectives/collectives.h"
#include "kernels/kernels.h"
#include "model/shard.h"

struct experts;

struct experts_open_args {
    const struct model_config *model;
    struct coll_group *group;
    uint32_t rows_max;
    const struct kernels *kernels;
    struct device *device;
    enum dtype activation; // f32 where activations are on the host
    void *stream;          // of the device, where the group is on it
};

// Symmetric heap that experts_open takes on each of `n_ranks` ranks.
uint64_t experts_heap_bytes(const struct model_config *m, uint32_t n_ranks, uint32_t rows_max);
// Rows that x needs room for, at least rows_max.
uint32_t experts_x_rows(uint32_t n_ranks, uint32_t rows_max);

// All pointers of `args` are borrowed. STATUS_NO_MEMORY without a sentence where there is none.
enum status experts_open(const struct experts_open_args *args, struct experts **out);
void experts_close(struct experts *e); // NULL is allowed

// x [n_rows, hidden_dim] of activations: in, this rank's part; out, the sum over ranks, the same
// bits on all; with room for experts_x_rows(). chosen [n_rows, n_experts_per_token]: the experts of
// each row, the same on all ranks. Both are in device memory, in the order of the stream. The
// group's error is final.
enum status experts_combine(struct experts *e, const uint32_t *chosen, uint32_t n_rows, void *x);

#endif
