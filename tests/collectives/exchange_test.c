// SPDX-License-Identifier: Apache-2.0
// Partial all-to-all: any symmetric relation, fixed and bounded sizes, and the uses it is for.
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"

#include "base/check.h"
#include "base/clock.h"
#include "collectives/group.h"

#include <stdlib.h>
#include <string.h>

// Slots that go by mail and slots that are pushed; see shm_exchange.c.
enum { SLOT = 3000, SLOT_LARGE = SHM_MAILS_BYTES + 1 };

static size_t slot_of(uint64_t turn)
{
    return turn % 6 == 5 ? SLOT_LARGE : SLOT;
}

// Whether a and b exchange in this turn: symmetric, with some ranks alone and some with themselves.
static bool related(uint32_t a, uint32_t b, uint64_t turn)
{
    uint32_t lo = a < b ? a : b, hi = a < b ? b : a;
    return turn % 4 == 0 || ranks_random(turn, lo, hi) % 3 != 0;
}

static size_t block_bytes(uint32_t from, uint32_t to, uint64_t turn)
{
    uint64_t x = ranks_random(turn + 1000, from, to);
    return x % 5 == 0 ? 0 : (size_t)(x >> 8) % (slot_of(turn) + 1);
}

struct exchange_room {
    uint8_t *receive;
    uint8_t send[8][SLOT_LARGE];
};

static int one_turn(struct coll_group *g, struct exchange_room *room, uint64_t turn)
{
    uint32_t n = coll_size(g), me = coll_rank(g);
    const void *send[8] = {0};
    size_t send_bytes[8] = {0}, receive_bytes[8] = {0}, slot = slot_of(turn);
    struct coll_exchange_args a = {
        .counts = turn % 2 == 0 ? COLL_COUNTS_FIXED : COLL_COUNTS_BOUNDED,
        .send = send,
        .send_bytes = send_bytes,
        .receive = room->receive,
        .slot_bytes = slot,
        .receive_bytes = receive_bytes};
    // Nobody writes here before this rank enters the exchange.
    memset(room->receive, 0xab, n * slot);
    for (uint32_t q = 0; q < n; q++) {
        if (!related(me, q, turn))
            continue;
        a.peers |= (uint64_t)1 << q;
        send[q] = room->send[q];
        send_bytes[q] = block_bytes(me, q, turn);
        memset(room->send[q], (int)(me * 16 + q + turn), send_bytes[q]);
        receive_bytes[q] = a.counts == COLL_COUNTS_FIXED ? block_bytes(q, me, turn) : 0;
    }
    WANT_OK(coll_exchange(g, &a));
    for (uint32_t q = 0; q < n; q++) {
        size_t expected = related(me, q, turn) ? block_bytes(q, me, turn) : 0;
        WANT(receive_bytes[q] == expected);
        for (size_t i = 0; i < slot; i++)
            WANT(room->receive[q * slot + i] ==
                 (i < expected ? (uint8_t)(q * 16 + me + turn) : 0xab));
    }
    return 0;
}

// `context`: epochs are put to just before they wrap now and then.
static int turns(struct bootstrap *b, void *context)
{
    struct coll_group *g;
    struct exchange_room *room = malloc(sizeof *room);
    bool wraps = context != NULL;
    WANT(room != NULL && ranks_group(b, 8 * SLOT_LARGE + 4096, 20000, &g) == 0);
    room->receive = coll_heap_take(g, 8 * SLOT_LARGE);
    WANT(room->receive != NULL);
    for (uint64_t i = 0; i < 120; i++) {
        if (wraps && i % 12 == 0) {
            WANT_OK(b->barrier(b, NULL));
            shm_set_epoch(g, 0u - (uint32_t)(i / 12));
            WANT_OK(b->barrier(b, NULL));
        }
        WANT(one_turn(g, room, i) == 0);
        if (i % 10 == 0)
            WANT_OK(coll_barrier(g, NULL));
    }
    coll_destroy(g);
    free(room);
    return 0;
}

static void test_turns(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 8; n = n * 2 - (n == 4)) // 1, 2, 4, 7
        assert_int_equal(ranks_fork(n, turns, NULL, 0), 0);
    assert_int_equal(ranks_fork(8, turns, NULL, 0), 0);
    assert_int_equal(ranks_threads(4, turns, NULL), 0);
}

static void test_wrap(void **state)
{
    (void)state;
    int wraps = 1;
    assert_int_equal(ranks_fork(4, turns, &wraps, 0), 0);
    assert_int_equal(ranks_threads(3, turns, &wraps), 0);
}

