// SPDX-License-Identifier: Apache-2.0
// In which order samples wait: priority, then the tenant that was served least, then arrival.
#include "coordinator/sched_queue.h"
#include "tests/test_support.h"

#include <stdlib.h>
#include <string.h>

enum { TENANTS = 3, REQUESTS = 300 };

struct fixture {
    struct core *core;
    uint32_t n_requests;
};

static void ignore(void *user, const struct core_out *out)
{
    (void)user, (void)out;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct core_config config = {.emit = ignore,
        .epoch = 1,
        .requests_max = REQUESTS,
        .models_max = 1,
        .groups_max = 1,
        .tenants_max = TENANTS,
        .context_tokens_max = 16,
        .log_bytes = 1 << 16,
        .group_bytes = 1 << 16};
    struct error err = {0};
    assert_int_equal(core_create(&config, &f->core, &err), STATUS_OK);
    f->core->model[0].added = true;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    core_destroy(f->core);
    free(f);
    return 0;
}

// A sample that does not wait yet; it arrives after all that were made before.
static struct core_sample *make(struct fixture *f, uint32_t tenant, int32_t priority)
{
    uint8_t id[REQUEST_ID_BYTES] = {0};
    memcpy(id, &f->n_requests, sizeof f->n_requests);
    f->n_requests++;
    struct core_request *r = core_table_add(f->core, tenant, id);
    assert_non_null(r);
    r->state = REQUEST_LIVE;
    r->priority = priority;
    assert_true(core_table_add_samples(f->core, r, 1));
    sched_queue_tenant_begin(f->core, r);
    return &f->core->sample[r->first_sample];
}

static struct core_sample *wait(struct fixture *f, uint32_t tenant, int32_t priority)
{
    struct core_sample *s = make(f, tenant, priority);
    sched_queue_put(f->core, s);
    assert_int_not_equal(sched_queue_check(f->core, 0), NONE);
    return s;
}

static struct core_sample *next(struct fixture *f)
{
    struct core_sample *s = sched_queue_peek(f->core, 0);
    if (s)
        sched_queue_remove(f->core, s);
    assert_int_not_equal(sched_queue_check(f->core, 0), NONE);
    return s;
}

static void serve(struct fixture *f, uint32_t tenant, uint64_t rows)
{
    f->core->model[0].tenant[tenant].served += rows;
}

static void first_come_first_served(void **state)
{
    struct fixture *f = *state;
    struct core_sample *a = wait(f, 0, 0), *b = wait(f, 0, 0), *c = wait(f, 0, 0);
    assert_ptr_equal(next(f), a);
    assert_ptr_equal(next(f), b);
    assert_ptr_equal(next(f), c);
    assert_null(next(f));
}

static void a_lower_number_is_more_urgent(void **state)
{
    struct fixture *f = *state;
    struct core_sample *normal = wait(f, 0, 0), *later = wait(f, 0, 5), *urgent = wait(f, 1, -1);
    serve(f, 1, 1000000); // fairness does not touch priority
    assert_ptr_equal(next(f), urgent);
    assert_ptr_equal(next(f), normal);
    assert_ptr_equal(next(f), later);
}

static void the_tenant_that_was_served_least_comes_first(void **state)
{
    struct fixture *f = *state;
    struct core_sample *a = wait(f, 0, 0), *b = wait(f, 0, 0), *c = wait(f, 1, 0);
    serve(f, 0, 10);
    assert_ptr_equal(next(f), c);
    serve(f, 1, 20);
    assert_ptr_equal(next(f), a);
    assert_ptr_equal(next(f), b);
}

static void being_away_earns_no_credit(void **state)
{
    struct fixture *f = *state;
    struct core_sample *a = wait(f, 0, 0);
    serve(f, 0, 1000);
    struct core_sample *newcomer = wait(f, 1, 0);
    assert_int_equal(f->core->model[0].tenant[1].served, 1000);
    assert_ptr_equal(next(f), a); // level, so arrival decides
    assert_ptr_equal(next(f), newcomer);
}

static void a_preempted_sample_keeps_its_place(void **state)
{
    struct fixture *f = *state;
    struct core_sample *first = wait(f, 0, 0), *second = wait(f, 0, 0);
    assert_ptr_equal(next(f), first);
    struct core_sample *third = wait(f, 0, 0);
    sched_queue_put(f->core, first);
    assert_ptr_equal(next(f), first);
    assert_ptr_equal(next(f), second);
    assert_ptr_equal(next(f), third);
}

static void suspects_wait_apart(void **state)
{
    struct fixture *f = *state;
    struct core_sample *suspect = make(f, 0, 0), *other = wait(f, 0, 0);
    suspect->suspect = true;
    sched_queue_put(f->core, suspect);
    assert_ptr_equal(sched_queue_peek(f->core, 0), other);
    assert_ptr_equal(sched_queue_peek_suspect(f->core, 0), suspect);
    sched_queue_remove(f->core, suspect);
    assert_null(sched_queue_peek_suspect(f->core, 0));
}

// Samples enter and leave anywhere in the heap; a sorted array is the oracle.
static void the_heap_agrees_with_a_sorted_array(void **state)
{
    struct fixture *f = *state;
    struct core_sample *waiting[REQUESTS];
    uint32_t n = 0, rng = 1;
    for (uint32_t round = 0; round < 3 * REQUESTS; round++) {
        rng = rng * 1664525 + 1013904223;
        if (f->n_requests < REQUESTS && (n == 0 || rng >> 30 != 0)) {
            waiting[n++] = wait(f, 0, (int32_t)(rng >> 8 & 3));
        } else if (n > 0) {
            uint32_t i = (rng >> 8) % n;
            sched_queue_remove(f->core, waiting[i]);
            waiting[i] = waiting[--n];
        }
        struct core_sample *best = n ? waiting[0] : NULL;
        for (uint32_t i = 1; i < n; i++) {
            int32_t p = f->core->request[waiting[i]->request].priority;
            int32_t q = f->core->request[best->request].priority;
            if (p < q || (p == q && waiting[i]->arrival < best->arrival))
                best = waiting[i];
        }
        assert_ptr_equal(sched_queue_peek(f->core, 0), best);
        assert_int_equal(sched_queue_check(f->core, 0), n);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(first_come_first_served),
        TEST(a_lower_number_is_more_urgent),
        TEST(the_tenant_that_was_served_least_comes_first),
        TEST(being_away_earns_no_credit),
        TEST(a_preempted_sample_keeps_its_place),
        TEST(suspects_wait_apart),
        TEST(the_heap_agrees_with_a_sorted_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
