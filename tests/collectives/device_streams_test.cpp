// SPDX-License-Identifier: Apache-2.0
// Calls of one group in several streams, which nobody has put in order: two kernels of a group at
// once would wait for each other's ranks, or take each other's flags for their own. All calls are
// enqueued before any of them runs; each rank deals them to its streams in its own way.
#include "tests/collectives/device_ranks.hpp"

#include <cstring>

namespace
{

enum { STREAMS = 3, CALLS = 10 };
constexpr size_t heap_each = 4096;

struct streams {
    cudaStream_t of[STREAMS];

    streams()
    {
        for (cudaStream_t &s : of)
            assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    }
    ~streams()
    {
        for (cudaStream_t s : of)
            cudaStreamDestroy(s);
    }
    streams(const streams &) = delete;
    streams &operator=(const streams &) = delete;
};

// Of one rank: what its calls work on.
struct member {
    streams s;
    std::vector<float> x[CALLS];
};

size_t count_of(uint64_t n)
{
    return 20 + n * 977 % 900;
}

bool in_heap(uint64_t n)
{
    return n % 4 == 3;
}

float *data_of(device_rank &m, member &own, uint64_t n)
{
    return in_heap(n) ? reinterpret_cast<float *>(m.heap + n * heap_each) : own.x[n].data();
}

enum status reduce(device_rank &m, float *x, uint64_t n, cudaStream_t stream)
{
    static const enum coll_device_algorithm with[] = {
        COLL_DEVICE_PACKETS, COLL_DEVICE_ONE_SHOT, COLL_DEVICE_TWO_SHOT, COLL_DEVICE_TWO_SHOT};
    coll_device_reduce_args a = {};
    a.in = a.out = x;
    a.count = count_of(n);
    a.dtype = DTYPE_F32;
    a.symmetric = in_heap(n);
    a.algorithm = with[n % 4];
    a.stream = stream;
    return coll_device_all_reduce(m.group, &a, &m.err);
}

enum status enqueue(device_rank &m, member &own, uint64_t seed, uint64_t n)
{
    cudaStream_t stream = own.s.of[(seed * 7 + n * (m.rank + 1)) % STREAMS];
    own.x[n].resize(count_of(n));
    device_fill(data_of(m, own, n), count_of(n), DTYPE_F32, seed * CALLS + n, m.rank);
    TRY(reduce(m, data_of(m, own, n), n, stream));
    return n % 5 == 2 ? coll_device_barrier(m.group, own.s.of[(n + m.rank) % STREAMS], &m.err)
                      : STATUS_OK;
}

bool right(device_rank &m, const float *x, uint64_t n, uint64_t seed)
{
    std::vector<float> want(count_of(n));
    device_expect(want.data(), want.size(), DTYPE_F32, false, seed, m.size);
    return std::memcmp(x, want.data(), want.size() * sizeof(float)) == 0;
}

void streams_in_any_order(void **)
{
    for (uint32_t n : {2u, 3u, 4u}) {
        device_ranks g(n, 2, 32, 20000);
        std::vector<member> all(n);
        for (uint64_t seed = 1; seed <= 12; seed++) {
            emu_seed(seed);
            enum status s = g.all([&](device_rank &m) {
                for (uint64_t i = 0; i < CALLS; i++)
                    TRY(enqueue(m, all[m.rank], seed, i));
                return STATUS_OK;
            });
            if (s != STATUS_OK)
                fail_msg("%s: %s", status_name(s), g.member[0].err.text);
            for (device_rank &m : g.member)
                for (uint64_t i = 0; i < CALLS; i++)
                    assert_true(right(m, data_of(m, all[m.rank], i), i, seed * CALLS + i));
        }
    }
}

// A stream need not outlive its calls; one that comes after it may have its address.
void streams_come_and_go(void **)
{
    device_ranks g(2, 2, 32, 20000);
    for (uint64_t seed = 0; seed < 6; seed++) {
        std::vector<std::vector<float>> x(2, std::vector<float>(count_of(0)));
        enum status s = g.all([&](device_rank &m) {
            device_fill(x[m.rank].data(), x[m.rank].size(), DTYPE_F32, seed, m.rank);
            return reduce(m, x[m.rank].data(), 0, m.stream);
        });
        assert_int_equal(s, STATUS_OK);
        for (device_rank &m : g.member) {
            assert_true(right(m, x[m.rank].data(), 0, seed));
            assert_int_equal(cudaStreamDestroy(m.stream), cudaSuccess);
            assert_int_equal(
                cudaStreamCreateWithFlags(&m.stream, cudaStreamNonBlocking), cudaSuccess);
        }
    }
}

// A capture keeps nothing of the calls before it: its graph may be replayed when they are long
// over.
void captures_have_no_order(void **)
{
    device_ranks g(2, 2, 32, 20000);
    std::vector<member> all(2);
    cudaGraphExec_t exec[2] = {};
    emu_seed(3);
    enum status s = g.all([&](device_rank &m) {
        member &own = all[m.rank];
        cudaStream_t record = own.s.of[1];
        cudaGraph_t graph;
        TRY(enqueue(m, own, 0, 0));
        own.x[1].resize(count_of(1));
        assert_int_equal(
            cudaStreamBeginCapture(record, cudaStreamCaptureModeThreadLocal), cudaSuccess);
        TRY(reduce(m, own.x[1].data(), 1, record));
        assert_int_equal(cudaStreamEndCapture(record, &graph), cudaSuccess);
        assert_int_equal(cudaGraphInstantiate(&exec[m.rank], graph, 0), cudaSuccess);
        cudaGraphDestroy(graph);
        return enqueue(m, own, 0, 4);
    });
    assert_int_equal(s, STATUS_OK);
    for (uint64_t seed = 1; seed < 4; seed++) {
        s = g.all([&](device_rank &m) {
            device_fill(all[m.rank].x[1].data(), count_of(1), DTYPE_F32, seed, m.rank);
            assert_int_equal(cudaGraphLaunch(exec[m.rank], m.stream), cudaSuccess);
            return STATUS_OK;
        });
        assert_int_equal(s, STATUS_OK);
        for (device_rank &m : g.member)
            assert_true(right(m, all[m.rank].x[1].data(), 1, seed));
    }
    for (cudaGraphExec_t x : exec)
        cudaGraphExecDestroy(x);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_in_any_order),
        cmocka_unit_test(streams_come_and_go),
        cmocka_unit_test(captures_have_no_order),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
