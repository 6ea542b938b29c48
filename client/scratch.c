// SPDX-License-Identifier: Apache-2.0
#include "client/scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDERS_OPEN = 16, ATTEMPTS = 8 };

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    remove(path);
    return 0;
}

static void remove_all(const char *path)
{
    nftw(path, remove_one, FOLDERS_OPEN, FTW_DEPTH | FTW_PHYS);
}

static bool is_ours(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

static int open_folder(const char *path)
{
    return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

// A folder whose lock can be had belongs to nobody any more.
static void sweep_one(const char *path)
{
    int fd = is_ours(path) ? open_folder(path) : -1;
    if (fd < 0)
        return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        remove_all(path);
    close(fd);
}

static void sweep(const char *parent)
{
    char prefix[40], path[256];
    int n = snprintf(prefix, sizeof prefix, "phalanx-serve-%u-", (unsigned)getuid());
    DIR *dir = opendir(parent);
    const struct dirent *e;
    while (dir && (e = readdir(dir))) {
        if (strncmp(e->d_name, prefix, (size_t)n) != 0)
            continue;
        if (snprintf(path, sizeof path, "%s/%s", parent, e->d_name) < (int)sizeof path)
            sweep_one(path);
    }
    if (dir)
        closedir(dir);
}

// False where another server has swept the folder before it was locked. A file system without
// locks has nobody who sweeps.
static bool lock(struct scratch *s)
{
    struct stat st;
    s->lock_fd = open_folder(s->path);
    if (s->lock_fd >= 0)
        flock(s->lock_fd, LOCK_EX);
    return s->lock_fd >= 0 && stat(s->path, &st) == 0;
}

enum status scratch_open(const char *parent, struct scratch *out, struct error *err)
{
    sweep(parent);
    for (int i = 0; i < ATTEMPTS; i++) {
        struct scratch s = {.lock_fd = -1};
        snprintf(
            s.path, sizeof s.path, "%.200s/phalanx-serve-%u-XXXXXX", parent, (unsigned)getuid());
        if (!mkdtemp(s.path))
            return status_fail(err, STATUS_IO, "%s: %s", s.path, strerror(errno));
        if (lock(&s)) {
            *out = s;
            return STATUS_OK;
        }
        scratch_close(&s);
    }
    return status_fail(err, STATUS_IO, "%.200s: a folder made there is removed at once", parent);
}

void scratch_close(struct scratch *s)
{
    if (s->path[0])
        remove_all(s->path);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    *s = (struct scratch){.lock_fd = -1};
}
