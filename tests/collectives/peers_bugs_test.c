// SPDX-License-Identifier: Apache-2.0
// Bugs that other collective libraries have shipped, and the tests that would show them here. Tests
// without a file are below; those of device_* run on the emulator, models/ by spin.
//
//   two operations of one communicator at once    fault_test test_two_threads (refused),
//                                                 test_channels (side by side)
//   two streams, one communicator                 device_streams_test streams_in_any_order
//   scratch shared by groups                      test_scratch (many_groups), all_reduce_test
//                                                 test_side_by_side (groups of 1, 2, 4 in 8),
//                                                 uses_test test_two_models, device_reduce_test
//                                                 groups_do_not_disturb_each_other
//   grids that change between calls               device_reduce_test grids_change_between_calls
//   epochs that wrap                              test_wrap, and in all_reduce_test, exchange_test;
//                                                 device_reduce_test epochs_wrap,
//                                                 device_round_test, device_graph_test
//                                                 counters_come_round_in_a_replay, models/
//   payloads taken for "not there yet"            test_bits (payloads), device_reduce_test
//                                                 bits_that_look_like_flags
//   one word written by several ranks             test_bits (shared_words), device_move_test
//                                                 bytes_are_gathered
//   ranks that choose different algorithms        test_tables, fault_test test_mismatch,
//                                                 device_fault_test
//                                                 a_rank_that_calls_something_else,
//                                                 device_graph_test ranks_replay_different_graphs
//   algorithms that share scratch                 test_scratch (mixed), device_move_test
//                                                 exchanges_and_sums_alternate, device_graph_test
//                                                 graphs_in_any_order
//   a kernel's successor that begins before its   no launch of ours may (device_launch); what one
//   last store                                    that may has to do: tests/emu/overlap_test
//   a ring without order of memory                ring_test under ThreadSanitizer, models/bell
//   peers whose memory cannot be read although    backend_cuda_test memory_that_cannot_be_reached:
//   the driver says so                            each pair writes and reads before it is used
//   a flag of all ranks in which the last one     backend_test test_choice, fault_test
//   test_creation: wins                                          verdicts of all ranks are joined
#include "tests/test_support.h"

#include "tests/collectives/all_reduce_cases.h"
#include "tests/collectives/op_cases.h"

#include "collectives/group.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Two operations of one group at once are refused (fault_test); on two channels they run side by
// side, in any order, and do not see each other's flags or scratch.
struct on_channel {
    struct coll_group *g;
    float *x;
    uint64_t seed;
    int rc;
};

static void *channel_main(void *arg)
{
    struct on_channel *c = arg;
    for (uint64_t i = 0; i < 150 && c->rc == 0; i++)
        c->rc = all_reduce_case(c->g, c->x,
            &(struct all_reduce_case){.count = 1 + (i * 811 + c->seed) % 30000,
                .dtype = i % 2 == 0 ? DTYPE_F32 : DTYPE_BF16,
                .seed = c->seed * 1000 + i});
    return NULL;
}

static int channels(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    struct coll_args args = {.heap_bytes = 4096, .timeout_ms = 20000, .channels = 3};
    struct on_channel c[3];
    pthread_t t[3];
    WANT_OK(coll_create(b, &args, &g, NULL));
    for (uint32_t k = 0; k < 3; k++) {
        c[k] = (struct on_channel){coll_channel(g, k), malloc(200000), k, 0};
        WANT(c[k].x != NULL && pthread_create(&t[k], NULL, channel_main, &c[k]) == 0);
    }
    for (uint32_t k = 0; k < 3; k++) {
        pthread_join(t[k], NULL);
        WANT(c[k].rc == 0);
        free(c[k].x);
    }
    // The end of one channel is the end of all.
    WANT_OK(b->barrier(b, NULL));
    if (b->rank == 0)
        coll_abort(coll_channel(g, 2));
    WANT(coll_barrier(coll_channel(g, 1), NULL) == STATUS_ABORTED);
    WANT(coll_barrier(g, NULL) == STATUS_ABORTED && coll_poll(g) == STATUS_ABORTED);
    coll_destroy(g);
    args.channels = COLL_CHANNELS_MAX + 1;
    WANT(coll_create(b, &args, &g, NULL) == STATUS_TOO_LARGE);
    args.channels = 1 + (b->rank == 0);
    WANT(coll_create(b, &args, &g, NULL) == STATUS_MISMATCH);
    return 0;
}

