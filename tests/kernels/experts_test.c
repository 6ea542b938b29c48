// SPDX-License-Identifier: Apache-2.0
// experts against fp64 over random shapes; the same bits for a row alone and among others, and on
// every instruction set; ranks with slices of experts, or with some of them, add up to the whole.
#include "base/philox.h"
#include "kernels/cpu/cpuid.h"
#include "kernels/kernels.h"
#include "tests/test_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 9, EXPERTS_MAX = 8, HIDDEN_MAX = 48, FFN_MAX = 40, CASES = 60 };

static uint64_t state;

static uint32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static float number(void)
{
    return (float)((int32_t)below(2001) - 1000) / 1000;
}

// A matrix of numbers and its handle.
struct matrix {
    uint32_t n, k;
    float *v;
    struct weight *w;
};

struct model {
    const struct kernels *k;
    struct device *d;
    uint32_t hidden, ffn, shared_ffn, n_experts, n_used;
    bool gated, renormalize;
    enum act_kind kind;
    struct matrix router, in[EXPERTS_MAX], down[EXPERTS_MAX], shared_in, shared_down, shared_gate;
};

static struct matrix matrix_of(const struct model *m, uint32_t n, uint32_t k)
{
    struct matrix a = {.n = n, .k = k, .v = malloc(sizeof(float) * n * k)};
    struct error err;
    assert_non_null(a.v);
    for (uint32_t i = 0; i < n * k; i++)
        a.v[i] = number();
    struct weight_source s = {.format = WEIGHT_DENSE, .dtype = DTYPE_F32, .n = n, .k = k};
    s.n_parts = 1;
    s.part[0] = (struct weight_part){a.v, (uint64_t)k * sizeof(float), n};
    assert_int_equal(m->k->weight_make(m->d, &s, &a.w, &err), STATUS_OK);
    return a;
}

static void matrix_free(const struct model *m, struct matrix *a)
{
    m->k->weight_free(m->d, a->w);
    free(a->v);
}

static void model_begin(struct model *m, const char *isa)
{
    struct device_args args = {.n_threads = 2, .isa = isa, .activation = DTYPE_F32};
    struct error err;
    m->k = kernels_cpu();
    assert_int_equal(m->k->device_open(&args, &m->d, &err), STATUS_OK);
    m->hidden = 1 + below(HIDDEN_MAX);
    m->ffn = 1 + below(FFN_MAX);
    m->shared_ffn = below(2) ? 1 + below(FFN_MAX) : 0;
    m->n_experts = 1 + below(EXPERTS_MAX);
    m->n_used = 1 + below(m->n_experts);
    m->gated = below(4) > 0;
    m->renormalize = below(2);
    m->kind = below(ACT_COUNT);
    uint32_t width = m->gated ? 2 : 1;
    m->router = matrix_of(m, m->n_experts, m->hidden);
    for (uint32_t e = 0; e < m->n_experts; e++) {
        m->in[e] = matrix_of(m, width * m->ffn, m->hidden);
        m->down[e] = matrix_of(m, m->hidden, m->ffn);
    }
    m->shared_in = matrix_of(m, width * (m->shared_ffn + 1), m->hidden);
    if (m->shared_ffn) {
        matrix_free(m, &m->shared_in);
        m->shared_in = matrix_of(m, width * m->shared_ffn, m->hidden);
    }
    m->shared_down = matrix_of(m, m->hidden, m->shared_ffn + !m->shared_ffn);
    m->shared_gate = matrix_of(m, 1, m->hidden);
}

static void model_end(struct model *m)
{
    matrix_free(m, &m->router);
    for (uint32_t e = 0; e < m->n_experts; e++) {
        matrix_free(m, &m->in[e]);
        matrix_free(m, &m->down[e]);
    }
    matrix_free(m, &m->shared_in);
    matrix_free(m, &m->shared_down);
    matrix_free(m, &m->shared_gate);
    m->k->device_close(m->d);
}

// ---- the oracle --------------------------------------------------------------------------------

