// SPDX-License-Identifier: Apache-2.0
// The control ring: every reader gets every message, whole and in order, whatever the sizes and
// however slow it is; waits end when the other side is gone; an idle ring uses no CPU.
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"

#include "base/clock.h"
#include "collectives/ring.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { RING = 1 << 14, WAIT_MS = 20000 };

struct plan {
    uint64_t messages;
    uint32_t slow_us;    // readers sleep this long now and then
    uint32_t timeout_ms; // of each call
};

static size_t size_of(uint64_t i)
{
    uint64_t x = ranks_random(77, 0, i);
    return x % 16 == 0 ? (x >> 8) % (RING / 2) : (x >> 8) % 300;
}

static uint8_t byte(uint64_t message, size_t i)
{
    return (uint8_t)(message * 131 + i * 7 + i / 256);
}

static int writer(struct ring *r, const struct plan *p)
{
    static uint8_t data[RING];
    for (uint64_t m = 0; m < p->messages; m++) {
        size_t n = size_of(m);
        for (size_t i = 0; i < n; i++)
            data[i] = byte(m, i);
        WANT_OK(ring_write(r, data, n, p->timeout_ms));
    }
    return 0;
}

static int reader(struct ring *r, uint32_t rank, const struct plan *p)
{
    for (uint64_t m = 0; m < p->messages; m++) {
        const uint8_t *data;
        size_t n;
        const void *at;
        WANT_OK(ring_read(r, &at, &n, p->timeout_ms));
        data = at;
        WANT(n == size_of(m) && (uintptr_t)data % 16 == 0);
        if (p->slow_us != 0 && ranks_random(5, rank, m) % 64 == 0)
            clock_sleep_us(p->slow_us);
        for (size_t i = 0; i < n; i++)
            WANT(data[i] == byte(m, i));
        ring_release(r);
    }
    return 0;
}

static int talk(struct bootstrap *b, void *context)
{
    struct ring *r;
    struct error err = {0};
    WANT_OK(ring_create(b, RING, false, &r, &err));
    WANT((b->rank == 0 ? writer(r, context) : reader(r, b->rank, context)) == 0);
    WANT_OK(b->barrier(b, NULL));
    ring_destroy(r);
    return 0;
}

static void test_talk(void **state)
{
    (void)state;
    struct plan fast = {.messages = 20000, .timeout_ms = WAIT_MS};
    struct plan slow = {.messages = 1500, .slow_us = 4000, .timeout_ms = WAIT_MS};
    for (uint32_t n = 1; n <= 8; n *= 2)
        assert_int_equal(ranks_fork(n, talk, &fast, 0), 0);
    assert_int_equal(ranks_threads(3, talk, &fast), 0);
    assert_int_equal(ranks_fork(3, talk, &slow, 0), 0);
    assert_int_equal(ranks_threads(3, talk, &slow), 0);
}

static int edges(struct bootstrap *b, void *context)
{
    (void)context;
    struct ring *r;
    struct error err = {0};
    static uint8_t data[RING];
    const void *at;
    size_t n;
    WANT(ring_create(b, 3000, false, &r, &err) == STATUS_INVALID);
    WANT_OK(ring_create(b, RING, false, &r, &err));
    uint64_t start = clock_now_us();
    if (b->rank == 0) {
        WANT(ring_write(r, data, RING, 0) == STATUS_TOO_LARGE);
        WANT_OK(b->barrier(b, NULL));               // nothing has been written before this
        WANT_OK(ring_write(r, data, RING - 16, 0)); // fills it
        WANT(ring_write(r, NULL, 0, 30) == STATUS_TIMEOUT);
        WANT(clock_now_us() - start >= 30000);
        WANT_OK(b->barrier(b, NULL));
        WANT_OK(ring_write(r, NULL, 0, WAIT_MS));
    } else {
        WANT(ring_read(r, &at, &n, 0) == STATUS_TIMEOUT);
        WANT(ring_read(r, &at, &n, 20) == STATUS_TIMEOUT);
        WANT(clock_now_us() - start >= 20000);
        WANT_OK(b->barrier(b, NULL));
        WANT_OK(b->barrier(b, NULL));
        WANT_OK(ring_read(r, &at, &n, WAIT_MS));
        WANT(n == RING - 16);
        ring_release(r);
        WANT_OK(ring_read(r, &at, &n, WAIT_MS));
        WANT(n == 0);
        ring_release(r);
    }
    WANT_OK(b->barrier(b, NULL));
    ring_destroy(r);
    return 0;
}

