// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include "model/arch.h"
#include "tests/model/scratch_dir.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char base[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 64, "
    "\"intermediate_size\": 96, \"num_hidden_layers\": 3, \"num_attention_heads\": 8, "
    "\"num_key_value_heads\": 4, \"vocab_size\": 512, \"max_position_embeddings\": 256, "
    "\"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"torch_dtype\": \"bfloat16\", "
    "\"bos_token_id\": 1, \"eos_token_id\": 2}";

struct outcome {
    enum status status;
    struct error err;
    struct model_config m;
    struct generation_defaults generation;
};

// Reads `base` with some keys replaced and one (or none) removed.
static struct outcome *read_with(const char *changes, const char *removed, const char *generation)
{
    struct outcome *o = calloc(1, sizeof *o);
    json_t *config = json_loads(base, 0, NULL), *update = json_loads(changes, 0, NULL);
    assert_non_null(config);
    if (!update)
        fail_msg("not JSON: %s", changes);
    json_object_update(config, update);
    if (removed)
        assert_int_equal(json_object_del(config, removed), 0);
    char *text = json_dumps(config, 0);
    json_decref(config);
    json_decref(update);
    o->status = arch_parse(text, strlen(text), generation, generation ? strlen(generation) : 0,
        &o->m, &o->generation, &o->err);
    free(text);
    return o;
}

static struct outcome *read_good(const char *changes, const char *removed, const char *generation)
{
    struct outcome *o = read_with(changes, removed, generation);
    if (o->status != STATUS_OK)
        fail_msg("%s: %s", changes, o->err.text);
    return o;
}

static void test_llama(void **state)
{
    (void)state;
    struct outcome *o = read_good("{}", NULL, NULL);
    const struct model_config *m = &o->m;
    assert_string_equal(m->family, "llama");
    assert_int_equal(m->weight_dtype, DTYPE_BF16);
    assert_int_equal(m->n_layers, 3);
    assert_int_equal(m->hidden_dim, 64);
    assert_int_equal(m->ffn_dim, 96);
    assert_int_equal(m->n_heads, 8);
    assert_int_equal(m->n_kv_heads, 4);
    assert_int_equal(m->head_dim, 8);
    assert_int_equal(m->vocab_size, 512);
    assert_int_equal(m->max_position, 256);
    assert_true(m->norm_eps == 1e-5f && m->norm_kind == NORM_RMS && !m->norm_bias);
    assert_true(m->norm_placement == NORM_PRE && m->norm_weight_offset == 0);
    assert_true(m->gated && m->activation == ACTIVATION_SILU && !m->mlp_bias && !m->tied_head);
    assert_true(!m->qkv_bias && !m->o_bias && !m->head_bias);
    assert_true(fabsf(m->attention_scale - 0.35355339f) < 1e-7f && m->attention_softcap == 0);
    assert_true(m->embedding_scale == 1 && m->residual_scale == 1 && m->logit_scale == 1);
    assert_int_equal(m->position_kind, POSITION_ROPE);
    assert_int_equal(m->n_ropes, 1);
    assert_int_equal(m->rope[0].rotary_dim, 8);
    assert_true(m->rope[0].theta == 10000 && m->rope[0].rule == ROPE_DEFAULT);
    assert_int_equal(m->n_kv_groups, 1);
    assert_int_equal(m->layer[2].window, 0);
    assert_int_equal(m->bos_id, 1);
    assert_int_equal(m->n_eos, 1);
    assert_int_equal(m->eos_id[0], 2);
    assert_int_equal(m->n_experts, 0);
    assert_true(o->generation.temperature == 1 && o->generation.top_p == 1);
    assert_true(o->generation.top_k == 0 && o->generation.repetition_penalty == 1);
    assert_true(o->generation.typical_p == 1 && o->generation.min_p == 0);
    free(o);
}

