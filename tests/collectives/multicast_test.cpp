// SPDX-License-Identifier: Apache-2.0
// Sums in the switch: the multicast address of a group's memory is made through the emulated
// driver, used only where the caller allows inexact sums and the table asks for it, and refused in
// one sentence where a device has none; then everything is as exact as ever.
extern "C" {
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"
}
#include "collectives/cuda/peers.h"
#include "collectives/cuda/plugin.h"
#include "kernels/emu/driver.hpp"
#include "tests/collectives/emulated_device.hpp"

#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <unistd.h>

namespace
{

constexpr size_t heap_bytes = 1 << 16;

// One that may have a switch.
struct device : emulated_device {
    device() : emulated_device(90)
    {
    }
};

enum class plan { sums, not_allowed, no_switch, not_bound };

enum status no_switch(void *, error *err)
{
    return status_fail(err, STATUS_UNSUPPORTED, "planted: no switch");
}

enum status not_bound(void *, coll_peer_memory *, const coll_peer_memory *, error *err)
{
    return status_fail(err, STATUS_DEVICE_FAILED, "planted: not bound");
}

struct scene {
    plan what;
    const char *table;            // the file
    std::atomic<unsigned> *bound; // how many members have, in the memory of all
};

// The emulated switch sums in the order of binding, which must not be that of the ranks by chance,
// from neither end: first rank 0, then the others from the last one on.
struct turn {
    unsigned mine;
    std::atomic<unsigned> *bound;
    enum status (*bind)(void *, coll_peer_memory *, const coll_peer_memory *, error *);
};
thread_local turn my_turn;

enum status bind_in_turn(
    void *context, coll_peer_memory *m, const coll_peer_memory *own, error *err)
{
    for (int i = 0; *my_turn.bound < my_turn.mine && i < 200000; i++)
        usleep(100);
    enum status st = my_turn.bind(context, m, own, err);
    ++*my_turn.bound;
    return st;
}

enum status sum(coll_group *g, void *x, size_t n, enum dtype t, bool symmetric = true,
    enum coll_op op = COLL_SUM)
{
    coll_all_reduce_args a = {};
    a.buffer = x;
    a.count = n;
    a.dtype = t;
    a.op = op;
    a.symmetric = symmetric;
    TRY(coll_all_reduce(g, &a));
    return cudaStreamSynchronize(nullptr) == cudaSuccess ? coll_poll(g) : STATUS_DEVICE_FAILED;
}

// Whether the bits are those of the sum in rank order; and, always, that they are near it and equal
// on all ranks.
int check(
    bootstrap *b, coll_group *g, uint8_t *x, size_t n, enum dtype t, bool integers, bool *same)
{
    static thread_local uint8_t want[heap_bytes], all[4 * heap_bytes];
    const size_t bytes = n * dtype_bytes(t);
    ranks_fill(x, n, t, n, b->rank, integers);
    WANT_OK(b->barrier(b, nullptr));
    WANT_OK(sum(g, x, n, t));
    ranks_expect(want, n, t, COLL_SUM, n, b->size, integers);
    *same = memcmp(x, want, bytes) == 0;
    for (size_t i = 0; i < n && t == DTYPE_F32; i++) {
        const float got = reinterpret_cast<float *>(x)[i];
        const float expected = reinterpret_cast<float *>(want)[i];
        // Elements of any sign and size: the larger ones take digits from the others.
        WANT(std::fabs(got - expected) <= 1e-3f * (1 + std::fabs(expected)));
    }
    WANT_OK(b->all_gather(b, x, bytes, all, nullptr));
    for (uint32_t r = 1; r < b->size; r++)
        WANT(memcmp(all, all + r * bytes, bytes) == 0);
    return 0;
}

int sums(bootstrap *b, coll_group *g, bool by_switch)
{
    uint8_t *x = static_cast<uint8_t *>(coll_heap_take(g, heap_bytes / 2));
    bool same, all_same = true;
    for (enum dtype t : {DTYPE_F32, DTYPE_F16, DTYPE_BF16})
        for (size_t n : {size_t(8), size_t(800), size_t(5000)}) {
            WANT(check(b, g, x, n, t, true, &same) == 0 && same);
            WANT(check(b, g, x, n, t, false, &same) == 0);
            all_same = all_same && same;
        }
    // Three summands or more have an order that shows; two are added alike from both ends.
    WANT(all_same == !(by_switch && b->size > 2));
    // What the switch cannot do is done elsewhere, and exactly: odd ends, odd offsets, maxima.
    WANT(check(b, g, x, 801, DTYPE_F32, false, &same) == 0 && same);
    WANT(check(b, g, x + 4, 800, DTYPE_F32, false, &same) == 0 && same);
    return 0;
}

int member(bootstrap *b, void *context)
{
    const scene &s = *static_cast<const scene *>(context);
    device d;
    coll_group *g;
    coll_args args = {};
    char text[600];
    args.backend = "cuda";
    args.device = &d.table;
    args.heap_bytes = heap_bytes;
    args.timeout_ms = 30000;
    args.native = s.what != plan::not_allowed;
    args.tuning_file = s.table;
    my_turn = {b->rank == 0 ? 0 : b->size - b->rank, s.bound, d.peers.multicast_bind};
    if (s.what == plan::sums)
        d.peers.multicast_bind = bind_in_turn;
    if (s.what == plan::no_switch && b->rank == 1)
        d.peers.multicast_probe = no_switch;
    if (s.what == plan::not_bound && b->rank == 1)
        d.peers.multicast_bind = not_bound;
    WANT_OK(coll_create(b, &args, &g, nullptr));
    const bool by_switch = s.what == plan::sums;
    coll_explain(g, "all_reduce", 4096, true, text, sizeof text);
    WANT((strstr(text, "multimem, summed by the switch (inexact") != nullptr) == by_switch);
    const char *why = by_switch                     ? "a switch can sum"
                      : s.what == plan::not_allowed ? "were not allowed"
                      : b->rank != 1                ? "no switch sums: rank 1"
                                                    : "no switch sums: planted";
    if (strstr(text, why) == nullptr || strchr(text, '\n') != nullptr)
        fprintf(stderr, "%s\n", text);
    WANT(strstr(text, why) != nullptr && strchr(text, '\n') == nullptr);
    coll_explain(g, "all_reduce", 4096, false, text, sizeof text);
    WANT(strstr(text, "two_shot, pushed") != nullptr);
    WANT(sums(b, g, by_switch) == 0);
    WANT_OK(b->barrier(b, nullptr));
    coll_destroy(g);
    return 0;
}

void run(plan what)
{
    char file[] = "/tmp/phalanx-multicast-XXXXXX";
    const char row[] = "emu * all_reduce symmetric inf multimem\n";
    int fd = mkstemp(file);
    assert_true(fd >= 0 && write(fd, row, sizeof row - 1) == sizeof row - 1);
    close(fd);
    void *shared =
        mmap(nullptr, sizeof(unsigned), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    scene s = {what, file, new (shared) std::atomic<unsigned>(0)};
    for (uint32_t n : {2u, 4u}) {
        *s.bound = 0;
        assert_int_equal(ranks_fork(n, member, &s, 0), 0);
    }
    *s.bound = 0;
    assert_int_equal(ranks_threads(3, member, &s), 0);
    munmap(shared, sizeof(unsigned));
    unlink(file);
}

void a_switch_sums(void **)
{
    run(plan::sums);
}

void only_where_it_is_allowed(void **)
{
    run(plan::not_allowed);
}

void a_device_without_a_switch(void **)
{
    run(plan::no_switch);
}

void memory_that_cannot_be_bound(void **)
{
    run(plan::not_bound);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_switch_sums),
        cmocka_unit_test(only_where_it_is_allowed),
        cmocka_unit_test(a_device_without_a_switch),
        cmocka_unit_test(memory_that_cannot_be_bound),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
