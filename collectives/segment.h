// SPDX-License-Identifier: Apache-2.0
// Shared memory of the members of one group or ring, with what every wait on it needs: a word that
// poisons it for all, a mark of members that have left, and handles of the peers' processes.
//
//   | head: poison, marks | body: the owner's layout                | mirror |
//                                                 '- last bytes of the body, mapped once more
//
// It is a sealed memfd that only members hold, so nothing has a name and nothing outlives them.
// Members that are threads of rank 0's process use rank 0's mapping (one address, one page table,
// and tools that watch addresses see all that happens); others map it on their own.
#ifndef PHALANX_COLLECTIVES_SEGMENT_H
#define PHALANX_COLLECTIVES_SEGMENT_H

#include "collectives/collectives.h"

#include <stdatomic.h>

enum { SEGMENT_LINE = 128 }; // two cache lines: neighbours are prefetched in pairs

struct segment_mark {
    _Alignas(SEGMENT_LINE) _Atomic uint32_t left;
};

struct segment_head {
    uint64_t bytes;
    _Atomic uint32_t users;                         // members that use rank 0's mapping
    _Alignas(SEGMENT_LINE) _Atomic uint64_t poison; // 0, or segment_poison's word; first one stays
    struct segment_mark mark[COLL_RANKS_MAX];
};

struct segment {
    struct segment_head *head;
    uint8_t *body;    // aligned to a page
    size_t map_bytes; // head, body and mirror
    bool borrowed;    // rank 0's mapping
    uint32_t rank, size;
    int pidfd[COLL_RANKS_MAX]; // own copies; -1 where the peer is a thread here
};

struct segment_args {
    const char *name;     // shown in /proc
    size_t body_bytes;    // rounded up to pages
    size_t mirror_bytes;  // multiple of the page; 0: none
    uint64_t fingerprint; // of all that must be equal on all ranks
    enum status status;   // what this rank found before; an error makes all ranks fail
};

// Collective over the bootstrap, also when a rank has to fail: all of them do. The memory is zero.
enum status segment_open(
    struct bootstrap *b, const struct segment_args *args, struct segment *out, struct error *err);
// Not collective. Marks this member as gone.
void segment_close(struct segment *s);

// Ends the segment for all members; the first cause stays. `culprit` is the rank that it is about.
void segment_poison(struct segment *s, enum status why, uint32_t culprit);
// STATUS_OK, or why the segment was ended; *reporter and *culprit then say by whom and about whom.
enum status segment_poisoned(const struct segment *s, uint32_t *reporter, uint32_t *culprit);

static inline bool segment_well(const struct segment *s)
{
    return atomic_load_explicit(&s->head->poison, memory_order_acquire) == 0;
}

// Whether the peer has left or its process has ended. What it wrote before that may still have to
// be looked at: read the awaited word once more after this returned true.
bool segment_peer_gone(const struct segment *s, uint32_t peer);

// One wait for a peer, once spinning has not helped: yields for a while, then sleeps on the peer's
// process handle, in turns of at most a millisecond.
struct segment_wait {
    uint64_t start_us; // 0: not begun
    uint32_t timeout_ms;
    bool peer_gone;
};
// One turn. STATUS_OK: look again. Otherwise the deadline has passed, the segment is poisoned, or
// the peer was gone already at the last look.
enum status segment_wait_turn(struct segment *s, struct segment_wait *w, uint32_t peer);

static inline void segment_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
