// SPDX-License-Identifier: Apache-2.0
// Inside of a group on shared memory, and the steps that all operations are made of.
//
//   body: | lines[size] | pairs[size][size] | slots[size][2] | heaps[size] |
//
// A *step* is one point at which ranks signal each other. Every rank counts the steps of its group
// in `epoch` and signals by one store into its own line: {epoch, signature} at word epoch mod 8.
// The signature chains all operations so far (kind, count, dtype, ...), so a rank that reads the
// word of the step it waits for sees at once whether the other is at the same operation. The number
// of steps of an operation depends on its arguments only, never on the rank or on timing. Epochs
// wrap: they are compared by signed distance. Eight words are kept because a rank may run ahead of
// one that still wants to look at an older word; if it is further ahead than that, the wait is over
// just the same, only without a look at the signature of that step.
//
// Private buffers are staged in the rank's two slots, used in turn. A slot that was last read in
// step e may be written again when all others have signalled any step after e.
//
// Order of memory: data are written, then the word with release; the word is read with acquire,
// then the data. There are no bare fences.
#ifndef PHALANX_COLLECTIVES_GROUP_H
#define PHALANX_COLLECTIVES_GROUP_H

#include "collectives/collectives.h"
#include "collectives/reduce.h"
#include "collectives/segment.h"
#include "collectives/tuning.h"

#include <stdatomic.h>

enum {
    GROUP_WORDS = 8,
    GROUP_SLOT_BYTES = 256 * 1024,
    GROUP_PAUSES_SPIN = 2000, // about 50 to 100 microseconds before the first yield
    GROUP_PAUSES_YIELD = 1,
};

// Written by its rank only.
struct group_line {
    _Alignas(SEGMENT_LINE) _Atomic uint64_t word[GROUP_WORDS];
};

// One block of a partial exchange: written by the source, read by the destination.
struct group_pair {
    _Alignas(SEGMENT_LINE) _Atomic uint64_t done; // {epoch, signature}
    uint64_t bytes;
};

enum group_operation {
    GROUP_BARRIER = 1,
    GROUP_ALL_REDUCE,
    GROUP_REDUCE_SCATTER,
    GROUP_ALL_GATHER,
    GROUP_BROADCAST,
    GROUP_EXCHANGE,
};

struct coll_group {
    uint32_t rank, size;
    struct segment segment;
    struct group_line *lines; // [size]
    struct group_pair *pairs; // [destination * size + source]
    uint8_t *slots;           // [size][2][GROUP_SLOT_BYTES]
    uint8_t *heaps;           // [size][heap_bytes]
    size_t heap_bytes, heap_used;
    uint32_t epoch, signature;
    uint32_t slot_next;     // 0 or 1
    uint32_t slot_epoch[2]; // last step in which others read the slot
    uint32_t pauses, timeout_ms;
    const struct reduce_table *reduce;
    struct tuning tuning;
    enum group_operation running; // for sentences
    _Atomic bool busy;
    enum status sticky;
    struct error error;
};

// Every operation lies between these two. The four numbers are what all ranks must have in common.
enum status group_begin(
    struct coll_group *g, enum group_operation op, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
// Passes `s` on; an error that came from waiting has already been made sticky.
enum status group_end(struct coll_group *g, enum status s);

// Refuses a call for its arguments, which harms nobody: nothing has been signalled yet.
enum status group_refuse(struct coll_group *g, enum status s, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Makes an error sticky and ends the group for all members.
enum status group_fail(struct coll_group *g, enum status s, uint32_t culprit);

// Signals the next step.
static inline void group_signal(struct coll_group *g)
{
    uint32_t e = ++g->epoch;
    atomic_store_explicit(&g->lines[g->rank].word[e % GROUP_WORDS],
        (uint64_t)g->signature << 32 | e, memory_order_release);
}

static inline bool group_reached(uint64_t word, uint32_t epoch)
{
    return (int32_t)((uint32_t)word - epoch) >= 0;
}

static inline bool group_agrees(const struct coll_group *g, uint64_t word, uint32_t epoch)
{
    return (uint32_t)word != epoch || (uint32_t)(word >> 32) == g->signature;
}

// Waits until `word`, which `peer` writes, has reached `epoch`; returns it in *got.
enum status group_await(struct coll_group *g, uint32_t peer, const _Atomic uint64_t *word,
    uint32_t epoch, uint64_t *got);
// Waits until the peer has signalled step `epoch` of the running operation.
enum status group_wait(struct coll_group *g, uint32_t peer, uint32_t epoch);
// The same for all peers, for the step signalled last.
enum status group_wait_all(struct coll_group *g);
// This rank's next slot, once nobody reads it any more. The caller says with group_slot_used, after
// its last signal concerning the slot, that this step was the last in which others read it.
enum status group_slot(struct coll_group *g, uint8_t **slot);
static inline void group_slot_used(struct coll_group *g)
{
    g->slot_epoch[g->slot_next] = g->epoch;
    g->slot_next ^= 1;
}

// The slot of a peer that belongs to the same turn as this rank's current one: all ranks take turns
// alike.
static inline uint8_t *group_peer_slot(const struct coll_group *g, uint32_t peer)
{
    return g->slots + ((size_t)peer * 2 + g->slot_next) * GROUP_SLOT_BYTES;
}

static inline uint8_t *group_heap(const struct coll_group *g, uint32_t rank)
{
    return g->heaps + (size_t)rank * g->heap_bytes;
}

// For tests: makes an idle group go on from `epoch`. To be called on all ranks between two meetings
// that order the calls.
void group_set_epoch(struct coll_group *g, uint32_t epoch);

#endif
