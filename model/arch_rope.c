// SPDX-License-Identifier: Apache-2.0
// Both styles of rope settings: "rope_parameters" with everything inside, and the classic
// "rope_scaling" with "rope_theta" beside it.
#include "model/arch_internal.h"

#include <string.h>

static const struct {
    const char *name;
    enum rope_rule rule;
} rules[] = {
    {"default", ROPE_DEFAULT},
    {"linear", ROPE_LINEAR},
    {"dynamic", ROPE_DYNAMIC},
    {"yarn", ROPE_YARN},
    {"llama3", ROPE_LLAMA3},
    {"longrope", ROPE_LONGROPE},
    {"su", ROPE_LONGROPE},
};

// A key that we do not know may change the frequencies, so it is refused by name.
static const char *const known_keys[] = {"rope_type", "type", "rope_theta", "factor",
    "partial_rotary_factor", "original_max_position_embeddings", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "truncate", "low_freq_factor", "high_freq_factor",
    "short_factor", "long_factor", "finetuned"};

static void check_keys(struct config_json *c)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)c->object, key, value)
    {
        bool known = false;
        for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++)
            known = known || strcmp(key, known_keys[i]) == 0;
        if (!known && !json_is_null(value))
            config_json_fail(
                c, STATUS_UNSUPPORTED, "the rope setting \"%s\" is not supported", key);
    }
}

static enum rope_rule read_rule(struct config_json *c, const struct arch_row *row)
{
    const char *name = config_json_text(c, "rope_type", config_json_text(c, "type", rules[0].name));
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strcmp(name, rules[i].name) == 0) {
            bool renamed = rules[i].rule == ROPE_YARN && row->features & ARCH_YARN_IS_LONGROPE;
            return renamed ? ROPE_LONGROPE : rules[i].rule;
        }
    config_json_fail(c, STATUS_UNSUPPORTED,
        "the rope type \"%s\" is not supported; expected default, linear, dynamic, yarn, llama3 "
        "or longrope",
        name);
    return ROPE_DEFAULT;
}

static void read_factors(struct config_json *c, const char *key, float *out, uint32_t count)
{
    const json_t *list = config_json_get(c, key);
    if (!json_is_array(list) || json_array_size(list) != count) {
        config_json_fail(c, STATUS_INVALID, "\"%s\" is not a list of %u numbers", key, count);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        const json_t *v = json_array_get(list, i);
        double f = json_number_value(v);
        if (!json_is_number(v) || f < 1e-3 || f > 1e6) {
            config_json_fail(
                c, STATUS_INVALID, "\"%s\"[%u] is not a number from 0.001 to 1000000", key, i);
            return;
        }
        out[i] = (float)f;
    }
}

// What stands beside the rope object counts where the object itself says nothing, but for the
// original length, where it counts first (Phi-3 keeps it there).
struct beside {
    double theta, partial;
    uint32_t original;   // 0: not given
    uint32_t rotary_dim; // 0: told by the part
};

static const char original_key[] = "original_max_position_embeddings";

static struct beside read_beside(struct config_json *top, const struct arch_row *row)
{
    struct beside b = {
        .theta = config_json_f64(top, arch_key_name(top, row, ARCH_KEY_THETA),
            row->theta != 0 ? row->theta : 10000, 1e-3, 1e15),
        .partial = config_json_f64(top, arch_key_name(top, row, ARCH_KEY_PARTIAL),
            row->partial != 0 ? row->partial : 1, 1e-3, 1),
        .original = config_json_u32(top, original_key, 0, 1, ARCH_POSITION_MAX),
    };
    if (row->features & ARCH_ROPE_RATIO)
        b.theta *= config_json_f64(top, "rope_ratio", 1, 1e-3, 1e6);
    return b;
}

static uint32_t read_original(struct config_json *c, const struct arch_row *row,
    const struct beside *b, const struct model_config *m)
{
    uint32_t v = config_json_u32(c, original_key, row->original_max_position, 1, ARCH_POSITION_MAX);
    if (b->original)
        return b->original;
    return v ? v : m->max_position;
}

