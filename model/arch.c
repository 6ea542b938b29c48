// SPDX-License-Identifier: Apache-2.0
#include "model/arch_internal.h"

#include "model/text_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct arch_row rows[] = {
#define X(type, class, ...) {.model_type = type, .architecture = class, __VA_ARGS__},
#include "model/arch.def"
#undef X
};
enum { ROW_COUNT = sizeof rows / sizeof *rows };

enum neutral { NEUTRAL_OFF, NEUTRAL_ONE };

static const struct {
    const char *key;
    enum neutral neutral;
    unsigned features;
    const char *text;
} refused[] = {
#define X(key, neutral, features, text) {key, NEUTRAL_##neutral, features, text},
#include "model/arch_refused.def"
#undef X
};

static const struct {
    const char *name;
    enum activation kind;
} activations[] = {
    {"silu", ACTIVATION_SILU},
    {"swish", ACTIVATION_SILU},
    {"gelu", ACTIVATION_GELU_ERF},
    {"gelu_new", ACTIVATION_GELU_TANH},
    {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
    {"gelu_fast", ACTIVATION_GELU_TANH},
    {"relu", ACTIVATION_RELU},
    {"relu2", ACTIVATION_RELU2},
};

void arch_each(void (*visit)(void *user, const char *family, const char *architecture), void *user)
{
    for (int i = 0; i < ROW_COUNT; i++)
        visit(user, rows[i].model_type, rows[i].architecture);
}

// ---- which family ------------------------------------------------------------------------------

static const char *first_architecture(const struct config_json *c)
{
    const json_t *list = json_object_get(c->object, "architectures");
    return json_string_value(json_array_get(list, 0));
}

static void fail_unknown(struct config_json *c, const char *what, const char *name)
{
    char list[256] = "";
    size_t used = 0;
    for (int i = 0; i < ROW_COUNT && used + 1 < sizeof list; i++)
        used += (size_t)snprintf(
            list + used, sizeof list - used, "%s%s", i ? ", " : "", rows[i].model_type);
    config_json_fail(c, STATUS_UNSUPPORTED, "the %s \"%s\" is not supported; families that are: %s",
        what, name, list);
}

static const struct arch_row *find_row(struct config_json *c)
{
    const char *type = config_json_text(c, "model_type", NULL);
    const char *class = first_architecture(c);
    if (c->status == STATUS_OK && !type && !class)
        config_json_fail(
            c, STATUS_INVALID, "neither \"architectures\" nor \"model_type\" names a family");
    if (c->status != STATUS_OK)
        return NULL;
    for (int i = 0; i < ROW_COUNT; i++) {
        bool type_fits = type && strcmp(type, rows[i].model_type) == 0;
        bool class_fits = class && strcmp(class, rows[i].architecture) == 0;
        if ((type_fits || !type) && (class_fits || !class))
            return &rows[i];
        if (type_fits && class) {
            fail_unknown(c, "architecture", class);
            return NULL;
        }
    }
    fail_unknown(c, type ? "model type" : "architecture", type ? type : class);
    return NULL;
}

static bool is_neutral(const json_t *v, enum neutral kind)
{
    if (!v || json_is_null(v))
        return true;
    if (kind == NEUTRAL_ONE)
        return json_is_number(v) && json_number_value(v) == 1;
    return json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0) ||
           (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

static void refuse_features(struct config_json *c, const struct arch_row *row)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const json_t *v = json_object_get(c->object, refused[i].key);
        if (!(row->features & refused[i].features) && !is_neutral(v, refused[i].neutral))
            config_json_fail(c, STATUS_UNSUPPORTED,
                "\"%s\" asks for %s, which is not supported%s%s", refused[i].key, refused[i].text,
                refused[i].features ? " for " : "", refused[i].features ? row->model_type : "");
    }
}

// ---- numbers -----------------------------------------------------------------------------------

