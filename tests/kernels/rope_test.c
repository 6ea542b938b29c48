// SPDX-License-Identifier: Apache-2.0
// rope_kv against fp64, every instruction set against plain C, rows alone against rows in a batch,
// and the canonical sine and cosine against the C library.
#include "kernels/cpu/canon_act.h"
#include "tests/kernels/ops_support.h"

#include <stdlib.h>

enum { SEQS = 3, PAGES = 64, ROWS_MAX = 64 };

static void test_sincos(void **state)
{
    (void)state;
    struct random r = {51};
    double worst = 0;
    for (int i = 0; i < 300000; i++) {
        // Angles up to a million positions; the C library's double functions are the oracle.
        float x = random_float(&r, -1, 1) * exp2f(random_float(&r, -10, 20)), s, c;
        canon_sincos(x, &s, &c);
        double es = sin((double)x), ec = cos((double)x);
        worst = fmax(worst, fabs((double)s - es) / fmax(fabs(es), 1e-6));
        worst = fmax(worst, fabs((double)c - ec) / fmax(fabs(ec), 1e-6));
    }
    print_message("worst relative error of sine and cosine %.3g\n", worst);
    assert_true(worst < 6.1e-8);
    float s, c;
    canon_sincos(0.0f, &s, &c);
    assert_true(s == 0.0f && c == 1.0f);
}

struct rope_case {
    struct rope_kv_args a;
    struct batch batch;
    struct batch_seq seq[SEQS];
    uint32_t blocks[SEQS][PAGES];
    uint32_t position[ROWS_MAX], seq_of[ROWS_MAX];
    uint32_t row_dim;
    size_t page_bytes;
    float *qkv, *inv_freq, *q_norm, *k_norm;
    struct ops_weight q_weight, k_weight;
};

static struct rope_case *make(const struct ops *o, struct random *r, int round)
{
    static const uint32_t dims[] = {8, 16, 48, 64, 80, 128, 20, 256};
    struct rope_case *c = calloc(1, sizeof *c);
    uint32_t dim = dims[round % 8], rows = 0;
    c->a.n_heads = 1 + random_below(r, 6);
    c->a.kv = (struct kv_layer){.dtype = (enum dtype)(round % 3),
        .n_kv_heads = 1 + random_below(r, 3),
        .head_dim = dim,
        .block_tokens = round % 2 ? 16 : 32};
    c->row_dim = (c->a.n_heads + 2 * c->a.kv.n_kv_heads) * dim;
    c->a.rotary_dim = round % 4 == 3 ? dim / 4 * 2 : dim;
    c->a.interleaved = round % 5 == 4;
    c->a.attention_factor = round % 6 == 5 ? 1.2079f : 1.0f;
    c->a.norm_eps = 1e-6f;
    c->a.norm_weight_offset = round % 8 == 7 ? 1.0f : 0.0f;
    for (uint32_t s = 0; s < SEQS; s++) {
        uint32_t n = 1 + random_below(r, 12), first = random_below(r, 900);
        c->seq[s] = (struct batch_seq){.first_row = rows, .n_rows = n, .first_position = first};
        c->seq[s].blocks[0] = c->blocks[s];
        for (uint32_t i = 0; i < PAGES; i++)
            c->blocks[s][i] = i * SEQS + s;
        for (uint32_t i = 0; i < n; i++, rows++) {
            c->position[rows] = first + i;
            c->seq_of[rows] = s;
        }
    }
    c->batch =
        (struct batch){.n_rows = rows, .n_seqs = SEQS, .seq = c->seq, .positions = c->position};
    c->a.batch = &c->batch;
    c->qkv = random_floats(r, (size_t)rows * c->row_dim, 2);
    c->inv_freq = calloc(dim, sizeof *c->inv_freq);
    for (uint32_t i = 0; i < c->a.rotary_dim / 2; i++)
        c->inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)c->a.rotary_dim);
    c->a.inv_freq = round % 9 == 8 ? NULL : c->inv_freq;
    c->q_norm = random_floats(r, dim, 1);
    c->k_norm = random_floats(r, dim, 1);
    c->q_weight = ops_weight_make(o, c->q_norm, 1, dim, DTYPE_BF16);
    c->k_weight = ops_weight_make(o, c->k_norm, 1, dim, DTYPE_F32);
    if (round % 3 == 1) {
        c->a.q_norm = c->q_weight.w;
        c->a.k_norm = c->k_weight.w;
    }
    c->page_bytes = (size_t)PAGES * SEQS * c->a.kv.n_kv_heads * c->a.kv.block_tokens * dim *
                    dtype_bytes(c->a.kv.dtype);
    return c;
}

static void drop(struct rope_case *c)
{
    ops_weight_free(&c->q_weight);
    ops_weight_free(&c->k_weight);
    free(c->qkv);
    free(c->inv_freq);
    free(c->q_norm);
    free(c->k_norm);
    free(c);
}

