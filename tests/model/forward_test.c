// SPDX-License-Identifier: Apache-2.0
// Whole models, read and cut at every degree, against the logits of transformers.
#include "tests/test_support.h"

#include "model/arch.h"
#include "model/rope.h"
#include "tests/model/forward_reference.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const double tolerance = 1e-3; // of a log-probability
enum { RANKS_MAX = 8, PROMPTS_MAX = 4 };

struct golden {
    uint32_t n_tokens, n_rows, vocab_size;
    uint32_t *ids;
    const float *logits; // [n_rows, vocab_size] of the last positions
};

static bool read_golden(const struct safetensors *s, int prompt, struct golden *g)
{
    char name[32];
    snprintf(name, sizeof name, "p%d.input_ids", prompt);
    const struct tensor *ids = safetensors_find(s, name);
    snprintf(name, sizeof name, "p%d.logits", prompt);
    const struct tensor *logits = safetensors_find(s, name);
    if (!ids)
        return false;
    assert_true(logits && logits->dtype == DTYPE_F32 && ids->dtype == DTYPE_I64);
    g->n_tokens = (uint32_t)ids->shape[0];
    g->n_rows = (uint32_t)logits->shape[0];
    g->vocab_size = (uint32_t)logits->shape[1];
    g->logits = logits->data;
    g->ids = calloc(g->n_tokens, sizeof *g->ids);
    for (uint32_t i = 0; i < g->n_tokens; i++)
        g->ids[i] = (uint32_t)((const int64_t *)ids->data)[i];
    return true;
}

