// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include "model/arch.h"
#include "model/rope.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pair {
    uint32_t index;
    float inv_freq;
};

enum { PAIRS_MAX = 16 };

static const struct vector {
    const char *name;
    uint32_t head_dim, max_position, max_model_len;
    const char *rope;
    double attention_factor;
    struct pair pair[PAIRS_MAX];
} vectors[] = {
#define X(name, head_dim, max_position, max_model_len, rope, attention_factor, ...)                \
    {name, head_dim, max_position, max_model_len, rope, attention_factor, {__VA_ARGS__}},
#include "tests/model/rope_vectors.def"
#undef X
};

static const char frame[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 64, \"intermediate_size\": 96, "
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"vocab_size\": 100, \"head_dim\": %u, "
    "\"max_position_embeddings\": %u, %s}";

static struct model_config *read_rope(uint32_t head_dim, uint32_t max_position, const char *rope)
{
    struct model_config *m = calloc(1, sizeof *m);
    struct error err = {0};
    char text[4096];
    int n = snprintf(text, sizeof text, frame, head_dim, max_position, rope);
    assert_in_range(n, 1, sizeof text - 1);
    if (arch_parse(text, (size_t)n, NULL, 0, m, NULL, &err) != STATUS_OK)
        fail_msg("%s: %s", rope, err.text);
    return m;
}

// torch's powf and the C library's differ by an ulp or two.
static void assert_close(const char *name, double got, double want)
{
    if (!(fabs(got - want) <= 4e-7 * fabs(want)))
        fail_msg("%s: %.9g instead of %.9g", name, got, want);
}

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        const struct vector *v = &vectors[i];
        char rope[2048];
        snprintf(rope, sizeof rope, "\"rope_parameters\": %s", v->rope);
        struct model_config *m = read_rope(v->head_dim, v->max_position, rope);
        struct error err = {0};
        if (rope_prepare(m, v->max_model_len, &err) != STATUS_OK)
            fail_msg("%s: %s", v->name, err.text);
        assert_close(v->name, m->rope[0].attention_factor, v->attention_factor);
        for (int k = 0; k < PAIRS_MAX && v->pair[k].inv_freq != 0; k++)
            assert_close(v->name, m->rope[0].inv_freq[v->pair[k].index], v->pair[k].inv_freq);
        assert_true(m->rope[0].inv_freq[v->head_dim / 2 - 1] != 0);
        assert_true(m->rope[0].inv_freq[v->head_dim / 2] == 0);
        free(m);
    }
}

// The same settings in both styles, and a second preparation, give the same bits.
static void test_styles(void **state)
{
    (void)state;
    static const struct {
        const char *modern, *classic;
    } pair[] = {
        {"\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1000.0}",
            "\"rope_theta\": 1000, \"rope_scaling\": null"},
        {"\"rope_parameters\": {\"rope_type\": \"linear\", \"rope_theta\": 10000.0, \"factor\": 2}",
            "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}"},
        {"\"rope_parameters\": {\"rope_type\": \"dynamic\", \"rope_theta\": 500, \"factor\": 2}",
            "\"rope_theta\": 500, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}"},
        {"\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 10000, \"factor\": 4.0, "
         "\"original_max_position_embeddings\": 64}",
            "\"original_max_position_embeddings\": 64, \"rope_scaling\": {\"rope_type\": \"yarn\", "
            "\"factor\": 4.0}"},
    };
    for (size_t i = 0; i < sizeof pair / sizeof *pair; i++) {
        struct model_config *a = read_rope(16, 256, pair[i].modern);
        struct model_config *b = read_rope(16, 256, pair[i].classic);
        struct error err;
        assert_int_equal(rope_prepare(a, 200, &err), STATUS_OK);
        assert_int_equal(rope_prepare(b, 256, &err), STATUS_OK);
        assert_int_equal(rope_prepare(b, 200, &err), STATUS_OK);
        assert_memory_equal(&a->rope[0], &b->rope[0], sizeof a->rope[0]);
        free(a);
        free(b);
    }
}

static void test_lengths(void **state)
{
    (void)state;
    static const struct {
        const char *rope;
        uint32_t most, usual;
    } cases[] = {
        {"\"rope_theta\": 10000", 256, 256},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}", 1024, 1024},
        {"\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4}", 1 << 24, 256},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 16, "
         "\"original_max_position_embeddings\": 128}",
            2048, 2048},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, "
         "\"original_max_position_embeddings\": 64}",
            256, 256},
        {"\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, "
         "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}",
            256, 256},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config *m = read_rope(16, 256, cases[i].rope);
        struct error err = {0};
        assert_int_equal(rope_length_max(m), cases[i].most);
        assert_int_equal(rope_length_default(m), cases[i].usual);
        assert_int_equal(rope_prepare(m, 0, &err), STATUS_INVALID);
        assert_int_equal(rope_prepare(m, cases[i].most + 1, &err), STATUS_INVALID);
        assert_non_null(strstr(err.text, "context length"));
        assert_true(m->rope[0].inv_freq[0] == 0); // nothing was set
        assert_int_equal(rope_prepare(m, cases[i].most, &err), STATUS_OK);
        free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_styles),
        cmocka_unit_test(test_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
