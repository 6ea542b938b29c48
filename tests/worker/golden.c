// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/golden.h"

#include "model/arch.h"
#include "model/safetensors.h"
#include "tests/test_support.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t read_ids(const json_t *array, uint32_t *out)
{
    uint32_t n = (uint32_t)json_array_size(array);
    assert_true(n <= GOLDEN_IDS_MAX);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (uint32_t)json_integer_value(json_array_get(array, i));
    return n;
}

// Rows of logits to rows of log-probabilities, in double.
static double *log_softmax(const float *logits, uint32_t n_rows, uint32_t n)
{
    double *out = malloc(sizeof *out * n_rows * n);
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *x = logits + (size_t)r * n;
        double max = -INFINITY, sum = 0;
        for (uint32_t i = 0; i < n; i++)
            max = x[i] > max ? x[i] : max;
        for (uint32_t i = 0; i < n; i++)
            sum += exp(x[i] - max);
        for (uint32_t i = 0; i < n; i++)
            out[(size_t)r * n + i] = x[i] - max - log(sum);
    }
    return out;
}

static const struct tensor *find(const struct safetensors *s, uint32_t k, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "p%u.%s", k, what);
    return safetensors_find(s, name);
}

static void read_rows(struct golden *g, const struct safetensors *s, uint32_t k)
{
    struct golden_prompt *p = &g->prompt[k];
    const struct tensor *ids = find(s, k, "input_ids"), *logits = find(s, k, "logits");
    const struct tensor *greedy = find(s, k, "greedy_ids"), *lp = find(s, k, "greedy_logprobs");
    assert_non_null(ids);
    assert_non_null(logits);
    p->n_ids = (uint32_t)(ids->bytes / 8);
    p->n_greedy = (uint32_t)(greedy->bytes / 8);
    assert_true(p->n_ids <= GOLDEN_IDS_MAX && p->n_greedy <= GOLDEN_IDS_MAX);
    for (uint32_t i = 0; i < p->n_ids; i++)
        p->ids[i] = (uint32_t)((const int64_t *)ids->data)[i];
    for (uint32_t i = 0; i < p->n_greedy; i++)
        p->greedy[i] = (uint32_t)((const int64_t *)greedy->data)[i];
    p->n_rows = (uint32_t)logits->shape[logits->n_dims - 2];
    assert_int_equal(logits->shape[logits->n_dims - 1], g->vocab_size);
    p->logprobs = log_softmax(logits->data, p->n_rows, g->vocab_size);
    p->greedy_logprob = calloc(p->n_greedy, sizeof(double));
    for (uint32_t i = 0; i < p->n_greedy; i++)
        p->greedy_logprob[i] = (double)((const float *)lp->data)[i];
}

static void read_steps(struct golden_prompt *p, const json_t *prompt)
{
    p->n_ids = read_ids(json_object_get(prompt, "input_ids"), p->ids);
    p->n_greedy = read_ids(json_object_get(prompt, "greedy_ids"), p->greedy);
    const json_t *nll = json_object_get(prompt, "prompt_nll");
    p->nll = calloc(p->n_ids, sizeof(double));
    assert_int_equal(json_array_size(nll), p->n_ids - 1);
    for (uint32_t i = 0; i + 1 < p->n_ids; i++)
        p->nll[i] = json_number_value(json_array_get(nll, i));
    const json_t *steps = json_object_get(prompt, "steps_top5");
    p->top = calloc(p->n_greedy, sizeof *p->top);
    for (uint32_t i = 0; i < p->n_greedy; i++)
        for (uint32_t k = 0; k < GOLDEN_TOPS; k++) {
            const json_t *pair = json_array_get(json_array_get(steps, i), k);
            p->top[i][k].id = (uint32_t)json_integer_value(json_array_get(pair, 0));
            p->top[i][k].logprob = (float)json_number_value(json_array_get(pair, 1));
        }
}

struct golden *golden_open(const char *dir)
{
    struct golden *g = calloc(1, sizeof *g);
    snprintf(g->dir, sizeof g->dir, "%s", dir);
    struct model_config m;
    struct error err = {0};
    if (arch_read(dir, &m, NULL, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    g->vocab_size = m.vocab_size;
    json_t *j = json_load_file(test_path(dir, "golden.json"), JSON_ALLOW_NUL, NULL);
    assert_non_null(j);
    g->max_model_len = (uint32_t)json_integer_value(json_object_get(j, "max_model_len"));
    const json_t *prompts = json_object_get(j, "prompts");
    g->n_prompts = (uint32_t)json_array_size(prompts);
    assert_true(g->n_prompts >= 1 && g->n_prompts <= GOLDEN_PROMPTS_MAX);
    bool steps = json_object_get(json_array_get(prompts, 0), "steps_top5");
    struct safetensors *s = NULL;
    if (!steps)
        assert_int_equal(
            safetensors_open_file(test_path(dir, "golden.safetensors"), &s, &err), STATUS_OK);
    for (uint32_t k = 0; k < g->n_prompts; k++) {
        if (steps)
            read_steps(&g->prompt[k], json_array_get(prompts, k));
        else
            read_rows(g, s, k);
    }
    safetensors_close(s);
    json_decref(j);
    return g;
}

void golden_close(struct golden *g)
{
    for (uint32_t k = 0; k < g->n_prompts; k++) {
        free(g->prompt[k].logprobs);
        free(g->prompt[k].nll);
        free(g->prompt[k].greedy_logprob);
        free(g->prompt[k].top);
    }
    free(g);
}

const double *golden_row(const struct golden *g, const struct golden_prompt *p, uint32_t row)
{
    uint32_t skipped = p->n_ids - p->n_rows;
    if (!p->logprobs || row < skipped || row >= p->n_ids)
        return NULL;
    return p->logprobs + (size_t)(row - skipped) * g->vocab_size;
}

void golden_compare(struct golden_worst *w, double got, double expected)
{
    double e = fabs(got - expected);
    w->n++;
    if (isnan(e) || e > w->error)
        w->error = e;
}
