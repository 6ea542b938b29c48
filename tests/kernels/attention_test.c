// SPDX-License-Identifier: Apache-2.0
// Attention against fp64; every instruction set against plain C bit for bit over random shapes; and
// the promise that a row's bits do not depend on the batch, on the cuts of its prompt, or on pages.
#include "tests/kernels/ops_support.h"

#include <math.h>
#include <stdlib.h>

enum { SEQS_MAX = 12, BLOCKS_MAX = 256, HEADS_MAX = 256 };

// A set of sequences whose every key, value and query follows from a seed and its coordinates.
struct scene {
    uint32_t n_seqs, n_heads, n_kv_heads, head_dim, block_tokens, window;
    float softcap, scale;
    bool alibi;
    enum dtype dtype;
    uint32_t length[SEQS_MAX]; // positions that exist
    uint32_t seed;
};

struct pages {
    struct kv_layer kv;
    uint32_t blocks[SEQS_MAX][BLOCKS_MAX];
};

// Rows [from, to) of a sequence, for one step.
struct span {
    uint32_t seq, from, to;
};

static float element(const struct scene *s, uint32_t what, uint32_t seq, uint32_t p, uint32_t i)
{
    struct random r = {s->seed * 7919ull + what * 104729ull + seq * 1299709ull + p * 15485863ull +
                       i * 32452843ull};
    random_u32(&r);
    random_u32(&r);
    return random_float(&r, -2, 2);
}

static struct scene random_scene(struct random *r, int round)
{
    static const uint32_t dims[] = {8, 16, 48, 64, 80, 128, 20, 256};
    static const uint32_t groups[] = {1, 2, 3, 4, 5, 7, 8};
    struct scene s = {.seed = random_u32(r)};
    s.head_dim = dims[round % 8];
    s.n_kv_heads = 1 + random_below(r, 3);
    s.n_heads = s.n_kv_heads * groups[random_below(r, 7)];
    if (round % 24 == 7) { // more query heads of one KV head than a unit takes
        s.n_kv_heads = 1;
        s.n_heads = 65 + random_below(r, 80);
    }
    s.block_tokens = random_below(r, 2) ? 16 : 32;
    s.dtype = (enum dtype)(round % 3); // f32, f16, bf16
    s.scale = 1.0f / sqrtf((float)s.head_dim);
    s.window = round % 4 == 1 ? 1 + random_below(r, round % 8 == 1 ? 20 : 300) : 0;
    s.softcap = round % 5 == 2 ? 3.0f : 0.0f;
    s.alibi = round % 6 == 3;
    s.n_seqs = 1 + random_below(r, 4);
    for (uint32_t i = 0; i < s.n_seqs; i++)
        s.length[i] = 1 + random_below(r, round % 3 == 0 ? 700 : 80);
    return s;
}

static void store(void *row, enum dtype t, uint32_t i, float x)
{
    if (t == DTYPE_F32)
        ((float *)row)[i] = x;
    else
        ((uint16_t *)row)[i] = t == DTYPE_F16 ? dtype_f16_from_f32(x) : dtype_bf16_from_f32(x);
}

// Pages in an order that `order` shuffles; whatever no position lies in is NaN.
static struct pages *make_pages(const struct scene *s, uint64_t order)
{
    struct pages *p = calloc(1, sizeof *p);
    uint32_t per_page = s->n_kv_heads * s->block_tokens, n = 0, id[SEQS_MAX * BLOCKS_MAX];
    for (uint32_t i = 0; i < s->n_seqs; i++)
        n += (s->length[i] + s->block_tokens - 1) / s->block_tokens;
    struct random r = {order};
    n += random_below(&r, 3);
    for (uint32_t i = 0; i < n; i++)
        id[i] = i;
    for (uint32_t i = n; i-- > 1;) {
        uint32_t j = random_below(&r, i + 1), swap = id[i];
        id[i] = id[j];
        id[j] = swap;
    }
    size_t bytes = (size_t)n * per_page * s->head_dim * dtype_bytes(s->dtype);
    p->kv = (struct kv_layer){.k = malloc(bytes),
        .v = malloc(bytes),
        .dtype = s->dtype,
        .n_kv_heads = s->n_kv_heads,
        .head_dim = s->head_dim,
        .block_tokens = s->block_tokens,
        .group = 1};
    memset(p->kv.k, 0xff, bytes);
    memset(p->kv.v, 0xff, bytes);
    uint32_t next = 0;
    size_t row_bytes = s->head_dim * dtype_bytes(s->dtype);
    for (uint32_t q = 0; q < s->n_seqs; q++)
        for (uint32_t j = 0; j < s->length[q]; j++) {
            if (j % s->block_tokens == 0)
                p->blocks[q][j / s->block_tokens] = id[next++];
            for (uint32_t h = 0; h < s->n_kv_heads; h++) {
                size_t page = p->blocks[q][j / s->block_tokens];
                size_t at = (page * s->n_kv_heads + h) * s->block_tokens + j % s->block_tokens;
                for (uint32_t d = 0; d < s->head_dim; d++) {
                    uint32_t i = h * s->head_dim + d;
                    store((char *)p->kv.k + at * row_bytes, s->dtype, d, element(s, 1, q, j, i));
                    store((char *)p->kv.v + at * row_bytes, s->dtype, d, element(s, 2, q, j, i));
                }
            }
        }
    return p;
}

