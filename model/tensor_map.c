// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_map.h"

#include "base/check.h"
#include "model/weights_plan.h"

#include <stdio.h>
#include <string.h>

enum {
#define X(name) name = 1 << TENSOR_SCHEME_##name,
    TENSOR_SCHEMES(X)
#undef X
    // Sets of schemes that share most names.
    LLAMAS = LLAMA | MIXTRAL | QWEN_MOE | GEMMA2 | OLMO2 | PHI3 | GLM | GLM4 | BAICHUAN | PHI |
             STARCODER2,
    GATED_APART = LLAMA | QWEN_MOE | GEMMA2 | OLMO2 | BAICHUAN, // gate and up are two tensors
    GPT2S = GPT2 | SANTACODER | BIGCODE | QWEN,
    BLOOMS = BLOOM | FALCON,
};

#define ROW(turned_, schemes_, name_, slot_, rows_, columns_, cut_, when_)                         \
    {                                                                                              \
        .schemes = schemes_,                                                                       \
        .turned = turned_,                                                                         \
        .name = name_,                                                                             \
        .slot = slot_,                                                                             \
        .rows = TENSOR_DIM_##rows_,                                                                \
        .columns = TENSOR_DIM_##columns_,                                                          \
        .cut = TENSOR_CUT_##cut_,                                                                  \
        .when = TENSOR_WHEN_##when_,                                                               \
    },

