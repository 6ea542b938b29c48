// SPDX-License-Identifier: Apache-2.0
// A whole round of the counters later: flags and packets that an operation has left behind have
// exactly the numbers that its successor waits for, and the same signature. They must be gone by
// then, whatever ran in between, or a rank takes old data for new.
//
// A round is made short by moving the counters of idle pads, but for the places where old words are
// forgotten: there operations run.
#include "tests/collectives/device_ranks.hpp"

#include <cstring>

namespace
{

enum class does { packets, one_shot, two_shot, barrier, exchange };

constexpr size_t large = 1000, small = 8; // elements; `large` fits one piece of each algorithm

struct room {
    std::vector<std::vector<float>> own;
    std::vector<float> want;

    explicit room(uint32_t n) : own(n, std::vector<float>(large)), want(large)
    {
    }
};

enum status reduce(device_rank &m, room &r, size_t count, enum coll_device_algorithm algorithm)
{
    coll_device_reduce_args a = {};
    a.in = a.out = r.own[m.rank].data();
    a.count = count;
    a.dtype = DTYPE_F32;
    a.algorithm = algorithm;
    a.stream = m.stream;
    return coll_device_all_reduce(m.group, &a, &m.err);
}

enum status swap_blocks(device_rank &m, room &r, std::vector<std::vector<float>> &seen)
{
    coll_device_exchange_args a = {};
    a.peers = (1u << m.size) - 1;
    for (uint32_t q = 0; q < m.size; q++) {
        a.send[q] = r.own[m.rank].data();
        a.send_bytes[q] = a.receive_bytes[q] = large * sizeof(float);
    }
    a.fixed = true;
    a.receive = m.heap;
    a.slot_bytes = large * sizeof(float);
    a.stream = m.stream;
    enum status s = coll_device_exchange(m.group, &a, &m.err);
    cudaMemcpyAsync(seen[m.rank].data(), m.heap, m.size * large * sizeof(float),
        cudaMemcpyDeviceToDevice, m.stream);
    return s;
}

enum status call(device_rank &m, room &r, does what, size_t count)
{
    switch (what) {
    case does::packets:
        return reduce(m, r, count, COLL_DEVICE_PACKETS);
    case does::one_shot:
        return reduce(m, r, count, COLL_DEVICE_ONE_SHOT);
    case does::two_shot:
        return reduce(m, r, count, COLL_DEVICE_TWO_SHOT);
    default:
        return coll_device_barrier(m.group, m.stream, &m.err);
    }
}

bool right(device_ranks &g, does what, uint64_t seed)
{
    room r(g.size);
    std::vector<std::vector<float>> seen(g.size, std::vector<float>(g.size * large));
    for (uint32_t q = 0; q < g.size; q++)
        device_fill(r.own[q].data(), large, DTYPE_F32, seed, q);
    device_expect(r.want.data(), large, DTYPE_F32, false, seed, g.size);
    const room before = r;
    emu_seed(seed);
    enum status s = g.all([&](device_rank &m) {
        return what == does::exchange ? swap_blocks(m, r, seen) : call(m, r, what, large);
    });
    bool fine = s == STATUS_OK;
    for (uint32_t q = 0; q < g.size; q++)
        for (uint32_t p = 0; p < g.size; p++)
            fine =
                fine && (what == does::exchange ? memcmp(&seen[q][p * large], before.own[p].data(),
                                                      large * sizeof(float)) == 0
                                                : r.own[q] == r.want);
    return fine;
}

// Operations run where the counters come round, or half round.
void pass(device_ranks &g, does what)
{
    room r(g.size);
    for (uint32_t start : {0xfffffffdu, 0x7ffffffdu}) {
        g.set_epoch(start);
        // Ranks need not keep together: one may be a piece ahead where another forgets.
        enum status s = g.all([&](device_rank &m) {
            enum status first = STATUS_OK;
            for (int i = 0; i < 6 && first == STATUS_OK; i++)
                first = call(m, r, what, small);
            return first;
        });
        assert_int_equal(s, STATUS_OK);
    }
}

void nothing_is_taken_from_the_round_before(void **)
{
    uint64_t seed = 0;
    for (does what : {does::packets, does::one_shot, does::two_shot, does::exchange})
        for (does between : {does::packets, does::one_shot, does::two_shot, does::barrier})
            for (uint32_t at : {0x1000u, 0x40000000u, 0xc0000001u}) {
                device_ranks g(2 + static_cast<uint32_t>(seed % 3), 1, 32, 10000);
                g.set_epoch(at);
                assert_true(right(g, what, ++seed));
                pass(g, between);
                for (int round = 0; round < 3; round++) {
                    g.set_epoch(at);
                    if (!right(g, what, ++seed))
                        fail_msg("operation %d at %x, a round after itself, with %d between",
                            static_cast<int>(what), at, static_cast<int>(between));
                    pass(g, between);
                }
            }
}

// Rank 0 and rank 1 exchange only every fourth time, so one of them may be some pieces ahead and
// has raised its flag already where the other forgets: it must stay.
void flags_of_those_ahead_stay(void **)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        device_ranks g(2, 1, 32, 5000);
        static float block[2][16];
        g.set_epoch(seed % 2 != 0 ? 0xfffffff9u : 0x7ffffff9u);
        emu_seed(seed);
        enum status s = g.all([&](device_rank &m) {
            enum status first = STATUS_OK;
            for (int i = 0; i < 16 && first == STATUS_OK; i++) {
                coll_device_exchange_args a = {};
                a.peers = i % 4 == 3 ? 3u : 0u;
                a.send[0] = a.send[1] = block[m.rank];
                a.send_bytes[0] = a.send_bytes[1] = sizeof block[0];
                a.receive = m.heap;
                a.slot_bytes = sizeof block[0];
                a.stream = m.stream;
                first = coll_device_exchange(m.group, &a, &m.err);
            }
            return first;
        });
        if (s != STATUS_OK)
            fail_msg("seed %llu: %s", static_cast<unsigned long long>(seed), g.member[0].err.text);
    }
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_taken_from_the_round_before),
        cmocka_unit_test(flags_of_those_ahead_stay),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
