// SPDX-License-Identifier: Apache-2.0
// Distributions that the sampler draws from: against the goldens that numpy computed, and against a
// reference of this file that sorts in double, over wide vocabularies with many equal logits.
#include "kernels/cpu/sample.h"
#include "tests/kernels/ops_support.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

struct request {
    struct sampling_params p;
    uint32_t stop[8], ids[512], n_ids, prompt_length;
    struct sampling_bias bias[16];
};

static void begin(const struct ops *o, uint32_t d, const struct request *q)
{
    o->k->sampler_begin(o->d[d], &(struct sampler_begin_args){.params = q->p,
                                     .stop_ids = q->stop,
                                     .bias = q->bias,
                                     .ids = q->ids,
                                     .n_ids = q->n_ids,
                                     .prompt_length = q->prompt_length});
}

// ---- goldens -----------------------------------------------------------------------------------

static float number(const json_t *o, const char *name)
{
    return (float)json_number_value(json_object_get(o, name));
}

static void read_request(const json_t *c, struct request *q)
{
    const json_t *p = json_object_get(c, "params"), *item;
    *q = (struct request){0};
    q->p.temperature = number(p, "temperature");
    q->p.top_k = (int32_t)number(p, "top_k");
    q->p.top_p = number(p, "top_p");
    q->p.min_p = number(p, "min_p");
    q->p.typical_p = number(p, "typical_p");
    q->p.repetition_penalty = number(p, "repetition_penalty");
    q->p.frequency_penalty = number(p, "frequency_penalty");
    q->p.presence_penalty = number(p, "presence_penalty");
    q->p.min_tokens = (uint32_t)number(p, "min_tokens");
    size_t i;
    const char *key;
    q->stop[q->p.n_stop_ids++] = (uint32_t)number(p, "eos_token_id");
    json_array_foreach(json_object_get(p, "stop_token_ids"), i, item) q->stop[q->p.n_stop_ids++] =
        (uint32_t)json_integer_value(item);
    json_object_foreach(json_object_get(p, "logit_bias"), key, item) q->bias[q->p.n_logit_bias++] =
        (struct sampling_bias){(uint32_t)strtoul(key, NULL, 10), (float)json_number_value(item)};
    json_array_foreach(json_object_get(c, "prompt_ids"), i, item) q->ids[q->n_ids++] =
        (uint32_t)json_integer_value(item);
    q->prompt_length = q->n_ids;
    json_array_foreach(json_object_get(c, "output_ids"), i, item) q->ids[q->n_ids++] =
        (uint32_t)json_integer_value(item);
}

static void test_golden(void **state)
{
    const struct ops *o = *state;
    json_error_t e;
    json_t *file =
        json_load_file(test_path(test_source_dir(), "tests/golden/sampling.json"), 0, &e);
    assert_non_null(file);
    uint32_t v = (uint32_t)json_integer_value(json_object_get(file, "vocab_size"));
    float *logits = calloc(v, sizeof *logits);
    double *got = calloc(v, sizeof *got);
    struct error err;
    for (uint32_t d = 0; d < o->n; d++) {
        assert_int_equal(o->k->sampler_open(o->d[d], 1, v, 512, &err), STATUS_OK);
        size_t n;
        const json_t *c;
        json_array_foreach(json_object_get(file, "cases"), n, c)
        {
            struct request q;
            read_request(c, &q);
            for (uint32_t i = 0; i < v; i++)
                logits[i] = (float)json_real_value(json_array_get(json_object_get(c, "logits"), i));
            begin(o, d, &q);
            assert_true(sample_distribution(o->d[d], 0, logits, got));
            for (uint32_t i = 0; i < v; i++) {
                double p = json_number_value(json_array_get(json_object_get(c, "probs"), i));
                if (!(fabs(got[i] - p) <= 2e-5 * p + 1e-7) || (p > 1e-30) != (got[i] > 1e-30))
                    fail_msg("%s, %s: id %u has %.9g, expected %.9g",
                        json_string_value(json_object_get(c, "name")), o->name[d], i, got[i], p);
            }
        }
        cpu_sampler_close(o->d[d]);
    }
    json_decref(file);
    free(logits);
    free(got);
}

// ---- reference ---------------------------------------------------------------------------------

struct entry {
    uint32_t id;
    double x, p, distance;
};

static int by_logit(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return x->x != y->x ? (x->x < y->x ? 1 : -1) : (x->id > y->id ? 1 : -1);
}

static int by_distance(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return (x->distance > y->distance) - (x->distance < y->distance);
}

static void normalize(struct entry *e, uint32_t n, double temperature)
{
    double total = 0, most = e[0].x;
    for (uint32_t i = 0; i < n; i++)
        most = fmax(most, e[i].x);
    for (uint32_t i = 0; i < n; i++)
        total += e[i].p = exp((e[i].x - most) / temperature);
    for (uint32_t i = 0; i < n; i++)
        e[i].p /= total;
}

