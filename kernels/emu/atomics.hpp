// SPDX-License-Identifier: Apache-2.0
// Atomics of CUDA C++ with their scopes. All are relaxed, as on the device: they order nothing.
// Scopes are alike here; a scope that is too narrow is not noticed. Included by emu.hpp.
#ifndef PHALANX_KERNELS_EMU_ATOMICS_HPP
#define PHALANX_KERNELS_EMU_ATOMICS_HPP

namespace emu
{

template <class T> inline bool cas(T *p, T &expected, T wanted, int order)
{
    return __atomic_compare_exchange(p, &expected, &wanted, false, order, __ATOMIC_RELAXED);
}

// Reads, applies `f` and writes as one step; any type of 4 or 8 bytes.
template <class T, class F> inline T modify(T *p, F f)
{
    yield(false);
    T old;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    while (!cas(p, old, static_cast<T>(f(old)), __ATOMIC_RELAXED)) {
    }
    return old;
}

} // namespace emu

#define EMU_ATOMIC(name, expression)                                                               \
    template <class T> inline T name(T *p, phx_type<T> v)                                          \
    {                                                                                              \
        return emu::modify(p, [v](T old) {                                                         \
            (void)old;                                                                             \
            return expression;                                                                     \
        });                                                                                        \
    }
#define EMU_ATOMIC_SCOPES(name, expression)                                                        \
    EMU_ATOMIC(name, expression)                                                                   \
    EMU_ATOMIC(name##_block, expression)                                                           \
    EMU_ATOMIC(name##_system, expression)

EMU_ATOMIC_SCOPES(atomicAdd, old + v)
EMU_ATOMIC_SCOPES(atomicSub, old - v)
EMU_ATOMIC_SCOPES(atomicExch, v)
EMU_ATOMIC_SCOPES(atomicMin, v < old ? v : old)
EMU_ATOMIC_SCOPES(atomicMax, old < v ? v : old)
EMU_ATOMIC_SCOPES(atomicAnd, old &v)
EMU_ATOMIC_SCOPES(atomicOr, old | v)
EMU_ATOMIC_SCOPES(atomicXor, old ^ v)
EMU_ATOMIC_SCOPES(atomicInc, old >= v ? T{0} : old + 1)

#define EMU_CAS(name)                                                                              \
    template <class T> inline T name(T *p, phx_type<T> expected, phx_type<T> wanted)               \
    {                                                                                              \
        emu::yield(false);                                                                         \
        T old = expected;                                                                          \
        emu::cas(p, old, wanted, __ATOMIC_RELAXED);                                                \
        return old;                                                                                \
    }

EMU_CAS(atomicCAS)
EMU_CAS(atomicCAS_block)
EMU_CAS(atomicCAS_system)
#undef EMU_CAS
#undef EMU_ATOMIC_SCOPES
#undef EMU_ATOMIC

// Fences order accesses on both sides of them. The thread sanitizer cannot see them: protocols use
// the release and acquire of kernels/cuda/ptx.cuh, and a fence at most where no flag depends on it.
inline void __threadfence()
{
#if !defined(__SANITIZE_THREAD__)
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
    emu::yield(false);
}

inline void __threadfence_block()
{
    __threadfence();
}

inline void __threadfence_system()
{
    __threadfence();
}

#endif
