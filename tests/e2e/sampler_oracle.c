// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/sampler_oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct filter {
    uint32_t v;
    double *x, *p, *key; // logits, their probabilities, what they are sorted by; each [v]
    uint32_t *order;     // [v]
};

static double number(const json_t *params, const char *name, double otherwise)
{
    const json_t *value = json_object_get(params, name);
    return value ? json_number_value(value) : otherwise;
}

static void softmax(const struct filter *f)
{
    double most = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < f->v; i++)
        most = fmax(most, f->x[i]);
    for (uint32_t i = 0; i < f->v; i++)
        sum += f->p[i] = exp(f->x[i] - most);
    for (uint32_t i = 0; i < f->v; i++)
        f->p[i] /= sum;
}

// Orders ids by rising key, equal ones by rising id: insertion, since v is small.
static void sort(const struct filter *f)
{
    for (uint32_t i = 0; i < f->v; i++) {
        uint32_t at = i;
        for (; at > 0 && f->key[f->order[at - 1]] > f->key[i]; at--)
            f->order[at] = f->order[at - 1];
        f->order[at] = i;
    }
}

static void mask_and_bias(const json_t *params, const struct oracle_history *h, double *x)
{
    const json_t *item;
    const char *key;
    size_t i;
    if (h->n_output < number(params, "min_tokens", 0)) {
        x[(uint32_t)number(params, "eos_token_id", 2)] = -INFINITY;
        json_array_foreach(json_object_get(params, "stop_token_ids"), i, item)
            x[json_integer_value(item)] = -INFINITY;
    }
    json_object_foreach(json_object_get(params, "logit_bias"), key, item)
        x[strtoul(key, NULL, 10)] += json_number_value(item);
}

static void penalize(const json_t *params, const struct oracle_history *h, struct filter *f)
{
    double repetition = number(params, "repetition_penalty", 1);
    double frequency = number(params, "frequency_penalty", 0);
    double presence = number(params, "presence_penalty", 0);
    for (uint32_t id = 0; id < f->v; id++) {
        uint32_t seen = 0, out = 0;
        for (uint32_t i = 0; i < h->n_prompt + h->n_output; i++) {
            seen += h->ids[i] == id;
            out += h->ids[i] == id && i >= h->n_prompt;
        }
        if (seen)
            f->x[id] = f->x[id] > 0 ? f->x[id] / repetition : f->x[id] * repetition;
        f->x[id] -= frequency * out + (out ? presence : 0);
    }
}

static void keep_top_k(struct filter *f, double k)
{
    softmax(f);
    for (uint32_t i = 0; i < f->v; i++)
        f->key[i] = -f->x[i];
    sort(f);
    double least = f->x[f->order[k < f->v ? (uint32_t)k - 1 : f->v - 1]];
    for (uint32_t i = 0; i < f->v; i++)
        if (f->x[i] < least)
            f->x[i] = -INFINITY;
}

static void keep_min_p(struct filter *f, double min_p)
{
    double most = 0;
    softmax(f);
    for (uint32_t i = 0; i < f->v; i++)
        most = fmax(most, f->p[i]);
    for (uint32_t i = 0; i < f->v; i++)
        if (f->p[i] < min_p * most)
            f->x[i] = -INFINITY;
}

static void keep_top_p(struct filter *f, double top_p)
{
    double before = 0;
    softmax(f);
    for (uint32_t i = 0; i < f->v; i++)
        f->key[i] = -f->p[i];
    sort(f);
    for (uint32_t k = 0; k < f->v; k++) {
        uint32_t id = f->order[k];
        if (before >= top_p)
            f->x[id] = -INFINITY;
        before += f->p[id];
    }
}

static void keep_typical(struct filter *f, double typical_p)
{
    double entropy = 0, sum = 0, last = INFINITY;
    softmax(f);
    for (uint32_t i = 0; i < f->v; i++)
        entropy -= f->p[i] > 0 ? f->p[i] * log(f->p[i]) : 0;
    for (uint32_t i = 0; i < f->v; i++)
        f->key[i] = f->p[i] > 0 ? fabs(-log(f->p[i]) - entropy) : INFINITY;
    sort(f);
    for (uint32_t k = 0; k < f->v && last == INFINITY; k++) {
        sum += f->p[f->order[k]];
        if (sum >= typical_p)
            last = f->key[f->order[k]];
    }
    for (uint32_t i = 0; i < f->v; i++)
        if (f->key[i] > last)
            f->x[i] = -INFINITY;
}

static void greedy(const struct filter *f)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < f->v; i++)
        if (f->x[i] > f->x[best])
            best = i;
    memset(f->p, 0, f->v * sizeof *f->p);
    f->p[best] = 1;
}

void sampler_oracle(const json_t *params, const double *logits, uint32_t v,
    const struct oracle_history *h, double nudge, double *probs)
{
    struct filter f = {
        v, calloc(v, sizeof *f.x), probs, calloc(v, sizeof *f.key), calloc(v, sizeof *f.order)};
    assert_true(f.x && f.key && f.order);
    memcpy(f.x, logits, v * sizeof *logits);
    mask_and_bias(params, h, f.x);
    penalize(params, h, &f);
    double temperature = number(params, "temperature", 1);
    if (temperature < 1e-5) {
        greedy(&f);
    } else {
        for (uint32_t i = 0; i < v; i++)
            f.x[i] /= fmax(temperature, 1e-2);
        if (number(params, "min_p", 0) > 0)
            keep_min_p(&f, number(params, "min_p", 0) * (1 + nudge));
        if (number(params, "top_k", 0) > 0)
            keep_top_k(&f, number(params, "top_k", 0));
        if (number(params, "top_p", 1) < 1)
            keep_top_p(&f, number(params, "top_p", 1) * (1 + nudge));
        if (number(params, "typical_p", 1) < 1)
            keep_typical(&f, number(params, "typical_p", 1) * (1 + nudge));
        softmax(&f);
    }
    free(f.x);
    free(f.key);
    free(f.order);
}

uint32_t sampler_oracle_draw(const double *probs, uint32_t v, double u)
{
    double sum = 0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < v; i++) {
        sum += probs[i];
        last = probs[i] > 0 ? i : last;
        if (sum > u)
            return i;
    }
    return last;
}
