// SPDX-License-Identifier: Apache-2.0
#include "collectives/bootstrap.h"

#include "base/clock.h"
#include "collectives/star.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { RETRY_US = 5000 };

// A socket's path holds 107 characters; going through the open directory allows longer ones.
static struct sockaddr_un address(int dir_fd)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/meet", dir_fd);
    return a;
}

static enum status listen_hub(int dir_fd, const char *dir, uint32_t size, uint32_t timeout_ms,
    struct bootstrap **out, struct error *err)
{
    struct sockaddr_un a = address(dir_fd);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return status_fail(err, STATUS_IO, "socket failed: %s", strerror(errno));
    enum status st;
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, COLL_RANKS_MAX) != 0) {
        st = status_fail(err, STATUS_IO, "cannot listen in %s: %s; an empty directory was expected",
            dir, strerror(errno));
    } else {
        st = star_accept(fd, size, timeout_ms, out, err);
        (void)unlinkat(dir_fd, "meet", 0);
    }
    close(fd);
    return st;
}

static enum status connect_hub(
    int dir_fd, const char *dir, uint64_t deadline_us, int *out, struct error *err)
{
    struct sockaddr_un a = address(dir_fd);
    for (;;) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return status_fail(err, STATUS_IO, "socket failed: %s", strerror(errno));
        if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0) {
            *out = fd;
            return STATUS_OK;
        }
        int why = errno;
        close(fd);
        if (why != ENOENT && why != ECONNREFUSED && why != EAGAIN && why != EINTR)
            return status_fail(
                err, STATUS_IO, "cannot reach rank 0 through %s: %s", dir, strerror(why));
        if (clock_now_us() >= deadline_us)
            return status_fail(
                err, STATUS_TIMEOUT, "rank 0 did not appear in %s before the deadline", dir);
        clock_sleep_us(RETRY_US);
    }
}

enum status bootstrap_files(const char *dir, uint32_t rank, uint32_t size, uint32_t timeout_ms,
    struct bootstrap **out, struct error *err)
{
    if (size == 0 || size > COLL_RANKS_MAX || rank >= size)
        return status_fail(err, STATUS_INVALID, "rank %u of %u cannot be: at most %d ranks",
            (unsigned)rank, (unsigned)size, COLL_RANKS_MAX);
    uint64_t deadline_us = clock_now_us() + (uint64_t)timeout_ms * 1000;
    int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return status_fail(
            err, STATUS_IO, "cannot open the directory %s: %s", dir, strerror(errno));
    enum status st;
    if (rank == 0) {
        st = listen_hub(dir_fd, dir, size, timeout_ms, out, err);
    } else {
        int fd = -1;
        st = connect_hub(dir_fd, dir, deadline_us, &fd, err);
        if (st == STATUS_OK)
            st = star_join(fd, rank, size, timeout_ms, out, err);
    }
    close(dir_fd);
    return st;
}
