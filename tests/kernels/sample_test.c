// SPDX-License-Identifier: Apache-2.0
// The sampler's bookkeeping: draws, log-probabilities, histories, failures. Distributions have a
// test of their own (sample_filter_test.c).
#include "kernels/cpu/sample.h"
#include "tests/kernels/ops_support.h"

#include <math.h>
#include <stdlib.h>

enum { V = 60, IDS_MAX = 64 };

static const struct sampling_params NEUTRAL = {
    .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};

static void open_samplers(const struct ops *o, uint32_t slots, uint32_t vocab)
{
    struct error err;
    for (uint32_t i = 0; i < o->n; i++)
        assert_int_equal(o->k->sampler_open(o->d[i], slots, vocab, IDS_MAX, &err), STATUS_OK);
}

static void close_samplers(const struct ops *o)
{
    for (uint32_t i = 0; i < o->n; i++)
        cpu_sampler_close(o->d[i]);
}

static void begin(const struct ops *o, uint32_t slot, struct sampling_params p, const uint32_t *ids,
    uint32_t n_ids, uint32_t prompt_length)
{
    static const uint32_t stop[] = {2, 7};
    for (uint32_t i = 0; i < o->n; i++)
        o->k->sampler_begin(o->d[i], &(struct sampler_begin_args){.slot = slot,
                                         .params = p,
                                         .stop_ids = stop,
                                         .ids = ids,
                                         .n_ids = n_ids,
                                         .prompt_length = prompt_length});
}

static struct sample_result sample_one(
    const struct ops *o, uint32_t d, uint32_t vocab, const float *logits, struct sample_row row)
{
    struct sample_result result;
    o->k->sample(o->d[d],
        &(struct sample_args){
            .n_rows = 1, .vocab_size = vocab, .logits = logits, .row = &row, .result = &result});
    return result;
}

// Pearson's statistic over ids with at least five expected draws. Its mean is the number of cells
// less one, its variance twice that; eight deviations above are a bug.
static void check_draws(const uint32_t *count, const double *p, uint32_t n, uint32_t draws)
{
    double statistic = 0, rest = draws, cells = 0;
    uint32_t rest_count = draws;
    for (uint32_t i = 0; i < n; i++) {
        double expected = p[i] * draws;
        if (p[i] == 0)
            assert_int_equal(count[i], 0);
        if (expected < 5)
            continue;
        statistic += (count[i] - expected) * (count[i] - expected) / expected;
        rest -= expected;
        rest_count -= count[i];
        cells++;
    }
    if (rest >= 5) {
        statistic += (rest_count - rest) * (rest_count - rest) / rest;
        cells++;
    }
    print_message("chi-square %.1f over %g cells\n", statistic, cells);
    assert_true(statistic < cells - 1 + 8 * sqrt(2 * cells));
}

static void test_draws(void **state)
{
    const struct ops *o = *state;
    struct random r = {71};
    open_samplers(o, 1, V);
    for (int round = 0; round < 6; round++) {
        struct sampling_params p = NEUTRAL;
        p.seed = 1234u + (uint64_t)round;
        p.temperature = round == 1 ? 0.6f : 1.0f;
        p.top_k = round == 2 ? 7 : 0;
        p.top_p = round == 3 ? 0.8f : 1.0f;
        p.min_p = round == 4 ? 0.05f : 0.0f;
        p.typical_p = round == 5 ? 0.7f : 1.0f;
        enum { DRAWS = 20000 };
        float *logits = random_floats(&r, V, 1.5f);
        uint32_t count[V] = {0};
        double expected[V];
        begin(o, 0, p, NULL, 0, 0);
        uint32_t d = (uint32_t)round % o->n;
        assert_true(sample_distribution(o->d[d], 0, logits, expected));
        for (uint32_t i = 0; i < DRAWS; i++)
            count[sample_one(o, d, V, logits, (struct sample_row){.position = i}).id]++;
        check_draws(count, expected, V, DRAWS);
        free(logits);
    }
    close_samplers(o);
}

