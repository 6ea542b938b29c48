// SPDX-License-Identifier: Apache-2.0
// The emulator runs right kernels right, and reports each way in which a kernel can be wrong.
extern "C" {
#include "tests/test_support.h"
}
#include "kernels/cuda/ptx.cuh"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

namespace
{

#if defined(__SANITIZE_THREAD__)
constexpr unsigned seeds = 3;
#else
constexpr unsigned seeds = 20;
#endif

phx_launch_config config(dim3 grid, dim3 block, std::size_t bytes = 0, bool cooperative = false)
{
    phx_launch_config c = {grid, block, bytes, nullptr, cooperative, false};
    return c;
}

// Runs what is queued; the sentence of the error, or "".
std::string run(std::uint64_t seed = 1)
{
    emu_seed(seed);
    cudaError_t e = cudaDeviceSynchronize();
    std::string s = emu_sentence();
    assert_int_equal(e == cudaSuccess, s.empty());
    emu_reset();
    return s;
}

void expect(const std::string &sentence, const char *part)
{
    if (sentence.find(part) == std::string::npos)
        fail_msg("wanted \"%s\" in \"%s\"", part, sentence.c_str());
}

// Sums 256 numbers in shared memory; `careful` false leaves the barriers out.
__global__ void tree_sum(const int *in, int *out, bool careful)
{
    PHX_SHARED(int[256], cell);
    unsigned i = threadIdx.x;
    cell[i] = in[blockIdx.x * 256 + i];
    for (unsigned half = 128; half > 0; half /= 2) {
        if (careful)
            __syncthreads();
        if (i < half)
            cell[i] += cell[i + half];
    }
    if (i == 0)
        out[blockIdx.x] = cell[0];
}

unsigned tree_sum_wrong(bool careful)
{
    int in[3 * 256], out[3], want[3] = {};
    for (int i = 0; i < 3 * 256; i++)
        want[i / 256] += in[i] = i * 7 % 31;
    unsigned wrong = 0;
    for (unsigned seed = 0; seed < seeds; seed++) {
        phx_launch(config(3, 256), tree_sum, in, out, careful);
        assert_string_equal(run(seed).c_str(), "");
        wrong += std::memcmp(out, want, sizeof want) != 0;
    }
    return wrong;
}

void barriers_order_a_block(void **)
{
    assert_int_equal(tree_sum_wrong(true), 0);
}

void a_missing_barrier_shows(void **)
{
#if defined(__SANITIZE_THREAD__)
    skip(); // there it is reported as a race, as the next test wants
#endif
    assert_true(tree_sum_wrong(false) == seeds);
}

__global__ void warp_things(unsigned *out)
{
    unsigned i = threadIdx.x, lane = i % 32, all = 0xffffffffu;
    unsigned sum = i;
    for (unsigned d = 16; d > 0; d /= 2)
        sum += __shfl_xor_sync(all, sum, static_cast<int>(d));
    unsigned up = __shfl_up_sync(all, lane, 1), down = __shfl_down_sync(all, lane, 3, 8);
    unsigned odd = __ballot_sync(all, lane & 1);
    unsigned same = __match_any_sync(all, lane / 4);
    bool good = sum == i / 32 * 1024 + 496 && up == (lane == 0 ? 0 : lane - 1);
    good = good && down == (lane % 8 + 3 < 8 ? lane + 3 : lane);
    good = good && odd == 0xaaaaaaaau && same == 0xfu << (lane / 4 * 4);
    good = good && __shfl_sync(all, i, 5) == i / 32 * 32 + 5;
    good = good && __reduce_max_sync(all, i) == i / 32 * 32 + 31 && __any_sync(all, lane == 9);
    good = good && !__all_sync(all, lane != 9);
    if (lane < 8)
        good = good && __reduce_add_sync(0xffu, 1u) == 8;
    out[i] = good;
}

void warps_work_together(void **)
{
    for (unsigned seed = 0; seed < seeds; seed++) {
        unsigned out[64] = {};
        phx_launch(config(1, 64), warp_things, out);
        assert_string_equal(run(seed).c_str(), "");
        for (unsigned o : out)
            assert_int_equal(o, 1);
    }
}

// What each of these does wrong is named by the number.
__global__ void wrong_warp(int what, unsigned *out)
{
    unsigned lane = threadIdx.x % 32, v = 0;
    if (what == 0) // half a warp calls for all of it
        v = lane < 16 ? __shfl_sync(0xffffffffu, lane, 0) : 0;
    if (what == 1) // the caller is not in its mask
        v = __shfl_sync(0x0000ffffu, lane, 0);
    if (what == 2) // two masks that overlap
        v = lane < 16 ? __shfl_sync(0x0001ffffu, lane, 0) : __shfl_sync(0xffff0000u, lane, 16);
    if (what == 3) // from a lane outside
        v = lane < 16 ? __shfl_sync(0x0000ffffu, lane, 20) : 0;
    if (what == 4) { // two functions under one mask
        if (lane < 16)
            v = __shfl_sync(0xffffffffu, lane, 0);
        else
            v = __ballot_sync(0xffffffffu, 1);
    }
    if (what == 5) { // half a warp waits for the block, half for the warp
        if (lane < 16)
            __syncthreads();
        else
            v = __shfl_sync(0xffffffffu, lane, 0);
    }
    out[threadIdx.x] = v;
}

void a_wrong_mask_is_an_error(void **)
{
    static const char *const wanted[] = {"which has ended", "not in its own mask", "mask 0x",
        "not in the mask", "meets lane", "none can go on"};
    for (int what = 0; what < 6; what++)
        for (unsigned seed = 0; seed < seeds; seed++) {
            unsigned out[32];
            phx_launch(config(1, 32), wrong_warp, what, out);
            std::string s = run(seed);
            expect(s, wanted[what]);
            expect(s, "emu_test.cpp:");
        }
}

__global__ void wrong_barrier(int what)
{
    unsigned i = threadIdx.x;
    if (what == 0 && i < 40) // some never come
        __syncthreads();
    if (what == 1) { // two places
        if (i < 40)
            __syncthreads();
        else
            __syncthreads();
    }
    if (what == 2) { // one waits for ever in its warp
        if (i == 63)
            __syncwarp(0x80000001u);
        __syncthreads();
    }
}

void divergence_at_a_barrier_is_an_error(void **)
{
    static const char *const wanted[] = {"ended", "diverged at a barrier", "none can go on"};
    for (int what = 0; what < 3; what++)
        for (unsigned seed = 0; seed < seeds; seed++) {
            phx_launch(config(1, 64), wrong_barrier, what);
            std::string s = run(seed);
            expect(s, wanted[what]);
            expect(s, "emu_test.cpp:");
        }
}

// Block b adds its part and waits for all others: only works if all are there.
__global__ void meet(unsigned *arrived, unsigned *out)
{
    if (threadIdx.x == 0) {
        phx_add_release_gpu(arrived, 1u);
        while (phx_load_acquire_gpu(arrived) < gridDim.x * gridDim.y)
            __nanosleep(100);
    }
    __syncthreads();
    atomicAdd(out, 1u);
}

void a_cooperative_grid_is_resident(void **)
{
    for (unsigned seed = 0; seed < seeds; seed++) {
        unsigned arrived = 0, out = 0;
        phx_launch(config(dim3(5, 3), 32, 0, true), meet, &arrived, &out);
        assert_string_equal(run(seed).c_str(), "");
        assert_int_equal(out, 15 * 32);
    }
}

__global__ void fetch(const uint4 *from, unsigned *out, bool careful)
{
    PHX_SHARED(uint4[2][32], tile);
    unsigned i = threadIdx.x;
    phx_copy_async_16(&tile[0][i], from + i);
    phx_copy_commit();
    phx_copy_async_16(&tile[1][i], from + 32 + i);
    phx_copy_commit();
    if (careful)
        phx_copy_wait<0>();
    else
        phx_copy_wait<1>();
    __syncthreads();
    out[i] = tile[0][31 - i].x + tile[1][31 - i].w;
}

void copies_land_at_their_wait(void **)
{
    uint4 from[64];
    for (unsigned i = 0; i < 64; i++)
        from[i] = {i, i, i, i};
    for (int careful = 0; careful < 2; careful++) {
        unsigned out[32];
        phx_launch(config(1, 32), fetch, from, out, careful != 0);
        assert_string_equal(run(3).c_str(), "");
        for (unsigned i = 0; i < 32; i++)
            assert_int_equal(out[i] == 94 - 2 * i, careful);
    }
}

__global__ void off_by_one(int *out, int what)
{
    PHX_SHARED(int[32], a);
    PHX_SHARED(int[32], b);
    PHX_SHARED_DYNAMIC(int, d);
    unsigned i = threadIdx.x;
    a[i] = b[i] = d[i] = 1;
    __syncthreads();
    (what == 0 ? a : what == 1 ? b : what == 2 ? d : out)[i + 1] = 0;
}

// In a child, because the sanitizer ends the process.
bool dies(const std::function<void()> &f)
{
    fflush(nullptr);
    pid_t pid = fork();
    if (pid == 0) {
        fclose(stderr);
        f();
        exit(0);
    }
    int state = 0;
    waitpid(pid, &state, 0);
    return !WIFEXITED(state) || WEXITSTATUS(state) != 0;
}

void the_address_sanitizer_sees_one_too_many(void **)
{
#if !defined(__SANITIZE_ADDRESS__)
    skip();
#endif
    for (int what = 0; what < 4; what++)
        assert_true(dies([what] {
            void *out = nullptr;
            cudaMalloc(&out, 32 * sizeof(int));
            phx_launch(config(1, 32, 32 * sizeof(int)), off_by_one, static_cast<int *>(out), what);
            run();
        }));
}

void the_thread_sanitizer_sees_a_missing_barrier(void **)
{
#if !defined(__SANITIZE_THREAD__)
    skip();
#endif
    // The sanitizer runs no new fibres after a fork, so the child is this program once more.
    assert_true(dies([] { execl("/proc/self/exe", "emu_test", "careless", nullptr); }));
    assert_false(dies([] { execl("/proc/self/exe", "emu_test", "careful", nullptr); }));
}

__global__ void greedy()
{
    PHX_SHARED(char[200 * 1024], a);
    PHX_SHARED(char[28 * 1024], b);
    a[0] = b[0];
}

void limits_of_a_block_are_kept(void **)
{
    phx_launch(config(1, 1), greedy);
    expect(run(), "shared memory");
    int x;
    assert_int_equal(
        phx_launch(config(1, 1025), meet, nullptr, nullptr), cudaErrorInvalidConfiguration);
    assert_int_equal(
        phx_launch(config(1, 32, 64 * 1024), off_by_one, &x, 0), cudaErrorInvalidConfiguration);
    cudaFuncSetAttribute(off_by_one, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024);
    int out[33];
    assert_int_equal(phx_launch(config(1, 32, 64 * 1024), off_by_one, out, 3), cudaSuccess);
    assert_string_equal(run().c_str(), "");
}

} // namespace

int main(int argc, char **argv)
{
    if (argc == 2)
        return tree_sum_wrong(std::strcmp(argv[1], "careful") == 0) > seeds;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(barriers_order_a_block),
        cmocka_unit_test(a_missing_barrier_shows),
        cmocka_unit_test(warps_work_together),
        cmocka_unit_test(a_wrong_mask_is_an_error),
        cmocka_unit_test(divergence_at_a_barrier_is_an_error),
        cmocka_unit_test(a_cooperative_grid_is_resident),
        cmocka_unit_test(copies_land_at_their_wait),
        cmocka_unit_test(the_address_sanitizer_sees_one_too_many),
        cmocka_unit_test(the_thread_sanitizer_sees_a_missing_barrier),
        cmocka_unit_test(limits_of_a_block_are_kept),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
