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
    uint32_t original; // 0: not given
};

static const char original_key[] = "original_max_position_embeddings";

static struct beside read_beside(struct config_json *top)
{
    return (struct beside){
        .theta = config_json_f64(top, "rope_theta", 10000, 1e-3, 1e15),
        .partial = config_json_f64(top, "partial_rotary_factor", 1, 1e-3, 1),
        .original = config_json_u32(top, original_key, 0, 1, ARCH_POSITION_MAX),
    };
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
    if (part != 1 && !(row->features & ARCH_PARTIAL_ROTARY))
        config_json_fail(c, STATUS_UNSUPPORTED, "\"partial_rotary_factor\" is not supported for %s",
            row->model_type);
    r->rotary_dim = (uint32_t)(m->head_dim * part);
    if (r->rotary_dim == 0 || r->rotary_dim % 2 != 0)
        config_json_fail(c, STATUS_INVALID,
            "%u elements of a head would be rotated, but an even number was expected",
            r->rotary_dim);
}

static void read_inside(struct config_json *c, const struct arch_row *row, const struct beside *b,
    struct model_config *m)
{
    struct rope_config *r = &m->rope[0];
    check_keys(c);
    r->pairing = ROPE_HALF;
    r->rule = read_rule(c, row);
    r->theta = config_json_f64(c, "rope_theta", b->theta, 1e-3, 1e15);
    r->original_max_position = read_original(c, row, b, m);
    read_rotary_dim(c, row, b, m, r);
    if (c->status == STATUS_OK)
        read_rule_numbers(c, r, m);
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
    m->position_kind = POSITION_ROPE;
    m->n_ropes = 1;
    struct beside b = read_beside(top);
    json_t *empty = json_object();
    struct config_json c = *top; // with what failed so far
    c.object = json_object_size(classic) ? classic : modern ? modern : empty;
    read_inside(&c, row, &b, m);
    top->status = c.status;
    json_decref(empty);
}
