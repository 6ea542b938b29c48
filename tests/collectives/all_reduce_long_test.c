// SPDX-License-Identifier: Apache-2.0
// The same checks at sizes that take long: up to 64 MiB, and thousands of random calls.
#include "tests/test_support.h"

#include "tests/collectives/all_reduce_cases.h"

#include <stdlib.h>

static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
enum { ROOM = (64 << 20) + 4096 };

static int large(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, ROOM, 60000, &g) == 0);
    void *heap = coll_heap_take(g, ROOM), *mine = malloc(ROOM);
    WANT(heap != NULL && mine != NULL);
    for (size_t bytes = 8 << 20, k = 0; bytes <= 64 << 20; bytes *= 2, k++) {
        struct all_reduce_case c = {
            .dtype = types[k % 3], .offset = k, .seed = bytes, .symmetric = true};
        c.count = bytes / dtype_bytes(c.dtype);
        WANT(all_reduce_case(g, heap, &c) == 0);
        c.symmetric = false;
        WANT(all_reduce_case(g, mine, &c) == 0);
    }
    for (uint64_t i = 0; i < 3000; i++) {
        uint64_t x = ranks_random(11, 0, i);
        struct all_reduce_case c = {.dtype = types[i % 3],
            .offset = x % 9,
            .count = (x >> 8) % (1u << ((x >> 60) + 4)),
            .op = (x >> 40) % 4 == 0 ? COLL_MAX : COLL_SUM,
            .seed = i,
            .symmetric = (x >> 41) % 2 == 0};
        WANT(all_reduce_case(g, c.symmetric ? heap : mine, &c) == 0);
    }
    coll_destroy(g);
    free(mine);
    return 0;
}

static void test_large(void **state)
{
    (void)state;
    for (uint32_t n = 2; n <= 8; n *= 2)
        assert_int_equal(ranks_fork(n, large, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_large)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
