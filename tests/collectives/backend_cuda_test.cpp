// SPDX-License-Identifier: Apache-2.0
// The back end "cuda" on emulated devices: the same cases as every other back end, with ranks as
// threads and as processes, memory shared by file descriptor and by cudaIpc, and what must go wrong
// in a known way.
extern "C" {
#include "tests/test_support.h"

#include "tests/collectives/op_cases.h"

#include "base/clock.h"
}
#include "collectives/cuda/peers.h"
#include "collectives/cuda/plugin.h"
#include "kernels/emu/driver.hpp"
#include "tests/collectives/emulated_device.hpp"

#include <csignal>
#include <cstring>
#include <unistd.h>

namespace
{

struct device : emulated_device {
    device() : emulated_device(80)
    {
    }
};

coll_args args_of(const device &d)
{
    coll_args a = {};
    a.backend = "cuda";
    a.device = &d.table;
    a.heap_bytes = OP_CASES_HEAP_BYTES;
    a.timeout_ms = 30000 * RANKS_SLOWNESS;
    return a;
}

// A caller that waits for its stream, as the host's back ends do: what the common cases expect.
enum status waited(coll_group *g, enum status s)
{
    if (s != STATUS_OK)
        return s;
    return cudaStreamSynchronize(nullptr) == cudaSuccess ? coll_poll(g) : STATUS_DEVICE_FAILED;
}

#define WAITED(name, arguments)                                                                    \
    enum status name(coll_group *g, const arguments *a)                                            \
    {                                                                                              \
        return waited(g, backend_cuda.name(g, a));                                                 \
    }
WAITED(all_reduce, coll_all_reduce_args)
WAITED(all_reduce_norm, coll_all_reduce_norm_args)
WAITED(reduce_scatter, coll_reduce_scatter_args)
WAITED(all_gather, coll_all_gather_args)
WAITED(broadcast, coll_broadcast_args)
WAITED(exchange, coll_exchange_args)
#undef WAITED

enum status barrier(coll_group *g, void *stream)
{
    return waited(g, backend_cuda.barrier(g, stream));
}

coll_backend patient()
{
    coll_backend b = backend_cuda;
    b.all_reduce = all_reduce;
    b.all_reduce_norm = all_reduce_norm;
    b.reduce_scatter = reduce_scatter;
    b.all_gather = all_gather;
    b.broadcast = broadcast;
    b.exchange = exchange;
    b.barrier = barrier;
    return b;
}

enum status no_fd(
    void *context, enum coll_peers_way way, size_t bytes, coll_peer_memory *out, error *err)
{
    if (way == COLL_PEERS_FD)
        return status_fail(err, STATUS_UNSUPPORTED, "planted: no descriptors");
    const device whole;
    return whole.peers.take(context, way, bytes, out, err);
}

struct how {
    bool ipc;
};

int all_cases(bootstrap *b, void *context)
{
    device d;
    const coll_backend backend = patient();
    const coll_backend *more[] = {&backend, nullptr};
    coll_args args = args_of(d);
    coll_group *g;
    error err = {};
    char text[300];
    bool ipc = static_cast<const how *>(context)->ipc;
    if (ipc)
        d.peers.take = no_fd;
    args.more = more;
    emu_seed(b->rank);
    enum status s = coll_create(b, &args, &g, &err);
    if (s != STATUS_OK)
        fprintf(stderr, "%s\n", err.text);
    WANT(s == STATUS_OK && strcmp(coll_backend_name(g), "cuda") == 0);
    coll_explain(g, "all_reduce", 100, false, text, sizeof text);
    if (b->size > 1) {
        WANT(strstr(text, "cuda ll") != nullptr && strstr(text, "emu") != nullptr);
        WANT(strstr(text, ipc ? "by cudaIpc" : "by file descriptor") != nullptr);
    }
    WANT(op_cases(g) == 0);
    WANT_OK(b->barrier(b, nullptr));
    coll_destroy(g);
    return 0;
}

void ranks_are_processes(void **)
{
    how by_fd = {false}, by_ipc = {true};
    for (uint32_t n : {1u, 2u, 4u})
        assert_int_equal(ranks_fork(n, all_cases, &by_fd, 0), 0);
    assert_int_equal(ranks_fork(2, all_cases, &by_ipc, 0), 0);
    assert_int_equal(ranks_fork(3, all_cases, &by_ipc, 0), 0);
}

void ranks_are_threads(void **)
{
    how by_fd = {false};
    assert_int_equal(ranks_threads(2, all_cases, &by_fd), 0);
    assert_int_equal(ranks_threads(3, all_cases, &by_fd), 0);
}

// As a caller waits: looks after the group until its stream has run, or the group has ended.
enum status settle(coll_group *g, cudaStream_t stream = nullptr)
{
    for (;;) {
        cudaError_t e = cudaStreamQuery(stream);
        enum status s = coll_poll(g);
        if (s != STATUS_OK || e == cudaSuccess)
            return s;
        if (e != cudaErrorNotReady)
            return STATUS_DEVICE_FAILED;
    }
}

enum status sum(coll_group *g, float *x, size_t n, bool max = false)
{
    coll_all_reduce_args a = {};
    a.buffer = x;
    a.count = n;
    a.dtype = DTYPE_F32;
    a.op = max ? COLL_MAX : COLL_SUM;
    return coll_all_reduce(g, &a);
}

// The deadline of the group whose member stays away: its calls before must come to their ends.
constexpr uint32_t away_ms = 1000 * RANKS_SLOWNESS;

enum class trouble { killed, leaves, stays_away, differs, aborts };

int in_trouble(bootstrap *b, void *context)
{
    const trouble what = *static_cast<const trouble *>(context);
    static thread_local float x[700];
    device d;
    coll_args args = args_of(d);
    coll_group *g;
    args.timeout_ms = what == trouble::stays_away ? away_ms : 30000 * RANKS_SLOWNESS;
    WANT_OK(coll_create(b, &args, &g, nullptr));
    for (size_t i = 0; i < 5; i++) {
        WANT_OK(sum(g, x, 100 + i * 150));
        WANT_OK(settle(g));
    }
    WANT_OK(b->barrier(b, nullptr));
    const uint64_t start = clock_now_us();
    const bool last = b->rank + 1 == b->size;
    if (last && what == trouble::killed)
        kill(getpid(), SIGKILL);
    if (last && what == trouble::aborts)
        coll_abort(g);
    if (last && what == trouble::leaves) {
        coll_destroy(g);
        return 0;
    }
    enum status s = STATUS_OK;
    if (!(last && what == trouble::stays_away))
        s = sum(g, x, 300, last && what == trouble::differs);
    while (s == STATUS_OK && clock_now_us() - start < 20000000 + away_ms * 1000)
        s = settle(g);
    const enum status wanted = what == trouble::stays_away ? STATUS_TIMEOUT
                               : what == trouble::differs  ? STATUS_MISMATCH
                               : what == trouble::aborts   ? STATUS_ABORTED
                                                           : STATUS_PEER_GONE;
    if (s != wanted)
        fprintf(stderr, "trouble %d: %s: %s\n", static_cast<int>(what), status_name(s),
            coll_error(g)->text);
    WANT(s == wanted && coll_barrier(g, nullptr) == s);
    WANT(clock_now_us() - start < 10000000 + away_ms * 1000);
    coll_destroy(g);
    return 0;
}

// A group that has ended can be made anew; see all_cases for what it can do then.
void trouble_ends_the_group(void **)
{
    trouble killed = trouble::killed;
    assert_int_equal(ranks_fork(3, in_trouble, &killed, 4), 0);
    for (trouble what : {trouble::leaves, trouble::stays_away, trouble::differs, trouble::aborts}) {
        assert_int_equal(ranks_fork(3, in_trouble, &what, 0), 0);
        assert_int_equal(ranks_threads(2, in_trouble, &what), 0);
    }
}

// What a member maps is not the other's memory: neither way may be used, and nobody is served.
enum status wrong_memory(void *context, enum coll_peers_way way, size_t bytes, int, const uint8_t *,
    coll_peer_memory *out, error *err)
{
    const device whole;
    return whole.peers.take(context, way, bytes, out, err);
}

enum status no_memory(void *, enum coll_peers_way, size_t, coll_peer_memory *, error *err)
{
    return status_fail(err, STATUS_DEVICE_FAILED, "planted: none left");
}

int unreachable(bootstrap *b, void *)
{
    device d;
    coll_args args = args_of(d);
    coll_group *g = nullptr;
    error err = {};
    if (b->rank == 1)
        d.peers.import_memory = wrong_memory;
    WANT(coll_create(b, &args, &g, &err) == STATUS_UNSUPPORTED && g == nullptr);
    WANT(b->rank != 0 || strstr(err.text, "does not arrive") != nullptr);
    device poor;
    args.device = &poor.table;
    if (b->rank == 0)
        poor.peers.take = no_memory;
    WANT(coll_create(b, &args, &g, &err) == STATUS_DEVICE_FAILED && g == nullptr);
    WANT(b->rank != 0 || strstr(err.text, "none left") != nullptr);
    return 0;
}

void memory_that_cannot_be_reached(void **)
{
    assert_int_equal(ranks_fork(2, unreachable, nullptr, 0), 0);
    assert_int_equal(ranks_fork(3, unreachable, nullptr, 0), 0);
}

// Calls on two channels, captured in graphs and replayed, in streams of their own.
int replayed(bootstrap *b, void *)
{
    constexpr size_t n = 900;
    device d;
    coll_args args = args_of(d);
    coll_group *g;
    args.channels = 2;
    WANT_OK(coll_create(b, &args, &g, nullptr));
    float *x[2] = {static_cast<float *>(coll_heap_take(g, n * 4)),
        static_cast<float *>(coll_heap_take(g, n * 4))};
    cudaStream_t stream[2];
    cudaGraphExec_t exec[2];
    for (uint32_t k = 0; k < 2; k++) {
        cudaGraph_t graph;
        WANT(cudaStreamCreateWithFlags(&stream[k], cudaStreamNonBlocking) == cudaSuccess);
        cudaStreamBeginCapture(stream[k], cudaStreamCaptureModeThreadLocal);
        coll_all_reduce_args a = {};
        a.buffer = x[k];
        a.count = n;
        a.dtype = DTYPE_F32;
        a.symmetric = k == 1;
        a.stream = stream[k];
        WANT_OK(coll_all_reduce(coll_channel(g, k), &a));
        WANT(cudaStreamEndCapture(stream[k], &graph) == cudaSuccess);
        cudaGraphInstantiate(&exec[k], graph, 0);
        cudaGraphDestroy(graph);
    }
    static thread_local float want[n];
    for (uint64_t turn = 0; turn < 4; turn++) {
        for (uint32_t k = 0; k < 2; k++)
            ranks_fill(x[k], n, DTYPE_F32, turn * 2 + k, b->rank, false);
        // Nobody may write into a symmetric buffer that is still being filled: the start of the
        // kernel waits for all.
        for (uint32_t k = 0; k < 2; k++)
            WANT(cudaGraphLaunch(exec[k], stream[k]) == cudaSuccess);
        for (uint32_t k = 0; k < 2; k++) {
            WANT(cudaStreamSynchronize(stream[k]) == cudaSuccess);
            WANT_OK(coll_poll(coll_channel(g, k)));
            ranks_expect(want, n, DTYPE_F32, COLL_SUM, turn * 2 + k, b->size, false);
            WANT(memcmp(x[k], want, sizeof want) == 0);
        }
    }
    for (uint32_t k = 0; k < 2; k++) {
        cudaGraphExecDestroy(exec[k]);
        cudaStreamDestroy(stream[k]);
    }
    WANT_OK(b->barrier(b, nullptr));
    coll_destroy(g);
    return 0;
}

void calls_are_captured(void **)
{
    assert_int_equal(ranks_fork(2, replayed, nullptr, 0), 0);
    assert_int_equal(ranks_threads(3, replayed, nullptr), 0);
}

// A peer that dies between two replays is missed by its process handle, long before the deadline,
// although the group knows neither the stream of the replay nor that it runs; the stream that was
// captured is gone. Later replays end at once and leave the buffer alone.
int replayed_alone(bootstrap *b, void *)
{
    constexpr size_t n = 900;
    static thread_local float x[n], want[n];
    device d;
    coll_args args = args_of(d);
    coll_group *g;
    cudaStream_t captured, stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    args.timeout_ms = 60000;
    WANT_OK(coll_create(b, &args, &g, nullptr));
    WANT(cudaStreamCreateWithFlags(&captured, cudaStreamNonBlocking) == cudaSuccess);
    cudaStreamBeginCapture(captured, cudaStreamCaptureModeThreadLocal);
    coll_all_reduce_args a = {};
    a.buffer = x;
    a.count = n;
    a.dtype = DTYPE_F32;
    a.stream = captured;
    WANT_OK(coll_all_reduce(g, &a));
    WANT(cudaStreamEndCapture(captured, &graph) == cudaSuccess);
    cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(captured);
    WANT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    for (uint64_t turn = 0; turn < 3; turn++) {
        ranks_fill(x, n, DTYPE_F32, turn, b->rank, false);
        WANT(cudaGraphLaunch(exec, stream) == cudaSuccess);
        WANT_OK(settle(g, stream));
        ranks_expect(want, n, DTYPE_F32, COLL_SUM, turn, b->size, false);
        WANT(memcmp(x, want, sizeof want) == 0);
    }
    WANT_OK(b->barrier(b, nullptr));
    if (b->rank + 1 == b->size)
        kill(getpid(), SIGKILL);
    const uint64_t start = clock_now_us();
    WANT(cudaGraphLaunch(exec, stream) == cudaSuccess);
    WANT(settle(g, stream) == STATUS_PEER_GONE);
    WANT(clock_now_us() - start < 60000000);
    WANT(cudaStreamSynchronize(stream) == cudaSuccess);
    memcpy(want, x, sizeof want);
    WANT(cudaGraphLaunch(exec, stream) == cudaSuccess);
    WANT(cudaStreamSynchronize(stream) == cudaSuccess && memcmp(x, want, sizeof want) == 0);
    WANT(coll_poll(g) == STATUS_PEER_GONE);
    cudaGraphExecDestroy(exec);
    cudaStreamDestroy(stream);
    coll_destroy(g);
    return 0;
}

void a_peer_dies_between_replays(void **)
{
    assert_int_equal(ranks_fork(2, replayed_alone, nullptr, 2), 0);
    assert_int_equal(ranks_fork(4, replayed_alone, nullptr, 8), 0);
}

// A member that has done its part may leave while others still look after what is done.
int left_behind(bootstrap *b, void *)
{
    static thread_local float x[300];
    device d;
    coll_args args = args_of(d);
    coll_group *g;
    WANT_OK(coll_create(b, &args, &g, nullptr));
    WANT_OK(sum(g, x, 300));
    WANT_OK(settle(g));
    if (b->rank != 0) {
        coll_destroy(g);
        return 0;
    }
    for (const uint64_t start = clock_now_us(); clock_now_us() - start < 500000;)
        WANT_OK(coll_poll(g));
    coll_destroy(g);
    return 0;
}

void a_member_leaves_when_all_is_done(void **)
{
    assert_int_equal(ranks_fork(2, left_behind, nullptr, 0), 0);
}

// Without a table of peers there is no back end "cuda", and the sentence says why.
int absent(bootstrap *b, void *)
{
    device d;
    coll_args args = args_of(d);
    coll_group *g = nullptr;
    error err = {};
    d.table.peers = nullptr;
    WANT(coll_create(b, &args, &g, &err) == STATUS_UNSUPPORTED);
    WANT(strstr(err.text, "no memory that other members can map") != nullptr);
    return 0;
}

void a_device_without_peers(void **)
{
    assert_int_equal(ranks_threads(2, absent, nullptr), 0);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_are_processes),
        cmocka_unit_test(ranks_are_threads),
        cmocka_unit_test(trouble_ends_the_group),
        cmocka_unit_test(memory_that_cannot_be_reached),
        cmocka_unit_test(calls_are_captured),
        cmocka_unit_test(a_peer_dies_between_replays),
        cmocka_unit_test(a_member_leaves_when_all_is_done),
        cmocka_unit_test(a_device_without_peers),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