// Norm and rotation of one head in double; the angle is a float product, as the op defines it.
static void reference(const struct rope_case *c, uint32_t position, const float *h,
    const struct ops_weight *w, enum dtype t, bool normed, double *out)
{
    const struct rope_kv_args *a = &c->a;
    uint32_t dim = a->kv.head_dim, half = a->rotary_dim / 2;
    double square = 0;
    for (uint32_t i = 0; i < dim; i++)
        square += (double)h[i] * (double)h[i] / dim;
    for (uint32_t i = 0; i < dim; i++) {
        out[i] = (double)h[i];
        if (normed)
            out[i] *= ((double)a->norm_weight_offset + ops_element(w->data, t, i)) /
                      sqrt(square + (double)a->norm_eps);
    }
    for (uint32_t i = 0; a->inv_freq != NULL && i < half; i++) {
        uint32_t x = a->interleaved ? 2 * i : i, y = a->interleaved ? 2 * i + 1 : i + half;
        double angle = (double)((float)position * a->inv_freq[i]);
        double cosine = cos(angle) * (double)a->attention_factor;
        double sine = sin(angle) * (double)a->attention_factor, ox = out[x], oy = out[y];
        out[x] = ox * cosine - oy * sine;
        out[y] = oy * cosine + ox * sine;
    }
}

static void check_row(
    const struct rope_case *c, uint32_t row, const float *qkv, const void *k, const void *v)
{
    const struct rope_kv_args *a = &c->a;
    const struct kv_layer *kv = &a->kv;
    uint32_t dim = kv->head_dim, p = c->position[row], s = c->seq_of[row];
    const float *in = c->qkv + (size_t)row * c->row_dim, *out = qkv + (size_t)row * c->row_dim;
    double expected[256], step = kv->dtype == DTYPE_F32   ? 1e-6
                                 : kv->dtype == DTYPE_F16 ? 5e-4
                                                          : 4e-3;
    for (uint32_t h = 0; h < a->n_heads; h++) {
        reference(c, p, in + h * dim, &c->q_weight, DTYPE_BF16, a->q_norm != NULL, expected);
        ops_assert_near("rope, q", expected, out + h * dim, dim, 1e-6, 3e-6);
    }
    for (uint32_t g = 0; g < kv->n_kv_heads; g++) {
        size_t page = (size_t)c->blocks[s][p / kv->block_tokens] * kv->n_kv_heads + g;
        size_t at = (page * kv->block_tokens + p % kv->block_tokens) * dim;
        reference(c, p, in + (a->n_heads + g) * dim, &c->k_weight, DTYPE_F32, a->k_norm != NULL,
            expected);
        for (uint32_t i = 0; i < dim; i++) {
            double got = ops_element(k, kv->dtype, at + i);
            assert_true(fabs(got - expected[i]) <= step * fabs(expected[i]) + 4e-6);
            float x = in[(a->n_heads + kv->n_kv_heads + g) * dim + i];
            float rounded = kv->dtype == DTYPE_F32   ? x
                            : kv->dtype == DTYPE_F16 ? dtype_f32_from_f16(dtype_f16_from_f32(x))
                                                     : dtype_f32_from_bf16(dtype_bf16_from_f32(x));
            assert_true(ops_element(v, kv->dtype, at + i) == (double)rounded);
        }
    }
}

static void test_rope(void **state)
{
    const struct ops *o = *state;
    struct random r = {61};
    for (int round = 0; round < 72; round++) {
        struct rope_case *c = make(o, &r, round);
        size_t n = (size_t)c->batch.n_rows * c->row_dim;
        float *qkv[2] = {malloc(n * 4), malloc(n * 4)};
        char *pages[2] = {calloc(2, c->page_bytes), calloc(2, c->page_bytes)};
        for (uint32_t d = 0; d < o->n; d++) {
            uint32_t at = d > 0;
            memcpy(qkv[at], c->qkv, n * 4);
            memset(pages[at], 0, 2 * c->page_bytes);
            c->a.qkv = qkv[at];
            c->a.kv.k = pages[at];
            c->a.kv.v = pages[at] + c->page_bytes;
            o->k->rope_kv(o->d[d], &c->a);
            ops_assert_same("rope_kv", o->name[d], qkv[0], qkv[at], n);
            assert_memory_equal(pages[0], pages[at], 2 * c->page_bytes);
        }
        for (uint32_t row = 0; row < c->batch.n_rows; row++)
            check_row(c, row, qkv[0], pages[0], pages[0] + c->page_bytes);
        // The same rows one at a time.
        memcpy(qkv[1], c->qkv, n * 4);
        memset(pages[1], 0, 2 * c->page_bytes);
        for (uint32_t row = 0; row < c->batch.n_rows; row++) {
            struct batch_seq one = {.n_rows = 1, .first_position = c->position[row]};
            one.blocks[0] = c->blocks[c->seq_of[row]];
            struct batch b = {.n_rows = 1, .n_seqs = 1, .seq = &one};
            c->a.batch = &b;
            c->a.qkv = qkv[1] + (size_t)row * c->row_dim;
            o->k->rope_kv(o->d[o->n - 1], &c->a);
        }
        ops_assert_same("rope_kv alone", o->name[o->n - 1], qkv[0], qkv[1], n);
        assert_memory_equal(pages[0], pages[1], 2 * c->page_bytes);
        for (int i = 0; i < 2; i++) {
            free(qkv[i]);
            free(pages[i]);
        }
        drop(c);
    }
}

int main(void)
{
    struct ops o;
    ops_open(&o);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sincos),
        cmocka_unit_test_prestate(test_rope, &o),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ops_close(&o);
    return failed;
}