static void test_edges(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, edges, NULL, 0), 0);
}

static uint64_t cpu_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

// Readers of an idle ring sleep, and a message still wakes them soon.
static int idle(struct bootstrap *b, void *context)
{
    (void)context;
    struct ring *r;
    const void *at;
    size_t n;
    uint64_t sent;
    WANT_OK(ring_create(b, RING, true, &r, NULL));
    if (b->rank == 0) {
        clock_sleep_us(600 * 1000);
        sent = clock_now_us();
        WANT_OK(ring_write(r, &sent, sizeof sent, 0));
    } else {
        uint64_t used = cpu_us();
        WANT_OK(ring_read(r, &at, &n, WAIT_MS));
        memcpy(&sent, at, sizeof sent);
        WANT(cpu_us() - used < 60 * 1000);       // a spinning reader would use 600
        WANT(clock_now_us() - sent < 90 * 1000); // a missed call would take up to 100
        ring_release(r);
    }
    WANT_OK(b->barrier(b, NULL));
    ring_destroy(r);
    return 0;
}

static void test_idle(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(3, idle, NULL, 0), 0);
}

static int writer_dies(struct bootstrap *b, void *context)
{
    (void)context;
    struct ring *r;
    const void *at;
    size_t n;
    WANT_OK(ring_create(b, RING, false, &r, NULL));
    if (b->rank == 0) {
        WANT_OK(ring_write(r, "last", 5, 0));
        clock_sleep_us(20000);
        raise(SIGKILL);
    }
    clock_sleep_us(b->rank * 20000);
    WANT_OK(ring_read(r, &at, &n, WAIT_MS)); // what it wrote still arrives
    WANT(strcmp(at, "last") == 0);
    ring_release(r);
    WANT(ring_read(r, &at, &n, WAIT_MS) == STATUS_PEER_GONE);
    WANT(strstr(ring_error(r)->text, "rank 0") != NULL);
    ring_destroy(r);
    return 0;
}

static int reader_dies(struct bootstrap *b, void *context)
{
    (void)context;
    struct ring *r;
    const void *at;
    size_t n;
    WANT_OK(ring_create(b, RING, false, &r, NULL));
    if (b->rank == 1) {
        WANT_OK(ring_read(r, &at, &n, WAIT_MS));
        raise(SIGKILL);
    }
    if (b->rank == 0) {
        enum status s = STATUS_OK;
        static uint8_t data[1000];
        for (int i = 0; i < 100 && s == STATUS_OK; i++)
            s = ring_write(r, data, sizeof data, WAIT_MS);
        WANT(s == STATUS_PEER_GONE);
        ring_destroy(r); // the other reader has to notice
        return 0;
    }
    enum status s = STATUS_OK;
    while (s == STATUS_OK) {
        s = ring_read(r, &at, &n, WAIT_MS);
        if (s == STATUS_OK)
            ring_release(r);
    }
    WANT(s == STATUS_PEER_GONE);
    ring_destroy(r);
    return 0;
}

static void *abort_later(void *ring)
{
    clock_sleep_us(30000);
    ring_abort(ring);
    return NULL;
}

static int aborted(struct bootstrap *b, void *context)
{
    (void)context;
    struct ring *r;
    const void *at;
    size_t n;
    WANT_OK(ring_create(b, RING, false, &r, NULL));
    pthread_t t;
    if (b->rank == 0)
        WANT(pthread_create(&t, NULL, abort_later, r) == 0);
    if (b->rank == 0)
        pthread_join(t, NULL);
    WANT((b->rank == 0 ? ring_write(r, "x", 1, WAIT_MS) : ring_read(r, &at, &n, WAIT_MS)) ==
         STATUS_ABORTED);
    ring_destroy(r);
    return 0;
}

static void test_faults(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(3, writer_dies, NULL, 1), 0);
    assert_int_equal(ranks_fork(3, reader_dies, NULL, 2), 0);
    assert_int_equal(ranks_fork(3, aborted, NULL, 0), 0);
    assert_int_equal(ranks_threads(3, aborted, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_talk),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
