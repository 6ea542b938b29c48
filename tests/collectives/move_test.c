// SPDX-License-Identifier: Apache-2.0
// all_gather, reduce_scatter, broadcast, barrier, and how slices are dealt.
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const size_t sizes[] = {
    0, 1, 3, 64, 127, 128, 1000, 65536, 262143, 262144, 262145, 600000, 1 << 20};
enum { N_SIZES = sizeof sizes / sizeof sizes[0], MOST = 1 << 20 };

static uint8_t byte(uint32_t rank, size_t i, uint64_t turn)
{
    return (uint8_t)(rank * 37 + i * 11 + i / 256 + turn);
}

static int gather(struct coll_group *g, uint8_t *in, uint8_t *out)
{
    uint32_t n = coll_size(g), rank = coll_rank(g);
    for (size_t k = 0; k < 2 * N_SIZES; k++) {
        size_t bytes = sizes[k / 2];
        uint8_t *from = k % 2 == 0 ? in : out + rank * bytes; // every second one in place
        memset(out, 0xcc, n * bytes + 1);
        for (size_t i = 0; i < bytes; i++)
            from[i] = byte(rank, i, k);
        WANT_OK(coll_all_gather(g, from, out, bytes, NULL));
        for (uint32_t r = 0; r < n; r++)
            for (size_t i = 0; i < bytes; i++)
                WANT(out[r * bytes + i] == byte(r, i, k));
        WANT(out[n * bytes] == 0xcc);
    }
    return 0;
}

static int broadcast(struct coll_group *g, uint8_t *at)
{
    for (size_t k = 0; k < N_SIZES; k++)
        for (uint32_t root = 0; root < coll_size(g); root++) {
            for (size_t i = 0; i < sizes[k]; i++)
                at[i] = byte(coll_rank(g), i, k);
            at[sizes[k]] = 0xcc;
            WANT_OK(coll_broadcast(g, at, sizes[k], root, NULL));
            for (size_t i = 0; i < sizes[k]; i++)
                WANT(at[i] == byte(root, i, k));
            WANT(at[sizes[k]] == 0xcc);
        }
    WANT(coll_broadcast(g, at, 1, coll_size(g), NULL) == STATUS_INVALID);
    return 0;
}

static int scatter(struct coll_group *g, float *in, float *out, float *want)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (size_t k = 0; k < 2 * N_SIZES; k++) {
        size_t count = sizes[k / 2] / 4, begin, n;
        enum dtype t = types[k % 3];
        enum coll_op op = k % 5 == 0 ? COLL_MAX : COLL_SUM;
        coll_slice(count, coll_size(g), coll_rank(g), &begin, &n);
        ranks_fill(in, count, t, k, coll_rank(g), false);
        ranks_expect(want, count, t, op, k, coll_size(g), false);
        // Every second one in place: the output is the own slice of the input.
        void *to = k % 2 == 0 ? (uint8_t *)out : (uint8_t *)in + begin * dtype_bytes(t);
        WANT_OK(coll_reduce_scatter(g, in, to, count, t, op, NULL));
        WANT(memcmp(to, (uint8_t *)want + begin * dtype_bytes(t), n * dtype_bytes(t)) == 0);
    }
    WANT(coll_reduce_scatter(g, in, out, 4, DTYPE_U8, COLL_SUM, NULL) == STATUS_UNSUPPORTED);
    return 0;
}

static int moves(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, 0, 20000, &g) == 0);
    uint8_t *in = malloc(MOST + 64), *out = malloc((size_t)MOST * b->size + 64);
    uint8_t *want = malloc(MOST + 64);
    WANT(in != NULL && out != NULL && want != NULL);
    WANT(gather(g, in, out) == 0 && broadcast(g, in) == 0);
    WANT(scatter(g, (float *)(void *)in, (float *)(void *)out, (float *)(void *)want) == 0);
    WANT_OK(coll_barrier(g, NULL));
    coll_destroy(g);
    free(in);
    free(out);
    free(want);
    return 0;
}

static void test_moves(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(1, moves, NULL, 0), 0);
    assert_int_equal(ranks_fork(2, moves, NULL, 0), 0);
    assert_int_equal(ranks_fork(5, moves, NULL, 0), 0);
    assert_int_equal(ranks_fork(8, moves, NULL, 0), 0);
    assert_int_equal(ranks_threads(3, moves, NULL), 0);
}

// Nobody leaves a barrier before all have entered it.
static int barriers(struct bootstrap *b, void *context)
{
    _Atomic uint32_t *entered = context;
    struct coll_group *g;
    WANT(ranks_group(b, 0, 20000, &g) == 0);
    for (uint32_t i = 1; i <= 500; i++) {
        atomic_fetch_add(entered, 1);
        WANT_OK(coll_barrier(g, NULL));
        uint32_t n = atomic_load(entered);
        WANT(n >= i * b->size && n < (i + 1) * b->size);
    }
    coll_destroy(g);
    return 0;
}

static void test_barrier(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 8; n *= 2) {
        _Atomic uint32_t *entered =
            mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_true(entered != MAP_FAILED);
        assert_int_equal(ranks_fork(n, barriers, entered, 0), 0);
        munmap(entered, 4096);
    }
}

static void test_slice(void **state)
{
    (void)state;
    for (size_t total = 0; total < 200; total++)
        for (uint32_t size = 1; size <= 9; size++) {
            size_t next = 0;
            for (uint32_t r = 0; r < size; r++) {
                size_t begin, n;
                coll_slice(total, size, r, &begin, &n);
                assert_int_equal(begin, next);
                assert_true(n == total / size || n == total / size + 1);
                next = begin + n;
            }
            assert_int_equal(next, total);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moves),
        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_slice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