// Pairs and slots that rest for half a round of the epochs and more, as in a server that has run
// for days: what was left from before is neither taken for new nor waited for again.
static int rested(struct bootstrap *b, void *context)
{
    (void)context;
    static const uint32_t rests[] = {1u << 31, (1u << 31) + 77, 3u << 30, (1u << 31) - 3, 0u - 9};
    struct coll_group *g;
    struct exchange_room *room = malloc(sizeof *room);
    WANT(room != NULL && ranks_group(b, 8 * SLOT_LARGE, 20000 * RANKS_SLOWNESS, &g) == 0);
    room->receive = coll_heap_take(g, 8 * SLOT_LARGE);
    for (uint64_t i = 0; i < 2 * COUNT_OF(rests); i++) {
        WANT_OK(b->barrier(b, NULL));
        shm_set_epoch(g, g->shm.epoch + rests[i / 2]);
        WANT_OK(b->barrier(b, NULL));
        if (b->rank == 0) // whoever takes what is old for new does so while the other sleeps
            clock_sleep_us(20000);
        for (uint64_t k = 0; k < 3; k++)
            WANT(one_turn(g, room, i % 2 == 0 ? 4 * k : 11 + 6 * k) == 0);
        uint64_t all[8], mine = i * 8 + b->rank;
        for (int k = 0; k < 3; k++) {
            WANT_OK(coll_all_gather(g, &mine, all, sizeof mine, NULL));
            for (uint32_t q = 0; q < b->size; q++)
                WANT(all[q] == i * 8 + q);
        }
    }
    coll_destroy(g);
    free(room);
    return 0;
}

static void test_rested(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, rested, NULL, 0), 0);
    assert_int_equal(ranks_fork(5, rested, NULL, 0), 0);
}

// Ranks 0 and 1 exchange many times while 2 and 3 have not even come to the first one: pairs
// outside the relation do not wait for each other. Then all meet again.
static int pairs_only(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, 4096, 20000, &g) == 0);
    uint64_t *receive = coll_heap_take(g, 4 * 8);
    uint32_t other = b->rank ^ 1;
    const void *send[4] = {0};
    size_t bytes[4] = {0}, got[4];
    uint64_t value;
    send[other] = &value;
    bytes[other] = sizeof value;
    if (b->rank >= 2)
        WANT_OK(b->barrier(b, NULL)); // which the others reach after their exchanges
    for (uint64_t i = 0; i < 100; i++) {
        value = i * 4 + b->rank;
        WANT_OK(coll_exchange(g, &(struct coll_exchange_args){.counts = COLL_COUNTS_BOUNDED,
                                     .peers = (uint64_t)1 << other,
                                     .send = send,
                                     .send_bytes = bytes,
                                     .receive = receive,
                                     .slot_bytes = 8,
                                     .receive_bytes = got}));
        WANT(got[other] == 8 && receive[other] == i * 4 + other);
    }
    if (b->rank < 2)
        WANT_OK(b->barrier(b, NULL));
    WANT_OK(coll_barrier(g, NULL));
    coll_destroy(g);
    return 0;
}

static void test_pairs_only(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(4, pairs_only, NULL, 0), 0);
}

// Vocabulary-parallel logits to row-parallel sampling: rank q holds columns [rows, V/n] and gets
// whole rows [rows/n, V].
static int logits(struct bootstrap *b, void *context)
{
    (void)context;
    enum { ROWS = 16, V = 96 };
    uint32_t n = b->size, me = b->rank;
    size_t cols = V / n, rows = ROWS / n, block = rows * cols * sizeof(float);
    struct coll_group *g;
    WANT(ranks_group(b, 65536, 20000, &g) == 0);
    float *receive = coll_heap_take(g, block * n), mine[ROWS * V];
    const void *send[8];
    size_t bytes[8];
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < cols; c++)
            mine[r * cols + c] = (float)(r * V + me * cols + c);
    for (uint32_t q = 0; q < n; q++) {
        send[q] = mine + q * rows * cols;
        bytes[q] = block;
    }
    WANT_OK(coll_exchange(g, &(struct coll_exchange_args){.counts = COLL_COUNTS_FIXED,
                                 .peers = ((uint64_t)1 << n) - 1,
                                 .send = send,
                                 .send_bytes = bytes,
                                 .receive = receive,
                                 .slot_bytes = block,
                                 .receive_bytes = bytes}));
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < V; c++)
            WANT(receive[(c / cols * rows + r) * cols + c % cols] ==
                 (float)((me * rows + r) * V + c));
    coll_destroy(g);
    return 0;
}

static void test_logits(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 8; n *= 2)
        assert_int_equal(ranks_fork(n, logits, NULL, 0), 0);
}

static int misuse(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, 4096, 20000, &g) == 0);
    uint8_t *receive = coll_heap_take(g, 128);
    const void *send[2] = {receive, receive};
    size_t bytes[2] = {65, 65}, got[2] = {0};
    struct coll_exchange_args a = {.counts = COLL_COUNTS_DEVICE,
        .peers = 3,
        .send = send,
        .send_bytes = bytes,
        .receive = receive,
        .slot_bytes = 64,
        .receive_bytes = got};
    WANT(coll_exchange(g, &a) == STATUS_INVALID);
    WANT(strstr(coll_error(g)->text, "device") != NULL);
    a.counts = COLL_COUNTS_BOUNDED;
    WANT(coll_exchange(g, &a) == STATUS_TOO_LARGE);
    a.peers = 5;
    WANT(coll_exchange(g, &a) == STATUS_INVALID);
    a.peers = 3;
    a.slot_bytes = 4096;
    WANT(coll_exchange(g, &a) == STATUS_INVALID);
    a.receive = got;
    a.slot_bytes = 64;
    WANT(coll_exchange(g, &a) == STATUS_INVALID);
    WANT_OK(coll_barrier(g, NULL));
    coll_destroy(g);
    return 0;
}

static void test_misuse(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, misuse, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_wrap),
        cmocka_unit_test(test_rested),
        cmocka_unit_test(test_pairs_only),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_misuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