static void test_channels(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(2, channels, NULL, 0), 0);
    assert_int_equal(ranks_fork(4, channels, NULL, 0), 0);
    assert_int_equal(ranks_threads(2, channels, NULL), 0);
}

// Many groups over the same ranks, used in turn: nothing of one may be in another.
static int many_groups(struct bootstrap *b, void *context)
{
    (void)context;
    enum { GROUPS = 12 };
    struct coll_group *g[GROUPS];
    float *mine = malloc(200000);
    WANT(mine != NULL);
    for (int k = 0; k < GROUPS; k++)
        WANT(ranks_group(b, 4096, 20000, &g[k]) == 0);
    for (uint64_t i = 0; i < 200; i++)
        WANT(all_reduce_case(g[i * 5 % GROUPS], mine,
                 &(struct all_reduce_case){.count = 1 + i * 197 % 20000, .seed = i}) == 0);
    for (int k = 0; k < GROUPS; k++)
        coll_destroy(g[k]);
    free(mine);
    return 0;
}

// Large and small, one step and two, private and in the heap, with other operations between: what
// an earlier call left in slots and words must not pass for a later one's.
static int mixed(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    WANT(ranks_group(b, OP_CASES_HEAP_BYTES, 20000, &g) == 0);
    uint8_t *heap = coll_heap_take(g, 1 << 19), *mine = malloc(1 << 20), bytes[99];
    WANT(heap != NULL && mine != NULL);
    for (uint64_t i = 0; i < 400; i++) {
        uint64_t x = ranks_random(3, 0, i);
        struct all_reduce_case c = {.count = x % 8 == 0 ? 60000 + x % 60000 : x % 2000,
            .symmetric = (x >> 20) % 2 == 0,
            .seed = i};
        WANT(all_reduce_case(g, c.symmetric ? heap : mine, &c) == 0);
        memset(bytes, (int)(i + b->rank), sizeof bytes);
        uint32_t root = (uint32_t)(x >> 30) % b->size;
        WANT_OK(coll_broadcast(g, bytes, (x >> 24) % 99 + 1, root, NULL));
        WANT(bytes[0] == (uint8_t)(i + root));
    }
    coll_destroy(g);
    free(mine);
    return 0;
}

static void test_scratch(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(3, many_groups, NULL, 0), 0);
    assert_int_equal(ranks_fork(2, mixed, NULL, 0), 0);
    assert_int_equal(ranks_fork(5, mixed, NULL, 0), 0);
    assert_int_equal(ranks_threads(3, mixed, NULL), 0);
}

// Every operation over the wrap of the epochs.
static int wrapped(struct bootstrap *b, void *context)
{
    (void)context;
    for (uint32_t before = 1; before < 400; before = before * 3 + 1) {
        struct coll_group *g;
        WANT(ranks_group(b, OP_CASES_HEAP_BYTES, 20000, &g) == 0);
        WANT_OK(b->barrier(b, NULL));
        shm_set_epoch(g, 0u - before);
        WANT_OK(b->barrier(b, NULL));
        WANT(op_cases(g) == 0);
        coll_destroy(g);
        WANT_OK(b->barrier(b, NULL));
    }
    return 0;
}

static void test_wrap(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(3, wrapped, NULL, 0), 0);
}

