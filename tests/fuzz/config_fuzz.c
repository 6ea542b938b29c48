// SPDX-License-Identifier: Apache-2.0
// config.json, and generation_config.json behind a zero byte, from an enemy: what is accepted must
// have sane numbers, finite frequencies and a plan of weights.
#include "base/check.h"
#include "model/arch.h"
#include "model/bill.h"
#include "model/rope.h"
#include "model/weights_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void prove(struct model_config *m)
{
    struct error err = {0};
    struct shard s = weights_plan_shard(m, 0, 1);
    uint64_t bytes = 0;
    check(m->n_layers >= 1 && m->n_layers <= MODEL_LAYERS_MAX);
    check(m->n_heads % m->n_kv_heads == 0 && m->head_dim <= MODEL_HEAD_DIM_MAX);
    check(m->n_heads * m->head_dim <= MODEL_DIM_MAX);
    check(m->n_eos <= MODEL_EOS_MAX && m->n_kv_groups <= MODEL_KV_GROUPS_MAX);
    for (uint32_t i = 0; i < m->n_eos; i++)
        check(m->eos_id[i] < m->vocab_size);
    for (uint32_t i = 0; i < m->n_layers; i++)
        check(m->layer[i].kv_group < m->n_kv_groups);
    check(m->rope[0].rotary_dim % 2 == 0 && m->rope[0].rotary_dim <= m->head_dim);
    check(isfinite(m->attention_scale) && isfinite(m->logit_scale));
    if (rope_prepare(m, rope_length_default(m), &err) == STATUS_OK)
        for (uint32_t i = 0; i < m->rope[0].rotary_dim / 2; i++)
            check(isfinite(m->rope[0].inv_freq[i]));
    check(bill_weights(m, &s, &bytes, &err) == STATUS_OK && bytes > 0);
    check(bill_kv(m, &s, DTYPE_F32, 16).block_bytes_all > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    size_t config_bytes = zero ? (size_t)(zero - data) : n;
    const char *generation = zero ? (const char *)zero + 1 : NULL;
    struct model_config *m = calloc(1, sizeof *m);
    struct generation_defaults defaults;
    struct error err = {0};
    check(m);
    enum status s = arch_parse((const char *)data, config_bytes, generation,
        zero ? n - config_bytes - 1 : 0, m, &defaults, &err);
    if (s == STATUS_OK)
        prove(m);
    else
        check(err.text[0] && err.status == s);
    free(m);
    return 0;
}
