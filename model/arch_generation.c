// SPDX-License-Identifier: Apache-2.0
#include "model/arch_internal.h"

static void add_eos(struct config_json *c, const json_t *v, struct model_config *m)
{
    json_int_t id = json_integer_value(v);
    if (!json_is_integer(v) || id < 0 || id >= (json_int_t)m->vocab_size) {
        config_json_fail(c, STATUS_INVALID,
            "\"eos_token_id\" is not a token id from 0 to %u, or a list of them",
            m->vocab_size - 1);
        return;
    }
    for (uint32_t i = 0; i < m->n_eos; i++)
        if (m->eos_id[i] == (uint32_t)id)
            return;
    if (m->n_eos == MODEL_EOS_MAX) {
        config_json_fail(c, STATUS_TOO_LARGE, "more than %d different end ids", (int)MODEL_EOS_MAX);
        return;
    }
    m->eos_id[m->n_eos++] = (uint32_t)id;
}

void arch_eos_read(struct config_json *c, uint32_t missing, struct model_config *m)
{
    const json_t *v = json_object_get(c->object, "eos_token_id");
    if (json_is_null(v))
        return;
    if (!v) {
        if (missing < m->vocab_size)
            m->eos_id[m->n_eos++] = missing;
        return;
    }
    if (!json_is_array(v)) {
        add_eos(c, v, m);
        return;
    }
    for (size_t i = 0; i < json_array_size(v); i++)
        add_eos(c, json_array_get(v, i), m);
}

void arch_generation_read(
    struct config_json *c, struct model_config *m, struct generation_defaults *out)
{
    arch_eos_read(c, ARCH_NO_ID, m);
    out->temperature = (float)config_json_f64(c, "temperature", 1, 0, 100);
    out->top_p = (float)config_json_f64(c, "top_p", 1, 1e-6, 1);
    out->min_p = (float)config_json_f64(c, "min_p", 0, 0, 1);
    out->typical_p = (float)config_json_f64(c, "typical_p", 1, 1e-6, 1);
    out->repetition_penalty = (float)config_json_f64(c, "repetition_penalty", 1, 1e-6, 2);
    const json_t *k = config_json_get(c, "top_k");
    if (json_is_integer(k) && json_integer_value(k) == -1)
        out->top_k = -1;
    else
        out->top_k = (int32_t)config_json_u32(c, "top_k", 0, 0, INT32_MAX);
    out->max_new_tokens = config_json_u32(c, "max_new_tokens", 0, 1, ARCH_POSITION_MAX);
}
