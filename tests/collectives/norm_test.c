// SPDX-License-Identifier: Apache-2.0
// The fused all-reduce, residual add and norm has the bits of its composition: of coll_all_reduce
// and the norm of the CPU kernels, and of the definition in plain C for every instruction set.
#include "tests/test_support.h"

#include "tests/collectives/op_cases.h"

#include "collectives/reduce.h"
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

enum { ROOM = 3 << 20 };

static int shapes(struct bootstrap *b, void *context)
{
    (void)context;
    static const struct {
        size_t rows, dim;
    } shape[] = {{1, 1}, {1, 17}, {3, 64}, {5, 100}, {1, 4096}, {7, 896}, {33, 2048}, {128, 1000},
        {2, 70001}, {0, 64}};
    struct coll_group *g;
    WANT(ranks_group(b, ROOM, 20000, &g) == 0);
    void *heap = coll_heap_take(g, ROOM), *mine = malloc(ROOM);
    WANT(heap != NULL && mine != NULL);
    for (size_t k = 0; k < 10 * 6; k++) {
        struct norm_case c = {.n_rows = shape[k / 6].rows,
            .dim = shape[k / 6].dim,
            .dtype = k % 3 == 0   ? DTYPE_F32
                     : k % 3 == 1 ? DTYPE_F16
                                  : DTYPE_BF16,
            .symmetric = k % 2 == 0,
            .weighted = k % 5 != 0,
            .seed = k};
        WANT(op_cases_norm(g, c.symmetric ? heap : mine, &c) == 0);
    }
    coll_destroy(g);
    free(mine);
    return 0;
}

static void test_shapes(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 8; n *= 2)
        assert_int_equal(ranks_fork(n, shapes, NULL, 0), 0);
    assert_int_equal(ranks_threads(3, shapes, NULL), 0);
}

// The same through the op table that the worker uses.
static int kernels_norm(struct bootstrap *b, void *context)
{
    (void)context;
    enum { ROWS = 9, DIM = 1500, N = ROWS * DIM };
    const struct kernels *k = kernels_cpu();
    struct device *d;
    struct coll_group *g;
    struct weight *w;
    float *x = malloc(5 * N * sizeof(float)), *weight = malloc(DIM * sizeof(float));
    float *bias = malloc(DIM * sizeof(float));
    WANT(x != NULL && weight != NULL && bias != NULL && ranks_group(b, 4096, 20000, &g) == 0);
    float *x2 = x + N, *residual = x + 2 * N, *residual2 = x + 3 * N, *out = x + 4 * N;
    static float out2[N];
    ranks_fill(weight, DIM, DTYPE_F32, 1, 0, false);
    ranks_fill(bias, DIM, DTYPE_F32, 4, 0, false);
    ranks_fill(residual, N, DTYPE_F32, 2, 0, false);
    memcpy(residual2, residual, N * sizeof(float));
    ranks_fill(x, N, DTYPE_F32, 3, b->rank, false);
    memcpy(x2, x, N * sizeof(float));
    WANT_OK(coll_all_reduce_norm(g, &(struct coll_all_reduce_norm_args){.x = x,
                                        .n_rows = ROWS,
                                        .dim = DIM,
                                        .residual = residual,
                                        .residual_scale = 0.5f,
                                        .bias = bias,
                                        .weight = weight,
                                        .weight_dtype = DTYPE_F32,
                                        .weight_offset = 1.0f,
                                        .eps = 1e-6f,
                                        .out = out}));
    WANT_OK(coll_all_reduce(g, &(struct coll_all_reduce_args){.buffer = x2, .count = N}));
    WANT_OK(k->device_open(&(struct device_args){.n_threads = 1, .isa = "auto"}, &d, NULL));
    struct weight_source source = {.dtype = DTYPE_F32, .n = 1, .k = DIM, .n_parts = 1};
    source.part[0] =
        (struct weight_part){.data = weight, .row_stride_bytes = DIM * sizeof(float), .n_rows = 1};
    WANT_OK(k->weight_make(d, &source, &w, NULL));
    k->norm(d, &(struct norm_args){.n_rows = ROWS,
                   .dim = DIM,
                   .eps = 1e-6f,
                   .weight_offset = 1.0f,
                   .x = x2,
                   .x_bias = bias,
                   .x_scale = 0.5f,
                   .residual = residual2,
                   .weight = w,
                   .out = out2});
    WANT_OK(k->device_sync(d, NULL));
    WANT(memcmp(residual, residual2, N * sizeof(float)) == 0);
    WANT(memcmp(out, out2, sizeof out2) == 0);
    k->weight_free(d, w);
    k->device_close(d);
    coll_destroy(g);
    free(weight);
    free(bias);
    free(x);
    return 0;
}

static void test_kernels(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 4; n *= 2)
        assert_int_equal(ranks_fork(n, kernels_norm, NULL, 0), 0);
}

static void test_instruction_sets(void **state)
{
    (void)state;
    static const char *const names[] = {"avx2", "avx512"};
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    enum { DIM = 333 };
    uint32_t x[DIM], out[2][DIM];
    float residual[2][DIM], weight[DIM], bias[DIM];
    for (int k = 0; k < 2; k++) {
        const struct reduce_table *t = reduce_named(names[k]);
        if (t == NULL) {
            printf("without %s\n", names[k]);
            continue;
        }
        for (size_t dim = 1; dim <= DIM; dim++)
            for (int type = 0; type < 3; type++) {
                ranks_fill(x, dim, types[type], dim, 0, false);
                ranks_fill(weight, dim, types[dim / 2 % 3], dim, 1, false);
                ranks_fill(bias, dim, DTYPE_F32, dim, 3, false);
                for (int which = 0; which < 2; which++) {
                    ranks_fill(residual[which], dim, DTYPE_F32, dim, 2, false);
                    (which == 0 ? reduce_named("plain") : t)
                        ->norm[type](&(struct reduce_norm_row){.x = x,
                            .bias = dim % 5 == 0 ? bias : NULL,
                            .scale = dim % 7 == 0 ? 0.3f : 1.0f,
                            .residual = residual[which],
                            .weight = dim % 3 == 0 ? NULL : weight,
                            .weight_dtype = types[dim / 2 % 3],
                            .weight_offset = dim % 2 == 0 ? 1.0f : 0.0f,
                            .eps = 1e-5f,
                            .out = out[which],
                            .dim = dim});
                }
                assert_memory_equal(residual[0], residual[1], dim * sizeof(float));
                assert_memory_equal(out[0], out[1], dim * dtype_bytes(types[type]));
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_instruction_sets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