static void read_yarn(struct config_json *c, struct rope_config *r, const struct model_config *m)
{
    // A missing factor is the ratio of the two lengths, as for DeepSeek.
    double ratio = (double)m->max_position / r->original_max_position;
    r->factor = config_json_f64(c, "factor", ratio, 1e-3, 1e6);
    r->beta_fast = config_json_f64(c, "beta_fast", 32, 0, 1e6);
    r->beta_slow = config_json_f64(c, "beta_slow", 1, 0, 1e6);
    r->beta_fast = r->beta_fast == 0 ? 32 : r->beta_fast;
    r->beta_slow = r->beta_slow == 0 ? 1 : r->beta_slow;
    r->mscale = config_json_f64(c, "mscale", 0, 0, 1e3);
    r->mscale_all_dim = config_json_f64(c, "mscale_all_dim", 0, 0, 1e3);
    r->no_truncate = !config_json_bool(c, "truncate", true);
    r->attention_factor_given = config_json_f64(c, "attention_factor", 0, 1e-3, 1e3);
    if (r->theta <= 1)
        config_json_fail(c, STATUS_INVALID, "yarn needs a \"rope_theta\" above 1");
}

static void read_llama3(struct config_json *c, struct rope_config *r)
{
    r->factor = config_json_need_f64(c, "factor", 1e-3, 1e6);
    r->low_freq_factor = config_json_need_f64(c, "low_freq_factor", 1e-3, 1e6);
    r->high_freq_factor = config_json_need_f64(c, "high_freq_factor", 1e-3, 1e6);
    if (r->high_freq_factor <= r->low_freq_factor)
        config_json_fail(
            c, STATUS_INVALID, "\"high_freq_factor\" must be greater than \"low_freq_factor\"");
}

static void read_longrope(struct config_json *c, struct rope_config *r)
{
    r->factor = config_json_f64(c, "factor", 0, 1e-3, 1e6);
    r->attention_factor_given = config_json_f64(c, "attention_factor", 0, 1e-3, 1e3);
    read_factors(c, "short_factor", r->short_factor, r->rotary_dim / 2);
    read_factors(c, "long_factor", r->long_factor, r->rotary_dim / 2);
    if (r->original_max_position < 2)
        config_json_fail(
            c, STATUS_INVALID, "longrope needs an original length of at least 2 positions");
}

static void read_rule_numbers(
    struct config_json *c, struct rope_config *r, const struct model_config *m)
{
    switch (r->rule) {
    case ROPE_DEFAULT:
        break;
    case ROPE_LINEAR:
        r->factor = config_json_need_f64(c, "factor", 1e-3, 1e6);
        break;
    case ROPE_DYNAMIC:
        r->factor = config_json_need_f64(c, "factor", 1, 1e6);
        if (r->rotary_dim <= 2)
            config_json_fail(
                c, STATUS_INVALID, "dynamic rope needs a head of more than 2 elements");
        break;
    case ROPE_YARN:
        read_yarn(c, r, m);
        break;
    case ROPE_LLAMA3:
        read_llama3(c, r);
        break;
    case ROPE_LONGROPE:
        read_longrope(c, r);
        break;
    }
}

static void read_rotary_dim(struct config_json *c, const struct arch_row *row,
    const struct beside *b, const struct model_config *m, struct rope_config *r)
{
    double part = config_json_f64(c, "partial_rotary_factor", b->partial, 1e-3, 1);
    if (part != 1 && row->partial == 0 && !(row->features & ARCH_PARTIAL_ROTARY))
        config_json_fail(c, STATUS_UNSUPPORTED, "\"partial_rotary_factor\" is not supported for %s",
            row->model_type);
    r->rotary_dim = b->rotary_dim ? b->rotary_dim : (uint32_t)(m->head_dim * part);
    if (r->rotary_dim == 0 || r->rotary_dim % 2 != 0 || r->rotary_dim > m->head_dim)
        config_json_fail(c, STATUS_INVALID,
            "%u elements of a head would be rotated, but an even number up to %u was expected",
            r->rotary_dim, m->head_dim);
}