// The draw depends on seed, sample index and position alone, not on company or instruction set.
static void test_batches(void **state)
{
    const struct ops *o = *state;
    enum { ROWS = 40, WIDE = 5000 };
    struct random r = {81};
    open_samplers(o, ROWS, WIDE);
    float *logits = random_floats(&r, (size_t)ROWS * WIDE, 2);
    struct sample_row row[ROWS];
    static struct sample_result batch[OPS_DEVICES][ROWS];
    for (uint32_t i = 0; i < ROWS; i++) {
        struct sampling_params p = NEUTRAL;
        p.seed = i / 4;
        p.sample_index = i % 4;
        p.top_p = i % 3 == 0 ? 0.95f : 1.0f;
        p.top_k = i % 5 == 0 ? 40 : 0;
        p.n_logprobs = i % 7;
        begin(o, i, p, NULL, 0, 0);
        row[i] = (struct sample_row){.slot = i, .position = 1000 + i};
        if (i % 10 == 9)
            row[i] = (struct sample_row){.scored = true, .target = i * 100, .n_logprobs = 3};
    }
    for (uint32_t d = 0; d < o->n; d++) {
        o->k->sample(o->d[d], &(struct sample_args){.n_rows = ROWS,
                                  .vocab_size = WIDE,
                                  .logits = logits,
                                  .row = row,
                                  .result = batch[d]});
        for (uint32_t i = 0; i < ROWS; i++) {
            struct sample_result one = sample_one(o, d, WIDE, logits + (size_t)i * WIDE, row[i]);
            const struct sample_result *all = &batch[d][i], *plain = &batch[0][i];
            assert_false(all->failed);
            assert_int_equal(one.id, all->id);
            assert_int_equal(plain->id, all->id);
            assert_int_equal(plain->rank, all->rank);
            assert_int_equal(plain->n_top, all->n_top);
            ops_assert_same("logprob", o->name[d], &plain->logprob, &all->logprob, 1);
            for (uint32_t j = 0; j < plain->n_top; j++) {
                assert_int_equal(plain->top[j].id, all->top[j].id);
                ops_assert_same("top", o->name[d], &plain->top[j].logprob, &all->top[j].logprob, 1);
            }
            if (row[i].scored)
                assert_int_equal(all->id, row[i].target);
        }
    }
    uint32_t differ = 0;
    for (uint32_t i = 1; i < ROWS; i++)
        differ += batch[0][i].id != batch[0][i - 1].id;
    assert_true(differ > ROWS / 2);
    free(logits);
    close_samplers(o);
}

// Log-probabilities are raw: neither penalties nor temperature touch them. Ties go by smaller id.
static void test_logprobs(void **state)
{
    const struct ops *o = *state;
    struct random r = {91};
    open_samplers(o, 1, V);
    float logits[V];
    for (int round = 0; round < 40; round++) {
        double total = 0;
        for (uint32_t i = 0; i < V; i++) {
            logits[i] = round % 2 ? random_normal(&r) * 3 : (float)random_below(&r, 6);
            if (round % 4 == 3 && i % 3 == 0)
                logits[i] = -INFINITY;
            total += exp((double)logits[i]);
        }
        struct sampling_params p = NEUTRAL;
        p.temperature = 0.3f;
        p.repetition_penalty = 1.7f;
        p.n_logprobs = (uint32_t)round % 10 == 0 ? 100 : (uint32_t)round % 6;
        uint32_t prompt[] = {1, 2, 3, 4, 5};
        begin(o, 0, p, prompt, 5, 5);
        struct sample_result got = sample_one(
            o, (uint32_t)round % o->n, V, logits, (struct sample_row){.position = (uint32_t)round});
        uint32_t rank = 1, finite = 0;
        for (uint32_t i = 0; i < V; i++) {
            rank += logits[i] > logits[got.id];
            finite += logits[i] > -INFINITY;
        }
        assert_int_equal(got.rank, rank);
        assert_true(fabs((double)got.logprob - ((double)logits[got.id] - log(total))) < 2e-6);
        assert_int_equal(got.n_top, p.n_logprobs < finite ? p.n_logprobs : finite);
        for (uint32_t i = 0; i < got.n_top; i++) {
            uint32_t id = got.top[i].id, ahead = 0;
            for (uint32_t j = 0; j < V; j++)
                ahead += logits[j] > logits[id] || (logits[j] == logits[id] && j < id);
            assert_int_equal(ahead, i);
            assert_true(
                fabs((double)got.top[i].logprob - ((double)logits[id] - log(total))) < 2e-6);
        }
    }
    close_samplers(o);
}

