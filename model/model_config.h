// SPDX-License-Identifier: Apache-2.0
// One decoder-only model, described by data. model/arch reads a Hugging Face config.json and fills
// this struct through the row of its family; worker/forward computes whatever it says and never
// asks for a family's name. A family that needs something else needs another column here.
//
// Plain data, no pointers: it can be copied and compared. Dimensions are those of the whole model;
// model/shard says what one rank holds.
#ifndef PHALANX_MODEL_MODEL_CONFIG_H
#define PHALANX_MODEL_MODEL_CONFIG_H

#include "base/dtype.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    MODEL_LAYERS_MAX = 256,
    MODEL_HEADS_MAX = 512,
    MODEL_HEAD_DIM_MAX = 512,
    MODEL_DIM_MAX = 1 << 17,
    MODEL_VOCAB_MAX = 1 << 20,
    MODEL_EXPERTS_MAX = 512,
    MODEL_EOS_MAX = 16,
    MODEL_ROPES_MAX = 2,
    MODEL_KV_GROUPS_MAX = 2,
    MODEL_FAMILY_BYTES = 48,
};

enum norm_kind { NORM_RMS, NORM_LAYER };

// Where norms stand around a block f (attention or MLP).
enum norm_placement {
    NORM_PRE,      // x + f(norm(x))
    NORM_POST,     // x + norm(f(x))
    NORM_SANDWICH, // x + norm_out(f(norm_in(x)))
    NORM_BOTH,     // norm(x) + f(norm(x)): the stream itself is normed
    NORM_SUM,      // norm(x + f(x))
};

enum position_kind { POSITION_ROPE, POSITION_ALIBI, POSITION_LEARNED, POSITION_NONE };

// How the rotated pairs lie in a head of rotary_dim d.
enum rope_pairing {
    ROPE_HALF,        // (i, i + d/2), as GPT-NeoX and Llama in Hugging Face's layout
    ROPE_INTERLEAVED, // (2i, 2i + 1), as GPT-J
};

enum rope_rule {
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_DYNAMIC,
    ROPE_YARN,
    ROPE_LLAMA3,
    ROPE_LONGROPE,
};

enum activation {
    ACTIVATION_SILU,
    ACTIVATION_GELU_ERF,
    ACTIVATION_GELU_TANH,
    ACTIVATION_RELU,
    ACTIVATION_RELU2,
};

enum qk_norm {
    QK_NORM_NONE,
    QK_NORM_HEAD,        // RMS over each head, weight [head_dim]
    QK_NORM_FULL,        // RMS over all heads together, weight [n_heads * head_dim]
    QK_NORM_LAYER,       // LayerNorm over each head, weight and bias [head_dim]
    QK_NORM_LAYER_HEADS, // LayerNorm over each head, its own weight [head_dim], no bias
};

struct rope_config {
    enum rope_rule rule;
    enum rope_pairing pairing;
    uint32_t rotary_dim; // rotated leading elements of a head; even, at most head_dim
    double theta;
    // What the rules need; zero where the rule has no such number.
    double factor;
    double low_freq_factor, high_freq_factor; // llama3
    double beta_fast, beta_slow;              // YaRN
    double mscale, mscale_all_dim;            // YaRN; 0: not given
    bool no_truncate;                         // YaRN: correction range is not rounded
    double attention_factor_given;            // YaRN, longrope; 0: the rule's own
    float short_factor[MODEL_HEAD_DIM_MAX / 2], long_factor[MODEL_HEAD_DIM_MAX / 2]; // longrope
    uint32_t original_max_position;
    // The result for the served length, made by model/rope: angle of pair i at position p is
    // p * inv_freq[i], and cos and sin are multiplied by attention_factor.
    float inv_freq[MODEL_HEAD_DIM_MAX / 2];
    float attention_factor;
};

struct layer_config {
    uint32_t window;  // attention reaches back over so many positions, itself included; 0: all
    uint8_t rope;     // index into model_config.rope
    uint8_t kv_group; // layers of one window and head shape share a KV group
    bool experts;     // the MLP is a mixture of experts
    bool no_rope;     // this layer rotates nothing
};

struct model_config {
    char family[MODEL_FAMILY_BYTES]; // name of the row, for messages only
    enum dtype weight_dtype;         // as config.json says; each tensor has its own in its file
    uint32_t tensor_scheme;          // enum tensor_scheme: how the family names its tensors

    uint32_t n_layers, hidden_dim, vocab_size;
    uint32_t embed_dim; // of embedding and head; other than hidden_dim: projected to and from it
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t max_position; // longest context that the model declares

    enum norm_kind norm_kind;
    enum norm_placement norm_placement;
    float norm_eps;
    float norm_weight_offset; // 1 where the stored weight w means 1 + w
    bool norm_weight, norm_bias;
    bool final_norm;

    enum position_kind position_kind;
    uint32_t n_ropes;
    struct rope_config rope[MODEL_ROPES_MAX];
    uint32_t learned_position_offset; // first row used in the table of learned positions
    float alibi_bias_max;             // slopes go down to 2^-alibi_bias_max, usually 8
    float alibi_scale;                // slopes are multiplied by it, usually 1
    bool alibi_bf16;                  // slopes are rounded to bf16 first

    float attention_scale;         // scores are multiplied by it, usually head_dim^-0.5
    bool attention_scale_by_layer; // and by 1 / (number of the layer, from 1)
    float attention_softcap;       // 0: none; else cap * tanh(score / cap)
    float qkv_clip;                // 0: none; else q, k and v are cut to [-clip, clip]
    bool qkv_grouped;              // in a fused tensor, each KV head lies behind its query heads
    enum qk_norm qk_norm;
    bool qkv_bias, o_bias;

    bool gated; // down(act(gate(x)) * up(x)) instead of down(act(up(x)))
    enum activation activation;
    bool mlp_bias;
    uint32_t ffn_dim;
    bool parallel_residual;    // x + attention(norm(x)) + mlp(norm'(x))
    bool shared_parallel_norm; // there, norm' is norm

    uint32_t n_experts, n_experts_per_token, expert_ffn_dim, shared_ffn_dim;
    bool experts_renormalize; // the chosen experts' weights are scaled to sum to 1
    bool shared_expert_gate;

    float embedding_scale; // 1: none
    float residual_scale;  // of each block's output
    float logit_scale;     // logits are multiplied by it
    float logit_softcap;   // 0: none
    bool tied_head;
    bool head_bias;
    bool head_normalised; // rows of the head are scaled to length 1

    uint32_t n_kv_groups;
    struct layer_config layer[MODEL_LAYERS_MAX];

    uint32_t bos_id; // UINT32_MAX: none
    uint32_t n_eos;
    uint32_t eos_id[MODEL_EOS_MAX];
};

#endif
