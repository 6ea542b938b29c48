// SPDX-License-Identifier: Apache-2.0
// Collectives out of the plugins, as a worker finds them: libphalanx_emu.so sums over ranks, and
// libphalanx_cuda.so says on a machine without a device what is missing.
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"

#include "base/clock.h"
#include "collectives/cuda/plugin.h"
#include "kernels/plugin.h"

#include <string.h>

static const struct coll_plugin *find(const char *name, const struct plugin **out)
{
    struct error err = {0};
    const struct plugin *p = NULL;
    if (plugin_load(name, &p, &err) != STATUS_OK) {
        print_message("skipped: %s\n", err.text);
        return NULL;
    }
    const struct coll_plugin *c = p->kernels->collectives;
    assert_non_null(c);
    assert_int_equal(c->version, COLL_PLUGIN_VERSION);
    *out = p;
    return c;
}

static enum status settle(struct coll_group *g, const struct coll_device *d)
{
    enum status s = STATUS_AGAIN;
    while (s == STATUS_AGAIN && coll_poll(g) == STATUS_OK)
        s = d->query(d->context, NULL);
    return s == STATUS_OK ? coll_poll(g) : s;
}

static int sums(struct bootstrap *b, void *context)
{
    const struct coll_plugin *p = context;
    struct coll_device d;
    struct coll_group *g;
    float x[100], want[100];
    WANT_OK(p->open(
        &(struct coll_plugin_args){.capability = 80, .blocks = 2, .threads = 32}, &d, NULL));
    WANT_OK(coll_create(
        b, &(struct coll_args){.device = &d, .heap_bytes = 4096, .timeout_ms = 20000}, &g, NULL));
    WANT(strcmp(coll_backend_name(g), "cuda") == 0);
    float *heap = coll_heap_take(g, sizeof x);
    ranks_fill(x, 100, DTYPE_F32, 1, b->rank, false);
    ranks_expect(want, 100, DTYPE_F32, COLL_SUM, 1, b->size, false);
    WANT_OK(d.copy(d.context, heap, x, sizeof x, NULL));
    WANT_OK(coll_all_reduce(
        g, &(struct coll_all_reduce_args){.buffer = heap, .count = 100, .symmetric = true}));
    WANT_OK(d.copy(d.context, x, heap, sizeof x, NULL));
    WANT_OK(settle(g, &d));
    WANT(memcmp(x, want, sizeof x) == 0);
    WANT_OK(b->barrier(b, NULL));
    coll_destroy(g);
    p->close(&d);
    return 0;
}

static void test_emulated(void **state)
{
    (void)state;
    const struct plugin *p;
    const struct coll_plugin *c = find("emu", &p);
    if (c == NULL)
        return;
    assert_int_equal(ranks_fork(2, sums, (void *)(uintptr_t)c, 0), 0);
    assert_int_equal(ranks_threads(3, sums, (void *)(uintptr_t)c), 0);
}

static int no_device(struct bootstrap *b, void *context)
{
    const struct coll_plugin *p = context;
    struct coll_device d;
    struct coll_group *g = NULL;
    struct error err = {0};
    WANT_OK(p->open(&(struct coll_plugin_args){.capability = 80}, &d, NULL));
    enum status s = coll_create(b,
        &(struct coll_args){
            .backend = "cuda", .device = &d, .heap_bytes = 4096, .timeout_ms = 5000},
        &g, &err);
    WANT(s == STATUS_UNSUPPORTED || s == STATUS_DEVICE_FAILED);
    WANT(g == NULL && strstr(err.text, "device memory cannot be shared") != NULL);
    p->close(&d);
    return 0;
}

static void test_without_a_device(void **state)
{
    (void)state;
    struct error err = {0};
    uint32_t n;
    const struct plugin *p;
    const struct coll_plugin *c = find("cuda", &p);
    if (c == NULL)
        return;
    if (p->devices(NULL, &n, &err) == STATUS_OK) {
        print_message("skipped: there is a device\n");
        return;
    }
    assert_int_equal(ranks_threads(2, no_device, (void *)(uintptr_t)c), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_emulated),
        cmocka_unit_test(test_without_a_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
