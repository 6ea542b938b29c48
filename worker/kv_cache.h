// SPDX-License-Identifier: Apache-2.0
// The pages of one rank: for each layer K and V, [n_blocks][n_kv_heads][block_tokens][head_dim].
// A page has a number, the same on every rank and in every layer of its KV group; what it holds is
// the coordinator's business. Memory is reserved at start and becomes resident as pages are first
// written, so that a quiet server stays small.
#ifndef PHALANX_WORKER_KV_CACHE_H
#define PHALANX_WORKER_KV_CACHE_H

#include "kernels/kernels.h"
#include "model/bill.h"

struct kv_cache {
    const struct kernels *kernels;
    struct device *device;
    uint32_t n_layers;      // of this rank
    struct kv_layer *layer; // [n_layers]
    uint32_t n_groups;
    uint32_t n_blocks[KERNELS_KV_GROUPS_MAX];
    uint8_t *memory;
    uint64_t bytes;
};

// `n_blocks` pages in every KV group.
enum status kv_cache_open(const struct kernels *kernels, struct device *device,
    const struct model_config *m, const struct shard *s, const struct bill_kv *bill,
    uint32_t n_blocks, struct kv_cache *out, struct error *err);
void kv_cache_close(struct kv_cache *c); // a zeroed one is allowed

// What decides the number of pages where the user does not; plain numbers, for tests.
struct kv_cache_wish {
    uint64_t budget_bytes;    // --kv-cache-memory; 0: as much as is sensible
    uint32_t percent;         // --kv-cache-percent of `available_bytes`; 0: not given
    uint64_t available_bytes; // free for the ranks that share it
    uint32_t default_percent; // of it, where neither is given
    uint32_t n_sharing;       // ranks
    uint32_t max_num_seqs;
    uint32_t max_model_len; // 0: not given, up to default_model_len
    uint32_t default_model_len;
};

// The number of pages, and the longest sequence that they hold (max_model_len, or less where it was
// not given). By default the given part of the available memory, but no more than max_num_seqs
// sequences of full length need. Fails where one sequence does not fit.
enum status kv_cache_size(const struct bill_kv *bill, const struct kv_cache_wish *wish,
    uint32_t *n_blocks, uint32_t *model_len, struct error *err);

#endif
