// SPDX-License-Identifier: Apache-2.0
// Every instruction that CUDA C++ has no name for, as a small function with an emulated twin.
// Inline PTX stands nowhere else.
#ifndef PHALANX_KERNELS_CUDA_PTX_CUH
#define PHALANX_KERNELS_CUDA_PTX_CUH

#include "kernels/cuda/port.cuh"

typedef unsigned long long phx_u64;

struct phx_pair {
    phx_u64 a, b;
};

// Flags between threads of any devices (sys) or of one (gpu). A release orders all that the thread
// did, and saw done through barriers, before it; an acquire that reads it, all that follows after.
#if !PHX_EMU

#define PHX_FLAG(T, C, bits, scope)                                                                \
    __device__ __forceinline__ T phx_load_relaxed_##scope(const T *p)                              \
    {                                                                                              \
        T v;                                                                                       \
        asm volatile("ld.relaxed." #scope ".global.u" #bits " %0, [%1];"                           \
                     : "=" C(v)                                                                    \
                     : "l"(p)                                                                      \
                     : "memory");                                                                  \
        return v;                                                                                  \
    }                                                                                              \
    __device__ __forceinline__ T phx_load_acquire_##scope(const T *p)                              \
    {                                                                                              \
        T v;                                                                                       \
        asm volatile("ld.acquire." #scope ".global.u" #bits " %0, [%1];"                           \
                     : "=" C(v)                                                                    \
                     : "l"(p)                                                                      \
                     : "memory");                                                                  \
        return v;                                                                                  \
    }                                                                                              \
    __device__ __forceinline__ void phx_store_relaxed_##scope(T *p, T v)                           \
    {                                                                                              \
        asm volatile("st.relaxed." #scope ".global.u" #bits " [%0], %1;" ::"l"(p), C(v)            \
                     : "memory");                                                                  \
    }                                                                                              \
    __device__ __forceinline__ void phx_store_release_##scope(T *p, T v)                           \
    {                                                                                              \
        asm volatile("st.release." #scope ".global.u" #bits " [%0], %1;" ::"l"(p), C(v)            \
                     : "memory");                                                                  \
    }                                                                                              \
    __device__ __forceinline__ void phx_add_release_##scope(T *p, T v)                             \
    {                                                                                              \
        asm volatile("red.release." #scope ".global.add.u" #bits " [%0], %1;" ::"l"(p), C(v)       \
                     : "memory");                                                                  \
    }                                                                                              \
    __device__ __forceinline__ T phx_add_acq_rel_##scope(T *p, T v)                                \
    {                                                                                              \
        T old;                                                                                     \
        asm volatile("atom.acq_rel." #scope ".global.add.u" #bits " %0, [%1], %2;"                 \
                     : "=" C(old)                                                                  \
                     : "l"(p), C(v)                                                                \
                     : "memory");                                                                  \
        return old;                                                                                \
    }

#else

#define PHX_FLAG(T, C, bits, scope)                                                                \
    inline T phx_load_relaxed_##scope(const T *p)                                                  \
    {                                                                                              \
        emu::yield(true);                                                                          \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                               \
    }                                                                                              \
    inline T phx_load_acquire_##scope(const T *p)                                                  \
    {                                                                                              \
        emu::yield(true);                                                                          \
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                               \
    }                                                                                              \
    inline void phx_store_relaxed_##scope(T *p, T v)                                               \
    {                                                                                              \
        __atomic_store_n(p, v, __ATOMIC_RELAXED);                                                  \
        emu::yield(false);                                                                         \
    }                                                                                              \
    inline void phx_store_release_##scope(T *p, T v)                                               \
    {                                                                                              \
        __atomic_store_n(p, v, __ATOMIC_RELEASE);                                                  \
        emu::yield(false);                                                                         \
    }                                                                                              \
    inline void phx_add_release_##scope(T *p, T v)                                                 \
    {                                                                                              \
        __atomic_fetch_add(p, v, __ATOMIC_RELEASE);                                                \
        emu::yield(false);                                                                         \
    }                                                                                              \
    inline T phx_add_acq_rel_##scope(T *p, T v)                                                    \
    {                                                                                              \
        emu::yield(false);                                                                         \
        return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);                                         \
    }

#endif

PHX_FLAG(unsigned, "r", 32, sys)
PHX_FLAG(unsigned, "r", 32, gpu)
PHX_FLAG(phx_u64, "l", 64, sys)
PHX_FLAG(phx_u64, "l", 64, gpu)
#undef PHX_FLAG

// Two words of 64 bits in one instruction, 16-byte aligned. Each word is whole; the two may be seen
// at different times.
__device__ __forceinline__ phx_pair phx_load_pair_sys(const phx_pair *p)
{
    phx_pair v;
#if !PHX_EMU
    asm volatile("ld.relaxed.sys.global.v2.b64 {%0, %1}, [%2];"
                 : "=l"(v.a), "=l"(v.b)
                 : "l"(p)
                 : "memory");
#else
    bool b_first = emu::draw(2) != 0;
    emu::yield(true);
    if (b_first)
        v.b = __atomic_load_n(&p->b, __ATOMIC_RELAXED);
    v.a = __atomic_load_n(&p->a, __ATOMIC_RELAXED);
    emu::yield(false);
    if (!b_first)
        v.b = __atomic_load_n(&p->b, __ATOMIC_RELAXED);
#endif
    return v;
}

__device__ __forceinline__ void phx_store_pair_sys(phx_pair *p, phx_pair v)
{
#if !PHX_EMU
    asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1, %2};" ::"l"(p), "l"(v.a), "l"(v.b)
                 : "memory");
#else
    bool b_first = emu::draw(2) != 0;
    if (b_first)
        __atomic_store_n(&p->b, v.b, __ATOMIC_RELAXED);
    emu::yield(false);
    __atomic_store_n(&p->a, v.a, __ATOMIC_RELAXED);
    emu::yield(false);
    if (!b_first)
        __atomic_store_n(&p->b, v.b, __ATOMIC_RELAXED);
#endif
}

// Nanoseconds; the same clock on all processors of a device.
__device__ __forceinline__ phx_u64 phx_clock_ns()
{
#if !PHX_EMU
    phx_u64 t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
#else
    return emu::now_ns();
#endif
}

// Copies 16 bytes from global to shared memory; they are there after phx_copy_wait.
__device__ __forceinline__ void phx_copy_async_16(void *to, const void *from)
{
#if !PHX_EMU
    unsigned at = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
#else
    emu::async_copy(to, from, 16);
#endif
}

__device__ __forceinline__ void phx_copy_commit()
{
#if !PHX_EMU
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emu::async_commit();
#endif
}

// Until at most N of this thread's groups are on their way. Other threads need a barrier after it.
template <int N> __device__ __forceinline__ void phx_copy_wait()
{
#if !PHX_EMU
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#else
    emu::async_wait(N);
#endif
}

// The first waits for the previous kernel of the stream (phx_launch_config.overlaps), the second
// lets the next one begin. Nothing where kernels do not overlap.
__device__ __forceinline__ void phx_grid_wait()
{
#if !PHX_EMU && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void phx_grid_release()
{
#if !PHX_EMU && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
