// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include "model/arch.h"
#include "model/random_weights.h"
#include "model/weights_plan.h"
#include "tests/model/families.h"
#include "tests/model/scratch_dir.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A model of uneven sizes; each element of its file has its own value, so that a slice tells where
// it comes from.
static const char config[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 12, \"intermediate_size\": 13, "
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 3, "
    "\"vocab_size\": 17, \"head_dim\": 4, \"attention_bias\": true, \"mlp_bias\": true}";

enum { HIDDEN = 12, FFN = 13, HEADS = 6, KV_HEADS = 3, HEAD_DIM = 4, VOCAB = 17, LAYERS = 2 };
enum { Q_ROWS = HEADS * HEAD_DIM, KV_ROWS = KV_HEADS * HEAD_DIM };

struct listed {
    const char *name;       // after "model.layers.N."; of the model itself where it begins with '/'
    uint32_t rows, columns; // rows 0: a vector
};

static const struct listed listed[] = {
    {"/model.embed_tokens.weight", VOCAB, HIDDEN},
    {"/model.norm.weight", 0, HIDDEN},
    {"/lm_head.weight", VOCAB, HIDDEN},
    {"input_layernorm.weight", 0, HIDDEN},
    {"self_attn.q_proj.weight", Q_ROWS, HIDDEN},
    {"self_attn.k_proj.weight", KV_ROWS, HIDDEN},
    {"self_attn.v_proj.weight", KV_ROWS, HIDDEN},
    {"self_attn.o_proj.weight", HIDDEN, Q_ROWS},
    {"self_attn.q_proj.bias", 0, Q_ROWS},
    {"self_attn.k_proj.bias", 0, KV_ROWS},
    {"self_attn.v_proj.bias", 0, KV_ROWS},
    {"self_attn.o_proj.bias", 0, HIDDEN},
    {"post_attention_layernorm.weight", 0, HIDDEN},
    {"mlp.gate_proj.weight", FFN, HIDDEN},
    {"mlp.up_proj.weight", FFN, HIDDEN},
    {"mlp.down_proj.weight", HIDDEN, FFN},
    {"mlp.gate_proj.bias", 0, FFN},
    {"mlp.up_proj.bias", 0, FFN},
    {"mlp.down_proj.bias", 0, HIDDEN},
};
enum { LISTED = sizeof listed / sizeof *listed, FIRST_OF_LAYER = 3 };

// What a test changes in the file: NULL changes nothing.
struct change {
    const char *name;   // the whole name of a tensor
    const char *fields; // its dtype and shape instead; NULL: it is left out
    size_t bytes;
};

struct file {
    char header[16384];
    size_t used;
    float *data;
    size_t floats;
};

static void add_text(struct file *f, const char *name, const char *fields, size_t bytes)
{
    f->used += (size_t)snprintf(f->header + f->used, sizeof f->header - f->used,
        "%c\"%s\":{%s,\"data_offsets\":[%zu,%zu]}", f->used ? ',' : '{', name, fields,
        f->floats * 4, f->floats * 4 + bytes);
    assert_true(f->used < sizeof f->header - 1);
}

// Element e of tensor number t of layer l is 1000000 l + 10000 t + e (exact in f32).
static float value_of(uint32_t layer, uint32_t tensor, uint32_t element)
{
    return (float)(1000000 * layer + 10000 * tensor + element);
}

static void add_tensor(struct file *f, uint32_t layer, uint32_t tensor, const struct change *c)
{
    const struct listed *l = &listed[tensor];
    char name[128], fields[64];
    size_t n = (size_t)(l->rows ? l->rows : 1) * l->columns;
    if (l->name[0] == '/')
        snprintf(name, sizeof name, "%s", l->name + 1);
    else
        snprintf(name, sizeof name, "model.layers.%u.%s", layer, l->name);
    if (l->rows)
        snprintf(fields, sizeof fields, "\"dtype\":\"F32\",\"shape\":[%u,%u]", l->rows, l->columns);
    else
        snprintf(fields, sizeof fields, "\"dtype\":\"F32\",\"shape\":[%u]", l->columns);
    bool changed = c && strcmp(c->name, name) == 0;
    if (changed && !c->fields)
        return;
    if (changed)
        n = c->bytes / 4;
    add_text(f, name, changed ? c->fields : fields, n * 4);
    for (size_t e = 0; e < n; e++)
        f->data[f->floats++] = value_of(layer, tensor, (uint32_t)e);
}

static struct safetensors *open_changed(const struct change *c)
{
    struct file *f = calloc(1, sizeof *f);
    f->data = calloc(65536, sizeof *f->data);
    for (uint32_t t = 0; t < FIRST_OF_LAYER; t++)
        add_tensor(f, 0, t, c);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t t = FIRST_OF_LAYER; t < LISTED; t++)
            add_tensor(f, l, t, c);
    if (c && strncmp(c->name, "extra.", 6) == 0)
        add_text(f, c->name + 6, c->fields, c->bytes);
    f->floats += c && strncmp(c->name, "extra.", 6) == 0 ? c->bytes / 4 : 0;
    f->header[f->used++] = '}';
    while (f->used % 8)
        f->header[f->used++] = ' ';
    uint8_t *bytes = calloc(1, 8 + f->used + f->floats * 4);
    bytes[0] = (uint8_t)f->used;
    bytes[1] = (uint8_t)(f->used >> 8);
    memcpy(bytes + 8, f->header, f->used);
    memcpy(bytes + 8 + f->used, f->data, f->floats * 4);
    scratch_dir_make();
    const char *path = scratch_dir_write("model.safetensors", bytes, 8 + f->used + f->floats * 4);
    struct safetensors *s = NULL;
    struct error err = {0};
    if (safetensors_open_file(path, &s, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    scratch_dir_remove(); // the mapping stays
    free(bytes);
    free(f->data);
    free(f);
    return s;
}

static struct model_config *read_config(void)
{
    struct model_config *m = calloc(1, sizeof *m);
    struct error err = {0};
    if (arch_parse(config, sizeof config - 1, NULL, 0, m, NULL, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return m;
}

static float at(const struct weight_slice *w, uint32_t row, uint32_t column)
{
    assert_true(row < w->n && column < w->k);
    uint32_t p = 0;
    while (row >= w->part[p].n_rows)
        row -= w->part[p++].n_rows;
    assert_true(p < w->n_parts && w->dtype == DTYPE_F32);
    const char *base = w->part[p].data;
    return ((const float *)(const void *)(base + row * w->part[p].row_stride_bytes))[column];
}

// Rows [begin, begin + count) and columns [c0, c0 + n) of a tensor stand at row `to` of the slice.
struct window {
    uint32_t tensor, begin, count, c0, n, to;
};

static void expect(const struct weight_slice *w, uint32_t layer, struct window x)
{
    for (uint32_t r = 0; r < x.count; r++)
        for (uint32_t c = 0; c < x.n; c++)
            assert_true(
                at(w, x.to + r, c) ==
                value_of(layer, x.tensor, (x.begin + r) * listed[x.tensor].columns + x.c0 + c));
}

static void expect_size(const struct weight_slice *w, uint32_t n, uint32_t k)
{
    assert_int_equal(w->n, n);
    assert_int_equal(w->k, k);
}

// A vector put together: elements [begin, begin + count) of a tensor stand at `to`.
static void expect_vector(const struct weight_slice *w, uint32_t layer, uint32_t tensor,
    uint32_t begin, uint32_t count, uint32_t to)
{
    assert_int_equal(w->n, 1);
    assert_int_equal(w->n_parts, 1);
    for (uint32_t i = 0; i < count; i++)
        assert_true(at(w, 0, to + i) == value_of(layer, tensor, begin + i));
}

enum {
    T_EMBED,
    T_NORM,
    T_HEAD,
    T_IN_NORM,
    T_Q,
    T_K,
    T_V,
    T_O,
    T_Q_BIAS,
    T_K_BIAS,
    T_V_BIAS,
    T_O_BIAS,
    T_POST_NORM,
    T_GATE,
    T_UP,
    T_DOWN,
    T_GATE_BIAS,
    T_UP_BIAS,
    T_DOWN_BIAS
};

// The rank's parts, worked out by hand from the degree, not by model/shard.
struct mine {
    uint32_t q, nq, kv, nkv, f, nf, v, nv;
};

static void expect_layer(const struct weights_plan_layer *p, uint32_t l, struct mine x)
{
    const struct weight_slice *w = p->slot;
    expect_size(&w[LAYER_SLOT_QKV], x.nq + 2 * x.nkv, HIDDEN);
    expect(&w[LAYER_SLOT_QKV], l, (struct window){T_Q, x.q, x.nq, 0, HIDDEN, 0});
    expect(&w[LAYER_SLOT_QKV], l, (struct window){T_K, x.kv, x.nkv, 0, HIDDEN, x.nq});
    expect(&w[LAYER_SLOT_QKV], l, (struct window){T_V, x.kv, x.nkv, 0, HIDDEN, x.nq + x.nkv});
    expect_size(&w[LAYER_SLOT_QKV_BIAS], 1, x.nq + 2 * x.nkv);
    expect_vector(&w[LAYER_SLOT_QKV_BIAS], l, T_Q_BIAS, x.q, x.nq, 0);
    expect_vector(&w[LAYER_SLOT_QKV_BIAS], l, T_K_BIAS, x.kv, x.nkv, x.nq);
    expect_vector(&w[LAYER_SLOT_QKV_BIAS], l, T_V_BIAS, x.kv, x.nkv, x.nq + x.nkv);
    expect_size(&w[LAYER_SLOT_O], HIDDEN, x.nq);
    expect(&w[LAYER_SLOT_O], l, (struct window){T_O, 0, HIDDEN, x.q, x.nq, 0});
    expect_size(&w[LAYER_SLOT_MLP_IN], 2 * x.nf, HIDDEN);
    expect(&w[LAYER_SLOT_MLP_IN], l, (struct window){T_GATE, x.f, x.nf, 0, HIDDEN, 0});
    expect(&w[LAYER_SLOT_MLP_IN], l, (struct window){T_UP, x.f, x.nf, 0, HIDDEN, x.nf});
    expect_vector(&w[LAYER_SLOT_MLP_IN_BIAS], l, T_GATE_BIAS, x.f, x.nf, 0);
    expect_vector(&w[LAYER_SLOT_MLP_IN_BIAS], l, T_UP_BIAS, x.f, x.nf, x.nf);
    expect_size(&w[LAYER_SLOT_MLP_OUT], HIDDEN, x.nf);
    expect(&w[LAYER_SLOT_MLP_OUT], l, (struct window){T_DOWN, 0, HIDDEN, x.f, x.nf, 0});
    // Whole on every rank.
    expect_vector(&w[LAYER_SLOT_O_BIAS], l, T_O_BIAS, 0, HIDDEN, 0);
    expect_vector(&w[LAYER_SLOT_MLP_OUT_BIAS], l, T_DOWN_BIAS, 0, HIDDEN, 0);
    expect_vector(&w[LAYER_SLOT_ATTN_NORM], l, T_IN_NORM, 0, HIDDEN, 0);
    expect_vector(&w[LAYER_SLOT_MLP_NORM], l, T_POST_NORM, 0, HIDDEN, 0);
    assert_int_equal(w[LAYER_SLOT_Q_NORM].n_parts, 0);
    assert_int_equal(w[LAYER_SLOT_ATTN_NORM_BIAS].n_parts, 0);
    assert_int_equal(w[LAYER_SLOT_MLP_OUT_NORM].n_parts, 0);
}

static const struct {
    uint32_t degree, rank;
    struct mine mine;
} shares[] = {
    {1, 0, {0, 24, 0, 12, 0, 13, 0, 17}},
    {3, 0, {0, 8, 0, 4, 0, 5, 0, 6}},
    {3, 1, {8, 8, 4, 4, 5, 4, 6, 6}},
    {3, 2, {16, 8, 8, 4, 9, 4, 12, 5}},
    {6, 0, {0, 4, 0, 4, 0, 3, 0, 3}},
    {6, 1, {4, 4, 0, 4, 3, 2, 3, 3}},
    {6, 4, {16, 4, 8, 4, 9, 2, 12, 3}},
    {6, 5, {20, 4, 8, 4, 11, 2, 15, 2}},
};

static void test_slices(void **state)
{
    (void)state;
    struct model_config *m = read_config();
    struct safetensors *files = open_changed(NULL);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        struct weights_plan p;
        struct error err = {0};
        struct mine x = shares[i].mine;
        struct shard s = weights_plan_shard(m, shares[i].rank, shares[i].degree);
        if (weights_plan_open(m, &s, files, &p, &err) != STATUS_OK)
            fail_msg("%s", err.text);
        assert_int_equal(p.n_layers, LAYERS);
        for (uint32_t l = 0; l < LAYERS; l++)
            expect_layer(&p.layer[l], l, x);
        expect_size(&p.slot[MODEL_SLOT_EMBED], x.nv, HIDDEN);
        expect(&p.slot[MODEL_SLOT_EMBED], 0, (struct window){T_EMBED, x.v, x.nv, 0, HIDDEN, 0});
        expect(&p.slot[MODEL_SLOT_HEAD], 0, (struct window){T_HEAD, x.v, x.nv, 0, HIDDEN, 0});
        expect_vector(&p.slot[MODEL_SLOT_FINAL_NORM], 0, T_NORM, 0, HIDDEN, 0);
        assert_int_equal(p.slot[MODEL_SLOT_HEAD_BIAS].n_parts, 0);
        uint64_t floats =
            2ull * x.nv * HIDDEN + HIDDEN +
            LAYERS * ((x.nq + 2 * x.nkv) * 13ull + 12 * x.nq + 2 * x.nf * 13ull + 12 * x.nf + 48);
        assert_int_equal(p.bytes, 4 * floats);
        weights_plan_close(&p);
    }
    safetensors_close(files);
    free(m);
}

static void test_stages(void **state)
{
    (void)state;
    struct model_config *m = read_config();
    struct safetensors *files = open_changed(NULL);
    struct error err = {0};
    struct weights_plan p;
    struct shard s = weights_plan_shard(m, 0, 1);
    s.layer_end = 1;
    assert_int_equal(weights_plan_open(m, &s, files, &p, &err), STATUS_OK);
    assert_int_equal(p.n_layers, 1);
    assert_true(p.slot[MODEL_SLOT_EMBED].n_parts && !p.slot[MODEL_SLOT_HEAD].n_parts &&
                !p.slot[MODEL_SLOT_FINAL_NORM].n_parts);
    weights_plan_close(&p);
    s.layer_begin = 1;
    s.layer_end = 2;
    assert_int_equal(weights_plan_open(m, &s, files, &p, &err), STATUS_OK);
    expect_layer(&p.layer[0], 1, shares[0].mine);
    assert_true(!p.slot[MODEL_SLOT_EMBED].n_parts && p.slot[MODEL_SLOT_HEAD].n_parts);
    weights_plan_close(&p);
    // A head of other numbers than the embedding is the model's own, whatever the config says.
    m->tied_head = true;
    assert_int_equal(weights_plan_open(m, &s, files, &p, &err), STATUS_OK);
    expect(&p.slot[MODEL_SLOT_HEAD], 0, (struct window){T_HEAD, 0, VOCAB, 0, HIDDEN, 0});
    assert_int_equal(p.slot[MODEL_SLOT_EMBED].n_parts, 0);
    weights_plan_close(&p);
    struct change no_head = {.name = "lm_head.weight"};
    struct safetensors *tied = open_changed(&no_head);
    // The last stage has the embedding as its head.
    assert_int_equal(weights_plan_open(m, &s, tied, &p, &err), STATUS_OK);
    expect(&p.slot[MODEL_SLOT_HEAD], 0, (struct window){T_EMBED, 0, VOCAB, 0, HIDDEN, 0});
    weights_plan_close(&p);
    safetensors_close(tied);
    static const struct shard bad[] = {{2, 2, 0, 2}, {0, 1, 1, 1}, {0, 1, 0, 3}, {0, 4, 0, 2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(weights_plan_open(m, &bad[i], files, &p, &err), STATUS_INVALID);
    safetensors_close(files);
    free(m);
}

#define F32 "\"dtype\":\"F32\",\"shape\":"
static const struct {
    struct change change;
    enum status status;
    const char *sentence;
} bad[] = {
    {{"model.norm.weight", NULL, 0}, STATUS_NOT_FOUND,
        "tensor \"model.norm.weight\" [12], which a llama model"},
    {{"model.layers.1.mlp.up_proj.weight", NULL, 0}, STATUS_NOT_FOUND,
        "model.layers.1.mlp.up_proj.weight\" [13, 12]"},
    {{"model.layers.1.self_attn.q_proj.bias", NULL, 0}, STATUS_NOT_FOUND, "[24]"},
    {{"lm_head.weight", NULL, 0}, STATUS_NOT_FOUND, "lm_head.weight"},
    {{"model.embed_tokens.weight", F32 "[12,17]", 816}, STATUS_INVALID,
        "has the shape [12, 17], but config.json asks for [17, 12]"},
    {{"model.embed_tokens.weight", F32 "[204]", 816}, STATUS_INVALID, "has the shape [204]"},
    {{"model.embed_tokens.weight", F32 "[1,17,12]", 816}, STATUS_INVALID, "[1, 17, 12]"},
    {{"model.norm.weight", F32 "[12,1]", 48}, STATUS_INVALID, "[12, 1], but config.json asks for"},
    {{"model.norm.weight", F32 "[11]", 44}, STATUS_INVALID, "asks for [12]"},
    {{"model.norm.weight", "\"dtype\":\"I32\",\"shape\":[12]", 48}, STATUS_UNSUPPORTED,
        "is i32, but f32, f16 or bf16 was expected"},
    {{"model.layers.0.self_attn.k_proj.weight", "\"dtype\":\"BF16\",\"shape\":[12,12]", 288},
        STATUS_UNSUPPORTED, "is bf16, but the ones that it is computed with are f32"},
    {{"extra.model.layers.0.self_attn.sinks", F32 "[6]", 24}, STATUS_UNSUPPORTED,
        "\"model.layers.0.self_attn.sinks\" is not part of a llama model"},
    {{"extra.model.layers.2.input_layernorm.weight", F32 "[12]", 48}, STATUS_UNSUPPORTED,
        "not part of"},
    {{"extra.model.layers.0.self_attn.q_norm.weight", F32 "[4]", 16}, STATUS_UNSUPPORTED,
        "not part of"},
    {{"extra.model.layers.0.self_attn.rotary_emb.inv_freq", F32 "[2]", 8}, STATUS_OK, ""},
};

static void test_bad(void **state)
{
    (void)state;
    struct model_config *m = read_config();
    struct shard s = weights_plan_shard(m, 0, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct safetensors *files = open_changed(&bad[i].change);
        struct weights_plan p = {0};
        struct error err = {0};
        enum status got = weights_plan_open(m, &s, files, &p, &err);
        if (got != bad[i].status || !strstr(err.text, bad[i].sentence))
            fail_msg("%s: %s: %s", bad[i].change.name, status_name(got), err.text);
        if (got == STATUS_OK)
            weights_plan_close(&p);
        else
            assert_null(p.layer);
        safetensors_close(files);
    }
    free(m);
}

// ---- random weights ----------------------------------------------------------------------------

static void plan_random(
    const struct model_config *m, uint32_t rank, uint32_t degree, struct weights_plan *p)
{
    struct error err = {0};
    struct shard s = weights_plan_shard(m, rank, degree);
    if (weights_plan_random(m, &s, 7, p, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

// Every rank's part is a piece of the same whole model.
static void test_random_parts(void **state)
{
    (void)state;
    struct model_config *m = read_config();
    struct weights_plan whole, again;
    plan_random(m, 0, 1, &whole);
    plan_random(m, 0, 1, &again);
    assert_int_equal(whole.owned_bytes, again.owned_bytes);
    assert_memory_equal(whole.owned, again.owned, whole.owned_bytes);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        struct weights_plan p;
        struct mine x = shares[i].mine;
        plan_random(m, shares[i].rank, shares[i].degree, &p);
        const struct weight_slice *w = p.layer[1].slot, *all = whole.layer[1].slot;
        for (uint32_t r = 0; r < x.nq; r++)
            assert_true(at(&w[LAYER_SLOT_QKV], r, 5) == at(&all[LAYER_SLOT_QKV], x.q + r, 5));
        for (uint32_t r = 0; r < x.nkv; r++)
            assert_true(at(&w[LAYER_SLOT_QKV], x.nq + x.nkv + r, 11) ==
                        at(&all[LAYER_SLOT_QKV], 36 + x.kv + r, 11));
        for (uint32_t c = 0; c < x.nf; c++)
            assert_true(
                at(&w[LAYER_SLOT_MLP_OUT], 3, c) == at(&all[LAYER_SLOT_MLP_OUT], 3, x.f + c));
        for (uint32_t c = 0; c < x.nkv; c++)
            assert_true(at(&w[LAYER_SLOT_QKV_BIAS], 0, x.nq + c) ==
                        at(&all[LAYER_SLOT_QKV_BIAS], 0, 24 + x.kv + c));
        for (uint32_t r = 0; r < x.nv; r++)
            assert_true(
                at(&p.slot[MODEL_SLOT_HEAD], r, 0) == at(&whole.slot[MODEL_SLOT_HEAD], x.v + r, 0));
        weights_plan_close(&p);
    }
    weights_plan_close(&whole);
    weights_plan_close(&again);
    free(m);
}

static uint64_t floats_of(const struct weight_slice *w)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < w->n_parts; i++) {
        assert_non_null(w->part[i].data);
        rows += w->part[i].n_rows;
    }
    assert_int_equal(rows, w->n);
    return (uint64_t)w->n * w->k;
}

// Elements of the layers of all ranks that have no others.
static uint64_t floats_of_layers(const struct model_config *m, uint32_t degree)
{
    static const enum layer_slot cut[] = {
        LAYER_SLOT_O, LAYER_SLOT_MLP_IN, LAYER_SLOT_MLP_OUT, LAYER_SLOT_MLP_IN_BIAS};
    uint64_t sum = 0;
    for (uint32_t rank = 0; rank < degree; rank++) {
        struct weights_plan p;
        plan_random(m, rank, degree, &p);
        for (uint32_t i = 0; i < p.n_layers; i++) {
            for (int slot = 0; slot < LAYER_SLOT_COUNT; slot++)
                floats_of(&p.layer[i].slot[slot]);
            for (size_t k = 0; k < sizeof cut / sizeof *cut; k++)
                sum += floats_of(&p.layer[i].slot[cut[k]]);
        }
        weights_plan_close(&p);
    }
    return sum;
}

static void check_parts(const struct model_config *m)
{
    uint64_t whole = floats_of_layers(m, 1);
    for (uint32_t degree = 2; degree <= 4; degree++)
        if (shard_check(m, degree, NULL) == STATUS_OK)
            assert_int_equal(floats_of_layers(m, degree), whole);
}

// Every family's layout can be made up, and its parts add up at every degree.
static void test_random_families(void **state)
{
    (void)state;
    families_each(check_parts);
}

// Mean, deviation, and no element that repeats its neighbours.
static void test_random_spread(void **state)
{
    (void)state;
    static float v[512 * 256];
    static uint16_t h[512 * 256], g[512 * 256];
    struct random_weights_args a = {.seed = 1,
        .name = "x",
        .dtype = DTYPE_F32,
        .n_rows = 512,
        .n_columns = 256,
        .center = 1,
        .spread = 0.5f,
        .out = v};
    random_weights_fill(&a);
    double sum = 0, square = 0, right = 0, down = 0;
    size_t n = 512 * 256;
    for (size_t i = 0; i < n; i++) {
        assert_true(v[i] >= 0.5f && v[i] <= 1.5f);
        double d = (double)v[i] - 1;
        sum += d;
        square += d * d;
        right += i + 1 < n ? d * ((double)v[i + 1] - 1) : 0;
        down += i + 256 < n ? d * ((double)v[i + 256] - 1) : 0;
    }
    double variance = 0.25 / 3; // of an even spread
    assert_true(fabs(sum / (double)n) < 0.004);
    assert_true(fabs(square / (double)n - variance) < 0.001);
    assert_true(fabs(right / (double)n) < 0.001 && fabs(down / (double)n) < 0.001);
    a.dtype = DTYPE_BF16;
    a.out = h;
    random_weights_fill(&a);
    a.dtype = DTYPE_F16;
    a.out = g;
    random_weights_fill(&a);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(h[i], dtype_bf16_from_f32(v[i]));
        assert_int_equal(g[i], dtype_f16_from_f32(v[i]));
    }
    float other;
    a = (struct random_weights_args){
        .seed = 1, .name = "y", .n_rows = 1, .n_columns = 1, .spread = 0.5f, .out = &other};
    random_weights_fill(&a);
    assert_true(other + 1 != v[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_random_parts),
        cmocka_unit_test(test_random_families),
        cmocka_unit_test(test_random_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
