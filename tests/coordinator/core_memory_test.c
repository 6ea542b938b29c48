// SPDX-License-Identifier: Apache-2.0
// All memory of the core is taken by core_create, which says so when there is too little. That
// core_step takes none is a matter of the simulation (sim_memory.c).
#include "coordinator/core.h"
#include "tests/test_support.h"

#include <stdlib.h>

static uint64_t n_left;  // allocations that succeed
static int64_t n_blocks; // not given back

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void __real_free(void *memory);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void __wrap_free(void *memory);

static bool may_take(void)
{
    if (n_left == 0)
        return false;
    n_left--;
    n_blocks++;
    return true;
}

void *__wrap_malloc(size_t n)
{
    return may_take() ? __real_malloc(n) : NULL;
}

void *__wrap_calloc(size_t count, size_t n)
{
    return may_take() ? __real_calloc(count, n) : NULL;
}

void __wrap_free(void *memory)
{
    n_blocks -= memory != NULL;
    __real_free(memory);
}

static void ignore(void *user, const struct core_out *out)
{
    (void)user, (void)out;
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    struct core_config config = {.emit = ignore,
        .requests_max = 4,
        .models_max = 2,
        .groups_max = 2,
        .tenants_max = 2,
        .context_tokens_max = 16,
        .log_bytes = 1 << 16,
        .group_bytes = 1 << 16};
    enum status status = STATUS_NO_MEMORY;
    uint64_t n = 0;
    for (; status != STATUS_OK; n++) {
        struct core *core = NULL;
        struct error err = {0};
        n_left = n;
        n_blocks = 0;
        status = core_create(&config, &core, &err);
        n_left = UINT64_MAX;
        assert_true(status == STATUS_OK || status == STATUS_NO_MEMORY);
        assert_int_equal(core != NULL, status == STATUS_OK);
        core_destroy(core);
        assert_int_equal(n_blocks, 0);
    }
    assert_true(n > 10);
}

static void numbers_over_their_limits_are_refused(void **state)
{
    (void)state;
    struct core_config config = {.emit = ignore, .requests_max = LIMIT_REQUESTS + 1};
    struct core *core = NULL;
    struct error err = {0};
    assert_int_equal(core_create(&config, &core, &err), STATUS_INVALID);
    assert_null(core);
    assert_true(err.text[0] != 0);
}

int main(void)
{
    n_left = UINT64_MAX;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_allocation_may_fail),
        cmocka_unit_test(numbers_over_their_limits_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
