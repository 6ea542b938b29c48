// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "kernels/cpu/cpu.h"

static void copy_layer(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct block_copy_args *a = arg;
    const struct kv_layer *kv = &a->layers[task];
    if (kv->group != a->group)
        return;
    uint64_t bytes = (uint64_t)kv->n_kv_heads * kv->block_tokens * kv->head_dim;
    bytes *= dtype_bytes(kv->dtype);
    for (uint32_t i = 0; i < a->n_pairs; i++) {
        if (a->src[i] == a->dst[i])
            continue;
        memcpy((char *)kv->k + a->dst[i] * bytes, (char *)kv->k + a->src[i] * bytes, bytes);
        memcpy((char *)kv->v + a->dst[i] * bytes, (char *)kv->v + a->src[i] * bytes, bytes);
    }
}

// Layers are independent of one another; within one the pairs run in their order.
void cpu_block_copy(struct device *d, const struct block_copy_args *a)
{
    check(a->group < KERNELS_KV_GROUPS_MAX);
    if (a->n_pairs == 0)
        return;
    struct block_copy_args copy = *a;
    team_run(d->team, copy_layer, &copy, a->n_layers);
}
