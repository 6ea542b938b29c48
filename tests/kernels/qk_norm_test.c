// SPDX-License-Identifier: Apache-2.0
// Norms of queries and keys and the clipping before them, against fp64, on every instruction set;
// and a norm over all heads in two halves, as two ranks compute it.
#include "tests/kernels/ops_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { Q, K, Q_BIAS, K_BIAS, VECTORS };

struct qk_case {
    struct qk_norm_args a;
    float *qkv;
    struct ops_weight w[VECTORS];
    bool each; // head has weights of its own
    enum dtype dtype;
    size_t stride;
};

static struct ops_weight vector(const struct ops *o, struct random *r, uint32_t n, enum dtype t)
{
    float *x = random_floats(r, n, 1);
    struct ops_weight w = ops_weight_make(o, x, 1, n, t);
    free(x);
    return w;
}

static struct qk_case make(const struct ops *o, struct random *r, int round, bool full)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    struct qk_case c = {.dtype = dtypes[round % 3], .each = full || round % 2};
    uint32_t dim = 8 + random_below(r, 70);
    c.a = (struct qk_norm_args){.n_rows = 1 + random_below(r, 11),
        .n_kv_heads = 2 * (1 + random_below(r, 2)),
        .head_dim = dim,
        .eps = 1e-5f,
        .weight_offset = round % 5 == 0 ? 1.0f : 0.0f};
    c.a.n_heads = c.a.n_kv_heads * (1 + random_below(r, 3));
    c.stride = (size_t)(c.a.n_heads + 2 * c.a.n_kv_heads) * dim;
    c.qkv = random_floats(r, c.a.n_rows * c.stride, 2);
    for (int i = 0; i < VECTORS; i++) {
        uint32_t heads = i % 2 ? c.a.n_kv_heads : c.a.n_heads;
        c.w[i] = vector(o, r, c.each ? heads * dim : dim, c.dtype);
    }
    c.a.q_norm = c.w[Q].w;
    c.a.k_norm = c.w[K].w;
    c.a.q_bias = !full && round % 4 < 2 ? c.w[Q_BIAS].w : NULL;
    c.a.k_bias = !full && round % 4 < 2 ? c.w[K_BIAS].w : NULL;
    return c;
}

static void drop(struct qk_case *c)
{
    for (int i = 0; i < VECTORS; i++)
        ops_weight_free(&c->w[i]);
    free(c->qkv);
}

static void norm(double *x, uint32_t n, bool layer, double eps)
{
    double mean = 0, square = 0;
    for (uint32_t i = 0; layer && i < n; i++)
        mean += x[i] / n;
    for (uint32_t i = 0; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean) / n;
    for (uint32_t i = 0; i < n; i++)
        x[i] = (x[i] - mean) / sqrt(square + eps);
}

// Heads of q or k of a row in fp64; `full` norms them together.
static void reference(const struct qk_case *c, int part, bool full, const float *from, double *x)
{
    uint32_t heads = part == K ? c->a.n_kv_heads : c->a.n_heads, dim = c->a.head_dim;
    for (uint32_t i = 0; i < heads * dim; i++)
        x[i] = (double)from[i];
    if (full)
        norm(x, heads * dim, false, (double)c->a.eps);
    for (uint32_t h = 0; !full && h < heads; h++)
        norm(x + h * dim, dim, true, (double)c->a.eps);
    for (uint32_t i = 0; i < heads * dim; i++) {
        size_t at = c->each ? i : i % dim;
        x[i] *= (double)c->a.weight_offset + ops_element(c->w[part].data, c->dtype, at);
        if (c->a.q_bias != NULL)
            x[i] += ops_element(c->w[Q_BIAS + part].data, c->dtype, at);
    }
}

