// SPDX-License-Identifier: Apache-2.0
// The KV blocks of one KV group of one model copy: who uses them, which are free, and which hold a
// prefix that others may share. Blocks are numbers; their bytes are the worker's.
//
// A block with references is used. Without, it is free and stands in a list from the one to be
// taken next to the one to be taken last; a free block may still be cached, and a hit takes it out
// of the middle of the list. The index of cached blocks is in prefix.h.
//
//   next to be taken -> [uncached ...][cached, oldest ... newest] <- given last
#ifndef PHALANX_COORDINATOR_KV_BLOCKS_H
#define PHALANX_COORDINATOR_KV_BLOCKS_H

#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_BLOCKS_NONE UINT32_MAX

struct kv_block {
    uint32_t refs;
    uint32_t prev, next;        // in the free list
    uint32_t chain;             // next of the same bucket of the index
    bool cached;                // the three below are set
    struct hash128 key, parent; // of the prefix that ends with this block, and without it
};

// Plain data; the arrays belong to the caller's memory.
struct kv_blocks {
    uint32_t n, block_tokens;
    uint32_t n_free;
    uint32_t n_reserved;    // free blocks promised to sequences that run (guaranteed_no_evict)
    struct kv_block *block; // [n + 1]; the last is the list's head
    uint32_t *ids;          // [n][block_tokens] of cached blocks
    uint32_t *bucket;       // [n_buckets]
    uint32_t n_buckets;     // a power of two
};

// Bytes that kv_blocks_init needs, and the set-up with all blocks free, in order.
size_t kv_blocks_bytes(uint32_t n, uint32_t block_tokens);
void kv_blocks_init(struct kv_blocks *kv, uint32_t n, uint32_t block_tokens, void *memory);

// A block with one reference, forgotten by the index; KV_BLOCKS_NONE if none is free.
uint32_t kv_blocks_take(struct kv_blocks *kv);
// One more reference to a block that the index found.
void kv_blocks_share(struct kv_blocks *kv, uint32_t b);
// One reference less. Returns true if the block is free now.
bool kv_blocks_give(struct kv_blocks *kv, uint32_t b);

// List, counts and index agree; `refs` [n] are the references that the caller counted.
bool kv_blocks_check(const struct kv_blocks *kv, const uint32_t *refs);

#endif
