// SPDX-License-Identifier: Apache-2.0
#include "model/bill.h"

#include "base/check.h"
#include "model/weights_plan.h"

#include <stdio.h>

enum status bill_weights(
    const struct model_config *m, const struct shard *s, uint64_t *bytes, struct error *err)
{
    struct weights_plan plan;
    TRY(weights_plan_shapes(m, s, &plan, err));
    *bytes = plan.bytes;
    weights_plan_close(&plan);
    return STATUS_OK;
}

struct bill_kv bill_kv(
    const struct model_config *m, const struct shard *s, enum dtype dtype, uint32_t block_tokens)
{
    struct bill_kv kv = {.dtype = dtype, .block_tokens = block_tokens, .n_groups = m->n_kv_groups};
    // At most 2 * 512 heads * 512 elements * 8 bytes * 2^32 tokens, far below 2^64.
    uint64_t layer =
        2ull * shard_kv_heads(m, s).count * m->head_dim * dtype_bytes(dtype) * block_tokens;
    for (uint32_t i = s->layer_begin; i < s->layer_end; i++)
        kv.block_bytes[m->layer[i].kv_group] += layer;
    for (uint32_t g = 0; g < kv.n_groups; g++)
        kv.block_bytes_all += kv.block_bytes[g];
    return kv;
}

uint32_t bill_blocks(const struct bill_kv *kv, uint64_t budget_bytes)
{
    check(kv->block_bytes_all > 0);
    uint64_t n = budget_bytes / kv->block_bytes_all;
    return n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

uint64_t bill_kv_sequence(const struct bill_kv *kv, uint32_t n_tokens)
{
    uint64_t blocks = ((uint64_t)n_tokens + kv->block_tokens - 1) / kv->block_tokens;
    return blocks * kv->block_bytes_all;
}

const char *bill_text(uint64_t bytes, char *text, size_t n)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t unit = 0;
    for (; v >= 1024 && unit + 1 < COUNT_OF(units); unit++)
        v /= 1024;
    snprintf(text, n, unit ? "%.1f %s" : "%.0f %s", v, units[unit]);
    return text;
}
