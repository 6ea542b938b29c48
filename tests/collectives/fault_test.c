// SPDX-License-Identifier: Apache-2.0
// Nothing hangs: ranks that call different things, that die, stop, leave or abort give the others
// an error in time; the error stays; a new group works.
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"

#include "base/clock.h"
#include "collectives/group.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEADLINE_MS = 20000, SOON_US = 3000000, HEAP = 1 << 20, SLOT_LARGE = 40000 };

static enum status reduce(struct coll_group *g, size_t count, enum coll_op op)
{
    static _Thread_local float x[70000];
    return coll_all_reduce(
        g, &(struct coll_all_reduce_args){.buffer = x, .count = count, .op = op});
}

static enum status norm(struct coll_group *g, float eps)
{
    static _Thread_local float x[48];
    return coll_all_reduce_norm(g, &(struct coll_all_reduce_norm_args){.x = x,
                                       .n_rows = 1,
                                       .dim = 16,
                                       .residual = x + 16,
                                       .residual_scale = 1,
                                       .eps = eps,
                                       .out = x + 32});
}

// What rank 1 does otherwise than the others, by number.
static enum status odd_call(struct coll_group *g, int which)
{
    static _Thread_local float x[4096];
    switch (which) {
    case 0:
        return coll_barrier(g, NULL);
    case 1:
        return reduce(g, 11, COLL_SUM);
    case 2:
        return reduce(g, 10, COLL_MAX);
    case 3:
        return coll_all_gather(g, x, x + 16, 10, NULL);
    case 4:
        return reduce(g, 60000, COLL_SUM);
    case 5:
        return norm(g, 1e-5f); // the others: 1e-6
    default:
        return coll_all_reduce(
            g, &(struct coll_all_reduce_args){.buffer = x, .count = 10, .dtype = DTYPE_BF16});
    }
}

static int mismatch(struct bootstrap *b, void *context)
{
    for (int which = 0; which < 7; which++) {
        struct coll_group *g;
        WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
        WANT_OK(reduce(g, 10, COLL_SUM));
        uint64_t start = clock_now_us();
        enum status s = b->rank == 1 ? odd_call(g, which)
                        : which == 5 ? norm(g, 1e-6f)
                                     : reduce(g, 10, COLL_SUM);
        WANT(s == STATUS_MISMATCH && clock_now_us() - start < SOON_US);
        WANT(strstr(coll_error(g)->text, "different") != NULL);
        // Sticky, whatever is called; and the group can be made again.
        WANT(coll_barrier(g, NULL) == STATUS_MISMATCH);
        coll_destroy(g);
        WANT_OK(b->barrier(b, NULL));
    }
    (void)context;
    return 0;
}

// The root of a broadcast does not wait, so it learns of the mismatch at a later call.
static int mismatch_root(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    char x[100] = {0};
    WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
    enum status s = STATUS_OK;
    for (int i = 0; i < 10 && s == STATUS_OK; i++)
        s = b->rank == 0 ? coll_broadcast(g, x, 100, 0, NULL) : coll_broadcast(g, x, 99, 0, NULL);
    WANT(s == STATUS_MISMATCH);
    coll_destroy(g);
    return 0;
}

// Rank 1 counts rank 0 among its peers, but rank 0 does not, and goes on.
static int mismatch_peers(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
    uint8_t *receive = coll_heap_take(g, 128);
    const void *send[2] = {"a", "b"};
    size_t bytes[2] = {1, 1}, got[2];
    struct coll_exchange_args a = {.counts = COLL_COUNTS_BOUNDED,
        .peers = b->rank == 1 ? 3 : 1,
        .send = send,
        .send_bytes = bytes,
        .receive = receive,
        .slot_bytes = 64,
        .receive_bytes = got};
    uint64_t start = clock_now_us();
    enum status s = coll_exchange(g, &a);
    WANT(b->rank == 1 ? s == STATUS_MISMATCH : s == STATUS_OK || s == STATUS_MISMATCH);
    WANT(coll_barrier(g, NULL) == STATUS_MISMATCH);
    WANT(clock_now_us() - start < SOON_US);
    coll_destroy(g);
    return 0;
}