static void read_dims(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    m->n_layers = config_json_need_u32(c, "num_hidden_layers", 1, MODEL_LAYERS_MAX);
    m->hidden_dim = config_json_need_u32(c, "hidden_size", 1, MODEL_DIM_MAX);
    m->ffn_dim = config_json_need_u32(c, "intermediate_size", 1, MODEL_DIM_MAX);
    m->vocab_size = config_json_need_u32(c, "vocab_size", 1, MODEL_VOCAB_MAX);
    m->n_heads = config_json_need_u32(c, "num_attention_heads", 1, MODEL_HEADS_MAX);
    m->max_position =
        config_json_u32(c, "max_position_embeddings", row->max_position, 1, ARCH_POSITION_MAX);
    bool absent = !json_object_get(c->object, "num_key_value_heads");
    uint32_t kv = absent && row->kv_heads ? row->kv_heads : m->n_heads;
    m->n_kv_heads = config_json_u32(c, "num_key_value_heads", kv, 1, MODEL_HEADS_MAX);
    if (m->n_heads % m->n_kv_heads != 0)
        config_json_fail(c, STATUS_INVALID,
            "\"num_attention_heads\" %u is not a multiple of \"num_key_value_heads\" %u",
            m->n_heads, m->n_kv_heads);
}

static void read_head_dim(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    bool absent = !json_object_get(c->object, "head_dim");
    uint32_t derived = m->hidden_dim / m->n_heads;
    uint32_t missing = absent && row->head_dim ? row->head_dim : derived;
    m->head_dim = config_json_u32(c, "head_dim", missing, 1, MODEL_HEAD_DIM_MAX);
    if (!config_json_get(c, "head_dim") && missing == derived && m->hidden_dim % m->n_heads != 0)
        config_json_fail(c, STATUS_INVALID,
            "\"head_dim\" is missing, and \"hidden_size\" %u is not a multiple of "
            "\"num_attention_heads\" %u",
            m->hidden_dim, m->n_heads);
    if (m->head_dim == 0 || m->head_dim > MODEL_HEAD_DIM_MAX)
        config_json_fail(c, STATUS_INVALID, "a head has %u elements, but 1 to %d was expected",
            m->head_dim, (int)MODEL_HEAD_DIM_MAX);
    if ((uint64_t)m->head_dim * m->n_heads > MODEL_DIM_MAX)
        config_json_fail(c, STATUS_INVALID,
            "\"num_attention_heads\" %u times \"head_dim\" %u is more than %d", m->n_heads,
            m->head_dim, (int)MODEL_DIM_MAX);
}

static void read_biases(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    unsigned f = row->features;
    bool all = f & ARCH_ATTENTION_BIAS && config_json_bool(c, "attention_bias", false);
    bool qkv = f & ARCH_USE_QKV_BIAS && config_json_bool(c, "use_qkv_bias", false);
    m->q_bias = m->k_bias = m->v_bias = all || qkv || f & ARCH_QKV_BIAS;
    m->o_bias = all;
    m->mlp_bias = f & ARCH_MLP_BIAS && config_json_bool(c, "mlp_bias", false);
}

static void read_activation(struct config_json *c, struct model_config *m)
{
    const char *name =
        config_json_text(c, "hidden_act", config_json_text(c, "hidden_activation", "silu"));
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
        if (strcmp(name, activations[i].name) == 0) {
            m->activation = activations[i].kind;
            return;
        }
    config_json_fail(c, STATUS_UNSUPPORTED, "the activation \"%s\" is not supported", name);
}

static void read_scales(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    const double least = 1e-6, most = 1e6;
    m->attention_scale = (float)(1 / sqrt((double)m->head_dim));
    m->embedding_scale = m->residual_scale = m->logit_scale = 1;
    if (!(row->features & ARCH_SCALES))
        return;
    m->attention_scale = (float)config_json_f64(c, "attention_multiplier", 1, least, most);
    m->embedding_scale = (float)config_json_f64(c, "embedding_multiplier", 1, least, most);
    m->residual_scale = (float)config_json_f64(c, "residual_multiplier", 1, least, most);
    m->logit_scale = (float)(1 / config_json_f64(c, "logits_scaling", 1, least, most));
}

