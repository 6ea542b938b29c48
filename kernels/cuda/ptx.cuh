// SPDX-License-Identifier: Apache-2.0
// Every instruction that CUDA C++ has no name for, as a small function with an emulated twin.
// Inline PTX stands nowhere else.
#ifndef PHALANX_KERNELS_CUDA_PTX_CUH
#define PHALANX_KERNELS_CUDA_PTX_CUH

#include "kernels/cuda/port.cuh"
#include "kernels/cuda/types.cuh"

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

// The same, or 16 zeros where `there` is false; `from` must be an address all the same.
__device__ __forceinline__ void phx_copy_async_16_if(void *to, const void *from, bool there)
{
#if !PHX_EMU
    unsigned at = (unsigned)__cvta_generic_to_shared(to), bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes)
                 : "memory");
#else
    alignas(16) static const unsigned char zeros[16] = {};
    emu::async_copy(to, there ? from : zeros, 16);
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

// The first waits until the kernels before this one in its stream have ended, and sees what they
// wrote (phx_launch_config.overlaps). The second lets the next one begin once all blocks have
// called it or ended; that one waits for this one's end all the same. Nothing where kernels do not
// overlap.
__device__ __forceinline__ void phx_grid_wait()
{
#if PHX_EMU
    emu::grid_wait();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void phx_grid_release()
{
#if PHX_EMU
    emu::yield(false);
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Asks for the 128 bytes around an address, which then wait in the second cache. Any address.
__device__ __forceinline__ void phx_prefetch(const void *p)
{
#if !PHX_EMU
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
    (void)p;
}

// 16 bytes of memory that no kernel writes meanwhile and that nobody reads again soon: weights.
__device__ __forceinline__ uint4 phx_load_stream_16(const void *p)
{
    uint4 v;
#if !PHX_EMU
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
#else
    emu::check_aligned(p, 16);
    v = *static_cast<const uint4 *>(p);
#endif
    return v;
}

// ---- matrices of 16-bit floats, all lanes of a warp together -----------------------------------
// Which lane holds which element: kernels/emu/matrix.hpp, which is the twin.

// ldmatrix: `count` 8x8 matrices; lane 8 i + r gives the address of row r of matrix i, a multiple
// of 16. Register i of `out` is this lane's part of matrix i, of its transpose if `transposed`.
#if !PHX_EMU
template <int count, bool transposed = false>
__device__ __forceinline__ void phx_matrix_load(unsigned *out, const void *row)
{
    static_assert(count == 2 || count == 4, "two or four matrices");
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    if constexpr (count == 4 && !transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(at)
                     : "memory");
    else if constexpr (count == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(at)
                     : "memory");
    else if constexpr (!transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                     : "=r"(out[0]), "=r"(out[1])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(out[0]), "=r"(out[1])
                     : "r"(at)
                     : "memory");
}
#else
template <int count, bool transposed = false>
inline void phx_matrix_load(unsigned *out, const void *row, EMU_HERE)
{
    static_assert(count == 2 || count == 4, "two or four matrices");
    emu::matrix_load<count, transposed>(out, row, EMU_SITE("ldmatrix"));
}
#endif

// mma.sync: c += a b with a [16, 16] or [16, 8], b [16, 8] or [8, 8], c [16, 8]; T is phx_f16 or
// phx_bf16, sums are floats.
#if !PHX_EMU
#define PHX_MULTIPLY(T, type)                                                                      \
    template <>                                                                                    \
    __device__ __forceinline__ void phx_multiply_16x8x16<T>(                                       \
        float *c, const unsigned *a, const unsigned *b)                                            \
    {                                                                                              \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." #type "." #type ".f32 "              \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"             \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));          \
    }                                                                                              \
    template <>                                                                                    \
    __device__ __forceinline__ void phx_multiply_16x8x8<T>(                                        \
        float *c, const unsigned *a, const unsigned *b)                                            \
    {                                                                                              \
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." #type "." #type ".f32 "               \
                     "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                         \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                              \
                     : "r"(a[0]), "r"(a[1]), "r"(b[0]));                                           \
    }
template <class T>
__device__ void phx_multiply_16x8x16(float *c, const unsigned *a, const unsigned *b);
template <class T>
__device__ void phx_multiply_16x8x8(float *c, const unsigned *a, const unsigned *b);
PHX_MULTIPLY(phx_f16, f16)
PHX_MULTIPLY(phx_bf16, bf16)
#undef PHX_MULTIPLY
#else
template <class T> inline float phx_widen(std::uint16_t bits)
{
    return phx_float(T{bits});
}

template <class T>
inline void phx_multiply_16x8x16(float *c, const unsigned *a, const unsigned *b, EMU_HERE)
{
    emu::multiply<phx_widen<T>, 16>(c, a, b, EMU_SITE("mma.sync"));
}

template <class T>
inline void phx_multiply_16x8x8(float *c, const unsigned *a, const unsigned *b, EMU_HERE)
{
    emu::multiply<phx_widen<T>, 8>(c, a, b, EMU_SITE("mma.sync"));
}
#endif

#endif