// Rank 1 counts rank 0 among its peers in the first exchange, and rank 0 it in the second: the
// block of the second must not be taken for that of the first. By mail, and pushed.
static int mismatch_turns(struct bootstrap *b, void *slot_bytes)
{
    size_t slot = *(size_t *)slot_bytes, got[2];
    struct coll_group *g;
    uint8_t *block = calloc(1, slot);
    WANT(block != NULL && ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
    size_t bytes[2] = {slot, slot};
    const void *send[2] = {block, block};
    struct coll_exchange_args a = {.counts = COLL_COUNTS_BOUNDED,
        .peers = b->rank == 1 ? 1 : 0,
        .send = send,
        .send_bytes = bytes,
        .receive = coll_heap_take(g, 2 * slot),
        .slot_bytes = slot,
        .receive_bytes = got};
    if (b->rank == 1) // comes when both calls of rank 0 have left their marks
        clock_sleep_us(100000);
    enum status s = coll_exchange(g, &a);
    WANT(b->rank == 1 ? s == STATUS_MISMATCH : s == STATUS_OK);
    a.peers = 2;
    WANT(coll_exchange(g, &a) == STATUS_MISMATCH);
    coll_destroy(g);
    free(block);
    return 0;
}

// Rank 0 makes exchanges without peers, for which it waits for nobody, where the others sum: it is
// long beyond the words of those steps when they look.
static int mismatch_ahead(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
    struct coll_exchange_args a = {
        .counts = COLL_COUNTS_BOUNDED, .receive = coll_heap_take(g, 64), .slot_bytes = 8};
    WANT_OK(reduce(g, 10, COLL_SUM));
    for (int i = 0; i < 50 && b->rank == 0; i++)
        WANT_OK(coll_exchange(g, &a));
    WANT_OK(b->barrier(b, NULL));
    if (b->rank != 0)
        for (int i = 0; i < 10; i++)
            WANT(reduce(g, 10, COLL_SUM) == STATUS_MISMATCH);
    WANT_OK(b->barrier(b, NULL));
    WANT(coll_barrier(g, NULL) == STATUS_MISMATCH);
    coll_destroy(g);
    return 0;
}

// The same, but all mean it so: the others come to an old broadcast of rank 0 when it is far ahead.
static int far_ahead(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
    struct coll_exchange_args a = {
        .counts = COLL_COUNTS_BOUNDED, .receive = coll_heap_take(g, 64), .slot_bytes = 8};
    for (int round = 0; round < 3; round++) {
        char x[100] = {0};
        x[99] = b->rank == 0 ? 'x' : ' ';
        if (b->rank != 0)
            WANT_OK(b->barrier(b, NULL));
        WANT_OK(coll_broadcast(g, x, sizeof x, 0, NULL));
        WANT(x[99] == 'x');
        for (int i = 0; i < 50; i++)
            WANT_OK(coll_exchange(g, &a));
        if (b->rank == 0)
            WANT_OK(b->barrier(b, NULL));
    }
    WANT_OK(coll_barrier(g, NULL));
    coll_destroy(g);
    return 0;
}

// A block of another size than its receiver was told to expect.
static int mismatch_sizes(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
    const void *send[2] = {"abc", "abc"};
    size_t bytes[2] = {2, 2}, expected[2] = {2, b->rank == 0 ? 3 : 2};
    enum status s = coll_exchange(g, &(struct coll_exchange_args){.counts = COLL_COUNTS_FIXED,
                                         .peers = 3,
                                         .send = send,
                                         .send_bytes = bytes,
                                         .receive = coll_heap_take(g, 128),
                                         .slot_bytes = 64,
                                         .receive_bytes = expected});
    WANT(b->rank == 0 ? s == STATUS_MISMATCH : s == STATUS_OK || s == STATUS_MISMATCH);
    WANT(coll_barrier(g, NULL) == STATUS_MISMATCH);
    coll_destroy(g);
    return 0;
}

static void test_mismatch(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, mismatch, NULL, 0), 0);
    assert_int_equal(ranks_fork(4, mismatch, NULL, 0), 0);
    assert_int_equal(ranks_threads(4, mismatch, NULL), 0);
    assert_int_equal(ranks_fork(3, mismatch_root, NULL, 0), 0);
    assert_int_equal(ranks_fork(2, mismatch_peers, NULL, 0), 0);
    assert_int_equal(ranks_fork(2, mismatch_sizes, NULL, 0), 0);
    assert_int_equal(ranks_fork(3, mismatch_ahead, NULL, 0), 0);
    assert_int_equal(ranks_fork(3, far_ahead, NULL, 0), 0);
    size_t small = 64, large = SLOT_LARGE;
    assert_int_equal(ranks_fork(2, mismatch_turns, &small, 0), 0);
    assert_int_equal(ranks_fork(2, mismatch_turns, &large, 0), 0);
}

