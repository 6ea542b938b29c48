// SPDX-License-Identifier: Apache-2.0
// Ranks of emulated devices that do not come, that call something else, or that give up: the others
// get an error, and nothing hangs.
#include "tests/collectives/device_ranks.hpp"

#include <cstring>

namespace
{

float room[8][4096];

enum status sum(
    device_rank &m, size_t count, enum coll_device_algorithm algorithm, enum dtype t = DTYPE_F32)
{
    coll_device_reduce_args a = {};
    a.in = a.out = room[m.rank];
    a.count = count;
    a.dtype = t;
    a.algorithm = algorithm;
    a.stream = m.stream;
    return coll_device_all_reduce(m.group, &a, &m.err);
}

enum status swap_blocks(device_rank &m, uint64_t peers)
{
    coll_device_exchange_args a = {};
    a.peers = peers;
    for (uint32_t q = 0; q < m.size; q++) {
        a.send[q] = room[m.rank];
        a.send_bytes[q] = 64;
    }
    a.receive = m.heap;
    a.slot_bytes = 64;
    a.stream = m.stream;
    return coll_device_exchange(m.group, &a, &m.err);
}

// All members see the error, sooner or later; once seen, calls are refused.
void everyone_has(device_ranks &g, enum status wanted)
{
    struct error err;
    for (device_rank &m : g.member) {
        enum status s = coll_device_poll(m.group, &err);
        if (s != wanted)
            fail_msg("rank %u: %s, wanted %s", m.rank, s == STATUS_OK ? "ok" : err.text,
                status_name(wanted));
        assert_int_equal(coll_device_barrier(m.group, m.stream, &err), wanted);
    }
}

void a_rank_that_never_comes(void **)
{
    for (int what = 0; what < 6; what++) {
        device_ranks g(4, 2, 32, 100);
        enum status s = g.all([&](device_rank &m) {
            if (m.rank == 2)
                return STATUS_OK;
            if (what < 3)
                return sum(m, 500, static_cast<enum coll_device_algorithm>(what + 1));
            if (what == 3)
                return coll_device_barrier(m.group, m.stream, &m.err);
            return what == 4 ? swap_blocks(m, 15)
                             : coll_device_all_gather(
                                   m.group, m.heap, m.heap + 4096, 512, m.stream, &m.err);
        });
        assert_int_equal(s, STATUS_TIMEOUT);
        assert_non_null(strstr(g.member[0].err.text, "rank 2"));
        for (uint32_t r : {0u, 1u, 3u})
            assert_int_equal(coll_device_poll(g.member[r].group, nullptr), STATUS_TIMEOUT);
    }
}

// Each pair of calls that some rank confuses.
enum status confused(device_rank &m, int what, bool other)
{
    switch (what) {
    case 0:
        return sum(m, other ? 500 : 400, COLL_DEVICE_PACKETS);
    case 1:
        return sum(m, 400, other ? COLL_DEVICE_PACKETS : COLL_DEVICE_TWO_SHOT);
    case 2:
        return sum(m, 400, COLL_DEVICE_ONE_SHOT, other ? DTYPE_F16 : DTYPE_BF16);
    case 3:
        return other ? coll_device_barrier(m.group, m.stream, &m.err) : swap_blocks(m, 15);
    case 4:
        return other ? swap_blocks(m, 15) : sum(m, 64, COLL_DEVICE_PACKETS);
    case 5: // rank 1 does not count rank 0 among its peers
        return swap_blocks(m, other ? 14 : 15);
    case 6: // more pieces than the others have
        return sum(m, other ? 4000 : 200, COLL_DEVICE_ONE_SHOT);
    default:
        return coll_device_broadcast(m.group, room[m.rank], 64, other ? 1 : 0, m.stream, &m.err);
    }
}

void a_rank_that_calls_something_else(void **)
{
    for (int what = 0; what < 8; what++)
        for (unsigned seed = 0; seed < 5; seed++) {
            device_ranks g(4, 2, 32, 20000);
            emu_seed(seed);
            enum status s = g.all([&](device_rank &m) {
                enum status first = sum(m, 100, COLL_DEVICE_PACKETS);
                if (first == STATUS_OK)
                    first = confused(m, what, m.rank == 1);
                return first != STATUS_OK ? first : coll_device_barrier(m.group, m.stream, &m.err);
            });
            if (s != STATUS_MISMATCH)
                fail_msg("confusion %d, seed %u: %s", what, seed, status_name(s));
            everyone_has(g, STATUS_MISMATCH);
        }
}

void too_large(uint32_t bytes, const uint8_t *from)
{
    device_ranks g(2, 2, 32, 20000);
    uint32_t sizes[2] = {16, bytes};
    enum status s = g.all([&](device_rank &m) {
        coll_device_exchange_args a = {};
        a.peers = 3;
        a.send[0] = room[m.rank];
        a.send[1] = from;
        a.device_counts = sizes;
        a.receive = m.heap;
        a.slot_bytes = 64;
        a.stream = m.stream;
        return coll_device_exchange(m.group, &a, &m.err);
    });
    assert_int_equal(s, STATUS_TOO_LARGE);
}

// What only the device knows: a block that does not fit, and one that is nowhere.
void a_block_that_is_too_large(void **)
{
    too_large(65, reinterpret_cast<uint8_t *>(room[0]));
    too_large(1, nullptr);
}

void an_abort_wakes_everyone(void **)
{
    device_ranks g(4, 2, 32, 20000);
    enum status s = g.all([&](device_rank &m) {
        if (m.rank == 3) {
            coll_device_abort(g.member[0].group);
            return STATUS_OK;
        }
        return sum(m, 300, COLL_DEVICE_ONE_SHOT);
    });
    assert_int_equal(s, STATUS_ABORTED);
    for (uint32_t r = 0; r < 3; r++)
        assert_int_equal(coll_device_poll(g.member[r].group, nullptr), STATUS_ABORTED);
}

// After an error the old group is closed and a new one on fresh pads works.
void a_new_group_works(void **)
{
    {
        device_ranks g(2, 2, 32, 50);
        (void)g.all([&](device_rank &m) {
            return m.rank == 0 ? coll_device_barrier(m.group, m.stream, &m.err) : STATUS_OK;
        });
    }
    device_ranks g(2);
    assert_int_equal(
        g.all([&](device_rank &m) { return sum(m, 300, COLL_DEVICE_PACKETS); }), STATUS_OK);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_that_never_comes),
        cmocka_unit_test(a_rank_that_calls_something_else),
        cmocka_unit_test(a_block_that_is_too_large),
        cmocka_unit_test(an_abort_wakes_everyone),
        cmocka_unit_test(a_new_group_works),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