static void test_options(void **state)
{
    (void)state;
    struct outcome *o = read_good("{\"attention_bias\": true, \"tie_word_embeddings\": true, "
                                  "\"head_dim\": 16, \"dtype\": \"torch.float16\", "
                                  "\"pretraining_tp\": 4, \"hidden_act\": \"gelu_new\"}",
        "num_key_value_heads", NULL);
    assert_true(o->m.qkv_bias && o->m.o_bias && !o->m.mlp_bias);
    assert_true(o->m.tied_head && o->m.head_dim == 16 && o->m.n_kv_heads == 8);
    assert_true(o->m.weight_dtype == DTYPE_F16 && o->m.activation == ACTIVATION_GELU_TANH);
    assert_true(o->m.attention_scale == 0.25f && o->m.rope[0].rotary_dim == 16);
    free(o);
    o = read_good("{\"mlp_bias\": true, \"head_dim\": null, \"sliding_window\": 4096, "
                  "\"num_key_value_heads\": null, \"quantization_config\": null}",
        NULL, NULL);
    assert_true(o->m.mlp_bias && !o->m.qkv_bias && o->m.head_dim == 8 && o->m.n_kv_heads == 8);
    assert_int_equal(o->m.layer[0].window, 0);
    free(o);
    o = read_good("{}", "architectures", NULL);
    free(o);
    o = read_good("{}", "model_type", NULL);
    free(o);
    o = read_good("{}", "max_position_embeddings", NULL);
    assert_int_equal(o->m.max_position, 2048);
    free(o);
}

#define MISTRAL "\"architectures\": [\"MistralForCausalLM\"], \"model_type\": \"mistral\""
#define QWEN2 "\"architectures\": [\"Qwen2ForCausalLM\"], \"model_type\": \"qwen2\""

static void test_windows(void **state)
{
    (void)state;
    struct outcome *o = read_good("{" MISTRAL ", \"sliding_window\": 8}", NULL, NULL);
    assert_int_equal(o->m.layer[0].window, 8);
    assert_int_equal(o->m.layer[2].window, 8);
    assert_int_equal(o->m.n_kv_groups, 1);
    free(o);
    o = read_good("{" MISTRAL ", \"sliding_window\": null}", NULL, NULL);
    assert_int_equal(o->m.layer[0].window, 0);
    free(o);
    o = read_good("{" MISTRAL "}", "num_key_value_heads", NULL); // the class's defaults
    assert_int_equal(o->m.layer[0].window, 4096);
    assert_int_equal(o->m.n_kv_heads, 8);
    free(o);
    o = read_good("{" QWEN2 ", \"use_sliding_window\": false, \"sliding_window\": 8}", NULL, NULL);
    assert_int_equal(o->m.layer[2].window, 0);
    assert_true(o->m.qkv_bias && !o->m.o_bias);
    free(o);
    o = read_good("{" QWEN2 ", \"use_sliding_window\": true, \"sliding_window\": 8, "
                  "\"max_window_layers\": 1}",
        NULL, NULL);
    assert_int_equal(o->m.layer[0].window, 0);
    assert_int_equal(o->m.layer[1].window, 8);
    assert_int_equal(o->m.n_kv_groups, 2);
    assert_true(o->m.layer[0].kv_group == 0 && o->m.layer[2].kv_group == 1);
    free(o);
    o = read_good("{" QWEN2 ", \"use_sliding_window\": true, \"sliding_window\": 8, "
                  "\"layer_types\": [\"sliding_attention\", \"full_attention\", "
                  "\"sliding_attention\"]}",
        NULL, NULL);
    assert_true(o->m.layer[0].window == 8 && o->m.layer[1].window == 0);
    assert_true(o->m.layer[0].kv_group == 0 && o->m.layer[1].kv_group == 1);
    free(o);
}

