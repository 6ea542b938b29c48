// SPDX-License-Identifier: Apache-2.0
// Sums on emulated devices: the bits of the host's kernel, for all sizes, types, algorithms,
// groups.
#include "tests/collectives/device_ranks.hpp"

#include <cstring>
#include <string>

namespace
{

constexpr enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
constexpr uint8_t guard = 0x5a;

struct shape {
    size_t count, offset; // in elements
    enum dtype dtype;
    bool max, symmetric;
    enum coll_device_algorithm algorithm;
};

// A buffer of each rank between guards; compared as a whole.
struct buffers {
    std::vector<std::vector<uint8_t>> room;
    std::vector<uint8_t> want;
    size_t at, bytes;

    buffers(device_ranks &g, const shape &s, uint64_t seed)
    {
        size_t e = dtype_bytes(s.dtype);
        at = s.offset * e;
        bytes = s.count * e;
        want.assign(at + bytes + 16, guard);
        device_expect(want.data() + at, s.count, s.dtype, s.max, seed, g.size);
        for (device_rank &m : g.member) {
            room.emplace_back(at + bytes + 16, guard);
            uint8_t *p = s.symmetric ? m.heap : room[m.rank].data();
            std::memset(p, guard, at + bytes + 16);
            device_fill(p + at, s.count, s.dtype, seed, m.rank);
        }
    }

    // In place: a graph knows the addresses.
    void fill_again(device_ranks &g, const shape &s, uint64_t seed)
    {
        for (device_rank &m : g.member)
            device_fill(room[m.rank].data() + at, s.count, s.dtype, seed, m.rank);
    }