// Rank 2 is killed while calls go on; where in a call it dies is different every time.
static int killed(struct bootstrap *b, void *context)
{
    uint32_t after_us = *(uint32_t *)context;
    struct coll_group *g;
    WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
    uint64_t start = clock_now_us();
    enum status s = STATUS_OK;
    for (uint64_t i = 0; s == STATUS_OK; i++) {
        s = i % 3 == 0 ? coll_barrier(g, NULL) : reduce(g, i % 60000, COLL_SUM);
        if (b->rank == 2 && clock_now_us() - start > after_us)
            raise(SIGKILL);
        WANT(clock_now_us() - start < SOON_US);
    }
    WANT(s == STATUS_PEER_GONE && strstr(coll_error(g)->text, "rank 2") != NULL);
    WANT(coll_barrier(g, NULL) == STATUS_PEER_GONE);
    coll_destroy(g);
    return 0;
}

static void test_killed(void **state)
{
    (void)state;
    for (uint32_t us = 0; us < 8000; us += 777)
        assert_int_equal(ranks_fork(4, killed, &us, 4), 0);
}

// A thread of the victim ends or stops its process wherever its calls are at that moment.
struct strike {
    uint32_t after_us;
    int signal;
};

static void *strike_main(void *arg)
{
    const struct strike *s = arg;
    clock_sleep_us(s->after_us);
    kill(getpid(), s->signal);
    return NULL;
}

// One call of every kind in turn.
static enum status any_call(struct coll_group *g, uint64_t i, float *heap, float *slots)
{
    static float x[30000], y[30000];
    const void *send[8] = {x, x, x, x, x, x, x, x};
    size_t bytes[8], got[8];
    for (uint32_t q = 0; q < 8; q++)
        bytes[q] = 3000;
    switch (i % 8) {
    case 0:
        return coll_all_reduce(
            g, &(struct coll_all_reduce_args){.buffer = heap, .count = 20000, .symmetric = true});
    case 1:
        return coll_broadcast(g, x, sizeof x, (uint32_t)i % coll_size(g), NULL);
    case 2:
        return coll_all_gather(g, x, y, sizeof y / 8, NULL);
    case 3:
        return coll_reduce_scatter(g, x, y, 30000, DTYPE_F32, COLL_SUM, NULL);
    case 4:
        return coll_exchange(g, &(struct coll_exchange_args){.counts = COLL_COUNTS_BOUNDED,
                                    .peers = ((uint64_t)1 << coll_size(g)) - 1,
                                    .send = send,
                                    .send_bytes = bytes,
                                    .receive = slots,
                                    .slot_bytes = i % 16 < 8 ? 3000 : SLOT_LARGE,
                                    .receive_bytes = got});
    case 5:
        return coll_all_reduce_norm(g, &(struct coll_all_reduce_norm_args){.x = heap,
                                           .n_rows = 4,
                                           .dim = 5000,
                                           .symmetric = true,
                                           .residual = x,
                                           .residual_scale = 1.0f,
                                           .eps = 1e-5f,
                                           .out = y});
    default:
        return reduce(g, i % 60000, COLL_SUM);
    }
}

static int struck(struct bootstrap *b, void *context)
{
    struct strike *strike = context;
    bool stops = strike->signal == SIGSTOP;
    struct coll_group *g;
    pthread_t t;
    pid_t pids[COLL_RANKS_MAX], mine = getpid();
    WANT_OK(b->all_gather(b, &mine, sizeof mine, pids, NULL));
    WANT(ranks_group(b, HEAP, stops ? 200 : DEADLINE_MS, &g) == 0);
    float *heap = coll_heap_take(g, 20000 * 4), *slots = coll_heap_take(g, 8 * SLOT_LARGE);
    uint32_t victim = strike->after_us % b->size;
    if (b->rank == victim)
        WANT(pthread_create(&t, NULL, strike_main, strike) == 0);
    uint64_t start = clock_now_us();
    enum status s = STATUS_OK;
    for (uint64_t i = 0; s == STATUS_OK; i++) {
        s = any_call(g, i, heap, slots);
        WANT(clock_now_us() - start < SOON_US);
    }
    WANT(s == (stops ? STATUS_TIMEOUT : STATUS_PEER_GONE));
    WANT(coll_barrier(g, NULL) == s);
    coll_destroy(g);
    if (stops && b->rank == (victim + 1) % b->size) {
        clock_sleep_us(50000); // the others have seen it by now
        kill(pids[victim], SIGCONT);
    }
    if (b->rank == victim)
        pthread_join(t, NULL);
    return 0;
}

static void test_struck(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 24; i++) {
        struct strike s = {.after_us = (uint32_t)(ranks_random(21, 0, i) % 6000),
            .signal = i % 4 == 3 ? SIGSTOP : SIGKILL};
        uint32_t n = 2 + i % 4, victim = s.after_us % n;
        assert_int_equal(ranks_fork(n, struck, &s, (uint64_t)1 << victim), 0);
    }
}

