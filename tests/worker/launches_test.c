// SPDX-License-Identifier: Apache-2.0
// How many kernels a layer is on a device, counted on the emulated one: with the promised numbers,
// and with the bits that the same ops give one by one.
#include "tests/test_support.h"

#include "base/check.h"

#include "tests/worker/drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PROMPT = 40, OUTPUT = 3, LAYERS_MORE = 1 };

#define SIZES "\"hidden_size\":64,\"intermediate_size\":96,\"num_attention_heads\":4,"
#define LAYERS "\"num_hidden_layers\":%u,\"vocab_size\":96,\"max_position_embeddings\":128}"
#define LLAMA(name, type)                                                                          \
    "{\"architectures\":[\"" name "\"],\"model_type\":\"" type "\"," SIZES                         \
    "\"num_key_value_heads\":2,\"head_dim\":64,\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-6,"     \
    "\"tie_word_embeddings\":false,\"rope_theta\":10000.0," LAYERS

// Launches of a layer for up to 16 rows, with its ops one by one, and for more rows.
static const struct family {
    const char *name, *config;
    uint32_t few, apart, many;
} families[] = {
    {"llama", LLAMA("LlamaForCausalLM", "llama"), 5, 8, 8},
    {"qwen3", LLAMA("Qwen3ForCausalLM", "qwen3"), 5, 8, 8},
    {"gpt2",
        "{\"architectures\":[\"GPT2LMHeadModel\"],\"model_type\":\"gpt2\",\"n_embd\":64,"
        "\"n_head\":4,\"n_positions\":128,\"activation_function\":\"gelu_new\","
        "\"layer_norm_epsilon\":1e-5,\"vocab_size\":96,\"n_layer\":%u}",
        5, 8, 8},
    {"gpt_neox",
        "{\"architectures\":[\"GPTNeoXForCausalLM\"],\"model_type\":\"gpt_neox\"," SIZES
        "\"rotary_pct\":0.25,\"use_parallel_residual\":true,\"hidden_act\":\"gelu\","
        "\"layer_norm_eps\":1e-5,\"tie_word_embeddings\":false," LAYERS,
        5, 9, 9},
    {"phi",
        "{\"architectures\":[\"PhiForCausalLM\"],\"model_type\":\"phi\"," SIZES
        "\"partial_rotary_factor\":0.5,\"hidden_act\":\"gelu_new\",\"layer_norm_eps\":1e-5,"
        "\"tie_word_embeddings\":false," LAYERS,
        5, 8, 8},
};

// Emulated threads take many times as long under the thread sanitizer: two families, not all.
#if defined(__SANITIZE_THREAD__)
enum { EVERY = 3 };
#else
enum { EVERY = 1 };
#endif

struct texts {
    struct drive_request *request[2];
};

static void free_texts(struct texts *t)
{
    free(t->request[0]);
    free(t->request[1]);
}

struct run {
    const struct family *family;
    uint32_t n_layers, degree, n_prompt, chunk, n_output;
    bool separate, eager;
};

// Two texts, whose prompts come in pieces of `chunk` rows.
static struct texts new_texts(const struct run *r)
{
    static uint32_t prompt[2][PROMPT];
    struct texts t;
    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t k = 0; k < PROMPT; k++)
            prompt[i][k] = (7 * k + 31 * i + 3) % 96;
        t.request[i] = calloc(1, sizeof *t.request[i]);
        assert_non_null(t.request[i]);
        t.request[i]->prompt = prompt[i];
        t.request[i]->n_prompt = r->n_prompt;
        t.request[i]->n_output = r->n_output;
        t.request[i]->chunk = r->chunk;
        t.request[i]->slot = i;
    }
    return t;
}

// Runs them; how many launches, in how many steps.
static uint64_t launches(const struct run *r, struct texts *t, uint64_t *n_steps)
{
    char dir[] = "/tmp/launches_test_XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    // NOLINTNEXTLINE(clang-diagnostic-format-nonliteral): the table above has one %u in each
    assert_true(fprintf(f, r->family->config, r->n_layers) > 0);
    assert_int_equal(fclose(f), 0);
    struct drive d;
    struct rank_options o = {.model_dir = dir,
        .device = "emu",
        .threads = 1,
        .no_spin = true,
        .max_model_len = 64,
        .max_num_seqs = 2,
        .max_num_batched_tokens = 96,
        .random_weights = true,
        .seed = 5,
        .dtype = "bf16",
        .enforce_eager = r->eager,
        .separate_ops = r->separate,
        .kv_cache_bytes = 4 << 20};
    drive_open(&d, &o, r->degree);
    *t = new_texts(r);
    uint64_t before = rank_launches(d.rank), first = d.step;
    drive_run(&d, t->request, 2);
    uint64_t n = rank_launches(d.rank) - before;
    *n_steps = d.step - first - 1; // the last one only gives slots back
    drive_close(&d);
    unlink(path);
    rmdir(dir);
    return n;
}

// Of one layer in one step: what LAYERS_MORE layers add.
static void of_a_layer(struct run r, uint32_t expected)
{
    struct texts few, more;
    uint64_t n_steps, again;
    r.n_layers = 1;
    uint64_t least = launches(&r, &few, &n_steps);
    r.n_layers = 1 + LAYERS_MORE;
    uint64_t most = launches(&r, &more, &again);
    assert_int_equal(n_steps, again);
    print_message("%s, %u ranks, %s: %.2f\n", r.family->name, r.degree,
        r.separate ? "apart"
        : r.chunk  ? "few rows"
                   : "many rows",
        (double)(most - least) / (double)(LAYERS_MORE * n_steps));
    assert_int_equal(most - least, LAYERS_MORE * n_steps * expected);
    free_texts(&few);
    free_texts(&more);
}

static void test_few_rows(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(families); i += EVERY) {
        struct run r = {&families[i], 0, 1, 9, 5, .n_output = OUTPUT, .eager = i % 2 == 1};
        of_a_layer(r, families[i].few);
        r.separate = true;
        if (i == 0 || i == 3)
            of_a_layer(r, families[i].apart);
    }
}

// All rows of both prompts in one step, and then one step with a row of each.
static void test_many_rows(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(families); i += EVERY) {
        struct run r = {&families[i], 0, 1, 12, 0, .n_output = 1};
        of_a_layer(r, families[i].many);
    }
}

// With ranks: the sums over them, which are not counted here, take the place of the norms.
static void test_ranks(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); // the threads of both ranks are more mappings in one process than the system allows
#endif
    struct run r = {&families[0], 0, 2, 9, 5, .n_output = OUTPUT, .eager = true};
    of_a_layer(r, 5);
}

static void test_same_bits(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < COUNT_OF(families); i += EVERY) {
        struct texts fused, apart;
        uint64_t n;
        struct run r = {&families[i], 2, 1, 20, 7, .n_output = OUTPUT};
        launches(&r, &fused, &n);
        r.separate = r.eager = true;
        r.chunk = 0; // all rows of both prompts in one step
        launches(&r, &apart, &n);
        for (uint32_t k = 0; k < 2; k++)
            assert_true(drive_same(fused.request[k], apart.request[k]));
        free_texts(&fused);
        free_texts(&apart);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few_rows),
        cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
