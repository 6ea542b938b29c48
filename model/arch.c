// SPDX-License-Identifier: Apache-2.0
#include "model/arch_internal.h"

#include "base/check.h"
#include "model/text_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

void arch_each(void (*visit)(void *user, const struct arch_family *family), void *user)
{
    for (int i = 0; i < ROW_COUNT; i++)
        visit(
            user, &(struct arch_family){rows[i].model_type, rows[i].architecture, rows[i].models});
}

// ---- which family ------------------------------------------------------------------------------

static const char *first_architecture(const struct config_json *c)
{
    const json_t *list = json_object_get(c->object, "architectures");
    return json_string_value(json_array_get(list, 0));
}

static void fail_unknown(struct config_json *c, const char *what, const char *name)
{
    char list[512] = "";
    size_t used = 0;
    for (int i = 0; i < ROW_COUNT && used + 1 < sizeof list; i++)
        if (i == 0 || strcmp(rows[i].model_type, rows[i - 1].model_type) != 0)
            used += (size_t)snprintf(
                list + used, sizeof list - used, "%s%s", i ? ", " : "", rows[i].model_type);
    config_json_fail(c, STATUS_UNSUPPORTED, "the %s \"%s\" is not supported; families that are: %s",
        what, name, list);
}

// Whether `name` is the row's own or one of its others; an absent one always fits.
static bool fits(const char *name, const char *own, const char *const other[ARCH_NAMES_MAX])
{
    if (!name || strcmp(name, own) == 0)
        return true;
    for (int i = 0; i < ARCH_NAMES_MAX; i++)
        if (other[i] && strcmp(name, other[i]) == 0)
            return true;
    return false;
}

static const struct arch_row *find_row(struct config_json *c)
{
    const char *type = config_json_text(c, "model_type", NULL);
    const char *class = first_architecture(c);
    bool type_known = false;
    if (c->status == STATUS_OK && !type && !class)
        config_json_fail(
            c, STATUS_INVALID, "neither \"architectures\" nor \"model_type\" names a family");
    if (c->status != STATUS_OK)
        return NULL;
    for (int i = 0; i < ROW_COUNT; i++) {
        bool type_fits = fits(type, rows[i].model_type, rows[i].other_types);
        if (type_fits && fits(class, rows[i].architecture, rows[i].other_architectures))
            return &rows[i];
        type_known = type_known || (type && type_fits);
    }
    if (type && !type_known)
        fail_unknown(c, "model type", type);
    else
        fail_unknown(c, "architecture", class);
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

static bool lists_bias(const struct arch_row *row, const char *key)
{
    for (int i = 0; i < ARCH_BIASES_MAX; i++)
        if (row->bias[i].key && strcmp(row->bias[i].key, key) == 0)
            return true;
    return false;
}

static void refuse_features(struct config_json *c, const struct arch_row *row)
{
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        const json_t *v = json_object_get(c->object, refused[i].key);
        if (row->features & refused[i].features || lists_bias(row, refused[i].key))
            continue;
        if (!is_neutral(v, refused[i].neutral))
            config_json_fail(c, STATUS_UNSUPPORTED,
                "\"%s\" asks for %s, which is not supported%s%s", refused[i].key, refused[i].text,
                refused[i].features ? " for " : "", refused[i].features ? row->model_type : "");
    }
}

// ---- numbers -----------------------------------------------------------------------------------

const char *arch_key_name(
    const struct config_json *c, const struct arch_row *row, enum arch_key key)
{
    static const char *const llama[ARCH_KEY_COUNT] = {
        [ARCH_KEY_LAYERS] = "num_hidden_layers",
        [ARCH_KEY_HIDDEN] = "hidden_size",
        [ARCH_KEY_FFN] = "intermediate_size",
        [ARCH_KEY_HEADS] = "num_attention_heads",
        [ARCH_KEY_KV_HEADS] = "num_key_value_heads",
        [ARCH_KEY_HEAD_DIM] = "head_dim",
        [ARCH_KEY_POSITIONS] = "max_position_embeddings",
        [ARCH_KEY_VOCAB] = "vocab_size",
        [ARCH_KEY_NORM_EPS] = "rms_norm_eps",
        [ARCH_KEY_ACTIVATION] = "hidden_act",
        [ARCH_KEY_THETA] = "rope_theta",
        [ARCH_KEY_PARTIAL] = "partial_rotary_factor",
    };
    const char *const *own = row->key[key];
    if (!own[0])
        return llama[key];
    // An activation that is null means the family's own, whatever the other key says.
    for (int i = 0; i < ARCH_NAMES_MAX && own[i]; i++)
        if (config_json_get(c, own[i]) ||
            (key == ARCH_KEY_ACTIVATION && json_object_get(c->object, own[i])))
            return own[i];
    // Nobody looks for a name that is empty; a sentence may have to name the key.
    return own[0];
}

