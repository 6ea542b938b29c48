// SPDX-License-Identifier: Apache-2.0
// Embedding (whole, and cut by vocabulary) and block copies.
#include "tests/kernels/ops_support.h"

#include <stdlib.h>

static void test_embed(void **state)
{
    const struct ops *o = *state;
    struct random r = {21};
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (int round = 0; round < 30; round++) {
        enum dtype t = dtypes[round % 3];
        uint32_t vocab = 50 + random_below(&r, 100), dim = 1 + random_below(&r, 70), n = 23;
        float *table = random_floats(&r, (size_t)vocab * dim, 1);
        float *learned = random_floats(&r, 40u * dim, 1);
        uint32_t ids[23], positions[23], cut = 1 + random_below(&r, vocab - 1);
        for (uint32_t i = 0; i < n; i++) {
            ids[i] = random_below(&r, vocab);
            positions[i] = random_below(&r, 38);
        }
        struct ops_weight p = ops_weight_make(o, learned, 40, dim, t);
        struct ops_weight half[2] = {ops_weight_make(o, table, cut, dim, t),
            ops_weight_make(o, table + (size_t)cut * dim, vocab - cut, dim, t)};
        struct batch b = {.n_rows = n, .token_ids = ids, .positions = positions};
        float *out[2] = {malloc((size_t)n * dim * 4), malloc((size_t)n * dim * 4)};
        for (uint32_t d = 0; d < o->n; d++) {
            for (int i = 0; i < 2; i++) {
                struct embed_args a = {.batch = &b,
                    .table = half[i].w,
                    .vocab_begin = i == 0 ? 0 : cut,
                    .scale = 8.0f,
                    .positions = round % 2 ? p.w : NULL,
                    .position_offset = 2,
                    .out = out[i]};
                o->k->embed(o->d[d], &a);
            }
            for (uint32_t i = 0; i < n * dim; i++) {
                uint32_t id = ids[i / dim], own = id >= cut;
                const void *data = half[own].data;
                float e =
                    (float)ops_element(data, t, (size_t)(own ? id - cut : id) * dim + i % dim);
                float expected = e * 8.0f;
                if (round % 2)
                    expected +=
                        (float)ops_element(p.data, t, (positions[i / dim] + 2u) * dim + i % dim);
                assert_true(out[own][i] == expected);
                assert_true(out[1 - own][i] == 0.0f);
            }
        }
        ops_weight_free(&p);
        for (int i = 0; i < 2; i++) {
            ops_weight_free(&half[i]);
            free(out[i]);
        }
        free(table);
        free(learned);
    }
}

// Pairs run in their order: a chain 1 -> 2 -> 3 carries block 1 to 3. Other groups stay.
static void test_block_copy(void **state)
{
    const struct ops *o = *state;
    enum { BLOCKS = 6, HEADS = 2, TOKENS = 4, DIM = 8, SIZE = HEADS * TOKENS * DIM };
    static uint16_t pages[3][2][BLOCKS * SIZE];
    struct kv_layer layers[3];
    for (int l = 0; l < 3; l++) {
        layers[l] = (struct kv_layer){.k = pages[l][0],
            .v = pages[l][1],
            .dtype = DTYPE_BF16,
            .n_kv_heads = HEADS,
            .head_dim = DIM,
            .block_tokens = TOKENS,
            .group = l == 2};
        for (int i = 0; i < BLOCKS * SIZE; i++) {
            pages[l][0][i] = (uint16_t)(l * 10000 + i);
            pages[l][1][i] = (uint16_t)(l * 10000 + 5000 + i);
        }
    }
    uint32_t src[] = {1, 2, 4}, dst[] = {2, 3, 4};
    o->k->block_copy(o->d[o->n - 1],
        &(struct block_copy_args){
            .layers = layers, .n_layers = 3, .n_pairs = 3, .group = 0, .src = src, .dst = dst});
    static const int from[BLOCKS] = {0, 1, 1, 1, 4, 5};
    for (int l = 0; l < 3; l++)
        for (int i = 0; i < BLOCKS * SIZE; i++) {
            int at = l == 2 ? i : from[i / SIZE] * SIZE + i % SIZE;
            assert_int_equal(pages[l][0][i], (uint16_t)(l * 10000 + at));
            assert_int_equal(pages[l][1][i], (uint16_t)(l * 10000 + 5000 + at));
        }
}

int main(void)
{
    struct ops o;
    ops_open(&o);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_embed, &o),
        cmocka_unit_test_prestate(test_block_copy, &o),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ops_close(&o);
    return failed;
}
