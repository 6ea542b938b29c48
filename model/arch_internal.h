// SPDX-License-Identifier: Apache-2.0
// What the files of model/arch share.
#ifndef PHALANX_MODEL_ARCH_INTERNAL_H
#define PHALANX_MODEL_ARCH_INTERNAL_H

#include "model/arch.h"
#include "model/config_json.h"
#include "model/tensor_map.h"

#define ARCH_NO_ID UINT32_MAX
enum { ARCH_POSITION_MAX = 1 << 24 };

// Keys of config.json that a family understands beyond the common ones.
enum arch_feature {
    ARCH_WINDOW = 1 << 0,            // "sliding_window" in every layer
    ARCH_WINDOW_LAYERS = 1 << 1,     // "use_sliding_window", "max_window_layers", "layer_types"
    ARCH_WINDOW_PATTERN = 1 << 2,    // "sliding_window" in all layers but each pattern-th
    ARCH_SCALES = 1 << 3,            // Granite's four multipliers
    ARCH_PARTIAL_ROTARY = 1 << 4,    // "partial_rotary_factor", or the family's name for it
    ARCH_YARN_IS_LONGROPE = 1 << 5,  // Phi-3 once called longrope "su" or "yarn"
    ARCH_ROTARY_DIM = 1 << 6,        // "rotary_dim", in elements of a head
    ARCH_ROTARY_OBJECT = 1 << 7,     // "rotary": {"base", "type"}
    ARCH_ROPE_RATIO = 1 << 8,        // "rope_ratio" multiplies theta
    ARCH_ROPE_LOCAL = 1 << 9,        // layers with windows have a rope of their own
    ARCH_PARALLEL = 1 << 10,         // "use_parallel_residual"
    ARCH_QK_LAYERNORM = 1 << 11,     // "qk_layernorm" switches the row's qk_norm on
    ARCH_LOGIT_SOFTCAP = 1 << 12,    // "final_logit_softcapping"
    ARCH_QUERY_SCALAR = 1 << 13,     // "query_pre_attn_scalar" in place of head_dim
    ARCH_SCALE_ATTENTION = 1 << 14,  // "scale_attn_weights", "scale_attn_by_inverse_layer_idx"
    ARCH_MULTI_QUERY = 1 << 15,      // "multi_query": one KV head
    ARCH_NORMED_STREAM = 1 << 16,    // "apply_residual_connection_post_layernorm"
    ARCH_FALCON_LAYOUT = 1 << 17,    // "new_decoder_architecture" and what goes with it
    ARCH_ATTN_CONFIG = 1 << 18,      // "attn_config", an object
    ARCH_NORM_OPTIONS = 1 << 19,     // "do_layer_norm_before", "word_embed_proj_dim" and others
    ARCH_MEGATRON_OPTIONS = 1 << 20, // "multi_query_attention", "rmsnorm", "post_layer_norm"
    ARCH_ALIBI_BY_LENGTH = 1 << 21,  // ALiBi where only "model_max_length" is given
    ARCH_NORMALISED_HEAD = 1 << 22,  // of Baichuan 2, told by its vocabulary or "z_loss_weight"
    ARCH_EXPERTS = 1 << 24,          // a mixture of experts (model/arch_experts.c)
    ARCH_WINDOW_ASKED = 1 << 25,     // "sliding_window" where "use_sliding_window"
    ARCH_WINDOW_EVEN = 1 << 26,      // in every second layer below "max_window_layers"
    ARCH_SCORE_SOFTCAP = 1 << 27,    // "attn_logit_softcapping"
};

// Numbers that families call by different names; the first of two that is there counts.
enum arch_key {
    ARCH_KEY_LAYERS,
    ARCH_KEY_HIDDEN,
    ARCH_KEY_FFN,
    ARCH_KEY_HEADS,
    ARCH_KEY_KV_HEADS,
    ARCH_KEY_HEAD_DIM,
    ARCH_KEY_POSITIONS,
    ARCH_KEY_VOCAB,
    ARCH_KEY_NORM_EPS,
    ARCH_KEY_ACTIVATION,
    ARCH_KEY_THETA,
    ARCH_KEY_PARTIAL,
    ARCH_KEY_COUNT
};

// Which biases there are: those of `what`, where `key` is true; a key that begins with '!' is
// asked for the opposite, and no key at all means always.
enum { ARCH_BIAS_QKV = 1, ARCH_BIAS_O = 2, ARCH_BIAS_MLP = 4, ARCH_BIAS_HEAD = 8 };
struct arch_bias {
    unsigned what; // 0: end of the list
    const char *key;
    bool missing; // where the key is not there
};
enum { ARCH_BIASES_MAX = 2, ARCH_NAMES_MAX = 2 };

// Attention and MLP side by side, where ARCH_PARALLEL does not ask the config.
enum arch_parallel { ARCH_SERIAL, ARCH_PARALLEL_SHARED_NORM, ARCH_PARALLEL_TWO_NORMS };

struct arch_row {
    const char *model_type, *architecture;
    const char *models; // for people, in docs/models.md
    const char *other_types[ARCH_NAMES_MAX], *other_architectures[ARCH_NAMES_MAX];
    enum tensor_scheme scheme;
    unsigned features;
    const char *key[ARCH_KEY_COUNT][ARCH_NAMES_MAX]; // NULL: as Llama calls it

    enum norm_kind norm_kind;
    enum norm_placement norm_placement;
    float norm_offset;
    enum qk_norm qk_norm;
    enum position_kind position;
    uint32_t position_offset; // of learned positions
    enum rope_pairing pairing;
    enum arch_parallel parallel;
    bool parallel_missing; // ARCH_PARALLEL: where the key is not there
    bool ungated, embedding_root, qkv_grouped;
    struct arch_bias bias[ARCH_BIASES_MAX];

    // Defaults of keys that are not there; 0: derived from others, or off.
    const char *activation; // NULL: "silu"
    bool tied;
    uint32_t kv_heads, head_dim, window, pattern, max_position, original_max_position;
    uint32_t ffn_factor;  // the MLP is so many times as wide as the stream
    uint32_t ffn_divisor; // the MLP is narrower than the key says
    uint32_t experts, experts_used, expert_ffn, shared_ffn; // expert_ffn 0: as wide as the MLP
    bool experts_renormalize;                               // whatever the config says
    double norm_eps, theta, partial, query_scalar, attention_softcap, logit_softcap;
    uint32_t bos, eos;
};

// The name under which config.json has the number; the family's own where it has none.
const char *arch_key_name(
    const struct config_json *c, const struct arch_row *row, enum arch_key key);

// Reads what only some families have (model/arch_options.c). Comes behind the dimensions.
void arch_options_read(struct config_json *c, const struct arch_row *row, struct model_config *m);
// Reads how many experts there are and which layers have them.
void arch_experts_read(struct config_json *c, const struct arch_row *row, struct model_config *m);
// Reads windows and shares layers out to KV groups.
void arch_windows_read(struct config_json *c, const struct arch_row *row, struct model_config *m);

// Fills m->rope from rope_parameters, or rope_scaling and rope_theta.
void arch_rope_read(struct config_json *c, const struct arch_row *row, struct model_config *m);

// Fills `out` and adds the end ids.
void arch_generation_read(
    struct config_json *c, struct model_config *m, struct generation_defaults *out);

// Adds the ids of "eos_token_id" (a number or a list) to m->eos_id; `missing` where it is absent.
void arch_eos_read(struct config_json *c, uint32_t missing, struct model_config *m);

#endif
