// SPDX-License-Identifier: Apache-2.0
#include "coordinator/kv_blocks.h"

#include "base/check.h"
#include "coordinator/core_mutant.h"
#include "coordinator/prefix.h"

#include <string.h>

static uint32_t bucket_count(uint32_t n)
{
    uint32_t count = 1;
    while (count < n)
        count *= 2;
    return count;
}

size_t kv_blocks_bytes(uint32_t n, uint32_t block_tokens)
{
    return ((size_t)n + 1) * sizeof(struct kv_block) + (size_t)n * block_tokens * 4 +
           (size_t)bucket_count(n) * 4;
}

static void list_insert(struct kv_blocks *kv, uint32_t b, uint32_t after)
{
    struct kv_block *block = &kv->block[b];
    block->prev = after;
    block->next = kv->block[after].next;
    kv->block[block->next].prev = b;
    kv->block[after].next = b;
    kv->n_free++;
}

static void list_remove(struct kv_blocks *kv, uint32_t b)
{
    struct kv_block *block = &kv->block[b];
    kv->block[block->prev].next = block->next;
    kv->block[block->next].prev = block->prev;
    kv->n_free--;
}

void kv_blocks_init(struct kv_blocks *kv, uint32_t n, uint32_t block_tokens, void *memory)
{
    *kv = (struct kv_blocks){.n = n, .block_tokens = block_tokens, .n_buckets = bucket_count(n)};
    kv->block = memory;
    kv->ids = (uint32_t *)(void *)(kv->block + n + 1);
    kv->bucket = kv->ids + (size_t)n * block_tokens;
    memset(kv->bucket, 0xff, (size_t)kv->n_buckets * 4);
    kv->block[n] = (struct kv_block){.prev = n, .next = n};
    for (uint32_t b = 0; b < n; b++) {
        kv->block[b] = (struct kv_block){.chain = KV_BLOCKS_NONE};
        list_insert(kv, b, kv->block[n].prev);
    }
}

uint32_t kv_blocks_take(struct kv_blocks *kv)
{
    if (kv->n_free == 0)
        return KV_BLOCKS_NONE;
    uint32_t b = kv->block[kv->n].next;
    list_remove(kv, b);
    if (kv->block[b].cached && !MUTANT(EVICTED_BLOCK_STAYS_CACHED))
        prefix_drop(kv, b);
    kv->block[b].refs = 1;
    return b;
}

void kv_blocks_share(struct kv_blocks *kv, uint32_t b)
{
    if (kv->block[b].refs == 0)
        list_remove(kv, b);
    if (!MUTANT(SHARED_BLOCK_NOT_COUNTED) || kv->block[b].refs == 0)
        kv->block[b].refs++;
}

bool kv_blocks_give(struct kv_blocks *kv, uint32_t b)
{
    struct kv_block *block = &kv->block[b];
    check(block->refs > 0);
    if (--block->refs > 0)
        return false;
    list_insert(kv, b, block->cached ? kv->block[kv->n].prev : kv->n);
    return true;
}

static bool list_check(const struct kv_blocks *kv)
{
    uint32_t count = 0;
    for (uint32_t b = kv->block[kv->n].next; b != kv->n; b = kv->block[b].next) {
        if (b > kv->n || kv->block[b].refs || kv->block[kv->block[b].next].prev != b ||
            ++count > kv->n)
            return false;
    }
    return count == kv->n_free && kv->n_reserved <= kv->n_free;
}

bool kv_blocks_check(const struct kv_blocks *kv, const uint32_t *refs)
{
    uint32_t n_free = 0, n_cached = 0, n_indexed = 0;
    for (uint32_t b = 0; b < kv->n; b++) {
        if (kv->block[b].refs != refs[b])
            return false;
        n_free += refs[b] == 0;
        n_cached += kv->block[b].cached;
    }
    for (uint32_t i = 0; i < kv->n_buckets; i++)
        for (uint32_t b = kv->bucket[i]; b != KV_BLOCKS_NONE; b = kv->block[b].chain)
            if (!kv->block[b].cached || ++n_indexed > kv->n)
                return false;
    return n_free == kv->n_free && n_cached == n_indexed && list_check(kv);
}
