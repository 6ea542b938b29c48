// SPDX-License-Identifier: Apache-2.0
// The table of model/tensor_map.def: how families name their tensors, and what each is cut into.
#ifndef PHALANX_MODEL_TENSOR_MAP_H
#define PHALANX_MODEL_TENSOR_MAP_H

#include "model/shard.h"

// X(NAME): naming schemes. Families that name their tensors alike share one.
#define TENSOR_SCHEMES(X)                                                                          \
    X(LLAMA)                                                                                       \
    X(MIXTRAL)                                                                                     \
    X(QWEN_MOE)                                                                                    \
    X(GEMMA2)                                                                                      \
    X(OLMO2)                                                                                       \
    X(PHI3)                                                                                        \
    X(GLM)                                                                                         \
    X(GLM4)                                                                                        \
    X(BAICHUAN)                                                                                    \
    X(PHI)                                                                                         \
    X(STARCODER2)                                                                                  \
    X(INTERNLM2)                                                                                   \
    X(GPT2)                                                                                        \
    X(SANTACODER)                                                                                  \
    X(BIGCODE)                                                                                     \
    X(QWEN)                                                                                        \
    X(GPTJ)                                                                                        \
    X(NEOX)                                                                                        \
    X(FALCON)                                                                                      \
    X(BLOOM)                                                                                       \
    X(MPT)                                                                                         \
    X(OPT)                                                                                         \
    X(CHATGLM)

enum tensor_scheme {
#define X(name) TENSOR_SCHEME_##name,
    TENSOR_SCHEMES(X)
#undef X
        TENSOR_SCHEME_COUNT
};

// Extents of tensors, in elements.
enum tensor_dim {
    TENSOR_DIM_ONE, // of a vector
    TENSOR_DIM_ROW, // of a matrix of one row
    TENSOR_DIM_HIDDEN,
    TENSOR_DIM_EMBED,     // embed_dim
    TENSOR_DIM_HEAD,      // head_dim
    TENSOR_DIM_Q,         // n_heads * head_dim
    TENSOR_DIM_KV,        // n_kv_heads * head_dim
    TENSOR_DIM_KV_TWICE,  // K and V in one
    TENSOR_DIM_QKV,       // Q, K and V in one
    TENSOR_DIM_FFN,       //
    TENSOR_DIM_FFN_TWICE, // gate and up in one
    TENSOR_DIM_EXPERTS,   // n_experts
    TENSOR_DIM_EXPERT_FFN,
    TENSOR_DIM_SHARED_FFN,
    TENSOR_DIM_VOCAB,
    TENSOR_DIM_POSITIONS, // rows of the table of learned positions
};

// What a rank takes: spans of rows, or of the columns of a vector, or (_IN) columns of a matrix.
enum tensor_cut {
    TENSOR_CUT_WHOLE,
    TENSOR_CUT_Q,             // rows of its query heads
    TENSOR_CUT_KV,            // rows of its KV heads
    TENSOR_CUT_KV_TWICE,      // two spans of a fused tensor
    TENSOR_CUT_QKV,           // spans of a fused tensor: three, or as many as it has heads
    TENSOR_CUT_FFN,           // rows of its MLP columns
    TENSOR_CUT_FFN_TWICE,     // two spans of a fused tensor
    TENSOR_CUT_VOCAB,         // rows of its tokens
    TENSOR_CUT_Q_IN,          // columns of its query heads
    TENSOR_CUT_FFN_IN,        // its MLP columns
    TENSOR_CUT_EACH_Q,        // whole tensors, one of each of its query heads
    TENSOR_CUT_EACH_KV,       // one of each of its KV heads
    TENSOR_CUT_EXPERT_FFN,    // of the experts' columns, as of the MLP's
    TENSOR_CUT_EXPERT_FFN_IN, //
    TENSOR_CUT_SHARED_FFN,    // of the shared expert's
    TENSOR_CUT_SHARED_FFN_IN, //
};

enum tensor_when {
    TENSOR_WHEN_ALWAYS,
    TENSOR_WHEN_THERE, // where the file has it
    TENSOR_WHEN_UNTIED,
    TENSOR_WHEN_HEAD_BIAS,
    TENSOR_WHEN_NORM_BIAS,
    TENSOR_WHEN_FINAL_NORM,
    TENSOR_WHEN_NORM_BEFORE, // norms with weights before the blocks,
    TENSOR_WHEN_NORM_BEHIND, // or behind them
    TENSOR_WHEN_MLP_NORM,    // the MLP has a norm of its own
    TENSOR_WHEN_MLP_NORM_BIAS,
    TENSOR_WHEN_SERIAL,      // the MLP reads what attention has written
    TENSOR_WHEN_TWO_STREAMS, // attention and MLP side by side, with a norm each
    TENSOR_WHEN_ONE_STREAM,  // otherwise
    TENSOR_WHEN_QKV_BIAS,
    TENSOR_WHEN_QK_NORM_HEAD,
    TENSOR_WHEN_QK_NORM_FULL,
    TENSOR_WHEN_QK_NORM_LAYER,
    TENSOR_WHEN_QK_NORM_LAYER_HEADS,
    TENSOR_WHEN_O_BIAS,
    TENSOR_WHEN_MLP_BIAS,
    TENSOR_WHEN_MLP,       // layers with one MLP,
    TENSOR_WHEN_EXPERTS,   // with experts,
    TENSOR_WHEN_SHARED,    // and with a shared one
    TENSOR_WHEN_LEARNED,   // learned positions
    TENSOR_WHEN_PROJECTED, // the embedding is projected
};

struct tensor_row {
    uint32_t schemes; // 1 << enum tensor_scheme
    bool turned;      // stored as [columns, rows]
    const char *name; // with %u for the layer, and a second one for the head or the expert
    uint8_t slot;     // enum model_slot, enum layer_slot or enum expert_slot
    enum tensor_dim rows, columns;
    enum tensor_cut cut;
    enum tensor_when when;
};

extern const struct tensor_row tensor_map_model[], tensor_map_layer[], tensor_map_expert[];
extern const uint32_t tensor_map_model_count, tensor_map_layer_count, tensor_map_expert_count;

enum { TENSOR_MAP_SPANS_MAX = 3 * MODEL_HEADS_MAX, TENSOR_MAP_NAME_BYTES = 192 };

uint32_t tensor_map_dim(const struct model_config *m, enum tensor_dim dim);
// `layer` is that of a layer's tensor.
bool tensor_map_present(const struct model_config *m, enum tensor_when when, uint32_t layer);

// Spans of the cut dimension that a rank takes, in elements and in the order of their places;
// neighbours are one span. Returns their number.
uint32_t tensor_map_spans(const struct model_config *m, const struct shard *s,
    const struct tensor_row *row, struct shard_range out[TENSOR_MAP_SPANS_MAX]);
// Whether the cut goes through the columns of a matrix.
bool tensor_map_cuts_columns(enum tensor_cut cut);

// Heads of which a rank takes a tensor each; {0, 1} where there is one tensor for all.
struct shard_range tensor_map_heads(
    const struct model_config *m, const struct shard *s, const struct tensor_row *row);

// Writes the name of the tensor in layer `layer` for head or expert `head`, where the row's name
// has them.
void tensor_map_name(
    const struct tensor_row *row, uint32_t layer, uint32_t head, char out[TENSOR_MAP_NAME_BYTES]);

// Tensors that checkpoints carry but nobody needs: buffers that are computed.
bool tensor_map_ignored(const struct model_config *m, const char *name);

#endif
