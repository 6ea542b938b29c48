// SPDX-License-Identifier: Apache-2.0
// Elementwise ops: the canonical functions against libm in double, and every instruction set
// against plain C bit for bit.
#include "kernels/cpu/canon_act.h"
#include "tests/kernels/ops_support.h"

#include <stdlib.h>

static double reference(enum act_kind kind, double x)
{
    switch (kind) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU_ERF:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_RELU:
        return x > 0 ? x : 0;
    default:
        return x > 0 ? x * x : 0;
    }
}

static double relative_error(double got, double expected)
{
    return expected == 0 ? fabs(got) : fabs(got - expected) / fabs(expected);
}

static void test_functions(void **state)
{
    (void)state;
    double worst_exp = 0, worst_tanh = 0, worst_gelu = 0, worst_silu = 0, worst_gelu_tanh = 0;
    for (int i = -400000; i <= 400000; i++) {
        float x = (float)i * 2.5e-5f;
        double d = (double)x;
        worst_exp = fmax(worst_exp, relative_error((double)canon_exp(x), exp(d)));
        worst_tanh = fmax(worst_tanh, relative_error((double)canon_tanh(x), tanh(d)));
        worst_silu =
            fmax(worst_silu, relative_error((double)canon_silu(x), reference(ACT_SILU, d)));
        if (x > -4)
            worst_gelu = fmax(
                worst_gelu, relative_error((double)canon_gelu_erf(x), reference(ACT_GELU_ERF, d)));
        // 1 + tanh cancels in the reference too: compare absolutely.
        worst_gelu_tanh = fmax(worst_gelu_tanh,
            fabs((double)canon_gelu_tanh(x) - reference(ACT_GELU_TANH, d)) / fmax(1, fabs(d)));
    }
    print_message("worst: exp %.2g tanh %.2g silu %.2g gelu %.2g gelu_tanh %.2g\n", worst_exp,
        worst_tanh, worst_silu, worst_gelu, worst_gelu_tanh);
    assert_true(worst_exp < 3e-7);
    assert_true(worst_tanh < 5e-7);
    assert_true(worst_silu < 5e-7);
    assert_true(worst_gelu < 1e-6);
    assert_true(worst_gelu_tanh < 3e-7);
}

static void test_extremes(void **state)
{
    (void)state;
    assert_true(canon_exp(0.0f) == 1.0f);
    assert_true(canon_exp(-100.0f) == 0.0f && isinf(canon_exp(89.0f)));
    assert_true(canon_exp(-INFINITY) == 0.0f);
    assert_true(canon_tanh(50.0f) == 1.0f && canon_tanh(-50.0f) == -1.0f);
    assert_true(canon_tanh(1e-30f) == 1e-30f);
    assert_true(canon_silu(-200.0f) == 0.0f && canon_silu(200.0f) == 200.0f);
    assert_true(canon_gelu_erf(-40.0f) == 0.0f && canon_gelu_erf(40.0f) == 40.0f);
    assert_true(canon_gelu_tanh(-40.0f) == 0.0f && canon_gelu_tanh(40.0f) == 40.0f);
    assert_true(isnan(canon_exp(NAN)) && isnan(canon_tanh(NAN)) && isnan(canon_gelu_erf(NAN)));
    assert_true(isnan(canon_relu(NAN)));
}

// Values of every size, and the borders of the functions' cases.
static void fill(struct random *r, float *x, size_t n)
{
    static const float special[] = {0.0f, -0.0f, 0.55f, -0.55f, 0.54999995f, -87.33654f, 88.72283f,
        88.8f, -87.4f, 1e-40f, -1e-40f, 1e30f, -1e30f, -104.0f, 44.4f, NAN};
    for (size_t i = 0; i < n; i++) {
        x[i] = random_normal(r) * exp2f(random_float(r, -12, 7));
        if (random_below(r, 20) == 0)
            x[i] = special[random_below(r, 16)];
    }
}

static void run_act(const struct ops *o, uint32_t i, struct act_args a, const float *x, float *out)
{
    a.x = x;
    a.out = out;
    o->k->act(o->d[i], &a);
}

static void test_act(void **state)
{
    const struct ops *o = *state;
    struct random r = {1};
    for (int round = 0; round < 60; round++) {
        struct act_args a = {.n_rows = 1 + random_below(&r, 5),
            .dim = 1 + random_below(&r, round % 10 == 0 ? 9000 : 200),
            .gated = round % 2,
            .kind = (enum act_kind)(round / 2 % ACT_COUNT)};
        size_t n = (size_t)a.n_rows * a.dim, n_x = n * (a.gated ? 2 : 1);
        float *x = calloc(n_x, sizeof *x), *expected = calloc(n + 1, sizeof *x);
        float *got = calloc(n + 1, sizeof *x);
        fill(&r, x, n_x);
        run_act(o, 0, a, x, expected);
        for (uint32_t i = 1; i < o->n; i++) {
            got[n] = 7;
            run_act(o, i, a, x, got);
            ops_assert_same("act", o->name[i], expected, got, n);
            assert_true(got[n] == 7);
        }
        for (size_t i = 0; i < n; i++) {
            size_t at = i / a.dim * a.dim * (a.gated ? 2 : 1) + i % a.dim;
            double d = reference(a.kind, (double)x[at]) * (a.gated ? (double)x[at + a.dim] : 1);
            if (isfinite(d) && fabs(d) < 1e30 && !isnan(x[at]) && fabsf(x[at]) < 1e20f)
                assert_true(fabs((double)expected[i] - d) <= 2e-6 * fmax(fabs(d), 1e-3));
        }
        free(x);
        free(expected);
        free(got);
    }
}

static void test_logit_scale(void **state)
{
    const struct ops *o = *state;
    struct random r = {2};
    for (int round = 0; round < 30; round++) {
        uint32_t rows = 1 + random_below(&r, 3), n = 1 + random_below(&r, 9000);
        float scale = round % 3 == 0 ? 1.0f : 0.0625f, cap = round % 2 ? 30.0f : 0.0f;
        size_t count = (size_t)rows * n;
        float *x = random_floats(&r, count, 40), *expected = malloc(count * 4),
              *got = malloc(count * 4);
        for (uint32_t i = 0; i < o->n; i++) {
            float *y = i == 0 ? expected : got;
            memcpy(y, x, count * 4);
            o->k->logit_scale(
                o->d[i], &(struct logit_scale_args){
                             .n_rows = rows, .n = n, .scale = scale, .softcap = cap, .logits = y});
            ops_assert_same("logit_scale", o->name[i], expected, y, count);
        }
        for (size_t i = 0; i < count; i++) {
            double d = (double)x[i] * (double)scale;
            d = cap > 0 ? (double)cap * tanh(d / (double)cap) : d;
            assert_true(fabs((double)expected[i] - d) <= 1e-6 * fabs(d));
        }
        free(x);
        free(expected);
        free(got);
    }
}

int main(void)
{
    struct ops o;
    ops_open(&o);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_functions),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test_prestate(test_act, &o),
        cmocka_unit_test_prestate(test_logit_scale, &o),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ops_close(&o);
    return failed;
}
