// SPDX-License-Identifier: Apache-2.0
// What callers get wrong on their own side is refused at once, with a sentence, before anything has
// been signalled: nothing is read through NULL, nothing ends, and the group goes on.
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"

#include "collectives/ring.h"

#include <string.h>

enum { DEADLINE_MS = 20000, CALLS = 15, EXCHANGES = 9 };

// Calls that are refused for what they were given. None of them may be signalled or sticky.
static enum status refused(struct coll_group *g, int which)
{
    static _Thread_local float x[64];
    struct coll_all_reduce_args r = {.buffer = x, .count = 4};
    struct coll_all_reduce_norm_args n = {
        .x = x, .n_rows = 1, .dim = 4, .residual = x + 16, .out = x + 32};
    switch (which) {
    case 0:
        r.buffer = NULL;
        return coll_all_reduce(g, &r);
    case 1:
        r.op = (enum coll_op)7;
        return coll_all_reduce(g, &r);
    case 2:
        r.count = SIZE_MAX / 4;
        return coll_all_reduce(g, &r);
    case 3:
        n.x = NULL;
        return coll_all_reduce_norm(g, &n);
    case 4:
        n.residual = NULL;
        return coll_all_reduce_norm(g, &n);
    case 5:
        n.out = NULL;
        return coll_all_reduce_norm(g, &n);
    case 6:
        n.n_rows = SIZE_MAX / 8;
        return coll_all_reduce_norm(g, &n);
    case 7:
        return coll_reduce_scatter(g, NULL, x, 4, DTYPE_F32, COLL_SUM, NULL);
    case 8:
        return coll_reduce_scatter(g, x, NULL, 4, DTYPE_F32, COLL_SUM, NULL);
    case 9:
        return coll_all_gather(g, NULL, x, 4, NULL);
    case 10:
        return coll_all_gather(g, x, NULL, 4, NULL);
    case 11:
        return coll_all_gather(g, x, x, SIZE_MAX / 2, NULL);
    case 12:
        return coll_broadcast(g, NULL, 4, 0, NULL);
    case 13:
        return coll_broadcast(g, x, SIZE_MAX, 0, NULL);
    case 14:
        return coll_broadcast(g, x, 4, 2, NULL);
    default:
        return STATUS_OK;
    }
}

// The same for exchanges; `slots` in the heap.
static enum status refused_exchange(struct coll_group *g, void *slots, int which)
{
    uint32_t counts[2] = {8, 8}, came[2];
    size_t bytes[2] = {8, 8}, got[2] = {8, 8};
    const void *send[2] = {counts, counts}, *none[2] = {NULL, NULL};
    struct coll_exchange_args a = {.peers = 3,
        .send = which == 0 ? none : send,
        .send_bytes = bytes,
        .receive = slots,
        .slot_bytes = 64,
        .receive_bytes = got,
        .device_send_bytes = counts,
        .device_receive_bytes = came};
    if (which == 1)
        a.send = NULL;
    if (which == 2)
        a.send_bytes = NULL;
    if (which == 3)
        a.receive_bytes = NULL;
    if (which == 4)
        a.receive = NULL;
    if (which == 5)
        a.peers = 8;
    if (which == 6)
        bytes[1] = 65;
    if (which == 7)
        a.slot_bytes = SIZE_MAX / 2;
    if (which == 8) {
        a.counts = COLL_COUNTS_DEVICE;
        a.device_send_bytes = NULL;
    }
    return coll_exchange(g, &a);
}

static int refusals(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, 4096, DEADLINE_MS, &g) == 0);
    void *slots = coll_heap_take(g, 128);
    for (int which = 0; which < CALLS + EXCHANGES; which++) {
        enum status s =
            which < CALLS ? refused(g, which) : refused_exchange(g, slots, which - CALLS);
        WANT(s == STATUS_INVALID || s == STATUS_TOO_LARGE || s == STATUS_UNSUPPORTED);
        WANT(coll_error(g)->text[0] != '\0');
        WANT_OK(coll_barrier(g, NULL));
    }
    WANT(coll_channel(g, 1) == NULL && coll_channel(g, 0) == g);
    // A block that is missing where sizes are read only now ends the group: it was signalled.
    uint32_t counts[2] = {8, 8}, came[2];
    const void *none[2] = {NULL, NULL};
    WANT(coll_exchange(g, &(struct coll_exchange_args){.counts = COLL_COUNTS_DEVICE,
                              .peers = 3,
                              .send = none,
                              .receive = slots,
                              .slot_bytes = 64,
                              .device_send_bytes = counts,
                              .device_receive_bytes = came}) == STATUS_INVALID);
    WANT(refused(g, 0) == STATUS_INVALID && coll_barrier(g, NULL) == STATUS_INVALID);
    coll_destroy(g);
    WANT(ranks_group(b, 4096, DEADLINE_MS, &g) == 0);
    coll_abort(g);
    WANT(coll_barrier(g, NULL) == STATUS_ABORTED && refused(g, 0) == STATUS_ABORTED);
    coll_destroy(g);
    return 0;
}

static void test_refusals(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, refusals, NULL, 0), 0);
    assert_int_equal(ranks_threads(2, refusals, NULL), 0);
}

// A ring's ends used the wrong way round, and a message that was not given back.
static int ring_refusals(struct bootstrap *b, void *context)
{
    (void)context;
    struct ring *r;
    struct error err;
    const void *at;
    size_t n;
    WANT_OK(ring_create(b, 4096, false, &r, &err));
    if (b->rank == 0) {
        WANT(ring_read(r, &at, &n, 0) == STATUS_INVALID);
        WANT(ring_write(r, NULL, 1, 0) == STATUS_INVALID);
        WANT_OK(ring_write(r, "a", 1, DEADLINE_MS));
    } else {
        WANT(ring_write(r, "a", 1, 0) == STATUS_INVALID);
        WANT_OK(ring_read(r, &at, &n, DEADLINE_MS));
        WANT(ring_read(r, &at, &n, 0) == STATUS_INVALID && ring_error(r)->text[0] != '\0');
        ring_release(r);
        ring_release(r); // nothing is held
        WANT(ring_read(r, &at, &n, 0) == STATUS_TIMEOUT);
    }
    int fd = -1;
    WANT(b->share_fd(b, 2, &fd, &err) == STATUS_INVALID && b->peer_pidfd(b, 2) == -1);
    WANT_OK(b->barrier(b, NULL));
    ring_destroy(r);
    return 0;
}

static void test_ring(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, ring_refusals, NULL, 0), 0);
}

static int explained(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    char text[200];
    WANT(ranks_group(b, 4096, DEADLINE_MS, &g) == 0);
    coll_explain(g, "frobnicate", 100, false, text, sizeof text);
    WANT(strstr(text, "no such operation") != NULL);
    coll_explain(g, "barrier", 0, false, text, sizeof text);
    WANT(strstr(text, "signal") != NULL && strstr(text, "staged") == NULL);
    coll_explain(g, "exchange", 64, false, text, sizeof text);
    WANT(strstr(text, "mail") != NULL);
    coll_explain(g, "exchange", 1 << 20, false, text, sizeof text);
    WANT(strstr(text, "push") != NULL);
    coll_destroy(g);
    return 0;
}

static void test_explain(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, explained, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_explain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