// A timer in the parent would race with the calls; the rank stops itself instead, and is continued
// by a survivor that has seen the timeout.
static int stopped(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    pid_t pids[COLL_RANKS_MAX], mine = getpid();
    WANT_OK(b->all_gather(b, &mine, sizeof mine, pids, NULL));
    WANT(ranks_group(b, HEAP, 300, &g) == 0);
    WANT_OK(reduce(g, 10, COLL_SUM));
    if (b->rank == 1)
        raise(SIGSTOP);
    uint64_t start = clock_now_us();
    enum status s = coll_barrier(g, NULL);
    uint64_t took = clock_now_us() - start;
    WANT(s == STATUS_TIMEOUT);
    WANT(b->rank == 1 || (took > 250000 && took < SOON_US));
    WANT(strstr(coll_error(g)->text, "rank 1") != NULL);
    if (b->rank == 0)
        kill(pids[1], SIGCONT);
    coll_destroy(g);
    // The same ranks go on in a new group.
    WANT_OK(b->barrier(b, NULL));
    WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
    WANT_OK(reduce(g, 10, COLL_SUM));
    WANT_OK(coll_barrier(g, NULL));
    coll_destroy(g);
    return 0;
}

static void test_stopped(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(3, stopped, NULL, 0), 0);
}

static void *abort_later(void *group)
{
    clock_sleep_us(50000);
    coll_abort(group);
    return NULL;
}

static int aborted(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    pthread_t t;
    WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
    WANT_OK(coll_barrier(g, NULL));
    uint64_t start = clock_now_us();
    if (b->rank == 0) { // comes to no call before the abort
        WANT(pthread_create(&t, NULL, abort_later, g) == 0);
        pthread_join(t, NULL);
    }
    WANT(coll_barrier(g, NULL) == STATUS_ABORTED);
    WANT(clock_now_us() - start < SOON_US);
    coll_destroy(g);
    return 0;
}

static void test_aborted(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(4, aborted, NULL, 0), 0);
    assert_int_equal(ranks_threads(4, aborted, NULL), 0);
}

// One member leaves; its last call still succeeds for everybody, the next does not.
static int left(struct bootstrap *b, void *context)
{
    (void)context;
    for (int i = 0; i < 20; i++) {
        struct coll_group *g;
        WANT(ranks_group(b, HEAP, DEADLINE_MS, &g) == 0);
        WANT_OK(reduce(g, 100, COLL_SUM));
        if (b->rank == 1) {
            coll_destroy(g);
            continue;
        }
        WANT(coll_barrier(g, NULL) == STATUS_PEER_GONE);
        coll_destroy(g);
    }
    return 0;
}

static void test_left(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(3, left, NULL, 0), 0);
    assert_int_equal(ranks_threads(3, left, NULL), 0);
}

struct second {
    struct coll_group *g;
    enum status s;
};

static void *second_call(void *arg)
{
    struct second *s = arg;
    clock_sleep_us(50000); // the first call waits by now
    s->s = coll_barrier(s->g, NULL);
    return NULL;
}

// Two threads in one group at once: the second one is refused, the first is not harmed.
static int two_threads(struct bootstrap *b, void *context)
{
    (void)context;
    struct second other = {0};
    pthread_t t;
    WANT(ranks_group(b, HEAP, DEADLINE_MS, &other.g) == 0);
    if (b->rank == 0)
        WANT(pthread_create(&t, NULL, second_call, &other) == 0);
    else
        clock_sleep_us(150000);
    WANT_OK(coll_barrier(other.g, NULL));
    if (b->rank == 0) {
        pthread_join(t, NULL);
        WANT(other.s == STATUS_BUSY);
    }
    WANT_OK(coll_barrier(other.g, NULL));
    coll_destroy(other.g);
    return 0;
}

static void test_two_threads(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, two_threads, NULL, 0), 0);
}

