// SPDX-License-Identifier: Apache-2.0
// Which process a member lives in. Equal identities mean one address space: then members may share
// mappings and need no process handle of each other.
#ifndef PHALANX_COLLECTIVES_IDENTITY_H
#define PHALANX_COLLECTIVES_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

// A pid alone is not enough: two containers may both have a process 7.
struct identity {
    uint64_t pid;
    uint64_t pid_namespace; // inode of the namespace
};

struct identity identity_self(void);
static inline bool identity_same(struct identity a, struct identity b)
{
    return a.pid == b.pid && a.pid_namespace == b.pid_namespace;
}

// A descriptor that becomes readable when this process ends, for others to hold; -1 where the
// kernel has none. Owned by the caller.
int identity_pidfd(void);

#endif