static void expect(const struct qk_case *c, bool full, const float *got)
{
    uint32_t q = c->a.n_heads * c->a.head_dim, k = c->a.n_kv_heads * c->a.head_dim;
    double *x = malloc(q * sizeof *x);
    for (uint32_t r = 0; r < c->a.n_rows; r++) {
        size_t at = r * c->stride;
        reference(c, Q, full, c->qkv + at, x);
        ops_assert_near("q", x, got + at, q, 4e-6, 1e-5);
        reference(c, K, full, c->qkv + at + q, x);
        ops_assert_near("k", x, got + at + q, k, 4e-6, 1e-5);
        ops_assert_same("v", "plain", c->qkv + at + q + k, got + at + q + k, k);
    }
    free(x);
}

static void test_heads(void **state)
{
    const struct ops *o = *state;
    struct random r = {21};
    for (int round = 0; round < 60; round++) {
        struct qk_case c = make(o, &r, round, false);
        size_t n = c.a.n_rows * c.stride;
        float *got[2] = {malloc(n * 4), malloc(n * 4)};
        for (uint32_t i = 0; i < o->n; i++) {
            memcpy(got[i > 0], c.qkv, n * 4);
            c.a.qkv = got[i > 0];
            o->k->qk_norm(o->d[i], &c.a);
            ops_assert_same("qk_norm", o->name[i], got[0], got[i > 0], n);
        }
        expect(&c, false, got[0]);
        free(got[0]);
        free(got[1]);
        drop(&c);
    }
}

static void test_all_heads(void **state)
{
    const struct ops *o = *state;
    struct random r = {22};
    for (int round = 0; round < 60; round++) {
        struct qk_case c = make(o, &r, round, true);
        size_t n = c.a.n_rows * c.stride;
        float *got[2] = {malloc(n * 4), malloc(n * 4)};
        float *squares = malloc(c.a.n_rows * 2 * sizeof *squares);
        c.a.squares = squares;
        c.a.q_mean = 1 / (float)(c.a.n_heads * c.a.head_dim);
        c.a.k_mean = 1 / (float)(c.a.n_kv_heads * c.a.head_dim);
        for (uint32_t i = 0; i < o->n; i++) {
            memcpy(got[i > 0], c.qkv, n * 4);
            c.a.qkv = got[i > 0];
            c.a.sum_only = true;
            o->k->qk_norm(o->d[i], &c.a);
            ops_assert_same("sums only", o->name[i], c.qkv, got[i > 0], n);
            // Half of the sum, and a mean twice as large: as if another rank had the rest.
            for (uint32_t k = 0; k < 2 * c.a.n_rows; k++)
                squares[k] *= i % 2 ? 0.5f : 1.0f;
            struct qk_norm_args a = c.a;
            a.sum_only = false;
            a.q_mean *= i % 2 ? 2 : 1;
            a.k_mean *= i % 2 ? 2 : 1;
            o->k->qk_norm(o->d[i], &a);
            ops_assert_same("qk_norm", o->name[i], got[0], got[i > 0], n);
        }
        expect(&c, true, got[0]);
        free(got[0]);
        free(got[1]);
        free(squares);
        drop(&c);
    }
}

static void test_clip(void **state)
{
    const struct ops *o = *state;
    struct random r = {23};
    for (int round = 0; round < 20; round++) {
        uint32_t rows = 1 + random_below(&r, 9), dim = 1 + random_below(&r, 100);
        float *x = random_floats(&r, (size_t)rows * dim, 2), *got = malloc((size_t)rows * dim * 4);
        x[0] = NAN;
        x[rows * dim - 1] = -INFINITY;
        for (uint32_t i = 0; i < o->n; i++) {
            memcpy(got, x, (size_t)rows * dim * 4);
            struct clip_args a = {.n_rows = rows, .dim = dim, .limit = 1.25f, .x = got};
            o->k->clip(o->d[i], &a);
            for (uint32_t k = 0; k < rows * dim; k++)
                assert_true(
                    isnan(x[k]) ? isnan(got[k]) : got[k] == fmaxf(-1.25f, fminf(1.25f, x[k])));
        }
        free(x);
        free(got);
    }
}

int main(void)
{
    struct ops o;
    ops_open(&o);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_heads, &o),
        cmocka_unit_test_prestate(test_all_heads, &o),
        cmocka_unit_test_prestate(test_clip, &o),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ops_close(&o);
    return failed;
}