static void test_greedy_ties(void **state)
{
    const struct ops *o = *state;
    open_samplers(o, 1, V);
    struct sampling_params p = NEUTRAL;
    p.temperature = 0;
    begin(o, 0, p, NULL, 0, 0);
    float logits[V] = {0};
    logits[17] = logits[33] = logits[59] = 2.5f;
    for (uint32_t d = 0; d < o->n; d++)
        assert_int_equal(sample_one(o, d, V, logits, (struct sample_row){.position = 3}).id, 17);
    logits[0] = -0.0f;
    for (int i = 1; i < V; i++)
        logits[i] = i == 5 ? 0.0f : -1.0f;
    for (uint32_t d = 0; d < o->n; d++)
        assert_int_equal(sample_one(o, d, V, logits, (struct sample_row){.position = 3}).id, 0);
    close_samplers(o);
}

// Failed rows leave their slot as it was, and the other rows go on.
static void test_failures(void **state)
{
    const struct ops *o = *state;
    open_samplers(o, 5, V);
    struct sampling_params p = NEUTRAL;
    p.temperature = 0;
    p.presence_penalty = 1.0f;
    for (uint32_t d = 0; d < o->n; d++) {
        static float logits[5][V];
        struct sample_result result[5];
        struct sample_row row[5];
        for (uint32_t i = 0; i < 5; i++) {
            begin(o, i, p, NULL, 0, 0);
            row[i] = (struct sample_row){.slot = i};
            for (int j = 0; j < V; j++)
                logits[i][j] = i == 2 ? -INFINITY : j == 9 ? 0.5f : 0.0f;
        }
        logits[1][V - 1] = NAN;
        logits[3][40] = INFINITY;
        o->k->sample(o->d[d],
            &(struct sample_args){
                .n_rows = 5, .vocab_size = V, .logits = logits[0], .row = row, .result = result});
        for (int i = 0; i < 5; i++)
            assert_true(result[i].failed == (i >= 1 && i <= 3));
        assert_int_equal(result[0].id, 9);
        assert_int_equal(result[4].id, 9);
        // Slot 1 has put nothing out, so no penalty: 9 again. Slot 0 has.
        assert_int_equal(sample_one(o, d, V, logits[4], (struct sample_row){.slot = 1}).id, 9);
        assert_int_equal(sample_one(o, d, V, logits[4], (struct sample_row){.slot = 0}).id, 0);
    }
    // Everything masked by min_tokens.
    p = NEUTRAL;
    p.min_tokens = 1;
    p.n_stop_ids = 2;
    begin(o, 0, p, NULL, 0, 0);
    float logits[V];
    for (int j = 0; j < V; j++)
        logits[j] = j == 2 || j == 7 ? 0.0f : -INFINITY;
    assert_true(sample_one(o, 0, V, logits, (struct sample_row){.slot = 0}).failed);
    close_samplers(o);
}

// One NaN anywhere fails a row.
static void test_nan_anywhere(void **state)
{
    const struct ops *o = *state;
    enum { WIDE = 83 };
    open_samplers(o, 1, WIDE);
    begin(o, 0, NEUTRAL, NULL, 0, 0);
    for (uint32_t d = 0; d < o->n; d++)
        for (uint32_t i = 0; i < WIDE; i++) {
            float logits[WIDE] = {[3] = 1.0f};
            logits[i] = i % 2 ? NAN : -NAN;
            assert_true(sample_one(o, d, WIDE, logits, (struct sample_row){.slot = 0}).failed);
        }
    close_samplers(o);
}

