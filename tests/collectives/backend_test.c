// SPDX-License-Identifier: Apache-2.0
// One table of back ends: each passes the same cases; which one serves a group is the same on all
// ranks and can be explained; what cannot be loaded says so.
#include "tests/test_support.h"

#include "tests/collectives/op_cases.h"

#include "base/clock.h"
#include "collectives/device_host.h"
#include "collectives/group.h"
#include "collectives/nccl_load.h"

#include <string.h>
#include <unistd.h>

#if defined(HAVE_NCCL_H)
#include <nccl.h>
_Static_assert((int)ncclUint8 == NCCL_UINT8 && (int)ncclFloat16 == NCCL_F16, "types");
_Static_assert((int)ncclFloat32 == NCCL_F32 && (int)ncclBfloat16 == NCCL_BF16, "types");
_Static_assert((int)ncclSum == NCCL_SUM && (int)ncclMax == NCCL_MAX, "operations");
_Static_assert((int)ncclSuccess == NCCL_OK && (int)ncclInProgress == NCCL_IN_PROGRESS, "results");
_Static_assert(sizeof(ncclUniqueId) == sizeof(struct nccl_id), "identifiers");
_Static_assert(offsetof(ncclConfig_t, blocking) == offsetof(struct nccl_config, blocking) &&
                   offsetof(ncclConfig_t, version) == offsetof(struct nccl_config, version),
    "settings");
#endif

static const struct coll_args fake_nccl = {.backend = "nccl",
    .device = &device_host,
    .heap_bytes = OP_CASES_HEAP_BYTES,
    .timeout_ms = 20000,
    .nccl_library = FAKE_NCCL};

static int all_cases(struct bootstrap *b, void *context)
{
    struct coll_args args = *(const struct coll_args *)context;
    struct coll_group *g;
    struct error err = {0};
    enum status s = coll_create(b, &args, &g, &err);
    if (s != STATUS_OK)
        fprintf(stderr, "%s\n", err.text);
    WANT(s == STATUS_OK && strcmp(coll_backend_name(g), args.backend) == 0);
    WANT(op_cases(g) == 0);
    WANT_OK(b->barrier(b, NULL));
    coll_destroy(g);
    return 0;
}

static void test_shm(void **state)
{
    (void)state;
    struct coll_args args = {
        .backend = "shm", .heap_bytes = OP_CASES_HEAP_BYTES, .timeout_ms = 20000};
    for (uint32_t n = 1; n <= 8; n *= 2)
        assert_int_equal(ranks_fork(n, all_cases, &args, 0), 0);
    assert_int_equal(ranks_threads(3, all_cases, &args), 0);
}

static void test_nccl(void **state)
{
    (void)state;
    struct coll_args args = fake_nccl;
    for (uint32_t n = 1; n <= 8; n = n * 2 + (n == 2)) // 1, 2, 5
        assert_int_equal(ranks_threads(n, all_cases, &args), 0);
}

// Members call different things: at least one of them sees it and all get an error, although NCCL
// itself would wait for ever.
static int nccl_mismatch(struct bootstrap *b, void *context)
{
    struct coll_args args = fake_nccl;
    struct coll_group *g;
    float x[64] = {0};
    (void)context;
    WANT_OK(coll_create(b, &args, &g, NULL));
    WANT_OK(coll_barrier(g, NULL));
    uint64_t start = clock_now_us();
    // Of equal sizes, so that nothing but the signature tells them apart.
    enum status s =
        coll_all_reduce(g, &(struct coll_all_reduce_args){
                               .buffer = x, .count = 64, .op = b->rank == 1 ? COLL_MAX : COLL_SUM});
    for (int i = 0; i < 1000 && s == STATUS_OK; i++) {
        clock_sleep_us(1000);
        s = coll_poll(g);
    }
    WANT(s == STATUS_MISMATCH);
    WANT(clock_now_us() - start < 5000000);
    WANT(coll_barrier(g, NULL) == s);
    WANT_OK(b->barrier(b, NULL));
    coll_destroy(g);
    return 0;
}

// A native reduction is inexact, says so, and is used only where it was allowed.
static int nccl_native(struct bootstrap *b, void *context)
{
    struct coll_args args = fake_nccl;
    struct coll_group *g;
    char text[200];
    (void)context;
    args.native = true;
    WANT_OK(coll_create(b, &args, &g, NULL));
    coll_explain(g, "all_reduce", 4096, false, text, sizeof text);
    WANT(strstr(text, "nccl") != NULL && strstr(text, "inexact") != NULL);
    float x[100], want[100];
    ranks_fill(x, 100, DTYPE_F32, 5, b->rank, true);
    ranks_expect(want, 100, DTYPE_F32, COLL_SUM, 5, b->size, true);
    WANT_OK(coll_all_reduce(g, &(struct coll_all_reduce_args){.buffer = x, .count = 100}));
    WANT(memcmp(x, want, sizeof x) == 0); // integers are exact in any order
    WANT_OK(b->barrier(b, NULL));
    coll_destroy(g);
    args.native = false;
    WANT_OK(coll_create(b, &args, &g, NULL));
    coll_explain(g, "all_reduce", 4096, false, text, sizeof text);
    WANT(strstr(text, "inexact") == NULL);
    WANT_OK(b->barrier(b, NULL));
    coll_destroy(g);
    return 0;
}

static enum status counted(void *context, void *stream)
{
    (void)stream;
    ++*(int *)context;
    return STATUS_OK;
}

