// SPDX-License-Identifier: Apache-2.0
// The vector versions give the bits of the plain one, and that one gives those of the definition.
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"

#include "collectives/reduce.h"

#include <math.h>
#include <string.h>

enum { MOST = 8, LONG = 301, PAD = 8 };

static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

struct room {
    _Alignas(64) uint8_t src[MOST][(LONG + PAD) * 4];
    _Alignas(64) uint8_t dst[MOST][(LONG + PAD) * 4], want[(LONG + PAD) * 4];
};

// Random bits with many special values: zeros, infinities, subnormals, NaN.
static void fill_bits(struct room *m, enum dtype t, bool nan)
{
    for (uint32_t r = 0; r < MOST; r++)
        for (size_t i = 0; i < sizeof m->src[r] / dtype_bytes(t); i++) {
            uint64_t x = ranks_random(3, r, i);
            uint32_t u = (uint32_t)x;
            if (t == DTYPE_F32 && x >> 60 < 6)
                u = (uint32_t[]){
                    0, 0x80000000u, 0x7f800000u, 0x00000001u, 0x80000001u, 0xff800000u}[x >> 60];
            float f;
            memcpy(&f, &u, 4);
            if (t == DTYPE_F32 && isnan(f) && !nan)
                u = 0;
            uint16_t h = (uint16_t)u;
            float g = t == DTYPE_F16 ? dtype_f32_from_f16(h) : dtype_f32_from_bf16(h);
            if (t != DTYPE_F32 && isnan(g) && !nan)
                h = 0;
            memcpy(m->src[r] + i * dtype_bytes(t), t == DTYPE_F32 ? (void *)&u : (void *)&h,
                dtype_bytes(t));
        }
}

static float load(const void *p, size_t i, enum dtype t)
{
    if (t == DTYPE_F32)
        return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return t == DTYPE_F16 ? dtype_f32_from_f16(h) : dtype_f32_from_bf16(h);
}

// Equal bits, or both NaN: infinities of both signs make NaNs here, whose payload is free.
static void compare(const void *a, const void *b, size_t count, enum dtype t)
{
    for (size_t i = 0; i < count; i++) {
        size_t e = dtype_bytes(t);
        bool same = memcmp((const char *)a + i * e, (const char *)b + i * e, e) == 0;
        assert_true(same || (isnan(load(a, i, t)) && isnan(load(b, i, t))));
    }
}

static void run(const struct reduce_table *v, enum coll_op op, enum dtype t, bool nan)
{
    static struct room m;
    const void *src[MOST];
    void *dst[MOST], *want = m.want;
    reduce_fn *plain = reduce_find(reduce_named("plain"), op, t), *fn = reduce_find(v, op, t);
    fill_bits(&m, t, nan);
    for (uint32_t n = 1; n <= MOST; n++)
        for (size_t count = 0; count <= LONG; count += count < 140 ? 1 : 7) {
            size_t off = count % PAD * dtype_bytes(t);
            for (uint32_t r = 0; r < MOST; r++) {
                src[r] = m.src[r] + off;
                dst[r] = m.dst[r];
            }
            memset(m.dst, 0x55, sizeof m.dst);
            memset(m.want, 0x55, sizeof m.want);
            plain(&want, 1, src, n, count);
            fn(dst, n, src, n, count);
            for (uint32_t r = 0; r < n; r++) {
                compare(m.dst[r], m.want, count, t);
                assert_int_equal(m.dst[r][count * dtype_bytes(t)], 0x55);
            }
        }
}

static void test_versions(void **state)
{
    (void)state;
    static const char *const names[] = {"avx2", "avx512"};
    for (size_t v = 0; v < 2; v++) {
        const struct reduce_table *t = reduce_named(names[v]);
        if (t == NULL) {
            print_message("skipped: this CPU has no %s\n", names[v]);
            continue;
        }
        for (size_t i = 0; i < 6; i++) {
            run(t, i % 2 == 0 ? COLL_SUM : COLL_MAX, types[i / 2], false);
            run(t, i % 2 == 0 ? COLL_SUM : COLL_MAX, types[i / 2], true);
        }
    }
    assert_null(reduce_named("none"));
    assert_non_null(reduce_best());
}

static void test_definition(void **state)
{
    (void)state;
    static struct room m;
    for (size_t k = 0; k < 6; k++) {
        enum dtype t = types[k / 2];
        enum coll_op op = k % 2 == 0 ? COLL_SUM : COLL_MAX;
        const void *src[MOST];
        for (uint32_t r = 0; r < MOST; r++) {
            ranks_fill(m.src[r], LONG, t, 5, r, false);
            src[r] = m.src[r];
        }
        void *dst = m.dst[0];
        reduce_find(reduce_best(), op, t)(&dst, 1, src, MOST, LONG);
        ranks_expect(m.want, LONG, t, op, 5, MOST, false);
        assert_memory_equal(dst, m.want, LONG * dtype_bytes(t));
    }
}

static void test_special(void **state)
{
    (void)state;
    // In place; a NaN of the first rank survives a maximum; the later of two equal zeros wins.
    float a[] = {NAN, 0.0f, -0.0f, 1.0f, -INFINITY}, b[] = {1.0f, -0.0f, 0.0f, NAN, -3.0f};
    const void *src[] = {a, b};
    void *dst = a;
    reduce_find(reduce_best(), COLL_MAX, DTYPE_F32)(&dst, 1, src, 2, 5);
    assert_true(isnan(a[0]) && isnan(a[3]));
    assert_true(signbit(a[1]) && !signbit(a[2]) && a[4] == -3.0f);
    // 1 + 2^-24 + 2^-24 in rank order is 1; in any other order it is more.
    float x = 1.0f, y = 0x1p-24f, z = 0x1p-24f;
    const void *order[] = {&x, &y, &z};
    dst = &x;
    reduce_find(reduce_best(), COLL_SUM, DTYPE_F32)(&dst, 1, order, 3, 1);
    assert_true(x == 1.0f);
    assert_null(reduce_find(reduce_best(), COLL_SUM, DTYPE_I32));
    assert_null(reduce_find(reduce_best(), 2, DTYPE_F32));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_definition),
        cmocka_unit_test(test_special),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
