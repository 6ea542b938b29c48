// SPDX-License-Identifier: Apache-2.0
#include "worker/kv_cache.h"

#include "base/check.h"
#include "proto/limits.h"

#include <stdlib.h>

_Static_assert((int)LIMIT_KV_GROUPS == (int)KERNELS_KV_GROUPS_MAX, "one number of KV groups");
_Static_assert((int)MODEL_KV_GROUPS_MAX == (int)KERNELS_KV_GROUPS_MAX, "one number of KV groups");

static uint64_t layer_bytes(const struct kv_layer *l, uint32_t n_blocks)
{
    return (uint64_t)n_blocks * l->n_kv_heads * l->block_tokens * l->head_dim *
           dtype_bytes(l->dtype);
}

enum status kv_cache_open(const struct kernels *kernels, struct device *device,
    const struct model_config *m, const struct shard *s, const struct bill_kv *bill,
    uint32_t n_blocks, struct kv_cache *out, struct error *err)
{
    struct kv_cache c = {.kernels = kernels,
        .device = device,
        .n_layers = s->layer_end - s->layer_begin,
        .n_groups = m->n_kv_groups};
    struct kv_layer shape = {.dtype = bill->dtype,
        .n_kv_heads = shard_kv_heads(m, s).count,
        .head_dim = m->head_dim,
        .block_tokens = bill->block_tokens};
    uint64_t each = (layer_bytes(&shape, n_blocks) + 4095) & ~(uint64_t)4095;
    c.bytes = each * 2 * c.n_layers;
    for (uint32_t g = 0; g < c.n_groups; g++)
        c.n_blocks[g] = n_blocks;
    c.layer = calloc(c.n_layers, sizeof *c.layer);
    c.memory = c.layer ? kernels->mem_take(device, c.bytes) : NULL;
    if (!c.memory) {
        free(c.layer);
        char text[32];
        return status_fail(err, STATUS_NO_MEMORY,
            "no memory for a KV cache of %u blocks (%s); give a smaller --kv-cache-memory",
            n_blocks, bill_text(c.bytes, text, sizeof text));
    }
    for (uint32_t i = 0; i < c.n_layers; i++) {
        c.layer[i] = shape;
        c.layer[i].k = c.memory + 2 * i * each;
        c.layer[i].v = c.memory + (2 * i + 1) * each;
        c.layer[i].group = m->layer[s->layer_begin + i].kv_group;
    }
    *out = c;
    return STATUS_OK;
}

void kv_cache_close(struct kv_cache *c)
{
    if (!c->memory)
        return;
    c->kernels->mem_give(c->device, c->memory, c->bytes);
    free(c->layer);
    *c = (struct kv_cache){0};
}

static uint64_t default_budget(const struct bill_kv *bill, const struct kv_cache_wish *w)
{
    uint32_t len = w->max_model_len ? w->max_model_len : w->default_model_len;
    uint64_t need = bill_kv_sequence(bill, len) * w->max_num_seqs;
    uint64_t each = w->available_bytes / w->n_sharing;
    if (w->percent)
        return each / 100 * w->percent;
    uint64_t share = each / 100 * w->default_percent;
    return need < share ? need : share;
}

enum status kv_cache_size(const struct bill_kv *bill, const struct kv_cache_wish *w,
    uint32_t *n_blocks, uint32_t *model_len, struct error *err)
{
    uint64_t budget = w->budget_bytes ? w->budget_bytes : default_budget(bill, w);
    uint64_t blocks = bill_blocks(bill, budget);
    if (blocks > LIMIT_BLOCKS)
        blocks = LIMIT_BLOCKS;
    uint64_t fits = blocks * bill->block_tokens;
    uint64_t len = w->max_model_len ? w->max_model_len : w->default_model_len;
    if (len > fits && !w->max_model_len)
        len = fits;
    if (len == 0 || len > fits) {
        char have[32], need[32];
        uint32_t one = w->max_model_len ? w->max_model_len : bill->block_tokens;
        uint64_t needed = bill_kv_sequence(bill, one);
        bill_text(budget, have, sizeof have);
        bill_text(needed, need, sizeof need);
        if (fits == 0)
            return status_fail(err, STATUS_NO_MEMORY,
                "a KV cache of %s per rank cannot hold one sequence of %u tokens, which needs %s: "
                "%llu bytes are missing; give a larger --kv-cache-memory",
                have, one, need, (unsigned long long)(needed - budget));
        return status_fail(err, STATUS_NO_MEMORY,
            "a KV cache of %s per rank cannot hold one sequence of %u tokens, which needs %s: %llu "
            "bytes are missing; --max-model-len %llu would fit, or give a larger --kv-cache-memory",
            have, one, need, (unsigned long long)(needed - budget), (unsigned long long)fits);
    }
    *n_blocks = (uint32_t)blocks;
    *model_len = (uint32_t)len;
    return STATUS_OK;
}
