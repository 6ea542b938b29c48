// SPDX-License-Identifier: Apache-2.0
// The memory bill: what one rank of a model needs, before anything is loaded.
#ifndef PHALANX_MODEL_BILL_H
#define PHALANX_MODEL_BILL_H

#include "model/shard.h"

#include <stddef.h>

struct bill_kv {
    enum dtype dtype;
    uint32_t block_tokens;
    uint32_t n_groups;
    uint64_t block_bytes[MODEL_KV_GROUPS_MAX]; // K and V of one block over the group's layers here
    uint64_t block_bytes_all;                  // one block in every group
};

// Bytes of this rank's weights in the dtype that config.json declares; a tied head counts once.
enum status bill_weights(
    const struct model_config *m, const struct shard *s, uint64_t *bytes, struct error *err);

struct bill_kv bill_kv(
    const struct model_config *m, const struct shard *s, enum dtype dtype, uint32_t block_tokens);

// Blocks, the same number in every group, that fit into `budget_bytes`; at most UINT32_MAX.
uint32_t bill_blocks(const struct bill_kv *kv, uint64_t budget_bytes);

// Bytes of KV that `n_tokens` of one sequence take, whole blocks, all groups.
uint64_t bill_kv_sequence(const struct bill_kv *kv, uint32_t n_tokens);

// "1.1 GiB" for people; writes at most `n` bytes and returns `text`.
const char *bill_text(uint64_t bytes, char *text, size_t n);

#endif