static double act_of(enum act_kind kind, double x)
{
    switch (kind) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    case ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_RELU:
        return x > 0 ? x : 0;
    default:
        return x > 0 ? x * x : 0;
    }
}

static double dot(const float *w, const double *x, uint32_t k)
{
    double sum = 0;
    for (uint32_t i = 0; i < k; i++)
        sum += (double)w[i] * x[i];
    return sum;
}

static void add_mlp(const struct model *m, const struct matrix *in, const struct matrix *down,
    uint32_t ffn, double factor, const double *x, double *out)
{
    double mid[FFN_MAX + 1];
    for (uint32_t i = 0; i < ffn; i++) {
        mid[i] = act_of(m->kind, dot(in->v + (size_t)i * m->hidden, x, m->hidden));
        if (m->gated)
            mid[i] *= dot(in->v + (size_t)(ffn + i) * m->hidden, x, m->hidden);
    }
    for (uint32_t i = 0; i < m->hidden; i++)
        out[i] += factor * dot(down->v + (size_t)i * ffn, mid, ffn);
}

static void oracle_row(const struct model *m, const float *row, double *out)
{
    double x[HIDDEN_MAX], p[EXPERTS_MAX], sum = 0, kept = 0;
    bool chosen[EXPERTS_MAX] = {false};
    for (uint32_t i = 0; i < m->hidden; i++)
        x[i] = row[i];
    memset(out, 0, sizeof *out * m->hidden);
    for (uint32_t e = 0; e < m->n_experts; e++)
        sum += p[e] = exp(dot(m->router.v + (size_t)e * m->hidden, x, m->hidden));
    for (uint32_t i = 0; i < m->n_used; i++) {
        uint32_t best = m->n_experts;
        for (uint32_t e = 0; e < m->n_experts; e++)
            if (!chosen[e] && (best == m->n_experts || p[e] > p[best]))
                best = e;
        chosen[best] = true;
        kept += p[best];
    }
    for (uint32_t e = 0; e < m->n_experts; e++)
        if (chosen[e])
            add_mlp(
                m, &m->in[e], &m->down[e], m->ffn, p[e] / (m->renormalize ? kept : sum), x, out);
    if (m->shared_ffn)
        add_mlp(m, &m->shared_in, &m->shared_down, m->shared_ffn,
            1 / (1 + exp(-dot(m->shared_gate.v, x, m->hidden))), x, out);
}

// ---- the op ------------------------------------------------------------------------------------

struct room {
    float x[ROWS_MAX * HIDDEN_MAX], out[ROWS_MAX * HIDDEN_MAX], part[ROWS_MAX * HIDDEN_MAX];
    float mlp_in[2 * ROWS_MAX * FFN_MAX], mlp[ROWS_MAX * FFN_MAX];
    float routes[ROWS_MAX * (4 * EXPERTS_MAX + 3) + EXPERTS_MAX];
};

// Experts begin .. begin + count - 1; the shared one with the first of them.
static void run(const struct model *m, struct room *r, const uint32_t *row_ids, uint32_t n_rows,
    uint32_t begin, uint32_t count)
{
    struct weight *in[EXPERTS_MAX], *down[EXPERTS_MAX];
    for (uint32_t e = 0; e < count; e++) {
        in[e] = m->in[begin + e].w;
        down[e] = m->down[begin + e].w;
    }
    struct experts_args a = {.n_rows = n_rows,
        .hidden_dim = m->hidden,
        .x = r->x,
        .row_ids = row_ids,
        .router = m->router.w,
        .n_experts = m->n_experts,
        .n_used = m->n_used,
        .renormalize = m->renormalize,
        .gated = m->gated,
        .kind = m->kind,
        .begin = begin,
        .count = count,
        .ffn = m->ffn,
        .shared_ffn = begin == 0 ? m->shared_ffn : 0,
        .in = in,
        .down = down,
        .shared_in = m->shared_in.w,
        .shared_down = m->shared_down.w,
        .shared_gate = m->shared_gate.w,
        .mlp_in = r->mlp_in,
        .mlp = r->mlp,
        .part = r->part,
        .routes = r->routes,
        .out = r->out};
    assert_true(kernels_experts_bytes(n_rows, m->n_experts, m->n_used) <= sizeof r->routes);
    memset(r->out, 0xff, sizeof r->out); // NaN where nobody wrote
    memset(r->routes, 0xff, sizeof r->routes);
    m->k->experts(m->d, &a);
}

