// SPDX-License-Identifier: Apache-2.0
// The norm against fp64, every instruction set against plain C, and rows alone against rows in a
// batch.
#include "tests/kernels/ops_support.h"

#include <math.h>
#include <stdlib.h>

struct norm_case {
    struct norm_args a;
    float *x, *x_bias, *residual, *w, *b;
    struct ops_weight weight, bias;
    enum dtype dtype;
};

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

static struct norm_case make(const struct ops *o, struct random *r, int round)
{
    struct norm_case c = {.dtype = dtypes[round % 3]};
    uint32_t rows = 1 + random_below(r, 20), dim = 1 + random_below(r, 300);
    if (round % 7 == 0)
        dim = 16 * (1 + random_below(r, 200));
    c.a = (struct norm_args){.n_rows = rows, .dim = dim, .layer = round % 2, .eps = 1e-5f};
    c.a.weight_offset = round % 5 == 0 ? 1.0f : 0.0f;
    c.a.x_scale = round % 4 == 0 ? 0.37f : 1.0f;
    c.residual = random_floats(r, (size_t)rows * dim, 3);
    c.x = random_floats(r, (size_t)rows * dim, 2);
    c.x_bias = random_floats(r, dim, 1);
    c.w = random_floats(r, dim, 1);
    c.b = random_floats(r, dim, 1);
    c.weight = ops_weight_make(o, c.w, 1, dim, c.dtype);
    c.bias = ops_weight_make(o, c.b, 1, dim, c.dtype);
    c.a.x = round % 3 != 1 ? c.x : NULL;
    c.a.x_bias = c.a.x != NULL && round % 2 ? c.x_bias : NULL;
    c.a.weight = round % 11 != 3 ? c.weight.w : NULL;
    c.a.bias = round % 4 == 1 ? c.bias.w : NULL;
    return c;
}

static void drop(struct norm_case *c)
{
    ops_weight_free(&c->weight);
    ops_weight_free(&c->bias);
    free(c->x);
    free(c->x_bias);
    free(c->residual);
    free(c->w);
    free(c->b);
}

static void reference(const struct norm_case *c, uint32_t row, double *residual, double *out)
{
    const struct norm_args *a = &c->a;
    double mean = 0, square = 0;
    for (uint32_t i = 0; i < a->dim; i++) {
        residual[i] = (double)c->residual[(size_t)row * a->dim + i];
        if (a->x != NULL) {
            double x = (double)((const float *)a->x)[(size_t)row * a->dim + i];
            x += a->x_bias != NULL ? (double)a->x_bias[i] : 0;
            residual[i] += x * (double)a->x_scale;
        }
        mean += residual[i] / a->dim;
    }
    mean = a->layer ? mean : 0;
    for (uint32_t i = 0; i < a->dim; i++)
        square += (residual[i] - mean) * (residual[i] - mean) / a->dim;
    for (uint32_t i = 0; i < a->dim; i++) {
        out[i] = (residual[i] - mean) / sqrt(square + (double)a->eps);
        if (a->weight != NULL)
            out[i] *= (double)a->weight_offset + ops_element(c->weight.data, c->dtype, i);
        if (a->bias != NULL)
            out[i] += ops_element(c->bias.data, c->dtype, i);
    }
}

static void test_norm(void **state)
{
    const struct ops *o = *state;
    struct random r = {11};
    for (int round = 0; round < 120; round++) {
        struct norm_case c = make(o, &r, round);
        uint32_t dim = c.a.dim;
        size_t n = (size_t)c.a.n_rows * dim;
        float *residual[2] = {malloc(n * 4), malloc(n * 4)},
              *out[2] = {malloc(n * 4), malloc(n * 4)};
        for (uint32_t i = 0; i < o->n; i++) {
            uint32_t at = i > 0;
            memcpy(residual[at], c.residual, n * 4);
            c.a.residual = residual[at];
            c.a.out = out[at];
            o->k->norm(o->d[i], &c.a);
            ops_assert_same("norm, residual", o->name[i], residual[0], residual[at], n);
            ops_assert_same("norm", o->name[i], out[0], out[at], n);
        }
        double *expected = malloc(dim * sizeof *expected), *sum = malloc(dim * sizeof *sum);
        for (uint32_t row = 0; row < c.a.n_rows; row++) {
            reference(&c, row, sum, expected);
            ops_assert_near(
                "norm, residual", sum, residual[0] + (size_t)row * dim, dim, 3e-7, 1e-6);
            ops_assert_near("norm", expected, out[0] + (size_t)row * dim, dim, 2e-6, 4e-6);
        }
        // A row alone, on the widest instruction set.
        uint32_t row = random_below(&r, c.a.n_rows);
        struct norm_args one = c.a;
        one.n_rows = 1;
        one.x = c.a.x != NULL ? (const float *)c.a.x + (size_t)row * dim : NULL;
        memcpy(residual[1], c.residual + (size_t)row * dim, dim * 4);
        one.residual = residual[1];
        one.out = NULL;
        if (c.a.x == NULL)
            one.out = residual[1]; // in place is allowed there
        o->k->norm(o->d[o->n - 1], &one);
        ops_assert_same("norm alone", o->name[o->n - 1],
            (c.a.x == NULL ? out[0] : residual[0]) + (size_t)row * dim, residual[1], dim);
        free(expected);
        free(sum);
        for (int i = 0; i < 2; i++) {
            free(residual[i]);
            free(out[i]);
        }
        drop(&c);
    }
}

int main(void)
{
    struct ops o;
    ops_open(&o);
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_norm, &o)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ops_close(&o);
    return failed;
}