const struct tensor_row tensor_map_model[] = {
#define MODEL_TENSOR(schemes, name, slot, ...)                                                     \
    ROW(false, schemes, name, MODEL_SLOT_##slot, __VA_ARGS__)
#include "model/tensor_map.def"
};

const struct tensor_row tensor_map_layer[] = {
#define LAYER_TENSOR(schemes, name, slot, ...)                                                     \
    ROW(false, schemes, name, LAYER_SLOT_##slot, __VA_ARGS__)
#define LAYER_TURNED(schemes, name, slot, ...)                                                     \
    ROW(true, schemes, name, LAYER_SLOT_##slot, __VA_ARGS__)
#include "model/tensor_map.def"
};

const struct tensor_row tensor_map_expert[] = {
#define EXPERT_TENSOR(schemes, name, slot, ...)                                                    \
    ROW(false, schemes, name, EXPERT_SLOT_##slot, __VA_ARGS__)
#include "model/tensor_map.def"
};

const uint32_t tensor_map_model_count = COUNT_OF(tensor_map_model);
const uint32_t tensor_map_layer_count = COUNT_OF(tensor_map_layer);
const uint32_t tensor_map_expert_count = COUNT_OF(tensor_map_expert);

uint32_t tensor_map_dim(const struct model_config *m, enum tensor_dim dim)
{
    switch (dim) {
    case TENSOR_DIM_ONE:
    case TENSOR_DIM_ROW:
        return 1;
    case TENSOR_DIM_HIDDEN:
        return m->hidden_dim;
    case TENSOR_DIM_EMBED:
        return m->embed_dim;
    case TENSOR_DIM_HEAD:
        return m->head_dim;
    case TENSOR_DIM_Q:
        return m->n_heads * m->head_dim;
    case TENSOR_DIM_KV:
        return m->n_kv_heads * m->head_dim;
    case TENSOR_DIM_KV_TWICE:
        return 2 * m->n_kv_heads * m->head_dim;
    case TENSOR_DIM_QKV:
        return (m->n_heads + 2 * m->n_kv_heads) * m->head_dim;
    case TENSOR_DIM_FFN:
        return m->ffn_dim;
    case TENSOR_DIM_FFN_TWICE:
        return 2 * m->ffn_dim;
    case TENSOR_DIM_EXPERTS:
        return m->n_experts;
    case TENSOR_DIM_EXPERT_FFN:
        return m->expert_ffn_dim;
    case TENSOR_DIM_SHARED_FFN:
        return m->shared_ffn_dim;
    case TENSOR_DIM_VOCAB:
        return m->vocab_size;
    case TENSOR_DIM_POSITIONS:
        return m->max_position + m->learned_position_offset;
    }
    check_failed("a dimension of the table", __FILE__, __LINE__);
}

bool tensor_map_present(const struct model_config *m, enum tensor_when when, uint32_t layer)
{
    bool experts = m->layer[layer].experts;
    switch (when) {
    case TENSOR_WHEN_ALWAYS:
        return true;
    case TENSOR_WHEN_THERE:
        return true;
    case TENSOR_WHEN_UNTIED:
        return !m->tied_head;
    case TENSOR_WHEN_HEAD_BIAS:
        return m->head_bias;
    case TENSOR_WHEN_NORM_BIAS:
        return m->norm_bias;
    case TENSOR_WHEN_FINAL_NORM:
        return m->final_norm && m->norm_weight;
    case TENSOR_WHEN_NORM_BEFORE:
        return m->norm_weight && m->norm_placement != NORM_SUM;
    case TENSOR_WHEN_NORM_BEHIND:
        return m->norm_weight && m->norm_placement == NORM_SUM;
    case TENSOR_WHEN_MLP_NORM:
        return !m->shared_parallel_norm;
    case TENSOR_WHEN_MLP_NORM_BIAS:
        return !m->shared_parallel_norm && m->norm_bias;
    case TENSOR_WHEN_SERIAL:
        return !m->parallel_residual;
    case TENSOR_WHEN_TWO_STREAMS:
        return m->parallel_residual && !m->shared_parallel_norm;
    case TENSOR_WHEN_ONE_STREAM:
        return !m->parallel_residual || m->shared_parallel_norm;
    case TENSOR_WHEN_QKV_BIAS:
        return m->qkv_bias;
    case TENSOR_WHEN_QK_NORM_HEAD:
        return m->qk_norm == QK_NORM_HEAD;
    case TENSOR_WHEN_QK_NORM_FULL:
        return m->qk_norm == QK_NORM_FULL;
    case TENSOR_WHEN_QK_NORM_LAYER:
        return m->qk_norm == QK_NORM_LAYER;
    case TENSOR_WHEN_QK_NORM_LAYER_HEADS:
        return m->qk_norm == QK_NORM_LAYER_HEADS;
    case TENSOR_WHEN_O_BIAS:
        return m->o_bias;
    case TENSOR_WHEN_MLP_BIAS:
        return m->mlp_bias && !experts;
    case TENSOR_WHEN_MLP:
        return !experts;
    case TENSOR_WHEN_EXPERTS:
        return experts;
    case TENSOR_WHEN_SHARED:
        return experts && m->shared_ffn_dim > 0;
    case TENSOR_WHEN_LEARNED:
        return m->position_kind == POSITION_LEARNED;
    case TENSOR_WHEN_PROJECTED:
        return m->embed_dim != m->hidden_dim;
    }
    check_failed("a condition of the table", __FILE__, __LINE__);
}

bool tensor_map_cuts_columns(enum tensor_cut cut)
{
    return cut == TENSOR_CUT_Q_IN || cut == TENSOR_CUT_FFN_IN || cut == TENSOR_CUT_EXPERT_FFN_IN ||
           cut == TENSOR_CUT_SHARED_FFN_IN;
}

static struct shard_range heads_to_elements(struct shard_range r, uint32_t head_dim)
{
    return (struct shard_range){r.begin * head_dim, r.count * head_dim};
}

static struct shard_range moved(struct shard_range r, uint32_t by)
{
    return (struct shard_range){r.begin + by, r.count};
}

// Appends [begin, begin + count), or makes the last span longer where it goes on there.
static uint32_t add_span(struct shard_range *out, uint32_t n, struct shard_range r)
{
    if (n > 0 && out[n - 1].begin + out[n - 1].count == r.begin) {
        out[n - 1].count += r.count;
        return n;
    }
    check(n < TENSOR_MAP_SPANS_MAX);
    out[n] = r;
    return n + 1;
}

// Groups of [the query heads of a KV head, its key, its value], one after the other.
static uint32_t grouped_spans(
    const struct model_config *m, const struct shard *s, struct shard_range *out)
{
    struct shard_range q = shard_heads(m, s), kv = shard_kv_heads(m, s);
    uint32_t n = 0, each = m->n_heads / m->n_kv_heads, dim = m->head_dim;
    for (uint32_t h = q.begin; h < q.begin + q.count; h++) {
        uint32_t at = (h / each * (each + 2) + h % each) * dim;
        n = add_span(out, n, (struct shard_range){at, dim});
    }
    for (uint32_t part = 0; part < 2; part++)
        for (uint32_t h = kv.begin; h < kv.begin + kv.count; h++) {
            uint32_t at = (h * (each + 2) + each + part) * dim;
            n = add_span(out, n, (struct shard_range){at, dim});
        }
    return n;
}

static uint32_t qkv_spans(
    const struct model_config *m, const struct shard *s, struct shard_range *out)
{
    struct shard_range q = heads_to_elements(shard_heads(m, s), m->head_dim);
    struct shard_range kv = heads_to_elements(shard_kv_heads(m, s), m->head_dim);
    uint32_t q_all = m->n_heads * m->head_dim, kv_all = m->n_kv_heads * m->head_dim;
    uint32_t n = add_span(out, 0, q);
    n = add_span(out, n, moved(kv, q_all));
    return add_span(out, n, moved(kv, q_all + kv_all));
}

uint32_t tensor_map_spans(const struct model_config *m, const struct shard *s,
    const struct tensor_row *row, struct shard_range out[TENSOR_MAP_SPANS_MAX])
{
    switch (row->cut) {
    case TENSOR_CUT_WHOLE:
    case TENSOR_CUT_EACH_Q:
    case TENSOR_CUT_EACH_KV:
        out[0].begin = 0;
        out[0].count = tensor_map_dim(m, row->rows == TENSOR_DIM_ONE ? row->columns : row->rows);
        return 1;
    case TENSOR_CUT_Q:
    case TENSOR_CUT_Q_IN:
        out[0] = heads_to_elements(shard_heads(m, s), m->head_dim);
        return 1;
    case TENSOR_CUT_KV:
        out[0] = heads_to_elements(shard_kv_heads(m, s), m->head_dim);
        return 1;
    case TENSOR_CUT_KV_TWICE:
        out[0] = heads_to_elements(shard_kv_heads(m, s), m->head_dim);
        return add_span(out, 1, moved(out[0], m->n_kv_heads * m->head_dim));
    case TENSOR_CUT_QKV:
        return m->qkv_grouped ? grouped_spans(m, s, out) : qkv_spans(m, s, out);
    case TENSOR_CUT_FFN:
    case TENSOR_CUT_FFN_IN:
        out[0] = shard_ffn(m, s);
        return 1;
    case TENSOR_CUT_EXPERT_FFN:
    case TENSOR_CUT_EXPERT_FFN_IN:
        out[0] = shard_expert_ffn(m, s);
        return 1;
    case TENSOR_CUT_SHARED_FFN:
    case TENSOR_CUT_SHARED_FFN_IN:
        out[0] = shard_shared_ffn(m, s);
        return 1;
    case TENSOR_CUT_FFN_TWICE:
        out[0] = shard_ffn(m, s);
        return add_span(out, 1, moved(out[0], m->ffn_dim));
    case TENSOR_CUT_VOCAB:
        out[0] = shard_vocab(m, s);
        return 1;
    }
    check_failed("a cut of the table", __FILE__, __LINE__);
}

struct shard_range tensor_map_heads(
    const struct model_config *m, const struct shard *s, const struct tensor_row *row)
{
    if (row->cut == TENSOR_CUT_EACH_Q)
        return shard_heads(m, s);
    if (row->cut == TENSOR_CUT_EACH_KV)
        return shard_kv_heads(m, s);
    return (struct shard_range){0, 1};
}

void tensor_map_name(
    const struct tensor_row *row, uint32_t layer, uint32_t head, char out[TENSOR_MAP_NAME_BYTES])
{
    const uint32_t numbers[] = {layer, head};
    size_t used = 0, seen = 0;
    for (const char *at = row->name; *at;) {
        bool mark = at[0] == '%' && at[1] == 'u' && seen < COUNT_OF(numbers);
        int n = mark ? snprintf(out + used, TENSOR_MAP_NAME_BYTES - used, "%u", numbers[seen++])
                     : snprintf(out + used, TENSOR_MAP_NAME_BYTES - used, "%c", *at);
        check(n > 0 && used + (size_t)n < TENSOR_MAP_NAME_BYTES);
        used += (size_t)n;
        at += mark ? 2 : 1;
    }
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

bool tensor_map_ignored(const struct model_config *m, const char *name)
{
    static const char *const ends[] = {".rotary_emb.inv_freq", ".rotary_emb.cos_cached",
        ".rotary_emb.sin_cached", ".rotary_pos_emb.inv_freq", ".attn.bias", ".attn.masked_bias",
        ".attention.bias", ".attention.masked_bias"};
    for (size_t i = 0; i < COUNT_OF(ends); i++)
        if (ends_with(name, ends[i]))
            return true;
    return m->tied_head &&
           (strcmp(name, "lm_head.weight") == 0 || strcmp(name, "embed_out.weight") == 0 ||
               strcmp(name, "transformer.output_layer.weight") == 0);
}
