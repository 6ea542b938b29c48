// SPDX-License-Identifier: Apache-2.0
// Rotary position embeddings: turns each rule of model_config.rope into frequencies and the factor
// of cos and sin, with the formulas and the float32 rounding of Hugging Face's
// modeling_rope_utils.py.
#ifndef PHALANX_MODEL_ROPE_H
#define PHALANX_MODEL_ROPE_H

#include "model/model_config.h"

// The longest context that the model can be served with, from max_position_embeddings and the
// scaling rule as vLLM derives it: linear and dynamic NTK multiply it by their factor, YaRN
// multiplies the original length.
uint32_t rope_length_max(const struct model_config *m);

// The context length where the user gives none: rope_length_max(), but for dynamic NTK the length
// that the model was trained for, so that its frequencies are those of Hugging Face for prompts of
// such lengths.
uint32_t rope_length_default(const struct model_config *m);

// Computes inv_freq and attention_factor of every rope for a served length of `max_model_len`
// tokens. Dynamic NTK and longrope choose their factors by it, once; the other rules do not depend
// on it. May be called again with another length.
enum status rope_prepare(struct model_config *m, uint32_t max_model_len, struct error *err);

#endif