static const double NEAR = 1e-5;

// Fills p[v]; false where a border is so near to a sum that rounding decides.
static bool reference(const struct request *q, const float *logits, uint32_t v, double *p)
{
    double t = fmax((double)q->p.temperature, 1e-2), sum = 0;
    struct entry *e = calloc(v, sizeof *e);
    bool clear = true;
    for (uint32_t i = 0; i < v; i++)
        e[i] = (struct entry){.id = i, .x = (double)logits[i]};
    for (uint32_t i = 0; i < q->p.n_stop_ids; i++)
        if (q->n_ids - q->prompt_length < q->p.min_tokens)
            e[q->stop[i]].x = -INFINITY;
    for (uint32_t i = 0; i < q->p.n_logit_bias; i++)
        e[q->bias[i].id].x += (double)q->bias[i].bias;
    for (uint32_t i = 0; i < v; i++) {
        uint32_t seen = 0, out = 0;
        for (uint32_t j = 0; j < q->n_ids; j++) {
            seen += q->ids[j] == i;
            out += q->ids[j] == i && j >= q->prompt_length;
        }
        double r = (double)q->p.repetition_penalty;
        if (seen > 0)
            e[i].x = e[i].x > 0 ? e[i].x / r : e[i].x * r;
        e[i].x -= (double)q->p.frequency_penalty * out;
        e[i].x -= out > 0 ? (double)q->p.presence_penalty : 0;
    }
    qsort(e, v, sizeof *e, by_logit);
    uint32_t n = v, kept;
    while (n > 1 && isinf(e[n - 1].x))
        n--;
    normalize(e, n, t);
    for (kept = 0; kept < n && e[kept].p >= (double)q->p.min_p * e[0].p; kept++)
        clear &= fabs(e[kept].p / e[0].p - (double)q->p.min_p) > NEAR * (double)q->p.min_p;
    if (q->p.min_p > 0)
        n = kept;
    if (q->p.top_k > 0 && (uint32_t)q->p.top_k < n) {
        uint32_t k = (uint32_t)q->p.top_k;
        // Penalties are computed in float: an almost equal logit may be equal there.
        clear &= e[k].x == e[k - 1].x || e[k - 1].x - e[k].x > 1e-5;
        while (k < n && e[k].x == e[k - 1].x)
            k++;
        n = k;
    }
    normalize(e, n, t);
    if (q->p.top_p < 1) {
        for (kept = 0; kept < n && sum < (double)q->p.top_p; kept++) {
            sum += e[kept].p;
            clear &= fabs(sum - (double)q->p.top_p) > NEAR;
        }
        n = kept;
        normalize(e, n, t);
    }
    if (q->p.typical_p < 1) {
        double entropy = 0;
        for (uint32_t i = 0; i < n; i++)
            entropy -= e[i].p > 0 ? e[i].p * log(e[i].p) : 0;
        for (uint32_t i = 0; i < n; i++)
            e[i].distance = e[i].p > 0 ? fabs(-log(e[i].p) - entropy) : INFINITY;
        qsort(e, n, sizeof *e, by_distance);
        for (sum = 0, kept = 0; kept < n && sum < (double)q->p.typical_p; kept++) {
            sum += e[kept].p;
            clear &= fabs(sum - (double)q->p.typical_p) > NEAR;
        }
        while (kept < n && e[kept].distance - e[kept - 1].distance < 1e-12)
            kept++;
        clear &= kept == n || e[kept].distance - e[kept - 1].distance > NEAR;
        n = kept;
        normalize(e, n, t);
    }
    memset(p, 0, v * sizeof *p);
    for (uint32_t i = 0; i < n; i++)
        p[e[i].id] = e[i].p;
    free(e);
    return clear;
}

static void random_request(struct random *r, uint32_t v, struct request *q)
{
    *q = (struct request){
        .p = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1}};
    q->p.temperature = random_below(r, 2) ? 1.0f : random_float(r, 0.3f, 2.0f);
    if (random_below(r, 2))
        q->p.top_k = 1 + (int32_t)random_below(r, random_below(r, 2) ? 50 : v + v / 4);
    if (random_below(r, 2))
        q->p.top_p = random_float(r, 0.01f, 0.999f);
    if (random_below(r, 3) == 0)
        q->p.min_p = random_float(r, 0.0f, 0.3f);
    if (random_below(r, 3) == 0)
        q->p.typical_p = random_float(r, 0.05f, 0.99f);
    if (random_below(r, 3) == 0) {
        q->p.repetition_penalty = random_float(r, 0.7f, 1.6f);
        q->p.frequency_penalty = random_float(r, -1, 1);
        q->p.presence_penalty = random_float(r, -1, 1);
    }
    q->p.min_tokens = random_below(r, 40);
    q->p.n_stop_ids = random_below(r, 8);
    for (uint32_t i = 0; i < q->p.n_stop_ids; i++)
        q->stop[i] = random_below(r, v);
    q->p.n_logit_bias = random_below(r, 4);
    for (uint32_t i = 0; i < q->p.n_logit_bias; i++)
        q->bias[i] = (struct sampling_bias){random_below(r, v), random_float(r, -5, 5)};
    q->n_ids = random_below(r, 60);
    q->prompt_length = q->n_ids > 0 ? random_below(r, q->n_ids) : 0;
    for (uint32_t i = 0; i < q->n_ids; i++)
        q->ids[i] = random_below(r, random_below(r, 2) && v > 20 ? 20 : v);
}