static uint32_t need(
    struct config_json *c, const struct arch_row *row, enum arch_key key, uint32_t most)
{
    return config_json_need_u32(c, arch_key_name(c, row, key), 1, most);
}

static void read_kv_heads(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    const char *key = arch_key_name(c, row, ARCH_KEY_KV_HEADS);
    bool absent = !json_object_get(c->object, key);
    uint32_t kv = absent && row->kv_heads ? row->kv_heads : m->n_heads;
    m->n_kv_heads = config_json_u32(c, key, kv, 1, MODEL_HEADS_MAX);
}

static void check_kv_heads(
    struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    if (m->n_kv_heads == 0 || m->n_heads % m->n_kv_heads != 0)
        config_json_fail(c, STATUS_INVALID, "\"%s\" %u is not a multiple of the %u KV heads",
            arch_key_name(c, row, ARCH_KEY_HEADS), m->n_heads, m->n_kv_heads);
}

static void read_ffn(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    const char *key = arch_key_name(c, row, ARCH_KEY_FFN);
    uint64_t derived = (uint64_t)row->ffn_factor * m->hidden_dim;
    if (row->ffn_factor == 0)
        m->ffn_dim = config_json_need_u32(c, key, 1, MODEL_DIM_MAX);
    else
        m->ffn_dim = config_json_u32(
            c, key, derived < MODEL_DIM_MAX ? (uint32_t)derived : MODEL_DIM_MAX, 1, MODEL_DIM_MAX);
    if (row->ffn_divisor)
        m->ffn_dim /= row->ffn_divisor;
    if (m->ffn_dim == 0)
        config_json_fail(c, STATUS_INVALID, "\"%s\" leaves the MLP no columns", key);
}

static void read_dims(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    m->n_layers = need(c, row, ARCH_KEY_LAYERS, MODEL_LAYERS_MAX);
    m->embed_dim = m->hidden_dim = need(c, row, ARCH_KEY_HIDDEN, MODEL_DIM_MAX);
    read_ffn(c, row, m);
    m->vocab_size = need(c, row, ARCH_KEY_VOCAB, MODEL_VOCAB_MAX);
    m->n_heads = need(c, row, ARCH_KEY_HEADS, MODEL_HEADS_MAX);
    m->max_position = config_json_u32(
        c, arch_key_name(c, row, ARCH_KEY_POSITIONS), row->max_position, 1, ARCH_POSITION_MAX);
    read_kv_heads(c, row, m);
}

static void read_head_dim(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    const char *key = arch_key_name(c, row, ARCH_KEY_HEAD_DIM);
    bool absent = !json_object_get(c->object, key);
    uint32_t derived = m->hidden_dim / m->n_heads;
    uint32_t missing = absent && row->head_dim ? row->head_dim : derived;
    m->head_dim = config_json_u32(c, key, missing, 1, MODEL_HEAD_DIM_MAX);
    if (!config_json_get(c, key) && missing == derived && m->hidden_dim % m->n_heads != 0)
        config_json_fail(c, STATUS_INVALID, "%s\"%s\" %u is not a multiple of \"%s\" %u",
            key[0] ? "\"head_dim\" is missing, and " : "", arch_key_name(c, row, ARCH_KEY_HIDDEN),
            m->hidden_dim, arch_key_name(c, row, ARCH_KEY_HEADS), m->n_heads);
    if (m->head_dim == 0 || m->head_dim > MODEL_HEAD_DIM_MAX)
        config_json_fail(c, STATUS_INVALID, "a head has %u elements, but 1 to %d was expected",
            m->head_dim, (int)MODEL_HEAD_DIM_MAX);
    if ((uint64_t)m->head_dim * m->n_heads > MODEL_DIM_MAX)
        config_json_fail(c, STATUS_INVALID, "\"%s\" %u times %u elements of a head is more than %d",
            arch_key_name(c, row, ARCH_KEY_HEADS), m->n_heads, m->head_dim, (int)MODEL_DIM_MAX);
}