static void test_end_ids(void **state)
{
    (void)state;
    struct outcome *o = read_good("{\"eos_token_id\": [2, 7, 2]}", NULL,
        "{\"eos_token_id\": [9, 7], \"temperature\": 0.6, \"top_p\": 0.9, \"top_k\": 50, "
        "\"repetition_penalty\": 1.1, \"do_sample\": true, \"max_new_tokens\": 100}");
    static const uint32_t want[] = {2, 7, 9};
    assert_int_equal(o->m.n_eos, 3);
    assert_memory_equal(o->m.eos_id, want, sizeof want);
    assert_true(o->generation.temperature == 0.6f && o->generation.top_p == 0.9f);
    assert_true(o->generation.top_k == 50 && o->generation.repetition_penalty == 1.1f);
    assert_int_equal(o->generation.max_new_tokens, 100);
    free(o);
    o = read_good("{\"eos_token_id\": null, \"bos_token_id\": null}", NULL, "{\"top_k\": -1}");
    assert_int_equal(o->m.n_eos, 0);
    assert_int_equal(o->m.bos_id, UINT32_MAX);
    assert_int_equal(o->generation.top_k, -1);
    free(o);
    o = read_good("{}", "eos_token_id", NULL); // the class's default
    assert_true(o->m.n_eos == 1 && o->m.eos_id[0] == 2);
    free(o);
}

// A family's config from nothing but these keys.
static struct outcome *read_family(const char *text)
{
    struct outcome *o = calloc(1, sizeof *o);
    o->status = arch_parse(text, strlen(text), NULL, 0, &o->m, &o->generation, &o->err);
    return o;
}

// Defaults of missing keys, and keys by their older names.
static void test_family_defaults(void **state)
{
    (void)state;
    struct outcome *o =
        read_family("{\"model_type\": \"gpt2\", \"n_embd\": 64, \"n_layer\": 2, \"n_head\": 4, "
                    "\"vocab_size\": 100, \"n_inner\": null, \"num_key_value_heads\": 2}");
    assert_int_equal(o->status, STATUS_OK);
    assert_true(o->m.ffn_dim == 256 && o->m.n_kv_heads == 4 && o->m.tied_head && !o->m.gated);
    assert_true(o->m.position_kind == POSITION_LEARNED && o->m.max_position == 1024);
    free(o);
    o = read_family("{\"model_type\": \"RefinedWeb\", \"architectures\": [\"RWForCausalLM\"], "
                    "\"hidden_size\": 64, \"n_layer\": 2, \"n_head\": 8, \"n_head_kv\": 2, "
                    "\"vocab_size\": 100}");
    assert_int_equal(o->status, STATUS_OK);
    assert_true(o->m.n_kv_heads == 2 && o->m.parallel_residual && !o->m.shared_parallel_norm);
    free(o);
    o = read_family("{\"model_type\": \"falcon\", \"hidden_size\": 568, "
                    "\"num_hidden_layers\": 2, \"num_attention_heads\": 71, \"vocab_size\": 100}");
    assert_int_equal(o->status, STATUS_OK);
    assert_true(o->m.n_kv_heads == 1 && o->m.shared_parallel_norm && o->m.ffn_dim == 2272);
    free(o);
    o = read_family("{\"model_type\": \"bloom\", \"n_embed\": 64, \"n_layer\": 2, "
                    "\"num_attention_heads\": 4, \"vocab_size\": 100, \"seq_length\": 512}");
    assert_int_equal(o->status, STATUS_OK);
    assert_true(o->m.hidden_dim == 64 && o->m.max_position == 512 &&
                o->m.position_kind == POSITION_ALIBI && o->m.tied_head);
    free(o);
    o = read_family("{\"model_type\": \"gemma\", \"hidden_size\": 64, \"intermediate_size\": 9, "
                    "\"num_hidden_layers\": 1, \"num_attention_heads\": 16, \"vocab_size\": 9, "
                    "\"hidden_act\": \"gelu\", \"hidden_activation\": null, \"head_dim\": 8}");
    assert_int_equal(o->status, STATUS_OK);
    assert_true(o->m.activation == ACTIVATION_GELU_TANH && o->m.embedding_scale == 8 &&
                o->m.norm_weight_offset == 1);
    free(o);
    o = read_family("{\"model_type\": \"gpt_neox\", \"hidden_size\": 64, \"rotary_pct\": 0.5, "
                    "\"intermediate_size\": 9, \"num_hidden_layers\": 1, \"vocab_size\": 9, "
                    "\"num_attention_heads\": 4, \"rotary_emb_base\": 500}");
    assert_int_equal(o->status, STATUS_OK);
    assert_true(o->m.rope[0].rotary_dim == 8 && o->m.rope[0].theta == 500 && o->m.qkv_bias);
    free(o);
}