// What is sampled counts as output at once: going on is the same as beginning again with it.
static void test_history(void **state)
{
    const struct ops *o = *state;
    struct random r = {101};
    open_samplers(o, 2, V);
    for (uint32_t round = 0; round < 20; round++) {
        uint32_t d = round % o->n, ids[40], n = 5 + random_below(&r, 8), prompt = n - 2;
        struct sampling_params p = NEUTRAL;
        p.seed = round;
        p.repetition_penalty = 1.3f;
        p.frequency_penalty = 0.5f;
        p.presence_penalty = round % 2 ? 0.2f : 0.0f;
        p.min_tokens = 12;
        p.n_stop_ids = 2;
        for (uint32_t i = 0; i < n; i++)
            ids[i] = random_below(&r, 12);
        begin(o, 0, p, ids, n, prompt);
        for (uint32_t i = 0; i < 20; i++) {
            float logits[V];
            double a[V], b[V];
            for (uint32_t j = 0; j < V; j++)
                logits[j] = random_normal(&r) + (j < 12 ? 2.0f : 0.0f);
            begin(o, 1, p, ids, n, prompt);
            assert_true(sample_distribution(o->d[d], 0, logits, a));
            assert_true(sample_distribution(o->d[d], 1, logits, b));
            assert_memory_equal(a, b, sizeof a);
            assert_true((a[2] == 0) == (n - prompt < 12));
            ids[n] = sample_one(o, d, V, logits, (struct sample_row){.position = n}).id;
            n++;
        }
    }
    // Two rows of one slot in one call: the second sees the first.
    struct sampling_params p = NEUTRAL;
    p.temperature = 0;
    p.frequency_penalty = 1.5f;
    begin(o, 0, p, NULL, 0, 0);
    float logits[2][V] = {{[4] = 2.0f, [8] = 1.0f}, {[4] = 2.0f, [8] = 1.0f}};
    struct sample_row row[2] = {{.slot = 0}, {.slot = 0, .position = 1}};
    struct sample_result result[2];
    o->k->sample(o->d[o->n - 1],
        &(struct sample_args){
            .n_rows = 2, .vocab_size = V, .logits = logits[0], .row = row, .result = result});
    assert_int_equal(result[0].id, 4);
    assert_int_equal(result[1].id, 8);
    close_samplers(o);
}

// A slot's table survives being filled to its limit and used again.
static void test_counts(void **state)
{
    (void)state;
    struct random r = {111};
    for (uint32_t capacity = 1; capacity < 400; capacity = capacity * 3 + 1) {
        struct sample_counts c;
        void *memory = calloc(1, sample_counts_bytes(capacity));
        sample_counts_init(&c, memory, capacity);
        for (int round = 0; round < 3; round++) {
            uint32_t *count = calloc(capacity, sizeof *count);
            sample_counts_clear(&c);
            for (uint32_t i = 0; i < 4 * capacity; i++) {
                uint32_t at = random_below(&r, capacity);
                bool output = random_below(&r, 2);
                sample_counts_add(&c, at * 1000003u, output);
                count[at] += output;
            }
            for (uint32_t i = 0; i < c.n; i++) {
                uint32_t at = 0;
                while (at * 1000003u != c.list[i].id)
                    at++;
                assert_int_equal(c.list[i].n_output, count[at]);
            }
            free(count);
        }
        free(memory);
    }
}

int main(void)
{
    struct ops o;
    ops_open(&o);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_draws, &o),
        cmocka_unit_test_prestate(test_batches, &o),
        cmocka_unit_test_prestate(test_logprobs, &o),
        cmocka_unit_test_prestate(test_greedy_ties, &o),
        cmocka_unit_test_prestate(test_failures, &o),
        cmocka_unit_test_prestate(test_nan_anywhere, &o),
        cmocka_unit_test_prestate(test_history, &o),
        cmocka_unit_test(test_counts),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ops_close(&o);
    return failed;
}