static double log_sum_exp(const double *x, uint32_t n)
{
    double most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        most = fmax(most, x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(x[i] - most);
    return most + log(sum);
}

// The largest distance of a log-probability from the golden's.
static double compare(const struct golden *g, const double *logits)
{
    double worst = 0;
    double *want = calloc(g->vocab_size, sizeof *want);
    for (uint32_t r = 0; r < g->n_rows; r++) {
        const double *got = logits + (size_t)(g->n_tokens - g->n_rows + r) * g->vocab_size;
        for (uint32_t i = 0; i < g->vocab_size; i++)
            want[i] = (double)g->logits[(size_t)r * g->vocab_size + i];
        double a = log_sum_exp(got, g->vocab_size), b = log_sum_exp(want, g->vocab_size);
        for (uint32_t i = 0; i < g->vocab_size; i++)
            worst = fmax(worst, fabs(got[i] - a - (want[i] - b)));
    }
    free(want);
    return worst;
}

static uint32_t golden_length(const char *dir, const struct model_config *m)
{
    json_t *j = json_load_file(test_path(dir, "golden.json"), 0, NULL);
    json_int_t given = json_integer_value(json_object_get(j, "max_model_len"));
    json_decref(j);
    return given ? (uint32_t)given : rope_length_default(m);
}

static double distance(struct model_config *m, const struct weights_plan *plan, uint32_t degree,
    uint32_t max_model_len, const struct golden *g)
{
    struct error err = {0};
    if (rope_prepare(m, max_model_len, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    double *logits = calloc((size_t)g->n_tokens * g->vocab_size, sizeof *logits);
    forward_reference(m, plan, degree, g->ids, g->n_tokens, logits);
    double worst = compare(g, logits);
    free(logits);
    return worst;
}

// Where dynamic NTK is concerned, transformers 5.12 forgets the longest length that it has seen
// and takes each prompt's; other versions keep the longest. Either is a choice of length.
static double distance_for_length(struct model_config *m, const struct weights_plan *plan,
    uint32_t degree, uint32_t max_model_len, const struct golden *g)
{
    double worst = distance(m, plan, degree, max_model_len, g);
    if (m->rope[0].rule == ROPE_DYNAMIC && worst > tolerance)
        worst = distance(m, plan, degree, g->n_tokens, g);
    return worst;
}

static void check_degree(const char *dir, struct model_config *m, const struct safetensors *files,
    const struct safetensors *goldens, uint32_t degree)
{
    struct weights_plan plan[RANKS_MAX];
    struct error err = {0};
    for (uint32_t rank = 0; rank < degree; rank++) {
        struct shard s = weights_plan_shard(m, rank, degree);
        if (weights_plan_open(m, &s, files, &plan[rank], &err) != STATUS_OK)
            fail_msg("%s: %s", dir, err.text);
    }
    struct golden g;
    for (int k = 0; k < PROMPTS_MAX && read_golden(goldens, k, &g); k++) {
        assert_int_equal(g.vocab_size, m->vocab_size);
        // Long prompts once: this pass is slow.
        if (degree == 1 || g.n_tokens <= 64) {
            double worst = distance_for_length(m, plan, degree, golden_length(dir, m), &g);
            if (!(worst < tolerance))
                fail_msg("%s, prompt %d, degree %u: off by %g", dir, k, degree, worst);
        }
        free(g.ids);
    }
    for (uint32_t rank = 0; rank < degree; rank++)
        weights_plan_close(&plan[rank]);
}

// What the reference computes: Llama and its near relatives. worker_golden_test has all families.
static bool is_plain(const struct model_config *m)
{
    return m->norm_placement == NORM_PRE && !m->parallel_residual && m->norm_weight &&
           m->final_norm && m->position_kind == POSITION_ROPE && m->n_ropes == 1 &&
           m->rope[0].pairing == ROPE_HALF && m->qk_norm <= QK_NORM_HEAD &&
           m->attention_softcap == 0 && m->logit_softcap == 0 && m->qkv_clip == 0 &&
           m->embed_dim == m->hidden_dim;
}

// Returns false where the family is not ours.
static bool check_model(const char *dir)
{
    struct model_config *m = calloc(1, sizeof *m);
    struct safetensors *files = NULL, *goldens = NULL;
    struct error err = {0};
    bool ours = arch_read(dir, m, NULL, &err) == STATUS_OK && is_plain(m);
    if (ours) {
        if (rope_prepare(m, golden_length(dir, m), &err) != STATUS_OK ||
            safetensors_open_dir(dir, &files, &err) != STATUS_OK ||
            safetensors_open_file(test_path(dir, "golden.safetensors"), &goldens, &err) !=
                STATUS_OK)
            fail_msg("%s: %s", dir, err.text);
        for (uint32_t degree = 1; degree <= RANKS_MAX; degree++)
            if (shard_check(m, degree, &err) == STATUS_OK)
                check_degree(dir, m, files, goldens, degree);
    }
    safetensors_close(files);
    safetensors_close(goldens);
    free(m);
    return ours;
}

static int check_all(const char *root)
{
    int n = 0;
    DIR *d = opendir(root);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char dir[1024];
        struct stat st;
        snprintf(dir, sizeof dir, "%s", test_path(root, e->d_name));
        if (e->d_name[0] != '.' && stat(test_path(dir, "config.json"), &st) == 0)
            n += check_model(dir);
    }
    closedir(d);
    return n;
}

static void test_own_models(void **state)
{
    (void)state;
    char root[1024];
    snprintf(root, sizeof root, "%s", test_path(test_source_dir(), "tests/golden/models"));
    assert_true(check_all(root) >= 10);
}

static void test_mixtures_of_experts(void **state)
{
    (void)state;
    static const char *const names[] = {
        "mixtral-window", "qwen2-moe-layers", "qwen3-moe-renormalized"};
    char root[1024], dir[1024];
    snprintf(root, sizeof root, "%s", test_path(test_source_dir(), "tests/golden/families"));
    for (int i = 0; i < 3; i++) {
        snprintf(dir, sizeof dir, "%s", test_path(root, names[i]));
        assert_true(check_model(dir));
    }
}

static void test_zoo(void **state)
{
    (void)state;
    char root[1024];
    if (!test_shared_dir())
        return;
    snprintf(root, sizeof root, "%s", test_path(test_shared_dir(), "oracle/zoo"));
    int n = check_all(root);
    printf("%d models of the zoo agree\n", n);
    assert_true(n >= 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_models),
        cmocka_unit_test(test_mixtures_of_experts),
        cmocka_unit_test(test_zoo),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