// The device as it is while a stream is captured: nothing may be asked of it or be taken. A native
// sum has no use for it, so it can be captured; what is captured is all that NCCL enqueues.
static int nccl_captured(struct bootstrap *b, void *context)
{
    int asked = 0;
    struct coll_device device = device_host;
    struct coll_args args = fake_nccl;
    struct coll_group *g;
    (void)context;
    args.device = &device;
    args.native = true;
    WANT_OK(coll_create(b, &args, &g, NULL));
    device = (struct coll_device){.context = &asked, .arch = "host", .query = counted};
    float x = (float)b->rank;
    for (int i = 0; i < 3; i++)
        WANT_OK(coll_all_reduce(g, &(struct coll_all_reduce_args){.buffer = &x, .count = 1}));
    WANT(asked == 0);
    WANT(!coll_can_be_recorded(g)); // which promises that polls watch replays, too
    WANT_OK(coll_poll(g));
    WANT(asked == 1);
    device = device_host;
    WANT_OK(b->barrier(b, NULL));
    coll_destroy(g);
    return 0;
}

static enum status stuck(void *context, void *stream)
{
    (void)context;
    (void)stream;
    return STATUS_AGAIN;
}

// What was enqueued never ends: the caller that polls gets the deadline's error, or the news that a
// peer has left, and the group is over.
static int nccl_stuck(struct bootstrap *b, void *context)
{
    struct coll_device device = device_host;
    struct coll_args args = fake_nccl;
    struct coll_group *g;
    bool leaves = *(const bool *)context;
    device.query = stuck;
    args.device = &device;
    args.timeout_ms = leaves ? 20000 : 200;
    WANT_OK(coll_create(b, &args, &g, NULL));
    WANT_OK(coll_barrier(g, NULL));
    WANT_OK(b->barrier(b, NULL));
    if (leaves && b->rank == 1) {
        coll_destroy(g);
        return 0;
    }
    uint64_t start = clock_now_us();
    enum status s = coll_poll(g);
    while (s == STATUS_OK && clock_now_us() - start < 5000000) {
        clock_sleep_us(1000);
        s = coll_poll(g);
    }
    WANT(s == (leaves ? STATUS_PEER_GONE : STATUS_TIMEOUT));
    WANT(coll_barrier(g, NULL) == s);
    coll_destroy(g);
    return 0;
}

static void test_nccl_errors(void **state)
{
    (void)state;
    struct nccl n;
    struct error err = {0};
    assert_int_equal(nccl_load("/nonexistent/libnccl.so", &n, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "NCCL cannot be loaded"));
    assert_int_equal(nccl_load("libm.so.6", &n, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "libm.so.6 has no ncclGetVersion"));
    for (uint32_t size = 2; size <= 4; size++) {
        assert_int_equal(ranks_threads(size, nccl_mismatch, NULL), 0);
        assert_int_equal(ranks_threads(size, nccl_native, NULL), 0);
        assert_int_equal(ranks_threads(size, nccl_captured, NULL), 0);
        for (int leaves = 0; leaves < 2; leaves++)
            assert_int_equal(ranks_threads(size, nccl_stuck, &(bool){leaves != 0}), 0);
    }
}

static enum status never(const struct coll_args *args, struct error *err)
{
    bool fails = *(const bool *)args->device->context;
    return fails ? status_fail(err, STATUS_UNSUPPORTED, "planted") : STATUS_OK;
}

// Two candidates; the preferred one cannot be used on one rank: all ranks take the other, or all
// fail where it was demanded.
static int choice(struct bootstrap *b, void *context)
{
    struct coll_backend preferred = backend_nccl;
    const struct coll_backend *more[] = {&preferred, NULL};
    bool fails = b->rank == b->size - 1;
    struct coll_device device = device_host;
    struct coll_args args = fake_nccl;
    struct coll_group *g = NULL;
    struct error err = {0};
    char text[200];
    (void)context;
    device.context = &fails;
    preferred.name = "cuda";
    preferred.probe = never;
    args.device = &device;
    args.more = more;
    args.backend = "cuda";
    WANT(coll_create(b, &args, &g, &err) == STATUS_UNSUPPORTED && g == NULL);
    WANT((strstr(err.text, "planted") != NULL) == fails);
    args.backend = "auto";
    WANT_OK(coll_create(b, &args, &g, &err));
    WANT(strcmp(coll_backend_name(g), "nccl") == 0);
    coll_explain(g, "all_reduce", 100, false, text, sizeof text);
    WANT(strncmp(text, "all_reduce: nccl one_shot for 100 private bytes", 47) == 0);
    WANT_OK(b->barrier(b, NULL));
    coll_destroy(g);
    // Ranks that ask for different ones all fail; nobody waits.
    args = (struct coll_args){.backend = fails ? "auto" : "shm"};
    args.device = NULL;
    args.more = fails ? NULL : more;
    WANT_OK(coll_create(b, &args, &g, &err)); // both mean shm
    coll_destroy(g);
    args.backend = fails ? "cuda" : "shm";
    WANT(coll_create(b, &args, &g, &err) == STATUS_UNSUPPORTED);
    return 0;
}

static void test_choice(void **state)
{
    (void)state;
    assert_int_equal(ranks_threads(2, choice, NULL), 0);
    assert_int_equal(ranks_threads(3, choice, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shm),
        cmocka_unit_test(test_nccl),
        cmocka_unit_test(test_nccl_errors),
        cmocka_unit_test(test_choice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
