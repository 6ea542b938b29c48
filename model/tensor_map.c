// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_map.h"

#include "base/check.h"
#include "model/weights_plan.h"

#include <stdio.h>
#include <string.h>

#define ROW(scheme_, name_, slot_, rows_, columns_, cut_, when_)                                   \
    {                                                                                              \
        .scheme = TENSOR_SCHEME_##scheme_,                                                         \
        .name = name_,                                                                             \
        .slot = slot_,                                                                             \
        .rows = TENSOR_DIM_##rows_,                                                                \
        .columns = TENSOR_DIM_##columns_,                                                          \
        .cut = TENSOR_CUT_##cut_,                                                                  \
        .when = TENSOR_WHEN_##when_,                                                               \
    },

const struct tensor_row tensor_map_model[] = {
#define MODEL_TENSOR(scheme, name, slot, ...) ROW(scheme, name, MODEL_SLOT_##slot, __VA_ARGS__)
#include "model/tensor_map.def"
};

const struct tensor_row tensor_map_layer[] = {
#define LAYER_TENSOR(scheme, name, slot, ...) ROW(scheme, name, LAYER_SLOT_##slot, __VA_ARGS__)
#include "model/tensor_map.def"
};

const uint32_t tensor_map_model_count = COUNT_OF(tensor_map_model);
const uint32_t tensor_map_layer_count = COUNT_OF(tensor_map_layer);

uint32_t tensor_map_dim(const struct model_config *m, enum tensor_dim dim)
{
    switch (dim) {
    case TENSOR_DIM_ONE:
        return 1;
    case TENSOR_DIM_HIDDEN:
        return m->hidden_dim;
    case TENSOR_DIM_HEAD:
        return m->head_dim;
    case TENSOR_DIM_Q:
        return m->n_heads * m->head_dim;
    case TENSOR_DIM_KV:
        return m->n_kv_heads * m->head_dim;
    case TENSOR_DIM_QKV:
        return (m->n_heads + 2 * m->n_kv_heads) * m->head_dim;
    case TENSOR_DIM_FFN:
        return m->ffn_dim;
    case TENSOR_DIM_FFN_TWICE:
        return 2 * m->ffn_dim;
    case TENSOR_DIM_VOCAB:
        return m->vocab_size;
    }
    check_failed("a dimension of the table", __FILE__, __LINE__);
}

bool tensor_map_present(const struct model_config *m, enum tensor_when when)
{
    switch (when) {
    case TENSOR_WHEN_ALWAYS:
        return true;
    case TENSOR_WHEN_UNTIED:
        return !m->tied_head;
    case TENSOR_WHEN_NORM_BIAS:
        return m->norm_bias;
    case TENSOR_WHEN_QKV_BIAS:
        return m->q_bias;
    case TENSOR_WHEN_QK_NORM_HEAD:
        return m->qk_norm == QK_NORM_HEAD;
    case TENSOR_WHEN_O_BIAS:
        return m->o_bias;
    case TENSOR_WHEN_MLP_BIAS:
        return m->mlp_bias;
    }
    check_failed("a condition of the table", __FILE__, __LINE__);
}

bool tensor_map_cuts_columns(enum tensor_cut cut)
{
    return cut == TENSOR_CUT_Q_IN || cut == TENSOR_CUT_FFN_IN;
}

static struct shard_range heads_to_elements(struct shard_range r, uint32_t head_dim)
{
    return (struct shard_range){r.begin * head_dim, r.count * head_dim};
}

static struct shard_range moved(struct shard_range r, uint32_t by)
{
    return (struct shard_range){r.begin + by, r.count};
}

uint32_t tensor_map_spans(const struct model_config *m, const struct shard *s,
    const struct tensor_row *row, struct shard_range out[TENSOR_MAP_SPANS_MAX])
{
    struct shard_range q = heads_to_elements(shard_heads(m, s), m->head_dim);
    struct shard_range kv = heads_to_elements(shard_kv_heads(m, s), m->head_dim);
    uint32_t q_all = m->n_heads * m->head_dim, kv_all = m->n_kv_heads * m->head_dim;
    switch (row->cut) {
    case TENSOR_CUT_WHOLE:
        out[0].begin = 0;
        out[0].count = tensor_map_dim(m, row->rows == TENSOR_DIM_ONE ? row->columns : row->rows);
        return 1;
    case TENSOR_CUT_Q:
    case TENSOR_CUT_Q_IN:
        out[0] = q;
        return 1;
    case TENSOR_CUT_KV:
        out[0] = kv;
        return 1;
    case TENSOR_CUT_QKV:
        out[0] = q;
        out[1] = moved(kv, q_all);
        out[2] = moved(kv, q_all + kv_all);
        return 3;
    case TENSOR_CUT_FFN:
    case TENSOR_CUT_FFN_IN:
        out[0] = shard_ffn(m, s);
        return 1;
    case TENSOR_CUT_FFN_TWICE:
        out[0] = shard_ffn(m, s);
        out[1] = moved(out[0], m->ffn_dim);
        return 2;
    case TENSOR_CUT_VOCAB:
        out[0] = shard_vocab(m, s);
        return 1;
    }
    check_failed("a cut of the table", __FILE__, __LINE__);
}

void tensor_map_name(const struct tensor_row *row, uint32_t layer, char out[TENSOR_MAP_NAME_BYTES])
{
    const char *mark = strstr(row->name, "%u");
    int n = mark ? snprintf(out, TENSOR_MAP_NAME_BYTES, "%.*s%u%s", (int)(mark - row->name),
                       row->name, layer, mark + 2)
                 : snprintf(out, TENSOR_MAP_NAME_BYTES, "%s", row->name);
    check(n > 0 && n < TENSOR_MAP_NAME_BYTES);
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

bool tensor_map_ignored(const struct model_config *m, const char *name)
{
    static const char *const ends[] = {
        ".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"};
    for (size_t i = 0; i < COUNT_OF(ends); i++)
        if (ends_with(name, ends[i]))
            return true;
    return m->tied_head && strcmp(name, "lm_head.weight") == 0;
}
