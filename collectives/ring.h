// SPDX-License-Identifier: Apache-2.0
// The control ring of a group: one writer (rank 0), every other rank reads every message, in order.
// Carries step plans. Bounded: the writer waits for the slowest reader. Readers yield-spin while
// messages come often and sleep on a futex when idle, so that an idle group uses no CPU; every wait
// has a deadline and notices an abort and dead peers.
#ifndef PHALANX_COLLECTIVES_RING_H
#define PHALANX_COLLECTIVES_RING_H

#include "collectives/collectives.h"

struct ring;

// Collective over the bootstrap; `bytes` of message space, a power of two, at least twice the
// largest message.
enum status ring_create(
    struct bootstrap *b, uint64_t bytes, bool spin, struct ring **out, struct error *err);
void ring_destroy(struct ring *r);
// Wakes all members with STATUS_ABORTED; from any thread.
void ring_abort(struct ring *r);
// The sentence of the last call that failed. Lives with the ring.
const struct error *ring_error(const struct ring *r);

// Writer only. Waits at most timeout_ms for room. STATUS_TOO_LARGE if it can never fit.
enum status ring_write(struct ring *r, const void *data, size_t n, uint32_t timeout_ms);

// Reader only. Waits for the next message, at most timeout_ms (STATUS_TIMEOUT: none came, which is
// not an error). The message stays valid until ring_release.
enum status ring_read(struct ring *r, const void **data, size_t *n, uint32_t timeout_ms);
void ring_release(struct ring *r);

#endif
