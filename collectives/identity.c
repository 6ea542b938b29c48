// SPDX-License-Identifier: Apache-2.0
#include "collectives/identity.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct identity identity_self(void)
{
    struct stat st;
    struct identity id = {.pid = (uint64_t)getpid()};
    if (stat("/proc/self/ns/pid", &st) == 0)
        id.pid_namespace = (uint64_t)st.st_ino;
    return id;
}

int identity_pidfd(void)
{
    return (int)syscall(SYS_pidfd_open, getpid(), 0);
}
