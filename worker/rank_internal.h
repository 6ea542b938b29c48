// SPDX-License-Identifier: Apache-2.0
// The parts of a rank, shared by its bring-up (rank.c) and its work (rank_run.c).
#ifndef PHALANX_WORKER_RANK_INTERNAL_H
#define PHALANX_WORKER_RANK_INTERNAL_H

#include "collectives/cuda/plugin.h"
#include "collectives/ring.h"
#include "model/safetensors.h"
#include "worker/kv_cache.h"
#include "worker/rank.h"
#include "worker/sample.h"
#include "worker/session.h"

enum { RANK_HEAP_SLACK_BYTES = 1 << 16 }; // of the symmetric heap

// What a rank needs of its device beside its KV cache, in bytes, as the ranks tell each other.
struct rank_bill {
    uint64_t host;
    uint8_t uuid[16]; // of the device
    uint64_t free, total;
    uint64_t weights, activations, workspace, samplers, heap, graphs;
};

// The ranks of one device, this one among them.
struct rank_share {
    uint32_t n_ranks;
    uint64_t free, needs; // of all of them
};

struct rank {
    struct rank_options options;
    struct bootstrap *bootstrap; // borrowed
    struct rank_info info;
    struct model_config model;
    struct shard shard;
    const struct kernels *kernels;
    enum dtype activation;
    struct device *device;
    struct safetensors *files;
    struct weights_plan plan;
    struct weights weights;
    struct bill_kv bill;
    uint32_t n_blocks;
    struct rank_bill bill_of_device; // zeroed where the host's memory is computed in
    struct rank_share share;
    uint32_t rows_that_fit; // where all of them do not: a smaller step; 0: none does
    struct kv_cache kv;
    struct coll_device coll_device; // opened where the group is on the device
    bool group_on_device;
    struct coll_group *group; // NULL: a group of one
    struct ring *ring;        // NULL: a group of one
    struct forward *forward;
    struct sampler *sampler;
    struct session *session;
    struct buf copy; // of a message of the ring, where it is not aligned
};

// The memory of a rank: what it needs, what the ranks that share its device need (collective), and
// then the number of KV blocks and the context length from what the memory of the host or of the
// device leaves.
enum status rank_memory_measure(struct rank *r, struct error *err);
enum status rank_memory_exchange(struct rank *r, struct error *err);
enum status rank_memory_size(struct rank *r, struct error *err);
// The bill, when the KV cache is there; empty where the host's memory is computed in.
void rank_memory_print(const struct rank *r, char *text, size_t n);
// Bytes of the group's symmetric heap.
uint64_t rank_memory_heap_bytes(const struct rank *r);
// The ranks of this rank's host.
uint32_t rank_memory_sharers(const struct rank *r);

#endif
