// SPDX-License-Identifier: Apache-2.0
// CUDA C++ on the CPU: what a kernel sees. A source that includes kernels/cuda/port.cuh compiles
// with nvcc for a device and with g++ or clang++ against this header; docs/emulator.md explains.
//
// Every thread of a block runs on a fibre until it waits: for a barrier, for the other lanes of its
// warp, or for memory that another thread will write. Who goes on then is drawn at random from a
// seed, so a kernel that leaves a barrier out computes something else under most seeds. What cannot
// go on is reported as an error of the launch, with the place in the source, and never hangs.
#ifndef PHALANX_KERNELS_EMU_EMU_HPP
#define PHALANX_KERNELS_EMU_EMU_HPP

#include "kernels/emu/types.hpp"

#include <cmath>
#include <cstddef>
#include <cstring>

namespace emu
{

// The thread that is running.
struct view {
    uint3 thread_index, block_index;
    dim3 block_size, grid_size;
};
extern __thread view *self;

// Where the program waits, for sentences.
struct site {
    const char *what, *file;
    int line;
};

// What a warp does together. Each lane of `mask` calls with a record of its own; when all of them
// have arrived with the same function and mask, it runs once and sees lane i's record as lane[i]
// (nullptr for lanes outside of the mask). Shuffles are made of it, and so can be anything else
// that a warp does as one: fragments of matrices, for example. It orders no memory.
using warp_function = void(void *const *lane, std::uint32_t mask);
void warp_call(warp_function *fn, std::uint32_t mask, void *mine, site where);
// The same, and what the lanes did before is ordered before what they do after.
void warp_sync(std::uint32_t mask, site where);

struct votes {
    int count, all, any;
};
// Waits until `n_threads` threads (0: all of the block) have come to barrier `id`.
votes barrier(unsigned id, unsigned n_threads, int predicate, site where);

// Waits until the kernels before this one in its stream have ended.
void grid_wait();

// Lets other threads run. `waiting`: nothing can be done here until another thread acts.
void yield(bool waiting);
// Ends the launch with a sentence.
[[noreturn]] __attribute__((format(printf, 1, 2))) void complain(const char *format, ...);
// From 0 to below - 1, drawn from the seed of this operating-system thread.
std::uint32_t draw(std::uint32_t below);
std::uint64_t now_ns();

// Memory of the block, the same for all its threads that name the same tag. It begins as all ones
// (NaNs); bytes beyond it are poisoned for the address sanitizer.
void *shared(const void *tag, std::size_t bytes);
void *shared_dynamic();

// Ends the launch unless `p` is a multiple of `bytes`: on a device wide accesses must be aligned.
void check_aligned(const void *p, std::size_t bytes);

// An asynchronous copy: lands, in random order, at the wait for its group or after it. Both
// addresses are multiples of `bytes`.
void async_copy(void *to, const void *from, std::size_t bytes);
void async_commit();
void async_wait(unsigned groups_left);

template <class To, class From> inline To bits(From f)
{
    static_assert(sizeof(To) == sizeof(From), "bits have one size");
    To t;
    __builtin_memcpy(&t, &f, sizeof t);
    return t;
}

} // namespace emu

#define threadIdx (emu::self->thread_index)
#define blockIdx (emu::self->block_index)
#define blockDim (emu::self->block_size)
#define gridDim (emu::self->grid_size)
constexpr int warpSize = 32;

// PHX_SHARED(float[32], tile): one `tile` for the block. PHX_SHARED_DYNAMIC(float, p): the memory
// that the launch asked for.
template <class T> using phx_type = T;
#define PHX_SHARED(type, name)                                                                     \
    static const char name##_tag_ = 0;                                                             \
    auto &name = *static_cast<phx_type<type> *>(emu::shared(&name##_tag_, sizeof(phx_type<type>)))
#define PHX_SHARED_DYNAMIC(type, name)                                                             \
    auto *const name = static_cast<phx_type<type> *>(emu::shared_dynamic())

#define EMU_SITE(name)                                                                             \
    emu::site                                                                                      \
    {                                                                                              \
        name, file, line                                                                           \
    }
#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// Barriers of the block and of the warp.
inline void __syncthreads(EMU_HERE)
{
    emu::barrier(0, 0, 0, EMU_SITE("__syncthreads"));
}

inline int __syncthreads_or(int p, EMU_HERE)
{
    return emu::barrier(0, 0, p, EMU_SITE("__syncthreads_or")).any;
}

inline int __syncthreads_and(int p, EMU_HERE)
{
    return emu::barrier(0, 0, p, EMU_SITE("__syncthreads_and")).all;
}

inline int __syncthreads_count(int p, EMU_HERE)
{
    return emu::barrier(0, 0, p, EMU_SITE("__syncthreads_count")).count;
}

inline void __syncwarp(std::uint32_t mask = 0xffffffffu, EMU_HERE)
{
    emu::warp_sync(mask, EMU_SITE("__syncwarp"));
}

#include "kernels/emu/atomics.hpp"
#include "kernels/emu/matrix.hpp"
#include "kernels/emu/warp.hpp"

// Arithmetic.
inline float __fmul_rn(float a, float b)
{
    return a * b;
}

inline float __fadd_rn(float a, float b)
{
    return a + b;
}

inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}

inline float __fdiv_rn(float a, float b)
{
    return a / b;
}

inline float rsqrtf(float a)
{
    return 1.0f / sqrtf(a);
}

inline unsigned __float_as_uint(float f)
{
    return emu::bits<unsigned>(f);
}

inline float __uint_as_float(unsigned u)
{
    return emu::bits<float>(u);
}

inline int __popc(unsigned u)
{
    return __builtin_popcount(u);
}

inline int __ffs(int i)
{
    return __builtin_ffs(i);
}

inline int __clz(int i)
{
    return i == 0 ? 32 : __builtin_clz(static_cast<unsigned>(i));
}

template <class T> inline T __ldg(const T *p)
{
    return *p;
}

inline void __nanosleep(unsigned)
{
    emu::yield(true);
}

inline long long clock64()
{
    return static_cast<long long>(emu::now_ns());
}

template <class T> inline T min(T a, T b)
{
    return b < a ? b : a;
}

template <class T> inline T max(T a, T b)
{
    return a < b ? b : a;
}

#endif
