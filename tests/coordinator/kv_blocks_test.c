// SPDX-License-Identifier: Apache-2.0
// Who owns a KV block, and which one is taken next.
#include "coordinator/kv_blocks.h"
#include "coordinator/prefix.h"
#include "tests/test_support.h"

#include <stdlib.h>

enum { N = 4, BLOCK_TOKENS = 2 };

struct fixture {
    struct kv_blocks kv;
    void *memory;
    uint32_t refs[N]; // what the test believes
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->memory = malloc(kv_blocks_bytes(N, BLOCK_TOKENS));
    kv_blocks_init(&f->kv, N, BLOCK_TOKENS, f->memory);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    assert_true(kv_blocks_check(&f->kv, f->refs));
    free(f->memory);
    free(f);
    return 0;
}

static uint32_t take(struct fixture *f)
{
    uint32_t b = kv_blocks_take(&f->kv);
    if (b != KV_BLOCKS_NONE)
        f->refs[b]++;
    assert_true(kv_blocks_check(&f->kv, f->refs));
    return b;
}

static bool give(struct fixture *f, uint32_t b)
{
    f->refs[b]--;
    bool freed = kv_blocks_give(&f->kv, b);
    assert_true(kv_blocks_check(&f->kv, f->refs));
    return freed;
}

static void share(struct fixture *f, uint32_t b)
{
    f->refs[b]++;
    kv_blocks_share(&f->kv, b);
    assert_true(kv_blocks_check(&f->kv, f->refs));
}

// Enters a block under a key of its own.
static void cache(struct fixture *f, uint32_t b)
{
    uint32_t ids[BLOCK_TOKENS] = {b, b};
    prefix_put(&f->kv, b, (struct hash128){b + 1, 0}, (struct hash128){0, 0}, ids);
}

static uint32_t find(struct fixture *f, uint32_t b)
{
    uint32_t ids[BLOCK_TOKENS] = {b, b};
    return prefix_find(&f->kv, (struct hash128){b + 1, 0}, (struct hash128){0, 0}, ids);
}

static void all_blocks_can_be_taken_once(void **state)
{
    struct fixture *f = *state;
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(take(f), i);
    assert_int_equal(take(f), KV_BLOCKS_NONE);
    assert_int_equal(f->kv.n_free, 0);
    for (uint32_t i = 0; i < N; i++)
        assert_true(give(f, i));
    assert_int_equal(f->kv.n_free, N);
}

static void a_shared_block_is_free_when_the_last_user_gives_it(void **state)
{
    struct fixture *f = *state;
    uint32_t b = take(f);
    share(f, b);
    share(f, b);
    assert_false(give(f, b));
    assert_false(give(f, b));
    assert_true(give(f, b));
}

static void blocks_without_content_are_taken_before_cached_ones(void **state)
{
    struct fixture *f = *state;
    uint32_t a = take(f), b = take(f);
    cache(f, a);
    give(f, a);
    give(f, b);
    assert_int_equal(take(f), b); // it holds nothing worth keeping
    take(f), take(f);
    assert_int_equal(find(f, a), a); // still there, though free
    assert_int_equal(take(f), a);
    assert_int_equal(find(f, a), KV_BLOCKS_NONE); // evicted by being taken
}

static void among_cached_blocks_the_one_given_first_goes_first(void **state)
{
    struct fixture *f = *state;
    for (uint32_t i = 0; i < N; i++)
        cache(f, take(f));
    give(f, 2);
    give(f, 0);
    give(f, 1);
    assert_int_equal(take(f), 2);
    assert_int_equal(take(f), 0);
}

static void a_hit_takes_a_free_block_back_into_use(void **state)
{
    struct fixture *f = *state;
    uint32_t b = take(f);
    cache(f, b);
    give(f, b);
    share(f, find(f, b));
    assert_int_equal(f->kv.n_free, N - 1);
    for (uint32_t i = 0; i < N - 1; i++)
        assert_int_not_equal(take(f), b);
    assert_int_equal(take(f), KV_BLOCKS_NONE);
    assert_int_equal(find(f, b), b);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(all_blocks_can_be_taken_once),
        TEST(a_shared_block_is_free_when_the_last_user_gives_it),
        TEST(blocks_without_content_are_taken_before_cached_ones),
        TEST(among_cached_blocks_the_one_given_first_goes_first),
        TEST(a_hit_takes_a_free_block_back_into_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
