// SPDX-License-Identifier: Apache-2.0
// Every sampling parameter through the whole chain. The tokens of a request are known beforehand:
// logits from a forward pass in double, the distribution from an oracle that agrees with numpy's
// goldens, and the draw from the request's seed. Only where rounding decides may another one come.
#include "tests/e2e/cluster.h"
#include "tests/e2e/sampler_oracle.h"

#include "base/philox.h"
#include "model/arch.h"
#include "model/rope.h"
#include "tests/model/forward_reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 4, OUTPUT = 24, WORDS = 64, END_ID = 2, TOPS = 3 };

static const uint32_t prompt[] = {1, 452, 464, 407, 366, 262, 384, 90, 16, 262, 384};
enum { PROMPT = sizeof prompt / sizeof *prompt };

static struct cluster cluster;
static char model_dir[512];

// ---- the oracle against numpy ------------------------------------------------------------------

static uint32_t take_ids(const json_t *list, uint32_t *out)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return (uint32_t)json_array_size(list);
}

static void test_oracle(void **state)
{
    (void)state;
    json_t *file =
               json_load_file(test_path(test_source_dir(), "tests/golden/sampling.json"), 0, NULL),
           *c;
    size_t n;
    assert_non_null(file);
    json_array_foreach(json_object_get(file, "cases"), n, c)
    {
        double logits[64], probs[64];
        uint32_t ids[64], v = (uint32_t)json_array_size(json_object_get(c, "logits"));
        assert_true(v <= 64);
        for (uint32_t i = 0; i < v; i++)
            logits[i] = json_number_value(json_array_get(json_object_get(c, "logits"), i));
        struct oracle_history h = {.ids = ids};
        h.n_prompt = take_ids(json_object_get(c, "prompt_ids"), ids);
        h.n_output = take_ids(json_object_get(c, "output_ids"), ids + h.n_prompt);
        sampler_oracle(json_object_get(c, "params"), logits, v, &h, 0, probs);
        for (uint32_t i = 0; i < v; i++) {
            double want = json_number_value(json_array_get(json_object_get(c, "probs"), i));
            if (fabs(probs[i] - want) > 1e-9)
                fail_msg("%s: id %u has %g, expected %g",
                    json_string_value(json_object_get(c, "name")), i, probs[i], want);
        }
    }
    assert_true(n >= 80);
    json_decref(file);
}

// ---- the model in double -----------------------------------------------------------------------

struct reference {
    struct model_config config;
    struct safetensors *files;
    struct weights_plan plan;
};

static struct reference *reference_open(void)
{
    struct reference *r = calloc(1, sizeof *r);
    struct error err = {0};
    assert_non_null(r);
    assert_int_equal(arch_read(model_dir, &r->config, NULL, &err), STATUS_OK);
    assert_int_equal(rope_prepare(&r->config, rope_length_default(&r->config), &err), STATUS_OK);
    assert_int_equal(safetensors_open_dir(model_dir, &r->files, &err), STATUS_OK);
    struct shard whole = weights_plan_shard(&r->config, 0, 1);
    assert_int_equal(weights_plan_open(&r->config, &whole, r->files, &r->plan, &err), STATUS_OK);
    return r;
}

static void reference_close(struct reference *r)
{
    weights_plan_close(&r->plan);
    safetensors_close(r->files);
    free(r);
}

// ---- requests ----------------------------------------------------------------------------------

struct words {
    const char *word[WORDS];
    char text[WORDS][40];
    int n;
};

static void add(struct words *w, const char *word)
{
    assert_true(w->n + 1 < WORDS);
    w->word[w->n++] = word;
}

static char *room(struct words *w)
{
    return w->text[w->n];
}

static void add_number(struct words *w, const char *name, double value)
{
    char *option = room(w);
    snprintf(option, sizeof w->text[0], "--%s", name);
    for (char *p = option; *p; p++)
        *p = *p == '_' ? '-' : *p;
    add(w, option);
    char *text = room(w);
    snprintf(text, sizeof w->text[0], "%.9g", value);
    add(w, text);
}

// The command line that asks for `params`.
static void add_params(struct words *w, const json_t *params)
{
    const char *key, *id;
    json_t *value, *item;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)params, key, value)
    {
        if (json_is_number(value))
            add_number(w, key, json_number_value(value));
        json_array_foreach(value, i, item) add_number(w, "stop_token_id", json_number_value(item));
        json_object_foreach(value, id, item)
        {
            add(w, "--logit-bias");
            char *text = room(w);
            snprintf(text, sizeof w->text[0], "%s:%.9g", id, json_number_value(item));
            add(w, text);
        }
    }
}

