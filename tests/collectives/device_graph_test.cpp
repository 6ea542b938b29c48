// SPDX-License-Identifier: Apache-2.0
// Calls that were captured are replayed: nothing about a call is kept on the host, so each replay
// goes on where the pads are. Several graphs in any order, with calls between them that are not
// captured; counters that come round in the middle of a replay; ranks that replay different graphs,
// and a rank that does not come any more.
#include "tests/collectives/device_ranks.hpp"

#include <cstring>
#include <memory>

namespace
{

// What one graph of a rank holds, and the call that is not captured.
enum { PACKETS, TWO_SHOT, ONE_SHOT, SYMMETRIC, RECORDS };
constexpr size_t counts[RECORDS] = {500, 900, 5000, 700};
constexpr size_t block = 48, symmetric_at = 8192; // floats of an exchange; bytes in the heap

struct member {
    std::vector<float> x[RECORDS], gathered;
    cudaGraphExec_t exec[RECORDS] = {};

    explicit member(uint32_t size) : gathered(size * block)
    {
        for (int k = 0; k < RECORDS; k++)
            x[k].resize(counts[k]);
    }
};

float *data_of(device_rank &m, member &own, int k)
{
    return k == SYMMETRIC ? reinterpret_cast<float *>(m.heap + symmetric_at) : own.x[k].data();
}

enum status reduce(device_rank &m, member &own, int k)
{
    static const enum coll_device_algorithm with[RECORDS] = {
        COLL_DEVICE_PACKETS, COLL_DEVICE_TWO_SHOT, COLL_DEVICE_ONE_SHOT, COLL_DEVICE_TWO_SHOT};
    coll_device_reduce_args a = {};
    a.in = a.out = data_of(m, own, k);
    a.count = counts[k];
    a.dtype = DTYPE_F32;
    a.symmetric = k == SYMMETRIC;
    a.algorithm = with[k];
    a.stream = m.stream;
    return coll_device_all_reduce(m.group, &a, &m.err);
}

// Everybody's first sums to everybody: which must be equal by then.
enum status exchange(device_rank &m, member &own)
{
    coll_device_exchange_args a = {};
    a.peers = (1u << m.size) - 1;
    for (uint32_t q = 0; q < m.size; q++) {
        a.send[q] = own.x[ONE_SHOT].data();
        a.send_bytes[q] = a.receive_bytes[q] = block * sizeof(float);
    }
    a.fixed = true;
    a.receive = m.heap;
    a.slot_bytes = block * sizeof(float);
    a.stream = m.stream;
    return coll_device_exchange(m.group, &a, &m.err);
}

enum status enqueue(device_rank &m, member &own, int k)
{
    TRY(reduce(m, own, k));
    if (k == PACKETS)
        return coll_device_barrier(m.group, m.stream, &m.err);
    if (k == TWO_SHOT)
        return coll_device_all_gather(
            m.group, own.x[k].data(), own.gathered.data(), block * sizeof(float), m.stream, &m.err);
    return k == ONE_SHOT ? exchange(m, own) : STATUS_OK;
}

enum status record(device_rank &m, member &own)
{
    for (int k = 0; k < RECORDS; k++) {
        cudaGraph_t graph;
        if (cudaStreamBeginCapture(m.stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess)
            return STATUS_DEVICE_FAILED;
        TRY(enqueue(m, own, k));
        if (cudaStreamEndCapture(m.stream, &graph) != cudaSuccess ||
            cudaGraphInstantiate(&own.exec[k], graph, 0) != cudaSuccess)
            return STATUS_DEVICE_FAILED;
        cudaGraphDestroy(graph);
    }
    return STATUS_OK;
}

void forget(member &own)
{
    for (cudaGraphExec_t x : own.exec)
        if (x != nullptr)
            cudaGraphExecDestroy(x);
}

// Which graph, or (RECORDS and on) which call that is not captured, is the n-th of all ranks.
int choice(uint64_t n)
{
    return static_cast<int>((n * 0x9e3779b97f4a7c15ull >> 33) % (RECORDS + 2));
}

enum status start(device_rank &m, member &own, uint64_t n)
{
    const int what = choice(n), k = what % RECORDS;
    device_fill(data_of(m, own, k), counts[k], DTYPE_F32, n, m.rank);
    if (what >= RECORDS)
        return enqueue(m, own, k);
    return cudaGraphLaunch(own.exec[k], m.stream) == cudaSuccess ? STATUS_OK : STATUS_DEVICE_FAILED;
}

bool right(device_rank &m, member &own, uint64_t n)
{
    const int k = choice(n) % RECORDS;
    std::vector<float> want(counts[k]);
    device_expect(want.data(), counts[k], DTYPE_F32, false, n, m.size);
    bool same = std::memcmp(data_of(m, own, k), want.data(), counts[k] * sizeof(float)) == 0;
    const uint8_t *blocks = k == TWO_SHOT   ? reinterpret_cast<uint8_t *>(own.gathered.data())
                            : k == ONE_SHOT ? m.heap
                                            : nullptr;
    for (uint32_t q = 0; blocks != nullptr && q < m.size; q++)
        same = same && std::memcmp(blocks + q * block * sizeof(float), want.data(),
                           block * sizeof(float)) == 0;
    return same;
}

std::vector<std::unique_ptr<member>> members_of(device_ranks &g)
{
    std::vector<std::unique_ptr<member>> all;
    for (uint32_t r = 0; r < g.size; r++)
        all.push_back(std::make_unique<member>(g.size));
    return all;
}

void replay_all(device_ranks &g, std::vector<std::unique_ptr<member>> &all, uint64_t n)
{
    emu_seed(n);
    enum status s = g.all([&](device_rank &m) { return start(m, *all[m.rank], n); });
    for (device_rank &m : g.member)
        if (s != STATUS_OK || !right(m, *all[m.rank], n))
            fail_msg("%u ranks, replay %llu, rank %u: %s", g.size,
                static_cast<unsigned long long>(n), m.rank,
                s == STATUS_OK ? "other bits" : m.err.text);
}

void graphs_in_any_order(void **)
{
    for (uint32_t n : {2u, 4u, 8u}) {
        device_ranks g(n, 2);
        auto all = members_of(g);
        for (device_rank &m : g.member)
            assert_int_equal(record(m, *all[m.rank]), STATUS_OK);
        for (uint64_t i = 0; i < 20; i++)
            replay_all(g, all, i * 8 + n);
        for (auto &own : all)
            forget(*own);
    }
}

// A piece is one step of a block's counters, so each graph ends them in other places; from every
// one of the starts some replay has the end of a round in its middle.
void counters_come_round_in_a_replay(void **)
{
    for (uint32_t before = 1; before <= 6; before++)
        for (uint32_t end : {0u, 0x80000000u}) {
            device_ranks g(3, 2);
            auto all = members_of(g);
            for (device_rank &m : g.member)
                assert_int_equal(record(m, *all[m.rank]), STATUS_OK);
            g.set_epoch(end - before);
            for (uint64_t i = 0; i < 10; i++)
                replay_all(g, all, before * 100 + i);
            for (auto &own : all)
                forget(*own);
        }
}

// Each rank an operating-system thread of its own, which captures and replays at its own pace.
void ranks_are_threads(void **)
{
    device_ranks g(3, 2);
    auto all = members_of(g);
    g.set_epoch(0u - 20);
    enum status s = g.threads([&](device_rank &m) {
        member &own = *all[m.rank];
        enum status st = record(m, own);
        for (uint64_t n = 0; n < 24 && st == STATUS_OK; n++) {
            st = start(m, own, n);
            // Symmetric buffers and slots are filled anew only when all have read them.
            if (st == STATUS_OK && cudaStreamSynchronize(m.stream) != cudaSuccess)
                st = STATUS_DEVICE_FAILED;
            if (st == STATUS_OK && !right(m, own, n))
                st = STATUS_INVALID;
            if (st == STATUS_OK)
                st = coll_device_barrier(m.group, m.stream, &m.err);
            if (st == STATUS_OK && cudaStreamSynchronize(m.stream) != cudaSuccess)
                st = STATUS_DEVICE_FAILED;
        }
        forget(own);
        return st;
    });
    if (s != STATUS_OK)
        fail_msg("%s: %s", status_name(s), g.member[0].err.text);
}

// A graph that its peer does not replay: an error for all, and replays after it end at once and
// leave their buffers alone.
void trouble(enum status wanted, bool comes)
{
    device_ranks g(3, 2, 32, comes ? 60000 : 500);
    auto all = members_of(g);
    for (device_rank &m : g.member)
        assert_int_equal(record(m, *all[m.rank]), STATUS_OK);
    for (uint64_t n = 0; n < 4; n++)
        replay_all(g, all, n);
    for (device_rank &m : g.member) {
        const bool odd = m.rank == 1;
        if (!odd || comes)
            assert_int_equal(cudaGraphLaunch(all[m.rank]->exec[odd ? TWO_SHOT : PACKETS], m.stream),
                cudaSuccess);
    }
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    for (device_rank &m : g.member) {
        if (m.rank == 1 && !comes)
            continue;
        assert_int_equal(coll_device_poll(m.group, &m.err), wanted);
        std::vector<float> &x = all[m.rank]->x[PACKETS];
        const std::vector<float> before = x;
        assert_int_equal(cudaGraphLaunch(all[m.rank]->exec[PACKETS], m.stream), cudaSuccess);
        assert_int_equal(cudaStreamSynchronize(m.stream), cudaSuccess);
        assert_true(x == before);
    }
    for (auto &own : all)
        forget(*own);
}

void ranks_replay_different_graphs(void **)
{
    trouble(STATUS_MISMATCH, true);
}

void a_rank_replays_no_more(void **)
{
    trouble(STATUS_TIMEOUT, false);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(graphs_in_any_order),
        cmocka_unit_test(counters_come_round_in_a_replay),
        cmocka_unit_test(ranks_are_threads),
        cmocka_unit_test(ranks_replay_different_graphs),
        cmocka_unit_test(a_rank_replays_no_more),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
