// SPDX-License-Identifier: Apache-2.0
#include "worker/host.h"

#include "base/hash.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Up to n - 1 bytes of a small file of the system, zero-terminated; empty if it cannot be read.
static size_t read_text(const char *path, char *text, size_t n)
{
    FILE *f = fopen(path, "re");
    size_t got = f ? fread(text, 1, n - 1, f) : 0;
    if (f)
        fclose(f);
    text[got] = '\0';
    return got;
}

static uint64_t meminfo_available(void)
{
    char text[4096];
    read_text("/proc/meminfo", text, sizeof text);
    const char *line = strstr(text, "MemAvailable:");
    return line ? strtoull(line + strlen("MemAvailable:"), NULL, 10) * 1024 : 0;
}

// What the cgroup leaves, UINT64_MAX where it has no limit. The page cache counts as used there,
// although it can be dropped; so this errs on the safe side.
static uint64_t cgroup_available(void)
{
    char limit[64], used[64];
    read_text("/sys/fs/cgroup/memory.max", limit, sizeof limit);
    if (limit[0] < '0' || limit[0] > '9' ||
        read_text("/sys/fs/cgroup/memory.current", used, sizeof used) == 0)
        return UINT64_MAX;
    uint64_t max = strtoull(limit, NULL, 10), now = strtoull(used, NULL, 10);
    return max > now ? max - now : 0;
}

// Field 22 of /proc/self/stat; the name in the second one may hold anything, so count behind it.
static uint64_t start_time(void)
{
    char text[1024];
    read_text("/proc/self/stat", text, sizeof text);
    char *p = strrchr(text, ')');
    for (int field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    return p ? strtoull(p, NULL, 10) : 0;
}

static uint32_t cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n > 0 ? (uint32_t)n : 1;
}

struct host_info host_info_read(void)
{
    struct host_info h = {0};
    char boot_id[64];
    size_t n = read_text("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id);
    h.id = hash_64((struct hash_key){0}, boot_id, n);
    if (gethostname(h.name, sizeof h.name - 1) != 0)
        h.name[0] = '\0';
    uint64_t system = meminfo_available(), cgroup = cgroup_available();
    h.available_bytes = system < cgroup ? system : cgroup;
    h.n_cores = cores();
    h.pid = (uint32_t)getpid();
    h.start_time = start_time();
    return h;
}