static void read_inside(struct config_json *c, const struct arch_row *row, const struct beside *b,
    struct model_config *m, struct rope_config *r)
{
    check_keys(c);
    r->pairing = row->pairing;
    r->rule = read_rule(c, row);
    r->theta = config_json_f64(c, "rope_theta", b->theta, 1e-3, 1e15);
    r->original_max_position = read_original(c, row, b, m);
    read_rotary_dim(c, row, b, m, r);
    if (c->status == STATUS_OK)
        read_rule_numbers(c, r, m);
}

// One rope from an object, which may be NULL.
static void read_one(struct config_json *top, const json_t *object, const struct arch_row *row,
    const struct beside *b, struct model_config *m, struct rope_config *r)
{
    json_t *empty = json_object();
    struct config_json c = *top; // with what failed so far
    c.object = object ? object : empty;
    read_inside(&c, row, b, m, r);
    top->status = c.status;
    json_decref(empty);
}

// InternLM 1: {"base": 10000, "type": "origin" or "dynamic", "scaling_factor": 1}.
static json_t *standard_of(struct config_json *top, struct beside *b)
{
    const json_t *own = config_json_get(top, "rotary");
    struct config_json c = *top;
    c.object = own;
    if (!json_is_object(own))
        return NULL;
    b->theta = config_json_f64(&c, "base", b->theta, 1e-3, 1e15);
    bool dynamic = strcmp(config_json_text(&c, "type", "origin"), "dynamic") == 0;
    double factor = config_json_f64(&c, "scaling_factor", 1, 1, 1e6);
    top->status = c.status;
    return dynamic ? json_pack("{s:s, s:f}", "type", "dynamic", "factor", factor) : NULL;
}

// Layers with windows have a rope of their own, which no scaling touches in the classic style.
static void read_local(struct config_json *top, const json_t *modern, const struct arch_row *row,
    const struct beside *b, struct model_config *m)
{
    struct beside local = *b;
    const json_t *object = json_object_get(modern, "sliding_attention");
    local.theta = config_json_f64(top, "rope_local_base_freq", 10000, 1e-3, 1e15);
    m->n_ropes = 2;
    read_one(top, json_is_object(object) ? object : NULL, row, &local, m, &m->rope[1]);
}

void arch_rope_read(struct config_json *top, const struct arch_row *row, struct model_config *m)
{
    const json_t *classic = config_json_get(top, "rope_scaling");
    const json_t *modern = config_json_get(top, "rope_parameters");
    if ((classic && !json_is_object(classic)) || (modern && !json_is_object(modern))) {
        config_json_fail(top, STATUS_INVALID,
            "\"rope_scaling\" or \"rope_parameters\" is neither an object nor null");
        return;
    }
    m->n_ropes = 1;
    struct beside b = read_beside(top, row);
    json_t *own = NULL;
    if (row->features & ARCH_ROTARY_DIM)
        b.rotary_dim = json_object_get(top->object, "rotary_dim")
                           ? config_json_need_u32(top, "rotary_dim", 2, MODEL_HEAD_DIM_MAX)
                           : 64;
    if (row->features & ARCH_ROTARY_OBJECT)
        own = standard_of(top, &b);
    const json_t *object = json_object_size(classic) ? classic : own ? own : modern;
    if (row->features & ARCH_ROPE_LOCAL) {
        read_local(top, modern, row, &b, m);
        const json_t *full = json_object_get(modern, "full_attention");
        object = json_object_size(classic) ? classic : json_is_object(full) ? full : NULL;
    }
    read_one(top, object, row, &b, m, &m->rope[0]);
    json_decref(own);
}
