// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include "tests/collectives/all_reduce_cases.h"

#include "collectives/group.h"

#include <stdlib.h>
#include <string.h>

enum { BIG = 4 << 20, ROOM = BIG + 4096 };

static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

// Every size from 0 to 300 at odd offsets, all types and operations, where they lie in the heap
// and where they do not.
static int small_sizes(struct coll_group *g, void *heap, void *mine)
{
    for (size_t n = 0; n <= 300; n += RANKS_SLOWNESS)
        for (size_t k = 0; k < 6; k++) {
            struct all_reduce_case c = {.count = n,
                .offset = n * 5 % 7,
                .dtype = types[k % 3],
                .op = k < 3 ? COLL_SUM : COLL_MAX,
                .integers = n % 3 == 0,
                .seed = n * 6 + k};
            if (all_reduce_case(g, mine, &c) != 0)
                return 1;
            c.symmetric = true;
            if (all_reduce_case(g, heap, &c) != 0)
                return 1;
        }
    return 0;
}

static int powers_of_two(struct coll_group *g, void *heap, void *mine)
{
    for (size_t bytes = 512, turn = 0; bytes <= BIG; bytes *= 2, turn++)
        for (size_t off = 0; off < 2; off++) {
            struct all_reduce_case c = {.dtype = types[turn % 3],
                .offset = off * 3,
                .seed = bytes + off,
                .symmetric = true};
            c.count = bytes / dtype_bytes(c.dtype) + off;
            if (all_reduce_case(g, heap, &c) != 0)
                return 1;
            c.symmetric = false;
            if (all_reduce_case(g, mine, &c) != 0)
                return 1;
        }
    return 0;
}

static int sweep(struct bootstrap *b, void *context)
{
    struct coll_group *g;
    WANT(ranks_group(b, ROOM, 20000 * RANKS_SLOWNESS, &g) == 0);
    void *heap = coll_heap_take(g, ROOM), *mine = malloc(ROOM);
    WANT(heap != NULL && mine != NULL && coll_size(g) == b->size && coll_rank(g) == b->rank);
    WANT(small_sizes(g, heap, mine) == 0);
    WANT(context != NULL || powers_of_two(g, heap, mine) == 0);
    WANT_OK(coll_barrier(g, NULL));
    coll_destroy(g);
    free(mine);
    return 0;
}

static void test_processes(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 8; n = n < 3 ? n + 1 : n == 3 ? 4 : n * 2)
        assert_int_equal(ranks_fork(n, sweep, NULL, 0), 0);
}

static void test_threads(void **state)
{
    (void)state;
    int quick = 1;
    for (uint32_t n = 1; n <= 8; n *= 2)
        assert_int_equal(ranks_threads(n, sweep, n == 2 ? NULL : &quick), 0);
}

// Ranks that have cores of their own ask for peers' lines ahead: sizes around what they ask for at
// once, and slices whose ends differ.
static int spinning(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    struct coll_args args = {
        .heap_bytes = 1 << 20, .timeout_ms = 20000 * RANKS_SLOWNESS, .spin = true};
    WANT_OK(coll_create(b, &args, &g, NULL));
    void *heap = coll_heap_take(g, 1 << 20);
    for (uint64_t i = 0; i < 60; i++) {
        struct all_reduce_case c = {.dtype = types[i % 3],
            .op = i % 2 == 0 ? COLL_SUM : COLL_MAX,
            .offset = i % 5,
            .symmetric = i % 4 != 3,
            .seed = i};
        size_t bytes = (1 + i % 20) * b->size * SHM_ASK_BYTES;
        c.count = bytes / dtype_bytes(c.dtype) - 70 + ranks_random(9, i, 0) % 140;
        WANT(all_reduce_case(g, heap, &c) == 0);
    }
    coll_destroy(g);
    return 0;
}

static void test_spinning(void **state)
{
    (void)state;
    for (uint32_t n = 2; n <= 4; n++)
        assert_int_equal(ranks_fork(n, spinning, NULL, 0), 0);
    assert_int_equal(ranks_threads(2, spinning, NULL), 0);
}

// A world of eight, and in it groups of 1, 2, 4 and 1 ranks, each with its own heap and epochs; the
// groups go on at different paces, with the world's operations between.
static int side_by_side(struct bootstrap *b, void *context)
{
    (void)context;
    static const uint32_t colour[] = {0, 1, 1, 2, 2, 2, 2, 3};
    struct bootstrap *part;
    struct coll_group *world, *g;
    WANT_OK(b->split(b, colour[b->rank], &part, NULL));
    WANT(ranks_group(b, 1 << 16, 20000 * RANKS_SLOWNESS, &world) == 0);
    WANT(ranks_group(part, 1 << 16, 20000 * RANKS_SLOWNESS, &g) == 0);
    void *in_world = coll_heap_take(world, 1 << 16), *in_part = coll_heap_take(g, 1 << 16);
    for (uint64_t i = 0; i < 60; i++) {
        struct all_reduce_case c = {
            .count = 1 + i * 97 % 4000, .dtype = types[i % 3], .symmetric = i % 2 == 0, .seed = i};
        for (uint32_t k = 0; k <= colour[b->rank]; k++) {
            c.seed = i * 8 + k;
            WANT(all_reduce_case(g, in_part, &c) == 0);
        }
        c.seed = i;
        WANT(all_reduce_case(world, in_world, &c) == 0);
    }
    coll_destroy(world);
    coll_destroy(g);
    part->close(part);
    return 0;
}

