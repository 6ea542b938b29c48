// SPDX-License-Identifier: Apache-2.0
// Inside of a group: what all back ends share, and the frame of every operation.
//
//   coll_x (ops.c)        checks the arguments: group_refuse, which harms nobody
//     group_begin         one call at a time, sticky error, abort; the signature of the call
//       backend->x        moves bytes, waits with deadlines; group_fail ends the group for all
//     group_end
//
// The signature chains all operations of a channel so far (kind, counts, dtype, ...). Back ends
// send it along with their flags or messages, so that members that disagree notice at once.
//
// Each channel is a struct coll_group of its own beside channel 0, the main one, which owns the
// segment, the heap and the back end's state.
#ifndef PHALANX_COLLECTIVES_GROUP_H
#define PHALANX_COLLECTIVES_GROUP_H

#include "collectives/backend.h"
#include "collectives/reduce.h"
#include "collectives/segment.h"
#include "collectives/shm.h"
#include "collectives/tuning.h"

#include <stdatomic.h>

enum group_operation {
    GROUP_BARRIER = 1,
    GROUP_ALL_REDUCE,
    GROUP_ALL_REDUCE_NORM,
    GROUP_REDUCE_SCATTER,
    GROUP_ALL_GATHER,
    GROUP_BROADCAST,
    GROUP_EXCHANGE,
};

struct coll_group {
    uint32_t rank, size;
    const struct coll_backend *backend;
    const struct reduce_table *reduce;
    struct segment *segment; // the main group's
    uint8_t *heap;           // of this rank
    uint32_t signature;
    struct shm shm; // of the back end "shm"; here because its flags are looked at most often
    uint32_t timeout_ms;
    enum group_operation running; // for sentences
    _Atomic bool busy;
    enum status sticky;
    struct error error;

    struct coll_group *main;
    uint32_t channel, n_channels;
    // Of the main group only.
    void *state; // of other back ends
    struct segment own_segment;
    size_t heap_bytes, heap_used;
    struct tuning tuning;
    const struct coll_device *device;
    const char *arch; // first column of the tuning table
    bool native;
};

// Every operation lies between these two. The four numbers are what all ranks must have in common.
enum status group_begin(
    struct coll_group *g, enum group_operation op, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
// Passes `s` on; an error that came from waiting has already been made sticky.
enum status group_end(struct coll_group *g, enum status s);

// Whether there is an operation of this name.
bool group_offers(const char *operation);
// Refuses a call for its arguments, which harms nobody: nothing has been signalled yet. A group
// that has failed has only one answer.
enum status group_refuse(struct coll_group *g, enum status s, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Makes an error sticky and ends the group for all members.
enum status group_fail(struct coll_group *g, enum status s, uint32_t culprit);
// The same with a sentence for what is no fault of a rank: of a library or a device.
enum status group_fail_because(struct coll_group *g, enum status s, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Which back ends can serve a group, the preferred one first; collective. `mine` is this rank's
// status so far: if it is an error on any rank, all fail.
enum { GROUP_CHOICES_MAX = 8 };
struct group_choices {
    const struct coll_backend *of[GROUP_CHOICES_MAX];
    uint32_t n; // at least 1
};
enum status group_choose(struct bootstrap *b, const struct coll_args *args, enum status mine,
    struct group_choices *out, struct error *err);

// How many bytes an exchange sends to rank q, a peer. Sizes "on the device" that lie in the host's
// memory are read only now: one that does not fit, or a block that is nowhere, ends the group.
enum status group_block(
    struct coll_group *g, const struct coll_exchange_args *a, uint32_t q, size_t *bytes);

static inline uint32_t group_next(const struct coll_group *g, uint32_t distance)
{
    uint32_t r = g->rank + distance;
    return r < g->size ? r : r - g->size;
}

#endif