static void test_reference(void **state)
{
    const struct ops *o = *state;
    struct random r = {121};
    static const uint32_t sizes[] = {1, 3, 17, 300, 1000, 5003};
    uint32_t skipped = 0, rounds = 0;
    for (int s = 0; s < 6; s++) {
        uint32_t v = sizes[s];
        float *logits = calloc(v, sizeof *logits);
        double *got = calloc(v, sizeof *got), *expected = calloc(v, sizeof *got);
        struct error err;
        for (uint32_t d = 0; d < o->n; d++)
            assert_int_equal(o->k->sampler_open(o->d[d], 1, v, 512, &err), STATUS_OK);
        for (int round = 0; round < 120; round++, rounds++) {
            struct request q;
            random_request(&r, v, &q);
            float spread = random_float(&r, 0.1f, 4.0f);
            for (uint32_t i = 0; i < v; i++) {
                logits[i] = random_normal(&r) * spread;
                if (round % 3 == 1)
                    logits[i] = rintf(logits[i]);
                if (round % 5 == 4 && random_below(&r, 4) == 0)
                    logits[i] = -INFINITY;
            }
            logits[v / 2] = spread;
            if (v < 8 && q.p.min_tokens > 0)
                q.p.n_stop_ids = 0;
            if (!reference(&q, logits, v, expected)) {
                skipped++;
                continue;
            }
            uint32_t d = (uint32_t)round % o->n;
            begin(o, d, &q);
            assert_true(sample_distribution(o->d[d], 0, logits, got));
            for (uint32_t i = 0; i < v; i++)
                if (!(fabs(got[i] - expected[i]) <= 1e-5 * expected[i] + 1e-9) ||
                    (expected[i] > 1e-30) != (got[i] > 1e-30))
                    fail_msg("vocabulary %u, round %d, %s: id %u has %.9g, expected %.9g", v, round,
                        o->name[d], i, got[i], expected[i]);
        }
        for (uint32_t d = 0; d < o->n; d++)
            cpu_sampler_close(o->d[d]);
        free(logits);
        free(got);
        free(expected);
    }
    print_message("%u of %u requests lay on a border\n", skipped, rounds);
    assert_true(skipped < rounds / 4);
}

// ---- selection ---------------------------------------------------------------------------------

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void test_kth(void **state)
{
    (void)state;
    struct random r = {131};
    enum { N = 30000 };
    float *x = calloc(N, sizeof *x), *sorted = calloc(N, sizeof *x);
    struct sample_work *w = calloc(1, sizeof *w);
    w->key = calloc(N, sizeof *w->key);
    for (int round = 0; round < 60; round++) {
        uint32_t n = round % 3 == 0 ? N : 1 + random_below(&r, N);
        for (uint32_t i = 0; i < n; i++) {
            x[i] = random_normal(&r) * 3;
            if (round % 4 == 1)
                x[i] = rintf(x[i]); // many equal
            if (round % 4 == 2)
                x[i] = (float)i; // the worst order
            if (round % 4 == 3)
                x[i] = random_below(&r, 3) ? -INFINITY : x[i];
            if (round == 8)
                x[i] = -0.0f;
        }
        memcpy(sorted, x, n * sizeof *x);
        qsort(sorted, n, sizeof *x, falling);
        uint32_t k[] = {1, 1 + random_below(&r, 100), 1 + random_below(&r, n), n};
        for (int i = 0; i < 4; i++) {
            k[i] = k[i] < n ? k[i] : n;
            assert_int_equal(sample_kth_key(w, x, n, k[i]), sample_key(sorted[k[i] - 1]));
        }
    }
    free(w->key);
    free(w);
    free(x);
    free(sorted);
}

int main(void)
{
    struct ops o;
    ops_open(&o);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_golden, &o),
        cmocka_unit_test_prestate(test_reference, &o),
        cmocka_unit_test(test_kth),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ops_close(&o);
    return failed;
}
