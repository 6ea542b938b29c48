// SPDX-License-Identifier: Apache-2.0
// Kernels that begin before the one before them has ended: what waits sees everything, what does
// not wait is found out.
extern "C" {
#include "tests/test_support.h"
}
#include "kernels/cuda/ptx.cuh"

namespace
{

constexpr unsigned blocks = 6, threads = 32, n = blocks * threads, seeds = 40;

// Reads an element of the block beside it, so that it needs all of the kernel before.
__device__ unsigned neighbour()
{
    return (blockIdx.x * threads + threadIdx.x + threads) % n;
}

__global__ void add_neighbour(const unsigned *from, unsigned *to)
{
    phx_grid_wait();
    phx_grid_release();
    to[blockIdx.x * threads + threadIdx.x] = from[neighbour()] + 1;
}

__global__ void reads_too_early(const unsigned *from, unsigned *to)
{
    unsigned early = from[neighbour()];
    phx_grid_wait();
    to[blockIdx.x * threads + threadIdx.x] = early + 1;
}

__global__ void never_waits(const unsigned *from, unsigned *to)
{
    to[blockIdx.x * threads + threadIdx.x] = from[neighbour()] + 1;
}

// Waits for something other than the kernels before it, which wait for nothing either.
__global__ void stands(unsigned *)
{
    if (threadIdx.x != 0)
        __syncthreads();
}

struct chain {
    cudaStream_t s;
    unsigned a[n], b[n];

    chain() : s(nullptr), a(), b()
    {
        cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    }
    ~chain()
    {
        emu_reset();
        cudaStreamDestroy(s);
    }
    chain(const chain &) = delete;

    phx_launch_config on(bool overlaps) const
    {
        return {dim3(blocks), dim3(threads), 0, s, false, overlaps};
    }

    // Six additions, of which the last two are by `last`.
    void enqueue(void (*last)(const unsigned *, unsigned *), bool overlaps)
    {
        for (unsigned i = 0; i < 4; i++)
            phx_launch(on(overlaps), add_neighbour, i % 2 ? b : a, i % 2 ? a : b);
        phx_launch(on(overlaps), last, a, b);
        phx_launch(on(overlaps), last, b, a);
    }

    unsigned wrong() const
    {
        unsigned found = 0;
        for (unsigned v : a)
            found += v != 6;
        return found;
    }
};

void what_waits_sees_all(void **)
{
    for (unsigned seed = 0; seed < seeds; seed++) {
        emu_seed(seed);
        chain c;
        c.enqueue(add_neighbour, true);
        assert_int_equal(cudaStreamSynchronize(c.s), cudaSuccess);
        assert_int_equal(c.wrong(), 0);
    }
}

// How many seeds show it.
unsigned found_out(bool overlaps)
{
    unsigned found = 0;
    for (unsigned seed = 0; seed < seeds; seed++) {
        emu_seed(seed);
        chain c;
        c.enqueue(reads_too_early, overlaps);
        assert_int_equal(cudaStreamSynchronize(c.s), cudaSuccess);
        found += c.wrong() > 0;
    }
    return found;
}

void a_read_before_the_wait_is_found(void **)
{
#if defined(__SANITIZE_THREAD__)
    skip(); // it is a race, and reported
#endif
    assert_true(found_out(true) > seeds / 2);
    assert_int_equal(found_out(false), 0);
}

void a_kernel_without_a_wait_is_reported(void **)
{
    chain c;
    c.enqueue(never_waits, true);
    assert_int_equal(cudaStreamSynchronize(c.s), cudaErrorLaunchFailure);
    assert_non_null(std::strstr(emu_sentence(), "phx_grid_wait"));
}

// Those that wait for it do not hide why a kernel cannot end.
void a_deadlock_is_still_explained(void **)
{
    for (unsigned seed = 0; seed < 10; seed++) {
        emu_seed(seed);
        chain c;
        phx_launch(c.on(false), stands, static_cast<unsigned *>(c.a));
        c.enqueue(add_neighbour, true);
        assert_int_equal(cudaStreamSynchronize(c.s), cudaErrorLaunchFailure);
        assert_non_null(std::strstr(emu_sentence(), "__syncthreads"));
    }
}

void graphs_overlap_and_are_counted(void **)
{
    chain c;
    cudaGraph_t g;
    cudaGraphExec_t x;
    assert_int_equal(cudaStreamBeginCapture(c.s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    c.enqueue(add_neighbour, true);
    assert_int_equal(cudaStreamEndCapture(c.s, &g), cudaSuccess);
    assert_int_equal(cudaGraphInstantiate(&x, g, 0), cudaSuccess);
    unsigned long long before = emu_launches();
    for (unsigned seed = 0; seed < 10; seed++) {
        emu_seed(seed);
        for (unsigned i = 0; i < n; i++)
            c.a[i] = 0;
        assert_int_equal(cudaGraphLaunch(x, c.s), cudaSuccess);
        assert_int_equal(cudaStreamSynchronize(c.s), cudaSuccess);
        assert_int_equal(c.wrong(), 0);
    }
    assert_int_equal(emu_launches() - before, 60);
    cudaGraphDestroy(g);
    cudaGraphExecDestroy(x);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_waits_sees_all),
        cmocka_unit_test(a_read_before_the_wait_is_found),
        cmocka_unit_test(a_kernel_without_a_wait_is_reported),
        cmocka_unit_test(a_deadlock_is_still_explained),
        cmocka_unit_test(graphs_overlap_and_are_counted),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
