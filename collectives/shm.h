// SPDX-License-Identifier: Apache-2.0
// The back end on shared memory: its state in a group, and the steps that its operations are made
// of.
//
//   segment: | per channel: lines[size] | pairs[size][size] | slots[size][2] |
//            mails[size][size][2] | ... | heaps[size] |
//
// A *step* is one point at which ranks signal each other. Every rank counts the steps of its
// channel in `epoch` and signals by one store into its own line: {epoch, signature} at word epoch
// mod 8. The signature chains all operations so far, so a rank that reads the word of the step it
// waits for sees at once whether the other is at the same operation. The number of steps of an
// operation depends on its arguments only, never on the rank or on timing. Epochs wrap: words are
// compared by signed distance, which holds because no rank stays half a round behind. Flags of
// pairs may be that old: they count only if they are of the very step. Eight words are kept because
// a rank may run ahead of one that still wants to look at an older word; if it is further ahead
// than that, the wait is over just the same, only without a look at the signature of that step.
// Only exchanges let a rank run that far, so it also says which steps those were: a rank that waits
// for such a step in another operation is in disagreement.
//
// Private buffers are staged in the rank's two slots, used in turn. A slot that was last read in
// step e may be written again when all others have signalled any step after e. What slots and pairs
// that long rest keep of their last step is made younger before it looks like a step to come.
//
// Order of memory: data are written, then the word with release; the word is read with acquire,
// then the data. There are no bare fences. tests/collectives/models has these rules as models for
// spin, with the bugs that each rule prevents.
#ifndef PHALANX_COLLECTIVES_SHM_H
#define PHALANX_COLLECTIVES_SHM_H

#include "collectives/backend.h"
#include "collectives/segment.h"

#include <stdatomic.h>

enum {
    SHM_WORDS = 8,
    SHM_SLOT_BYTES = 256 * 1024,
    SHM_STRING_BYTES = 1024,        // see shm_put
    SHM_ASK_BYTES = 2048,           // how much is asked for ahead; see shm_asks
    SHM_ASK_SUMS_BYTES = 16 * 1024, // the same of finished sums
    SHM_CACHE_BYTES = 32 << 20, // all buffers together: from here on they do not stay in a cache
    SHM_CACHE_LINE = 64,
    SHM_MAILS_BYTES = 64 * 1024, // of all mails from one rank, without their heads
    SHM_FORGET_STEPS = 1 << 28,  // see shm_forget
    SHM_PAUSES_SPIN = 2000,      // about 50 to 100 microseconds before the first yield
    SHM_PAUSES_YIELD = 1,
};

// Written by its rank only.
struct shm_line {
    _Alignas(SEGMENT_LINE) _Atomic uint64_t word[SHM_WORDS];
    _Atomic uint64_t run; // {first, last} step of the latest exchanges that follow each other
};

// One block of a partial exchange: written by the source, read by the destination.
struct shm_pair {
    _Alignas(SEGMENT_LINE) _Atomic uint64_t done; // {epoch, signature}
    uint64_t bytes;
};

// A small block of a partial exchange, with its flag: a pair of ranks uses its two mails in each
// direction in turn. Written by the source; the destination has read a mail when its own of the
// pair's next turn has come.
struct shm_mail {
    _Alignas(SEGMENT_LINE) _Atomic uint64_t done; // {epoch, signature}
    uint64_t bytes;
    _Alignas(SEGMENT_LINE) uint8_t block[]; // [shm_mail_bytes]
};

// Of one channel.
struct shm {
    struct shm_line *lines; // [size]
    struct shm_pair *pairs; // [destination * size + source]
    uint8_t *slots;         // [size][2][SHM_SLOT_BYTES]
    uint8_t *mails;         // [destination][source][2], see shm_mail_of
    uint64_t mail_next;     // bit q: which of the two mails with rank q comes next
    uint8_t *heaps;         // [size][heap_bytes], common to all channels
    size_t heap_bytes;
    uint32_t epoch;
    uint32_t slot_next;     // 0 or 1
    uint32_t slot_epoch[2]; // last step in which others read the slot
    uint32_t pauses;
};

// The longest block that goes by mail; the same for all pairs of a group.
static inline size_t shm_mail_bytes(uint32_t size)
{
    return SHM_MAILS_BYTES / size / SEGMENT_LINE * SEGMENT_LINE;
}

static inline struct shm_mail *shm_mail_of(
    const struct shm *s, uint32_t size, uint32_t destination, uint32_t source, uint32_t turn)
{
    size_t index = ((size_t)destination * size + source) * 2 + turn;
    return (struct shm_mail *)(void *)(s->mails +
                                       index * (sizeof(struct shm_mail) + shm_mail_bytes(size)));
}

static inline bool shm_reached(uint64_t word, uint32_t epoch)
{
    return (int32_t)((uint32_t)word - epoch) >= 0;
}

// Waits until `word`, which `peer` writes, has reached `epoch`; returns it in *got.
enum status shm_await(struct coll_group *g, uint32_t peer, const _Atomic uint64_t *word,
    uint32_t epoch, uint64_t *got);
// Waits until the peer has signalled step `epoch` of the running operation.
enum status shm_wait(struct coll_group *g, uint32_t peer, uint32_t epoch);
// The same for all peers, for the step signalled last.
enum status shm_wait_all(struct coll_group *g);
// Signals and waits for all.
enum status shm_meet(struct coll_group *g);
// Once in SHM_FORGET_STEPS steps: nothing of this rank is older than three times as many.
void shm_forget(struct coll_group *g);
// For tests: makes an idle channel go on from `epoch`, as after as many steps without data. To be
// called on all ranks between two meetings that order the calls.
void shm_set_epoch(struct coll_group *g, uint32_t epoch);

// The operations; see struct coll_backend.
enum status shm_all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a);
enum status shm_all_reduce_norm(struct coll_group *g, const struct coll_all_reduce_norm_args *a);
enum status shm_move_reduce_scatter(struct coll_group *g, const struct coll_reduce_scatter_args *a);
enum status shm_move_all_gather(struct coll_group *g, const struct coll_all_gather_args *a);
enum status shm_move_broadcast(struct coll_group *g, const struct coll_broadcast_args *a);
enum status shm_move_barrier(struct coll_group *g, void *stream);
enum status shm_exchange(struct coll_group *g, const struct coll_exchange_args *a);

#endif