// Bits that other protocols use as "not there yet": all must arrive as they are. Denormals are
// summed as numbers, and a minus zero stays one.
static int payloads(struct bootstrap *b, void *context)
{
    (void)context;
    static const uint32_t words[] = {0, 0x80000000u, 0xffffffffu, 0xfffafffau, 0x7fc00000u,
        0xff800001u, 0x00000001u, 0x807fffffu};
    enum { WORDS = 8 };
    struct coll_group *g;
    uint32_t out[WORDS * 8];
    WANT(ranks_group(b, 8192, 20000, &g) == 0);
    uint32_t *slots = coll_heap_take(g, 4096);
    for (uint32_t k = 0; k < WORDS; k++) {
        uint32_t in[WORDS];
        for (uint32_t i = 0; i < WORDS; i++)
            in[i] = words[k];
        WANT_OK(coll_all_gather(g, in, out, sizeof in, NULL));
        for (uint32_t i = 0; i < WORDS * b->size; i++)
            WANT(out[i] == words[k]);
        const void *send[8] = {in, in, in, in, in, in, in, in};
        size_t bytes[8], got[8];
        for (uint32_t q = 0; q < 8; q++)
            bytes[q] = sizeof in;
        WANT_OK(coll_exchange(g, &(struct coll_exchange_args){.counts = COLL_COUNTS_BOUNDED,
                                     .peers = ((uint64_t)1 << b->size) - 1,
                                     .send = send,
                                     .send_bytes = bytes,
                                     .receive = slots,
                                     .slot_bytes = sizeof in,
                                     .receive_bytes = got}));
        for (uint32_t i = 0; i < WORDS * b->size; i++)
            WANT(slots[i] == words[k]);
        WANT_OK(coll_barrier(g, NULL));
    }
    uint32_t tiny[40], minus_zero[40];
    for (uint32_t i = 0; i < 40; i++) {
        tiny[i] = 3 + i; // denormals add as integers do
        minus_zero[i] = 0x80000000u;
    }
    WANT_OK(coll_all_reduce(g, &(struct coll_all_reduce_args){.buffer = tiny, .count = 40}));
    WANT_OK(coll_all_reduce(g, &(struct coll_all_reduce_args){.buffer = minus_zero, .count = 40}));
    for (uint32_t i = 0; i < 40; i++)
        WANT(tiny[i] == (3 + i) * b->size && minus_zero[i] == 0x80000000u);
    coll_destroy(g);
    return 0;
}

// Neighbouring parts of one word belong to different ranks.
static int shared_words(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    uint8_t out[8 * 7];
    WANT(ranks_group(b, 4096, 20000, &g) == 0);
    for (size_t bytes = 1; bytes <= 7; bytes++)
        for (uint32_t i = 0; i < 50; i++) {
            uint8_t in[7];
            memset(in, (int)(i * 8 + b->rank), sizeof in);
            WANT_OK(coll_all_gather(g, in, out, bytes, NULL));
            for (uint32_t k = 0; k < b->size * bytes; k++)
                WANT(out[k] == (uint8_t)(i * 8 + k / bytes));
        }
    coll_destroy(g);
    return 0;
}

static void test_bits(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 8; n *= 2) {
        assert_int_equal(ranks_fork(n, payloads, NULL, 0), 0);
        assert_int_equal(ranks_fork(n, shared_words, NULL, 0), 0);
    }
}

// A table that differs on one rank is noticed when the group is made, not by a hang later.
static int tables(struct bootstrap *b, void *context)
{
    struct coll_group *g;
    struct error err = {0};
    struct coll_args args = {.tuning_file = b->rank == 1 ? context : NULL};
    WANT(coll_create(b, &args, &g, &err) == STATUS_MISMATCH);
    args.tuning_file = context;
    char text[200];
    WANT_OK(coll_create(b, &args, &g, &err));
    coll_explain(g, "all_reduce", 100, false, text, sizeof text);
    WANT(strncmp(text, "all_reduce: shm two_shot for 100 private bytes", 46) == 0);
    coll_explain(g, "all_reduce", 100, true, text, sizeof text);
    WANT(strncmp(text, "all_reduce: shm one_shot for 100 symmetric bytes", 48) == 0);
    coll_destroy(g);
    return 0;
}

static void test_tables(void **state)
{
    (void)state;
    char path[] = "/tmp/phalanx-table-XXXXXX";
    FILE *f = fdopen(mkstemp(path), "w");
    assert_non_null(f);
    fputs("# a comment\nsm80 8 all_reduce private 16384 ll\n"
          "host * all_reduce private inf two_shot\nhost 3 all_reduce symmetric 4096 one_shot\n",
        f);
    fclose(f);
    assert_int_equal(ranks_fork(3, tables, path, 0), 0);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_channels),
        cmocka_unit_test(test_scratch),
        cmocka_unit_test(test_wrap),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