    bool right(device_ranks &g, const shape &s) const
    {
        for (device_rank &m : g.member)
            if (std::memcmp(s.symmetric ? m.heap : room[m.rank].data(), want.data(), want.size()) !=
                0)
                return false;
        return true;
    }
};

enum status reduce(device_rank &m, buffers &b, const shape &s)
{
    coll_device_reduce_args a = {};
    a.out = (s.symmetric ? m.heap : b.room[m.rank].data()) + b.at;
    a.in = a.out;
    a.count = s.count;
    a.dtype = s.dtype;
    a.max = s.max;
    a.symmetric = s.symmetric;
    a.algorithm = s.algorithm;
    a.stream = m.stream;
    return coll_device_all_reduce(m.group, &a, &m.err);
}

void check(device_ranks &g, const shape &s, uint64_t seed, bool threads = false)
{
    buffers b(g, s, seed);
    auto call = [&](device_rank &m) { return reduce(m, b, s); };
    emu_seed(seed);
    enum status got = threads ? g.threads(call) : g.all(call);
    if (got != STATUS_OK || !b.right(g, s))
        fail_msg("%u ranks, %zu of %s at %zu, max %d, symmetric %d, algorithm %d, seed %llu: %s",
            g.size, s.count, dtype_name(s.dtype), s.offset, s.max, s.symmetric,
            static_cast<int>(s.algorithm), static_cast<unsigned long long>(seed),
            got == STATUS_OK ? "other bits" : g.member[0].err.text);
}

shape shape_of(uint64_t i, size_t count)
{
    shape s = {};
    s.count = count;
    s.offset = i * 7 % 5;
    s.dtype = types[i % 3];
    s.max = i % 11 == 0;
    s.symmetric = i % 4 == 3;
    s.algorithm = static_cast<enum coll_device_algorithm>(1 + i % 4 % 3);
    return s;
}

#ifdef DEVICE_LONG
constexpr size_t small_step = 1, larger = 40;
#else
constexpr size_t small_step = 7, larger = 4;
#endif

void every_small_size(void **)
{
    for (uint32_t n : {2u, 4u, 8u}) {
        device_ranks g(n, 2);
        uint64_t i = n;
        for (size_t count = 0; count <= 300; count += small_step)
            for (unsigned variant = 0; variant < (small_step == 1 ? 12 : 2); variant++, i++)
                check(g, shape_of(i, count), i);
    }
}

void larger_sizes(void **)
{
    for (uint32_t n : {1u, 2u, 3u, 8u}) {
        device_ranks g(n, 3, 64, 60000, 1 << 17);
        for (uint64_t i = 0; i < larger; i++) {
            size_t count = 1000 + (i * 7919 + n * 104729) % (n == 8 ? 12000 : 30000);
            check(g, shape_of(i, count), i);
        }
    }
}

// More than one piece for each block, and fewer: grids change between calls.
void grids_change_between_calls(void **)
{
    device_ranks g(2, 4, 32, 60000, 1 << 17);
    for (uint64_t i = 0; i < 24; i++)
        check(g, shape_of(i, i % 3 == 0 ? 20000 : i % 3 == 1 ? 5 : 3000), i);
}

// Old packets must never be taken for new ones: those of the last round of the counter, nor what
// they were cleared to half a round ago.
void epochs_wrap(void **)
{
    const shape small = {8, 0, DTYPE_F32, false, false, COLL_DEVICE_PACKETS};
    const shape large = {3000, 0, DTYPE_F32, false, false, COLL_DEVICE_PACKETS};
    for (uint32_t start : {0xfffffffau, 0x7ffffffau}) {
        device_ranks g(4, 2);
        for (uint64_t i = 0; i < 4; i++)
            check(g, start > 0x80000000u ? large : small, i);
        g.set_epoch(start);
        for (uint64_t i = 0; i < 8; i++)
            check(g, large, 100 + i);
        g.set_epoch(start);
        for (uint64_t i = 0; i < 12; i++)
            check(g, shape_of(i, 700), i);
    }
}

// Words that are equal to flags of their turn, or that other protocols mean "nothing there yet" by:
// zeros of both signs, the smallest numbers, all ones. Whatever they are, they arrive.
void bits_that_look_like_flags(void **)
{
    constexpr uint32_t words[] = {
        0, 0x80000000u, 1, 2, 3, 4, 5, 6, 7, 8, 0x807fffffu, 0xffffffffu, 0xfffafffau, 0x7fc00000u};
    constexpr size_t n = sizeof words / sizeof *words * 20;
    device_ranks g(4, 2);
    std::vector<std::vector<uint32_t>> x(4, std::vector<uint32_t>(n));
    for (uint64_t turn = 0; turn < 9; turn++) {
        std::vector<uint32_t> want(n);
        std::vector<const void *> from;
        for (uint32_t r = 0; r < 4; r++) {
            // Only one rank's may be a NaN: whose payload a sum of two of them has is not defined.
            for (size_t i = 0; i < n; i++)
                x[r][i] = words[i % (r == 0 ? 14 : 11)];
            from.push_back(x[r].data());
        }
        void *to = want.data();
        reduce_find(reduce_named("plain"), 0, DTYPE_F32)(&to, 1, from.data(), 4, n);
        emu_seed(turn);
        assert_int_equal(g.all([&](device_rank &m) {
            coll_device_reduce_args a = {};
            a.in = a.out = x[m.rank].data();
            a.count = n;
            a.dtype = DTYPE_F32;
            a.algorithm = static_cast<enum coll_device_algorithm>(1 + turn % 3);
            a.stream = m.stream;
            return coll_device_all_reduce(m.group, &a, &m.err);
        }),
            STATUS_OK);
        for (uint32_t r = 0; r < 4; r++)
            for (size_t i = 0; i < n; i++) {
                const bool nan = (want[i] & 0x7fffffffu) > 0x7f800000u;
                assert_true(nan ? (x[r][i] & 0x7fffffffu) > 0x7f800000u : x[r][i] == want[i]);
            }
    }
}

// The members of one group are members of others, of other sizes, at the same time.
void groups_do_not_disturb_each_other(void **)
{
    device_ranks all(8, 2), low(4, 2), high(4, 2), pair(2, 2), one(1, 2);
    for (uint64_t i = 0; i < 6; i++) {
        const shape s = shape_of(i, 900);
        emu_seed(i);
        device_ranks *const groups[] = {&all, &low, &high, &pair, &one};
        std::vector<buffers> b;
        for (device_ranks *g : groups)
            b.emplace_back(*g, s, i);
        for (size_t k = 0; k < 5; k++)
            for (device_rank &m : groups[k]->member)
                assert_int_equal(reduce(m, b[k], s), STATUS_OK);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        for (size_t k = 0; k < 5; k++) {
            assert_true(b[k].right(*groups[k], s));
            assert_int_equal(coll_device_poll(groups[k]->member[0].group, nullptr), STATUS_OK);
        }
    }
}

// Ranks of different operating-system threads: under the thread sanitizer this checks the
// protocols.
void ranks_are_threads(void **)
{
    for (uint32_t n : {2u, 4u}) {
        device_ranks g(n, 2);
        for (uint64_t i = 0; i < 8; i++)
            check(g, shape_of(i, 40 + i * 211), i, true);
    }
}

void a_graph_is_replayed(void **)
{
    device_ranks g(4, 2);
    const shape s = {500, 1, DTYPE_BF16, false, false, COLL_DEVICE_PACKETS};
    const shape t = {500, 1, DTYPE_BF16, false, false, COLL_DEVICE_TWO_SHOT};
    buffers b(g, s, 3), c(g, t, 3);
    std::vector<cudaGraphExec_t> exec(4);
    for (device_rank &m : g.member) {
        cudaGraph_t graph;
        cudaStreamBeginCapture(m.stream, cudaStreamCaptureModeThreadLocal);
        assert_int_equal(reduce(m, b, s), STATUS_OK);
        assert_int_equal(reduce(m, c, t), STATUS_OK);
        assert_int_equal(cudaStreamEndCapture(m.stream, &graph), cudaSuccess);
        cudaGraphInstantiate(&exec[m.rank], graph, 0);
        cudaGraphDestroy(graph);
    }
    for (int i = 0; i < 5; i++) {
        b.fill_again(g, s, 3);
        c.fill_again(g, t, 3);
        for (device_rank &m : g.member)
            assert_int_equal(cudaGraphLaunch(exec[m.rank], m.stream), cudaSuccess);
        assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        assert_true(b.right(g, s) && c.right(g, t));
    }
    for (cudaGraphExec_t x : exec)
        cudaGraphExecDestroy(x);
}

void bad_arguments_are_refused(void **)
{
    device_ranks g(2);
    device_rank &m = g.member[0];
    coll_device_reduce_args a = {};
    a.in = a.out = m.heap + g.heap_bytes - 8;
    a.count = 3;
    a.symmetric = true;
    assert_int_equal(coll_device_all_reduce(m.group, &a, &m.err), STATUS_INVALID);
    a.dtype = DTYPE_I8;
    assert_int_equal(coll_device_all_reduce(m.group, &a, &m.err), STATUS_UNSUPPORTED);
    a.dtype = DTYPE_F32;
    a.algorithm = COLL_DEVICE_MULTICAST;
    a.count = 2;
    assert_int_equal(coll_device_all_reduce(m.group, &a, &m.err), STATUS_UNSUPPORTED);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_small_size),
        cmocka_unit_test(larger_sizes),
        cmocka_unit_test(grids_change_between_calls),
        cmocka_unit_test(epochs_wrap),
        cmocka_unit_test(bits_that_look_like_flags),
        cmocka_unit_test(groups_do_not_disturb_each_other),
        cmocka_unit_test(ranks_are_threads),
        cmocka_unit_test(a_graph_is_replayed),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
