// SPDX-License-Identifier: Apache-2.0
// How products are cut: the order of sums is a matter of N and K alone, blocks cover everything,
// what they exchange has room, and every kernel of the table is chosen for something.
#include "base/check.h"
#include "kernels/cuda/linear_plan.h"
#include "tests/test_support.h"

static const uint32_t sizes[] = {
    1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 130, 512, 1000, 1024, 2048, 4096, 14336, 128256};
static const uint32_t sms[] = {1, 8, 108, 132};

static void check_plan(const struct linear_shape *s, bool *used)
{
    struct linear_plan p = linear_plan_make(s), one;
    struct linear_shape alone = *s;
    alone.m = 1;
    alone.n_sms = 132;
    alone.gated = false;
    one = linear_plan_make(&alone);
    assert_int_equal(p.segment, one.segment);
    assert_int_equal(p.n_segments, one.n_segments);
    assert_int_equal(p.segment % LINEAR_SEGMENT_UNIT, 0);
    assert_true((uint64_t)p.segment * p.n_segments >= s->k);
    assert_true((uint64_t)p.segment * (p.n_segments - 1) < s->k);
    assert_true(p.splits >= 1 && p.splits <= LINEAR_SPLITS_MAX && p.splits <= p.n_segments);
    assert_true((uint64_t)p.n_tiles * linear_plan_n_tile(p.kernel) >= (s->gated ? s->n / 2 : s->n));
    assert_true((uint64_t)p.m_tiles * linear_plan_m_tile(p.kernel) >= s->m);
    assert_true(linear_plan_tickets(&p) <= LINEAR_TICKETS_MAX);
    assert_true(linear_plan_partials(&p, s) <= LINEAR_PARTIALS_MAX);
    // The kernels that read weights into registers have all rows of x in one tile.
    if (p.kernel < LINEAR_TILE_64x64) {
        assert_int_equal(p.m_tiles, 1);
        assert_true(p.splits * LINEAR_WARPS >= p.n_segments);
    }
    used[p.kernel] = true;
}

static void test_all_shapes(void **unused)
{
    (void)unused;
    bool used[LINEAR_KERNEL_COUNT] = {false};
    for (size_t m = 0; m < COUNT_OF(sizes); m++)
        for (size_t n = 0; n < COUNT_OF(sizes); n++)
            for (size_t k = 0; k < COUNT_OF(sizes); k++)
                for (size_t i = 0; i < 3 * COUNT_OF(sms); i++) {
                    bool half = i % 3 > 0, gated = i % 3 == 2;
                    struct linear_shape s = {.m = sizes[m],
                        .n = gated ? 2 * sizes[n] : sizes[n],
                        .k = sizes[k],
                        .half = half,
                        .gated = gated,
                        .n_sms = sms[i / 3]};
                    check_plan(&s, used);
                }
    for (int i = 0; i < LINEAR_KERNEL_COUNT; i++)
        if (!used[i])
            fail_msg("no shape has the kernel %s", linear_plan_name((enum linear_kernel)i));
}

// What a decode step of an 8B model gets: enough blocks for each of 132 SMs.
static void test_decode_fills_a_device(void **unused)
{
    (void)unused;
    static const uint32_t shapes[][2] = {
        {6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}, {1024, 4096}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct linear_shape s = {
            .m = 1, .n = shapes[i][0], .k = shapes[i][1], .half = true, .n_sms = 132};
        struct linear_plan p = linear_plan_make(&s);
        assert_int_equal(p.kernel, LINEAR_ROWS_16x8);
        assert_true(p.n_tiles * p.splits >= 2 * 120);
    }
}

// Groups of rows: one order of sums for any number of them, both products of an expert in tiles of
// the same height, and tiles for the worst way to share rows out.
static void test_groups(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < COUNT_OF(sizes) * COUNT_OF(sizes) * 4; i++) {
        uint32_t m = sizes[i % COUNT_OF(sizes)], n_groups = sizes[i / COUNT_OF(sizes) / 4];
        bool half = i / COUNT_OF(sizes) % 2, gated = i / COUNT_OF(sizes) / 2 % 2;
        struct linear_shape up = {
            .m = m, .n = 2 * 768, .k = 2048, .half = half, .gated = gated, .n_sms = 132};
        struct linear_shape down = {.m = m, .n = 2048, .k = 768, .half = half, .n_sms = 132};
        struct linear_plan p = linear_plan_grouped(&up, n_groups);
        struct linear_plan q = linear_plan_grouped(&down, n_groups);
        uint32_t tile = linear_plan_m_tile(p.kernel), columns = linear_plan_n_tile(p.kernel);
        assert_int_equal(p.segment, 256);
        assert_int_equal(q.segment, 128);
        assert_true(p.n_segments <= LINEAR_WARPS && p.splits == 1);
        assert_int_equal(tile, linear_plan_m_tile(q.kernel));
        bool rows = p.kernel == LINEAR_ROWS_GATED_8 || p.kernel == LINEAR_ROWS_GATED_16;
        assert_true(p.n_tiles * columns >= (rows ? 768 : 1536));
        // One row in all groups but one.
        uint32_t touched = n_groups < m ? n_groups : m;
        assert_true(p.m_tiles >= touched - 1 + (m - touched + 1 + tile - 1) / tile);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_shapes),
        cmocka_unit_test(test_decode_fills_a_device),
        cmocka_unit_test(test_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
