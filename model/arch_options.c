// SPDX-License-Identifier: Apache-2.0
// What only some families have, each behind a feature of its row.
#include "model/arch_internal.h"

#include <math.h>
#include <string.h>

static const double scale_min = 1e-6, scale_max = 1e6;

static void read_scales(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    m->attention_scale = (float)(1 / sqrt((double)m->head_dim));
    m->embedding_scale = row->embedding_root ? sqrtf((float)m->hidden_dim) : 1;
    m->residual_scale = m->logit_scale = 1;
    if (!(row->features & ARCH_SCALES))
        return;
    m->attention_scale = (float)config_json_f64(c, "attention_multiplier", 1, scale_min, scale_max);
    m->embedding_scale = (float)config_json_f64(c, "embedding_multiplier", 1, scale_min, scale_max);
    m->residual_scale = (float)config_json_f64(c, "residual_multiplier", 1, scale_min, scale_max);
    m->logit_scale = (float)(1 / config_json_f64(c, "logits_scaling", 1, scale_min, scale_max));
}

// A key that is there and null switches a cap off; 0 does too.
static float read_softcap(struct config_json *c, const char *key, double missing)
{
    bool absent = !json_object_get(c->object, key);
    return (float)config_json_f64(c, key, absent ? missing : 0, 0, scale_max);
}

static void read_attention(
    struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    if (row->features & ARCH_SCORE_SOFTCAP)
        m->attention_softcap = read_softcap(c, "attn_logit_softcapping", row->attention_softcap);
    if (row->features & ARCH_LOGIT_SOFTCAP)
        m->logit_softcap = read_softcap(c, "final_logit_softcapping", row->logit_softcap);
    if (row->features & ARCH_QUERY_SCALAR)
        m->attention_scale = (float)(1 / sqrt(config_json_f64(c, "query_pre_attn_scalar",
                                             row->query_scalar, scale_min, scale_max)));
    if (row->features & ARCH_SCALE_ATTENTION) {
        if (!config_json_bool(c, "scale_attn_weights", true))
            m->attention_scale = 1;
        m->attention_scale_by_layer = config_json_bool(c, "scale_attn_by_inverse_layer_idx", false);
    }
    if (row->features & ARCH_QK_LAYERNORM && !config_json_bool(c, "qk_layernorm", false))
        m->qk_norm = QK_NORM_NONE;
    if (row->features & ARCH_MULTI_QUERY)
        m->n_kv_heads = config_json_bool(c, "multi_query", true) ? 1 : m->n_heads;
}

static void read_positions(
    struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    m->position_kind = row->position;
    m->learned_position_offset = row->position_offset;
    m->alibi_bias_max = 8;
    m->alibi_scale = 1;
    // Of the two sizes, the one without rotary positions has no "max_position_embeddings".
    if (row->features & ARCH_ALIBI_BY_LENGTH && config_json_get(c, "model_max_length") &&
        !config_json_get(c, "max_position_embeddings"))
        m->position_kind = POSITION_ALIBI;
}

static void read_blocks(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    bool parallel = row->parallel != ARCH_SERIAL;
    if (row->features & ARCH_PARALLEL)
        parallel = config_json_bool(c, "use_parallel_residual", row->parallel_missing);
    m->parallel_residual = parallel;
    m->shared_parallel_norm = parallel && row->parallel == ARCH_PARALLEL_SHARED_NORM;
    if (row->features & ARCH_NORMED_STREAM &&
        config_json_bool(c, "apply_residual_connection_post_layernorm", false))
        m->norm_placement = NORM_BOTH;
    if (row->features & ARCH_NORMALISED_HEAD)
        m->head_normalised = m->vocab_size == 125696 || json_object_get(c->object, "z_loss_weight");
}

// Falcon: the 7B layout (one KV head, attention and MLP side by side), the new one (several KV
// heads, one or two norms) and that of the first models (as many KV heads as heads, serial, ALiBi).
static void read_falcon(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    bool new = config_json_bool(c, "new_decoder_architecture", false);
    bool old_multi_query = !new &&config_json_bool(c, "multi_query", true);
    const char *kv_key = arch_key_name(c, row, ARCH_KEY_KV_HEADS);
    // The first configs of the new layout have no other sign of it than their KV heads.
    if (strcmp(kv_key, "n_head_kv") == 0 && config_json_get(c, kv_key))
        new = true;
    if (old_multi_query && !new)
        m->n_kv_heads = 1;
    uint32_t norms = config_json_u32(c, "num_ln_in_parallel_attn", new ? 2 : 1, 1, 2);
    m->parallel_residual = new || config_json_bool(c, "parallel_attn", true);
    m->shared_parallel_norm = m->parallel_residual && (!new || norms == 1);
    if (!config_json_bool(c, "alibi", false))
        return;
    // Its bias is added to the scores before they are scaled, and computed in bf16.
    m->position_kind = POSITION_ALIBI;
    m->alibi_scale = m->attention_scale;
    m->alibi_bf16 = true;
}

