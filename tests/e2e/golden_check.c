// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/golden_check.h"

#include "model/arch.h"
#include "model/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double logprob_of(const json_t *o)
{
    json_t *value = json_object_get(o, "logprob");
    assert_true(json_is_real(value));
    return json_real_value(value);
}

static uint32_t id_of(const json_t *o)
{
    json_t *value = json_object_get(o, "id");
    assert_true(json_is_integer(value));
    return (uint32_t)json_integer_value(value);
}

// Five alternatives, in falling order.
static void check_tops(struct golden_worst *w, const struct golden *g,
    const struct golden_prompt *p, uint32_t step, const json_t *line)
{
    const json_t *tops = json_object_get(line, "top_logprobs"), *top;
    const double *row = step == 0 ? golden_row(g, p, p->n_ids - 1) : NULL;
    size_t k;
    double above = 0;
    assert_int_equal(json_array_size(tops), GOLDEN_TOPS);
    json_array_foreach(tops, k, top)
    {
        assert_true(logprob_of(top) <= above);
        above = logprob_of(top);
        if (row)
            golden_compare(w, logprob_of(top), row[id_of(top)]);
        // Given to five digits; tops that nearly tie may come in another order.
        for (size_t i = 0; p->top && i < GOLDEN_TOPS; i++)
            if (p->top[step][i].id == id_of(top))
                golden_compare(w, logprob_of(top), (double)p->top[step][i].logprob);
    }
}

static void check_generate(struct golden_worst *w, const struct cluster *c, const struct golden *g,
    const struct golden_prompt *p)
{
    static struct answer a;
    struct command m;
    char n[16];
    snprintf(n, sizeof n, "%u", p->n_greedy);
    cluster_run(c, &m,
        (const char *const[]){"generate", "--tokens", cluster_answer_ids(p->ids, p->n_ids),
            "--max-tokens", n, "--temperature", "0", "--logprobs", "5", "--ignore-eos", "--output",
            "jsonl", NULL});
    cluster_answer(&m, 0, &a);
    assert_int_equal(a.n, p->n_greedy);
    assert_int_equal(a.prompt_tokens, p->n_ids);
    assert_string_equal(a.reason, "length");
    for (uint32_t i = 0; i < a.n; i++) {
        if (a.ids[i] != p->greedy[i])
            fail_msg("%s: greedy id %u is %u, expected %u", g->dir, i, a.ids[i], p->greedy[i]);
        if (p->greedy_logprob)
            golden_compare(w, (double)a.logprobs[i], p->greedy_logprob[i]);
        check_tops(w, g, p, i, json_array_get(m.lines, i));
    }
    command_free(&m);
}

static void check_score(struct golden_worst *w, const struct cluster *c, const struct golden *g,
    const struct golden_prompt *p)
{
    struct command m;
    cluster_run(c, &m,
        (const char *const[]){
            "score", "--tokens", cluster_answer_ids(p->ids, p->n_ids), "--output", "jsonl", NULL});
    if (m.code != 0)
        print_error("%s", m.err);
    assert_int_equal(m.code, 0);
    assert_non_null(m.lines);
    assert_int_equal(json_array_size(m.lines), p->n_ids);
    for (uint32_t i = 0; i < p->n_ids; i++) {
        const json_t *line = json_array_get(m.lines, i);
        assert_int_equal(id_of(line), p->ids[i]);
        if (i == 0) {
            assert_true(json_is_null(json_object_get(line, "logprob")));
            continue;
        }
        const double *row = golden_row(g, p, i - 1);
        double got = logprob_of(line);
        if (row)
            golden_compare(w, got, row[p->ids[i]]);
        if (p->nll)
            golden_compare(w, got, -p->nll[i - 1]);
    }
    command_free(&m);
}

void golden_check(const char *dir, const struct golden *g, const char *degree)
{
    struct cluster c;
    struct golden_worst w = {0};
    char length[16];
    snprintf(length, sizeof length, "%u", g->max_model_len);
    cluster_start(&c, dir,
        (const char *const[]){"--tensor-parallel-degree", degree, "--max-model-len", length,
            "--kv-cache-memory", "64M", NULL});
    for (uint32_t k = 0; k < g->n_prompts; k++) {
        check_generate(&w, &c, g, &g->prompt[k]);
        check_score(&w, &c, g, &g->prompt[k]);
    }
    cluster_stop(&c);
    print_message("%-28s degree %s: %5u log-probabilities, worst %.1e\n", strrchr(dir, '/') + 1,
        degree, w.n, w.error);
    assert_true(w.n > 50);
    assert_true(w.error <= 1e-3);
}

uint32_t golden_degrees(const char *dir, uint32_t out[8])
{
    struct model_config *m = calloc(1, sizeof *m);
    uint32_t n = 0;
    assert_non_null(m);
    if (arch_read(dir, m, NULL, NULL) == STATUS_OK)
        for (uint32_t degree = 1; degree <= 8; degree++)
            if (shard_check(m, degree, NULL) == STATUS_OK)
                out[n++] = degree;
    free(m);
    return n;
}