static void read_dtype(struct config_json *c, struct model_config *m)
{
    const char *name = config_json_text(c, "dtype", config_json_text(c, "torch_dtype", "float32"));
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    if (strcmp(name, "float32") == 0)
        m->weight_dtype = DTYPE_F32;
    else if (strcmp(name, "float16") == 0)
        m->weight_dtype = DTYPE_F16;
    else if (strcmp(name, "bfloat16") == 0)
        m->weight_dtype = DTYPE_BF16;
    else
        config_json_fail(c, STATUS_UNSUPPORTED,
            "the dtype \"%s\" is not supported; expected float32, float16 or bfloat16", name);
}

// ---- layers ------------------------------------------------------------------------------------

static void read_layer_types(struct config_json *c, uint32_t window, struct model_config *m)
{
    const json_t *list = config_json_get(c, "layer_types");
    if (!list)
        return;
    if (!json_is_array(list) || json_array_size(list) != m->n_layers) {
        config_json_fail(
            c, STATUS_INVALID, "\"layer_types\" is not a list of %u names", m->n_layers);
        return;
    }
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        bool sliding = name && strcmp(name, "sliding_attention") == 0;
        if (!sliding && (!name || strcmp(name, "full_attention") != 0))
            config_json_fail(c, STATUS_UNSUPPORTED,
                "\"layer_types\" has \"%s\"; expected full_attention or sliding_attention",
                name ? name : "?");
        if (sliding && window == 0)
            config_json_fail(c, STATUS_UNSUPPORTED,
                "\"layer_types\" asks for sliding windows, but there is no window for them");
        m->layer[i].window = sliding ? window : 0;
    }
}

static void read_windows(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    bool absent = !json_object_get(c->object, "sliding_window");
    bool per_layer = row->features & ARCH_WINDOW_LAYERS;
    bool wanted = config_json_bool(c, "use_sliding_window", !per_layer);
    // 0 has been written for "none".
    uint32_t window =
        config_json_u32(c, "sliding_window", absent ? row->window : 0, 0, ARCH_POSITION_MAX);
    uint32_t first = 0;
    if (per_layer)
        first = config_json_u32(c, "max_window_layers", 28, 0, 1 << 20);
    if (!wanted)
        window = 0;
    if (!(row->features & (ARCH_WINDOW | ARCH_WINDOW_LAYERS))) {
        if (window && window < m->max_position)
            config_json_fail(c, STATUS_UNSUPPORTED, "\"sliding_window\" %u is not supported for %s",
                window, row->model_type);
        window = 0;
    }
    for (uint32_t i = 0; i < m->n_layers; i++)
        m->layer[i].window = i >= first ? window : 0;
    read_layer_types(c, window, m);
}

// Layers of one window share a group; groups are numbered as they first occur.
static void group_layers(struct config_json *c, struct model_config *m)
{
    uint32_t windows[MODEL_KV_GROUPS_MAX];
    for (uint32_t i = 0; i < m->n_layers; i++) {
        uint32_t g = 0;
        while (g < m->n_kv_groups && windows[g] != m->layer[i].window)
            g++;
        if (g == MODEL_KV_GROUPS_MAX) {
            config_json_fail(c, STATUS_UNSUPPORTED,
                "layers of more than %d different windows are not supported",
                (int)MODEL_KV_GROUPS_MAX);
            return;
        }
        if (g == m->n_kv_groups)
            windows[m->n_kv_groups++] = m->layer[i].window;
        m->layer[i].kv_group = (uint8_t)g;
    }
}

// ---- the whole ---------------------------------------------------------------------------------