static void test_side_by_side(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(8, side_by_side, NULL, 0), 0);
    assert_int_equal(ranks_threads(8, side_by_side, NULL), 0);
}

static int wrap(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, 1 << 16, 20000 * RANKS_SLOWNESS, &g) == 0);
    void *heap = coll_heap_take(g, 1 << 16);
    for (uint32_t before = 0; before < 12; before++) {
        WANT_OK(b->barrier(b, NULL));
        shm_set_epoch(g, 0u - before);
        WANT_OK(b->barrier(b, NULL));
        for (uint64_t i = 0; i < 12; i++) {
            struct all_reduce_case c = {
                .count = 1 + i * 977, .symmetric = i % 2 == 0, .seed = i + before * 100};
            WANT(all_reduce_case(g, heap, &c) == 0);
            WANT_OK(coll_broadcast(g, heap, 100, (uint32_t)i % b->size, NULL));
        }
    }
    coll_destroy(g);
    return 0;
}

static void test_wrap(void **state)
{
    (void)state;
    for (uint32_t n = 2; n <= 4; n++)
        assert_int_equal(ranks_fork(n, wrap, NULL, 0), 0);
}

// The algorithm must not show in the bits: tables that force each of them.
static int forced(struct bootstrap *b, void *file)
{
    struct coll_group *g;
    struct error err = {0};
    struct coll_args args = {
        .heap_bytes = 1 << 19, .timeout_ms = 20000 * RANKS_SLOWNESS, .tuning_file = file};
    WANT_OK(coll_create(b, &args, &g, &err));
    void *heap = coll_heap_take(g, 1 << 19);
    for (uint64_t i = 0; i < 200; i++) {
        struct all_reduce_case c = {.count = 1 + i * i % 65000,
            .dtype = types[i % 3],
            .op = i % 5 == 0 ? COLL_MAX : COLL_SUM,
            .symmetric = i % 2 == 0,
            .seed = i};
        WANT(all_reduce_case(g, heap, &c) == 0);
    }
    char text[200];
    coll_explain(g, "all_reduce", 1000, true, text, sizeof text);
    WANT(strstr(text, file == NULL ? "built-in" : "given") != NULL);
    coll_destroy(g);
    return 0;
}

static void write_table(char *path, const char *text)
{
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_algorithms(void **state)
{
    (void)state;
    char one[] = "/tmp/phalanx-test-one-XXXXXX", two[] = "/tmp/phalanx-test-two-XXXXXX";
    write_table(one, "# all by one shot\nhost * all_reduce private inf one_shot\n\n"
                     "  host * all_reduce symmetric inf one_shot # too\n");
    write_table(
        two, "host 3 all_reduce private 1 one_shot\nhost * all_reduce symmetric 1 one_shot");
    for (uint32_t n = 2; n <= 4; n++) {
        assert_int_equal(ranks_fork(n, forced, one, 0), 0);
        assert_int_equal(ranks_fork(n, forced, two, 0), 0);
    }
    remove(one);
    remove(two);
}

static int misuse(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    float x[4] = {0};
    WANT(ranks_group(b, 4096, 20000 * RANKS_SLOWNESS, &g) == 0);
    struct coll_all_reduce_args a = {.buffer = x, .count = 4, .symmetric = true};
    WANT(coll_all_reduce(g, &a) == STATUS_INVALID);
    WANT(strstr(coll_error(g)->text, "heap") != NULL);
    a.symmetric = false;
    a.dtype = DTYPE_I32;
    WANT(coll_all_reduce(g, &a) == STATUS_UNSUPPORTED);
    a.dtype = DTYPE_F32;
    a.count = SIZE_MAX / 2;
    WANT(coll_all_reduce(g, &a) == STATUS_TOO_LARGE);
    a.count = 4;
    WANT_OK(coll_all_reduce(g, &a)); // refusals are not sticky
    uint8_t *p = coll_heap_take(g, 1), *q = coll_heap_take(g, 4096 - 128);
    WANT(p != NULL && q == p + 128 && coll_heap_take(g, 1) == NULL);
    WANT(coll_heap_holds(g, p, 4096) && !coll_heap_holds(g, p, 4097));
    WANT(!coll_heap_holds(g, p - 1, 1) && coll_heap_holds(g, p + 4096, 0));
    for (size_t i = 0; i < 4096; i++)
        WANT(p[i] == 0);
    coll_destroy(g);
    return 0;
}

static void test_misuse(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, misuse, NULL, 0), 0);
    assert_int_equal(ranks_threads(1, misuse, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_spinning),
        cmocka_unit_test(test_side_by_side),
        cmocka_unit_test(test_wrap),
        cmocka_unit_test(test_algorithms),
        cmocka_unit_test(test_misuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