// Settings that differ or are wrong on one rank make the creation fail on all of them.
static int creation(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g = NULL;
    struct error err = {0};
    struct coll_args args = {.heap_bytes = b->rank == 1 ? 8192 : 4096};
    WANT(coll_create(b, &args, &g, &err) == STATUS_MISMATCH);
    args = (struct coll_args){.backend = b->rank == 1 ? "nccl" : "auto"};
    WANT(coll_create(b, &args, &g, &err) == STATUS_UNSUPPORTED);
    args.backend = b->rank == 0 ? "shmem" : "shm";
    WANT(coll_create(b, &args, &g, &err) == STATUS_INVALID);
    args = (struct coll_args){.tuning_file = b->rank == 1 ? "/nonexistent" : NULL};
    WANT(coll_create(b, &args, &g, &err) == STATUS_NOT_FOUND);
    WANT((strstr(err.text, "/nonexistent") != NULL) == (b->rank == 1));
    args = (struct coll_args){.heap_bytes = UINT64_MAX};
    WANT(coll_create(b, &args, &g, &err) == STATUS_TOO_LARGE);
    WANT(g == NULL);
    args = (struct coll_args){.heap_bytes = 5, .spin = b->rank == 0};
    WANT_OK(coll_create(b, &args, &g, &err));
    WANT_OK(coll_barrier(g, NULL));
    coll_destroy(g);
    return 0;
}

static void test_creation(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, creation, NULL, 0), 0);
    assert_int_equal(ranks_threads(3, creation, NULL), 0);
}

// A rank that is killed somewhere in making, using or giving back groups.
static int killed_in_creation(struct bootstrap *b, void *context)
{
    struct strike *strike = context;
    struct error err = {0};
    pthread_t t;
    enum status s = STATUS_OK;
    if (b->rank == strike->after_us % b->size)
        WANT(pthread_create(&t, NULL, strike_main, strike) == 0);
    uint64_t start = clock_now_us();
    while (s == STATUS_OK) {
        struct coll_group *g = NULL;
        s = coll_create(
            b, &(struct coll_args){.heap_bytes = 4096, .timeout_ms = DEADLINE_MS}, &g, &err);
        WANT((s == STATUS_OK) == (g != NULL));
        if (s == STATUS_OK)
            s = coll_barrier(g, NULL);
        coll_destroy(g);
        WANT(clock_now_us() - start < SOON_US);
    }
    WANT(s == STATUS_PEER_GONE);
    return 0;
}

// One that is stopped before the others make a group: their bootstrap has a deadline.
static int stopped_before_creation(struct bootstrap *outer, void *context)
{
    struct bootstrap *b;
    struct coll_group *g = NULL;
    pid_t pids[COLL_RANKS_MAX], mine = getpid();
    WANT_OK(outer->all_gather(outer, &mine, sizeof mine, pids, NULL));
    WANT_OK(bootstrap_files(context, outer->rank, outer->size, 1000, &b, NULL));
    if (outer->rank == 1)
        raise(SIGSTOP);
    uint64_t start = clock_now_us();
    enum status s = coll_create(b, &(struct coll_args){.heap_bytes = 4096}, &g, NULL);
    WANT(s != STATUS_OK && g == NULL && clock_now_us() - start < SOON_US);
    WANT(outer->rank == 1 || s == STATUS_TIMEOUT || s == STATUS_PEER_GONE);
    if (outer->rank == 0)
        kill(pids[1], SIGCONT);
    b->close(b);
    return 0;
}

static void test_faults_of_creation(void **state)
{
    (void)state;
    char dir[] = "/tmp/phalanx-test-XXXXXX";
    for (uint32_t i = 0; i < 16; i++) {
        struct strike s = {
            .after_us = (uint32_t)(ranks_random(22, 0, i) % 4000), .signal = SIGKILL};
        uint32_t n = 2 + i % 3;
        assert_int_equal(ranks_fork(n, killed_in_creation, &s, (uint64_t)1 << s.after_us % n), 0);
    }
    assert_non_null(mkdtemp(dir));
    assert_int_equal(ranks_fork(3, stopped_before_creation, dir, 0), 0);
    assert_int_equal(rmdir(dir), 0);
}

static size_t open_files(void)
{
    size_t n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

// A group outlives the bootstrap that it was made with, and nothing is left open after it.
static int no_leaks(struct bootstrap *b, void *context)
{
    (void)context;
    WANT_OK(b->barrier(b, NULL));
    size_t before = open_files();
    for (int i = 0; i < 30; i++) {
        struct bootstrap *again;
        struct coll_group *g;
        WANT_OK(b->split(b, 0, &again, NULL));
        WANT(ranks_group(again, HEAP, DEADLINE_MS, &g) == 0);
        again->close(again);
        WANT_OK(reduce(g, 1000, COLL_SUM));
        coll_destroy(g);
    }
    WANT(open_files() == before);
    return 0;
}

static void test_no_leaks(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(3, no_leaks, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mismatch),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_struck),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_aborted),
        cmocka_unit_test(test_left),
        cmocka_unit_test(test_two_threads),
        cmocka_unit_test(test_creation),
        cmocka_unit_test(test_faults_of_creation),
        cmocka_unit_test(test_no_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