static const struct {
    const char *config, *sentence;
} refused_options[] = {
    {"{\"model_type\": \"mpt\", \"d_model\": 64, \"n_heads\": 4, \"n_layers\": 1, "
     "\"vocab_size\": 9, \"attn_config\": {\"qk_ln\": true}}",
        "\"qk_ln\" asks for normalised queries and keys"},
    {"{\"model_type\": \"mpt\", \"d_model\": 64, \"n_heads\": 4, \"n_layers\": 1, "
     "\"vocab_size\": 9, \"norm_type\": \"rmsnorm\"}",
        "\"norm_type\" asks for rmsnorm"},
    {"{\"model_type\": \"chatglm\", \"hidden_size\": 64, \"num_layers\": 1, "
     "\"num_attention_heads\": 4, \"vocab_size\": 9, \"position_encoding_2d\": true}",
        "positions in two dimensions"},
    {"{\"model_type\": \"deepseek\", \"hidden_size\": 64, \"num_hidden_layers\": 1, "
     "\"intermediate_size\": 9, \"num_attention_heads\": 4, \"vocab_size\": 9, "
     "\"n_routed_experts\": 64}",
        "\"n_routed_experts\" asks for a mixture of experts"},
    {"{\"model_type\": \"gptj\", \"n_embd\": 64, \"n_layer\": 1, \"n_head\": 4, "
     "\"vocab_size\": 9, \"rotary_dim\": null}",
        "\"rotary_dim\" is missing"},
    {"{\"model_type\": \"gpt2\", \"architectures\": [\"GPT2ForSequenceClassification\"]}",
        "the architecture \"GPT2ForSequenceClassification\" is not supported"},
};

static void test_family_options_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused_options / sizeof *refused_options; i++) {
        struct outcome *o = read_family(refused_options[i].config);
        if (o->status == STATUS_OK || !strstr(o->err.text, refused_options[i].sentence))
            fail_msg("%s: %s", refused_options[i].config, o->err.text);
        free(o);
    }
}

#define MANY "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]"
#define ROPE(text) "{\"rope_scaling\": {" text "}}"
#define PHI3 "\"architectures\": [\"Phi3ForCausalLM\"], \"model_type\": \"phi3\""

