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
    ARCH_ATTENTION_BIAS = 1 << 0,   // "attention_bias": q, k, v and o have biases
    ARCH_QKV_BIAS = 1 << 1,         // q, k and v always have biases
    ARCH_USE_QKV_BIAS = 1 << 2,     // "use_qkv_bias": q, k and v have biases
    ARCH_MLP_BIAS = 1 << 3,         // "mlp_bias"
    ARCH_WINDOW = 1 << 4,           // "sliding_window" in every layer
    ARCH_WINDOW_LAYERS = 1 << 5,    // "use_sliding_window", "max_window_layers", "layer_types"
    ARCH_SCALES = 1 << 6,           // Granite's four multipliers
    ARCH_PARTIAL_ROTARY = 1 << 7,   // "partial_rotary_factor"
    ARCH_YARN_IS_LONGROPE = 1 << 8, // Phi-3 once called longrope "su" or "yarn"
};

struct arch_row {
    const char *model_type, *architecture;
    enum tensor_scheme scheme;
    unsigned features;
    enum norm_kind norm_kind;
    const char *norm_eps_key; // NULL: "rms_norm_eps"
    enum qk_norm qk_norm;
    // Defaults of keys that are not there; 0: derived from others, or off.
    uint32_t kv_heads, head_dim, window, max_position, original_max_position;
    double norm_eps;
    uint32_t bos, eos;
};

// Fills m->rope[0] from rope_parameters, or rope_scaling and rope_theta.
void arch_rope_read(struct config_json *c, const struct arch_row *row, struct model_config *m);

// Fills `out` and adds the end ids.
void arch_generation_read(
    struct config_json *c, struct model_config *m, struct generation_defaults *out);

// Adds the ids of "eos_token_id" (a number or a list) to m->eos_id; `missing` where it is absent.
void arch_eos_read(struct config_json *c, uint32_t missing, struct model_config *m);

#endif
