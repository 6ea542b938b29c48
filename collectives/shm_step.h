// SPDX-License-Identifier: Apache-2.0
// The steps of shm.h that are a few instructions long.
#ifndef PHALANX_COLLECTIVES_SHM_STEP_H
#define PHALANX_COLLECTIVES_SHM_STEP_H

#include "collectives/group.h"

// ThreadSanitizer sees nothing of what is written in assembly.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHM_STRING 0
#endif
#endif
#if !defined(SHM_STRING)
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define SHM_STRING 1
#else
#define SHM_STRING 0
#endif
#endif

// Signals the next step.
static inline void shm_signal(struct coll_group *g)
{
    uint32_t e = ++g->shm.epoch;
    if (e % SHM_FORGET_STEPS == 0)
        shm_forget(g);
    atomic_store_explicit(&g->shm.lines[g->rank].word[e % SHM_WORDS],
        (uint64_t)g->signature << 32 | e, memory_order_release);
}

// This rank's next slot, once nobody reads it any more. The caller says with shm_slot_used, after
// its last signal concerning the slot, that this step was the last in which others read it.
enum status shm_slot(struct coll_group *g, uint8_t **slot);
static inline void shm_slot_used(struct coll_group *g)
{
    g->shm.slot_epoch[g->shm.slot_next] = g->shm.epoch;
    g->shm.slot_next ^= 1;
}

// The slot of a peer that belongs to the same turn as this rank's current one: all ranks take turns
// alike.
static inline uint8_t *shm_peer_slot(const struct coll_group *g, uint32_t peer)
{
    return g->shm.slots + ((size_t)peer * 2 + g->shm.slot_next) * SHM_SLOT_BYTES;
}

// Copies into memory that other cores have read before and will read next. A string instruction
// takes whole lines away from them without asking for what they hold; with vector stores each line
// costs a round trip between the cores. That is two to three times slower where cores do not share
// a cache.
static inline void shm_put(const struct coll_group *g, void *to, const void *from, size_t bytes)
{
#if SHM_STRING
    if (bytes >= SHM_STRING_BYTES) {
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
        return;
    }
#endif
    g->reduce->copy(to, from, bytes);
}

// Asks for lines that another core has written, so that they come while this one does something
// else. Those that will be written too come over once if they are asked for at once to be written:
// read first, they would be asked for a second time. Where ranks share cores there is nothing to
// gain: the lines lie in this core's cache, or their writer sleeps.
static inline bool shm_asks(const struct coll_group *g)
{
    return g->shm.pauses == SHM_PAUSES_SPIN;
}

static inline void shm_ask_to_read(const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += SHM_CACHE_LINE)
        __builtin_prefetch(p + i, 0, 3);
}

static inline void shm_ask_to_write(uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += SHM_CACHE_LINE)
#if defined(__x86_64__)
        // The builtin gives this only where the compiler is told of it; without it, it is a no-op.
        __asm__ volatile("prefetchw %0" : : "m"(p[i]));
#else
        __builtin_prefetch(p + i, 1, 3);
#endif
}

static inline uint8_t *shm_heap(const struct coll_group *g, uint32_t rank)
{
    return g->shm.heaps + (size_t)rank * g->shm.heap_bytes;
}

#endif
