// SPDX-License-Identifier: Apache-2.0
// What the emulator tells the address and thread sanitizers; nothing in other builds.
#ifndef PHALANX_KERNELS_EMU_SANITIZE_HPP
#define PHALANX_KERNELS_EMU_SANITIZE_HPP

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define EMU_TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define EMU_TSAN 1
#endif
#endif

#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMU_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// For code that is the machine rather than the program that runs on it.
#define EMU_UNSEEN __attribute__((no_sanitize("address", "thread")))

namespace emu
{

EMU_UNSEEN inline void sanitize_switch(void **fake, const void *stack, std::size_t bytes, void *to)
{
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(fake, stack, bytes);
#endif
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(to, __tsan_switch_to_fiber_no_sync);
#endif
    (void)fake, (void)stack, (void)bytes, (void)to;
}

EMU_UNSEEN inline void sanitize_switched(void *fake, const void **from, std::size_t *bytes)
{
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(fake, from, bytes);
#endif
    (void)fake, (void)from, (void)bytes;
}

inline void *sanitize_fibre_make()
{
#ifdef EMU_TSAN
    return __tsan_create_fiber(0);
#else
    return nullptr;
#endif
}

inline void sanitize_fibre_free(void *f)
{
#ifdef EMU_TSAN
    __tsan_destroy_fiber(f);
#endif
    (void)f;
}

// What the fibre has done is ordered before what the caller does next.
inline void sanitize_fibre_join(void *f)
{
#ifdef EMU_TSAN
    void *me = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(f, 0);
    __tsan_switch_to_fiber(me, 0);
#endif
    (void)f;
}

EMU_UNSEEN inline void *sanitize_fibre_current()
{
#ifdef EMU_TSAN
    return __tsan_get_current_fiber();
#else
    return nullptr;
#endif
}

// Frames that were left for good are ordinary memory again.
inline void sanitize_forget(const void *p, std::size_t bytes)
{
#ifdef EMU_ASAN
    __asan_unpoison_memory_region(p, bytes);
#endif
    (void)p, (void)bytes;
}

inline void sanitize_poison(const void *p, std::size_t bytes)
{
#ifdef EMU_ASAN
    __asan_poison_memory_region(p, bytes);
#endif
    (void)p, (void)bytes;
}

// What was done before `release` of a word is ordered before what follows an `acquire` of it.
inline void sanitize_release(void *word)
{
#ifdef EMU_TSAN
    __tsan_release(word);
#endif
    (void)word;
}

inline void sanitize_acquire(void *word)
{
#ifdef EMU_TSAN
    __tsan_acquire(word);
#endif
    (void)word;
}

} // namespace emu

#endif
