// SPDX-License-Identifier: Apache-2.0
// The folder of one running server, for its sockets and mpirun's files. It is locked as long as the
// server lives; opening a folder removes those that killed servers of this user have left.
#ifndef PHALANX_CLIENT_SCRATCH_H
#define PHALANX_CLIENT_SCRATCH_H

#include "base/status.h"

struct scratch {
    char path[256]; // "" when it is not open
    int lock_fd;
};

// Makes PARENT/phalanx-serve-UID-XXXXXX, which nobody else may enter. IO where that fails.
enum status scratch_open(const char *parent, struct scratch *out, struct error *err);
// Removes the folder and what is in it.
void scratch_close(struct scratch *s);

#endif