static const struct {
    const char *changes, *removed, *generation;
    enum status status;
    const char *sentence;
} bad[] = {
    {"{}", "hidden_size", NULL, STATUS_INVALID, "\"hidden_size\" is missing"},
    {"{}", "vocab_size", NULL, STATUS_INVALID, "\"vocab_size\" is missing"},
    {"{}", "num_hidden_layers", NULL, STATUS_INVALID, "\"num_hidden_layers\" is missing"},
    {"{}", "num_attention_heads", NULL, STATUS_INVALID, "\"num_attention_heads\" is missing"},
    {"{}", "intermediate_size", NULL, STATUS_INVALID, "\"intermediate_size\" is missing"},
    {"{\"hidden_size\": 0}", NULL, NULL, STATUS_INVALID, "\"hidden_size\" is 0, but 1 to"},
    {"{\"hidden_size\": -64}", NULL, NULL, STATUS_INVALID, "\"hidden_size\" is -64"},
    {"{\"hidden_size\": 131073}", NULL, NULL, STATUS_INVALID, "but 1 to 131072"},
    {"{\"hidden_size\": 4294967360}", NULL, NULL, STATUS_INVALID, "\"hidden_size\" is 4294967360"},
    {"{\"hidden_size\": 64.0}", NULL, NULL, STATUS_INVALID, "not a whole number"},
    {"{\"hidden_size\": \"64\"}", NULL, NULL, STATUS_INVALID, "not a whole number"},
    {"{\"hidden_size\": [64]}", NULL, NULL, STATUS_INVALID, "not a whole number"},
    {"{\"hidden_size\": null}", NULL, NULL, STATUS_INVALID, "\"hidden_size\" is missing"},
    {"{\"num_hidden_layers\": 0}", NULL, NULL, STATUS_INVALID, "\"num_hidden_layers\" is 0"},
    {"{\"num_hidden_layers\": 257}", NULL, NULL, STATUS_INVALID, "but 1 to 256"},
    {"{\"num_attention_heads\": 0}", NULL, NULL, STATUS_INVALID, "\"num_attention_heads\" is 0"},
    {"{\"num_attention_heads\": 513}", NULL, NULL, STATUS_INVALID, "but 1 to 512"},
    {"{\"num_attention_heads\": 7}", NULL, NULL, STATUS_INVALID,
        "64 is not a multiple of \"num_attention_heads\" 7"},
    {"{\"num_key_value_heads\": 3}", NULL, NULL, STATUS_INVALID, "8 is not a multiple of"},
    {"{\"num_key_value_heads\": 16}", NULL, NULL, STATUS_INVALID, "8 is not a multiple of"},
    {"{\"num_key_value_heads\": 0}", NULL, NULL, STATUS_INVALID, "\"num_key_value_heads\" is 0"},
    {"{\"hidden_size\": 60}", NULL, NULL, STATUS_INVALID, "\"head_dim\" is missing, and"},
    {"{\"head_dim\": 0}", NULL, NULL, STATUS_INVALID, "\"head_dim\" is 0"},
    {"{\"head_dim\": 513}", NULL, NULL, STATUS_INVALID, "but 1 to 512"},
    {"{\"head_dim\": 7}", NULL, NULL, STATUS_INVALID, "7 elements of a head would be rotated"},
    {"{\"hidden_size\": 16384}", NULL, NULL, STATUS_INVALID, "a head has 2048 elements"},
    {"{\"hidden_size\": 4}", NULL, NULL, STATUS_INVALID, "\"head_dim\" is missing, and"},
    {"{\"num_attention_heads\": 512, \"head_dim\": 512}", NULL, NULL, STATUS_INVALID,
        "is more than 131072"},
    {"{\"intermediate_size\": 0}", NULL, NULL, STATUS_INVALID, "\"intermediate_size\" is 0"},
    {"{\"vocab_size\": 0}", NULL, NULL, STATUS_INVALID, "\"vocab_size\" is 0"},
    {"{\"vocab_size\": 1048577}", NULL, NULL, STATUS_INVALID, "but 1 to 1048576"},
    {"{\"max_position_embeddings\": 0}", NULL, NULL, STATUS_INVALID, "is 0, but 1 to"},
    {"{\"max_position_embeddings\": 100000000}", NULL, NULL, STATUS_INVALID, "but 1 to 16777216"},
    {"{\"rms_norm_eps\": -1e-5}", NULL, NULL, STATUS_INVALID, "\"rms_norm_eps\" is -1e-05"},
    {"{\"rms_norm_eps\": 2}", NULL, NULL, STATUS_INVALID, "but 0 to 1"},
    {"{\"rms_norm_eps\": \"1e-5\"}", NULL, NULL, STATUS_INVALID, "is not a number"},
    {"{\"tie_word_embeddings\": 1}", NULL, NULL, STATUS_INVALID, "neither true nor false"},
    {"{\"attention_bias\": \"no\"}", NULL, NULL, STATUS_INVALID, "neither true nor false"},
    {"{\"hidden_act\": \"mish\"}", NULL, NULL, STATUS_UNSUPPORTED, "activation \"mish\""},
    {"{\"hidden_act\": 7}", NULL, NULL, STATUS_INVALID, "\"hidden_act\" is not a string"},
    {"{\"torch_dtype\": \"float64\"}", NULL, NULL, STATUS_UNSUPPORTED, "dtype \"float64\""},
    {"{\"eos_token_id\": 512}", NULL, NULL, STATUS_INVALID, "a token id from 0 to 511"},
    {"{\"eos_token_id\": -1}", NULL, NULL, STATUS_INVALID, "a token id from 0 to 511"},
    {"{\"eos_token_id\": \"</s>\"}", NULL, NULL, STATUS_INVALID, "a token id from 0 to 511"},
    {"{\"eos_token_id\": [2, null]}", NULL, NULL, STATUS_INVALID, "a token id from 0 to 511"},
    {"{\"eos_token_id\": " MANY "}", NULL, NULL, STATUS_TOO_LARGE, "more than 16"},
    {"{\"bos_token_id\": 512}", NULL, NULL, STATUS_INVALID, "\"bos_token_id\" is 512"},
    {"{\"architectures\": [\"MambaForCausalLM\"], \"model_type\": \"mamba\"}", NULL, NULL,
        STATUS_UNSUPPORTED, "model type \"mamba\" is not supported; families that are: llama"},
    {"{\"architectures\": [\"LlamaForSequenceClassification\"]}", NULL, NULL, STATUS_UNSUPPORTED,
        "architecture \"LlamaForSequenceClassification\""},
    {"{\"model_type\": 7}", NULL, NULL, STATUS_INVALID, "\"model_type\" is not a string"},
    {"{\"architectures\": []}", "model_type", NULL, STATUS_INVALID, "names a family"},
    {"{\"quantization_config\": {\"quant_method\": \"gptq\"}}", NULL, NULL, STATUS_UNSUPPORTED,
        "\"quantization_config\" asks for quantized weights"},
    {"{\"vision_config\": {\"a\": 1}}", NULL, NULL, STATUS_UNSUPPORTED, "multimodal"},
    {"{\"num_local_experts\": 8}", NULL, NULL, STATUS_UNSUPPORTED, "mixture of experts"},
    {"{\"attention_sinks\": true}", NULL, NULL, STATUS_UNSUPPORTED, "attention sinks"},
    {"{\"attn_logit_softcapping\": 50.0}", NULL, NULL, STATUS_UNSUPPORTED, "soft-capped"},
    {"{\"logit_scale\": 0.0625}", NULL, NULL, STATUS_UNSUPPORTED, "factor of the logits"},
    {"{\"residual_multiplier\": 0.22}", NULL, NULL, STATUS_UNSUPPORTED, "not supported for llama"},
    {"{\"sliding_window\": 64}", NULL, NULL, STATUS_UNSUPPORTED, "\"sliding_window\" 64"},
    {"{" MISTRAL ", \"sliding_window\": -1}", NULL, NULL, STATUS_INVALID, "is -1, but 0 to"},
    {"{" MISTRAL ", \"attention_bias\": true}", NULL, NULL, STATUS_UNSUPPORTED, "biases"},
    {"{\"layer_types\": [\"full_attention\"]}", NULL, NULL, STATUS_INVALID, "a list of 3 names"},
    {"{\"layer_types\": [\"full_attention\", \"linear_attention\", 7]}", NULL, NULL,
        STATUS_UNSUPPORTED, "\"linear_attention\""},
    {"{\"layer_types\": [\"full_attention\", \"sliding_attention\", \"full_attention\"]}", NULL,
        NULL, STATUS_UNSUPPORTED, "no window for them"},
    {"{\"rope_scaling\": 4}", NULL, NULL, STATUS_INVALID, "neither an object nor null"},
    {"{\"rope_parameters\": []}", NULL, NULL, STATUS_INVALID, "neither an object nor null"},
    {"{\"rope_theta\": 0}", NULL, NULL, STATUS_INVALID, "\"rope_theta\" is 0"},
    {"{\"rope_theta\": -1}", NULL, NULL, STATUS_INVALID, "\"rope_theta\" is -1"},
    {ROPE("\"type\": \"ntk-magic\""), NULL, NULL, STATUS_UNSUPPORTED, "rope type \"ntk-magic\""},
    {ROPE("\"type\": 3"), NULL, NULL, STATUS_INVALID, "\"type\" is not a string"},
    {ROPE("\"type\": \"linear\""), NULL, NULL, STATUS_INVALID, "\"factor\" is missing"},
    {ROPE("\"type\": \"linear\", \"factor\": 0"), NULL, NULL, STATUS_INVALID, "\"factor\" is 0"},
    {ROPE("\"type\": \"linear\", \"factor\": \"4\""), NULL, NULL, STATUS_INVALID, "not a number"},
    {ROPE("\"type\": \"linear\", \"factor\": 1e300"), NULL, NULL, STATUS_INVALID, "is 1e+300"},
    {ROPE("\"type\": \"dynamic\", \"factor\": 0.5"), NULL, NULL, STATUS_INVALID, "is 0.5, but 1"},
    {ROPE("\"type\": \"linear\", \"factor\": 2, \"alpha\": 7"), NULL, NULL, STATUS_UNSUPPORTED,
        "rope setting \"alpha\""},
    {ROPE("\"type\": \"default\", \"mrope_section\": [1]"), NULL, NULL, STATUS_UNSUPPORTED,
        "rope setting \"mrope_section\""},
    {ROPE("\"rope_type\": \"llama3\", \"factor\": 8"), NULL, NULL, STATUS_INVALID,
        "\"low_freq_factor\" is missing"},
    {ROPE("\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
          "\"high_freq_factor\": 4"),
        NULL, NULL, STATUS_INVALID, "must be greater"},
    {ROPE("\"rope_type\": \"yarn\", \"factor\": 4, \"original_max_position_embeddings\": 0"), NULL,
        NULL, STATUS_INVALID, "\"original_max_position_embeddings\" is 0"},
    {ROPE("\"rope_type\": \"yarn\", \"factor\": 4, \"rope_theta\": 1"), NULL, NULL, STATUS_INVALID,
        "above 1"},
    {ROPE("\"rope_type\": \"longrope\", \"short_factor\": [1, 1, 1, 1]"), NULL, NULL,
        STATUS_INVALID, "\"long_factor\" is not a list of 4"},
    {ROPE("\"rope_type\": \"longrope\", \"short_factor\": [1, 1, 1], \"long_factor\": [1]"), NULL,
        NULL, STATUS_INVALID, "\"short_factor\" is not a list of 4"},
    {ROPE("\"rope_type\": \"su\", \"short_factor\": [1, 0, 1, 1]"), NULL, NULL, STATUS_INVALID,
        "\"short_factor\"[1] is not"},
    {"{\"partial_rotary_factor\": 0.5}", NULL, NULL, STATUS_UNSUPPORTED, "partial_rotary_factor"},
    {"{" PHI3 ", \"partial_rotary_factor\": 0}", NULL, NULL, STATUS_INVALID, "but 0.001 to 1"},
    {"{" PHI3 ", \"partial_rotary_factor\": 0.4}", NULL, NULL, STATUS_INVALID, "3 elements"},
    {"{}", NULL, "[]", STATUS_INVALID, "generation_config.json does not hold"},
    {"{}", NULL, "{", STATUS_INVALID, "generation_config.json, line 1: not valid JSON"},
    {"{}", NULL, "{\"temperature\": -1}", STATUS_INVALID, "generation_config.json: \"temperature"},
    {"{}", NULL, "{\"top_p\": 0}", STATUS_INVALID, "\"top_p\" is 0"},
    {"{}", NULL, "{\"top_k\": -2}", STATUS_INVALID, "\"top_k\" is -2"},
    {"{}", NULL, "{\"repetition_penalty\": 3}", STATUS_INVALID, "\"repetition_penalty\" is 3"},
    {"{}", NULL, "{\"eos_token_id\": 4096}", STATUS_INVALID, "\"eos_token_id\" is not a token id"},
};

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct outcome *o = read_with(bad[i].changes, bad[i].removed, bad[i].generation);
        if (o->status != bad[i].status || !strstr(o->err.text, bad[i].sentence))
            fail_msg("%s without %s: %s: %s", bad[i].changes,
                bad[i].removed ? bad[i].removed : "nothing", status_name(o->status), o->err.text);
        assert_int_equal(o->m.n_layers, 0); // nothing was set
        free(o);
    }
}