static void read_biases(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    unsigned what = 0;
    for (int i = 0; i < ARCH_BIASES_MAX && row->bias[i].what; i++) {
        const struct arch_bias *b = &row->bias[i];
        bool opposite = b->key && b->key[0] == '!';
        bool on = !b->key || config_json_bool(c, b->key + opposite, b->missing != opposite);
        what |= on != opposite ? b->what : 0;
    }
    m->qkv_bias = what & ARCH_BIAS_QKV;
    m->o_bias = what & ARCH_BIAS_O;
    m->mlp_bias = what & ARCH_BIAS_MLP;
    m->head_bias = what & ARCH_BIAS_HEAD;
}

static void read_activation(
    struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    const char *missing = row->activation ? row->activation : "silu";
    const char *name = config_json_text(c, arch_key_name(c, row, ARCH_KEY_ACTIVATION), missing);
    for (size_t i = 0; i < COUNT_OF(activations); i++)
        if (strcmp(name, activations[i].name) == 0) {
            m->activation = activations[i].kind;
            return;
        }
    config_json_fail(c, STATUS_UNSUPPORTED, "the activation \"%s\" is not supported", name);
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

// ---- the whole ---------------------------------------------------------------------------------

static void read_ids(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    const json_t *bos = json_object_get(c->object, "bos_token_id");
    m->bos_id = bos || row->bos >= m->vocab_size ? ARCH_NO_ID : row->bos;
    m->bos_id = config_json_u32(c, "bos_token_id", m->bos_id, 0, m->vocab_size - 1);
    arch_eos_read(c, row->eos, m);
}

static void read_norms(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    m->norm_kind = row->norm_kind;
    m->norm_weight = true;
    m->norm_bias = row->norm_kind == NORM_LAYER;
    m->norm_placement = row->norm_placement;
    m->norm_weight_offset = row->norm_offset;
    m->norm_eps =
        (float)config_json_f64(c, arch_key_name(c, row, ARCH_KEY_NORM_EPS), row->norm_eps, 0, 1);
    m->final_norm = true;
    m->qk_norm = row->qk_norm;
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
    read_norms(c, row, m);
    m->gated = !row->ungated;
    m->qkv_grouped = row->qkv_grouped;
    m->tied_head = config_json_bool(c, "tie_word_embeddings", row->tied);
    read_biases(c, row, m);
    read_activation(c, row, m);
    arch_options_read(c, row, m);
    arch_experts_read(c, row, m);
    check_kv_heads(c, row, m);
    arch_windows_read(c, row, m);
    read_ids(c, row, m);
    if (c->status == STATUS_OK && m->position_kind == POSITION_ROPE)
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

bool arch_is_shape(const char *model)
{
    struct stat st;
    return stat(model, &st) == 0 && S_ISREG(st.st_mode);
}

bool arch_config_path(char path[TEXT_FILE_PATH_BYTES], const char *model)
{
    if (!arch_is_shape(model))
        return text_file_path(path, model, "config.json");
    int n = snprintf(path, TEXT_FILE_PATH_BYTES, "%s", model);
    return n >= 0 && n < TEXT_FILE_PATH_BYTES;
}

enum status arch_read(const char *dir, struct model_config *out,
    struct generation_defaults *generation, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES], second[TEXT_FILE_PATH_BYTES];
    char *config = NULL, *more = NULL;
    size_t config_bytes = 0, more_bytes = 0;
    if (!arch_config_path(path, dir) || !text_file_path(second, dir, "generation_config.json"))
        return status_fail(err, STATUS_TOO_LARGE, "the path %s is too long", dir);
    TRY(text_file_read(path, ARCH_JSON_BYTES_MAX, &config, &config_bytes, err));
    enum status s = arch_is_shape(dir)
                        ? STATUS_NOT_FOUND
                        : text_file_read(second, ARCH_JSON_BYTES_MAX, &more, &more_bytes, err);
    if (s == STATUS_OK || s == STATUS_NOT_FOUND)
        s = arch_parse(config, config_bytes, more, more_bytes, out, generation, err);
    free(config);
    free(more);
    return s;
}
