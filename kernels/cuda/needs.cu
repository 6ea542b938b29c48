// SPDX-License-Identifier: Apache-2.0
// How much memory the ops will take at most, so that it can be left to them.
#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linear_plan.h"

namespace
{

// Of an executable graph, for each of its kernels: parameters and what the driver keeps of a node.
// A guess on the safe side, not measured.
constexpr uint64_t node_bytes = 4096;
constexpr uint64_t workspace_unit = 1 << 20;

uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

// Packed rows of x, what blocks exchange, and gate and up between a product and its activation.
uint64_t linear_bytes(const struct device *d, const struct mem_needs_args *a)
{
    uint64_t each = dtype_bytes(d->activation), rows = a->n_rows;
    uint64_t own = LINEAR_PARTIALS_MAX * sizeof(float) + rows * ((uint64_t)a->k_max + 64) * each;
    uint64_t theirs = d->determinism == DETERMINISM_RUN ? BLAS_WORKSPACE_BYTES : 0;
    return rows * a->n_act * each + larger(own, theirs);
}

} // namespace

void cuda_mem_needs(struct device *d, const struct mem_needs_args *a, struct mem_needs *out)
{
    uint64_t workspace = larger(linear_bytes(d, a), device_attention_bytes(d, a));
    workspace = larger(workspace, device_experts_bytes(d, a));
    *out = mem_needs();
    out->workspace = (workspace + workspace_unit - 1) / workspace_unit * workspace_unit +
                     DEVICE_TICKETS * sizeof *d->tickets;
    out->batch = device_batch_bytes(a->n_rows, a->n_seqs, a->n_tables);
    out->samplers = device_samplers_bytes(a->n_slots, a->vocab_size, a->ids_max);
    out->graphs = (uint64_t)a->n_ops * device_graphs_max() * node_bytes;
}