static void ask(const json_t *params, const char *seed, bool ignore_end, struct command *m)
{
    static struct words w;
    w.n = 0;
    const char *first[] = {"generate", "--tokens", cluster_answer_ids(prompt, PROMPT), "--n", "4",
        "--max-tokens", "24", "--logprobs", "3", "--output", "jsonl", NULL};
    for (int i = 0; first[i]; i++)
        add(&w, first[i]);
    if (seed) {
        add(&w, "--seed");
        add(&w, seed);
    }
    if (ignore_end)
        add(&w, "--ignore-eos");
    add_params(&w, params);
    w.word[w.n] = NULL;
    cluster_run(&cluster, m, w.word);
}

// ---- comparison --------------------------------------------------------------------------------

struct tally {
    uint32_t tokens, near;
    double worst; // of log-probabilities
};

static bool is_stop(const json_t *params, uint32_t id)
{
    const json_t *item;
    size_t i;
    bool found = false;
    json_array_foreach(json_object_get(params, "stop_token_ids"), i, item) found =
        found || json_integer_value(item) == id;
    return found;
}

// Whether moving the draw or the filters by a hair gives `id`.
static bool nearly(const json_t *params, const double *logits, uint32_t v,
    const struct oracle_history *h, double u, uint32_t id, double *probs)
{
    for (int a = -1; a <= 1; a++) {
        sampler_oracle(params, logits, v, h, a * 1e-4, probs);
        for (int b = -1; b <= 1; b++)
            if (sampler_oracle_draw(probs, v, u + b * 1e-4) == id)
                return true;
    }
    return false;
}

static void check_token(struct tally *t, const json_t *params, const double *logits, uint32_t v,
    const struct oracle_history *h, double u, uint32_t id)
{
    double *probs = calloc(v, sizeof *probs);
    assert_non_null(probs);
    sampler_oracle(params, logits, v, h, 0, probs);
    uint32_t expected = sampler_oracle_draw(probs, v, u);
    t->tokens++;
    if (id != expected) {
        t->near++;
        if (!nearly(params, logits, v, h, u, id, probs))
            fail_msg("token %u of the output is %u, expected %u", h->n_output, id, expected);
    }
    free(probs);
}

static double log_sum_exp(const double *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(x[i] - x[0]);
    return x[0] + log(sum);
}

// Log-probabilities are raw, whatever the parameters; alternatives come in falling order.
static void check_logprobs(
    struct tally *t, const double *logits, uint32_t v, const json_t *line, uint32_t id)
{
    double total = log_sum_exp(logits, v), above = INFINITY;
    double got = json_number_value(json_object_get(line, "logprob"));
    t->worst = fmax(t->worst, fabs(got - (logits[id] - total)));
    const json_t *tops = json_object_get(line, "top_logprobs"), *top;
    size_t k;
    assert_int_equal(json_array_size(tops), TOPS);
    json_array_foreach(tops, k, top)
    {
        double lp = json_number_value(json_object_get(top, "logprob"));
        uint32_t rank = 0;
        uint32_t top_id = (uint32_t)json_integer_value(json_object_get(top, "id"));
        for (uint32_t i = 0; i < v; i++)
            rank += logits[i] > logits[top_id] + 1e-4;
        assert_true(rank <= k && lp <= above);
        above = lp;
        t->worst = fmax(t->worst, fabs(lp - (logits[top_id] - total)));
    }
}

static const json_t *line_of(const struct command *m, int index, uint32_t offset)
{
    const json_t *line;
    size_t i;
    json_array_foreach(m->lines, i,
        line) if (json_object_get(line, "id") &&
                  json_integer_value(json_object_get(line, "index")) == index &&
                  json_integer_value(json_object_get(line, "offset")) == offset) return line;
    fail_msg("sample %d has no token %u", index, offset);
    return NULL;
}

static void check_end(const struct answer *a, const json_t *params, bool ignore_end)
{
    uint32_t last = a->ids[a->n - 1];
    char id[16];
    snprintf(id, sizeof id, "%u", last);
    bool stopped = is_stop(params, last), ended = last == END_ID && !ignore_end;
    for (uint32_t i = 0; i + 1 < a->n; i++)
        assert_false(is_stop(params, a->ids[i]) || (a->ids[i] == END_ID && !ignore_end));
    if (!stopped && !ended)
        assert_int_equal(a->n, OUTPUT);
    assert_string_equal(a->reason, stopped || ended ? "stop" : "length");
    assert_string_equal(a->stop, stopped ? id : "null");
}

