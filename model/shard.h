// SPDX-License-Identifier: Apache-2.0
// Which part of a model one rank holds: tensor parallelism as in Megatron-LM (Shoeybi et al.,
// 2019), with uneven rows where a dimension does not divide, and KV heads replicated where there
// are fewer of them than ranks.
#ifndef PHALANX_MODEL_SHARD_H
#define PHALANX_MODEL_SHARD_H

#include "model/model_config.h"

struct shard {
    uint32_t tp_rank, tp_size;
    uint32_t layer_begin, layer_end; // pipeline stage
    // All of a model's experts: the rank has a slice of each. Fewer: it has these, whole.
    uint32_t expert_begin, expert_end;
};

// [begin, begin + count) of a dimension.
struct shard_range {
    uint32_t begin, count;
};

// The part of rank `rank` of `size` when `total` elements are dealt out in units of `unit`
// (quantization group, or 1): earlier ranks get the larger parts; parts cover all, in order.
struct shard_range shard_split(uint32_t total, uint32_t unit, uint32_t size, uint32_t rank);

// Query heads, KV heads, MLP columns and vocabulary rows of one rank. KV heads of several ranks
// overlap when n_kv_heads < tp_size.
struct shard_range shard_heads(const struct model_config *m, const struct shard *s);
struct shard_range shard_kv_heads(const struct model_config *m, const struct shard *s);
struct shard_range shard_ffn(const struct model_config *m, const struct shard *s);
// Columns of each expert, all of them where experts are placed whole; and of the shared one.
struct shard_range shard_expert_ffn(const struct model_config *m, const struct shard *s);
struct shard_range shard_shared_ffn(const struct model_config *m, const struct shard *s);
struct shard_range shard_vocab(const struct model_config *m, const struct shard *s);

// Whole experts of a rank where they are placed, and whether this shard has such.
struct shard_range shard_experts(const struct model_config *m, uint32_t tp_size, uint32_t tp_rank);
bool shard_places_experts(const struct model_config *m, const struct shard *s);

// Gives the rank whole experts of a mixture instead of slices of all; a sentence where the model is
// none, or has fewer experts than there are ranks.
enum status shard_place_experts(const struct model_config *m, struct shard *s, struct error *err);

// Whether the model can be cut into `tp_size` parts; the sentence names the degrees that work
// (among 1..64).
enum status shard_check(const struct model_config *m, uint32_t tp_size, struct error *err);

#endif
