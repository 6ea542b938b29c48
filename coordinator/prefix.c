// SPDX-License-Identifier: Apache-2.0
#include "coordinator/prefix.h"

#include "base/check.h"
#include "coordinator/core_mutant.h"
#include "proto/limits.h"

#include <string.h>

struct hash128 prefix_root(struct hash_key secret, const struct prefix_extra *extra)
{
    struct prefix_extra e = *extra;
    if (MUTANT(CACHE_CROSSES_TENANTS))
        e.tenant = 0;
    return hash_128(secret, &e, sizeof e);
}

struct hash128 prefix_next(
    struct hash_key secret, struct hash128 parent, const uint32_t *ids, uint32_t n)
{
    struct {
        struct hash128 parent;
        uint32_t ids[LIMIT_BLOCK_TOKENS];
    } input;
    input.parent = parent;
    if (MUTANT(CHAIN_FORGETS_PARENT))
        input.parent = (struct hash128){0};
    memcpy(input.ids, ids, (size_t)n * 4);
    return hash_128(secret, &input, sizeof parent + (size_t)n * 4);
}

static bool same(struct hash128 a, struct hash128 b)
{
    return a.lo == b.lo && a.hi == b.hi;
}

uint32_t prefix_find(
    const struct kv_blocks *kv, struct hash128 key, struct hash128 parent, const uint32_t *ids)
{
    uint32_t b = kv->bucket[key.lo & (kv->n_buckets - 1)];
    for (; b != KV_BLOCKS_NONE; b = kv->block[b].chain) {
        const struct kv_block *block = &kv->block[b];
        if (MUTANT(HIT_ON_ANY_BLOCK))
            return b;
        if (same(block->key, key) &&
            (same(block->parent, parent) || MUTANT(CHAIN_FORGETS_PARENT)) &&
            memcmp(kv->ids + (size_t)b * kv->block_tokens, ids, (size_t)kv->block_tokens * 4) == 0)
            return b;
    }
    return KV_BLOCKS_NONE;
}

void prefix_put(struct kv_blocks *kv, uint32_t b, struct hash128 key, struct hash128 parent,
    const uint32_t *ids)
{
    struct kv_block *block = &kv->block[b];
    if (block->cached)
        return;
    uint32_t *bucket = &kv->bucket[key.lo & (kv->n_buckets - 1)];
    for (uint32_t other = *bucket; other != KV_BLOCKS_NONE; other = kv->block[other].chain)
        if (same(kv->block[other].key, key))
            return;
    memcpy(kv->ids + (size_t)b * kv->block_tokens, ids, (size_t)kv->block_tokens * 4);
    block->key = key;
    block->parent = parent;
    block->cached = true;
    block->chain = *bucket;
    *bucket = b;
}

void prefix_drop(struct kv_blocks *kv, uint32_t b)
{
    struct kv_block *block = &kv->block[b];
    uint32_t *at = &kv->bucket[block->key.lo & (kv->n_buckets - 1)];
    while (*at != b) {
        check(*at != KV_BLOCKS_NONE);
        at = &kv->block[*at].chain;
    }
    *at = block->chain;
    block->chain = KV_BLOCKS_NONE;
    block->cached = false;
}
