// SPDX-License-Identifier: Apache-2.0
// The prefix index: finds KV blocks by what they hold. The key of a block is a chain,
// H(key of the blocks before it, its ids), and the chain begins with everything else that the
// bytes depend on. SipHash with a secret key, 128 bits; on a hit the ids and the parent's key are
// compared as well.
#ifndef PHALANX_COORDINATOR_PREFIX_H
#define PHALANX_COORDINATOR_PREFIX_H

#include "coordinator/kv_blocks.h"

// What two sequences must have in common beside their ids to share blocks.
struct prefix_extra {
    uint32_t tenant, adapter, kv_format, pad; // pad is zero
    struct hash128 salt;                      // of the client
};

struct hash128 prefix_root(struct hash_key secret, const struct prefix_extra *extra);
// The key of a block: `ids` [n], n at most LIMIT_BLOCK_TOKENS, after the prefix `parent`.
struct hash128 prefix_next(
    struct hash_key secret, struct hash128 parent, const uint32_t *ids, uint32_t n);

// The block with this key, parent and ids [block_tokens]; KV_BLOCKS_NONE if there is none.
uint32_t prefix_find(
    const struct kv_blocks *kv, struct hash128 key, struct hash128 parent, const uint32_t *ids);
// Enters a used block. Where another block has this key already, nothing happens.
void prefix_put(struct kv_blocks *kv, uint32_t b, struct hash128 key, struct hash128 parent,
    const uint32_t *ids);
// Takes a cached block out of the index.
void prefix_drop(struct kv_blocks *kv, uint32_t b);

#endif
