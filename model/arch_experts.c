// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts: Mixtral's "num_local_experts", and what Qwen's families add to it.
#include "model/arch_internal.h"

static bool listed(const json_t *list, uint32_t layer)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_integer_value(json_array_get(list, i)) == layer)
            return true;
    return false;
}

// Layers that keep a plain MLP: all but each so many-th, and those of a list.
static void read_layers(struct config_json *c, struct model_config *m)
{
    uint32_t step = config_json_u32(c, "decoder_sparse_step", 1, 1, 1 << 20);
    const json_t *plain = config_json_get(c, "mlp_only_layers");
    if (plain && !json_is_array(plain))
        config_json_fail(
            c, STATUS_INVALID, "\"mlp_only_layers\" is not a list of the numbers of layers");
    for (size_t i = 0; i < json_array_size(plain); i++)
        if (!json_is_integer(json_array_get(plain, i)))
            config_json_fail(c, STATUS_INVALID,
                "\"mlp_only_layers\" has something that is not the number of a layer");
    for (uint32_t i = 0; i < m->n_layers; i++)
        m->layer[i].experts = (i + 1) % step == 0 && !listed(plain, i);
}

void arch_experts_read(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    if (!(row->features & ARCH_EXPERTS))
        return;
    const char *key = config_json_get(c, "num_local_experts") ? "num_local_experts" : "num_experts";
    m->n_experts = config_json_u32(c, key, row->experts, 0, MODEL_EXPERTS_MAX);
    if (m->n_experts == 0)
        return;
    m->n_experts_per_token =
        config_json_u32(c, "num_experts_per_tok", row->experts_used, 1, MODEL_EXPERTS_MAX);
    if (m->n_experts_per_token > m->n_experts)
        config_json_fail(c, STATUS_INVALID,
            "\"num_experts_per_tok\" %u is more than the %u experts of \"%s\"",
            m->n_experts_per_token, m->n_experts, key);
    m->expert_ffn_dim = m->ffn_dim;
    if (row->expert_ffn)
        m->expert_ffn_dim =
            config_json_u32(c, "moe_intermediate_size", row->expert_ffn, 1, MODEL_DIM_MAX);
    if (row->shared_ffn)
        m->shared_ffn_dim = config_json_u32(
            c, "shared_expert_intermediate_size", row->shared_ffn, 1, MODEL_DIM_MAX);
    m->shared_expert_gate = row->shared_ffn > 0;
    m->experts_renormalize =
        row->experts_renormalize || config_json_bool(c, "norm_topk_prob", false);
    read_layers(c, m);
}
