// SPDX-License-Identifier: Apache-2.0
// Bytes and file descriptors over a connected Unix stream socket, with a deadline. Only bootstraps
// use it: nothing here is on the data path.
#ifndef PHALANX_COLLECTIVES_WIRE_H
#define PHALANX_COLLECTIVES_WIRE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

// The other end. `pidfd` is -1 where it is unknown or a thread of this process: then only the end
// of the stream tells that the peer is gone.
struct wire {
    int fd;
    int pidfd;
    uint32_t peer; // for sentences
    uint64_t deadline_us;
};

// Every byte, or an error: STATUS_PEER_GONE, STATUS_TIMEOUT or STATUS_IO. `pass` is sent along with
// the first byte unless it is -1; the sender keeps its own.
enum status wire_send(
    const struct wire *w, const void *data, size_t n, int pass, struct error *err);
// As many bytes. `*passed` (may be NULL: then none is accepted) becomes the descriptor that came
// with them, owned by the caller, or -1.
enum status wire_receive(
    const struct wire *w, void *data, size_t n, int *passed, struct error *err);

#endif
