// SPDX-License-Identifier: Apache-2.0
// The table of model/tensor_map.def: how families name their tensors, and what each is cut into.
#ifndef PHALANX_MODEL_TENSOR_MAP_H
#define PHALANX_MODEL_TENSOR_MAP_H

#include "model/shard.h"

enum tensor_scheme {
    TENSOR_SCHEME_LLAMA,
    TENSOR_SCHEME_PHI3,
    TENSOR_SCHEME_COUNT,
};

// Extents of tensors, in elements.
enum tensor_dim {
    TENSOR_DIM_ONE,
    TENSOR_DIM_HIDDEN,
    TENSOR_DIM_HEAD,      // head_dim
    TENSOR_DIM_Q,         // n_heads * head_dim
    TENSOR_DIM_KV,        // n_kv_heads * head_dim
    TENSOR_DIM_QKV,       // Q, K and V in one
    TENSOR_DIM_FFN,       //
    TENSOR_DIM_FFN_TWICE, // gate and up in one
    TENSOR_DIM_VOCAB,
};

// What a rank takes: spans of rows, or of the columns of a vector, or (_IN) columns of a matrix.
enum tensor_cut {
    TENSOR_CUT_WHOLE,
    TENSOR_CUT_Q,         // rows of its query heads
    TENSOR_CUT_KV,        // rows of its KV heads
    TENSOR_CUT_QKV,       // three spans of a fused tensor
    TENSOR_CUT_FFN,       // rows of its MLP columns
    TENSOR_CUT_FFN_TWICE, // two spans of a fused tensor
    TENSOR_CUT_VOCAB,     // rows of its tokens
    TENSOR_CUT_Q_IN,      // columns of its query heads
    TENSOR_CUT_FFN_IN,    // its MLP columns
};

enum tensor_when {
    TENSOR_WHEN_ALWAYS,
    TENSOR_WHEN_UNTIED,
    TENSOR_WHEN_NORM_BIAS,
    TENSOR_WHEN_QKV_BIAS,
    TENSOR_WHEN_QK_NORM_HEAD,
    TENSOR_WHEN_O_BIAS,
    TENSOR_WHEN_MLP_BIAS,
};

struct tensor_row {
    enum tensor_scheme scheme;
    const char *name; // with one %u in tensors of layers
    uint8_t slot;     // enum model_slot or enum layer_slot
    enum tensor_dim rows, columns;
    enum tensor_cut cut;
    enum tensor_when when;
};

extern const struct tensor_row tensor_map_model[], tensor_map_layer[];
extern const uint32_t tensor_map_model_count, tensor_map_layer_count;

enum { TENSOR_MAP_SPANS_MAX = 3, TENSOR_MAP_NAME_BYTES = 192 };

uint32_t tensor_map_dim(const struct model_config *m, enum tensor_dim dim);
bool tensor_map_present(const struct model_config *m, enum tensor_when when);

// Spans of the cut dimension that a rank takes, in elements; returns their number.
uint32_t tensor_map_spans(const struct model_config *m, const struct shard *s,
    const struct tensor_row *row, struct shard_range out[TENSOR_MAP_SPANS_MAX]);
// Whether the cut goes through the columns of a matrix.
bool tensor_map_cuts_columns(enum tensor_cut cut);

// Writes the name of the tensor in layer `layer` (ignored for tensors of the model).
void tensor_map_name(const struct tensor_row *row, uint32_t layer, char out[TENSOR_MAP_NAME_BYTES]);

// Tensors that checkpoints carry but nobody needs: buffers that are computed.
bool tensor_map_ignored(const struct model_config *m, const char *name);

#endif
