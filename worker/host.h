// SPDX-License-Identifier: Apache-2.0
// What a rank can find out about its host and itself at start.
#ifndef PHALANX_WORKER_HOST_H
#define PHALANX_WORKER_HOST_H

#include <stdint.h>

enum { HOST_NAME_BYTES = 64 };

// Plain data; ranks exchange it as bytes.
struct host_info {
    char name[HOST_NAME_BYTES]; // for people
    uint64_t id;                // equal for processes of one running system
    uint64_t available_bytes;   // memory that can be used, also under a cgroup's limit
    uint32_t n_cores;           // that this process may run on
    uint32_t pid;
    uint64_t start_time; // of this process, in clock ticks since boot
};

struct host_info host_info_read(void);

#endif