static void fail_option(struct config_json *c, const char *key, const char *text)
{
    config_json_fail(
        c, STATUS_UNSUPPORTED, "\"%s\" asks for %s, which is not supported", key, text);
}

// The object "attn_config" of MPT.
static void read_attn_config(struct config_json *top, struct model_config *m)
{
    const json_t *object = config_json_get(top, "attn_config");
    json_t *empty = json_object();
    struct config_json c = *top; // with what failed so far
    c.object = json_is_object(object) ? object : empty;
    if (config_json_bool(&c, "qk_ln", false) || config_json_bool(&c, "qk_gn", false))
        fail_option(&c, "qk_ln", "normalised queries and keys");
    if (config_json_bool(&c, "prefix_lm", false))
        fail_option(&c, "prefix_lm", "a prefix that attends to later tokens");
    if (config_json_bool(&c, "rope", false))
        fail_option(&c, "rope", "rotary positions");
    if (config_json_get(&c, "sliding_window_size") &&
        json_integer_value(config_json_get(&c, "sliding_window_size")) != -1)
        fail_option(&c, "sliding_window_size", "a sliding window");
    const char *type = config_json_text(&c, "attn_type", "multihead_attention");
    if (strcmp(type, "multiquery_attention") == 0)
        m->n_kv_heads = 1;
    else if (strcmp(type, "grouped_query_attention") == 0)
        m->n_kv_heads = config_json_need_u32(&c, "kv_n_heads", 1, MODEL_HEADS_MAX);
    else if (strcmp(type, "multihead_attention") != 0)
        fail_option(&c, "attn_type", type);
    m->position_kind = config_json_bool(&c, "alibi", true) ? POSITION_ALIBI : POSITION_LEARNED;
    m->alibi_bias_max = (float)config_json_f64(&c, "alibi_bias_max", 8, 1e-3, 1e3);
    m->attention_scale = (float)config_json_f64(
        &c, "softmax_scale", (double)m->attention_scale, scale_min, scale_max);
    m->qkv_clip = (float)config_json_f64(&c, "clip_qkv", 0, 0, scale_max);
    top->status = c.status;
    json_decref(empty);
}

static void read_mpt(struct config_json *c, struct model_config *m)
{
    const char *norm = config_json_text(c, "norm_type", "low_precision_layernorm");
    if (strcmp(norm, "low_precision_layernorm") != 0 && strcmp(norm, "layernorm") != 0)
        fail_option(c, "norm_type", norm);
    double ratio = config_json_f64(c, "expansion_ratio", 4, 1e-3, 1e3) * m->hidden_dim;
    m->ffn_dim = ratio >= 1 && ratio <= MODEL_DIM_MAX ? (uint32_t)ratio : 1;
    read_attn_config(c, m);
    if (m->position_kind == POSITION_LEARNED && !config_json_bool(c, "learned_pos_emb", true))
        m->position_kind = POSITION_NONE;
}

// OPT: norms before the blocks, behind them (350M), or without weights (Galactica).
static void read_norm_options(struct config_json *c, struct model_config *m)
{
    bool before = config_json_bool(c, "do_layer_norm_before", true);
    m->norm_placement = before ? NORM_PRE : NORM_SUM;
    m->final_norm = before && !config_json_bool(c, "_remove_final_layer_norm", false);
    m->norm_weight = m->norm_bias = config_json_bool(c, "layer_norm_elementwise_affine", true);
    m->embed_dim = config_json_u32(c, "word_embed_proj_dim", m->hidden_dim, 1, MODEL_DIM_MAX);
}

// ChatGLM 2 and 3, and GLM-4 under their first name.
static void read_megatron(struct config_json *c, struct model_config *m)
{
    bool multi_query = config_json_bool(c, "multi_query_attention", false);
    if (multi_query)
        m->n_kv_heads = config_json_u32(c, "multi_query_group_num", 1, 1, MODEL_HEADS_MAX);
    m->qkv_grouped = !multi_query;
    if (!config_json_bool(c, "rmsnorm", true)) {
        m->norm_kind = NORM_LAYER;
        m->norm_bias = true;
    }
    m->final_norm = config_json_bool(c, "post_layer_norm", true);
    if (!config_json_bool(c, "original_rope", true))
        fail_option(c, "original_rope", "another order of rotary pairs");
}

void arch_options_read(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    read_scales(c, row, m);
    read_positions(c, row, m);
    read_blocks(c, row, m);
    read_attention(c, row, m);
    if (row->features & ARCH_FALCON_LAYOUT)
        read_falcon(c, row, m);
    if (row->features & ARCH_ATTN_CONFIG)
        read_mpt(c, m);
    if (row->features & ARCH_NORM_OPTIONS)
        read_norm_options(c, m);
    if (row->features & ARCH_MEGATRON_OPTIONS)
        read_megatron(c, m);
}
