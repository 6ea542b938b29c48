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

// Chooses the number of KV blocks and the context length from what the memory of the host or of the
// device leaves beside weights and activations.
enum status rank_memory_size(struct rank *r, struct error *err);
// The ranks of this rank's host.
uint32_t rank_memory_sharers(const struct rank *r);

#endif