static void drop_pages(struct pages *p)
{
    free(p->kv.k);
    free(p->kv.v);
    free(p);
}

static void slopes_of(const struct scene *s, float *slopes)
{
    for (uint32_t h = 0; h < s->n_heads; h++)
        slopes[h] = exp2f(-8.0f * (float)(h + 1) / (float)s->n_heads);
}

// One step of `n` spans; the row at position p of sequence q goes to result[q][p].
static void step(const struct ops *o, uint32_t device, const struct scene *s,
    const struct pages *pages, const struct span *span, uint32_t n, float **result)
{
    struct batch_seq seq[SEQS_MAX];
    uint32_t blocks[SEQS_MAX][BLOCKS_MAX];
    uint32_t rows = 0, qkv_dim = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
    uint32_t out_dim = s->n_heads * s->head_dim;
    for (uint32_t i = 0; i < n; i++) {
        seq[i] = (struct batch_seq){
            .first_row = rows, .n_rows = span[i].to - span[i].from, .first_position = span[i].from};
        // Pages that the window has left behind belong to others: nobody may even look there.
        memcpy(blocks[i], pages->blocks[span[i].seq], sizeof blocks[i]);
        for (uint32_t p = 0; s->window > 0 && p + s->window < span[i].from + 1; p++)
            if ((p + 1) % s->block_tokens == 0)
                blocks[i][p / s->block_tokens] = UINT32_MAX;
        seq[i].blocks[1] = blocks[i];
        rows += seq[i].n_rows;
    }
    float *qkv = malloc((size_t)rows * qkv_dim * sizeof *qkv);
    float *out = malloc((size_t)rows * out_dim * sizeof *out), slopes[HEADS_MAX];
    memset(qkv, 0xff, (size_t)rows * qkv_dim * sizeof *qkv);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t p = span[i].from; p < span[i].to; p++)
            for (uint32_t d = 0; d < out_dim; d++)
                qkv[(size_t)(seq[i].first_row + p - span[i].from) * qkv_dim + d] =
                    element(s, 0, span[i].seq, p, d);
    slopes_of(s, slopes);
    struct batch b = {.n_rows = rows, .n_seqs = n, .seq = seq};
    struct attention_args a = {.batch = &b,
        .qkv = qkv,
        .n_heads = s->n_heads,
        .kv = pages->kv,
        .scale = s->scale,
        .softcap = s->softcap,
        .window = s->window,
        .alibi_slopes = s->alibi ? slopes : NULL,
        .out = out};
    o->k->attention(o->d[device], &a);
    for (uint32_t i = 0; i < n; i++)
        memcpy(result[span[i].seq] + (size_t)span[i].from * out_dim,
            out + (size_t)seq[i].first_row * out_dim,
            (size_t)seq[i].n_rows * out_dim * sizeof *out);
    free(qkv);
    free(out);
}

static void results_take(const struct scene *s, float **result)
{
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        size_t n = (size_t)s->length[i] * s->n_heads * s->head_dim;
        result[i] = malloc(n * sizeof **result);
        memset(result[i], 0xff, n * sizeof **result);
    }
}

static void results_give(const struct scene *s, float **result)
{
    for (uint32_t i = 0; i < s->n_seqs; i++)
        free(result[i]);
}

static double value(const struct scene *s, uint32_t what, uint32_t q, uint32_t j, uint32_t i)
{
    char h[4];
    store(h, s->dtype, 0, element(s, what, q, j, i));
    return ops_element(h, s->dtype, 0);
}

static void reference(const struct scene *s, uint32_t q, uint32_t p, uint32_t h, double *out)
{
    uint32_t g = h / (s->n_heads / s->n_kv_heads), dim = s->head_dim;
    uint32_t first = s->window > 0 && p >= s->window ? p - s->window + 1 : 0;
    float slopes[HEADS_MAX];
    double *score = malloc((p + 1) * sizeof *score), most = -INFINITY, sum = 0;
    slopes_of(s, slopes);
    for (uint32_t j = first; j <= p; j++) {
        double dot = 0;
        for (uint32_t d = 0; d < dim; d++)
            dot += (double)element(s, 0, q, p, h * dim + d) * value(s, 1, q, j, g * dim + d);
        dot *= (double)s->scale;
        if (s->softcap > 0)
            dot = (double)s->softcap * tanh(dot / (double)s->softcap);
        if (s->alibi)
            dot += (double)slopes[h] * ((double)j - p);
        score[j] = dot;
        most = fmax(most, dot);
    }
    memset(out, 0, dim * sizeof *out);
    for (uint32_t j = first; j <= p; j++) {
        double e = exp(score[j] - most);
        sum += e;
        for (uint32_t d = 0; d < dim; d++)
            out[d] += e * value(s, 2, q, j, g * dim + d);
    }
    for (uint32_t d = 0; d < dim; d++)
        out[d] /= sum;
    free(score);
}

