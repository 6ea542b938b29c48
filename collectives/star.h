// SPDX-License-Identifier: Apache-2.0
// What all bootstraps are made of: a star of stream sockets around rank 0, the hub. It is used to
// set groups and rings up, so it is simple rather than fast: the hub collects from every rank in
// turn and answers every rank in turn. Descriptors travel the same way.
//
//        rank 1     rank 2           A bootstrap differs only in how these sockets come to be:
//             \     /                socketpairs made before a fork (threads), a listening socket
//              hub 0                 in a directory (files) or with a name sent by MPI (mpi).
//             /     \                .
//        rank 3     rank 4
//
// Every message carries the number and the kind of the collective call it belongs to, so ranks that
// call different things get STATUS_MISMATCH. After an error the star is broken: the hub tells all.
#ifndef PHALANX_COLLECTIVES_STAR_H
#define PHALANX_COLLECTIVES_STAR_H

#include "collectives/collectives.h"

enum { STAR_TIMEOUT_MS = 120 * 1000 };

// One member. Rank 0 gives fds[size] with the socket to rank r at [r] ([0] is ignored); others give
// fds[0], the socket to the hub. *Takes* the sockets, also when it fails.
enum status star_make(uint32_t rank, uint32_t size, const int *fds, uint32_t timeout_ms,
    struct bootstrap **out, struct error *err);

// All members at once, joined by socketpairs.
enum status star_make_all(uint32_t size, struct bootstrap **members, struct error *err);

// For bootstraps that listen and connect. The hub takes connections on `listener` (borrowed) until
// every rank has said hello, or until the deadline; only peers of the same user are let in.
enum status star_accept(
    int listener, uint32_t size, uint32_t timeout_ms, struct bootstrap **out, struct error *err);
// *Takes* the connected socket `fd`.
enum status star_join(int fd, uint32_t rank, uint32_t size, uint32_t timeout_ms,
    struct bootstrap **out, struct error *err);

#endif