static void test_bad_texts(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } texts[] = {
        {"", "config.json, line 1: not valid JSON"},
        {"[1]", "config.json does not hold a JSON object"},
        {"{\"hidden_size\": 64,\n\"hidden_size\": 64}", "config.json, line 2: not valid JSON"},
        {"{\"rms_norm_eps\": NaN}", "not valid JSON"},
        {"{\"rms_norm_eps\": 1e999}", "not valid JSON"},
        {"{\"hidden_size\": 99999999999999999999}", "not valid JSON"},
        {"{\"a\": \"\xff\"}", "not valid JSON"},
        {"{} x", "not valid JSON"},
    };
    struct model_config m;
    struct error err;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *t = texts[i].text;
        assert_int_equal(arch_parse(t, strlen(t), NULL, 0, &m, NULL, &err), STATUS_INVALID);
        if (!strstr(err.text, texts[i].sentence))
            fail_msg("%s: %s", t, err.text);
    }
    size_t n = 1 << 20; // very deep
    char *deep = malloc(n);
    memset(deep, '[', n);
    assert_int_equal(arch_parse(deep, n, NULL, 0, &m, NULL, &err), STATUS_INVALID);
    free(deep);
}

static void test_read(void **state)
{
    (void)state;
    struct outcome *o = calloc(1, sizeof *o);
    const char *dir = scratch_dir_make();
    assert_int_equal(arch_read(dir, &o->m, NULL, &o->err), STATUS_NOT_FOUND);
    assert_non_null(strstr(o->err.text, "config.json"));
    scratch_dir_write("config.json", base, sizeof base - 1);
    assert_int_equal(arch_read(dir, &o->m, &o->generation, &o->err), STATUS_OK);
    assert_true(o->m.n_layers == 3 && o->generation.temperature == 1);
    scratch_dir_write("generation_config.json", "{\"temperature\": 0.5}", 20);
    assert_int_equal(arch_read(dir, &o->m, &o->generation, &o->err), STATUS_OK);
    assert_true(o->generation.temperature == 0.5f);
    scratch_dir_remove();
    free(o);
}

