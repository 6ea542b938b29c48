// SPDX-License-Identifier: Apache-2.0
// Operations for back ends that can do one thing: trade blocks with peers. The back end (MPI, NCCL)
// gives `run`; everything else is made of it here, with the sums done by our own kernels in rank
// order. So both give the bits of shared memory.
//
//   one_shot   everybody's buffer to everybody, then every rank sums all of it
//   two_shot   in chunks: slice q to rank q, which sums it and sends the sum to everybody
#ifndef PHALANX_COLLECTIVES_TRADE_H
#define PHALANX_COLLECTIVES_TRADE_H

#include "collectives/group.h"

enum { TRADE_CHUNK_BYTES = 4 << 20 };

// What goes to one peer and comes from it. Both directions may be absent.
struct trade_block {
    bool sends, receives;
    bool exact; // receive_bytes is known; otherwise it is the room, and run sets it
    const void *send;
    size_t send_bytes;
    void *receive;
    size_t receive_bytes;
};

// Of one channel.
struct trade {
    const struct coll_device *device;
    void *scratch; // [size][TRADE_CHUNK_BYTES], in the device's memory
    // Trades blocks[size]; the own one is NULL-like (neither sends nor receives). Ends with all
    // blocks in place, in the order of the stream.
    enum status (*run)(struct coll_group *g, struct trade_block *blocks, void *stream);
};

// The back end keeps an array of pointers to these in g->main->state; see trade_of.
struct trade *trade_of(const struct coll_group *g);

enum status trade_open(
    struct coll_group *g, struct trade *t, const struct coll_device *device, struct error *err);
void trade_close(struct trade *t);

enum status trade_all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a);
enum status trade_all_reduce_norm(struct coll_group *g, const struct coll_all_reduce_norm_args *a);
enum status trade_reduce_scatter(struct coll_group *g, const struct coll_reduce_scatter_args *a);
enum status trade_all_gather(struct coll_group *g, const struct coll_all_gather_args *a);
enum status trade_broadcast(struct coll_group *g, const struct coll_broadcast_args *a);
enum status trade_barrier(struct coll_group *g, void *stream);
enum status trade_exchange(struct coll_group *g, const struct coll_exchange_args *a);
const char *trade_algorithm(
    const struct coll_group *g, const char *operation, size_t bytes, bool symmetric);

#endif