static void compare(const char *what, const char *isa, const struct scene *s, float **expected,
    float **got, const struct span *span, uint32_t n)
{
    size_t dim = (size_t)s->n_heads * s->head_dim;
    for (uint32_t i = 0; i < n; i++)
        ops_assert_same(what, isa, expected[span[i].seq] + span[i].from * dim,
            got[span[i].seq] + span[i].from * dim, (span[i].to - span[i].from) * dim);
}

// Plain against fp64 in a few places, the others against plain everywhere.
static void test_shapes(void **state)
{
    const struct ops *o = *state;
    struct random r = {31};
    for (int round = 0; round < 96; round++) {
        struct scene s = random_scene(&r, round);
        struct pages *pages = make_pages(&s, random_u32(&r));
        struct span span[SEQS_MAX];
        float *expected[SEQS_MAX], *got[SEQS_MAX];
        results_take(&s, expected);
        results_take(&s, got);
        for (uint32_t i = 0; i < s.n_seqs; i++) {
            uint32_t rows = random_below(&r, 3) ? 1 : 1 + random_below(&r, 30);
            rows = rows < s.length[i] ? rows : s.length[i];
            span[i] = (struct span){i, s.length[i] - rows, s.length[i]};
        }
        step(o, 0, &s, pages, span, s.n_seqs, expected);
        for (uint32_t d = 1; d < o->n; d++) {
            step(o, d, &s, pages, span, s.n_seqs, got);
            compare("attention", o->name[d], &s, expected, got, span, s.n_seqs);
        }
        double out[256];
        for (int i = 0; i < 3; i++) {
            uint32_t q = random_below(&r, s.n_seqs), h = random_below(&r, s.n_heads);
            uint32_t p = span[q].from + random_below(&r, span[q].to - span[q].from);
            reference(&s, q, p, h, out);
            ops_assert_near("attention against fp64", out,
                expected[q] + ((size_t)p * s.n_heads + h) * s.head_dim, s.head_dim, 2e-6, 4e-6);
        }
        results_give(&s, expected);
        results_give(&s, got);
        drop_pages(pages);
    }
}

// All positions of all sequences at once, cut into pieces of random sizes in random company, and
// one by one, each time with other pages: the same bits.
static void test_invariance(void **state)
{
    const struct ops *o = *state;
    struct random r = {41};
    for (int round = 0; round < 24; round++) {
        struct scene s = random_scene(&r, round);
        uint32_t d = 1 + (uint32_t)round % (o->n > 1 ? o->n - 1 : 1);
        d = d < o->n ? d : 0;
        s.n_seqs = 2;
        s.length[0] = round % 4 < 2 ? 530 + random_below(&r, 60) : 1 + random_below(&r, 300);
        s.length[1] = 1 + random_below(&r, 60);
        struct pages *pages[3];
        for (int i = 0; i < 3; i++)
            pages[i] = make_pages(&s, random_u32(&r));
        float *whole[SEQS_MAX], *parts[SEQS_MAX];
        results_take(&s, whole);
        results_take(&s, parts);
        struct span all[] = {{0, 0, s.length[0]}, {1, 0, s.length[1]}};
        step(o, d, &s, pages[0], all, 2, whole);
        uint32_t done[2] = {0, 0};
        while (done[0] < s.length[0] || done[1] < s.length[1]) {
            struct span span[2];
            uint32_t n = 0;
            for (uint32_t q = 0; q < 2; q++) {
                uint32_t rows = random_below(&r, random_below(&r, 2) ? 70 : 8);
                rows = rows < s.length[q] - done[q] ? rows : s.length[q] - done[q];
                if (rows == 0)
                    continue;
                span[n++] = (struct span){q, done[q], done[q] + rows};
                done[q] += rows;
            }
            if (n > 0)
                step(o, d, &s, pages[1], span, n, parts);
        }
        compare("attention in chunks", o->name[d], &s, whole, parts, all, 2);
        for (int i = 0; i < 12; i++) {
            uint32_t q = random_below(&r, 2), p = random_below(&r, s.length[q]);
            struct span one = {q, i < 2 ? s.length[q] - 1 : p, i < 2 ? s.length[q] : p + 1};
            step(o, d, &s, pages[2], &one, 1, parts);
            compare("attention alone", o->name[d], &s, whole, parts, &one, 1);
        }
        results_give(&s, whole);
        results_give(&s, parts);
        for (int i = 0; i < 3; i++)
            drop_pages(pages[i]);
    }
}

int main(void)
{
    struct ops o;
    ops_open(&o);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_shapes, &o),
        cmocka_unit_test_prestate(test_invariance, &o),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ops_close(&o);
    return failed;
}
