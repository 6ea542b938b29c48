// SPDX-License-Identifier: Apache-2.0
// A block is found by all that its bytes depend on: its ids, the ids before it, and the extra that
// the chain begins with.
#include "coordinator/prefix.h"
#include "tests/test_support.h"

#include <stdlib.h>

enum { N = 8, BLOCK_TOKENS = 4 };

static const struct hash_key secret = {17, 4};
static const uint32_t hello[BLOCK_TOKENS] = {1, 2, 3, 4}, world[BLOCK_TOKENS] = {5, 6, 7, 8};

struct fixture {
    struct kv_blocks kv;
    void *memory;
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
    free(f->memory);
    free(f);
    return 0;
}

static bool same(struct hash128 a, struct hash128 b)
{
    return a.lo == b.lo && a.hi == b.hi;
}

static struct hash128 next(struct hash128 parent, const uint32_t *ids)
{
    return prefix_next(secret, parent, ids, BLOCK_TOKENS);
}

static uint32_t enter(struct fixture *f, struct hash128 parent, const uint32_t *ids)
{
    uint32_t b = kv_blocks_take(&f->kv);
    prefix_put(&f->kv, b, next(parent, ids), parent, ids);
    return b;
}

static uint32_t find(struct fixture *f, struct hash128 parent, const uint32_t *ids)
{
    return prefix_find(&f->kv, next(parent, ids), parent, ids);
}

static void the_chain_begins_with_all_that_must_not_be_shared(void **state)
{
    (void)state;
    struct prefix_extra plain = {.tenant = 1};
    struct hash128 root = prefix_root(secret, &plain);
    struct prefix_extra others[] = {{.tenant = 2}, {.tenant = 1, .adapter = 1},
        {.tenant = 1, .kv_format = 1}, {.tenant = 1, .salt = {1, 0}}};
    assert_true(same(root, prefix_root(secret, &plain)));
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        assert_false(same(root, prefix_root(secret, &others[i])));
    assert_false(same(root, prefix_root((struct hash_key){17, 5}, &plain)));
}

static void a_block_is_found_after_the_same_prefix_only(void **state)
{
    struct fixture *f = *state;
    struct hash128 root = prefix_root(secret, &(struct prefix_extra){.tenant = 1});
    uint32_t first = enter(f, root, hello), second = enter(f, next(root, hello), world);
    assert_int_equal(find(f, root, hello), first);
    assert_int_equal(find(f, next(root, hello), world), second);
    assert_int_equal(find(f, root, world), KV_BLOCKS_NONE);
    assert_int_equal(find(f, next(root, world), world), KV_BLOCKS_NONE);
    struct hash128 stranger = prefix_root(secret, &(struct prefix_extra){.tenant = 2});
    assert_int_equal(find(f, stranger, hello), KV_BLOCKS_NONE);
}

static void equal_keys_are_not_believed_without_equal_tokens(void **state)
{
    struct fixture *f = *state;
    struct hash128 root = {0, 0}, key = {42, 42};
    uint32_t b = kv_blocks_take(&f->kv);
    prefix_put(&f->kv, b, key, root, hello);
    assert_int_equal(prefix_find(&f->kv, key, root, hello), b);
    assert_int_equal(prefix_find(&f->kv, key, root, world), KV_BLOCKS_NONE);
    assert_int_equal(prefix_find(&f->kv, key, (struct hash128){1, 0}, hello), KV_BLOCKS_NONE);
}

static void the_first_of_two_equal_blocks_stays(void **state)
{
    struct fixture *f = *state;
    struct hash128 root = prefix_root(secret, &(struct prefix_extra){0});
    uint32_t first = enter(f, root, hello), copy = enter(f, root, hello);
    assert_int_equal(find(f, root, hello), first);
    assert_false(f->kv.block[copy].cached);
}

static void a_dropped_block_leaves_the_others_of_its_bucket(void **state)
{
    struct fixture *f = *state;
    struct hash128 root = {0, 0};
    uint32_t b[3];
    for (uint32_t i = 0; i < 3; i++) { // one bucket: the same low bits
        b[i] = kv_blocks_take(&f->kv);
        prefix_put(&f->kv, b[i], (struct hash128){N * i, i}, root, hello);
    }
    prefix_drop(&f->kv, b[1]);
    assert_int_equal(prefix_find(&f->kv, (struct hash128){0, 0}, root, hello), b[0]);
    assert_int_equal(prefix_find(&f->kv, (struct hash128){N, 1}, root, hello), KV_BLOCKS_NONE);
    assert_int_equal(prefix_find(&f->kv, (struct hash128){2 * N, 2}, root, hello), b[2]);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(the_chain_begins_with_all_that_must_not_be_shared),
        TEST(a_block_is_found_after_the_same_prefix_only),
        TEST(equal_keys_are_not_believed_without_equal_tokens),
        TEST(the_first_of_two_equal_blocks_stays),
        TEST(a_dropped_block_leaves_the_others_of_its_bucket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
