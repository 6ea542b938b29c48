// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/ops_support.h"

#include "base/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

uint32_t random_u32(struct random *r)
{
    r->state = r->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(r->state >> 33) ^ (uint32_t)(r->state >> 21);
}

uint32_t random_below(struct random *r, uint32_t n)
{
    return random_u32(r) % n;
}

float random_float(struct random *r, float low, float high)
{
    return low + (high - low) * (float)(random_u32(r) >> 8) * 0x1.0p-24f;
}

float random_normal(struct random *r)
{
    float u = random_float(r, 1e-7f, 1.0f), v = random_float(r, 0.0f, 6.2831853f);
    return sqrtf(-2.0f * logf(u)) * cosf(v);
}

float *random_floats(struct random *r, size_t n, float scale)
{
    float *x = calloc(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_normal(r) * scale;
    return x;
}

void ops_open(struct ops *o)
{
    static const char *const isa[] = {"plain", "avx2", "avx512"};
    *o = (struct ops){.k = kernels_cpu()};
    for (uint32_t i = 0; i < 3; i++) {
        struct error err;
        struct device_args args = {.n_threads = i == 0 ? 1 : 2, .isa = isa[i]};
        enum status s = o->k->device_open(&args, &o->d[o->n], &err);
        if (s == STATUS_OK)
            o->name[o->n++] = isa[i];
        else
            printf("without %s: %s\n", isa[i], err.text);
    }
    assert_true(o->n > 0);
}

void ops_close(struct ops *o)
{
    for (uint32_t i = 0; i < o->n; i++)
        o->k->device_close(o->d[i]);
}

static void narrow(void *to, enum dtype t, const float *x, size_t n)
{
    uint16_t *h = to;
    if (t == DTYPE_F32)
        memcpy(to, x, n * sizeof *x);
    else
        for (size_t i = 0; i < n; i++)
            h[i] = t == DTYPE_BF16 ? dtype_bf16_from_f32(x[i]) : dtype_f16_from_f32(x[i]);
}

struct ops_weight ops_weight_make(
    const struct ops *o, const float *x, uint32_t n, uint32_t k, enum dtype t)
{
    struct ops_weight w = {.d = o->d[0], .k = o->k};
    size_t count = (size_t)n * k;
    w.data = malloc(count * dtype_bytes(t));
    assert_non_null(w.data);
    narrow(w.data, t, x, count);
    struct weight_source source = {.format = WEIGHT_DENSE,
        .dtype = t,
        .n = n,
        .k = k,
        .n_parts = 1,
        .part = {{.data = w.data, .row_stride_bytes = (uint64_t)k * dtype_bytes(t), .n_rows = n}}};
    struct error err;
    assert_int_equal(o->k->weight_make(o->d[0], &source, &w.w, &err), STATUS_OK);
    return w;
}

void ops_weight_free(struct ops_weight *w)
{
    w->k->weight_free(w->d, w->w);
    free(w->data);
}

double ops_element(const void *row, enum dtype t, size_t i)
{
    if (t == DTYPE_F32)
        return (double)((const float *)row)[i];
    uint16_t h = ((const uint16_t *)row)[i];
    return (double)(t == DTYPE_BF16 ? dtype_f32_from_bf16(h) : dtype_f32_from_f16(h));
}

void ops_assert_same(
    const char *what, const char *isa, const float *expected, const float *got, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t a, b;
        memcpy(&a, &expected[i], 4);
        memcpy(&b, &got[i], 4);
        if (a == b || (isnan(expected[i]) && isnan(got[i])))
            continue;
        fail_msg("%s, %s: element %zu of %zu is %a, expected %a", what, isa, i, n, (double)got[i],
            (double)expected[i]);
    }
}

void ops_assert_near(const char *what, const double *expected, const float *got, size_t n,
    double relative, double absolute)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - expected[i]) <= relative * fabs(expected[i]) + absolute))
            fail_msg("%s: element %zu of %zu is %.9g, expected %.9g", what, i, n, (double)got[i],
                expected[i]);
}