static void check_row(const struct model *m, const float *x, const float *got)
{
    double want[HIDDEN_MAX];
    oracle_row(m, x, want);
    for (uint32_t i = 0; i < m->hidden; i++)
        if (!(fabs(want[i] - (double)got[i]) <= 1e-4 * (1 + fabs(want[i]))))
            fail_msg("state %llx: column %u is %g, expected %g", (unsigned long long)state, i,
                (double)got[i], want[i]);
}

static void check_case(const char *isa, uint64_t seed, float *bits)
{
    static struct room r, one;
    struct model m;
    state = seed;
    model_begin(&m, isa);
    uint32_t n = 1 + below(ROWS_MAX), ids[ROWS_MAX];
    for (uint32_t i = 0; i < ROWS_MAX * m.hidden; i++)
        r.x[i] = number();
    for (uint32_t i = 0; i < n; i++)
        ids[i] = below(ROWS_MAX);
    run(&m, &r, ids, n, 0, m.n_experts);
    for (uint32_t i = 0; i < n; i++) {
        check_row(&m, r.x + ids[i] * m.hidden, r.out + i * m.hidden);
        memcpy(one.x, r.x, sizeof one.x);
        run(&m, &one, &ids[i], 1, 0, m.n_experts);
        assert_memory_equal(one.out, r.out + i * m.hidden, m.hidden * sizeof(float));
    }
    memcpy(bits, r.out, sizeof r.out);
    // Two ranks, the second with the rest of the experts.
    uint32_t first = m.n_experts / 2;
    run(&m, &r, ids, n, first, m.n_experts - first);
    memcpy(&one, &r, sizeof one);
    if (first > 0)
        run(&m, &r, ids, n, 0, first);
    for (uint32_t i = 0; i < n * m.hidden && first > 0; i++)
        one.out[i] += r.out[i];
    for (uint32_t i = 0; i < n; i++)
        check_row(&m, r.x + ids[i] * m.hidden, one.out + i * m.hidden);
    model_end(&m);
}

static void test_random(void **unused)
{
    (void)unused;
    static const char *const isas[] = {"plain", "avx2", "avx512"};
    static float bits[2][ROWS_MAX * HIDDEN_MAX];
    for (uint64_t seed = 1; seed <= CASES; seed++)
        for (int i = 0; i <= (int)cpuid_best(); i++) {
            check_case(isas[i], seed, bits[i > 0]);
            assert_memory_equal(bits[0], bits[i > 0], sizeof bits[0]);
        }
}

// Of equal logits the smaller experts are taken; NaN is not a crash.
static void test_ties_and_nan(void **unused)
{
    (void)unused;
    static struct room r, one;
    struct model m;
    state = 7;
    do {
        model_begin(&m, "auto");
        if (m.n_experts > 3 && m.n_used == 2)
            break;
        model_end(&m);
    } while (true);
    for (uint32_t i = 0; i < m.hidden; i++)
        r.x[i] = one.x[i] = 0;
    // All logits and all products are zero: the choice shows in `routes`.
    run(&m, &r, NULL, 1, 0, m.n_experts);
    const uint32_t *expert = (const uint32_t *)(const void *)r.routes;
    assert_int_equal(expert[0], 0);
    assert_int_equal(expert[1], 1);
    for (uint32_t i = 0; i < m.hidden; i++)
        one.x[i] = NAN;
    run(&m, &one, NULL, 1, 0, m.n_experts);
    assert_true(isnan(one.out[0]));
    model_end(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random), cmocka_unit_test(test_ties_and_nan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