static void read_ids(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    const json_t *bos = json_object_get(c->object, "bos_token_id");
    m->bos_id = bos || row->bos >= m->vocab_size ? ARCH_NO_ID : row->bos;
    m->bos_id = config_json_u32(c, "bos_token_id", m->bos_id, 0, m->vocab_size - 1);
    arch_eos_read(c, row->eos, m);
}

static void read_config(struct config_json *c, struct model_config *m)
{
    const struct arch_row *row = find_row(c);
    if (!row)
        return;
    snprintf(m->family, sizeof m->family, "%s", row->model_type);
    m->tensor_scheme = row->scheme;
    refuse_features(c, row);
    read_dtype(c, m);
    read_dims(c, row, m);
    if (c->status != STATUS_OK)
        return;
    read_head_dim(c, row, m);
    m->norm_kind = row->norm_kind;
    m->norm_bias = row->norm_kind == NORM_LAYER;
    m->norm_placement = NORM_PRE;
    m->norm_eps = (float)config_json_f64(
        c, row->norm_eps_key ? row->norm_eps_key : "rms_norm_eps", row->norm_eps, 0, 1);
    m->qk_norm = row->qk_norm;
    m->gated = true;
    m->tied_head = config_json_bool(c, "tie_word_embeddings", false);
    read_biases(c, row, m);
    read_activation(c, m);
    read_scales(c, row, m);
    read_windows(c, row, m);
    group_layers(c, m);
    read_ids(c, row, m);
    if (c->status == STATUS_OK)
        arch_rope_read(c, row, m);
}

static enum status parse(const char *text, size_t bytes, const char *where,
    void (*read)(struct config_json *c, void *user), void *user, struct error *err)
{
    json_t *root = NULL;
    TRY(config_json_parse(text, bytes, where, &root, err));
    struct config_json c = {.object = root, .where = where, .err = err};
    read(&c, user);
    json_decref(root);
    return c.status;
}

struct result {
    struct model_config m;
    struct generation_defaults generation;
};

static void parse_config(struct config_json *c, void *user)
{
    read_config(c, &((struct result *)user)->m);
}

static void parse_generation(struct config_json *c, void *user)
{
    struct result *r = user;
    arch_generation_read(c, &r->m, &r->generation);
}

enum status arch_parse(const char *config_text, size_t config_bytes, const char *generation_text,
    size_t generation_bytes, struct model_config *out, struct generation_defaults *generation,
    struct error *err)
{
    struct result *r = calloc(1, sizeof *r);
    if (!r)
        return status_fail(err, STATUS_NO_MEMORY, "no memory to read config.json");
    r->generation = (struct generation_defaults){
        .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    enum status s = parse(config_text, config_bytes, "config.json", parse_config, r, err);
    if (s == STATUS_OK && generation_text)
        s = parse(
            generation_text, generation_bytes, "generation_config.json", parse_generation, r, err);
    if (s == STATUS_OK) {
        *out = r->m;
        if (generation)
            *generation = r->generation;
    }
    free(r);
    return s;
}

enum status arch_read(const char *dir, struct model_config *out,
    struct generation_defaults *generation, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES], second[TEXT_FILE_PATH_BYTES];
    char *config = NULL, *more = NULL;
    size_t config_bytes = 0, more_bytes = 0;
    if (!text_file_path(path, dir, "config.json") ||
        !text_file_path(second, dir, "generation_config.json"))
        return status_fail(err, STATUS_TOO_LARGE, "the path %s is too long", dir);
    TRY(text_file_read(path, ARCH_JSON_BYTES_MAX, &config, &config_bytes, err));
    enum status s = text_file_read(second, ARCH_JSON_BYTES_MAX, &more, &more_bytes, err);
    if (s == STATUS_OK || s == STATUS_NOT_FOUND)
        s = arch_parse(config, config_bytes, more, more_bytes, out, generation, err);
    free(config);
    free(more);
    return s;
}