static void check_sample(struct tally *t, struct reference *r, const struct command *m, int index,
    const json_t *params, uint64_t seed, bool ignore_end)
{
    static struct answer a;
    uint32_t ids[PROMPT + OUTPUT], v = r->config.vocab_size;
    cluster_answer(m, index, &a);
    assert_true(a.n > 0 && a.n <= OUTPUT);
    memcpy(ids, prompt, sizeof prompt);
    memcpy(ids + PROMPT, a.ids, a.n * sizeof *ids);
    double *logits = calloc((size_t)(PROMPT + a.n) * v, sizeof *logits);
    assert_non_null(logits);
    forward_reference(&r->config, &r->plan, 1, ids, PROMPT + a.n, logits);
    for (uint32_t i = 0; i < a.n; i++) {
        const double *row = logits + (size_t)(PROMPT + i - 1) * v;
        struct oracle_history h = {ids, PROMPT, i};
        double u = philox_uniform(seed, (uint32_t)index, PROMPT + i, PHILOX_SAMPLE);
        check_token(t, params, row, v, &h, u, a.ids[i]);
        check_logprobs(t, row, v, line_of(m, index, i), a.ids[i]);
    }
    check_end(&a, params, ignore_end);
    free(logits);
}

static const char *const cases[] = {
    "{}",
    "{'temperature': 0}",
    "{'temperature': 0.6}",
    "{'temperature': 2.5}",
    "{'temperature': 0.003}",
    "{'top_k': 5}",
    "{'top_k': 1}",
    "{'top_k': -1}",
    "{'top_p': 0.4}",
    "{'top_p': 0.9, 'temperature': 0.8}",
    "{'min_p': 0.2}",
    "{'typical_p': 0.3}",
    "{'repetition_penalty': 1.7, 'temperature': 0}",
    "{'repetition_penalty': 0.6}",
    "{'presence_penalty': 2, 'temperature': 0}",
    "{'presence_penalty': -1.5}",
    "{'frequency_penalty': 1.5, 'temperature': 0}",
    "{'frequency_penalty': -1.2}",
    "{'logit_bias': {'7': 4.5, '300': -100, '514': 3}}",
    "{'logit_bias': {'384': 6}, 'repetition_penalty': 1.5, 'frequency_penalty': 0.7}",
    "{'logit_bias': {'2': 3.5}}",
    "{'logit_bias': {'2': 100}, 'min_tokens': 5}",
    "{'logit_bias': {'9': 3, '11': 4, '2': 4}, 'stop_token_ids': [9, 11], 'min_tokens': 3}",
    "{'logit_bias': {'9': 5}, 'stop_token_ids': [9]}",
    "{'min_p': 0.01, 'top_k': 40, 'top_p': 0.9, 'typical_p': 0.8, 'temperature': 1.3,"
    " 'repetition_penalty': 1.2, 'presence_penalty': 0.3, 'frequency_penalty': 0.2,"
    " 'logit_bias': {'4': 1.5, '20': -1.5}, 'min_tokens': 12, 'stop_token_ids': [13]}",
};

static void test_parameters(void **state)
{
    (void)state;
    struct reference *r = reference_open();
    struct tally all = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tally t = {0};
        json_error_t e;
        char seed[32], text[512];
        snprintf(text, sizeof text, "%s", cases[i]);
        for (char *p = text; *p; p++)
            *p = *p == '\'' ? '"' : *p;
        json_t *params = json_loads(text, 0, &e);
        assert_non_null(params);
        uint64_t number = i == 0 ? UINT64_MAX : 1000 * i;
        snprintf(seed, sizeof seed, "%llu", (unsigned long long)number);
        for (int ignore_end = 0; ignore_end < 2; ignore_end++) {
            struct command m;
            ask(params, seed, ignore_end, &m);
            for (int k = 0; k < SAMPLES; k++)
                check_sample(&t, r, &m, k, params, number, ignore_end);
            command_free(&m);
        }
        if (t.worst > 1e-3)
            fail_msg("%s: log-probabilities are off by %g", cases[i], t.worst);
        all.tokens += t.tokens;
        all.near += t.near;
        json_decref(params);
    }
    print_message("%u tokens, %u of them where rounding decides\n", all.tokens, all.near);
    assert_true(all.tokens > 1500);
    assert_true(all.near * 100 <= all.tokens);
    reference_close(r);
}

static int start(void **state)
{
    (void)state;
    snprintf(
        model_dir, sizeof model_dir, "%s/tests/golden/models/llama-gqa-sharded", test_source_dir());
    cluster_start(
        &cluster, model_dir, (const char *const[]){"--tensor-parallel-degree", "2", NULL});
    return 0;
}

static int stop(void **state)
{
    (void)state;
    cluster_stop(&cluster);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_parameters),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