static int read_all(const char *root, bool (*expected)(const char *model_type))
{
    int n = 0;
    DIR *d = opendir(root);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        struct outcome *o = calloc(1, sizeof *o);
        const char *dir = test_path(root, e->d_name);
        o->status = arch_read(dir, &o->m, &o->generation, &o->err);
        json_t *config = json_load_file(test_path(dir, "config.json"), 0, NULL);
        const char *type = json_string_value(json_object_get(config, "model_type"));
        if ((o->status == STATUS_OK) != expected(type))
            fail_msg("%s: %s", dir, o->err.text);
        if (o->status == STATUS_OK)
            assert_string_equal(o->m.family, type);
        else
            assert_int_equal(o->status, STATUS_UNSUPPORTED);
        json_decref(config);
        free(o);
        n++;
    }
    closedir(d);
    return n;
}

static const char *wanted;

static void compare_family(void *user, const struct arch_family *family)
{
    assert_true(family->architecture && family->models);
    *(bool *)user |= strcmp(family->name, wanted) == 0;
}

static bool is_known(const char *model_type)
{
    bool known = false;
    wanted = model_type;
    arch_each(compare_family, &known);
    return known;
}

// Every model is read or refused by what its family is, and ours are read.
static void test_golden_configs(void **state)
{
    (void)state;
    char root[1024];
    assert_true(is_known("llama") && is_known("mistral") && !is_known("mamba"));
    snprintf(root, sizeof root, "%s", test_path(test_source_dir(), "tests/golden/models"));
    assert_true(read_all(root, is_known) >= 10);
    if (test_shared_dir()) {
        snprintf(root, sizeof root, "%s", test_path(test_shared_dir(), "oracle/zoo"));
        assert_true(read_all(root, is_known) >= 34);
        snprintf(root, sizeof root, "%s", test_path(test_shared_dir(), "oracle/models"));
        assert_true(read_all(root, is_known) >= 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_end_ids),
        cmocka_unit_test(test_family_defaults),
        cmocka_unit_test(test_family_options_refused),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_bad_texts),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_golden_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
